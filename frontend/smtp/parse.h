/*
 * parse.h: SMTP command lines (RFC 5321 4.1.1) and their ESMTP parameters. Pure: no session, no network.
 *
 * Lines come without their end. What is wrong with one is said by the reply that it deserves, because that is all that
 * anybody does with it.
 */
#ifndef FRONTEND_SMTP_PARSE_H
#define FRONTEND_SMTP_PARSE_H

#include "frontend/smtp/reply.h"
#include "mail/address.h"

enum smtp_verb {
#define CMD(verb, handler, flags) SMTP_VERB_##verb,
#include "frontend/smtp/commands.def"
#undef CMD
    SMTP_VERBS_
};
extern const str smtp_verb_names[SMTP_VERBS_];

/* Take the first word off *rest, and the spaces after it; empty when there is none. */
str smtp_word(str *rest);
/* The verb and what follows it, without the spaces around. False: not one of ours. */
bool smtp_verb_parse(str line, enum smtp_verb *verb, str *args) WARN_UNUSED;

/* NOTIFY of RFC 3461 4.1, as QueueRecipient.notify has it. */
#define SMTP_NOTIFY_SUCCESS 1u
#define SMTP_NOTIFY_FAILURE 2u
#define SMTP_NOTIFY_DELAY 4u
#define SMTP_NOTIFY_NEVER 8u

#define SMTP_ENVID_MAX 100u /* RFC 3461 5.4 */
#define SMTP_ORCPT_MAX 500u /* RFC 3461 5.4 */
#define SMTP_HELLO_MAX 255u

struct smtp_mail_args {
    struct smtp_path path;
    uint64_t size; /* SIZE=; 0 = not said */
    bool is_8bit;  /* BODY=8BITMIME */
    bool is_smtputf8;
    bool ret_full;   /* RET=FULL */
    str envelope_id; /* ENVID as given (xtext) */
};
struct smtp_rcpt_args {
    struct smtp_path path;
    unsigned notify; /* SMTP_NOTIFY_*; 0 = not said */
    str original;    /* ORCPT as given; empty = not said */
};
/* args: what follows the verb. The results live in a. *why is set when false is returned. */
bool smtp_mail_parse(str args, struct arena *a, struct smtp_mail_args *out, enum smtp_reply *why) WARN_UNUSED;
bool smtp_rcpt_parse(str args, bool allow_utf8, struct arena *a, struct smtp_rcpt_args *out, enum smtp_reply *why)
    WARN_UNUSED;
/* "SIZE [LAST]", RFC 3030 2. */
bool smtp_bdat_parse(str args, uint64_t *size, bool *is_last) WARN_UNUSED;
/* The name that a client gives itself: printable, no spaces, at most SMTP_HELLO_MAX bytes. */
bool smtp_hello_parse(str args) WARN_UNUSED;
/* xtext, RFC 3461 4. */
bool smtp_xtext_valid(str s) WARN_UNUSED;

#endif
