/*
 * str.h: views of bytes. A str is passed by value, is not terminated, and never owns what it points to.
 */
#ifndef BASE_STR_H
#define BASE_STR_H

#include "base/ascii.h"
#include "base/base.h"

typedef struct str {
    const char *p;
    size_t n;
} str;

/* S("literal"), printing with "%.*s" and STR_ARG(s). */
#define S(literal) ((str){"" literal, sizeof(literal) - 1})
#define S_INIT(literal)                                                                                                \
    {                                                                                                                  \
        "" literal, sizeof(literal) - 1                                                                                \
    } /* for static initialisers */
#define STR_ARG(s) (int)((s).n > 0x7fffffff ? 0x7fffffff : (s).n), (s).p ? (s).p : ""
#define STR_NONE ((str){NULL, 0})

static inline str str_n(const void *p, size_t n)
{
    return (str){(const char *)p, n};
}
static inline str str_c(const char *z) /* NULL gives the empty view */
{
    return z ? (str){z, strlen(z)} : STR_NONE;
}
static inline bool str_empty(str s)
{
    return s.n == 0;
}
static inline bool str_eq(str a, str b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}
bool str_eq_nocase(str a, str b); /* ASCII letters only */
bool str_eq_secret(str a, str b); /* constant time for equal lengths */
int str_cmp(str a, str b);        /* bytes as unsigned, shorter first */
int str_cmp_nocase(str a, str b); /* ASCII letters folded */
bool str_starts(str s, str prefix);
bool str_starts_nocase(str s, str prefix);
bool str_ends(str s, str suffix);
bool str_ends_nocase(str s, str suffix);
str str_trim(str s);                          /* SP, TAB, CR and LF off both ends */
str str_slice(str s, size_t from, size_t to); /* clamped; to may be SIZE_MAX */
ptrdiff_t str_find(str s, char c);            /* offset, or -1 */
ptrdiff_t str_rfind(str s, char c);
ptrdiff_t str_find_str(str s, str needle);
ptrdiff_t str_find_nocase(str s, str needle);

/* Cut s at the first `sep`: *head gets what is before it and *s what is after it (all and nothing when absent).
 * False, with an empty *head, once nothing is left. */
bool str_split(str *s, char sep, str *head);

/* Heap copy, NUL-terminated. The caller frees it. */
char *str_dup(str s);

/*
 * A cursor over input: it can only shrink. Every step says its maximum; a step that fails leaves the cursor as it was.
 */
struct cursor {
    const unsigned char *p, *end;
};
static inline struct cursor cur_of(str s)
{
    const unsigned char *p = (const unsigned char *)(s.p ? s.p : ""); /* NULL + 0 is undefined */
    return (struct cursor){p, p + s.n};
}
static inline size_t cur_left(const struct cursor *c)
{
    return (size_t)(c->end - c->p);
}
static inline int cur_peek(const struct cursor *c) /* -1 at the end */
{
    return c->p < c->end ? *c->p : -1;
}
static inline bool cur_skip(struct cursor *c, char ch)
{
    if (c->p < c->end && *c->p == (unsigned char)ch) {
        c->p++;
        return true;
    }
    return false;
}
bool cur_skip_nocase(struct cursor *c, str literal); /* all of the literal, ASCII case folded */
str cur_take(struct cursor *c, size_t n);            /* exactly n bytes; empty with p NULL when fewer are left */
/* The longest run of bytes for which is(byte) holds, at most max; may be empty. */
str cur_take_while(struct cursor *c, bool (*is)(unsigned char), size_t max);
static inline str cur_rest(const struct cursor *c)
{
    return str_n(c->p, cur_left(c));
}

#endif
