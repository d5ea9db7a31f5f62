/*
 * What clients are told when something fails (RFC 5530, RFC 3501 7.1). One table; the error's own text is for the log.
 */
#include "frontend/imap/session.h"

#include <stdio.h>

#include "base/log.h"
#include "base/metrics.h"

/* Response codes, and the text beside each. */
#define CODES(X)                                                                                                       \
    X(SERVERBUG, "Internal error")                                                                                     \
    X(CANNOT, "That cannot be done")                                                                                   \
    X(NONEXISTENT, "No such mailbox or message")                                                                       \
    X(TRYCREATE, "No such mailbox")                                                                                    \
    X(ALREADYEXISTS, "It exists already")                                                                              \
    X(NOPERM, "Not allowed")                                                                                           \
    X(LIMIT, "A limit is reached")                                                                                     \
    X(TOOBIG, "Message too big")                                                                                       \
    X(INUSE, "It was changed at the same time, try again")                                                             \
    X(UNAVAILABLE, "Temporarily not available, try again later")                                                       \
    X(OVERQUOTA, "The mailbox is full")                                                                                \
    X(AUTHENTICATIONFAILED, "Wrong login or password.")
enum code {
#define CODE_(id, text) CODE_##id,
    CODES(CODE_)
#undef CODE_
};
static const struct {
    const char *name, *text;
} codes[] = {
#define CODE_(id, text) [CODE_##id] = {#id, text},
    CODES(CODE_)
#undef CODE_
};
static const enum code failures[ERR_KINDS_][IMAP_ATS_] = {
#define FAILURE(kind, mailbox, destination, account, body, login)                                                      \
    [ERR_##kind] = {CODE_##mailbox, CODE_##destination, CODE_##account, CODE_##body, CODE_##login},
#include "frontend/imap/failures.def"
#undef FAILURE
};
#define FAILURE(...) +1
_Static_assert(ERR_KINDS_ == 0
#include "frontend/imap/failures.def"
               ,
               "each kind of error has a row in failures.def");
#undef FAILURE

static enum code code_of(enum imap_at at, enum err_kind kind)
{
    return failures[kind < ERR_KINDS_ ? kind : ERR_INTERNAL][at];
}

bool imap_bad(struct imap_command *c, struct err *err, const char *text)
{
    c->is_bad = true;
    c->text = str_c(text);
    return err_set(err, ERR_INVALID, "%s", text);
}

bool imap_no(struct imap_command *c, struct err *err, enum err_kind kind, const char *code, const char *text)
{
    c->code = str_c(code);
    c->text = str_c(text);
    return err_set(err, kind, "%s", text);
}

bool imap_failed(struct imap_command *c, enum imap_at at, const struct rpc_call *call, struct err *err)
{
    c->at = at;
    return err_set(err, call->err.kind, "%s", call->err.msg);
}

FIBER bool imap_send_failure(struct imap_session *s, struct imap_command *c, const struct err *why, struct err *err)
{
    metric_inc_label(M_IMAP_FAILED, c->is_bad ? "bad" : err_kind_name(why->kind));
    if (c->is_bad)
        return imap_printf(s, err, "%.*s BAD %.*s\r\n", STR_ARG(c->tag), STR_ARG(c->text));
    enum code of_kind = code_of(c->at, why->kind);
    str code = str_empty(c->code) ? str_c(codes[of_kind].name) : c->code;
    str text = str_empty(c->text) ? str_c(codes[of_kind].text) : c->text;
    if (of_kind == CODE_UNAVAILABLE || of_kind == CODE_SERVERBUG)
        log_warn("imap.failed", KV_STR("command", c->name), KV_ERR(why));
    return imap_printf(s, err, "%.*s NO [", STR_ARG(c->tag)) && imap_write(s, code, err) && /* that can be long */
           imap_printf(s, err, "] %.*s\r\n", STR_ARG(text));
}

/* --- calls --- */

void imap_call(struct imap_session *s, struct rpc_call *call, struct arena *a)
{
    user_account_call_init(call, a, &s->login_check.pass, s->account.account_id);
}

FIBER bool imap_relocated(struct imap_session *s, struct rpc_call *call)
{
    enum user_account_place place = user_account_locate(s->server->opts.auth, &s->account, call);
    if (place == USER_ACCOUNT_OTHER)
        imap_end(s, IMAP_END_LOGIN);
    return place == USER_ACCOUNT_MOVED;
}
