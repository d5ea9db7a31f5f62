/*
 * stack.h: guarded stacks for fibers. The lowest STACK_GUARD bytes fault when touched.
 */
#ifndef FIBER_STACK_H
#define FIBER_STACK_H

#include "base/err.h"

#define STACK_GUARD ((size_t)64 * 1024) /* libraries built without stack probes may jump far */
#define STACK_KEEP ((size_t)64 * 1024)  /* what a resting stack keeps of its memory */

struct stack {
    char *map; /* the guard, then the usable part */
    size_t map_size;
    unsigned valgrind_id; /* 0 without valgrind */
};

bool stack_make(struct stack *s, size_t usable_bytes, struct err *err) WARN_UNUSED;
void stack_drop(struct stack *s);
static inline void *stack_base(const struct stack *s)
{
    return s->map + STACK_GUARD;
}
static inline size_t stack_size(const struct stack *s)
{
    return s->map_size - STACK_GUARD;
}
/* Give back what lies deeper than STACK_KEEP. Only while the stack is not in use deeper than that. */
void stack_rest(struct stack *s);
bool stack_guards(const struct stack *s, const void *address);

#endif
