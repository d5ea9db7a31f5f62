/*
 * remote.h: delivery to other mail servers: from recipients of one domain to a result for each.
 *
 * One attempt: look up the domain's MX hosts (RFC 5321 5.1, RFC 7505), connect to at most five addresses and two
 * working sessions, speak SMTP (RFC 5321) with what the peer offers (PIPELINING, SIZE, 8BITMIME, SMTPUTF8, CHUNKING,
 * DSN, STARTTLS), and give each recipient its result. Connections that stay good are kept for the same site and used
 * again (at most 100 messages, 300 s). Timeouts are those of RFC 5321 4.5.3.2, shortened by the fiber's deadline. Bare
 * CR and LF never leave.
 *
 * Addresses that resolve to loopback, private or link-local networks, or to this host's own listeners, are not used
 * (unless allow_private_hosts): MX records are the world's, and must not reach inner services.
 */
#ifndef QUEUE_SERVICE_REMOTE_REMOTE_H
#define QUEUE_SERVICE_REMOTE_REMOTE_H

#include "base/arena.h"
#include "net/dns.h"
#include "net/stream.h"
#include "rpc/call.h"

struct remote;
struct remote_opts {
    struct dns *dns;
    struct tls_client *tls;
    str hostname;  /* for EHLO */
    uint16_t port; /* 25 */
    bool allow_private_hosts;
    str relay;         /* "host", "host:port" or "[address]:port" for everything instead of MX; empty = none. Used
                          whatever its address is */
    unsigned max_idle; /* kept connections in all; default 200 */
    unsigned connect_ms, command_ms, data_ms, final_ms; /* 0 = 30 s, 300 s, 180 s, 600 s */
};
/* Whether this may be the relay. */
bool remote_check_relay(str relay, struct err *err) WARN_UNUSED;
/* Strings are copied. Errors: INVALID (relay is no host and port). */
struct remote *remote_new(const struct remote_opts *opts, struct err *err) WARN_UNUSED;
/* No call may be under way. Kept connections say QUIT and close in the background. */
FIBER void remote_free(struct remote *r);

/* Where a domain's mail goes: the key that windows, caps and kept connections go by (sorted MX hosts). */
struct remote_site {
    str key; /* e.g. "mx1.example.net,mx2.example.net"; in the arena */
    struct dns_mx *mx;
    size_t n_mx;
};
/*
 * domain may be an address literal, have U-labels and any case. Answers are kept for a minute.
 * Errors: NOT_FOUND (no such domain: permanent 5.1.2), DENIED (null MX: permanent 5.1.10), INVALID (no domain at all:
 * permanent 5.1.2), UNAVAILABLE/TIMEOUT (temporary).
 */
FIBER bool remote_resolve(struct remote *r, str domain, struct arena *a, struct remote_site *out, struct err *err)
    WARN_UNUSED;

enum remote_outcome { REMOTE_DELIVERED, REMOTE_DEFERRED, REMOTE_FAILED };
struct remote_rcpt {
    str address;
    str original;    /* ORCPT as given ("rfc822;" and xtext), or an address, or empty */
    uint32_t notify; /* as QueueRecipient.notify */
    /* results */
    enum remote_outcome outcome;
    uint16_t code;        /* SMTP reply code, 0 when there was no reply */
    char status[16];      /* enhanced code "5.1.1" */
    char text[400];       /* for people: the reply with its code, or the error; one line of UTF-8 */
    char mx[256];         /* who said so: "mx1.example.net[192.0.2.1]"; empty when nobody did */
    bool is_site_failure; /* nobody could be talked to: counts against the site, not the message */
    bool is_dsn_relayed;  /* the peer took over the DSN duties (RFC 3461) */
};
struct remote_message {
    str sender;    /* empty = null sender */
    uint64_t size; /* of the content, exactly: another number of bytes is not sent to its end */
    /* The content from its start; called for each transaction that got that far, and closed after it. Suspends. */
    FIBER struct rpc_source *(*open)(void *arg, struct err *err);
    void (*close)(void *arg, struct rpc_source *s);
    void *arg;
    bool is_8bit;      /* goes as 7-bit text to a host without 8BITMIME */
    bool is_smtputf8;  /* asked for; said only where addresses or header fields need it (RFC 6531 3.4) */
    bool requires_tls; /* never in clear: fails with 5.7.10 where STARTTLS is not offered */
    bool ret_full;
    str envelope_id; /* ENVID as given (xtext), or empty */
    /* set while a peer has all of the content, and its answer is not known; NULL = nobody wants to know */
    bool *is_sent;
};
/*
 * Every rcpt has its outcome on return, whatever happened. Suspends for as long as the attempt takes. When the
 * connection is lost after the last byte of the content, nobody knows whether it was taken: deferred, and no other host
 * is tried now.
 */
FIBER void remote_deliver(struct remote *r, const struct remote_site *site, const struct remote_message *m,
                          struct remote_rcpt *rcpts, size_t n);

#endif
