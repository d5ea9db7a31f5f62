#include "store-service/account/op.h"

#include "base/clock.h"
#include "fiber/fiber.h"
#include "store-service/account/timeline.h"
#include "store-service/watch/beacon.h"

#define TRIES_MAX 4 /* of an operation on an account that keeps changing under it */

bool op_init(struct op *op, struct store *s, const Thurn__AccountRef *ref, struct err *err)
{
    *op = (struct op){.ref = ref, .now_unix = clock_unix()};
    if (!ref || ref->account_id <= 0)
        return err_set(err, ERR_INVALID, "no account given");
    op->shard = store_shard(s, ref->shard, err);
    return op->shard != NULL;
}

void op_begin(struct sql_tx *tx, struct op *op)
{
    op->needs_prepare = false;
    account_queue_lock(tx, &op->ref->account_id, 1, &op->rows_);
    once_queue_find(tx, op);
}

void op_begin_read(struct sql_tx *tx, struct op *op)
{
    op->needs_prepare = false;
    account_queue_read(tx, op->ref->account_id, &op->rows_);
}

bool op_ready(struct op *op, struct err *err)
{
    if (op->rows_.n_rows == 1) {
        op->account = op->before = account_take(&op->rows_, 0);
        if (!account_check(&op->account, op->ref, err))
            return false;
        op->needs_prepare = account_needs_prepare(&op->account);
    } else {
        op->needs_prepare = true;
    }
    if (op->needs_prepare)
        return err_set(err, ERR_UNAVAILABLE, "account %lld is not ready", (long long)op->ref->account_id);
    return once_take(op, err);
}

void op_end(struct sql_tx *tx, struct op *op)
{
    if (memcmp(&op->account, &op->before, sizeof op->account) != 0)
        account_queue_update(tx, &op->account, 1);
}

/* The account's rows were missing and are there now; or it may have been done, and its request id will tell. */
FIBER static bool may_try_again(struct op *op, struct err *err)
{
    bool is_unknown = err->kind == ERR_TIMEOUT && op->request_id.n;
    if (!is_unknown && !op->needs_prepare)
        return false;
    err_clear(err);
    return is_unknown || account_prepare(op->shard, op->ref, err);
}

FIBER static bool run(struct op *op, bool is_write, sql_body body, void *arg, struct err *err)
{
    for (int i = 1;; i++) {
        op->needs_prepare = false;
        if (is_write ? sql_write(op->shard->db, body, arg, err) : sql_read(op->shard->db, body, arg, err))
            return true;
        if (i == TRIES_MAX || !may_try_again(op, err))
            return false;
    }
}

bool op_write(struct op *op, sql_body body, void *arg, struct err *err)
{
    bool ok = run(op, true, body, arg, err);
    /* When the outcome is unknown it may have happened, and who did it the first time may not have come to tell; a
     * beacon too many does no harm. */
    if ((ok || err->kind == ERR_TIMEOUT) && (op->is_repeat || op->account.modseq != op->before.modseq))
        beacon_publish(op->shard->store, op->ref->account_id, op->account.modseq, op->kinds);
    return ok;
}

bool op_read(struct op *op, sql_body body, void *arg, struct err *err)
{
    return run(op, false, body, arg, err);
}
