#include "fiber/internal.h"

#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"

#define rt fiber_runtime
#define LATE_MS 100
#define LOOP_ROUNDS_MAX 16
/* however long they take: what one of them wrote for another belongs to this turn */
#define LOOP_ROUNDS_MIN 4
#define DONE_GRACE_MS 5000 /* fiber_main: for connections that still send their last bytes */

static struct {
    uv_loop_t uv;
    uv_prepare_t turn;  /* runs tasks and fibers before each poll */
    uv_idle_t no_block; /* active while something is ready: the poll does not block */
    uv_timer_t due;     /* one for all deadlines and the wheel */
    uv_async_t posted;
    bool is_blocking_off;
    bool has_looked; /* what is due late waits for one poll */
    int64_t due_at;  /* what the timer is set to */
    int64_t cpu_us;  /* of this thread, at the end of the last turn */
    struct list deferred, at_end;
    size_t n_held; /* answers of other threads to come */
    _Atomic(struct loop_post *) posts;
} loop;

struct uv_loop_s *fiber_loop(void)
{
    return rt.is_open ? &loop.uv : NULL;
}

/* --- a turn --- */

static void on_no_block(uv_idle_t *h)
{
    (void)h;
}

void loop_something_ready(void)
{
    if (loop.is_blocking_off)
        return;
    loop.is_blocking_off = true;
    uv_idle_start(&loop.no_block, on_no_block);
}

static void queue_task(struct list *queue, struct loop_task *t, void (*fn)(void *arg), void *arg)
{
    if (list_in(&t->node))
        return;
    t->fn = fn;
    t->arg = arg;
    list_push(queue, &t->node);
    loop_something_ready();
}

void loop_defer(struct loop_task *t, void (*fn)(void *arg), void *arg)
{
    queue_task(&loop.deferred, t, fn, arg);
}

void loop_at_turn_end(struct loop_task *t, void (*fn)(void *arg), void *arg)
{
    queue_task(&loop.at_end, t, fn, arg);
}

static void run_tasks(struct list *queue)
{
    struct list now; /* what is queued meanwhile waits for the next round */
    list_init(&now);
    struct list_node *n;
    while ((n = list_pop(queue)))
        list_push(&now, n);
    while ((n = list_pop(&now))) {
        struct loop_task *t = LIST_ITEM(n, struct loop_task, node);
        t->fn(t->arg);
    }
}

static void on_due(uv_timer_t *h)
{
    (void)h; /* it only ends the poll: on_turn looks at the clock */
    loop.due_at = FIBER_NO_DEADLINE;
}

void loop_due_changed(int64_t due)
{
    if (due >= loop.due_at)
        return;
    loop.due_at = due;
    int64_t delay = due - clock_mono_ms();
    uv_update_time(&loop.uv); /* libuv counts from its cached time, which is as old as this turn */
    (void)uv_timer_start(&loop.due, on_due, (uint64_t)MAX(delay, 0), 0);
}

static void set_due_timer(int64_t now)
{
    int64_t due = MIN(deadline_next(), timer_next(now));
    if (due == loop.due_at)
        return;
    loop.due_at = FIBER_NO_DEADLINE;
    if (due == FIBER_NO_DEADLINE)
        (void)uv_timer_stop(&loop.due);
    else
        loop_due_changed(due);
}

/*
 * What is due so late was not looked at in its time: the process stood still, or one turn took long. What peers said
 * meanwhile waits in the sockets, and is looked at once before deadlines are taken as missed.
 */
static bool must_look_first(int64_t now)
{
    bool is_late = MIN(deadline_next(), timer_next(now)) <= now - LATE_MS;
    loop.has_looked = is_late && !loop.has_looked;
    if (loop.has_looked)
        loop_something_ready(); /* that the poll does not block */
    return loop.has_looked;
}

static void run_due(void)
{
    int64_t now = clock_mono_ms();
    if (must_look_first(now))
        return;
    if (deadline_next() <= now)
        deadline_run(now);
    if (timer_next(now) <= now)
        timer_run(now);
}

/* From the end of one turn to the end of the next, which is how long whoever is ready waits for the others. Not the
 * time that passes: what other processes do is not ours. */
static void note_turn(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    int64_t cpu_us = (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
    metric_observe_us(M_LOOP_TURN_SECONDS, NULL, cpu_us - loop.cpu_us);
    loop.cpu_us = cpu_us;
}

static void on_turn(uv_prepare_t *h)
{
    (void)h;
    rt.turn_began_ns = uv_hrtime();
    run_tasks(&loop.deferred); /* what came in time stops its timer, however late we look */
    run_due();
    for (int round = 0; round < LOOP_ROUNDS_MAX && (round < LOOP_ROUNDS_MIN || !fiber_turn_is_over()); round++) {
        if (list_empty(&loop.deferred) && list_empty(&rt.ready))
            break;
        run_tasks(&loop.deferred);
        fiber_run_ready();
    }
    run_tasks(&loop.at_end); /* what the others wrote does not wait for the long loops */
    fiber_run_late();
    set_due_timer(clock_mono_ms());
    if (loop.is_blocking_off && !loop.has_looked && list_empty(&loop.deferred) && list_empty(&rt.ready) &&
        list_empty(&rt.late) && list_empty(&loop.at_end)) {
        loop.is_blocking_off = false;
        uv_idle_stop(&loop.no_block);
    }
    note_turn();
}

/* --- other threads --- */

void loop_hold(size_t n)
{
    if (loop.n_held == 0 && n > 0)
        uv_ref((uv_handle_t *)&loop.posted);
    loop.n_held += n;
}

void loop_release(size_t n)
{
    assert(loop.n_held >= n);
    loop.n_held -= n;
    if (loop.n_held == 0)
        uv_unref((uv_handle_t *)&loop.posted);
}

void loop_post(struct loop_post *p)
{
    struct loop_post *head = atomic_load(&loop.posts);
    do
        p->next = head;
    while (!atomic_compare_exchange_weak(&loop.posts, &head, p));
    if (!head)
        (void)uv_async_send(&loop.posted);
}

static void on_posted(uv_async_t *h)
{
    (void)h;
    struct loop_post *newest = atomic_exchange(&loop.posts, NULL), *oldest = NULL;
    while (newest) { /* in the order in which they came */
        struct loop_post *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest) {
        struct loop_post *p = oldest;
        oldest = p->next;
        p->fn(p);
    }
}

/* --- the runtime --- */

static void log_running(struct buf *line)
{
    if (!fiber_self())
        return;
    const struct fiber_context *c = fiber_context();
    char trace[17];
    if (c->trace_id) {
        (void)snprintf(trace, sizeof(trace), "%016llx", (unsigned long long)c->trace_id);
        log_add_kv(line, &KV_Z("trace", trace));
    }
    if (c->session_id)
        log_add_kv(line, &KV_I64("session", c->session_id));
    if (!str_empty(c->account))
        log_add_kv(line, &KV_STR("account", c->account));
}

static void set_thread_pool_size(void)
{
    /* Password hashing and SQLite readers: some more threads than cores, since they also wait for disks. */
    char n[16];
    (void)snprintf(n, sizeof(n), "%u", MIN(MAX(uv_available_parallelism() + 2, 4u), 32u));
    (void)setenv("UV_THREADPOOL_SIZE", n, 0);
}

bool fiber_runtime_init(const struct fiber_opts *opts, struct err *err)
{
    assert(!rt.is_open);
    rt.opts = opts ? *opts : (struct fiber_opts){0};
    if (!rt.opts.max_fibers)
        rt.opts.max_fibers = 8192;
    if (!rt.opts.pooled_stacks)
        rt.opts.pooled_stacks = 256;
    if (!rt.opts.slice_warn_ms)
        rt.opts.slice_warn_ms = 50;
#ifdef THURN_SANITIZED
    rt.opts.stack_bytes = MAX(rt.opts.stack_bytes, (size_t)1 << 20);
#else
    if (!rt.opts.stack_bytes)
        rt.opts.stack_bytes = (size_t)256 << 10;
#endif
    set_thread_pool_size();
    int r = uv_loop_init(&loop.uv);
    if (r != 0)
        return err_set(err, ERR_UNAVAILABLE, "no event loop: %s", uv_strerror(r));
    if ((r = uv_async_init(&loop.uv, &loop.posted, on_posted)) != 0) {
        (void)uv_loop_close(&loop.uv);
        return err_set(err, ERR_UNAVAILABLE, "no event loop: %s", uv_strerror(r));
    }
    uv_unref((uv_handle_t *)&loop.posted);
    (void)uv_prepare_init(&loop.uv, &loop.turn);
    (void)uv_prepare_start(&loop.turn, on_turn);
    uv_unref((uv_handle_t *)&loop.turn);
    (void)uv_idle_init(&loop.uv, &loop.no_block);
    (void)uv_timer_init(&loop.uv, &loop.due);
    loop.is_blocking_off = false;
    loop.due_at = FIBER_NO_DEADLINE;
    loop.n_held = 0;
    list_init(&loop.deferred);
    list_init(&loop.at_end);
    list_init(&rt.live);
    list_init(&rt.pooled);
    list_init(&rt.ready);
    list_init(&rt.late);
    rt.n_live = rt.n_pooled = 0;
    timer_init();
    (void)signal(SIGPIPE, SIG_IGN); /* libuv leaves this to us */
    crash_handler_install();
    log_set_context(log_running);
    rt.is_open = true;
    return true;
}

void fiber_runtime_run(void)
{
    assert(rt.is_open && !fiber_self());
    (void)uv_run(&loop.uv, UV_RUN_DEFAULT);
}

void fiber_runtime_stop(void)
{
    assert(rt.is_open);
    uv_stop(&loop.uv);
}

void fiber_runtime_done(void)
{
    assert(rt.is_open && !fiber_self());
    if (rt.n_live)
        panic("%u fibers are alive at the end, one is '%s'", rt.n_live,
              LIST_ITEM(list_first(&rt.live), struct fiber, all)->name);
    fiber_drop_pooled();
    timer_done();
    deadline_done();
    uv_close((uv_handle_t *)&loop.turn, NULL);
    uv_close((uv_handle_t *)&loop.no_block, NULL);
    uv_close((uv_handle_t *)&loop.due, NULL);
    uv_close((uv_handle_t *)&loop.posted, NULL);
    for (int i = 0; i < LOOP_ROUNDS_MAX && uv_loop_alive(&loop.uv); i++)
        (void)uv_run(&loop.uv, UV_RUN_NOWAIT); /* close callbacks, also of what others closed last */
    if (uv_loop_close(&loop.uv) != 0) {
        uv_print_all_handles(&loop.uv, stderr);
        panic("handles are open at the end of the loop");
    }
    log_set_context(NULL);
    rt.is_open = false;
}

struct main_call {
    fiber_fn fn;
    void *arg;
};

static void run_main(void *arg)
{
    const struct main_call *m = arg;
    m->fn(m->arg);
    fiber_runtime_stop();
}

static void on_grace_over(void *arg)
{
    (void)arg;
    fiber_runtime_stop();
}

bool fiber_main(fiber_fn fn, void *arg)
{
    struct err err = ERR_INIT;
    struct main_call m = {fn, arg};
    if (!fiber_runtime_init(NULL, &err) || !fiber_spawn("main", run_main, &m, FIBER_NO_DEADLINE, &err)) {
        log_error("fiber.start", KV_ERR(&err));
        return false;
    }
    fiber_runtime_run();
    LIST_EACH(&rt.live, n)
    fiber_cancel(LIST_ITEM(n, struct fiber, all));
    struct fiber_timer grace = {0};
    fiber_timer_start(&grace, DONE_GRACE_MS, on_grace_over, NULL);
    uv_unref((uv_handle_t *)&loop.due);
    fiber_runtime_run();
    uv_ref((uv_handle_t *)&loop.due);
    fiber_timer_stop(&grace);
    fiber_runtime_done();
    return true;
}
