/*
 * deadline.c: a binary heap of fibers by the time at which they want to be looked at.
 *
 * A fiber that waits often with one deadline is entered once: its entry stays while it runs and is only ever moved
 * earlier. An entry that comes up before its fiber's present wait is due goes back with the later time.
 */
#include "fiber/internal.h"

#include "base/num.h"

static struct {
    struct fiber **at;
    size_t n, size;
} heap;

static void place(size_t i, struct fiber *f)
{
    heap.at[i] = f;
    f->heap_at = i + 1;
}

static void sift_up(size_t i, struct fiber *f)
{
    while (i > 0 && heap.at[(i - 1) / 2]->heap_due > f->heap_due) {
        place(i, heap.at[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    place(i, f);
}

static void sift_down(size_t i, struct fiber *f)
{
    for (;;) {
        size_t child = 2 * i + 1;
        if (child + 1 < heap.n && heap.at[child + 1]->heap_due < heap.at[child]->heap_due)
            child++;
        if (child >= heap.n || heap.at[child]->heap_due >= f->heap_due)
            break;
        place(i, heap.at[child]);
        i = child;
    }
    place(i, f);
}

void deadline_arm(struct fiber *f, int64_t due)
{
    if (f->heap_at && f->heap_due <= due)
        return;
    f->heap_due = due;
    if (!f->heap_at) {
        if (heap.n == heap.size) {
            heap.size = heap.size ? heap.size * 2 : 64;
            heap.at = xrealloc(heap.at, size_mul(heap.size, sizeof(struct fiber *)));
        }
        f->heap_at = ++heap.n;
    }
    sift_up(f->heap_at - 1, f);
    if (f->heap_at == 1)
        loop_due_changed(due);
}

void deadline_forget(struct fiber *f)
{
    if (!f->heap_at)
        return;
    size_t hole = f->heap_at - 1;
    f->heap_at = 0;
    struct fiber *moved = heap.at[--heap.n];
    if (moved == f)
        return;
    if (hole > 0 && heap.at[(hole - 1) / 2]->heap_due > moved->heap_due)
        sift_up(hole, moved);
    else
        sift_down(hole, moved);
}

int64_t deadline_next(void)
{
    return heap.n ? heap.at[0]->heap_due : FIBER_NO_DEADLINE;
}

void deadline_run(int64_t now)
{
    while (heap.n && heap.at[0]->heap_due <= now) {
        struct fiber *f = heap.at[0];
        deadline_forget(f);
        if (f->state != FIBER_WAITING || f->wake_at == FIBER_NO_DEADLINE)
            continue;
        if (f->wake_at > now)
            deadline_arm(f, f->wake_at);
        else
            fiber_make_ready(f, WAKE_DUE);
    }
}

void deadline_done(void)
{
    assert(heap.n == 0);
    free(heap.at);
    heap.at = NULL;
    heap.size = 0;
}
