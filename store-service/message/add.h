/*
 * add.h: new messages into mailboxes: what Deliver and Append come to. All that wait for a shard go into one
 * transaction: two round trips on PostgreSQL, one commit on SQLite, whatever their number.
 */
#ifndef STORE_SERVICE_ADD_H
#define STORE_SERVICE_ADD_H

#include "store-service/content/content.h"

#define ALL_FLAGS                                                                                                      \
    (THURN__FLAG__FLAG_SEEN | THURN__FLAG__FLAG_ANSWERED | THURN__FLAG__FLAG_FLAGGED | THURN__FLAG__FLAG_DELETED |     \
     THURN__FLAG__FLAG_DRAFT)

enum add_target { ADD_TO_INBOX, ADD_TO_ID, ADD_TO_NAME, ADD_TO_PATH, ADD_TO_ROLE };

struct add { /* one message into one mailbox */
    const Thurn__AccountRef *ref;
    const struct content *content;
    enum add_target target;
    int64_t mailbox_id; /* ADD_TO_ID; ADD_TO_NAME: 0, or what it must be */
    str name;           /* ADD_TO_NAME: its path (mailbox_path_given); one for all of a request */
    const str *path;    /* ADD_TO_PATH: made when missing */
    size_t n_path;
    int64_t role; /* ADD_TO_ROLE: INBOX when no mailbox has it */
    int64_t flags;
    char *const *keywords;
    size_t n_keywords;
    int64_t internal_unix, internal_zone;
    str key; /* of a delivery: done once; empty = none */
    int64_t day;
    /* Results. */
    struct err err;    /* unset: it is there */
    bool is_duplicate; /* the key was used before: mailbox and uid are of that time */
    int64_t in_mailbox_id, uidvalidity, uid, email_id, modseq;
};

struct add_request {
    struct batch_item item;
    struct add *v;
    size_t n;                /* at most ADDS_PER_TX */
    bool is_all_or_none;     /* one account; a failure is the request's */
    bool is_dictionary_full; /* result: refused because there was no room for a new keyword */
    str request_id;          /* with is_all_or_none: done once; empty = none */
    struct arena *arena;
    str reply; /* result: the packed AppendReply; with a repeated request_id that of the first time */
};
#define ADDS_PER_TX 1000u

/* Suspends until committed. Errors: those of the request; each add of a request that is not all-or-none has its own. */
FIBER bool add_run(struct shard *sh, struct add_request *r, struct err *err) WARN_UNUSED;
/* The committers of a shard. */
struct batch *add_batch_new(struct shard *sh);

#endif
