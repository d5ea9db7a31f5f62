/* The table of messages against a list, and how long one addition may take. */
#include "unit/test.h"

#include "base/clock.h"
#include "base/map.h"
#include "queue-service/message.h"

#define N 4000u

static struct message *make(uint64_t id, uint64_t enqueue_id)
{
    struct message *m = xcalloc(1, sizeof(*m));
    m->id = id;
    memcpy(m->enqueue_id, &enqueue_id, sizeof(enqueue_id));
    return m;
}

static str key_of(const struct message *m)
{
    return str_n(m->enqueue_id, ENQUEUE_ID_SIZE);
}

/* Added and removed in any order, each is found while it is in, by either id; enqueue ids may be had by two. */
static void against_a_list(void **state)
{
    (void)state;
    static struct index by_id, by_enqueue_id;
    static struct message *all[N];
    static bool is_in[N];
    index_init(&by_id, INDEX_BY_ID);
    index_init(&by_enqueue_id, INDEX_BY_ENQUEUE_ID);
    random_seed(11);
    for (unsigned i = 0; i < N; i++)
        all[i] = make(i + 1, i / 2);
    for (unsigned step = 0; step < 20 * N; step++) {
        unsigned i = (unsigned)random_below(N);
        if (is_in[i]) {
            index_remove(&by_id, all[i]);
            index_remove(&by_enqueue_id, all[i]);
        } else {
            index_add(&by_id, all[i]);
            index_add(&by_enqueue_id, all[i]);
        }
        is_in[i] = !is_in[i];
        i = (unsigned)random_below(N);
        assert_ptr_equal(index_by_id(&by_id, i + 1), is_in[i] ? all[i] : NULL);
        const struct message *m = index_by_enqueue_id(&by_enqueue_id, key_of(all[i]));
        unsigned pair = i / 2 * 2;
        assert_true(m ? (is_in[pair] && m == all[pair]) || (is_in[pair + 1] && m == all[pair + 1])
                      : !is_in[pair] && !is_in[pair + 1]);
    }
    for (unsigned i = 0; i < N; i++)
        assert_ptr_equal(index_by_id(&by_id, i + 1), is_in[i] ? all[i] : NULL);
    assert_int_equal(index_by_id(&by_id, N + 1) != NULL, 0);
    index_done(&by_id);
    index_done(&by_enqueue_id);
    for (unsigned i = 0; i < N; i++)
        free(all[i]);
    random_seed(0);
}

/* No addition moves more than a small part of those that are there: others wait meanwhile. */
static void grows_in_parts(void **state)
{
    (void)state;
    enum { MANY = 100000 };
    static struct index x;
    struct message *all = xcalloc(MANY, sizeof(*all));
    index_init(&x, INDEX_BY_ID);
    size_t most = 0;
    for (unsigned i = 0; i < MANY; i++) {
        size_t before = x.n_slots;
        all[i].id = i + 1;
        index_add(&x, &all[i]);
        most = MAX(most, x.n_slots - before);
    }
    assert_true(most <= MANY / 100);
    assert_true(index_bytes(&x) <= 3 * MANY * sizeof(void *));
    index_done(&x);
    free(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(against_a_list), cmocka_unit_test(grows_in_parts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
