#include "store-service/uidset.h"

#include "base/num.h"

static void push(struct uidset *s, uint64_t first, uint64_t last)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 8;
        struct uid_range *v = arena_alloc(s->arena, size_mul(cap, sizeof *v));
        if (s->n)
            memcpy(v, s->v, s->n * sizeof *v);
        s->v = v;
        s->cap = cap;
    }
    s->v[s->n++] = (struct uid_range){first, last};
}

void uidset_add_range(struct uidset *s, uint64_t first, uint64_t last)
{
    assert(first <= last);
    struct uid_range *top = s->n ? &s->v[s->n - 1] : NULL;
    if (top && first <= top->last + 1) {
        assert(first >= top->first);
        top->last = MAX(top->last, last);
    } else {
        push(s, first, last);
    }
}

void uidset_add(struct uidset *s, uint64_t value)
{
    uidset_add_range(s, value, value);
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

struct uidset uidset_of_values(struct arena *a, uint64_t *v, size_t n)
{
    struct uidset s = uidset_of(a);
    if (n)
        qsort(v, n, sizeof *v, compare);
    for (size_t i = 0; i < n; i++)
        uidset_add(&s, v[i]);
    return s;
}

/* Index of the first range that ends at or after value. */
static size_t lower(const struct uidset *s, uint64_t value)
{
    size_t lo = 0, hi = s->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (s->v[mid].last < value)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

bool uidset_has(const struct uidset *s, uint64_t value)
{
    size_t i = lower(s, value);
    return i < s->n && s->v[i].first <= value;
}

struct uidset uidset_and(struct arena *a, const struct uidset *s, const struct uidset *within)
{
    struct uidset out = uidset_of(a);
    for (size_t i = 0, j = 0; i < s->n && j < within->n;) {
        uint64_t first = MAX(s->v[i].first, within->v[j].first), last = MIN(s->v[i].last, within->v[j].last);
        if (first <= last)
            uidset_add_range(&out, first, last);
        if (s->v[i].last < within->v[j].last)
            i++;
        else
            j++;
    }
    return out;
}

struct uidset uidset_minus(struct arena *a, const struct uidset *s, const struct uidset *without)
{
    struct uidset out = uidset_of(a);
    size_t j = 0;
    for (size_t i = 0; i < s->n; i++) {
        uint64_t at = s->v[i].first, end = s->v[i].last;
        while (j < without->n && without->v[j].last < at)
            j++;
        for (size_t k = j; k < without->n && without->v[k].first <= end && at <= end; k++) {
            if (without->v[k].first > at)
                uidset_add_range(&out, at, without->v[k].first - 1);
            at = without->v[k].last + 1;
        }
        if (at <= end)
            uidset_add_range(&out, at, end);
    }
    return out;
}

uint64_t uidset_count(const struct uidset *s)
{
    uint64_t n = 0;
    for (size_t i = 0; i < s->n; i++)
        n += s->v[i].last - s->v[i].first + 1;
    return n;
}

bool uidset_of_proto(struct arena *a, Thurn__Range *const *v, size_t n, uint64_t max, bool none_is_all,
                     struct uidset *out, struct err *err)
{
    struct uidset s = uidset_of(a);
    if (n > UIDSET_RANGES_MAX)
        return err_set(err, ERR_LIMIT, "more than %u ranges", UIDSET_RANGES_MAX);
    for (size_t i = 0; i < n; i++) {
        uint64_t first = v[i]->first, last = MIN(v[i]->last, max);
        if (first < 1 || v[i]->last < first || (i > 0 && first <= v[i - 1]->last))
            return err_set(err, ERR_INVALID, "a set must be ascending ranges from 1");
        if (first <= last)
            uidset_add_range(&s, first, last);
    }
    if (n == 0 && none_is_all)
        uidset_add_range(&s, 1, max);
    *out = s;
    return true;
}

void uidset_to_proto(const struct uidset *s, struct arena *a, Thurn__Range ***v, size_t *n)
{
    Thurn__Range *ranges = arena_array(a, Thurn__Range, s->n);
    *v = arena_array(a, Thurn__Range *, s->n);
    *n = s->n;
    for (size_t i = 0; i < s->n; i++) {
        thurn__range__init(&ranges[i]);
        ranges[i].first = s->v[i].first;
        ranges[i].last = s->v[i].last;
        (*v)[i] = &ranges[i];
    }
}
