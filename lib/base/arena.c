#include "base/arena.h"

#include <stdio.h>

#include "base/num.h"

#define ARENA_CHUNK_MIN 4096u
#define ARENA_CHUNK_MAX (256u * 1024)
#define ARENA_ALIGN 16u

struct arena_chunk {
    struct arena_chunk *next;
    size_t size, used;
    _Alignas(ARENA_ALIGN) char data[];
};

void arena_init(struct arena *a, size_t cap_bytes)
{
    *a = (struct arena){.cap = cap_bytes};
}

void arena_done(struct arena *a)
{
    for (struct arena_chunk *c = a->head, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    a->head = NULL;
    a->used = 0;
}

static struct arena_chunk *chunk_add(struct arena *a, size_t want)
{
    size_t size = a->head ? MIN(a->head->size * 2, ARENA_CHUNK_MAX) : ARENA_CHUNK_MIN;
    size = MAX(size, want);
    struct arena_chunk *c = xmalloc(size_add(sizeof(*c), size));
    *c = (struct arena_chunk){.size = size};
    /* An oversized block goes behind the head, so that the head's free space stays in use. */
    if (a->head && want > ARENA_CHUNK_MAX / 2) {
        c->next = a->head->next;
        a->head->next = c;
    } else {
        c->next = a->head;
        a->head = c;
    }
    return c;
}

void *arena_alloc(struct arena *a, size_t size)
{
    size = size_add(size ? size : 1, ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    struct arena_chunk *c = a->head;
    if (!c || c->size - c->used < size)
        c = chunk_add(a, size);
    void *p = c->data + c->used;
    c->used += size;
    a->used += size;
    return p;
}

void *arena_zalloc(struct arena *a, size_t count, size_t size)
{
    size_t total = size_mul(count, size);
    return memset(arena_alloc(a, total), 0, total ? total : 1);
}

char *arena_strz(struct arena *a, str s)
{
    char *z = arena_alloc(a, size_add(s.n, 1));
    if (s.n)
        memcpy(z, s.p, s.n);
    z[s.n] = '\0';
    return z;
}

str arena_str(struct arena *a, str s)
{
    return str_n(arena_strz(a, s), s.n);
}

str arena_vprintf(struct arena *a, const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    assert(n >= 0);
    char *z = arena_alloc(a, (size_t)n + 1);
    vsnprintf(z, (size_t)n + 1, fmt, again);
    va_end(again);
    return str_n(z, (size_t)n);
}

str arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    str s = arena_vprintf(a, fmt, ap);
    va_end(ap);
    return s;
}

bool arena_owns(const struct arena *a, const void *p)
{
    const char *at = p;
    for (const struct arena_chunk *c = a->head; c; c = c->next)
        if (at >= c->data && at < c->data + c->size)
            return true;
    return false;
}
