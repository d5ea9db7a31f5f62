/*
 * cmd_data.c: the message itself: DATA (RFC 5321 4.1.1.4) and BDAT (RFC 3030), and what is answered at its end.
 */
#include "frontend/smtp/command.h"
#include "frontend/smtp/deliver.h"
#include "frontend/smtp/session.h"

/* --- the end of a message --- */

static const char *result_of(enum smtp_reply why)
{
    return smtp_reply_class(why) == 4 ? "deferred" : "refused";
}

static void log_message(struct smtp_session *s, const struct smtp_outcome *out)
{
    const struct smtp_txn *t = s->txn;
    log_info("smtp.message", KV_Z("id", t->id), KV_Z("result", out->result), KV_STR("from", t->sender),
             KV_STR("to", t->rcpts[0].address), KV_I64("rcpts", t->n_rcpts), KV_I64("size", t->body.size),
             KV_I64("queue", out->queue_id), KV_I64("ms", clock_mono_ms() - t->started_ms),
             KV_STR("reply", out->reply ? smtp_reply_text(out->reply) : S("")));
    if (t->body.why.kind)
        log_warn("smtp.trouble", KV_Z("at", "body"), KV_ERR(&t->body.why));
    metric_inc_label(M_SMTP_MESSAGES, out->result);
}

FIBER static void say_accepted(struct smtp_session *s, const struct smtp_outcome *out)
{
    smtp_sayf(s, "250 2.0.0 Ok: %s as %s", out->result, s->txn->id);
}

/* RFC 2033 4.2: one reply for each recipient that was accepted, in that order. */
FIBER static void say_outcome(struct smtp_session *s, const struct smtp_outcome *out)
{
    if (s->kind != SMTP_KIND_LMTP) {
        if (out->reply)
            smtp_say(s, out->reply);
        else
            say_accepted(s, out);
        return;
    }
    for (size_t i = 0; i < s->txn->n_rcpts && !s->close; i++) {
        if (out->of_rcpts[i])
            smtp_say(s, out->of_rcpts[i]);
        else
            smtp_sayf(s, "250 2.1.5 <%.*s> %s as %s", STR_ARG(s->txn->rcpts[i].address),
                      out->queue_id ? "queued" : "delivered", s->txn->id);
    }
}

FIBER static void finish(struct smtp_session *s)
{
    struct smtp_txn *t = s->txn;
    struct smtp_outcome out;
    smtp_body_finish(&t->body, s);
    if (s->is_login_over && !t->body.failure) {
        t->body.failure = SMTP_LOGIN_ENDED;
        s->close = SMTP_CLOSE_LOGIN;
    }
    if (t->body.failure) {
        out = (struct smtp_outcome){.result = result_of(t->body.failure), .reply = t->body.failure};
        out.of_rcpts = arena_array(&t->arena, enum smtp_reply, t->n_rcpts);
        for (size_t i = 0; i < t->n_rcpts; i++)
            out.of_rcpts[i] = t->body.failure;
    } else {
        smtp_deliver(s, &out);
    }
    if (strcmp(out.result, "delivered") == 0 || strcmp(out.result, "queued") == 0) {
        metric_add(M_SMTP_MESSAGE_BYTES, (int64_t)t->body.size);
        s->messages++;
        s->junk = 0;
    }
    log_message(s, &out);
    say_outcome(s, &out);
    smtp_reset(s);
}

/* Sending limits are asked once a message, before its bytes are taken. */
FIBER static bool is_granted(struct smtp_session *s)
{
    struct smtp_txn *t = s->txn;
    char key[24];
    if (t->is_granted || s->kind != SMTP_KIND_SUBMISSION)
        return true;
    FIBER_DEADLINE(smtp_limits(s)->command_timeout_ms);
    snprintf(key, sizeof(key), "%lld", (long long)s->login.account_id);
    t->is_granted = smtp_take(s, LIMIT_SMTP_RECIPIENTS_ACCOUNT, str_c(key), (uint32_t)t->n_rcpts, false);
    return t->is_granted;
}

FIBER static void refuse_body(struct smtp_session *s, enum smtp_reply why)
{
    if (why == SMTP_NO_VALID_RECIPIENTS) /* pipelined with recipients that were refused: no mistake */
        smtp_say(s, why);
    else
        smtp_mistake(s, why);
}

/* --- DATA --- */

FIBER void smtp_cmd_data(struct smtp_session *s, enum smtp_verb verb, str args)
{
    (void)verb;
    struct smtp_txn *t = s->txn;
    struct err err = ERR_INIT;
    enum smtp_reply why = args.n            ? SMTP_SYNTAX
                          : !t              ? SMTP_MAIL_FIRST
                          : t->has_chunks   ? SMTP_FINISH_BDAT
                          : t->n_rcpts == 0 ? SMTP_NO_VALID_RECIPIENTS
                                            : SMTP_REPLY_NONE;
    if (why) {
        FIBER_DEADLINE(smtp_limits(s)->command_timeout_ms);
        refuse_body(s, why);
        return;
    }
    if (!is_granted(s)) {
        smtp_say(s, SMTP_SENDING_LIMIT);
        smtp_reset(s);
        return;
    }
    struct smtp_body_reader r = {.session = s};
    {
        FIBER_DEADLINE(smtp_limits(s)->command_timeout_ms);
        smtp_say(s, SMTP_START_DATA);
        if (s->close || !stream_flush(s->stream, &err)) {
            smtp_lost(s, &err);
            return;
        }
    }
    if (smtp_body_read(&t->body, &r))
        finish(s);
}

/* --- BDAT --- */

/* A chunk that is not wanted: its bytes come all the same, and are no commands. */
FIBER static void refuse_chunk(struct smtp_session *s, struct smtp_body_reader *r, enum smtp_reply why)
{
    if (r->left > 2 * s->server->opts.message_max) { /* too much even to throw away */
        smtp_say_last(s, why, SMTP_CLOSE_CHUNK);
        return;
    }
    if (!smtp_body_skip(r))
        return;
    FIBER_DEADLINE(smtp_limits(s)->command_timeout_ms);
    refuse_body(s, why);
}

static enum smtp_reply chunk_objection(const struct smtp_session *s)
{
    if (!s->helo)
        return SMTP_HELLO_FIRST;
    if (!s->txn)
        return SMTP_MAIL_FIRST;
    return s->txn->n_rcpts ? SMTP_REPLY_NONE : SMTP_NO_VALID_RECIPIENTS;
}

FIBER static void take_chunk(struct smtp_session *s, struct smtp_body_reader *r)
{
    struct smtp_txn *t = s->txn;
    t->has_chunks = true;
    if (!t->body.failure && !is_granted(s))
        t->body.failure = SMTP_SENDING_LIMIT;
    if (r->left > 2 * s->server->opts.message_max || ++t->n_chunks > smtp_limits(s)->chunks_max) {
        bool is_big = t->n_chunks <= smtp_limits(s)->chunks_max;
        metric_inc_label(M_SMTP_REFUSED, is_big ? "size" : "chunks");
        smtp_say_last(s, is_big ? SMTP_TOO_BIG : SMTP_TOO_MANY_CHUNKS, SMTP_CLOSE_CHUNK);
        return;
    }
    r->chunks = &t->chunks;
    if (!smtp_body_read(&t->body, r)) {
        if (r->is_interrupted) /* the command that came instead is answered next, and no chunk after it can help */
            t->body.failure = SMTP_FINISH_BDAT;
        return;
    }
    if (r->is_last)
        finish(s);
    else
        smtp_say(s, t->body.failure ? t->body.failure : SMTP_OK);
}

FIBER void smtp_cmd_bdat(struct smtp_session *s, enum smtp_verb verb, str args)
{
    (void)verb;
    struct smtp_body_reader r = {.session = s, .is_chunked = true, .run = smtp_command_run};
    if (!smtp_bdat_parse(args, &r.left, &r.is_last)) { /* where the next command begins is not known any more */
        smtp_say_last(s, SMTP_CHUNK_SYNTAX, SMTP_CLOSE_CHUNK);
        return;
    }
    enum smtp_reply why = chunk_objection(s);
    if (why) {
        refuse_chunk(s, &r, why);
    } else {
        take_chunk(s, &r);
    }
}
