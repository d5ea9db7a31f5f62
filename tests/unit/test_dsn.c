#include "base_test.h"

#include "mail/dsn.h"

static void test_xtext(void **state)
{
    (void)state;
    BUF(b, 4096);
    dsn_add_xtext(&b, S("a+b=c d@x\x01\xc3\xa9"));
    assert_str(buf_str(&b), S("a+2Bb+3Dc+20d@x+01+C3+A9"));
    BUF(back, 4096);
    assert_true(dsn_add_unxtext(&back, buf_str(&b)));
    assert_str(buf_str(&back), S("a+b=c d@x\x01\xc3\xa9"));
    static const char *const bad[] = {"a+", "a+4", "a+zz", "a b", "a=b", "\xc3\xa9"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        buf_clear(&back);
        buf_add(&back, S("kept"));
        assert_false(dsn_add_unxtext(&back, str_c(bad[i])));
        assert_str(buf_str(&back), S("kept"));
    }
}

static void check(void (*fn)(struct buf *, str, bool), const char *in, bool is_utf8, const char *want)
{
    BUF(b, 4096);
    fn(&b, str_c(in), is_utf8);
    assert_str(buf_str(&b), str_c(want));
}

static void test_addresses(void **state)
{
    (void)state;
    BUF(b, 4096);
    dsn_add_orcpt(&b, S("a+b@x.org"));
    assert_str(buf_str(&b), S("rfc822;a+2Bb@x.org"));
    buf_clear(&b);
    dsn_add_orcpt(&b, S("\xc3\xa9+\\@x.org"));
    assert_str(buf_str(&b), S("utf-8;\\x{E9}\\x{2B}\\x{5C}@x.org"));

    check(dsn_add_recipient, "bob@x.org", false, "rfc822; bob@x.org");
    check(dsn_add_recipient, "\xf0\x9f\x98\x80@x.org", false, "utf-8; \\x{1F600}@x.org");
    check(dsn_add_recipient, "\xc3\xa9@x.org", true, "utf-8; \xc3\xa9@x.org");
    check(dsn_add_recipient, "\xff@x.org", false, "utf-8; +FF@x.org");

    check(dsn_add_original, "rfc822;a+2Bb@x.org", false, "rfc822; a+b@x.org");
    check(dsn_add_original, "bob@x.org", false, "rfc822; bob@x.org");
    check(dsn_add_original, "x400;a+zb", false, "x400; a+zb");
    check(dsn_add_original, "utf-8;\\x{E9}@x.org", false, "utf-8; \\x{E9}@x.org");
    check(dsn_add_original, "utf-8;\xc3\xa9@x.org", false, "utf-8; \\x{E9}@x.org");
    check(dsn_add_original, "utf-8;\xc3\xa9@x.org", true, "utf-8; \xc3\xa9@x.org");
    check(dsn_add_original, "\"a;b\"@x.org", false, "rfc822; \"a;b\"@x.org");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_xtext), cmocka_unit_test(test_addresses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
