/*
 * What a message that waits costs in memory: enqueue messages that are not due yet, and say what the queue accounts for
 * each and what the process grew by. Each has one recipient and the texts that a front-end gives it.
 *
 *     bench_queue_memory [messages [domains]]
 */
#include <malloc.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/num.h"
#include "proto/auth.pb-c.h"
#include "proto/queue.pb-c.h"
#include "proto/queue_calls.h"
#include "queue-service/queue.h"

#define SENDERS 50u

static uint32_t n_messages = 200000, n_domains = 100;
static struct queue *queue;
static uint32_t sent;
static Thurn__Auth_Service nobody = {
    .base = {.descriptor = &thurn__auth__descriptor, .invoke = protobuf_c_service_invoke_internal}};

FIBER static void sender(void *arg)
{
    (void)arg;
    while (sent < n_messages) {
        uint32_t i = sent++;
        ARENA(a, 1 << 16);
        struct rpc_call c;
        unsigned char id[16];
        Thurn__EnqueueRequest q = THURN__ENQUEUE_REQUEST__INIT;
        Thurn__QueueRecipient to = THURN__QUEUE_RECIPIENT__INIT, *list = &to;
        Thurn__Body body = THURN__BODY__INIT;
        random_bytes(id, sizeof(id));
        rpc_call_init(&c, &a);
        to.address = to.original = arena_strz(&a, arena_printf(&a, "user%u@domain%u.example", i, i % n_domains));
        q.enqueue_id = rpc_bytes(str_n(id, 16));
        q.sender = (char *)(uintptr_t) "sender@example.test";
        q.received_from = (char *)(uintptr_t) "client.example.test [192.0.2.17]";
        q.trace = (char *)(uintptr_t) "0c9f5f1d2b3a4e57";
        q.prefix = rpc_bytes(S("Return-Path: <sender@example.test>\r\n"));
        q.recipients = &list;
        q.n_recipients = 1;
        q.not_before_unix = clock_unix() + 86400;
        body.content = rpc_bytes(S("Subject: a\r\n\r\nb\r\n"));
        q.body = &body;
        if (!queue_enqueue(&c, queue_service(queue), &q, NULL))
            panic("enqueue: %s", c.err.msg);
    }
}

/* Resident, without what the allocator keeps for later. */
static long long rss_bytes(void)
{
    long long size, resident = 0;
    malloc_trim(0);
    FILE *f = fopen("/proc/self/statm", "re");
    if (f) {
        if (fscanf(f, "%lld %lld", &size, &resident) != 2)
            resident = 0;
        (void)fclose(f); /* only read */
    }
    return resident * sysconf(_SC_PAGESIZE);
}

static long long heap_in_use(void)
{
    struct mallinfo2 m = mallinfo2();
    return (long long)(m.uordblks + m.hblkhd);
}

FIBER static bool measure(struct err *err)
{
    long long heap_before = heap_in_use();
    long long before = rss_bytes();
    FIBER_GROUP(g, SENDERS);
    for (uint32_t i = 0; i < SENDERS; i++)
        if (!fiber_group_spawn(&g, "bench.sender", sender, NULL, err))
            return false;
    if (!fiber_group_wait(&g, err) || !fiber_sleep_ms(2000, err)) /* the gauges are set each second */
        return false;
    long long accounted = metric_get(M_QUEUE_MEMORY, NULL), grown = rss_bytes() - before;
    long long heap = heap_in_use() - heap_before;
    printf(
        "%u messages to %u domains: accounted %lld bytes each; the heap grew by %lld each, the process by %lld (cached bodies, SQLite and\n"
        "what the allocator cannot give back included)\n",
        n_messages, n_domains, accounted / n_messages, heap / n_messages, grown / n_messages);
    return true;
}

FIBER static void bench(void *arg)
{
    struct err *err = arg;
    unsigned applied;
    struct sql_db *db =
        sql_open(&(struct sql_opts){.name = "queue", .dsn = S("sqlite:/tmp/thurn-bench-queue-memory.db")}, err);
    struct queue_opts opts = {.db = db,
                              .node = S("bench"),
                              .n_shards = 1,
                              .store = &nobody.base,
                              .auth = &nobody.base,
                              .hostname = S("bench.test"),
                              .max_bytes = UINT64_MAX};
    bool ok =
        db && queue_migrate(db, false, &applied, err) && (queue = queue_new(&opts, err)) && queue_start(queue, err);
    while (ok && !queue_is_ready(queue))
        ok = fiber_sleep_ms(5, err);
    if (ok)
        (void)measure(err); /* err says it */
    queue_free(queue);
    sql_close(db);
}

int main(int argc, char **argv)
{
    struct err err = ERR_INIT;
    if ((argc > 1 && !num_u32(str_c(argv[1]), 10000000, &n_messages)) ||
        (argc > 2 && !num_u32(str_c(argv[2]), 10000000, &n_domains)) || n_messages == 0 || n_domains == 0) {
        fprintf(stderr, "usage: bench_queue_memory [MESSAGES [DOMAINS]]\n");
        return 2;
    }
    static const char *const files[] = {"", "-wal", "-shm"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        char path[64];
        (void)snprintf(path, sizeof(path), "/tmp/thurn-bench-queue-memory.db%s", files[i]);
        (void)unlink(path); /* of an earlier run */
    }
    log_configure(LOG_WARN, LOG_LOGFMT);
    if (fiber_main(bench, &err) && !err_is_set(&err))
        return 0;
    fprintf(stderr, "%s\n", err.msg);
    return 1;
}
