#include "base_test.h"

#include "base/num.h"

static void reads_decimals(void **state)
{
    (void)state;
    static const struct {
        const char *s;
        uint64_t max, want;
        bool ok;
    } cases[] = {
        {"0", 10, 0, true},
        {"10", 10, 10, true},
        {"11", 10, 0, false},
        {"", 10, 0, false},
        {"+1", 10, 0, false},
        {"-1", 10, 0, false},
        {" 1", 10, 0, false},
        {"1 ", 10, 0, false},
        {"0x1", 99, 0, false},
        {"007", 10, 7, true},
        {"18446744073709551615", UINT64_MAX, UINT64_MAX, true},
        {"18446744073709551616", UINT64_MAX, 0, false},
        {"99999999999999999999999", UINT64_MAX, 0, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint64_t v = 77;
        assert_int_equal(num_u64(str_c(cases[i].s), cases[i].max, &v), cases[i].ok);
        assert_true(v == (cases[i].ok ? cases[i].want : 77)); /* written only on success */
    }
    struct cursor c = cur_of(S("12:x"));
    uint32_t w;
    assert_true(cur_u32(&c, 100, &w) && w == 12 && cur_skip(&c, ':'));
    assert_false(cur_u32(&c, 100, &w));
    assert_int_equal(cur_left(&c), 1);
}

static void reads_signs(void **state)
{
    (void)state;
    int64_t v;
    assert_true(num_i64(S("-9223372036854775808"), INT64_MIN, INT64_MAX, &v) && v == INT64_MIN);
    assert_true(num_i64(S("9223372036854775807"), INT64_MIN, INT64_MAX, &v) && v == INT64_MAX);
    assert_false(num_i64(S("9223372036854775808"), INT64_MIN, INT64_MAX, &v));
    assert_false(num_i64(S("-5"), 0, 10, &v));
    assert_false(num_i64(S("--5"), -10, 10, &v));
}

static void reads_units(void **state)
{
    (void)state;
    uint64_t v;
    assert_true(num_size(S("4096"), UINT64_MAX, &v) && v == 4096);
    assert_true(num_size(S("64k"), UINT64_MAX, &v) && v == 65536);
    assert_true(num_size(S("10MiB"), UINT64_MAX, &v) && v == 10u << 20);
    assert_false(num_size(S("10X"), UINT64_MAX, &v));
    assert_false(num_size(S("99999999999T"), UINT64_MAX, &v));
    assert_false(num_size(S("2G"), 1 << 30, &v));
    assert_true(num_duration_ms(S("250ms"), UINT64_MAX, &v) && v == 250);
    assert_true(num_duration_ms(S("5d"), UINT64_MAX, &v) && v == 432000000);
    assert_false(num_duration_ms(S("5"), UINT64_MAX, &v)); /* the unit must be said */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_decimals),
        cmocka_unit_test(reads_signs),
        cmocka_unit_test(reads_units),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
