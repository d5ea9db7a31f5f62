#include "net/http_client.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/num.h"

/* --- a peer on threads, so that it is independent of what is tested --- */
static unsigned short server_port;
static int server_fd;
static int connections;

static void send_all(int fd, str s)
{
    while (s.n) {
        ssize_t n = send(fd, s.p, s.n, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        s = str_slice(s, (size_t)n, SIZE_MAX);
    }
}

static void answer(int fd, str path, str body)
{
    BUF(b, 8u << 20);
    if (str_eq(path, S("/big"))) {
        buf_printf(&b, "HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n");
        for (int i = 0; i < 3000000; i++)
            buf_addc(&b, (char)('a' + i % 26));
    } else if (str_eq(path, S("/long"))) { /* a field of 400 KB */
        buf_printf(&b, "HTTP/1.1 200 OK\r\nX-Long: ");
        for (int i = 0; i < 400000; i++)
            buf_addc(&b, 'x');
        buf_add(&b, S("\r\nContent-Length: 0\r\n\r\n"));
    } else if (str_eq(path, S("/echo"))) {
        buf_printf(&b, "HTTP/1.1 200 OK\r\nX-Seen: yes\r\nContent-Length: %zu\r\n\r\n", body.n);
        buf_add(&b, body);
    } else if (str_starts(path, S("/hello"))) {
        buf_printf(
            &b,
            "HTTP/1.1 100 Continue\r\nX-No: 1\r\n\r\nHTTP/1.1 200 OK\r\nX-Thing: a\r\nContent-Length: 5\r\n\r\nhello");
    } else {
        buf_printf(&b, "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone");
    }
    send_all(fd, buf_str(&b));
}

static void *serve_connection(void *arg)
{
    int fd = (int)(intptr_t)arg;
    BUF(in, 8u << 20);
    for (;;) {
        ptrdiff_t end;
        uint64_t length = 0;
        while ((end = str_find_str(buf_str(&in), S("\r\n\r\n"))) < 0) {
            char *p = buf_reserve(&in, 65536);
            ssize_t n = recv(fd, p, 65536, 0);
            if (n <= 0)
                goto out;
            buf_commit(&in, (size_t)n);
        }
        str head = str_slice(buf_str(&in), 0, (size_t)end + 2);
        ptrdiff_t cl = str_find_nocase(head, S("\r\ncontent-length:"));
        if (cl >= 0) {
            str v = str_slice(head, (size_t)cl + 17, SIZE_MAX), line;
            str_split(&v, '\r', &line);
            assert_true(num_u64(str_trim(line), 1u << 30, &length));
        }
        str rest = head, method, path;
        str_split(&rest, ' ', &method);
        str_split(&rest, ' ', &path);
        char *keep = str_dup(path);
        while (in.n < (size_t)end + 4 + length) {
            char *p = buf_reserve(&in, 65536);
            ssize_t n = recv(fd, p, 65536, 0);
            if (n <= 0) {
                free(keep);
                goto out;
            }
            buf_commit(&in, (size_t)n);
        }
        if (strcmp(keep, "/drop") == 0) {
            free(keep);
            goto out;
        }
        if (strcmp(keep, "/slow") != 0)
            answer(fd, str_c(keep), str_slice(buf_str(&in), (size_t)end + 4, (size_t)end + 4 + length));
        free(keep);
        buf_consume(&in, (size_t)end + 4 + length);
    }
out:
    close(fd);
    return NULL;
}

static void *serve(void *arg)
{
    (void)arg;
    for (int fd; (fd = accept(server_fd, NULL, NULL)) >= 0;) {
        pthread_t t;
        __atomic_add_fetch(&connections, 1, __ATOMIC_SEQ_CST);
        pthread_create(&t, NULL, serve_connection, (void *)(intptr_t)fd);
        pthread_detach(t);
    }
    return NULL;
}

static void start_server(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(a);
    server_fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(server_fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(server_fd, 100), 0);
    getsockname(server_fd, (struct sockaddr *)&a, &n);
    server_port = ntohs(a.sin_port);
    pthread_t t;
    pthread_create(&t, NULL, serve, NULL);
    pthread_detach(t);
}

static struct http_client *client;
static str url(struct arena *a, const char *path)
{
    return arena_printf(a, "http://127.0.0.1:%u%s", server_port, path);
}

/* --- cases, each on a fiber --- */

FIBER static void plain_requests(void *arg)
{
    (void)arg;
    for (int i = 0; i < 3; i++) {
        ARENA(a, 1 << 20);
        struct err err = ERR_INIT;
        struct http_response r;
        struct http_request q = {.method = "GET", .url = url(&a, "/hello?a=b"), .response_max = 5};
        q.sign = (struct http_sigv4){S("key"), S("secret"), S("r"), S("s3")};
        assert_true(http_request(client, &q, &a, &r, &err));
        assert_int_equal(r.status, 200);
        assert_true(str_eq(r.body, S("hello")));
        assert_true(str_eq(http_header_get(r.headers, r.n_headers, S("X-Thing")), S("a")));
        assert_int_equal(http_header_get(r.headers, r.n_headers, S("x-no")).n, 0);
        q.url = url(&a, "/other");
        q.response_max = 100;
        assert_true(http_request(client, &q, &a, &r, &err));
        assert_int_equal(r.status, 404);
        q = (struct http_request){.method = "PUT", .url = url(&a, "/echo"), .body = S("content"), .response_max = 100};
        assert_true(http_request(client, &q, &a, &r, &err));
        assert_true(str_eq(r.body, S("content")));
        q = (struct http_request){.method = "HEAD", .url = url(&a, "/none"), .response_max = 100};
        q.method = "DELETE";
        assert_true(http_request(client, &q, &a, &r, &err));
        assert_int_equal(r.status, 404);
    }
    assert_int_equal(connections, 1); /* all over one pooled connection */
}

FIBER static void limits_and_errors(void *arg)
{
    (void)arg;
    ARENA(a, 1 << 20);
    struct err err = ERR_INIT;
    struct http_response r;
    struct http_request q = {.method = "GET", .url = url(&a, "/hello"), .response_max = 4};
    assert_false(http_request(client, &q, &a, &r, &err));
    assert_int_equal(err.kind, ERR_LIMIT);
    err_clear(&err);
    q.url = url(&a, "/drop");
    assert_false(http_request(client, &q, &a, &r, &err));
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
    err_clear(&err);
    q.url = S("http://127.0.0.1:1/");
    assert_false(http_request(client, &q, &a, &r, &err));
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
    err_clear(&err);
    q.url = S("file:///etc/passwd");
    assert_false(http_request(client, &q, &a, &r, &err));
    assert_int_equal(err.kind, ERR_INVALID);
    err_clear(&err);
    struct http_header bad = {S("X"), S("a\r\nB: c")};
    q = (struct http_request){
        .method = "GET", .url = url(&a, "/hello"), .headers = &bad, .n_headers = 1, .response_max = 9};
    assert_false(http_request(client, &q, &a, &r, &err));
    assert_int_equal(err.kind, ERR_INVALID);
    err_clear(&err);
    {
        FIBER_DEADLINE(60);
        q = (struct http_request){.method = "GET", .url = url(&a, "/slow"), .response_max = 4};
        assert_false(http_request(client, &q, &a, &r, &err));
        assert_int_equal(err.kind, ERR_TIMEOUT);
        err_clear(&err);
    }
}

/* Without a deadline of the caller's too: a server that takes a request and says no more holds nobody for ever. */
FIBER static void stalls(void *arg)
{
    (void)arg;
    ARENA(a, 1 << 20);
    struct err err = ERR_INIT;
    struct http_response r;
    struct http_client *impatient = http_client_new(&(struct http_client_opts){.max_per_host = 8, .stall_s = 1}, &err);
    struct http_request q = {.method = "PUT", .url = url(&a, "/slow"), .body = S("content"), .response_max = 4};
    assert_non_null(impatient);
    assert_false(http_request(impatient, &q, &a, &r, &err));
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
    http_client_free(impatient);
}

struct flow {
    size_t seen, sent, piece;
    bool fails;
    char bytes[70000];
};
FIBER static bool take(void *arg, str piece, struct err *err)
{
    struct flow *f = arg;
    for (size_t i = 0; i < piece.n; i++)
        assert_int_equal(piece.p[i], 'a' + (int)((f->seen + i) % 26));
    f->seen += piece.n;
    if (f->fails)
        return err_set(err, ERR_CONFLICT, "had enough");
    return fiber_sleep_ms(1, err); /* slower than the peer: the transfer pauses */
}
FIBER static bool give(void *arg, str *piece, struct err *err)
{
    struct flow *f = arg;
    if (!fiber_yield(err))
        return false;
    size_t n = MIN(f->piece, 500000 - f->sent);
    for (size_t i = 0; i < n; i++)
        f->bytes[i] = (char)('a' + (f->sent + i) % 26);
    f->sent += n;
    *piece = str_n(f->bytes, n);
    return true;
}

FIBER static void streams(void *arg)
{
    (void)arg;
    struct flow *f = xnew(struct flow);
    ARENA(a, 1 << 20);
    struct err err = ERR_INIT;
    struct http_response r;
    struct http_request q = {.method = "GET", .url = url(&a, "/big"), .response_max = 100, .on_data = take, .arg = f};
    assert_true(http_request(client, &q, &a, &r, &err));
    assert_int_equal(f->seen, 3000000);
    assert_int_equal(r.body.n, 0);
    q.url = url(&a, "/missing"); /* not a 2xx: the body is kept */
    assert_true(http_request(client, &q, &a, &r, &err));
    assert_true(str_eq(r.body, S("none")));
    f->seen = 0;
    f->fails = true;
    q.url = url(&a, "/big");
    assert_false(http_request(client, &q, &a, &r, &err));
    assert_int_equal(err.kind, ERR_CONFLICT);
    err_clear(&err);
    static const size_t pieces[] = {70000, 4096, 999};
    for (size_t i = 0; i < ARRAY_LEN(pieces); i++) {
        *f = (struct flow){.piece = pieces[i]};
        q = (struct http_request){.method = "PUT",
                                  .url = url(&a, "/echo"),
                                  .next_body = give,
                                  .body_size = 500000,
                                  .response_max = 1,
                                  .on_data = take,
                                  .arg = f};
        assert_true(http_request(client, &q, &a, &r, &err));
        assert_int_equal(f->seen, 500000);
    }
    *f = (struct flow){.piece = 1000};
    q.body_size = 500001; /* the source ends early */
    assert_false(http_request(client, &q, &a, &r, &err));
    assert_int_equal(err.kind, ERR_INTERNAL);
    free(f);
}

/* curl says OUT_OF_MEMORY of a field that is longer than it takes: that is the peer's doing, and ends this request
 * alone. */
FIBER static void long_field(void *arg)
{
    (void)arg;
    ARENA(a, 1 << 20);
    struct err err = ERR_INIT;
    struct http_response r;
    struct http_request q = {.method = "GET", .url = url(&a, "/long"), .response_max = 9};
    assert_false(http_request(client, &q, &a, &r, &err));
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
    err_clear(&err);
    q = (struct http_request){.method = "GET", .url = url(&a, "/hello"), .response_max = 9};
    assert_true(http_request(client, &q, &a, &r, &err));
}

static int parallel_done;
FIBER static void one_of_many(void *arg)
{
    (void)arg;
    ARENA(a, 1 << 20);
    struct err err = ERR_INIT;
    struct http_response r;
    struct http_request q = {.method = "GET", .url = url(&a, "/hello"), .response_max = 5};
    assert_true(http_request(client, &q, &a, &r, &err));
    parallel_done++;
}
FIBER static void many(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    int before = connections;
    FIBER_GROUP(g, 200);
    for (int i = 0; i < 200; i++)
        assert_true(fiber_group_spawn(&g, "test", one_of_many, NULL, &err));
    assert_true(fiber_group_wait(&g, &err));
    assert_int_equal(parallel_done, 200);
    assert_true(connections - before <= 8);
}

FIBER static void run_case(void *fn)
{
    struct err err = ERR_INIT;
    client = http_client_new(&(struct http_client_opts){.max_per_host = 8}, &err);
    assert_non_null(client);
    connections = 0;
    ((fiber_fn)fn)(NULL);
    http_client_free(client);
}

#define CASE(name)                                                                                                     \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        assert_true(fiber_main(run_case, (void *)name));                                                               \
    }
CASE(plain_requests)
CASE(limits_and_errors)
CASE(stalls)
CASE(streams)
CASE(long_field)
CASE(many)

int main(void)
{
    start_server();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_requests), cmocka_unit_test(test_limits_and_errors), cmocka_unit_test(test_stalls),
        cmocka_unit_test(test_streams),        cmocka_unit_test(test_long_field),        cmocka_unit_test(test_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
