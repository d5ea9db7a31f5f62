/*
 * account.h: rows of s_account: the modseq that orders all changes of an account, its counters of ids, what it uses.
 *
 * The room account/ has what one account's work stands on. It owns s_account, s_gap (timeline.h) and s_request (op.h),
 * and caches nothing. It calls watch/ and blob/; timeline.c also makes a new account's mailboxes.
 *
 *   account.h    the row, and what it says of accounts: GetAccount, States, ShardAccounts
 *   op.h         the frame of a mutation or a read; what is done once
 *   timeline.h   first use, and after a failover
 *   purge.c      PurgeAccount, and the sweep of what it left
 *
 * Newcomers: a table of the account's own is keyed by account_id first, gets a row in purge.c, and is written between
 * op_begin and op_end.
 */
#ifndef STORE_SERVICE_ACCOUNT_ACCOUNT_H
#define STORE_SERVICE_ACCOUNT_ACCOUNT_H

#include "store-service/service.h"

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
/* Take the next modseq for a change that is logged at now_unix. */
int64_t account_next_modseq(struct account_row *row, int64_t now_unix);

/* Finish what PurgeAccount began, and forget accounts that were removed long ago. */
FIBER bool account_sweep_buried(struct shard *sh, struct err *err) WARN_UNUSED;

#endif
