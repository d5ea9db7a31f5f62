#include "auth-service/cache.h"

struct slot {
    struct list_node node;
    void *value;
    size_t bytes;
    size_t key_n;
    char key[];
};

/* and the map's entry with its copy of the key, malloc's parts */
#define OWN_BYTES (sizeof(struct slot) + 64)

void cache_init(struct cache *c, size_t max_bytes, void (*free_value)(void *value))
{
    assert(max_bytes > 0);
    *c = (struct cache){.max_bytes = max_bytes, .free_value = free_value};
    map_init(&c->map);
    list_init(&c->recent);
}

static void slot_free(struct cache *c, struct slot *s)
{
    (void)map_remove(&c->map, str_n(s->key, s->key_n)); /* it is this slot */
    list_remove(&s->node);
    c->free_value(s->value);
    c->n--;
    c->bytes -= s->bytes;
    free(s);
}

void cache_clear(struct cache *c)
{
    for (struct list_node *n; (n = list_first(&c->recent));)
        slot_free(c, LIST_ITEM(n, struct slot, node));
}

void cache_each(struct cache *c, void (*fn)(void *arg, void *value), void *arg)
{
    LIST_EACH(&c->recent, n)
    fn(arg, LIST_ITEM(n, struct slot, node)->value);
}

void cache_done(struct cache *c)
{
    cache_clear(c);
    map_done(&c->map);
}

void *cache_get(struct cache *c, str key)
{
    struct slot *s = map_get(&c->map, key);
    if (!s)
        return NULL;
    list_remove(&s->node);
    list_push(&c->recent, &s->node);
    return s->value;
}

void cache_put(struct cache *c, str key, void *value, size_t bytes)
{
    struct slot *s = map_get(&c->map, key);
    if (s)
        slot_free(c, s);
    s = xmalloc(sizeof(*s) + key.n);
    *s = (struct slot){.value = value, .bytes = OWN_BYTES + 2 * key.n + bytes, .key_n = key.n};
    memcpy(s->key, key.p, key.n);
    while (c->n && c->bytes + s->bytes > c->max_bytes)
        slot_free(c, LIST_ITEM(list_first(&c->recent), struct slot, node));
    list_push(&c->recent, &s->node);
    (void)map_put(&c->map, key, s); /* nothing was there */
    c->n++;
    c->bytes += s->bytes;
}

void cache_drop(struct cache *c, str key)
{
    struct slot *s = map_get(&c->map, key);
    if (s)
        slot_free(c, s);
}
