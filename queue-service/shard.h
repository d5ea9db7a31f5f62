/*
 * shard.h: one shard of the queue: whether it is ours, its messages, the ids that it gives out, and its load when it
 * comes. Who gets it is node.h's business.
 */
#ifndef QUEUE_SERVICE_SHARD_H
#define QUEUE_SERVICE_SHARD_H

#include "queue-service/service.h"

enum shard_state { SHARD_OTHERS, SHARD_LOADING, SHARD_OWNED, SHARD_LEAVING };
struct shard {
    struct queue *queue;
    uint32_t number;
    enum shard_state state;
    int64_t epoch;
    uint32_t counter; /* of ids in this epoch */
    struct list messages;
    unsigned n_active;   /* attempts under way */
    int64_t break_at_ms; /* SHARD_LEAVING: when attempts are broken off */
    /* when a loader is to take it: to load it, or, owned, to look for late acknowledgements; 0 = never */
    int64_t work_at_ms;
    /* what is due may be sent already: by a node that died, or by our own attempts of an earlier epoch */
    bool is_in_doubt;
    bool is_busy; /* a loader has it; that one's load may be of an earlier epoch, and finds out */
};

#define QUEUE_AWAY_RETRY_MS 1000 /* what failed for the database's sake is tried again */

/* A shard that new mail may be put on; NULL when there is none. */
struct shard *shard_for_new(struct queue *q);
uint64_t shard_next_id(struct shard *s);
uint64_t shard_last_id(const struct shard *s);                 /* that was made, or may have been by an earlier owner */
bool shard_may_work(const struct shard *s);                    /* owned, and the lease holds */
void shard_set_state(struct shard *s, enum shard_state state); /* and counts it among the queue's */
void shard_lose(struct shard *s);                              /* out of memory with it */
/* The end of a load, of the epoch that the shard still has: it is ours to work on, or to be loaded again in a moment.
 */
void shard_loaded(struct shard *s, bool ok, int64_t start_ms);

/* Fibers for the shards with work to do, at most so many as may be (load.c). */
void load_start(struct queue *q);

#endif
