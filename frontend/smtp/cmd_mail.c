/*
 * cmd_mail.c: the envelope: MAIL and RCPT (RFC 5321 3.3), and who may send what to whom.
 */
#include "frontend/smtp/session.h"
#include "proto/auth_calls.h"

/* --- MAIL --- */

FIBER static bool may_send_as(struct smtp_session *s, str sender, struct err *err, bool *is_allowed)
{
    ARENA(a, 64 * 1024);
    struct rpc_call call;
    Thurn__MaySendAsRequest q = THURN__MAY_SEND_AS_REQUEST__INIT;
    const Thurn__MaySendAsReply *reply;
    smtp_call_init(s, &call, &a);
    q.account_id = s->login.account_id;
    q.address = arena_strz(&a, sender);
    if (!auth_may_send_as(&call, s->server->opts.auth, &q, &reply)) {
        *err = call.err;
        return false;
    }
    *is_allowed = reply->is_allowed;
    return true;
}

/* RFC 6409 6.1: who has logged in sends as himself, or as nobody (delivery reports of mail programs). */
FIBER static enum smtp_reply sender_of_login(struct smtp_session *s, str sender)
{
    struct err err = ERR_INIT;
    bool is_allowed = false;
    if (!s->login.may_send)
        return SMTP_MAY_NOT_SEND;
    if (!sender.n || str_eq_nocase(sender, str_c(s->login.address)))
        return SMTP_REPLY_NONE;
    if (may_send_as(s, sender, &err, &is_allowed))
        return is_allowed ? SMTP_REPLY_NONE : SMTP_NOT_YOUR_ADDRESS;
    log_warn("smtp.trouble", KV_Z("at", "sender"), KV_ERR(&err));
    return smtp_failure(SMTP_AT_SENDER, err.kind);
}

FIBER static enum smtp_reply open_txn(struct smtp_session *s, struct smtp_txn *t, str args)
{
    struct err err = ERR_INIT;
    enum smtp_reply why;
    if (!smtp_mail_parse(args, &t->arena, &t->mail, &why))
        return why;
    if (t->mail.size > s->server->opts.message_max) {
        metric_inc_label(M_SMTP_REFUSED, "size");
        return SMTP_TOO_BIG;
    }
    if (s->server->opts.has_room && !s->server->opts.has_room(s->server->opts.room)) {
        metric_inc_label(M_SMTP_REFUSED, "room");
        return SMTP_NO_ROOM; /* RFC 1870 6.1 */
    }
    t->sender = S("");
    if (!t->mail.path.is_null &&
        !address_normalize(t->mail.path.local, t->mail.path.domain, &t->arena, &t->sender, &err))
        return SMTP_SENDER_SYNTAX;
    return s->kind == SMTP_KIND_SUBMISSION ? sender_of_login(s, t->sender) : SMTP_REPLY_NONE;
}

/* The first MAIL of a stranger's session. */
FIBER static bool is_admitted(struct smtp_session *s)
{
    if (!s->is_admitted && s->kind == SMTP_KIND_MX)
        s->is_admitted = smtp_take_peer(s, LIMIT_SMTP_SESSIONS_IP);
    return s->is_admitted || s->kind != SMTP_KIND_MX;
}

FIBER static void refuse_sender(struct smtp_session *s, enum smtp_reply why)
{
    if (smtp_reply_class(why) == 4 || why == SMTP_TOO_BIG) /* no mistake of the client's */
        smtp_say(s, why);
    else
        smtp_mistake(s, why);
}

FIBER void smtp_cmd_mail(struct smtp_session *s, enum smtp_verb verb, str args)
{
    (void)verb;
    if (s->txn) {
        smtp_mistake(s, SMTP_NESTED_MAIL);
        return;
    }
    if (s->server->phase != SMTP_SERVING) {
        smtp_say_last(s, SMTP_SHUTDOWN, SMTP_CLOSE_DRAIN);
        return;
    }
    struct smtp_txn *t = smtp_txn_new();
    enum smtp_reply why = open_txn(s, t, args);
    if (!why && !is_admitted(s)) {
        smtp_txn_free(t);
        smtp_say_last(s, SMTP_RATE, SMTP_CLOSE_RATE);
        return;
    }
    if (why) {
        smtp_txn_free(t);
        refuse_sender(s, why);
        return;
    }
    smtp_body_init(&t->body, smtp_limits(s)->inline_max);
    s->txn = t;
    fiber_context()->trace_id = t->trace;
    smtp_say(s, SMTP_SENDER_OK);
}

/* --- RCPT --- */

/* What the auth service says of an address of ours, in SMTP's words. */
static enum smtp_reply verdict(const struct smtp_session *s, const struct resolved *r)
{
    switch (r->answer->kind) {
    case THURN__RECIPIENT_KIND__RECIPIENT_LOCAL:
        return resolved_is_full(r, s->txn->mail.size) ? SMTP_MAILBOX_FULL
               : r->answer->n_targets                 ? SMTP_REPLY_NONE
                                                      : SMTP_UNKNOWN_USER;
    case THURN__RECIPIENT_KIND__RECIPIENT_REMOTE:
        return s->login.address ? SMTP_REPLY_NONE : SMTP_NO_RELAY;
    case THURN__RECIPIENT_KIND__RECIPIENT_UNKNOWN:
        return SMTP_UNKNOWN_USER;
    case THURN__RECIPIENT_KIND__RECIPIENT_SUSPENDED:
        return SMTP_SUSPENDED;
    case THURN__RECIPIENT_KIND__RECIPIENT_CLOSED:
        return SMTP_CLOSED_MAILBOX;
    case THURN__RECIPIENT_KIND__RECIPIENT_LOOP:
        return SMTP_ALIAS_LOOP;
    default: /* a newer auth service's answer */
        return SMTP_TRY_LATER;
    }
}

/*
 * Forms that once made servers relay: user%host@us, host!user@us, "user@host"@us. From strangers they are refused even
 * where a catch-all would take them.
 */
static bool is_routed(str local)
{
    for (size_t i = 0; i < local.n; i++)
        if (memchr("%!@:", local.p[i], 4))
            return true;
    return false;
}

/* Parse, look up and add the recipient; NONE: it was added. */
FIBER static enum smtp_reply add_rcpt(struct smtp_session *s, str args)
{
    struct smtp_txn *t = s->txn;
    struct smtp_rcpt_args r;
    struct smtp_rcpt rcpt;
    struct err err = ERR_INIT;
    enum smtp_reply why;
    if (!smtp_rcpt_parse(args, t->mail.is_smtputf8, &t->arena, &r, &why))
        return why;
    if (r.path.is_literal)
        return SMTP_BAD_DESTINATION;
    if (!s->login.address && is_routed(r.path.local))
        return SMTP_NO_RELAY;
    rcpt = (struct smtp_rcpt){.original = r.original, .notify = r.notify};
    if (!r.path.domain.n) /* RFC 5321 4.1.1.3: <Postmaster> */
        rcpt.address = s->server->opts.postmaster;
    else if (!address_normalize(r.path.local, r.path.domain, &t->arena, &rcpt.address, &err))
        return SMTP_RECIPIENT_SYNTAX;
    if (!resolver_get(s->server->resolver, rcpt.address, &rcpt.resolved, &err)) {
        log_warn("smtp.trouble", KV_Z("at", "recipient"), KV_STR("to", rcpt.address), KV_ERR(&err));
        return smtp_failure(SMTP_AT_RECIPIENT, err.kind);
    }
    why = verdict(s, rcpt.resolved);
    if (!why && rcpt.resolved->answer->kind == THURN__RECIPIENT_KIND__RECIPIENT_REMOTE) {
        resolved_unref(rcpt.resolved);
        rcpt.resolved = NULL;
    }
    if (!why && t->n_targets + (rcpt.resolved ? rcpt.resolved->answer->n_targets : 1) > SMTP_TARGETS_MAX)
        why = SMTP_TOO_MANY_RECIPIENTS;
    if (why)
        resolved_unref(rcpt.resolved);
    else
        smtp_txn_add(t, &rcpt);
    return why;
}

/* Somebody guesses addresses, or tries to relay: count it here and with the whole cluster. */
FIBER static void refuse_stranger(struct smtp_session *s, enum smtp_reply why)
{
    metric_inc_label(M_SMTP_RECIPIENTS, why == SMTP_NO_RELAY ? "relay" : "unknown");
    if (s->kind == SMTP_KIND_MX &&
        (++s->unknown > smtp_limits(s)->unknown_max || !smtp_take_peer(s, LIMIT_SMTP_UNKNOWN_IP))) {
        metric_inc_label(M_SMTP_REFUSED, "unknown_recipients");
        smtp_say_last(s, SMTP_TOO_MANY_UNKNOWN, SMTP_CLOSE_UNKNOWN);
        return;
    }
    smtp_say(s, why);
}

FIBER static void too_many(struct smtp_session *s)
{
    metric_inc_label(M_SMTP_REFUSED, "recipients");
    if (++s->overshoot > s->server->opts.recipients_max)
        smtp_say_last(s, SMTP_MISTAKES, SMTP_CLOSE_MISTAKES);
    else
        smtp_say(s, SMTP_TOO_MANY_RECIPIENTS);
}

FIBER void smtp_cmd_rcpt(struct smtp_session *s, enum smtp_verb verb, str args)
{
    (void)verb;
    if (!s->txn || s->txn->has_chunks) {
        smtp_mistake(s, s->txn ? SMTP_FINISH_BDAT : SMTP_MAIL_FIRST);
        return;
    }
    if (s->txn->n_rcpts >= s->server->opts.recipients_max) {
        too_many(s);
        return;
    }
    enum smtp_reply why = add_rcpt(s, args);
    if (!why) {
        metric_inc_label(M_SMTP_RECIPIENTS, "ok");
        smtp_say(s, SMTP_RECIPIENT_OK);
    } else if (why == SMTP_UNKNOWN_USER || why == SMTP_NO_RELAY) {
        refuse_stranger(s, why);
    } else if (why == SMTP_TOO_MANY_RECIPIENTS) {
        too_many(s);
    } else {
        bool is_temporary = smtp_reply_class(why) == 4;
        metric_inc_label(M_SMTP_RECIPIENTS, is_temporary ? "deferred" : "refused");
        if (is_temporary || str_starts(smtp_reply_line(why), S("550"))) /* about the mailbox, not about the command */
            smtp_say(s, why);
        else
            smtp_mistake(s, why);
    }
}
