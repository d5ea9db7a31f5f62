/*
 * schedule.h: from due to a session: the wheel, the sites' turns, the sessions that run.
 */
#ifndef QUEUE_SERVICE_SCHEDULE_H
#define QUEUE_SERVICE_SCHEDULE_H

#include "queue-service/message.h"
#include "queue-service/shard.h"

void schedule_init(struct queue *q);
void schedule_start(struct queue *q);
void schedule_stop(struct queue *q);
void schedule_done(struct queue *q);      /* frees sites and domains; nothing is queued any more */
void schedule_rcpt(struct rcpt *r);       /* R_DUE: into the wheel, or on to its domain when the time has come */
void schedule_message(struct message *m); /* its delay and expiry timer */
/* Break off the attempts (of this shard, or of all when NULL) that have no result yet. */
void schedule_cancel_sessions(struct queue *q, const struct shard *s);
/* And those with this message; spare_sent: but not where the peer may have taken it already. */
void schedule_cancel_message(const struct message *m, const bool *is_meant, bool spare_sent);
/* The attempt that has this recipient; NULL: none, or it has just ended. Good until the next wait. */
const struct job *schedule_job_of(const struct rcpt *r);
/* And those of an earlier epoch of the shard: what they send is loaded again, and would be sent beside them. */
void schedule_cancel_lost(const struct shard *s);
void schedule_tell_fullness(const struct queue *q);  /* a trouble, when the memory is nearly used up */
int64_t schedule_oldest_unix(const struct queue *q); /* when the oldest message came; 0 = none */

#endif
