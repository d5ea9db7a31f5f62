/*
 * num.h: numbers from peers, and size arithmetic that cannot wrap.
 */
#ifndef BASE_NUM_H
#define BASE_NUM_H

#include "base/str.h"

/* Decimal digits only, no sign, no spaces, at least one digit, value <= max; *out is set only on success. */
bool num_u32(str s, uint32_t max, uint32_t *out) WARN_UNUSED;
bool num_u64(str s, uint64_t max, uint64_t *out) WARN_UNUSED;
/* An optional '-' is allowed. */
bool num_i64(str s, int64_t min, int64_t max, int64_t *out) WARN_UNUSED;
/* "4096", "64k", "10M", "2G", "1T" (powers of 1024; an optional B or iB after the unit). */
bool num_size(str s, uint64_t max, uint64_t *out) WARN_UNUSED;
/* "250ms", "30s", "5m", "4h", "5d" into milliseconds. A bare number is refused: the unit must be said. */
bool num_duration_ms(str s, uint64_t max_ms, uint64_t *out) WARN_UNUSED;
/* Decimal digits at the cursor, value <= max. */
bool cur_u32(struct cursor *c, uint32_t max, uint32_t *out) WARN_UNUSED;
bool cur_u64(struct cursor *c, uint64_t max, uint64_t *out) WARN_UNUSED;

/* Checked size arithmetic: panics on overflow, because such sizes were to be bounded before. */
static inline size_t size_add(size_t a, size_t b)
{
    size_t r;
    if (__builtin_add_overflow(a, b, &r))
        panic("size overflow: %zu + %zu", a, b);
    return r;
}
static inline size_t size_mul(size_t a, size_t b)
{
    size_t r;
    if (__builtin_mul_overflow(a, b, &r))
        panic("size overflow: %zu * %zu", a, b);
    return r;
}

#endif
