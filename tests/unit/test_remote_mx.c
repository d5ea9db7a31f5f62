/*
 * Where mail goes: MX look-ups against a DNS server of the test, address checks, and Postfix's smtp-sink as the far
 * end.
 */
#include "base_test.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "dns_thread.h"
#include "fiber/fiber.h"
#include "queue-service/remote/mx.h"
#include "queue-service/remote/remote.h"
#include "needs.h"

// clang-format off
static const struct dns_record records[] = {
    {"two.test", "MX", "20 b.test"},       {"two.test", "MX", "10 a.test"},       {"other.test", "MX", "5 B.test"},
    {"other.test", "MX", "5 a.test"},      {"null.test", "MX", "0 ."},            {"implicit.test", "A", "127.0.0.1"},
    {"nothing.test", "TXT", "x"},          {"broken.test", "FAIL", ""},           {"a.test", "A", "127.0.0.1"},
    {"b.test", "A", "127.0.0.2"},          {"b.test", "AAAA", "::1"},             {"halfnull.test", "MX", "0 ."},
    {"halfnull.test", "MX", "1 a.test"},   {"nohost.test", "MX", "1 missing.test"}, {"private.test", "MX", "1 private-host.test"},
    {"private-host.test", "A", "10.0.0.1"}, {"private-host.test", "AAAA", "fe80::1"}, {"xn--caf-dma.test", "MX", "1 a.test"},
    {"brokenhost.test", "MX", "1 broken.test"}, {"many.test", "A", "127.0.0.1"}, {"many.test", "A", "127.0.0.2"},
    {"many.test", "AAAA", "::1"},          {"many.test", "AAAA", "fd00::1"},      {"many.test", "A", "127.0.0.3"},
};
// clang-format on
static struct dns_thread server;

static struct dns *new_dns(void)
{
    struct err err = ERR_INIT;
    char address[32];
    (void)snprintf(address, sizeof(address), "127.0.0.1:%u", server.port);
    str servers[] = {str_c(address)};
    struct dns *d = dns_new(&(struct dns_opts){.servers = servers, .n_servers = 1, .timeout_ms = 10000}, &err);
    assert_ok(d, &err);
    return d;
}

/* --- sites --- */

static void sites_main(void *arg)
{
    (void)arg;
    static const struct {
        const char *domain;
        enum err_kind kind;
        const char *key, *first;
    } cases[] = {
        {"two.test", ERR_NONE, "a.test,b.test", "a.test"},
        {"TWO.test", ERR_NONE, "a.test,b.test", "a.test"},
        {"other.test", ERR_NONE, "a.test,b.test", NULL}, /* the same site, whatever the order */
        {"implicit.test", ERR_NONE, "implicit.test", "implicit.test"},
        {"halfnull.test", ERR_NONE, "a.test", "a.test"},
        {"caf\xc3\xa9.test", ERR_NONE, "a.test", "a.test"},
        {"[192.0.2.1]", ERR_NONE, "[192.0.2.1]", "[192.0.2.1]"},
        {"[IPv6:2001:db8::1]", ERR_NONE, "[ipv6:2001:db8::1]", "[ipv6:2001:db8::1]"},
        {"null.test", ERR_DENIED, NULL, NULL},
        {"missing.test", ERR_NOT_FOUND, NULL, NULL},
        {"nothing.test", ERR_NOT_FOUND, NULL, NULL},
        {"broken.test", ERR_UNAVAILABLE, NULL, NULL},
        {"a b.test", ERR_INVALID, NULL, NULL},
        {"", ERR_INVALID, NULL, NULL},
    };
    struct err err = ERR_INIT;
    ARENA(a, 1u << 20);
    struct dns *dns = new_dns();
    struct remote *r = remote_new(&(struct remote_opts){.dns = dns, .hostname = S("me.test")}, &err);
    assert_ok(r, &err);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        for (int again = 0; again < 2; again++) { /* from DNS, and as it was kept */
            struct remote_site site = {0};
            err_clear(&err);
            bool ok = remote_resolve(r, str_c(cases[i].domain), &a, &site, &err);
            if (err.kind != cases[i].kind)
                fail_msg("%s: %s: %s", cases[i].domain, err_kind_name(err.kind), err.msg);
            if (!ok)
                continue;
            assert_str(site.key, str_c(cases[i].key));
            if (cases[i].first)
                assert_str(site.mx[0].name, str_c(cases[i].first));
        }
    }
    unsigned before = server.n_questions;
    struct remote_site site;
    err_clear(&err);
    assert_true(remote_resolve(r, S("two.test"), &a, &site, &err) && site.n_mx == 2 && site.mx[1].preference == 20);
    assert_int_equal(server.n_questions, before);
    remote_free(r);
    dns_free(dns);
}

static void cache_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    static struct mx mx;
    ARENA(a, 64u << 20);
    mx_init(&mx, NULL, true);
    struct remote_site site;
    char domain[64];
    for (unsigned i = 0; i < MX_CACHE_MAX + 10; i++) { /* literals need no DNS */
        (void)snprintf(domain, sizeof(domain), "[10.0.%u.%u]", i >> 8, i & 255);
        assert_ok(mx_lookup(&mx, str_c(domain), &a, &site, &err), &err);
        assert_str(site.key, str_c(domain));
    }
    assert_int_equal(mx.n_kept, MX_CACHE_MAX);
    clock_freeze(clock_unix_ms(), clock_mono_ms() + MX_CACHE_MS);
    assert_ok(mx_lookup(&mx, str_c(domain), &a, &site, &err), &err); /* forgotten, and kept again */
    assert_int_equal(mx.n_kept, MX_CACHE_MAX);
    clock_real();
    mx_done(&mx);

    /* Keys of many hosts are bounded, and differ where the hosts do. */
    struct dns_mx many[100];
    str key[2];
    for (int round = 0; round < 2; round++) {
        for (unsigned i = 0; i < 100; i++)
            many[i] = (struct dns_mx){
                1, arena_printf(&a, "mx%02u.a-rather-long-name.example%s", i, i == 99 && round ? "x" : "")};
        key[round] = mx_site_key(many, 100, &a);
        assert_true(key[round].n <= MX_KEY_MAX);
    }
    assert_false(str_eq(key[0], key[1]));
    many[1] = many[0];
    assert_str(mx_site_key(many, 2, &a), many[0].name);
}

/* --- addresses --- */

static void test_private(void **state)
{
    (void)state;
    static const struct {
        const char *ip;
        bool is_private;
    } cases[] = {
        {"127.0.0.1", true},
        {"10.1.2.3", true},
        {"172.16.0.1", true},
        {"172.31.255.255", true},
        {"172.32.0.1", false},
        {"192.168.1.1", true},
        {"169.254.169.254", true},
        {"100.64.0.1", true},
        {"100.128.0.1", false},
        {"0.0.0.0", true},
        {"224.0.0.1", true},
        {"255.255.255.255", true},
        {"198.51.100.1", false},
        {"8.8.8.8", false},
        {"::1", true},
        {"::", true},
        {"fe80::1", true},
        {"fec0::1", true},
        {"fd00::1", true},
        {"ff02::1", true},
        {"2606:4700::1", false},
        {"64:ff9b::a00:1", true},
        {"64:ff9b::808:808", false},
        {"2002:a00:1::1", true},
        {"2002:808:808::1", false},
        {"::ffff:127.0.0.1", true},
        {"::7f00:1", true},
        {"64:ff9b:1::1", true},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct net_addr a;
        assert_true(net_ip_parse(str_c(cases[i].ip), &a));
        if (mx_is_private(&a) != cases[i].is_private)
            fail_msg("%s", cases[i].ip);
    }
}

static void addresses_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    ARENA(a, 1u << 20);
    struct dns *dns = new_dns();
    static struct mx mx;
    struct net_addr *v;
    size_t n;
    mx_init(&mx, dns, true);
    assert_ok(mx_addresses(&mx, S("many.test"), false, &a, &v, &n, &err), &err);
    assert_int_equal(n, 5);
    static const int family[] = {AF_INET6, AF_INET, AF_INET6, AF_INET, AF_INET};
    for (size_t i = 0; i < n; i++)
        assert_int_equal(v[i].sa.sa_family, family[i]);
    assert_fails(mx_addresses(&mx, S("missing.test"), false, &a, &v, &n, &err), &err, ERR_NOT_FOUND);
    assert_fails(mx_addresses(&mx, S("broken.test"), false, &a, &v, &n, &err), &err, ERR_UNAVAILABLE);

    mx.allow_private = false;
    assert_fails(mx_addresses(&mx, S("many.test"), false, &a, &v, &n, &err), &err, ERR_DENIED);
    err_clear(&err);
    assert_ok(mx_addresses(&mx, S("many.test"), true, &a, &v, &n, &err), &err);
    /* An address of this host is not used, be it public. */
    assert_true(net_ip_parse(S("203.0.113.7"), &mx.own[0]));
    mx.n_own = 1;
    assert_fails(mx_addresses(&mx, S("[203.0.113.7]"), false, &a, &v, &n, &err), &err, ERR_DENIED);
    assert_true(str_find_str(str_c(err.msg), S("this host itself, which is not used: 203.0.113.7")) > 0);
    err_clear(&err);
    assert_ok(mx_addresses(&mx, S("[203.0.113.8]"), false, &a, &v, &n, &err), &err);
    mx_done(&mx);
    dns_free(dns);
}

/* --- all of it, with smtp-sink --- */

struct text_source {
    struct rpc_source source;
    str left;
};
static bool text_read(struct rpc_source *s, str *piece, struct err *err)
{
    struct text_source *t = (struct text_source *)(void *)s;
    (void)err;
    *piece = t->left;
    t->left = STR_NONE;
    return true;
}
static const char text[] = "Subject: hello\r\n\r\n.a line with a dot\r\n";
static struct rpc_source *text_open(void *arg, struct err *err)
{
    struct text_source *t = arg;
    (void)err;
    *t = (struct text_source){{text_read}, str_c(text)};
    return &t->source;
}

static void attempt(struct remote *r, const char *domain, struct remote_rcpt *rcpt)
{
    struct err err = ERR_INIT;
    ARENA(a, 1u << 20);
    struct text_source t;
    struct remote_site site;
    struct remote_message m = {.sender = S("ann@example.test"), .size = sizeof(text) - 1, .open = text_open, .arg = &t};
    assert_ok(remote_resolve(r, str_c(domain), &a, &site, &err), &err);
    *rcpt = (struct remote_rcpt){.address = S("bob@two.test")};
    remote_deliver(r, &site, &m, rcpt, 1);
}

static uint16_t free_port(void)
{
    struct net_addr a;
    struct err err = ERR_INIT;
    assert_true(net_addr_parse(S("127.0.0.1:0"), &a, &err));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, &a.sa, a.len), 0);
    assert_int_equal(getsockname(fd, &a.sa, &a.len), 0);
    close(fd);
    return net_addr_port(&a);
}

static void sink_main(void *arg)
{
    struct err err = ERR_INIT;
    struct remote_rcpt rcpt;
    struct dns *dns = new_dns();
    struct remote_opts opts = {
        .dns = dns, .hostname = S("me.test"), .port = *(uint16_t *)arg, .allow_private_hosts = true};
    struct remote *r = remote_new(&opts, &err);
    assert_ok(r, &err);
    for (int i = 0; i < 400; i++) { /* until the sink listens */
        attempt(r, "two.test", &rcpt);
        if (rcpt.outcome == REMOTE_DELIVERED)
            break;
        assert_true(rcpt.is_site_failure);
        assert_true(fiber_sleep_ms(10, &err));
    }
    assert_int_equal(rcpt.outcome, REMOTE_DELIVERED);
    assert_string_equal(rcpt.mx, "a.test[127.0.0.1]");
    for (int i = 0; i < 250; i++) { /* more than one connection may carry */
        attempt(r, "two.test", &rcpt);
        assert_int_equal(rcpt.outcome, REMOTE_DELIVERED);
    }
    attempt(r, "nohost.test", &rcpt);
    assert_int_equal(rcpt.outcome, REMOTE_FAILED);
    assert_string_equal(rcpt.status, "5.4.4");
    attempt(r, "brokenhost.test", &rcpt);
    assert_int_equal(rcpt.outcome, REMOTE_DEFERRED);
    assert_string_equal(rcpt.status, "4.4.3");
    assert_true(rcpt.is_site_failure);
    remote_free(r);
    opts.allow_private_hosts = false;
    r = remote_new(&opts, &err);
    attempt(r, "private.test", &rcpt);
    assert_int_equal(rcpt.outcome, REMOTE_FAILED);
    assert_string_equal(rcpt.status, "5.4.4");
    remote_free(r);
    dns_free(dns);
}

#define SINK "/usr/sbin/smtp-sink"
static struct sink {
    pid_t pid;
    uint16_t port;
} sink;

static int sink_start(void **state)
{
    (void)state;
    if (!needs("postfix", access(SINK, X_OK) == 0, "install postfix"))
        return 0;
    sink.port = free_port();
    char where[32];
    (void)snprintf(where, sizeof(where), "127.0.0.1:%u", sink.port);
    sink.pid = fork();
    if (sink.pid == 0) {
        int null = open("/dev/null", O_RDWR);
        (void)dup2(null, 1); /* whoever reads our output is not to wait for the sink's */
        (void)dup2(null, 2);
        if (getuid() == 0)
            execl(SINK, "smtp-sink", "-u", "nobody", where, "100", (char *)NULL);
        else
            execl(SINK, "smtp-sink", where, "100", (char *)NULL);
        _exit(127);
    }
    return sink.pid > 0 ? 0 : -1;
}

static int sink_stop(void **state)
{
    (void)state;
    if (sink.pid > 0) {
        kill(sink.pid, SIGTERM);
        waitpid(sink.pid, NULL, 0);
    }
    return 0;
}

static void test_sink(void **state)
{
    (void)state;
    if (sink.pid <= 0)
        skip();
    assert_true(fiber_main(sink_main, &sink.port));
}

#define TEST(name)                                                                                                     \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        assert_true(fiber_main(name##_main, NULL));                                                                    \
    }
TEST(sites)
TEST(cache)
TEST(addresses)

int main(void)
{
    dns_thread_start(&server, records, ARRAY_LEN(records));
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_private), cmocka_unit_test(test_sites),
                                       cmocka_unit_test(test_cache), cmocka_unit_test(test_addresses),
                                       cmocka_unit_test_setup_teardown(test_sink, sink_start, sink_stop)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    dns_thread_stop(&server);
    return failed;
}
