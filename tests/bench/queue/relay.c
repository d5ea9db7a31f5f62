/*
 * What the queue itself costs: enqueue messages, relay them to a server that takes everything (smtp-sink), and say how
 * much CPU time of this process each took, the commit of its enqueue and of its completion included.
 *
 *     smtp-sink 127.0.0.1:23025 100 &
 *     bench_queue_relay 127.0.0.1:23025 [messages [senders [dsn]]]
 */
#include <sys/resource.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/num.h"
#include "proto/auth.pb-c.h"
#include "proto/queue.pb-c.h"
#include "proto/queue_calls.h"
#include "queue-service/queue.h"

static uint32_t n_messages = 20000, n_senders = 50;
static const char *sink = "", *dsn = "sqlite:/tmp/thurn-bench-queue.db";
static struct queue *queue;
static uint32_t sent;

FIBER static void resolve(Thurn__Auth_Service *s, const Thurn__ResolveRequest *q, Thurn__ResolveReply_Closure closure,
                          void *call)
{
    (void)s;
    struct rpc_call *c = call;
    Thurn__ResolveReply r = THURN__RESOLVE_REPLY__INIT;
    r.resolutions = arena_array(c->arena, Thurn__Resolution *, q->n_addresses);
    for (size_t i = 0; i < q->n_addresses; i++) {
        r.resolutions[r.n_resolutions] = arena_new(c->arena, Thurn__Resolution);
        thurn__resolution__init(r.resolutions[r.n_resolutions++]); /* remote */
    }
    closure(&r, call);
}
static Thurn__Auth_Service auth = {
    .base = {.descriptor = &thurn__auth__descriptor, .invoke = protobuf_c_service_invoke_internal}, .resolve = resolve};

static char content[5 * 1024];

FIBER static void sender(void *arg)
{
    (void)arg;
    while (sent < n_messages) {
        uint32_t i = sent++;
        ARENA(a, 1 << 20);
        struct rpc_call c;
        unsigned char id[16];
        Thurn__EnqueueRequest q = THURN__ENQUEUE_REQUEST__INIT;
        Thurn__QueueRecipient to = THURN__QUEUE_RECIPIENT__INIT, *list = &to;
        Thurn__Body body = THURN__BODY__INIT;
        random_bytes(id, sizeof(id));
        rpc_call_init(&c, &a);
        to.address = arena_strz(&a, arena_printf(&a, "user%u@domain%u.test", i, i % 100));
        q.enqueue_id = rpc_bytes(str_n(id, 16));
        q.sender = (char *)(uintptr_t) "sender@example.test";
        q.recipients = &list;
        q.n_recipients = 1;
        body.content = rpc_bytes(str_n(content, sizeof(content)));
        q.body = &body;
        if (!queue_enqueue(&c, queue_service(queue), &q, NULL))
            panic("enqueue: %s", c.err.msg);
    }
}

static double cpu_s(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

FIBER static uint64_t left(void)
{
    ARENA(a, 1 << 16);
    struct rpc_call c;
    Thurn__Empty e = THURN__EMPTY__INIT;
    const Thurn__QueueStatsReply *r;
    rpc_call_init(&c, &a);
    return queue_stats(&c, queue_service(queue), &e, &r) ? r->messages : UINT64_MAX;
}

FIBER static void measure(struct err *err)
{
    double cpu = cpu_s();
    int64_t start = clock_mono_ms();
    FIBER_GROUP(g, n_senders);
    for (uint32_t i = 0; i < n_senders; i++)
        if (!fiber_group_spawn(&g, "bench.sender", sender, NULL, err))
            return;
    if (!fiber_group_wait(&g, err))
        return;
    int64_t accepted_ms = clock_mono_ms() - start;
    while (left() > 0)
        if (!fiber_sleep_ms(5, err))
            return;
    int64_t ms = MAX(clock_mono_ms() - start, 1);
    printf("%u messages: enqueued in %lld ms, relayed in %lld ms (%lld/s), %.1f us CPU each, %.1f to a commit\n",
           n_messages, (long long)accepted_ms, (long long)ms, (long long)n_messages * 1000 / ms,
           (cpu_s() - cpu) * 1e6 / n_messages,
           (double)metric_get(M_QUEUE_COMMITTED, NULL) / (double)MAX(metric_get(M_QUEUE_COMMITS, NULL), 1));
}

FIBER static void bench(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    unsigned applied;
    struct sql_db *db = sql_open(&(struct sql_opts){.name = "queue", .dsn = str_c(dsn)}, &err);
    struct queue_opts opts = {.db = db,
                              .node = S("bench"),
                              .n_shards = 1,
                              .store = &auth.base,
                              .auth = &auth.base,
                              .hostname = S("bench.test"),
                              .relay = str_c(sink),
                              .allow_private_hosts = true,
                              .max_site_sessions = 20};
    bool ok =
        db && queue_migrate(db, false, &applied, &err) && (queue = queue_new(&opts, &err)) && queue_start(queue, &err);
    while (ok && !queue_is_ready(queue))
        ok = fiber_sleep_ms(5, &err);
    if (ok)
        measure(&err);
    if (err_is_set(&err))
        fprintf(stderr, "%s\n", err.msg);
    queue_free(queue);
    sql_close(db);
}

int main(int argc, char **argv)
{
    if (argc < 2 || (argc > 2 && !num_u32(str_c(argv[2]), 10000000, &n_messages)) ||
        (argc > 3 && !num_u32(str_c(argv[3]), 5000, &n_senders))) {
        fprintf(stderr, "usage: bench_queue_relay HOST:PORT [MESSAGES [SENDERS [DSN]]]\n");
        return 2;
    }
    sink = argv[1];
    dsn = argc > 4 ? argv[4] : dsn;
    for (size_t i = 0; i < sizeof(content); i++)
        content[i] = i % 64 == 62 ? '\r' : i % 64 == 63 ? '\n' : (char)('a' + i % 26);
    memcpy(content, "Subject: a\r\n\r\n", 14);
    log_configure(LOG_WARN, LOG_LOGFMT);
    return fiber_main(bench, NULL) ? 0 : 1;
}
