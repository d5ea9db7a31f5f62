#include "fiber/switch.h"

#if defined(__SANITIZE_ADDRESS__)
#define HAS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAS_ASAN 1
#endif
#endif

#ifdef HAS_ASAN
#include <sanitizer/common_interface_defs.h>
/* NULL for fake_stack frees the one of the context that is left (google/sanitizers issue 1760). */
static void before_switch(void **fake_stack, const struct switch_ctx *to)
{
    __sanitizer_start_switch_fiber(fake_stack, to->bottom, to->size);
}
static void after_switch(void *fake_stack, const void **bottom, size_t *size)
{
    __sanitizer_finish_switch_fiber(fake_stack, bottom, size);
}
#else
static void before_switch(void **fake_stack, const struct switch_ctx *to)
{
    (void)fake_stack;
    (void)to;
}
static void after_switch(void *fake_stack, const void **bottom, size_t *size)
{
    (void)fake_stack;
    (void)bottom;
    (void)size;
}
#endif

void switch_init(struct switch_ctx *c, void *stack, size_t size, void (*entry)(void))
{
    if (getcontext(&c->uc) != 0)
        panic("getcontext failed");
    c->uc.uc_stack.ss_sp = stack;
    c->uc.uc_stack.ss_size = size;
    c->uc.uc_link = NULL;
    c->bottom = stack;
    c->size = size;
    c->fake_stack = NULL;
    makecontext(&c->uc, entry, 0);
}

void switch_arrived(struct switch_ctx *came_from)
{
    after_switch(NULL, &came_from->bottom, &came_from->size);
}

void switch_to(struct switch_ctx *from, struct switch_ctx *to)
{
    before_switch(&from->fake_stack, to);
    if (swapcontext(&from->uc, &to->uc) != 0)
        panic("swapcontext failed");
    after_switch(from->fake_stack, NULL, NULL);
}

void switch_leave(struct switch_ctx *to)
{
    before_switch(NULL, to);
    setcontext(&to->uc);
    panic("setcontext failed");
}
