/*
 * node.h: one address of a remote service, its connection, and the calls on it. Shared by client.c and client_node.c.
 */
#ifndef RPC_NODE_H
#define RPC_NODE_H

#include "base/map.h"
#include "rpc/client.h"
#include "rpc/internal.h"

enum node_state { NODE_DOWN, NODE_CONNECTING, NODE_UP };

struct rpc_node {
    struct list_node node;
    struct rpc_remote *client;
    struct net_addr addr;
    char text[NET_ADDR_TEXT_MAX];
    char *host;    /* as configured: whom the certificate is for */
    uint64_t hash; /* of the text: equal in every process */
    enum node_state state;
    bool is_greeted;    /* the server's HELLO is here */
    bool is_going_away; /* takes no new calls */
    bool is_removed;    /* not in the list any more: goes with its last call */
    struct rpc_conn *conn;
    struct fiber *connector;
    unsigned n_failures;         /* in a row */
    int64_t retry_at_ms;         /* left alone until then */
    struct err failure;          /* the last one */
    struct map64 calls;          /* number + 1 → struct remote_call */
    unsigned n_calls, n_waiting; /* under way; waiting for the connection */
    uint32_t next_number;
    struct fiber_cond changed;
};

struct rpc_remote {
    ProtobufCService base; /* first: callers hold this */
    uint32_t magic;
    char *name, *set;
    unsigned roles, server_role; /* RPC_BY_* */
    struct tls_client *tls;
    struct dns *dns;
    unsigned connect_timeout_ms;
    str *hosts; /* as configured */
    size_t n_hosts;
    bool has_names; /* some are to be resolved */
    bool is_resolving;
    int64_t resolved_at_ms; /* 0 = never */
    struct list nodes;
    struct fiber_cond changed; /* nodes, resolving, the last connector */
    unsigned n_users;          /* calls, connectors, the resolver: it is not freed before they have left */
    bool is_closing;
    struct fiber_timer keeper; /* reconnects, resolves again */
};

struct rpc_node *rpc_node_new(struct rpc_remote *client, const struct net_addr *addr, str host);
/* Begin to connect if it is down and not left alone. Does not suspend. */
void rpc_node_wake(struct rpc_node *n);
/* It must have no calls and no waiters. */
void rpc_node_free(struct rpc_node *n);
/* Close what is not needed: a removed or departing node without calls. */
void rpc_node_settle(struct rpc_node *n);
bool node_is_healthy(const struct rpc_node *n); /* may be given a call */
/* Connected, after waiting for it if need be. Errors: UNAVAILABLE and the waiter's own. */
FIBER bool rpc_node_connect(struct rpc_node *n, struct err *err) WARN_UNUSED;
/* One call on a connected node. *is_retryable says whether it may be made again (nothing happened that cannot). */
FIBER bool rpc_node_call(struct rpc_node *n, unsigned method, const ProtobufCMessage *request, struct rpc_call *c,
                         bool *is_retryable) WARN_UNUSED;
void rpc_node_close(struct rpc_node *n, const struct err *why);

#endif
