/* Buckets and leases in this process: lost when it ends, which is what a limit can bear. */
#include "auth-service/cache.h"
#include "auth-service/limits.h"
#include "base/clock.h"

#define BUCKETS_BYTES ((size_t)48 << 20) /* about 200,000 */
#define LEASES_BYTES ((size_t)48 << 20)
#define HOLDERS_MAX 256u /* of one key; more are refused */

struct bucket {
    int64_t tat_us; /* "theoretical arrival time": when the bucket is full again */
};
struct holder {
    char *name;
    uint32_t count;
    int64_t until_ms;
};
struct lease {
    struct holder *holders;
    size_t n;
};
struct local {
    struct cache buckets, leases;
};

static void lease_free(void *p)
{
    struct lease *l = p;
    for (size_t i = 0; i < l->n; i++)
        free(l->holders[i].name);
    free(l->holders);
    free(l);
}

void *limits_local_new(void)
{
    struct local *s = xnew(struct local);
    cache_init(&s->buckets, BUCKETS_BYTES, xfree);
    cache_init(&s->leases, LEASES_BYTES, lease_free);
    return s;
}

static void local_free(void *ctx)
{
    struct local *s = ctx;
    cache_done(&s->buckets);
    cache_done(&s->leases);
    free(s);
}

static int64_t tat_of(struct local *s, str key, int64_t now)
{
    const struct bucket *b = cache_get(&s->buckets, key);
    return b ? MAX(b->tat_us, now) : now;
}

FIBER static bool local_take(void *ctx, const struct limit_bucket *buckets, size_t n, struct arena *a UNUSED,
                             struct limit_verdict *out, struct err *err UNUSED)
{
    struct local *s = ctx;
    int64_t now = clock_mono_us();
    *out = (struct limit_verdict){.is_granted = true};
    for (size_t i = 0; i < n; i++) {
        const struct limit_bucket *b = &buckets[i];
        int64_t tat = tat_of(s, b->key, now);
        out->used[i] = (uint32_t)((tat - now + b->interval_us - 1) / b->interval_us);
        int64_t over = tat + MAX(b->cost, 1) * b->interval_us - now - b->tolerance_us;
        if (over > 0 && out->is_granted) {
            out->is_granted = false;
            out->refused = i;
            out->retry_after_ms = (uint64_t)(over + 999) / 1000;
        }
    }
    for (size_t i = 0; out->is_granted && i < n; i++) {
        if (buckets[i].cost == 0)
            continue;
        struct bucket *b = xnew(struct bucket);
        b->tat_us = tat_of(s, buckets[i].key, now) + buckets[i].cost * buckets[i].interval_us;
        cache_put(&s->buckets, buckets[i].key, b, sizeof(*b));
    }
    return true;
}

FIBER static bool local_reset(void *ctx, str key, struct arena *a UNUSED, struct err *err UNUSED)
{
    cache_drop(&((struct local *)ctx)->buckets, key);
    return true;
}

FIBER static bool local_give(void *ctx, const struct limit_bucket *b, struct arena *a UNUSED, struct err *err UNUSED)
{
    struct bucket *there = cache_get(&((struct local *)ctx)->buckets, b->key);
    if (there)
        there->tat_us -= b->cost * b->interval_us; /* before now is as good as now */
    return true;
}

/* Drop what has run out, and the holder's own old share; returns what the others hold. */
static uint64_t others(struct lease *l, str holder, int64_t now)
{
    uint64_t sum = 0;
    size_t kept = 0;
    for (size_t i = 0; i < l->n; i++) {
        struct holder *h = &l->holders[i];
        if (h->until_ms <= now || str_eq(str_c(h->name), holder)) {
            free(h->name);
            continue;
        }
        sum += h->count;
        l->holders[kept++] = *h;
    }
    l->n = kept;
    return sum;
}

static uint32_t held_by(const struct lease *l, str holder, int64_t now)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->holders[i].until_ms > now && str_eq(str_c(l->holders[i].name), holder))
            return l->holders[i].count;
    return 0;
}

static void lease_one(struct local *s, str holder, struct lease_item *item, int64_t now, int64_t ttl_ms,
                      bool is_renewal)
{
    struct lease *l = cache_get(&s->leases, item->key);
    if (!l) {
        l = xnew(struct lease);
        cache_put(&s->leases, item->key, l, sizeof(*l) + sizeof(struct holder));
    }
    uint32_t before = held_by(l, holder, now);
    uint64_t sum = others(l, holder, now);
    item->is_granted = is_renewal || item->count <= before || (sum + item->count <= item->max && l->n < HOLDERS_MAX);
    uint32_t count = item->is_granted ? item->count : before;
    if (count) {
        l->holders = xrealloc(l->holders, (l->n + 1) * sizeof(*l->holders));
        l->holders[l->n++] = (struct holder){str_dup(holder), count, now + ttl_ms};
    } else if (l->n == 0) {
        cache_drop(&s->leases, item->key);
    }
}

FIBER static bool local_lease(void *ctx, str holder, struct lease_item *items, size_t n, int64_t ttl_ms,
                              bool is_renewal, struct arena *a UNUSED, struct err *err UNUSED)
{
    int64_t now = clock_mono_ms();
    for (size_t i = 0; i < n; i++)
        lease_one(ctx, holder, &items[i], now, ttl_ms, is_renewal);
    return true;
}

static void free_share(void *arg, void *value)
{
    const struct lease *l = value;
    for (size_t i = 0; i < l->n; i++)
        if (str_eq(str_c(l->holders[i].name), *(const str *)arg))
            l->holders[i].until_ms = 0;
}

FIBER static bool local_release(void *ctx, str holder, struct arena *a UNUSED, struct err *err UNUSED)
{
    cache_each(&((struct local *)ctx)->leases, free_share, &holder);
    return true;
}

const struct limits_backend limits_local = {.name = "local",
                                            .take = local_take,
                                            .reset = local_reset,
                                            .give = local_give,
                                            .lease = local_lease,
                                            .release = local_release,
                                            .done = local_free};
