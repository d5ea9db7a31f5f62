/*
 * queue.h: the queue service: mail that was accepted and is not yet where it belongs.
 *
 * The queue is cut into a fixed number of shards. Each is owned by one node, which keeps its messages in memory and
 * uses the database as a durable log in batched commits; the database is never asked for work. Ownership is decided in
 * that database: a lease row for each node, an epoch for each shard, and a fence that fails as the first statement of
 * every transaction when the epoch is gone. A dead node's shards are taken over when its lease has run out (6 s).
 *
 * Recipients that are due go by domain to a site (the set of MX hosts, or the local store). A site has an adaptive
 * window of sessions, shares them fairly between tenants, and reuses connections. Local recipients are delivered
 * exactly once (delivery keys), remote ones at least once: after the final dot was answered and before that is
 * committed there are some milliseconds, and a peer's answer may be lost (RFC 1047).
 *
 * Limits: memory of a node for what waits (about 400 bytes a message), recipients of a message, sessions in all and to
 * a site, recipients of a transaction, bytes of bodies kept in memory.
 */
#ifndef QUEUE_SERVICE_QUEUE_H
#define QUEUE_SERVICE_QUEUE_H

#include <protobuf-c/protobuf-c.h>

#include "data/redis.h"
#include "data/sql.h"
#include "fiber/disk.h"
#include "net/dns.h"
#include "net/tls.h"

struct queue;

#define QUEUE_RETRIES_MAX 32
#define QUEUE_LEASE_MAX_MS 60000 /* queue.lease may be so long */

struct queue_opts {
    struct sql_db *db;
    str node;          /* unique among the living nodes; a restarted node may use its old name */
    unsigned n_shards; /* fixed for the life of the database: 256 in a cluster, 1 embedded; at most 1024 */
    ProtobufCService *store, *auth;
    struct dns *dns;
    struct redis *redis;     /* hurries others when shards change hands; NULL: they notice by themselves */
    struct tls_client *tls;  /* for STARTTLS; NULL = never */
    str hostname;            /* EHLO, DSNs; an MX of this name is ourselves */
    const uint32_t *retry_s; /* waits between attempts, the last one repeats; none = 1, 3, 7, 15, 30, 60 min */
    size_t n_retry;
    uint32_t lifetime_s;       /* default 5 days */
    uint32_t delay_notice_s;   /* default 4 hours */
    uint32_t quota_lifetime_s; /* over quota is retried this long; default 24 hours */
    /* of memory for messages that wait, their domains and sites; default 256 MiB; above: BUSY */
    uint64_t max_bytes;
    unsigned max_sessions;      /* outgoing, of this node; default 500 */
    unsigned max_site_sessions; /* to one site, of all nodes together; default 20 */
    unsigned max_local_jobs;    /* local deliveries at a time; default 64 */
    uint16_t outbound_port;     /* of the remote servers; default 25 */
    struct disk_room *room;     /* of the database when it is a file here; NULL = not looked at. Borrowed */
    bool allow_private_hosts;   /* tests: connect to loopback and private addresses too */
    str relay;                  /* "host:port" for all remote mail; empty = by MX */
    unsigned lease_ms;          /* default 6000; renewed each third of it */
    unsigned drain_ms;          /* how long attempts may go on when their shard is given up; default 10000 */
    unsigned takeover_hold_ms;  /* how long what was due waits after its owner died; default 10000 */
};

/* Strings are copied; what is pointed to is borrowed and outlives the queue. Errors: INVALID. */
struct queue *queue_new(const struct queue_opts *opts, struct err *err) WARN_UNUSED;
FIBER bool queue_migrate(struct sql_db *db, bool dry_run, unsigned *applied, struct err *err) WARN_UNUSED;
/* Take part: register the node, acquire shards, begin to deliver. Returns at once; a database that is away is waited
 * for. */
bool queue_start(struct queue *q, struct err *err) WARN_UNUSED;
ProtobufCService *queue_service(struct queue *q);
/* Whether its lease holds and it owns a shard, or there are so few that none is for it (readiness). */
bool queue_is_ready(const struct queue *q);
/* No new attempts; those under way have drain_ms to end; shards are released. */
FIBER void queue_retire(struct queue *q);
/* Drains, then frees. No call may be under way. */
FIBER void queue_free(struct queue *q);

#endif
