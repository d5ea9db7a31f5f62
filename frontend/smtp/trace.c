#include "frontend/smtp/trace.h"

#include "frontend/smtp/session.h"
#include "mail/date.h"
#include "mail/header.h"
#include "mail/message.h"

/* --- the header as it came --- */

struct header_facts {
    unsigned received;
    bool has_date, has_message_id;
};

/* Up to the first line that is no field and goes on with none: the blank line, or text. */
static str header_of(str content)
{
    size_t at = 0;
    while (at < content.n) {
        str rest = str_slice(content, at, SIZE_MAX);
        ptrdiff_t lf = str_find(rest, '\n');
        size_t n = lf >= 0 ? (size_t)lf + 1 : rest.n;
        bool goes_on = at && (rest.p[0] == ' ' || rest.p[0] == '\t');
        if (!goes_on && !header_is_field_line(str_trim(str_slice(rest, 0, n))))
            break;
        at += n;
    }
    return str_slice(content, 0, at);
}

static void learn(str header, struct header_facts *f)
{
    struct header_iter it = header_iter_of(header);
    struct header_field field;
    while (header_next(&it, &field)) {
        if (field.name.n == 8 && str_eq_nocase(field.name, S("Received")))
            f->received++;
        else if (field.name.n == 4 && str_eq_nocase(field.name, S("Date")))
            f->has_date = true;
        else if (field.name.n == 10 && str_eq_nocase(field.name, S("Message-ID")))
            f->has_message_id = true;
    }
}

/* RFC 5322 3.6.3: a program that leaves its blind recipients in the message means the server to take them out. The
 * bytes in front move up: what lies before them in memory is room. */
static str drop_bcc(struct smtp_body *b, str content, str header)
{
    struct header_iter it = header_iter_of(header);
    struct header_field field;
    size_t dropped = 0;
    while (header_next(&it, &field)) {
        if (field.name.n != 3 || !str_eq_nocase(field.name, S("Bcc")))
            continue;
        char *start = (char *)(uintptr_t)content.p + dropped; /* where what was kept so far begins */
        memmove(start + field.raw.n, start, (size_t)(field.raw.p - start));
        dropped += field.raw.n;
    }
    b->trace_at += dropped;
    b->size -= dropped;
    return str_slice(content, dropped, SIZE_MAX);
}

/* --- our fields --- */

static void add_literal(struct buf *b, const struct net_addr *a)
{
    char text[NET_ADDR_TEXT_MAX];
    str ip = net_ip_format(a, text);
    if (net_addr_is_unix(a) || !ip.n) {
        buf_add(b, S("localhost"));
        return;
    }
    buf_addc(b, '[');
    if (str_find(ip, ':') >= 0)
        buf_add(b, S("IPv6:"));
    buf_add(b, ip);
    buf_addc(b, ']');
}

/* RFC 3848, RFC 6531 4.3. */
static void add_protocol(struct buf *b, const struct smtp_session *s)
{
    bool is_utf8 = s->txn->mail.is_smtputf8;
    if (s->kind == SMTP_KIND_LMTP)
        buf_add(b, is_utf8 ? S("UTF8LMTP") : S("LMTP"));
    else
        buf_add(b, is_utf8 ? S("UTF8SMTP") : s->is_esmtp ? S("ESMTP") : S("SMTP"));
    if (!s->is_esmtp)
        return;
    if (stream_has_tls(s->stream))
        buf_addc(b, 'S');
    if (s->login.address)
        buf_addc(b, 'A');
}

static void add_received(struct buf *b, const struct smtp_session *s)
{
    const struct smtp_txn *t = s->txn;
    const struct net_addr *peer = stream_peer(s->stream);
    buf_add(b, S("Received: from "));
    if (s->helo_host) { /* anything else that a client may say stays out of the field */
        buf_add(b, str_c(s->helo_host));
        buf_add(b, S(" ("));
        add_literal(b, peer);
        buf_addc(b, ')');
    } else {
        add_literal(b, peer);
    }
    if (stream_has_tls(s->stream))
        buf_printf(b, "\r\n\t(using %.*s with cipher %.*s)", STR_ARG(stream_tls_version(s->stream)),
                   STR_ARG(stream_tls_cipher(s->stream)));
    buf_printf(b, "\r\n\tby %.*s (Thurn) with ", STR_ARG(s->server->opts.hostname));
    add_protocol(b, s);
    buf_printf(b, " id %s", t->id);
    if (t->n_rcpts == 1) /* RFC 5321 7.6: with more, blind copies would be betrayed */
        buf_printf(b, "\r\n\tfor <%.*s>", STR_ARG(t->rcpts[0].address));
    buf_add(b, S(";\r\n\t"));
    date_add_rfc5322(b, clock_unix(), 0);
    buf_add(b, S("\r\n"));
}

static void add_missing(struct buf *b, const struct smtp_session *s, const struct header_facts *f)
{
    if (!f->has_date) {
        buf_add(b, S("Date: "));
        date_add_rfc5322(b, clock_unix(), 0);
        buf_add(b, S("\r\n"));
    }
    if (!f->has_message_id)
        buf_printf(b, "Message-ID: <%s@%.*s>\r\n", s->txn->id, STR_ARG(s->server->opts.hostname));
}

void smtp_trace(struct smtp_body *b, struct smtp_session *s)
{
    struct header_facts facts = {.received = 0};
    if (b->is_traced || b->failure)
        return;
    str content = smtp_body_content(b), header = header_of(content);
    if (header.n > smtp_limits(s)->header_max) {
        metric_inc_label(M_SMTP_REFUSED, "header");
        b->failure = SMTP_HEADER_TOO_BIG;
        return;
    }
    learn(header, &facts);
    if (facts.received > smtp_limits(s)->received_max) {
        metric_inc_label(M_SMTP_REFUSED, "loop");
        b->failure = SMTP_MAIL_LOOP;
        return;
    }
    if (s->kind == SMTP_KIND_SUBMISSION && !s->server->opts.keeps_bcc)
        content = drop_bcc(b, content, header);
    BUF(fields, SMTP_BODY_ROOM);
    add_received(&fields, s);
    if (s->kind == SMTP_KIND_SUBMISSION)
        add_missing(&fields, s, &facts);
    /* text without any header: ours must not swallow it */
    if (content.n && !header.n && !str_starts(content, S("\r\n")))
        buf_add(&fields, S("\r\n"));
    if (!HOLDS(buf_ok(&fields), &b->why)) { /* every part of it has its own limit, and their sum fits */
        b->failure = smtp_failure(SMTP_AT_BODY, b->why.kind);
        return;
    }
    b->trace_at -= fields.n; /* from SMTP_BODY_ROOM, or further on when fields were dropped */
    memcpy(b->memory.p + b->trace_at, fields.p, fields.n);
    b->is_traced = true;
}

void smtp_add_return_path(struct buf *out, const struct smtp_txn *t)
{
    buf_printf(out, "Return-Path: <%.*s>\r\n", STR_ARG(t->sender));
}

void smtp_add_client(struct buf *out, const struct smtp_session *s)
{
    char text[NET_ADDR_TEXT_MAX];
    buf_printf(out, "%s [%.*s]", s->helo, STR_ARG(net_ip_format(stream_peer(s->stream), text)));
}
