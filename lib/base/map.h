/*
 * map.h: hash maps with a seed that peers cannot know. `map` has byte-string keys (copied in), `map64` has integers.
 *
 * Values are pointers that the map does not own. Neither has a bound of its own: the owner bounds what it puts in.
 * Pointers returned are values, so they stay good; iteration must not insert (removing the current entry is fine).
 */
#ifndef BASE_MAP_H
#define BASE_MAP_H

#include "base/str.h"

uint64_t hash_bytes(str s); /* SipHash-1-3 under the process's own random key */
uint64_t hash_u64(uint64_t v);
uint64_t hash_stable(str s); /* FNV-1a with a final mix: equal in every process, for rendezvous hashing */

struct map_entry;
struct map {
    struct map_entry **slots;
    size_t n, n_slots;
};
void map_init(struct map *m);
void map_done(struct map *m); /* frees keys and table, not values */
void *map_get(const struct map *m, str key);
/* Put; returns the value that was there before, or NULL. value is not NULL. */
void *map_put(struct map *m, str key, void *value);
void *map_remove(struct map *m, str key); /* returns the value, or NULL */
struct map_iter {
    size_t slot;
    struct map_entry *next;
    bool is_started;
};
/* `struct map_iter it = {0}; while (map_next(&m, &it, &key, &value)) …` */
bool map_next(const struct map *m, struct map_iter *it, str *key, void **value);

struct map64 {
    struct map m;
};
void map64_init(struct map64 *m);
void map64_done(struct map64 *m);
void *map64_get(const struct map64 *m, uint64_t key);
void *map64_put(struct map64 *m, uint64_t key, void *value);
void *map64_remove(struct map64 *m, uint64_t key);
bool map64_next(const struct map64 *m, struct map_iter *it, uint64_t *key, void **value);

#endif
