/*
 * buf.h: the only growable buffer. Its cap is given at buf_init and is never infinite: a write that would exceed it is
 * dropped and sets a flag that buf_ok() reports once at the end. There is always a NUL past the end.
 *
 * A view into a buffer (buf_str) dies at the next write to that buffer.
 */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stdarg.h>

#include "base/str.h"

struct buf {
    char *p;        /* NULL until the first write */
    size_t n, size; /* bytes in use; bytes allocated */
    size_t cap;     /* the most that n may become */
    bool is_over;   /* a write was dropped */
};

void buf_init(struct buf *b, size_t cap_bytes);
void buf_done(struct buf *b);    /* frees; a zeroed buf is allowed */
void buf_clear(struct buf *b);   /* empty, memory kept, flag reset */
void buf_release(struct buf *b); /* empty, memory given back, cap kept */
static inline bool buf_ok(const struct buf *b)
{
    return !b->is_over;
}
static inline str buf_str(const struct buf *b)
{
    return str_n(b->p ? b->p : "", b->n);
}
static inline const char *buf_z(const struct buf *b)
{
    return b->p ? b->p : "";
}

void buf_add(struct buf *b, str s);
static inline void buf_add_n(struct buf *b, const void *p, size_t n)
{
    buf_add(b, str_n(p, n));
}
void buf_addc(struct buf *b, char c);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF(2, 3);
void buf_vprintf(struct buf *b, const char *fmt, va_list ap) PRINTF(2, 0);
void buf_add_u64(struct buf *b, uint64_t v); /* decimal */
/* Make room for n more bytes and return where they go (NULL over the cap); buf_commit says how many were written. */
char *buf_reserve(struct buf *b, size_t n) WARN_UNUSED;
void buf_commit(struct buf *b, size_t n);
/* Remove n bytes from the front (n <= b->n). Costs a move of the rest. */
void buf_consume(struct buf *b, size_t n);
void buf_truncate(struct buf *b, size_t n); /* n <= b->n */

static inline void buf_scope_done_(struct buf *b)
{
    buf_done(b);
}
/* `struct buf x` with scope: BUF(name, cap); */
#define BUF(name, cap_bytes)                                                                                           \
    __attribute__((cleanup(buf_scope_done_))) struct buf name;                                                         \
    buf_init(&name, (cap_bytes))

/* Encodings, into a buffer. */
void buf_add_hex(struct buf *b, str s);    /* lower case */
void buf_add_base64(struct buf *b, str s); /* one line, padded (RFC 4648 section 4) */
/* Decode base64 without white space; false and nothing written when it is malformed. */
bool buf_add_unbase64(struct buf *b, str s) WARN_UNUSED;
bool buf_add_unhex(struct buf *b, str s) WARN_UNUSED;
/* A JSON string with its quotes (RFC 8259 section 7); bytes that are not UTF-8 become U+FFFD. */
void buf_add_json(struct buf *b, str s);

#endif
