/*
 * A connection is either idle (given to stream_idle, an idle timer runs) or served by one fiber, from the moment that a
 * whole head is there until no further one is. Half a head is waited for without a fiber. Closing happens in two places
 * only: close_conn for idle ones, the end of serve for the others.
 */
#include "net/http_server.h"

#include "base/clock.h"
#include "base/metrics.h"
#include "net/http_parse.h"

#define SERVER_MAGIC 0x48545453u
#define CONN_MAGIC 0x48434e4eu
#define ROUTES_MAX 256
#define REQUEST_ARENA_MAX (64u * 1024 * 1024) /* bodies are bounded by their routes before */
#define REPLY_HEAD_MAX (16u * 1024)
#define DRAIN_MAX (64u * 1024) /* of a body that its handler did not read; more closes the connection */
#define MIN_BYTES_PER_S 100

struct http_server {
    uint32_t magic;
    struct http_route *routes;
    size_t n_routes;
    void *arg;
    unsigned request_timeout_ms, idle_timeout_ms;
    struct list conns;
    bool is_stopping;
    bool is_held; /* http_server_free is still walking conns */
};

/* Where the body of the request in hand stands. */
enum body_state { BODY_NONE, BODY_LENGTH, BODY_CHUNK_HEAD, BODY_CHUNK_DATA, BODY_CHUNK_END, BODY_TRAILER, BODY_DONE };
enum reply_state { REPLY_NONE, REPLY_STREAMING, REPLY_DONE, REPLY_BROKEN };

struct http_conn {
    uint32_t magic;
    struct list_node node;
    struct http_server *server;
    struct stream *stream;
    struct fiber_timer idle_timer;
    bool has_begun; /* while idle: part of a head is here */
    /* of the request in hand */
    enum body_state body;
    enum reply_state reply;
    uint64_t body_left; /* of the whole body, or of the chunk */
    bool keeps_alive, is_head, is_http10, wants_continue;
    struct buf extra; /* header lines from http_reply_header */
};

static void on_ready(void *arg);
static void on_idle_timeout(void *arg);
FIBER static void serve(void *arg);

/* --- life --- */

struct http_server *http_server_new(const struct http_server_opts *opts)
{
    assert(opts->n_routes <= ROUTES_MAX);
    struct http_server *s = xnew(struct http_server);
    s->magic = SERVER_MAGIC;
    s->routes = xcalloc(MAX(opts->n_routes, 1), sizeof(*s->routes));
    if (opts->n_routes)
        memcpy(s->routes, opts->routes, opts->n_routes * sizeof(*s->routes));
    s->n_routes = opts->n_routes;
    s->arg = opts->arg;
    s->request_timeout_ms = opts->request_timeout_ms ? opts->request_timeout_ms : 60000;
    s->idle_timeout_ms = opts->idle_timeout_ms ? opts->idle_timeout_ms : 75000;
    list_init(&s->conns);
    return s;
}

static void server_maybe_free(struct http_server *s)
{
    if (!s->is_stopping || s->is_held || !list_empty(&s->conns))
        return;
    s->magic = 0;
    free(s->routes);
    free(s);
}

static void conn_free(struct http_conn *c)
{
    struct http_server *s = c->server;
    fiber_timer_stop(&c->idle_timer);
    stream_close(c->stream);
    buf_done(&c->extra);
    list_remove(&c->node);
    c->magic = 0;
    free(c);
    server_maybe_free(s);
}

/* A whole head, or what can never be one. The parser says so, so that what it refuses is answered at once. */
static bool has_head(struct http_conn *c)
{
    ARENA(scratch, REQUEST_ARENA_MAX);
    struct http_head h;
    struct err err = ERR_INIT;
    int status;
    str input = stream_input(c->stream);
    return input.n && http_parse_head(input, &scratch, &h, &status, &err) != HTTP_MORE;
}

/* Part of a head may be there already: then the time of a request runs, not that between two. */
static void conn_idle(struct http_conn *c)
{
    c->has_begun = stream_input(c->stream).n > 0;
    unsigned ms = c->has_begun ? c->server->request_timeout_ms : c->server->idle_timeout_ms;
    fiber_timer_start(&c->idle_timer, ms, on_idle_timeout, c);
    stream_idle(c->stream, on_ready, c);
}

static void close_idle(struct http_conn *c)
{
    stream_idle_stop(c->stream);
    conn_free(c);
}

static bool conn_is_idle(const struct http_conn *c)
{
    return list_in(&c->idle_timer.node);
}

void http_server_free(struct http_server *s)
{
    if (!s)
        return;
    CHECK(s, SERVER_MAGIC);
    s->is_stopping = s->is_held = true;
    LIST_EACH(&s->conns, n)
    {
        struct http_conn *c = LIST_ITEM(n, struct http_conn, node);
        if (conn_is_idle(c))
            close_idle(c);
    }
    s->is_held = false;
    server_maybe_free(s);
}

void http_server_accept(void *server, struct stream *stream)
{
    struct http_server *s = server;
    CHECK(s, SERVER_MAGIC);
    if (s->is_stopping) {
        stream_close(stream);
        return;
    }
    struct http_conn *c = xnew(struct http_conn);
    c->magic = CONN_MAGIC;
    c->server = s;
    c->stream = stream;
    buf_init(&c->extra, REPLY_HEAD_MAX);
    list_push(&s->conns, &c->node);
    conn_idle(c);
}

static void on_idle_timeout(void *arg)
{
    struct http_conn *c = arg;
    if (c->has_begun) {
        metric_inc_label(M_HTTP_REQUESTS, "4xx");
        (void)stream_try_write(c->stream,
                               S("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"));
    }
    close_idle(c);
}

/* Whether a whole head is there, and what it asks for must be answered in any case. */
static bool is_vital(struct http_conn *c)
{
    str input = stream_input(c->stream), method, path;
    if (!memmem(input.p, input.n, "\r\n\r\n", 4) || !str_split(&input, ' ', &method) || !str_split(&input, ' ', &path))
        return false;
    for (size_t i = 0; i < c->server->n_routes; i++) {
        const struct http_route *r = &c->server->routes[i];
        if (r->is_vital && str_eq(method, str_c(r->method)) && str_eq(path, str_c(r->path)))
            return true;
    }
    return false;
}

static bool start_serving(struct http_conn *c, struct err *err)
{
    return is_vital(c) ? fiber_spawn_vital("http.vital", serve, c, FIBER_NO_DEADLINE, err)
                       : fiber_spawn("http.request", serve, c, FIBER_NO_DEADLINE, err);
}

/* Bytes came, or the peer went away. */
static void on_ready(void *arg)
{
    struct http_conn *c = arg;
    CHECK(c, CONN_MAGIC);
    struct err err = ERR_INIT;
    bool is_whole = has_head(c);
    if (!is_whole && !stream_at_end(c->stream)) {
        if (!c->has_begun)
            conn_idle(c); /* its first bytes */
        else
            stream_idle(c->stream, on_ready, c); /* the timer goes on: a few bytes buy no time */
        return;
    }
    fiber_timer_stop(&c->idle_timer);
    if (is_whole && start_serving(c, &err))
        return;
    if (err_is_set(&err)) {
        metric_inc_label(M_HTTP_REQUESTS, "5xx");
        (void)stream_try_write(c->stream,
                               S("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"));
    }
    conn_free(c);
}

/* --- body --- */

FIBER static bool chunk_head(struct http_conn *c, struct err *err)
{
    for (;;) {
        size_t used;
        enum http_parse r = c->body == BODY_TRAILER ? http_parse_trailer(stream_input(c->stream), &used)
                                                    : http_parse_chunk(stream_input(c->stream), &c->body_left, &used);
        if (r == HTTP_BAD)
            return err_set(err, ERR_INVALID, "malformed chunked body");
        if (r == HTTP_MORE) {
            if (!stream_fill(c->stream, err))
                return false;
            continue;
        }
        stream_consume(c->stream, used);
        if (c->body == BODY_TRAILER)
            c->body = BODY_DONE;
        else
            c->body = c->body_left ? BODY_CHUNK_DATA : BODY_TRAILER;
        return true;
    }
}

FIBER static bool read_piece(struct http_conn *c, str *piece, struct err *err)
{
    char crlf[2];
    for (;;) {
        switch (c->body) {
        case BODY_NONE:
        case BODY_DONE:
            *piece = S("");
            return true;
        case BODY_LENGTH:
        case BODY_CHUNK_DATA:
            if (!stream_read_some(c->stream, (size_t)MIN(c->body_left, 64 * 1024), piece, err))
                return false;
            c->body_left -= piece->n;
            if (c->body_left == 0)
                c->body = c->body == BODY_LENGTH ? BODY_DONE : BODY_CHUNK_END;
            return true;
        case BODY_CHUNK_END:
            if (!stream_read_exact(c->stream, crlf, 2, err))
                return false;
            if (memcmp(crlf, "\r\n", 2) != 0)
                return err_set(err, ERR_INVALID, "chunk does not end where it said");
            c->body = BODY_CHUNK_HEAD;
            continue;
        case BODY_CHUNK_HEAD:
        case BODY_TRAILER:
            if (!chunk_head(c, err))
                return false;
        }
    }
}

/* RFC 9110 10.1.1: the client waits for this before it sends the body. */
FIBER static bool say_continue(struct http_conn *c, struct err *err)
{
    if (!c->wants_continue)
        return true;
    c->wants_continue = false;
    return stream_write(c->stream, S("HTTP/1.1 100 Continue\r\n\r\n"), err) && stream_flush(c->stream, err);
}

bool http_read_body(struct http_req *req, str *piece, struct err *err)
{
    struct http_conn *c = req->conn;
    if (say_continue(c, err) && read_piece(c, piece, err))
        return true;
    c->keeps_alive = false;
    return false;
}

FIBER static bool read_whole_body(struct http_req *req, size_t max, struct err *err)
{
    BUF(b, max);
    for (;;) {
        str piece;
        if (!http_read_body(req, &piece, err))
            return false;
        if (piece.n == 0)
            break;
        buf_add(&b, piece);
        if (!buf_ok(&b))
            return err_set(err, ERR_LIMIT, "body is larger than %zu bytes", max);
    }
    req->body = arena_str(req->arena, buf_str(&b));
    return true;
}

/* What the handler left unread stands before the next request. */
FIBER static void skip_body(struct http_conn *c)
{
    size_t skipped = 0;
    struct err err = ERR_INIT;
    while (c->keeps_alive && c->body != BODY_DONE && c->body != BODY_NONE) {
        str piece;
        if (c->wants_continue || skipped > DRAIN_MAX || !read_piece(c, &piece, &err))
            c->keeps_alive = false;
        else
            skipped += piece.n;
    }
}

/* --- reply --- */

static const char *reason_phrase(int status)
{
    static const struct {
        int status;
        const char *text;
    } table[] = {{200, "OK"},
                 {201, "Created"},
                 {202, "Accepted"},
                 {204, "No Content"},
                 {206, "Partial Content"},
                 {207, "Multi-Status"},
                 {301, "Moved Permanently"},
                 {302, "Found"},
                 {303, "See Other"},
                 {304, "Not Modified"},
                 {307, "Temporary Redirect"},
                 {308, "Permanent Redirect"},
                 {400, "Bad Request"},
                 {401, "Unauthorized"},
                 {403, "Forbidden"},
                 {404, "Not Found"},
                 {405, "Method Not Allowed"},
                 {408, "Request Timeout"},
                 {409, "Conflict"},
                 {412, "Precondition Failed"},
                 {413, "Content Too Large"},
                 {414, "URI Too Long"},
                 {415, "Unsupported Media Type"},
                 {416, "Range Not Satisfiable"},
                 {429, "Too Many Requests"},
                 {431, "Request Header Fields Too Large"},
                 {500, "Internal Server Error"},
                 {501, "Not Implemented"},
                 {503, "Service Unavailable"},
                 {504, "Gateway Timeout"},
                 {505, "HTTP Version Not Supported"},
                 {507, "Insufficient Storage"}};
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (table[i].status == status)
            return table[i].text;
    return "Status";
}

#define STATUSES(X)                                                                                                    \
    X(NONE, 200)                                                                                                       \
    X(INVALID, 400)                                                                                                    \
    X(NOT_FOUND, 404)                                                                                                  \
    X(EXISTS, 409)                                                                                                     \
    X(DENIED, 403)                                                                                                     \
    X(LIMIT, 429)                                                                                                      \
    X(CONFLICT, 409)                                                                                                   \
    X(UNAVAILABLE, 503)                                                                                                \
    X(TIMEOUT, 504)                                                                                                    \
    X(CANCELLED, 503)                                                                                                  \
    X(INTERNAL, 500)                                                                                                   \
    X(BUSY, 503)                                                                                                       \
    X(QUOTA, 507) /* RFC 4918 11.5 */
#define STATUS(kind, status) +1
_Static_assert(STATUSES(STATUS) == ERR_KINDS_, "each kind of error has a status");
#undef STATUS

int http_status_of(enum err_kind kind)
{
    static const int statuses[ERR_KINDS_] = {
#define STATUS(kind, status) [ERR_##kind] = status,
        STATUSES(STATUS)
#undef STATUS
    };
    return statuses[kind < ERR_KINDS_ ? kind : ERR_INTERNAL];
}

static void count_reply(int status)
{
    static const char *const classes[] = {"1xx", "2xx", "3xx", "4xx", "5xx"};
    metric_inc_label(M_HTTP_REQUESTS, classes[status / 100 - 1]);
}

static void add_date(struct buf *b)
{
    time_t now = (time_t)clock_unix();
    struct tm tm;
    char text[40];
    gmtime_r(&now, &tm);
    (void)strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &tm); /* RFC 9110 5.6.7 */
    buf_printf(b, "Date: %s\r\n", text);
}

/* content_length SIZE_MAX: chunked, or until close for HTTP/1.0. */
static void add_head(struct http_conn *c, struct buf *b, int status, const char *content_type, size_t content_length)
{
    assert(status >= 200 && status <= 599);
    if (c->server->is_stopping || (content_length == SIZE_MAX && c->is_http10))
        c->keeps_alive = false;
    buf_printf(b, "HTTP/1.1 %d %s\r\n", status, reason_phrase(status));
    add_date(b);
    if (content_type)
        buf_printf(b, "Content-Type: %s\r\n", content_type);
    if (content_length != SIZE_MAX) {
        if (status != 204 && status != 304)
            buf_printf(b, "Content-Length: %zu\r\n", content_length);
    } else if (!c->is_http10) {
        buf_add(b, S("Transfer-Encoding: chunked\r\n"));
    }
    if (!c->keeps_alive)
        buf_add(b, S("Connection: close\r\n"));
    else if (c->is_http10)
        buf_add(b, S("Connection: keep-alive\r\n"));
    buf_add(b, buf_str(&c->extra));
    buf_add(b, S("\r\n"));
    buf_clear(&c->extra);
    count_reply(status);
}

void http_reply_header(struct http_req *req, str name, str value)
{
    struct buf *b = &req->conn->extra;
    buf_add(b, name);
    buf_add(b, S(": "));
    for (size_t i = 0; i < value.n; i++) /* a value never carries CR or LF */
        buf_addc(b, ascii_is_ctl((unsigned char)value.p[i]) ? ' ' : value.p[i]);
    buf_add(b, S("\r\n"));
}

void http_reply(struct http_req *req, int status, const char *content_type, str body)
{
    struct http_conn *c = req->conn;
    assert(c->reply == REPLY_NONE);
    BUF(head, REPLY_HEAD_MAX);
    add_head(c, &head, status, content_type, body.n);
    struct err err = ERR_INIT;
    bool ok = stream_write(c->stream, buf_str(&head), &err);
    if (ok && !c->is_head && status != 204 && status != 304)
        ok = stream_write(c->stream, body, &err);
    c->reply = ok ? REPLY_DONE : REPLY_BROKEN;
}

void http_reply_json(struct http_req *req, int status, str json)
{
    http_reply(req, status, "application/json", json);
}

void http_reply_err(struct http_req *req, const struct err *err)
{
    BUF(b, 4096);
    buf_add(&b, S("{\"error\":"));
    buf_add_json(&b, str_c(err_kind_name(err->kind)));
    buf_add(&b, S(",\"message\":"));
    buf_add_json(&b, str_c(err->msg));
    buf_add(&b, S("}\n"));
    http_reply_json(req, http_status_of(err->kind), buf_str(&b));
}

bool http_reply_begin(struct http_req *req, int status, const char *content_type, struct err *err)
{
    struct http_conn *c = req->conn;
    assert(c->reply == REPLY_NONE);
    BUF(head, REPLY_HEAD_MAX);
    add_head(c, &head, status, content_type, SIZE_MAX);
    bool ok = stream_write(c->stream, buf_str(&head), err);
    c->reply = ok ? REPLY_STREAMING : REPLY_BROKEN;
    return ok;
}

bool http_reply_piece(struct http_req *req, str piece, struct err *err)
{
    struct http_conn *c = req->conn;
    assert(c->reply == REPLY_STREAMING || c->reply == REPLY_BROKEN);
    if (c->reply == REPLY_BROKEN)
        return err_set(err, ERR_UNAVAILABLE, "connection is broken");
    if (piece.n == 0 || c->is_head) /* an empty chunk would be the end */
        return true;
    bool ok = c->is_http10 || stream_printf(c->stream, err, "%zx\r\n", piece.n);
    ok = ok && stream_write(c->stream, piece, err) && (c->is_http10 || stream_write(c->stream, S("\r\n"), err));
    if (!ok)
        c->reply = REPLY_BROKEN;
    return ok;
}

void http_reply_abort(struct http_req *req)
{
    req->conn->reply = REPLY_BROKEN;
}

FIBER static void finish_reply(struct http_req *req)
{
    struct http_conn *c = req->conn;
    struct err err = ERR_INIT;
    if (c->reply == REPLY_NONE)
        http_reply(req, 500, NULL, S(""));
    if (c->reply == REPLY_STREAMING)
        c->reply =
            c->is_head || c->is_http10 || stream_write(c->stream, S("0\r\n\r\n"), &err) ? REPLY_DONE : REPLY_BROKEN;
}

/* --- requests --- */

str http_req_header(const struct http_req *req, str name)
{
    return http_header_get(req->headers, req->n_headers, name);
}

str http_req_param(const struct http_req *req, str name)
{
    for (size_t i = 0; i < req->n_params; i++)
        if (str_eq(req->params[i].name, name))
            return req->params[i].value;
    return STR_NONE;
}

static bool path_matches(const struct http_route *r, str path)
{
    str want = str_c(r->path);
    if (str_ends(want, S("*")))
        return str_starts(path, str_slice(want, 0, want.n - 1));
    return str_eq(path, want);
}

static bool method_matches(const struct http_route *r, str method)
{
    return strcmp(r->method, "*") == 0 || str_eq(method, str_c(r->method)) ||
           (strcmp(r->method, "GET") == 0 && str_eq(method, S("HEAD")));
}

/* NULL after having answered 404 or 405. */
FIBER static const struct http_route *find_route(struct http_req *req)
{
    struct http_server *s = req->conn->server;
    BUF(allow, 1024);
    for (size_t i = 0; i < s->n_routes; i++) {
        const struct http_route *r = &s->routes[i];
        if (!path_matches(r, req->path))
            continue;
        if (method_matches(r, req->method))
            return r;
        buf_printf(&allow, "%s%s", allow.n ? ", " : "", r->method);
    }
    if (allow.n) {
        http_reply_header(req, S("Allow"), buf_str(&allow));
        http_reply(req, 405, "text/plain", S("method not allowed\n"));
    } else {
        http_reply(req, 404, "text/plain", S("not found\n"));
    }
    return NULL;
}

FIBER static void refuse(struct http_req *req, int status, const struct err *err)
{
    req->conn->keeps_alive = false;
    BUF(b, 512);
    buf_printf(&b, "%s\n", err->msg);
    http_reply(req, status, "text/plain", buf_str(&b));
}

/* Who is turned away is not listened to: unless his whole body is here already, the connection ends with the answer. */
FIBER static bool is_admitted(const struct http_route *route, struct http_req *req)
{
    struct http_conn *c = req->conn;
    bool keeps_alive = c->keeps_alive;
    bool is_body_here = c->body == BODY_NONE || (c->body == BODY_LENGTH && c->body_left <= stream_input(c->stream).n);
    c->keeps_alive = keeps_alive && is_body_here;
    if (!route->admit(c->server->arg, req))
        return false;
    c->keeps_alive = keeps_alive;
    return true;
}

FIBER static void handle(struct http_req *req)
{
    struct http_conn *c = req->conn;
    const struct http_route *route = find_route(req);
    if (!route)
        return;
    struct err err = ERR_INIT;
    if (route->admit && !is_admitted(route, req))
        return;
    if (!route->is_streaming) {
        if (req->content_length != UINT64_MAX && req->content_length > route->body_max) {
            err_set(&err, ERR_LIMIT, "body is larger than %zu bytes", route->body_max);
            refuse(req, 413, &err);
            return;
        }
        if (c->body != BODY_NONE && !read_whole_body(req, route->body_max, &err)) {
            refuse(req,
                   err.kind == ERR_LIMIT         ? 413
                   : err.kind == ERR_TIMEOUT     ? 408
                   : err.kind == ERR_UNAVAILABLE ? 400
                                                 : http_status_of(err.kind),
                   &err); /* UNAVAILABLE: the peer went away in the middle of it */
            return;
        }
    }
    route->handler(c->server->arg, req);
}

static bool prepare(struct http_req *req, const struct http_head *h, struct err *err)
{
    struct http_conn *c = req->conn;
    req->method = arena_str(req->arena, h->method);
    req->headers = h->headers;
    req->n_headers = h->n_headers;
    for (size_t i = 0; i < h->n_headers; i++) /* they are views of the input, which goes on */
        h->headers[i].value = arena_str(req->arena, h->headers[i].value);
    req->content_length = h->is_chunked ? UINT64_MAX : h->has_length ? h->content_length : 0;
    req->peer = stream_peer(c->stream);
    req->has_user = stream_peer_user(c->stream, &req->user);
    req->is_tls = stream_has_tls(c->stream);
    str query;
    if (!http_parse_target(h->target, req->arena, &req->path, &query, err) ||
        !http_parse_query(query, req->arena, &req->params, &req->n_params, err))
        return false;
    req->query = arena_str(req->arena, query);
    return true;
}

static void conn_begin(struct http_conn *c, const struct http_head *h)
{
    c->keeps_alive = h->keeps_alive;
    c->is_http10 = h->minor == 0;
    c->is_head = str_eq(h->method, S("HEAD"));
    c->body = h->is_chunked ? BODY_CHUNK_HEAD : h->has_length && h->content_length ? BODY_LENGTH : BODY_NONE;
    c->body_left = h->has_length ? h->content_length : 0;
    c->wants_continue = h->wants_continue && c->body != BODY_NONE;
}

/* The head, which is whole. False when the connection ends: what it sent was answered with an error. */
FIBER static bool read_head(struct http_req *req, struct http_head *h)
{
    struct err err = ERR_INIT;
    int status = 400;
    enum http_parse r = http_parse_head(stream_input(req->conn->stream), req->arena, h, &status, &err);
    assert(r != HTTP_MORE); /* has_head said so */
    if (r == HTTP_BAD)
        refuse(req, status, &err);
    return r == HTTP_DONE;
}

/* One request whose head is here, to the last byte of its answer. False: the connection is to be closed. */
FIBER static bool serve_one(struct http_conn *c)
{
    ARENA(a, REQUEST_ARENA_MAX);
    struct http_req req = {.conn = c, .arena = &a};
    FIBER_DEADLINE(c->server->request_timeout_ms);
    c->reply = REPLY_NONE;
    c->keeps_alive = c->is_head = c->is_http10 = c->wants_continue = false;
    c->body = BODY_NONE;
    struct http_head h;
    if (!read_head(&req, &h))
        return false;
    struct err err = ERR_INIT;
    conn_begin(c, &h);
    bool ok = prepare(&req, &h, &err);
    stream_consume(c->stream, h.length);
    if (!ok) {
        refuse(&req, 400, &err);
        return false;
    }
    stream_set_min_rate(c->stream, MIN_BYTES_PER_S);
    handle(&req);
    finish_reply(&req);
    skip_body(c);
    stream_set_min_rate(c->stream, 0);
    if (c->reply == REPLY_BROKEN) {
        stream_abort(TAKE(c->stream));
        return false;
    }
    if (c->keeps_alive && stream_input(c->stream).n == 0)
        return stream_flush(c->stream, &err);
    return c->keeps_alive;
}

FIBER static void serve(void *arg)
{
    struct http_conn *c = arg;
    CHECK(c, CONN_MAGIC);
    for (;;) {
        bool goes_on = serve_one(c);
        if (!goes_on || c->server->is_stopping) {
            conn_free(c);
            return;
        }
        if (!has_head(c))
            break;
    }
    conn_idle(c);
}
