#include "frontend/common/logins.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/metrics.h"
#include "frontend/common/dir_watch.h"
#include "proto/auth_calls.h"
#include "rpc/call.h"

#define LOGINS_MAGIC 0x6c6f6769u
#define BATCH 1000u
#define CALL_MS 10000
#define CALL_ARENA ((size_t)1 << 20)

struct logins {
    uint32_t magic;
    ProtobufCService *auth;
    unsigned period_ms;
    struct map64 accounts; /* account id → struct list of its logins, never empty */
    struct dir_sub changes;
    struct map64 hurried; /* account id → anything: changed, and to be asked about before the round */
    struct fiber_timer round;
    bool is_due; /* all are to be asked about */
    bool is_checking, is_closing;
    struct fiber *checker, *freer;
    bool is_failing; /* the last call failed; said once */
};

static void on_changes(void *arg, const struct dir_news *news);

struct logins *logins_new(ProtobufCService *auth, struct dir_watch *changes, unsigned period_ms)
{
    struct logins *l = xnew(struct logins);
    l->magic = LOGINS_MAGIC;
    l->auth = auth;
    l->period_ms = period_ms ? period_ms : LOGINS_PERIOD_MS;
    map64_init(&l->accounts);
    map64_init(&l->hurried);
    if (changes)
        dir_watch_add(changes, &l->changes, on_changes, l);
    return l;
}

unsigned logins_accounts(const struct logins *l)
{
    return (unsigned)l->accounts.m.n;
}

void logins_remove(struct logins *l, struct login *login)
{
    CHECK(l, LOGINS_MAGIC);
    if (!list_in(&login->node))
        return;
    list_remove(&login->node);
    struct list *of_account = map64_get(&l->accounts, (uint64_t)login->account_id);
    if (list_empty(of_account))
        xfree(map64_remove(&l->accounts, (uint64_t)login->account_id));
}

/* --- checking --- */

/* Versions grow: one that is newer than the answer came with a log-in while the call was under way. */
static struct login *find_older(const struct logins *l, int64_t account_id, int64_t version)
{
    struct list *of_account = map64_get(&l->accounts, (uint64_t)account_id);
    if (!of_account)
        return NULL;
    LIST_EACH(of_account, n)
    {
        struct login *login = LIST_ITEM(n, struct login, node);
        if (version == 0 || login->version < version)
            return login;
    }
    return NULL;
}

/* One pass of the account that is past half of its time; they are of one version, and the new one is for all. */
static str stale_pass(const struct logins *l, int64_t account_id, int64_t now_ms)
{
    struct list *of_account = map64_get(&l->accounts, (uint64_t)account_id);
    if (!of_account)
        return STR_NONE;
    LIST_EACH(of_account, n)
    {
        const struct login *login = LIST_ITEM(n, struct login, node);
        if (login->pass.n && now_ms - login->pass_mono_ms >= RPC_PASS_ACCOUNT_MS / 2)
            return rpc_pass_str(&login->pass);
    }
    return STR_NONE;
}

static void take_pass(struct logins *l, int64_t account_id, int64_t version, str bytes)
{
    struct list *of_account = map64_get(&l->accounts, (uint64_t)account_id);
    struct rpc_pass fresh = rpc_pass_of(bytes);
    if (!of_account || !fresh.n)
        return;
    LIST_EACH(of_account, n)
    {
        struct login *login = LIST_ITEM(n, struct login, node);
        if (login->version != version)
            continue;
        login->pass = fresh;
        login->pass_mono_ms = clock_mono_ms();
    }
}

/* Of none of them, unless one is due: then an entry for each. */
static void add_passes(const struct logins *l, const int64_t *ids, size_t n, struct arena *a,
                       Thurn__CredentialsRequest *q)
{
    int64_t now_ms = clock_mono_ms();
    for (size_t i = 0; i < n; i++) {
        str pass = stale_pass(l, ids[i], now_ms);
        if (!pass.n)
            continue;
        if (!q->n_passes) {
            q->passes = arena_array(a, ProtobufCBinaryData, n);
            q->n_passes = n;
        }
        q->passes[i] = rpc_bytes(arena_str(a, pass));
    }
}

/* Looked up again each time: whoever is told may free himself, and others of his account. */
static void end_older(struct logins *l, int64_t account_id, int64_t version)
{
    struct login *login;
    while ((login = find_older(l, account_id, version))) {
        logins_remove(l, login);
        metric_inc(M_LOGINS_ENDED);
        login->ended(login->arg);
    }
}

static void take_quotas(const struct logins *l, const Thurn__AccountRef *now)
{
    struct list *of_account = map64_get(&l->accounts, (uint64_t)now->account_id);
    if (!of_account)
        return;
    LIST_EACH(of_account, n)
    {
        struct login *login = LIST_ITEM(n, struct login, node);
        if (!login->quotas)
            continue;
        login->quotas->quota_bytes = now->quota_bytes;
        login->quotas->quota_messages = now->quota_messages;
    }
}

static void note_failure(struct logins *l, const struct err *err)
{
    metric_inc(M_LOGINS_FAILURES);
    if (!l->is_failing)
        log_warn("logins.unchecked", KV_ERR(err));
    l->is_failing = true;
}

FIBER static bool check_some(struct logins *l, const int64_t *ids, size_t n)
{
    ARENA(a, CALL_ARENA);
    Thurn__CredentialsRequest q = THURN__CREDENTIALS_REQUEST__INIT;
    const Thurn__CredentialsReply *r;
    struct rpc_call c;
    q.account_ids = arena_array(&a, int64_t, n);
    memcpy(q.account_ids, ids, n * sizeof(*ids));
    q.n_account_ids = n;
    add_passes(l, ids, n, &a, &q);
    rpc_call_init(&c, &a);
    c.deadline_mono_ms = MIN(c.deadline_mono_ms, clock_mono_ms() + CALL_MS);
    bool ok = auth_credentials(&c, l->auth, &q, &r);
    if (ok && r->n_versions != n)
        ok = err_set(&c.err, ERR_INTERNAL, "auth answered %zu versions for %zu accounts", r->n_versions, n);
    if (!ok) {
        note_failure(l, &c.err);
        return false;
    }
    if (l->is_failing)
        log_info("logins.checked");
    l->is_failing = false;
    for (size_t i = 0; i < n; i++) {
        if (i < r->n_passes)
            take_pass(l, ids[i], r->versions[i], rpc_str(r->passes[i]));
        end_older(l, ids[i], r->versions[i]);
    }
    for (size_t i = 0; i < r->n_accounts; i++)
        take_quotas(l, r->accounts[i]);
    return true;
}

/* The ids are copied, because the set changes while a call is under way. */
FIBER static void check_set(struct logins *l, const struct map64 *set)
{
    ARENA(a, (size_t)1 << 30);
    int64_t *ids = arena_array(&a, int64_t, set->m.n + 1);
    size_t n = 0;
    struct map_iter it = {0};
    uint64_t id;
    void *value;
    while (map64_next(set, &it, &id, &value))
        ids[n++] = (int64_t)id;
    map64_done(&l->hurried); /* those of now are among the set; more may come while it is asked */
    map64_init(&l->hurried);
    for (size_t from = 0; from < n && !l->is_closing; from += BATCH)
        if (!check_some(l, ids + from, MIN(n - from, (size_t)BATCH)))
            return; /* the next round asks for all again */
}

static void wait_for_round(struct logins *l);

FIBER static void run_round(void *arg)
{
    struct logins *l = arg;
    l->checker = fiber_self();
    while (!l->is_closing && (l->is_due || l->hurried.m.n)) {
        const struct map64 *set = l->is_due ? &l->accounts : &l->hurried;
        l->is_due = false;
        check_set(l, set);
    }
    l->checker = NULL;
    l->is_checking = false;
    if (l->freer)
        fiber_wake(l->freer);
    else
        wait_for_round(l);
}

static void begin(struct logins *l)
{
    struct err err = ERR_INIT;
    fiber_timer_stop(&l->round);
    l->is_checking = fiber_spawn("logins", run_round, l, FIBER_NO_DEADLINE, &err);
    if (!l->is_checking) /* at the cap of fibers: the next round tries again */
        wait_for_round(l);
}

static void on_round(void *arg)
{
    struct logins *l = arg;
    l->is_due = true;
    begin(l);
}

/* Whose sessions nobody has here is no concern of ours. */
static void on_changes(void *arg, const struct dir_news *news)
{
    struct logins *l = arg;
    l->is_due |= news->is_gap && logins_accounts(l);
    for (size_t i = 0; i < news->n_account_ids; i++)
        if (map64_get(&l->accounts, (uint64_t)news->account_ids[i]))
            (void)map64_put(&l->hurried, (uint64_t)news->account_ids[i], l);
    if ((l->is_due || l->hurried.m.n) && !l->is_checking && !l->is_closing)
        begin(l);
}

static void wait_for_round(struct logins *l)
{
    if (!l->is_checking && !list_in(&l->round.node) && logins_accounts(l))
        fiber_timer_start(&l->round, l->period_ms, on_round, l);
}

void logins_add(struct logins *l, struct login *login, const Thurn__AuthenticateReply *r, Thurn__AccountRef *quotas,
                void (*ended)(void *arg), void *arg)
{
    CHECK(l, LOGINS_MAGIC);
    assert(!list_in(&login->node));
    login->pass = rpc_pass_of(rpc_str(r->pass));
    login->pass_mono_ms = clock_mono_ms();
    if (!r->account || !r->credential_version)
        return; /* it cannot be asked about */
    login->account_id = r->account->account_id;
    login->version = r->credential_version;
    login->quotas = quotas;
    login->ended = ended;
    login->arg = arg;
    struct list *of_account = map64_get(&l->accounts, (uint64_t)login->account_id);
    if (!of_account) {
        of_account = xnew(struct list);
        list_init(of_account);
        (void)map64_put(&l->accounts, (uint64_t)login->account_id, of_account); /* there was none */
    }
    list_push(of_account, &login->node);
    wait_for_round(l);
}

void logins_free(struct logins *l)
{
    if (!l)
        return;
    CHECK(l, LOGINS_MAGIC);
    assert(logins_accounts(l) == 0);
    l->is_closing = true;
    dir_watch_remove(&l->changes);
    fiber_timer_stop(&l->round);
    if (l->checker)
        fiber_cancel(l->checker);
    l->freer = fiber_self();
    while (l->is_checking) /* it uses this memory: whatever happens to us, it ends first */
        fiber_wait_uninterrupted();
    map64_done(&l->accounts);
    map64_done(&l->hurried);
    l->magic = 0;
    xfree(l);
}
