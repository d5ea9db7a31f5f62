/*
 * node.h: this node among the others: its lease, and which shards it takes and gives up (docs/architecture.md, "How
 * long a lease lasts").
 */
#ifndef QUEUE_SERVICE_NODE_H
#define QUEUE_SERVICE_NODE_H

#include "queue-service/service.h"

/* The coordinator's fiber; queue is a struct queue. Ends when that is stopped, with everything lost or given up. */
FIBER void node_coordinate(void *queue);
void node_wake(struct queue *q); /* another round, now */
/* Look at the database which shards are still ours; loses those that are not. */
FIBER bool node_recheck(struct queue *q, struct err *err) WARN_UNUSED;

#endif
