/*
 * Everything that changes a row goes through one committer: enqueues, completions, deferrals, DSNs of many messages in
 * one transaction, behind a fence for each shard that it touches. While a transaction runs, the next one collects;
 * there is no timer. What is committed is applied to memory at once, before anything else runs.
 *
 * An unknown outcome is resolved by doing it again: inserts ignore what is there, updates and deletes are idempotent.
 */
#include "queue-service/commit.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "queue-service/body.h"
#include "queue-service/domain.h"
#include "queue-service/node.h"
#include "queue-service/schedule.h"
#include "queue-service/schema.h"
#include "queue-service/shard.h"

#define BATCH_ITEMS_MAX 256u
#define BATCH_QUEUE_MAX 20000u
#define ROWS_MAX 1000u /* of one row-set statement */
#define TRIES_MAX 3u
#define AGAIN_MS 1000

struct op {
    struct batch_item item;
    struct message *m;
    const struct update *u; /* results; or */
    size_t n;
    bool is_enqueue; /* m itself is new, with this content */
    str content;
    struct message **add;
    size_t n_add;
    bool is_unknown; /* a try ended without telling whether it took effect */
};
static struct op *op_of(struct batch_item *item)
{
    return CONTAINER_OF(item, struct op, item);
}

struct txn {
    struct queue *q;
    struct op **ops;
    size_t n;
};

/* --- rows --- */

/* Rows collected for one statement; they go out in pieces that a row-set may have. */
struct rows {
    const struct sql_stmt *st;
    size_t n_cols, n, max;
    struct sql_value *v;
};
static struct rows rows_of(struct sql_tx *tx, const struct sql_stmt *st, size_t max)
{
    struct rows r = {.st = st, .n_cols = strlen(st->params), .max = max};
    r.v = arena_array(sql_arena(tx), struct sql_value, r.n_cols * max);
    return r;
}
static struct sql_value *next_row(struct rows *r)
{
    assert(r->n < r->max);
    return r->v + r->n_cols * r->n++;
}
static void queue_rows(struct sql_tx *tx, const struct rows *r)
{
    for (size_t i = 0; i < r->n; i += ROWS_MAX)
        sql_queue(tx, r->st, r->v + r->n_cols * i, MIN(r->n - i, ROWS_MAX), NULL);
}

static void msg_row(const struct message *m, struct sql_value *v)
{
    v[MSG_ID] = sql_i((int64_t)m->id);
    v[MSG_ENQUEUE_ID] = sql_s(str_n(m->enqueue_id, ENQUEUE_ID_SIZE));
    v[MSG_TENANT] = sql_i(m->tenant_id);
    v[MSG_ACCOUNT] = sql_i(m->account_id);
    v[MSG_PRIORITY] = sql_i(m->priority);
    v[MSG_CREATED] = sql_i(m->created_unix);
    v[MSG_EXPIRES] = sql_i(m->expires_unix);
    v[MSG_SENDER] = sql_s(message_text(m, TEXT_SENDER));
    v[MSG_FLAGS] = sql_i(m->flags);
    v[MSG_ENVELOPE_ID] = sql_s(message_text(m, TEXT_ENVELOPE_ID));
    v[MSG_BODY_KIND] = sql_i(m->blob ? BODY_BLOB : BODY_INLINE);
    v[MSG_SIZE] = sql_i((int64_t)m->size);
    v[MSG_BLOB_SPACE] = sql_i(m->blob ? m->blob->space : 0);
    v[MSG_BLOB_TENANT] = sql_i(m->blob ? m->blob->tenant_id : 0);
    v[MSG_BLOB_HASH] = sql_s(m->blob ? str_n(m->blob->hash, 32) : S(""));
    v[MSG_RECEIVED_FROM] = sql_s(message_text(m, TEXT_RECEIVED_FROM));
    v[MSG_TRACE] = sql_s(message_text(m, TEXT_TRACE));
    v[MSG_PREFIX] = sql_s(message_text(m, TEXT_PREFIX));
    v[MSG_DAY] = sql_i(m->day);
}

static void rcpt_row(const struct rcpt *r, struct sql_value *v)
{
    v[RCPT_MSG] = sql_i((int64_t)r->msg->id);
    v[RCPT_NO] = sql_i(r->no);
    v[RCPT_ADDRESS] = sql_s(rcpt_address(r));
    v[RCPT_ORIGINAL] = sql_s(rcpt_original(r));
    v[RCPT_NOTIFY] = sql_i(r->notify);
    v[RCPT_STATE] = sql_i(r->state == R_HELD ? R_HELD : R_DUE);
    v[RCPT_ATTEMPTS] = sql_i(r->attempts);
    v[RCPT_DUE] = sql_i(r->due_unix);
    v[RCPT_CODE] = sql_i(r->code);
    v[RCPT_TEXT] = sql_s(str_c(r->text));
    v[RCPT_NOTIFIED] = sql_i(r->is_delay_notified);
}

static void update_row(const struct update *u, struct sql_value *v)
{
    v[0] = sql_i((int64_t)u->rcpt->msg->id);
    v[1] = sql_i(u->rcpt->no);
    v[2] = sql_i(u->state);
    v[3] = sql_i(u->rcpt->attempts + u->counts_attempt);
    v[4] = sql_i(u->due_unix);
    v[5] = sql_i(u->code);
    v[6] = sql_s(str_c(u->text));
    v[7] = sql_i(u->rcpt->is_delay_notified);
}

/* --- the transaction --- */

static int shard_cmp(const void *a, const void *b)
{
    const struct shard *x = *(struct shard *const *)a, *y = *(struct shard *const *)b;
    return x->number < y->number ? -1 : x->number > y->number;
}

/* The fence for every shard of the batch, in one order everywhere. */
FIBER static bool queue_fence(struct sql_tx *tx, struct queue *q, struct shard **shards, size_t n, struct err *err)
{
    size_t n_unique = 0;
    qsort(shards, n, sizeof(shards[0]), shard_cmp);
    for (size_t i = 0; i < n; i++)
        if (n_unique == 0 || shards[n_unique - 1] != shards[i])
            shards[n_unique++] = shards[i];
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 3 * n_unique);
    for (size_t i = 0; i < n_unique; i++) {
        v[3 * i] = sql_i(shards[i]->number);
        v[3 * i + 1] = sql_i(shards[i]->epoch);
        v[3 * i + 2] = sql_s(str_c(q->node));
    }
    if (sql_is_pg(tx)) { /* it fails by itself, and all that is queued behind it */
        sql_queue(tx, &q_fence, v, n_unique, NULL);
        return true;
    }
    struct sql_result r;
    if (!sql_exec(tx, &q_fence, v, n_unique, &r, err))
        return false;
    return r.n_rows == n_unique || err_set(err, ERR_CONFLICT, "a shard is not this node's any more");
}

struct tables {
    struct rows msgs, rcpts, bodies, updates, gone_rcpts, gone_bodies, gone_msgs;
};

static void add_message(struct tables *t, const struct message *m, str content)
{
    msg_row(m, next_row(&t->msgs));
    for (uint32_t i = 0; i < m->n_rcpts; i++)
        rcpt_row(&m->rcpts[i], next_row(&t->rcpts));
    if (!m->blob) {
        struct sql_value *v = next_row(&t->bodies);
        v[0] = sql_i((int64_t)m->id);
        v[1] = sql_s(content);
    }
}

static void add_results(struct tables *t, const struct op *op)
{
    struct message *m = op->m;
    for (size_t i = 0; i < op->n; i++)
        m->n_ending += op->u[i].state == R_DONE || op->u[i].state == R_FAILED;
    if (m->n_ending < m->n_left) {
        for (size_t i = 0; i < op->n; i++)
            if (!op->u[i].is_again)
                update_row(&op->u[i], next_row(&t->updates));
        return;
    }
    *next_row(&t->gone_rcpts) = sql_i((int64_t)m->id);
    *next_row(&t->gone_msgs) = sql_i((int64_t)m->id);
    if (!m->blob)
        *next_row(&t->gone_bodies) = sql_i((int64_t)m->id);
}

static void fill_tables(struct txn *t, struct tables *tables)
{
    for (size_t i = 0; i < t->n; i++)
        t->ops[i]->m->n_ending = 0;
    for (size_t i = 0; i < t->n; i++) {
        const struct op *op = t->ops[i];
        if (op->is_enqueue)
            add_message(tables, op->m, op->content);
        else
            add_results(tables, op);
        for (size_t k = 0; k < op->n_add; k++)
            add_message(tables, op->add[k], str_n(op->add[k]->body, op->add[k]->body ? op->add[k]->size : 0));
    }
}

static void make_tables(struct sql_tx *tx, const struct txn *t, struct tables *out)
{
    size_t msgs = 0, rcpts = 0, updates = 0;
    for (size_t i = 0; i < t->n; i++) {
        const struct op *op = t->ops[i];
        msgs += op->n_add + op->is_enqueue;
        rcpts += op->is_enqueue ? op->m->n_rcpts : 0;
        updates += op->n;
        for (size_t k = 0; k < op->n_add; k++)
            rcpts += op->add[k]->n_rcpts;
    }
    *out = (struct tables){.msgs = rows_of(tx, &q_add_msg, msgs),
                           .rcpts = rows_of(tx, &q_add_rcpt, rcpts),
                           .bodies = rows_of(tx, &q_add_body, msgs),
                           .updates = rows_of(tx, &q_update_rcpt, updates),
                           .gone_rcpts = rows_of(tx, &q_delete_rcpts, t->n),
                           .gone_bodies = rows_of(tx, &q_delete_body, t->n),
                           .gone_msgs = rows_of(tx, &q_delete_msg, t->n)};
}

FIBER static bool txn_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct txn *t = arg;
    struct shard **shards = arena_array(sql_arena(tx), struct shard *, t->n);
    for (size_t i = 0; i < t->n; i++)
        shards[i] = t->ops[i]->m->shard;
    if (!queue_fence(tx, t->q, shards, t->n, err))
        return false;
    struct tables tables;
    make_tables(tx, t, &tables);
    fill_tables(t, &tables);
    const struct rows *all[] = {&tables.msgs,       &tables.rcpts,       &tables.bodies,   &tables.updates,
                                &tables.gone_rcpts, &tables.gone_bodies, &tables.gone_msgs};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        queue_rows(tx, all[i]);
    return sql_run(tx, err);
}

/* --- applying to memory what is committed --- */

static void apply_update(struct queue *q, const struct update *u)
{
    struct rcpt *r = u->rcpt;
    struct message *m = r->msg;
    rcpt_detach(r);
    r->code = u->code;
    if (!u->is_again) {
        rcpt_set_text(r, str_c(u->text));
        r->attempts = (uint16_t)(r->attempts + u->counts_attempt);
        r->due_unix = u->due_unix;
    }
    r->state = (uint8_t)u->state;
    if (u->state == R_DONE || u->state == R_FAILED) {
        m->n_left--;
        q->n_rcpts--;
    } else if (u->state == R_HELD) {
        r->is_to_be_held = false;
        q->n_held++;
    } else if (u->is_again) {
        schedule_ready(r);
    } else {
        schedule_rcpt(r);
    }
}

static void apply(struct queue *q, struct op *op)
{
    if (op->is_enqueue) {
        if (!op->m->blob) /* another's content lies with the store, and may be but a reference here */
            message_keep_body(op->m, op->content, false);
        message_link(op->m);
    } else {
        for (size_t i = 0; i < op->n; i++)
            apply_update(q, &op->u[i]);
        if (op->m->n_left == 0) {
            body_release(q, op->m);
            message_unlink(op->m);
        } else {
            message_drop_body(op->m); /* the next attempt is far away */
        }
    }
    for (size_t i = 0; i < op->n_add; i++)
        message_link(op->add[i]);
}

/* --- batches --- */

static bool may_commit(const struct op *op)
{
    const struct shard *s = op->m->shard;
    /* in the epoch of its id: one that is tried again after the shard was lost and won back may be loaded already */
    if (op->is_enqueue)
        return shard_may_work(s) && shard_epoch_of(op->m->id) == (s->epoch & ID_EPOCH_MAX);
    return !op->m->is_gone && (s->state == SHARD_OWNED || s->state == SHARD_LEAVING);
}

/* Out with the operations whose shard is gone. */
static void sort_out(struct txn *t)
{
    size_t kept = 0;
    for (size_t i = 0; i < t->n; i++) {
        struct op *op = t->ops[i];
        if (may_commit(op))
            t->ops[kept++] = op;
        else
            err_set(&op->item.err, ERR_CONFLICT, "shard %u is not this node's any more", op->m->shard->number);
    }
    t->n = kept;
}

static void fail_all(struct txn *t, const struct err *err)
{
    for (size_t i = 0; i < t->n; i++)
        t->ops[i]->item.err = *err;
}

/* Whether to try again. */
FIBER static bool recover(struct txn *t, unsigned try, struct err *err)
{
    struct err ignored = ERR_INIT; /* the next try will say more */
    if (err->kind == ERR_CONFLICT) {
        metric_inc(M_QUEUE_FENCED);
        return node_recheck(t->q, &ignored) && try < TRIES_MAX;
    }
    if (err->kind == ERR_TIMEOUT)
        for (size_t i = 0; i < t->n; i++)
            t->ops[i]->is_unknown = true;
    return err_is_temporary(err) && try < TRIES_MAX && fiber_sleep_ms(20 << (2 * try), &ignored);
}

/* Commit and apply. False: err says why, and nothing was done (or, TIMEOUT, perhaps all of it). */
FIBER static bool commit_together(struct txn *t, struct err *err)
{
    for (unsigned try = 0;; try++) {
        err_clear(err);
        sort_out(t);
        if (t->n == 0)
            return true;
        if (sql_write(t->q->opts.db, txn_body, t, err))
            break;
        if (!recover(t, try, err))
            return false;
    }
    metric_inc(M_QUEUE_COMMITS);
    metric_add(M_QUEUE_COMMITTED, (int64_t)t->n);
    for (size_t i = 0; i < t->n; i++)
        apply(t->q, t->ops[i]);
    return true;
}

FIBER static void commit_batch(void *ctx, struct batch_item **items, size_t n)
{
    struct op *ops[BATCH_ITEMS_MAX];
    struct txn all = {.q = ctx, .ops = ops, .n = n};
    struct err err = ERR_INIT;
    for (size_t i = 0; i < n; i++)
        ops[i] = op_of(items[i]);
    if (commit_together(&all, &err))
        return;
    if (err_is_temporary(&err) || all.n == 1) {
        fail_all(&all, &err);
        return;
    }
    /* One of them cannot be written: it must not take the others with it. */
    for (size_t i = 0; i < all.n; i++) {
        struct txn one = {.q = ctx, .ops = &ops[i], .n = 1};
        if (!commit_together(&one, &err))
            fail_all(&one, &err);
    }
}

void commit_init(struct queue *q)
{
    q->committer =
        batch_new("queue.commit", commit_batch, q, BATCH_ITEMS_MAX, BATCH_QUEUE_MAX, sql_db_is_pg(q->opts.db) ? 2 : 1);
}

/* --- callers --- */

/* An Enqueue that the client was told has failed, and that may be in the database: another life, or another owner,
 * would send it. */
struct doubt {
    uint64_t id;
    int64_t epoch; /* of its shard: with that gone another owner has it, and it is sent once more than needed */
};

static void note_doubtful(struct queue *q, struct doubt d)
{
    if (q->n_doubtful == q->doubtful_room) {
        q->doubtful_room = q->doubtful_room ? 2 * q->doubtful_room : 64;
        q->doubtful = xrealloc(q->doubtful, q->doubtful_room * sizeof(*q->doubtful));
    }
    q->doubtful[q->n_doubtful++] = d;
}

bool commit_enqueue(struct queue *q, struct message *m, str content, struct err *err)
{
    struct op op = {.item = {.key = m->id, .err = ERR_INIT}, .m = m, .is_enqueue = true, .content = content};
    int64_t epoch = m->shard->epoch; /* in which its rows are, whatever comes meanwhile */
    if (batch_run(q->committer, &op.item, err))
        return true;
    if (op.is_unknown) {
        note_doubtful(q, (struct doubt){m->id, epoch});
        node_wake(q);
    } else {
        body_release(q, m);
    }
    if (err->kind == ERR_CONFLICT)
        err->kind = ERR_UNAVAILABLE; /* another node may take it */
    return false;
}

struct late {
    const struct message *m;
    const struct update *u;
    size_t n;
};
FIBER static bool late_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct late *l = arg;
    struct rows rows = rows_of(tx, &q_add_late, l->n);
    for (size_t i = 0; i < l->n; i++) {
        if (l->u[i].state != R_DONE)
            continue;
        struct sql_value *v = next_row(&rows);
        v[0] = sql_i((int64_t)l->m->id);
        v[1] = sql_i(l->u[i].rcpt->no);
        v[2] = sql_i(l->m->shard->epoch);
        v[3] = sql_i(l->u[i].code);
    }
    queue_rows(tx, &rows);
    return sql_run(tx, err);
}

/* A peer has accepted, but the shard is another node's now: leave it a note, so that it does not send again. */
FIBER static void acknowledge_late(struct queue *q, const struct message *m, const struct update *u, size_t n)
{
    struct late l = {.m = m, .u = u, .n = n};
    bool any = false;
    for (size_t i = 0; i < n; i++)
        any |= u[i].state == R_DONE && u[i].done_by != BY_DELIVERY; /* the store knows its own by their keys */
    for (unsigned try = 0; any && try < TRIES_MAX; try++) {
        struct err err = ERR_INIT;
        if (sql_write(q->opts.db, late_body, &l, &err))
            return;
        err_clear(&err);
        if (!fiber_sleep_ms(AGAIN_MS, &err))
            return;
    }
}

static bool is_empty(const struct update *u, size_t n, size_t n_add)
{
    for (size_t i = 0; i < n; i++)
        if (!u[i].is_again)
            return false;
    return n_add == 0;
}

bool commit_results(struct queue *q, struct message *m, struct update *u, size_t n, struct message **add, size_t n_add)
{
    bool ok = false;
    message_ref(m);
    if (is_empty(u, n, n_add) && !m->is_gone) {
        for (size_t i = 0; i < n; i++)
            apply_update(q, &u[i]);
        ok = true;
    }
    while (!ok) {
        struct err err = ERR_INIT;
        struct op op = {.item = {.key = m->id, .err = ERR_INIT}, .m = m, .u = u, .n = n, .add = add, .n_add = n_add};
        ok = !m->is_gone && batch_run(q->committer, &op.item, &err);
        if (ok)
            break;
        if (m->is_gone) {
            acknowledge_late(q, m, u, n);
            break;
        }
        /* The database is away: keep the result. The place of this attempt stays taken, which slows down what follows.
         */
        log_warn("queue.commit_failed", KV_I64("id", (int64_t)m->id), KV_ERR(&err));
        err_clear(&err);
        if (q->is_stopping || !fiber_sleep_ms(AGAIN_MS, &err))
            break; /* the next owner does it again */
    }
    for (size_t i = 0; i < n_add; i++)
        message_unref(add[i]);
    message_unref(m);
    return ok;
}

/* --- clean-up of unknown outcomes --- */

struct doubts {
    struct queue *q;
    struct doubt v[64];
    size_t n;
};
FIBER static bool doubt_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct doubts *d = arg;
    struct shard **shards = arena_array(sql_arena(tx), struct shard *, d->n);
    struct sql_value *ids = arena_array(sql_arena(tx), struct sql_value, d->n);
    for (size_t i = 0; i < d->n; i++) {
        shards[i] = &d->q->shards[d->v[i].id >> ID_SHARD_SHIFT];
        ids[i] = sql_i((int64_t)d->v[i].id);
    }
    if (!queue_fence(tx, d->q, shards, d->n, err))
        return false;
    sql_queue(tx, &q_delete_rcpts, ids, d->n, NULL);
    sql_queue(tx, &q_delete_body, ids, d->n, NULL);
    sql_queue(tx, &q_delete_msg, ids, d->n, NULL);
    return sql_run(tx, err);
}

static bool is_still_ours(const struct queue *q, const struct doubt *d)
{
    const struct shard *s = &q->shards[d->id >> ID_SHARD_SHIFT];
    return (s->state == SHARD_OWNED || s->state == SHARD_LEAVING) && s->epoch == d->epoch;
}

void commit_doubtful(struct queue *q)
{
    while (q->n_doubtful) {
        struct doubts d = {.q = q};
        struct err err = ERR_INIT; /* in the next round */
        while (q->n_doubtful && d.n < ARRAY_LEN(d.v)) {
            struct doubt one = q->doubtful[--q->n_doubtful];
            if (is_still_ours(q, &one))
                d.v[d.n++] = one;
            else
                log_warn("queue.doubtful_lost", KV_I64("id", (int64_t)one.id));
        }
        if (d.n == 0 || sql_write(q->opts.db, doubt_body, &d, &err))
            continue;
        for (size_t i = 0; i < d.n; i++)
            note_doubtful(q, d.v[i]);
        return;
    }
}
