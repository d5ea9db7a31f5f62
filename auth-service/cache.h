/*
 * cache.h: a map of byte strings to values, bounded in bytes; the least recently used go first.
 */
#ifndef AUTH_SERVICE_CACHE_H
#define AUTH_SERVICE_CACHE_H

#include "base/list.h"
#include "base/map.h"

struct cache {
    struct map map;
    struct list recent; /* oldest first */
    size_t n, bytes, max_bytes;
    void (*free_value)(void *value);
};
void cache_init(struct cache *c, size_t max_bytes, void (*free_value)(void *value));
void cache_done(struct cache *c);
/* The value, which the cache keeps; NULL when absent. Good until the next cache_put or cache_drop. */
void *cache_get(struct cache *c, str key);
/* Takes the value over, which takes so many bytes; what was there is freed. The key and the cache's own part are
 * counted too. */
void cache_put(struct cache *c, str key, void *value, size_t bytes);
void cache_drop(struct cache *c, str key);
/* fn sees every value, oldest first; it must not change the cache. */
void cache_each(struct cache *c, void (*fn)(void *arg, void *value), void *arg);
void cache_clear(struct cache *c);

#endif
