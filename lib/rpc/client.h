/*
 * client.h: a remote service as a ProtobufCService: pool, health, routing, and retries, in one place.
 *
 * Nodes are a static list of addresses (names are resolved again every 5 s, so a Kubernetes headless service works:
 * each address behind a name is a node). One connection a node carries many calls; frames of one loop turn go out in
 * one write. A call goes to the node that rendezvous hashing gives its route_key, among the healthy; without a key to
 * the one with the fewest calls in flight. A node that fails to connect, or does not answer pings, is left alone with
 * back-off. Connections are opened at once and kept, so rpc_client_healthy tells how things are.
 * Retries: UNAVAILABLE before the request was sent, or any UNAVAILABLE of an idempotent call, after a pause; BUSY of an
 * idempotent call at once, but only by nodes that did not say it; never past the deadline; never a call whose body
 * source was read. Version negotiation: both sides say the range that they speak when they connect; none in common is
 * an error that names both.
 */
#ifndef RPC_CLIENT_H
#define RPC_CLIENT_H

#include "net/dns.h"
#include "net/stream.h"
#include "rpc/call.h"

struct rpc_client_opts {
    const char *name; /* "store", in logs and metrics */
    const ProtobufCServiceDescriptor *service;
    const str *nodes; /* "127.0.0.1:7001", "store.mail.svc:7001", "unix:/run/x.sock" */
    size_t n_nodes;
    struct tls_client *tls;      /* NULL = plain; over TCP the server's certificate is for the host in `nodes` */
    char *set;                   /* see rpc_set_fits; borrowed, outlives the client */
    unsigned roles;              /* our own, RPC_BY_*: what we claim to be */
    unsigned server_role;        /* over TLS the server's certificate must name it; 0 = any of our authority */
    struct dns *dns;             /* NULL = no names among nodes */
    unsigned connect_timeout_ms; /* default 2000 */
};
/* Whether these may be nodes; the error follows on "it has". Names are not looked up. */
bool rpc_client_check(const str *nodes, size_t n, struct err *err) WARN_UNUSED;
/* The service to call; free with rpc_client_free. */
ProtobufCService *rpc_client_new(const struct rpc_client_opts *opts, struct err *err) WARN_UNUSED;
FIBER void rpc_client_free(ProtobufCService *client);
/* Call every node at once (admin operations, with the administrator's pass), for some seconds at most; then fn is told
 * of each reply or error. */
FIBER bool rpc_client_each(ProtobufCService *client, unsigned method, const ProtobufCMessage *request,
                           const struct rpc_pass *pass, struct arena *a,
                           void (*fn)(void *arg, const ProtobufCMessage *reply, const struct err *err), void *arg,
                           struct err *err) WARN_UNUSED;
unsigned rpc_client_healthy(ProtobufCService *client);

/* Tests: fail the n-th call from now on with UNAVAILABLE, before (or, with after, after) it took effect; wraps any
 * service. */
ProtobufCService *rpc_faulty_new(ProtobufCService *inner);
void rpc_faulty_set(ProtobufCService *faulty, unsigned nth, bool after);
void rpc_faulty_free(ProtobufCService *faulty);

#endif
