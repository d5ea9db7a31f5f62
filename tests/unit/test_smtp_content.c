#include "base_test.h"

#include "base/buf.h"
#include "base/clock.h"
#include "queue-service/remote/content.h"

/* What comes out when the input comes in two pieces, cut at `cut`. */
static void write_cut(str in, size_t cut, bool has_dots, struct buf *out)
{
    struct smtp_content c;
    str pieces[2] = {str_slice(in, 0, cut), str_slice(in, cut, SIZE_MAX)}, run;
    smtp_content_init(&c, has_dots);
    buf_clear(out);
    for (int i = 0; i < 2; i++) {
        while (smtp_content_next(&c, &pieces[i], &run)) {
            assert_true(run.n > 0);
            buf_add(out, run);
        }
        assert_int_equal(pieces[i].n, 0);
    }
    buf_add(out, smtp_content_end(&c));
}

static void test_cases(void **state)
{
    (void)state;
    static const struct {
        str in, data, chunk;
    } cases[] = {
        {S_INIT(""), S_INIT(".\r\n"), S_INIT("")},
        {S_INIT("a\r\nb\r\n"), S_INIT("a\r\nb\r\n.\r\n"), S_INIT("a\r\nb\r\n")},
        {S_INIT("a"), S_INIT("a\r\n.\r\n"), S_INIT("a\r\n")},
        {S_INIT("."), S_INIT("..\r\n.\r\n"), S_INIT(".\r\n")},
        {S_INIT(".\r\n"), S_INIT("..\r\n.\r\n"), S_INIT(".\r\n")},
        {S_INIT("a.b\r\n.c\r\n..\r\n"), S_INIT("a.b\r\n..c\r\n...\r\n.\r\n"), S_INIT("a.b\r\n.c\r\n..\r\n")},
        {S_INIT("a\n.\nb"), S_INIT("a\r\n..\r\nb\r\n.\r\n"), S_INIT("a\r\n.\r\nb\r\n")},
        {S_INIT("a\r.\rb"), S_INIT("a . b\r\n.\r\n"), S_INIT("a . b\r\n")},
        {S_INIT("a\r\r\nb"), S_INIT("a \r\nb\r\n.\r\n"), S_INIT("a \r\nb\r\n")},
        {S_INIT("\r"), S_INIT("\r\n.\r\n"), S_INIT("\r\n")},
        {S_INIT("\r.\r\n"), S_INIT(" .\r\n.\r\n"), S_INIT(" .\r\n")},
        {S_INIT("\n"), S_INIT("\r\n.\r\n"), S_INIT("\r\n")},
        {S_INIT("\n\n.\r\n.\r"), S_INIT("\r\n\r\n..\r\n..\r\n.\r\n"), S_INIT("\r\n\r\n.\r\n.\r\n")},
        {S_INIT("a\r\n\0.\r\n"), S_INIT("a\r\n .\r\n.\r\n"), S_INIT("a\r\n .\r\n")},
        {S_INIT("\0\0a\0\r\n"), S_INIT("  a \r\n.\r\n"), S_INIT("  a \r\n")},
        {S_INIT("\r\n.\n\r.\r\n\r\n.\r\n"), S_INIT("\r\n..\r\n .\r\n\r\n..\r\n.\r\n"),
         S_INIT("\r\n.\r\n .\r\n\r\n.\r\n")},
    };
    BUF(out, 65536);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        for (size_t cut = 0; cut <= cases[i].in.n; cut++) {
            write_cut(cases[i].in, cut, true, &out);
            assert_str(buf_str(&out), cases[i].data);
            write_cut(cases[i].in, cut, false, &out);
            assert_str(buf_str(&out), cases[i].chunk);
        }
    }
}

/* No line has more than 998 bytes, no character is cut, and put together again (fold, space) it is what it was. */
static void test_long_lines(void **state)
{
    (void)state;
    static const char *const units[] = {"x", "\xc3\xbc", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
    for (size_t n = 990; n < 3100; n += n < 1005 ? 1 : 311) {
        for (size_t u = 0; u < ARRAY_LEN(units); u++) {
            BUF(in, 8192);
            BUF(out, 16384);
            BUF(joined, 16384);
            buf_add(&in, S("ab\r\n"));
            while (in.n < n + 4)
                buf_add(&in, str_c(units[u]));
            buf_add(&in, S("\r\nend\r\n"));
            for (size_t cut = 0; cut <= in.n; cut += cut > 900 && cut < 1100 ? 1 : 97) {
                write_cut(buf_str(&in), cut, false, &out);
                str rest = buf_str(&out), line;
                buf_clear(&joined);
                while (rest.n) {
                    assert_true(str_split(&rest, '\n', &line) && str_ends(line, S("\r")));
                    assert_true(line.n <= 999 && utf8_valid(line.p, line.n));
                    bool is_fold = line.p[0] == ' ';
                    if (is_fold)
                        joined.n -= 2;
                    buf_add(&joined, str_slice(line, is_fold, SIZE_MAX));
                    buf_addc(&joined, '\n');
                }
                assert_str(buf_str(&joined), buf_str(&in));
            }
        }
    }
}

/* No bare CR or LF ever; a line of one dot only at the end; undone, the dots give back the lines. */
static void test_random(void **state)
{
    (void)state;
    static const char letters[] = "a.\r\n. b\r";
    BUF(out, 65536);
    BUF(whole, 65536);
    random_seed(7);
    for (int round = 0; round < 3000; round++) {
        char in[40];
        size_t n = (size_t)random_below(sizeof(in));
        for (size_t i = 0; i < n; i++)
            in[i] = letters[random_below(sizeof(letters) - 1)];
        write_cut(str_n(in, n), 0, true, &whole);
        write_cut(str_n(in, n), (size_t)random_below(n + 1), true, &out);
        assert_str(buf_str(&out), buf_str(&whole));
        assert_true(str_ends(buf_str(&out), S(".\r\n")));
        for (size_t i = 0; i < out.n; i++) {
            assert_true(out.p[i] != '\n' || (i > 0 && out.p[i - 1] == '\r'));
            assert_true(out.p[i] != '\r' || out.p[i + 1] == '\n');
        }
        str end = str_slice(buf_str(&out), 0, out.n - 3);
        assert_int_equal(str_find_str(end, S("\r\n.\r\n")), -1);
        assert_false(str_starts(end, S(".\r\n")));
    }
    random_seed(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cases), cmocka_unit_test(test_random),
                                       cmocka_unit_test(test_long_lines)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
