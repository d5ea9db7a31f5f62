/*
 * varint.h: whole numbers in as few bytes as they need, seven bits a byte, the lowest first. Signed ones and
 * differences go through zigzag, which wraps around: it is exact for any two numbers of 64 bits.
 */
#ifndef BASE_VARINT_H
#define BASE_VARINT_H

#include "base/buf.h"

static inline void varint_put(struct buf *out, uint64_t v)
{
    char b[10];
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        b[n++] = (char)(v | 0x80);
    b[n++] = (char)v;
    buf_add_n(out, b, n);
}
/* False, with the cursor where it was, at the end and at more than 64 bits. */
static inline WARN_UNUSED bool varint_get(struct cursor *c, uint64_t *out)
{
    uint64_t v = 0;
    const unsigned char *p = c->p;
    for (unsigned shift = 0; shift < 64 && p < c->end; shift += 7) {
        unsigned char byte = *p++;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            *out = v;
            c->p = p;
            return true;
        }
    }
    return false;
}

static inline uint64_t zigzag(uint64_t d)
{
    return (d << 1) ^ (uint64_t)((int64_t)d >> 63);
}
static inline uint64_t unzigzag(uint64_t z)
{
    return (z >> 1) ^ (0 - (z & 1));
}

#endif
