#include "data/redis.h"

#include "unit/test.h"

#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "auth-service/limits.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/log.h"
#include "unit/redis_peer.h"

static struct redis_peer peer;
static struct redis *r;
static struct arena a;

static void wait_up(bool is_up)
{
    struct err err = ERR_INIT;
    for (int i = 0; i < 10000 && redis_is_up(r) != is_up; i++)
        assert_true(fiber_sleep_ms(1, &err));
    assert_int_equal(redis_is_up(r), is_up);
}

static bool command(struct redis_value *out, struct err *err, const char *text)
{
    str words[16], rest = str_c(text), one;
    size_t n = 0;
    err_clear(err);
    while (str_split(&rest, ' ', &one))
        words[n++] = one;
    return redis_command(r, words, n, &a, out, err);
}

static void commands(void *arg)
{
    (void)arg;
    struct redis_value v;
    struct err err = ERR_INIT;
    assert_true(command(&v, &err, "SET k value"));
    assert_true(command(&v, &err, "GET k"));
    assert_true(v.type == REDIS_STR && str_eq(v.s, S("value")));
    assert_true(command(&v, &err, "GET none"));
    assert_int_equal(v.type, REDIS_NIL);
    assert_true(command(&v, &err, "INCRBY n 41") && command(&v, &err, "INCR n"));
    assert_true(v.type == REDIS_INT && v.i == 42);
    assert_true(command(&v, &err, "RPUSH l a bb"));
    assert_true(command(&v, &err, "LRANGE l 0 -1"));
    assert_true(v.type == REDIS_ARRAY && v.n_items == 2 && str_eq(v.items[1].s, S("bb")));
    assert_false(command(&v, &err, "INCR k"));
    assert_int_equal(err.kind, ERR_INTERNAL);
    assert_false(command(&v, &err, "NOTHING"));
    str binary[3] = {S("SET"), S("b"), S("a\0\r\nb")};
    err_clear(&err);
    assert_true(redis_command(r, binary, 3, &a, &v, &err));
    assert_true(command(&v, &err, "GET b") && str_eq(v.s, S("a\0\r\nb")));
}

static void scripts(void *arg)
{
    (void)arg;
    static const char script[] = "return {KEYS[1], ARGV[1], ARGV[2]}";
    struct redis_value v;
    struct err err = ERR_INIT;
    str words[3] = {S("key"), S("one"), S("two")};
    for (int i = 0; i < 3; i++) {
        assert_true(redis_script(r, script, words, 1, 3, &a, &v, &err));
        assert_true(v.n_items == 3 && str_eq(v.items[0].s, S("key")) && str_eq(v.items[2].s, S("two")));
        if (i == 1)
            assert_true(command(&v, &err, "SCRIPT FLUSH"));
    }
}

static void one_of_many(void *arg)
{
    struct redis_value v;
    struct err err = ERR_INIT;
    char text[64];
    ARENA(mine, 1 << 16);
    (void)snprintf(text, sizeof(text), "%d", (int)(intptr_t)arg);
    str words[2] = {S("ECHO"), str_c(text)};
    assert_true(redis_command(r, words, 2, &mine, &v, &err));
    assert_true(str_eq(v.s, str_c(text)));
}
static void pipeline(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    FIBER_GROUP(g, 500);
    for (int i = 0; i < 500; i++)
        assert_true(fiber_group_spawn(&g, "test", one_of_many, (void *)(intptr_t)i, &err));
    assert_true(fiber_group_wait(&g, &err));
}

static unsigned messages, gaps;
static void on_message(void *arg, str channel, str payload)
{
    (void)arg;
    assert_true(str_eq(channel, S("news")) && str_eq(payload, S("text")));
    messages++;
}
static void on_gap(void *arg)
{
    (void)arg;
    gaps++;
}
static void wait_messages(unsigned n)
{
    struct err err = ERR_INIT;
    for (int i = 0; i < 5000 && messages < n; i++) {
        redis_publish(r, S("news"), S("text")); /* until the subscription stands */
        redis_publish(r, S("other"), S("no"));
        assert_true(fiber_sleep_ms(2, &err));
    }
    assert_true(messages >= n);
}

static void publish_subscribe(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    messages = gaps = 0;
    redis_on_message(r, on_message, on_gap, &peer);
    assert_true(redis_subscribe(r, S("news"), &err));
    assert_true(redis_subscribe(r, S("news"), &err));
    wait_messages(1);
    assert_int_equal(gaps, 1);
    redis_peer_kill(&peer);
    wait_up(false);
    redis_peer_start(&peer);
    wait_up(true);
    wait_messages(messages + 1);
    assert_int_equal(gaps, 2);
    redis_unsubscribe(r, S("news"));
    redis_on_message(r, NULL, NULL, &peer);
}

/* Gone: an error at once. Hanging: an error after the time-out, and then at once. Back: it works by itself. */
static void outages(void *arg)
{
    (void)arg;
    struct redis_value v;
    struct err err = ERR_INIT;
    redis_peer_kill(&peer);
    wait_up(false);
    int64_t start = clock_mono_ms();
    assert_false(command(&v, &err, "PING"));
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
    assert_true(clock_mono_ms() - start < 50);
    redis_peer_start(&peer);
    wait_up(true);
    assert_true(command(&v, &err, "PING"));
    kill(peer.pid, SIGSTOP);
    start = clock_mono_ms();
    assert_false(command(&v, &err, "PING"));
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
    assert_true(clock_mono_ms() - start >= 190);
    assert_false(redis_is_up(r));
    kill(peer.pid, SIGCONT);
    wait_up(true);
    {
        FIBER_DEADLINE(0);
        assert_false(command(&v, &err, "PING")); /* the caller's own haste breaks nothing */
        assert_int_equal(err.kind, ERR_TIMEOUT);
    }
    assert_true(redis_is_up(r));
    assert_true(command(&v, &err, "PING"));
}

static bool take(struct limits *l, const char *key, uint32_t cost, struct limit_verdict *v)
{
    struct err err = ERR_INIT;
    const struct limits_take takes[2] = {{"fast", str_c(key), cost}, {"slow", S("all"), 1}};
    assert_true(limits_take(l, takes, 2, v, &err));
    return v->is_granted;
}
static bool lease(struct limits *l, const char *holder, uint32_t count, bool is_renewal)
{
    struct err err = ERR_INIT;
    const struct limits_lease items[2] = {{"seats", S("x"), count}, {"unknown", S("x"), 1000}};
    protobuf_c_boolean granted[2];
    assert_true(limits_lease(l, str_c(holder), items, 2, is_renewal, &a, granted, &err));
    assert_true(granted[1]);
    return granted[0];
}

/* Two processes' limits are one; without Redis each goes on alone. */
static void shared_limits(void *arg)
{
    (void)arg;
    static const struct auth_limit table[] = {{"fast", 1, 100, 3}, {"slow", 1, 3600000, 6}, {"seats", 0, 0, 3}};
    struct limits *one = limits_new(r, table, ARRAY_LEN(table), 300),
                  *two = limits_new(r, table, ARRAY_LEN(table), 300);
    struct limit_verdict v;
    struct err err = ERR_INIT;
    struct redis_value ignored;
    assert_true(command(&ignored, &err, "FLUSHALL"));
    assert_true(take(one, "k", 1, &v) && take(two, "k", 1, &v) && take(one, "k", 1, &v));
    assert_int_equal(v.used[0], 2);
    assert_int_equal(v.used[1], 2);
    assert_false(take(two, "k", 1, &v));
    assert_true(v.refused == 0 && v.retry_after_ms > 0 && v.retry_after_ms <= 100);
    assert_true(fiber_sleep_ms((int64_t)v.retry_after_ms + 1, &err));
    assert_true(take(two, "k", 1, &v));
    /* a refusal took nothing: 6 of "slow" by now */
    assert_true(take(one, "other", 1, &v) && take(one, "third", 1, &v));
    assert_false(take(one, "fourth", 1, &v));
    assert_int_equal(v.refused, 1);
    limits_give(two, "slow", S("all"), 1); /* what was not used after all */
    assert_true(take(one, "fourth", 1, &v));
    assert_false(take(one, "fifth", 1, &v));
    limits_give(two, "slow", S("nobody's"), 5);
    assert_false(take(one, "fifth", 1, &v));
    limits_reset(one, "slow", S("all"));
    assert_true(take(two, "fourth", 1, &v));

    assert_true(lease(one, "p1", 2, false) && lease(two, "p2", 1, false));
    assert_false(lease(two, "p2", 2, false));
    assert_true(lease(one, "p1", 1, false) && lease(two, "p2", 2, false));
    assert_false(lease(two, "p3", 1, false));
    assert_true(lease(two, "p3", 1, true));
    /* all but p3's one is free at once */
    assert_true(limits_release(one, S("p2"), &err) && limits_release(one, S("p1"), &err));
    assert_true(lease(one, "p5", 2, false));
    assert_false(lease(two, "p6", 1, false));
    assert_true(fiber_sleep_ms(310, &err)); /* until the leases ran out: a time on Redis' clock */
    assert_true(lease(two, "p4", 3, false));

    redis_peer_kill(&peer);
    wait_up(false);
    for (int i = 0; i < 3; i++)
        assert_true(take(one, "k", 1, &v));
    assert_false(take(one, "k", 1, &v));
    assert_true(lease(one, "p1", 3, false));
    assert_false(lease(one, "p2", 1, false));
    assert_true(metric_get(M_AUTH_FALLBACK, NULL) >= 6);
    redis_peer_start(&peer);
    wait_up(true);
    assert_true(take(one, "k", 3, &v));
    limits_free(one);
    limits_free(two);
}

/* Redis' clock was set back by an hour: what was written before refuses nobody until it has caught up. */
static void clock_set_back(void *arg)
{
    (void)arg;
    static const char future[] = "local now = redis.call('TIME')[1] + 3600 redis.call('SET', KEYS[1], now .. '000000') "
                                 "redis.call('HSET', KEYS[2], 'p1', '3:' .. now .. '000') return 1";
    static const struct auth_limit table[] = {{"fast", 1, 60000, 3}, {"seats", 0, 0, 3}};
    struct limits *l = limits_new(r, table, ARRAY_LEN(table), 30000);
    struct limit_verdict v;
    struct err err = ERR_INIT;
    struct redis_value value;
    str keys[] = {S("take:fast:k"), S("lease:seats:x")};
    assert_true(command(&value, &err, "FLUSHALL"));
    assert_true(redis_script(r, future, keys, 2, 2, &a, &value, &err));
    assert_true(take(l, "k", 1, &v) && take(l, "k", 1, &v) && take(l, "k", 1, &v));
    assert_false(take(l, "k", 1, &v)); /* it counts anew */
    assert_true(lease(l, "p2", 3, false));
    assert_false(lease(l, "p3", 1, false));
    limits_free(l);
}

/* A user and a password with all that an address would take for itself. */
static void credentials(void *arg)
{
    (void)arg;
    struct redis_value v;
    struct err err = ERR_INIT;
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(in);
    char text[128];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); /* a port that is free */
    assert_int_equal(bind(fd, (struct sockaddr *)&in, len) | getsockname(fd, (struct sockaddr *)&in, &len), 0);
    close(fd);
    (void)snprintf(text, sizeof(text), "CONFIG SET port %d", ntohs(in.sin_port));
    assert_true(command(&v, &err, text));
    assert_true(command(&v, &err, "ACL SETUSER us:er@ on >p@:/%w ~* &* +@all"));
    assert_true(command(&v, &err, "ACL SETUSER default >other"));
    (void)snprintf(text, sizeof(text), "redis://us%%3aer%%40:p%%40%%3A%%2F%%25w@127.0.0.1:%d/3", ntohs(in.sin_port));
    struct redis *anonymous = r;
    r = redis_new(&(struct redis_opts){.url = str_c(text)}, &err);
    assert_non_null(r);
    wait_up(true);
    assert_true(command(&v, &err, "ACL WHOAMI") && str_eq(v.s, S("us:er@")));
    redis_free(r);
    r = anonymous;
    assert_true(command(&v, &err, "ACL SETUSER default nopass") && command(&v, &err, "CONFIG SET port 0"));
}

static void addresses(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",      "http://x",      "redis://",       "redis://h:0",      "redis://h:70000",  "redis://h/x",
        "unix:", "redis://:a%@h", "redis://:a%4@h", "redis://u%zz:a@h", "redis://:a%00b@h", "rediss://h"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err err = ERR_INIT;
        assert_null(redis_new(&(struct redis_opts){.url = str_c(bad[i])}, &err));
        assert_int_equal(err.kind, ERR_INVALID);
    }
}

static void run_case(void *fn)
{
    struct err err = ERR_INIT;
    arena_init(&a, 1 << 24);
    r = redis_new(&(struct redis_opts){.url = str_c(peer.url), .timeout_ms = 2000}, &err);
    assert_non_null(r);
    wait_up(true);
    ((fiber_fn)fn)(NULL);
    redis_free(r);
    arena_done(&a);
}

#define CASE(name)                                                                                                     \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        assert_true(fiber_main(run_case, (void *)name));                                                               \
    }
CASE(commands)
CASE(scripts)
CASE(pipeline)
CASE(publish_subscribe)
CASE(outages)
CASE(shared_limits)
CASE(clock_set_back)
CASE(credentials)

int main(void)
{
    log_configure(LOG_ERROR, LOG_LOGFMT);
    if (!redis_peer_make(&peer))
        return 0;
    redis_peer_start(&peer);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses),
        cmocka_unit_test(test_commands),
        cmocka_unit_test(test_scripts),
        cmocka_unit_test(test_pipeline),
        cmocka_unit_test(test_publish_subscribe),
        cmocka_unit_test(test_outages),
        cmocka_unit_test(test_shared_limits),
        cmocka_unit_test(test_clock_set_back),
        cmocka_unit_test(test_credentials),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    redis_peer_done(&peer);
    return failed;
}
