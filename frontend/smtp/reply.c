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
