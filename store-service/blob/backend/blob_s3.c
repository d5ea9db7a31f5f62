/*
 * Bodies as S3 objects: <bucket>/<first two hex digits>/<space>/<tenant>/<hash>.<id of the blob row>.
 *
 * The row's id in the name makes each life of a body an object of its own: deleting what the sweep found dead can never
 * hit a body that came back under the same hash. Objects are put only if absent: a put that is repeated after its
 * answer was lost finds its own object, which is a success. A server that does not know conditional puts (501) gets
 * plain ones from then on, as the content is the same in any case.
 *
 * A body goes in one request, whatever its size (S3 takes 5 GiB), from memory or piece by piece from its spool. Objects
 * are deleted many to a request (POST ?delete), or one by one at a server that does not know that (501).
 */
#include <openssl/evp.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/num.h"
#include "base/trouble.h"
#include "store-service/blob/backend.h"

#define PUTS_MAX 32u /* at once */
#define TRIES 3
#define RETRY_MS 100
#define RETRY_WITHIN_MS 5000       /* a try that took longer is not followed by another: somebody waits */
#define RESPONSE_MAX (512u * 1024) /* an error for each of BLOB_REMOVE_MAX objects */

struct s3 {
    struct blob_backend base;
    struct http_client *http;
    char *endpoint, *bucket, *access_key, *secret_key, *region, *ca_file;
    bool has_no_conditional_put, has_no_multi_delete;
    struct fiber_sem puts;
};

static struct s3 *of(struct blob_backend *b)
{
    return CONTAINER_OF(b, struct s3, base);
}

static str object_name(struct blob_backend *b, const struct blob_object *o, struct arena *a)
{
    (void)b;
    BUF(hex, BLOB_HASH_SIZE * 2);
    buf_add_hex(&hex, o->place->hash);
    str h = buf_str(&hex);
    return arena_printf(a, "%.2s/%u/%lld/%.*s.%llx", h.p, o->space, (long long)o->place->tenant_id, STR_ARG(h),
                        (unsigned long long)o->place->blob_id);
}

struct exchange {
    const char *method;
    str name;  /* of the object; empty: the bucket */
    str query; /* with its question mark, or empty */
    struct http_header headers[4];
    size_t n_headers;
    str body;            /* POST */
    struct putting *put; /* PUT: its body */
    struct getting *get; /* GET: where the answer goes */
    struct arena *a;
    struct http_response r;
};
struct putting {
    const struct spool *body;
    uint64_t sent;
    struct buf hash_hex;
    struct arena *piece; /* of the piece under way */
};
struct getting {
    struct rpc_sink *out;
    uint64_t left;
    bool is_begun, is_reader_gone; /* is_reader_gone: whoever reads it failed, and not the server */
};

FIBER static bool next_piece(void *arg, str *piece, struct err *err)
{
    struct putting *p = ((struct exchange *)arg)->put;
    size_t n = MIN(p->body->size - p->sent, SPOOL_CHUNK);
    arena_done(p->piece);
    arena_init(p->piece, SPOOL_CHUNK * 2);
    *piece = STR_NONE;
    if (n == 0)
        return true;
    p->sent += n;
    return spool_view(p->body, p->sent - n, n, p->piece, piece, err);
}

FIBER static bool on_data(void *arg, str piece, struct err *err)
{
    struct getting *g = ((struct exchange *)arg)->get;
    g->is_begun = true;
    if (piece.n > g->left)
        return err_set(err, ERR_INTERNAL, "s3: more bytes than asked for");
    g->left -= piece.n;
    while (piece.n) {
        str part = str_slice(piece, 0, RPC_CHUNK_MAX);
        piece = str_slice(piece, part.n, SIZE_MAX);
        if (!g->out->write(g->out, part, err)) {
            g->is_reader_gone = true;
            return false;
        }
    }
    return true;
}

/* The text of the first such element, empty when there is none; *rest is what is behind it. */
static str element(str xml, str open, str close, str *rest)
{
    ptrdiff_t at = str_find_str(xml, open);
    str text = at < 0 ? STR_NONE : str_slice(xml, (size_t)at + open.n, SIZE_MAX);
    ptrdiff_t end = at < 0 ? -1 : str_find_str(text, close);
    *rest = end < 0 ? STR_NONE : str_slice(text, (size_t)end + close.n, SIZE_MAX);
    return end < 0 ? STR_NONE : str_slice(text, 0, (size_t)end);
}

static str code_of(const struct exchange *x)
{
    str rest;
    return element(x->r.body, S("<Code>"), S("</Code>"), &rest);
}

/* The object of that name is not there; a server that has not even its bucket says 404 too. */
static bool is_no_such_key(const struct exchange *x)
{
    return x->r.status == 404 && !str_eq(code_of(x), S("NoSuchBucket"));
}

static bool is_our_doing(const struct exchange *x, bool is_answered, const struct err *err)
{
    return !is_answered && (err->kind == ERR_CANCELLED || (x->get && x->get->is_reader_gone));
}

/* Whoever cannot store or read large bodies says so while it lasts: no answer, a wrong key, no bucket, a server in
 * trouble. */
static void tell(const struct s3 *s, const struct exchange *x, bool is_answered, const struct err *err)
{
    char why[160];
    int status = x->r.status;
    if (is_our_doing(x, is_answered, err))
        return;
    if (!is_answered)
        (void)snprintf(why, sizeof(why), "%s: %s", s->endpoint, err->msg);
    else if (status == 404 && !is_no_such_key(x))
        (void)snprintf(why, sizeof(why), "there is no bucket '%s' at %s", s->bucket, s->endpoint);
    /* no such object; there already; what it does not know */
    else if (status >= 400 && status != 404 && status != 412 && status != 416 && status != 501)
        (void)snprintf(why, sizeof(why), "%s answers %d %.*s (bucket '%s')", s->endpoint, status,
                       STR_ARG(str_slice(code_of(x), 0, 40)), s->bucket);
    else {
        trouble_over("s3");
        return;
    }
    trouble_note("s3", why);
}

static void observe(const struct exchange *x, int64_t began_us, bool is_answered, const struct err *err)
{
    int status = is_answered ? x->r.status : 0;
    metric_observe_us(M_S3_SECONDS, x->method, clock_mono_us() - began_us);
    if (is_our_doing(x, is_answered, err))
        return;
    if (!is_answered)
        metric_inc_label(M_S3_ERRORS, err_kind_name(err->kind));
    else if (status >= 400 && status != 404 && status != 412) /* no such object; there already */
        metric_inc_label(M_S3_ERRORS, status >= 500 ? "5xx" : "4xx");
}

/* One request, tried again when the server is away or busy, as long as nothing of the answer was handed on. */
FIBER static bool exchange(struct s3 *s, struct exchange *x, struct err *err)
{
    struct http_request req = {
        .method = x->method,
        .url = arena_printf(x->a, "%s/%s/%.*s%.*s", s->endpoint, s->bucket, STR_ARG(x->name), STR_ARG(x->query)),
        .headers = x->headers,
        .n_headers = x->n_headers,
        .sign = {str_c(s->access_key), str_c(s->secret_key), str_c(s->region), S("s3")},
        .body = x->body,
        .response_max = RESPONSE_MAX,
        .ca_file = str_c(s->ca_file),
        .on_data = x->get ? on_data : NULL,
        .arg = x,
    };
    if (x->put && x->put->body->memory.p) {
        req.body = x->put->body->memory;
    } else if (x->put) {
        req.next_body = next_piece;
        req.body_size = x->put->body->size;
        req.body_sha256_hex = buf_str(&x->put->hash_hex);
    }
    for (int i = 1;; i++) {
        err_clear(err);
        if (x->put)
            x->put->sent = 0;
        int64_t began_us = clock_mono_us();
        bool ok = http_request(s->http, &req, x->a, &x->r, err);
        observe(x, began_us, ok, err);
        tell(s, x, ok, err);
        if (!ok && !is_our_doing(x, ok, err) && err->kind != ERR_TIMEOUT)
            err->kind = ERR_UNAVAILABLE; /* whatever is wrong with the answer is the server's trouble, and says nothing
                                            about the body */
        bool may_retry =
            i < TRIES && !(x->get && x->get->is_begun) && clock_mono_us() - began_us < RETRY_WITHIN_MS * 1000;
        if (ok && (x->r.status < 500 || x->r.status == 501 || !may_retry))
            return true;
        if (!ok && (err->kind != ERR_UNAVAILABLE || !may_retry))
            return false;
        err_clear(err);
        if (!fiber_sleep_ms(RETRY_MS << (i - 1), err))
            return false;
    }
}

/* NOT_FOUND only of a GET whose object is not there. */
static bool set_status_error(const struct s3 *s, const struct exchange *x, struct err *err)
{
    str code = code_of(x);
    bool is_get = x->get != NULL;
    if (x->r.status == 404 && !is_no_such_key(x)) {
        metric_inc_label(M_S3_ERRORS, "no_bucket");
        return err_set(err, ERR_UNAVAILABLE, "s3: there is no bucket '%s' at %s", s->bucket, s->endpoint);
    }
    return err_set(err, is_get && is_no_such_key(x) ? ERR_NOT_FOUND : ERR_UNAVAILABLE, "s3: %s %.*s: status %d %.*s",
                   x->method, STR_ARG(x->name), x->r.status, STR_ARG(code));
}

static bool is_2xx(const struct exchange *x)
{
    return x->r.status >= 200 && x->r.status < 300;
}

/* --- put, get, remove --- */

/* "It is there already" is believed of a put whose answer was lost; a server or a proxy that says so of anything must
 * not lose mail. */
FIBER static bool see(struct s3 *s, str name, uint64_t size, struct arena *a, struct err *err)
{
    struct exchange x = {.method = "HEAD", .name = name, .a = a};
    uint64_t length = 0;
    if (!exchange(s, &x, err))
        return false;
    if (is_2xx(&x) && num_u64(http_header_get(x.r.headers, x.r.n_headers, S("content-length")), UINT64_MAX, &length) &&
        length == size)
        return true;
    return err_set(err, ERR_UNAVAILABLE,
                   "s3: PUT %.*s: it is there already, says the server, and is not (HEAD: status %d, %llu bytes)",
                   STR_ARG(name), x.r.status, (unsigned long long)length);
}

FIBER static bool put(struct s3 *s, str name, struct putting *p, struct arena *a, struct err *err)
{
    struct exchange x = {.method = "PUT", .name = name, .put = p, .a = a};
    x.headers[x.n_headers++] = (struct http_header){S("content-type"), S("application/octet-stream")};
    if (!s->has_no_conditional_put)
        x.headers[x.n_headers++] = (struct http_header){S("if-none-match"), S("*")};
    if (!exchange(s, &x, err))
        return false;
    if (x.r.status == 501 && !s->has_no_conditional_put) {
        s->has_no_conditional_put = true;
        return put(s, name, p, a, err);
    }
    if (x.r.status == 412)
        return see(s, name, p->body->size, a, err);
    return is_2xx(&x) || set_status_error(s, &x, err);
}

FIBER static bool s3_put(struct blob_backend *b, const struct blob_object *o, struct spool *body, int64_t *seg,
                         int64_t *off, struct err *err)
{
    struct s3 *s = of(b);
    ARENA(a, 1 << 20);
    ARENA(piece, SPOOL_CHUNK * 2);
    struct putting p = {.body = body, .piece = &piece};
    buf_init(&p.hash_hex, BLOB_HASH_SIZE * 2);
    buf_add_hex(&p.hash_hex, str_n(body->hash, BLOB_HASH_SIZE));
    *seg = *off = 0;
    bool ok = fiber_sem_acquire(&s->puts, err);
    if (ok) {
        ok = put(s, object_name(b, o, &a), &p, &a, err);
        fiber_sem_release(&s->puts);
    }
    buf_done(&p.hash_hex);
    return ok;
}

FIBER static bool s3_get(struct blob_backend *b, const struct blob_object *o, uint64_t offset, uint64_t length,
                         struct rpc_sink *out, struct err *err)
{
    struct s3 *s = of(b);
    ARENA(a, 1 << 20);
    struct getting g = {.out = out, .left = length};
    struct exchange x = {.method = "GET", .name = object_name(b, o, &a), .get = &g, .a = &a};
    bool is_whole = offset == 0 && length == (uint64_t)o->place->size;
    if (!is_whole)
        x.headers[x.n_headers++] =
            (struct http_header){S("range"), arena_printf(&a, "bytes=%llu-%llu", (unsigned long long)offset,
                                                          (unsigned long long)(offset + length - 1))};
    if (!exchange(s, &x, err))
        return false;
    if (x.r.status != (is_whole ? 200 : 206))
        return set_status_error(s, &x, err);
    return g.left == 0 || err_set(err, ERR_UNAVAILABLE, "s3: the answer ended early");
}

FIBER static bool remove_one(struct s3 *s, str name, struct err *err)
{
    ARENA(a, 1 << 20);
    struct exchange x = {.method = "DELETE", .name = name, .a = &a};
    if (!exchange(s, &x, err))
        return false;
    return is_2xx(&x) || is_no_such_key(&x) || set_status_error(s, &x, err);
}

FIBER static bool remove_each(struct s3 *s, const str *names, size_t n, bool *is_gone, struct err *err)
{
    for (size_t i = 0; i < n; i++) {
        if (!remove_one(s, names[i], err))
            return false;
        is_gone[i] = true;
    }
    return true;
}

/* Names are hexadecimal digits, '/' and '.': there is nothing to be escaped. Quiet: only failures are answered. */
static str delete_body(const str *names, size_t n, struct arena *a)
{
    BUF(b, 64 + n * 256);
    buf_add(&b, S("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Delete><Quiet>true</Quiet>"));
    for (size_t i = 0; i < n; i++)
        buf_printf(&b, "<Object><Key>%.*s</Key></Object>", STR_ARG(names[i]));
    buf_add(&b, S("</Delete>"));
    assert(buf_ok(&b));
    return arena_str(a, buf_str(&b));
}

/* S3 refuses a list without its digest, lest objects be deleted that nobody named. */
static str content_md5(str body, struct arena *a)
{
    unsigned char md[16];
    BUF(b, 32);
    if (EVP_Digest(body.p, body.n, md, NULL, EVP_md5(), NULL) != 1)
        panic("no MD5");
    buf_add_base64(&b, str_n(md, sizeof md));
    return arena_str(a, buf_str(&b));
}

/* <Error><Key>…</Key><Code>…</Code>…</Error> for each that is still there. */
static bool take_failures(str xml, const str *names, size_t n, bool *is_gone, struct err *err)
{
    str rest, failure;
    for (size_t i = 0; i < n; i++)
        is_gone[i] = true;
    for (; !str_empty(failure = element(xml, S("<Error>"), S("</Error>"), &xml));) {
        str name = element(failure, S("<Key>"), S("</Key>"), &rest),
            code = element(failure, S("<Code>"), S("</Code>"), &rest);
        if (str_eq(code, S("NoSuchKey")))
            continue;
        for (size_t i = 0; i < n; i++)
            is_gone[i] &= !str_eq(names[i], name);
        if (!err_is_set(err))
            (void)err_set(err, ERR_UNAVAILABLE, "s3: delete %.*s: %.*s", STR_ARG(name), STR_ARG(code));
    }
    return !err_is_set(err);
}

FIBER static bool s3_remove(struct blob_backend *b, const str *names, size_t n, bool *is_gone, struct err *err)
{
    struct s3 *s = of(b);
    assert(n <= BLOB_REMOVE_MAX);
    if (n == 1 || s->has_no_multi_delete)
        return remove_each(s, names, n, is_gone, err);
    ARENA(a, 2 << 20);
    struct exchange x = {.method = "POST", .query = S("?delete="), .body = delete_body(names, n, &a), .a = &a};
    x.headers[x.n_headers++] = (struct http_header){S("content-type"), S("application/xml")};
    x.headers[x.n_headers++] = (struct http_header){S("content-md5"), content_md5(x.body, &a)};
    if (!exchange(s, &x, err))
        return false;
    if (x.r.status == 501) {
        s->has_no_multi_delete = true;
        return remove_each(s, names, n, is_gone, err);
    }
    if (!is_2xx(&x))
        return set_status_error(s, &x, err);
    return take_failures(x.r.body, names, n, is_gone, err);
}

static void s3_free(struct blob_backend *b)
{
    struct s3 *s = of(b);
    xfree(s->endpoint);
    xfree(s->bucket);
    xfree(s->access_key);
    explicit_bzero(s->secret_key, strlen(s->secret_key));
    xfree(s->secret_key);
    xfree(s->region);
    xfree(s->ca_file);
    xfree(s);
}

struct blob_backend *blob_s3_new(const struct store_blob_opts *opts, struct err *err)
{
    if (!opts->http || str_empty(opts->bucket) ||
        (!str_starts(opts->endpoint, S("http://")) && !str_starts(opts->endpoint, S("https://")))) {
        (void)err_set(err, ERR_INVALID, "S3 wants an endpoint (http:// or https://) and a bucket");
        return NULL;
    }
    struct s3 *s = xnew(struct s3);
    s->base = (struct blob_backend){.name = "s3",
                                    .tier = BLOB_OBJECT,
                                    .put = s3_put,
                                    .get = s3_get,
                                    .garbage_name = object_name,
                                    .remove = s3_remove,
                                    .free = s3_free};
    s->http = opts->http;
    str endpoint = opts->endpoint;
    while (str_ends(endpoint, S("/")))
        endpoint.n--;
    s->endpoint = str_dup(endpoint);
    s->bucket = str_dup(opts->bucket);
    s->access_key = str_dup(opts->access_key);
    s->secret_key = str_dup(opts->secret_key);
    s->region = str_dup(str_empty(opts->region) ? S("us-east-1") : opts->region);
    s->ca_file = str_dup(opts->ca_file);
    fiber_sem_init(&s->puts, PUTS_MAX);
    return &s->base;
}
