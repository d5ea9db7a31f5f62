/*
 * batch.h: group commit on fibers. What waits for the same commit goes together.
 *
 * Callers hand in a request and suspend. A committer fiber takes all that wait (at most max_items) and runs the batch
 * function with them; while that runs, the next batch collects: the previous batch's latency is the window.
 * With `parallel` > 1 that many batches may be in flight at once (requests of one `key` never in two at a time):
 * another one starts when max_items wait, or when something waits and the ones in flight have taken 100 ms.
 */
#ifndef FIBER_BATCH_H
#define FIBER_BATCH_H

#include "fiber/fiber.h"

struct batch;
struct batch_item {
    struct list_node node;
    struct fiber *waiter;
    uint64_t key;   /* ordering domain, e.g. the account id; 0 = none */
    struct err err; /* the batch function's verdict on this request: unset means done */
    bool is_done;
};
/* Runs on a committer fiber, which has no deadline and is never cancelled. items come in the order of submission. Sets
 * item->err for those that failed (on its own failure: for all). */
typedef void (*batch_fn)(void *ctx, struct batch_item **items, size_t n);

struct batch *batch_new(const char *name, batch_fn fn, void *ctx, size_t max_items, size_t max_queue,
                        unsigned parallel);
/* Waits for what is in flight. */
FIBER void batch_free(struct batch *b);
/*
 * Submit and wait for the verdict. Once submitted, the item is waited for even past the deadline or a cancellation
 * (its memory is the caller's); the batch function bounds its own time. Errors: LIMIT (queue full), the item's own.
 */
FIBER bool batch_run(struct batch *b, struct batch_item *item, struct err *err) WARN_UNUSED;

#endif
