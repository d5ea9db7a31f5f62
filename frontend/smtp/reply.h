/*
 * reply.h: the replies that SMTP knows by heart.
 */
#ifndef FRONTEND_SMTP_REPLY_H
#define FRONTEND_SMTP_REPLY_H

#include "base/err.h"

enum smtp_reply {
    SMTP_REPLY_NONE,
#define REPLY(id, text) SMTP_##id,
#include "frontend/smtp/replies.def"
#undef REPLY
    SMTP_REPLIES_
};

/* The whole line with its CRLF; "250 2.0.0 Ok\r\n". */
str smtp_reply_line(enum smtp_reply r);
/* Its text without the CRLF. */
str smtp_reply_text(enum smtp_reply r);
/* 2, 3, 4 or 5. */
static inline int smtp_reply_class(enum smtp_reply r)
{
    return smtp_reply_line(r).p[0] - '0';
}

/* Which call failed (failures.def). */
enum smtp_at {
    SMTP_AT_RECIPIENT,
    SMTP_AT_SENDER,
    SMTP_AT_LOGIN,
    SMTP_AT_BODY,
    SMTP_AT_MAILBOX,
    SMTP_AT_QUEUE,
    SMTP_ATS_
};
/* What the client hears of it. A kind that only a newer service knows is INTERNAL. */
enum smtp_reply smtp_failure(enum smtp_at at, enum err_kind kind);

#endif
