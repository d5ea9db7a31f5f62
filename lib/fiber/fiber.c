#include "fiber/internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"

#define WARM_STACKS 16u /* pooled stacks that keep all their memory: the next commands run on them */

struct fiber_runtime fiber_runtime;
#define rt fiber_runtime

/* The running fiber of this thread: NULL on the loop and on every other thread. Fibers do not migrate, but compilers
 * may keep a thread-local's address over a switch: all accesses go through these two. */
static _Thread_local struct fiber *current;
static struct fiber_context loop_context;

__attribute__((noinline)) struct fiber *fiber_self(void)
{
    return current;
}

static __attribute__((noinline)) void set_current(struct fiber *f)
{
    current = f;
}

const char *fiber_name(const struct fiber *f)
{
    CHECK(f, FIBER_MAGIC);
    return f->name;
}

unsigned fiber_count(void)
{
    return rt.n_live;
}

struct fiber_context *fiber_context(void)
{
    struct fiber *f = fiber_self();
    return f ? &f->context : &loop_context;
}

/* --- life --- */

static struct fiber *entering; /* the fiber whose first switch is under way: makecontext passes only ints */

/* The bottom of every stack: one unit of work after the other, until the stack is given up. */
static void entry(void)
{
    struct fiber *f = entering;
    switch_arrived(&rt.loop_ctx);
    while (f->fn) {
        f->fn(f->arg);
        f->state = FIBER_ENDED;
        switch_to(&f->ctx, &rt.loop_ctx);
    }
    switch_leave(&rt.loop_ctx);
}

static void enter(struct fiber *f)
{
    entering = f;
    set_current(f);
    switch_to(&rt.loop_ctx, &f->ctx);
    set_current(NULL);
}

static struct fiber *make_or_reuse(struct err *err)
{
    struct list_node *n = list_pop(&rt.pooled);
    if (n) {
        rt.n_pooled--;
        return LIST_ITEM(n, struct fiber, all);
    }
    struct fiber *f = xnew(struct fiber);
    f->magic = FIBER_MAGIC;
    if (!stack_make(&f->stack, rt.opts.stack_bytes, err)) {
        free(f);
        return NULL;
    }
    switch_init(&f->ctx, stack_base(&f->stack), stack_size(&f->stack), entry);
    return f;
}

static void give_up(struct fiber *f)
{
    f->fn = NULL;
    enter(f);
    stack_drop(&f->stack);
    f->magic = 0;
    free(f);
}

static struct fiber *start(const char *name, fiber_fn fn, void *arg, int64_t deadline, struct err *err)
{
    assert(rt.is_open && fn);
    struct fiber *f = make_or_reuse(err);
    if (!f)
        return NULL;
    f->name = name;
    f->waiting_for = "first run";
    f->fn = fn;
    f->arg = arg;
    f->deadline = deadline;
    f->wake_at = FIBER_NO_DEADLINE;
    f->started_mono_ms = clock_mono_ms();
    f->is_cancelled = f->is_deaf = false;
    f->context = (struct fiber_context){0};
    f->group = NULL;
    f->state = FIBER_WAITING;
    list_push(&rt.live, &f->all);
    rt.n_live++;
    metric_set(M_FIBERS, rt.n_live);
    fiber_make_ready(f, WAKE_EXPLICIT);
    return f;
}

static bool start_within_cap(const char *name, fiber_fn fn, void *arg, int64_t deadline, unsigned cap,
                             struct fiber **out, struct err *err)
{
    struct fiber *f = NULL;
    if (rt.n_live >= cap)
        (void)err_set(err, ERR_BUSY, "all %u fibers are in use", cap);
    else
        f = start(name, fn, arg, deadline, err);
    if (!f)
        metric_inc(M_FIBER_REFUSED);
    *out = f;
    return f != NULL;
}

bool fiber_spawn(const char *name, fiber_fn fn, void *arg, int64_t deadline_mono_ms, struct err *err)
{
    struct fiber *f;
    return start_within_cap(name, fn, arg, deadline_mono_ms, rt.opts.max_fibers, &f, err);
}

bool fiber_spawn_vital(const char *name, fiber_fn fn, void *arg, int64_t deadline_mono_ms, struct err *err)
{
    struct fiber *f;
    return start_within_cap(name, fn, arg, deadline_mono_ms, rt.opts.max_fibers + FIBER_RESERVE, &f, err);
}

void fiber_spawn_system(const char *name, fiber_fn fn, void *arg)
{
    struct err err = ERR_INIT;
    if (!start(name, fn, arg, FIBER_NO_DEADLINE, &err))
        panic("%s", err.msg);
}

bool fiber_group_spawn(struct fiber_group *g, const char *name, fiber_fn fn, void *arg, struct err *err)
{
    if (g->n >= g->max_children)
        return err_set(err, ERR_BUSY, "all %u children of this group are running", g->max_children);
    struct fiber *f;
    if (!start_within_cap(name, fn, arg, fiber_deadline(), rt.opts.max_fibers, &f, err))
        return false;
    f->context = *fiber_context();
    f->group = g;
    list_push(&g->children, &f->sibling);
    g->n++;
    return true;
}

static void bury(struct fiber *f)
{
    if (f->group)
        fiber_group_child_ended(f);
    deadline_forget(f);
    list_remove(&f->all);
    rt.n_live--;
    metric_set(M_FIBERS, rt.n_live);
    if (rt.n_pooled >= rt.opts.pooled_stacks) {
        give_up(f);
        return;
    }
    if (rt.n_pooled >= WARM_STACKS)
        stack_rest(&f->stack);
    list_push_front(&rt.pooled, &f->all); /* the warmest stack is used next */
    rt.n_pooled++;
}

void fiber_drop_pooled(void)
{
    struct list_node *n;
    while ((n = list_pop(&rt.pooled)))
        give_up(LIST_ITEM(n, struct fiber, all));
    rt.n_pooled = 0;
}

/* --- running and waiting --- */

static void run_slice(struct fiber *f)
{
    f->state = FIBER_RUNNING;
    rt.slice_began_ns = uv_hrtime();
    enter(f);
    uint64_t took_ms = (uv_hrtime() - rt.slice_began_ns) / 1000000;
    if (took_ms > rt.opts.slice_warn_ms) {
        metric_inc(M_FIBER_SLOW_SLICES);
        set_current(f); /* for the log line's context */
        log_warn("fiber.slow", KV_Z("name", f->name), KV_I64("ms", took_ms));
        set_current(NULL);
    }
    if (f->state == FIBER_ENDED)
        bury(f);
}

void fiber_run_ready(void)
{
    assert(!fiber_self());
    /* The ones that become ready meanwhile wait for the next round. */
    struct list_node *last = list_empty(&rt.ready) ? NULL : rt.ready.head.prev;
    while (last) {
        struct list_node *n = list_pop(&rt.ready);
        if (n == last)
            last = NULL;
        run_slice(LIST_ITEM(n, struct fiber, ready));
    }
}

static bool is_slice_over(uint64_t began_ns)
{
    return uv_hrtime() - began_ns >= FIBER_SLICE_MS * UINT64_C(1000000);
}

bool fiber_turn_is_over(void)
{
    return is_slice_over(rt.turn_began_ns);
}

void fiber_run_late(void)
{
    struct list_node *n;
    do {
        n = list_pop(&rt.late);
        if (n)
            run_slice(LIST_ITEM(n, struct fiber, ready));
    } while (n && !fiber_turn_is_over());
}

void fiber_make_ready(struct fiber *f, enum fiber_wake_reason why)
{
    CHECK(f, FIBER_MAGIC);
    if (f->state == FIBER_READY && why > f->wake)
        f->wake = why;
    if (f->state != FIBER_WAITING)
        return;
    f->state = FIBER_READY;
    f->wake = why;
    list_push(&rt.ready, &f->ready);
    loop_something_ready();
}

enum fiber_wake_reason fiber_suspend(const char *what, int64_t due, bool is_deaf)
{
    struct fiber *f = fiber_self();
    assert(f && f->state == FIBER_RUNNING);
    f->state = FIBER_WAITING;
    f->waiting_for = what;
    f->wake_at = due;
    f->is_deaf = is_deaf;
    if (due != FIBER_NO_DEADLINE)
        deadline_arm(f, due);
    switch_to(&f->ctx, &rt.loop_ctx);
    f->wake_at = FIBER_NO_DEADLINE;
    return f->wake;
}

void fiber_wake(struct fiber *f)
{
    fiber_make_ready(f, WAKE_EXPLICIT);
}

void fiber_cancel(struct fiber *f)
{
    CHECK(f, FIBER_MAGIC);
    f->is_cancelled = true;
    if (!(f->state == FIBER_WAITING && f->is_deaf))
        fiber_make_ready(f, WAKE_CANCELLED);
}

bool fiber_is_cancelled(const struct fiber *f)
{
    CHECK(f, FIBER_MAGIC);
    return f->is_cancelled;
}

static bool cancelled(struct err *err)
{
    return err_set(err, ERR_CANCELLED, "cancelled");
}

static bool timed_out(struct err *err)
{
    return err_set(err, ERR_TIMEOUT, "deadline passed");
}

bool fiber_may_wait(struct err *err)
{
    const struct fiber *f = fiber_self();
    assert(f);
    if (f->is_cancelled)
        return cancelled(err);
    if (f->deadline != FIBER_NO_DEADLINE && clock_mono_ms() >= f->deadline)
        return timed_out(err);
    return true;
}

bool fiber_wait_for(const char *what, struct err *err)
{
    struct fiber *f = fiber_self();
    if (!fiber_may_wait(err))
        return false;
    switch (fiber_suspend(what, f->deadline, false)) {
    case WAKE_DUE:
        return timed_out(err);
    case WAKE_CANCELLED:
        return cancelled(err);
    default:
        return true;
    }
}

bool fiber_wait(struct err *err)
{
    return fiber_wait_for("wake", err);
}

void fiber_wait_deaf(const char *what)
{
    (void)fiber_suspend(what, FIBER_NO_DEADLINE, true);
}

void fiber_wait_uninterrupted(void)
{
    fiber_wait_deaf("completion");
}

bool fiber_sleep_ms(int64_t ms, struct err *err)
{
    struct fiber *f = fiber_self();
    int64_t until = clock_mono_ms() + MAX(ms, 0);
    for (;;) {
        if (!fiber_may_wait(err))
            return false;
        if (clock_mono_ms() >= until)
            return true;
        if (fiber_suspend("sleep", MIN(until, f->deadline), false) == WAKE_CANCELLED)
            return cancelled(err);
    }
}

bool fiber_yield(struct err *err)
{
    struct fiber *f = fiber_self();
    if (!fiber_may_wait(err))
        return false;
    f->state = FIBER_WAITING;
    fiber_make_ready(f, WAKE_EXPLICIT);
    f->waiting_for = "its turn";
    switch_to(&f->ctx, &rt.loop_ctx);
    return fiber_may_wait(err);
}

bool fiber_yield_if_due(struct err *err)
{
    struct fiber *f = fiber_self();
    if (!is_slice_over(rt.slice_began_ns))
        return true;
    if (!fiber_may_wait(err))
        return false;
    f->state = FIBER_READY;
    f->wake = WAKE_EXPLICIT;
    f->waiting_for = "its turn";
    list_push(&rt.late, &f->ready);
    loop_something_ready();
    switch_to(&f->ctx, &rt.loop_ctx);
    return fiber_may_wait(err);
}

/* --- deadline of the running fiber --- */

int64_t fiber_deadline(void)
{
    struct fiber *f = fiber_self();
    return f ? f->deadline : FIBER_NO_DEADLINE;
}

int64_t fiber_set_deadline(int64_t mono_ms)
{
    struct fiber *f = fiber_self();
    assert(f);
    int64_t old = f->deadline;
    f->deadline = MIN(old, mono_ms);
    return old;
}

void fiber_restore_deadline(int64_t mono_ms)
{
    struct fiber *f = fiber_self();
    assert(f);
    f->deadline = mono_ms;
}
