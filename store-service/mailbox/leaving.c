/*
 * A mailbox that is deleted is gone in one transaction, whatever it holds: nobody can rename half of it or append to
 * it. When it holds much, its row stays with its messages, under a parent and a name that nobody reaches, until they
 * have gone slice by slice: a fiber of the shard does that, and whoever deleted it does not wait. What a crash or an
 * error leaves of it goes with the next sweep.
 */
#include "store-service/mailbox/leaving.h"

#include "base/log.h"
#include "store-service/message/message.h"
#include "store-service/pace.h"
#include "store-service/watch/beacon.h"

#define SLICE 1000u

// clang-format off
static const struct sql_stmt delete_mailbox = {
    "s_delete_mailbox", "ii", "", "DELETE FROM s_mailbox WHERE account_id = ?1 AND mailbox_id = ?2", NULL, false};
static const struct sql_stmt get_leaving = {
    "s_get_leaving", "ii", MAILBOX_COL_TYPES,
    "SELECT " MAILBOX_COLS("") " FROM s_mailbox WHERE account_id = ?1 AND parent_id = ?2 LIMIT 1", NULL, false};
static const struct sql_stmt leaving_accounts = {
    "s_leaving_accounts", "i", "iiii",
    "SELECT account_id, tenant_id, epoch, incarnation FROM s_account WHERE account_id = (SELECT min(account_id) FROM"
    " s_mailbox WHERE parent_id = -1 AND account_id > ?1)",
    NULL, false};
// clang-format on

static void queue_row(struct sql_tx *tx, const struct sql_stmt *st, int64_t x, int64_t y, struct sql_result *out)
{
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 2);
    v[0] = sql_i(x);
    v[1] = sql_i(y);
    sql_queue(tx, st, v, 1, out);
}

/* One slice of its messages; the row with the last of them. */
FIBER static bool remove_slice(struct sql_tx *tx, struct op *op, struct mailbox_row *m, bool *is_empty, struct err *err)
{
    struct uidset all = uidset_of(sql_arena(tx));
    uidset_add_range(&all, 1, UINT32_MAX);
    struct msg_query q = {.account_id = m->account_id, .mailbox_id = m->mailbox_id, .uids = &all, .limit = SLICE};
    struct msg_row *rows;
    size_t n;
    uint64_t more;
    if (!messages_read(tx, &q, &rows, &n, &more, err) || !messages_remove(tx, op, m, rows, n, false, err))
        return false;
    *is_empty = more == 0;
    if (*is_empty)
        queue_row(tx, &delete_mailbox, m->account_id, m->mailbox_id, NULL);
    return true;
}

bool mailbox_leave(struct sql_tx *tx, struct op *op, struct mailbox_row *m, bool *leaves, struct err *err)
{
    bool is_empty = false;
    if (m->total <= SLICE && !remove_slice(tx, op, m, &is_empty, err))
        return false;
    *leaves = !is_empty;
    if (is_empty)
        return true;
    m->parent_id = MAILBOX_LEAVING;
    m->name = arena_printf(sql_arena(tx), "%lld", (long long)m->mailbox_id);
    m->role = THURN__MAILBOX_ROLE__ROLE_NONE;
    m->is_subscribed = 0;
    mailbox_queue_update(tx, m, 1);
    return true;
}

struct leave_op {
    struct op op;
    bool is_done;
};

FIBER static bool leave_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct leave_op *l = arg;
    struct sql_result box;
    bool is_empty;
    op_begin(tx, &l->op);
    queue_row(tx, &get_leaving, l->op.ref->account_id, MAILBOX_LEAVING, &box);
    if (!sql_run(tx, err) || !op_ready(&l->op, err))
        return false;
    l->is_done = box.n_rows == 0;
    if (l->is_done)
        return true;
    struct mailbox_row m = mailbox_take(&box, 0);
    if (!remove_slice(tx, &l->op, &m, &is_empty, err))
        return false;
    if (!is_empty)
        mailbox_queue_counts(tx, &m, 1);
    op_end(tx, &l->op);
    return true;
}

FIBER static bool finish(struct store *s, const Thurn__AccountRef *ref, struct err *err)
{
    struct leave_op l = {.is_done = false};
    if (!op_init(&l.op, s, ref, err))
        return false;
    l.op.kinds = KIND_EMAIL | KIND_THREAD;
    for (;;) {
        struct pace pace = pace_begin();
        if (!op_write(&l.op, leave_body, &l, err))
            return false;
        if (l.is_done)
            return true;
        if (!pace_rest(&pace, err))
            return false;
    }
}

bool mailbox_sweep_leaving(struct shard *sh, struct err *err)
{
    struct err first = ERR_INIT;
    for (int64_t after = 0;;) {
        ARENA(a, 16384);
        const struct sql_value v[] = {sql_i(after)};
        struct sql_result r;
        if (!sql_query(sh->db, &leaving_accounts, v, &a, &r, err))
            return false;
        if (r.n_rows == 0)
            return !err_is_set(&first) || err_set(err, first.kind, "%s", first.msg);
        Thurn__AccountRef ref = THURN__ACCOUNT_REF__INIT;
        ref.shard = sh->number;
        ref.account_id = after = sql_at(&r, 0, 0)->i;
        ref.tenant_id = sql_at(&r, 0, 1)->i;
        ref.epoch = (uint32_t)sql_at(&r, 0, 2)->i;
        ref.incarnation = (uint64_t)sql_at(&r, 0, 3)->i;
        struct err one = ERR_INIT;
        if (finish(sh->store, &ref, &one) || one.kind == ERR_CONFLICT) /* CONFLICT: the account was removed meanwhile */
            continue;
        if (one.kind == ERR_CANCELLED)
            return err_set(err, one.kind, "%s", one.msg);
        log_info("store.leaving_left", KV_I64("shard", sh->number), KV_I64("account_id", after), KV_ERR(&one));
        if (!err_is_set(&first)) /* it keeps no other account's from going */
            first = one;
    }
}

/* --- the shard's fiber --- */

FIBER static void leave_all(void *arg)
{
    struct shard *sh = arg;
    bool ok = true;
    sh->leaver = fiber_self();
    while (ok && sh->has_leaving) {
        struct err err = ERR_INIT; /* logged; the sweep tries again */
        sh->has_leaving = false;
        ok = mailbox_sweep_leaving(sh, &err);
    }
    sh->leaver = NULL;
    sh->is_leaving = false;
    fiber_cond_broadcast(&sh->left);
}

void mailbox_leave_later(struct shard *sh)
{
    struct err err = ERR_INIT;
    sh->has_leaving = true;
    if (sh->is_leaving)
        return;
    sh->is_leaving = fiber_spawn("store-leaving", leave_all, sh, FIBER_NO_DEADLINE, &err);
    if (!sh->is_leaving)
        log_info("store.leaving_left", KV_I64("shard", sh->number), KV_ERR(&err));
}

void mailbox_leaving_stop(struct shard *sh)
{
    sh->has_leaving = false;
    if (sh->leaver) /* else it has not begun, and finds nothing to do */
        fiber_cancel(sh->leaver);
    while (sh->is_leaving)
        fiber_cond_wait_uninterrupted(&sh->left);
}
