/* The program that gdb_fibers.sh looks into. */
#include "fiber/fiber.h"

void gdb_stop_here(void);
__attribute__((noinline)) void gdb_stop_here(void)
{
    __asm__ volatile("");
}

static __attribute__((noinline)) void sleep_forever(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    while (fiber_sleep_ms(3600 * 1000, &err))
        ;
}

static void stop(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    if (!fiber_spawn("sleeper-in-gdb", sleep_forever, NULL, FIBER_NO_DEADLINE, &err) || !fiber_yield(&err))
        panic("%s", err.msg);
    gdb_stop_here();
}

int main(void)
{
    return fiber_main(stop, NULL) ? 0 : 1;
}
