#include "base_test.h"

#include "base/arena.h"

static void allocates_aligned_and_zeroed(void **state)
{
    (void)state;
    ARENA(a, 1 << 20);
    for (size_t n = 1; n < 3000; n += 7) {
        char *p = arena_zalloc(&a, 1, n);
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xaa, n);
    }
    assert_true(arena_ok(&a));
}

static void copies_strings(void **state)
{
    (void)state;
    ARENA(a, 4096);
    str s = arena_str(&a, S("abc"));
    assert_str(s, S("abc"));
    assert_int_equal(s.p[3], 0);
    assert_str(arena_printf(&a, "%s-%d", "x", 7), S("x-7"));
}

static void says_when_over_its_cap(void **state)
{
    (void)state;
    ARENA(a, 1000);
    memset(arena_alloc(&a, 2000), 1, 2000);
    assert_false(arena_ok(&a));
    arena_done(&a);
    assert_true(arena_ok(&a));
    assert_non_null(arena_alloc(&a, 1)); /* usable again */
}

static void large_blocks_keep_the_small_chunk(void **state)
{
    (void)state;
    ARENA(a, 1 << 24);
    char *first = arena_alloc(&a, 16);
    memset(arena_alloc(&a, 1 << 20), 1, 1 << 20);
    char *second = arena_alloc(&a, 16);
    assert_ptr_equal(second, first + 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocates_aligned_and_zeroed),
        cmocka_unit_test(copies_strings),
        cmocka_unit_test(says_when_over_its_cap),
        cmocka_unit_test(large_blocks_keep_the_small_chunk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
