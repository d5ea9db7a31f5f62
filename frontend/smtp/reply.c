#include "frontend/smtp/reply.h"

static const str lines[SMTP_REPLIES_] = {
    [SMTP_REPLY_NONE] = S_INIT("\r\n"),
#define REPLY(id, text) [SMTP_##id] = S_INIT(text "\r\n"),
#include "frontend/smtp/replies.def"
#undef REPLY
};

str smtp_reply_line(enum smtp_reply r)
{
    return lines[r];
}

str smtp_reply_text(enum smtp_reply r)
{
    return str_slice(lines[r], 0, lines[r].n - 2);
}

static const enum smtp_reply failures[ERR_KINDS_][SMTP_ATS_] = {
#define FAILURE(kind, recipient, sender, login, body, mailbox, queue)                                                  \
    [ERR_##kind] = {SMTP_##recipient, SMTP_##sender, SMTP_##login, SMTP_##body, SMTP_##mailbox, SMTP_##queue},
#include "frontend/smtp/failures.def"
#undef FAILURE
};
#define FAILURE(...) +1
_Static_assert(ERR_KINDS_ == 0
#include "frontend/smtp/failures.def"
               ,
               "each kind of error has a row in failures.def");
#undef FAILURE

enum smtp_reply smtp_failure(enum smtp_at at, enum err_kind kind)
{
    return failures[kind < ERR_KINDS_ ? kind : ERR_INTERNAL][at];
}
