/* The session: hello, order of commands, pipelining, STARTTLS, mistakes, timeouts, drain. */
#include "unit/smtp_rig.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/metrics.h"

static void hello(struct rig *r)
{
    rig_connect(r, RIG_MX);
    rig_talk(r, "S: 220 mx.example.org ESMTP Thurn\n"
                "C: MAIL FROM:<a@remote.example>\n"
                "S: 503 5.5.1\n"
                "C: EHLO\n"
                "S: 501 5.5.4\n"
                "C: LHLO x\n"
                "S: 502 5.5.1\n"
                "C: HELO client.example\n"
                "S: 250 mx.example.org\n"
                "C: EHLO client.example\n"
                "S: 250-mx.example.org\n"
                "S: 250-PIPELINING\n"
                "S: 250-SIZE 52428800\n"
                "S: 250-ENHANCEDSTATUSCODES\n"
                "S: 250-8BITMIME\n"
                "S: 250-SMTPUTF8\n"
                "S: 250-DSN\n"
                "S: 250 CHUNKING\n"
                "C: AUTH PLAIN\n"
                "S: 502 5.5.1\n"
                "C: STARTTLS\n"
                "S: 502 5.5.1\n"
                "C: VRFY alice\n"
                "S: 252\n"
                "C: EXPN list\n"
                "S: 502\n"
                "C: HELP\n"
                "S: 214\n"
                "C: FOO\n"
                "S: 500 5.5.1\n"
                "C: \n"
                "S: 500 5.5.1\n"
                "C: NOOP anything\n"
                "S: 250\n"
                "C: RSET now\n"
                "S: 501\n"
                "C: QUIT\n"
                "S! 221 2.0.0");
}

static void order(struct rig *r)
{
    rig_hello(r, RIG_MX);
    rig_talk(r, "C: RCPT TO:<alice@example.org>\n"
                "S: 503\n"
                "C: DATA\n"
                "S: 503\n"
                "C: MAIL FROM:<a@remote.example>\n"
                "S: 250 2.1.0\n"
                "C: MAIL FROM:<a@remote.example>\n"
                "S: 503\n"
                "C: DATA\n"
                "S: 554 5.5.1\n"
                "C: RCPT TO:<alice@example.org>\n"
                "S: 250 2.1.5\n"
                "C: EHLO again.example\n"
                "S: 250-"); /* a hello is a reset */
    (void)rig_reply(r);
    rig_talk(r, "C: DATA\n"
                "S: 503\n"
                "C: MAIL FROM:<a@remote.example>\n"
                "C: RCPT TO:<alice@example.org>\n"
                "C: RSET\n"
                "C: RCPT TO:<alice@example.org>\n"
                "S: 250\n"
                "S: 250\n"
                "S: 250\n"
                "S: 503\n");
}

/* One byte after another, and in two pieces at every place: always the same replies. */
static void splits(struct rig *r)
{
    static const char conversation[] =
        "MAIL FROM:<a@remote.example>\r\nRCPT TO:<alice@example.org>\r\nRCPT TO:<nobody@example.org>\r\n"
        "BDAT 16\r\nSubject: x\r\n\r\nhiBDAT 8 LAST\r\n there\r\nNOOP\r\nQUIT\r\n";
    str all = str_n(conversation, sizeof(conversation) - 1);
    for (size_t cut = 0; cut <= all.n; cut++) {
        rig_hello(r, RIG_MX);
        rig_send(r, str_slice(all, 0, cut));
        rig_settle(r);
        rig_send(r, str_slice(all, cut, SIZE_MAX));
        rig_talk(r,
                 "S: 250 2.1.0\nS: 250 2.1.5\nS: 550 5.1.1\nS: 250 2.0.0\nS: 250 2.0.0 Ok: delivered\nS: 250\nS! 221");
    }
    rig_hello(r, RIG_MX);
    for (size_t i = 0; i < all.n; i++) {
        rig_send(r, str_slice(all, i, i + 1));
        if (i + 1 < all.n)
            rig_settle(r);
    }
    rig_talk(r, "S: 250 2.1.0\nS: 250 2.1.5\nS: 550 5.1.1\nS: 250 2.0.0\nS: 250 2.0.0 Ok: delivered\nS: 250\nS! 221");
    assert_int_equal(r->fake.n_delivered, all.n + 2);
}

static void out_of_turn(struct rig *r)
{
    static const char *const early[] = {"EHLO x\r\nNOOP\r\n", "DATA\r\nhello\r\n", "VRFY a\r\nNOOP\r\n"};
    for (size_t i = 0; i < ARRAY_LEN(early); i++) {
        rig_hello(r, RIG_MX);
        rig_talk(r, "C: MAIL FROM:<a@remote.example>\nC: RCPT TO:<alice@example.org>\nS: 250\nS: 250");
        rig_send(r, str_c(early[i]));
        rig_expect(r, "554 5.5.0");
        rig_expect_end(r);
    }
    assert_int_equal(r->fake.n_delivered, 0);
}

static void foreign(struct rig *r)
{
    rig_connect(r, RIG_MX);
    rig_talk(r, "S: 220\nC: GET / HTTP/1.1\nC: Host: x\nS! 554");
    rig_connect(r, RIG_SUBMISSION);
    rig_talk(r, "S: 220\nC: POST / HTTP/1.1\nS! 554");
}

static void lines(struct rig *r)
{
    BUF(b, 1 << 20);
    rig_hello(r, RIG_MX);
    rig_send(r, S("NOOP\nNOOP\r\n"));
    rig_expect(r, "500 5.5.2");
    rig_expect(r, "250");
    rig_send(r, S("NO\rOP\r\n"));
    rig_expect(r, "500 5.5.2");
    for (size_t n = 2047; n <= 2049; n++) { /* at and over the limit */
        buf_clear(&b);
        buf_add(&b, S("NOOP "));
        while (b.n < n)
            buf_addc(&b, 'x');
        buf_add(&b, S("\r\nNOOP\r\n"));
        rig_send(r, buf_str(&b));
        rig_expect(r, n > 2048 ? "500 5.5.6" : "250");
        rig_expect(r, "250");
    }
    buf_clear(&b);
    for (int i = 0; i < 300000; i++) /* more than the input may hold */
        buf_addc(&b, 'x');
    buf_add(&b, S("\r\nNOOP\r\n"));
    rig_send(r, buf_str(&b));
    rig_expect(r, "500 5.5.6");
    rig_expect(r, "250");
}

static void mistakes(struct rig *r)
{
    rig_hello(r, RIG_MX);
    for (int i = 0; i < 20; i++)
        rig_talk(r, "C: WHAT\nS: 500");
    assert_int_equal(metric_get(M_SMTP_REFUSED, "tarpit"), 10);
    rig_talk(r, "C: WHAT\nS! 421 4.7.0");
    rig_hello(r, RIG_MX);
    for (int i = 1; i < 100; i++) /* with the EHLO a hundred */
        rig_talk(r, "C: NOOP\nS: 250");
    for (int i = 0; i < 20; i++)
        rig_talk(r, "C: RSET\nS: 250");
    rig_talk(r, "C: NOOP\nS! 421 4.7.0");
}

static void short_timeouts(struct rig *r)
{
    r->opts.limits.command_timeout_ms = 200;
}

static void silence(struct rig *r)
{
    rig_connect(r, RIG_MX);
    rig_talk(r, "S: 220\nS! 421 4.4.2");
    rig_connect(r, RIG_MX);
    rig_expect(r, "220");
    rig_send(r, S("EH")); /* half a line buys no time */
    rig_talk(r, "S! 421 4.4.2");
}

static void no_room(struct rig *r)
{
    r->opts.limits.sessions_max = 1;
}

static void sessions(struct rig *r)
{
    struct err err = ERR_INIT;
    rig_hello(r, RIG_MX);
    struct stream *first = r->client;
    r->client = NULL;
    rig_connect(r, RIG_MX);
    rig_talk(r, "S! 421 4.3.2");
    stream_close(first);
    while (smtp_server_sessions(r->server))
        assert_ok(fiber_sleep_ms(1, &err), &err);
    rig_hello(r, RIG_MX);
}

/* --- TLS --- */

static char tls_dir[] = "/tmp/thurn-smtp-test-XXXXXX";

static void with_tls(struct rig *r)
{
    struct err err = ERR_INIT;
    static const char *const names[] = {"localhost"};
    char cert[64], key[64];
    snprintf(cert, sizeof(cert), "%s/cert.pem", tls_dir);
    snprintf(key, sizeof(key), "%s/key.pem", tls_dir);
    if (access(cert, R_OK) != 0)
        assert_ok(tls_make_self_signed(names, 1, str_c(cert), str_c(key), &err), &err);
    struct tls_cert_files files = {str_c(cert), str_c(key)};
    struct tls_server_opts opts = {.certs = &files, .n_certs = 1};
    r->opts.tls = tls_server_new(&opts, &err);
    r->opts.plain_login = 0;
    assert_ok(r->opts.tls, &err);
}

static void start_tls(struct rig *r)
{
    struct err err = ERR_INIT;
    struct tls_client_opts opts = {.ca_file = S("")};
    struct tls_client *trust = tls_client_new(&opts, &err);
    assert_ok(trust, &err);
    assert_ok(stream_start_tls_client(r->client, trust, S("localhost"), TLS_VERIFY_NONE, &err), &err);
    tls_client_free(trust);
}

static void starttls(struct rig *r)
{
    rig_connect(r, RIG_SUBMISSION);
    rig_talk(r, "S: 220\n"
                "C: EHLO plain.example\n"
                "S: 250-mx.example.org\n"
                "S: 250-PIPELINING\n"
                "S: 250-SIZE 52428800\n"
                "S: 250-STARTTLS\n"
                "S: 250-ENHANCED");
    (void)rig_reply(r);
    rig_talk(r, "C: MAIL FROM:<alice@example.org>\n"
                "S: 530 5.7.0 Issue STARTTLS\n"
                "C: AUTH PLAIN AGFsaWNlQGV4YW1wbGUub3JnAHNlY3JldC1h\n"
                "S: 538\n"
                "C: STARTTLS now\n"
                "S: 501\n");
    /* What comes with STARTTLS in the clear must not be obeyed afterwards. */
    rig_talk(r, "C: STARTTLS\nC: NOOP\nC: QUIT\nS: 220 2.0.0");
    start_tls(r);
    rig_talk(r, "C: MAIL FROM:<alice@example.org>\n"
                "S: 503 5.5.1\n" /* the hello was forgotten */
                "C: EHLO tls.example\n"
                "S: 250-mx.example.org\n"
                "S: 250-PIPELINING\n"
                "S: 250-SIZE 52428800\n"
                "S: 250-AUTH PLAIN LOGIN\n"
                "S: 250-ENHANCED");
    (void)rig_reply(r);
    rig_talk(r, "C: STARTTLS\n"
                "S: 503\n"
                "C: AUTH PLAIN AGFsaWNlQGV4YW1wbGUub3JnAHNlY3JldC1h\n"
                "S: 235\n"
                "C: MAIL FROM:<alice@example.org>\n"
                "C: RCPT TO:<bob@example.org>\n"
                "C: DATA\n"
                "S: 250\n"
                "S: 250\n"
                "S: 354\n"
                "C: Subject: over TLS\n"
                "C: \n"
                "C: text\n"
                "C: .\n"
                "S: 250\n"
                "C: QUIT\n"
                "S! 221");
    assert_int_equal(r->fake.n_delivered, 1);
    str text = buf_str(&r->fake.delivered[0].content);
    assert_true(str_find_str(text, S(" with ESMTPSA id ")) > 0 &&
                str_find_str(text, S("(using TLSv1.3 with cipher ")) > 0);
    assert_int_equal(metric_get(M_SMTP_REFUSED, "plaintext_after_starttls"), 1);
    rig_end(r);
    tls_server_free(r->opts.tls);
}

/* RFC 3207 4.2: also a transaction that was begun in the clear is forgotten. */
static void starttls_resets(struct rig *r)
{
    rig_hello(r, RIG_MX);
    rig_talk(r, "C: MAIL FROM:<a@remote.example>\nC: RCPT TO:<alice@example.org>\nC: STARTTLS\nS: 250\nS: 250\nS: 220");
    start_tls(r);
    rig_talk(r, "C: DATA\nS: 503\nC: BDAT 3 LAST\nC: x\nS: 503\nC: QUIT\nS! 221");
    assert_int_equal(r->fake.n_delivered, 0);
    rig_end(r);
    tls_server_free(r->opts.tls);
}

static void starttls_fails(struct rig *r)
{
    rig_hello(r, RIG_MX);
    rig_talk(r, "C: STARTTLS\nS: 220");
    rig_send(r, S("this is no handshake\r\n"));
    while (rig_line(r).n)
        ;
    rig_end(r);
    assert_int_equal(metric_get(M_SMTP_SESSIONS_ENDED, "tls_failed"), 1);
    tls_server_free(r->opts.tls);
}

/* --- drain --- */

struct drain {
    struct rig *r;
    int64_t ms;
    bool is_done;
};
static void drain_main(void *arg)
{
    struct drain *d = arg;
    (void)fiber_set_deadline(clock_mono_ms() + d->ms);
    smtp_server_drain(d->r->server);
    d->is_done = true;
}

static void drain(struct rig *r)
{
    struct err err = ERR_INIT;
    struct drain d = {.r = r, .ms = 60000};
    rig_hello(r, RIG_MX);
    struct stream *idle = r->client;
    r->client = NULL;
    rig_hello(r, RIG_MX);
    rig_talk(r, "C: MAIL FROM:<a@remote.example>\nC: RCPT TO:<alice@example.org>\nS: 250\nS: 250");
    assert_ok(fiber_spawn("drain", drain_main, &d, FIBER_NO_DEADLINE, &err), &err);
    struct stream *busy = r->client;
    r->client = idle;
    rig_talk(r, "S! 421 4.3.2"); /* who waits is told at once */
    rig_connect(r, RIG_MX);
    rig_talk(r, "S! 421 4.3.2"); /* and so are newcomers */
    rig_close(r);
    r->client = busy; /* a transaction may end */
    rig_talk(r, "C: DATA\nS: 354\nC: Subject: last\nC: \nC: .\nS: 250 2.0.0 Ok: delivered\nS! 421 4.3.2");
    rig_end(r);
    while (!d.is_done)
        assert_ok(fiber_yield(&err), &err);
    assert_int_equal(r->fake.n_delivered, 1);
}

static void drain_in_haste(struct rig *r)
{
    struct err err = ERR_INIT;
    struct drain d = {.r = r, .ms = 50};
    rig_hello(r, RIG_MX);
    rig_talk(r, "C: MAIL FROM:<a@remote.example>\nC: RCPT TO:<alice@example.org>\nS: 250\nS: 250");
    struct stream *in_transaction = r->client;
    r->client = NULL;
    rig_hello(r, RIG_MX);
    rig_talk(
        r,
        "C: MAIL FROM:<a@remote.example>\nC: RCPT TO:<alice@example.org>\nC: DATA\nS: 250\nS: 250\nS: 354\nC: half a mess");
    rig_settle(r);
    assert_ok(fiber_spawn("drain", drain_main, &d, FIBER_NO_DEADLINE, &err), &err);
    while (rig_line(r).n)
        ;
    rig_close(r);
    r->client = in_transaction;
    rig_talk(r, "S! 421 4.3.2");
    while (!d.is_done)
        assert_ok(fiber_yield(&err), &err);
    assert_int_equal(smtp_server_sessions(r->server), 0);
    assert_int_equal(r->fake.n_delivered, 0);
}

static void peer_goes(struct rig *r)
{
    static const char *const until[] = {
        "", "NO", "MAIL FROM:<a@remote.example>\r\n",
        "MAIL FROM:<a@remote.example>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\n",
        "MAIL FROM:<a@remote.example>\r\nRCPT TO:<alice@example.org>\r\nBDAT 100 LAST\r\nx"};
    for (size_t i = 0; i < ARRAY_LEN(until); i++) {
        rig_hello(r, RIG_MX);
        rig_send(r, str_c(until[i]));
        rig_settle(r);
        rig_end(r);
    }
    assert_int_equal(r->fake.n_delivered, 0);
}

RIG_TEST(hello, NULL)
RIG_TEST(order, NULL)
RIG_TEST(splits, NULL)
RIG_TEST(out_of_turn, NULL)
RIG_TEST(foreign, NULL)
RIG_TEST(lines, NULL)
RIG_TEST(mistakes, NULL)
RIG_TEST(silence, short_timeouts)
RIG_TEST(sessions, no_room)
RIG_TEST(starttls, with_tls)
RIG_TEST(starttls_resets, with_tls)
RIG_TEST(starttls_fails, with_tls)
RIG_TEST(drain, NULL)
RIG_TEST(drain_in_haste, NULL)
RIG_TEST(peer_goes, NULL)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello),           cmocka_unit_test(test_order),
        cmocka_unit_test(test_splits),          cmocka_unit_test(test_out_of_turn),
        cmocka_unit_test(test_foreign),         cmocka_unit_test(test_lines),
        cmocka_unit_test(test_mistakes),        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_sessions),        cmocka_unit_test(test_starttls),
        cmocka_unit_test(test_starttls_resets), cmocka_unit_test(test_starttls_fails),
        cmocka_unit_test(test_drain),           cmocka_unit_test(test_drain_in_haste),
        cmocka_unit_test(test_peer_goes),
    };
    assert_non_null(mkdtemp(tls_dir));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char path[64];
    snprintf(path, sizeof(path), "%s/cert.pem", tls_dir);
    (void)unlink(path);
    snprintf(path, sizeof(path), "%s/key.pem", tls_dir);
    (void)unlink(path);
    (void)rmdir(tls_dir);
    return failed;
}
