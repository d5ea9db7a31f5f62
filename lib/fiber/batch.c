#include "fiber/batch.h"

#include "base/map.h"
#include "base/metrics.h"
#include "fiber/internal.h"

#define BATCH_MAGIC 0xba7c4001u
/* a commit that takes longer hangs on something of its own: a locked row, a lost connection */
#define PATIENCE_MS 100

struct batch {
    uint32_t magic;
    const char *name;
    batch_fn fn;
    void *ctx;
    size_t max_items, max_queue;
    unsigned parallel;
    struct list queue;
    size_t n_queued;
    unsigned n_committers;
    struct map64 busy_keys;      /* of the batches in flight; only used when there may be several */
    struct fiber_timer patience; /* runs while something waits and another committer may be started */
    struct fiber_cond at_rest;   /* no committer is left */
};

struct batch *batch_new(const char *name, batch_fn fn, void *ctx, size_t max_items, size_t max_queue, unsigned parallel)
{
    assert(max_items > 0 && parallel > 0);
    struct batch *b = xnew(struct batch);
    *b = (struct batch){.magic = BATCH_MAGIC,
                        .name = name,
                        .fn = fn,
                        .ctx = ctx,
                        .max_items = max_items,
                        .max_queue = max_queue,
                        .parallel = parallel};
    list_init(&b->queue);
    map64_init(&b->busy_keys);
    fiber_cond_init(&b->at_rest);
    return b;
}

void batch_free(struct batch *b)
{
    if (!b)
        return;
    CHECK(b, BATCH_MAGIC);
    while (b->n_committers > 0)
        fiber_cond_wait_uninterrupted(&b->at_rest);
    assert(b->n_queued == 0);
    fiber_timer_stop(&b->patience);
    map64_done(&b->busy_keys);
    b->magic = 0;
    free(b);
}

static bool uses_keys(const struct batch *b)
{
    return b->parallel > 1;
}

/* Take what may go now, oldest first. An item whose key is in flight stays, and so do all later ones of that key. */
static size_t collect(struct batch *b, struct batch_item **items)
{
    size_t n = 0;
    LIST_EACH(&b->queue, node)
    {
        if (n == b->max_items)
            break;
        struct batch_item *item = LIST_ITEM(node, struct batch_item, node);
        if (uses_keys(b) && item->key && map64_get(&b->busy_keys, item->key))
            continue;
        list_remove(node);
        items[n++] = item;
    }
    b->n_queued -= n;
    if (uses_keys(b))
        for (size_t i = 0; i < n; i++)
            if (items[i]->key)
                (void)map64_put(&b->busy_keys, items[i]->key, b);
    return n;
}

static void release(struct batch *b, struct batch_item **items, size_t n)
{
    if (uses_keys(b))
        for (size_t i = 0; i < n; i++)
            if (items[i]->key)
                (void)map64_remove(&b->busy_keys, items[i]->key);
    for (size_t i = 0; i < n; i++) {
        items[i]->is_done = true;
        fiber_wake(items[i]->waiter);
    }
}

static void start_committer(struct batch *b);

static void committer(void *arg)
{
    struct batch *b = arg;
    CHECK(b, BATCH_MAGIC);
    struct batch_item **items = xcalloc(b->max_items, sizeof(struct batch_item *));
    size_t n;
    while ((n = collect(b, items)) > 0) {
        if (b->n_queued >= b->max_items) /* a full batch is left over: it may go at the same time */
            start_committer(b);
        b->fn(b->ctx, items, n);
        release(b, items, n);
    }
    free(items);
    if (--b->n_committers == 0)
        fiber_cond_broadcast(&b->at_rest);
}

static void start_committer(struct batch *b)
{
    if (b->n_committers == b->parallel)
        return;
    b->n_committers++;
    fiber_spawn_system(b->name, committer, b);
}

static void on_patience(void *arg)
{
    struct batch *b = arg;
    CHECK(b, BATCH_MAGIC);
    if (b->n_queued > 0)
        start_committer(b);
}

/* The fewer batches, the less each request costs: another one starts beside what is in flight only for a full batch, or
 * when what is in flight takes long. */
static void see_to_it(struct batch *b)
{
    if (b->n_committers == 0 || b->n_queued >= b->max_items)
        start_committer(b);
    else if (b->n_committers < b->parallel && !list_in(&b->patience.node))
        fiber_timer_start(&b->patience, PATIENCE_MS, on_patience, b);
}

bool batch_run(struct batch *b, struct batch_item *item, struct err *err)
{
    CHECK(b, BATCH_MAGIC);
    if (!fiber_may_wait(err))
        return false;
    if (b->n_queued >= b->max_queue) {
        metric_inc(M_WORK_REFUSED);
        return err_set(err, ERR_BUSY, "%zu requests wait for '%s'", b->n_queued, b->name);
    }
    item->node = (struct list_node){0};
    item->waiter = fiber_self();
    item->is_done = false;
    err_clear(&item->err);
    list_push(&b->queue, &item->node);
    b->n_queued++;
    see_to_it(b);
    while (!item->is_done)
        fiber_wait_deaf("batch");
    if (err_is_set(&item->err)) {
        *err = item->err;
        return false;
    }
    return true;
}
