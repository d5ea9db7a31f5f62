/* The message: DATA and BDAT, its size, its line ends, trace fields, streaming of large ones. */
#include "unit/smtp_rig.h"

#include "base/metrics.h"

static void begin(struct rig *r)
{
    rig_hello(r, RIG_MX);
    rig_talk(r, "C: MAIL FROM:<a@remote.example>\nC: RCPT TO:<alice@example.org>\nS: 250\nS: 250");
}

static void begin_data(struct rig *r)
{
    begin(r);
    rig_talk(r, "C: DATA\nS: 354");
}

/* What was delivered last, after its trace fields. */
static str last_body(struct rig *r)
{
    assert_true(r->fake.n_delivered > 0);
    str text = buf_str(&r->fake.delivered[MIN(r->fake.n_delivered, (size_t)FAKE_MAX) - 1].content);
    ptrdiff_t date = str_find_str(text, S(";\r\n\t"));
    assert_true(str_starts(
        text,
        S("Return-Path: <a@remote.example>\r\nReceived: from client.example ([192.0.2.1])\r\n\tby mx.example.org (Thurn) with ESMTP id ")));
    assert_true(date > 0);
    str rest = str_slice(text, (size_t)date + 4, SIZE_MAX);
    return str_slice(rest, (size_t)str_find(rest, '\n') + 1, SIZE_MAX);
}

static void data(struct rig *r)
{
    static const struct {
        const char *wire, *body;
    } cases[] = {
        {"Subject: x\r\n\r\nhello\r\n.\r\n", "Subject: x\r\n\r\nhello\r\n"},
        {"Subject: x\r\n\r\n..\r\n..hidden\r\n.\r\n", "Subject: x\r\n\r\n.\r\n.hidden\r\n"},
        {"Subject: x\r\n.\r\n", "Subject: x\r\n"},
        {".\r\n", ""},
        {"\r\nno header\r\n.\r\n", "\r\nno header\r\n"},
        {"only text\r\n.\r\n", "\r\nonly text\r\n"}, /* ours must not swallow it */
        {"Subject: 8 bit\r\n\r\n\xc3\xb6\r\n.\r\n", "Subject: 8 bit\r\n\r\n\xc3\xb6\r\n"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        str wire = str_c(cases[i].wire);
        for (size_t cut = 0; cut <= wire.n; cut++) {
            begin_data(r);
            rig_send(r, str_slice(wire, 0, cut));
            rig_settle(r);
            rig_send(r, str_slice(wire, cut, SIZE_MAX));
            rig_talk(r, "S: 250 2.0.0 Ok: delivered as \nC: QUIT\nS! 221");
            assert_str(last_body(r), str_c(cases[i].body));
        }
    }
    assert_int_equal(r->fake.n_queued, 0);
}

static void short_wait(struct rig *r)
{
    r->opts.limits.stray_timeout_ms = 100;
    r->opts.limits.bad_soft = 1000;
    r->opts.limits.bad_hard = 1000;
}

/* Messages that carry another one inside, for a server that is not careful about line ends. */
static void smuggling(struct rig *r)
{
    static const char *const ends[] = {"\n.\n",   "\n.\r\n",   "\r\n.\n",       "\r.\r", "\r.\r\n",
                                       "\r\n.\r", "\n\n.\r\n", "\r\r\n.\r\r\n", "\n.\r", "\r.\n"};
    for (size_t i = 0; i < ARRAY_LEN(ends); i++)
        for (int by_bdat = 0; by_bdat < 2; by_bdat++) {
            BUF(b, 4096);
            buf_add(&b, S("Subject: outer\r\n\r\ntext"));
            buf_add(&b, str_c(ends[i]));
            buf_add(
                &b,
                S("MAIL FROM:<evil@remote.example>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\nSubject: inner\r\n\r\ngotcha\r\n"));
            begin(r);
            if (by_bdat) {
                BUF(cmd, 64);
                buf_printf(&cmd, "BDAT %zu LAST\r\n", b.n);
                rig_send(r, buf_str(&cmd));
            } else {
                rig_talk(r, "C: DATA\nS: 354");
                buf_add(&b, S(".\r\n"));
            }
            rig_send(r, buf_str(&b));
            rig_talk(r, "S: 550 5.6.0\nC: NOOP\nS: 250\nC: MAIL FROM:<a@remote.example>\nS: 250\nC: QUIT\nS! 221");
        }
    assert_int_equal(r->fake.n_delivered + r->fake.n_queued, 0);
    assert_int_equal(metric_get(M_SMTP_REFUSED, "bare_newline"), 2 * ARRAY_LEN(ends));
    begin_data(r); /* a client that ends everything by LF waits, and is told */
    rig_send(r, S("Subject: x\n\nhello\n.\nQUIT\n"));
    rig_talk(r, "S! 550 5.6.0");
}

static void tiny(struct rig *r)
{
    r->opts.message_max = 1000;
    r->opts.limits.received_max = 3;
    r->opts.limits.chunks_max = 5;
}

static void add_lines(struct buf *b, size_t n)
{
    while (b->n < n)
        buf_add(b,
                n - b->n >= 66 ? S("abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcd\r\n") : S("\r\n"));
}

static void sizes(struct rig *r)
{
    BUF(b, 1 << 16);
    rig_hello(r, RIG_MX);
    rig_talk(
        r,
        "C: MAIL FROM:<a@remote.example> SIZE=1001\nS: 552 5.3.4\nC: MAIL FROM:<a@remote.example> SIZE=1000\nS: 250");
    for (int over = 0; over < 2; over++) {
        begin_data(r);
        buf_clear(&b);
        buf_add(&b, S("Subject: x\r\n\r\n"));
        add_lines(&b, over ? 1002 : 1000);
        buf_add(&b, S(".\r\n"));
        rig_send(r, buf_str(&b));
        rig_talk(r, over ? "S: 552 5.3.4\nC: MAIL FROM:<>\nS: 250" : "S: 250 2.0.0");
    }
    begin(r);
    BUF(cmd, 64);
    buf_printf(&cmd, "BDAT %zu LAST\r\n", b.n);
    rig_send(r, buf_str(&cmd));
    rig_send(r, buf_str(&b));
    rig_talk(r, "S: 552 5.3.4\nC: RCPT TO:<alice@example.org>\nS: 503"); /* the transaction is over */
    begin(r);
    rig_talk(r, "C: BDAT 1000000000000 LAST\nS! 552"); /* more than anyone would throw away */
}

static void loops(struct rig *r)
{
    for (int n = 3; n <= 4; n++) {
        begin_data(r);
        for (int i = 0; i < n; i++)
            rig_talk(r, "C: Received: from a by b\nC: \tfolded");
        rig_talk(r, n > 3 ? "C: \nC: Received: x\nC: .\nS: 554 5.4.6" : "C: \nC: Received: x\nC: .\nS: 250");
    }
}

static void bdat(struct rig *r)
{
    begin(r);
    rig_talk(r, "C: BDAT 11\nC: Subject: x\nS: 250\nS: 500 5.5.2"); /* one byte more than said is a command */
    begin(r);
    rig_send(r, S("BDAT 14\r\nSubject: x\r\n\r\nBDAT 7\r\nhello\r\nBDAT 0 LAST\r\n"));
    rig_talk(r, "S: 250\nS: 250\nS: 250 2.0.0 Ok: delivered");
    assert_str(last_body(r), S("Subject: x\r\n\r\nhello\r\n"));
    begin(r);
    rig_send(r, S("BDAT 21 LAST\r\nSubject: x\r\n\r\n.\r\nhell")); /* no dots, and a line end is added */
    rig_talk(r, "S: 250 2.0.0 Ok: delivered");
    assert_str(last_body(r), S("Subject: x\r\n\r\n.\r\nhell\r\n"));
    begin(r);
    rig_send(r, S("BDAT 3\r\na: BDAT 2\r\n\r\nDATA\r\n"));
    rig_talk(r, "S: 250\nS: 250\nS: 503 5.5.1");
    rig_talk(
        r,
        "C: RCPT TO:<bob@example.org>\nS: 503\nC: MAIL FROM:<>\nS: 503\nC: RSET\nS: 250\nC: BDAT 4 LAST\nC: xx\nS: 503\nC: NOOP\nS: 250");
    begin(r);
    rig_talk(r, "C: BDAT x\nS! 501");
    begin(r);
    for (int i = 0; i < 5; i++)
        rig_talk(r, "C: BDAT 0\nS: 250");
    rig_talk(r, "C: BDAT 0\nS! 552");
    rig_hello(r, RIG_MX); /* without a recipient the chunk is no command either */
    rig_send(r, S("MAIL FROM:<a@remote.example>\r\nRCPT TO:<nobody@example.org>\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n"));
    rig_talk(r, "S: 250\nS: 550\nS: 554 5.5.1\nS: 250");
    rig_hello(r, RIG_MX); /* who pipelines could not know: no mistake, however often */
    for (int i = 0; i < 25; i++) {
        rig_send(r, S("MAIL FROM:<a@remote.example>\r\nRCPT TO:<nobody@example.org>\r\nBDAT 2 LAST\r\nxxRSET\r\n"));
        rig_talk(r, "S: 250\nS: 550\nS: 554 5.5.1\nS: 250");
    }
}

/* --- larger than memory --- */

static void small_memory(struct rig *r)
{
    r->opts.limits.inline_max = 20000;
    r->opts.limits.header_max = 5000;
    r->opts.message_max = 1000000;
}

static void big_message(struct buf *b, size_t n)
{
    buf_add(b, S("Subject: big\r\n\r\n"));
    for (unsigned i = 0; b->n < n; i++)
        buf_printf(b, "line %u of a message that is larger than what is kept in memory\r\n", i);
}

static void large(struct rig *r)
{
    static const size_t sizes[] = {19900, 20000, 20100, 70000, 500000};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        BUF(b, 2 << 20);
        big_message(&b, sizes[i]);
        size_t n = b.n;
        begin_data(r);
        rig_send(r, buf_str(&b));
        rig_talk(r, "C: .\nS: 250 2.0.0 Ok: delivered");
        assert_str(last_body(r), str_slice(buf_str(&b), 0, n));
        assert_int_equal(r->fake.delivered[r->fake.n_delivered - 1].was_blob, n > 20000);
        for (size_t chunk = 7001; chunk < n * 2; chunk *= 9) { /* the same by BDAT, in chunks of several sizes */
            BUF(wire, 4 << 20);
            size_t at = 0, chunks = 0;
            begin(r);
            while (at < n) {
                size_t take = MIN(chunk, n - at);
                buf_printf(&wire, "BDAT %zu%s\r\n", take, at + take == n ? " LAST" : "");
                buf_add(&wire, str_slice(buf_str(&b), at, at + take));
                at += take;
                chunks++;
            }
            buf_add(&wire, S("NOOP\r\n"));
            rig_send(r, buf_str(&wire));
            for (size_t k = 1; k < chunks; k++)
                rig_expect(r, "250 2.0.0 Ok");
            rig_talk(r, "S: 250 2.0.0 Ok: delivered\nS: 250 2.0.0 Ok");
            assert_str(last_body(r), str_slice(buf_str(&b), 0, n));
        }
    }
}

/* Nothing but stuffed dots, in and out of memory. */
static void large_dots(struct rig *r)
{
    BUF(wire, 1 << 20);
    BUF(body, 1 << 20);
    buf_add(&wire, S("Subject: dots\r\n\r\n"));
    buf_add(&body, buf_str(&wire));
    for (int i = 0; i < 30000; i++) {
        buf_add(&wire, S("..\r\n"));
        buf_add(&body, S(".\r\n"));
    }
    begin_data(r);
    rig_send(r, buf_str(&wire));
    rig_talk(r, "C: .\nS: 250 2.0.0 Ok: delivered");
    assert_str(last_body(r), buf_str(&body));
    assert_true(r->fake.delivered[0].was_blob);
}

/* The header ends where text begins, with a blank line or without. */
static void large_text(struct rig *r)
{
    begin_data(r); /* text without a header, and without a blank line */
    for (int i = 0; i < 1000; i++)
        rig_talk(r, "C: something that is no header: repeated and repeated");
    rig_talk(r, "C: .\nS: 250 2.0.0");
    begin_data(r); /* a field, and then text */
    rig_talk(r, "C: Subject: x\nC:  folded");
    for (int i = 0; i < 1000; i++)
        rig_talk(r, "C: something that is repeated and repeated");
    rig_talk(r, "C: .\nS: 250 2.0.0");
    str text = buf_str(&r->fake.delivered[0].content); /* our fields do not swallow it */
    assert_true(str_find_str(text, S("\r\n\r\nsomething that is no header: repeated")) > 0);
    text = buf_str(&r->fake.delivered[1].content);
    assert_true(str_find_str(text, S("\r\nSubject: x\r\n folded\r\nsomething")) > 0);
}

static void large_fails(struct rig *r)
{
    BUF(b, 2 << 20);
    big_message(&b, 300000);
    r->fake.put_blob.kind = ERR_UNAVAILABLE; /* at once: the rest is read, and not obeyed */
    begin_data(r);
    rig_send(r, buf_str(&b));
    rig_talk(r, "C: .\nS: 451 4.3.0\nC: NOOP\nS: 250");
    r->fake.put_blob.kind = ERR_NONE;
    r->fake.blob_stop_at = 100000; /* in the middle */
    begin_data(r);
    rig_send(r, buf_str(&b));
    rig_talk(r, "C: .\nS: 451 4.3.0\nC: NOOP\nS: 250");
    r->fake.blob_stop_at = 0;
    begin_data(r); /* the sender's fault, seen after the upload began */
    rig_send(r, buf_str(&b));
    rig_send(r, S("bare\nlf\r\n"));
    rig_send(r, buf_str(&b));
    rig_talk(r, "C: .\nS: 550 5.6.0\nC: NOOP\nS: 250");
    begin_data(r);
    for (int i = 0; i < 4; i++)
        rig_send(r, buf_str(&b));
    rig_talk(r, "C: .\nS: 552 5.3.4\nC: NOOP\nS: 250");
    begin_data(r); /* a header that never ends */
    for (int i = 0; i < 1000; i++)
        rig_talk(r, "C: X-Header: something that is repeated and repeated");
    rig_talk(r, "C: .\nS: 552 5.3.4\nC: NOOP\nS: 250");
    begin_data(r); /* the peer goes */
    rig_send(r, buf_str(&b));
    rig_end(r);
    assert_int_equal(r->fake.n_delivered + r->fake.n_queued, 0);
}

/* A command between two chunks while the upload runs. */
static void large_interrupted(struct rig *r)
{
    BUF(b, 2 << 20);
    BUF(cmd, 64);
    big_message(&b, 30000);
    buf_printf(&cmd, "BDAT %zu\r\n", b.n);
    static const char *const others[] = {"C: RSET\nS: 250\nC: MAIL FROM:<>\nS: 250",
                                         "C: VRFY a\nS: 252\nC: BDAT 2 LAST\nC: \nS: 503\nC: MAIL FROM:<>\nS: 250",
                                         "C: DATA\nS: 503\nC: RSET\nS: 250", "C: QUIT\nS! 221"};
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        begin(r);
        rig_send(r, buf_str(&cmd));
        rig_send(r, buf_str(&b));
        rig_expect(r, "250");
        rig_talk(r, others[i]);
    }
    begin(r);
    rig_send(r, buf_str(&cmd));
    rig_send(r, buf_str(&b));
    rig_talk(r, "S: 250\nC: BDAT nonsense\nS! 501");
    begin(r);
    rig_send(r, buf_str(&cmd));
    rig_send(r, buf_str(&b));
    rig_expect(r, "250");
    rig_send(r, S("BDAT 0 LAST\n"));
    rig_talk(r, "S! 500 5.5.2");
    assert_int_equal(r->fake.n_delivered + r->fake.n_queued, 0);
}

/* NOOP has no effect between chunks, wherever the message is kept; as junk it is counted all the same. */
static void large_noop(struct rig *r)
{
    static const size_t sizes[] = {1000, 30000};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        BUF(b, 2 << 20);
        BUF(cmd, 64);
        big_message(&b, sizes[i]);
        buf_printf(&cmd, "BDAT %zu\r\n", b.n);
        begin(r);
        rig_send(r, buf_str(&cmd));
        rig_send(r, buf_str(&b));
        rig_talk(r,
                 "S: 250 2.0.0 Ok\nC: NOOP\nS: 250\nC: noop again\nS: 250\nC: BDAT 0 LAST\nS: 250 2.0.0 Ok: delivered");
        assert_str(last_body(r), buf_str(&b));
    }
}

/* 8-bit text that nobody announced is noticed wherever it stands: a host without 8BITMIME is not sent it as it is. */
static void large_8bit(struct rig *r)
{
    static const size_t at[] = {100, 19999, 20000, 60000, 99999}; /* in memory, at its edge, in the blob */
    for (size_t i = 0; i <= ARRAY_LEN(at); i++) {
        BUF(b, 2 << 20);
        big_message(&b, 100000);
        if (i < ARRAY_LEN(at))
            b.p[at[i]] = (char)0xe9;
        rig_hello(r, RIG_SUBMISSION);
        rig_talk(
            r, "C: AUTH PLAIN AGFsaWNlQGV4YW1wbGUub3JnAHNlY3JldC1h\nS: 235\nC: MAIL FROM:<alice@example.org>\nS: 250\n"
               "C: RCPT TO:<x@elsewhere.example>\nS: 250\nC: DATA\nS: 354");
        rig_send(r, buf_str(&b));
        rig_talk(r, "C: .\nS: 250 2.0.0 Ok: queued");
        assert_int_equal(r->fake.last_enqueue->is_8bit, i < ARRAY_LEN(at));
    }
}

/* --- trace fields --- */

static void trace(struct rig *r)
{
    rig_connect(r, RIG_MX);
    rig_talk(
        r, "S: 220\nC: HELO not_a&host(name)\nS: 250\nC: MAIL FROM:<>\nS: 250\nC: RCPT TO:<alice@example.org>\nS: 250\n"
           "C: RCPT TO:<bob@example.org>\nS: 250\nC: DATA\nS: 354\nC: Subject: x\nC: \nC: .\nS: 250");
    str text = buf_str(&r->fake.delivered[0].content);
    assert_true(str_starts(
        text, S("Return-Path: <>\r\nReceived: from [192.0.2.1]\r\n\tby mx.example.org (Thurn) with SMTP id ")));
    assert_int_equal(str_find_str(text, S("for <")), -1); /* two recipients: none is named */
    rig_hello(r, RIG_MX);
    rig_talk(
        r,
        "C: MAIL FROM:<a@remote.example> SMTPUTF8\nS: 250\nC: RCPT TO:<alice@example.org>\nS: 250\nC: DATA\nS: 354\nC: a: b\nC: .\nS: 250");
    text = buf_str(&r->fake.delivered[2].content);
    assert_true(str_find_str(text, S(" with UTF8SMTP id ")) > 0 &&
                str_find_str(text, S("\r\n\tfor <alice@example.org>;\r\n\t")) > 0);
    assert_int_equal(str_find_str(text, S("Message-ID")), -1);
    rig_connect(r, RIG_MX); /* mail in ASCII stays so, whatever its sender is called */
    rig_talk(
        r,
        "S: 220\nC: HELO m\xc3\xbcller.example\nS: 250\nC: MAIL FROM:<>\nS: 250\nC: RCPT TO:<alice@example.org>\nS: 250\n"
        "C: DATA\nS: 354\nC: Subject: x\nC: \nC: .\nS: 250");
    text = buf_str(&r->fake.delivered[3].content);
    assert_true(str_find_str(text, S("Received: from xn--mller-kva.example ([192.0.2.1])\r\n")) > 0);
}

static void submitted(struct rig *r)
{
    static const char *const wires[] = {"C: Subject: x", "C: Subject: x\nC: DATE: yesterday", "C: message-id : <a@b>",
                                        "C: Date: now\nC: Message-ID: <a@b>"};
    for (unsigned i = 0; i < ARRAY_LEN(wires); i++) {
        rig_hello(r, RIG_SUBMISSION);
        rig_talk(
            r, "C: AUTH PLAIN AGFsaWNlQGV4YW1wbGUub3JnAHNlY3JldC1h\nS: 235\nC: MAIL FROM:<alice@example.org>\nS: 250\n"
               "C: RCPT TO:<bob@example.org>\nS: 250\nC: DATA\nS: 354");
        rig_talk(r, wires[i]);
        rig_talk(r, "C: \nC: text\nC: .\nS: 250 2.0.0 Ok: delivered");
        str text = buf_str(&r->fake.delivered[i].content);
        assert_int_equal(str_find_str(text, S("\r\nDate: ")) > 0, i != 1);
        assert_int_equal(str_find_str(text, S("\r\nMessage-ID: <")) > 0, i != 2);
        assert_true(str_find_str(text, S(" with ESMTPA id ")) > 0);
    }
}

/* RFC 5322 3.6.3: blind recipients are not told to the others, wherever the field stands, also of a message that is
 * streamed. */
static void blind(struct rig *r)
{
    static const char *const wires[][2] = {
        {"Bcc: <x@y>\r\nSubject: a\r\n\r\nBcc: text\r\n", "Subject: a\r\n\r\nBcc: text\r\n"},
        {"Subject: a\r\nBCC:\r\n <x@y>,\r\n <z@y>\r\nTo: b\r\n\r\nt\r\n", "Subject: a\r\nTo: b\r\n\r\nt\r\n"},
        {"A: 1\r\nbcc: x\r\nB: 2\r\nBcc : y\r\n\r\nt\r\n", "A: 1\r\nB: 2\r\n\r\nt\r\n"},
        {"Resent-Bcc: x\r\nBccx: y\r\n\r\nt\r\n", "Resent-Bcc: x\r\nBccx: y\r\n\r\nt\r\n"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(wires); i++)
        for (unsigned large = 0; large < 2; large++) {
            BUF(tail, 1 << 17);
            for (unsigned k = 0; large && k < 2000; k++)
                buf_add(&tail, S("a line of a large message\r\n"));
            rig_hello(r, RIG_SUBMISSION);
            rig_talk(
                r,
                "C: AUTH PLAIN AGFsaWNlQGV4YW1wbGUub3JnAHNlY3JldC1h\nS: 235\nC: MAIL FROM:<alice@example.org>\nS: 250\n"
                "C: RCPT TO:<bob@example.org>\nS: 250\nC: DATA\nS: 354");
            rig_send(r, str_c(wires[i][0]));
            rig_send(r, buf_str(&tail));
            rig_talk(r, "C: .\nS: 250 2.0.0 Ok: delivered");
            const struct fake_message *m = &r->fake.delivered[r->fake.n_delivered - 1];
            str text = buf_str(&m->content), want = r->opts.keeps_bcc ? str_c(wires[i][0]) : str_c(wires[i][1]);
            assert_int_equal(m->was_blob, large);
            ptrdiff_t at = str_find_str(text, want);
            assert_true(at > 0 && text.p[at - 1] == '\n');
            assert_str(str_slice(text, (size_t)at + want.n, SIZE_MAX), buf_str(&tail));
        }
    rig_hello(r, RIG_MX); /* what others send is not ours to change */
    rig_talk(
        r,
        "C: MAIL FROM:<>\nS: 250\nC: RCPT TO:<bob@example.org>\nS: 250\nC: DATA\nS: 354\nC: Bcc: x\nC: \nC: .\nS: 250");
    assert_true(str_find_str(buf_str(&r->fake.delivered[r->fake.n_delivered - 1].content), S("\r\nBcc: x\r\n")) > 0);
}

static void keeping(struct rig *r)
{
    small_memory(r);
    r->opts.keeps_bcc = true;
}

RIG_TEST(data, NULL)
RIG_TEST(smuggling, short_wait)
RIG_TEST(sizes, tiny)
RIG_TEST(loops, tiny)
RIG_TEST(bdat, tiny)
RIG_TEST(large, small_memory)
RIG_TEST(large_dots, small_memory)
RIG_TEST(large_text, small_memory)
RIG_TEST(large_fails, small_memory)
RIG_TEST(large_interrupted, small_memory)
RIG_TEST(large_noop, small_memory)
RIG_TEST(large_8bit, small_memory)
RIG_TEST(trace, NULL)
RIG_TEST(submitted, NULL)
RIG_TEST(blind, small_memory)
static void test_blind_kept(void **state)
{
    (void)state;
    metrics_reset();
    rig_run(keeping, blind);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_data),        cmocka_unit_test(test_smuggling),
        cmocka_unit_test(test_sizes),       cmocka_unit_test(test_loops),
        cmocka_unit_test(test_bdat),        cmocka_unit_test(test_large),
        cmocka_unit_test(test_large_dots),  cmocka_unit_test(test_large_text),
        cmocka_unit_test(test_large_fails), cmocka_unit_test(test_large_interrupted),
        cmocka_unit_test(test_large_noop),  cmocka_unit_test(test_large_8bit),
        cmocka_unit_test(test_trace),       cmocka_unit_test(test_submitted),
        cmocka_unit_test(test_blind),       cmocka_unit_test(test_blind_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
