/*
 * Domains: recipients that are due wait at theirs until it is known which site that is. The look-up is a fiber
 * (route.c). How many run at a time is bounded, apart for domains whose last look-up failed: however many names cannot
 * be resolved, the others' look-ups do not wait for them.
 */
#include "queue-service/domain.h"

#include "base/clock.h"
#include "base/metrics.h"
#include "queue-service/shard.h"

#define FRESH_MS 60000
#define LOOKUPS_MAX 1000u
#define LOOKUPS_AGAIN_MAX 200u  /* of names that failed before */
#define AWAY_RETRY_FIRST_MS 500 /* the directory is ours, and is back soon */
#define AWAY_RETRY_MAX_MS 10000
#define RETRY_FIRST_MS 5000
#define RETRY_MAX_MS (15 * 60 * 1000)

static size_t domain_bytes(const struct domain *d)
{
    /* the map has a copy of the name */
    return heap_bytes(d) + 2 * heap_bytes(d->name) + heap_bytes(d->text) + MAP_ENTRY_BYTES;
}

/* text: NULL = none. */
static void domain_set_text(struct domain *d, const char *text)
{
    d->queue->route_bytes -= domain_bytes(d);
    free(d->text);
    d->text = text ? str_dup(str_slice(str_c(text), 0, QUEUE_TEXT_MAX)) : NULL;
    d->queue->route_bytes += domain_bytes(d);
}

static struct domain *domain_get(struct queue *q, str name)
{
    struct domain *d = map_get(&q->domains, name);
    if (d)
        return d;
    d = xnew(struct domain);
    d->queue = q;
    d->name = str_dup(name);
    list_init(&d->waiting);
    (void)map_put(&q->domains, name, d); /* nothing was there */
    q->route_bytes += domain_bytes(d);
    return d;
}

static void domain_forget_site(struct domain *d)
{
    if (d->site)
        d->site->n_domains--;
    d->site = NULL;
}

static void domain_free(struct domain *d)
{
    domain_forget_site(d);
    fiber_timer_stop(&d->retry);
    list_remove(&d->asking);
    (void)map_remove(&d->queue->domains, str_c(d->name)); /* it is this one */
    d->queue->route_bytes -= domain_bytes(d);
    free(d->name);
    free(d->text);
    free(d);
}

/* --- asking --- */

/* Start what may be started; no fiber free: the next tick tries again. */
static void start_lookups(struct queue *q)
{
    for (unsigned class = 0; class < ARRAY_LEN(q->lookups); class ++) {
        struct lookups *l = &q->lookups[class];
        unsigned most = class ? LOOKUPS_AGAIN_MAX : LOOKUPS_MAX;
        for (struct list_node *n; l->n < most && (n = list_first(&l->waiting));) {
            struct domain *d = LIST_ITEM(n, struct domain, asking);
            struct err err = ERR_INIT;
            if (!queue_spawn(q, "queue.route", route_domain, d, &err))
                return;
            list_remove(&d->asking);
            d->lookups = l;
            l->n++;
        }
    }
}

static void domain_ask(struct domain *d)
{
    struct queue *q = d->queue;
    if (d->lookups || list_in(&d->asking) || list_in(&d->retry.node))
        return;
    list_push(&q->lookups[d->failures > 0].waiting, &d->asking);
    start_lookups(q);
}

static void on_retry(void *arg)
{
    domain_ask(arg);
}

void schedule_ready(struct rcpt *r)
{
    struct queue *q = r->msg->shard->queue;
    struct domain *d = domain_get(q, rcpt_domain(r));
    if (d->site && clock_mono_ms() < d->fresh_until_ms) {
        site_add(d->site, r, false);
        site_kick(d->site);
        return;
    }
    r->state = R_READY;
    r->flow = NULL;
    list_push(&d->waiting, &r->node);
    domain_ask(d);
}

void domain_hurry(struct queue *q, str name, uint64_t act)
{
    struct domain *d = map_get(&q->domains, name);
    if (!d || d->hurried_by == act || !list_in(&d->retry.node))
        return;
    d->hurried_by = act;
    fiber_timer_stop(&d->retry);
    if (!list_empty(&d->waiting))
        domain_ask(d);
}

str domain_text(const struct queue *q, str name)
{
    const struct domain *d = map_get(&q->domains, name);
    return d ? str_c(d->text) : STR_NONE;
}

int64_t domain_wait_ms(const struct queue *q, str name)
{
    const struct domain *d = map_get(&q->domains, name);
    return d && list_in(&d->retry.node) ? MAX(d->retry.due_mono_ms - clock_mono_ms(), 0) : 0;
}

/* --- answers --- */

static void lookup_ended(struct domain *d)
{
    d->lookups->n--;
    d->lookups = NULL;
    start_lookups(d->queue);
}

void domain_resolved(struct domain *d, struct site *site)
{
    d->failures = 0;
    domain_set_text(d, NULL);
    domain_forget_site(d);
    d->site = site;
    site->n_domains++;
    d->fresh_until_ms = clock_mono_ms() + FRESH_MS;
    for (struct list_node *n; (n = list_pop(&d->waiting));)
        site_add(site, LIST_ITEM(n, struct rcpt, node), false);
    lookup_ended(d);
    site_kick(site);
}

/* The recipients stay where they are and no attempt is counted. */
void domain_failed(struct domain *d, bool is_directory_away, const char *text)
{
    domain_set_text(d, text);
    int64_t wait_ms = is_directory_away ? queue_growing_ms(AWAY_RETRY_FIRST_MS, AWAY_RETRY_MAX_MS, d->failures)
                                        : queue_growing_ms(RETRY_FIRST_MS, RETRY_MAX_MS, d->failures);
    d->failures++;
    metric_inc(M_QUEUE_LOOKUPS_FAILED);
    if (!list_empty(&d->waiting))
        fiber_timer_start(&d->retry, wait_ms, on_retry, d);
    lookup_ended(d);
}

/* --- housekeeping --- */

void domains_init(struct queue *q)
{
    map_init(&q->domains);
    for (unsigned class = 0; class < ARRAY_LEN(q->lookups); class ++)
        list_init(&q->lookups[class].waiting);
}

void domains_tick(struct queue *q)
{
    start_lookups(q);
}

/* Throw out what nobody waits for; what somebody waits for is asked again, whatever kept it. */
void domains_sweep(struct queue *q)
{
    int64_t now = clock_mono_ms();
    str key;
    void *value;
    for (struct map_iter it = {0}; map_next(&q->domains, &it, &key, &value);) {
        struct domain *d = value;
        if (!list_empty(&d->waiting))
            domain_ask(d);
        else if (!d->lookups && now >= d->fresh_until_ms)
            domain_free(d);
    }
}

void domains_done(struct queue *q)
{
    str key;
    void *value;
    for (struct map_iter it = {0}; map_next(&q->domains, &it, &key, &value);)
        domain_free(value);
    map_done(&q->domains);
}
