#include "queue-service/index.h"

#include "base/num.h"
#include "queue-service/message.h"

#define SLOTS_FIRST 8u

void index_init(struct index *x, enum index_by by)
{
    *x = (struct index){.by = by};
}

void index_done(struct index *x)
{
    for (size_t i = 0; i < INDEX_PARTS; i++)
        free(x->parts[i].slots);
    index_init(x, x->by);
}

static uint64_t hash_of(const struct index *x, const struct message *m)
{
    return x->by == INDEX_BY_ID ? hash_u64(m->id) : hash_bytes(str_n(m->enqueue_id, ENQUEUE_ID_SIZE));
}

/* Its low bits are the part, the others the place in it. */
static struct index_part *part_of(const struct index *x, uint64_t hash)
{
    return (struct index_part *)(uintptr_t)&x->parts[hash % INDEX_PARTS];
}

/* Where it would be if nothing else were there. */
static uint32_t home_of(const struct index_part *p, uint64_t hash)
{
    return (uint32_t)(hash / INDEX_PARTS) & (p->n_slots - 1);
}

static uint32_t next_slot(const struct index_part *p, uint32_t i)
{
    return (i + 1) & (p->n_slots - 1);
}

static void put(struct index_part *p, uint64_t hash, struct message *m)
{
    uint32_t i = home_of(p, hash);
    while (p->slots[i])
        i = next_slot(p, i);
    p->slots[i] = m;
}

static void grow(struct index *x, struct index_part *p)
{
    struct message **old = p->slots;
    uint32_t n_old = p->n_slots;
    p->n_slots = n_old ? 2 * n_old : SLOTS_FIRST;
    p->slots = xcalloc(p->n_slots, sizeof(*p->slots));
    x->n_slots += p->n_slots - n_old;
    for (uint32_t i = 0; i < n_old; i++)
        if (old[i])
            put(p, hash_of(x, old[i]), old[i]);
    free(old);
}

void index_add(struct index *x, struct message *m)
{
    uint64_t hash = hash_of(x, m);
    struct index_part *p = part_of(x, hash);
    if (4 * (p->n + 1) > 3 * p->n_slots)
        grow(x, p);
    put(p, hash, m);
    p->n++;
}

/* Whether slot i lies on the way from home to the hole, so that who is at i may move there: cyclically, home is not in
 * (hole, i]. */
static bool may_move(uint32_t home, uint32_t hole, uint32_t i)
{
    return hole <= i ? home <= hole || home > i : home <= hole && home > i;
}

void index_remove(struct index *x, const struct message *m)
{
    uint64_t hash = hash_of(x, m);
    struct index_part *p = part_of(x, hash);
    uint32_t hole = home_of(p, hash);
    while (p->slots[hole] != m)
        hole = next_slot(p, hole);
    for (uint32_t i = next_slot(p, hole); p->slots[i]; i = next_slot(p, i)) {
        if (!may_move(home_of(p, hash_of(x, p->slots[i])), hole, i))
            continue;
        p->slots[hole] = p->slots[i];
        hole = i;
    }
    p->slots[hole] = NULL;
    p->n--;
}

struct message *index_by_id(const struct index *x, uint64_t id)
{
    uint64_t hash = hash_u64(id);
    const struct index_part *p = part_of(x, hash);
    for (uint32_t i = p->n ? home_of(p, hash) : 0; p->n && p->slots[i]; i = next_slot(p, i))
        if (p->slots[i]->id == id)
            return p->slots[i];
    return NULL;
}

struct message *index_by_enqueue_id(const struct index *x, str enqueue_id)
{
    uint64_t hash = hash_bytes(enqueue_id);
    const struct index_part *p = part_of(x, hash);
    for (uint32_t i = p->n ? home_of(p, hash) : 0; p->n && p->slots[i]; i = next_slot(p, i))
        if (memcmp(p->slots[i]->enqueue_id, enqueue_id.p, ENQUEUE_ID_SIZE) == 0)
            return p->slots[i];
    return NULL;
}

size_t index_bytes(const struct index *x)
{
    return x->n_slots * sizeof(struct message *);
}
