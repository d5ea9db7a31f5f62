/* Beacons between two store processes, over a real Redis. */
#include "unit/store_world.h"

#include <stdio.h>
#include "unit/redis_peer.h"

static struct redis_peer peer;
static struct redis *redis[2];

static struct redis *connect_redis(void)
{
    struct err err = ERR_INIT;
    struct redis *r = redis_new(&(struct redis_opts){.url = str_c(peer.url)}, &err);
    assert_non_null(r);
    for (int i = 0; i < 10000 && !redis_is_up(r); i++)
        assert_true(fiber_sleep_ms(1, &err));
    return r;
}

static void with_redis(struct world *w)
{
    redis[0] = connect_redis();
    w->opts.redis = redis[0];
}

struct watching {
    struct world *w;
    ProtobufCService *service;
    Thurn__WatchRequest q;
    const Thurn__WatchReply *r;
    struct err err;
};

static void watch_main(void *arg)
{
    struct watching *wt = arg;
    struct rpc_call c;
    world_call_init(wt->w, &c);
    wt->r = NULL;
    (void)!store_watch(&c, wt->service, &wt->q, &wt->r);
    wt->err = c.err;
}

/* The set anew, and then one long poll that `act` is to end. */
static void watch_during(struct watching *wt, void (*act)(struct world *w))
{
    static int64_t id = 1;
    struct err err = ERR_INIT;
    thurn__watch_request__init(&wt->q);
    wt->q.watcher = (char *)"fe";
    wt->q.is_full = true;
    wt->q.add = &id;
    wt->q.n_add = 1;
    watch_main(wt);
    if (!wt->r)
        fail_msg("%s", wt->err.msg);
    wt->q.generation = wt->r->generation;
    wt->q.is_full = false;
    wt->q.n_add = 0;
    wt->q.wait_ms = 2000;
    FIBER_GROUP(g, 1);
    assert_true(fiber_group_spawn(&g, "watch", watch_main, wt, &err));
    assert_true(fiber_yield(&err));
    act(wt->w);
    assert_true(fiber_group_wait(&g, &err));
}

static void append_one(struct world *w)
{
    world_append(w, world_mailbox(w, "INBOX"), "Subject: x\r\n\r\nx\r\n", 0);
}

static void break_redis(struct world *w)
{
    (void)w;
    redis_peer_kill(&peer);
    redis_peer_start(&peer);
}

static void two_stores_case(struct world *w)
{
    /* The second process has its own folder; what is small lies in the database that they share. */
    struct store_opts o = w->opts;
    struct err err = ERR_INIT;
    o.blobs.folder = arena_printf(&w->a, "%s/second", w->folder);
    o.redis = redis[1] = connect_redis();
    struct sql_db *db = w->db;
    o.shards = &db;
    struct store *second = store_new(&o, &err);
    assert_non_null(second);
    struct watching wt = {.w = w, .service = store_service(second)};
    (void)world_mailbox(w, "INBOX");
    /* A subscription is on its way when Watch answers, and its connection counts as a gap: until the news come through.
     */
    do
        watch_during(&wt, append_one);
    while (!wt.r || wt.r->n_beacons == 0);
    assert_int_equal(wt.r->n_beacons, 1);
    assert_int_equal(wt.r->beacons[0]->account_id, 1);
    assert_true(wt.r->beacons[0]->modseq <= (uint64_t)world_sql(w, "SELECT modseq FROM s_account"));
    /* Redis goes and comes: news may be lost, and the watcher is told to start over. */
    do
        watch_during(&wt, break_redis);
    while (wt.r);
    assert_int_equal(wt.err.kind, ERR_CONFLICT);
    store_free(second);
    redis_free(redis[1]);
}

/* A reply that did not arrive: what it told is told again by the next one, at once. */
static void lost_reply_case(struct world *w)
{
    static int64_t id = 1;
    struct watching wt = {.w = w, .service = w->service};
    (void)world_mailbox(w, "INBOX");
    thurn__watch_request__init(&wt.q);
    wt.q.watcher = (char *)"fe2";
    wt.q.is_full = true;
    wt.q.add = &id;
    wt.q.n_add = 1;
    wt.q.has_acked = true;
    watch_main(&wt);
    wt.q.is_full = false;
    wt.q.n_add = 0;
    wt.q.generation = wt.r->generation;
    wt.q.wait_ms = 1;
    append_one(w);
    watch_main(&wt);
    assert_int_equal(wt.r->n_beacons, 1);
    uint64_t lost = wt.r->number, modseq = wt.r->beacons[0]->modseq;
    unsigned kinds = wt.r->beacons[0]->kinds;
    assert_true(lost != 0 && kinds != 0);
    watch_main(&wt); /* it never came: still the number of before */
    assert_int_equal(wt.r->n_beacons, 1);
    assert_true(wt.r->beacons[0]->modseq == modseq && wt.r->beacons[0]->kinds == kinds && wt.r->number != lost);
    wt.q.acked = wt.r->number;
    watch_main(&wt);
    assert_true(wt.r->n_beacons == 0 && wt.r->number == 0);
    append_one(w); /* news between a lost reply and the next: once, the newest */
    watch_main(&wt);
    append_one(w);
    watch_main(&wt);
    assert_int_equal(wt.r->n_beacons, 1);
    assert_true(wt.r->beacons[0]->modseq == modseq + 2);
    wt.q.has_acked = false; /* a front-end that does not count */
    watch_main(&wt);
    assert_int_equal(wt.r->n_beacons, 0);
}

static void without_redis_case(struct world *w)
{
    redis_peer_kill(&peer);
    struct watching wt = {.w = w, .service = w->service};
    (void)world_mailbox(w, "INBOX");
    watch_during(&wt, append_one); /* in the process itself nothing is needed */
    assert_non_null(wt.r);
    assert_int_equal(wt.r->n_beacons, 1);
    redis_peer_start(&peer);
}

static void free_redis(struct world *w)
{
    store_free(w->store); /* first the store, then what it was given */
    redis_free(redis[0]);
    w->opts.redis = NULL;
    struct err err = ERR_INIT;
    w->store = store_new(&w->opts, &err);
    assert_non_null(w->store);
    w->service = store_service(w->store);
}

static void two_stores(struct world *w)
{
    two_stores_case(w);
    free_redis(w);
}

static void without_redis(struct world *w)
{
    without_redis_case(w);
    free_redis(w);
}

static void lost_reply(struct world *w)
{
    free_redis(w);
    lost_reply_case(w);
}

int main(void)
{
    static const struct world_case cases[] = {
        {"two_stores", two_stores}, {"without_redis", without_redis}, {"lost_reply", lost_reply}};
    if (!redis_peer_make(&peer))
        return 0;
    redis_peer_start(&peer);
    int failed = world_main(cases, ARRAY_LEN(cases), 1, with_redis);
    redis_peer_done(&peer);
    return failed;
}
