/*
 * message.h: rows of s_msg by UID, alone or with what is known of their emails.
 *
 * The room message/ has messages in mailboxes. It owns s_msg, s_email, s_thread_key, s_delivered and s_keyword, and
 * caches nothing. It calls account/, log/, mailbox/'s rows, content/ and blob/.
 *
 *   message.h   rows read, inserted and removed
 *   keyword.h   the account's dictionary
 *   add.h       new ones, many requests to a transaction; Append, Deliver and Copy are what they come by
 *   flags.c, expunge.c, fetch.c   the methods of these names
 *
 * Newcomers: what is to be done to a delivery (a Sieve run) is done before add_run and says so in struct add; what is
 * to follow every change of a mailbox's rows (its index) follows messages_queue_insert, messages_remove and flags.c.
 */
#ifndef STORE_SERVICE_MESSAGE_H
#define STORE_SERVICE_MESSAGE_H

#include "store-service/account/op.h"
#include "store-service/blob/blob.h"
#include "store-service/mailbox/mailbox.h"
#include "store-service/uidset.h"

#define MSG_WITH_PARSED 1u
#define MSG_WITH_BODY 2u /* where it is, and the data when it is inline */

struct msg_row {
    uint32_t uid;
    int64_t modseq, flags, email_id, thread_id, size, internal_unix, internal_zone, saved_unix;
    str kw;
    int64_t sent_unix;       /* MSG_WITH_PARSED */
    str parsed;              /* MSG_WITH_PARSED: packed Thurn__ParsedEmail */
    str prefix;              /* MSG_WITH_BODY: goes before the body */
    struct blob_place place; /* MSG_WITH_BODY */
};

struct msg_query {
    int64_t account_id, mailbox_id;
    const struct uidset *uids;
    uint64_t from_uid;    /* leave out what is below */
    int64_t since_modseq; /* only those above */
    uint32_t flags;       /* only those that have all these */
    unsigned with;        /* MSG_WITH_… */
    size_t limit;
};
/* Read up to limit rows, ascending; *next_uid is where to go on, 0 when that was all. Rows live in the transaction's
 * arena. In a body. */
FIBER bool messages_read(struct sql_tx *tx, const struct msg_query *q, struct msg_row **rows, size_t *n,
                         uint64_t *next_uid, struct err *err) WARN_UNUSED;

/* A membership row for a reply: uid, modseq, flags, keywords, ids, dates. */
Thurn__Message *message_to_proto(const struct msg_row *m, struct arena *a);
/* About how many bytes that takes in a reply. */
size_t message_proto_size(const struct msg_row *m);

/* New memberships. */
struct msg_insert {
    int64_t account_id, mailbox_id;
    struct msg_row row;
};
void messages_queue_insert(struct sql_tx *tx, const struct msg_insert *v, size_t n);

/*
 * Take messages out of m. is_move: they are in another mailbox already, so no email can have lost its last one;
 * otherwise emails without a mailbox are removed and their bodies dereferenced. Counts, logs, and leaves m and the
 * account to be written by the caller. One round trip more unless is_move; and one for each ROWS_AT_ONCE after the
 * first.
 */
FIBER bool messages_remove(struct sql_tx *tx, struct op *op, struct mailbox_row *m, const struct msg_row *v, size_t n,
                           bool is_move, struct err *err) WARN_UNUSED;

#endif
