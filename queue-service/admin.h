/*
 * admin.h: what operators see and do: List, Show, Act, Stats.
 */
#ifndef QUEUE_SERVICE_ADMIN_H
#define QUEUE_SERVICE_ADMIN_H

#include "queue-service/service.h"

FIBER bool admin_list(struct queue *q, const Thurn__QueueListRequest *req, struct arena *a, Thurn__QueueListReply *out,
                      struct err *err);
FIBER bool admin_show(struct queue *q, uint64_t id, struct arena *a, Thurn__QueuedMessage *out, struct err *err);
FIBER bool admin_act(struct queue *q, const Thurn__QueueActRequest *req, Thurn__QueueActReply *out, struct err *err);
void admin_done(struct queue *q); /* frees the acts; none is at work */
void admin_stats(struct queue *q, struct arena *a, Thurn__QueueStatsReply *out);

#endif
