/*
 * switch.h: changing stacks, behind three functions. Nothing else knows ucontext or the sanitizer's view of it.
 *
 * swapcontext and not hand-written assembly: it keeps shadow stacks (CET), the signal mask and the FP control words
 * right on every machine, for 0.3 µs.
 */
#ifndef FIBER_SWITCH_H
#define FIBER_SWITCH_H

#include <ucontext.h>

#include "base/base.h"

struct switch_ctx {
    ucontext_t uc;
    void *fake_stack;   /* AddressSanitizer's, while this context is away */
    const void *bottom; /* of the stack; the loop's is learnt at the first switch */
    size_t size;
};

/* entry gets no argument and never returns: it ends by switch_leave. Its first act is switch_arrived. */
void switch_init(struct switch_ctx *c, void *stack, size_t size, void (*entry)(void));
void switch_arrived(struct switch_ctx *came_from);
void switch_to(struct switch_ctx *from, struct switch_ctx *to);
/* Go to `to` and never come back: the stack of the caller is about to be given up. */
void switch_leave(struct switch_ctx *to) NORETURN;

#endif
