#include "base_test.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/map.h"

static int values[1000];

static void agrees_with_a_model(void **state)
{
    (void)state;
    random_seed(3);
    struct map m;
    map_init(&m);
    void *model[1000] = {0};
    size_t n = 0;
    for (int step = 0; step < 20000; step++) {
        size_t k = random_below(1000);
        char key[16];
        int len = snprintf(key, sizeof(key), "key%zu", k);
        str name = str_n(key, (size_t)len);
        if (random_below(3)) {
            void *v = &values[random_below(1000)];
            assert_ptr_equal(map_put(&m, name, v), model[k]);
            n += model[k] == NULL;
            model[k] = v;
        } else {
            assert_ptr_equal(map_remove(&m, name), model[k]);
            n -= model[k] != NULL;
            model[k] = NULL;
        }
        assert_ptr_equal(map_get(&m, name), model[k]);
        assert_int_equal(m.n, n);
    }
    struct map_iter it = {0};
    str key;
    void *v;
    size_t seen = 0;
    while (map_next(&m, &it, &key, &v))
        if (++seen % 2)
            map_remove(&m, key); /* the current entry may go */
    assert_int_equal(seen, n);
    assert_int_equal(m.n, n / 2);
    map_done(&m);
    random_seed(0);
}

static void takes_integers(void **state)
{
    (void)state;
    struct map64 m;
    map64_init(&m);
    for (uint64_t i = 0; i < 1000; i++)
        assert_null(map64_put(&m, i * 1000003, &values[i]));
    assert_null(map64_get(&m, 5));
    struct map_iter it = {0};
    uint64_t key;
    void *v;
    size_t seen = 0;
    for (; map64_next(&m, &it, &key, &v); seen++)
        assert_ptr_equal(v, &values[key / 1000003]);
    assert_int_equal(seen, 1000);
    assert_ptr_equal(map64_remove(&m, 0), &values[0]);
    map64_done(&m);
    assert_true(hash_stable(S("node-1")) != hash_stable(S("node-2")));
    assert_true(hash_stable(S("node-1")) == hash_stable(S("node-1")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(agrees_with_a_model), cmocka_unit_test(takes_integers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
