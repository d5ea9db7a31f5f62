/* After the final dot: straight to the mailboxes, or to the queue; what is said when something is away. */
#include "unit/smtp_rig.h"

#include "base/clock.h"
#include "base/metrics.h"
#include "mail/delivery_key.h"

static void send_to(struct rig *r, const char *rcpts)
{
    str rest = str_c(rcpts), one;
    rig_talk(r, "C: MAIL FROM:<a@remote.example>\nS: 250");
    while (str_split(&rest, ' ', &one)) {
        BUF(b, 256);
        buf_printf(&b, "RCPT TO:<%.*s>\r\n", STR_ARG(one));
        rig_send(r, buf_str(&b));
        rig_expect(r, "250");
    }
    rig_talk(r, "C: DATA\nS: 354\nC: Subject: x\nC: \nC: text\nC: .");
}

static void direct(struct rig *r)
{
    rig_hello(r, RIG_MX);
    send_to(r, "alice@example.org");
    rig_expect(r, "250 2.0.0 Ok: delivered as ");
    assert_int_equal(r->fake.n_delivered, 1);
    assert_string_equal(buf_z(&r->fake.delivered[0].text), "alice@example.org");
    assert_int_equal(r->fake.delivered[0].day, clock_unix() / 86400);
    assert_int_equal(r->fake.deliver.calls, 1);
    assert_int_equal(r->fake.take.calls, 1); /* one a session */
    assert_int_equal(r->fake.enqueue.calls + r->fake.put_blob.calls, 0);
    send_to(r, "alice@example.org bob@example.org");
    rig_expect(r, "250 2.0.0 Ok: delivered as ");
    assert_int_equal(r->fake.deliver.calls, 2); /* one call for all of them */
    assert_int_equal(r->fake.n_delivered, 3);
    assert_memory_not_equal(r->fake.delivered[1].key, r->fake.delivered[2].key, 32);
    assert_int_equal(r->fake.take.calls, 1);
    assert_int_equal(r->fake.resolve.calls, 2); /* the cache */
}

/* Each mailbox gets one copy, by however many addresses it is reached. */
static void once(struct rig *r)
{
    rig_hello(r, RIG_MX);
    send_to(r, "both@example.org alice@example.org info@example.org bob@example.org both@example.org");
    rig_expect(r, "250 2.0.0 Ok: delivered");
    assert_int_equal(r->fake.n_delivered, 2);
    assert_string_equal(buf_z(&r->fake.delivered[0].text), "alice@example.org");
    assert_string_equal(buf_z(&r->fake.delivered[1].text), "bob@example.org");
}

/* An alias that leaves the house: one commit of the queue for all. */
static void mixed(struct rig *r)
{
    rig_hello(r, RIG_MX);
    send_to(r, "bob@example.org away@example.org");
    rig_expect(r, "250 2.0.0 Ok: queued as ");
    assert_int_equal(r->fake.deliver.calls, 0);
    assert_string_equal(buf_z(&r->fake.queued[0].text),
                        "a@remote.example>bob@example.org,alice@example.org,someone@elsewhere.example");
    assert_string_equal(r->fake.last_enqueue->recipients[2]->original, "away@example.org");
    assert_int_equal(r->fake.last_enqueue->tenant_id, 1);
    str content = buf_str(&r->fake.queued[0].content);
    assert_true(str_starts(content, S("Return-Path: <a@remote.example>\r\nReceived: ")));
    assert_int_equal(r->fake.queued[0].prefix_n, strlen("Return-Path: <a@remote.example>\r\n"));
}

static void must_have_keys_of_queue(struct rig *r, size_t delivered, uint32_t number)
{
    unsigned char key[DELIVERY_KEY_SIZE];
    delivery_key(r->fake.last_enqueue->enqueue_id.data, number, key);
    assert_memory_equal(key, r->fake.delivered[delivered].key, sizeof(key));
    assert_int_equal(r->fake.last_enqueue->day, r->fake.delivered[delivered].day);
}

/* The store is away, or does not say whether it did it: the queue takes over with the same keys. */
static void fallback(struct rig *r)
{
    static const enum err_kind kinds[] = {ERR_UNAVAILABLE, ERR_TIMEOUT, ERR_INTERNAL, ERR_CONFLICT};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        for (int after = 0; after < 2; after++) {
            size_t before = r->fake.n_delivered;
            r->fake.deliver.kind = kinds[i];
            r->fake.deliver.after = after;
            rig_hello(r, RIG_MX);
            send_to(r, "bob@example.org alice@example.org");
            rig_expect(r, "250 2.0.0 Ok: queued as ");
            assert_string_equal(buf_z(&r->fake.queued[r->fake.n_queued - 1].text),
                                "a@remote.example>bob@example.org,alice@example.org");
            assert_int_equal(r->fake.n_delivered, before + (after ? 2 : 0));
            for (uint32_t k = 0; after && k < 2; k++)
                must_have_keys_of_queue(r, before + k, k);
        }
    assert_int_equal(metric_get(M_SMTP_FALLBACKS, NULL), 2 * ARRAY_LEN(kinds));
}

static void hasty(struct rig *r)
{
    r->opts.limits.deliver_ms = 50;
    r->opts.limits.enqueue_ms = 50;
}

static void late(struct rig *r)
{
    r->fake.deliver.delay_ms = 10000;
    rig_hello(r, RIG_MX);
    send_to(r, "alice@example.org");
    rig_expect(r, "250 2.0.0 Ok: queued as ");
    r->fake.enqueue.delay_ms = 10000;
    send_to(r, "alice@example.org");
    rig_expect(r, "451 4.3.0");
    rig_talk(r, "C: NOOP\nS: 250");
}

/* Both away: 4xx, and the session goes on. */
static void all_away(struct rig *r)
{
    r->fake.deliver.kind = r->fake.enqueue.kind = ERR_UNAVAILABLE;
    rig_hello(r, RIG_MX);
    send_to(r, "alice@example.org");
    rig_talk(r, "S: 451 4.3.0\nC: DATA\nS: 503");
    send_to(r, "away@example.org");
    rig_expect(r, "451 4.3.0");
    r->fake.enqueue.kind = ERR_BUSY;
    send_to(r, "away@example.org");
    rig_expect(r, "452 4.3.1");
    r->fake.enqueue.kind = ERR_NONE;
    send_to(r, "away@example.org");
    rig_expect(r, "250 2.0.0 Ok: queued as ");
}

/* What a mailbox says of itself. */
static void mailbox_says(struct rig *r)
{
    r->fake.addresses[0].deliver = ERR_QUOTA;
    rig_hello(r, RIG_MX);
    send_to(r, "alice@example.org");
    rig_expect(r, "452 4.2.2");
    rig_talk(
        r,
        "C: MAIL FROM:<> SIZE=100000\nS: 250\nC: RCPT TO:<alice@example.org>\nS: 452 4.2.2\nC: RSET\nS: 250\n" /* remembered
                                                                                                                */
        "C: MAIL FROM:<>\nS: 250\nC: RCPT TO:<alice@example.org>\nS: 250\nC: RSET\nS: 250");
    send_to(r, "both@example.org"); /* one of two is full: the queue tries on */
    rig_expect(r, "250 2.0.0 Ok: queued as ");
    assert_int_equal(r->fake.n_delivered, 1);
    must_have_keys_of_queue(r, 0, 1);
    r->fake.addresses[0].deliver = ERR_INVALID;
    send_to(r, "info@example.org");
    rig_expect(r, "554 5.6.0");
    r->fake.addresses[0].deliver = ERR_CONFLICT; /* moved to another shard */
    unsigned asked = r->fake.resolve.calls;
    send_to(r, "info@example.org");
    rig_expect(r, "250 2.0.0 Ok: queued as ");
    r->fake.addresses[0].deliver = ERR_NONE;
    send_to(r, "info@example.org");
    rig_expect(r, "250 2.0.0 Ok: delivered");
    assert_int_equal(r->fake.resolve.calls, asked + 1); /* not from the cache any more */
}

static void lmtp(struct rig *r)
{
    rig_hello(r, RIG_LMTP);
    rig_talk(r, "C: EHLO x\nS: 502");
    send_to(r, "alice@example.org both@example.org bob@example.org");
    rig_talk(
        r,
        "S: 250 2.1.5 <alice@example.org> delivered\nS: 250 2.1.5 <both@example.org> delivered\nS: 250 2.1.5 <bob@example.org> delivered");
    r->fake.addresses[0].deliver = ERR_QUOTA;
    send_to(r, "alice@example.org bob@example.org");
    rig_talk(r, "S: 452 4.2.2\nS: 250 2.1.5 <bob@example.org> delivered\nC: NOOP\nS: 250 2.0.0");
    assert_int_equal(r->fake.n_queued, 0);
    r->fake.addresses[0].deliver = ERR_NONE;
    r->fake.deliver.kind = ERR_UNAVAILABLE;
    /* it may have taken effect: with other keys the sender would make a second copy */
    send_to(r, "bob@example.org both@example.org");
    rig_talk(r, "S: 250 2.1.5 <bob@example.org> queued\nS: 250 2.1.5 <both@example.org> queued\nC: NOOP\nS: 250 2.0.0");
    assert_int_equal(r->fake.n_queued, 1);
    send_to(r, "bob@example.org away@example.org");
    rig_talk(r, "S: 250 2.1.5 <bob@example.org> queued\nS: 250 2.1.5 <away@example.org> queued\nC: NOOP\nS: 250 2.0.0");
    r->fake.deliver.kind = ERR_NONE;
    rig_talk(
        r,
        "C: MAIL FROM:<>\nC: RCPT TO:<bob@example.org>\nC: RCPT TO:<nobody@example.org>\nC: RCPT TO:<info@example.org>\nC: DATA\n"
        "S: 250\nS: 250\nS: 550\nS: 250\nS: 354\nC: bare\nC: .\n"
        "S: 250 2.1.5 <bob@example.org>\nS: 250 2.1.5 <info@example.org>\nC: NOOP\nS: 250 2.0.0");
    str text = buf_str(&r->fake.delivered[r->fake.n_delivered - 1].content);
    assert_true(str_find_str(text, S(" with LMTP id ")) > 0);
    rig_talk(r, "C: MAIL FROM:<>\nC: RCPT TO:<bob@example.org>\nC: RCPT TO:<info@example.org>\nS: 250\nS: 250\nS: 250");
    rig_send(r, S("BDAT 3 LAST\r\na\nb"));
    rig_talk(r, "S: 550 5.6.0\nS: 550 5.6.0\nC: NOOP\nS: 250 2.0.0");
}

/* A recipient with a target that has the message, and one that has not, is not to come again: the queue goes on, with
 * the same keys. */
static void lmtp_split(struct rig *r)
{
    static const enum err_kind kinds[] = {ERR_QUOTA, ERR_UNAVAILABLE, ERR_CONFLICT, ERR_BUSY};
    rig_hello(r, RIG_LMTP);
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        size_t before = r->fake.n_delivered;
        r->fake.addresses[0].deliver = kinds[i];
        send_to(r, "both@example.org bob@example.org");
        rig_talk(
            r, "S: 250 2.1.5 <both@example.org> queued\nS: 250 2.1.5 <bob@example.org> queued\nC: NOOP\nS: 250 2.0.0");
        assert_int_equal(r->fake.n_queued, i + 1);
        assert_int_equal(r->fake.n_delivered, before + 1); /* bob's */
        assert_int_equal(r->fake.last_enqueue->n_recipients, 2);
        must_have_keys_of_queue(r, before, 1);
        /* the queue does not take it: the sender has to know, and will come again */
        r->fake.enqueue.kind = ERR_UNAVAILABLE;
        send_to(r, "both@example.org bob@example.org");
        rig_talk(r, kinds[i] == ERR_QUOTA ? "S: 452" : "S: 451");
        rig_talk(r, "S: 250 2.1.5 <bob@example.org> delivered\nC: NOOP\nS: 250 2.0.0");
        r->fake.enqueue.kind = ERR_NONE;
    }
    /* for good: nobody comes again */
    r->fake.addresses[0].deliver = ERR_INVALID;
    send_to(r, "both@example.org");
    rig_talk(r, "S: 554\nC: NOOP\nS: 250 2.0.0");
    /* nobody knows whether it is there */
    r->fake.addresses[0].deliver = ERR_NONE;
    r->fake.deliver.kind = ERR_TIMEOUT;
    r->fake.deliver.after = true;
    size_t before = r->fake.n_delivered;
    send_to(r, "bob@example.org");
    rig_talk(r, "S: 250 2.1.5 <bob@example.org> queued\nC: NOOP\nS: 250 2.0.0");
    must_have_keys_of_queue(r, before, 0);
}

/* The peer is gone when the answer comes: the message stays delivered. */
static void peer_gone(struct rig *r)
{
    struct err err = ERR_INIT;
    r->fake.deliver.delay_ms = 20;
    rig_hello(r, RIG_MX);
    send_to(r, "alice@example.org");
    rig_settle(r);
    stream_abort(r->client);
    r->client = NULL;
    while (smtp_server_sessions(r->server))
        assert_ok(fiber_sleep_ms(1, &err), &err);
    assert_int_equal(r->fake.n_delivered, 1);
}

RIG_TEST(direct, NULL)
RIG_TEST(once, NULL)
RIG_TEST(mixed, NULL)
RIG_TEST(fallback, NULL)
RIG_TEST(late, hasty)
RIG_TEST(all_away, NULL)
RIG_TEST(mailbox_says, NULL)
RIG_TEST(lmtp, NULL)
RIG_TEST(lmtp_split, NULL)
RIG_TEST(peer_gone, NULL)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_direct),       cmocka_unit_test(test_once), cmocka_unit_test(test_mixed),
        cmocka_unit_test(test_fallback),     cmocka_unit_test(test_late), cmocka_unit_test(test_all_away),
        cmocka_unit_test(test_mailbox_says), cmocka_unit_test(test_lmtp), cmocka_unit_test(test_lmtp_split),
        cmocka_unit_test(test_peer_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
