/*
 * node.h: what one process is made of: which roles it has, what they stand on, and how it reaches the others.
 *
 * This is the only place that sees every service. A role that is here is a local object; one that is not is a remote
 * stub; whoever calls it cannot tell.
 */
#ifndef SERVER_NODE_H
#define SERVER_NODE_H

#include "auth-service/auth.h"
#include "base/config.h"
#include "data/redis.h"
#include "data/sql.h"
#include "fiber/disk.h"
#include "net/dns.h"
#include "net/http_client.h"
#include "net/listener.h"
#include "queue-service/queue.h"
#include "rpc/client.h"
#include "rpc/server.h"
#include "server/ready.h"
#include "store-service/store.h"

// clang-format off
enum role {
    ROLE_FRONTEND_BIT = RPC_BY_FRONTEND, ROLE_QUEUE_BIT = RPC_BY_QUEUE, ROLE_STORE_BIT = RPC_BY_STORE, ROLE_AUTH_BIT = RPC_BY_AUTH
};
// clang-format on
#define NODE_RPC_LISTENERS_MAX 16
#define NODE_PATH_MAX 1200 /* of a file in the data folder */

struct node {
    const struct config *config;
    char *data;     /* the data folder */
    char name[64];  /* of this process among its kind: host, pid, start */
    unsigned roles; /* enum role bits */
    /* What the roles stand on; NULL when none here needs it. */
    struct http_client *http;
    struct dns *dns;
    struct redis *redis, *redis_beacons; /* the store's subscriptions have a client of their own */
    struct sql_set set;                  /* what its databases belong to (server/installation.h) */
    struct sql_db *directory_db, *queue_db;
    struct sql_db **shards; /* n_shards of them */
    size_t n_shards;
    struct disk_room *room; /* of the data folder, when databases or bodies are kept there */
    struct tls_client *rpc_tls, *out_tls;
    struct tls_server *rpc_tls_server;
    /* The services of this process. */
    struct auth *auth;
    struct store *store;
    struct queue *queue;
    /* Every service as callers see it; NULL only when no role here calls it. */
    ProtobufCService *auth_service, *store_service, *queue_service;
    bool is_auth_remote, is_store_remote, is_queue_remote;
    struct ready *ready;     /* asks the databases, from node_start on */
    struct fiber_group jobs; /* what runs by itself: the store's housekeeping */
    bool has_jobs;
    struct rpc_server *rpc;
    struct listener *rpc_listeners[NODE_RPC_LISTENERS_MAX + 1]; /* one more for workers */
    size_t n_rpc_listeners;
};

enum node_make {
    NODE_AS_IT_IS, /* databases that were never set up are an error */
    NODE_NEW,      /* all of them may be new: then they are made one installation */
    NODE_JOIN,     /* some of them may be: they join it */
};
/* Open the databases alone: what node_migrate needs. Nothing is called, and no lock of a running server is in the way.
 * Errors name the setting, or say what to do about databases that are not those that were set up. */
FIBER bool node_open_databases(struct node *n, const struct config *c, enum node_make make, struct err *err)
    WARN_UNUSED;
/* Open databases and services. Nothing listens yet. Errors as above. */
FIBER bool node_open(struct node *n, const struct config *c, enum node_make make, struct err *err) WARN_UNUSED;
/* Bring every database of this process's roles up to date. *applied counts steps. */
FIBER bool node_migrate(struct node *n, bool dry_run, unsigned *applied, struct err *err) WARN_UNUSED;
/* Start what runs by itself (queue), and listen for calls. socket_path (may be NULL) is one more address. */
FIBER bool node_start(struct node *n, const char *socket_path, struct err *err) WARN_UNUSED;
/* Stop taking calls and attempts; let what runs finish until the fiber's deadline. */
FIBER void node_drain(struct node *n);
FIBER void node_close(struct node *n);
/* Whether what is needed to serve answered lately (server/ready.h); false with the first that did not. After
 * node_start. */
bool node_ready(const struct node *n, struct err *err) WARN_UNUSED;
bool node_on_sqlite(const struct node *n); /* all its databases are files of its own */

#endif
