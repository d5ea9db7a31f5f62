#include "net/sigv4.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>

#define QUERY_PARAMS_MAX 100
#define HEADERS_MAX 64
#define CANONICAL_MAX (64u * 1024)

static bool is_unreserved(unsigned char c)
{
    return ascii_is_alnum(c) || c == '-' || c == '.' || c == '_' || c == '~';
}

/* Decode percent escapes of s and encode again; '/' stays when keep_slash. */
static bool recode(str s, bool keep_slash, struct buf *out, struct err *err)
{
    static const char hex[] = "0123456789ABCDEF";
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c == '%') {
            int hi = i + 2 < s.n ? ascii_hex((unsigned char)s.p[i + 1]) : -1;
            int lo = i + 2 < s.n ? ascii_hex((unsigned char)s.p[i + 2]) : -1;
            if (hi < 0 || lo < 0)
                return err_set(err, ERR_INVALID, "broken percent escape in '%.*s'", STR_ARG(s));
            c = (unsigned char)(hi << 4 | lo);
            i += 2;
        }
        if (is_unreserved(c) || (keep_slash && c == '/')) {
            buf_addc(out, (char)c);
        } else {
            buf_addc(out, '%');
            buf_addc(out, hex[c >> 4]);
            buf_addc(out, hex[c & 15]);
        }
    }
    return true;
}

bool sigv4_canonical_path(str path, struct buf *out, struct err *err)
{
    if (path.n == 0)
        path = S("/");
    return recode(path, true, out, err);
}

struct param {
    str name, value;
};

static int param_cmp(const void *a, const void *b)
{
    const struct param *x = a, *y = b;
    int d = str_cmp(x->name, y->name);
    return d ? d : str_cmp(x->value, y->value);
}

bool sigv4_canonical_query(str query, struct buf *out, struct err *err)
{
    ARENA(a, CANONICAL_MAX);
    struct param params[QUERY_PARAMS_MAX];
    size_t n = 0;
    str piece;
    while (str_split(&query, '&', &piece)) {
        if (piece.n == 0)
            continue;
        if (n == QUERY_PARAMS_MAX)
            return err_set(err, ERR_LIMIT, "more than %d query parameters", QUERY_PARAMS_MAX);
        ptrdiff_t eq = str_find(piece, '=');
        str name = eq < 0 ? piece : str_slice(piece, 0, (size_t)eq);
        str value = eq < 0 ? S("") : str_slice(piece, (size_t)eq + 1, SIZE_MAX);
        BUF(b, CANONICAL_MAX);
        if (!recode(name, false, &b, err))
            return false;
        params[n].name = arena_str(&a, buf_str(&b));
        buf_clear(&b);
        if (!recode(value, false, &b, err))
            return false;
        params[n++].value = arena_str(&a, buf_str(&b));
    }
    qsort(params, n, sizeof(params[0]), param_cmp);
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_addc(out, '&');
        buf_add(out, params[i].name);
        buf_addc(out, '=');
        buf_add(out, params[i].value);
    }
    return true;
}

void sigv4_date(int64_t now_unix, char out[17])
{
    time_t t = (time_t)now_unix;
    struct tm tm;
    gmtime_r(&t, &tm);
    (void)strftime(out, 17, "%Y%m%dT%H%M%SZ", &tm);
}

void sigv4_sha256_hex(str data, char out[65])
{
    static const char hex[] = "0123456789abcdef";
    unsigned char md[32];
    SHA256((const unsigned char *)data.p, data.n, md);
    for (int i = 0; i < 32; i++) {
        out[2 * i] = hex[md[i] >> 4];
        out[2 * i + 1] = hex[md[i] & 15];
    }
    out[64] = '\0';
}

static int header_cmp(const void *a, const void *b)
{
    return str_cmp_nocase(((const struct http_header *)a)->name, ((const struct http_header *)b)->name);
}

/* Trimmed, and runs of spaces as one. */
static void add_header_value(struct buf *b, str value)
{
    value = str_trim(value);
    for (size_t i = 0; i < value.n; i++)
        if (value.p[i] != ' ' || value.p[i - 1] != ' ')
            buf_addc(b, value.p[i]);
}

static void add_lower(struct buf *b, str s)
{
    for (size_t i = 0; i < s.n; i++)
        buf_addc(b, (char)ascii_lower((unsigned char)s.p[i]));
}

static void hmac(const void *key, size_t key_n, str data, unsigned char out[32])
{
    unsigned n = 32;
    if (!HMAC(EVP_sha256(), key, (int)key_n, (const unsigned char *)data.p, data.n, out, &n))
        panic("HMAC-SHA256 failed");
}

static void signing_key(const struct http_sigv4 *keys, str day, unsigned char out[32])
{
    BUF(secret, 1024);
    buf_add(&secret, S("AWS4"));
    buf_add(&secret, keys->secret_key);
    hmac(buf_z(&secret), secret.n, day, out);
    explicit_bzero(secret.p, secret.n);
    hmac(out, 32, keys->region, out);
    hmac(out, 32, keys->service, out);
    hmac(out, 32, S("aws4_request"), out);
}

bool sigv4_authorization(const struct sigv4_request *req, const struct http_sigv4 *keys, struct buf *out,
                         struct err *err)
{
    struct http_header headers[HEADERS_MAX];
    size_t n = req->n_headers;
    if (n + 2 > HEADERS_MAX)
        return err_set(err, ERR_LIMIT, "more than %d headers to sign", HEADERS_MAX - 2);
    if (n)
        memcpy(headers, req->headers, n * sizeof(headers[0]));
    char date[17];
    sigv4_date(req->now_unix, date);
    headers[n++] = (struct http_header){S("x-amz-date"), str_c(date)};
    headers[n++] = (struct http_header){S("x-amz-content-sha256"), req->payload_hash};
    qsort(headers, n, sizeof(headers[0]), header_cmp);

    BUF(names, CANONICAL_MAX);
    BUF(canonical, CANONICAL_MAX);
    buf_add(&canonical, req->method);
    buf_addc(&canonical, '\n');
    buf_add(&canonical, req->path);
    buf_addc(&canonical, '\n');
    buf_add(&canonical, req->query);
    buf_addc(&canonical, '\n');
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_addc(&names, ';');
        add_lower(&names, headers[i].name);
        add_lower(&canonical, headers[i].name);
        buf_addc(&canonical, ':');
        add_header_value(&canonical, headers[i].value);
        buf_addc(&canonical, '\n');
    }
    buf_addc(&canonical, '\n');
    buf_add(&canonical, buf_str(&names));
    buf_addc(&canonical, '\n');
    buf_add(&canonical, req->payload_hash);
    if (!buf_ok(&canonical) || !buf_ok(&names))
        return err_set(err, ERR_LIMIT, "request to sign is larger than %u bytes", CANONICAL_MAX);

    char hash[65];
    sigv4_sha256_hex(buf_str(&canonical), hash);
    BUF(scope, 1024);
    buf_printf(&scope, "%.8s/%.*s/%.*s/aws4_request", date, STR_ARG(keys->region), STR_ARG(keys->service));
    BUF(to_sign, 2048);
    buf_printf(&to_sign, "AWS4-HMAC-SHA256\n%s\n%s\n%s", date, buf_z(&scope), hash);
    unsigned char key[32], mac[32];
    signing_key(keys, str_n(date, 8), key);
    hmac(key, 32, buf_str(&to_sign), mac);
    explicit_bzero(key, sizeof(key));

    buf_printf(out, "AWS4-HMAC-SHA256 Credential=%.*s/%s,SignedHeaders=%s,Signature=", STR_ARG(keys->access_key),
               buf_z(&scope), buf_z(&names));
    buf_add_hex(out, str_n(mac, 32));
    return true;
}
