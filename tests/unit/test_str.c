#include "base_test.h"

static void compares(void **state)
{
    (void)state;
    assert_true(str_eq(S(""), STR_NONE));
    assert_true(str_eq_nocase(S("INBOX"), S("inBox")));
    assert_false(str_eq_nocase(S("INBOX"), S("inbo")));
    assert_true(str_eq_secret(S("abc"), S("abc")));
    assert_false(str_eq_secret(S("abc"), S("abd")));
    assert_true(str_cmp(S("a"), S("aa")) < 0);
    assert_true(str_cmp(S("\xff"), S("a")) > 0); /* bytes are unsigned */
    assert_true(str_cmp_nocase(S("ABC"), S("abd")) < 0);
    assert_true(str_starts_nocase(S("Content-Type: x"), S("content-type")));
    assert_false(str_starts(S("ab"), S("abc")));
    assert_true(str_ends(S("a.b"), S(".b")));
    assert_true(str_ends_nocase(S("a.COM"), S(".com")));
    assert_true(str_ends(STR_NONE, S("")));
}

static void cuts(void **state)
{
    (void)state;
    assert_str(str_trim(S(" \t a b\r\n")), S("a b"));
    assert_str(str_trim(S(" \r\n")), S(""));
    assert_str(str_slice(S("hello"), 1, 3), S("el"));
    assert_str(str_slice(S("hello"), 9, SIZE_MAX), S(""));
    assert_int_equal(str_find(S("a:b:c"), ':'), 1);
    assert_int_equal(str_rfind(S("a:b:c"), ':'), 3);
    assert_int_equal(str_find(STR_NONE, ':'), -1);
    assert_int_equal(str_find_str(S("xxabc"), S("abc")), 2);
    assert_int_equal(str_find_nocase(S("xxAbC"), S("aBc")), 2);
    assert_int_equal(str_find_nocase(S("ab"), S("abc")), -1);
}

static void splits(void **state)
{
    (void)state;
    static const char *const want[] = {"a", "", "b", ""};
    str rest = S("a,,b,"), head;
    size_t n = 0;
    while (str_split(&rest, ',', &head))
        assert_str(head, str_c(want[n++]));
    assert_int_equal(n, 4);
}

static bool is_a(unsigned char c)
{
    return c == 'a';
}

static void walks_with_a_cursor(void **state)
{
    (void)state;
    struct cursor c = cur_of(S("aaab FOO"));
    assert_str(cur_take_while(&c, is_a, 2), S("aa"));
    assert_str(cur_take_while(&c, is_a, 9), S("a"));
    assert_false(cur_skip(&c, 'x'));
    assert_true(cur_skip(&c, 'b'));
    assert_int_equal(cur_peek(&c), ' ');
    assert_str(cur_take(&c, 1), S(" "));
    assert_null(cur_take(&c, 4).p);
    assert_int_equal(cur_left(&c), 3); /* a failed step takes nothing */
    assert_true(cur_skip_nocase(&c, S("foo")));
    assert_int_equal(cur_peek(&c), -1);
}

static void knows_utf8(void **state)
{
    (void)state;
    static const struct {
        const char *s;
        bool ok;
    } cases[] = {
        {"plain", true},
        {"\xc3\xa9", true},
        {"\xe2\x82\xac", true},
        {"\xf0\x9f\x93\xa7", true},
        {"\xc0\x80", false},
        {"\xc1\xbf", false},
        {"\xe0\x80\x80", false},
        {"\xed\xa0\x80", false},
        {"\xf4\x90\x80\x80", false},
        {"\xf5\x80\x80\x80", false},
        {"\x80", false},
        {"\xe2\x82", false},
        {"\xc3(", false},
        {"\xef\xbf\xbd", true},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_int_equal(utf8_valid(cases[i].s, strlen(cases[i].s)), cases[i].ok);
    assert_true(ascii_only("abc", 3));
    assert_false(ascii_only("ab\xc3", 3));
    for (size_t n = 1; n < 40; n++)
        for (size_t at = 0; at < n; at++) {
            char text[40];
            memset(text, 'a', sizeof(text));
            assert_true(ascii_only(text, n));
            text[at] = '\x80';
            assert_false(ascii_only(text, n));
            assert_true(ascii_only(text, at));
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compares),   cmocka_unit_test(cuts),
        cmocka_unit_test(splits),     cmocka_unit_test(walks_with_a_cursor),
        cmocka_unit_test(knows_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
