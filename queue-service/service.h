/*
 * service.h: the queue object, and who is who in the queue service.
 *
 *   service.c   life, Enqueue                        admin.h      List, Show, Act, Stats
 *   node.h      the lease; which shards are ours     shard.h      one shard; load.c: what it needs when it comes
 *   message.h   a message and its recipients         index.h      messages by their ids
 *   commit.h    batched, fenced transactions         body.h       where the content is
 *   schedule.h  due → site → session, in turn        wheel.h      what is due when
 *   domain.h    due → domain → site; route.c         site.h       where mail goes
 *   job.h       an attempt: deliver.c (remote/ speaks SMTP), local.c (into the store)
 *   results.h   what is to become of recipients      bounce.h     what senders are told
 *
 * Which way: message <- site <- domain, job; message <- results <- commit. Functions also call back against that: a
 * message that is linked goes to the schedule, a commit puts recipients back at their sites.
 */
#ifndef QUEUE_SERVICE_SERVICE_H
#define QUEUE_SERVICE_SERVICE_H

#include "base/map.h"
#include "fiber/batch.h"
#include "mail/delivery_key.h"
#include "proto/queue.pb-c.h"
#include "queue-service/index.h"
#include "queue-service/queue.h"
#include "queue-service/wheel.h"
#include "rpc/call.h"

#define QUEUE_MAGIC 0x51554555u
#define QUEUE_RCPTS_MAX 1000u
#define QUEUE_CACHE_BYTES (64u << 20) /* of inline bodies in memory, for their first attempt */

struct shard;
struct message;
struct remote;

struct recent {
    unsigned char enqueue_id[ENQUEUE_ID_SIZE];
    uint64_t id;
};
#define QUEUE_RECENT_MAX 8192u

struct lookups {
    struct list waiting;
    unsigned n; /* under way */
};
/* Sessions that the process may have, of a kind. */
struct places {
    unsigned n, max;
    struct list waiting; /* sites that want one */
};

struct queue {
    uint32_t magic;
    struct queue_opts opts;
    char *node, *hostname;
    uint32_t retry_s[QUEUE_RETRIES_MAX];
    struct remote *remote;
    Thurn__Queue_Service service;
    struct batch *committer;
    struct wheel wheel; /* seconds of the monotonic clock */
    struct fiber_timer tick;
    struct index by_id, by_enqueue_id; /* of the linked messages */
    struct map enqueueing;             /* 16 bytes -> anything: an Enqueue under way */
    struct map recent;                 /* 16 bytes -> struct recent: enqueued, perhaps done already */
    struct recent *recent_ring;
    size_t recent_next;
    struct shard *shards;
    struct map domains, sites;
    struct lookups lookups[2]; /* of domains; those whose last look-up failed are the second */
    struct places remote_places, local_places;
    struct list sessions; /* schedule.c: the running ones */
    struct list acts;     /* admin.c */
    unsigned n_acts;
    uint64_t last_act; /* they are numbered */
    /* commit.c: enqueues with an unknown outcome, to be deleted; above DOUBTFUL_MAX none is begun */
    struct doubt *doubtful;
    size_t n_doubtful, doubtful_room;
    struct release *releases; /* body.c: holds to be released */
    size_t n_releases, releases_room;
    bool is_releasing; /* by a fiber */
    size_t n_messages, n_rcpts, n_held, n_active, cached_bytes;
    size_t message_bytes; /* of the linked messages, without inline bodies, which have a bound of their own */
    size_t route_bytes;   /* of domains, sites and flows */
    unsigned n_owned;     /* shards in SHARD_OWNED and SHARD_LEAVING */
    unsigned n_taken;     /* and in SHARD_LOADING */
    unsigned n_loaders, n_live_nodes, next_shard;
    bool has_no_share;      /* with so few shards none is for this node */
    int64_t next_shard_ms;  /* when another shard takes the new mail */
    int64_t next_end_ms;    /* when the first of the other nodes' leases ends, if it is not renewed */
    int64_t lease_until_ms; /* monotonic; past it nothing is begun */
    int64_t clock_ahead_ms; /* of our wall clock before the database's */
    int64_t swept_ms;       /* when idle sites and domains were last thrown out */
    bool is_started, is_draining, is_stopping, is_registered, is_woken, is_ticking;
    struct fiber *stopper;   /* waits in queue_free for the last fiber's end */
    struct fiber_cond wake;  /* the coordinator waits here for its next round */
    struct fiber_cond ended; /* an attempt or an enqueue ended */
    unsigned n_fibers;       /* all that this queue has spawned and that have not ended */
};

/* Spawn a fiber that is counted; the queue is not freed before it has ended. */
bool queue_spawn(struct queue *q, const char *name, fiber_fn fn, void *arg, struct err *err) WARN_UNUSED;
void queue_fiber_ended(struct queue *q); /* last thing that such a fiber does */
void queue_call_init(struct rpc_call *c, struct arena *a, int64_t timeout_ms);
/* The time by the database's clock: of all rows, for another node goes on with them. */
int64_t queue_unix_ms(const struct queue *q);
int64_t queue_unix(const struct queue *q);
int64_t queue_backoff_s(const struct queue *q, unsigned attempts);          /* with jitter */
int64_t queue_growing_ms(int64_t first_ms, int64_t max_ms, unsigned times); /* doubled so many times, with jitter */

#endif
