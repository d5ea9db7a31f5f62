#include "base_test.h"

#include "base/buf.h"
#include "frontend/smtp/data.h"

static const struct {
    const char *in, *out;
    bool is_end, has_stray;
    size_t left; /* bytes after the end, or not taken */
} cases[] = {
    {".\r\n", "", true, false, 0},
    {"a\r\n.\r\n", "a\r\n", true, false, 0},
    {"a\r\n.\r\nQUIT\r\n", "a\r\n", true, false, 6},
    {"..a\r\n...\r\n.\r\n", ".a\r\n..\r\n", true, false, 0},
    {"a.b\r\n.\r\n", "a.b\r\n", true, false, 0},
    {"a\r\n.b\r\n.\r\n", "a\r\nb\r\n", true, false, 0},
    {"\r\n\r\n.\r\n", "\r\n\r\n", true, false, 0},
    /* what is not the end: every other spelling of it */
    {"a\n.\nb\r\n.\r\n", "a\n.\nb\r\n", true, true, 0},
    {"a\n.\r\nb\r\n.\r\n", "a\n.\r\nb\r\n", true, true, 0},
    {"a\r\n.\nb\r\n.\r\n", "a\r\n\nb\r\n", true, true, 0},
    {"a\r.\rb\r\n.\r\n", "a\r.\rb\r\n", true, true, 0},
    {"a\r\n.\rb\r\n.\r\n", "a\r\n\rb\r\n", true, true, 0},
    {"a\r.\r\nb\r\n.\r\n", "a\r.\r\nb\r\n", true, true, 0},
    {"a\n\r.\r\nb\r\n.\r\n", "a\n\r.\r\nb\r\n", true, true, 0},
    {"a\r\r\n.\r\n", "a\r\r\n", true, true, 0},
    {"a\r\n.\r\r\nb\r\n.\r\n", "a\r\n\r\r\nb\r\n", true, true, 0},
    /* not yet the end */
    {"a\r\n.", "a\r\n", false, false, 1},
    {"a\r\n.\r", "a\r\n", false, false, 2},
    {"a\r", "a", false, false, 1},
    {"abc", "abc", false, false, 0},
    {"", "", false, false, 0},
};

static void run(str in, size_t cut, size_t step, struct buf *out, struct smtp_data *d, size_t *left)
{
    size_t at = 0, have = cut;
    *d = (struct smtp_data){.is_end = false};
    while (!d->is_end) {
        str piece, now = str_slice(in, at, have);
        size_t n = smtp_data_next(d, now, &piece);
        buf_add(out, piece);
        at += n;
        if (n == 0) {
            assert_true(now.n <= 2); /* never more is left waiting */
            if (have == in.n)
                break;
            have = MIN(in.n, have + step);
        }
    }
    *left = in.n - at;
}

static void test_every_split(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        str in = str_c(cases[i].in);
        for (size_t step = 1; step <= in.n + 1; step += MAX(in.n, (size_t)1)) /* byte by byte, and in two pieces */
            for (size_t cut = 0; cut <= in.n; cut++) {
                struct smtp_data d;
                size_t left;
                BUF(out, 1024);
                run(in, cut, step, &out, &d, &left);
                assert_str(buf_str(&out), str_c(cases[i].out));
                if (d.is_end != cases[i].is_end || d.has_stray != cases[i].has_stray || left != cases[i].left)
                    fail_msg("case %zu cut %zu step %zu: end %d stray %d left %zu", i, cut, step, d.is_end, d.has_stray,
                             left);
            }
    }
}

static void test_pieces_are_long(void **state)
{
    (void)state;
    BUF(in, 1 << 20);
    struct smtp_data d = {.is_end = false};
    str piece;
    for (int i = 0; i < 1000; i++)
        buf_add(&in, S("a line without a dot at its start\r\n"));
    assert_int_equal(smtp_data_next(&d, buf_str(&in), &piece), in.n);
    assert_int_equal(piece.n, in.n);
}

static void test_chunks(void **state)
{
    (void)state;
    static const struct {
        const char *in;
        bool has_stray, after_lf;
    } chunks[] = {{"a\r\nb\r\n", false, true}, {"a", false, false},     {"\n", true, false},
                  {"a\nb", true, false},       {"a\rb", true, false},   {"a\r\n.\r\n", false, true},
                  {"\r\r\n", true, true},      {"a\r\n\n", true, false}};
    for (size_t i = 0; i < ARRAY_LEN(chunks); i++) {
        str in = str_c(chunks[i].in);
        for (size_t cut = 0; cut <= in.n; cut++) {
            struct smtp_chunks c = {.has_stray = false};
            smtp_chunks_check(&c, str_slice(in, 0, cut));
            smtp_chunks_check(&c, S(""));
            smtp_chunks_check(&c, str_slice(in, cut, SIZE_MAX));
            if (c.has_stray != chunks[i].has_stray || c.is_after_lf != chunks[i].after_lf)
                fail_msg("chunk %zu cut %zu: stray %d lf %d", i, cut, c.has_stray, c.is_after_lf);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_split),
        cmocka_unit_test(test_pieces_are_long),
        cmocka_unit_test(test_chunks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
