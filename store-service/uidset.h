/*
 * uidset.h: sets of numbers as ascending ranges. Pure.
 */
#ifndef STORE_SERVICE_UIDSET_H
#define STORE_SERVICE_UIDSET_H

#include "base/arena.h"
#include "base/err.h"
#include "proto/common.pb-c.h"

#define UIDSET_RANGES_MAX 10000u /* of one request */

struct uid_range {
    uint64_t first, last; /* closed; first <= last */
};
struct uidset {
    struct uid_range *v; /* in arena, ascending, neither overlapping nor adjacent */
    size_t n, cap;
    struct arena *arena;
};

static inline struct uidset uidset_of(struct arena *a)
{
    return (struct uidset){.arena = a};
}
/* Add one that is not below the last one added. */
void uidset_add(struct uidset *s, uint64_t value);
void uidset_add_range(struct uidset *s, uint64_t first, uint64_t last);
/* Sort and join values that were collected in any order. v is reordered. */
struct uidset uidset_of_values(struct arena *a, uint64_t *v, size_t n);
bool uidset_has(const struct uidset *s, uint64_t value);
/* The part of s that is in within, and the part that is not. */
struct uidset uidset_and(struct arena *a, const struct uidset *s, const struct uidset *within);
struct uidset uidset_minus(struct arena *a, const struct uidset *s, const struct uidset *without);
uint64_t uidset_count(const struct uidset *s);

/* From a request: ascending, not overlapping, 1..max. None = 1..max when none_is_all. Errors: INVALID, LIMIT. */
bool uidset_of_proto(struct arena *a, Thurn__Range *const *v, size_t n, uint64_t max, bool none_is_all,
                     struct uidset *out, struct err *err) WARN_UNUSED;
void uidset_to_proto(const struct uidset *s, struct arena *a, Thurn__Range ***v, size_t *n);

#endif
