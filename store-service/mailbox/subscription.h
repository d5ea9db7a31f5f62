/*
 * subscription.h: rows of s_subscription: names that are subscribed besides the mailboxes whose rows say so themselves.
 */
#ifndef STORE_SERVICE_MAILBOX_SUBSCRIPTION_H
#define STORE_SERVICE_MAILBOX_SUBSCRIPTION_H

#include "store-service/mailbox/mailbox.h"

#define SUBSCRIPTIONS_MAX 10000u             /* names without a mailbox, of one account */
#define SUBSCRIPTION_BYTES_MAX (800u * 1024) /* of these: they fit into one reply */

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

#endif
