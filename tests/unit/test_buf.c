#include "base_test.h"

#include "base/buf.h"
#include "base/clock.h"

static void grows_to_its_cap(void **state)
{
    (void)state;
    BUF(b, 10);
    buf_add(&b, S("hello"));
    buf_addc(&b, '!');
    assert_str(buf_str(&b), S("hello!"));
    assert_int_equal(buf_z(&b)[6], 0);
    buf_add(&b, S("12345")); /* one too many: dropped whole */
    assert_false(buf_ok(&b));
    assert_str(buf_str(&b), S("hello!"));
    buf_clear(&b);
    buf_add(&b, S("1234567890"));
    assert_true(buf_ok(&b));
    assert_int_equal(b.n, 10);
}

static void prints_and_consumes(void **state)
{
    (void)state;
    BUF(b, 1000);
    buf_printf(&b, "%d %s", 42, "x");
    buf_add_u64(&b, 18446744073709551615ull);
    assert_str(buf_str(&b), S("42 x18446744073709551615"));
    buf_consume(&b, 3);
    buf_truncate(&b, 1);
    assert_str(buf_str(&b), S("x"));
    char *to = buf_reserve(&b, 3);
    memcpy(to, "abc", 3);
    buf_commit(&b, 2);
    assert_str(buf_str(&b), S("xab"));
    assert_null(buf_reserve(&b, SIZE_MAX));
}

/* RFC 4648 section 10 */
static void codes_base64(void **state)
{
    (void)state;
    static const struct {
        str plain, coded;
    } cases[] = {
        {S_INIT(""), S_INIT("")},
        {S_INIT("f"), S_INIT("Zg==")},
        {S_INIT("fo"), S_INIT("Zm8=")},
        {S_INIT("foo"), S_INIT("Zm9v")},
        {S_INIT("foob"), S_INIT("Zm9vYg==")},
        {S_INIT("fooba"), S_INIT("Zm9vYmE=")},
        {S_INIT("foobar"), S_INIT("Zm9vYmFy")},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        BUF(b, 100);
        buf_add_base64(&b, cases[i].plain);
        assert_str(buf_str(&b), cases[i].coded);
        BUF(d, 100);
        assert_true(buf_add_unbase64(&d, cases[i].coded));
        assert_str(buf_str(&d), cases[i].plain);
    }
    static const char *const bad[] = {"Zg=", "Zg", "Z===", "Zg==Zg==", "Z g=", "Zm9v=", "=m9v", "Zm=v"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        BUF(d, 100);
        assert_false(buf_add_unbase64(&d, str_c(bad[i])));
        assert_int_equal(d.n, 0);
    }
    random_seed(7);
    for (size_t n = 0; n < 200; n++) {
        char data[200];
        random_bytes(data, n);
        BUF(b, 1000);
        buf_add_base64(&b, str_n(data, n));
        BUF(d, 1000);
        assert_true(buf_add_unbase64(&d, buf_str(&b)));
        assert_str(buf_str(&d), str_n(data, n));
    }
    random_seed(0);
}

static void codes_hex_and_json(void **state)
{
    (void)state;
    BUF(b, 1000);
    buf_add_hex(&b, S("\x00\xff\x1a"));
    assert_str(buf_str(&b), S("00ff1a"));
    BUF(d, 100);
    assert_true(buf_add_unhex(&d, buf_str(&b)));
    assert_str(buf_str(&d), S("\x00\xff\x1a"));
    assert_false(buf_add_unhex(&d, S("0")));
    assert_false(buf_add_unhex(&d, S("zz")));
    buf_clear(&b);
    buf_add_json(&b, S("a\"b\\\n\xc3\xa9\xff"));
    assert_str(buf_str(&b), S("\"a\\\"b\\\\\\u000a\xc3\xa9\xef\xbf\xbd\""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grows_to_its_cap),
        cmocka_unit_test(prints_and_consumes),
        cmocka_unit_test(codes_base64),
        cmocka_unit_test(codes_hex_and_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
