/*
 * reply.h: replies of SMTP servers (RFC 5321 4.2, RFC 2034, RFC 3463) and what they offer to EHLO. Pure: fed line by
 * line.
 */
#ifndef QUEUE_SERVICE_REMOTE_REPLY_H
#define QUEUE_SERVICE_REMOTE_REPLY_H

#include "base/str.h"

/* RFC 5321 4.5.3.1.5 says 512; of longer ones this much is looked at */
#define SMTP_REPLY_LINE_MAX 2048u
#define SMTP_REPLY_LINES_MAX 128u
#define SMTP_REPLY_BYTES_MAX ((size_t)64 * 1024)
#define SMTP_REPLY_TEXT_SIZE 400u
#define SMTP_STATUS_SIZE 12u /* "5.123.456" */

struct smtp_reply {
    uint16_t code; /* 200..599; 0 before the first line */
    unsigned n_lines;
    char status[SMTP_STATUS_SIZE];   /* the enhanced code where one of the code's class is given, else "5.0.0" */
    char text[SMTP_REPLY_TEXT_SIZE]; /* code and lines as one line of printable UTF-8, cut at a character */
    size_t n_text;
};
static inline unsigned smtp_reply_class(const struct smtp_reply *r)
{
    return r->code / 100;
}

enum smtp_reply_step {
    SMTP_REPLY_MORE,
    SMTP_REPLY_DONE,
    SMTP_REPLY_BAD, /* no reply line */
    SMTP_REPLY_LONG /* too many lines */
};
/* Add the next line, without its end, to a reply that was zeroed before its first. Lines may disagree about the code:
 * the last one counts, as with other clients. */
enum smtp_reply_step smtp_reply_add(struct smtp_reply *r, str line);

enum smtp_cap {
    SMTP_CAP_PIPELINING = 1, /* RFC 2920 */
    SMTP_CAP_SIZE = 2,       /* RFC 1870 */
    SMTP_CAP_8BITMIME = 4,   /* RFC 6152 */
    SMTP_CAP_SMTPUTF8 = 8,   /* RFC 6531 */
    SMTP_CAP_CHUNKING = 16,  /* RFC 3030 */
    SMTP_CAP_DSN = 32,       /* RFC 3461 */
    SMTP_CAP_STARTTLS = 64,  /* RFC 3207 */
    SMTP_CAP_LIMITS = 128    /* RFC 9422 */
};
struct smtp_caps {
    unsigned offered;  /* enum smtp_cap bits */
    uint64_t size_max; /* of SIZE; 0 = none said */
    uint32_t rcpt_max; /* recipients of a transaction, messages of a connection (LIMITS); 0 = none said */
    uint32_t mail_max;
    char name[256]; /* what the server calls itself */
};
/* Take one line of a 250 reply to EHLO. Unknown keywords and unreadable parameters are passed over. */
void smtp_caps_add(struct smtp_caps *c, str line, bool is_first);

#endif
