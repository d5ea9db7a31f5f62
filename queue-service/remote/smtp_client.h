/*
 * smtp_client.h: one connection to another mail server, as its client.
 *
 * RFC 5321, 2920 (PIPELINING), 1870 (SIZE), 6152 (8BITMIME), 6531 (SMTPUTF8), 3030 (CHUNKING), 3461 (DSN), 3207
 * (STARTTLS), 9422 (LIMITS).
 *
 * smtp_client_open connects, takes the greeting, says EHLO and, as wanted, changes to TLS. Then smtp_client_send
 * carries messages, one after the other, each for some recipients. Commands go out in groups where PIPELINING is
 * offered. The content goes by BDAT where CHUNKING is offered, because its end cannot be mistaken, and by DATA
 * elsewhere. A RSET that is due goes with the next message's first group.
 */
#ifndef QUEUE_SERVICE_REMOTE_SMTP_CLIENT_H
#define QUEUE_SERVICE_REMOTE_SMTP_CLIENT_H

#include "queue-service/remote/remote.h"
#include "queue-service/remote/reply.h"

#define SMTP_SESSION_MESSAGES_MAX 100u
#define SMTP_SESSION_MS_MAX 300000

/* What went wrong, for all recipients that it concerns. */
struct smtp_trouble {
    bool is_permanent;
    uint16_t code; /* 0 = no reply */
    char status[SMTP_STATUS_SIZE];
    char text[SMTP_REPLY_TEXT_SIZE];
};
void smtp_trouble_set(struct smtp_trouble *t, bool is_permanent, const char *status, const char *fmt, ...) PRINTF(4, 5);

struct smtp_settings {
    str hostname;           /* for EHLO */
    struct tls_client *tls; /* NULL = no STARTTLS */
    unsigned connect_ms, command_ms, data_ms, final_ms;
};
enum smtp_security {
    SMTP_CLEAR,
    SMTP_TLS_MAY, /* when offered; certificates are not looked at */
    SMTP_TLS_MUST
};
enum smtp_opened {
    SMTP_OPENED,
    SMTP_REFUSED,   /* *why says */
    SMTP_TLS_FAILED /* no TLS to be had: in clear it may work; *why says */
};

struct smtp_client;
/*
 * settings are borrowed for the client's life, host (the name to show and to say in SNI) until return; *out is set when
 * opened. Suspends.
 */
FIBER enum smtp_opened smtp_client_open(const struct smtp_settings *settings, const struct net_addr *addr, str host,
                                        enum smtp_security security, struct smtp_client **out,
                                        struct smtp_trouble *why);
/* Say QUIT (or, inside of a message's content, break off), wait for nothing. From the loop or a fiber. */
void smtp_client_quit(struct smtp_client *c);

struct stream *smtp_client_stream(struct smtp_client *c);
const struct smtp_caps *smtp_client_caps(const struct smtp_client *c);
/* "mx1.example.net[192.0.2.1]" */
str smtp_client_peer(const struct smtp_client *c);
/* Whether it may carry one more message (by their number and its age), and until when it may live. */
bool smtp_client_is_fresh(const struct smtp_client *c);
int64_t smtp_client_ends_mono_ms(const struct smtp_client *c);
/* From now on a peer that has gone away is no trouble, but SMTP_END_STALE. */
void smtp_client_reused(struct smtp_client *c);

enum smtp_rcpt_state {
    SMTP_RCPT_WAITING,  /* not delivered; another host may be tried. `to` holds the last answer, if there was one */
    SMTP_RCPT_ACCEPTED, /* by RCPT, in the transaction under way */
    SMTP_RCPT_OVERFLOW, /* too many for this transaction */
    SMTP_RCPT_DONE      /* nothing more in this attempt: `to` holds its outcome */
};
struct smtp_rcpt {
    struct remote_rcpt *to;
    enum smtp_rcpt_state state;
};
/* The outcome of one recipient, state included (DONE for all but a temporary trouble). */
void smtp_rcpt_trouble(struct smtp_rcpt *rcpt, const struct smtp_trouble *why, str peer);

/* Whether the peer can take such a message at all (its size, UTF-8 addresses). */
bool smtp_client_can(const struct smtp_client *c, const struct remote_message *m, const struct smtp_rcpt *rcpts,
                     size_t n, struct smtp_trouble *why) WARN_UNUSED;
enum smtp_end {
    SMTP_END_GOOD, /* the connection can carry another message */
    SMTP_END_LOST, /* it cannot */
    SMTP_END_STALE /* it had been given up by the peer while it was kept: nothing was tried */
};
/*
 * Carry the message to all rcpts that are WAITING. Afterwards none is ACCEPTED or OVERFLOW. Suspends.
 * A recipient that was refused with 4xx, or that the connection was lost for, is WAITING again.
 */
FIBER enum smtp_end smtp_client_send(struct smtp_client *c, const struct remote_message *m, struct smtp_rcpt *rcpts,
                                     size_t n);

#endif
