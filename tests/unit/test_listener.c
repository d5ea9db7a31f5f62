#include "test.h"

#include <netinet/tcp.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/buf.h"
#include "base/metrics.h"
#include "base/trouble.h"
#include "net/listener.h"
#include "fiber/fiber.h"

/* An echo service for lines: one fiber a connection. */
static void echo(void *arg)
{
    CLEANUP(stream_close) struct stream *s = arg;
    struct err err = ERR_INIT;
    str line;
    char ip[NET_ADDR_TEXT_MAX];
    if (!stream_printf(s, &err, "hello %s\r\n", net_addr_format(stream_peer(s), ip).p))
        return;
    while (stream_read_line(s, 1000, true, &line, &err))
        if (!stream_printf(s, &err, "%.*s\r\n", STR_ARG(line)) || !stream_flush(s, &err))
            return;
}
static void on_accept(void *arg, struct stream *s)
{
    struct err err = ERR_INIT;
    ++*(int *)arg;
    if (!fiber_spawn("echo", echo, s, FIBER_NO_DEADLINE, &err))
        stream_abort(s);
}

static struct listener_opts options(const char *addr, int *n_accepted)
{
    struct err err = ERR_INIT;
    struct listener_opts o = {.name = "test", .accept = on_accept, .arg = n_accepted};
    assert_true(net_addr_parse(str_c(addr), &o.addr, &err));
    return o;
}
static struct stream *dial(const struct listener *l)
{
    struct err err = ERR_INIT;
    struct stream *s = stream_connect(listener_addr(l), NULL, NULL, &err);
    if (!s)
        fail_msg("%s", err.msg);
    return s;
}
static void expect(struct stream *s, const char *prefix)
{
    struct err err = ERR_INIT;
    str line;
    FIBER_DEADLINE(5000);
    if (!stream_read_line(s, 1000, true, &line, &err) || !str_starts(line, str_c(prefix)))
        fail_msg("'%.*s' %s, not '%s'", STR_ARG(line), err.msg, prefix);
}
static void expect_end(struct stream *s)
{
    struct err err = ERR_INIT;
    FIBER_DEADLINE(5000);
    while (stream_fill(s, &err))
        ;
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
}
static void wait_connections(const struct listener *l, unsigned n)
{
    struct err err = ERR_INIT;
    FIBER_DEADLINE(5000);
    while (listener_connections(l) != n)
        assert_true(fiber_sleep_ms(1, &err));
}

static void plain_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    static const char *const addrs[] = {"127.0.0.1:0", "[::1]:0", "*:0", "unix:/tmp/thurn-test-listener.sock"};
    for (size_t i = 0; i < ARRAY_LEN(addrs); i++) {
        int n = 0;
        struct listener_opts o = options(addrs[i], &n);
        struct listener *l = listener_start(&o, &err);
        if (!l)
            fail_msg("%s", err.msg);
        struct net_addr to = *listener_addr(l);
        if (i == 2) { /* dual stack takes IPv4 */
            assert_true(net_ip_parse(S("127.0.0.1"), &to));
            net_addr_set_port(&to, net_addr_port(listener_addr(l)));
        }
        struct stream *s = stream_connect(&to, NULL, NULL, &err);
        assert_non_null(s);
        assert_true(stream_write(s, S("ping\r\n"), &err));
        expect(s, i == 1 ? "hello [::1]:" : i == 3 ? "hello unix:" : "hello 127.0.0.1:");
        expect(s, "ping");
        assert_int_equal(listener_connections(l), 1);
        stream_close(s);
        wait_connections(l, 0);

        struct listener *second = listener_start(
            &(struct listener_opts){.name = "second", .accept = on_accept, .addr = *listener_addr(l)}, &err);
        assert_null(second);
        assert_true(err.kind == ERR_UNAVAILABLE &&
                    str_find_str(str_c(err.msg), i == 3 ? S("another program") : S("test_listener (pid ")) >= 0);
        err_clear(&err);
        assert_true(listener_fd(l) >= 0);
        s = dial(l);
        expect(s, "hello");
        listener_free(l); /* what was accepted lives on */
        assert_true(stream_write(s, S("still\r\n"), &err));
        expect(s, "still");
        stream_close(s);
        assert_int_equal(n, i == 3 ? 3 : 2); /* whether a socket file is in use is found out by connecting */
    }
    struct net_addr nobody = {0};
    assert_true(net_addr_parse(S("127.0.0.1:1"), &nobody, &err));
    assert_null(stream_connect(&nobody, NULL, NULL, &err));
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
}

/* What is wrong with a socket's path is said as it is. */
static void bad_path_main(void *arg)
{
    static const struct {
        const char *path, *why;
    } cases[] = {
        {"unix:/nonexistent/folder/x.sock", "folder cannot be reached"},
        {"unix:/proc/x.sock", "its folder"},
        {"unix:/etc/passwd", "no socket"},
        {"unix:/etc/passwd/x.sock", "folder"},
    };
    (void)arg;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;
        struct listener_opts o = {.name = "bad", .accept = on_accept};
        assert_true(net_addr_parse(str_c(cases[i].path), &o.addr, &err));
        assert_null(listener_start(&o, &err));
        assert_int_equal(err.kind, ERR_UNAVAILABLE);
        if (!strstr(err.msg, cases[i].why) || strstr(err.msg, "1024"))
            fail_msg("%s", err.msg);
    }
}

static void limits_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    int n = 0;
    metrics_reset();
    struct listener_opts o = options("127.0.0.1:0", &n);
    o.max_connections = 4;
    o.max_per_ip = 2; /* not for loopback; others are tried behind PROXY below */
    o.refuse_text = S("421 busy\r\n");
    struct listener *l = listener_start(&o, &err);
    assert_non_null(l);
    struct stream *s[5];
    for (int i = 0; i < 5; i++) {
        s[i] = dial(l);
        expect(s[i], i < 4 ? "hello" : "421 busy");
    }
    expect_end(s[4]);
    assert_int_equal(metric_get(M_CONNECTIONS_REFUSED, "connections"), 1);
    assert_int_equal(metric_get(M_CAPS_REACHED, "test.connections"), 1); /* which cap: counted, and what /readyz says */
    BUF(trouble, 1024);
    assert_int_equal(trouble_print(&trouble), 1);
    assert_true(str_starts(buf_str(&trouble), S("degraded: cap.test.connections: all 4 are in use")));
    trouble_forget_all();
    stream_close(s[0]);
    wait_connections(l, 3);
    s[0] = dial(l); /* its place is free again */
    expect(s[0], "hello");
    for (int i = 0; i < 5; i++)
        stream_close(s[i]);
    wait_connections(l, 0);
    assert_int_equal(metric_get(M_CONNECTIONS, "test"), 0);
    listener_free(l);
}

static void proxy_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    int n = 0;
    struct net_cidr trusted;
    metrics_reset();
    assert_true(net_cidr_parse(S("127.0.0.0/31"), &trusted, &err));
    struct listener_opts o = options("127.0.0.1:0", &n);
    o.proxy_from = &trusted;
    o.n_proxy_from = 1;
    o.max_per_ip = 1;
    o.handshake_timeout_ms = 2000;
    o.refuse_text = S("421 busy\r\n");
    struct listener *l = listener_start(&o, &err);
    assert_non_null(l);
    str header = S("PROXY TCP4 192.0.2.7 192.0.2.8 40000 25\r\nping\r\n");
    for (size_t cut = 0; cut <= header.n; cut += 5) { /* in two pieces, with the first command behind it */
        struct stream *s = dial(l);
        assert_true(stream_write(s, str_slice(header, 0, cut), &err) && stream_flush(s, &err));
        assert_true(fiber_sleep_ms(1, &err));
        assert_true(stream_write(s, str_slice(header, cut, SIZE_MAX), &err) && stream_flush(s, &err));
        expect(s, "hello 192.0.2.7:40000");
        expect(s, "ping");
        if (cut == 5) { /* counted by the address that the header says */
            struct stream *other = dial(l);
            assert_true(stream_write(other, header, &err) && stream_flush(other, &err));
            expect(other, "421 busy");
            stream_close(other);
            assert_int_equal(metric_get(M_CONNECTIONS_REFUSED, "per_ip"), 1);
        }
        stream_close(s);
        wait_connections(l, 0);
    }
    n = 0;
    struct stream *s = dial(l); /* required from a trusted network */
    assert_true(stream_write(s, S("EHLO x\r\n"), &err) && stream_flush(s, &err));
    expect_end(s);
    stream_close(s);
    s = dial(l); /* and within the time */
    expect_end(s);
    stream_close(s);
    assert_int_equal(n, 0);
    struct net_addr stranger; /* not looked for from any other */
    assert_true(net_ip_parse(S("127.0.0.9"), &stranger));
    s = stream_connect(listener_addr(l), &stranger, NULL, &err);
    assert_non_null(s);
    expect(s, "hello 127.0.0.9:");
    stream_close(s);
    listener_free(l);
}

/* A front-end that holds no fiber: it looks at its input when it is woken. */
static void answer_idle(void *arg)
{
    struct stream *s = arg;
    if (str_find(stream_input(s), '\n') < 0) {
        if (stream_at_end(s))
            stream_close(s);
        else
            stream_idle(s, answer_idle, s);
        return;
    }
    assert_true(stream_try_write(s, stream_input(s)));
    stream_consume(s, stream_input(s).n);
    stream_idle(s, answer_idle, s);
}
static void on_accept_idle(void *arg, struct stream *s)
{
    ++*(int *)arg;
    stream_idle(s, answer_idle, s);
}

/* Who is let in after the listener was freed finds nobody: what would have taken him over may be gone. */
static void late_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    int n = 0;
    struct net_cidr trusted;
    struct listener_opts o = options("127.0.0.1:0", &n);
    assert_true(net_cidr_parse(S("127.0.0.0/8"), &trusted, &err));
    o.proxy_from = &trusted;
    o.n_proxy_from = 1;
    struct listener *l = listener_start(&o, &err);
    assert_non_null(l);
    struct stream *s = dial(l);
    assert_true(stream_write(s, S("PROXY TCP4 192.0.2.7"), &err) && stream_flush(s, &err));
    wait_connections(l, 1);
    listener_free(l);
    assert_true(stream_write(s, S(" 192.0.2.8 40000 25\r\nping\r\n"), &err) && stream_flush(s, &err));
    expect_end(s);
    stream_close(s);
    assert_int_equal(n, 0);
}

/* The command is in the segment of the PROXY header, and nothing comes after it. */
static void proxy_idle_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    int n = 0;
    struct net_cidr trusted;
    assert_true(net_cidr_parse(S("127.0.0.1"), &trusted, &err));
    struct listener_opts o = options("127.0.0.1:0", &n);
    o.proxy_from = &trusted;
    o.n_proxy_from = 1;
    o.accept = on_accept_idle;
    struct listener *l = listener_start(&o, &err);
    assert_non_null(l);
    struct stream *s = dial(l);
    assert_true(stream_write(s, S("PROXY TCP4 192.0.2.7 192.0.2.8 40000 25\r\nping\r\n"), &err) &&
                stream_flush(s, &err));
    expect(s, "ping");
    stream_close(s);
    wait_connections(l, 0);
    listener_free(l);
}

static unsigned unacknowledged(int fd)
{
    struct tcp_info info;
    socklen_t n = sizeof(info);
    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n), 0);
    return info.tcpi_unacked;
}

/* Of a client that sends a command in two writes the second is held back until the first is acknowledged. Ours wait for
 * more: so it is, at once, with a fiber that reads and without one. */
static void quick_ack_main(void *arg)
{
    (void)arg;
    for (int idle = 0; idle < 2; idle++) {
        struct err err = ERR_INIT;
        int n = 0;
        struct listener_opts o = options("127.0.0.1:0", &n);
        o.accept = idle ? on_accept_idle : on_accept;
        struct listener *l = listener_start(&o, &err);
        assert_non_null(l);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fd, &listener_addr(l)->sa, listener_addr(l)->len), 0);
        struct stream *s = stream_from_fd(fd, NULL, &err);
        assert_non_null(s);
        if (!idle)
            expect(s, "hello");
        for (int i = 0; i < 20; i++) { /* a dialogue, in which acknowledgements wait for answers */
            assert_true(stream_write(s, S("ping\r\n"), &err));
            expect(s, "ping");
        }
        for (int i = 0; i < 5; i++) {
            assert_true(stream_write(s, S("half"), &err) && stream_flush(s, &err));
            /* some milliseconds; the kernel waits for 40 */
            for (int turns = 0; unacknowledged(fd) && turns < 1000; turns++)
                assert_true(fiber_yield(&err));
            assert_int_equal(unacknowledged(fd), 0);
            assert_true(stream_write(s, S(" line\r\n"), &err));
            expect(s, "half line");
        }
        stream_close(s);
        wait_connections(l, 0);
        listener_free(l);
    }
}

static void tls_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    char cert[] = "/tmp/thurn-listener-XXXXXX";
    int fd = mkstemp(cert), n = 0;
    assert_true(fd >= 0);
    (void)close(fd);
    char key[64];
    (void)snprintf(key, sizeof(key), "%s.key", cert);
    static const char *const names[] = {"localhost"};
    assert_true(tls_make_self_signed(names, 1, str_c(cert), str_c(key), &err));
    struct tls_cert_files f = {str_c(cert), str_c(key)};
    struct tls_server *ts = tls_server_new(&(struct tls_server_opts){.certs = &f, .n_certs = 1}, &err);
    struct tls_client *tc = tls_client_new(&(struct tls_client_opts){.ca_file = str_c(cert)}, &err);
    assert_true(ts && tc);
    for (int with_proxy = 0; with_proxy < 2; with_proxy++) {
        struct net_cidr trusted;
        assert_true(net_cidr_parse(S("127.0.0.1"), &trusted, &err));
        struct listener_opts o = options("127.0.0.1:0", &n);
        o.implicit_tls = ts;
        o.handshake_timeout_ms = 2000;
        o.proxy_from = &trusted;
        o.n_proxy_from = (size_t)with_proxy;
        struct listener *l = listener_start(&o, &err);
        assert_non_null(l);
        struct stream *s = dial(l);
        if (with_proxy)
            assert_true(stream_write(s, S("PROXY TCP4 192.0.2.7 192.0.2.8 40000 25\r\n"),
                                     &err)); /* in one write with the hello */
        assert_true(stream_start_tls_client(s, tc, S("localhost"), TLS_VERIFY_PEER, &err));
        expect(s, with_proxy ? "hello 192.0.2.7:40000" : "hello 127.0.0.1:");
        stream_close(s);
        if (!with_proxy) {
            s = dial(l); /* silent, and plain text: both end without the accept callback */
            struct stream *plain = dial(l);
            assert_true(stream_write(plain, S("EHLO x\r\n\r\n"), &err) && stream_flush(plain, &err));
            expect_end(plain);
            expect_end(s);
            stream_close(s);
            stream_close(plain);
        }
        listener_free(l);
    }
    assert_int_equal(n, 2);
    tls_server_free(ts);
    tls_client_free(tc);
    (void)unlink(cert);
    (void)unlink(key);
}

#define RUN(name)                                                                                                      \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        assert_true(fiber_main(name##_main, NULL));                                                                    \
    }
RUN(plain)
RUN(bad_path)
RUN(limits)
RUN(proxy)
RUN(proxy_idle)
RUN(late)
RUN(quick_ack)
RUN(tls)

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_plain),      cmocka_unit_test(test_bad_path),
                                       cmocka_unit_test(test_limits),     cmocka_unit_test(test_proxy),
                                       cmocka_unit_test(test_proxy_idle), cmocka_unit_test(test_late),
                                       cmocka_unit_test(test_quick_ack),  cmocka_unit_test(test_tls)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
