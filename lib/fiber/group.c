#include "fiber/internal.h"

void fiber_group_init(struct fiber_group *g, unsigned max_children)
{
    list_init(&g->children);
    g->n = 0;
    g->max_children = max_children;
    fiber_cond_init(&g->ended);
}

void fiber_group_child_ended(struct fiber *f)
{
    struct fiber_group *g = f->group;
    f->group = NULL;
    list_remove(&f->sibling);
    g->n--;
    fiber_cond_broadcast(&g->ended);
}

bool fiber_group_wait(struct fiber_group *g, struct err *err)
{
    while (g->n > 0)
        if (!fiber_cond_wait(&g->ended, err))
            return false;
    return true;
}

void fiber_group_cancel(struct fiber_group *g)
{
    LIST_EACH(&g->children, n)
    fiber_cancel(LIST_ITEM(n, struct fiber, sibling));
}

void fiber_group_done(struct fiber_group *g)
{
    fiber_group_cancel(g);
    while (g->n > 0) /* the children hold the group's address */
        fiber_cond_wait_uninterrupted(&g->ended);
}
