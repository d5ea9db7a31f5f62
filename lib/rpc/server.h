/*
 * server.h: serve local service objects to remote callers.
 *
 * Frames over TCP, Unix sockets or TLS (mutual between hosts): see docs/rpc.md for the wire. Requests of a connection
 * run at once, each on a fiber with the deadline that the caller sent, at most max_inflight in the process; above that
 * the answer is UNAVAILABLE. A malformed frame ends its connection only. Peers are authenticated by their certificate
 * (of the cluster's CA) or by the permissions of the Unix socket, and have the roles that they claim: each of them must
 * be among the certificate's names (rpc_role_uri), and among those of the door that they came by. One without a role is
 * turned away. What a role may call: rpc/rights.h.
 */
#ifndef RPC_SERVER_H
#define RPC_SERVER_H

#include "net/listener.h"
#include "rpc/call.h"

struct rpc_server;
struct rpc_server_opts {
    ProtobufCService *const *services; /* by their descriptors' names */
    size_t n_services;
    unsigned max_inflight; /* default 4096 */
    char *set;             /* see rpc_set_fits; borrowed, outlives the server */
    unsigned roles;        /* our own, RPC_BY_*: said in our HELLO */
};
struct rpc_server *rpc_server_new(const struct rpc_server_opts *opts);
/* The accept callbacks of a listener. The second is the door of this process's own front-ends: peers there have that
 * role, whatever they claim. */
void rpc_server_accept(void *server, struct stream *s);
void rpc_server_accept_frontend(void *server, struct stream *s);
/* Tell peers to go elsewhere, let running requests finish until the fiber's deadline, close. */
FIBER void rpc_server_drain(struct rpc_server *s);
FIBER void rpc_server_free(struct rpc_server *s);

#endif
