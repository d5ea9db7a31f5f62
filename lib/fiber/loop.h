/*
 * loop.h: what the adapters (lib/net, lib/rpc, the work pool) need of the loop. Nobody else includes this.
 *
 * A turn of the loop: libuv's callbacks; then deferred tasks (what came in is older than what is due now), timers, and
 * ready fibers, round and round until there are none (or LOOP_ROUNDS_MAX rounds or FIBER_SLICE_MS have passed, so that
 * I/O is not starved); then the turn-end tasks; then fibers that gave way because they had run for long
 * (fiber_yield_if_due), for FIBER_SLICE_MS or one of them; then the poll.
 */
#ifndef FIBER_LOOP_H
#define FIBER_LOOP_H

#include <uv.h>

#include "fiber/fiber.h"

/* The process's loop; NULL outside of fiber_runtime_init … fiber_runtime_done. */
struct uv_loop_s *fiber_loop(void);

/*
 * A function to be run on the loop, later in this turn, outside of any callback. The task is embedded in what it works
 * on; one that is queued already stays as it is. It may queue itself again.
 */
struct loop_task {
    struct list_node node;
    void (*fn)(void *arg);
    void *arg;
};
/* Before the ready fibers run. */
void loop_defer(struct loop_task *t, void (*fn)(void *arg), void *arg);
/* After all ready fibers have run: gather what they wrote and send it once. */
void loop_at_turn_end(struct loop_task *t, void (*fn)(void *arg), void *arg);
static inline void loop_task_cancel(struct loop_task *t) /* of either kind; a zeroed task is allowed */
{
    list_remove(&t->node);
}

/*
 * From another thread: run p->fn(p) on the loop. Whoever gives work to a thread holds the loop alive for as long as an
 * answer is to come: loop_hold(n) before, loop_release(n) in the posted function; both on the loop.
 */
struct loop_post {
    struct loop_post *next;
    void (*fn)(struct loop_post *p);
};
void loop_post(struct loop_post *p);
void loop_hold(size_t n);
void loop_release(size_t n);

/* fiber_spawn outside of the cap, for the runtime's own fibers: without them what holds the cap could not end. */
void fiber_spawn_system(const char *name, fiber_fn fn, void *arg);

#endif
