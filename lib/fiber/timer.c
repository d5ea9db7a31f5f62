/*
 * timer.c: a hashed wheel for the many timers of sessions that hold no fiber. Starting and stopping is a list
 * operation; a timer that is due in a later turn of the wheel is looked at once a turn (about seven minutes) and left.
 */
#include "fiber/internal.h"

#include "base/clock.h"

#define TICK_MS 100
#define SLOTS 4096u

static struct {
    struct list slot[SLOTS];
    int64_t tick; /* the last one that was run */
    size_t n;
} wheel;

void timer_init(void)
{
    for (size_t i = 0; i < SLOTS; i++)
        list_init(&wheel.slot[i]);
    wheel.tick = clock_mono_ms() / TICK_MS;
    wheel.n = 0;
}

void timer_done(void)
{
    assert(wheel.n == 0);
}

static int64_t tick_of(int64_t due_mono_ms) /* the first tick that is not before due */
{
    return (due_mono_ms + TICK_MS - 1) / TICK_MS;
}

void fiber_timer_start(struct fiber_timer *t, int64_t delay_ms, void (*fn)(void *arg), void *arg)
{
    assert(fiber_runtime.is_open);
    fiber_timer_stop(t);
    int64_t now = clock_mono_ms();
    if (wheel.n == 0) /* nobody turned it while it was empty */
        wheel.tick = now / TICK_MS;
    t->due_mono_ms = now + MAX(delay_ms, 1);
    t->fn = fn;
    t->arg = arg;
    int64_t tick = MAX(tick_of(t->due_mono_ms), wheel.tick + 1);
    list_push(&wheel.slot[(uint64_t)tick % SLOTS], &t->node);
    wheel.n++;
    loop_due_changed((wheel.tick + 1) * TICK_MS);
}

void fiber_timer_stop(struct fiber_timer *t)
{
    if (!list_in(&t->node))
        return;
    list_remove(&t->node);
    wheel.n--;
}

int64_t timer_next(int64_t now)
{
    (void)now;
    return wheel.n ? (wheel.tick + 1) * TICK_MS : FIBER_NO_DEADLINE;
}

static void run_slot(struct list *slot, int64_t now)
{
    /* Functions may start and stop any timer: take the due ones out first, then pop them one by one. */
    struct list due;
    list_init(&due);
    LIST_EACH(slot, n)
    {
        if (LIST_ITEM(n, struct fiber_timer, node)->due_mono_ms <= now) {
            list_remove(n);
            list_push(&due, n);
        }
    }
    struct list_node *n;
    while ((n = list_pop(&due))) {
        struct fiber_timer *t = LIST_ITEM(n, struct fiber_timer, node);
        wheel.n--;
        t->fn(t->arg);
    }
}

void timer_run(int64_t now)
{
    int64_t until = now / TICK_MS;
    if (until - wheel.tick > (int64_t)SLOTS) /* a clock that jumped: once round is enough */
        wheel.tick = until - (int64_t)SLOTS;
    while (wheel.n && wheel.tick < until) {
        wheel.tick++;
        run_slot(&wheel.slot[(uint64_t)wheel.tick % SLOTS], now);
    }
    wheel.tick = MAX(wheel.tick, until);
}
