#include "base/map.h"

#include "base/clock.h"
#include "base/num.h"

struct map_entry {
    struct map_entry *next;
    void *value;
    uint64_t hash;
    size_t key_n;
    char key[];
};

static uint64_t sip_key[2];

#define ROTL(x, b) ((x) << (b) | (x) >> (64 - (b)))
#define SIP_ROUND                                                                                                      \
    do {                                                                                                               \
        v0 += v1;                                                                                                      \
        v1 = ROTL(v1, 13) ^ v0;                                                                                        \
        v0 = ROTL(v0, 32);                                                                                             \
        v2 += v3;                                                                                                      \
        v3 = ROTL(v3, 16) ^ v2;                                                                                        \
        v0 += v3;                                                                                                      \
        v3 = ROTL(v3, 21) ^ v0;                                                                                        \
        v2 += v1;                                                                                                      \
        v1 = ROTL(v1, 17) ^ v2;                                                                                        \
        v2 = ROTL(v2, 32);                                                                                             \
    } while (0)

uint64_t hash_bytes(str s)
{
    while (!sip_key[0])
        random_bytes(sip_key, sizeof(sip_key));
    uint64_t v0 = sip_key[0] ^ 0x736f6d6570736575ull, v1 = sip_key[1] ^ 0x646f72616e646f6dull;
    uint64_t v2 = sip_key[0] ^ 0x6c7967656e657261ull, v3 = sip_key[1] ^ 0x7465646279746573ull;
    size_t n = s.n;
    const char *p = s.p;
    uint64_t m;
    for (; n >= 8; n -= 8, p += 8) {
        memcpy(&m, p, 8);
        v3 ^= m;
        SIP_ROUND;
        v0 ^= m;
    }
    m = (uint64_t)s.n << 56;
    for (size_t i = 0; i < n; i++)
        m |= (uint64_t)(unsigned char)p[i] << (8 * i);
    v3 ^= m;
    SIP_ROUND;
    v0 ^= m;
    v2 ^= 0xff;
    SIP_ROUND;
    SIP_ROUND;
    SIP_ROUND;
    return v0 ^ v1 ^ v2 ^ v3;
}

uint64_t hash_u64(uint64_t v)
{
    return hash_bytes(str_n(&v, sizeof(v)));
}

uint64_t hash_stable(str s)
{
    uint64_t h = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < s.n; i++)
        h = (h ^ (unsigned char)s.p[i]) * 0x100000001b3ull;
    h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdull;
    return h ^ (h >> 33);
}

void map_init(struct map *m)
{
    *m = (struct map){0};
}

void map_done(struct map *m)
{
    for (size_t i = 0; i < m->n_slots; i++)
        for (struct map_entry *e = m->slots[i], *next; e; e = next) {
            next = e->next;
            free(e);
        }
    free(m->slots);
    map_init(m);
}

/* The link that points at the entry, or at the end of its chain. */
static struct map_entry **find(const struct map *m, str key, uint64_t hash)
{
    struct map_entry **at = &m->slots[hash & (m->n_slots - 1)];
    while (*at && !((*at)->hash == hash && str_eq(str_n((*at)->key, (*at)->key_n), key)))
        at = &(*at)->next;
    return at;
}

static void grow(struct map *m)
{
    size_t n_slots = m->n_slots ? size_mul(m->n_slots, 2) : 8;
    struct map_entry **slots = xcalloc(n_slots, sizeof(struct map_entry *));
    for (size_t i = 0; i < m->n_slots; i++)
        for (struct map_entry *e = m->slots[i], *next; e; e = next) {
            next = e->next;
            e->next = slots[e->hash & (n_slots - 1)];
            slots[e->hash & (n_slots - 1)] = e;
        }
    free(m->slots);
    m->slots = slots;
    m->n_slots = n_slots;
}

void *map_get(const struct map *m, str key)
{
    if (!m->n)
        return NULL;
    struct map_entry *e = *find(m, key, hash_bytes(key));
    return e ? e->value : NULL;
}

void *map_put(struct map *m, str key, void *value)
{
    assert(value);
    if (m->n >= m->n_slots)
        grow(m);
    uint64_t hash = hash_bytes(key);
    struct map_entry **at = find(m, key, hash), *e = *at;
    if (e) {
        void *old = e->value;
        e->value = value;
        return old;
    }
    e = xmalloc(size_add(sizeof(*e), key.n));
    *e = (struct map_entry){.value = value, .hash = hash, .key_n = key.n};
    if (key.n)
        memcpy(e->key, key.p, key.n);
    *at = e;
    m->n++;
    return NULL;
}

void *map_remove(struct map *m, str key)
{
    if (!m->n)
        return NULL;
    struct map_entry **at = find(m, key, hash_bytes(key)), *e = *at;
    if (!e)
        return NULL;
    void *old = e->value;
    *at = e->next;
    free(e);
    m->n--;
    return old;
}

bool map_next(const struct map *m, struct map_iter *it, str *key, void **value)
{
    if (!it->is_started) {
        it->is_started = true;
        it->slot = 0;
        it->next = m->n_slots ? m->slots[0] : NULL;
    }
    while (!it->next) {
        if (++it->slot >= m->n_slots)
            return false;
        it->next = m->slots[it->slot];
    }
    struct map_entry *e = it->next;
    it->next = e->next;
    *key = str_n(e->key, e->key_n);
    *value = e->value;
    return true;
}

static str key64(const uint64_t *key)
{
    return str_n(key, sizeof(*key));
}

void map64_init(struct map64 *m)
{
    map_init(&m->m);
}
void map64_done(struct map64 *m)
{
    map_done(&m->m);
}
void *map64_get(const struct map64 *m, uint64_t key)
{
    return map_get(&m->m, key64(&key));
}
void *map64_put(struct map64 *m, uint64_t key, void *value)
{
    return map_put(&m->m, key64(&key), value);
}
void *map64_remove(struct map64 *m, uint64_t key)
{
    return map_remove(&m->m, key64(&key));
}
bool map64_next(const struct map64 *m, struct map_iter *it, uint64_t *key, void **value)
{
    str k;
    if (!map_next(&m->m, it, &k, value))
        return false;
    memcpy(key, k.p, sizeof(*key));
    return true;
}
