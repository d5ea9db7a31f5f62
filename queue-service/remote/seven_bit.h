/*
 * seven_bit.h: a message's content as a host without 8BITMIME can take it (mail/downgrade.h). The content is read
 * twice.
 */
#ifndef QUEUE_SERVICE_REMOTE_SEVEN_BIT_H
#define QUEUE_SERVICE_REMOTE_SEVEN_BIT_H

#include "queue-service/remote/remote.h"

/*
 * m is borrowed until seven_bit_close. NULL on error: that of the content, or (*is_hopeless) it can never be converted.
 * The content read has m->size bytes or reading fails. Suspends for the first reading.
 */
FIBER struct rpc_source *seven_bit_open(const struct remote_message *m, bool *is_hopeless, struct err *err);
FIBER void seven_bit_close(struct rpc_source *s);

#endif
