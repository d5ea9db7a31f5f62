#include "base_test.h"

#include "base/arena.h"
#include "base/clock.h"
#include "mail/header.h"
#include "mail/mime_json.h"
#include "queue-service/bounce.h"

static const char original[] =
    "From: ann@example.test\r\nSubject: =?utf-8?Q?caf=C3=A9?=\r\n prices\r\nMessage-ID: <1@example.test>\r\n\r\nbody text\r\n";

static struct bounce_rcpt failed_rcpt(void)
{
    return (struct bounce_rcpt){.final_recipient = S("bob@remote.test"),
                                .original_recipient = S("rfc822;b+2Bx@example.test"),
                                .action = BOUNCE_FAILED,
                                .status = S("5.1.1"),
                                .code = 550,
                                .diagnostic = S("550 5.1.1 no such user"),
                                .remote_mta = S("mx.remote.test[192.0.2.1]"),
                                .last_attempt_unix = 86400};
}
static struct bounce_input input(const struct bounce_rcpt *r, size_t n)
{
    return (struct bounce_input){.reporting_mta = S("mx.example.test"),
                                 .envelope_id = S("id+3D7"),
                                 .sender = S("ann@example.test"),
                                 .arrival_unix = 1,
                                 .rcpts = r,
                                 .n_rcpts = n,
                                 .original = str_c(original)};
}
static void build(const struct bounce_input *in, struct buf *out)
{
    struct err err = ERR_INIT;
    buf_init(out, 1u << 20);
    assert_ok(bounce_build(in, out, &err), &err);
    str all = buf_str(out);
    for (size_t i = 0; i < all.n; i++) { /* lines end with CRLF and nothing else */
        assert_true(all.p[i] != '\n' || (i > 0 && all.p[i - 1] == '\r'));
        assert_true(all.p[i] != '\r' || all.p[i + 1] == '\n');
    }
}
static void has(const struct buf *b, const char *what)
{
    if (str_find_str(buf_str(b), str_c(what)) < 0)
        fail_msg("no '%s' in:\n%s", what, buf_z(b));
}
static void has_not(const struct buf *b, const char *what)
{
    if (str_find_str(buf_str(b), str_c(what)) >= 0)
        fail_msg("'%s' in:\n%s", what, buf_z(b));
}

static void test_failure(void **state)
{
    (void)state;
    struct bounce_rcpt r = failed_rcpt();
    struct bounce_input in = input(&r, 1);
    struct buf b;
    ARENA(a, 1u << 20);
    clock_freeze(86400000, 0);
    build(&in, &b);
    clock_real();
    struct header_field f;
    assert_true(header_find(buf_str(&b), S("Subject"), &f));
    assert_str(header_decode(&a, f.value), S("Undeliverable: caf\xc3\xa9 prices"));
    assert_true(header_find(buf_str(&b), S("To"), &f));
    assert_str(header_unfold(&a, f.value), S("<ann@example.test>"));
    has(&b, "From: Mail Delivery System <MAILER-DAEMON@mx.example.test>\r\n");
    has(&b, "Auto-Submitted: auto-replied\r\n");
    has(&b, "In-Reply-To: <1@example.test>\r\nReferences: <1@example.test>\r\n");
    has(&b, "Content-Type: multipart/report; report-type=delivery-status;\r\n");
    has(&b, "<bob@remote.test>\r\n    mx.remote.test[192.0.2.1] said: 550 5.1.1 no such user\r\n");
    has(&b,
        "Content-Type: message/delivery-status\r\n\r\nOriginal-Envelope-Id: id=7\r\nReporting-MTA: dns; mx.example.test\r\n"
        "Arrival-Date: Thu, 01 Jan 1970 00:00:01 +0000\r\n\r\n"
        "Original-Recipient: rfc822; b+x@example.test\r\nFinal-Recipient: rfc822; bob@remote.test\r\nAction: failed\r\n"
        "Status: 5.1.1\r\nRemote-MTA: dns; mx.remote.test\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user\r\n"
        "Last-Attempt-Date: Fri, 02 Jan 1970 00:00:00 +0000\r\n");
    has(&b, "Content-Type: text/rfc822-headers\r\n\r\nFrom: ann@example.test\r\n");
    has_not(&b, "body text");
    assert_true(ascii_only(b.p, b.n));
    buf_done(&b);
}

static void test_structure(void **state)
{
    (void)state;
    struct bounce_rcpt r = failed_rcpt();
    struct bounce_input in = input(&r, 1);
    struct buf b;
    in.is_whole = true;
    build(&in, &b);
    ARENA(a, 1u << 20);
    BUF(json, 1u << 20);
    mime_to_json(&json, mime_parse(&a, buf_str(&b), NULL), buf_str(&b));
    has(&json, "multipart/report");
    has(&json, "message/delivery-status");
    has(&json, "message/rfc822");
    has(&b, "\r\n\r\nbody text\r\n");
    buf_done(&b);
}

static void test_other_actions(void **state)
{
    (void)state;
    static const struct {
        enum bounce_action action;
        const char *subject, *action_field;
    } cases[] = {
        {BOUNCE_DELAYED, "Subject: Delayed: ", "Action: delayed\r\n"},
        {BOUNCE_DELIVERED, "Subject: Delivered: ", "Action: delivered\r\n"},
        {BOUNCE_RELAYED, "Subject: Relayed: ", "Action: relayed\r\n"},
        {BOUNCE_EXPANDED, "Subject: Delivered: ", "Action: expanded\r\n"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct bounce_rcpt r = failed_rcpt();
        struct bounce_input in = input(&r, 1);
        struct buf b;
        r.action = cases[i].action;
        r.code = 0;
        r.diagnostic = S("connection refused");
        r.will_retry_until_unix = 2 * 86400;
        in.original = S("Subject: x\r\n\r\nbody text\r\n");
        in.is_whole = true; /* only failures return it (RFC 3461 4.3) */
        build(&in, &b);
        has(&b, cases[i].subject);
        has(&b, cases[i].action_field);
        has(&b, "Diagnostic-Code: x-thurn; connection refused\r\n");
        has_not(&b, "body text");
        if (cases[i].action == BOUNCE_DELAYED)
            has(&b, "Will-Retry-Until: Sat, 03 Jan 1970 00:00:00 +0000\r\n");
        else
            has_not(&b, "Will-Retry-Until");
        buf_done(&b);
    }
}

static void test_mixed(void **state)
{
    (void)state;
    struct bounce_rcpt r[2] = {failed_rcpt(), failed_rcpt()};
    struct bounce_input in = input(r, 2);
    struct buf b;
    r[0].action = BOUNCE_RELAYED;
    r[0].final_recipient = S("first@remote.test");
    r[1].diagnostic = S("no such user");
    r[1].original_recipient = STR_NONE;
    in.envelope_id = S("bad xtext");
    in.original = S("");
    build(&in, &b);
    has(&b, "Subject: Undeliverable: your message\r\n");
    has(&b, "Diagnostic-Code: smtp; 550 no such user\r\n");
    has(&b, "handed to the mail servers");
    has(&b, "could not be delivered");
    has_not(&b, "Original-Envelope-Id");
    has_not(&b, "References");
    buf_done(&b);
}

static void test_utf8(void **state)
{
    (void)state;
    struct bounce_rcpt r = failed_rcpt();
    struct bounce_input in = input(&r, 1);
    struct buf b;
    r.final_recipient = S("\xc3\xa9@remote.test");
    r.original_recipient = STR_NONE;
    r.diagnostic = S("550 caf\xc3\xa9");
    in.original = S("Subject: caf\xc3\xa9\r\n\r\n");
    build(&in, &b);
    has(&b, "Final-Recipient: utf-8; \\x{E9}@remote.test\r\n");
    has(&b, "Diagnostic-Code: smtp; 550 caf??\r\n");
    has(&b, "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n");
    has(&b, "Content-Type: text/rfc822-headers\r\nContent-Transfer-Encoding: 8bit\r\n");
    buf_done(&b);
    in.is_smtputf8 = true;
    in.is_whole = true;
    build(&in, &b);
    has(&b, "Content-Type: message/global-delivery-status\r\n");
    has(&b, "Final-Recipient: utf-8; \xc3\xa9@remote.test\r\n");
    has(&b, "Diagnostic-Code: smtp; 550 caf\xc3\xa9\r\n");
    has(&b, "Content-Type: message/global\r\n");
    buf_done(&b);
}

/* Nothing that came from outside can add a field, a part or a line. */
static void test_injection(void **state)
{
    (void)state;
    struct bounce_rcpt r = failed_rcpt();
    struct bounce_input in = input(&r, 1);
    struct buf b;
    r.diagnostic = S("550 x\r\nInjected: 1\r\n\r\nInjected: 2");
    r.final_recipient = S("a\r\nInjected: 3@remote.test");
    r.original_recipient = S("rfc822;a+0D+0AInjected:+204@x");
    r.remote_mta = S("mx\r\nInjected: 5");
    r.status = S("5.1.1\r\nInjected: 6");
    in.envelope_id = S("a+0D+0AInjected:7");
    in.original = S("Subject: =?utf-8?Q?x=0D=0AInjected:_8?=\r\nMessage-ID: <a\r\n b>\r\n\r\n");
    build(&in, &b);
    has_not(&b, "\nInjected");
    has_not(&b, "References");
    buf_done(&b);
}

static void test_limits(void **state)
{
    (void)state;
    struct bounce_rcpt r = failed_rcpt();
    struct bounce_input in = input(&r, 1);
    struct err err = ERR_INIT;
    struct buf b;
    BUF(small, 100);
    assert_fails(bounce_build(&in, &small, &err), &err, ERR_LIMIT);
    assert_int_equal(small.n, 0);

    BUF(huge, 1u << 20);
    while (huge.n < 2 * BOUNCE_HEADERS_MAX)
        buf_add(&huge, S("X-Filler: 0123456789012345678901234567890123456789\r\n"));
    buf_add(&huge, S("\r\nbody text"));
    in.original = buf_str(&huge);
    build(&in, &b);
    assert_true(b.n < BOUNCE_HEADERS_MAX + 4096 && b.n > BOUNCE_HEADERS_MAX);
    has(&b, "0123456789\r\n\r\n--=_"); /* the last line is whole */
    buf_done(&b);

    /* A header that ends without a blank line, and one of half a line. */
    in.original = S("A: b\r\nC: d");
    build(&in, &b);
    has(&b, "A: b\r\nC: d\r\n--=_");
    buf_done(&b);
    in.original = S("A: b");
    build(&in, &b);
    has(&b, "\r\n\r\nA: b\r\n--=_");
    buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failure), cmocka_unit_test(test_structure), cmocka_unit_test(test_other_actions),
        cmocka_unit_test(test_mixed),   cmocka_unit_test(test_utf8),      cmocka_unit_test(test_injection),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
