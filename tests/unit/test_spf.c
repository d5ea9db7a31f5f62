/* RFC 7208. The official suites are run where THURN_SHARED_DATA (or ../shared/data) has them; what stands here is our
 * own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <yaml.h>

#include "auth_zone.h"
#include "base/buf.h"
#include "mailauth/spf.h"

static struct auth_zone zone;

static struct spf_verdict check(struct arena *a, const char *ip, const char *helo, const char *sender)
{
    struct spf_query q = {
        .helo = str_c(helo), .sender = str_c(sender), .receiver = S("mx.example.net"), .now_unix = 1000000000};
    struct spf_verdict v;
    assert_true(auth_ip_parse(str_c(ip), &q.client));
    zone.n_asked = 0;
    spf_check(&zone.dns, &q, a, &v);
    return v;
}

static void expect(const char *ip, const char *sender, const char *want)
{
    ARENA(a, 1 << 20);
    struct spf_verdict v = check(&a, ip, "mail.example.net", sender);
    if (strcmp(spf_result_name(v.result), want) != 0)
        fail_msg("%s from %s: %s (%.*s), not %s", sender, ip, spf_result_name(v.result), STR_ARG(v.problem), want);
    assert_true(arena_ok(&a));
    assert_true((v.result >= SPF_TEMPERROR) == (v.problem.n > 0) || v.result == SPF_NONE);
}

/* Mistakes that other programs made. */
static void test_others_mistakes(void **state)
{
    (void)state;
    zone_init(&zone);
    /* From IPv6, hosts of an mx with A records only are no void look-ups: those are counted by term (4.6.4). */
    zone_add(&zone, "v6.example", "TXT", "v=spf1 mx ip6:2001:db8::/32 -all");
    for (int i = 0; i < 3; i++) {
        static char hosts[3][32], values[3][32];
        snprintf(hosts[i], sizeof hosts[i], "mx%d.v6.example", i);
        snprintf(values[i], sizeof values[i], "10 mx%d.v6.example", i);
        zone_add(&zone, "v6.example", "MX", values[i]);
        zone_add(&zone, hosts[i], "A", "192.0.2.7");
    }
    expect("2001:db8::1", "a@v6.example", "pass");
    /* mx is one term, however many hosts it has; ten of them at most. */
    static char ten[20][40], tens[20][40];
    zone_add(&zone, "ten.example", "TXT",
             "v=spf1 a:a1.example a:a1.example a:a1.example a:a1.example a:a1.example a:a1.example"
             " a:a1.example a:a1.example a:a1.example mx -all");
    zone_add(&zone, "eleven.example", "TXT",
             "v=spf1 a:a1.example a:a1.example a:a1.example a:a1.example a:a1.example a:a1.example"
             " a:a1.example a:a1.example a:a1.example mx include:a1.example -all");
    zone_add(&zone, "hosts.example", "TXT", "v=spf1 mx -all");
    zone_add(&zone, "a1.example", "A", "192.0.2.99");
    zone_add(&zone, "a1.example", "TXT", "v=spf1 -all");
    for (int i = 0; i < 11; i++) {
        snprintf(ten[i], sizeof ten[i], "10 m%d.example", i);
        snprintf(tens[i], sizeof tens[i], "m%d.example", i);
        if (i < 5) {
            zone_add(&zone, "ten.example", "MX", ten[i]);
            zone_add(&zone, "eleven.example", "MX", ten[i]);
        }
        zone_add(&zone, "hosts.example", "MX", ten[i]);
        zone_add(&zone, tens[i], "A", i == 4 ? "192.0.2.5" : "192.0.2.6");
    }
    expect("192.0.2.5", "a@ten.example", "pass");
    expect("203.0.113.1", "a@eleven.example", "permerror");
    expect("203.0.113.1", "a@hosts.example", "permerror");
    expect("192.0.2.5", "a@hosts.example", "pass");
    /* A typing error is permerror, redirect to nothing is permerror, a record behind a CNAME is found. */
    zone_add(&zone, "typo.example", "TXT", "v=spf1 ipv4:192.0.2.0/24 -all");
    expect("192.0.2.1", "a@typo.example", "permerror");
    zone_add(&zone, "lost.example", "TXT", "v=spf1 redirect=nothing.example");
    expect("192.0.2.1", "a@lost.example", "permerror");
    zone_add(&zone, "alias.example", "CNAME", "v6.example");
    expect("2001:db8::1", "a@alias.example", "pass");
    zone_add(&zone, "slow.example", "TXT", "v=spf1 a:mute.example -all");
    zone_add(&zone, "mute.example", "TIMEOUT", "");
    expect("192.0.2.1", "a@slow.example", "temperror");
    /* A mapped client is an IPv4 client. */
    zone_add(&zone, "four.example", "TXT", "v=spf1 ip4:192.0.2.0/24 -all");
    expect("::ffff:192.0.2.77", "a@four.example", "pass");
    expect("::ffff:198.51.100.1", "a@four.example", "fail");
}

/* The null sender is postmaster at the HELO name; names that nobody can have are "none" without a question. */
static void test_identities(void **state)
{
    (void)state;
    ARENA(a, 1 << 20);
    zone_init(&zone);
    zone_add(&zone, "helo.example", "TXT", "v=spf1 exists:%{l}.%{o}.w.example -all");
    zone_add(&zone, "postmaster.helo.example.w.example", "A", "127.0.0.2");
    struct spf_verdict v = check(&a, "192.0.2.1", "helo.example", "");
    assert_int_equal(v.result, SPF_PASS);
    assert_true(str_eq(v.domain, S("helo.example")));
    static const char *const nobody[] = {"a@", "a@[192.0.2.1]", "a@localhost", "a@a..b", "", "a@.", "@"};
    for (size_t i = 0; i < ARRAY_LEN(nobody); i++) {
        v = check(&a, "192.0.2.1", "[192.0.2.1]", nobody[i]);
        assert_int_equal(v.result, SPF_NONE);
        assert_int_equal(zone.n_asked, 0);
    }
}

/* What a record can make us do is bounded, and the arena holds it. */
static void test_bounds(void **state)
{
    (void)state;
    static char long_record[60000], macros[9000];
    zone_init(&zone);
    memcpy(long_record, "v=spf1", 7);
    for (size_t n = 6; n + 20 < sizeof long_record; n += 18)
        memcpy(long_record + n, " ip4:198.51.100.77", 19);
    zone_add(&zone, "long.example", "TXT", long_record);
    expect("192.0.2.1", "a@long.example", "neutral");
    memcpy(macros, "v=spf1 exists:", 15);
    for (size_t n = 14; n + 10 < sizeof macros; n += 4)
        memcpy(macros + n, "%{s}", 5);
    zone_add(&zone, "wide.example", "TXT", macros);
    expect("192.0.2.1", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@wide.example", "neutral");
    zone_add(&zone, "self.example", "TXT", "v=spf1 include:self.example -all");
    expect("192.0.2.1", "a@self.example", "permerror");
    assert_true(zone.n_asked <= 12);
    zone_add(&zone, "round.example", "TXT", "v=spf1 redirect=round.example");
    expect("192.0.2.1", "a@round.example", "permerror");
    /* %{p} asks once, however often it stands there. */
    zone_add(&zone, "p.example", "TXT", "v=spf1 exists:%{p}.%{p}.%{p}.%{p}.%{p}.%{p}.%{p}.%{p}.x.example -all");
    zone_add(&zone, "1.2.0.192.in-addr.arpa", "PTR", "c.p.example");
    zone_add(&zone, "c.p.example", "A", "192.0.2.1");
    expect("192.0.2.1", "a@p.example", "fail");
    assert_true(zone.n_asked <= 4);
}

/* --- the official suites --- */

static yaml_node_t *member(yaml_document_t *d, yaml_node_t *map, const char *key)
{
    for (yaml_node_pair_t *p = map->data.mapping.pairs.start;
         map->type == YAML_MAPPING_NODE && p < map->data.mapping.pairs.top; p++)
        if (!strcmp((char *)yaml_document_get_node(d, p->key)->data.scalar.value, key))
            return yaml_document_get_node(d, p->value);
    return NULL;
}

static str str_of(yaml_document_t *d, yaml_node_t *n, struct arena *a)
{
    if (!n)
        return S("");
    if (n->type == YAML_SCALAR_NODE)
        return arena_str(a, str_n(n->data.scalar.value, n->data.scalar.length));
    BUF(b, 1 << 16); /* a list of strings: joined */
    for (yaml_node_item_t *i = n->data.sequence.items.start; i < n->data.sequence.items.top; i++)
        buf_add(&b, str_of(d, yaml_document_get_node(d, *i), a));
    return arena_str(a, buf_str(&b));
}

static const char *text_of(yaml_document_t *d, yaml_node_t *n, struct arena *a)
{
    return str_of(d, n, a).p;
}

static void load_name(yaml_document_t *d, const char *name, yaml_node_t *list, struct arena *a)
{
    bool has_txt = false;
    for (int pass = 0; pass < 2; pass++) {
        for (yaml_node_item_t *i = list->data.sequence.items.start; i < list->data.sequence.items.top; i++) {
            yaml_node_t *n = yaml_document_get_node(d, *i);
            if (n->type == YAML_SCALAR_NODE) {
                if (pass)
                    zone_add(&zone, name, "TIMEOUT", "");
                continue;
            }
            yaml_node_pair_t *p = n->data.mapping.pairs.start;
            const char *type = (char *)yaml_document_get_node(d, p->key)->data.scalar.value;
            yaml_node_t *value = yaml_document_get_node(d, p->value);
            has_txt = has_txt || !strcmp(type, "TXT");
            if (!pass)
                continue;
            if (!strcmp(type, "MX")) {
                yaml_node_item_t *pair = value->data.sequence.items.start;
                str both = arena_printf(a, "%s %s", text_of(d, yaml_document_get_node(d, pair[0]), a),
                                        text_of(d, yaml_document_get_node(d, pair[1]), a));
                zone_add_str(&zone, name, type, both);
                /* a list of these is several records in RFC 4408's type, one text in ours */
            } else if (!strcmp(type, "SPF")) {
                if (!has_txt)
                    zone_add_str(&zone, name, "TXT", str_of(d, value, a));
            } else if (strcmp(text_of(d, value, a), "NONE") != 0) {
                zone_add_str(&zone, name, type, str_of(d, value, a));
            }
        }
    }
}

static bool is_expected(yaml_document_t *d, yaml_node_t *want, const char *got)
{
    if (want->type == YAML_SCALAR_NODE)
        return !strcmp((char *)want->data.scalar.value, got);
    for (yaml_node_item_t *i = want->data.sequence.items.start; i < want->data.sequence.items.top; i++)
        if (!strcmp((char *)yaml_document_get_node(d, *i)->data.scalar.value, got))
            return true;
    return false;
}

static void run_scenario(yaml_document_t *d, unsigned *n, unsigned *n_bad, const char *const *without)
{
    ARENA(a, 16 << 20);
    yaml_node_t *root = yaml_document_get_root_node(d), *tests = member(d, root, "tests"),
                *zones = member(d, root, "zonedata");
    zone_init(&zone);
    for (yaml_node_pair_t *p = zones->data.mapping.pairs.start; p < zones->data.mapping.pairs.top; p++)
        load_name(d, text_of(d, yaml_document_get_node(d, p->key), &a), yaml_document_get_node(d, p->value), &a);
    for (yaml_node_pair_t *p = tests->data.mapping.pairs.start; p < tests->data.mapping.pairs.top; p++) {
        const char *name = text_of(d, yaml_document_get_node(d, p->key), &a);
        yaml_node_t *t = yaml_document_get_node(d, p->value), *why = member(d, t, "explanation");
        bool skipped = false;
        for (size_t i = 0; without && without[i]; i++)
            skipped = skipped || !strcmp(without[i], name);
        if (skipped)
            continue;
        struct spf_verdict v = check(&a, text_of(d, member(d, t, "host"), &a), text_of(d, member(d, t, "helo"), &a),
                                     text_of(d, member(d, t, "mailfrom"), &a));
        const char *want_why = why ? text_of(d, why, &a) : NULL;
        bool why_ok = !want_why || str_eq(v.explanation, str_c(strcmp(want_why, "DEFAULT") ? want_why : ""));
        ++*n;
        if (is_expected(d, member(d, t, "result"), spf_result_name(v.result)) && why_ok)
            continue;
        ++*n_bad;
        print_error("%s: %s (%.*s; '%.*s'), wanted %s '%s'\n", name, spf_result_name(v.result), STR_ARG(v.problem),
                    STR_ARG(v.explanation), text_of(d, member(d, t, "result"), &a), want_why ? want_why : "");
    }
}

static void run_suite(const char *file, unsigned least, const char *const *without)
{
    const char *folder = getenv("THURN_SHARED_DATA");
    char path[4096];
    snprintf(path, sizeof path, "%s/spf/%s", folder ? folder : "../shared/data", file);
    FILE *f = fopen(path, "rb");
    if (!f) {
        assert_int_equal(errno, ENOENT);
        print_message("without: %s is not there\n", path);
        skip();
    }
    yaml_parser_t parser;
    unsigned n = 0, n_bad = 0;
    yaml_parser_initialize(&parser);
    yaml_parser_set_input_file(&parser, f);
    for (;;) {
        yaml_document_t d;
        assert_true(yaml_parser_load(&parser, &d));
        bool is_end = !yaml_document_get_root_node(&d);
        if (!is_end)
            run_scenario(&d, &n, &n_bad, without);
        yaml_document_delete(&d);
        if (is_end)
            break;
    }
    yaml_parser_delete(&parser);
    fclose(f);
    print_message("%s: %u of %u\n", file, n - n_bad, n);
    assert_int_equal(n_bad, 0);
    assert_true(n >= least);
}

static void test_rfc7208_suite(void **state)
{
    (void)state;
    run_suite("rfc7208-tests.yml", 203, NULL);
}

static void test_rfc4408_suite(void **state)
{
    (void)state;
    run_suite("rfc4408-tests.yml", 180, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_others_mistakes), cmocka_unit_test(test_identities),
                                       cmocka_unit_test(test_bounds), cmocka_unit_test(test_rfc7208_suite),
                                       cmocka_unit_test(test_rfc4408_suite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
