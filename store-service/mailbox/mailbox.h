/*
 * mailbox.h: rows of s_mailbox: names in a tree, counters, UIDs; and the mailboxes of one account while it works.
 *
 * The room mailbox/ has collections and their names. It owns s_mailbox and s_subscription, and caches nothing. It calls
 * account/ and log/; its methods and leaving.c also call message/.
 *
 *   mailbox.h        the row, the tree, paths
 *   subscription.h   names that are subscribed, with a mailbox or without
 *   leaving.h        what deleted mailboxes still hold
 *
 * Newcomers: a collection of another kind than mail is a row here with its kind, made by mailbox_make; what it holds is
 * a table of a room of its own, keyed like s_msg, which counts by a function beside mailbox_count. IMAP shows those of
 * kind COLLECTION_MAIL alone.
 */
#ifndef STORE_SERVICE_MAILBOX_MAILBOX_H
#define STORE_SERVICE_MAILBOX_MAILBOX_H

#include "store-service/account/account.h"

#define MAILBOX_NAME_MAX 255u /* bytes of one component */
#define MAILBOX_DEPTH_MAX 32u
#define MAILBOX_PATH_MAX (MAILBOX_DEPTH_MAX * (MAILBOX_NAME_MAX + 1))

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
/* Components joined by '/', in a. */
str mailbox_path_join(struct arena *a, const str *path, size_t n);
/* The path of one of the list's, in its arena. */
str mailbox_path(struct mailbox_list *l, const struct mailbox_row *m);

#endif
