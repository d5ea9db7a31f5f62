/*
 * What shards need of the database when they come: their messages, in pages, and late acknowledgements. It may take far
 * longer than a lease lasts, so it is done by fibers of its own, a few at a time, beside the coordinator. A shard may
 * be lost at any wait, and be had again with a new epoch: then the load ends.
 */
#include "base/clock.h"
#include "base/log.h"
#include "queue-service/node.h"
#include "queue-service/results.h"
#include "queue-service/schedule.h"
#include "queue-service/schema.h"
#include "queue-service/shard.h"
#include "queue-service/site.h"

#define PAGE 200
#define LATE_MAX 10000u
#define LATE_AGAIN_MS 1000
#define LOADERS 4u

static int64_t first_id(const struct shard *s)
{
    return (int64_t)((uint64_t)s->number << ID_SHARD_SHIFT);
}
static int64_t end_id(const struct shard *s) /* one past the last */
{
    return (int64_t)(((uint64_t)s->number + 1) << ID_SHARD_SHIFT);
}

struct page {
    struct shard *shard;
    int64_t after;
    struct sql_result msgs, rcpts;
    struct arena *arena;
};

/* Results live as long as the transaction's arena: copy what is kept. */
static void keep_result(struct sql_result *r, struct arena *a)
{
    size_t n = r->n_rows * r->n_cols;
    struct sql_value *v = arena_array(a, struct sql_value, n);
    for (size_t i = 0; i < n; i++) {
        v[i] = r->values[i];
        v[i].s = arena_str(a, v[i].s);
    }
    r->values = v;
}

FIBER static bool page_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct page *p = arg;
    struct sql_value params[3] = {sql_i(p->after), sql_i(end_id(p->shard)), sql_i(PAGE)};
    sql_queue(tx, &q_load_msgs, params, 1, &p->msgs);
    sql_queue(tx, &q_load_rcpts, params, 1, &p->rcpts);
    if (!sql_run(tx, err))
        return false;
    keep_result(&p->msgs, p->arena);
    keep_result(&p->rcpts, p->arena);
    return true;
}

static void rcpt_of_row(const struct sql_result *r, size_t row, struct envelope_rcpt *out)
{
    *out = (struct envelope_rcpt){
        .no = (uint32_t)sql_at(r, row, RCPT_NO)->i,
        .address = sql_at(r, row, RCPT_ADDRESS)->s,
        .original = sql_at(r, row, RCPT_ORIGINAL)->s,
        .notify = (uint32_t)sql_at(r, row, RCPT_NOTIFY)->i,
        .state = (uint32_t)sql_at(r, row, RCPT_STATE)->i,
        .attempts = (uint32_t)sql_at(r, row, RCPT_ATTEMPTS)->i,
        .due_unix = sql_at(r, row, RCPT_DUE)->i,
        .code = (uint32_t)sql_at(r, row, RCPT_CODE)->i,
        .text = sql_at(r, row, RCPT_TEXT)->s,
        .is_delay_notified = sql_at(r, row, RCPT_NOTIFIED)->i != 0,
    };
}

static void envelope_of_row(const struct sql_result *r, size_t row, struct envelope *out)
{
    *out = (struct envelope){
        .enqueue_id = sql_at(r, row, MSG_ENQUEUE_ID)->s,
        .tenant_id = sql_at(r, row, MSG_TENANT)->i,
        .account_id = sql_at(r, row, MSG_ACCOUNT)->i,
        .priority = (uint32_t)sql_at(r, row, MSG_PRIORITY)->i,
        .created_unix = sql_at(r, row, MSG_CREATED)->i,
        .expires_unix = sql_at(r, row, MSG_EXPIRES)->i,
        .sender = sql_at(r, row, MSG_SENDER)->s,
        .flags = (uint32_t)sql_at(r, row, MSG_FLAGS)->i,
        .envelope_id = sql_at(r, row, MSG_ENVELOPE_ID)->s,
        .body_kind = sql_at(r, row, MSG_BODY_KIND)->i == BODY_BLOB ? BODY_BLOB : BODY_INLINE,
        .size = (uint64_t)sql_at(r, row, MSG_SIZE)->i,
        .blob_space = (uint32_t)sql_at(r, row, MSG_BLOB_SPACE)->i,
        .blob_tenant = sql_at(r, row, MSG_BLOB_TENANT)->i,
        .blob_hash = sql_at(r, row, MSG_BLOB_HASH)->s,
        .received_from = sql_at(r, row, MSG_RECEIVED_FROM)->s,
        .trace = sql_at(r, row, MSG_TRACE)->s,
        .prefix = sql_at(r, row, MSG_PREFIX)->s,
        .day = (uint32_t)sql_at(r, row, MSG_DAY)->i,
    };
}

/* A row that cannot be is left in the database and told of; it must not keep the others from moving. */
static bool is_sane(const struct envelope *e)
{
    bool has_work = false;
    for (size_t i = 0; i < e->n_rcpts; i++) {
        if (str_rfind(e->rcpts[i].address, '@') < 0 || e->rcpts[i].state > R_FAILED || e->rcpts[i].no != i)
            return false;
        has_work |= e->rcpts[i].state == R_DUE || e->rcpts[i].state == R_HELD;
    }
    return has_work && e->n_rcpts <= QUEUE_RCPTS_MAX && e->enqueue_id.n == ENQUEUE_ID_SIZE &&
           e->blob_hash.n == (e->body_kind == BODY_INLINE ? 0 : 32);
}

static void link_row(struct shard *s, uint64_t id, const struct envelope *e)
{
    if (!is_sane(e)) {
        log_error("queue.bad_row", KV_I64("id", (int64_t)id));
        return;
    }
    struct message *m = message_new(s, id, e);
    message_link(m);
    message_unref(m);
}

static void link_page(struct shard *s, const struct page *p, int64_t hold_until)
{
    size_t next = 0;
    for (size_t i = 0; i < p->msgs.n_rows; i++) {
        struct envelope e;
        int64_t id = sql_at(&p->msgs, i, MSG_ID)->i;
        envelope_of_row(&p->msgs, i, &e);
        while (next < p->rcpts.n_rows && sql_at(&p->rcpts, next, RCPT_MSG)->i < id)
            next++;
        size_t end = next;
        while (end < p->rcpts.n_rows && sql_at(&p->rcpts, end, RCPT_MSG)->i == id)
            end++;
        struct envelope_rcpt *rcpts = arena_array(p->arena, struct envelope_rcpt, end - next);
        for (size_t k = next; k < end; k++) {
            rcpt_of_row(&p->rcpts, k, &rcpts[k - next]);
            if (rcpts[k - next].due_unix < hold_until)
                rcpts[k - next].due_unix = hold_until;
        }
        e.rcpts = rcpts;
        e.n_rcpts = end - next;
        next = end;
        link_row(s, (uint64_t)id, &e);
    }
}

static bool is_still_loading(const struct shard *s, int64_t epoch)
{
    return s->state == SHARD_LOADING && s->epoch == epoch;
}

FIBER static bool load_pages(struct shard *s, struct err *err)
{
    int64_t after = first_id(s), epoch = s->epoch, hold_until = 0;
    if (s->is_in_doubt)
        hold_until = (queue_unix_ms(s->queue) + s->queue->opts.takeover_hold_ms + 999) / 1000;
    for (;;) {
        ARENA(a, 1u << 30);
        struct page p = {.shard = s, .after = after, .arena = &a};
        if (!sql_read(s->queue->opts.db, page_body, &p, err))
            return false;
        if (p.msgs.n_rows == 0 || !is_still_loading(s, epoch))
            return true;
        link_page(s, &p, hold_until);
        after = sql_at(&p.msgs, p.msgs.n_rows - 1, MSG_ID)->i;
    }
}

FIBER static void load(struct shard *s)
{
    int64_t epoch = s->epoch, start_ms = clock_mono_ms();
    struct err err = ERR_INIT;
    bool ok = load_pages(s, &err);
    if (!is_still_loading(s, epoch))
        return;
    if (!ok)
        log_warn("queue.shard_load_failed", KV_I64("shard", s->number), KV_ERR(&err));
    shard_loaded(s, ok, start_ms);
}

/* --- late acknowledgements --- */

FIBER static bool clear_late_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct sql_value id = sql_i(*(const int64_t *)arg);
    return sql_exec(tx, &q_clear_late, &id, 1, NULL, err);
}

static struct rcpt *late_rcpt(struct queue *q, int64_t id, int64_t no)
{
    struct message *m = index_by_id(&q->by_id, (uint64_t)id);
    if (!m || no < 0 || no >= m->n_rcpts)
        return NULL;
    struct rcpt *r = &m->rcpts[no];
    return r->state == R_DUE || r->state == R_READY || r->state == R_HELD ? r : NULL;
}

/* True when all are applied, or the shard was lost. */
FIBER static bool apply_late(struct shard *s, struct err *err)
{
    struct queue *q = s->queue;
    ARENA(a, 1u << 24);
    struct sql_value params[2] = {sql_i(first_id(s)), sql_i(end_id(s))};
    struct sql_result r;
    if (!sql_query(q->opts.db, &q_load_late, params, &a, &r, err))
        return false;
    for (size_t i = 0; i < r.n_rows && i < LATE_MAX; i++) {
        int64_t id = sql_at(&r, i, 0)->i;
        struct rcpt *rcpt = late_rcpt(q, id, sql_at(&r, i, 1)->i);
        if (rcpt) {
            struct update u;
            q->n_held -= rcpt->state == R_HELD;
            rcpt_detach(rcpt);
            rcpt->state = R_ACTIVE;
            q->n_active++;
            update_init(&u, rcpt);
            update_done(&u, (uint16_t)sql_at(&r, i, 2)->i, "2.0.0", "accepted before the queue changed hands");
            if (!results_commit(q, rcpt->msg, &u, 1, NULL, 0))
                return true; /* the shard went on */
        }
        if (!sql_write(q->opts.db, clear_late_body, &id, err))
            return false;
    }
    return true;
}

/* --- the loaders --- */

static bool has_work(const struct shard *s)
{
    return !s->is_busy && s->work_at_ms && clock_mono_ms() >= s->work_at_ms &&
           (s->state == SHARD_LOADING || s->state == SHARD_OWNED);
}

static struct shard *next_work(struct queue *q)
{
    for (unsigned i = 0; i < q->opts.n_shards; i++)
        if (has_work(&q->shards[i]))
            return &q->shards[i];
    return NULL;
}

static bool is_work_left(const struct queue *q)
{
    for (unsigned i = 0; i < q->opts.n_shards; i++)
        if (q->shards[i].work_at_ms)
            return true;
    return false;
}

FIBER static void look_for_late(struct shard *s)
{
    int64_t epoch = s->epoch;
    struct err err = ERR_INIT; /* the database is away, which the coordinator tells */
    schedule_cancel_lost(s);
    bool ok = apply_late(s, &err);
    if (s->state != SHARD_OTHERS && s->epoch == epoch)
        s->work_at_ms = ok ? 0 : clock_mono_ms() + LATE_AGAIN_MS;
}

FIBER static void loader(void *arg)
{
    struct queue *q = arg;
    for (struct shard *s; !q->is_stopping && (s = next_work(q));) {
        s->is_busy = true;
        if (s->state == SHARD_LOADING)
            load(s);
        else
            look_for_late(s);
        s->is_busy = false;
    }
    if (--q->n_loaders == 0 && is_work_left(q))
        node_wake(q); /* to set its alarm */
    queue_fiber_ended(q);
}

void load_start(struct queue *q)
{
    unsigned n = 0;
    for (unsigned i = 0; i < q->opts.n_shards; i++)
        n += has_work(&q->shards[i]);
    for (struct err err = ERR_INIT; n > 0 && q->n_loaders < LOADERS; n--) {
        if (!queue_spawn(q, "queue.loader", loader, q, &err))
            return; /* too many fibers now: in the next round */
        q->n_loaders++;
    }
}
