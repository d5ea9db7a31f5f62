/* Authentication-Results (RFC 8601), MTA-STS (RFC 8461) and TLS-RPT (RFC 8460) texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "mailauth/authres.h"
#include "mailauth/policy.h"

/* What comes from the wire cannot be read as a result of ours. */
static void test_results_are_ours(void **state)
{
    (void)state;
    static const struct {
        str value;
        const char *want;
    } cases[] = {
        {S_INIT("a@example.org"), "a@example.org"},
        {S_INIT("example.org"), "example.org"},
        {S_INIT("x; dmarc=pass header.from=bank.example"), "\"x; dmarc=pass header.from=bank.example\""},
        {S_INIT("\"x; dmarc=pass\"@evil.example"), "\"\\\"x; dmarc=pass\\\"@evil.example\""},
        {S_INIT("a\r\nSubject: b"), "\"aSubject: b\""},
        {S_INIT("a\0b"), "\"ab\""},
        {S_INIT("a(b"), "\"a(b\""},
        {S_INIT("a@b@c"), "\"a@b@c\""},
        {S_INIT("\xc3\xbc@example.org"), "\xc3\xbc@example.org"},
        {S_INIT("\xff@x"), "\"?@x\""},
        {S_INIT("a\\"), "\"a\\\\\""},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        BUF(b, 4096);
        struct authres r;
        char want[512];
        authres_begin(&r, &b, S("mx.example"));
        authres_method(&r, "spf", "pass", STR_NONE);
        authres_property(&r, "smtp.mailfrom", cases[i].value);
        authres_end(&r);
        snprintf(want, sizeof want, "mx.example;\r\n\tspf=pass\r\n\t smtp.mailfrom=%s", cases[i].want);
        assert_string_equal(buf_z(&b), want);
    }
    BUF(b, 4096);
    struct authres r;
    authres_begin(&r, &b, S("mx.example"));
    authres_end(&r);
    assert_string_equal(buf_z(&b), "mx.example; none");
    buf_clear(&b);
    authres_begin(&r, &b, S("mx.example"));
    authres_method(&r, "dkim", "fail", S("a \"b\"\r\n; c=pass"));
    authres_end(&r);
    assert_string_equal(buf_z(&b), "mx.example;\r\n\tdkim=fail reason=\"a \\\"b\\\"; c=pass\"");
}

static void test_foreign_fields(void **state)
{
    (void)state;
    static const struct {
        const char *value;
        bool is_ours;
    } cases[] = {
        {" mx.example; spf=pass", true},
        {" MX.Example 1; spf=pass", true},
        {"mx.example/1;x", true},
        {"\r\n\t(a (nested \\) one)) mx.example; none", true},
        {"\"mx.example\"; spf=pass", true},
        {"\"m\\x.example\"; spf=pass", true},
        {"mx.example.; spf=pass", true},
        {"", true},
        {"(open", true},
        {"\"open", true},
        {" other.example; spf=pass", false},
        {" mx.example.net; x", false},
        {"(mx.example) other; x", false},
        {" ;mx.example", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        if (authres_is_ours(str_c(cases[i].value), S("mx.example")) != cases[i].is_ours)
            fail_msg("%s", cases[i].value);
}

static void test_mta_sts(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int mode; /* -1: none */
        const char *yes, *no;
    } cases[] = {
        {"version: STSv1\nmode: enforce\nmx: mx.example\nmax_age: 86400\n", MTA_STS_ENFORCE, "MX.example.",
         "a.mx.example"},
        {"version: STSv1\r\nmode: testing\r\nmx: *.example\r\nmax_age: 86400\r\n", MTA_STS_TESTING, "a.example",
         "a.b.example"},
        {"version: STSv1\nmode: none\nmax_age: 1", MTA_STS_NONE, NULL, "a.example"},
        {"version: STSv1\nmode: enforce\nnmx: mx.example\nmax_age: 86400\n", -1, NULL, NULL},
        {"version: STSv1\nmode: enforce\nmx: 192.0.2.1\nmax_age: 86400\n", -1, NULL, NULL},
        {"version: STSv1\nmode: enforce\nmx: 192.0.2.1\nmx: mx.example\nmax_age: 86400\n", MTA_STS_ENFORCE,
         "mx.example", "192.0.2.1"},
        {"version: STSv2\nmode: enforce\nmx: mx.example\nmax_age: 86400\n", -1, NULL, NULL},
        {"mode: enforce\nmx: mx.example\nmax_age: 86400\n", -1, NULL, NULL},
        {"version: STSv1\nmode: must\nmx: a.example\nmax_age: 1\n", -1, NULL, NULL},
        {"version: STSv1\nmode: enforce\nmx: mx.example\n", -1, NULL, NULL},
        {"version: STSv1\nmode: enforce\nmx: mx.example\nmax_age: soon\n", -1, NULL, NULL},
        {"version: STSv1\nmode: enforce\nmode: none\nmx: mx.example\nmax_age: 1\n\n\n", MTA_STS_ENFORCE, "mx.example",
         "example"},
        {"<html>not found</html>", -1, NULL, NULL},
        {"", -1, NULL, NULL},
        {"version: STSv1\nmode: enforce\nmx: *.*.example\nmax_age: 1", -1, NULL, NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        ARENA(a, 1 << 20);
        struct mta_sts_policy p;
        const char *problem;
        bool ok = mta_sts_parse(str_c(cases[i].text), &a, &p, &problem);
        if (ok != (cases[i].mode >= 0) || ok != !problem || (ok && (int)p.mode != cases[i].mode))
            fail_msg("%s: %s", cases[i].text, problem);
        if (!ok)
            continue;
        assert_true(!cases[i].yes || mta_sts_allows(&p, str_c(cases[i].yes)));
        assert_false(mta_sts_allows(&p, str_c(cases[i].no)));
    }
    const str good[] = {S("other"), S("v=STSv1; id=20160831085700Z;")},
              two[] = {S("v=STSv1; id=1"), S("v=STSv1; id=2")}, bad[] = {S("v=STSv1; id=a b")},
              other[] = {S("v=STSv10; id=1")};
    str id;
    assert_true(mta_sts_id(good, 2, &id) && str_eq(id, S("20160831085700Z")));
    assert_false(mta_sts_id(two, 2, &id) || mta_sts_id(bad, 1, &id) || mta_sts_id(other, 1, &id) ||
                 mta_sts_id(good, 1, &id));
    const str rpt[] = {S("v=TLSRPTv1; rua=mailto:a@example.org,https://example.org/x")};
    assert_true(tls_rpt_addresses(rpt, 1, &id) && str_eq(id, S("mailto:a@example.org,https://example.org/x")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_results_are_ours), cmocka_unit_test(test_foreign_fields),
                                       cmocka_unit_test(test_mta_sts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
