/*
 * listener.h: accept connections, with the PROXY protocol (v1 and v2) from trusted networks.
 *
 * The accept callback runs on the loop for each connection that passed the listener's own limits; it takes over the
 * stream (spawn a fiber, or stream_idle). PROXY header and implicit TLS are handled before, within
 * handshake_timeout_ms, so the callback always gets a stream ready for the protocol's first byte; then it runs on a
 * fiber that ends with it. From a trusted network the header is required; from any other it is not looked for (and so
 * is a protocol error).
 */
#ifndef NET_LISTENER_H
#define NET_LISTENER_H

#include "net/stream.h"

struct listener;

struct listener_opts {
    const char *name; /* in logs and metrics: "smtp", "imaps", … */
    struct net_addr addr;
    /* > 0: from listener_bind, here or in a parent, and owned from now on; else bind addr */
    int inherited_fd;
    struct tls_server *implicit_tls;   /* NULL = plain */
    const struct net_cidr *proxy_from; /* networks whose connections start with a PROXY header */
    size_t n_proxy_from;
    unsigned max_connections;      /* of this listener; above it: refuse_text and close */
    unsigned max_per_ip;           /* 0 = no limit; loopback is not limited */
    str refuse_text;               /* sent in the clear to a refused connection (plain listeners only) */
    unsigned handshake_timeout_ms; /* default 30000 */
    struct stream_opts stream;
    void (*accept)(void *arg, struct stream *s);
    void *arg;
};
/*
 * Bind an address and listen, without accepting: the descriptor, close-on-exec, for listener_start or for a child
 * process to inherit. -1 on failure. The file of a Unix socket (mode 0600) stays until somebody binds it anew. Errors:
 * UNAVAILABLE, as listener_start.
 */
int listener_bind(const struct net_addr *addr, struct err *err) WARN_UNUSED;
/* Bind and listen. Errors: UNAVAILABLE with the address and what to do (in use, privileged port). */
struct listener *listener_start(const struct listener_opts *opts, struct err *err) WARN_UNUSED;
/* Stop accepting; connections that were accepted live on. listener_free stops too, and frees with the last connection.
 */
void listener_stop(struct listener *l);
void listener_free(struct listener *l);
const struct net_addr *listener_addr(const struct listener *l); /* the real port when 0 was asked for */
int listener_fd(const struct listener *l);
/* The accepted stream was closed: gives its place (total and per IP) back. Done by stream_close by itself. */
unsigned listener_connections(const struct listener *l);

/* The PROXY header parser, pure: bytes needed is 0 when more input is needed. RFC-less: the protocol's own text. */
enum proxy_result { PROXY_MORE, PROXY_OK, PROXY_BAD };
struct proxy_header {
    bool is_local; /* LOCAL or UNKNOWN: keep the real addresses */
    struct net_addr source, destination;
    size_t length; /* bytes of the header */
};
enum proxy_result proxy_parse(str input, struct proxy_header *out);

#endif
