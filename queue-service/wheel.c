#include "queue-service/wheel.h"

#define SLOT_BITS 8

void wheel_init(struct wheel *w, int64_t now_s, const wheel_fn *fns)
{
    w->now_s = now_s;
    w->fns = fns;
    for (int l = 0; l < WHEEL_LEVELS; l++)
        for (int s = 0; s < WHEEL_SLOTS; s++)
            list_init(&w->slots[l][s]);
}

/* The slot of level l is that of due_s; the level is the lowest in which due_s and now_s differ by less than a turn. */
static void place(struct wheel *w, struct wheel_node *n)
{
    int64_t due_s = MAX((int64_t)n->due_s, w->now_s + 1), ahead = due_s - w->now_s;
    int level = 0;
    while (level < WHEEL_LEVELS - 1 && ahead >= (int64_t)1 << (SLOT_BITS * (level + 1)))
        level++;
    list_push(&w->slots[level][(due_s >> (SLOT_BITS * level)) % WHEEL_SLOTS], &n->node);
}

void wheel_add(struct wheel *w, struct wheel_node *n, int64_t due_s)
{
    list_remove(&n->node);
    n->due_s = (uint32_t)MIN(MAX(due_s, 0), (int64_t)UINT32_MAX);
    place(w, n);
}

void wheel_remove(struct wheel_node *n)
{
    list_remove(&n->node);
}

/* Spread a slot of an upper level over the lower ones, as its time has come near. */
static void cascade(struct wheel *w, int level)
{
    struct list *slot = &w->slots[level][(w->now_s >> (SLOT_BITS * level)) % WHEEL_SLOTS], moved;
    list_init(&moved);
    for (struct list_node *n; (n = list_pop(slot));)
        list_push(&moved, n);
    for (struct list_node *n; (n = list_pop(&moved));) {
        struct wheel_node *node = LIST_ITEM(n, struct wheel_node, node);
        if (node->due_s <= w->now_s) /* due in this very second: into the slot that fires now */
            list_push(&w->slots[0][w->now_s % WHEEL_SLOTS], n);
        else
            place(w, node);
    }
}

static void fire(const struct wheel *w, struct list *slot)
{
    struct list due;
    list_init(&due);
    for (struct list_node *n; (n = list_pop(slot));)
        list_push(&due, n);
    for (struct list_node *n; (n = list_pop(&due));) {
        struct wheel_node *node = LIST_ITEM(n, struct wheel_node, node);
        w->fns[node->kind](node);
    }
}

void wheel_advance(struct wheel *w, int64_t now_s)
{
    while (w->now_s < now_s) {
        w->now_s++;
        for (int level = WHEEL_LEVELS - 1; level > 0; level--)
            if (w->now_s % ((int64_t)1 << (SLOT_BITS * level)) == 0)
                cascade(w, level);
        fire(w, &w->slots[0][w->now_s % WHEEL_SLOTS]);
    }
}
