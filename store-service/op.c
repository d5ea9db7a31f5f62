#include "base/clock.h"
#include "store-service/internal.h"

#define PREPARES_MAX 3 /* tries of an operation on an account that keeps changing under it */

struct shard *store_shard(struct store *s, uint32_t number, struct err *err)
{
    if (number >= 1 && number <= s->n_shards)
        return &s->shards[number - 1];
    (void)err_set(err, ERR_INVALID, "no shard %u here", number);
    return NULL;
}

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
        op->needs_prepare = account_needs_prepare(&op->account);
    } else {
        op->needs_prepare = true;
    }
    if (op->needs_prepare)
        return err_set(err, ERR_UNAVAILABLE, "account %lld is not ready", (long long)op->ref->account_id);
    return account_check(&op->account, op->ref, err);
}

void op_end(struct sql_tx *tx, struct op *op)
{
    if (memcmp(&op->account, &op->before, sizeof op->account) != 0)
        account_queue_update(tx, &op->account, 1);
}

FIBER static bool run(struct op *op, bool is_write, sql_body body, void *arg, struct err *err)
{
    for (int i = 0; i < PREPARES_MAX; i++) {
        op->needs_prepare = false;
        bool ok = is_write ? sql_write(op->shard->db, body, arg, err) : sql_read(op->shard->db, body, arg, err);
        if (ok || !op->needs_prepare)
            return ok;
        err_clear(err);
        if (!account_prepare(op->shard, op->ref, err))
            return false;
    }
    return err_set(err, ERR_UNAVAILABLE, "account %lld does not come to rest", (long long)op->ref->account_id);
}

bool op_write(struct op *op, sql_body body, void *arg, struct err *err)
{
    bool ok = run(op, true, body, arg, err);
    /* When the outcome is unknown it may have happened; a beacon too many does no harm. */
    if ((ok || err->kind == ERR_TIMEOUT) && op->account.modseq != op->before.modseq)
        beacon_publish(op->shard->store, op->ref->account_id, op->account.modseq, op->kinds);
    return ok;
}

bool op_read(struct op *op, sql_body body, void *arg, struct err *err)
{
    return run(op, false, body, arg, err);
}
