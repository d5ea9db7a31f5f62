/*
 * internal.h: what the files of the queue service share.
 *
 *   service.c   life, Enqueue                  admin.c     List, Show, Act, Stats
 *   shard.c     leases, ownership              load.c      what shards need of the database when they come
 *   message.c   a message in memory            commit.c    batched, fenced transactions
 *   schedule.c  site → session, in turn        domain.c    due → domain → site
 *   deliver.c   a job at a remote site         route.c     which site a domain is
 *   results.c   what is to become of it, DSNs  local.c     a job into the store
 *   body.c      reading a body                 index.c     messages by their ids
 *
 * A recipient is in exactly one place (rcpt_state): the wheel, a domain's or a flow's list, an attempt's hands, held,
 * or finished. Who changes that is the loop or a fiber between two waits; an attempt owns its recipients until it puts
 * them back. A message lives while it is queued or refs > 0; losing the shard unlinks it (is_gone), and whoever still
 * holds a reference finds that out before it commits.
 */
#ifndef QUEUE_SERVICE_INTERNAL_H
#define QUEUE_SERVICE_INTERNAL_H

#include "base/buf.h"
#include "base/map.h"
#include "fiber/batch.h"
#include "mail/delivery_key.h"
#include "net/stream.h"
#include "proto/queue.pb-c.h"
#include "proto/store.pb-c.h"
#include "queue-service/index.h"
#include "queue-service/queue.h"
#include "queue-service/remote/remote.h"
#include "queue-service/schema.h"
#include "queue-service/wheel.h"
#include "rpc/call.h"

#define QUEUE_MAGIC 0x51554555u
#define QUEUE_RCPTS_MAX 1000u
#define QUEUE_INLINE_MAX (16u * 1024) /* bodies up to here lie in q_body */
#define QUEUE_CONTENT_MAX (512u * 1024)
#define QUEUE_CACHE_BYTES (64u << 20) /* of inline bodies in memory, for their first attempt */
#define QUEUE_TEXT_MAX 400u           /* of a reply that is kept */
#define DOUBTFUL_MAX 1024u
#define QUEUE_JOB_RCPTS 100u /* recipients of one transaction */

enum { NOTIFY_SUCCESS = 1, NOTIFY_FAILURE = 2, NOTIFY_DELAY = 4, NOTIFY_NEVER = 8 };
enum { MSG_IS_8BIT = 1, MSG_IS_UTF8 = 2, MSG_REQUIRES_TLS = 4, MSG_RET_FULL = 8 };
enum body_kind { BODY_INLINE = 0, BODY_BLOB = 1 };

/* What is written in q_rcpt.state; the last three are of the memory alone. */
enum rcpt_state { R_DUE = 0, R_HELD = 1, R_DONE = 2, R_FAILED = 3, R_READY, R_ACTIVE };

struct queue;
struct shard;
struct message;
struct site;
struct flow;

struct rcpt {
    struct message *msg;
    union {
        struct wheel_node timer; /* R_DUE */
        struct list_node node;   /* R_READY: of a domain or a flow */
    };
    struct flow *flow; /* R_READY in a flow */
    char *text;        /* last reply or error; heap, or NULL */
    int64_t due_unix;
    uint32_t address_at, original_at; /* in the message's texts: rcpt_address() and its neighbours */
    uint16_t address_n, original_n;
    uint16_t domain_at; /* in the address; in lower case from there on */
    uint16_t no, attempts, code;
    uint8_t state, notify;
    bool is_delay_notified, is_to_be_held;
};

/* A body that lies with the store. */
struct message_blob {
    int64_t tenant_id;
    int64_t held_until_unix; /* as far as is known here: 0 = nothing */
    uint32_t space;
    unsigned char hash[32];
};

enum message_text { TEXT_SENDER, TEXT_ENVELOPE_ID, TEXT_RECEIVED_FROM, TEXT_TRACE, TEXT_PREFIX, MESSAGE_TEXTS };

/* One block: the structure, its recipients, all texts. A million may wait, so what is small is kept small. */
struct message {
    struct list_node node; /* of the shard, ascending id */
    struct shard *shard;
    struct wheel_node timer; /* delay notice, then expiry */
    uint64_t id;
    unsigned char enqueue_id[ENQUEUE_ID_SIZE];
    int64_t tenant_id, account_id, created_unix, expires_unix;
    int64_t born_ms; /* monotonic: created_unix as it seemed when the message came into memory */
    uint64_t size;
    struct message_blob *blob; /* NULL: the body is inline */
    char *body;                /* inline content while it is kept in memory; size bytes */
    uint32_t day;
    unsigned refs;
    uint16_t n_rcpts, n_left;
    uint16_t n_ending;              /* scratch of commit.c: finished by the batch in hand */
    uint16_t text_n[MESSAGE_TEXTS]; /* message_text() */
    uint8_t priority, flags;
    bool is_gone;   /* unlinked; freed with the last reference */
    bool is_linked; /* counted, in the indexes */
    struct rcpt rcpts[];
};

/* What a message is made of. Views are copied. */
struct envelope_rcpt {
    str address, original, text;
    uint32_t no, notify, state, attempts, code;
    int64_t due_unix;
    bool is_delay_notified;
};
struct envelope {
    str enqueue_id, sender, envelope_id, received_from, trace, prefix, blob_hash;
    int64_t tenant_id, account_id, created_unix, expires_unix, blob_tenant;
    uint64_t size;
    uint32_t priority, flags, day, blob_space;
    enum body_kind body_kind;
    const struct envelope_rcpt *rcpts;
    size_t n_rcpts;
};

struct recent {
    unsigned char enqueue_id[ENQUEUE_ID_SIZE];
    uint64_t id;
};
#define QUEUE_RECENT_MAX 8192u

enum shard_state { SHARD_OTHERS, SHARD_LOADING, SHARD_OWNED, SHARD_LEAVING };
struct shard {
    struct queue *queue;
    uint32_t number;
    enum shard_state state;
    int64_t epoch;
    uint32_t counter; /* of ids in this epoch */
    struct list messages;
    unsigned n_active;   /* attempts under way */
    int64_t break_at_ms; /* SHARD_LEAVING: when attempts are broken off */
    /* when a loader is to take it: to load it, or, owned, to look for late acknowledgements; 0 = never */
    int64_t work_at_ms;
    /* what is due may be sent already: by a node that died, or by our own attempts of an earlier epoch */
    bool is_in_doubt;
    bool is_busy; /* a loader has it; that one's load may be of an earlier epoch, and finds out */
};

struct domain {
    struct queue *queue;
    char *name;
    struct list waiting; /* recipients, until the site is known */
    struct site *site;   /* NULL = not known */
    int64_t fresh_until_ms;
    unsigned failures;
    char *text;              /* how the last look-up failed; heap, or NULL */
    struct list_node asking; /* of lookups->waiting */
    struct lookups *lookups; /* whose look-up is under way, or NULL */
    uint64_t hurried_by;     /* the last act that did */
    struct fiber_timer retry;
};
struct lookups {
    struct list waiting;
    unsigned n; /* under way */
};

/* Recipients of one tenant and priority at one site. */
struct flow {
    struct list_node node; /* of site->flows */
    struct site *site;
    struct list rcpts;
    int64_t tenant_id;
    uint32_t priority;
    int deficit;
};
/* Sessions that the process may have, of a kind. */
struct places {
    unsigned n, max;
    struct list waiting; /* sites that want one */
};
enum site_kind { SITE_LOCAL, SITE_REMOTE, SITE_REJECT };
struct site {
    struct queue *queue;
    enum site_kind kind;
    struct remote_site remote; /* mx: one block of the heap with its names */
    char *key;
    bool is_store_shard;       /* SITE_LOCAL: for what waits for one shard of the store */
    const char *reject_status; /* SITE_REJECT: "5.1.2"; reply is text */
    struct list flows;         /* those with recipients, in turn */
    struct map64 flow_of;      /* tenant and priority -> one of flows */
    struct list_node waiting;  /* for a session, of its places */
    unsigned n_ready, n_sessions, n_domains;
    double window, failed_cohorts;
    unsigned suspensions; /* in a row, without one success */
    uint64_t hurried_by;  /* the last act that ended a suspension */
    int64_t suspended_until_ms, used_ms;
    struct fiber_timer resume;
    char text[QUEUE_TEXT_MAX]; /* why it is suspended, or rejects */
};

/* A part of a message under way to a site. Its recipients are R_ACTIVE. The attempt (a fiber that may be broken off)
 * fills in what is to become of them; the session commits that. */
struct job {
    struct message *msg;
    struct site *site;
    struct rcpt *rcpts[QUEUE_JOB_RCPTS]; /* NULL: handed over already */
    size_t n;
    int64_t started_ms;
    struct arena *arena;
    struct update *u;     /* room for all */
    struct message **add; /* room for all; new messages that the updates come with */
    size_t n_updates, n_add;
    bool is_under_way;     /* from before the attempt's first turn to after its last */
    bool is_broken_off;    /* by us: what is found out from here on says nothing of the site */
    struct fiber *attempt; /* from its first turn on */
    bool is_sent;          /* the peer has all of the content: broken off now, it may be delivered all the same */
};

/* What is to become of one recipient. */
struct update {
    struct rcpt *rcpt;
    enum rcpt_state state; /* R_DUE, R_HELD, R_DONE or R_FAILED */
    bool is_again;         /* at once, as if nothing had been: not written */
    bool counts_attempt;
    enum { BY_RELAY, BY_RELAY_WITH_DSN, BY_DELIVERY, BY_EXPANSION } done_by; /* for R_DONE: who tells the sender */
    int64_t due_unix;
    uint16_t code;
    char status[16]; /* enhanced code, "5.1.1" */
    char text[QUEUE_TEXT_MAX];
    char mta[256]; /* who said so; empty = we */
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

/* --- service.c --- */
/* Spawn a fiber that is counted; the queue is not freed before it has ended. */
bool queue_spawn(struct queue *q, const char *name, fiber_fn fn, void *arg, struct err *err) WARN_UNUSED;
void queue_fiber_ended(struct queue *q); /* last thing that such a fiber does */
void queue_call_init(struct rpc_call *c, struct arena *a, int64_t timeout_ms);
/* The time by the database's clock: of all rows, for another node goes on with them. */
int64_t queue_unix_ms(const struct queue *q);
int64_t queue_unix(const struct queue *q);
int64_t queue_backoff_s(const struct queue *q, unsigned attempts);          /* with jitter */
int64_t queue_growing_ms(int64_t first_ms, int64_t max_ms, unsigned times); /* doubled so many times, with jitter */

/* --- message.c --- */
struct message *message_new(struct shard *s, uint64_t id, const struct envelope *e);
/* A new message on the shard of another, as a DSN or an expansion of it is: same fence. Its enqueue id follows from the
 * other's, the kind and the number, so that doing it again is the same. */
struct message *message_derive(struct message *from, const char *kind, uint32_t number, struct envelope *e);
/* Seconds. A wall clock that jumps while the message is in memory makes it no older and no younger. */
int64_t message_age_s(const struct message *m);
bool message_is_over(const struct message *m); /* older than it may become */
void message_ref(struct message *m);
void message_unref(struct message *m);
/* Of an inline body: if there is room, or in any case. */
void message_keep_body(struct message *m, str content, bool must);
void message_drop_body(struct message *m);
/* Into the shard's list and the maps, its recipients to where their state says. */
void message_link(struct message *m);
/* Out of everything; freed when nobody holds it. */
void message_unlink(struct message *m);
/* Views into the message; as long as that lives. */
str message_text(const struct message *m, enum message_text which);
str rcpt_address(const struct rcpt *r);
str rcpt_original(const struct rcpt *r);
str rcpt_domain(const struct rcpt *r);
void rcpt_set_text(struct rcpt *r, str text);
/* What the queue holds in memory of messages that wait, their domains and sites; against opts.max_bytes. */
uint64_t queue_bytes(const struct queue *q);
#define MAP_ENTRY_BYTES 64u       /* of base/map.h, with its share of the table */
size_t heap_bytes(const void *p); /* of a block, with what the allocator puts around it; of NULL: 0 */
/* Why it is not delivered: what was said of it last, or else of its site or domain. Empty: nothing is known yet. */
str rcpt_reason(const struct rcpt *r);
/* --- commit.c --- */
void commit_init(struct queue *q);
/*
 * Make updates of one message and new messages (DSNs, expansions; not linked yet) durable, in one transaction. When it
 * returns true, memory says the same: recipients are put where they belong, new messages are linked, a message without
 * unfinished recipients is gone. False: the shard was lost (the message is gone from here; accepted recipients were
 * noted for the new owner). Takes the new messages over in any case. Waits while the database is away.
 */
FIBER bool commit_results(struct queue *q, struct message *m, struct update *u, size_t n, struct message **add,
                          size_t n_add);
/* A new message with its body; links it. Errors: UNAVAILABLE (shard lost, database away), LIMIT. */
FIBER bool commit_enqueue(struct queue *q, struct message *m, str content, struct err *err) WARN_UNUSED;
/* Delete what an Enqueue with unknown outcome may have left. */
FIBER void commit_doubtful(struct queue *q);

/* --- shard.c, load.c --- */
FIBER void shard_coordinate(void *queue);
/* A shard that new mail may be put on; NULL when there is none. */
struct shard *shard_for_new(struct queue *q);
uint64_t shard_next_id(struct shard *s);
uint64_t shard_last_id(const struct shard *s); /* that was made, or may have been by an earlier owner */
bool shard_may_work(const struct shard *s);    /* owned, and the lease holds */
void shard_lose(struct shard *s);              /* out of memory with it */
void shard_wake(struct queue *q);              /* another round, now */
/* The end of a load, of the epoch that the shard still has: it is ours to work on, or to be loaded again in a moment.
 */
void shard_loaded(struct shard *s, bool ok, int64_t start_ms);
/* Fibers for the shards with work to do, at most so many as may be. */
void load_start(struct queue *q);
/* Look at the database which shards are still ours; loses those that are not. */
FIBER bool shard_recheck(struct queue *q, struct err *err) WARN_UNUSED;

/* --- schedule.c --- */
void schedule_init(struct queue *q);
void schedule_start(struct queue *q);
void schedule_stop(struct queue *q);
void schedule_done(struct queue *q);      /* frees sites and domains; nothing is queued any more */
void schedule_rcpt(struct rcpt *r);       /* R_DUE: into the wheel, or on to its domain when the time has come */
void schedule_message(struct message *m); /* its delay and expiry timer */
/* Take out of the wheel or the lists; the state is the caller's to set. */
void rcpt_detach(struct rcpt *r);
struct site *site_get(struct queue *q, enum site_kind kind, str key);
void site_set_hosts(struct site *s, const struct remote_site *found); /* copied; no session of it runs */
/* Append to the flow of its message's tenant and priority. */
void site_add(struct site *s, struct rcpt *r, bool at_head);
bool site_is_suspended(const struct site *s);
/* The next job, or false when there is none. Ends with job_end. */
bool site_take(struct site *s, struct job *job);
void job_end(struct job *job);
/* This recipient is out of the job's hands. */
void job_forget(struct job *job, const struct rcpt *r);
void site_put_back(struct site *s, struct rcpt *r); /* R_ACTIVE, at the head of its flow, as it was */
void site_move(struct site *s, struct rcpt *r);     /* R_ACTIVE, to the end of its flow there */
void site_kick(struct site *s);
/* An operator's retry ends a suspension; once by each act, whose number it is, or each of a million messages would have
 * the host asked. */
void site_hurry(struct site *s, uint64_t act);
/* Break off the attempts (of this shard, or of all when NULL) that have no result yet. */
void schedule_cancel_sessions(struct queue *q, const struct shard *s);
/* And those with this message; spare_sent: but not where the peer may have taken it already. */
void schedule_cancel_message(const struct message *m, const bool *is_meant, bool spare_sent);
/* And those of an earlier epoch of the shard: what they send is loaded again, and would be sent beside them. */
void schedule_cancel_lost(const struct shard *s);
void schedule_tell_fullness(const struct queue *q);  /* a trouble, when the memory is nearly used up */
int64_t schedule_oldest_unix(const struct queue *q); /* when the oldest message came; 0 = none */
void site_succeeded(struct site *s);
void site_failed(struct site *s, const char *text);

/* --- domain.c --- */
void schedule_ready(struct rcpt *r); /* on to its domain's site now */
/* The end of a look-up. */
void domain_resolved(struct domain *d, struct site *site);
void domain_failed(struct domain *d, bool is_directory_away, const char *text);
/* An operator's retry: what waits there does not wait for the time of the next look-up. Once by each act. */
void domain_hurry(struct queue *q, str name, uint64_t act);
str domain_text(const struct queue *q, str name);        /* how its last look-up failed; empty when it did not */
int64_t domain_wait_ms(const struct queue *q, str name); /* until its next look-up, after one that failed; else 0 */
void domains_init(struct queue *q);
void domains_tick(struct queue *q);
void domains_sweep(struct queue *q);
void domains_done(struct queue *q);

/* --- route.c, deliver.c, local.c --- */
FIBER void route_domain(void *domain);
struct site *route_store_shard(struct queue *q, uint32_t shard); /* what waits for a shard of the store that is away */
FIBER void deliver_job(struct job *job);
/* The content cannot be had now, and not because a database is away: nobody's fault out there, and no attempt. */
void deliver_unreadable(struct job *job, const struct err *why);
FIBER void local_job(struct job *job);

/* --- results.c --- */
void update_init(struct update *u, struct rcpt *r);
void update_done(struct update *u, uint16_t code, const char *status, const char *text);
void update_fail(struct update *u, uint16_t code, const char *status, const char *text);
/* Again after wait_s; past the message's life it fails instead. */
void update_defer(struct queue *q, struct update *u, int64_t wait_s, uint16_t code, const char *status,
                  const char *text);
/* Log, count, add the DSNs that are due, commit. Takes over the messages in add. False: the shard was lost. */
FIBER bool results_commit(struct queue *q, struct message *m, struct update *u, size_t n, struct message **add,
                          size_t n_add);
/* The message's timer: tell of the delay, or end what is left. A fiber. */
FIBER void results_expire(void *message);

/* --- body.c --- */
/* A source over the whole body: over content, when the body is inline (borrowed), else over the blob. body_close frees
 * it. */
struct rpc_source *body_open(struct queue *q, struct message *m, str content);
void body_close(struct rpc_source *s);
/* All of an inline body, in the arena. */
FIBER bool body_inline(struct queue *q, struct message *m, struct arena *a, str *out, struct err *err) WARN_UNUSED;
/* At most the first max bytes, in the arena. */
FIBER bool body_head(struct queue *q, struct message *m, size_t max, struct arena *a, str *out, struct err *err)
    WARN_UNUSED;
/*
 * Each message holds its blob itself, for several may have the same one (expansions, an Enqueue that two nodes took):
 * from before it is committed until it is over. Who does not come to release it, for a crash, leaves a hold that ends
 * by its time.
 */
struct body_hold {
    unsigned char holder[ENQUEUE_ID_SIZE + sizeof(uint64_t)];
    int64_t until_unix;
};
struct body_hold body_hold_of(str enqueue_id, uint64_t id, int64_t expires_unix);
/* Put content into the store as a blob that is held. */
FIBER bool body_put(struct queue *q, int64_t tenant_id, str content, const struct body_hold *hold, struct arena *a,
                    const Thurn__BlobRef **out, struct err *err) WARN_UNUSED;
/* Have the store keep the body of a message with held recipients, which do not expire; to be called from time to time.
 * A failure is logged, and the next time will do. */
FIBER void body_keep(struct queue *q, struct message *m, struct arena *a);
FIBER bool body_hold(struct queue *q, const Thurn__BlobRef *blob, const struct body_hold *hold, struct arena *a,
                     struct err *err) WARN_UNUSED;
/* The same for a message that is made already, and will be committed. An inline body needs none. */
FIBER bool body_hold_new(struct queue *q, const struct message *m, struct arena *a, struct err *err) WARN_UNUSED;
/* The message is over, or was never committed: its hold goes, soon. Does not wait. */
void body_release(struct queue *q, const struct message *m);
Thurn__BlobRef *body_blob_ref(const struct message *m, struct arena *a);

/* --- admin.c --- */
FIBER bool admin_list(struct queue *q, const Thurn__QueueListRequest *req, struct arena *a, Thurn__QueueListReply *out,
                      struct err *err);
FIBER bool admin_show(struct queue *q, uint64_t id, struct arena *a, Thurn__QueuedMessage *out, struct err *err);
FIBER bool admin_act(struct queue *q, const Thurn__QueueActRequest *req, Thurn__QueueActReply *out, struct err *err);
void admin_done(struct queue *q); /* frees the acts; none is at work */
void admin_stats(struct queue *q, struct arena *a, Thurn__QueueStatsReply *out);

#endif
