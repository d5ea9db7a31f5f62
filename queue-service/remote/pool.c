#include "queue-service/remote/pool.h"

#include "base/clock.h"
#include "base/metrics.h"
#include "fiber/fiber.h"

struct pool_site {
    char *key;
    struct list kept; /* the one used last first */
};

struct kept {
    struct smtp_client *client;
    struct pool *pool;
    struct pool_site *site;
    struct list_node in_site, in_pool;
    struct fiber_timer expiry;
};

void pool_init(struct pool *p, unsigned max)
{
    *p = (struct pool){.max = max};
    map_init(&p->sites);
    list_init(&p->by_age);
}

/* Out of all lists; the client stays. */
static struct smtp_client *release(struct kept *k)
{
    struct smtp_client *c = k->client;
    struct pool_site *site = k->site;
    fiber_timer_stop(&k->expiry);
    stream_idle_stop(smtp_client_stream(c));
    list_remove(&k->in_site);
    list_remove(&k->in_pool);
    k->pool->n--;
    metric_set(M_REMOTE_IDLE, k->pool->n);
    if (list_empty(&site->kept)) {
        (void)map_remove(&k->pool->sites, str_c(site->key));
        free(site->key);
        free(site);
    }
    free(k);
    return c;
}

static void drop(void *arg)
{
    smtp_client_quit(release(arg));
}

void pool_done(struct pool *p)
{
    LIST_EACH(&p->by_age, n)
    drop(LIST_ITEM(n, struct kept, in_pool));
    map_done(&p->sites);
}

void pool_put(struct pool *p, str site_key, struct smtp_client *c)
{
    struct stream *s = smtp_client_stream(c);
    if (!smtp_client_is_fresh(c) || stream_at_end(s) || stream_input(s).n > 0 || p->max == 0) {
        smtp_client_quit(c);
        return;
    }
    if (p->n >= p->max)
        drop(LIST_ITEM(list_first(&p->by_age), struct kept, in_pool));
    struct pool_site *site = map_get(&p->sites, site_key);
    if (!site) {
        site = xnew(struct pool_site);
        site->key = str_dup(site_key);
        list_init(&site->kept);
        (void)map_put(&p->sites, site_key, site);
    }
    struct kept *k = xnew(struct kept);
    k->client = c;
    k->pool = p;
    k->site = site;
    list_push_front(&site->kept, &k->in_site);
    list_push(&p->by_age, &k->in_pool);
    p->n++;
    metric_set(M_REMOTE_IDLE, p->n);
    int64_t left_ms = smtp_client_ends_mono_ms(c) - clock_mono_ms();
    fiber_timer_start(&k->expiry, MIN((int64_t)POOL_IDLE_MS, left_ms), drop, k);
    stream_idle(s, drop, k);
}

struct smtp_client *pool_take(struct pool *p, str site_key, bool needs_tls)
{
    struct pool_site *site = map_get(&p->sites, site_key);
    if (!site)
        return NULL;
    LIST_EACH(&site->kept, n)
    {
        struct kept *k = LIST_ITEM(n, struct kept, in_site);
        if (needs_tls && !stream_has_tls(smtp_client_stream(k->client)))
            continue;
        struct smtp_client *c = release(k);
        smtp_client_reused(c);
        return c;
    }
    return NULL;
}
