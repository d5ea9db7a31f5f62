#include "fiber/work.h"

#include <pthread.h>

#include "base/metrics.h"
#include "fiber/internal.h"

#define LANE_MAGIC 0x1a9e0001u

/* What a finished batch hands back to the loop. The thread fills it; the loop frees it. */
struct batch_done {
    struct loop_post post;
    struct work_lane *lane;
    size_t n;
    struct work_item *items[];
};

struct work_lane {
    uint32_t magic;
    work_batch_fn fn;
    void *ctx;
    size_t max_batch, max_queue;
    pthread_t thread;
    pthread_mutex_t lock; /* guards queue, n_queued, is_stopping */
    pthread_cond_t more;
    struct list queue;
    size_t n_queued;
    bool is_stopping;
    /* The loop's own. */
    size_t n_in; /* submitted and not handed back */
    struct fiber_cond emptied;
};

static void hand_back(struct loop_post *p)
{
    struct batch_done *b = CONTAINER_OF(p, struct batch_done, post);
    struct work_lane *lane = b->lane;
    for (size_t i = 0; i < b->n; i++) {
        b->items[i]->is_done = true;
        fiber_wake(b->items[i]->waiter);
    }
    loop_release(b->n);
    lane->n_in -= b->n;
    if (lane->n_in == 0)
        fiber_cond_broadcast(&lane->emptied);
    free(b);
}

static void *lane_thread(void *arg)
{
    struct work_lane *lane = arg;
    (void)pthread_mutex_lock(&lane->lock);
    for (;;) {
        while (lane->n_queued == 0 && !lane->is_stopping)
            (void)pthread_cond_wait(&lane->more, &lane->lock);
        if (lane->n_queued == 0)
            break;
        size_t n = MIN(lane->n_queued, lane->max_batch);
        struct batch_done *b = xmalloc(sizeof(*b) + n * sizeof(b->items[0]));
        *b = (struct batch_done){.post.fn = hand_back, .lane = lane, .n = n};
        for (size_t i = 0; i < n; i++)
            b->items[i] = LIST_ITEM(list_pop(&lane->queue), struct work_item, node);
        lane->n_queued -= n;
        (void)pthread_mutex_unlock(&lane->lock);
        lane->fn(lane->ctx, b->items, n);
        loop_post(&b->post);
        (void)pthread_mutex_lock(&lane->lock);
    }
    (void)pthread_mutex_unlock(&lane->lock);
    return NULL;
}

struct work_lane *work_lane_new(const char *name, work_batch_fn fn, void *ctx, size_t max_batch, size_t max_queue)
{
    assert(max_batch > 0);
    struct work_lane *lane = xnew(struct work_lane);
    *lane =
        (struct work_lane){.magic = LANE_MAGIC, .fn = fn, .ctx = ctx, .max_batch = max_batch, .max_queue = max_queue};
    (void)pthread_mutex_init(&lane->lock, NULL);
    (void)pthread_cond_init(&lane->more, NULL);
    list_init(&lane->queue);
    fiber_cond_init(&lane->emptied);
    if (pthread_create(&lane->thread, NULL, lane_thread, lane) != 0)
        panic("no thread for '%s'", name);
    char short_name[16]; /* the kernel's limit */
    (void)snprintf(short_name, sizeof(short_name), "%s", name);
    (void)pthread_setname_np(lane->thread, short_name);
    return lane;
}

void work_lane_free(struct work_lane *lane)
{
    if (!lane)
        return;
    CHECK(lane, LANE_MAGIC);
    /* After the loop's end nothing can be under way: a fiber that waits for the lane keeps the loop alive. */
    while (lane->n_in > 0)
        fiber_cond_wait_uninterrupted(&lane->emptied);
    (void)pthread_mutex_lock(&lane->lock);
    lane->is_stopping = true;
    (void)pthread_cond_signal(&lane->more);
    (void)pthread_mutex_unlock(&lane->lock);
    (void)pthread_join(lane->thread, NULL); /* it has nothing to do, so this does not block */
    (void)pthread_cond_destroy(&lane->more);
    (void)pthread_mutex_destroy(&lane->lock);
    lane->magic = 0;
    free(lane);
}

bool work_lane_run(struct work_lane *lane, struct work_item *item, struct err *err)
{
    CHECK(lane, LANE_MAGIC);
    if (!fiber_may_wait(err))
        return false;
    if (lane->n_in >= lane->max_queue) {
        metric_inc(M_WORK_REFUSED);
        return err_set(err, ERR_BUSY, "%zu requests wait for the same thread", lane->n_in);
    }
    item->node = (struct list_node){0};
    item->waiter = fiber_self();
    item->is_done = false;
    lane->n_in++;
    loop_hold(1);
    (void)pthread_mutex_lock(&lane->lock);
    list_push(&lane->queue, &item->node);
    if (lane->n_queued++ == 0)
        (void)pthread_cond_signal(&lane->more);
    (void)pthread_mutex_unlock(&lane->lock);
    while (!item->is_done)
        fiber_wait_deaf("work lane");
    return true;
}
