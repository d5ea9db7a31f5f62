/*
 * crash.c: on a fatal signal, one line that names the running fiber, and a trace (addresses for addr2line: no name is
 * exported); then the signal's default action.
 *
 * On a stack of its own, because a fiber that ran out of stack has none. With a sanitizer its own handler stays.
 */
#include "fiber/internal.h"

#ifdef THURN_SANITIZED
void crash_handler_install(void)
{
}
#else

#include <execinfo.h>
#include <signal.h>
#include <unistd.h>

#define CRASH_STACK ((size_t)64 * 1024)

static void say(const char *z)
{
    ssize_t n = write(STDERR_FILENO, z, strlen(z)); /* the only thing left to do */
    (void)n;
}

static void say_number(uint64_t v)
{
    char digits[24], *p = digits + sizeof(digits) - 1;
    *p = '\0';
    do
        *--p = (char)('0' + v % 10);
    while (v /= 10);
    say(p);
}

static void on_crash(int signo, siginfo_t *info, void *context)
{
    (void)context;
    const struct fiber *f = fiber_self();
    say("thurn: fatal signal ");
    say_number((uint64_t)signo);
    if (f) {
        say(signo == SIGSEGV && stack_guards(&f->stack, info->si_addr) ? ", stack overflow in fiber '" : " in fiber '");
        say(f->name);
        say("' session ");
        say_number(f->context.session_id);
    } else {
        say(" on the loop or another thread");
    }
    say("\n");
    void *frames[64];
    backtrace_symbols_fd(frames, backtrace(frames, (int)ARRAY_LEN(frames)), STDERR_FILENO);
    (void)signal(signo, SIG_DFL);
    (void)raise(signo);
}

void crash_handler_install(void)
{
    static char *stack;
    if (stack)
        return;
    stack = xmalloc(CRASH_STACK); /* for the life of the process */
    void *frame[1];
    (void)backtrace(frame, 1); /* loads what it needs now, not in the handler */
    stack_t alt = {.ss_sp = stack, .ss_size = CRASH_STACK};
    struct sigaction sa = {.sa_sigaction = on_crash, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESETHAND};
    (void)sigemptyset(&sa.sa_mask);
    if (sigaltstack(&alt, NULL) != 0)
        panic("sigaltstack failed");
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        if (sigaction(signals[i], &sa, NULL) != 0)
            panic("sigaction failed");
}
#endif
