/*
 * leaving.h: mailboxes that are deleted. What they held goes slice by slice, behind everybody's back.
 */
#ifndef STORE_SERVICE_MAILBOX_LEAVING_H
#define STORE_SERVICE_MAILBOX_LEAVING_H

#include "store-service/account/op.h"
#include "store-service/mailbox/mailbox.h"

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

#endif
