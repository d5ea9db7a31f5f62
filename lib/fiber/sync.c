#include "fiber/internal.h"

/* True when signalled, even if cancellation or the deadline struck as well: a signal must not be lost. It is an
 * explicit wake, which wins over both. */
FIBER static bool wait_in(struct list *waiters, const char *what, struct err *err)
{
    struct fiber *self = fiber_self();
    assert(self);
    self->is_signalled = false;
    list_push(waiters, &self->waiting);
    while (!self->is_signalled) {
        if (fiber_wait_for(what, err))
            continue;
        assert(!self->is_signalled);
        list_remove(&self->waiting);
        return false;
    }
    return true;
}

static struct fiber *signal_one(struct list *waiters)
{
    struct list_node *n = list_pop(waiters);
    if (!n)
        return NULL;
    struct fiber *f = LIST_ITEM(n, struct fiber, waiting);
    f->is_signalled = true;
    fiber_wake(f);
    return f;
}

void fiber_cond_init(struct fiber_cond *c)
{
    list_init(&c->waiters);
}

bool fiber_cond_wait(struct fiber_cond *c, struct err *err)
{
    return wait_in(&c->waiters, "condition", err);
}

void fiber_cond_wait_uninterrupted(struct fiber_cond *c)
{
    struct fiber *self = fiber_self();
    assert(self);
    self->is_signalled = false;
    list_push(&c->waiters, &self->waiting);
    while (!self->is_signalled)
        fiber_wait_deaf("condition");
}

void fiber_cond_signal(struct fiber_cond *c)
{
    (void)signal_one(&c->waiters);
}

void fiber_cond_broadcast(struct fiber_cond *c)
{
    while (signal_one(&c->waiters))
        ;
}

void fiber_mutex_init(struct fiber_mutex *m)
{
    m->owner = NULL;
    fiber_cond_init(&m->free);
}

bool fiber_mutex_lock(struct fiber_mutex *m, struct err *err)
{
    struct fiber *self = fiber_self();
    assert(self && m->owner != self);
    if (!m->owner) {
        m->owner = self;
        return true;
    }
    if (!wait_in(&m->free.waiters, "mutex", err))
        return false;
    assert(m->owner == self); /* handed over by the unlock */
    return true;
}

void fiber_mutex_unlock(struct fiber_mutex *m)
{
    assert(m->owner && m->owner == fiber_self());
    m->owner = signal_one(&m->free.waiters);
}

void fiber_sem_init(struct fiber_sem *s, unsigned n)
{
    s->free = n;
    fiber_cond_init(&s->available);
}

bool fiber_sem_acquire(struct fiber_sem *s, struct err *err)
{
    if (s->free > 0) { /* then nobody waits: a unit that comes back goes to who does */
        s->free--;
        return true;
    }
    return wait_in(&s->available.waiters, "semaphore", err);
}

void fiber_sem_release(struct fiber_sem *s)
{
    if (!signal_one(&s->available.waiters)) /* else the unit goes to that one */
        s->free++;
}
