/*
 * Fill the queue of a running cluster: Enqueue calls over RPC to its queue nodes, as front-ends make them. For fault
 * runs and for figures.
 *
 *     bench_queue_load FOLDER_OF_CERTIFICATES MESSAGES DOMAIN SENDER CALLS NODE...
 *
 * The folder has ca.pem, node.pem and node.key; NODE is HOST:PORT; CALLS are under way at a time. Says how many were
 * taken, in which time.
 */
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"
#include "net/tls.h"
#include "proto/queue_calls.h"
#include "rpc/client.h"

#define BODY "Subject: load\r\n\r\nOne of very many messages, which is not long.\r\n"

static struct {
    uint32_t n_messages, n_calls, begun, taken;
    const char *domain, *sender;
    ProtobufCService *queue;
    struct err failure; /* the last one */
} load;

FIBER static void caller(void *arg)
{
    (void)arg;
    while (load.begun < load.n_messages) {
        uint32_t i = load.begun++;
        ARENA(a, 1 << 16);
        struct rpc_call c;
        unsigned char id[16];
        Thurn__EnqueueRequest q = THURN__ENQUEUE_REQUEST__INIT;
        Thurn__QueueRecipient to = THURN__QUEUE_RECIPIENT__INIT, *list = &to;
        Thurn__Body body = THURN__BODY__INIT;
        random_bytes(id, sizeof(id));
        rpc_call_init(&c, &a);
        c.deadline_mono_ms = clock_mono_ms() + 60000;
        to.address = to.original = arena_strz(&a, arena_printf(&a, "user%u@%s", i, load.domain));
        q.enqueue_id = rpc_bytes(str_n(id, sizeof(id)));
        q.sender = (char *)(uintptr_t)load.sender;
        q.received_from = (char *)(uintptr_t) "load.example.test [192.0.2.17]";
        q.trace = (char *)(uintptr_t) "0c9f5f1d2b3a4e57";
        q.prefix = rpc_bytes(S("Return-Path: <sender@example.test>\r\n"));
        q.recipients = &list;
        q.n_recipients = 1;
        q.priority = 1;
        body.content = rpc_bytes(S(BODY));
        q.body = &body;
        if (queue_enqueue(&c, load.queue, &q, NULL))
            load.taken++;
        else
            load.failure = c.err;
    }
}

FIBER static bool run(struct err *err)
{
    int64_t start = clock_mono_ms();
    FIBER_GROUP(g, load.n_calls);
    for (uint32_t i = 0; i < load.n_calls; i++)
        if (!fiber_group_spawn(&g, "bench.caller", caller, NULL, err))
            return false;
    if (!fiber_group_wait(&g, err))
        return false;
    int64_t ms = MAX(clock_mono_ms() - start, 1);
    printf("%u of %u taken in %lld ms (%lld/s)%s%s\n", load.taken, load.n_messages, (long long)ms,
           (long long)load.taken * 1000 / ms, err_is_set(&load.failure) ? "; last failure: " : "", load.failure.msg);
    return true;
}

struct args {
    const char *folder;
    str nodes[16];
    size_t n_nodes;
    bool ok;
};

FIBER static void bench(void *arg)
{
    struct args *args = arg;
    struct err err = ERR_INIT;
    char path[3][512];
    static const char *const names[] = {"ca.pem", "node.pem", "node.key"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        (void)snprintf(path[i], sizeof(path[i]), "%s/%s", args->folder, names[i]);
    struct tls_client *tls = tls_client_new(
        &(struct tls_client_opts){.ca_file = str_c(path[0]), .own = {str_c(path[1]), str_c(path[2])}}, &err);
    if (tls)
        load.queue = rpc_client_new(&(struct rpc_client_opts){.name = "queue",
                                                              .service = &thurn__queue__descriptor,
                                                              .nodes = args->nodes,
                                                              .n_nodes = args->n_nodes,
                                                              .tls = tls},
                                    &err);
    args->ok = load.queue && run(&err);
    if (err_is_set(&err))
        fprintf(stderr, "%s\n", err.msg);
    rpc_client_free(load.queue);
    tls_client_free(tls);
}

int main(int argc, char **argv)
{
    struct args args = {.folder = argc > 1 ? argv[1] : ""};
    if (argc < 7 || argc > 6 + (int)ARRAY_LEN(args.nodes) || !num_u32(str_c(argv[2]), 10000000, &load.n_messages) ||
        !num_u32(str_c(argv[5]), 4000, &load.n_calls) || load.n_calls == 0) {
        fprintf(stderr, "usage: bench_queue_load FOLDER_OF_CERTIFICATES MESSAGES DOMAIN SENDER CALLS NODE...\n");
        return 2;
    }
    load.domain = argv[3];
    load.sender = argv[4];
    for (int i = 6; i < argc; i++)
        args.nodes[args.n_nodes++] = str_c(argv[i]);
    log_configure(LOG_WARN, LOG_LOGFMT);
    return fiber_main(bench, &args) && args.ok && load.taken == load.n_messages ? 0 : 1;
}
