#include "fiber/stack.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#endif
#endif
#ifndef ASAN_UNPOISON_MEMORY_REGION
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define VALGRIND_STACK_REGISTER(from, to) 0
#define VALGRIND_STACK_DEREGISTER(id) ((void)(id))
#endif

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* Linux 6.13: a guard without a mapping of its own */
#endif

bool stack_make(struct stack *s, size_t usable_bytes, struct err *err)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t size = STACK_GUARD + (usable_bytes + page - 1) / page * page;
    char *map =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return err_set(err, ERR_BUSY, "no memory for a stack: %s", strerror(errno));
    (void)madvise(map, size, MADV_NOHUGEPAGE); /* a kernel without huge pages has nothing to refuse */
    if (madvise(map, STACK_GUARD, MADV_GUARD_INSTALL) != 0 && mprotect(map, STACK_GUARD, PROT_NONE) != 0) {
        int e = errno;
        (void)munmap(map, size);
        return err_set(err, ERR_BUSY, "no guard for a stack: %s", strerror(e));
    }
    *s = (struct stack){.map = map, .map_size = size};
    s->valgrind_id = VALGRIND_STACK_REGISTER(map + STACK_GUARD, map + size);
    return true;
}

void stack_drop(struct stack *s)
{
    if (!s->map)
        return;
    VALGRIND_STACK_DEREGISTER(s->valgrind_id);
    ASAN_UNPOISON_MEMORY_REGION(s->map, s->map_size);
    (void)munmap(s->map, s->map_size);
    *s = (struct stack){0};
}

void stack_rest(struct stack *s)
{
    size_t usable = stack_size(s);
    if (usable > STACK_KEEP)
        (void)madvise(stack_base(s), usable - STACK_KEEP, MADV_DONTNEED);
}

bool stack_guards(const struct stack *s, const void *address)
{
    const char *p = address;
    return s->map && p >= s->map && p < s->map + STACK_GUARD;
}
