/*
 * match.h: comparing texts as a test asks, RFC 5228 2.7, with the values that a match leaves (RFC 5229 3.2).
 */
#ifndef SIEVE_MATCH_H
#define SIEVE_MATCH_H

#include "sieve/internal.h"

#define MATCH_VALUES_MAX 32u

struct match_values {
    str v[MATCH_VALUES_MAX]; /* views of the value that was matched, or in the arena */
    size_t n;
};
/* How a test compares: from its tags. */
struct matcher {
    enum match_type type;
    enum relation relation;
    enum comparator comparator;
    struct regex_cache *regexes;
    struct arena *arena; /* scratch of the run */
    unsigned *work;      /* what pattern work is left; 0 is the end */
};
enum match_answer { MATCH_NO, MATCH_YES, MATCH_TOO_MUCH, MATCH_BAD_KEY };

struct regex_cache;
struct regex_cache *regex_cache_new(void);
void regex_cache_free(struct regex_cache *c);

/* Whether the value fits the key; not for :count and :list. *values is set on YES, and is NULL when nobody wants them.
 */
enum match_answer match_one(const struct matcher *m, str value, str key, struct match_values *values);
/* The relation between two numbers, for :count. */
bool match_numbers(enum relation r, uint64_t value, uint64_t key);
/* A number at the start of a text as i;ascii-numeric reads it (RFC 4790 9.1): digits compared as digits; no digit =
 * infinity. */
int compare_numeric(str a, str b);

#endif
