/*
 * fiber.h: one loop, one thread, many fibers.
 *
 * A fiber is a stackful coroutine that runs one piece of work: a TLS handshake, one command, one RPC request, one
 * delivery attempt. It looks like ordinary blocking code; wherever it would block it suspends, and other fibers run.
 * Idle connections hold no fiber. Fibers never migrate between threads and are never preempted: between two suspending
 * calls no other fiber runs.
 *
 * Rules (they are what makes this safe):
 *  1. fiber_wake only queues. No fiber is ever resumed inside a library's callback.
 *  2. A fiber has one deadline. FIBER_DEADLINE shortens it for a scope; nothing lengthens it.
 *  3. Cancellation is sticky: the current or the next wait returns false with CANCELLED. The fiber unwinds by return.
 *  4. A wait that gave its own address to a callback source does not return before that source has let go of it.
 *  5. Wake-ups may be spurious: wait in a loop over the condition.
 *  6. After a suspending call, pointers into shared mutable things are stale. Look them up again.
 *  7. Read errno and OpenSSL's error queue before you suspend.
 *
 * Limits: live fibers are capped (fiber_opts.max_fibers); at the cap fiber_spawn returns false with LIMIT and the
 * caller refuses work in its protocol's words. A fiber that runs for more than slice_warn_ms without suspending is
 * logged.
 */
#ifndef FIBER_FIBER_H
#define FIBER_FIBER_H

#include "base/err.h"
#include "base/list.h"

struct fiber;
typedef void (*fiber_fn)(void *arg);

#define FIBER_NO_DEADLINE INT64_MAX

struct fiber_opts {
    unsigned max_fibers;    /* live at once; default 8192 */
    size_t stack_bytes;     /* default 256 KiB; 1 MiB under sanitizers */
    unsigned pooled_stacks; /* free stacks kept; default 256 */
    unsigned slice_warn_ms; /* default 50 */
};

/* --- the runtime: once per process --- */
/* Make the loop. opts may be NULL for the defaults. */
bool fiber_runtime_init(const struct fiber_opts *opts, struct err *err) WARN_UNUSED;
/* Run the loop until fiber_runtime_stop() was called, or nothing is left to wait for. Not from a fiber. */
void fiber_runtime_run(void);
void fiber_runtime_stop(void);
/* Close the loop. Every fiber must have ended and every handle must be closed (asserted). */
void fiber_runtime_done(void);
/* Tests and command-line tools: init, run fn on a fiber, cancel what is left, done. Returns false when init failed. */
bool fiber_main(fiber_fn fn, void *arg);

/* --- fibers --- */
/*
 * Start fn(arg) on a new fiber; it first runs on the loop's next turn. name is a literal (log, watchdog, gdb).
 * deadline_mono_ms is absolute (clock_mono_ms() + n), or FIBER_NO_DEADLINE. Errors: LIMIT.
 */
bool fiber_spawn(const char *name, fiber_fn fn, void *arg, int64_t deadline_mono_ms, struct err *err) WARN_UNUSED;
/* The same for short work that must go on when all fibers are used up, as health checks: FIBER_RESERVE above the cap.
 */
#define FIBER_RESERVE 32u
bool fiber_spawn_vital(const char *name, fiber_fn fn, void *arg, int64_t deadline_mono_ms, struct err *err) WARN_UNUSED;
/* The running fiber, or NULL on the loop. The pointer is good until that fiber's function returns. */
struct fiber *fiber_self(void);
const char *fiber_name(const struct fiber *f);
unsigned fiber_count(void); /* live fibers */

/* Queue f to run. Safe from callbacks; a fiber that is already queued or running stays as it is. */
void fiber_wake(struct fiber *f);
/* Suspend until woken. False with TIMEOUT or CANCELLED. May return spuriously. */
FIBER bool fiber_wait(struct err *err) WARN_UNUSED;
/* Suspend until woken, whatever the deadline and cancellation say: for rule 4 only (the source is sure to call back).
 */
FIBER void fiber_wait_uninterrupted(void);
FIBER bool fiber_sleep_ms(int64_t ms, struct err *err) WARN_UNUSED;
/* Let others run; false when the deadline has passed or the fiber was cancelled. */
FIBER bool fiber_yield(struct err *err) WARN_UNUSED;
/*
 * For loops over what a peer chose (a set of messages, a large reply): suspends when this fiber has run for
 * FIBER_SLICE_MS since it was last resumed, else it only looks at the clock: call it for each item. Everything else
 * that is ready, and I/O, comes first: of the fibers that gave way so, a turn of the loop goes on with others only
 * until FIBER_SLICE_MS of it are over. However many long loops there are, whoever has little to do waits for one slice
 * of one of them. False as fiber_yield, but only when it did suspend.
 */
#define FIBER_SLICE_MS 4
FIBER bool fiber_yield_if_due(struct err *err) WARN_UNUSED;
/* Sticky. The fiber's current or next wait returns false with CANCELLED. */
void fiber_cancel(struct fiber *f);
bool fiber_is_cancelled(const struct fiber *f);

int64_t fiber_deadline(void);                /* of the running fiber, mono ms; FIBER_NO_DEADLINE on the loop */
int64_t fiber_set_deadline(int64_t mono_ms); /* MIN with the one in force; returns the old one */
void fiber_restore_deadline(int64_t mono_ms);
/* FIBER_DEADLINE(2000): until the end of this scope, waits end after 2000 ms at the latest. */
static inline void fiber_deadline_scope_done_(int64_t *old)
{
    fiber_restore_deadline(*old);
}
#define FIBER_CONCAT2_(a, b) a##b
#define FIBER_CONCAT_(a, b) FIBER_CONCAT2_(a, b)
#define FIBER_DEADLINE(ms)                                                                                             \
    __attribute__((cleanup(fiber_deadline_scope_done_), unused)) int64_t FIBER_CONCAT_(deadline_scope_, __LINE__) =    \
        fiber_set_deadline(clock_mono_ms() + (ms))

/* What the log says of the running work. Strings are borrowed and must outlive the fiber's use of them. */
struct fiber_context {
    uint64_t trace_id;   /* 0 = none; crosses the wire with every RPC */
    uint64_t session_id; /* 0 = none */
    str account;         /* login or address, may be empty */
};
struct fiber_context *fiber_context(void); /* of the running fiber; a static spare one on the loop */

/* --- waiting together --- */
/* A condition: a list of waiting fibers. Zeroed is not valid: fiber_cond_init. Wait in a loop over your predicate. */
struct fiber_cond {
    struct list waiters;
};
void fiber_cond_init(struct fiber_cond *c);
FIBER bool fiber_cond_wait(struct fiber_cond *c, struct err *err) WARN_UNUSED;
FIBER void fiber_cond_wait_uninterrupted(struct fiber_cond *c); /* until signalled: for joining what is sure to end */
void fiber_cond_signal(struct fiber_cond *c);                   /* wakes one */
void fiber_cond_broadcast(struct fiber_cond *c);                /* wakes all */

/* Fair (first come, first served). Held over suspensions; say at the field which invariant it guards. */
struct fiber_mutex {
    struct fiber *owner;
    struct fiber_cond free;
};
void fiber_mutex_init(struct fiber_mutex *m);
FIBER bool fiber_mutex_lock(struct fiber_mutex *m, struct err *err) WARN_UNUSED;
void fiber_mutex_unlock(struct fiber_mutex *m);

/* A bound on how many do something at once. */
struct fiber_sem {
    unsigned free;
    struct fiber_cond available;
};
void fiber_sem_init(struct fiber_sem *s, unsigned n);
FIBER bool fiber_sem_acquire(struct fiber_sem *s, struct err *err) WARN_UNUSED;
void fiber_sem_release(struct fiber_sem *s);

/*
 * Children that end before the scope does. fiber_group_spawn adds one; fiber_group_wait waits for all of them (false
 * when the waiter's own deadline or cancellation struck); fiber_group_done cancels and joins what is left, and is what
 * FIBER_GROUP(g) does at the end of the scope. Children inherit deadline and context. max_children bounds it.
 */
struct fiber_group {
    struct list children;
    unsigned n, max_children;
    struct fiber_cond ended;
};
void fiber_group_init(struct fiber_group *g, unsigned max_children);
FIBER bool fiber_group_spawn(struct fiber_group *g, const char *name, fiber_fn fn, void *arg, struct err *err)
    WARN_UNUSED;
FIBER bool fiber_group_wait(struct fiber_group *g, struct err *err) WARN_UNUSED;
void fiber_group_cancel(struct fiber_group *g);
FIBER void fiber_group_done(struct fiber_group *g);
#define FIBER_GROUP(name, max_children)                                                                                \
    __attribute__((cleanup(fiber_group_done))) struct fiber_group name;                                                \
    fiber_group_init(&name, (max_children))

/* --- timers for sessions without a fiber --- */
/* One-shot; fn runs on the loop, not on a fiber, and must not suspend. Cheap to restart (hashed wheel, ~100 ms). */
struct fiber_timer {
    struct list_node node;
    int64_t due_mono_ms;
    void (*fn)(void *arg);
    void *arg;
};
void fiber_timer_start(struct fiber_timer *t, int64_t delay_ms, void (*fn)(void *arg), void *arg);
void fiber_timer_stop(struct fiber_timer *t); /* a zeroed or stopped timer is allowed */

#endif
