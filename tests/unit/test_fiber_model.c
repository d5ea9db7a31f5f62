/* Ten thousand fibers, woken, cancelled and overdue at random, against a model of what each wait may say. */
#include "test.h"

#include "base/clock.h"
#include "fiber/fiber.h"

#define FIBERS 10000
#define LIVE_MAX 1000

struct actor {
    struct fiber *fiber; /* NULL before it began and after it ended */
    bool is_waiting, was_woken, was_cancelled;
    int n_ended;
};
static struct actor actors[FIBERS];
static int n_ended_total;

/* One wait: what comes back must be something that happened, and a wake is never lost to the other two. */
static bool one_wait(struct actor *a)
{
    struct err err = ERR_INIT;
    bool may_not_begin = a->was_cancelled || clock_mono_ms() >= fiber_deadline();
    a->was_woken = false;
    a->is_waiting = true;
    bool ok = fiber_wait(&err);
    a->is_waiting = false;
    if (ok) {
        assert_false(may_not_begin);
        assert_true(a->was_woken);
        return true;
    }
    assert_false(a->was_woken);
    if (err.kind == ERR_CANCELLED)
        assert_true(a->was_cancelled);
    else
        assert_true(err.kind == ERR_TIMEOUT && clock_mono_ms() >= fiber_deadline());
    return false;
}

static void act(void *arg)
{
    struct actor *a = arg;
    a->fiber = fiber_self();
    struct err err = ERR_INIT;
    for (unsigned steps = (unsigned)random_below(6); steps; steps--) {
        FIBER_DEADLINE((int64_t)random_below(40));
        switch (random_below(3)) {
        case 0:
            (void)one_wait(a);
            break;
        case 1:
            if (!fiber_sleep_ms((int64_t)random_below(20), &err))
                err_clear(&err);
            break;
        default:
            if (!fiber_yield(&err))
                err_clear(&err);
        }
    }
    while (one_wait(a)) /* at last: until cancelled or overdue */
        ;
    a->fiber = NULL;
    a->n_ended++;
    n_ended_total++;
}

static void poke(struct actor *a)
{
    if (!a->fiber)
        return;
    if (random_below(20) == 0) {
        a->was_cancelled = true;
        fiber_cancel(a->fiber);
    }
    if (random_below(2) == 0) {
        a->was_woken = a->was_woken || a->is_waiting;
        fiber_wake(a->fiber);
    }
}

static void model_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    int n_started = 0;
    while (n_ended_total < FIBERS) {
        while (n_started < FIBERS && fiber_count() <= LIVE_MAX && random_below(50)) {
            int64_t deadline = random_below(4) ? clock_mono_ms() + (int64_t)random_below(100) : FIBER_NO_DEADLINE;
            assert_true(fiber_spawn("actor", act, &actors[n_started++], deadline, &err));
        }
        int from = MAX(0, n_started - 3 * LIVE_MAX);
        for (int i = from; i < n_started; i++)
            poke(&actors[i]);
        if (n_started == FIBERS) /* those without a deadline must be got at last */
            for (int i = 0; i < from; i++)
                poke(&actors[i]);
        clock_advance_ms((int64_t)random_below(4));
        assert_true(fiber_yield(&err));
    }
    for (int i = 0; i < FIBERS; i++)
        assert_int_equal(actors[i].n_ended, 1);
    assert_int_equal(fiber_count(), 1);
}

static void test_model(void **state)
{
    (void)state;
    random_seed(20240501);
    clock_freeze(0, 1000);
    assert_true(fiber_main(model_main, NULL));
    clock_real();
    random_seed(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
