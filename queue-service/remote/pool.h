/*
 * pool.h: connections that are kept for a while after a message, by site.
 *
 * A kept connection holds no fiber. It is dropped when its peer says or closes something, after POOL_IDLE_MS, at the
 * end of its life, and when the pool is full and it is the one that waits longest.
 */
#ifndef QUEUE_SERVICE_REMOTE_POOL_H
#define QUEUE_SERVICE_REMOTE_POOL_H

#include "base/list.h"
#include "base/map.h"
#include "queue-service/remote/smtp_client.h"

#define POOL_IDLE_MS 20000

struct pool {
    struct map sites;   /* site key → struct pool_site */
    struct list by_age; /* all kept connections, the one that waits longest first */
    unsigned n, max;
};
void pool_init(struct pool *p, unsigned max);
/* Says QUIT on all of them. */
void pool_done(struct pool *p);
/* Take a connection over for the next message to that site, or end it when it is not to carry one more. */
void pool_put(struct pool *p, str site_key, struct smtp_client *c);
/* The one that was used last, or NULL. It is the caller's; smtp_client_reused was called. */
struct smtp_client *pool_take(struct pool *p, str site_key, bool needs_tls);

#endif
