/* AUTH: who may log in, how, and what happens when he cannot. */
#include "unit/smtp_rig.h"

#include "base/metrics.h"
#include "frontend/common/sasl.h"

#define ALICE_PLAIN "AGFsaWNlQGV4YW1wbGUub3JnAHNlY3JldC1h"
#define ALICE_LOGIN "YWxpY2VAZXhhbXBsZS5vcmc="
#define ALICE_PASSWORD "c2VjcmV0LWE="

static void plain(struct rig *r)
{
    rig_hello(r, RIG_SUBMISSION);
    rig_talk(r, "C: AUTH PLAIN " ALICE_PLAIN "\nS: 235\nC: AUTH PLAIN " ALICE_PLAIN "\nS: 503\nC: EHLO x\nS: 250-");
    (void)rig_reply(r);
    rig_talk(r, "C: MAIL FROM:<alice@example.org>\nS: 250"); /* a hello does not log out */
    rig_hello(r, RIG_SUBMISSION);
    rig_talk(r, "C: auth plain\nS: 334 \nC: " ALICE_PLAIN "\nS: 235");
    rig_hello(r, RIG_SUBMISSION);
    rig_talk(r, "C: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\nC: " ALICE_LOGIN "\nS: 334 UGFzc3dvcmQ6\nC: " ALICE_PASSWORD
                "\nS: 235");
    rig_hello(r, RIG_SUBMISSION);
    rig_talk(r, "C: AUTH LOGIN " ALICE_LOGIN "\nS: 334 UGFzc3dvcmQ6\nC: " ALICE_PASSWORD "\nS: 235");
}

static void wrong(struct rig *r)
{
    rig_hello(r, RIG_SUBMISSION);
    rig_talk(r, "C: AUTH\n"
                "S: 504\n"
                "C: AUTH CRAM-MD5\n"
                "S: 504\n"
                "C: AUTH PLAIN !!!!\n"
                "S: 501 5.5.2\n"
                "C: AUTH PLAIN =\n"
                "S: 501\n"
                "C: AUTH PLAIN YWxpY2U=\n"
                "S: 501\n"
                "C: AUTH PLAIN\n"
                "S: 334\n"
                "C: *\n"
                "S: 501 5.7.0\n"
                "C: AUTH LOGIN\n"
                "S: 334\n"
                "C: *\n"
                "S: 501 5.7.0\n"
                "C: AUTH LOGIN =\n"
                "S: 334\n"
                "C: " ALICE_PASSWORD "\n"
                "S: 535 5.7.8\n"
                "C: MAIL FROM:<alice@example.org>\n"
                "S: 530");
    r->fake.authenticate.kind = ERR_UNAVAILABLE;
    rig_talk(r, "C: AUTH PLAIN " ALICE_PLAIN "\nS: 454 4.7.0");
    r->fake.authenticate.kind = ERR_LIMIT;
    rig_talk(r, "C: AUTH PLAIN " ALICE_PLAIN "\nS: 454 4.7.0");
    r->fake.authenticate.kind = ERR_NONE;
    rig_talk(r, "C: AUTH PLAIN " ALICE_PLAIN "\nS: 235");
    assert_int_equal(r->fake.authenticate.calls, 3);
}

static void guessing(struct rig *r)
{
    rig_hello(r, RIG_SUBMISSION);
    for (int i = 0; i < 4; i++)
        rig_talk(r, "C: AUTH PLAIN AGFsaWNlQGV4YW1wbGUub3JnAHNlY3JldC14\nS: 535 5.7.8");
    rig_talk(r, "C: AUTH PLAIN AGFsaWNlQGV4YW1wbGUub3JnAHNlY3JldC14\nS! 421 4.7.0");
}

static void only_tls(struct rig *r)
{
    r->opts.plain_login = 0;
}
static void loopback_too(struct rig *r)
{
    r->opts.plain_login = 1;
}
static void in_the_clear(struct rig *r)
{
    bool is_refused = r->opts.plain_login == 0 || strcmp(r->peer_ip, "192.0.2.1") == 0;
    rig_connect(r, RIG_SUBMISSION);
    rig_talk(r, "S: 220\nC: EHLO x\nS: 250-mx\nS: 250-PIPELINING\nS: 250-SIZE");
    rig_expect(r, is_refused ? "250-ENHANCED" : "250-AUTH PLAIN LOGIN");
    (void)rig_reply(r);
    rig_talk(r, is_refused ? "C: AUTH PLAIN " ALICE_PLAIN "\nS: 538" : "C: AUTH PLAIN " ALICE_PLAIN "\nS: 235");
}
static void in_the_clear_twice(struct rig *r)
{
    in_the_clear(r);
    r->peer_ip = "127.0.0.1";
    in_the_clear(r);
    r->peer_ip = "::1";
    in_the_clear(r);
}

static void long_lines(struct rig *r)
{
    BUF(b, 1 << 16);
    for (size_t n = 12288; n <= 12289; n++) {
        rig_hello(r, RIG_SUBMISSION);
        buf_clear(&b);
        buf_add(&b, S("AUTH PLAIN "));
        while (b.n < n)
            buf_addc(&b, 'A');
        buf_add(&b, S("\r\n"));
        rig_send(r, buf_str(&b));
        rig_expect(r, n > 12288 ? "500 5.5.6" : "501 5.5.2");
        rig_talk(r, "C: NOOP\nS: 250\nC: AUTH PLAIN\nS: 334");
        rig_send(r, str_slice(buf_str(&b), 11, SIZE_MAX));
        rig_expect(r, "501 5.5.2");
        rig_talk(r, "C: NOOP\nS: 250");
    }
}

static void limited(struct rig *r)
{
    rig_hello(r, RIG_SUBMISSION);
    r->fake.refused_limit = "smtp.recipients.account";
    rig_talk(r,
             "C: AUTH PLAIN " ALICE_PLAIN
             "\nS: 235\nC: MAIL FROM:<alice@example.org>\nS: 250\nC: RCPT TO:<bob@example.org>\nS: 250\n"
             "C: DATA\nS: 450 4.7.1\nC: MAIL FROM:<alice@example.org>\nS: 250\nC: RCPT TO:<bob@example.org>\nS: 250\n"
             "C: BDAT 4\nC: ab\nS: 450 4.7.1\nC: BDAT 4 LAST\nC: ab\nS: 450\nC: NOOP\nS: 250");
    r->fake.refused_limit = NULL;
    r->fake.take.kind = ERR_UNAVAILABLE; /* no limit that cannot be asked is granted */
    rig_talk(r, "C: MAIL FROM:<alice@example.org>\nS: 250\nC: RCPT TO:<bob@example.org>\nS: 250\nC: DATA\nS: 450");
    r->fake.take.kind = ERR_NONE;
    rig_talk(
        r,
        "C: MAIL FROM:<alice@example.org>\nS: 250\nC: RCPT TO:<bob@example.org>\nS: 250\nC: DATA\nS: 354\nC: .\nS: 250");
}

/* While the client thinks about its answer no fiber waits; the exchange goes on where it stood, byte by byte too. */
static void no_fiber_waits(struct rig *r)
{
    static const struct {
        const char *begin, *answer;
    } cases[] = {{"C: AUTH PLAIN\nS: 334", ALICE_PLAIN "\r\n"},
                 {"C: AUTH LOGIN\nS: 334\nC: " ALICE_LOGIN "\nS: 334", ALICE_PASSWORD "\r\n"}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        rig_hello(r, RIG_SUBMISSION);
        rig_settle(r);
        unsigned before = fiber_count();
        rig_talk(r, cases[i].begin);
        rig_settle(r);
        assert_int_equal(fiber_count(), before);
        for (const char *p = cases[i].answer; *p; p++) {
            rig_send(r, str_n(p, 1));
            rig_settle(r);
        }
        rig_expect(r, "235");
    }
}

static void log_in(struct rig *r)
{
    rig_hello(r, RIG_SUBMISSION);
    rig_talk(r, "C: AUTH PLAIN " ALICE_PLAIN "\nS: 235");
}

/* Until the list of logins has been compared with so many answers. */
static void wait_rounds(struct rig *r, unsigned n)
{
    struct err err = ERR_INIT;
    unsigned until = r->fake.credentials.calls + n;
    while (r->fake.credentials.calls < until)
        assert_ok(fiber_sleep_ms(1, &err), &err);
}

static void changed(struct rig *r)
{
    struct fake_address *alice = &r->fake.addresses[0];
    struct err err = ERR_INIT;
    log_in(r); /* between commands */
    wait_rounds(r, 2);
    rig_talk(r, "C: NOOP\nS: 250");
    alice->version++;
    rig_expect(r, "421 4.7.0 Your password");
    rig_expect_end(r);
    log_in(r); /* inside of a transaction, and the account is suspended */
    rig_talk(r, "C: MAIL FROM:<alice@example.org>\nS: 250");
    alice->version = 0;
    rig_expect(r, "421 4.7.0 Your password");
    rig_expect_end(r);
    alice->version = 3;
    log_in(r); /* in the middle of a message: it is not taken */
    rig_talk(r, "C: MAIL FROM:<alice@example.org>\nS: 250\nC: RCPT TO:<bob@example.org>\nS: 250\nC: DATA\nS: 354");
    rig_send(r, S("Subject: x\r\n\r\n"));
    alice->version++;
    while (metric_get(M_LOGINS_ENDED, NULL) < 3)
        assert_ok(fiber_sleep_ms(1, &err), &err);
    rig_send(r, S("body\r\n.\r\n"));
    rig_expect(r, "421 4.7.0 Your password");
    rig_expect_end(r);
    assert_int_equal(r->fake.n_delivered + r->fake.n_queued, 0);
    assert_int_equal(metric_get(M_LOGINS_ENDED, NULL), 3);
}

/* While auth is away sessions go on; what was changed meanwhile is noticed afterwards. */
static void changed_while_away(struct rig *r)
{
    log_in(r);
    r->fake.credentials.kind = ERR_UNAVAILABLE;
    wait_rounds(r, 2);
    r->fake.addresses[0].version++;
    wait_rounds(r, 2);
    rig_talk(r, "C: NOOP\nS: 250");
    r->fake.credentials.kind = ERR_NONE;
    rig_expect(r, "421 4.7.0 Your password");
    rig_expect_end(r);
    assert_true(metric_get(M_LOGINS_FAILURES, NULL) >= 4);
}

/* An answer from before the change that comes after a log-in under the new password. */
static void changed_meanwhile(struct rig *r)
{
    log_in(r);
    r->fake.credentials.delay_ms = 50;
    wait_rounds(r, 1);
    rig_close(r);
    r->fake.addresses[0].version++;
    log_in(r);
    wait_rounds(r, 3);
    rig_talk(r, "C: NOOP\nS: 250");
}

static void test_sasl_plain(void **state)
{
    (void)state;
    struct sasl_plain m;
    assert_true(sasl_plain_parse(str_n("\0user\0pass", 10), &m));
    assert_str(m.authcid, S("user"));
    assert_str(m.password, S("pass"));
    assert_true(sasl_plain_parse(str_n("user\0user\0pass", 14), &m));
    assert_false(sasl_plain_parse(str_n("other\0user\0pass", 15), &m));
    assert_false(sasl_plain_parse(str_n("\0user\0", 6), &m));
    assert_false(sasl_plain_parse(str_n("\0\0pass", 6), &m));
    assert_false(sasl_plain_parse(str_n("\0user\0pa\0s", 10), &m));
    assert_false(sasl_plain_parse(S("user pass"), &m));
    assert_false(sasl_plain_parse(str_n("\0us\xff\0pass", 9), &m));
    assert_false(sasl_plain_parse(S(""), &m));
}

RIG_TEST(plain, NULL)
RIG_TEST(wrong, NULL)
RIG_TEST(guessing, NULL)
RIG_TEST(in_the_clear, only_tls)
RIG_TEST(in_the_clear_twice, loopback_too)
RIG_TEST(long_lines, NULL)
RIG_TEST(limited, NULL)
RIG_TEST(no_fiber_waits, NULL)
RIG_TEST(changed, NULL)
RIG_TEST(changed_while_away, NULL)
RIG_TEST(changed_meanwhile, NULL)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_wrong),
        cmocka_unit_test(test_guessing),
        cmocka_unit_test(test_in_the_clear),
        cmocka_unit_test(test_in_the_clear_twice),
        cmocka_unit_test(test_long_lines),
        cmocka_unit_test(test_limited),
        cmocka_unit_test(test_sasl_plain),
        cmocka_unit_test(test_changed),
        cmocka_unit_test(test_changed_while_away),
        cmocka_unit_test(test_changed_meanwhile),
        cmocka_unit_test(test_no_fiber_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
