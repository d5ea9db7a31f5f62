#include "test.h"

#include <stdatomic.h>
#include <pthread.h>
#include <unistd.h>

#include "base/clock.h"
#include "fiber/batch.h"
#include "fiber/work.h"

/* A job that runs until the test lets it go. */
struct gate {
    pthread_mutex_t lock;
    pthread_cond_t opened;
    bool is_open;
    atomic_int n_inside;
};
static struct gate gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .opened = PTHREAD_COND_INITIALIZER};

static void pass_gate(void *arg)
{
    struct gate *g = arg;
    atomic_fetch_add(&g->n_inside, 1);
    (void)pthread_mutex_lock(&g->lock);
    while (!g->is_open)
        (void)pthread_cond_wait(&g->opened, &g->lock);
    (void)pthread_mutex_unlock(&g->lock);
    atomic_fetch_sub(&g->n_inside, 1);
}
static void set_gate(struct gate *g, bool is_open)
{
    (void)pthread_mutex_lock(&g->lock);
    g->is_open = is_open;
    (void)pthread_cond_broadcast(&g->opened);
    (void)pthread_mutex_unlock(&g->lock);
}

static void square(void *arg)
{
    assert_null(fiber_self());
    *(int *)arg *= *(int *)arg;
}
static void wait_at_gate(void *arg)
{
    struct err err = ERR_INIT;
    int *n_done = arg;
    assert_true(work_run(pass_gate, &gate, &err)); /* runs already when it is cancelled: its result counts */
    ++*n_done;
}
static void cancelled_in_queue(void *arg)
{
    struct err err = ERR_INIT;
    int *n_refused = arg;
    int v = 3;
    assert_false(work_run(square, &v, &err));
    assert_int_equal(err.kind, ERR_CANCELLED);
    assert_int_equal(v, 3);
    ++*n_refused;
}

static void work_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    int v = 7;
    assert_true(work_run(square, &v, &err));
    assert_int_equal(v, 49);

    enum { THREADS_MAX = 64 };
    set_gate(&gate, false);
    int n_done = 0, n_refused = 0;
    FIBER_GROUP(g, THREADS_MAX + 4);
    for (int i = 0; i < THREADS_MAX; i++) /* fill every thread of the pool */
        assert_true(fiber_group_spawn(&g, "gate", wait_at_gate, &n_done, &err));
    while (atomic_load(&gate.n_inside) == 0)
        assert_true(fiber_sleep_ms(1, &err));
    struct fiber_group late;
    fiber_group_init(&late, 1);
    assert_true(fiber_group_spawn(&late, "queued", cancelled_in_queue, &n_refused, &err));
    assert_true(fiber_yield(&err));
    assert_true(fiber_yield(&err));
    fiber_group_cancel(&late);
    assert_true(fiber_group_wait(&late, &err));
    assert_int_equal(n_refused, 1);
    assert_int_equal(n_done, 0);
    set_gate(&gate, true);
    assert_true(fiber_group_wait(&g, &err));
    assert_int_equal(n_done, THREADS_MAX);
}

/* --- lane --- */

struct add {
    struct work_item item;
    int value, sum;
    size_t batch;
};
struct lane_state {
    int sum;
    size_t n_batches, largest;
};
static void add_all(void *ctx, struct work_item **items, size_t n)
{
    struct lane_state *s = ctx;
    s->n_batches++;
    s->largest = MAX(s->largest, n);
    for (size_t i = 0; i < n; i++) {
        struct add *a = CONTAINER_OF(items[i], struct add, item);
        s->sum += a->value;
        a->sum = s->sum;
    }
    (void)usleep(500); /* the window in which the next batch collects */
}
static struct work_lane *lane;
static void add_some(void *arg)
{
    int *total = arg;
    struct err err = ERR_INIT;
    for (int i = 0; i < 20; i++) {
        struct add a = {.value = 1};
        assert_true(work_lane_run(lane, &a.item, &err));
        assert_true(a.sum > 0);
        ++*total;
    }
}
static int n_lane_full;
static void add_one(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct add a = {.value = 1};
    if (!work_lane_run(lane, &a.item, &err)) {
        assert_int_equal(err.kind, ERR_BUSY);
        n_lane_full++;
    }
}
static void lane_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct lane_state s = {0};
    lane = work_lane_new("a name longer than sixteen bytes", add_all, &s, 16, 4);
    FIBER_GROUP(g, 8);
    for (int i = 0; i < 8; i++)
        assert_true(fiber_group_spawn(&g, "add", add_one, NULL, &err));
    assert_true(fiber_group_wait(&g, &err));
    work_lane_free(lane);
    work_lane_free(NULL);
    assert_int_equal(n_lane_full, 4);
    assert_int_equal(s.sum, 4);
}
static void count_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct lane_state s = {0};
    int total = 0;
    lane = work_lane_new("test", add_all, &s, 16, 32);
    FIBER_GROUP(g, 32);
    for (int i = 0; i < 32; i++)
        assert_true(fiber_group_spawn(&g, "add", add_some, &total, &err));
    assert_true(fiber_group_wait(&g, &err));
    assert_int_equal(total, 640);
    work_lane_free(lane);
    assert_int_equal(s.sum, 640);
    assert_true(s.n_batches < 200);
}

/* --- batch --- */

struct entry {
    struct batch_item item;
    int value;
};
struct batch_state {
    size_t n_batches, largest;
    unsigned running, max_running;
    uint64_t busy[8];
    int last_of_key[8];
};
static void commit(void *ctx, struct batch_item **items, size_t n)
{
    struct batch_state *s = ctx;
    struct err err = ERR_INIT;
    s->n_batches++;
    s->largest = MAX(s->largest, n);
    s->running++;
    s->max_running = MAX(s->max_running, s->running);
    for (size_t i = 0; i < n; i++) {
        const struct entry *e = CONTAINER_OF(items[i], struct entry, item);
        if (items[i]->key) {
            assert_true(s->busy[items[i]->key] == 0 || s->busy[items[i]->key] == s->n_batches);
            s->busy[items[i]->key] = s->n_batches;
            assert_true(e->value > s->last_of_key[items[i]->key]); /* in order of submission */
            s->last_of_key[items[i]->key] = e->value;
        }
        if (e->value % 10 == 0)
            (void)err_set(&items[i]->err, ERR_CONFLICT, "tenth");
    }
    size_t keep[64];
    for (size_t i = 0; i < n; i++)
        keep[i] = (size_t)items[i]->key;
    assert_true(fiber_sleep_ms(1, &err));
    for (size_t i = 0; i < n; i++)
        s->busy[keep[i]] = 0;
    s->running--;
}
static struct batch *batch;
static int next_value, n_conflicts, n_limit, n_good;
static void submit(void *arg)
{
    struct err err = ERR_INIT;
    struct entry e = {.item.key = *(uint64_t *)arg, .value = ++next_value};
    if (batch_run(batch, &e.item, &err))
        n_good++;
    else if (err.kind == ERR_CONFLICT)
        n_conflicts++;
    else if (err.kind == ERR_BUSY)
        n_limit++;
    else
        fail();
}
static void batch_case(unsigned parallel, size_t max_queue)
{
    struct err err = ERR_INIT;
    struct batch_state s = {0};
    static uint64_t keys[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    next_value = n_conflicts = n_limit = n_good = 0;
    batch = batch_new("test", commit, &s, 16, max_queue, parallel);
    FIBER_GROUP(g, 400);
    for (int i = 0; i < 400; i++)
        assert_true(fiber_group_spawn(&g, "submit", submit, &keys[i % 8], &err));
    while (next_value < 400)
        assert_true(fiber_yield(&err));
    fiber_group_cancel(&g); /* what is submitted is waited for nevertheless */
    assert_true(fiber_group_wait(&g, &err));
    batch_free(batch);
    assert_int_equal(n_good + n_conflicts + n_limit, 400);
    assert_true(s.largest <= 16 && s.largest > 1);
    assert_true(s.max_running <= parallel && (parallel == 1 || s.max_running > 1));
    if (max_queue >= 400)
        assert_int_equal(n_conflicts, 40);
    else
        assert_true(n_limit > 0);
}
static void batch_main(void *arg)
{
    (void)arg;
    batch_case(1, 1000);
    batch_case(4, 1000);
    batch_case(2, 50);
    batch_free(NULL);
}

/* A batch that hangs holds up only its own keys. */
static bool other_is_done;
static void hang(void *ctx, struct batch_item **items, size_t n)
{
    struct err err = ERR_INIT;
    (void)ctx;
    if (n == 1 && items[0]->key == 2)
        other_is_done = true;
    for (int i = 0; i < 5000 && !other_is_done; i++)
        assert_true(fiber_sleep_ms(1, &err));
}
static void patience_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    static uint64_t keys[] = {1, 1, 2};
    n_good = 0;
    batch = batch_new("test", hang, NULL, 16, 100, 2);
    FIBER_GROUP(g, 3);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        assert_true(fiber_group_spawn(&g, "submit", submit, &keys[i], &err));
        assert_true(fiber_yield(&err));
    }
    assert_true(fiber_group_wait(&g, &err));
    batch_free(batch);
    assert_true(other_is_done);
    assert_int_equal(n_good, 3);
}

#define RUN(name)                                                                                                      \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        assert_true(fiber_main(name##_main, NULL));                                                                    \
    }
RUN(work)
RUN(lane)
RUN(count)
RUN(batch)
RUN(patience)

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_work), cmocka_unit_test(test_lane),
                                       cmocka_unit_test(test_count), cmocka_unit_test(test_batch),
                                       cmocka_unit_test(test_patience)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
