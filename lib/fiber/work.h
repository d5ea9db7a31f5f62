/*
 * work.h: blocking or long work, off the loop.
 *
 * work_run gives one call to a thread of the pool and suspends until it has returned. A work_lane is one thread of its
 * own that is handed everything that waits as one batch: group commit without a timer, because the time that the last
 * batch took is the window in which the next one collects.
 *
 * Neither can be interrupted once it runs: a cancelled or overdue fiber still waits for the function to return (what
 * the function works on lives on that fiber's stack), and the result says what happened, never CANCELLED half-way.
 */
#ifndef FIBER_WORK_H
#define FIBER_WORK_H

#include "fiber/fiber.h"

/* Run fn(arg) on a pool thread. Errors: CANCELLED, TIMEOUT (before it began), LIMIT (queue full). */
FIBER bool work_run(void (*fn)(void *arg), void *arg, struct err *err) WARN_UNUSED;

/* How many calls the pool runs at a time. Who has many of them leaves some to others. */
unsigned work_pool_threads(void);

struct work_lane;
/* One request of a lane; embedded in what the caller submits. */
struct work_item {
    struct list_node node;
    struct fiber *waiter;
    bool is_done;
};
/* Runs on the lane's thread with 1..max_batch items, oldest first. It must not touch fibers, nor the loop. */
typedef void (*work_batch_fn)(void *ctx, struct work_item **items, size_t n);

/* Start a thread named name. max_queue bounds what may wait (LIMIT above it). */
struct work_lane *work_lane_new(const char *name, work_batch_fn fn, void *ctx, size_t max_batch, size_t max_queue);
/* Finish what is queued, end the thread, free. Called on a fiber or after the loop ended. */
FIBER void work_lane_free(struct work_lane *lane);
/* Submit and suspend until the batch that held it has run. Errors: LIMIT, CANCELLED or TIMEOUT before it was queued. */
FIBER bool work_lane_run(struct work_lane *lane, struct work_item *item, struct err *err) WARN_UNUSED;

#endif
