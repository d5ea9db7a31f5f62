/*
 * internal.h: the runtime's insides, shared by the files of lib/fiber only.
 */
#ifndef FIBER_INTERNAL_H
#define FIBER_INTERNAL_H

#include "fiber/loop.h"
#include "fiber/stack.h"
#include "fiber/switch.h"

#define FIBER_MAGIC 0xf1be5000u

enum fiber_state { FIBER_ENDED, FIBER_READY, FIBER_RUNNING, FIBER_WAITING };
/* Why a wait ended. An explicit wake wins over the others: what it brought must not be lost. */
enum fiber_wake_reason { WAKE_NONE, WAKE_DUE, WAKE_CANCELLED, WAKE_EXPLICIT };

/* tools/gdb/fibers.py reads these by name. */
struct fiber {
    uint32_t magic;
    enum fiber_state state;
    enum fiber_wake_reason wake;
    bool is_cancelled;
    bool is_deaf; /* fiber_wait_uninterrupted: cancellation does not wake it */
    const char *name;
    const char *waiting_for;
    fiber_fn fn; /* NULL: leave the stack for good */
    void *arg;
    int64_t deadline; /* of the fiber */
    int64_t wake_at;  /* of the present wait: at most the deadline */
    int64_t heap_due; /* when the deadline heap looks at it; never later than wake_at */
    size_t heap_at;   /* index + 1 in the deadline heap, 0 = not there */
    int64_t started_mono_ms;
    struct list_node all; /* live or pooled */
    struct list_node ready;
    struct list_node waiting; /* in a condition's, mutex's or semaphore's list */
    bool is_signalled;        /* taken off that list by a signal */
    struct list_node sibling; /* in group->children */
    struct fiber_group *group;
    struct fiber_context context;
    struct stack stack;
    struct switch_ctx ctx;
};

struct fiber_runtime {
    bool is_open;
    struct fiber_opts opts;
    struct list live, pooled, ready;
    struct list late;        /* ready too, but gave way: after all others, some in each turn */
    uint64_t turn_began_ns;  /* uv_hrtime: time that passes, whatever clock tests have */
    uint64_t slice_began_ns; /* of the running fiber */
    unsigned n_live, n_pooled;
    struct switch_ctx loop_ctx;
};
extern struct fiber_runtime fiber_runtime;

/* Suspend until one of: woken, due (FIBER_NO_DEADLINE = never), cancelled (unless is_deaf). */
FIBER enum fiber_wake_reason fiber_suspend(const char *what, int64_t due, bool is_deaf);
/* Whether the running fiber may begin another wait: not cancelled, not overdue. Does not suspend. */
bool fiber_may_wait(struct err *err) WARN_UNUSED;
/* fiber_wait and fiber_wait_uninterrupted with a word for the debugger. */
FIBER bool fiber_wait_for(const char *what, struct err *err) WARN_UNUSED;
FIBER void fiber_wait_deaf(const char *what);
void fiber_make_ready(struct fiber *f, enum fiber_wake_reason why);
/* Run the fibers that are ready now, each once. */
void fiber_run_ready(void);
/* Then those that gave way: one, and others until the turn has lasted for FIBER_SLICE_MS. */
void fiber_run_late(void);
bool fiber_turn_is_over(void); /* it has lasted for FIBER_SLICE_MS: look after I/O */
/* Free resting stacks. */
void fiber_drop_pooled(void);
void fiber_group_child_ended(struct fiber *f);

/* deadline.c: a heap of the fibers that wait with a due time. */
void deadline_arm(struct fiber *f, int64_t due);
void deadline_forget(struct fiber *f);
int64_t deadline_next(void); /* FIBER_NO_DEADLINE when there is none */
void deadline_run(int64_t now);
void deadline_done(void);

/* timer.c: the wheel of fiber_timers. */
int64_t timer_next(int64_t now);
void timer_run(int64_t now);
void timer_init(void);
void timer_done(void);

/* loop.c */
void loop_something_ready(void);    /* do not block in the next poll */
void loop_due_changed(int64_t due); /* something is due then, perhaps earlier than anything before */

/* crash.c */
void crash_handler_install(void);

#endif
