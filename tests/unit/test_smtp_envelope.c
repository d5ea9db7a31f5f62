/* MAIL and RCPT: who may send to whom. Nobody relays through us. */
#include "unit/smtp_rig.h"

#include "base/metrics.h"

/* Every form that ever fooled a server, to a domain that is not ours and to our own. */
static const char *const tricks[] = {
    "<victim@elsewhere.example>",
    "<victim%elsewhere.example@example.org>",
    "<\"victim@elsewhere.example\"@example.org>",
    "<\"victim%elsewhere.example\"@example.org>",
    "<\"victim@elsewhere.example\">",
    "<\"victim%elsewhere.example\">",
    "<victim%elsewhere.example>",
    "<@example.org:victim@elsewhere.example>",
    "<@elsewhere.example:victim@elsewhere.example>",
    "<@example.org,@mx.example.org:victim@elsewhere.example>",
    "<elsewhere.example!victim@example.org>",
    "<elsewhere.example!victim>",
    "<example.org!victim@elsewhere.example>",
    "<victim@elsewhere.example@example.org>",
    "<victim@example.org@elsewhere.example>",
    "<victim@[192.0.2.25]>",
    "<victim@[127.0.0.1]>",
    "<alice@[IPv6:::1]>",
    "<victim@elsewhere.example.>",
    "<alice@example.org.>",
    "<victim@mx.example.org>",
    "<victim%elsewhere.example@[192.0.2.25]>",
    "<\"victim@elsewhere.example>\"@example.org>",
    "<victim@elsewhere.example,alice@example.org>",
    "<alice@example.org> <victim@elsewhere.example>",
    "<alice@example.org\\@elsewhere.example>",
    "<:alice@example.org>",
    "<victim@elsewhere.example%example.org>",
    "<alice@xn--exmple-cua.org>",
    "victim@elsewhere.example",
    "<>",
};

static void relay(struct rig *r)
{
    static const char *const senders[] = {"<a@remote.example>", "<>", "<alice@example.org>", "<postmaster@example.org>",
                                          "<victim@elsewhere.example>"};
    for (unsigned kind = RIG_MX; kind <= RIG_LMTP; kind += RIG_LMTP)
        for (size_t i = 0; i < ARRAY_LEN(senders); i++)
            for (size_t k = 0; k < ARRAY_LEN(tricks); k++) {
                if (k % 8 == 0) {
                    rig_hello(r, (enum rig_kind)kind);
                    BUF(mail, 256);
                    buf_printf(&mail, "MAIL FROM:%s\r\n", senders[i]);
                    rig_send(r, buf_str(&mail));
                    rig_expect(r, "250");
                }
                BUF(rcpt, 512);
                buf_printf(&rcpt, "RCPT TO:%s\r\n", tricks[k]);
                rig_send(r, buf_str(&rcpt));
                str got = rig_line(r);
                if (!str_starts(got, S("5")))
                    fail_msg("%s to %s: %.*s", senders[i], tricks[k], STR_ARG(got));
                if (k % 8 == 7)
                    rig_talk(r, "C: DATA\nS: 554");
            }
    assert_int_equal(r->fake.n_queued + r->fake.n_delivered, 0);
}

/* A catch-all must not turn %-routes into deliveries either. */
static void with_catch_all(struct rig *r)
{
    fake_account(&r->fake, "victim%elsewhere.example@example.org", "x", 44);
    fake_account(&r->fake, "a!b@example.org", "x", 45);
}
static void catch_all(struct rig *r)
{
    rig_hello(r, RIG_MX);
    rig_talk(r, "C: MAIL FROM:<>\nS: 250\nC: RCPT TO:<victim%elsewhere.example@example.org>\nS: 550 5.7.1\n"
                "C: RCPT TO:<a!b@example.org>\nS: 550 5.7.1");
}

static void with_states(struct rig *r)
{
    fake_account(&r->fake, "late@example.org", "x", 21)->state = THURN__ACCOUNT_STATE__ACCOUNT_SUSPENDED;
    fake_account(&r->fake, "gone@example.org", "x", 22)->state = THURN__ACCOUNT_STATE__ACCOUNT_CLOSED;
    fake_alias(&r->fake, "ring@example.org", "loop");
    fake_alias(&r->fake, "empty@example.org", "");
    fake_account(&r->fake, "j\xc3\xb6rg@example.org", "x", 23);
    fake_account(&r->fake, "o'neil+x@example.org", "x", 24);
}
static void recipients(struct rig *r)
{
    rig_hello(r, RIG_MX);
    rig_talk(r, "C: MAIL FROM:<a@remote.example>\n"
                "S: 250\n"
                "C: RCPT TO:<alice@example.org>\n"
                "S: 250 2.1.5\n"
                "C: RCPT TO:<ALICE@Example.ORG>\n"
                "S: 250 2.1.5\n"
                "C: RCPT TO:<Postmaster>\n"
                "S: 250 2.1.5\n"
                "C: RCPT TO:<@relay.example:alice@example.org>\n"
                "S: 250 2.1.5\n"
                "C: RCPT TO:<o'neil+x@example.org>\n"
                "S: 250 2.1.5\n"
                "C: RCPT TO:<nobody@example.org>\n"
                "S: 550 5.1.1\n"
                "C: RCPT TO:<late@example.org>\n"
                "S: 450 4.2.1\n"
                "C: RCPT TO:<gone@example.org>\n"
                "S: 550 5.2.1\n"
                "C: RCPT TO:<ring@example.org>\n"
                "S: 550 5.4.6\n"
                "C: RCPT TO:<empty@example.org>\n"
                "S: 550 5.1.1\n"
                "C: RCPT TO:<j\xc3\xb6rg@example.org>\n"
                "S: 553 5.6.7\n"
                "C: RCPT TO:<alice@example.org> NOTIFY=NEVER,DELAY\n"
                "S: 501 5.5.4\n"
                "C: RCPT TO:<alice@example.org> FOO=BAR\n"
                "S: 555 5.5.4\n"
                "C: RSET\n"
                "S: 250\n"
                "C: MAIL FROM:<a@remote.example> SMTPUTF8\n"
                "S: 250\n"
                "C: RCPT TO:<j\xc3\xb6rg@example.org>\n"
                "S: 250");
}

/* Directory away: 4xx, never "unknown user"; what was just known still is. */
static void auth_away(struct rig *r)
{
    rig_hello(r, RIG_MX);
    r->fake.resolve.kind = ERR_UNAVAILABLE;
    rig_talk(r, "C: MAIL FROM:<a@remote.example>\nS: 250\nC: RCPT TO:<alice@example.org>\nS: 451\n"
                "C: RCPT TO:<nobody@example.org>\nS: 451");
    r->fake.resolve.kind = ERR_NONE;
    rig_talk(r, "C: RCPT TO:<alice@example.org>\nS: 250");
    r->fake.resolve.kind = ERR_UNAVAILABLE;
    rig_talk(r, "C: RCPT TO:<alice@example.org>\nS: 250\nC: RCPT TO:<bob@example.org>\nS: 451");
}

static void submission(struct rig *r)
{
    fake_account(&r->fake, "quiet@example.org", "secret-q", 31)->state = THURN__ACCOUNT_STATE__ACCOUNT_RECEIVE_ONLY;
    rig_hello(r, RIG_SUBMISSION);
    rig_talk(r, "C: MAIL FROM:<alice@example.org>\n"
                "S: 530 5.7.0 Authentication\n"
                "C: RCPT TO:<victim@elsewhere.example>\n"
                "S: 503\n"
                "C: AUTH PLAIN AGFsaWNlQGV4YW1wbGUub3JnAHNlY3JldC1h\n"
                "S: 235\n"
                "C: MAIL FROM:<bob@example.org>\n"
                "S: 553 5.7.1\n"
                "C: MAIL FROM:<alice@elsewhere.example>\n"
                "S: 553 5.7.1\n"
                "C: MAIL FROM:<info@example.org>\n" /* an alias of hers */
                "S: 250\n"
                "C: RSET\n"
                "S: 250\n"
                "C: MAIL FROM:<>\n"
                "S: 250\n"
                "C: RSET\n"
                "S: 250\n"
                "C: MAIL FROM:<Alice@Example.org>\n"
                "S: 250\n"
                "C: RCPT TO:<someone@elsewhere.example>\n"
                "S: 250\n"
                "C: RCPT TO:<someone@[192.0.2.7]>\n"
                "S: 550 5.1.2\n"
                "C: RCPT TO:<nobody@example.org>\n"
                "S: 550 5.1.1\n"
                "C: RSET\n"
                "S: 250");
    r->fake.may_send_as.kind = ERR_UNAVAILABLE;
    rig_talk(r, "C: MAIL FROM:<info@example.org>\nS: 451\nC: QUIT\nS! 221");
    rig_hello(r, RIG_SUBMISSION); /* quiet@example.org may log in and not send */
    rig_talk(
        r,
        "C: AUTH PLAIN AHF1aWV0QGV4YW1wbGUub3JnAHNlY3JldC1x\nS: 235\nC: MAIL FROM:<quiet@example.org>\nS: 550 5.7.1");
}

/* What goes to the queue carries what the client asked for. */
static void dsn(struct rig *r)
{
    rig_hello(r, RIG_SUBMISSION);
    rig_talk(r, "C: AUTH PLAIN AGFsaWNlQGV4YW1wbGUub3JnAHNlY3JldC1h\n"
                "S: 235\n"
                "C: MAIL FROM:<alice@example.org> RET=FULL ENVID=e+2Bf BODY=8BITMIME\n"
                "S: 250\n"
                "C: RCPT TO:<x@elsewhere.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;orig+40x\n"
                "S: 250\n"
                "C: RCPT TO:<y@elsewhere.example>\n"
                "S: 250\n"
                "C: DATA\n"
                "S: 354\n"
                "C: Subject: a\n"
                "C: \n"
                "C: .\n"
                "S: 250 2.0.0 Ok: queued as ");
    const Thurn__EnqueueRequest *q = r->fake.last_enqueue;
    assert_string_equal(q->sender, "alice@example.org");
    assert_string_equal(q->envelope_id, "e+2Bf");
    assert_true(q->ret_full && q->is_8bit && !q->is_smtputf8);
    assert_int_equal(q->account_id, 11);
    assert_int_equal(q->tenant_id, 1);
    assert_int_equal(q->n_recipients, 2);
    assert_int_equal(q->recipients[0]->notify, 5);
    assert_string_equal(q->recipients[0]->original, "rfc822;orig+40x");
    assert_int_equal(q->recipients[1]->notify, 0);
    assert_string_equal(q->recipients[1]->original, "y@elsewhere.example");
    assert_string_equal(q->received_from, "client.example [192.0.2.1]");
    assert_int_equal(q->enqueue_id.len, 16);
    assert_true(q->day > 20000);
    /* A success notice for a local mailbox is the queue's business as well. */
    rig_talk(
        r,
        "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org> NOTIFY=SUCCESS\nC: DATA\nS: 250\nS: 250\nS: 354\n"
        "C: Subject: a\nC: \nC: .\nS: 250 2.0.0 Ok: queued as ");
    assert_int_equal(r->fake.n_delivered, 0);
    assert_string_equal(buf_z(&r->fake.queued[1].text), "alice@example.org>bob@example.org");
    /* The same mailbox twice: one copy, and both wishes. */
    rig_talk(r, "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org> NOTIFY=NEVER\n"
                "C: RCPT TO:<bob@example.org> NOTIFY=SUCCESS\nC: DATA\nS: 250\nS: 250\nS: 250\nS: 354\n"
                "C: Subject: a\nC: \nC: .\nS: 250 2.0.0 Ok: queued as ");
    assert_int_equal(r->fake.last_enqueue->n_recipients, 1);
    assert_int_equal(r->fake.last_enqueue->recipients[0]->notify, 1);
    rig_talk(r, "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\n"
                "C: RCPT TO:<bob@example.org> NOTIFY=SUCCESS\nC: DATA\nS: 250\nS: 250\nS: 250\nS: 354\n"
                "C: Subject: a\nC: \nC: .\nS: 250 2.0.0 Ok: queued as ");
    assert_int_equal(r->fake.last_enqueue->recipients[0]->notify, 7); /* failure and delay where nothing was said */
}

RIG_TEST(relay, NULL)
RIG_TEST(catch_all, with_catch_all)
RIG_TEST(recipients, with_states)
RIG_TEST(auth_away, NULL)
RIG_TEST(submission, NULL)
RIG_TEST(dsn, NULL)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_relay),     cmocka_unit_test(test_catch_all),  cmocka_unit_test(test_recipients),
        cmocka_unit_test(test_auth_away), cmocka_unit_test(test_submission), cmocka_unit_test(test_dsn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
