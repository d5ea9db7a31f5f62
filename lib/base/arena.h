/*
 * arena.h: memory that is freed all at once. Each unit of work (a command, a request, an attempt) has one.
 *
 * Allocation never fails: over the cap it sets a flag that arena_ok() reports, and goes on, so that parsers stay
 * straight. The cap is a backstop of the unit of work; sizes chosen by peers are bounded before they reach it.
 */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stdarg.h>

#include "base/str.h"

struct arena_chunk;
struct arena {
    struct arena_chunk *head; /* newest chunk, or NULL */
    size_t used, cap;         /* bytes handed out; where arena_ok() turns false */
};

void arena_init(struct arena *a, size_t cap_bytes);
/* Free everything. The arena is empty and usable afterwards; may be called on a zeroed arena. */
void arena_done(struct arena *a);
static inline bool arena_ok(const struct arena *a)
{
    return a->used <= a->cap;
}

void *arena_alloc(struct arena *a, size_t size);                /* not zeroed, aligned to 16 */
void *arena_zalloc(struct arena *a, size_t count, size_t size); /* zeroed; the product is checked */
#define arena_new(a, type) ((type *)arena_zalloc((a), 1, sizeof(type)))
#define arena_array(a, type, n) ((type *)arena_zalloc((a), (n), sizeof(type)))
str arena_str(struct arena *a, str s);    /* copy, NUL-terminated past its end */
char *arena_strz(struct arena *a, str s); /* the same as a C string */
str arena_printf(struct arena *a, const char *fmt, ...) PRINTF(2, 3);
str arena_vprintf(struct arena *a, const char *fmt, va_list ap) PRINTF(2, 0);

/* Whether p points into memory of this arena. */
bool arena_owns(const struct arena *a, const void *p);

/* `struct arena x` with scope: ARENA(name, cap); */
static inline void arena_scope_done_(struct arena *a)
{
    arena_done(a);
}
#define ARENA(name, cap_bytes)                                                                                         \
    __attribute__((cleanup(arena_scope_done_))) struct arena name;                                                     \
    arena_init(&name, (cap_bytes))

/* A ProtobufCAllocator over an arena (free does nothing) is made in rpc/call.h. */

#endif
