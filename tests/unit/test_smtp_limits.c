/* Limits that a peer can run into: recipients, guesses, rates, slowness. */
#include "unit/smtp_rig.h"

#include "base/clock.h"
#include "base/metrics.h"
#include "fiber/fiber.h"

static void few(struct rig *r)
{
    r->opts.recipients_max = 3;
    r->opts.limits.unknown_max = 4;
}

static void recipients(struct rig *r)
{
    rig_hello(r, RIG_MX);
    rig_talk(
        r,
        "C: MAIL FROM:<>\nS: 250\nC: RCPT TO:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: RCPT TO:<info@example.org>\n"
        "C: RCPT TO:<both@example.org>\nS: 250\nS: 250\nS: 250\nS: 452 4.5.3\n"
        "C: DATA\nS: 354\nC: .\nS: 250\n"); /* those that were accepted get it */
    rig_talk(
        r,
        "C: MAIL FROM:<>\nS: 250\nC: RCPT TO:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: RCPT TO:<info@example.org>\n"
        "S: 250\nS: 250\nS: 250\nC: RCPT TO:<both@example.org>\nC: RCPT TO:<both@example.org>\nC: RCPT TO:<both@example.org>\n"
        "S: 452\nS: 452\nS! 421"); /* who does not listen is told to go */
}

static void many_targets(struct rig *r)
{
    static char targets[64][24], list[64 * 24];
    size_t n = 0;
    for (int i = 0; i < 50; i++) {
        snprintf(targets[i], sizeof(targets[i]), "u%d@elsewhere.example", i);
        n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", i ? " " : "", targets[i]);
    }
    fake_alias(&r->fake, "crowd@example.org", list);
    rig_hello(r, RIG_MX);
    rig_talk(r, "C: MAIL FROM:<>\nS: 250");
    for (int i = 0; i < 20; i++)
        rig_talk(r, "C: RCPT TO:<crowd@example.org>\nS: 250");
    rig_talk(r, "C: RCPT TO:<alice@example.org>\nS: 452 4.5.3"); /* a thousand is what one Enqueue takes */
}

static void unknown(struct rig *r)
{
    rig_hello(r, RIG_MX);
    rig_talk(r, "C: MAIL FROM:<>\nS: 250");
    for (int i = 0; i < 4; i++)
        rig_talk(r, "C: RCPT TO:<nobody@example.org>\nS: 550");
    rig_talk(r, "C: RCPT TO:<nobody@example.org>\nS! 421");
    rig_hello(r, RIG_LMTP); /* a trusted server may have as many as it likes */
    rig_talk(r, "C: MAIL FROM:<>\nS: 250");
    for (int i = 0; i < 10; i++)
        rig_talk(r, "C: RCPT TO:<nobody@example.org>\nS: 550");
    rig_hello(r, RIG_MX);
    r->fake.refused_limit = "smtp.unknown.ip"; /* the cluster has heard enough from this address */
    rig_talk(r, "C: MAIL FROM:<>\nS: 250\nC: RCPT TO:<nobody@example.org>\nS! 421");
}

/* Who asks whether a recipient is there, and sends nothing, makes no mistakes: others verify senders so. RSET alone is
 * junk. */
static void questions(struct rig *r)
{
    rig_hello(r, RIG_MX);
    for (int i = 0; i < 300; i++)
        rig_talk(r, "C: MAIL FROM:<>\nC: RCPT TO:<alice@example.org>\nC: RSET\nS: 250\nS: 250\nS: 250");
    for (unsigned i = 0; i < 119; i++) /* and the EHLO */
        rig_talk(r, "C: RSET\nS: 250");
    rig_talk(r, "C: RSET\nS! 421");
}

static void rate(struct rig *r)
{
    r->fake.refused_limit = "smtp.sessions.ip";
    rig_hello(r, RIG_MX);
    rig_talk(r, "C: MAIL FROM:<>\nS! 421 4.7.0");
    r->peer_ip = "127.0.0.1"; /* not this host's own */
    rig_hello(r, RIG_MX);
    rig_talk(r, "C: MAIL FROM:<>\nS: 250");
    r->peer_ip = "192.0.2.1";
    r->fake.refused_limit = NULL;
    r->fake.take.kind = ERR_UNAVAILABLE; /* a limit that cannot be asked stops nobody from bringing mail */
    rig_hello(r, RIG_MX);
    rig_talk(r, "C: MAIL FROM:<>\nS: 250");
}

static void hasty(struct rig *r)
{
    r->opts.limits.data_timeout_ms = 100;
}

static void slow_data(struct rig *r)
{
    rig_hello(r, RIG_MX);
    rig_talk(r,
             "C: MAIL FROM:<>\nC: RCPT TO:<alice@example.org>\nC: DATA\nS: 250\nS: 250\nS: 354\nC: half\nS! 421 4.4.2");
    rig_hello(r, RIG_MX);
    rig_talk(r, "C: MAIL FROM:<>\nC: RCPT TO:<alice@example.org>\nC: BDAT 100\nS: 250\nS: 250\nC: half\nS! 421 4.4.2");
    assert_int_equal(r->fake.n_delivered, 0);
}

static void impatient(struct rig *r)
{
    r->opts.limits.command_timeout_ms = 300;
}

/* A line beyond the limit, then silence: it holds no fiber, and it ends in time. */
static void endless_line(struct rig *r)
{
    BUF(b, 4 << 20);
    while (b.n < 5000)
        buf_addc(&b, 'x');
    rig_hello(r, RIG_MX);
    rig_settle(r);
    unsigned fibers = fiber_count();
    rig_send(r, buf_str(&b));
    rig_settle(r);
    assert_int_equal(fiber_count(), fibers);
    rig_talk(r, "S! 421 4.4.2");
    rig_hello(r, RIG_MX); /* after a whole command in the same packet */
    rig_send(r, S("NOOP\r\n"));
    rig_send(r, buf_str(&b));
    rig_talk(r, "S: 250\nS! 421 4.4.2");
    rig_hello(r, RIG_MX); /* its end does come */
    rig_send(r, buf_str(&b));
    rig_settle(r);
    rig_send(r, S("x\r\nNOOP\r\n"));
    rig_talk(r, "S: 500 5.5.6\nS: 250");
    while (b.n < 2 << 20)
        buf_addc(&b, 'x');
    rig_hello(r, RIG_MX); /* nobody needs that many bytes */
    rig_send(r, str_slice(buf_str(&b), 0, (1 << 20) + 1));
    rig_talk(r, "S! 500 5.5.6");
    rig_hello(r, RIG_SUBMISSION); /* in the middle of AUTH */
    rig_talk(r, "C: AUTH PLAIN\nS: 334");
    rig_send(r, str_slice(buf_str(&b), 0, 20000));
    rig_talk(r, "S! 500 5.5.6");
}

/* Many at once: each gets its own message. */
struct one {
    struct rig *r;
    struct stream *client;
    bool is_done;
};
static void crowd(struct rig *r)
{
    struct one all[40] = {{.r = NULL}};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        rig_hello(r, RIG_MX);
        all[i].client = r->client;
        r->client = NULL;
    }
    assert_int_equal(smtp_server_sessions(r->server), ARRAY_LEN(all));
    for (size_t round = 0; round < 2; round++)
        for (size_t i = 0; i < ARRAY_LEN(all); i++) {
            r->client = all[i].client;
            rig_talk(r, round ? "C: DATA\nS: 354\nC: Subject: x\nC: \nC: .\nS: 250"
                              : "C: MAIL FROM:<a@remote.example>\nC: RCPT TO:<alice@example.org>\nS: 250\nS: 250");
        }
    assert_int_equal(r->fake.n_delivered, ARRAY_LEN(all));
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        r->client = all[i].client;
        rig_close(r);
    }
}

RIG_TEST(recipients, few)
RIG_TEST(many_targets, NULL)
RIG_TEST(unknown, few)
RIG_TEST(rate, NULL)
RIG_TEST(questions, NULL)
RIG_TEST(slow_data, hasty)
RIG_TEST(endless_line, impatient)
RIG_TEST(crowd, NULL)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recipients), cmocka_unit_test(test_many_targets), cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_rate),       cmocka_unit_test(test_questions),    cmocka_unit_test(test_slow_data),
        cmocka_unit_test(test_crowd),      cmocka_unit_test(test_endless_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
