#include "net/http_parse.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* The verdict on a head, and that every proper prefix says MORE (or already BAD). 0 = DONE. */
static int verdict(str input)
{
    int status = 0;
    for (size_t n = 0; n <= input.n; n++) {
        ARENA(a, 1 << 20);
        struct http_head h;
        struct err err = ERR_INIT;
        char *copy = str_dup(str_slice(input, 0, n)); /* an exact copy, so that reading on is seen */
        enum http_parse r = http_parse_head(str_n(copy, n), &a, &h, &status, &err);
        if (r == HTTP_DONE)
            assert_int_equal(n, input.n);
        free(copy);
        if (r == HTTP_BAD)
            return status;
        assert_int_equal(r, n == input.n ? HTTP_DONE : HTTP_MORE);
    }
    return 0;
}

static void heads(void **state)
{
    (void)state;
    static const struct {
        const char *input;
        int status;
    } cases[] = {
        {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0},
        {"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 0},
        {"GET / HTTP/1.0\r\n\r\n", 0},
        {"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 0},
        {"POST /x HTTP/1.1\r\nhost:a\r\nTransfer-Encoding: chunked\r\n\r\n", 0},
        {"GET / HTTP/1.1\r\n\r\n", 400}, /* no Host */
        {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
        {"GET / HTTP/1.1\nHost: a\n\n", 400},                     /* bare LF */
        {"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400},    /* bare CR */
        {"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400}, /* obs-fold */
        {"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400},              /* space before the colon */
        {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501},
        {"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
        {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},
        {"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400},
        {"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\n: a\r\nHost: a\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", 400},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        int got = verdict(str_c(cases[i].input));
        if (got != cases[i].status)
            fail_msg("%s: %d, not %d", cases[i].input, got, cases[i].status);
    }
}

static void head_facts(void **state)
{
    (void)state;
    ARENA(a, 1 << 20);
    struct http_head h;
    int status;
    struct err err = ERR_INIT;
    str in = S("PUT /a?b=c HTTP/1.1\r\nHost: x\r\nX-Thing:  v w \r\nConnection: foo, Close\r\nExpect: 100-continue\r\n"
               "content-length: 10\r\n\r\nbody");
    assert_int_equal(http_parse_head(in, &a, &h, &status, &err), HTTP_DONE);
    assert_true(str_eq(h.method, S("PUT")) && str_eq(h.target, S("/a?b=c")));
    assert_int_equal(h.length, in.n - 4);
    assert_true(h.has_length && h.content_length == 10 && !h.is_chunked && !h.keeps_alive && h.wants_continue);
    assert_true(str_eq(http_header_get(h.headers, h.n_headers, S("x-thing")), S("v w")));
}

static void too_long(void **state)
{
    (void)state;
    ARENA(a, 1 << 20);
    BUF(b, 1 << 20);
    struct http_head h;
    int status = 0;
    struct err err = ERR_INIT;
    buf_add(&b, S("GET /"));
    while (b.n < HTTP_LINE_MAX + 10)
        buf_addc(&b, 'a');
    assert_int_equal(http_parse_head(buf_str(&b), &a, &h, &status, &err), HTTP_BAD);
    assert_int_equal(status, 414);
    err_clear(&err);
    buf_clear(&b);
    buf_add(&b, S("GET / HTTP/1.1\r\nHost: a\r\n"));
    for (int i = 0; i < 100; i++)
        buf_printf(&b, "X-%d: y\r\n", i);
    buf_add(&b, S("\r\n"));
    assert_int_equal(http_parse_head(buf_str(&b), &a, &h, &status, &err), HTTP_BAD);
    assert_int_equal(status, 431);
    err_clear(&err);
    buf_clear(&b);
    while (b.n <= HTTP_HEAD_MAX)
        buf_add(&b, S("GET / HTTP/1.1\r\n"));
    assert_int_equal(http_parse_head(buf_str(&b), &a, &h, &status, &err), HTTP_BAD);
    assert_int_equal(status, 431);
}

static void targets(void **state)
{
    (void)state;
    static const struct {
        const char *target, *path, *query; /* path NULL = INVALID */
    } cases[] = {
        {"/", "/", ""},
        {"/a/b?x=1&y", "/a/b", "x=1&y"},
        {"/a/", "/a/", ""},
        {"/caf%C3%A9", "/caf\xc3\xa9", ""},
        {"/a%20b", "/a b", ""},
        {"http://h:80/a?b", "/a", "b"},
        {"https://h", "/", ""},
        {"*", "*", ""},
        {"/a%2", NULL, NULL},
        {"/a%2e%2e/b", "/a../b", ""},
        {"/%2e%2e/b", NULL, NULL},
        {"/a/../b", NULL, NULL},
        {"/./b", NULL, NULL},
        {"//b", NULL, NULL},
        {"/a//b", NULL, NULL},
        {"/a%2Fb", NULL, NULL},
        {"/a%00", NULL, NULL},
        {"/a%0d", NULL, NULL},
        {"/%ff", NULL, NULL},
        {"a", NULL, NULL},
        {"host:443", NULL, NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        ARENA(a, 1 << 16);
        struct err err = ERR_INIT;
        str path, query;
        bool ok = http_parse_target(str_c(cases[i].target), &a, &path, &query, &err);
        if (ok != (cases[i].path != NULL))
            fail_msg("%s", cases[i].target);
        if (ok)
            assert_true(str_eq(path, str_c(cases[i].path)) && str_eq(query, str_c(cases[i].query)));
    }
}

static void queries(void **state)
{
    (void)state;
    ARENA(a, 1 << 16);
    struct err err = ERR_INIT;
    struct http_param *p;
    size_t n;
    assert_true(http_parse_query(S("a=1&b+c=d%26e&&f"), &a, &p, &n, &err));
    assert_int_equal(n, 3);
    assert_true(str_eq(p[1].name, S("b c")) && str_eq(p[1].value, S("d&e")));
    assert_true(str_eq(p[2].name, S("f")) && p[2].value.n == 0);
    assert_false(http_parse_query(S("a=%zz"), &a, &p, &n, &err));
}

static void chunks(void **state)
{
    (void)state;
    static const struct {
        const char *input;
        int result;
        uint64_t size;
    } cases[] = {
        {"5\r\n", HTTP_DONE, 5},  {"1aF;x=\"y\"\r\n", HTTP_DONE, 0x1af},
        {"0\r\n", HTTP_DONE, 0},  {"5", HTTP_MORE, 0},
        {"5\r", HTTP_MORE, 0},    {"5\n", HTTP_BAD, 0},
        {"\r\n", HTTP_BAD, 0},    {"5 \r\n", HTTP_BAD, 0},
        {"0x5\r\n", HTTP_BAD, 0}, {"-1\r\n", HTTP_BAD, 0},
        {"5\rx", HTTP_BAD, 0},    {"1111111111111111\r\n", HTTP_BAD, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint64_t size = 0;
        size_t used = 0;
        assert_int_equal(http_parse_chunk(str_c(cases[i].input), &size, &used), cases[i].result);
        if (cases[i].result == HTTP_DONE)
            assert_true(size == cases[i].size && used == strlen(cases[i].input));
    }
    size_t used;
    assert_int_equal(http_parse_trailer(S("\r\n"), &used), HTTP_DONE);
    assert_int_equal(http_parse_trailer(S("A: b\r\n\r\nrest"), &used), HTTP_DONE);
    assert_int_equal(used, 8);
    assert_int_equal(http_parse_trailer(S("A: b\r\n"), &used), HTTP_MORE);
    assert_int_equal(http_parse_trailer(S("A: b\n\n"), &used), HTTP_BAD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads),   cmocka_unit_test(head_facts), cmocka_unit_test(too_long),
        cmocka_unit_test(targets), cmocka_unit_test(queries),    cmocka_unit_test(chunks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
