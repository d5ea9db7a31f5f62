/*
 * What becomes of recipients after an attempt, or when their time is over: the log line, the notification to the sender
 * (RFC 3461), and the commit of all of it at once.
 */
#include "queue-service/results.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "queue-service/body.h"
#include "queue-service/bounce.h"
#include "queue-service/commit.h"
#include "queue-service/schedule.h"
#include "queue-service/shard.h"
#include "queue-service/site.h"

#define HEAD_MAX (16u * 1024) /* of the original, returned with a DSN */
#define HELD_CHECK_S 3600     /* what is held does not expire; it is looked at again */
#define ACTIVE_CHECK_S 30
#define DSN_LIFETIME_S (5 * 86400)

/* --- updates --- */

void update_init(struct update *u, struct rcpt *r)
{
    memset(u, 0, sizeof(*u));
    u->rcpt = r;
    u->due_unix = r->due_unix;
    u->counts_attempt = true;
}

/* A reply is one line of text here, whatever it was made of. */
static void set_reply(struct update *u, uint16_t code, const char *status, const char *text)
{
    u->code = code;
    (void)snprintf(u->status, sizeof(u->status), "%s", status);
    (void)snprintf(u->text, sizeof(u->text), "%s", text);
    for (char *p = u->text; *p; p++)
        if (ascii_is_ctl((unsigned char)*p))
            *p = ' ';
    if (!utf8_valid(u->text, strlen(u->text))) /* cut in the middle of a character, or never was UTF-8 */
        for (char *p = u->text; *p; p++)
            if ((unsigned char)*p >= 0x80)
                *p = '?';
}

void update_done(struct update *u, uint16_t code, const char *status, const char *text)
{
    u->state = R_DONE;
    set_reply(u, code, status, text);
}

void update_fail(struct update *u, uint16_t code, const char *status, const char *text)
{
    u->state = R_FAILED;
    set_reply(u, code, status, text);
}

void update_defer(struct queue *q, struct update *u, int64_t wait_s, uint16_t code, const char *status,
                  const char *text)
{
    set_reply(u, code, status, text);
    u->state = u->rcpt->is_to_be_held ? R_HELD : R_DUE;
    u->due_unix = queue_unix(q) + wait_s;
    if (!message_is_over(u->rcpt->msg))
        return;
    u->state = R_FAILED;
    (void)snprintf(u->status, sizeof(u->status), "%s", "5.4.7");
}

/* --- log --- */

static const char *event_of(const struct update *u)
{
    switch (u->state) {
    case R_DONE:
        return u->done_by == BY_DELIVERY    ? "queue.delivered"
               : u->done_by == BY_EXPANSION ? "queue.expanded"
                                            : "queue.relayed";
    case R_FAILED:
        return "queue.failed";
    case R_HELD:
        return "queue.held";
    default:
        return "queue.deferred";
    }
}

static void log_update(const struct message *m, const struct update *u)
{
    static const char *const outcomes[] = {
        [R_DUE] = "deferred", [R_HELD] = "held", [R_DONE] = "done", [R_FAILED] = "failed"};
    metric_inc_label(M_QUEUE_RESULTS, outcomes[u->state]);
    log_info(event_of(u), KV_I64("id", (int64_t)m->id), KV_STR("sender", message_text(m, TEXT_SENDER)),
             KV_STR("recipient", rcpt_address(u->rcpt)), KV_I64("code", u->code), KV_Z("status", u->status),
             KV_Z("text", u->text), KV_Z("mta", u->mta), KV_I64("attempts", u->rcpt->attempts + u->counts_attempt),
             KV_I64("age_s", message_age_s(m)), KV_STR("trace", message_text(m, TEXT_TRACE)));
}

/* --- DSNs --- */

/* RFC 3461 4.1: no NOTIFY means failure, and delay as we like; NEVER means never. */
static bool wants(const struct rcpt *r, unsigned what)
{
    unsigned notify = r->notify ? r->notify : NOTIFY_FAILURE | NOTIFY_DELAY;
    return !(notify & NOTIFY_NEVER) && (notify & what);
}

static bool dsn_action_of(const struct update *u, enum bounce_action *action)
{
    if (u->state == R_FAILED) {
        *action = BOUNCE_FAILED;
        return wants(u->rcpt, NOTIFY_FAILURE);
    }
    if (u->state != R_DONE || !wants(u->rcpt, NOTIFY_SUCCESS))
        return false;
    /* Only who has logged in is told of success: anybody can name a sender from outside, and would have us write to
     * him. RFC 3461 4.2 lets a report be left out where policy wants it; failures are told all the same. */
    if (u->rcpt->msg->account_id == 0)
        return false;
    *action = u->done_by == BY_DELIVERY ? BOUNCE_DELIVERED : BOUNCE_RELAYED;
    return u->done_by == BY_DELIVERY || u->done_by == BY_RELAY;
}

/* The part of the original that goes back: all of it when it was asked for and is small, else its header. Without it
 * the DSN goes all the same. */
FIBER static str original_of(struct queue *q, struct message *m, bool has_failure, struct arena *a, bool *is_whole)
{
    struct err err = ERR_INIT;
    str head;
    *is_whole = false;
    if (!body_head(q, m, HEAD_MAX, a, &head, &err)) {
        log_warn("queue.dsn_without_original", KV_I64("id", (int64_t)m->id), KV_ERR(&err));
        return S("");
    }
    if (has_failure && (m->flags & MSG_RET_FULL) && head.n == m->size) {
        *is_whole = true;
        return head;
    }
    ptrdiff_t end = str_find_str(head, S("\r\n\r\n"));
    return end < 0 ? head : str_slice(head, 0, (size_t)end + 2);
}

/* What is told, and of which recipient first, names a DSN: made again, it has the same enqueue id, and no other has it.
 */
static struct message *dsn_message(struct queue *q, struct message *m, const char *kind, uint32_t first, str content)
{
    str sender = message_text(m, TEXT_SENDER);
    struct envelope_rcpt to = {.address = sender, .notify = NOTIFY_NEVER, .state = R_DUE, .due_unix = queue_unix(q)};
    uint32_t flags = ascii_only(content.p, content.n) ? 0 : MSG_IS_8BIT;
    if (!ascii_only(sender.p, sender.n))
        flags |= MSG_IS_UTF8;
    struct envelope e = {.sender = S(""),
                         .received_from = S("dsn"),
                         .prefix = S("Return-Path: <>\r\n"),
                         .trace = message_text(m, TEXT_TRACE),
                         .tenant_id = m->tenant_id,
                         .created_unix = queue_unix(q),
                         .expires_unix = queue_unix(q) + MIN(DSN_LIFETIME_S, (int64_t)q->opts.lifetime_s),
                         .size = content.n,
                         .priority = 2,
                         .flags = flags,
                         .day = (uint32_t)(queue_unix(q) / 86400),
                         .body_kind = BODY_INLINE,
                         .rcpts = &to,
                         .n_rcpts = 1};
    struct message *dsn = message_derive(m, kind, first, &e);
    message_keep_body(dsn, content, true);
    return dsn;
}

/* NULL when nobody is to be told. */
FIBER static struct message *make_dsn(struct queue *q, struct message *m, const struct bounce_rcpt *rcpts, size_t n)
{
    ARENA(a, 1u << 20);
    BUF(content, 512 * 1024);
    struct err err = ERR_INIT;
    bool has_failure = false;
    for (size_t i = 0; i < n; i++)
        has_failure |= rcpts[i].action == BOUNCE_FAILED;
    if (n == 0)
        return NULL;
    str sender = message_text(m, TEXT_SENDER);
    if (sender.n == 0 && !has_failure) /* RFC 3461 4: nobody asked */
        return NULL;
    if (sender.n == 0) { /* never a bounce for a bounce */
        metric_inc(M_QUEUE_DOUBLE_BOUNCES);
        log_warn("queue.double_bounce", KV_I64("id", (int64_t)m->id), KV_STR("recipient", rcpts[0].final_recipient));
        return NULL;
    }
    struct bounce_input in = {.reporting_mta = str_c(q->hostname),
                              .envelope_id = message_text(m, TEXT_ENVELOPE_ID),
                              .arrival_unix = m->created_unix,
                              .sender = sender,
                              .rcpts = rcpts,
                              .n_rcpts = n,
                              .is_smtputf8 = m->flags & MSG_IS_UTF8};
    in.original = original_of(q, m, has_failure, &a, &in.is_whole);
    if (!bounce_build(&in, &content, &err)) {
        log_error("queue.dsn_failed", KV_I64("id", (int64_t)m->id), KV_ERR(&err));
        return NULL;
    }
    metric_inc(M_QUEUE_DSNS);
    return dsn_message(q, m, rcpts[0].action == BOUNCE_DELAYED ? "delay" : "dsn", rcpts[0].number, buf_str(&content));
}

/* One for each QUEUE_JOB_RCPTS that are told of, appended to `add`: however many there are, none is too long to be
 * made. How many. */
FIBER static size_t make_dsns(struct queue *q, struct message *m, const struct bounce_rcpt *told, size_t n,
                              struct message **add)
{
    size_t n_add = 0;
    for (size_t at = 0; at < n; at += QUEUE_JOB_RCPTS) {
        struct message *dsn = make_dsn(q, m, told + at, MIN(n - at, QUEUE_JOB_RCPTS));
        if (dsn)
            add[n_add++] = dsn;
    }
    return n_add;
}

static struct bounce_rcpt bounce_rcpt_of(const struct update *u, enum bounce_action action)
{
    const struct rcpt *r = u->rcpt;
    return (struct bounce_rcpt){.number = r->no,
                                .final_recipient = rcpt_address(r),
                                .original_recipient = rcpt_original(r),
                                .action = action,
                                .status = str_c(u->status),
                                .code = u->code,
                                .diagnostic = str_c(u->text),
                                .remote_mta = str_c(u->mta),
                                .last_attempt_unix = queue_unix(r->msg->shard->queue),
                                .will_retry_until_unix = action == BOUNCE_DELAYED ? r->msg->expires_unix : 0};
}

bool results_commit(struct queue *q, struct message *m, struct update *u, size_t n, struct message **add, size_t n_add)
{
    ARENA(a, 4u << 20);
    struct bounce_rcpt *told = arena_array(&a, struct bounce_rcpt, n);
    struct message **all = arena_array(&a, struct message *, n_add + n / QUEUE_JOB_RCPTS + 1);
    size_t n_told = 0;
    for (size_t i = 0; i < n; i++) {
        enum bounce_action action;
        log_update(m, &u[i]);
        if (dsn_action_of(&u[i], &action))
            told[n_told++] = bounce_rcpt_of(&u[i], action);
    }
    for (size_t i = 0; i < n_add; i++)
        all[i] = add[i];
    n_add += make_dsns(q, m, told, n_told, all + n_add);
    return commit_results(q, m, u, n, all, n_add);
}

/* --- the message's own timer --- */

/* Recipients that wait are taken in hand, with the reason why they do as text; those in an attempt are not touched. */
static size_t take_waiting(struct message *m, struct update *u, bool with_held)
{
    struct queue *q = m->shard->queue;
    size_t n = 0;
    for (uint32_t i = 0; i < m->n_rcpts; i++) {
        struct rcpt *r = &m->rcpts[i];
        if (r->state != R_DUE && r->state != R_READY && !(with_held && r->state == R_HELD))
            continue;
        update_init(&u[n], r);
        u[n].counts_attempt = false;
        u[n++].state = r->state == R_HELD ? R_HELD : R_DUE;
        q->n_held -= r->state == R_HELD;
        (void)snprintf(u[n - 1].text, sizeof(u->text), "%.*s", STR_ARG(rcpt_reason(r)));
        rcpt_detach(r);
        r->state = R_ACTIVE;
        q->n_active++;
    }
    return n;
}

FIBER static void expire(struct queue *q, struct message *m, struct arena *a)
{
    struct update *u = arena_array(a, struct update, m->n_rcpts);
    size_t n = take_waiting(m, u, false);
    for (size_t i = 0; i < n; i++) {
        char text[QUEUE_TEXT_MAX], last[QUEUE_TEXT_MAX - 40];
        (void)snprintf(last, sizeof(last), "%s", u[i].text[0] ? u[i].text : "no attempt was possible");
        (void)snprintf(text, sizeof(text), "delivery time expired; last: %s", last);
        update_fail(&u[i], u[i].rcpt->code, "5.4.7", text);
    }
    if (n)
        (void)results_commit(q, m, u, n, NULL, 0); /* false: somebody else's now */
}

/* Tell the sender once that it takes long, about those who want to know; what waits goes on waiting. */
FIBER static void tell_delay(struct queue *q, struct message *m, struct arena *a)
{
    struct update *u = arena_array(a, struct update, m->n_rcpts);
    struct bounce_rcpt *told = arena_array(a, struct bounce_rcpt, m->n_rcpts);
    size_t n = take_waiting(m, u, true), n_told = 0;
    for (uint32_t i = 0; i < m->n_rcpts; i++)
        m->rcpts[i].is_delay_notified = true;
    for (size_t i = 0; i < n; i++) {
        const struct rcpt *r = u[i].rcpt;
        u[i].code = r->code;
        char text[QUEUE_TEXT_MAX];
        (void)snprintf(text, sizeof(text), "%s", u[i].text[0] ? u[i].text : "not delivered yet");
        set_reply(&u[i], r->code, "4.4.7", text);
        if (u[i].state == R_DUE && wants(r, NOTIFY_DELAY))
            told[n_told++] = bounce_rcpt_of(&u[i], BOUNCE_DELAYED);
    }
    struct message **dsns = arena_array(a, struct message *, n / QUEUE_JOB_RCPTS + 1);
    size_t n_dsns = make_dsns(q, m, told, n_told, dsns);
    if (n)
        (void)commit_results(q, m, u, n, dsns, n_dsns); /* false: somebody else's now */
}

void results_expire(void *arg)
{
    struct message *m = arg;
    struct queue *q = m->shard->queue;
    ARENA(a, 16u << 20);
    bool is_over = message_is_over(m);
    if (!m->is_gone && shard_may_work(m->shard)) {
        if (is_over)
            expire(q, m, &a);
        else
            tell_delay(q, m, &a);
    }
    bool has_held = false;
    for (uint32_t i = 0; i < m->n_rcpts; i++)
        has_held |= m->rcpts[i].state == R_HELD;
    if (has_held && !m->is_gone)
        body_keep(q, m, &a);
    if (!m->is_gone) {
        if (is_over)
            wheel_add(&q->wheel, &m->timer, q->wheel.now_s + (has_held ? HELD_CHECK_S : ACTIVE_CHECK_S));
        else
            schedule_message(m);
    }
    message_unref(m);
    queue_fiber_ended(q);
}
