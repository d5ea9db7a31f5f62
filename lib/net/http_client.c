/*
 * A curl multi handle driven by the loop. curl tells which sockets and which timeout it wants (on_socket, on_timer);
 * the loop tells curl what happened (on_poll, on_timeout), and curl runs the transfers and calls on_header, on_write
 * and on_read. Those only store or take bytes and wake the fiber; nothing resumes inside them. The fiber removes its
 * transfer itself (curl_multi_remove_handle), after which curl knows nothing of it any more.
 */
#include "net/http_client.h"

#include <curl/curl.h>
#include <uv.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/metrics.h"
#include "fiber/loop.h"
#include "net/sigv4.h"

#define CLIENT_MAGIC 0x48545043u
#define HEADERS_MAX 100
#define HEADER_BYTES_MAX (64u * 1024)
#define PIECES_HIGH (256u * 1024) /* received and not yet handed on: above it the transfer is paused */
#define IDLE_HANDLES_MAX 32
#define STALL_BYTES 100L /* a second */

struct http_client {
    uint32_t magic;
    CURLM *multi;
    uv_timer_t *timer;
    struct http_client_opts opts;
    unsigned n_active;
    CURL *idle[IDLE_HANDLES_MAX]; /* easy handles for reuse */
    unsigned n_idle;
};

/* A socket that curl wants watched. Freed by its close callback. */
struct socket_watch {
    uv_poll_t poll;
    struct http_client *client;
    curl_socket_t fd;
};

/* One request; lives on its fiber's stack until curl_multi_remove_handle. */
struct transfer {
    struct http_client *client;
    const struct http_request *req;
    CURL *easy;
    struct fiber *fiber;
    struct arena *arena;
    struct http_response res;
    size_t header_bytes;
    struct buf in;     /* received bytes: all of them, or those not yet given to on_data */
    str out;           /* bytes of next_body that curl has not taken yet */
    uint64_t out_left; /* of body_size, not yet obtained from next_body */
    bool in_paused, out_paused, wants_out, is_done;
    CURLcode code;
    char text[CURL_ERROR_SIZE];
    struct err err; /* what a callback found wrong; beats curl's own code */
};

static void free_handle(uv_handle_t *h)
{
    free(h);
}

/* --- loop and curl --- */

static void finish_transfers(struct http_client *c)
{
    int left;
    for (CURLMsg *m; (m = curl_multi_info_read(c->multi, &left));) {
        if (m->msg != CURLMSG_DONE)
            continue;
        struct transfer *t = NULL;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&t);
        t->code = m->data.result;
        t->is_done = true;
        fiber_wake(t->fiber);
    }
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct socket_watch *w = CONTAINER_OF(poll, struct socket_watch, poll);
    struct http_client *c = w->client;
    int flags = status < 0 ? CURL_CSELECT_ERR : 0;
    if (events & UV_READABLE)
        flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        flags |= CURL_CSELECT_OUT;
    int running;
    curl_multi_socket_action(c->multi, w->fd, flags, &running);
    finish_transfers(c);
}

static int on_socket(CURL *easy UNUSED, curl_socket_t fd, int what, void *client, void *watch)
{
    struct http_client *c = client;
    struct socket_watch *w = watch;
    if (what == CURL_POLL_REMOVE) {
        if (w) {
            curl_multi_assign(c->multi, fd, NULL);
            uv_poll_stop(&w->poll);
            uv_close((uv_handle_t *)&w->poll, free_handle);
        }
        return 0;
    }
    if (!w) {
        w = xnew(struct socket_watch);
        w->client = c;
        w->fd = fd;
        if (uv_poll_init_socket(fiber_loop(), &w->poll, fd) != 0) {
            free(w);
            return -1;
        }
        curl_multi_assign(c->multi, fd, w);
    }
    int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    return uv_poll_start(&w->poll, events, on_poll) == 0 ? 0 : -1;
}

static void on_timeout(uv_timer_t *timer)
{
    struct http_client *c = timer->data;
    int running;
    curl_multi_socket_action(c->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    finish_transfers(c);
}

static int on_timer(CURLM *multi UNUSED, long ms, void *client)
{
    struct http_client *c = client;
    if (ms < 0)
        uv_timer_stop(c->timer);
    else
        uv_timer_start(c->timer, on_timeout, (uint64_t)ms, 0);
    return 0;
}

/* --- one transfer's callbacks --- */

static bool is_streaming(const struct transfer *t)
{
    return t->req->on_data && t->res.status >= 200 && t->res.status < 300;
}

/* One header line. A status line begins anew: what came before belonged to an interim answer. */
static size_t on_header(char *p, size_t size, size_t count, void *arg)
{
    struct transfer *t = arg;
    size_t n = size * count;
    str line = str_trim(str_n(p, n));
    t->header_bytes += n;
    if (str_starts(line, S("HTTP/"))) {
        long status = 0;
        curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
        t->res.status = (int)status;
        t->res.n_headers = 0;
        return n;
    }
    ptrdiff_t colon = str_find(line, ':');
    if (colon <= 0)
        return n;
    if (t->res.n_headers == HEADERS_MAX || t->header_bytes > HEADER_BYTES_MAX) {
        err_set(&t->err, ERR_LIMIT, "answer has too many headers");
        return 0;
    }
    char *name = arena_strz(t->arena, str_trim(str_slice(line, 0, (size_t)colon)));
    for (char *q = name; *q; q++)
        *q = (char)ascii_lower((unsigned char)*q);
    t->res.headers[t->res.n_headers++] =
        (struct http_header){str_c(name), arena_str(t->arena, str_trim(str_slice(line, (size_t)colon + 1, SIZE_MAX)))};
    return n;
}

static size_t on_write(char *p, size_t size, size_t count, void *arg)
{
    struct transfer *t = arg;
    size_t n = size * count;
    if (is_streaming(t)) {
        if (t->in.n > 0 && t->in.n + n > PIECES_HIGH) {
            t->in_paused = true;
            return CURL_WRITEFUNC_PAUSE;
        }
        fiber_wake(t->fiber);
    }
    buf_add_n(&t->in, p, n);
    if (!buf_ok(&t->in)) {
        err_set(&t->err, ERR_LIMIT, "answer is larger than %zu bytes", t->in.cap);
        return 0;
    }
    return n;
}

static size_t on_read(char *p, size_t size, size_t count, void *arg)
{
    struct transfer *t = arg;
    if (t->out.n == 0) {
        if (t->out_left == 0)
            return 0;
        t->out_paused = t->wants_out = true;
        fiber_wake(t->fiber);
        return CURL_READFUNC_PAUSE;
    }
    size_t n = MIN(t->out.n, size * count);
    memcpy(p, t->out.p, n);
    t->out = str_slice(t->out, n, SIZE_MAX);
    return n;
}

/* --- preparing --- */

static bool add_header(struct curl_slist **list, str name, str value, struct err *err)
{
    if (memchr(value.p ? value.p : "", '\n', value.n) || memchr(value.p ? value.p : "", '\r', value.n))
        return err_set(err, ERR_INVALID, "line break in header '%.*s'", STR_ARG(name));
    BUF(line, HEADER_BYTES_MAX);
    buf_add(&line, name);
    buf_addc(&line, value.n ? ':' : ';'); /* curl's way to say "present and empty" */
    if (value.n) {
        buf_addc(&line, ' ');
        buf_add(&line, value);
    }
    if (!buf_ok(&line))
        return err_set(err, ERR_LIMIT, "header '%.*s' is too long", STR_ARG(name));
    struct curl_slist *more = curl_slist_append(*list, buf_z(&line));
    if (!more)
        panic("out of memory");
    *list = more;
    return true;
}

static char *url_part(CURLU *u, CURLUPart part, unsigned flags)
{
    char *s = NULL;
    return curl_url_get(u, part, &s, flags) == CURLUE_OK ? s : NULL;
}

/* Sign: url gets the canonical form, headers the Host, date, hash and Authorization lines. */
static bool sign_parts(const struct http_request *req, str host, str path, str query, struct curl_slist **headers,
                       struct buf *url_tail, struct err *err)
{
    BUF(cpath, HEADER_BYTES_MAX);
    BUF(cquery, HEADER_BYTES_MAX);
    if (!sigv4_canonical_path(path, &cpath, err) || !sigv4_canonical_query(query, &cquery, err))
        return false;
    char hash[65];
    str payload = str_c(SIGV4_UNSIGNED_PAYLOAD);
    if (!req->next_body) {
        sigv4_sha256_hex(req->body, hash);
        payload = str_c(hash);
    } else if (req->body_sha256_hex.n) {
        payload = req->body_sha256_hex;
    }
    struct http_header signed_headers[HEADERS_MAX];
    size_t n = 0;
    signed_headers[n++] = (struct http_header){S("host"), host};
    for (size_t i = 0; i < req->n_headers && n < HEADERS_MAX; i++)
        signed_headers[n++] = req->headers[i];
    struct sigv4_request sv = {.method = str_c(req->method),
                               .path = buf_str(&cpath),
                               .query = buf_str(&cquery),
                               .headers = signed_headers,
                               .n_headers = n,
                               .payload_hash = payload,
                               .now_unix = clock_unix()};
    BUF(authorization, HEADER_BYTES_MAX);
    if (!sigv4_authorization(&sv, &req->sign, &authorization, err))
        return false;
    char date[17];
    sigv4_date(sv.now_unix, date);
    if (!add_header(headers, S("Host"), host, err) || !add_header(headers, S("x-amz-date"), str_c(date), err) ||
        !add_header(headers, S("x-amz-content-sha256"), payload, err) ||
        !add_header(headers, S("Authorization"), buf_str(&authorization), err))
        return false;
    buf_add(url_tail, buf_str(&cpath));
    if (cquery.n) {
        buf_addc(url_tail, '?');
        buf_add(url_tail, buf_str(&cquery));
    }
    return true;
}

static bool sign_request(const struct http_request *req, struct curl_slist **headers, struct buf *url, struct err *err)
{
    CURLU *u = curl_url();
    if (!u)
        panic("out of memory");
    bool ok = curl_url_set(u, CURLUPART_URL, buf_z(url), CURLU_PATH_AS_IS) == CURLUE_OK;
    if (!ok) {
        err_set(err, ERR_INVALID, "malformed URL '%s'", buf_z(url));
    } else {
        char *scheme = url_part(u, CURLUPART_SCHEME, 0), *host = url_part(u, CURLUPART_HOST, 0);
        char *port = url_part(u, CURLUPART_PORT, CURLU_NO_DEFAULT_PORT);
        char *path = url_part(u, CURLUPART_PATH, 0), *query = url_part(u, CURLUPART_QUERY, 0);
        BUF(authority, 1024);
        buf_printf(&authority, "%s%s%s", host ? host : "", port ? ":" : "", port ? port : "");
        buf_clear(url);
        buf_printf(url, "%s://%s", scheme ? scheme : "http", buf_z(&authority));
        ok = sign_parts(req, buf_str(&authority), str_c(path), str_c(query), headers, url, err);
        curl_free(scheme);
        curl_free(host);
        curl_free(port);
        curl_free(path);
        curl_free(query);
    }
    curl_url_cleanup(u);
    return ok;
}

static bool make_headers(const struct http_request *req, struct curl_slist **list, struct buf *url, struct err *err)
{
    bool has_type = false;
    for (size_t i = 0; i < req->n_headers; i++) {
        if (!add_header(list, req->headers[i].name, req->headers[i].value, err))
            return false;
        has_type |= str_eq_nocase(req->headers[i].name, S("content-type"));
    }
    if (req->sign.access_key.n && !sign_request(req, list, url, err))
        return false;
    /* A name with a bare colon takes away what curl would add by itself. */
    *list = curl_slist_append(*list, "Expect:");
    if (!has_type)
        *list = curl_slist_append(*list, "Content-Type:");
    return true;
}

static void set_body(struct transfer *t)
{
    const struct http_request *req = t->req;
    CURL *e = t->easy;
    if (req->next_body) {
        t->out_left = req->body_size;
        curl_easy_setopt(e, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(e, CURLOPT_INFILESIZE_LARGE, (curl_off_t)req->body_size);
        curl_easy_setopt(e, CURLOPT_READFUNCTION, on_read);
        curl_easy_setopt(e, CURLOPT_READDATA, t);
    } else if (req->body.n || strcmp(req->method, "PUT") == 0 || strcmp(req->method, "POST") == 0) {
        curl_easy_setopt(e, CURLOPT_POSTFIELDS, req->body.p ? req->body.p : "");
        curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)req->body.n);
    } else if (strcmp(req->method, "HEAD") == 0) {
        curl_easy_setopt(e, CURLOPT_NOBODY, 1L);
    }
    curl_easy_setopt(e, CURLOPT_CUSTOMREQUEST, req->method);
}

static void set_options(struct transfer *t, const char *url, struct curl_slist *headers)
{
    const struct http_request *req = t->req;
    CURL *e = t->easy;
    curl_easy_setopt(e, CURLOPT_PRIVATE, t);
    curl_easy_setopt(e, CURLOPT_URL, url);
    curl_easy_setopt(e, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(e, CURLOPT_PROXY, "");
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L); /* removing a transfer must not wait for its name look-up */
    curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(e, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)t->client->opts.connect_timeout_ms);
    curl_easy_setopt(e, CURLOPT_LOW_SPEED_LIMIT, STALL_BYTES);
    curl_easy_setopt(e, CURLOPT_LOW_SPEED_TIME, (long)t->client->opts.stall_s);
    curl_easy_setopt(e, CURLOPT_USERAGENT, "Thurn");
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, t->text);
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(e, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_write);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, t);
    if (req->ca_file.n)
        curl_easy_setopt(e, CURLOPT_CAINFO, arena_strz(t->arena, req->ca_file));
    if (req->unix_socket.n)
        curl_easy_setopt(e, CURLOPT_UNIX_SOCKET_PATH, arena_strz(t->arena, req->unix_socket));
    set_body(t);
}

/* --- running --- */

FIBER static bool feed_body(struct transfer *t, struct err *err)
{
    str piece;
    t->wants_out = false;
    if (!t->req->next_body(t->req->arg, &piece, err))
        return false;
    if (piece.n == 0 || piece.n > t->out_left)
        return err_set(err, ERR_INTERNAL, "request body is not as long as it said");
    t->out_left -= piece.n;
    t->out = piece;
    t->out_paused = false;
    return true;
}

/* Hand on what has come in. The bytes move to a buffer of their own, as the next ones may arrive while on_data waits.
 */
FIBER static bool drain_input(struct transfer *t, struct err *err)
{
    struct buf piece = t->in;
    buf_init(&t->in, piece.cap);
    bool ok = t->req->on_data(t->req->arg, buf_str(&piece), err);
    buf_done(&piece);
    return ok;
}

static void unpause(struct transfer *t)
{
    curl_easy_pause(t->easy, (t->in_paused ? CURLPAUSE_RECV : 0) | (t->out_paused ? CURLPAUSE_SEND : 0));
}

FIBER static bool run_transfer(struct transfer *t, struct err *err)
{
    for (;;) {
        if (is_streaming(t) && t->in.n) {
            if (!drain_input(t, err))
                return false;
            if (t->in_paused && t->in.n == 0) {
                t->in_paused = false;
                unpause(t);
            }
            continue;
        }
        if (t->is_done)
            return true;
        if (t->wants_out) {
            if (!feed_body(t, err))
                return false;
            unpause(t);
            continue;
        }
        if (!fiber_wait(err))
            return false;
    }
}

static bool transfer_result(struct transfer *t, struct err *err)
{
    if (err_is_set(&t->err)) {
        *err = t->err;
        return false;
    }
    const char *text = t->text[0] ? t->text : curl_easy_strerror(t->code);
    switch (t->code) {
    case CURLE_OK:
        return true;
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return err_set(err, ERR_INVALID, "%s", text);
    default: /* also OUT_OF_MEMORY, which curl says of a field that is longer than it takes */
        return err_set(err, ERR_UNAVAILABLE, "%s", text);
    }
}

static CURL *take_handle(struct http_client *c)
{
    CURL *e = c->n_idle ? c->idle[--c->n_idle] : curl_easy_init();
    if (!e)
        panic("out of memory");
    return e;
}

static void give_handle(struct http_client *c, CURL *e)
{
    if (c->n_idle == IDLE_HANDLES_MAX) {
        curl_easy_cleanup(e);
        return;
    }
    curl_easy_reset(e);
    c->idle[c->n_idle++] = e;
}

FIBER static bool perform(struct transfer *t, struct err *err)
{
    struct http_client *c = t->client;
    if (curl_multi_add_handle(c->multi, t->easy) != CURLM_OK)
        return err_set(err, ERR_INTERNAL, "cannot start an HTTP transfer");
    c->n_active++;
    bool ok = run_transfer(t, err);
    curl_multi_remove_handle(c->multi, t->easy);
    c->n_active--;
    if (!ok && err_is_set(&t->err))
        *err = t->err;
    return ok && transfer_result(t, err);
}

bool http_request(struct http_client *c, const struct http_request *req, struct arena *a, struct http_response *out,
                  struct err *err)
{
    CHECK(c, CLIENT_MAGIC);
    int64_t start = clock_mono_us();
    struct transfer t = {.client = c, .req = req, .fiber = fiber_self(), .arena = a};
    t.res.headers = arena_array(a, struct http_header, HEADERS_MAX);
    buf_init(&t.in, req->on_data ? MAX(req->response_max, PIECES_HIGH + CURL_MAX_WRITE_SIZE) : req->response_max);
    BUF(url, HEADER_BYTES_MAX);
    buf_add(&url, req->url);
    struct curl_slist *headers = NULL;
    bool ok = buf_ok(&url) || err_set(err, ERR_INVALID, "URL is too long");
    ok = ok && make_headers(req, &headers, &url, err);
    if (ok) {
        t.easy = take_handle(c);
        set_options(&t, buf_z(&url), headers);
        ok = perform(&t, err);
        give_handle(c, t.easy);
    }
    curl_slist_free_all(headers);
    if (ok) {
        t.res.body = req->on_data && t.res.status >= 200 && t.res.status < 300 ? S("") : arena_str(a, buf_str(&t.in));
        *out = t.res;
    }
    buf_done(&t.in);
    metric_observe_us(M_HTTP_CLIENT_SECONDS, NULL, clock_mono_us() - start);
    return ok;
}

str http_header_get(const struct http_header *h, size_t n, str name)
{
    for (size_t i = 0; i < n; i++)
        if (str_eq_nocase(h[i].name, name))
            return h[i].value;
    return STR_NONE;
}

/* --- life --- */

struct http_client *http_client_new(const struct http_client_opts *opts, struct err *err)
{
    static bool is_initialised;
    if (!is_initialised && curl_global_init(CURL_GLOBAL_DEFAULT) != 0) {
        err_set(err, ERR_INTERNAL, "cannot initialise libcurl");
        return NULL;
    }
    is_initialised = true;
    struct http_client *c = xnew(struct http_client);
    c->magic = CLIENT_MAGIC;
    if (opts)
        c->opts = *opts;
    c->opts.max_connections = c->opts.max_connections ? c->opts.max_connections : 64;
    c->opts.max_per_host = c->opts.max_per_host ? c->opts.max_per_host : 32;
    c->opts.connect_timeout_ms = c->opts.connect_timeout_ms ? c->opts.connect_timeout_ms : 5000;
    c->opts.stall_s = c->opts.stall_s ? c->opts.stall_s : 60;
    c->timer = xnew(uv_timer_t);
    uv_timer_init(fiber_loop(), c->timer);
    c->timer->data = c;
    c->multi = curl_multi_init();
    if (!c->multi)
        panic("out of memory");
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)c->opts.max_connections);
    curl_multi_setopt(c->multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)c->opts.max_per_host);
    curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS, (long)c->opts.max_connections);
    return c;
}

void http_client_free(struct http_client *c)
{
    if (!c)
        return;
    CHECK(c, CLIENT_MAGIC);
    assert(c->n_active == 0);
    while (c->n_idle)
        curl_easy_cleanup(c->idle[--c->n_idle]);
    curl_multi_cleanup(c->multi);
    uv_timer_stop(c->timer);
    uv_close((uv_handle_t *)c->timer, free_handle);
    c->magic = 0;
    free(c);
}
