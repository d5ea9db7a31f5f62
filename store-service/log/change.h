/*
 * change.h: rows of s_changes, the log of what happened to an account: one row a change and mailbox.
 *
 * The room log/ is what is written of changes (sync/ reads it). It owns s_changes, caches nothing, and calls account/.
 * Newcomers: what happens to a new kind of thing is a row of change_op with its type in change.c; if its items are more
 * than UIDs and ids, an encoding beside change_item.h. Rows go by age (sweep.c), whatever they say.
 */
#ifndef STORE_SERVICE_LOG_CHANGE_H
#define STORE_SERVICE_LOG_CHANGE_H

#include "store-service/account/op.h"
#include "store-service/log/change_item.h"

struct mailbox_row;

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
    CHANGE_OPS_
};
#define CHANGE_ITEMS_MAX 500u /* of one row, and so of one modseq */
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

/* The first week in which a log row above since can be: mostly the current one, which spares PostgreSQL the others. */
int64_t log_first_week(const struct account_row *a, int64_t since);

#endif
