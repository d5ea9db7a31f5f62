#include "test.h"

#include "base/clock.h"
#include "fiber/fiber.h"

struct shared {
    struct fiber_cond cond;
    struct fiber_mutex mutex;
    struct fiber_sem sem;
    int n, inside, max_inside, n_started;
    char order[16];
    size_t n_order;
};

static void wait_for_n(void *arg)
{
    struct shared *s = arg;
    struct err err = ERR_INIT;
    while (s->n == 0)
        assert_true(fiber_cond_wait(&s->cond, &err));
    s->n--;
}

static void cond_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct shared s = {0};
    fiber_cond_init(&s.cond);
    {
        FIBER_GROUP(g, 4);
        for (int i = 0; i < 4; i++)
            assert_true(fiber_group_spawn(&g, "waiter", wait_for_n, &s, &err));
        assert_false(fiber_group_spawn(&g, "waiter", wait_for_n, &s, &err));
        assert_int_equal(err.kind, ERR_BUSY);
        err_clear(&err);
        assert_true(fiber_yield(&err));
        s.n = 1;
        fiber_cond_signal(&s.cond);
        while (g.n == 4)
            assert_true(fiber_yield(&err));
        s.n = 3;
        fiber_cond_broadcast(&s.cond);
        assert_true(fiber_group_wait(&g, &err));
        assert_int_equal(g.n, 0);
    }
    assert_int_equal(s.n, 0);
    FIBER_DEADLINE(1);
    assert_false(fiber_cond_wait(&s.cond, &err));
    assert_int_equal(err.kind, ERR_TIMEOUT);
    assert_true(list_empty(&s.cond.waiters));
}

static void lock_once(struct shared *s, char me)
{
    struct err err = ERR_INIT;
    assert_true(fiber_mutex_lock(&s->mutex, &err));
    assert_int_equal(++s->inside, 1);
    do /* until all three have been at the lock, however slow the machine is */
        assert_true(fiber_sleep_ms(1, &err));
    while (s->n_started < 3);
    s->inside--;
    s->order[s->n_order++] = me;
    fiber_mutex_unlock(&s->mutex);
}
static void lock_a(void *arg)
{
    ((struct shared *)arg)->n_started++;
    lock_once(arg, 'a');
    lock_once(arg, 'A');
}
static void lock_b(void *arg)
{
    ((struct shared *)arg)->n_started++;
    lock_once(arg, 'b');
}
static void lock_late(void *arg)
{
    struct shared *s = arg;
    struct err err = ERR_INIT;
    s->n_started++;
    FIBER_DEADLINE(0);
    assert_false(fiber_mutex_lock(&s->mutex, &err));
    assert_int_equal(err.kind, ERR_TIMEOUT);
}

static void mutex_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct shared s = {0};
    fiber_mutex_init(&s.mutex);
    FIBER_GROUP(g, 8);
    assert_true(fiber_group_spawn(&g, "a", lock_a, &s, &err));
    assert_true(fiber_group_spawn(&g, "late", lock_late, &s, &err));
    assert_true(fiber_group_spawn(&g, "b", lock_b, &s, &err));
    assert_true(fiber_group_wait(&g, &err));
    assert_memory_equal(s.order, "abA", 3); /* b waited before a came back */
    assert_null(s.mutex.owner);
}

/* The lock that is handed over to a fiber that is being cancelled is held or passed on, never lost. */
static void lock_and_hold(void *arg)
{
    struct shared *s = arg;
    struct err err = ERR_INIT;
    if (!fiber_mutex_lock(&s->mutex, &err))
        return;
    s->n++;
    fiber_mutex_unlock(&s->mutex);
}
static void handover_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct shared s = {0};
    fiber_mutex_init(&s.mutex);
    FIBER_GROUP(g, 8);
    assert_true(fiber_mutex_lock(&s.mutex, &err));
    assert_true(fiber_group_spawn(&g, "x", lock_and_hold, &s, &err));
    assert_true(fiber_group_spawn(&g, "y", lock_and_hold, &s, &err));
    assert_true(fiber_yield(&err));
    fiber_mutex_unlock(&s.mutex);
    fiber_group_cancel(&g);
    assert_true(fiber_group_wait(&g, &err));
    assert_int_equal(s.n, 2); /* a hand-over wins over a cancellation that came before the fiber ran */
    assert_null(s.mutex.owner);
    /* The other way round: the signal comes when the cancelled fiber is on its way already. */
    assert_true(fiber_mutex_lock(&s.mutex, &err));
    assert_true(fiber_group_spawn(&g, "x", lock_and_hold, &s, &err));
    assert_true(fiber_yield(&err));
    fiber_group_cancel(&g);
    fiber_mutex_unlock(&s.mutex);
    assert_true(fiber_group_wait(&g, &err));
    assert_int_equal(s.n, 3);
    assert_null(s.mutex.owner);
}

/* A signal of the turn in which the deadline strikes: the loop looks at deadlines first. */
static void signal_late(void *arg)
{
    fiber_cond_signal(&((struct shared *)arg)->cond);
}
static void wait_to_be_signalled(void *arg)
{
    struct shared *s = arg;
    struct err err = ERR_INIT;
    s->n_started++;
    s->n += fiber_cond_wait(&s->cond, &err);
}
static void deadline_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct shared s = {0};
    struct fiber_timer timer = {0};
    fiber_cond_init(&s.cond);
    FIBER_GROUP(g, 1);
    clock_freeze(0, clock_mono_ms());
    {
        FIBER_DEADLINE(50);
        assert_true(fiber_group_spawn(&g, "waiter", wait_to_be_signalled, &s, &err));
    }
    fiber_timer_start(&timer, 100, signal_late, &s);
    while (s.n_started == 0)
        assert_true(fiber_yield(&err));
    clock_advance_ms(500);
    assert_true(fiber_group_wait(&g, &err));
    clock_real();
    assert_int_equal(s.n, 1);
}

static void enter(void *arg)
{
    struct shared *s = arg;
    struct err err = ERR_INIT;
    assert_true(fiber_sem_acquire(&s->sem, &err));
    s->inside++;
    s->max_inside = MAX(s->max_inside, s->inside);
    assert_true(fiber_sleep_ms(1, &err));
    s->inside--;
    fiber_sem_release(&s->sem);
}
static void sem_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct shared s = {0};
    fiber_sem_init(&s.sem, 3);
    FIBER_GROUP(g, 16);
    for (int i = 0; i < 10; i++)
        assert_true(fiber_group_spawn(&g, "enter", enter, &s, &err));
    assert_true(fiber_group_wait(&g, &err));
    assert_int_equal(s.max_inside, 3);
    assert_int_equal(s.sem.free, 3);
}

static void endless(void *arg)
{
    struct err err = ERR_INIT;
    assert_int_equal(fiber_context()->session_id, 9);
    assert_true(fiber_deadline() != FIBER_NO_DEADLINE);
    while (fiber_sleep_ms(1, &err))
        ;
    ++*(int *)arg;
}
static void group_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    int n = 0;
    fiber_context()->session_id = 9;
    {
        FIBER_DEADLINE(60000);
        FIBER_GROUP(g, 16);
        for (int i = 0; i < 5; i++)
            assert_true(fiber_group_spawn(&g, "endless", endless, &n, &err));
        {
            FIBER_DEADLINE(5);
            assert_false(fiber_group_wait(&g, &err));
            assert_int_equal(err.kind, ERR_TIMEOUT);
        }
        assert_int_equal(n, 0);
    } /* leaving the scope cancels and joins */
    assert_int_equal(n, 5);
}

#define RUN(name)                                                                                                      \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        assert_true(fiber_main(name##_main, NULL));                                                                    \
    }
RUN(cond)
RUN(mutex)
RUN(handover)
RUN(deadline)
RUN(sem)
RUN(group)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cond),     cmocka_unit_test(test_mutex), cmocka_unit_test(test_handover),
        cmocka_unit_test(test_deadline), cmocka_unit_test(test_sem),   cmocka_unit_test(test_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
