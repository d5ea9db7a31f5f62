/*
 * The account's changes of one type, RFC 8620 5.2: what was created, updated and destroyed since a state, folded: what
 * was created and destroyed in between is not mentioned, what was created and updated counts as created.
 */
#include "base/map.h"
#include "store-service/log/change.h"

#define LOG_ROWS 2000
#define IDS_MAX 5000u /* of a reply when the request does not say */

// clang-format off
static const struct sql_stmt read_log = {
    "s_account_log", "iiii", "iiib",
    "SELECT modseq, op, mailbox_id, items FROM s_changes WHERE account_id = ?1 AND modseq > ?2 AND week >= ?3"
    " ORDER BY modseq LIMIT ?4",
    NULL, false};
static const struct sql_stmt live_threads = {
    "s_live_threads", "ii", "i",
    "SELECT ?2 WHERE EXISTS (SELECT 1 FROM s_msg WHERE account_id = ?1 AND thread_id = ?2)",
    "SELECT v.t FROM {rows} AS v (a, t) WHERE EXISTS (SELECT 1 FROM s_msg m WHERE m.account_id = v.a AND"
    " m.thread_id = v.t)",
    true};
// clang-format on

/* What happened to one id, folded over its changes: bits. */
#define FOLD_CREATED 1u
#define FOLD_UPDATED 2u
#define FOLD_DESTROYED 4u

struct changes_op {
    struct op op;
    const Thurn__ChangesRequest *q;
    struct arena *arena;
    Thurn__ChangesReply *r;
    struct map64 fold; /* id → bits */
    uint64_t *order;   /* ids as they first came */
    size_t n, cap;
    size_t limit;
};

static void note(struct changes_op *c, struct arena *a, int64_t id, unsigned what)
{
    uintptr_t bits = (uintptr_t)map64_get(&c->fold, (uint64_t)id);
    if (!bits) {
        if (c->n == c->cap) {
            c->cap = c->cap ? c->cap * 2 : 64;
            uint64_t *v = arena_alloc(a, c->cap * sizeof *v);
            if (c->n)
                memcpy(v, c->order, c->n * sizeof *v);
            c->order = v;
        }
        c->order[c->n++] = (uint64_t)id;
    }
    map64_put(&c->fold, (uint64_t)id, (void *)(bits | what));
}

static void note_emails(struct changes_op *c, struct arena *a, int64_t op, str items)
{
    struct cursor cur = cur_of(items);
    struct change_item it = {0};
    bool is_thread = c->q->type == THURN__CHANGE_TYPE__CHANGE_THREAD;
    unsigned what = op == CHANGE_ADDED ? FOLD_CREATED : op == CHANGE_DESTROYED ? FOLD_DESTROYED : FOLD_UPDATED;
    while (change_item_next(&cur, &it)) {
        if (!is_thread)
            note(c, a, it.email_id, what);
        else if (op == CHANGE_ADDED) /* a thread has the id of its first email */
            note(c, a, it.thread_id, it.thread_id == it.email_id ? FOLD_CREATED : FOLD_UPDATED);
        else if (op == CHANGE_DESTROYED)
            note(c, a, it.thread_id, FOLD_UPDATED);
    }
}

static void note_row(struct changes_op *c, struct arena *a, const struct sql_value *v)
{
    int64_t op = v[1].i, mailbox_id = v[2].i;
    if (c->q->type != THURN__CHANGE_TYPE__CHANGE_MAILBOX) {
        if (op < CHANGE_MBOX_CREATED)
            note_emails(c, a, op, v[3].s);
        return;
    }
    if (mailbox_id == 0) /* a subscription to a name without a mailbox */
        return;
    /* A mailbox's counters change with its messages. */
    note(c, a, mailbox_id,
         op == CHANGE_MBOX_CREATED     ? FOLD_CREATED
         : op == CHANGE_MBOX_DESTROYED ? FOLD_DESTROYED
                                       : FOLD_UPDATED);
}

/* Fold whole rows (one modseq each) while the ids fit. */
static bool take_log(struct changes_op *c, struct arena *a, const struct sql_result *log, struct err *err)
{
    Thurn__ChangesReply *r = c->r;
    for (size_t i = 0; i < log->n_rows; i++) {
        size_t before = c->n;
        note_row(c, a, sql_at(log, i, 0));
        if (c->n > c->limit) {
            if (before == 0) /* one bulk change is more than the caller takes: it must fetch anew */
                return err_set(err, ERR_CONFLICT, "more than %zu changes at once", c->limit);
            /* Ids that came with this row are left for the next call; those noted before may only have got bits that
             * the next call reports again. */
            c->n = before;
            r->has_more = true;
            return true;
        }
        r->modseq = (uint64_t)sql_at(log, i, 0)->i;
    }
    if (log->n_rows == LOG_ROWS)
        r->has_more = true;
    else
        r->modseq = (uint64_t)c->op.account.modseq;
    return true;
}

FIBER static bool drop_dead_threads(struct sql_tx *tx, struct changes_op *c, struct err *err)
{
    struct arena *a = sql_arena(tx);
    struct sql_value *v = arena_array(a, struct sql_value, c->n * 2);
    for (size_t i = 0; i < c->n; i++) {
        v[i * 2] = sql_i(c->op.account.account_id);
        v[i * 2 + 1] = sql_i((int64_t)c->order[i]);
    }
    struct sql_result r;
    if (!sql_exec(tx, &live_threads, v, c->n, &r, err))
        return false;
    struct map64 live;
    map64_init(&live);
    for (size_t i = 0; i < r.n_rows; i++)
        map64_put(&live, (uint64_t)sql_at(&r, i, 0)->i, c);
    for (size_t i = 0; i < c->n; i++)
        if (!map64_get(&live, c->order[i]))
            note(c, a, (int64_t)c->order[i], FOLD_DESTROYED);
    map64_done(&live);
    return true;
}

static void fill(struct changes_op *c)
{
    Thurn__ChangesReply *r = c->r;
    r->created = arena_array(c->arena, int64_t, c->n);
    r->updated = arena_array(c->arena, int64_t, c->n);
    r->destroyed = arena_array(c->arena, int64_t, c->n);
    r->n_created = r->n_updated = r->n_destroyed = 0;
    for (size_t i = 0; i < c->n; i++) {
        unsigned bits = (unsigned)(uintptr_t)map64_get(&c->fold, c->order[i]);
        int64_t id = (int64_t)c->order[i];
        if (bits & FOLD_DESTROYED) {
            if (!(bits & FOLD_CREATED))
                r->destroyed[r->n_destroyed++] = id;
        } else if (bits & FOLD_CREATED) {
            r->created[r->n_created++] = id;
        } else {
            r->updated[r->n_updated++] = id;
        }
    }
}

FIBER static bool fold_body(struct sql_tx *tx, struct changes_op *c, struct err *err)
{
    struct sql_result log;
    op_begin_read(tx, &c->op);
    if (!sql_run(tx, err) || !op_ready(&c->op, err))
        return false;
    uint64_t since = c->q->since_modseq;
    if (since < (uint64_t)c->op.account.floor_modseq || since > (uint64_t)c->op.account.modseq)
        return err_set(err, ERR_CONFLICT, "changes are known from %lld on", (long long)c->op.account.floor_modseq);
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 4);
    v[0] = sql_i(c->op.account.account_id);
    v[1] = sql_i((int64_t)since);
    v[2] = sql_i(log_first_week(&c->op.account, (int64_t)since));
    v[3] = sql_i(LOG_ROWS);
    if (!sql_exec(tx, &read_log, v, 1, &log, err) || !take_log(c, sql_arena(tx), &log, err))
        return false;
    if (c->q->type == THURN__CHANGE_TYPE__CHANGE_THREAD && !drop_dead_threads(tx, c, err))
        return false;
    fill(c);
    return true;
}

FIBER static bool changes_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct changes_op *c = arg;
    c->n = c->cap = 0;
    c->order = NULL;
    c->r->has_more = false;
    map64_init(&c->fold);
    bool ok = fold_body(tx, c, err);
    map64_done(&c->fold);
    return ok;
}

FIBER bool store_do_changes(struct store *s, struct rpc_call *call, const Thurn__ChangesRequest *q,
                            Thurn__ChangesReply *r, struct err *err)
{
    struct changes_op c = {.q = q, .arena = call->arena, .r = r};
    if (!op_init(&c.op, s, q->account, err))
        return false;
    if (q->type > THURN__CHANGE_TYPE__CHANGE_THREAD)
        return err_set(err, ERR_INVALID, "unknown type");
    c.limit = q->limit ? MIN(q->limit, IDS_MAX) : IDS_MAX;
    return op_read(&c.op, changes_body, &c, err);
}
