#include "base/buf.h"

#include <stdio.h>

#include "base/num.h"

#define BUF_MIN 64u

void buf_init(struct buf *b, size_t cap_bytes)
{
    *b = (struct buf){.cap = cap_bytes};
}

void buf_done(struct buf *b)
{
    free(b->p);
    *b = (struct buf){.cap = b->cap};
}

void buf_clear(struct buf *b)
{
    b->n = 0;
    b->is_over = false;
    if (b->p)
        b->p[0] = '\0';
}

void buf_release(struct buf *b)
{
    buf_done(b);
}

char *buf_reserve(struct buf *b, size_t n)
{
    size_t want;
    if (__builtin_add_overflow(b->n, n, &want) || want > b->cap) {
        b->is_over = true;
        return NULL;
    }
    if (want + 1 > b->size) {
        size_t size = MAX(b->size, BUF_MIN);
        while (size < want + 1)
            size = size_mul(size, 2);
        if (size > b->cap && b->cap + 1 >= want + 1)
            size = MIN(size, b->cap + 1);
        b->p = xrealloc(b->p, size);
        b->size = size;
    }
    return b->p + b->n;
}

void buf_commit(struct buf *b, size_t n)
{
    assert(b->n + n < b->size);
    b->n += n;
    b->p[b->n] = '\0';
}

void buf_add(struct buf *b, str s)
{
    if (!s.n)
        return;
    char *to = buf_reserve(b, s.n);
    if (!to)
        return;
    memcpy(to, s.p, s.n);
    buf_commit(b, s.n);
}

void buf_addc(struct buf *b, char c)
{
    buf_add_n(b, &c, 1);
}

void buf_vprintf(struct buf *b, const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    assert(n >= 0);
    char *to = buf_reserve(b, (size_t)n);
    if (to) {
        vsnprintf(to, (size_t)n + 1, fmt, again);
        buf_commit(b, (size_t)n);
    }
    va_end(again);
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(b, fmt, ap);
    va_end(ap);
}

void buf_add_u64(struct buf *b, uint64_t v)
{
    char digits[20];
    size_t at = sizeof(digits);
    do {
        digits[--at] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    buf_add_n(b, digits + at, sizeof(digits) - at);
}

void buf_consume(struct buf *b, size_t n)
{
    assert(n <= b->n);
    if (!n)
        return;
    memmove(b->p, b->p + n, b->n - n);
    b->n -= n;
    b->p[b->n] = '\0';
}

void buf_truncate(struct buf *b, size_t n)
{
    assert(n <= b->n);
    b->n = n;
    if (b->p)
        b->p[n] = '\0';
}

void buf_add_hex(struct buf *b, str s)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        buf_addc(b, digits[c >> 4]);
        buf_addc(b, digits[c & 15]);
    }
}

bool buf_add_unhex(struct buf *b, str s)
{
    if (s.n % 2)
        return false;
    for (size_t i = 0; i < s.n; i++)
        if (ascii_hex((unsigned char)s.p[i]) < 0)
            return false;
    for (size_t i = 0; i < s.n; i += 2)
        buf_addc(b, (char)(ascii_hex((unsigned char)s.p[i]) << 4 | ascii_hex((unsigned char)s.p[i + 1])));
    return true;
}

static const char BASE64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void buf_add_base64(struct buf *b, str s)
{
    char *to = buf_reserve(b, size_mul(s.n / 3 + 1, 4));
    if (!to)
        return;
    const unsigned char *p = (const unsigned char *)s.p;
    size_t i = 0, o = 0;
    for (; i + 3 <= s.n; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16 | (uint32_t)p[i + 1] << 8 | p[i + 2];
        to[o++] = BASE64[v >> 18];
        to[o++] = BASE64[v >> 12 & 63];
        to[o++] = BASE64[v >> 6 & 63];
        to[o++] = BASE64[v & 63];
    }
    if (i < s.n) {
        uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < s.n ? (uint32_t)p[i + 1] << 8 : 0);
        to[o++] = BASE64[v >> 18];
        to[o++] = BASE64[v >> 12 & 63];
        to[o++] = i + 1 < s.n ? BASE64[v >> 6 & 63] : '=';
        to[o++] = '=';
    }
    buf_commit(b, o);
}

static int base64_value(unsigned char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (ascii_is_digit(c))
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool buf_add_unbase64(struct buf *b, str s)
{
    size_t start = b->n;
    if (s.n % 4)
        return false;
    for (size_t i = 0; i < s.n; i += 4) {
        int v[4];
        size_t pad = 0;
        for (size_t k = 0; k < 4; k++) {
            unsigned char c = (unsigned char)s.p[i + k];
            bool is_pad = c == '=' && i + 4 == s.n && k >= 2;
            v[k] = is_pad ? 0 : base64_value(c);
            if (v[k] < 0 || (pad && !is_pad)) {
                buf_truncate(b, start);
                return false;
            }
            pad += is_pad;
        }
        uint32_t w = (uint32_t)v[0] << 18 | (uint32_t)v[1] << 12 | (uint32_t)v[2] << 6 | (uint32_t)v[3];
        char out[3] = {(char)(w >> 16), (char)(w >> 8), (char)w};
        buf_add_n(b, out, 3 - pad);
    }
    return true;
}

/* Length of the UTF-8 sequence at p, or 0 when it is malformed. */
static size_t sequence_length(const unsigned char *p, size_t n)
{
    for (size_t len = 1; len <= 4 && len <= n; len++)
        if (utf8_valid(p, len))
            return len;
    return 0;
}

void buf_add_json(struct buf *b, str s)
{
    const unsigned char *p = (const unsigned char *)s.p;
    buf_addc(b, '"');
    for (size_t i = 0; i < s.n;) {
        unsigned char c = p[i];
        if (c == '"' || c == '\\') {
            buf_addc(b, '\\');
            buf_addc(b, (char)c);
            i++;
        } else if (c < 0x20) {
            buf_printf(b, "\\u%04x", c);
            i++;
        } else {
            size_t len = c < 0x80 ? 1 : sequence_length(p + i, s.n - i);
            if (len)
                buf_add_n(b, p + i, len);
            else
                buf_add(b, S("\xef\xbf\xbd"));
            i += len ? len : 1;
        }
    }
    buf_addc(b, '"');
}
