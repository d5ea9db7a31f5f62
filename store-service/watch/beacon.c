#include "store-service/watch/beacon.h"

#include "base/clock.h"
#include "base/map.h"
#include "base/metrics.h"
#include "base/num.h"
#include "store-service/service.h"

#define BUCKETS 1024u
#define WATCHERS_MAX 4096u
#define WATCHED_MAX 1000000u /* accounts of one watcher */
#define CHANGE_MAX 50000u    /* accounts added or removed by one Watch */
#define REPLY_MAX 20000u     /* beacons in one reply */
#define FORGET_MS 120000     /* a watcher that did not ask for so long is gone */
#define WAIT_MS_MAX 30000

struct watcher;
/* One account that one watcher watches. */
struct watch {
    struct list_node by_account; /* in struct watched */
    struct list_node pending;    /* in the watcher's pending, while there is something to tell, or in its sent */
    /* number of the reply that told it, until the watcher says that it arrived; 0 = none */
    uint64_t sent;
    unsigned sent_kinds;
    struct watcher *watcher;
    int64_t account_id;
    uint64_t modseq;
    unsigned kinds;
};
struct watched { /* an account that somebody watches */
    struct list watches;
};
struct watcher {
    struct list_node node;
    struct beacons *owner;
    struct map64 watches; /* account id → struct watch */
    struct list pending, sent;
    uint64_t generation, number; /* number: of the last reply with beacons */
    uint64_t turn;               /* of the Watch that waits; a later one ends it */
    unsigned n_waiting;          /* Watch calls that hold a pointer to this */
    bool is_gone;
    int64_t seen_mono_ms;
    struct fiber_cond wake;
    char *name;
};
struct beacons {
    struct redis *redis;
    unsigned linger_ms;
    uint64_t node_id;    /* tells our own messages from others' */
    struct map watchers; /* name → struct watcher */
    struct list all;
    struct map64 watched;      /* account id → struct watched */
    unsigned buckets[BUCKETS]; /* watched accounts in each; subscribed while above 0 */
};

static void channel_name(char out[32], unsigned bucket)
{
    snprintf(out, 32, "beacon:%u", bucket);
}

static unsigned bucket_of(int64_t account_id)
{
    return (unsigned)((uint64_t)account_id % BUCKETS);
}

/* --- what is watched --- */

static void bucket_ref(struct beacons *b, int64_t account_id)
{
    unsigned k = bucket_of(account_id);
    char name[32];
    if (b->buckets[k]++ || !b->redis)
        return;
    channel_name(name, k);
    struct err ignored = ERR_INIT; /* without it the watcher's own poll still finds every change */
    if (!redis_subscribe(b->redis, str_c(name), &ignored))
        metric_inc(M_STORE_BEACONS_LOST);
}

static void bucket_unref(struct beacons *b, int64_t account_id)
{
    unsigned k = bucket_of(account_id);
    char name[32];
    if (--b->buckets[k] || !b->redis)
        return;
    channel_name(name, k);
    redis_unsubscribe(b->redis, str_c(name));
}

static void watch_add(struct watcher *w, int64_t account_id)
{
    struct beacons *b = w->owner;
    if (account_id <= 0 || map64_get(&w->watches, (uint64_t)account_id))
        return;
    struct watched *wd = map64_get(&b->watched, (uint64_t)account_id);
    if (!wd) {
        wd = xnew(struct watched);
        list_init(&wd->watches);
        map64_put(&b->watched, (uint64_t)account_id, wd);
        bucket_ref(b, account_id);
    }
    struct watch *watch = xnew(struct watch);
    watch->watcher = w;
    watch->account_id = account_id;
    list_push(&wd->watches, &watch->by_account);
    map64_put(&w->watches, (uint64_t)account_id, watch);
}

static void watch_remove(struct watcher *w, int64_t account_id)
{
    struct beacons *b = w->owner;
    struct watch *watch = map64_remove(&w->watches, (uint64_t)account_id);
    if (!watch)
        return;
    list_remove(&watch->by_account);
    list_remove(&watch->pending);
    xfree(watch);
    struct watched *wd = map64_get(&b->watched, (uint64_t)account_id);
    if (!list_empty(&wd->watches))
        return;
    map64_remove(&b->watched, (uint64_t)account_id);
    xfree(wd);
    bucket_unref(b, account_id);
}

static void watch_none(struct watcher *w)
{
    struct map_iter it = {0};
    uint64_t id;
    void *value;
    while (map64_next(&w->watches, &it, &id, &value))
        watch_remove(w, (int64_t)id);
}

static void watcher_free(struct watcher *w)
{
    map64_done(&w->watches);
    xfree(w->name);
    xfree(w);
}

/* Out of all lists; the memory goes when the last Watch has left it. */
static void watcher_forget(struct watcher *w)
{
    watch_none(w);
    list_remove(&w->node);
    map_remove(&w->owner->watchers, str_c(w->name));
    metric_set(M_STORE_WATCHERS, (int64_t)w->owner->watchers.n);
    w->is_gone = true;
    if (w->n_waiting)
        fiber_cond_broadcast(&w->wake);
    else
        watcher_free(w);
}

static void forget_silent(struct beacons *b)
{
    int64_t before = clock_mono_ms() - FORGET_MS;
    LIST_EACH(&b->all, n)
    {
        struct watcher *w = LIST_ITEM(n, struct watcher, node);
        if (!w->n_waiting && w->seen_mono_ms < before)
            watcher_forget(w);
    }
}

static struct watcher *watcher_new(struct beacons *b, str name)
{
    struct watcher *w = xnew(struct watcher);
    w->owner = b;
    w->name = str_dup(name);
    w->generation = random_u64() | 1;
    map64_init(&w->watches);
    list_init(&w->pending);
    list_init(&w->sent);
    w->number = random_u64() >> 1; /* a restarted node's numbers are not taken for those of before */
    fiber_cond_init(&w->wake);
    list_push(&b->all, &w->node);
    map_put(&b->watchers, name, w);
    metric_set(M_STORE_WATCHERS, (int64_t)b->watchers.n);
    return w;
}

/* --- news --- */

static void tell(struct beacons *b, int64_t account_id, uint64_t modseq, unsigned kinds)
{
    struct watched *wd = map64_get(&b->watched, (uint64_t)account_id);
    if (!wd)
        return;
    LIST_EACH(&wd->watches, n)
    {
        struct watch *watch = LIST_ITEM(n, struct watch, by_account);
        watch->modseq = MAX(watch->modseq, modseq);
        watch->kinds |= kinds;
        if (list_in(&watch->pending) && !watch->sent)
            continue;
        list_remove(&watch->pending);
        watch->kinds |= watch->sent_kinds;
        watch->sent = watch->sent_kinds = 0;
        list_push(&watch->watcher->pending, &watch->pending);
        fiber_cond_broadcast(&watch->watcher->wake);
    }
}

void beacon_publish(struct store *s, int64_t account_id, int64_t modseq, unsigned kinds)
{
    struct beacons *b = s->beacons;
    metric_inc(M_STORE_BEACONS);
    tell(b, account_id, (uint64_t)modseq, kinds);
    if (!b->redis)
        return;
    char channel[32], text[96];
    channel_name(channel, bucket_of(account_id));
    int n = snprintf(text, sizeof text, "%llu %lld %lld %u", (unsigned long long)b->node_id, (long long)account_id,
                     (long long)modseq, kinds);
    redis_publish(b->redis, str_c(channel), str_n(text, (size_t)n));
}

static void on_message(void *arg, str channel, str payload)
{
    struct beacons *b = arg;
    uint64_t v[4];
    if (!str_starts(channel, S("beacon:"))) /* others share the connection */
        return;
    for (size_t i = 0; i < ARRAY_LEN(v); i++) {
        str word;
        if (!str_split(&payload, ' ', &word) || !num_u64(word, UINT64_MAX, &v[i]))
            return;
    }
    if (v[0] != b->node_id && v[1] <= INT64_MAX)
        tell(b, (int64_t)v[1], v[2], (unsigned)v[3]);
}

/* Messages may have been lost while Redis was away: every watcher starts over, and so reads all modseqs. */
static void on_gap(void *arg)
{
    struct beacons *b = arg;
    LIST_EACH(&b->all, n)
    {
        struct watcher *w = LIST_ITEM(n, struct watcher, node);
        w->generation = random_u64() | 1;
        fiber_cond_broadcast(&w->wake);
    }
}

struct beacons *beacons_new(struct redis *redis, unsigned linger_ms)
{
    struct beacons *b = xnew(struct beacons);
    b->redis = redis;
    b->linger_ms = linger_ms;
    b->node_id = random_u64();
    map_init(&b->watchers);
    map64_init(&b->watched);
    list_init(&b->all);
    if (redis)
        redis_on_message(redis, on_message, on_gap, b);
    return b;
}

void beacons_free(struct beacons *b)
{
    if (!b)
        return;
    LIST_EACH(&b->all, n)
    watcher_forget(LIST_ITEM(n, struct watcher, node));
    if (b->redis)
        redis_on_message(b->redis, NULL, NULL, b);
    map_done(&b->watchers);
    map64_done(&b->watched);
    xfree(b);
}

/* --- Watch --- */

static bool update_set(struct beacons *b, const Thurn__WatchRequest *q, struct watcher **out, struct err *err)
{
    struct watcher *w = map_get(&b->watchers, str_c(q->watcher));
    if (q->is_full) {
        if (!w && b->watchers.n >= WATCHERS_MAX)
            return err_set(err, ERR_BUSY, "more than %u watchers", WATCHERS_MAX);
        if (!w)
            w = watcher_new(b, str_c(q->watcher));
        else
            watch_none(w);
        w->generation = random_u64() | 1;
    } else if (!w || w->generation != q->generation) {
        return err_set(err, ERR_CONFLICT, "the watched set is not known here");
    }
    if (w->watches.m.n + q->n_add > WATCHED_MAX)
        return err_set(err, ERR_LIMIT, "more than %u watched accounts", WATCHED_MAX);
    for (size_t i = 0; i < q->n_remove; i++)
        watch_remove(w, q->remove[i]);
    for (size_t i = 0; i < q->n_add; i++)
        watch_add(w, q->add[i]);
    if (!q->is_full && q->n_add + q->n_remove > 0)
        w->generation += 2;
    *out = w;
    return true;
}

/* Until there is news, the time is over, or this call is of no use any more. */
FIBER static bool wait_for_news(struct beacons *b, struct watcher *w, uint32_t wait_ms, struct err *err)
{
    uint64_t turn = ++w->turn, generation = w->generation;
    fiber_cond_broadcast(&w->wake); /* an earlier call of this watcher ends */
    FIBER_DEADLINE(MIN(wait_ms, WAIT_MS_MAX));
    bool ok = true;
    while (ok && !w->is_gone && w->turn == turn && w->generation == generation && list_empty(&w->pending))
        ok = fiber_cond_wait(&w->wake, err);
    if (!ok && err->kind == ERR_TIMEOUT)
        err_clear(err);
    if (err_is_set(err))
        return false;
    /* More of the same burst goes into the same reply. */
    if (ok && !w->is_gone && w->turn == turn && !list_empty(&w->pending) && b->linger_ms &&
        !fiber_sleep_ms(b->linger_ms, err)) {
        if (err->kind != ERR_TIMEOUT)
            return false;
        err_clear(err);
    }
    if (w->is_gone || w->generation != generation)
        return err_set(err, ERR_CONFLICT, "beacons may have been lost");
    return true;
}

/* What was told by a reply that did not arrive is news again. Who does not say what arrived is of a release before. */
static void settle(struct watcher *w, const Thurn__WatchRequest *q)
{
    struct list_node *n;
    while ((n = list_pop(&w->sent))) {
        struct watch *watch = LIST_ITEM(n, struct watch, pending);
        if (q->has_acked && watch->sent != q->acked) {
            watch->kinds |= watch->sent_kinds;
            list_push(&w->pending, &watch->pending);
        }
        watch->sent = watch->sent_kinds = 0;
    }
}

static void take_news(struct watcher *w, struct arena *a, Thurn__WatchReply *r)
{
    size_t n = 0;
    LIST_EACH(&w->pending, count)
    n += count != NULL;
    n = MIN(n, REPLY_MAX);
    r->beacons = arena_array(a, Thurn__Beacon *, n);
    if (n)
        r->number = ++w->number;
    while (r->n_beacons < n) {
        struct watch *watch = LIST_ITEM(list_pop(&w->pending), struct watch, pending);
        Thurn__Beacon *p = arena_new(a, Thurn__Beacon);
        thurn__beacon__init(p);
        p->account_id = watch->account_id;
        p->modseq = watch->modseq;
        p->kinds = watch->kinds;
        watch->sent = r->number;
        watch->sent_kinds = watch->kinds;
        watch->kinds = 0;
        list_push(&w->sent, &watch->pending);
        r->beacons[r->n_beacons++] = p;
    }
}

FIBER bool store_do_watch(struct store *s, struct rpc_call *c, const Thurn__WatchRequest *q, Thurn__WatchReply *r,
                          struct err *err)
{
    struct beacons *b = s->beacons;
    struct watcher *w = NULL;
    if (!*q->watcher || strlen(q->watcher) > 128)
        return err_set(err, ERR_INVALID, "a watcher has a name of at most 128 bytes");
    if (q->n_add > CHANGE_MAX || q->n_remove > CHANGE_MAX)
        return err_set(err, ERR_LIMIT, "more than %u accounts at once", CHANGE_MAX);
    forget_silent(b);
    if (!update_set(b, q, &w, err))
        return false;
    settle(w, q);
    w->n_waiting++;
    w->seen_mono_ms = clock_mono_ms();
    bool ok = wait_for_news(b, w, q->wait_ms, err);
    w->n_waiting--;
    w->seen_mono_ms = clock_mono_ms();
    if (ok) {
        take_news(w, c->arena, r);
        r->generation = w->generation;
    }
    if (w->is_gone && !w->n_waiting)
        watcher_free(w);
    return ok;
}
