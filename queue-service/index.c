#include "queue-service/internal.h"

#include "base/num.h"

#define SLOTS_FIRST 64u

void index_init(struct index *x, enum index_by by)
{
    *x = (struct index){.by = by};
}

void index_done(struct index *x)
{
    free(x->slots);
    index_init(x, x->by);
}

static size_t slot_of_id(const struct index *x, uint64_t id)
{
    return (size_t)hash_u64(id) & (x->n_slots - 1);
}

static size_t slot_of_enqueue_id(const struct index *x, str enqueue_id)
{
    return (size_t)hash_bytes(enqueue_id) & (x->n_slots - 1);
}

/* Where it would be if nothing else were there. */
static size_t home_of(const struct index *x, const struct message *m)
{
    return x->by == INDEX_BY_ID ? slot_of_id(x, m->id) : slot_of_enqueue_id(x, str_n(m->enqueue_id, ENQUEUE_ID_SIZE));
}

static size_t next_slot(const struct index *x, size_t i)
{
    return (i + 1) & (x->n_slots - 1);
}

static void put(struct index *x, struct message *m)
{
    size_t i = home_of(x, m);
    while (x->slots[i])
        i = next_slot(x, i);
    x->slots[i] = m;
}

static void grow(struct index *x)
{
    struct message **old = x->slots;
    size_t n_old = x->n_slots;
    x->n_slots = n_old ? size_mul(n_old, 2) : SLOTS_FIRST;
    x->slots = xcalloc(x->n_slots, sizeof(*x->slots));
    for (size_t i = 0; i < n_old; i++)
        if (old[i])
            put(x, old[i]);
    free(old);
}

void index_add(struct index *x, struct message *m)
{
    if (4 * (x->n + 1) > 3 * x->n_slots)
        grow(x);
    put(x, m);
    x->n++;
}

/* Whether slot i lies on the way from home to the hole, so that who is at i may move there: cyclically, home is not in (hole, i]. */
static bool may_move(size_t home, size_t hole, size_t i)
{
    return hole <= i ? home <= hole || home > i : home <= hole && home > i;
}

void index_remove(struct index *x, const struct message *m)
{
    size_t hole = home_of(x, m);
    while (x->slots[hole] != m)
        hole = next_slot(x, hole);
    for (size_t i = next_slot(x, hole); x->slots[i]; i = next_slot(x, i)) {
        if (!may_move(home_of(x, x->slots[i]), hole, i))
            continue;
        x->slots[hole] = x->slots[i];
        hole = i;
    }
    x->slots[hole] = NULL;
    x->n--;
}

struct message *index_by_id(const struct index *x, uint64_t id)
{
    for (size_t i = x->n ? slot_of_id(x, id) : 0; x->n && x->slots[i]; i = next_slot(x, i))
        if (x->slots[i]->id == id)
            return x->slots[i];
    return NULL;
}

struct message *index_by_enqueue_id(const struct index *x, str enqueue_id)
{
    for (size_t i = x->n ? slot_of_enqueue_id(x, enqueue_id) : 0; x->n && x->slots[i]; i = next_slot(x, i))
        if (memcmp(x->slots[i]->enqueue_id, enqueue_id.p, ENQUEUE_ID_SIZE) == 0)
            return x->slots[i];
    return NULL;
}

size_t index_bytes(const struct index *x)
{
    return x->n_slots * sizeof(*x->slots);
}
