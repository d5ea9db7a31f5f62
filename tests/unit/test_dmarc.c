/* RFC 9989 (DMARC): records, authors, the tree walk, alignment, policies; with what went wrong in other programs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "auth_zone.h"
#include "base/buf.h"
#include "mailauth/dmarc.h"

static struct auth_zone zone;

static struct dmarc_verdict check(struct arena *a, const char *from, const char *spf, const char *dkim)
{
    str authors[DMARC_AUTHORS_MAX], domain = str_c(dkim);
    struct dmarc_input in = {.authors = authors, .spf_domain = str_c(spf), .dkim = &domain, .n_dkim = domain.n > 0};
    struct dmarc_verdict v;
    dmarc_authors(arena_printf(a, "From: %s\r\nSubject: x\r\n", from), a, authors, &in.n_authors);
    zone.n_asked = 0;
    dmarc_check(&zone.dns, &in, a, &v);
    return v;
}

static void expect(const char *from, const char *spf, const char *dkim, enum dmarc_result want, enum dmarc_policy apply)
{
    ARENA(a, 4 << 20);
    struct dmarc_verdict v = check(&a, from, spf, dkim);
    if (v.result != want || v.to_apply != apply)
        fail_msg("%s, spf %s, dkim %s: %s, %s (%s)", from, spf, dkim, dmarc_result_name(v.result),
                 dmarc_policy_name(v.to_apply), v.problem ? v.problem : "");
}

static void test_records(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int p, sp, np; /* p -1: none of DMARC's */
    } cases[] = {
        {"v=DMARC1; p=reject", 2, 2, 2},
        {"v=DMARC1;p=none", 0, 0, 0},
        {"v = DMARC1 ; p = Reject ; foo=1;;", 2, 2, 2},
        {"v=DMARC1; p=QUARANTINE; sp=none", 1, 0, 0},
        {"v=DMARC1; p=none; np=reject", 0, 0, 2},
        {"v=DMARC1; p=none; sp=quarantine; np=reject", 0, 1, 2},
        {"p=reject; v=DMARC1", -1, 0, 0},
        {"v=dmarc1; p=reject", -1, 0, 0},
        {"v=DMARC2; p=reject", -1, 0, 0},
        {"v=DMARC1", -1, 0, 0},
        {"v=DMARC1; p=rejected", -1, 0, 0},
        {"v=DMARC1; p=rejected; rua=mailto:a@example.org", 0, 0, 0},
        {"v=DMARC1; rua=mailto:a@example.org", 0, 0, 0},
        {"v=DMARC1; rua=https://example.org/x", -1, 0, 0},
        {"v=DMARC1; p=reject; sp=nothing; rua=mailto:a@example.org!10m", 0, 0, 0},
        {"v=DMARC1; p=reject; sp=nothing", -1, 0, 0},
        {"v=DMARC1; p:reject", -1, 0, 0},
        {"v=DMARC1; p=reject; pct=0", 2, 2, 2},
        {"v=DMARC1; p=reject; p=none", 2, 2, 2},
        {"", -1, 0, 0},
        {"v=spf1 -all", -1, 0, 0},
        {"  v=DMARC1; p=reject", 2, 2, 2},
        {"v=DMARC1; p=reject; t=y; psd=n; adkim=s; aspf=S; fo=1:d", 2, 2, 2},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct dmarc_record r;
        bool ok = dmarc_record_parse(str_c(cases[i].text), &r);
        if (ok != (cases[i].p >= 0) ||
            (ok && ((int)r.p != cases[i].p || (int)r.sp != cases[i].sp || (int)r.np != cases[i].np)))
            fail_msg("%s", cases[i].text);
    }
    ARENA(a, 1 << 20);
    str list = S(
            "https://example.org/, mailto:x%2By@example.org!5m ,MAILTO:b@[192.0.2.1],mailto:nobody,mailto:c@example.net?subject=x"),
        address;
    static const char *const want[] = {"x+y@example.org", "b@[192.0.2.1]", "c@example.net"};
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        assert_true(dmarc_uri_next(&list, &a, &address));
        assert_true(str_eq(address, str_c(want[i])));
    }
    assert_false(dmarc_uri_next(&list, &a, &address));
}

static void test_authors(void **state)
{
    (void)state;
    static const struct {
        const char *header, *want; /* joined by commas; empty: none that counts */
    } cases[] = {
        {"From: a@example.org\r\n", "example.org"},
        {"From: A <a@EXAMPLE.org>\r\n", "example.org"},
        {"From: \"Ann <ann@evil.example>\"@bank.example\r\n", "bank.example"},
        {"From: \"a@evil.example\" <x@bank.example>\r\n", "bank.example"},
        {"From: Bank <a@bank.example>, X <x@evil.example>\r\n", "bank.example,evil.example"},
        {"From: a@bank.example\r\nFrom: x@evil.example\r\n", "bank.example,evil.example"},
        {"From: a@example.org, b@example.org\r\n", "example.org"},
        {"From:\r\n", ""},
        {"To: a@example.org\r\n", ""},
        {"From: nobody\r\n", ""},
        {"From: a@example.org, nobody\r\n", ""},
        {"From: a@b\xc3\xbc"
         "cher.example\r\n",
         "xn--bcher-kva.example"},
        {"From: list: a@example.org;\r\n", "example.org"},
        {"From: a@[192.0.2.1]\r\n", "[192.0.2.1]"},
        {"From: a@a.example,b@b.example,c@c.example,d@d.example,e@e.example,f@f.example,g@g.example,h@h.example,i@i.example\r\n",
         ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        ARENA(a, 4 << 20);
        str authors[DMARC_AUTHORS_MAX];
        size_t n;
        BUF(b, 4096);
        dmarc_authors(str_c(cases[i].header), &a, authors, &n);
        for (size_t k = 0; k < n; k++)
            buf_printf(&b, "%s%.*s", k ? "," : "", STR_ARG(authors[k]));
        if (strcmp(buf_z(&b), cases[i].want) != 0)
            fail_msg("%s: %s", cases[i].header, buf_z(&b));
    }
}

static void test_alignment(void **state)
{
    (void)state;
    zone_init(&zone);
    zone_add(&zone, "_dmarc.example.org", "TXT", "v=DMARC1; p=reject");
    zone_add(&zone, "_dmarc.strict.example", "TXT", "v=DMARC1; p=quarantine; adkim=s; aspf=s");
    expect("a@example.org", "example.org", "", DMARC_PASS, DMARC_POLICY_NONE);
    expect("a@example.org", "", "example.org", DMARC_PASS, DMARC_POLICY_NONE);
    expect("a@example.org", "bounce.example.org", "", DMARC_PASS, DMARC_POLICY_NONE);
    expect("a@news.example.org", "", "mail.EXAMPLE.org", DMARC_PASS, DMARC_POLICY_NONE);
    expect("a@example.org", "", "", DMARC_FAIL, DMARC_POLICY_REJECT);
    expect("a@example.org", "evil.example", "evil.example", DMARC_FAIL, DMARC_POLICY_REJECT);
    expect("a@example.org", "", "notexample.org", DMARC_FAIL, DMARC_POLICY_REJECT); /* no suffix of bytes */
    expect("a@notexample.org", "", "example.org", DMARC_NONE, DMARC_POLICY_NONE);
    expect("a@strict.example", "", "strict.example", DMARC_PASS, DMARC_POLICY_NONE);
    expect("a@sub.strict.example", "", "strict.example", DMARC_FAIL, DMARC_POLICY_QUARANTINE);
    expect("a@strict.example", "sub.strict.example", "sub.strict.example", DMARC_FAIL, DMARC_POLICY_QUARANTINE);
    /* Customers of one suffix are no organization, with a record at the suffix and without. */
    zone_add(&zone, "_dmarc.a.co.example", "TXT", "v=DMARC1; p=reject");
    zone_add(&zone, "_dmarc.b.co.example", "TXT", "v=DMARC1; p=reject");
    expect("x@a.co.example", "", "b.co.example", DMARC_FAIL, DMARC_POLICY_REJECT);
    expect("x@a.co.example", "", "co.example", DMARC_FAIL, DMARC_POLICY_REJECT);
    zone_add(&zone, "_dmarc.co.example", "TXT", "v=DMARC1; p=none; psd=y");
    expect("x@a.co.example", "", "b.co.example", DMARC_FAIL, DMARC_POLICY_REJECT);
    expect("x@a.co.example", "", "mail.a.co.example", DMARC_PASS, DMARC_POLICY_NONE);
    /* Several authors: the worst counts. */
    zone_add(&zone, "_dmarc.bank.example", "TXT", "v=DMARC1; p=reject");
    expect("Bank <a@bank.example>, X <x@evil.example>", "", "evil.example", DMARC_FAIL, DMARC_POLICY_REJECT);
    expect("X <x@evil.example>, Bank <a@bank.example>", "", "evil.example", DMARC_FAIL, DMARC_POLICY_REJECT);
    expect("nobody", "", "evil.example", DMARC_PERMERROR, DMARC_POLICY_NONE);
}

static void test_tree_walk(void **state)
{
    (void)state;
    ARENA(a, 4 << 20);
    str organization;
    zone_init(&zone);
    /* The examples of 4.10.2. */
    zone_add(&zone, "_dmarc.mail.example.com", "TXT", "v=DMARC1; p=none");
    zone_add(&zone, "_dmarc.example.com", "TXT", "v=DMARC1; p=none");
    assert_true(dmarc_organization(&zone.dns, S("a.mail.example.com"), &a, &organization));
    assert_true(str_eq(organization, S("example.com")));
    zone_add(&zone, "_dmarc.mail.example.net", "TXT", "v=DMARC1; p=none; psd=n");
    zone_add(&zone, "_dmarc.example.net", "TXT", "v=DMARC1; p=none");
    assert_true(dmarc_organization(&zone.dns, S("a.mail.example.net"), &a, &organization));
    assert_true(str_eq(organization, S("mail.example.net")));
    zone_add(&zone, "_dmarc.org", "TXT", "v=DMARC1; p=none; psd=y");
    assert_true(dmarc_organization(&zone.dns, S("a.mail.example.org"), &a, &organization));
    assert_true(str_eq(organization, S("example.org")));
    assert_true(dmarc_organization(&zone.dns, S("a.b.nothing"), &a, &organization));
    assert_true(str_eq(organization, S("a.b.nothing")));
    /* At most eight questions, and those of 4.10's example. */
    zone_add(&zone, "_dmarc.g.h.i.j.mail.example.edu", "TXT", "v=DMARC1; p=reject; psd=n");
    zone.n_asked = 0;
    assert_true(dmarc_organization(&zone.dns, S("a.b.c.d.e.f.g.h.i.j.mail.example.edu"), &a, &organization));
    assert_true(str_eq(organization, S("g.h.i.j.mail.example.edu")));
    assert_int_equal(zone.n_asked, 2);
    zone.n_asked = 0;
    assert_true(dmarc_organization(&zone.dns, S("a.b.c.d.e.f.g.h.i.j.mail.example.nothing"), &a, &organization));
    assert_int_equal(zone.n_asked, 8);
    /* Two records are none. */
    zone_add(&zone, "_dmarc.two.example", "TXT", "v=DMARC1; p=reject");
    zone_add(&zone, "_dmarc.two.example", "TXT", "v=DMARC1; p=none");
    expect("a@two.example", "", "", DMARC_NONE, DMARC_POLICY_NONE);
    zone_add(&zone, "_dmarc.with.example", "TXT", "v=spf1 -all");
    zone_add(&zone, "_dmarc.with.example", "TXT", "v=DMARC1; p=reject");
    expect("a@with.example", "", "", DMARC_FAIL, DMARC_POLICY_REJECT);
}

static void test_policies(void **state)
{
    (void)state;
    zone_init(&zone);
    zone_add(&zone, "_dmarc.gov", "TXT", "v=DMARC1; p=reject; psd=y; np=reject; sp=quarantine");
    zone_add(&zone, "_dmarc.agency.gov", "TXT", "v=DMARC1; p=none");
    zone_add(&zone, "there.gov", "A", "192.0.2.1");
    zone_add(&zone, "a.agency.gov", "MX", "10 mx.agency.gov");
    expect("u@a.agency.gov", "", "", DMARC_FAIL, DMARC_POLICY_NONE);    /* the organization's, not the suffix's */
    expect("u@nx.gov", "", "", DMARC_FAIL, DMARC_POLICY_REJECT);        /* np */
    expect("u@there.gov", "", "", DMARC_FAIL, DMARC_POLICY_QUARANTINE); /* sp */
    zone_add(&zone, "_dmarc.test.example", "TXT", "v=DMARC1; p=reject; t=y; sp=quarantine; pct=0");
    zone_add(&zone, "sub.test.example", "A", "192.0.2.1");
    expect("u@test.example", "", "", DMARC_FAIL, DMARC_POLICY_QUARANTINE);
    expect("u@sub.test.example", "", "", DMARC_FAIL, DMARC_POLICY_NONE);
    zone_add(&zone, "_dmarc.mute.example", "TIMEOUT", "");
    expect("u@mute.example", "mute.example", "", DMARC_TEMPERROR, DMARC_POLICY_NONE);
    /* What is missing of SPF or DKIM may have been what would have passed. */
    ARENA(a, 1 << 20);
    str author = S("test.example");
    struct dmarc_input in = {.authors = &author, .n_authors = 1, .is_incomplete = true};
    struct dmarc_verdict v;
    dmarc_check(&zone.dns, &in, &a, &v);
    assert_int_equal(v.result, DMARC_TEMPERROR);
    in.spf_domain = S("test.example");
    dmarc_check(&zone.dns, &in, &a, &v);
    assert_int_equal(v.result, DMARC_PASS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_records), cmocka_unit_test(test_authors),
                                       cmocka_unit_test(test_alignment), cmocka_unit_test(test_tree_walk),
                                       cmocka_unit_test(test_policies)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
