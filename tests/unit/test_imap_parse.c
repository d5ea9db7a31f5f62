#include "test.h"

#include "frontend/imap/format.h"
#include "frontend/imap/list_pattern.h"
#include "frontend/imap/parse_fetch.h"
#include "frontend/imap/parse_search.h"

static void test_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *name;
        bool matches;
    } cases[] = {
        {"*", "INBOX", true},
        {"%", "a/b", false},
        {"%", "a", true},
        {"a/%", "a/b", true},
        {"a/%", "a/b/c", false},
        {"a*c", "a/b/c", true},
        {"a%c", "a/b/c", false},
        {"%/%", "a/b", true},
        {"", "a", false},
        {"a", "a", true},
        {"a", "ab", false},
        {"*b", "ab/b", true},
        {"%b%", "abc", true},
        {"**%%*", "x/y", true},
        {"a*b*c", "abbcbc", true},
        {"a*b*c", "abbcb", false},
        {"inbox", "INBOX", true},
        {"iNb%", "INBOX", true},
        {"*box", "INBOX", true},
        {"inbox/%", "INBOX/a", true},
        {"INBOX/A", "INBOX/a", false},
        {"a/inbox", "a/INBOX", false},
        {"inboxes", "INBOXES", false},
        {"inb%", "INBOXES", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        if (imap_pattern_matches(str_c(cases[i].pattern), str_c(cases[i].name)) != cases[i].matches)
            fail_msg("'%s' against '%s'", cases[i].pattern, cases[i].name);
    ARENA(a, 65536);
    str out;
    assert_true(imap_pattern_make(S(""), S("inbox*"), &a, &out));
    assert_true(str_eq(out, S("inbox*")));
    assert_true(imap_pattern_make(S("x/"), S("&APw-%"), &a, &out));
    assert_true(str_eq(out, S("x/\xc3\xbc%")));
    assert_false(imap_pattern_make(S(""), S("&bad"), &a, &out));
}

static void fill(struct uid_map *m, const uint32_t *uids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert_true(uid_map_append(m, uids[i], uids[i]));
}

/* Against an array: append, look up, remove. */
static void test_uid_map(void **state)
{
    (void)state;
    static const uint32_t uids[] = {1, 2, 3, 7, 8, 20, 21, 22, 23, 50};
    struct uid_map none = {0}, some = {0};
    assert_true(uid_map_append(&some, 1, 5));
    uid_map_subtract(&none, &some);
    uid_map_done(&some);
    assert_int_equal(uid_map_rank(&none, 7), 0);
    assert_int_equal(uid_map_count(&none), 0);
    assert_int_equal(uid_map_seq(&none, 1), 0);
    for (uint32_t first = 0; first <= 55; first++) {
        for (uint32_t last = first; last <= 55; last++) {
            struct uid_map m = {0};
            fill(&m, uids, ARRAY_LEN(uids));
            assert_int_equal(uid_map_count(&m), 10);
            assert_int_equal(m.n, 4);
            struct uid_map gone = {0}, within = {0};
            uid_map_within(&m, first, last, &within);
            uint32_t n_within = uid_map_count(&within);
            assert_int_equal(n_within, uid_map_rank(&m, last) - (first ? uid_map_rank(&m, first - 1) : 0));
            assert_true(uid_map_append(&gone, first, last));
            uid_map_subtract(&within, &gone);
            assert_int_equal(within.n, 0);
            uid_map_subtract(&m, &gone);
            uid_map_done(&gone);
            uid_map_done(&within);
            assert_int_equal(uid_map_count(&m), 10 - n_within);
            uint32_t seq = 0;
            for (size_t i = 0; i < ARRAY_LEN(uids); i++) {
                bool is_gone = uids[i] >= first && uids[i] <= last;
                if (is_gone) {
                    assert_int_equal(uid_map_seq(&m, uids[i]), 0);
                    continue;
                }
                assert_int_equal(uid_map_seq(&m, uids[i]), ++seq);
                assert_int_equal(uid_map_uid(&m, seq), uids[i]);
            }
            assert_int_equal(uid_map_count(&m), seq);
            assert_int_equal(uid_map_uid(&m, seq + 1), 0);
            assert_true(uid_map_append(&m, 60, 61));
            assert_int_equal(uid_map_seq(&m, 61), seq + 2);
            uid_map_done(&m);
        }
    }
}

static struct uid_map map_of_bits(unsigned bits)
{
    struct uid_map m = {0};
    for (unsigned i = 0; i < 8; i++)
        if (bits & 1u << i)
            assert_true(uid_map_append(&m, i + 1, i + 1));
    return m;
}

/* All sets of eight, without all sets of eight. */
static void test_uid_map_subtract(void **state)
{
    (void)state;
    for (unsigned x = 0; x < 256; x++) {
        for (unsigned y = 0; y < 256; y++) {
            struct uid_map m = map_of_bits(x), gone = map_of_bits(y), want = map_of_bits(x & ~y);
            uid_map_subtract(&m, &gone);
            assert_int_equal(m.n, want.n);
            if (m.n)
                assert_memory_equal(m.v, want.v, m.n * sizeof(*m.v));
            uid_map_done(&m);
            uid_map_done(&gone);
            uid_map_done(&want);
        }
    }
}

static void test_sets(void **state)
{
    (void)state;
    static const uint32_t uids[] = {10, 11, 20, 30};
    static const struct {
        const char *set;
        bool is_uid;
        const char *out; /* NULL: refused */
    } cases[] = {
        {"1", false, "10"},           {"1:2,4", false, "10:11,30"}, {"*", false, "30"},
        {"2:*", false, "11:30"},      {"*:2", false, "11:30"},      {"5", false, NULL},
        {"4:9", false, NULL},         {"10:20", true, "10:20"},     {"40", true, ""},
        {"40:*", true, "30"},         {"1:*", true, "1:30"},        {"25:15,1", true, "1,15:25"},
        {"3,1,2", false, "10:11,20"},
    };
    struct uid_map m = {0}, empty = {0};
    fill(&m, uids, ARRAY_LEN(uids));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        ARENA(a, 65536);
        BUF(out, 4096);
        struct cursor c = cur_of(str_c(cases[i].set));
        struct imap_set set;
        Thurn__Range **ranges;
        size_t n;
        assert_true(imap_parse_set(&c, &a, &set) && imap_parse_end(&c));
        bool ok = imap_set_resolve(&set, &m, cases[i].is_uid, true, &a, &ranges, &n);
        assert_int_equal(ok, cases[i].out != NULL);
        if (!ok)
            continue;
        imap_add_set(&out, ranges, n, NULL);
        if (strcmp(buf_z(&out), cases[i].out) != 0)
            fail_msg("'%s': '%s', not '%s'", cases[i].set, buf_z(&out), cases[i].out);
    }
    ARENA(a, 65536);
    struct imap_set set;
    Thurn__Range **ranges;
    size_t n;
    struct cursor c = cur_of(S("1:*"));
    assert_true(imap_parse_set(&c, &a, &set));
    assert_true(imap_set_resolve(&set, &empty, false, true, &a, &ranges, &n));
    assert_int_equal(n, 0);
    static const char *const bad[] = {"", "0", "1:", ":1", "1,,2", "a", "99999999999", "1:0"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        c = cur_of(str_c(bad[i]));
        assert_false(imap_parse_set(&c, &a, &set) && imap_parse_end(&c));
    }
    uid_map_done(&m);
}

static void test_tokens(void **state)
{
    (void)state;
    ARENA(a, 65536);
    static const struct {
        const char *in, *out; /* NULL: refused */
    } strings[] = {
        {"abc", "abc"},
        {"\"a b\"", "a b"},
        {"\"a\\\"\\\\\"", "a\"\\"},
        {"\"a\\b\"", NULL},
        {"\"open", NULL},
        {"\"a\\", NULL},
        {"{3}\r\nabc", "abc"},
        {"{3+}\r\nabc", "abc"},
        {"{4}\r\nabc", NULL},
        {"{0}\r\n", ""},
        {"(", NULL},
        {"a]", "a]"},
        {"{3}abc", NULL},
        {"{99999999999999}\r\n", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(strings); i++) {
        struct cursor c = cur_of(str_c(strings[i].in));
        str out;
        bool ok = imap_parse_astring(&c, &a, &out) && imap_parse_end(&c);
        if (ok != (strings[i].out != NULL))
            fail_msg("'%s'", strings[i].in);
        if (ok)
            assert_true(str_eq(out, str_c(strings[i].out)));
    }
    str before;
    uint64_t n;
    bool is_sync;
    assert_true(imap_line_literal(S("a LOGIN {5}"), &before, &n, &is_sync) && n == 5 && is_sync && before.n == 8);
    assert_true(imap_line_literal(S("{12+}"), &before, &n, &is_sync) && n == 12 && !is_sync);
    assert_false(imap_line_literal(S("a {x}"), &before, &n, &is_sync));
    assert_false(imap_line_literal(S("a 5}"), &before, &n, &is_sync));
    struct imap_flags f;
    struct cursor c = cur_of(S("(\\Seen \\recent kw KW $x)"));
    assert_true(imap_parse_flags(&c, &a, true, &f));
    assert_int_equal(f.bits, THURN__FLAG__FLAG_SEEN);
    assert_int_equal(f.n_keywords, 2);
    c = cur_of(S("(\\Foo)"));
    assert_false(imap_parse_flags(&c, &a, true, &f));
    str name;
    bool is_valid;
    c = cur_of(S("\"inbox/a&APw-\""));
    assert_true(imap_parse_mailbox(&c, &a, &name, &is_valid) && is_valid);
    assert_true(str_eq(name, S("INBOX/a\xc3\xbc")));
}

static void test_fetch(void **state)
{
    (void)state;
    static const struct {
        const char *in, *name; /* of the first section; NULL: refused */
    } cases[] = {
        {"1 BODY[]", "BODY[]"},
        {"1 (BODY.PEEK[1.2.HEADER.FIELDS (a \"b c\")]<0.5>)", "BODY[1.2.HEADER.FIELDS (a \"b c\")]<0>"},
        {"1 BODY[1.MIME]", "BODY[1.MIME]"},
        {"1 RFC822.TEXT", "RFC822.TEXT"},
        {"1 BODY[MIME]", NULL},
        {"1 BODY[0]", NULL},
        {"1 BODY[1.]", NULL},
        {"1 BODY[1]<0.0>", NULL},
        {"1 BODY.PEEK", NULL},
        {"1 (FLAGS", NULL},
        {"1 FLAGS)", NULL},
        {"1 ()", NULL},
        {"1 BODY[] (CHANGEDSINCE 5)", "BODY[]"},
        {"1 BODY[] (CHANGEDSINCE)", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        ARENA(a, 1u << 20);
        BUF(out, 1024);
        struct imap_fetch f;
        struct cursor c = cur_of(str_c(cases[i].in));
        bool ok = imap_parse_fetch(&c, &a, &f);
        if (ok != (cases[i].name != NULL))
            fail_msg("'%s'", cases[i].in);
        if (ok) {
            imap_add_section_name(&out, &f.items[0]);
            assert_string_equal(buf_z(&out), cases[i].name);
        }
    }
}

/* RFC 3501 9, CHAR8. */
static void test_nul(void **state)
{
    (void)state;
    ARENA(a, 65536);
    str out;
    struct cursor good = cur_of(S("{3}\r\na b")), bad = cur_of(S("{3}\r\na\0b"));
    assert_true(imap_parse_astring(&good, &a, &out) && str_eq(out, S("a b")));
    assert_false(imap_parse_astring(&bad, &a, &out));
}

/* An item that is asked for twice is one. */
static void test_fetch_twice(void **state)
{
    (void)state;
    static const struct {
        const char *in;
        size_t n;
        bool sets_seen;
    } cases[] = {
        {"1 (FLAGS UID flags)", 2, false},
        {"1 (BODY[] BODY.PEEK[] BODY[]<0.5> RFC822)", 3, true},
        {"1 (BODY.PEEK[1] BODY[1])", 1, true},
        {"1 (BODY.PEEK[1] BODY.PEEK[1.1] BODY.PEEK[2])", 3, false},
        {"1 (BODY.PEEK[]<0.5> BODY.PEEK[]<0.6> BODY.PEEK[]<1.5> BODY.PEEK[]<0.5>)", 3, false},
        {"1 (BODY.PEEK[HEADER.FIELDS (a b)] BODY.PEEK[HEADER.FIELDS (A B)] BODY.PEEK[HEADER.FIELDS (b a)])", 2, false},
        {"1 (BODY.PEEK[HEADER.FIELDS (a)] BODY.PEEK[HEADER.FIELDS.NOT (a)] BODY BODYSTRUCTURE)", 4, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        ARENA(a, 1u << 20);
        struct imap_fetch f;
        struct cursor c = cur_of(str_c(cases[i].in));
        assert_true(imap_parse_fetch(&c, &a, &f));
        if (f.n_items != cases[i].n || f.items[0].sets_seen != cases[i].sets_seen)
            fail_msg("'%s': %zu items", cases[i].in, f.n_items);
    }
}

static void test_search_limits(void **state)
{
    (void)state;
    ARENA(a, 1u << 24);
    struct uid_map m = {0};
    BUF(text, 1u << 20);
    struct imap_search q;
    for (int i = 0; i < 40; i++)
        buf_add(&text, S("("));
    buf_add(&text, S("ALL"));
    for (int i = 0; i < 40; i++)
        buf_add(&text, S(")"));
    struct cursor c = cur_of(buf_str(&text));
    assert_false(imap_parse_search(&c, &a, &m, &m, &q));
    buf_clear(&text);
    for (int i = 0; i < 2000; i++)
        buf_add(&text, S("SEEN "));
    buf_add(&text, S("SEEN"));
    c = cur_of(buf_str(&text));
    assert_false(imap_parse_search(&c, &a, &m, &m, &q));
    c = cur_of(S("NOT NOT (OR SEEN OR DRAFT FLAGGED) UID 1:*"));
    assert_true(imap_parse_search(&c, &a, &m, &m, &q));
}

static void test_strings_out(void **state)
{
    (void)state;
    BUF(out, 1024);
    imap_add_string(&out, S("a\"b\\c"));
    imap_add_string(&out, S("x\r\ny"));
    imap_add_nstring(&out, S(""));
    imap_add_astring(&out, S("atom"));
    imap_add_astring(&out, S("NIL"));
    imap_add_mailbox(&out, S("\xc3\xbc b"));
    assert_string_equal(buf_z(&out), "\"a\\\"b\\\\c\"{4}\r\nx\r\nyNILatom\"NIL\"\"&APw- b\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patterns),    cmocka_unit_test(test_uid_map),     cmocka_unit_test(test_uid_map_subtract),
        cmocka_unit_test(test_sets),        cmocka_unit_test(test_tokens),      cmocka_unit_test(test_fetch),
        cmocka_unit_test(test_nul),         cmocka_unit_test(test_fetch_twice), cmocka_unit_test(test_search_limits),
        cmocka_unit_test(test_strings_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
