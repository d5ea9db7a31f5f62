#include "queue-service/wheel.h"

#include "unit/test.h"

#include "base/clock.h"

struct entry {
    struct wheel_node node;
    int64_t fired_s;
};
static struct wheel w;

static void on_fire(struct wheel_node *n)
{
    struct entry *e = CONTAINER_OF(n, struct entry, node);
    assert_int_equal(e->fired_s, 0);
    e->fired_s = w.now_s;
}

static void on_again(struct wheel_node *n);
static const wheel_fn fns[] = {on_fire, on_again};

/* Every entry fires once, in the very second that it is due, whatever the distance, the start and the steps. */
static void against_model(void **state)
{
    (void)state;
    enum { N = 3000 };
    static const int64_t starts[] = {0, 1, 255, 256, 65535, 1700000123};
    struct entry *v = xcalloc(N, sizeof(*v));
    random_seed(7);
    for (size_t k = 0; k < ARRAY_LEN(starts); k++) {
        int64_t end = starts[k] + 200000;
        wheel_init(&w, starts[k], fns);
        for (int i = 0; i < N; i++) {
            int64_t span = (int64_t)1 << random_below(18);
            v[i] = (struct entry){.node = {.kind = 0}};
            wheel_add(&w, &v[i].node, starts[k] + (int64_t)random_below((uint64_t)span) - 2);
        }
        for (int i = 0; i < N; i += 10)
            wheel_remove(&v[i].node);
        for (int i = 5; i < N; i += 10)
            wheel_add(&w, &v[i].node, starts[k] + 1000 + i);
        while (w.now_s < end)
            wheel_advance(&w, w.now_s + 1 + (int64_t)random_below(w.now_s % 5 ? 3 : 400));
        for (int i = 0; i < N; i++)
            assert_int_equal(v[i].fired_s, i % 10 == 0 ? 0 : MAX((int64_t)v[i].node.due_s, starts[k] + 1));
    }
    random_seed(0);
    free(v);
}

static struct entry again;
static int times;
static void on_again(struct wheel_node *n)
{
    if (++times < 3)
        wheel_add(&w, n, w.now_s + 300);
}

static void adds_itself(void **state)
{
    (void)state;
    wheel_init(&w, 1000, fns);
    again.node = (struct wheel_node){.kind = 1};
    wheel_add(&w, &again.node, 900); /* due already: in the next second */
    wheel_advance(&w, 1001);
    assert_int_equal(times, 1);
    wheel_advance(&w, 1300);
    assert_int_equal(times, 1);
    wheel_advance(&w, 5000);
    assert_int_equal(times, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(against_model), cmocka_unit_test(adds_itself)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
