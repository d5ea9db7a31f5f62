#include "frontend/admin/json.h"
#include "net/http_server.h"

#include "unit/test.h"

#include "base/clock.h"
#include "fiber/fiber.h"

static struct http_server *server;
static struct listener *listener;
static unsigned calls;

/* --- routes --- */

static void hello(void *arg, struct http_req *req)
{
    assert_string_equal(arg, "arg");
    calls++;
    http_reply_header(req, S("X-Extra"), S("a\r\nInjected: b"));
    http_reply(req, 200, "text/plain", S("hello"));
}
static void echo(void *arg, struct http_req *req)
{
    (void)arg;
    BUF(b, 1 << 20);
    buf_printf(&b, "%.*s %.*s a=%.*s len=%zu ", STR_ARG(req->method), STR_ARG(req->path),
               STR_ARG(http_req_param(req, S("a"))), req->body.n);
    buf_add(&b, req->body);
    http_reply(req, 200, "text/plain", buf_str(&b));
}
static void count(void *arg, struct http_req *req)
{
    (void)arg;
    struct err err = ERR_INIT;
    size_t n = 0;
    for (str piece;;) {
        if (!http_read_body(req, &piece, &err)) {
            http_reply_err(req, &err);
            return;
        }
        if (!piece.n)
            break;
        n += piece.n;
    }
    char text[32];
    (void)snprintf(text, sizeof(text), "%zu", n);
    http_reply(req, 200, "text/plain", str_c(text));
}
static void ignore_body(void *arg, struct http_req *req)
{
    (void)arg;
    http_reply(req, 200, NULL, S("ignored"));
}
static void stream_out(void *arg, struct http_req *req)
{
    (void)arg;
    struct err err = ERR_INIT;
    assert_true(http_reply_begin(req, 200, "text/plain", &err));
    for (int i = 0; i < 3; i++) {
        assert_true(http_reply_piece(req, S("piece "), &err));
        assert_true(http_reply_piece(req, S(""), &err));
    }
    if (http_req_param(req, S("abort")).n)
        http_reply_abort(req);
}
static void fails(void *arg, struct http_req *req)
{
    (void)arg;
    struct err err = ERR_INIT;
    str kind = http_req_param(req, S("kind"));
    err_set(&err, kind.n ? (enum err_kind)(kind.p[0] - 'a') : ERR_NOT_FOUND, "no \"such\" thing");
    http_reply_err(req, &err);
}
static bool knows_word(void *arg, struct http_req *req)
{
    (void)arg;
    if (str_eq(http_req_header(req, S("authorization")), S("word")))
        return true;
    http_reply(req, 401, NULL, S("who are you?"));
    return false;
}
static void not_utf8(void *arg, struct http_req *req)
{
    (void)arg;
    admin_answer(req, 200, json_pack("{s:s}", "name", "\xff"));
}
static void silent(void *arg, struct http_req *req)
{
    (void)arg, (void)req;
}
static void slow(void *arg, struct http_req *req)
{
    (void)arg;
    struct err err = ERR_INIT;
    IGNORE(fiber_sleep_ms(10000, &err));
    http_reply_err(req, &err);
}

// clang-format off
static const struct http_route routes[] = {
    {"GET", "/hello", hello, 0, false, false, NULL},     {"POST", "/echo/*", echo, 1000, false, false, NULL}, {"PUT", "/echo/*", echo, 1000, false, false, NULL},
    {"POST", "/count", count, 0, true, false, NULL},     {"POST", "/ignore", ignore_body, 0, true, false, NULL}, {"GET", "/stream", stream_out, 0, false, false, NULL},
    {"GET", "/fails", fails, 0, false, false, NULL},     {"GET", "/silent", silent, 0, false, false, NULL},   {"GET", "/slow", slow, 0, false, false, NULL},
    {"GET", "/health", fails, 0, false, true, NULL}, {"GET", "/latin", not_utf8, 0, false, false, NULL},
    {"POST", "/secret", echo, 4u << 20, false, false, knows_word},
};
// clang-format on

/* --- a client that says exactly what it is told --- */

static struct stream *dial(void)
{
    struct err err = ERR_INIT;
    struct stream *s = stream_connect(listener_addr(listener), NULL, NULL, &err);
    if (!s)
        fail_msg("%s", err.msg);
    return s;
}
static void say(struct stream *s, str text)
{
    struct err err = ERR_INIT;
    assert_true(stream_write(s, text, &err) && stream_flush(s, &err));
}
/* Everything until the peer closes. */
static str hear_all(struct stream *s, struct arena *a)
{
    BUF(b, 1 << 20);
    struct err err = ERR_INIT;
    for (str piece; stream_read_some(s, 65536, &piece, &err); buf_add(&b, piece))
        continue;
    return arena_str(a, buf_str(&b));
}
static const char *exchange(struct arena *a, const char *text)
{
    CLEANUP(stream_close) struct stream *s = dial();
    say(s, str_c(text));
    return hear_all(s, a).p;
}
static void expect(const char *text, const char *status, const char *body)
{
    ARENA(a, 1 << 22);
    const char *got = exchange(&a, text);
    if (strncmp(got, status, strlen(status)) != 0 || (body && !strstr(got, body)))
        fail_msg("%s\n---\n%s", text, got);
}
#define CLOSE "Host: a\r\nConnection: close\r\n"

/* Each kind of error has its status. */
static void statuses(void *arg)
{
    (void)arg;
    static const char *const want[ERR_KINDS_] = {
        [ERR_INVALID] = "400 Bad Request",
        [ERR_NOT_FOUND] = "404 Not Found",
        [ERR_EXISTS] = "409 Conflict",
        [ERR_DENIED] = "403 Forbidden",
        [ERR_LIMIT] = "429 Too Many Requests",
        [ERR_CONFLICT] = "409 Conflict",
        [ERR_UNAVAILABLE] = "503 Service Unavailable",
        [ERR_TIMEOUT] = "504 Gateway Timeout",
        [ERR_CANCELLED] = "503 Service Unavailable",
        [ERR_INTERNAL] = "500 Internal Server Error",
        [ERR_BUSY] = "503 Service Unavailable",
        [ERR_QUOTA] = "507 Insufficient Storage",
    };
    for (enum err_kind kind = ERR_INVALID; kind < ERR_KINDS_; kind++) {
        char request[128], status[64];
        (void)snprintf(request, sizeof(request), "GET /fails?kind=%c HTTP/1.1\r\n" CLOSE "\r\n", (char)('a' + kind));
        (void)snprintf(status, sizeof(status), "HTTP/1.1 %s\r\n", want[kind] ? want[kind] : "no cell in the table");
        expect(request, status, err_kind_name(kind));
    }
}

static void answers(void *arg)
{
    (void)arg;
    /* What JSON cannot say is an error of that one answer. */
    expect("GET /latin HTTP/1.1\r\n" CLOSE "\r\n", "HTTP/1.1 500", "\"error\":\"internal\"");
    expect("GET /hello HTTP/1.1\r\n" CLOSE "\r\n", "HTTP/1.1 200 OK\r\n", "X-Extra: a  Injected: b\r\n\r\nhello");
    expect("HEAD /hello HTTP/1.1\r\n" CLOSE "\r\n", "HTTP/1.1 200 OK\r\n", "Content-Length: 5\r\n");
    expect("GET /hello HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\n", "Connection: close\r\n");
    expect("POST /echo/x%20y?a=1%262 HTTP/1.1\r\n" CLOSE "Content-Length: 4\r\n\r\nbody", "HTTP/1.1 200",
           "POST /echo/x y a=1&2 len=4 body");
    expect("POST /echo/c HTTP/1.1\r\n" CLOSE
           "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: r\r\n\r\n",
           "HTTP/1.1 200", "len=5 abcde");
    expect("GET /stream HTTP/1.1\r\n" CLOSE "\r\n", "HTTP/1.1 200",
           "6\r\npiece \r\n6\r\npiece \r\n6\r\npiece \r\n0\r\n\r\n");
    expect("GET /stream HTTP/1.0\r\n\r\n", "HTTP/1.1 200", "\r\n\r\npiece piece piece ");
    expect("GET /fails HTTP/1.1\r\n" CLOSE "\r\n", "HTTP/1.1 404",
           "{\"error\":\"not_found\",\"message\":\"no \\\"such\\\" thing\"}");
    expect("GET /silent HTTP/1.1\r\n" CLOSE "\r\n", "HTTP/1.1 500", NULL);
    expect("GET /none HTTP/1.1\r\n" CLOSE "\r\n", "HTTP/1.1 404", NULL);
    expect("DELETE /echo/x HTTP/1.1\r\n" CLOSE "\r\n", "HTTP/1.1 405", "Allow: POST, PUT\r\n");
    expect("POST /hello HTTP/1.1\r\n" CLOSE "Content-Length: 1\r\n\r\nx", "HTTP/1.1 405", NULL);
}

static void refusals(void *arg)
{
    (void)arg;
    expect("GET /hello HTTP/1.1\r\n\r\n", "HTTP/1.1 400", "Connection: close");
    expect("GET /../hello HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400", NULL);
    expect("POST /echo/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n", "HTTP/1.1 413", NULL);
    expect("POST /echo/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n", "HTTP/1.1 ", NULL);
    expect("POST /echo/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 400", NULL);
    expect("POST /echo/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", "HTTP/1.1 400", NULL);
    expect("GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 400",
           NULL);
    /* A second request hidden in what the first calls its body must not be seen. */
    calls = 0;
    expect("POST /echo/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n",
           "HTTP/1.1 413", NULL);
    expect("garbage\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400", NULL);
    assert_int_equal(calls, 0);
    ARENA(a, 1 << 22);
    /* not to be taken for whole */
    assert_null(strstr(exchange(&a, "GET /stream?abort=1 HTTP/1.1\r\n" CLOSE "\r\n"), "0\r\n\r\n"));
}

/* Pipelined requests, in pieces of every size, over one connection. */
/* Who may not ask is told so from the head: not a byte of what he sends is kept or waited for. */
static void admitted(void *arg)
{
    (void)arg;
    ARENA(a, 1 << 20);
    expect(
        "POST /secret HTTP/1.1\r\nHost: a\r\nAuthorization: word\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody",
        "HTTP/1.1 200", "len=4 body");
    expect("POST /secret HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n", "HTTP/1.1 401", "who are you?");
    expect("POST /secret HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4000000\r\n\r\n",
           "HTTP/1.1 401", "Connection: close");
    expect("POST /secret HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 401",
           "Connection: close");
    expect("POST /secret HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbodyGET /hello HTTP/1.1\r\n" CLOSE "\r\n",
           "HTTP/1.1 401", "200 OK");
}

static void pipelines(void *arg)
{
    (void)arg;
    static const char text[] =
        "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
        "POST /echo/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
        "POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n"
        "POST /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nrest"
        "GET /hello HTTP/1.1\r\n" CLOSE "\r\n";
    struct err err = ERR_INIT;
    for (size_t step = 1; step < sizeof(text); step = step * 2 + 1) {
        ARENA(a, 1 << 22);
        CLEANUP(stream_close) struct stream *s = dial();
        for (size_t at = 0; at < sizeof(text) - 1; at += step) {
            say(s, str_slice(str_n(text, sizeof(text) - 1), at, at + step));
            assert_true(fiber_yield(&err));
        }
        str all = hear_all(s, &a);
        size_t n = 0;
        for (const char *p = all.p; (p = strstr(p, "HTTP/1.1 200 OK")); p++)
            n++;
        assert_int_equal(n, 5);
        assert_true(strstr(all.p, "len=3 abc") && strstr(all.p, "\r\n\r\n5HTTP/1.1") && strstr(all.p, "ignored"));
    }
}

static void expect_continue(void *arg)
{
    (void)arg;
    ARENA(a, 1 << 20);
    struct err err = ERR_INIT;
    CLEANUP(stream_close) struct stream *s = dial();
    str line;
    say(s, S("POST /count HTTP/1.1\r\n" CLOSE "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n"));
    assert_true(stream_read_line(s, 100, true, &line, &err));
    assert_true(str_eq(line, S("HTTP/1.1 100 Continue")));
    assert_true(stream_read_line(s, 100, true, &line, &err) && line.n == 0);
    say(s, S("abc"));
    assert_true(str_ends(hear_all(s, &a), S("\r\n\r\n3")));
}

static void times(void *arg)
{
    (void)arg;
    expect("GET /hel", "HTTP/1.1 408", NULL); /* half a head */
    expect("POST /echo/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab", "HTTP/1.1 408", NULL);
    expect("GET /slow HTTP/1.1\r\n" CLOSE "\r\n", "", NULL);
    ARENA(a, 1 << 20);
    CLEANUP(stream_close) struct stream *s = dial(); /* says nothing at all */
    assert_int_equal(hear_all(s, &a).n, 0);
}

/* Half a head is waited for without a fiber, whether it is the first of its connection or comes behind a request. */
static void half_heads(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct stream *held[60];
    unsigned before = fiber_count();
    for (size_t i = 0; i < ARRAY_LEN(held); i++) {
        str line;
        held[i] = dial();
        if (i % 2) {
            say(held[i], S("GET /hello HTTP/1.1\r\nHost: a\r\n\r\nGET /hello HT"));
            assert_true(stream_read_line(held[i], 100, true, &line, &err)); /* the first is answered */
        } else {
            say(held[i], S("GET /hello HT"));
        }
    }
    /* and so the server has seen all of them */
    expect("GET /hello HTTP/1.1\r\n" CLOSE "\r\n", "HTTP/1.1 200", "hello");
    assert_int_equal(fiber_count(), before);
    ARENA(a, 1 << 20);
    say(held[0], S("TP/1.1\r\n" CLOSE "\r\n"));
    assert_true(str_ends(hear_all(held[0], &a), S("hello")));
    say(held[1], S("TP/1.1\r\n" CLOSE "\r\n"));
    assert_true(str_ends(hear_all(held[1], &a), S("hello")));
    assert_true(strstr(hear_all(held[2], &a).p, "HTTP/1.1 408") != NULL);
    for (size_t i = 0; i < ARRAY_LEN(held); i++)
        stream_close(held[i]);
}

/* A connection that is idle when the server goes is closed, one that is served is finished. */
static void stopping(void *arg)
{
    (void)arg;
    ARENA(a, 1 << 20);
    struct err err = ERR_INIT;
    CLEANUP(stream_close) struct stream *idle = dial();
    CLEANUP(stream_close) struct stream *busy = dial();
    str line;
    say(busy, S("POST /count HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"));
    assert_true(stream_read_line(busy, 100, true, &line, &err)); /* it is in the handler */
    http_server_free(TAKE(server));
    assert_int_equal(hear_all(idle, &a).n, 0);
    say(busy, S("abc"));
    str rest = hear_all(busy, &a);
    assert_true(strstr(rest.p, "Connection: close\r\n") && str_ends(rest, S("\r\n\r\n3")));
}

static void sleeper(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    IGNORE(fiber_sleep_ms(600000, &err)); /* cancelled at the end */
}

/* With all fibers in use, health checks are still answered, and nothing else is. */
static void no_fibers(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    int64_t until = clock_mono_ms() + 600000;
    while (fiber_spawn("sleeper", sleeper, NULL, until, &err))
        continue;
    assert_int_equal(err.kind, ERR_BUSY);
    expect("GET /hello HTTP/1.1\r\n" CLOSE "\r\n", "HTTP/1.1 503", NULL);
    expect("GET /health", "HTTP/1.1 408", NULL); /* a head that is not whole needs none */
    expect("GET /health HTTP/1.1\r\n" CLOSE "\r\n", "HTTP/1.1 404", "no \\\"such\\\" thing");
}

static void run_case(void *fn)
{
    struct err err = ERR_INIT;
    server = http_server_new(&(struct http_server_opts){.routes = routes,
                                                        .n_routes = ARRAY_LEN(routes),
                                                        .arg = (void *)(uintptr_t) "arg",
                                                        .request_timeout_ms = 300,
                                                        .idle_timeout_ms = 200});
    struct listener_opts opts = {
        .name = "test", .inherited_fd = -1, .max_connections = 100, .accept = http_server_accept, .arg = server};
    assert_true(net_addr_parse(S("127.0.0.1:0"), &opts.addr, &err));
    listener = listener_start(&opts, &err);
    if (!listener)
        fail_msg("%s", err.msg);
    ((fiber_fn)fn)(NULL);
    listener_stop(listener);
    listener_free(listener);
    http_server_free(server);
}

#define CASE(name)                                                                                                     \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        assert_true(fiber_main(run_case, (void *)name));                                                               \
    }
CASE(answers)
CASE(statuses)
CASE(refusals)
CASE(admitted)
CASE(pipelines)
CASE(expect_continue)
CASE(times)
CASE(half_heads)
CASE(stopping)
CASE(no_fibers)

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_answers),   cmocka_unit_test(test_statuses),
                                       cmocka_unit_test(test_admitted),  cmocka_unit_test(test_refusals),
                                       cmocka_unit_test(test_pipelines), cmocka_unit_test(test_expect_continue),
                                       cmocka_unit_test(test_times),     cmocka_unit_test(test_half_heads),
                                       cmocka_unit_test(test_stopping),  cmocka_unit_test(test_no_fibers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
