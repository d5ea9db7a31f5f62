/*
 * Three fibers share the set of watched accounts. `update` tells the store what was added and removed (or the whole
 * set, when the store does not know this watcher); each answer is a new generation. `poll` asks for beacons with the
 * newest generation. `states` is the safety net. All end when the watcher is freed.
 */
#include "frontend/common/watch.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/metrics.h"
#include "proto/store_calls.h"
#include "rpc/call.h"

#define WATCH_MAGIC 0x77617463u
#define POLL_MS 25000
#define CALL_SLACK_MS 10000
#define GATHER_MS 10 /* changes of the set wait this long for more */
#define RETRY_MS_MIN 500
#define RETRY_MS_MAX 15000
#define STATES_MS_MIN 30000
#define STATES_MS_SPAN 30000
#define STATES_BATCH 1000u
#define UPDATE_BATCH 20000u /* ids in one call, of at most 10 bytes each */
#define CALL_ARENA (8u << 20)

struct account {
    Thurn__AccountRef ref;
    struct list subs;
    uint64_t modseq;
    bool is_told;           /* the store has it in our set */
    struct list_node dirty; /* in watch.changed when it was added or removed since */
};

struct watch {
    uint32_t magic;
    ProtobufCService *store;
    char *name;
    uint64_t route_key; /* one node holds our set */
    struct map64 accounts;
    unsigned n_subs;
    struct list changed;
    uint64_t generation, acked; /* acked: the last reply with beacons that arrived */
    bool needs_full, is_updating, is_closing;
    unsigned fibers;
    struct fiber *running[3], *freer;
    struct fiber_cond wake; /* the set changed, the generation changed, or the end came */
};

struct watch *watch_new(ProtobufCService *store, str name)
{
    struct watch *w = xnew(struct watch);
    w->magic = WATCH_MAGIC;
    w->store = store;
    w->name = str_dup(name);
    w->route_key = hash_stable(name) | 1;
    w->needs_full = true;
    map64_init(&w->accounts);
    list_init(&w->changed);
    fiber_cond_init(&w->wake);
    return w;
}

static void notify(struct watch *w, int64_t account_id, uint64_t modseq)
{
    struct account *a = map64_get(&w->accounts, (uint64_t)account_id);
    if (!a || modseq <= a->modseq)
        return;
    a->modseq = modseq;
    LIST_EACH(&a->subs, n)
    {
        struct watch_sub *sub = LIST_ITEM(n, struct watch_sub, node);
        sub->fn(sub->arg, modseq);
    }
}

static void begin_call(const struct watch *w, struct rpc_call *c, struct arena *a, int64_t wait_ms)
{
    rpc_call_init(c, a);
    c->route_key = w->route_key;
    c->deadline_mono_ms = clock_mono_ms() + wait_ms + CALL_SLACK_MS;
}

static void take_reply(struct watch *w, const Thurn__WatchReply *r)
{
    if (r->number)
        w->acked = r->number;
    for (size_t i = 0; i < r->n_beacons; i++)
        notify(w, r->beacons[i]->account_id, r->beacons[i]->modseq);
}

FIBER static void ask_states(struct watch *w, Thurn__AccountRef **refs, size_t n)
{
    ARENA(a, CALL_ARENA);
    Thurn__StatesRequest q = THURN__STATES_REQUEST__INIT;
    const Thurn__StatesReply *r;
    struct rpc_call c;
    q.accounts = refs;
    q.n_accounts = n;
    begin_call(w, &c, &a, 0);
    if (!store_states(&c, w->store, &q, &r)) {
        metric_inc(M_WATCH_FAILURES);
        return;
    }
    for (size_t i = 0; i < r->n_states; i++)
        notify(w, r->states[i]->account_id, r->states[i]->modseq);
}

/* What came before the store watched for us is known from the states only. */
FIBER static void ask_added(struct watch *w, const int64_t *ids, size_t n)
{
    ARENA(a, (size_t)1 << 30);
    Thurn__AccountRef **refs = arena_array(&a, Thurn__AccountRef *, n + 1);
    size_t found = 0;
    for (size_t i = 0; i < n; i++) {
        const struct account *account = map64_get(&w->accounts, (uint64_t)ids[i]);
        if (!account)
            continue;
        refs[found] = arena_new(&a, Thurn__AccountRef);
        *refs[found++] = account->ref;
    }
    for (size_t i = 0; i < found && !w->is_closing; i += STATES_BATCH)
        ask_states(w, refs + i, MIN(found - i, (size_t)STATES_BATCH));
}

/* --- update --- */

static bool has_work(const struct watch *w)
{
    return w->needs_full ? w->accounts.m.n > 0 : !list_empty(&w->changed);
}

static void forget_empty(struct watch *w, struct account *a)
{
    if (!list_empty(&a->subs) || a->is_told)
        return;
    list_remove(&a->dirty);
    map64_remove(&w->accounts, (uint64_t)a->ref.account_id);
    xfree(a);
}

/* Fill the request with what the store does not know yet. */
static void gather_changes(struct watch *w, struct arena *a, Thurn__WatchRequest *q)
{
    q->add = arena_array(a, int64_t, UPDATE_BATCH);
    q->remove = arena_array(a, int64_t, UPDATE_BATCH);
    while (q->n_add + q->n_remove < UPDATE_BATCH && !list_empty(&w->changed)) {
        struct account *account = LIST_ITEM(list_pop(&w->changed), struct account, dirty);
        bool is_wanted = !list_empty(&account->subs);
        if (is_wanted && !account->is_told)
            q->add[q->n_add++] = account->ref.account_id;
        else if (!is_wanted && account->is_told)
            q->remove[q->n_remove++] = account->ref.account_id;
        account->is_told = is_wanted;
        forget_empty(w, account);
    }
}

/* The whole set. What does not fit goes with the next update. */
static void gather_all(struct watch *w, struct arena *a, Thurn__WatchRequest *q)
{
    struct map_iter it = {0};
    uint64_t id;
    void *value;
    q->is_full = true;
    q->add = arena_array(a, int64_t, UPDATE_BATCH);
    while (map64_next(&w->accounts, &it, &id, &value)) {
        struct account *account = value;
        list_remove(&account->dirty);
        account->is_told = false;
        if (list_empty(&account->subs)) {
            forget_empty(w, account);
        } else if (q->n_add < UPDATE_BATCH) {
            q->add[q->n_add++] = (int64_t)id;
            account->is_told = true;
        } else {
            list_push(&w->changed, &account->dirty);
        }
    }
}

FIBER static bool send_update(struct watch *w, struct err *err)
{
    ARENA(a, CALL_ARENA);
    Thurn__WatchRequest q = THURN__WATCH_REQUEST__INIT;
    const Thurn__WatchReply *r;
    struct rpc_call c;
    q.watcher = w->name;
    q.acked = w->acked;
    q.has_acked = true;
    q.generation = w->needs_full ? 0 : w->generation;
    if (w->needs_full)
        gather_all(w, &a, &q);
    else
        gather_changes(w, &a, &q);
    begin_call(w, &c, &a, 0);
    w->is_updating = true;
    bool ok = store_watch(&c, w->store, &q, &r);
    w->is_updating = false;
    fiber_cond_broadcast(&w->wake);
    if (!ok) {
        w->needs_full = true; /* whatever was not told is told with the set */
        return err_set(err, c.err.kind, "%s", c.err.msg);
    }
    w->generation = r->generation;
    w->needs_full = false;
    take_reply(w, r);
    ask_added(w, q.add, q.n_add);
    return true;
}

static int64_t backed_off(int64_t *delay_ms)
{
    int64_t now = *delay_ms;
    *delay_ms = MIN(now * 2, (int64_t)RETRY_MS_MAX);
    return now / 2 + (int64_t)random_below((uint64_t)now);
}

FIBER static void update_loop(struct watch *w, struct err *err)
{
    int64_t retry_ms = RETRY_MS_MIN;
    while (!w->is_closing) {
        if (!has_work(w)) {
            if (!fiber_cond_wait(&w->wake, err))
                return;
            continue;
        }
        if (!fiber_sleep_ms(GATHER_MS, err))
            return;
        struct err call_err = ERR_INIT;
        if (send_update(w, &call_err)) {
            retry_ms = RETRY_MS_MIN;
            continue;
        }
        /* The first time that the store does not know us, the whole set is told at once. */
        bool is_forgotten = call_err.kind == ERR_CONFLICT && retry_ms == RETRY_MS_MIN;
        int64_t pause_ms = backed_off(&retry_ms);
        if (is_forgotten)
            continue;
        log_warn("watch.update", KV_ERR(&call_err));
        if (!fiber_sleep_ms(pause_ms, err))
            return;
    }
}

/* --- poll --- */

/* *is_stale: an update made a new generation in the meantime, which is no failure. */
FIBER static bool send_poll(struct watch *w, bool *is_stale, struct err *err)
{
    ARENA(a, CALL_ARENA);
    Thurn__WatchRequest q = THURN__WATCH_REQUEST__INIT;
    const Thurn__WatchReply *r;
    struct rpc_call c;
    q.watcher = w->name;
    q.acked = w->acked;
    q.has_acked = true;
    q.generation = w->generation;
    q.wait_ms = POLL_MS;
    begin_call(w, &c, &a, POLL_MS);
    if (store_watch(&c, w->store, &q, &r)) {
        take_reply(w, r);
        return true;
    }
    *is_stale = c.err.kind == ERR_CONFLICT && (q.generation != w->generation || w->is_updating);
    if (c.err.kind == ERR_CONFLICT && !*is_stale) {
        w->needs_full = true;
        fiber_cond_broadcast(&w->wake);
    }
    return err_set(err, c.err.kind, "%s", c.err.msg);
}

FIBER static void poll_loop(struct watch *w, struct err *err)
{
    int64_t retry_ms = RETRY_MS_MIN;
    while (!w->is_closing) {
        if (w->needs_full || w->is_updating || w->accounts.m.n == 0) {
            if (!fiber_cond_wait(&w->wake, err))
                return;
            continue;
        }
        struct err call_err = ERR_INIT;
        bool is_stale = false;
        if (send_poll(w, &is_stale, &call_err)) {
            retry_ms = RETRY_MS_MIN;
        } else if (!is_stale) {
            metric_inc(M_WATCH_FAILURES);
            /* The first time that the store forgot us (it restarted, Redis was away), the update alone is waited for.
             */
            bool is_forgotten = call_err.kind == ERR_CONFLICT && retry_ms == RETRY_MS_MIN;
            int64_t pause_ms = backed_off(&retry_ms);
            if (!is_forgotten && !fiber_sleep_ms(pause_ms, err))
                return;
        }
    }
}

/* --- states --- */

/* Copies, because the set changes while a call is under way. */
FIBER static void ask_all_states(struct watch *w)
{
    ARENA(a, (size_t)1 << 30);
    size_t n = 0, all = w->accounts.m.n;
    Thurn__AccountRef **refs = arena_array(&a, Thurn__AccountRef *, all + 1);
    struct map_iter it = {0};
    uint64_t id;
    void *value;
    while (map64_next(&w->accounts, &it, &id, &value)) {
        refs[n] = arena_new(&a, Thurn__AccountRef);
        *refs[n++] = ((struct account *)value)->ref;
    }
    for (size_t i = 0; i < n && !w->is_closing; i += STATES_BATCH)
        ask_states(w, refs + i, MIN(n - i, (size_t)STATES_BATCH));
}

FIBER static void states_loop(struct watch *w, struct err *err)
{
    while (!w->is_closing) {
        if (!fiber_sleep_ms(STATES_MS_MIN + (int64_t)random_below(STATES_MS_SPAN), err))
            return;
        ask_all_states(w);
    }
}

/* --- life --- */

static void run(struct watch *w, unsigned slot, void (*loop)(struct watch *w, struct err *err))
{
    struct err err = ERR_INIT;
    w->running[slot] = fiber_self();
    if (!w->is_closing)
        loop(w, &err);
    w->running[slot] = NULL;
    w->fibers &= ~(1u << slot);
    if (w->freer)
        fiber_wake(w->freer);
}

static void run_update(void *arg)
{
    run(arg, 0, update_loop);
}

static void run_poll(void *arg)
{
    run(arg, 1, poll_loop);
}

static void run_states(void *arg)
{
    run(arg, 2, states_loop);
}

/* At the cap of fibers the next subscriber tries again. */
static void start(struct watch *w)
{
    static const fiber_fn loops[] = {run_update, run_poll, run_states};
    static const char *const names[] = {"watch.update", "watch.poll", "watch.states"};
    for (unsigned i = 0; i < ARRAY_LEN(loops); i++) {
        struct err err = ERR_INIT;
        if (!(w->fibers & 1u << i) && fiber_spawn(names[i], loops[i], w, FIBER_NO_DEADLINE, &err))
            w->fibers |= 1u << i;
    }
}

static void mark_changed(struct watch *w, struct account *a)
{
    if (!list_in(&a->dirty))
        list_push(&w->changed, &a->dirty);
    fiber_cond_broadcast(&w->wake);
}

void watch_add(struct watch *w, struct watch_sub *sub, const Thurn__AccountRef *ref)
{
    CHECK(w, WATCH_MAGIC);
    struct account *a = map64_get(&w->accounts, (uint64_t)ref->account_id);
    if (!a) {
        a = xnew(struct account);
        list_init(&a->subs);
        (void)map64_put(&w->accounts, (uint64_t)ref->account_id, a); /* there was none */
    }
    a->ref = *ref;
    sub->account_id = ref->account_id;
    list_push(&a->subs, &sub->node);
    w->n_subs++;
    start(w);
    if (!a->is_told)
        mark_changed(w, a);
    else if (a->modseq)
        sub->fn(sub->arg, a->modseq);
}

void watch_remove(struct watch *w, struct watch_sub *sub)
{
    CHECK(w, WATCH_MAGIC);
    if (!list_in(&sub->node))
        return;
    list_remove(&sub->node);
    w->n_subs--;
    struct account *a = map64_get(&w->accounts, (uint64_t)sub->account_id);
    if (list_empty(&a->subs))
        mark_changed(w, a);
}

unsigned watch_accounts(const struct watch *w)
{
    return (unsigned)w->accounts.m.n;
}

void watch_free(struct watch *w)
{
    if (!w)
        return;
    CHECK(w, WATCH_MAGIC);
    assert(w->n_subs == 0);
    w->is_closing = true;
    for (unsigned i = 0; i < ARRAY_LEN(w->running); i++)
        if (w->running[i])
            fiber_cancel(w->running[i]);
    fiber_cond_broadcast(&w->wake);
    w->freer = fiber_self();
    while (w->fibers) /* they use this memory: whatever happens to us, they end first */
        fiber_wait_uninterrupted();
    struct map_iter it = {0};
    uint64_t id;
    void *value;
    while (map64_next(&w->accounts, &it, &id, &value))
        xfree(value);
    map64_done(&w->accounts);
    xfree(w->name);
    xfree(w);
}
