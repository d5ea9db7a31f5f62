/* smtp_internal.h: what smtp_client.c (the connection), smtp_send.c (a transaction) and smtp_body.c (its content)
 * share. */
#ifndef QUEUE_SERVICE_REMOTE_SMTP_INTERNAL_H
#define QUEUE_SERVICE_REMOTE_SMTP_INTERNAL_H

#include "queue-service/remote/smtp_client.h"

#define SMTP_CLIENT_MAGIC 0x57e40011u

struct smtp_client {
    uint32_t magic;
    const struct smtp_settings *settings;
    struct stream *stream;
    struct smtp_caps caps;
    char peer[300];
    str host;           /* while opening */
    bool is_in_content; /* a command said now would be part of the message */
    bool needs_reset;   /* a transaction may be open at the peer */
    bool is_reused;     /* nothing was heard since it was kept */
    unsigned n_messages;
    int64_t opened_mono_ms;
};

static inline bool smtp_can(const struct smtp_client *c, enum smtp_cap cap)
{
    return (c->caps.offered & cap) != 0;
}
/* Whether the content has to be made 7-bit text for this peer (RFC 6152 3). */
static inline bool smtp_must_convert(const struct smtp_client *c, const struct remote_message *m)
{
    return m->is_8bit && !smtp_can(c, SMTP_CAP_8BITMIME);
}
/* One reply within timeout_ms. Errors: the stream's; INVALID and LIMIT when the peer does not speak SMTP. Suspends. */
FIBER bool smtp_read_reply(struct smtp_client *c, unsigned timeout_ms, struct smtp_caps *caps, struct smtp_reply *out,
                           struct err *err) WARN_UNUSED;
/* A reply that is no success, as trouble: permanent for 5xx. */
void smtp_trouble_reply(struct smtp_trouble *t, const struct smtp_reply *r);
/* The connection broke while waiting for the answer to `command`. */
void smtp_trouble_lost(struct smtp_trouble *t, const struct smtp_client *c, const char *command, const struct err *err);

enum smtp_body_end {
    SMTP_BODY_ANSWERED,
    SMTP_BODY_BROKEN, /* not sent to its end, so not taken */
    SMTP_BODY_UNKNOWN /* sent to its end, and no answer came */
};
/* Send the content, after 354 (by_data) or by BDAT. *r is the answer, or *why says what happened. Suspends. */
FIBER enum smtp_body_end smtp_body_send(struct smtp_client *c, const struct remote_message *m, bool by_data,
                                        struct smtp_reply *r, struct smtp_trouble *why);

#endif
