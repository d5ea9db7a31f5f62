/*
 * internal.h: what the files of the store service share: the service object, its shards, and the frame of a mutation.
 *
 * A mutation is one transaction: the account's row lock first, then everything else of that account. It is a struct
 * that begins with `struct op`, and a body:
 *
 *     static bool flags_body(struct sql_tx *tx, void *arg, struct err *err)
 *     {
 *         struct flags_op *f = arg;
 *         op_begin(tx, &f->op);                     queues the lock and the account's row
 *         … queue what else is to be read …
 *         if (!sql_run(tx, err) || !op_ready(&f->op, err))
 *             return false;
 *         … decide, queue the writes …
 *         op_end(tx, &f->op);                       queues the account's row if it changed
 *         return true;
 *     }
 *
 * run by op_write, which makes the account's rows at first use and publishes the beacon afterwards.
 */
#ifndef STORE_SERVICE_INTERNAL_H
#define STORE_SERVICE_INTERNAL_H

#include "base/arena.h"
#include "data/sql.h"
#include "fiber/batch.h"
#include "proto/store.pb-c.h"
#include "rpc/call.h"
#include "store-service/store.h"

#define WEEK_S 604800
#define DAY_S 86400
#define REPLY_BYTES_MAX (900u * 1024) /* of the messages in one reply; the frame's limit is 1 MiB */
#define MESSAGES_PER_TX 10000u        /* touched by one transaction of a bulk operation */
#define COPY_MAX 50000u               /* messages of one Copy */
/* of a client's set: read, or worked out and written, before others may run */
#define ROWS_AT_ONCE 1000u
#define KEYWORDS_MAX 5000u /* names of one account */
/* of these, KEYWORD_COST more for each: they fit into a reply beside its messages */
#define KEYWORD_BYTES_MAX (96u * 1024)
#define KEYWORD_COST 8u
#define KEYWORDS_PER_MESSAGE_MAX 256u
#define KEYWORD_NAME_MAX 255u
#define MAILBOX_NAME_MAX 255u /* bytes of one component */
#define MAILBOX_DEPTH_MAX 32u
#define MAILBOX_PATH_MAX (MAILBOX_DEPTH_MAX * (MAILBOX_NAME_MAX + 1))
#define SUBSCRIPTIONS_MAX 10000u             /* names without a mailbox, of one account */
#define SUBSCRIPTION_BYTES_MAX (800u * 1024) /* of these: they fit into one reply */
#define TIMELINE_MODSEQ_GAP (1 << 20)        /* jumps after a failover that may have lost commits */
#define TIMELINE_UID_GAP (1 << 18)           /* of 2^32: for 16,000 failovers */

#define ALL_FLAGS                                                                                                      \
    (THURN__FLAG__FLAG_SEEN | THURN__FLAG__FLAG_ANSWERED | THURN__FLAG__FLAG_FLAGGED | THURN__FLAG__FLAG_DELETED |     \
     THURN__FLAG__FLAG_DRAFT)
#define KIND_EMAIL (1u << THURN__CHANGE_TYPE__CHANGE_EMAIL)
#define KIND_MAILBOX (1u << THURN__CHANGE_TYPE__CHANGE_MAILBOX)
#define KIND_THREAD (1u << THURN__CHANGE_TYPE__CHANGE_THREAD)

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
    struct batch *adds; /* deliveries and appends: see add.c */
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

bool schema_make_partitions(struct sql_db *db, struct err *err) WARN_UNUSED;

/* The shard of an account, or of a blob's space. Errors: INVALID. */
struct shard *store_shard(struct store *s, uint32_t number, struct err *err);
void service_init(struct store *s); /* the table of methods (service.c) */

/* --- accounts (account.c) --- */
struct account_row {
    int64_t account_id, tenant_id, epoch, modseq, floor_modseq, uidvalidity, email_seq, mailbox_seq, used_bytes,
        used_messages, inbox_id, timeline, week, week_modseq, incarnation;
    int64_t now_timeline; /* the database's own, read under the lock */
};
#define ACCOUNT_COLS                                                                                                   \
    "account_id, tenant_id, epoch, modseq, floor_modseq, uidvalidity, email_seq, mailbox_seq, used_bytes,"             \
    " used_messages, inbox_id, timeline, week, week_modseq, incarnation"
#define ACCOUNT_COL_TYPES "iiiiiiiiiiiiiii"

#define EPOCH_GONE ((int64_t)UINT32_MAX + 1) /* of an account that was removed: no caller has it */

/* Queue the lock of these accounts (ascending ids) and their rows; account_take turns a row into a struct. */
void account_queue_lock(struct sql_tx *tx, const int64_t *ids, size_t n, struct sql_result *out);
void account_queue_read(struct sql_tx *tx, int64_t id, struct sql_result *out);
struct account_row account_take(const struct sql_result *r, size_t row);
void account_queue_update(struct sql_tx *tx, const struct account_row *rows, size_t n);
/* Whether the caller's idea of where the account lives, and which one it is, still holds. A row that does not know
 * which it is takes it from him, and who writes the row (account_queue_update) makes that last. Errors: CONFLICT. */
bool account_check(struct account_row *row, const Thurn__AccountRef *ref, struct err *err) WARN_UNUSED;
bool account_is_ours(const struct account_row *row, const Thurn__AccountRef *ref);
/* The account must be prepared before it is written to: its rows are missing, or the database has failed over. */
bool account_needs_prepare(const struct account_row *row);
/* Make the rows of an account at its first use, or jump its counters after a failover. Suspends. */
FIBER bool account_prepare(struct shard *sh, const Thurn__AccountRef *ref, struct err *err) WARN_UNUSED;
/* Take the next modseq for a change that is logged at now_unix. */
int64_t account_next_modseq(struct account_row *row, int64_t now_unix);

/* Finish what PurgeAccount began, and forget accounts that were removed long ago. */
FIBER bool account_sweep_buried(struct shard *sh, struct err *err) WARN_UNUSED;

/* --- the frame of one account's transaction --- */
struct op {
    struct shard *shard;
    const Thurn__AccountRef *ref;
    int64_t now_unix;
    unsigned kinds; /* of the beacon: what a mutation changed */
    /* Set in the body. */
    struct account_row account, before;
    bool needs_prepare;
    struct sql_result rows_;
    /* Of one that op_init_once began. */
    str request_id;          /* empty = none was given */
    ProtobufCMessage *reply; /* of the method; lives in reply_arena */
    struct arena *reply_arena;
    bool is_repeat; /* after op_ready: it was done before and *reply is what was said then */
    struct sql_result requests_;
};
/* Fill in the head of an op. Errors: INVALID (no account, no such shard). */
bool op_init(struct op *op, struct store *s, const Thurn__AccountRef *ref, struct err *err) WARN_UNUSED;
void op_begin(struct sql_tx *tx, struct op *op);      /* lock */
void op_begin_read(struct sql_tx *tx, struct op *op); /* no lock */
bool op_ready(struct op *op, struct err *err) WARN_UNUSED;
/* After op_ready: *since is a modseq that a client brings. One that was given out for changes which a failover took
 * back tells nothing of what he knows, and becomes 0. One round trip when it is below the floor. */
FIBER bool op_known_since(struct sql_tx *tx, const struct op *op, uint64_t *since, struct err *err) WARN_UNUSED;
void op_end(struct sql_tx *tx, struct op *op);
FIBER bool op_write(struct op *op, sql_body body, void *arg, struct err *err) WARN_UNUSED;
FIBER bool op_read(struct op *op, sql_body body, void *arg, struct err *err) WARN_UNUSED;

/*
 * --- what is done once (once.c) ---
 * A mutation that would do more, or fail, when it is repeated takes a request id: the caller's stub sends a call again
 * when its node died, and nobody knows then how far that came. Its body leaves off after op_ready when op.is_repeat;
 * else it fills in the method's reply and ends, after its last transaction's writes, with op_remember.
 */
#define REQUEST_ID_SIZE 16u
#define ONCE_DAYS 2 /* so long is a request id known at least */
/* op_init for such a mutation. reply is the method's. Errors: INVALID, also for a request id of another size. */
bool op_init_once(struct op *op, struct store *s, const Thurn__AccountRef *ref, ProtobufCBinaryData request_id,
                  struct rpc_call *c, ProtobufCMessage *reply, struct err *err) WARN_UNUSED;
void op_remember(struct sql_tx *tx, const struct op *op);
/* For op.c: queue the look-up behind the account's lock, and take its result. Errors: INTERNAL (a damaged row). */
void once_queue_find(struct sql_tx *tx, struct op *op);
bool once_take(struct op *op, struct err *err) WARN_UNUSED;
/* For Append, which does it for many requests in one transaction. once_find is asked for account, request id and least
 * day, and answers account, request id and packed reply; once_insert takes account, request id, day and packed reply.
 */
extern const struct sql_stmt once_find, once_insert;
bool once_check_id(ProtobufCBinaryData id, str *out, struct err *err) WARN_UNUSED;
bool once_unpack(str packed, struct arena *a, ProtobufCMessage *out, struct err *err) WARN_UNUSED;

/* --- mailboxes (mailbox.c) --- */
struct mailbox_row {
    int64_t account_id, mailbox_id, parent_id;
    str name;
    int64_t role, kind, uidvalidity, uidnext, highestmodseq, created_modseq, total, unseen, deleted, bytes,
        is_subscribed;
};
#define MAILBOX_COLS(T)                                                                                                \
    T "account_id, " T "mailbox_id, " T "parent_id, " T "name, " T "role, " T "kind, " T "uidvalidity, " T             \
      "uidnext, " T "highestmodseq, " T "created_modseq, " T "total, " T "unseen, " T "deleted, " T "bytes, " T        \
      "is_subscribed"
#define MAILBOX_COL_TYPES "iiitiiiiiiiiiii"
/* The parent of a mailbox that was deleted and whose messages go slice by slice: nobody sees it any more. Its name is
 * its id. */
#define MAILBOX_LEAVING (-1)
void mailbox_queue_get(struct sql_tx *tx, int64_t account_id, int64_t mailbox_id, struct sql_result *out);
/* By its path (mailbox_path_given); the row is behind one column, the path. No more than what is on the path is read.
 */
extern const struct sql_stmt mailbox_find;
void mailbox_queue_find(struct sql_tx *tx, int64_t account_id, str path, struct sql_result *out);
void mailbox_queue_all(struct sql_tx *tx, const int64_t *account_ids, size_t n, struct sql_result *out);
struct mailbox_row mailbox_of_cols(const struct sql_value *v); /* MAILBOX_COLS */
struct mailbox_row mailbox_take(const struct sql_result *r, size_t row);
/* The one row of a mailbox_queue_get. Errors: NOT_FOUND. */
bool mailbox_take_one(const struct sql_result *r, struct mailbox_row *out, struct err *err) WARN_UNUSED;
/* The one row of a mailbox_queue_find, which must be that of mailbox_id unless that is 0. Errors: NOT_FOUND. */
bool mailbox_take_found(const struct sql_result *r, int64_t mailbox_id, struct mailbox_row *out, struct err *err)
    WARN_UNUSED;
void mailbox_queue_insert(struct sql_tx *tx, const struct mailbox_row *rows, size_t n);
/* what messages change: cheaper */
void mailbox_queue_counts(struct sql_tx *tx, const struct mailbox_row *rows, size_t n);
void mailbox_queue_update(struct sql_tx *tx, const struct mailbox_row *rows, size_t n); /* everything but the key */
Thurn__Mailbox *mailbox_to_proto(const struct mailbox_row *m, struct arena *a);
/* One component of a path: UTF-8, no '/', no control characters, at most MAILBOX_NAME_MAX bytes. Becomes NFC, in a.
 * Errors: INVALID. */
bool mailbox_name(str *name, struct arena *a, struct err *err) WARN_UNUSED;
/* The path of a request as one name: components as mailbox_name leaves them, joined by '/'. In a. Errors: INVALID. */
bool mailbox_path_given(char *const *path, size_t n, struct arena *a, str *out, struct err *err) WARN_UNUSED;
/* A new row with the account's next mailbox id and uidvalidity. name is borrowed. */
struct mailbox_row mailbox_make(struct account_row *acct, int64_t parent_id, str name, int role, int64_t now_unix);
/* What one message counts for. sign is +1 or -1. */
void mailbox_count(struct mailbox_row *m, struct account_row *a, int64_t flags, int64_t size, int sign);

/* Mailboxes of one account while a path is walked, in the transaction's arena; grows by what is made. */
struct mailbox_list {
    struct mailbox_row *v;
    size_t n, cap, n_stored; /* from n_stored on: new */
    struct arena *arena;
};
struct mailbox_list mailbox_list_of(struct arena *a, const struct sql_result *r, int64_t account_id);
struct mailbox_row *mailbox_list_add(struct mailbox_list *l, struct mailbox_row row);
struct mailbox_row *mailbox_list_child(struct mailbox_list *l, int64_t parent_id, str name);
struct mailbox_row *mailbox_list_id(struct mailbox_list *l, int64_t mailbox_id);
/* The mailbox of that path; missing components are made when may_create. NULL with NOT_FOUND, INVALID or LIMIT. */
struct mailbox_row *mailbox_list_walk(struct mailbox_list *l, struct account_row *acct, const str *path, size_t n,
                                      bool may_create, const struct store_limits *limits, int64_t now_unix,
                                      struct err *err);

/* --- mailboxes that are deleted (leaving.c) --- */
/* In the transaction that deletes m: nobody sees it from now on. *leaves: it holds too much to go at once, so that
 * mailbox_leave_later is to follow. */
FIBER bool mailbox_leave(struct sql_tx *tx, struct op *op, struct mailbox_row *m, bool *leaves, struct err *err)
    WARN_UNUSED;
/* Remove what such mailboxes of the shard still hold, in slices with rests between them. One account's error, the first
 * of which is returned, keeps no other's from going. */
FIBER bool mailbox_sweep_leaving(struct shard *sh, struct err *err) WARN_UNUSED;
/* Begin that on a fiber of the shard's. */
void mailbox_leave_later(struct shard *sh);
FIBER void mailbox_leaving_stop(struct shard *sh); /* cancel and join it */

/* --- bulk work beside that of people (pace.c) --- */
/* Begin one slice of it; rest after its transaction for as long as it took, so that it never has more than half of a
 * database. Errors: CANCELLED, TIMEOUT. */
struct pace {
    int64_t began_us;
};
struct pace pace_begin(void);
FIBER bool pace_rest(const struct pace *p, struct err *err) WARN_UNUSED;

/* --- subscriptions (subscription.c): names that are subscribed besides the rows that say so themselves --- */
struct subscription {
    int64_t id;
    str path; /* components joined by '/', INBOX in capitals */
};
struct subscriptions {
    struct subscription *v; /* those that are stored: by path */
    size_t n, n_stored, cap, bytes;
    int64_t last_id;
    struct arena *arena;
};
struct mailbox_set {
    int64_t *ids;
    size_t n;
};
void subscriptions_queue_load(struct sql_tx *tx, int64_t account_id, struct sql_result *out);
struct subscriptions subscriptions_take(struct arena *a, const struct sql_result *r);
/* Set is_subscribed of the mailboxes that have one of the stored names. *taken: those whose rows do not say it. */
void subscriptions_apply(const struct subscriptions *s, struct mailbox_list *l, struct mailbox_set *taken);
/* Add a name unless it is stored; no name twice before it is written. It is copied. Errors: LIMIT. */
bool subscriptions_add(struct subscriptions *s, str path, struct err *err) WARN_UNUSED;
/* Add the names of a mailbox and of all below it, as far as they are subscribed. Errors: LIMIT. */
bool subscriptions_leave(struct subscriptions *s, struct mailbox_list *l, const struct mailbox_row *m, struct err *err)
    WARN_UNUSED;
/* Queue its removal; false when it is not stored. */
bool subscriptions_remove(struct sql_tx *tx, const struct subscriptions *s, int64_t account_id, str path);
/* the new ones */
void subscriptions_queue_insert(struct sql_tx *tx, const struct subscriptions *s, int64_t account_id);
str mailbox_path_join(struct arena *a, const str *path, size_t n);
str mailbox_path(struct mailbox_list *l, const struct mailbox_row *m);

/* --- keywords (keyword.c): the account's dictionary, and the ids of one message as sorted pairs of bytes --- */
struct keywords {
    struct {
        uint32_t id;
        str name, fold;
    } * v;
    size_t n, n_stored, cap, bytes;
    uint32_t last_id;
    bool is_full; /* keywords_encode had no room: keywords_give_back may make some */
    struct arena *arena;
};
void keywords_queue_load(struct sql_tx *tx, const int64_t *account_ids, size_t n, struct sql_result *out);
struct keywords keywords_take(struct arena *a, const struct sql_result *r, int64_t account_id);
/* The ids of these names, as stored in s_msg.kw; new names get an id when may_add (LIMIT), else are left out. */
bool keywords_encode(struct keywords *k, char *const *names, size_t n, bool may_add, str *out, struct err *err)
    WARN_UNUSED;
void keywords_queue_insert(struct sql_tx *tx, const struct keywords *k, int64_t account_id); /* the new ones */
bool keywords_check(char *const *names, size_t n, struct err *err) WARN_UNUSED;
bool kw_has(str kw, uint32_t id);
str kw_union(struct arena *a, str x, str y);
str kw_minus(struct arena *a, str x, str y);
/* Whether a new name would be refused. */
bool keywords_are_full(const struct keywords *k);
/*
 * Remove the names that no message of the account has any more; their ids are not used again. Reads all its messages,
 * in pages, so it is done when the dictionary is full, and once a minute at most. True: there is room now. Suspends.
 */
FIBER bool keywords_give_back(struct store *s, const Thurn__AccountRef *ref, struct err *err) WARN_UNUSED;
void kw_to_proto(str kw, struct arena *a, uint32_t **ids, size_t *n);
/* Of a keywords_queue_load: the names, in `a`. is_used is by id; NULL: all of them. */
void keywords_to_proto(const struct sql_result *r, const bool *is_used, struct arena *a, Thurn__Keyword ***out,
                       size_t *n);
/* The names of all ids that occur in the messages, into `a`. In a body; one statement, when there are any. */
FIBER bool keywords_name(struct sql_tx *tx, int64_t account_id, Thurn__Message *const *messages, size_t n,
                         struct arena *a, Thurn__Keyword ***out, size_t *n_out, struct err *err) WARN_UNUSED;

/* --- the change log (change.c) --- */
enum change_op {
    CHANGE_ADDED,  /* a new email in a mailbox */
    CHANGE_LINKED, /* an email that exists, in one more mailbox */
    CHANGE_FLAGS,
    CHANGE_UNLINKED,  /* out of this mailbox, it is in another one */
    CHANGE_DESTROYED, /* out of its last mailbox */
    /* of mailboxes themselves; no items */
    CHANGE_MBOX_CREATED,
    CHANGE_MBOX_UPDATED,
    CHANGE_MBOX_DESTROYED,
};
#define CHANGE_ITEMS_MAX 500u /* of one row, and so of one modseq */
struct change_item;
struct change {
    int64_t account_id, modseq, week, mailbox_id;
    enum change_op op;
    str items;
};
void change_queue(struct sql_tx *tx, const struct change *rows, size_t n);
/* One mailbox-type change with the account's next modseq, which is returned. Id 0: a subscription without a mailbox. */
int64_t change_queue_mailbox(struct sql_tx *tx, struct op *op, int64_t mailbox_id, enum change_op what);
str change_items(struct arena *a, const struct change_item *v, size_t n);
/* Log what happened to these messages of m: one row, and so one modseq, for each CHANGE_ITEMS_MAX of them. Returns the
 * first modseq: that of item i is the first plus i / CHANGE_ITEMS_MAX. Raises m's highestmodseq. */
int64_t change_queue_items(struct sql_tx *tx, struct op *op, struct mailbox_row *m, enum change_op what,
                           const struct change_item *v, size_t n);

/* The first week in which a log row above since can be (sync.c). */
int64_t log_first_week(const struct account_row *a, int64_t since);

/* --- beacons (beacon.c) --- */
void beacon_publish(struct store *s, int64_t account_id, int64_t modseq, unsigned kinds);

/* --- methods; each returns false with err set, or fills *r; memory is c->arena --- */
#define METHOD(name, Request, Reply, reply)                                                                            \
    FIBER bool store_do_##name(struct store *s, struct rpc_call *c, const Thurn__##Request *q, Thurn__##Reply *r,      \
                               struct err *err) WARN_UNUSED;
#include "store-service/methods.def"
#undef METHOD

#endif
