/*
 * deliver.h: hand a complete message on: to the mailboxes, or to the queue.
 */
#ifndef FRONTEND_SMTP_DELIVER_H
#define FRONTEND_SMTP_DELIVER_H

#include "frontend/smtp/session.h"

struct smtp_outcome {
    const char *result;        /* "delivered", "queued", "deferred", "refused" */
    uint64_t queue_id;         /* of a queued one */
    enum smtp_reply reply;     /* what the message gets; NONE: it was accepted */
    enum smtp_reply *of_rcpts; /* what each recipient gets (LMTP); in the transaction's arena */
};
/* The body is complete and without failure. Always sets *out; says 250 only for what is committed. */
FIBER void smtp_deliver(struct smtp_session *s, struct smtp_outcome *out);

#endif
