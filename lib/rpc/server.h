/*
 * server.h: serve local service objects to remote callers.
 *
 * Frames over TCP, Unix sockets or TLS (mutual between hosts): see docs/rpc.md for the wire. Requests of a connection
 * run at once, each on a fiber with the deadline that the caller sent, at most max_inflight in the process; above that
 * the answer is UNAVAILABLE. A malformed frame ends its connection only. Peers are authenticated by their certificate
 * (of the cluster's CA; a role that the peer claims must be among its names) or by the permissions of the Unix socket.
 */
#ifndef RPC_SERVER_H
#define RPC_SERVER_H

#include "net/listener.h"
#include "rpc/call.h"

struct rpc_server;
struct rpc_server_opts {
    ProtobufCService *const *services; /* by their descriptors' names */
    size_t n_services;
    unsigned max_inflight;             /* default 4096 */
    char *set;                         /* see rpc_set_fits; borrowed, outlives the server */
    const char *role;                  /* our own, for the peer's messages; NULL = "server" */
};
struct rpc_server *rpc_server_new(const struct rpc_server_opts *opts);
void rpc_server_accept(void *server, struct stream *s); /* a listener's accept callback */
/* Tell peers to go elsewhere, let running requests finish until the fiber's deadline, close. */
FIBER void rpc_server_drain(struct rpc_server *s);
FIBER void rpc_server_free(struct rpc_server *s);

#endif
