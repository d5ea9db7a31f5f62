/*
 * index.h: messages by one of their ids: a hash table of nothing but pointers, for there may be millions of them.
 *
 * Open addressing with linear probing, at most three quarters full; it never shrinks. It is in many parts, each of
 * which grows by itself: a table of a million in one piece would keep everybody waiting for seconds while it does.
 * Several messages may have one enqueue id (after a takeover): each is in, and a look-up finds any of them.
 */
#ifndef QUEUE_SERVICE_INDEX_H
#define QUEUE_SERVICE_INDEX_H

#include "base/str.h"

struct message;

#define INDEX_PARTS 256u

enum index_by { INDEX_BY_ID, INDEX_BY_ENQUEUE_ID };
struct index_part {
    struct message **slots;
    uint32_t n, n_slots;
};
struct index {
    struct index_part parts[INDEX_PARTS];
    size_t n_slots; /* of all parts */
    enum index_by by;
};

void index_init(struct index *x, enum index_by by);
void index_done(struct index *x); /* frees the table; the messages are not its own */
void index_add(struct index *x, struct message *m);
void index_remove(struct index *x, const struct message *m);                /* it is in */
struct message *index_by_id(const struct index *x, uint64_t id);            /* NULL: none */
struct message *index_by_enqueue_id(const struct index *x, str enqueue_id); /* 16 bytes */
size_t index_bytes(const struct index *x);

#endif
