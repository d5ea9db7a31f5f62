/*
 * What delivery to other mail servers itself costs: one message after the other over kept connections to a server that
 * takes everything (smtp-sink), without the queue. Says the CPU time of this process for each message.
 *
 *     smtp-sink 127.0.0.1:23525 100 &
 *     bench_remote 127.0.0.1:23525 [messages [fibers [bytes]]]
 */
#include <stdio.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/num.h"
#include "fiber/fiber.h"
#include "queue-service/remote/remote.h"

static uint32_t n_messages = 20000, n_fibers = 10, size = 5120;
static const char *relay = "";
static struct remote *remote;
static char *content;
static uint32_t sent;

struct reader {
    struct rpc_source source;
    bool is_read;
};
static bool read_all(struct rpc_source *s, str *piece, struct err *err)
{
    struct reader *r = (struct reader *)(void *)s;
    (void)err;
    *piece = r->is_read ? STR_NONE : str_n(content, size);
    r->is_read = true;
    return true;
}
static struct rpc_source *open_content(void *arg, struct err *err)
{
    struct reader *r = arg;
    (void)err;
    *r = (struct reader){{read_all}, false};
    return &r->source;
}

static double cpu_s(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

FIBER static void deliver(void *arg)
{
    (void)arg;
    while (sent < n_messages) {
        sent++;
        ARENA(a, 1u << 20);
        struct err err = ERR_INIT;
        struct reader reader;
        struct remote_site site;
        struct remote_rcpt rcpt = {.address = S("user@remote.test")};
        struct remote_message m = {
            .sender = S("sender@example.test"), .size = size, .open = open_content, .arg = &reader};
        if (!remote_resolve(remote, S("remote.test"), &a, &site, &err))
            panic("%s", err.msg);
        remote_deliver(remote, &site, &m, &rcpt, 1);
        if (rcpt.outcome != REMOTE_DELIVERED)
            panic("%s", rcpt.text);
    }
}

FIBER static void run(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    remote = remote_new(&(struct remote_opts){.hostname = S("bench.test"), .relay = str_c(relay)}, &err);
    if (!remote)
        panic("%s", err.msg);
    double cpu = cpu_s();
    int64_t start = clock_mono_us();
    {
        FIBER_GROUP(g, n_fibers);
        for (uint32_t i = 0; i < n_fibers; i++)
            if (!fiber_group_spawn(&g, "deliver", deliver, NULL, &err))
                panic("%s", err.msg);
        if (!fiber_group_wait(&g, &err))
            panic("%s", err.msg);
    }
    printf("%.1f us of CPU a message, %.0f messages/s\n", (cpu_s() - cpu) * 1e6 / n_messages,
           n_messages * 1e6 / (double)(clock_mono_us() - start));
    remote_free(remote);
}

int main(int argc, char **argv)
{
    if (argc < 2 || (argc > 2 && !num_u32(str_c(argv[2]), 10000000, &n_messages)) ||
        (argc > 3 && !num_u32(str_c(argv[3]), 1000, &n_fibers)) ||
        (argc > 4 && !num_u32(str_c(argv[4]), 1u << 30, &size))) {
        (void)fprintf(stderr, "usage: bench_remote HOST:PORT [messages [fibers [bytes]]]\n");
        return 2;
    }
    relay = argv[1];
    content = xmalloc(size + 1);
    for (uint32_t i = 0; i < size; i++)
        content[i] = i % 78 == 76 ? '\r' : i % 78 == 77 ? '\n' : 'x';
    return fiber_main(run, NULL) ? 0 : 1;
}
