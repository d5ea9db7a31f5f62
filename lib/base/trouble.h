/*
 * trouble.h: what this process suffers from just now while it goes on serving: a cap that is reached, a shard or a
 * bucket that does not answer. Who notices says so, as often as he likes; it is one line in the log when it begins and
 * one when it is over, a gauge (thurn_degraded), and a line of /readyz.
 *
 * It is over when somebody says so, or when nobody has noted it for TROUBLE_MS. On the loop's thread only.
 */
#ifndef BASE_TROUBLE_H
#define BASE_TROUBLE_H

#include "base/buf.h"

#define TROUBLE_MS 60000
#define TROUBLES_MAX 64 /* at once; further ones are in the log and the gauge only */

/* what: one of a fixed set ("cap.smtp.guests", "database.shard 2", "s3"), why: for people. Both are copied. */
void trouble_note(const char *what, const char *why);
/* It works, this time: over when nobody notes it for TROUBLE_SETTLE_MS. Something that works now and then is not two
 * lines in the log each time. */
#define TROUBLE_SETTLE_MS 5000
void trouble_over(const char *what);
bool trouble_is(const char *what); /* it goes on */
/* A line "degraded: what: why" for each; returns how many. Those that nobody noted any more end here. */
size_t trouble_print(struct buf *out);
void trouble_forget_all(void); /* tests, and the end of a process */

#endif
