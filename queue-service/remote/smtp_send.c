/*
 * smtp_send.c: one message over an open connection: the commands, and what becomes of the recipients.
 *
 * A transaction is a list of commands (RSET when due, MAIL, a RCPT for each recipient, DATA when there is no CHUNKING)
 * and then the content. Commands are numbered; they go out in groups of WINDOW with PIPELINING and one by one without,
 * and the replies are taken in the same order. Recipients that the peer calls too many get a transaction of their own
 * after this one, as long as each delivers something.
 */
#include "queue-service/remote/smtp_internal.h"

#include <stdio.h>

#include "base/buf.h"
#include "base/clock.h"
#include "fiber/fiber.h"
#include "mail/dsn.h"

#define WINDOW 100u    /* replies that may be under way: both sides' buffers hold them */
#define VALUE_MAX 500u /* of ENVID and ORCPT (RFC 3461 5.4) */

struct transaction {
    struct smtp_client *c;
    const struct remote_message *m;
    struct smtp_rcpt **asked; /* the recipients of this transaction */
    size_t n_asked, n_accepted, n_overflow, n_delivered;
    bool has_reset, has_data; /* among the commands */
    bool is_mail_ok, is_data_ok;
    bool is_closing; /* 421 was said */
    bool is_utf8;
};

/* --- recipients --- */

static void put_answer(struct remote_rcpt *to, enum remote_outcome outcome, uint16_t code, const char *status,
                       const char *text, str peer)
{
    to->outcome = outcome;
    to->code = code;
    (void)snprintf(to->status, sizeof(to->status), "%s", status);
    (void)snprintf(to->text, sizeof(to->text), "%s", text);
    (void)snprintf(to->mx, sizeof(to->mx), "%.*s", STR_ARG(peer));
}

void smtp_rcpt_trouble(struct smtp_rcpt *rcpt, const struct smtp_trouble *why, str peer)
{
    put_answer(rcpt->to, why->is_permanent ? REMOTE_FAILED : REMOTE_DEFERRED, why->code, why->status, why->text, peer);
    rcpt->state = why->is_permanent ? SMTP_RCPT_DONE : SMTP_RCPT_WAITING;
}

/* To those of this transaction that were accepted or got no answer of their own. */
static void trouble_all(struct transaction *t, const struct smtp_trouble *why)
{
    for (size_t i = 0; i < t->n_asked; i++) {
        struct smtp_rcpt *r = t->asked[i];
        if (r->state == SMTP_RCPT_ACCEPTED || (r->state == SMTP_RCPT_WAITING && r->to->text[0] == '\0'))
            smtp_rcpt_trouble(r, why, str_c(t->c->peer));
    }
}

/* To those that were accepted. is_over: nothing more in this attempt. */
static void trouble_accepted(struct transaction *t, const struct smtp_trouble *why, bool is_over)
{
    for (size_t i = 0; i < t->n_asked; i++) {
        struct smtp_rcpt *r = t->asked[i];
        if (r->state != SMTP_RCPT_ACCEPTED)
            continue;
        smtp_rcpt_trouble(r, why, str_c(t->c->peer));
        if (is_over)
            r->state = SMTP_RCPT_DONE;
    }
}

static bool needs_utf8(const struct remote_message *m, const struct smtp_rcpt *rcpts, size_t n)
{
    bool needs = m->is_smtputf8 || !ascii_only(m->sender.p, m->sender.n);
    for (size_t i = 0; i < n && !needs; i++)
        needs = rcpts[i].state == SMTP_RCPT_WAITING && !ascii_only(rcpts[i].to->address.p, rcpts[i].to->address.n);
    return needs;
}

bool smtp_client_can(const struct smtp_client *c, const struct remote_message *m, const struct smtp_rcpt *rcpts,
                     size_t n, struct smtp_trouble *why)
{
    CHECK(c, SMTP_CLIENT_MAGIC);
    if (c->caps.size_max && m->size > c->caps.size_max) {
        smtp_trouble_set(why, true, "5.3.4", "the message has %llu bytes, and %s takes at most %llu",
                         (unsigned long long)m->size, c->peer, (unsigned long long)c->caps.size_max);
        return false;
    }
    if (!smtp_can(c, SMTP_CAP_SMTPUTF8) && needs_utf8(m, rcpts, n)) { /* RFC 6531 3.5 */
        smtp_trouble_set(why, true, "5.6.7", "the message needs SMTPUTF8, and %s does not offer it", c->peer);
        return false;
    }
    return true;
}

/* --- commands --- */

static size_t n_commands(const struct transaction *t)
{
    return t->has_reset + 1u + t->n_asked + t->has_data;
}

static const char *command_name(const struct transaction *t, size_t i)
{
    if (t->has_reset && i-- == 0)
        return "RSET";
    return i == 0 ? "MAIL FROM" : i <= t->n_asked ? "RCPT TO" : "DATA";
}

/* esmtp-value (RFC 5321 4.1.2; with UTF-8 RFC 6531 3.3): nothing that could end the parameter. */
static bool is_value(str s, bool allow_utf8)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c <= ' ' || c == 0x7f || (c >= 0x80 && !allow_utf8))
            return false;
    }
    return s.n > 0 && s.n <= VALUE_MAX;
}

FIBER static bool write_mail(struct transaction *t, struct err *err)
{
    const struct remote_message *m = t->m;
    struct smtp_client *c = t->c;
    BUF(line, 4096);
    buf_printf(&line, "MAIL FROM:<%.*s>", STR_ARG(m->sender));
    if (smtp_can(c, SMTP_CAP_SIZE) && !smtp_must_convert(c, m)) /* what it will be is not known before */
        buf_printf(&line, " SIZE=%llu", (unsigned long long)m->size);
    if (m->is_8bit && smtp_can(c, SMTP_CAP_8BITMIME))
        buf_add(&line, S(" BODY=8BITMIME"));
    if (t->is_utf8)
        buf_add(&line, S(" SMTPUTF8"));
    if (smtp_can(c, SMTP_CAP_DSN) && m->ret_full)
        buf_add(&line, S(" RET=FULL"));
    if (smtp_can(c, SMTP_CAP_DSN) && is_value(m->envelope_id, false))
        buf_printf(&line, " ENVID=%.*s", STR_ARG(m->envelope_id));
    buf_add(&line, S("\r\n"));
    c->needs_reset = true;
    return stream_write(c->stream, buf_str(&line), err);
}

/* RFC 3461 4.1 and 4.2. */
static void add_dsn(struct buf *line, const struct remote_rcpt *r, bool allow_utf8)
{
    static const struct {
        uint32_t bit;
        str word;
    } words[] = {{1, S_INIT("SUCCESS")}, {2, S_INIT("FAILURE")}, {4, S_INIT("DELAY")}, {8, S_INIT("NEVER")}};
    const char *separator = " NOTIFY=";
    uint32_t notify = r->notify & 8 ? 8 : r->notify; /* NEVER stands alone */
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (!(notify & words[i].bit))
            continue;
        buf_printf(line, "%s%.*s", separator, STR_ARG(words[i].word));
        separator = ",";
    }
    BUF(original, VALUE_MAX);
    if (dsn_is_typed(r->original))
        buf_add(&original, r->original);
    else if (r->original.n)
        dsn_add_orcpt(&original, r->original);
    if (buf_ok(&original) && is_value(buf_str(&original), allow_utf8))
        buf_printf(line, " ORCPT=%s", buf_z(&original));
}

FIBER static bool write_rcpt(struct transaction *t, const struct remote_rcpt *r, struct err *err)
{
    BUF(line, 4096);
    buf_printf(&line, "RCPT TO:<%.*s>", STR_ARG(r->address));
    if (smtp_can(t->c, SMTP_CAP_DSN))
        add_dsn(&line, r, t->is_utf8);
    buf_add(&line, S("\r\n"));
    return stream_write(t->c->stream, buf_str(&line), err);
}

FIBER static bool write_command(struct transaction *t, size_t i, struct err *err)
{
    FIBER_DEADLINE(t->c->settings->command_ms);
    if (t->has_reset && i-- == 0)
        return stream_write(t->c->stream, S("RSET\r\n"), err);
    if (i == 0)
        return write_mail(t, err);
    return i <= t->n_asked ? write_rcpt(t, t->asked[i - 1]->to, err) : stream_write(t->c->stream, S("DATA\r\n"), err);
}

/* --- replies --- */

/* RFC 5321 4.5.3.1.10: too many recipients, and not "mailbox full", which has the same code. */
static bool is_too_many(const struct smtp_reply *r)
{
    str status = str_c(r->status);
    return r->code == 452 && (str_ends(status, S(".5.3")) || str_ends(status, S(".0.0")));
}

static void rcpt_reply(struct transaction *t, struct smtp_rcpt *rcpt, struct smtp_reply *r)
{
    if (!t->is_mail_ok)
        return; /* 503, most likely; the answer to MAIL is what counts */
    if (smtp_reply_class(r) == 2) {
        rcpt->state = SMTP_RCPT_ACCEPTED;
        t->n_accepted++;
        return;
    }
    if (r->code == 552) { /* RFC 5321 4.5.3.1.10: to be taken as 452 */
        r->code = 452;
        r->status[0] = '4';
    }
    struct smtp_trouble why;
    smtp_trouble_reply(&why, r);
    smtp_rcpt_trouble(rcpt, &why, str_c(t->c->peer));
    if (t->n_accepted > 0 && is_too_many(r)) {
        rcpt->state = SMTP_RCPT_OVERFLOW;
        t->n_overflow++;
    }
}

static void take_reply(struct transaction *t, size_t i, struct smtp_reply *r)
{
    struct smtp_trouble why;
    smtp_trouble_reply(&why, r);
    t->is_closing = r->code == 421;
    if (t->has_reset && i-- == 0) {
        t->is_closing |= smtp_reply_class(r) != 2; /* what is left at the peer is unknown */
        why.is_permanent = false;
    } else if (i == 0) {
        t->is_mail_ok = smtp_reply_class(r) == 2;
        if (!t->is_mail_ok)
            trouble_all(t, &why);
    } else if (i <= t->n_asked) {
        rcpt_reply(t, t->asked[i - 1], r);
    } else {
        t->is_data_ok = r->code == 354;
        if (!t->is_data_ok)
            trouble_accepted(t, &why, false);
    }
    if (t->is_closing)
        trouble_all(t, &why);
}

/* Whether, with all answers so far at hand, there is still a point in saying command i. */
static bool is_worth_saying(const struct transaction *t, size_t i)
{
    size_t mail = t->has_reset;
    if (i > mail && !t->is_mail_ok)
        return false;
    return i <= mail + t->n_asked || t->n_accepted > 0;
}

/* All commands and their replies. False: the connection is lost; *why and *is_stale say how. */
FIBER static bool say_commands(struct transaction *t, struct smtp_trouble *why, bool *is_stale)
{
    struct smtp_client *c = t->c;
    bool was_reused = c->is_reused;
    size_t n = n_commands(t), window = smtp_can(c, SMTP_CAP_PIPELINING) ? WINDOW : 1;
    *is_stale = false;
    for (size_t said = 0, answered = 0; answered < n && !t->is_closing; answered++) {
        struct err err = ERR_INIT;
        struct smtp_reply r;
        bool ok = true;
        if (said == answered && !is_worth_saying(t, said))
            return true;
        for (size_t last = said == answered ? MIN(n, said + window) : said; ok && said < last; said++)
            ok = write_command(t, said, &err);
        if (!ok || !smtp_read_reply(c, c->settings->command_ms, NULL, &r, &err)) {
            *is_stale = was_reused && answered == 0 && c->is_reused && err.kind == ERR_UNAVAILABLE;
            smtp_trouble_lost(why, c, command_name(t, answered), &err);
            return false;
        }
        if (was_reused && answered == 0 && r.code == 421) {
            *is_stale = true;
            return false;
        }
        take_reply(t, answered, &r);
    }
    return true;
}

/* --- the whole --- */

static void delivered(struct transaction *t, const struct smtp_reply *r)
{
    for (size_t i = 0; i < t->n_asked; i++) {
        struct smtp_rcpt *rcpt = t->asked[i];
        if (rcpt->state != SMTP_RCPT_ACCEPTED)
            continue;
        put_answer(rcpt->to, REMOTE_DELIVERED, r->code, r->status, r->text, str_c(t->c->peer));
        rcpt->to->is_dsn_relayed = smtp_can(t->c, SMTP_CAP_DSN);
        rcpt->state = SMTP_RCPT_DONE;
        t->n_delivered++;
    }
}

/* The content, and what is said about it. */
FIBER static enum smtp_end finish(struct transaction *t)
{
    struct smtp_client *c = t->c;
    struct smtp_reply r;
    struct smtp_trouble why;
    enum smtp_body_end end = smtp_body_send(c, t->m, t->is_data_ok, &r, &why);
    if (end != SMTP_BODY_ANSWERED) {
        trouble_accepted(t, &why, end == SMTP_BODY_UNKNOWN);
        return SMTP_END_LOST;
    }
    c->n_messages++;
    if (smtp_reply_class(&r) == 2) {
        c->needs_reset = false;
        delivered(t, &r);
        return SMTP_END_GOOD;
    }
    smtp_trouble_reply(&why, &r);
    trouble_accepted(t, &why, false);
    return r.code == 421 ? SMTP_END_LOST : SMTP_END_GOOD;
}

/* RFC 2920 3.1: DATA was let in although no recipient was. The message that follows is empty, and nobody gets it. */
FIBER static enum smtp_end empty_data(struct transaction *t)
{
    struct err err = ERR_INIT;
    struct smtp_reply r;
    FIBER_DEADLINE(t->c->settings->final_ms);
    bool ok = stream_write(t->c->stream, S(".\r\n"), &err) &&
              smtp_read_reply(t->c, t->c->settings->final_ms, NULL, &r, &err) && r.code != 421;
    return ok ? SMTP_END_GOOD : SMTP_END_LOST;
}

FIBER static enum smtp_end run(struct transaction *t)
{
    struct smtp_trouble why;
    bool is_stale;
    if (!say_commands(t, &why, &is_stale)) {
        if (is_stale)
            return SMTP_END_STALE;
        trouble_all(t, &why);
        return SMTP_END_LOST;
    }
    if (t->is_closing)
        return SMTP_END_LOST;
    if (t->n_accepted > 0 && (t->is_data_ok || !t->has_data))
        return finish(t);
    return t->is_data_ok ? empty_data(t) : SMTP_END_GOOD;
}

/* Choose the recipients of the next transaction. */
static size_t choose(const struct smtp_client *c, struct smtp_rcpt *rcpts, size_t n, enum smtp_rcpt_state state,
                     struct smtp_rcpt **asked)
{
    size_t most = c->caps.rcpt_max ? c->caps.rcpt_max : SIZE_MAX, n_asked = 0;
    for (size_t i = 0; i < n; i++) {
        if (rcpts[i].state != state)
            continue;
        if (n_asked < most) {
            rcpts[i].state = SMTP_RCPT_WAITING;
            rcpts[i].to->text[0] = '\0'; /* no answer yet in this transaction */
            asked[n_asked++] = &rcpts[i];
        } else {
            rcpts[i].state = SMTP_RCPT_OVERFLOW;
        }
    }
    return n_asked;
}

enum smtp_end smtp_client_send(struct smtp_client *c, const struct remote_message *m, struct smtp_rcpt *rcpts, size_t n)
{
    CHECK(c, SMTP_CLIENT_MAGIC);
    CLEANUP(xfree) void *memory = xcalloc(n, sizeof(struct smtp_rcpt *));
    enum smtp_rcpt_state which = SMTP_RCPT_WAITING;
    enum smtp_end end;
    size_t n_delivered;
    do {
        struct transaction t = {.c = c,
                                .m = m,
                                .asked = memory,
                                .has_reset = c->needs_reset,
                                .has_data = !smtp_can(c, SMTP_CAP_CHUNKING),
                                .is_utf8 = needs_utf8(m, rcpts, n)};
        t.n_asked = choose(c, rcpts, n, which, t.asked);
        if (t.n_asked == 0)
            return SMTP_END_GOOD;
        end = run(&t);
        n_delivered = t.n_delivered;
        which = SMTP_RCPT_OVERFLOW;
    } while (end == SMTP_END_GOOD && n_delivered > 0 && smtp_client_is_fresh(c));
    for (size_t i = 0; i < n; i++)
        if (rcpts[i].state == SMTP_RCPT_OVERFLOW)
            rcpts[i].state = SMTP_RCPT_WAITING;
    return end;
}
