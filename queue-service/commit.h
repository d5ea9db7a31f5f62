/*
 * commit.h: what changes a row: many messages' changes in one transaction, behind the fence of each shard.
 */
#ifndef QUEUE_SERVICE_COMMIT_H
#define QUEUE_SERVICE_COMMIT_H

#include "queue-service/results.h"

#define DOUBTFUL_MAX 1024u

void commit_init(struct queue *q);
/*
 * Make updates of one message and new messages (DSNs, expansions; not linked yet) durable, in one transaction. When it
 * returns true, memory says the same: recipients are put where they belong, new messages are linked, a message without
 * unfinished recipients is gone. False: the shard was lost (the message is gone from here; accepted recipients were
 * noted for the new owner). Takes the new messages over in any case. Waits while the database is away.
 */
FIBER bool commit_results(struct queue *q, struct message *m, struct update *u, size_t n, struct message **add,
                          size_t n_add);
/* A new message with its body; links it. Errors: UNAVAILABLE (shard lost, database away), LIMIT. */
FIBER bool commit_enqueue(struct queue *q, struct message *m, str content, struct err *err) WARN_UNUSED;
/* Delete what an Enqueue with unknown outcome may have left. */
FIBER void commit_doubtful(struct queue *q);

#endif
