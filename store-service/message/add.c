#include "store-service/message/add.h"

#include "base/clock.h"
#include "store-service/account/timeline.h"
#include "store-service/message/add_work.h"
#include "store-service/watch/beacon.h"

#define BATCH_REQUESTS 128u
#define QUEUE_MAX 5000u
/* the second when a full batch waits, or when a locked account holds the first up */
#define COMMITTERS 2u
#define TRIES 4

/* --- one transaction --- */

static void reset_results(struct add_tx *t)
{
    t->n_to_prepare = t->n_touched = 0;
    for (size_t i = 0; i < t->n_requests; i++) {
        struct add_request *rq = t->requests[i];
        err_clear(&rq->item.err);
        rq->reply = STR_NONE;
        for (size_t k = 0; k < rq->n; k++) {
            err_clear(&rq->v[k].err);
            rq->v[k].is_duplicate = false;
        }
    }
}

FIBER static bool read_and_write(struct work *w, struct err *err)
{
    work_queue_reads(w);
    if (!sql_run(w->tx, err))
        return false;
    if (!work_take_reads(w)) {
        w->t->needs_prepare = true;
        return err_set(err, ERR_UNAVAILABLE, "accounts are not ready");
    }
    return work_write(w, err);
}

FIBER static bool add_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct add_tx *t = arg;
    struct work *w = arena_new(sql_arena(tx), struct work);
    w->tx = tx;
    w->t = t;
    w->a = sql_arena(tx);
    w->now_unix = clock_unix();
    t->needs_prepare = false;
    reset_results(t);
    map_init(&w->slot_map);
    map_init(&w->key_map);
    map64_init(&w->threads);
    bool ok = read_and_write(w, err);
    map_done(&w->slot_map);
    map_done(&w->key_map);
    map64_done(&w->threads);
    return ok;
}

/* --- the committer --- */

FIBER static bool run_once(struct add_tx *t, struct err *err)
{
    if (sql_write(t->shard->db, add_body, t, err) || err->kind == ERR_TIMEOUT) {
        for (size_t i = 0; i < t->n_touched; i++)
            beacon_publish(t->shard->store, t->touched[i].account_id, t->touched[i].modseq,
                           KIND_EMAIL | KIND_MAILBOX | KIND_THREAD);
        return !err_is_set(err);
    }
    if (!t->needs_prepare)
        return false;
    err_clear(err);
    for (size_t i = 0; i < t->n_to_prepare; i++)
        if (!account_prepare(t->shard, t->to_prepare[i], err))
            return false;
    return err_set(err, ERR_CONFLICT, "accounts were not ready");
}

/* A unique key that is there already (a delivery's), or that another transaction took at the same moment (the same
 * body, mostly), is found by the next try. */
FIBER static bool run_transaction(struct shard *sh, struct add_request **requests, size_t n, struct err *err)
{
    ARENA(arena, 16 << 20);
    struct add_tx t = {.shard = sh, .requests = requests, .n_requests = n, .arena = &arena};
    for (size_t i = 0; i < n; i++) {
        t.n_adds += requests[i]->n;
        for (size_t k = 0; k < requests[i]->n; k++)
            t.n_keys += requests[i]->v[k].content->n_thread_keys;
    }
    for (int i = 0; i < TRIES; i++) {
        err_clear(err);
        if (run_once(&t, err))
            return true;
        if (err->kind != ERR_EXISTS && err->kind != ERR_CONFLICT)
            break;
        t.looks_up_keys |= err->kind == ERR_EXISTS;
    }
    return false;
}

FIBER static void commit(struct shard *sh, struct add_request **requests, size_t n)
{
    struct err err = ERR_INIT;
    if (run_transaction(sh, requests, n, &err))
        return;
    /* One that no statement can digest must not take the others with it. */
    if (n > 1 && !err_is_temporary(&err)) {
        for (size_t i = 0; i < n; i++)
            commit(sh, &requests[i], 1);
        return;
    }
    for (size_t i = 0; i < n; i++)
        requests[i]->item.err = err;
}

FIBER static void add_batch(void *ctx, struct batch_item **items, size_t n)
{
    struct shard *sh = ctx;
    struct add_request *requests[BATCH_REQUESTS];
    size_t k = 0, n_adds = 0;
    for (size_t i = 0; i < n; i++) {
        struct add_request *rq = CONTAINER_OF(items[i], struct add_request, item);
        if (k > 0 && n_adds + rq->n > ADDS_PER_TX) {
            commit(sh, requests, k);
            k = n_adds = 0;
        }
        requests[k++] = rq;
        n_adds += rq->n;
    }
    commit(sh, requests, k);
}

struct batch *add_batch_new(struct shard *sh)
{
    return batch_new("store-add", add_batch, sh, BATCH_REQUESTS, QUEUE_MAX, COMMITTERS);
}

bool add_run(struct shard *sh, struct add_request *r, struct err *err)
{
    assert(r->n >= 1 && r->n <= ADDS_PER_TX);
    r->item.key = (uint64_t)r->v[0].ref->account_id;
    return batch_run(sh->adds, &r->item, err);
}
