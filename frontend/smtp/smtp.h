/*
 * smtp.h: the SMTP and LMTP front-end: mail comes in.
 *
 * Three kinds of listener share one server. MX (port 25) takes mail for our own recipients from anybody and relays for
 * nobody. Submission (587, and 465 with TLS from the first byte) takes mail from our users, who must log in. LMTP (port
 * 24) takes mail for our own recipients from a mail server that is trusted, with a reply for each recipient.
 *
 * A session holds no fiber while it waits for a command. A message whose recipients all have their mailboxes here, and
 * of whom none asked for a success notice, is delivered by one Store.Deliver; 250 then stands on that commit. Any other
 * message, and one whose direct delivery failed for the moment, goes to Queue.Enqueue with all of its recipients: both
 * paths derive a recipient's delivery key from the same id and the same place in the list, so what was delivered is not
 * delivered again. When neither works the answer is 4xx and nothing is kept.
 *
 * RFCs: 5321, 1870 (SIZE), 2033 (LMTP), 2034 and 3463 (enhanced codes), 2920 (PIPELINING), 3030 (CHUNKING), 3207
 * (STARTTLS), 3461 (DSN), 3848 (with keywords), 4954 (AUTH), 6152 (8BITMIME), 6409 (submission), 6531 (SMTPUTF8).
 *
 * BUGS: BINARYMIME, REQUIRETLS and DELIVERBY are not offered. A message is relayed as it came, also to servers without
 * 8BITMIME: the queue decides.
 */
#ifndef FRONTEND_SMTP_SMTP_H
#define FRONTEND_SMTP_SMTP_H

#include "net/stream.h"
#include "rpc/call.h"

struct guests;
struct dir_watch;
struct logins;
struct smtp_server;

/* A member of 0 takes the default. */
struct smtp_limits {
    size_t line_max;             /* command line without its end; 2048. AUTH lines may have 12288 (RFC 4954 4) */
    unsigned sessions_max;       /* of each kind; 20000; above it 421 */
    unsigned bad_soft;           /* mistaken commands, after which each is answered late; 10 */
    unsigned bad_hard;           /* … after which the session is ended; 20 */
    unsigned junk_max;           /* commands that bring no mail, between two messages; 100, then each is a mistake */
    unsigned unknown_max;        /* refused recipients of a session; 100, then it is ended */
    unsigned auth_failures_max;  /* of a session; 5, then it is ended */
    unsigned chunks_max;         /* BDAT commands of a message; 20000 */
    unsigned received_max;       /* Received fields, more are a loop; 50 */
    size_t header_max;           /* bytes of the header; 256 KiB */
    size_t inline_max;           /* larger bodies are streamed to the store as they arrive; 512 KiB, at most that */
    unsigned command_timeout_ms; /* between commands, and for one; 300 s (RFC 5321 4.5.3.2.7) */
    unsigned data_timeout_ms;    /* for one message's bytes; 3600 s */
    unsigned min_rate;           /* bytes a second of a message, counted after 30 s; 500 */
    unsigned stray_timeout_ms;   /* silence after a bare CR or LF, until we stop to wait for the true end; 15 s */
    unsigned tls_timeout_ms;     /* for a handshake; 30 s */
    unsigned tarpit_ms;          /* delay of the answer to a mistake; 1 s */
    unsigned deliver_ms;         /* for direct delivery before the queue takes over; 3 s, and tenfold in LMTP */
    /* for the queue; 30 s. The store bounds how long it keeps a large body waiting after its last byte */
    unsigned enqueue_ms;
};

struct smtp_opts {
    str hostname; /* in greetings and Received fields */
    /* who <Postmaster> without a domain is; empty = whom the auth service gives mail for "postmaster", an admin */
    str postmaster;
    ProtobufCService *auth, *store, *queue;
    struct logins *logins;     /* of all front-ends of this process; outlives the server */
    struct guests *guests;     /* likewise */
    struct dir_watch *changes; /* likewise; tells of changes of the directory. NULL = nobody does */
    struct tls_server *tls;    /* for STARTTLS; NULL = not offered. Must outlive the server */
    int plain_login;           /* passwords without TLS: 0 never, 1 from loopback, 2 always */
    uint64_t message_max;      /* bytes; default 50 MiB */
    unsigned recipients_max;   /* of a message; default and most 1000 */
    bool keeps_bcc;            /* of submitted messages; else the field is taken out (RFC 6409 8, RFC 5322 3.6.3) */
    /* Whether mail can be stored at all, as far as this process knows: asked at MAIL. NULL = yes. */
    bool (*has_room)(void *arg);
    void *room; /* arg of has_room; borrowed */
    struct smtp_limits limits;
};

/* Strings are copied, services are borrowed. Errors: INVALID (a service is missing, or no hostname). */
struct smtp_server *smtp_server_new(const struct smtp_opts *opts, struct err *err) WARN_UNUSED;
/* No session may be left: drain first. NULL is allowed. */
void smtp_server_free(struct smtp_server *s);
DEFINE_CLEANUP(struct smtp_server, smtp_server_free)
/*
 * Say 421 to sessions that wait and to new ones, let transactions finish. Returns when no session is left; at the
 * fiber's deadline, or when it is cancelled, those that remain are broken off first.
 */
FIBER void smtp_server_drain(struct smtp_server *s);
unsigned smtp_server_sessions(const struct smtp_server *s);

/* Accept callbacks for listener_start; arg is the server. For implicit TLS the stream comes with TLS up. */
void smtp_accept_mx(void *server, struct stream *s);
void smtp_accept_submission(void *server, struct stream *s);
void smtp_accept_lmtp(void *server, struct stream *s);

#endif
