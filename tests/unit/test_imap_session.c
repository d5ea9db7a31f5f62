/* A session's life beside its commands: TLS, time limits, draining. The services are never asked. */
#include "test.h"

#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "frontend/common/guests.h"
#include "frontend/common/logins.h"
#include "frontend/imap/imap.h"
#include "fiber/fiber.h"
#include "proto/auth.pb-c.h"
#include "proto/store.pb-c.h"
#include "rpc/call.h"

struct world {
    struct imap_server *server;
    struct tls_server *tls;
    struct tls_client *tls_client;
    void (*fn)(struct world *w);
    struct imap_opts opts;
};

static void must(bool ok, const struct err *err)
{
    if (ok)
        return;
    fprintf(stderr, "%s\n", err->msg);
    _exit(1); /* a fiber's stack cannot be unwound by cmocka */
}

/* A service without methods: whatever is called fails. */
static void no_service(ProtobufCService *s, unsigned method, const ProtobufCMessage *request, ProtobufCClosure closure,
                       void *closure_data)
{
    (void)s;
    (void)method;
    (void)request;
    struct rpc_call *c = closure_data;
    (void)err_set(&c->err, ERR_UNAVAILABLE, "there is no service");
    closure(NULL, closure_data);
}
static ProtobufCService no_auth = {&thurn__auth__descriptor, no_service, NULL},
                        no_store = {&thurn__store__descriptor, no_service, NULL};

static struct stream *dial(struct world *w)
{
    struct err err = ERR_INIT;
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    struct stream *client = stream_from_fd(ends[0], NULL, &err), *server = stream_from_fd(ends[1], NULL, &err);
    assert_non_null(client);
    assert_non_null(server);
    imap_accept(w->server, server);
    return client;
}

static void expect(struct stream *s, const char *prefix)
{
    struct err err = ERR_INIT;
    str line;
    FIBER_DEADLINE(5000);
    must(stream_read_line(s, 65536, true, &line, &err), &err);
    if (!str_starts(line, str_c(prefix))) {
        fprintf(stderr, "'%.*s', not '%s'\n", STR_ARG(line), prefix);
        _exit(1);
    }
}

static void expect_end(struct stream *s)
{
    struct err err = ERR_INIT;
    FIBER_DEADLINE(5000);
    while (stream_fill(s, &err))
        stream_consume(s, stream_input(s).n);
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
}

static void say(struct stream *s, const char *text)
{
    struct err err = ERR_INIT;
    must(stream_write(s, str_c(text), &err) && stream_flush(s, &err), &err);
}

static void wait_sessions(struct world *w, unsigned n)
{
    struct err err = ERR_INIT;
    FIBER_DEADLINE(5000);
    while (imap_server_sessions(w->server) != n)
        must(fiber_sleep_ms(1, &err), &err);
}

static void world_main(void *arg)
{
    struct world *w = arg;
    w->opts.hostname = S("mail.example.org");
    w->opts.auth = &no_auth;
    w->opts.store = &no_store;
    w->opts.tls = w->tls;
    w->opts.logins = logins_new(&no_auth, NULL, 0);
    w->opts.guests = guests_new((unsigned[GUEST_SERVICES_]){0}, 0);
    w->server = imap_server_new(&w->opts);
    w->fn(w);
    imap_server_drain(w->server, 0);
    imap_server_free(w->server);
    logins_free(w->opts.logins);
    guests_free(w->opts.guests);
}

static void run(void (*fn)(struct world *w), struct world *w)
{
    w->fn = fn;
    metrics_reset();
    log_configure(LOG_ERROR, LOG_LOGFMT);
    assert_true(fiber_main(world_main, w));
}

/* --- TLS --- */

static void starttls(struct world *w)
{
    struct err err = ERR_INIT;
    struct stream *s = dial(w);
    expect(s, "* OK [CAPABILITY IMAP4rev1 LITERAL+ ID ENABLE SASL-IR STARTTLS LOGINDISABLED]");
    say(s, "a1 LOGIN x y\r\n");
    expect(s, "a1 NO [PRIVACYREQUIRED]");
    say(s, "a2 STARTTLS\r\n");
    expect(s, "a2 OK");
    must(stream_start_tls_client(s, w->tls_client, S("localhost"), TLS_VERIFY_NONE, &err), &err);
    say(s, "a3 CAPABILITY\r\n");
    expect(s, "* CAPABILITY IMAP4rev1 LITERAL+ ID ENABLE SASL-IR AUTH=PLAIN");
    expect(s, "a3 OK");
    say(s, "a4 STARTTLS\r\n");
    expect(s, "a4 BAD");
    say(s, "a5 LOGIN x y\r\n");
    expect(s, "a5 NO [UNAVAILABLE]");
    stream_close(s);
    wait_sessions(w, 0);
    /* What came in the clear behind STARTTLS is dropped, and the session with it. */
    s = dial(w);
    expect(s, "* OK");
    say(s, "b1 STARTTLS\r\nb2 LOGOUT\r\n");
    expect(s, "b1 OK");
    must(stream_start_tls_client(s, w->tls_client, S("localhost"), TLS_VERIFY_NONE, &err), &err);
    expect_end(s);
    stream_close(s);
    wait_sessions(w, 0);
    assert_int_equal(metric_get(M_IMAP_REFUSED, "starttls_injection"), 1);
}

static void run_with_tls(void (*fn)(struct world *w), struct world *w)
{
    struct err err = ERR_INIT;
    char cert[64], key[64];
    snprintf(cert, sizeof(cert), "/tmp/thurn-imap-%d.pem", (int)getpid());
    snprintf(key, sizeof(key), "/tmp/thurn-imap-%d.key", (int)getpid());
    const char *names[] = {"localhost"};
    must(tls_make_self_signed(names, 1, str_c(cert), str_c(key), &err), &err);
    struct tls_cert_files files = {str_c(cert), str_c(key)};
    struct tls_server_opts opts = {.certs = &files, .n_certs = 1};
    w->tls = tls_server_new(&opts, &err);
    assert_non_null(w->tls);
    w->tls_client = tls_client_new(&(struct tls_client_opts){0}, &err);
    assert_non_null(w->tls_client);
    run(fn, w);
    tls_client_free(w->tls_client);
    tls_server_free(w->tls);
    assert_int_equal(unlink(cert), 0);
    assert_int_equal(unlink(key), 0);
}

static void test_starttls(void **state)
{
    (void)state;
    struct world w = {0};
    run_with_tls(starttls, &w);
}

/* --- time --- */

static void too_slow(struct world *w)
{
    struct stream *idle = dial(w), *half = dial(w);
    expect(idle, "* OK");
    expect(half, "* OK");
    say(half, "a1 NOO");
    expect(idle, "* BYE No login in time.");
    expect_end(idle);
    expect(half, "* BYE No login in time.");
    expect_end(half);
    stream_close(idle);
    stream_close(half);
    /* Commands do not lengthen the time for a login. */
    struct stream *busy = dial(w);
    struct err err = ERR_INIT;
    expect(busy, "* OK");
    say(busy, "a1 NOOP\r\n");
    expect(busy, "a1 OK");
    must(fiber_sleep_ms(60, &err), &err);
    say(busy, "a2 NOOP\r\n");
    expect(busy, "a2 OK");
    expect(busy, "* BYE No login in time.");
    expect_end(busy);
    stream_close(busy);
    /* A literal that does not come. */
    struct stream *literal = dial(w);
    expect(literal, "* OK");
    say(literal, "a1 LOGIN {5}\r\n");
    expect(literal, "+ OK");
    expect(literal, "* BYE Command took too long.");
    expect_end(literal);
    stream_close(literal);
    wait_sessions(w, 0);
}

static void test_login_time(void **state)
{
    (void)state;
    struct world w = {.opts = {.limits = {.auth_ms = 150}}};
    run(too_slow, &w);
}

/* Before login nothing takes longer than auth_ms: not the answer to a challenge, and no handshake. */
static void silent_login(struct world *w)
{
    struct stream *s = dial(w);
    expect(s, "* OK");
    say(s, "a1 STARTTLS\r\n");
    expect(s, "a1 OK");
    expect_end(s);
    stream_close(s);
    s = dial(w);
    expect(s, "* OK");
    say(s, "a1 AUTHENTICATE PLAIN\r\n");
    expect(s, "+ ");
    expect(s, "a1 NO");
    expect(s, "* BYE No login in time.");
    expect_end(s);
    stream_close(s);
    wait_sessions(w, 0);
}

static void test_silent_login(void **state)
{
    (void)state;
    struct world w = {.opts = {.plain = IMAP_PLAIN_ALWAYS, .limits = {.auth_ms = 150}}};
    run_with_tls(silent_login, &w);
}

/* --- draining and the cap --- */

static void drain(struct world *w)
{
    struct stream *s[3];
    for (size_t i = 0; i < 3; i++) {
        s[i] = dial(w);
        expect(s[i], "* OK");
    }
    struct stream *fourth = dial(w);
    expect(fourth, "* BYE [UNAVAILABLE]");
    expect_end(fourth);
    stream_close(fourth);
    say(s[0], "a1 LOGIN {5}\r\n"); /* in the middle of a command */
    expect(s[0], "+ OK");
    {
        FIBER_DEADLINE(300); /* the one in the middle of a command is cut off then */
        imap_server_drain(w->server, 10);
    }
    assert_int_equal(imap_server_sessions(w->server), 0);
    for (size_t i = 1; i < 3; i++)
        expect(s[i], "* BYE [UNAVAILABLE] Server going down");
    for (size_t i = 0; i < 3; i++)
        stream_abort(s[i]);
    struct stream *late = dial(w);
    expect(late, "* BYE [UNAVAILABLE]");
    stream_close(late);
}

static void test_drain(void **state)
{
    (void)state;
    struct world w = {.opts = {.limits = {.sessions = 3}}};
    run(drain, &w);
}

/* --- one byte at a time --- */

static void slowly(struct world *w)
{
    struct stream *s = dial(w);
    struct err err = ERR_INIT;
    expect(s, "* OK");
    static const char text[] = "a1 NOOP\r\na2 ID {4}\r\nabcd\r\na3 noop\r\n";
    for (size_t i = 0; i < sizeof(text) - 1; i++) {
        must(stream_write(s, str_n(text + i, 1), &err) && stream_flush(s, &err) && fiber_sleep_ms(1, &err), &err);
    }
    expect(s, "a1 OK");
    expect(s, "+ OK");
    expect(s, "a2 BAD");
    expect(s, "a3 OK");
    stream_close(s);
    wait_sessions(w, 0);
}

static void test_byte_by_byte(void **state)
{
    (void)state;
    struct world w = {0};
    run(slowly, &w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_starttls), cmocka_unit_test(test_login_time),   cmocka_unit_test(test_silent_login),
        cmocka_unit_test(test_drain),    cmocka_unit_test(test_byte_by_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
