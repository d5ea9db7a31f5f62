/*
 * domain.h: domains: recipients that are due wait at theirs until it is known which site that is, and whose look-up
 * (route.c) finds that out.
 */
#ifndef QUEUE_SERVICE_DOMAIN_H
#define QUEUE_SERVICE_DOMAIN_H

#include "queue-service/site.h"

struct domain {
    struct queue *queue;
    char *name;
    struct list waiting; /* recipients, until the site is known */
    struct site *site;   /* NULL = not known */
    int64_t fresh_until_ms;
    unsigned failures;
    char *text;              /* how the last look-up failed; heap, or NULL */
    struct list_node asking; /* of lookups->waiting */
    struct lookups *lookups; /* whose look-up is under way, or NULL */
    uint64_t hurried_by;     /* the last act that did */
    struct fiber_timer retry;
};

void schedule_ready(struct rcpt *r); /* on to its domain's site now */
/* The end of a look-up. */
void domain_resolved(struct domain *d, struct site *site);
void domain_failed(struct domain *d, bool is_directory_away, const char *text);
/* An operator's retry: what waits there does not wait for the time of the next look-up. Once by each act. */
void domain_hurry(struct queue *q, str name, uint64_t act);
str domain_text(const struct queue *q, str name);        /* how its last look-up failed; empty when it did not */
int64_t domain_wait_ms(const struct queue *q, str name); /* until its next look-up, after one that failed; else 0 */
void domains_init(struct queue *q);
void domains_tick(struct queue *q);
void domains_sweep(struct queue *q);
void domains_done(struct queue *q);

/* The look-up, a fiber: ends with domain_resolved or domain_failed. */
FIBER void route_domain(void *domain);
struct site *route_store_shard(struct queue *q, uint32_t shard); /* what waits for a shard of the store that is away */

#endif
