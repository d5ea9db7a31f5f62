/*
 * service.h: the service object, its shards, and the table of methods: what every room of the store service knows.
 *
 *   account/   an account's row, and the frame of a mutation (op.h): start there
 *   watch/     who is told after a commit
 *   log/       what is written of each change
 *   mailbox/   collections, their names and subscriptions
 *   message/   messages in mailboxes: added, copied, flagged, read, removed
 *   sync/      what a client missed, from the log or the rows
 *   content/   a body on its way in, and what it says
 *   blob/      bodies by their hash, and where they lie
 *   search/    the tree of a search, asked of each message
 *   index/     a mailbox as columns in memory
 *
 * Here, besides the service: schema.c (all tables), sweep.c (what is done once a day), uidset.h, pace.h.
 *
 * A room's methods are rows of methods.def. They are called by service.c alone, and rooms call each other by their
 * headers. Which way: a room calls those to its left in
 *
 *     watch, blob <- account <- log <- mailbox <- message <- sync, search;   blob <- content <- message
 *
 * and against that go only timeline.c (a new account has mailboxes), change.c (a change raises its mailbox's modseq)
 * and the methods of mailbox/ (a mailbox that is deleted takes its messages with it): their rooms' headers know nothing
 * of it.
 */
#ifndef STORE_SERVICE_SERVICE_H
#define STORE_SERVICE_SERVICE_H

#include "data/sql.h"
#include "fiber/batch.h"
#include "proto/store.pb-c.h"
#include "rpc/call.h"
#include "store-service/store.h"

#define WEEK_S 604800
#define DAY_S 86400
#define REPLY_BYTES_MAX (900u * 1024) /* of the messages in one reply; the frame's limit is 1 MiB */
#define MESSAGES_PER_TX 10000u        /* touched by one transaction of a bulk operation */
/* of a client's set: read, or worked out and written, before others may run */
#define ROWS_AT_ONCE 1000u

struct blob_backend;
struct parsed_cache;
struct beacons;
struct work_lane;

struct given { /* when unused keywords of an account were looked for */
    int64_t account_id, mono_ms;
};
struct shard {
    struct store *store;
    struct sql_db *db;
    uint32_t number;    /* from 1 */
    struct batch *adds; /* deliveries and appends: see message/add.h */
    struct given given[64];
    /* a fiber removes what deleted mailboxes held; there is something that it has not looked for */
    bool is_leaving, has_leaving;
    struct fiber *leaver;   /* that fiber, once it runs */
    struct fiber_cond left; /* it has ended */
};

struct store {
    uint32_t magic;
    Thurn__Store_Service service;
    struct shard *shards;
    unsigned n_shards;
    struct blob_backend *blobs;
    struct parsed_cache *parsed;
    struct beacons *beacons;
    struct work_lane *searcher; /* of large bodies */
    struct disk_room *room;
    struct store_limits limits;
    char *spool_folder;
};
#define STORE_MAGIC 0x5702e001u

/* The partitions of the weeks to come (schema.c). */
bool schema_make_partitions(struct sql_db *db, struct err *err) WARN_UNUSED;

/* The shard of an account, or of a blob's space. Errors: INVALID. */
struct shard *store_shard(struct store *s, uint32_t number, struct err *err);
void service_init(struct store *s); /* the table of methods */

/* --- methods; each returns false with err set, or fills *r; memory is c->arena --- */
#define METHOD(name, Request, Reply, reply)                                                                            \
    FIBER bool store_do_##name(struct store *s, struct rpc_call *c, const Thurn__##Request *q, Thurn__##Reply *r,      \
                               struct err *err) WARN_UNUSED;
#include "store-service/methods.def"
#undef METHOD

#endif
