/* What only PostgreSQL's driver has to care for: lost connections, deadlocks, the pool. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "data/sql.h"
#include "unit/testdb.h"

/* --- a proxy between us and the server that can break connections at a chosen moment --- */

enum { PROXY_CONNS = 32 };
static struct {
    int listener, port;
    pthread_t thread;
    int client[PROXY_CONNS], server[PROXY_CONNS], n;
    bool is_mute[PROXY_CONNS]; /* nothing gets through any more, and nobody is told */
    _Atomic bool mute_all;     /* of now */
    _Atomic bool is_ending, kill_all, is_refusing;
    _Atomic int drop_at_commit, swallow_commit; /* cut before (after) a COMMIT passes, that many times */
    _Atomic int n_accepted;
    char socket_dir[100];
} proxy;

static void proxy_cut(int i)
{
    close(proxy.client[i]);
    close(proxy.server[i]);
    proxy.n--;
    proxy.client[i] = proxy.client[proxy.n];
    proxy.server[i] = proxy.server[proxy.n];
    proxy.is_mute[i] = proxy.is_mute[proxy.n];
}

static void proxy_accept(void)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    snprintf(un.sun_path, sizeof un.sun_path, "%s/.s.PGSQL.5432", proxy.socket_dir);
    int c = accept(proxy.listener, NULL, NULL), s = socket(AF_UNIX, SOCK_STREAM, 0);
    proxy.n_accepted++;
    if (c < 0 || s < 0 || proxy.is_refusing || connect(s, (struct sockaddr *)&un, sizeof un) != 0 ||
        proxy.n == PROXY_CONNS) {
        close(c);
        close(s);
        return;
    }
    proxy.is_mute[proxy.n] = false;
    proxy.client[proxy.n] = c;
    proxy.server[proxy.n++] = s;
}

static bool proxy_move(int from, int to, bool *is_commit)
{
    static char b[65536]; /* one proxy thread */
    ssize_t n = read(from, b, sizeof b);
    if (n <= 0)
        return false;
    /* The Bind of the prepared statement "sql_commit". */
    *is_commit = memmem(b, (size_t)n, "\0sql_commit\0", 12) != NULL;
    if (*is_commit && proxy.drop_at_commit > 0) {
        proxy.drop_at_commit--;
        return false;
    }
    for (ssize_t sent = 0; sent < n;) {
        ssize_t w = write(to, b + sent, (size_t)(n - sent));
        if (w <= 0)
            return false;
        sent += w;
    }
    return true;
}

static void *proxy_main(void *arg)
{
    while (!proxy.is_ending) {
        struct pollfd p[1 + 2 * PROXY_CONNS] = {{.fd = proxy.listener, .events = POLLIN}};
        int n = proxy.n;
        for (int i = 0; i < n; i++) {
            proxy.is_mute[i] |= proxy.mute_all;
            p[1 + 2 * i] = (struct pollfd){.fd = proxy.is_mute[i] ? -1 : proxy.client[i], .events = POLLIN};
            p[2 + 2 * i] = (struct pollfd){.fd = proxy.is_mute[i] ? -1 : proxy.server[i], .events = POLLIN};
        }
        proxy.mute_all = false;
        poll(p, (nfds_t)(1 + 2 * n), 5);
        if (proxy.kill_all) {
            while (proxy.n)
                proxy_cut(0);
            proxy.kill_all = false;
            continue;
        }
        for (int i = n - 1; i >= 0; i--) {
            bool is_commit = false, ok = true;
            if (p[1 + 2 * i].revents)
                ok = proxy_move(proxy.client[i], proxy.server[i], &is_commit);
            if (ok && is_commit && proxy.swallow_commit > 0) {
                proxy.swallow_commit--;
                char b[4096]; /* the answer came, so it is committed; we never pass it on */
                ok = read(proxy.server[i], b, sizeof b) < 0;
            } else if (ok && p[2 + 2 * i].revents) {
                ok = proxy_move(proxy.server[i], proxy.client[i], &is_commit);
            }
            if (!ok)
                proxy_cut(i);
        }
        if (p[0].revents)
            proxy_accept();
    }
    return arg;
}

static void proxy_start(void)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof in;
    assert_int_equal(sscanf(getenv("THURN_TEST_PG"), "host=%99s", proxy.socket_dir), 1);
    proxy.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(proxy.listener, (struct sockaddr *)&in, len), 0);
    assert_int_equal(listen(proxy.listener, 64), 0);
    assert_int_equal(getsockname(proxy.listener, (struct sockaddr *)&in, &len), 0);
    proxy.port = ntohs(in.sin_port);
    pthread_create(&proxy.thread, NULL, proxy_main, NULL);
}

static void proxy_end(void)
{
    proxy.is_ending = true;
    pthread_join(proxy.thread, NULL);
    while (proxy.n)
        proxy_cut(0);
    close(proxy.listener);
}

/* --- the world of a case --- */

static const struct sql_migration steps[] = {
    {1, "t", "", "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL); INSERT INTO t VALUES (1, 0), (2, 0);"}};
// clang-format off
static const struct sql_stmt add = {"add", "ii", "i", "", "UPDATE t SET n = n + $2 WHERE id = $1 RETURNING n", false};
static const struct sql_stmt get = {"get", "i", "i", "", "SELECT n FROM t WHERE id = $1", false};
static const struct sql_stmt nap = {"nap", "i", "i", "", "SELECT 1::bigint FROM (SELECT pg_sleep($1 / 1000.0)) AS s",
                                    false};
// clang-format on

struct world {
    struct sql_db *db;
    struct arena a;
    unsigned pool;
    void (*fn)(struct world *w);
};

static void world_main(void *arg)
{
    struct world *w = arg;
    struct err err = ERR_INIT;
    unsigned n;
    str dsn = testdb_make(TESTDB_PG, "sqlpg", &w->a);
    ptrdiff_t at = str_rfind(dsn, ' ');
    dsn = arena_printf(
        &w->a,
        "host=localhost port=%d user=test%.*s options='-c deadlock_timeout=50ms -c idle_in_transaction_session_timeout=400ms'",
        proxy.port, STR_ARG(str_slice(dsn, (size_t)at, SIZE_MAX)));
    struct sql_opts o = {.name = "pg", .dsn = dsn, .pool = w->pool, .statement_timeout_ms = 300, .max_waiting = 20};
    w->db = sql_open(&o, &err);
    assert_non_null(w->db);
    if (!sql_migrate(w->db, "test", steps, ARRAY_LEN(steps), false, &n, &err))
        fail_msg("%s", err.msg);
    w->fn(w);
    sql_close(w->db);
    testdb_drop(TESTDB_PG, "sqlpg");
}

static void run(void (*fn)(struct world *w), unsigned pool)
{
    struct world w = {.fn = fn, .pool = pool};
    arena_init(&w.a, 1 << 24);
    assert_true(fiber_main(world_main, &w));
    arena_done(&w.a);
}

static int64_t value(struct world *w, int64_t id)
{
    struct err err = ERR_INIT;
    struct sql_result r;
    struct sql_value key = sql_i(id);
    if (!sql_query(w->db, &get, &key, &w->a, &r, &err))
        fail_msg("%s", err.msg);
    return sql_at(&r, 0, 0)->i;
}

struct adding {
    struct world *w;
    int64_t first, second;
    int nap_ms, n_runs, pause_ms;
    int *n_met; /* between its two rows it waits until two have their first */
    bool ok;
    struct err err;
};

FIBER static bool meet(const struct adding *ad, struct err *err)
{
    if (ad->n_met && ad->n_runs == 1)
        ++*ad->n_met;
    while (ad->n_met && *ad->n_met < 2)
        if (!fiber_yield(err))
            return false;
    return true;
}

FIBER static bool add_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct adding *ad = arg;
    ad->n_runs++;
    const struct sql_value one[] = {sql_i(ad->first), sql_i(1)}, two[] = {sql_i(ad->second), sql_i(1)};
    const struct sql_value ms[] = {sql_i(ad->nap_ms)};
    if (ad->pause_ms && ad->n_runs == 1)
        return sql_exec(tx, &add, one, 1, NULL, err) && fiber_sleep_ms(ad->pause_ms, err) &&
               sql_exec(tx, &get, one, 1, NULL, err);
    return sql_exec(tx, &add, one, 1, NULL, err) && meet(ad, err) &&
           (!ad->nap_ms || sql_exec(tx, &nap, ms, 1, NULL, err)) &&
           (!ad->second || sql_exec(tx, &add, two, 1, NULL, err));
}

static void adding_main(void *arg)
{
    struct adding *ad = arg;
    ad->ok = sql_write(ad->w->db, add_body, ad, &ad->err);
}

static void lost_idle_case(struct world *w)
{
    struct err err = ERR_INIT;
    struct adding ad = {.w = w, .first = 1};
    for (int i = 1; i <= 3; i++) {
        assert_true(sql_write(w->db, add_body, &ad, &err));
        proxy.kill_all = true;
        while (proxy.kill_all)
            assert_true(fiber_sleep_ms(1, &err));
        assert_int_equal(value(w, 1), i);
    }
}

static void lost_before_commit_case(struct world *w)
{
    struct err err = ERR_INIT;
    struct adding ad = {.w = w, .first = 1, .nap_ms = 1};
    proxy.drop_at_commit = 1;
    /* The COMMIT was sent as far as we know: the answer is "unknown", and the row tells that it was not. */
    assert_false(sql_write(w->db, add_body, &ad, &err));
    assert_int_equal(err.kind, ERR_TIMEOUT);
    assert_int_equal(ad.n_runs, 1);
    assert_int_equal(value(w, 1), 0);
}

static void lost_after_commit_case(struct world *w)
{
    struct err err = ERR_INIT;
    struct adding ad = {.w = w, .first = 1, .nap_ms = 1};
    proxy.swallow_commit = 1;
    assert_false(sql_write(w->db, add_body, &ad, &err));
    assert_int_equal(err.kind, ERR_TIMEOUT);
    assert_int_equal(ad.n_runs, 1);
    assert_int_equal(value(w, 1), 1);
}

/* Two bodies that lock the same rows in the opposite order: one is chosen and run again. */
static void deadlock_case(struct world *w)
{
    struct err err = ERR_INIT;
    int n_met = 0;
    struct adding ad[2] = {{.w = w, .first = 1, .second = 2, .n_met = &n_met},
                           {.w = w, .first = 2, .second = 1, .n_met = &n_met}};
    FIBER_GROUP(g, 2);
    for (int i = 0; i < 2; i++)
        assert_true(fiber_group_spawn(&g, "adding", adding_main, &ad[i], &err));
    assert_true(fiber_group_wait(&g, &err));
    assert_true(ad[0].ok && ad[1].ok);
    assert_in_range(ad[0].n_runs + ad[1].n_runs, 3, 4);
    assert_int_equal(value(w, 1), 2);
    assert_int_equal(value(w, 2), 2);
}

/* A long body lets others run, but not for ever: the server ends a transaction that idles. Results of a piece are in
 * the memory of the piece. */
struct breathing {
    bool is_over;
    unsigned n_turns;
};
static void count_turns(void *arg)
{
    struct breathing *b = arg;
    struct err err = ERR_INIT;
    while (!b->is_over && fiber_yield(&err))
        b->n_turns++;
}

static uint64_t real_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

FIBER static bool has_breathed(struct sql_tx *tx, struct breathing *b, bool *out, struct err *err)
{
    unsigned before = b->n_turns;
    for (uint64_t began = real_ns(); real_ns() - began < 2 * FIBER_SLICE_MS * UINT64_C(1000000);)
        ;
    if (!sql_breathe(tx, err))
        return false;
    *out = b->n_turns > before;
    return true;
}

FIBER static bool breathe_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct sql_value one[] = {sql_i(1), sql_i(1)};
    struct sql_result r;
    struct arena *outer = sql_arena(tx);
    bool is_first, is_late, is_again;
    if (!sql_exec(tx, &add, one, 1, NULL, err) || !has_breathed(tx, arg, &is_first, err))
        return false;
    clock_freeze(clock_unix_ms(), clock_mono_ms() + SQL_BREATH_MS);
    bool ok = has_breathed(tx, arg, &is_late, err);
    clock_real();
    if (!ok)
        return false;
    {
        SQL_PIECE(piece, tx);
        assert_true(sql_arena(tx) != outer);
        if (!sql_exec(tx, &get, one, 1, &r, err))
            return false;
        assert_true(arena_owns(&piece.arena, r.values));
    }
    assert_ptr_equal(sql_arena(tx), outer);
    assert_true(is_first && !is_late);
    return has_breathed(tx, arg, &is_again, err) && (is_again || err_set(err, ERR_INTERNAL, "nobody else ran"));
}

static void breathe_case(struct world *w)
{
    struct err err = ERR_INIT;
    struct breathing b = {.is_over = false};
    FIBER_GROUP(g, 1);
    assert_true(fiber_group_spawn(&g, "turns", count_turns, &b, &err));
    if (!sql_write(w->db, breathe_body, &b, &err))
        fail_msg("%s", err.msg);
    b.is_over = true;
    assert_true(fiber_group_wait(&g, &err));
    assert_int_equal(value(w, 1), 1);
}

static void timeout_case(struct world *w)
{
    struct err err = ERR_INIT;
    struct adding ad = {.w = w, .first = 1, .nap_ms = 5000};
    assert_false(sql_write(w->db, add_body, &ad, &err));
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
    assert_int_equal(value(w, 1), 0);
}

/* More callers than connections: they queue, those over the limit are refused, and a deadline ends a wait. */
static void pool_case(struct world *w)
{
    enum { N = 30 };
    static struct adding ad[N];
    struct err err = ERR_INIT;
    FIBER_GROUP(g, N);
    for (int i = 0; i < N; i++) {
        ad[i] = (struct adding){.w = w, .first = 1 + i % 2, .nap_ms = 5};
        assert_true(fiber_group_spawn(&g, "adding", adding_main, &ad[i], &err));
    }
    assert_true(fiber_sleep_ms(1, &err));
    assert_int_equal(metric_get(M_SQL_WAITING, "pg"), 20);
    assert_true(fiber_group_wait(&g, &err));
    assert_int_equal(metric_get(M_SQL_WAITING, "pg"), 0);
    assert_int_equal(metric_get(M_SQL_CONNECTIONS_USED, "pg"), 0);
    int n_ok = 0;
    for (int i = 0; i < N; i++) {
        n_ok += ad[i].ok;
        assert_true(ad[i].ok || ad[i].err.kind == ERR_BUSY);
    }
    assert_int_equal(n_ok, 22); /* 2 connections and 20 that may wait */
    assert_int_equal(value(w, 1) + value(w, 2), n_ok);

    struct adding slow[2] = {{.w = w, .first = 1, .nap_ms = 200}, {.w = w, .first = 2, .nap_ms = 200}};
    for (int i = 0; i < 2; i++)
        assert_true(fiber_group_spawn(&g, "slow", adding_main, &slow[i], &err));
    assert_true(fiber_yield(&err));
    {
        FIBER_DEADLINE(20);
        struct adding late = {.w = w, .first = 1};
        assert_false(sql_write(w->db, add_body, &late, &err));
        assert_int_equal(err.kind, ERR_UNAVAILABLE);
        assert_int_equal(late.n_runs, 0);
        err_clear(&err);
    }
    assert_true(fiber_group_wait(&g, &err));
}

/* Nothing listens: fails at once, does not hammer the address, and comes back by itself. */
static void away_case(struct world *w)
{
    struct err err = ERR_INIT;
    int64_t began = clock_mono_ms();
    struct sql_opts o = {.name = "away", .dsn = S("host=/nonexistent port=1 user=u dbname=d")};
    struct sql_db *away = sql_open(&o, &err);
    assert_non_null(away);
    for (int i = 0; i < 1000; i++) {
        assert_false(sql_ping(away, &err));
        assert_int_equal(err.kind, ERR_UNAVAILABLE);
        err_clear(&err);
    }
    sql_close(away);
    assert_true(clock_mono_ms() - began < 5000);
    assert_true(sql_ping(w->db, &err));
}

struct pinging {
    struct world *w;
    bool is_ending;
    unsigned n_failed;
    int64_t longest_ms;
};

/* Ask again and again, without a deadline, as long as nothing answers. */
static void pinging_main(void *arg)
{
    struct pinging *p = arg;
    struct err err = ERR_INIT, slept = ERR_INIT;
    for (bool ok = false; !ok || !p->is_ending; p->n_failed += !ok) {
        int64_t began = clock_mono_ms();
        err_clear(&err);
        ok = sql_ping(p->w->db, &err);
        p->longest_ms = MAX(p->longest_ms, clock_mono_ms() - began);
        assert_true(ok || err.kind == ERR_UNAVAILABLE);
        assert_true(fiber_sleep_ms(1, &slept));
    }
}

/* A server that is away for two seconds: nobody hangs meanwhile, one attempt at a time goes out, and it is used again
 * at once when it is back. */
static void restart_case(struct world *w)
{
    enum { CALLERS = 12 };
    struct err err = ERR_INIT;
    struct pinging p = {.w = w};
    proxy.is_refusing = proxy.kill_all = true;
    while (proxy.kill_all)
        assert_true(fiber_sleep_ms(1, &err));
    int accepted = proxy.n_accepted;
    FIBER_GROUP(g, CALLERS);
    for (int i = 0; i < CALLERS; i++)
        assert_true(fiber_group_spawn(&g, "pinging", pinging_main, &p, &err));
    assert_true(fiber_sleep_ms(2000, &err));
    assert_in_range(proxy.n_accepted - accepted, 4, 30);
    assert_true(p.n_failed > CALLERS);
    proxy.is_refusing = false;
    p.is_ending = true;
    int64_t back_ms = clock_mono_ms();
    assert_true(fiber_group_wait(&g, &err));
    assert_in_range(clock_mono_ms() - back_ms, 0, 1500);
    assert_in_range(p.longest_ms, 0, 1000);
}

/* Several hosts: one that refuses, one that takes the connection and says nothing, and the server. The good one is
 * found within the others' shares of the time, and is tried first from then on. Without connect_timeout, and with it.
 */
static void hosts_case(struct world *w)
{
    struct err err = ERR_INIT;
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof in;
    int silent = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
        refusing = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(silent, (struct sockaddr *)&in, len), 0);
    assert_int_equal(listen(silent, 64), 0);
    assert_int_equal(getsockname(silent, (struct sockaddr *)&in, &len), 0);
    int silent_port = ntohs(in.sin_port);
    in.sin_port = 0;
    /* bound, so that nobody else takes it; nobody listens */
    assert_int_equal(bind(refusing, (struct sockaddr *)&in, len), 0);
    assert_int_equal(getsockname(refusing, (struct sockaddr *)&in, &len), 0);
    int refusing_port = ntohs(in.sin_port);
    static const char *const extras[] = {"", " connect_timeout=1", " target_session_attrs=read-write",
                                         " target_session_attrs=prefer-standby"};
    for (size_t i = 0; i < ARRAY_LEN(extras); i++) {
        str dsn = arena_printf(&w->a, "host=127.0.0.1,localhost,127.0.0.1 port=%d,%d,%d user=test dbname=postgres%s",
                               refusing_port, silent_port, proxy.port, extras[i]);
        struct sql_opts o = {.name = "hosts", .dsn = dsn, .pool = 1};
        struct sql_db *db = sql_open(&o, &err);
        assert_non_null(db);
        int64_t began = clock_mono_ms();
        {
            FIBER_DEADLINE(12000);
            if (!sql_ping(db, &err))
                fail_msg("%s: %s", extras[i], err.msg);
        }
        assert_in_range(clock_mono_ms() - began, 900, 9000);
        /* The connection is lost: the next is made to where the last one was. */
        proxy.kill_all = true;
        while (proxy.kill_all)
            assert_true(fiber_sleep_ms(1, &err));
        began = clock_mono_ms();
        if (!sql_ping(db, &err))
            fail_msg("%s", err.msg);
        if (!strstr(extras[i], "standby")) /* its first walk looks for a standby again */
            assert_in_range(clock_mono_ms() - began, 0, 900);
        sql_close(db);
    }
    /* All of them dead: the error says why, and it does not take for ever. */
    str dsn = arena_printf(&w->a, "host=127.0.0.1,127.0.0.1 port=%d,%d user=test dbname=postgres", refusing_port,
                           refusing_port);
    struct sql_opts o = {.name = "hosts", .dsn = dsn, .pool = 1};
    struct sql_db *db = sql_open(&o, &err);
    assert_false(sql_ping(db, &err));
    assert_true(err.kind == ERR_UNAVAILABLE && str_find_str(str_c(err.msg), S("refused")) >= 0);
    sql_close(db);
    close(silent);
    close(refusing);
}

/* A process that was paused in the middle of a transaction keeps nobody from its rows for long, and its work is done
 * again. */
static void paused_case(struct world *w)
{
    struct err err = ERR_INIT;
    struct adding ad = {.w = w, .first = 1, .pause_ms = 700};
    assert_true(sql_write(w->db, add_body, &ad, &err));
    assert_int_equal(ad.n_runs, 2);
    assert_int_equal(value(w, 1), 1);
}

struct holding {
    struct world *w;
    bool is_held, may_go;
};

/* Keeps its connection until it may go, and then needs it. */
FIBER static bool hold_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct holding *h = arg;
    struct sql_result r;
    struct sql_value key = sql_i(1);
    if (!sql_exec(tx, &get, &key, 1, &r, err))
        return false;
    h->is_held = true;
    while (!h->may_go)
        if (!fiber_sleep_ms(1, err))
            return false;
    return sql_exec(tx, &get, &key, 1, &r, err);
}

FIBER static void holding_main(void *arg)
{
    struct holding *h = arg;
    struct err err = ERR_INIT;
    assert_false(sql_read(h->w->db, hold_body, h, &err));
}

FIBER static void one_ping_main(void *arg)
{
    struct pinging *p = arg;
    struct err err = ERR_INIT;
    p->n_failed += !sql_ping(p->w->db, &err);
}

/* The server dies while all connections are in use and others wait, without a deadline, for one: nobody is forgotten.
 */
static void stranded_case(struct world *w)
{
    enum { CALLERS = 10 };
    struct err err = ERR_INIT;
    struct holding h[2] = {{.w = w}, {.w = w}};
    struct pinging p = {.w = w};
    FIBER_GROUP(g, CALLERS + 2);
    for (int i = 0; i < 2; i++)
        assert_true(fiber_group_spawn(&g, "holding", holding_main, &h[i], &err));
    while (!h[0].is_held || !h[1].is_held)
        assert_true(fiber_sleep_ms(1, &err));
    assert_int_equal(metric_get(M_SQL_CONNECTIONS_USED, "pg"), 2);
    for (int i = 0; i < CALLERS; i++)
        assert_true(fiber_group_spawn(&g, "pinging", one_ping_main, &p, &err));
    assert_true(fiber_yield(&err));
    proxy.is_refusing = proxy.kill_all = true;
    while (proxy.kill_all)
        assert_true(fiber_sleep_ms(1, &err));
    h[0].may_go = true;
    assert_true(fiber_sleep_ms(10, &err)); /* an attempt to connect fails, and no other is made for a moment */
    h[1].may_go = true;
    FIBER_DEADLINE(5000);
    assert_true(fiber_group_wait(&g, &err));
    assert_int_equal(p.n_failed, CALLERS);
    proxy.is_refusing = false;
}

/* The server's host is gone without a word while many connections are idle. The first that is used tells: the others
 * are not tried one by one, each for its whole time. */
FIBER static void reading_main(void *arg)
{
    struct holding *h = arg;
    struct err err = ERR_INIT;
    assert_true(sql_read(h->w->db, hold_body, h, &err));
}
static void vanished_case(struct world *w)
{
    enum { IDLE = 5 };
    struct err err = ERR_INIT;
    struct holding h[IDLE];
    {
        FIBER_GROUP(g, IDLE);
        for (int i = 0; i < IDLE; i++) {
            h[i] = (struct holding){.w = w};
            assert_true(fiber_group_spawn(&g, "reading", reading_main, &h[i], &err));
        }
        for (int i = 0; i < IDLE; i++)
            while (!h[i].is_held)
                assert_true(fiber_sleep_ms(1, &err));
        for (int i = 0; i < IDLE; i++)
            h[i].may_go = true;
        assert_true(fiber_group_wait(&g, &err));
    }
    proxy.mute_all = true;
    while (proxy.mute_all)
        assert_true(fiber_sleep_ms(1, &err));
    if (!sql_ping(w->db, &err))
        fail_msg("%s", err.msg);
}

#define CASE(name, pool)                                                                                               \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        run(name##_case, pool);                                                                                        \
    }
CASE(lost_idle, 4)
CASE(lost_before_commit, 4)
CASE(lost_after_commit, 4)
CASE(deadlock, 4)
CASE(breathe, 4)
CASE(timeout, 4)
CASE(pool, 2)
CASE(away, 4)
CASE(restart, 4)
CASE(stranded, 2)
CASE(hosts, 2)
CASE(paused, 2)
CASE(vanished, 6)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lost_idle),
        cmocka_unit_test(test_lost_before_commit),
        cmocka_unit_test(test_lost_after_commit),
        cmocka_unit_test(test_deadlock),
        cmocka_unit_test(test_timeout),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_away),
        cmocka_unit_test(test_restart),
        cmocka_unit_test(test_breathe),
        cmocka_unit_test(test_stranded),
        cmocka_unit_test(test_hosts),
        cmocka_unit_test(test_paused),
        cmocka_unit_test(test_vanished),
    };
    if (!testdb_have(TESTDB_PG))
        return 0;
    proxy_start();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    proxy_end();
    return failed;
}
