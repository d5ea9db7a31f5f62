#include "net/dns.h"

#include "unit/test.h"

#include "base/clock.h"
#include "base/metrics.h"
#include "fiber/fiber.h"
#include "net/dns_kept.h"
#include "unit/dns_peer.h"

static const struct dns_record records[] = {
    {"example.test", "MX", "20 MX2.example.test"},
    {"example.test", "MX", "10 mx1.example.test"},
    {"example.test", "MX", "20 mx3.example.test"},
    {"example.test", "TXT", "v=spf1 |-all"},
    {"example.test", "TXT", "other"},
    {"null.test", "MX", "0 ."},
    {"odd.test", "MX", "10 a b.test"},
    {"odd.test", "MX", "20 good.test"},
    {"mx1.example.test", "A", "192.0.2.1"},
    {"mx1.example.test", "A", "192.0.2.2"},
    {"mx1.example.test", "AAAA", "2001:db8::1"},
    {"v4.test", "A", "192.0.2.9"},
    {"alias.test", "CNAME", "v4.test"},
    {"alias.test", "A", "192.0.2.9"},
    {"text.test", "TXT", "no address"},
    {"broken.test", "RCODE", "2"},
    {"silent.test", "SILENCE", ""},
    {"short.0.test", "MX", "10 short.mx0.test"},
    {"short.1.test", "MX", "10 short.mx1.test"},
    {"short.mx0.test", "A", "192.0.2.7"},
    {"short.mx1.test", "A", "192.0.2.7"},
    {"1.2.0.192.in-addr.arpa", "PTR", "Host.Example.test"},
    {"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "PTR", "six.example.test"},
    {"_25._tcp.mx1.example.test", "TLSA", "030101abcd"},
};
static struct dns *d;
static struct arena a;
static struct err err;

static void mx(void *arg)
{
    (void)arg;
    struct dns_mx *v;
    size_t n;
    bool is_secure;
    bool seen[2] = {false, false}; /* both orders of equal preferences come up */
    for (int i = 0; i < 200 && !(seen[0] && seen[1]); i++) {
        if (!dns_mx(d, S("Example.TEST"), &a, &v, &n, &is_secure, &err))
            fail_msg("%s", err.msg);
        assert_int_equal(n, 3);
        assert_true(v[0].preference == 10 && str_eq(v[0].name, S("mx1.example.test")));
        assert_int_equal(v[1].preference, 20);
        seen[str_eq(v[1].name, S("mx2.example.test"))] = true;
        assert_false(is_secure);
    }
    assert_true(seen[0] && seen[1]);
    assert_true(dns_mx(d, S("null.test"), &a, &v, &n, &is_secure, &err));
    assert_true(n == 1 && v[0].name.n == 0);
    assert_true(dns_mx(d, S("odd.test"), &a, &v, &n, &is_secure, &err));
    assert_true(n == 1 && str_eq(v[0].name, S("good.test"))); /* a name with a space is none */
    assert_false(dns_mx(d, S("v4.test"), &a, &v, &n, &is_secure, &err));
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    err_clear(&err);
    assert_false(dns_mx(d, S("nothing.test"), &a, &v, &n, &is_secure, &err));
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    err_clear(&err);
    assert_false(dns_mx(d, S("broken.test"), &a, &v, &n, &is_secure, &err));
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
    err_clear(&err);
    assert_false(dns_mx(d, S(""), &a, &v, &n, &is_secure, &err));
    assert_int_equal(err.kind, ERR_INVALID);
}

static void ips(void *arg)
{
    (void)arg;
    struct net_addr *v;
    size_t n;
    bool is_secure;
    char text[NET_ADDR_TEXT_MAX];
    assert_true(dns_ips(d, S("mx1.example.test"), &a, &v, &n, &is_secure, &err));
    assert_int_equal(n, 3);
    assert_true(str_eq(net_ip_format(&v[0], text), S("2001:db8::1")));
    assert_true(dns_ips(d, S("v4.test"), &a, &v, &n, &is_secure, &err));
    assert_true(n == 1 && str_eq(net_ip_format(&v[0], text), S("192.0.2.9")));
    assert_true(dns_ips(d, S("alias.test"), &a, &v, &n, &is_secure, &err));
    assert_int_equal(n, 1);
    static const struct {
        const char *name;
        enum err_kind kind;
    } bad[] = {{"text.test", ERR_NOT_FOUND}, {"nothing.test", ERR_NOT_FOUND}, {"broken.test", ERR_UNAVAILABLE}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(dns_ips(d, str_c(bad[i].name), &a, &v, &n, &is_secure, &err));
        assert_int_equal(err.kind, bad[i].kind);
        err_clear(&err);
    }
}

static void others(void *arg)
{
    (void)arg;
    str *v;
    size_t n;
    bool is_secure;
    struct net_addr ip;
    assert_true(dns_txt(d, S("example.test"), &a, &v, &n, &is_secure, &err));
    assert_int_equal(n, 2);
    assert_true(str_eq(v[0], S("v=spf1 -all")) || str_eq(v[1], S("v=spf1 -all")));
    assert_true(net_ip_parse(S("192.0.2.1"), &ip));
    assert_true(dns_ptr(d, &ip, &a, &v, &n, &err));
    assert_true(n == 1 && str_eq(v[0], S("host.example.test")));
    assert_true(net_ip_parse(S("2001:db8::1"), &ip));
    assert_true(dns_ptr(d, &ip, &a, &v, &n, &err));
    assert_true(str_eq(v[0], S("six.example.test")));
    assert_true(dns_raw(d, S("_25._tcp.mx1.example.test"), 52, &a, &v, &n, &is_secure, &err));
    assert_true(n == 1 && str_eq(v[0], S("\x03\x01\x01\xab\xcd")));
}

static void one_query(void *arg)
{
    struct net_addr *v;
    size_t n;
    bool is_secure;
    struct err mine = ERR_INIT;
    ARENA(scratch, 1 << 16);
    char name[64];
    (void)snprintf(name, sizeof(name), "n%d.test", (int)(intptr_t)arg);
    assert_false(dns_ips(d, str_c(name), &scratch, &v, &n, &is_secure, &mine));
    assert_int_equal(mine.kind, ERR_NOT_FOUND);
}

/* Time-outs, cancellation with the answer outstanding, and many at once; answers are cached. */
static void waits(void *arg)
{
    (void)arg;
    struct dns_mx *v;
    size_t n;
    bool is_secure;
    int64_t start = clock_mono_ms();
    assert_false(dns_mx(d, S("silent.test"), &a, &v, &n, &is_secure, &err));
    assert_int_equal(err.kind, ERR_TIMEOUT);
    assert_true(clock_mono_ms() - start >= 290);
    err_clear(&err);
    FIBER_GROUP(g, 100);
    for (int i = 0; i < 100; i++)
        assert_true(fiber_group_spawn(&g, "test", one_query, (void *)(intptr_t)i, &err));
    assert_true(fiber_group_wait(&g, &err));
    assert_true(dns_mx(d, S("example.test"), &a, &v, &n, &is_secure, &err));
    unsigned before = dns_peer_queries();
    for (int i = 0; i < 10; i++)
        assert_true(dns_mx(d, S("example.test"), &a, &v, &n, &is_secure, &err));
    assert_int_equal(dns_peer_queries(), before);
}

/* RFC 8767: who was known is still known when nobody answers, and at once from the second time on; for a day, and never
 * that something is not there. */
static void stale(void *arg)
{
    (void)arg;
    static const int ways[] = {0, 2}; /* silence, SERVFAIL */
    static const char *const domains[] = {"Short.0.test", "short.1.test"}, *const hosts[] = {"short.mx0.test",
                                                                                             "short.mx1.test"};
    struct dns_mx *v;
    struct net_addr *ips;
    size_t n;
    bool is_secure;
    for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
        str domain = str_c(domains[i]), host = str_c(hosts[i]);
        assert_true(dns_mx(d, domain, &a, &v, &n, &is_secure, &err));
        assert_true(dns_ips(d, host, &a, &ips, &n, &is_secure, &err));
        assert_false(dns_ips(d, S("short.none.test"), &a, &ips, &n, &is_secure, &err));
        err_clear(&err);
        dns_peer_dark(ways[i]);
        int64_t before = metric_get(M_DNS_STALE, NULL);
        assert_true(dns_mx(d, domain, &a, &v, &n, &is_secure, &err));
        assert_true(n == 1 && str_eq(v[0].name, host));
        assert_true(dns_ips(d, host, &a, &ips, &n, &is_secure, &err));
        assert_int_equal(n, 1);
        unsigned asked = dns_peer_queries();
        assert_true(dns_mx(d, domain, &a, &v, &n, &is_secure, &err));
        assert_true(dns_ips(d, host, &a, &ips, &n, &is_secure, &err));
        if (ways[i] == 2) /* what was asked before may still be repeated when there was silence */
            assert_int_equal(dns_peer_queries(), asked);
        assert_int_equal(metric_get(M_DNS_STALE, NULL) - before, 4);
        assert_false(dns_mx(d, S("short.unknown.test"), &a, &v, &n, &is_secure, &err));
        assert_true(err_is_temporary(&err));
        err_clear(&err);
        dns_peer_dark(DNS_PEER_LIT);
    }
    dns_peer_dark(2);
    clock_freeze(clock_unix_ms(), clock_mono_ms() + DNS_KEPT_MS);
    assert_false(dns_mx(d, str_c(domains[1]), &a, &v, &n, &is_secure, &err));
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
    clock_real();
    err_clear(&err);
    dns_peer_dark(DNS_PEER_LIT);
}

/* A caller that had no time has learned nothing of the servers: the next one asks them. */
static void hasty(void *arg)
{
    (void)arg;
    struct dns_mx *v;
    size_t n;
    bool is_secure;
    assert_true(dns_mx(d, S("short.0.test"), &a, &v, &n, &is_secure, &err));
    dns_peer_dark(0);
    {
        FIBER_DEADLINE(10);
        assert_true(dns_mx(d, S("short.0.test"), &a, &v, &n, &is_secure, &err));
    }
    int64_t start = clock_mono_ms();
    assert_true(dns_mx(d, S("short.0.test"), &a, &v, &n, &is_secure, &err));
    assert_true(clock_mono_ms() - start >= 290);
    dns_peer_dark(DNS_PEER_LIT);
}

/* The oldest answers go when there are too many. */
static void kept(void *arg)
{
    (void)arg;
    static struct dns_kept k;
    char name[32];
    dns_kept_init(&k);
    for (unsigned i = 0; i < DNS_KEPT_MAX + 10; i++) {
        (void)snprintf(name, sizeof(name), "n%u.test", i);
        dns_kept_put(&k, name, 15, calloc(1, sizeof(struct ub_result)));
    }
    assert_int_equal(k.n, DNS_KEPT_MAX);
    assert_null(dns_kept_get(&k, "n9.test", 15));
    assert_non_null(dns_kept_get(&k, "N10.test", 15));
    assert_null(dns_kept_get(&k, "n10.test", 1));
    struct ub_result *large = calloc(1, sizeof(*large));
    large->answer_len = (int)DNS_KEPT_BYTES;
    dns_kept_put(&k, "large.test", 15, large);
    assert_int_equal(k.n, 1);
    dns_kept_put(&k, "large.test", 15, calloc(1, sizeof(struct ub_result)));
    assert_true(k.n == 1 && k.bytes < 1000);
    dns_kept_done(&k);
}

static uint16_t port;
static void run_case(void *fn)
{
    char server[32];
    (void)snprintf(server, sizeof(server), "127.0.0.1:%u", port);
    str servers[1] = {str_c(server)};
    err_clear(&err);
    arena_init(&a, 1 << 24);
    d = dns_new(&(struct dns_opts){.servers = servers, .n_servers = 1, .timeout_ms = 300}, &err);
    if (!d)
        fail_msg("%s", err.msg);
    ((fiber_fn)fn)(NULL);
    dns_free(d);
    arena_done(&a);
}

static void bad_options(void *arg)
{
    (void)arg;
    str servers[1] = {S("dns.example")};
    assert_null(dns_new(&(struct dns_opts){.servers = servers, .n_servers = 1}, &err));
    assert_int_equal(err.kind, ERR_INVALID);
    err_clear(&err);
    assert_null(dns_new(&(struct dns_opts){.trust_anchor_file = S("/nowhere/at/all")}, &err));
    assert_int_equal(err.kind, ERR_INVALID);
}

#define CASE(name)                                                                                                     \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        assert_true(fiber_main(run_case, (void *)name));                                                               \
    }
CASE(mx)
CASE(ips)
CASE(others)
CASE(waits)
CASE(stale)
CASE(hasty)
CASE(kept)
CASE(bad_options)

int main(void)
{
    port = dns_peer_start(records, ARRAY_LEN(records));
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mx),     cmocka_unit_test(test_ips),
                                       cmocka_unit_test(test_others), cmocka_unit_test(test_waits),
                                       cmocka_unit_test(test_stale),  cmocka_unit_test(test_hasty),
                                       cmocka_unit_test(test_kept),   cmocka_unit_test(test_bad_options)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
