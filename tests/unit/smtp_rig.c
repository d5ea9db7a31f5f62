#include "unit/smtp_rig.h"

#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "frontend/common/guests.h"
#include "frontend/common/logins.h"

static void quiet(enum log_level level, str line)
{
    (void)level;
    (void)line;
}

static void on_fiber(void *arg)
{
    struct rig *r = arg;
    struct err err = ERR_INIT;
    r->opts.logins = logins_new(&r->fake.auth.base, NULL, 5);
    r->opts.guests = guests_new((unsigned[GUEST_SERVICES_]){0}, 3);
    r->server = smtp_server_new(&r->opts, &err);
    assert_ok(r->server, &err);
    r->test(r);
    rig_end(r);
    smtp_server_drain(r->server);
    assert_int_equal(smtp_server_sessions(r->server), 0);
    smtp_server_free(r->server);
    logins_free(r->opts.logins);
    guests_free(r->opts.guests);
}

void rig_run(void (*prepare)(struct rig *r), void (*test)(struct rig *r))
{
    struct rig *r = xnew(struct rig);
    fake_services_init(&r->fake, "example.org example.net");
    fake_account(&r->fake, "alice@example.org", "secret-a", 11);
    fake_account(&r->fake, "bob@example.org", "secret-b", 12);
    fake_account(&r->fake, "postmaster@example.org", "secret-p", 13);
    fake_alias(&r->fake, "both@example.org", "alice@example.org bob@example.org");
    fake_alias(&r->fake, "away@example.org", "alice@example.org someone@elsewhere.example");
    fake_alias(&r->fake, "info@example.org", "alice@example.org");
    r->opts = (struct smtp_opts){
        .hostname = S("mx.example.org"), .postmaster = S("postmaster@example.org"), .plain_login = 2};
    r->opts.auth = &r->fake.auth.base;
    r->opts.store = &r->fake.store.base;
    r->opts.queue = &r->fake.queue.base;
    r->opts.limits.tarpit_ms = 1;
    r->peer_ip = "192.0.2.1";
    r->test = test;
    if (prepare)
        prepare(r);
    log_set_sink(quiet);
    assert_true(fiber_main(on_fiber, r));
    log_set_sink(NULL);
    fake_services_done(&r->fake);
    free(r);
}

void rig_connect(struct rig *r, enum rig_kind kind)
{
    static void (*const accept[])(void *, struct stream *) = {smtp_accept_mx, smtp_accept_submission, smtp_accept_lmtp};
    int fds[2];
    struct err err = ERR_INIT;
    struct net_addr peer, local;
    rig_close(r);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    r->client = stream_from_fd(fds[0], NULL, &err);
    r->peer = stream_from_fd(fds[1], NULL, &err);
    assert_ok(r->client && r->peer, &err);
    assert_true(net_ip_parse(str_c(r->peer_ip), &peer));
    assert_true(net_ip_parse(S("192.0.2.25"), &local));
    stream_set_peer(r->peer, &peer, &local);
    accept[kind](r->server, r->peer);
}

void rig_close(struct rig *r)
{
    if (r->client)
        stream_close(r->client);
    r->client = NULL;
}

void rig_end(struct rig *r)
{
    struct err err = ERR_INIT;
    rig_close(r);
    while (smtp_server_sessions(r->server))
        assert_ok(fiber_sleep_ms(1, &err), &err);
}

void rig_send(struct rig *r, str bytes)
{
    struct err err = ERR_INIT;
    assert_ok(stream_write(r->client, bytes, &err), &err);
    assert_ok(stream_flush(r->client, &err), &err);
}

void rig_settle(struct rig *r)
{
    struct err err = ERR_INIT;
    while (stream_bytes_in(r->peer) < stream_bytes_out(r->client))
        assert_ok(fiber_sleep_ms(0, &err) && fiber_yield(&err), &err);
    for (int i = 0; i < 3; i++)
        assert_ok(fiber_yield(&err), &err);
}

str rig_line(struct rig *r)
{
    static char text[4096];
    struct err err = ERR_INIT;
    str line;
    if (!stream_read_line(r->client, sizeof(text), true, &line, &err))
        return S("");
    memcpy(text, line.p, line.n);
    return str_n(text, line.n);
}

str rig_reply(struct rig *r)
{
    str line;
    do
        line = rig_line(r);
    while (line.n > 3 && line.p[3] == '-');
    return line;
}

void rig_expect(struct rig *r, const char *prefix)
{
    str line = rig_line(r);
    if (str_starts(line, str_c(prefix)) && line.n)
        return;
    print_error("got '%.*s', want '%s'\n", STR_ARG(line), prefix);
    fail();
}

void rig_expect_end(struct rig *r)
{
    str line = rig_line(r);
    if (!line.n)
        return;
    print_error("got '%.*s', want the end\n", STR_ARG(line));
    fail();
}

void rig_talk(struct rig *r, const char *script)
{
    str rest = str_c(script), line;
    BUF(out, 1 << 20);
    while (str_split(&rest, '\n', &line)) {
        if (!line.n)
            continue;
        str text = str_slice(line, 3, SIZE_MAX);
        if (str_starts(line, S("C:"))) {
            buf_add(&out, text);
            buf_add(&out, S("\r\n"));
            continue;
        }
        if (out.n)
            rig_send(r, buf_str(&out));
        buf_clear(&out);
        str got = rig_line(r);
        if (!str_starts(got, text) || !got.n) {
            print_error("got '%.*s', want '%.*s'\n", STR_ARG(got), STR_ARG(text));
            fail();
        }
        if (str_starts(line, S("S!")))
            rig_expect_end(r);
    }
    if (out.n)
        rig_send(r, buf_str(&out));
}

void rig_hello(struct rig *r, enum rig_kind kind)
{
    rig_connect(r, kind);
    rig_expect(r, "220 mx.example.org");
    rig_send(r, kind == RIG_LMTP ? S("LHLO client.example\r\n") : S("EHLO client.example\r\n"));
    assert_true(str_starts(rig_reply(r), S("250 CHUNKING")));
}
