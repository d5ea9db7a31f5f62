/*
 * base.h: what every file of Thurn may use: attributes, checked memory, scope cleanup, magic numbers.
 *
 * Out of memory aborts: a size that a peer can choose is bounded before anything is allocated for it.
 */
#ifndef BASE_BASE_H
#define BASE_BASE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>

#include "base/banned.h"

/* Marks a function that may suspend the fiber that calls it. Only functions marked so may call it. */
#define FIBER

#define WARN_UNUSED __attribute__((warn_unused_result))
/* For a WARN_UNUSED result that is ignored on purpose, reason beside it: gcc warns in spite of a cast to void. */
#define IGNORE(expr)                                                                                                   \
    do {                                                                                                               \
        __typeof__(expr) ignored_ __attribute__((unused)) = (expr);                                                    \
    } while (0)
#define PRINTF(fmt_index, first_arg) __attribute__((format(printf, fmt_index, first_arg)))
#define NORETURN __attribute__((noreturn))
#define UNUSED __attribute__((unused))
#define FALLTHROUGH __attribute__((fallthrough))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
/* MIN and MAX are those of <sys/param.h>, which other headers bring in as well; they evaluate their arguments twice. */

/*
 * Scope cleanup. DEFINE_CLEANUP(type, fn) beside a destructor `void fn(type *)` makes
 * `CLEANUP(fn) type *x = …;` call fn(x) when x leaves its scope; TAKE(x) hands x over and leaves NULL.
 * Destructors take NULL.
 */
#define DEFINE_CLEANUP(type, fn)                                                                                       \
    static inline __attribute__((unused)) void fn##_cleanup_(type **p)                                                 \
    {                                                                                                                  \
        fn(*p);                                                                                                        \
    }
#define CLEANUP(fn) __attribute__((cleanup(fn##_cleanup_)))
#define TAKE(p)                                                                                                        \
    __extension__({                                                                                                    \
        __typeof__(p) taken_ = (p);                                                                                    \
        (p) = NULL;                                                                                                    \
        taken_;                                                                                                        \
    })

/* Long-lived structs begin with `uint32_t magic`, checked where a module is entered. Stays on in production. */
#define CHECK(p, value) assert((p) != NULL && (p)->magic == (value))

/* Memory. All abort when there is none. xcalloc and xnew zero; size products are checked. */
void *xmalloc(size_t size) __attribute__((malloc, returns_nonnull));
void *xcalloc(size_t count, size_t size) __attribute__((malloc, returns_nonnull));
void *xrealloc(void *p, size_t size) __attribute__((returns_nonnull));
char *xstrdup(const char *s) __attribute__((malloc, returns_nonnull));
#define xnew(type) ((type *)xcalloc(1, sizeof(type)))

static inline void xfree(void *p)
{
    free(p);
}
DEFINE_CLEANUP(void, xfree)
static inline void xfree_char(char *p)
{
    free(p);
}
DEFINE_CLEANUP(char, xfree_char)

/* Print one line on standard error and abort. For broken invariants only, never for input. */
void panic(const char *fmt, ...) PRINTF(1, 2) NORETURN;

#endif
