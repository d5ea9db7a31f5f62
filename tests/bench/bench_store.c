/*
 * bench_store [deliveries] [at once] [bytes]: CPU and rates of the store's main paths, in one process: deliveries to
 * 500 accounts, FETCH of flags, envelopes and bodies, STORE. On SQLite, and on PostgreSQL when THURN_TEST_PG is set
 * (there the CPU is the client's alone). Not a test: it asserts nothing but success.
 */
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/num.h"
#include "proto/store_calls.h"
#include "store-service/store.h"
#include "unit/testdb.h"

#define ACCOUNTS 500

struct bench {
    enum testdb_kind kind;
    unsigned n, at_once, bytes;
    struct sql_db *db;
    ProtobufCService *service;
    unsigned next;
    struct err err;
    str *bodies;
};

static int64_t cpu_us(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return ((int64_t)u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 + u.ru_utime.tv_usec + u.ru_stime.tv_usec;
}

struct mark {
    int64_t mono_us, cpu_us;
    struct sql_stats sql;
};

static struct mark mark(struct bench *b)
{
    struct mark m = {clock_mono_us(), cpu_us(), {0}};
    sql_get_stats(b->db, &m.sql);
    return m;
}

static void report(struct bench *b, const char *what, const struct mark *from, unsigned n)
{
    struct mark to = mark(b);
    double wall = (double)(to.mono_us - from->mono_us), cpu = (double)(to.cpu_us - from->cpu_us);
    printf("%-9s %-34s %9.0f/s %8.1f us CPU  %6.2f round trips  %6.3f commits each\n", testdb_kind_name(b->kind), what,
           n * 1e6 / wall, cpu / n, (double)(to.sql.round_trips - from->sql.round_trips) / n,
           (double)(to.sql.commits - from->sql.commits) / n);
}

static Thurn__AccountRef account(unsigned i)
{
    Thurn__AccountRef ref = THURN__ACCOUNT_REF__INIT;
    ref.account_id = 1 + (int64_t)(i % ACCOUNTS);
    ref.tenant_id = 1;
    ref.shard = 1;
    ref.epoch = 1;
    return ref;
}

static void call_init(struct rpc_call *c, struct arena *a)
{
    rpc_call_init(c, a);
}

static void deliver_main(void *arg)
{
    struct bench *b = arg;
    while (b->next < b->n && !err_is_set(&b->err)) {
        ARENA(a, 8 << 20);
        struct rpc_call c;
        unsigned i = b->next++;
        Thurn__DeliverRequest q = THURN__DELIVER_REQUEST__INIT;
        Thurn__DeliverRecipient rcpt = THURN__DELIVER_RECIPIENT__INIT, *rcpts[] = {&rcpt};
        Thurn__Body body = THURN__BODY__INIT;
        Thurn__AccountRef ref = account(i * 7919);
        const Thurn__DeliverReply *r = NULL;
        unsigned char key[32];
        random_bytes(key, sizeof key);
        body.content = rpc_bytes(b->bodies[i]);
        q.body = &body;
        q.prefix = rpc_bytes(S("Return-Path: <sender@example.org>\r\n"));
        q.recipients = rcpts;
        q.n_recipients = 1;
        rcpt.account = &ref;
        rcpt.delivery_key = rpc_bytes(str_n(key, 32));
        rcpt.day = (uint32_t)(clock_unix() / 86400);
        call_init(&c, &a);
        if (!store_deliver(&c, b->service, &q, &r))
            b->err = c.err;
        else if (r->results[0]->error_kind)
            (void)err_set(&b->err, r->results[0]->error_kind, "%s", r->results[0]->error);
    }
}

static void run(struct bench *b, fiber_fn fn)
{
    struct err err = ERR_INIT;
    b->next = 0;
    FIBER_GROUP(g, b->at_once);
    for (unsigned i = 0; i < b->at_once; i++)
        if (!fiber_group_spawn(&g, "bench", fn, b, &err))
            panic("%s", err.msg);
    if (!fiber_group_wait(&g, &err))
        panic("%s", err.msg);
    if (err_is_set(&b->err))
        panic("%s", b->err.msg);
}

static void fetch(struct bench *b, unsigned i, bool parsed, bool raw, uint32_t uid, size_t *n)
{
    ARENA(a, 16 << 20);
    struct rpc_call c;
    Thurn__FetchRequest q = THURN__FETCH_REQUEST__INIT;
    Thurn__AccountRef ref = account(i);
    Thurn__Range range = THURN__RANGE__INIT, *ranges[] = {&range};
    const Thurn__FetchReply *r = NULL;
    q.account = &ref;
    q.mailbox_id = 1;
    q.with_parsed = parsed;
    q.with_raw = raw;
    range.first = range.last = uid;
    q.uids = ranges;
    q.n_uids = uid ? 1 : 0;
    call_init(&c, &a);
    if (!store_fetch(&c, b->service, &q, &r))
        b->err = c.err;
    else
        *n += r->n_messages;
}

static size_t n_messages;

static void fetch_flags_main(void *arg)
{
    struct bench *b = arg;
    while (b->next < ACCOUNTS * 4)
        fetch(b, b->next++, false, false, 0, &n_messages);
}

static void fetch_parsed_main(void *arg)
{
    struct bench *b = arg;
    while (b->next < ACCOUNTS * 2)
        fetch(b, b->next++, true, false, 0, &n_messages);
}

static void fetch_raw_main(void *arg)
{
    struct bench *b = arg;
    while (b->next < ACCOUNTS * 2)
        fetch(b, b->next++, false, true, 0, &n_messages);
}

static void fetch_one_main(void *arg)
{
    struct bench *b = arg;
    while (b->next < ACCOUNTS * 10)
        fetch(b, b->next++, false, true, 3, &n_messages);
}

static void store_main(void *arg)
{
    struct bench *b = arg;
    while (b->next < ACCOUNTS * 8) {
        ARENA(a, 1 << 20);
        struct rpc_call c;
        unsigned i = b->next++;
        Thurn__StoreFlagsRequest q = THURN__STORE_FLAGS_REQUEST__INIT;
        Thurn__AccountRef ref = account(i);
        Thurn__Range range = THURN__RANGE__INIT, *ranges[] = {&range};
        q.account = &ref;
        q.mailbox_id = 1;
        range.first = range.last = 1 + i / ACCOUNTS;
        q.uids = ranges;
        q.n_uids = 1;
        q.flags = THURN__FLAG__FLAG_SEEN;
        call_init(&c, &a);
        if (!store_store_flags(&c, b->service, &q, NULL))
            b->err = c.err;
    }
}

/* Text with the redundancy of mail. */
static str make_body(struct arena *a, unsigned seed, unsigned bytes)
{
    static const char *const words[] = {"the",      "meeting",  "tomorrow", "report", "please", "find",
                                        "attached", "regards",  "project",  "we",     "will",   "discuss",
                                        "budget",   "schedule", "thanks",   "and",    "to"};
    BUF(b, bytes + 4096);
    buf_printf(
        &b,
        "Received: from mail.example.org (mail.example.org [192.0.2.%u])\r\n\tby mx.example.com with ESMTPS id %x;\r\n"
        "\tMon, 01 Jan 2024 00:00:00 +0000\r\nDate: Mon, 01 Jan 2024 00:00:00 +0000\r\nFrom: Sender %u "
        "<sender%u@example.org>\r\nTo: User <user%u@example.com>\r\nSubject: Message number %u\r\n"
        "Message-ID: <%u.%u@example.org>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n",
        seed % 250, seed, seed % 90, seed % 90, seed % ACCOUNTS, seed, seed, seed * 31);
    uint32_t x = seed * 2654435761u + 1;
    while (b.n < bytes) {
        x = x * 1664525u + 1013904223u;
        buf_printf(&b, (x >> 28) == 3 ? "%s%u\r\n" : "%s ", words[(x >> 16) % ARRAY_LEN(words)], x % 1000);
    }
    return arena_str(a, buf_str(&b));
}

static void bench_main(void *arg)
{
    struct bench *b = arg;
    struct err err = ERR_INIT;
    ARENA(a, (size_t)4 << 30);
    char folder[100];
    unsigned applied;
    b->db = testdb_open(b->kind, "bench", 8, &a);
    snprintf(folder, sizeof folder, "/tmp/thurn-bench-%d", (int)getpid());
    struct store_opts o = {.shards = &b->db, .n_shards = 1, .blobs = {.folder = str_c(folder)}};
    struct store *s = NULL;
    if (!store_migrate(b->db, false, &applied, &err) || !(s = store_new(&o, &err)))
        panic("%s", err.msg);
    b->service = store_service(s);
    b->bodies = arena_array(&a, str, b->n + ACCOUNTS);
    for (unsigned i = 0; i < b->n + ACCOUNTS; i++)
        b->bodies[i] = make_body(&a, i, b->bytes);
    unsigned n = b->n;
    b->n = ACCOUNTS;
    run(b, deliver_main); /* makes the accounts */
    b->bodies += ACCOUNTS;
    if (getenv("BENCH_PAUSE")) {
        fprintf(stderr, "GO %d\n", (int)getpid());
        sleep(1);
    }
    b->n = n;
    struct mark m = mark(b);
    run(b, deliver_main);
    report(b, "deliver", &m, n);
    static const struct {
        const char *what;
        fiber_fn fn;
        unsigned n;
    } reads[] = {{"FETCH flags, a mailbox", fetch_flags_main, ACCOUNTS * 4},
                 {"FETCH one body", fetch_one_main, ACCOUNTS * 10},
                 {"STORE one flag", store_main, ACCOUNTS * 8}};
    for (size_t i = 0; i < ARRAY_LEN(reads); i++) {
        m = mark(b);
        run(b, reads[i].fn);
        report(b, reads[i].what, &m, reads[i].n);
    }
    static const struct {
        const char *what;
        fiber_fn fn;
    } rows[] = {{"FETCH flags, per message", fetch_flags_main},
                {"FETCH parsed, per message", fetch_parsed_main},
                {"FETCH bodies, per message", fetch_raw_main}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        n_messages = 0;
        m = mark(b);
        run(b, rows[i].fn);
        report(b, rows[i].what, &m, (unsigned)n_messages);
    }
    store_free(s);
    sql_close(b->db);
    testdb_drop(b->kind, "bench");
    char cmd[150];
    snprintf(cmd, sizeof cmd, "rm -rf %s", folder);
    if (system(cmd) != 0)
        panic("cannot remove %s", folder);
}

int main(int argc, char **argv)
{
    struct bench b = {.n = 20000, .at_once = 64, .bytes = 5000};
    unsigned *const args[] = {&b.n, &b.at_once, &b.bytes};
    for (int i = 1; i < argc && i <= 3; i++)
        if (!num_u32(str_c(argv[i]), 10000000, args[i - 1]))
            panic("usage: bench_store [deliveries] [at once] [bytes]");
    const char *only = getenv("BENCH_DB");
    for (b.kind = TESTDB_SQLITE; b.kind < TESTDB_KINDS; b.kind++)
        if (testdb_have(b.kind) && (!only || !strcmp(only, testdb_kind_name(b.kind))) && !fiber_main(bench_main, &b))
            return 1;
    return 0;
}
