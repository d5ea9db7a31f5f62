#include "base/num.h"

bool cur_u64(struct cursor *c, uint64_t max, uint64_t *out)
{
    const unsigned char *p = c->p;
    uint64_t v = 0;
    for (; p < c->end && ascii_is_digit(*p); p++) {
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
            return false;
    }
    if (p == c->p || v > max)
        return false;
    c->p = p;
    *out = v;
    return true;
}

bool cur_u32(struct cursor *c, uint32_t max, uint32_t *out)
{
    uint64_t v;
    if (!cur_u64(c, max, &v))
        return false;
    *out = (uint32_t)v;
    return true;
}

bool num_u64(str s, uint64_t max, uint64_t *out)
{
    struct cursor c = cur_of(s);
    uint64_t v;
    if (!cur_u64(&c, max, &v) || cur_left(&c))
        return false;
    *out = v;
    return true;
}

bool num_u32(str s, uint32_t max, uint32_t *out)
{
    uint64_t v;
    if (!num_u64(s, max, &v))
        return false;
    *out = (uint32_t)v;
    return true;
}

bool num_i64(str s, int64_t min, int64_t max, int64_t *out)
{
    bool is_negative = s.n && s.p[0] == '-';
    uint64_t magnitude;
    if (!num_u64(is_negative ? str_slice(s, 1, SIZE_MAX) : s, (uint64_t)INT64_MAX + is_negative, &magnitude))
        return false;
    int64_t v = is_negative ? (int64_t)(0 - magnitude) : (int64_t)magnitude;
    if (v < min || v > max)
        return false;
    *out = v;
    return true;
}

/* A number and the unit after it; the unit's factor comes from the table. */
struct unit {
    const char *name;
    uint64_t factor;
};

static bool with_unit(str s, const struct unit *units, uint64_t max, uint64_t *out)
{
    struct cursor c = cur_of(s);
    uint64_t v;
    if (!cur_u64(&c, UINT64_MAX, &v))
        return false;
    for (; units->name; units++)
        if (str_eq_nocase(cur_rest(&c), str_c(units->name)))
            break;
    if (!units->name || __builtin_mul_overflow(v, units->factor, &v) || v > max)
        return false;
    *out = v;
    return true;
}

bool num_size(str s, uint64_t max, uint64_t *out)
{
    static const struct unit units[] = {
        {"", 1},
        {"B", 1},
        {"k", 1ull << 10},
        {"kB", 1ull << 10},
        {"kiB", 1ull << 10},
        {"M", 1ull << 20},
        {"MB", 1ull << 20},
        {"MiB", 1ull << 20},
        {"G", 1ull << 30},
        {"GB", 1ull << 30},
        {"GiB", 1ull << 30},
        {"T", 1ull << 40},
        {"TB", 1ull << 40},
        {"TiB", 1ull << 40},
        {NULL, 0},
    };
    return with_unit(s, units, max, out);
}

bool num_duration_ms(str s, uint64_t max_ms, uint64_t *out)
{
    static const struct unit units[] = {
        {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}, {NULL, 0},
    };
    return with_unit(s, units, max_ms, out);
}
