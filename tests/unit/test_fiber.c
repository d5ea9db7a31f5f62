#include "test.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "fiber/fiber.h"
#include "fiber/loop.h"

static void count_one(void *arg)
{
    ++*(int *)arg;
}

static void spawn_main(void *arg)
{
    int *n = arg;
    struct err err = ERR_INIT;
    for (int i = 0; i < 100; i++)
        assert_true(fiber_spawn("child", count_one, n, FIBER_NO_DEADLINE, &err));
    assert_int_equal(*n, 0); /* they first run on the next turn */
    while (fiber_count() > 1)
        assert_true(fiber_yield(&err));
    assert_int_equal(*n, 100);
    assert_string_equal(fiber_name(fiber_self()), "main");
}

static void test_spawn(void **state)
{
    (void)state;
    int n = 0;
    assert_true(fiber_main(spawn_main, &n));
    assert_int_equal(n, 100);
    assert_null(fiber_self());
}

static void pool_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    int n = 0;
    for (int i = 0; i < 2000; i++) { /* more than rest in the pool, and each stack many times */
        assert_true(fiber_spawn("child", count_one, &n, FIBER_NO_DEADLINE, &err));
        if (i % 400 == 399)
            assert_true(fiber_yield(&err));
    }
    while (fiber_count() > 1)
        assert_true(fiber_yield(&err));
    assert_int_equal(n, 2000);
}

static void test_pool_reuse(void **state)
{
    (void)state;
    assert_true(fiber_main(pool_main, NULL));
    assert_true(fiber_main(pool_main, NULL)); /* the runtime can be had again */
}

static void sleep_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    int64_t began = clock_mono_ms();
    assert_true(fiber_sleep_ms(20, &err));
    int64_t took = clock_mono_ms() - began;
    assert_true(took >= 20 && took < 2000);
    assert_true(fiber_sleep_ms(0, &err));

    began = clock_mono_ms();
    {
        FIBER_DEADLINE(15);
        FIBER_DEADLINE(60000); /* cannot lengthen */
        assert_false(fiber_sleep_ms(60000, &err));
        assert_int_equal(err.kind, ERR_TIMEOUT);
        err_clear(&err);
        assert_false(fiber_wait(&err)); /* overdue stays overdue */
        assert_int_equal(err.kind, ERR_TIMEOUT);
        err_clear(&err);
        assert_false(fiber_yield(&err));
        err_clear(&err);
    }
    took = clock_mono_ms() - began;
    assert_true(took >= 15 && took < 2000);
    assert_true(fiber_deadline() == FIBER_NO_DEADLINE);
    assert_true(fiber_sleep_ms(1, &err));
}

static void test_sleep_and_deadline(void **state)
{
    (void)state;
    assert_true(fiber_main(sleep_main, NULL));
}

static void cancelled_child(void *arg)
{
    struct fiber **self = arg;
    *self = fiber_self();
    struct err err = ERR_INIT;
    assert_false(fiber_sleep_ms(60000, &err));
    assert_int_equal(err.kind, ERR_CANCELLED);
    err_clear(&err);
    assert_true(fiber_is_cancelled(fiber_self()));
    assert_false(fiber_wait(&err)); /* sticky */
    assert_int_equal(err.kind, ERR_CANCELLED);
    *self = NULL;
}

static void cancel_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    static struct fiber *child; /* the last one outlives this frame */
    assert_true(fiber_spawn("child", cancelled_child, &child, FIBER_NO_DEADLINE, &err));
    while (!child)
        assert_true(fiber_yield(&err));
    fiber_cancel(child);
    while (fiber_count() > 1)
        assert_true(fiber_yield(&err));
    assert_null(child);
    /* What is left when main returns is cancelled and unwinds. */
    assert_true(fiber_spawn("left", cancelled_child, &child, FIBER_NO_DEADLINE, &err));
}

static void test_cancel(void **state)
{
    (void)state;
    assert_true(fiber_main(cancel_main, NULL));
}

static void deaf_child(void *arg)
{
    struct fiber **self = arg;
    *self = fiber_self();
    fiber_wait_uninterrupted();
    *self = NULL;
}

static void deaf_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct fiber *child = NULL;
    assert_true(fiber_spawn("child", deaf_child, &child, clock_mono_ms() + 1, &err));
    assert_true(fiber_sleep_ms(5, &err));
    fiber_cancel(child);
    assert_true(fiber_sleep_ms(5, &err));
    assert_non_null(child); /* neither its deadline nor the cancellation ended the wait */
    fiber_wake(child);
    assert_true(fiber_yield(&err));
    assert_null(child);
}

static void test_uninterrupted(void **state)
{
    (void)state;
    assert_true(fiber_main(deaf_main, NULL));
}

static void sleeper(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    assert_false(fiber_sleep_ms(60000, &err));
}

static void test_cap(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    const struct fiber_opts opts = {.max_fibers = 3};
    assert_true(fiber_runtime_init(&opts, &err));
    metrics_reset();
    int64_t soon = clock_mono_ms() + 1;
    for (int i = 0; i < 3; i++)
        assert_true(fiber_spawn("sleeper", sleeper, NULL, soon, &err));
    assert_false(fiber_spawn("sleeper", sleeper, NULL, soon, &err));
    assert_int_equal(err.kind, ERR_BUSY);
    assert_int_equal(metric_get(M_FIBER_REFUSED, NULL), 1);
    assert_int_equal(metric_get(M_FIBERS, NULL), 3);
    err_clear(&err);
    for (unsigned i = 0; i < FIBER_RESERVE; i++) /* health checks go on, also they not without end */
        assert_true(fiber_spawn_vital("sleeper", sleeper, NULL, soon, &err));
    assert_false(fiber_spawn_vital("sleeper", sleeper, NULL, soon, &err));
    assert_int_equal(err.kind, ERR_BUSY);
    fiber_runtime_run();
    assert_int_equal(fiber_count(), 0);
    fiber_runtime_done();
}

static unsigned slow_lines;
static void slow_sink(enum log_level level, str line)
{
    (void)level;
    if (str_find_str(line, S("event=fiber.slow")) >= 0 && str_find_str(line, S("name=main")) >= 0 &&
        str_find_str(line, S("trace=00000000000000ff session=7 account=a@b")) >= 0)
        slow_lines++;
}

static void slow_main(void *arg)
{
    (void)arg;
    *fiber_context() = (struct fiber_context){.trace_id = 255, .session_id = 7, .account = S("a@b")};
    for (int64_t began = clock_mono_ms(); clock_mono_ms() - began < 60;)
        ;
}

static void test_watchdog_and_context(void **state)
{
    (void)state;
    log_set_sink(slow_sink);
    metrics_reset();
    assert_true(fiber_main(slow_main, NULL));
    log_set_sink(NULL);
    assert_int_equal(slow_lines, 1);
    assert_int_equal(metric_get(M_FIBER_SLOW_SLICES, NULL), 1);
}

/* --- stack depth --- */

static __attribute__((noinline)) unsigned deep(unsigned depth, unsigned stop)
{
    volatile unsigned char frame[1024];
    frame[depth % sizeof(frame)] = (unsigned char)depth;
    if (depth == stop)
        return frame[depth % sizeof(frame)];
    return deep(depth + 1, stop) + frame[depth % sizeof(frame)];
}

static void deep_main(void *arg)
{
    *(unsigned *)arg = deep(0, 150);
    struct err err = ERR_INIT;
    assert_true(fiber_yield(&err));
    *(unsigned *)arg += deep(0, 150);
}

static void test_deep_stack(void **state)
{
    (void)state;
    unsigned sum = 0;
    for (int i = 0; i < 10; i++)
        assert_true(fiber_main(deep_main, &sum));
    assert_true(sum > 0);
}

static void overflow_main(void *arg)
{
    *(unsigned *)arg = deep(0, 1u << 20);
}

static void test_overflow_hits_guard(void **state)
{
    (void)state;
    int out[2];
    assert_int_equal(pipe(out), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)dup2(out[1], STDERR_FILENO);
        unsigned sum = 0;
        (void)fiber_main(overflow_main, &sum);
        _exit(0);
    }
    (void)close(out[1]);
    BUF(said, 1 << 20);
    char piece[4096];
    for (ssize_t n; (n = read(out[0], piece, sizeof(piece))) > 0;)
        buf_add_n(&said, piece, (size_t)n);
    (void)close(out[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
#ifdef THURN_SANITIZED /* cmocka has replaced the sanitizer's handler: nothing is said */
    assert_true(WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) != 0));
#else
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    assert_true(str_find_str(buf_str(&said), S("stack overflow in fiber 'main'")) >= 0);
#endif
}

/* --- timers, tasks --- */

struct timer_case {
    struct fiber_timer a, b, c;
    int n_a, n_b;
    struct fiber *waiter;
};
static void on_a(void *arg)
{
    struct timer_case *t = arg;
    assert_null(fiber_self());
    t->n_a++;
    fiber_timer_stop(&t->c); /* due in the same tick */
    if (t->n_a < 3)
        fiber_timer_start(&t->a, 1, on_a, t);
    else
        fiber_wake(t->waiter);
}
static void on_b(void *arg)
{
    ((struct timer_case *)arg)->n_b++;
}
static void timer_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct timer_case t = {.waiter = fiber_self()};
    fiber_timer_stop(&t.a);
    fiber_timer_start(&t.a, 1, on_a, &t);
    fiber_timer_start(&t.c, 1, on_b, &t);
    fiber_timer_start(&t.b, 3600 * 1000, on_b, &t);
    while (t.n_a < 3)
        assert_true(fiber_wait(&err));
    assert_int_equal(t.n_b, 0);

    /* With a clock that is moved by hand: an hour is due after an hour, not before. */
    int64_t now = clock_mono_ms();
    clock_freeze(0, now);
    fiber_timer_start(&t.b, 3600 * 1000, on_b, &t);
    t.n_a = 2;
    fiber_timer_start(&t.a, 3600 * 1000 - 200, on_a, &t);
    clock_advance_ms(3600 * 1000 - 1); /* all slots of the wheel are looked at, and that of b too */
    while (t.n_a < 3)
        assert_true(fiber_wait(&err));
    assert_int_equal(t.n_b, 0);
    clock_advance_ms(101);
    while (t.n_b == 0)
        assert_true(fiber_yield(&err));
    assert_int_equal(t.n_b, 1);
    clock_real();
}

static void test_timer(void **state)
{
    (void)state;
    assert_true(fiber_main(timer_main, NULL));
}

/* Fibers that give way to each other without end do not keep the loop from its timers. */
#define ROUNDS 300000
static void on_stop(void *arg)
{
    *(bool *)arg = true;
}
static void give_way(void *arg)
{
    struct err err = ERR_INIT;
    for (int i = 0; i < ROUNDS && !*(bool *)arg; i++)
        assert_true(fiber_yield(&err));
}
static void ring_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct fiber_timer timer = {0};
    bool is_over = false;
    FIBER_GROUP(g, 3);
    fiber_timer_start(&timer, 1, on_stop, &is_over);
    for (int i = 0; i < 3; i++)
        assert_true(fiber_group_spawn(&g, "ring", give_way, &is_over, &err));
    assert_true(fiber_group_wait(&g, &err));
    assert_true(is_over);
}
static void test_ring(void **state)
{
    (void)state;
    assert_true(fiber_main(ring_main, NULL));
}

/* A wait that outlasts an earlier one's deadline: what the heap of deadlines held for the first is carried over to the
 * second. */
static void wake_first(void *arg)
{
    fiber_wake(arg);
}
static void carried_child(void *arg)
{
    struct err err = ERR_INIT;
    struct fiber_timer timer = {0};
    fiber_timer_start(&timer, 1, wake_first, fiber_self());
    {
        FIBER_DEADLINE(1000);
        assert_true(fiber_wait(&err)); /* its entry, of 1000 ms, stays */
    }
    assert_true(fiber_sleep_ms(1500, &err));
    *(bool *)arg = true;
}
static void carried_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    bool is_done = false;
    FIBER_GROUP(g, 1);
    assert_true(fiber_group_spawn(&g, "carried", carried_child, &is_done, &err));
    FIBER_DEADLINE(20000);
    assert_true(fiber_group_wait(&g, &err));
    assert_true(is_done);
}
static void test_carried(void **state)
{
    (void)state;
    assert_true(fiber_main(carried_main, NULL));
}

struct task_case {
    struct loop_task early, late, dropped;
    int step, early_at, late_at, child_at;
};
static void on_early(void *arg)
{
    struct task_case *c = arg;
    assert_null(fiber_self());
    c->early_at = ++c->step;
}
static void on_late(void *arg)
{
    struct task_case *c = arg;
    c->late_at = ++c->step;
}
static void task_child(void *arg)
{
    struct task_case *c = arg;
    c->child_at = ++c->step;
}
static void task_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct task_case c = {0};
    loop_at_turn_end(&c.late, on_late, &c);
    loop_defer(&c.early, on_early, &c);
    loop_defer(&c.early, on_early, &c);
    loop_defer(&c.dropped, on_early, &c);
    loop_task_cancel(&c.dropped);
    assert_true(fiber_spawn("child", task_child, &c, FIBER_NO_DEADLINE, &err));
    while (!c.late_at)
        assert_true(fiber_sleep_ms(1, &err));
    assert_int_equal(c.early_at, 1);
    assert_int_equal(c.child_at, 2);
    assert_int_equal(c.late_at, 3);
}

static void test_tasks(void **state)
{
    (void)state;
    assert_true(fiber_main(task_main, NULL));
}

/* Input that came in time stops its timer, although the loop is late. */
struct late_case {
    struct loop_post post;
    struct loop_task task;
    struct fiber_timer timer;
    bool has_stopped, has_fired;
};
static void on_late_input(void *arg)
{
    struct late_case *c = arg;
    fiber_timer_stop(&c->timer);
    c->has_stopped = true;
}
static void on_late_timer(void *arg)
{
    struct late_case *c = arg;
    c->has_fired = true;
}
static void on_late_poll(struct loop_post *p)
{
    struct late_case *c = CONTAINER_OF(p, struct late_case, post);
    loop_release(1);
    loop_defer(&c->task, on_late_input, c);
    clock_advance_ms(1000);
}
static void late_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct late_case c = {.post.fn = on_late_poll};
    clock_freeze(1000000, 1000);
    fiber_timer_start(&c.timer, 500, on_late_timer, &c);
    loop_hold(1);
    loop_post(&c.post);
    while (!c.has_stopped && !c.has_fired)
        assert_true(fiber_yield(&err));
    clock_real();
    assert_false(c.has_fired);
}

static void test_input_before_timer(void **state)
{
    (void)state;
    assert_true(fiber_main(late_main, NULL));
}

/* Long loops, and one who asks for I/O again and again: in each of its round trips runs one slice of one of them. */
#define LONG_LOOPS 8
#define ROUND_TRIPS 24u
struct due_case {
    struct loop_post post;
    struct fiber *asker;
    bool is_answered, is_over;
    unsigned began, running, slices, slices_of[LONG_LOOPS];
};

static void on_answer(struct loop_post *p)
{
    struct due_case *c = CONTAINER_OF(p, struct due_case, post);
    loop_release(1);
    c->is_answered = true;
    fiber_wake(c->asker);
}

static void work_100us(void)
{
    struct timespec began, now;
    (void)clock_gettime(CLOCK_MONOTONIC, &began);
    do
        (void)clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - began.tv_sec) * 1000000000 + now.tv_nsec - began.tv_nsec < 100000);
}

static void long_loop(void *arg)
{
    struct due_case *c = arg;
    struct err err = ERR_INIT;
    unsigned me = ++c->began;
    while (!c->is_over) {
        if (c->running != me) {
            c->running = me;
            c->slices++;
            c->slices_of[me - 1]++;
        }
        work_100us();
        assert_true(fiber_yield_if_due(&err));
    }
}

static void due_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct due_case c = {.asker = fiber_self(), .post.fn = on_answer};
    for (int i = 0; i < LONG_LOOPS; i++)
        assert_true(fiber_spawn("long", long_loop, &c, FIBER_NO_DEADLINE, &err));
    while (c.began < LONG_LOOPS)
        assert_true(fiber_yield(&err));
    for (unsigned i = 0; i < ROUND_TRIPS; i++) {
        unsigned before = c.slices;
        c.is_answered = false;
        loop_hold(1);
        loop_post(&c.post);
        while (!c.is_answered)
            assert_true(fiber_wait(&err));
        assert_int_equal(c.slices - before, 1);
    }
    for (int i = 0; i < LONG_LOOPS; i++)
        assert_true(c.slices_of[i] >= ROUND_TRIPS / LONG_LOOPS);
    c.is_over = true;
    while (fiber_count() > 1)
        assert_true(fiber_yield(&err));

    fiber_cancel(fiber_self());
    assert_true(fiber_yield_if_due(&err)); /* not due: nobody looks */
    for (int i = 0; i < 10 * FIBER_SLICE_MS; i++)
        work_100us();
    assert_false(fiber_yield_if_due(&err));
    assert_int_equal(err.kind, ERR_CANCELLED);
}

static void test_yield_if_due(void **state)
{
    (void)state;
    assert_true(fiber_main(due_main, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_overflow_hits_guard),
        cmocka_unit_test(test_spawn),
        cmocka_unit_test(test_pool_reuse),
        cmocka_unit_test(test_sleep_and_deadline),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_uninterrupted),
        cmocka_unit_test(test_cap),
        cmocka_unit_test(test_watchdog_and_context),
        cmocka_unit_test(test_deep_stack),
        cmocka_unit_test(test_timer),
        cmocka_unit_test(test_ring),
        cmocka_unit_test(test_carried),
        cmocka_unit_test(test_tasks),
        cmocka_unit_test(test_yield_if_due),
        cmocka_unit_test(test_input_before_timer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
