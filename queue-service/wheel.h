/*
 * wheel.h: a hierarchical timing wheel of one-second ticks: adding and removing cost the same for a million entries.
 *
 * Four levels of 256 slots reach 136 years. Time is whatever whole seconds the owner counts; it never runs backwards.
 */
#ifndef QUEUE_SERVICE_WHEEL_H
#define QUEUE_SERVICE_WHEEL_H

#include "base/list.h"

#define WHEEL_LEVELS 4
#define WHEEL_SLOTS 256

struct wheel_node {
    struct list_node node;
    uint32_t due_s;
    uint8_t kind; /* which of the wheel's functions is called when it is due */
};
/* Called once, with the node out of the wheel; may add it again. */
typedef void (*wheel_fn)(struct wheel_node *n);
struct wheel {
    int64_t now_s;
    const wheel_fn *fns; /* by kind; the owner's */
    struct list slots[WHEEL_LEVELS][WHEEL_SLOTS];
};
void wheel_init(struct wheel *w, int64_t now_s, const wheel_fn *fns);
/* A node that is in the wheel moves. What is due already fires with the next wheel_advance. */
void wheel_add(struct wheel *w, struct wheel_node *n, int64_t due_s);
void wheel_remove(struct wheel_node *n); /* a node that is in no wheel is allowed */
void wheel_advance(struct wheel *w, int64_t now_s);

#endif
