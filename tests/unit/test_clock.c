#include "base_test.h"

#include "base/clock.h"

static void freezes(void **state)
{
    (void)state;
    int64_t real = clock_unix_ms();
    clock_freeze(1000, 50);
    assert_int_equal(clock_unix(), 1);
    clock_advance_ms(2000);
    assert_int_equal(clock_unix_ms(), 3000);
    assert_int_equal(clock_mono_us(), 2050000);
    clock_real();
    assert_true(clock_unix_ms() >= real);
    clock_jump_s(100);
    assert_true(clock_unix_ms() >= real + 100000);
    clock_real();
    assert_true(clock_unix_ms() < real + 100000);
}

static void draws_evenly(void **state)
{
    (void)state;
    assert_true(random_u64() != random_u64());
    random_seed(42);
    uint64_t a = random_u64();
    random_seed(42);
    assert_true(a == random_u64());
    unsigned hits[10] = {0};
    for (int i = 0; i < 10000; i++)
        hits[random_below(10)]++;
    for (int i = 0; i < 10; i++)
        assert_in_range(hits[i], 800, 1200);
    random_seed(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(freezes), cmocka_unit_test(draws_evenly)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
