/*
 * list.h: intrusive doubly linked list. A zeroed node is in no list.
 */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include "base/base.h"

struct list_node {
    struct list_node *prev, *next;
};
struct list {
    struct list_node head; /* circular; head.next is the first */
};

static inline void list_init(struct list *l)
{
    l->head.prev = l->head.next = &l->head;
}
static inline bool list_empty(const struct list *l)
{
    return l->head.next == &l->head;
}
static inline bool list_in(const struct list_node *n)
{
    return n->next != NULL;
}
static inline void list_insert_before(struct list_node *at, struct list_node *n)
{
    assert(!list_in(n));
    n->prev = at->prev;
    n->next = at;
    at->prev->next = n;
    at->prev = n;
}
static inline void list_push(struct list *l, struct list_node *n) /* at the end */
{
    list_insert_before(&l->head, n);
}
static inline void list_push_front(struct list *l, struct list_node *n)
{
    list_insert_before(l->head.next, n);
}
static inline void list_remove(struct list_node *n) /* a node in no list is allowed */
{
    if (!list_in(n))
        return;
    n->prev->next = n->next;
    n->next->prev = n->prev;
    n->prev = n->next = NULL;
}
static inline struct list_node *list_first(const struct list *l)
{
    return list_empty(l) ? NULL : l->head.next;
}
static inline struct list_node *list_pop(struct list *l)
{
    struct list_node *n = list_first(l);
    if (n)
        list_remove(n);
    return n;
}
/* Iterate; the current node may be removed in the body. */
#define LIST_EACH(l, n)                                                                                                \
    for (struct list_node *n = (l)->head.next, *next_##n = n->next; n != &(l)->head; n = next_##n, next_##n = n->next)
#define LIST_ITEM(node, type, member) CONTAINER_OF(node, type, member)

#endif
