/*
 * Random walks over the commands against a model of RFC 5321's states: after every reply, whatever it was, the session
 * is in the state that the model says. Failures of the services come at random as well.
 */
#include "unit/smtp_rig.h"

#include "base/clock.h"
#include "base/metrics.h"

struct model {
    bool hello, mail, chunks, broken_chunks;
    unsigned rcpts;
};
static struct model m;
static unsigned long delivered, queued;

static void forget(void)
{
    m.mail = m.chunks = m.broken_chunks = false;
    m.rcpts = 0;
}

/* Send, and compare the reply's code with what the model wants: "250", or one of two "250|451". */
static str say(struct rig *r, const char *text, const char *want)
{
    rig_send(r, str_c(text));
    str got = rig_reply(r);
    str rest = str_c(want), one;
    while (str_split(&rest, '|', &one))
        if (one.n && str_starts(got, one))
            return got;
    fail_msg("'%s' got '%.*s', want %s (hello %d mail %d rcpts %u chunks %d)", text, STR_ARG(got), want, m.hello,
             m.mail, m.rcpts, m.chunks);
    return got;
}

static void accepted(str got, bool away)
{
    if (str_starts(got, S("250")))
        (str_find_str(got, S("queued")) > 0 ? ++queued : ++delivered);
    else
        assert_true(away);
    forget();
}

static void step(struct rig *r, bool away)
{
    bool can_end = m.hello && m.mail && m.rcpts;
    switch (random_below(15)) {
    case 0:
        (void)say(r, "EHLO x\r\n", "250");
        forget();
        m.hello = true;
        break;
    case 1:
        (void)say(r, "HELO \r\n", "501");
        break;
    case 2:
    case 3:
        (void)say(r, "MAIL FROM:<a@remote.example>\r\n", !m.hello || m.mail ? "503" : "250");
        m.mail = m.hello;
        break;
    case 4:
        (void)say(r, "MAIL FROM:<a@remote.example> FOO\r\n", !m.hello || m.mail ? "503" : "555");
        break;
    case 5:
    case 6:
        (void)say(r, "RCPT TO:<alice@example.org>\r\n", !m.hello || !m.mail || m.chunks ? "503" : "250");
        if (m.hello && m.mail && !m.chunks)
            m.rcpts++;
        break;
    case 7:
        (void)say(r, "RCPT TO:<away@example.org>\r\n", !m.hello || !m.mail || m.chunks ? "503" : "250");
        if (m.hello && m.mail && !m.chunks)
            m.rcpts++;
        break;
    case 8:
        (void)say(r, "RCPT TO:<nobody@example.org>\r\n", !m.hello || !m.mail || m.chunks ? "503" : "550");
        break;
    case 9:
        if (!m.hello || !m.mail || m.chunks || !m.rcpts) {
            (void)say(r, "DATA\r\n", "503|554");
            break;
        }
        (void)say(r, "DATA\r\n", "354");
        if (random_below(4) == 0) {
            (void)say(r, "bare\nnewline\r\n.\r\n", "550");
            forget();
        } else {
            accepted(say(r, "Subject: x\r\n\r\n..\r\n.\r\n", "250|451"), away);
        }
        break;
    case 10:
        (void)say(r, "BDAT 6\r\nQUIT\r\n", !can_end ? "503|554" : m.broken_chunks ? "550" : "250");
        m.chunks |= can_end;
        break;
    case 11:
        (void)say(r, "BDAT 3\r\na\nb", !can_end ? "503|554" : "550");
        m.chunks |= can_end;
        m.broken_chunks |= can_end;
        break;
    case 12:
        if (!can_end)
            (void)say(r, "BDAT 6 LAST\r\nQUIT\r\n", "503|554");
        else if (m.broken_chunks)
            (void)say(r, "BDAT 6 LAST\r\nQUIT\r\n", "550");
        else
            accepted(say(r, "BDAT 6 LAST\r\nQUIT\r\n", "250|451"), away);
        if (can_end)
            forget();
        break;
    case 13:
        (void)say(r, "RSET\r\n", "250");
        forget();
        break;
    default:
        (void)say(r, random_below(2) ? "NOOP\r\n" : "FOO\r\n", "250|500");
    }
}

static void patient(struct rig *r)
{
    r->opts.limits.bad_soft = r->opts.limits.bad_hard = 1000000;
    r->opts.limits.junk_max = r->opts.limits.unknown_max = 1000000;
}

static void walk(struct rig *r)
{
    for (int session = 0; session < 10; session++) {
        rig_connect(r, RIG_MX);
        rig_expect(r, "220");
        m = (struct model){.hello = false};
        for (int i = 0; i < 400; i++) {
            bool away = random_below(4) == 0;
            r->fake.deliver.kind = away ? ERR_UNAVAILABLE : ERR_NONE;
            r->fake.enqueue.kind = away ? ERR_UNAVAILABLE : ERR_NONE;
            step(r, away);
        }
        rig_talk(r, "C: QUIT\nS! 221");
    }
    assert_true(delivered > 5 && queued > 5);
    assert_int_equal(r->fake.n_queued, queued);
    assert_true(r->fake.n_delivered >= delivered);
}

static void test_walk(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        random_seed(seed);
        delivered = queued = 0;
        rig_run(patient, walk);
    }
    random_seed(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_walk)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
