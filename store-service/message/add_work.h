/*
 * add_work.h: one transaction of add.c, as its two halves share it: add_read.c sorts out what is to be added and reads
 * all that decisions need in the first round trip; add_write.c decides and writes in the second.
 */
#ifndef STORE_SERVICE_ADD_WORK_H
#define STORE_SERVICE_ADD_WORK_H

#include "base/map.h"
#include "store-service/log/change.h"
#include "store-service/message/add.h"
#include "store-service/message/keyword.h"
#include "store-service/message/message.h"

/* One transaction: the argument of the body, and what it tells afterwards. */
struct add_tx {
    struct shard *shard;
    struct add_request **requests;
    size_t n_requests, n_adds, n_keys;
    bool needs_prepare;
    bool looks_up_keys;  /* from the start: the first try ran into a key that was used before */
    struct arena *arena; /* lives longer than the transaction */
    const Thurn__AccountRef **to_prepare;
    size_t n_to_prepare;
    struct account_row *touched; /* for the beacons */
    size_t n_touched;
};

/* --- what the body works on; all of it lives in the transaction's arena --- */

struct box { /* a mailbox of an account in this batch, beside its row in the account's list */
    struct change_item *items;
    size_t n, cap;
    int64_t modseq; /* of the change row that is being filled */
    bool is_touched;
};
struct acct {
    const Thurn__AccountRef *ref;
    bool is_found, wants_all, wants_inbox, wants_keywords;
    struct account_row row;
    struct mailbox_list boxes;
    struct box *states; /* as many as boxes.cap when made */
    size_t n_states;
    struct keywords keywords;
};
struct slot { /* one body that this batch refers to */
    int64_t tenant_id, blob_id, refs;
    const struct content *content;
    bool is_stored;
};
/* Rows to be inserted, as flat values; room for all that the batch can need is made at once. */
struct rows {
    struct sql_value *v;
    size_t n;
};
struct work {
    struct sql_tx *tx;
    struct add_tx *t;
    struct arena *a;
    int64_t now_unix;
    struct acct *accts; /* ascending */
    size_t n_accts;
    struct slot *slots;
    size_t n_slots;
    struct map slot_map, key_map; /* tenant and hash → slot; delivery day and key → struct add */
    struct map64 threads;         /* account and key, mixed → thread id */
    struct rows emails, thread_keys, delivered, requests;
    struct msg_insert *msgs;
    size_t n_msgs;
    struct change *changes;
    size_t n_changes;
    struct sql_result r_accounts, r_inboxes, r_boxes, r_named, r_all, r_keywords, r_delivered, r_requests, r_threads,
        r_blobs;
};

/* Sort out which accounts and bodies the requests speak of, and queue the lock and all reads. */
void work_queue_reads(struct work *w);
/* Take the answers. False: the accounts in t->to_prepare have to be prepared first. */
bool work_take_reads(struct work *w) WARN_UNUSED;
/* The account of that id; it is among those of the requests. */
struct acct *work_acct(struct work *w, int64_t account_id);
struct slot *work_slot(struct work *w, const struct add *ad);
/* The key of work.threads. */
uint64_t work_thread_key(int64_t account_id, int64_t key);
/*
 * Queue the look-up of delivery keys: of all that have one, or of those that were refused. False: there are none.
 *
 * Hardly a delivery comes twice, so the keys are just inserted: one that is there fails the transaction with EXISTS,
 * and the next try looks them up first. Only who is refused is looked up in any case, for he may have the message
 * already.
 */
bool work_queue_keys(struct work *w, bool refused_only);
/* Decide what becomes of each request, and queue the writes. Suspends when somebody is refused. */
FIBER bool work_write(struct work *w, struct err *err) WARN_UNUSED;

#endif
