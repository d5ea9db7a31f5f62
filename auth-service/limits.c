#include "auth-service/limits.h"

#include "base/limits.h"
#include "base/log.h"
#include "base/map.h"
#include "base/metrics.h"

#define TABLE_MAX 256u
#define SCRATCH_MAX (1u << 20)
#define LEASE_ITEMS_MAX 1000u
#define HOLDER_MAX 128u

struct limits {
    struct map table; /* name -> struct auth_limit */
    int64_t lease_ttl_ms;
    const struct limits_backend *main, *fallback; /* fallback is NULL when main is local */
    void *main_ctx, *fallback_ctx;
    bool is_falling_back;
};

static void add_row(struct limits *l, const struct auth_limit *row)
{
    struct auth_limit *copy = xnew(struct auth_limit);
    *copy = *row;
    copy->name = xstrdup(row->name);
    struct auth_limit *old = map_put(&l->table, str_c(row->name), copy);
    if (old) {
        free((void *)(uintptr_t)old->name);
        free(old);
    }
}

struct limits *limits_new(struct redis *redis, const struct auth_limit *table, size_t n, int64_t lease_ttl_ms)
{
    const struct auth_limit own[] = {
        {limit_name(LIMIT_AUTH_FAILURES_IP), 1, 60 * 1000, 40},
        {limit_name(LIMIT_AUTH_FAILURES_ACCOUNT), 1, 90 * 1000, 20},
    };
    assert(n <= TABLE_MAX);
    struct limits *l = xnew(struct limits);
    map_init(&l->table);
    for (size_t i = 0; i < ARRAY_LEN(own); i++)
        add_row(l, &own[i]);
    for (size_t i = 0; i < n; i++)
        add_row(l, &table[i]);
    l->lease_ttl_ms = lease_ttl_ms;
    l->main = redis ? &limits_redis : &limits_local;
    l->main_ctx = redis ? limits_redis_new(redis) : limits_local_new();
    l->fallback = redis ? &limits_local : NULL;
    l->fallback_ctx = redis ? limits_local_new() : NULL;
    return l;
}

void limits_free(struct limits *l)
{
    if (!l)
        return;
    str key;
    void *value;
    for (struct map_iter it = {0}; map_next(&l->table, &it, &key, &value);) {
        struct auth_limit *row = value;
        free((void *)(uintptr_t)row->name);
        free(row);
    }
    map_done(&l->table);
    l->main->done(l->main_ctx);
    if (l->fallback)
        l->fallback->done(l->fallback_ctx);
    free(l);
}

/* Whether to go on with the fallback after this error; logs the change, once each way. */
static bool fall_back(struct limits *l, struct err *err)
{
    if (!l->fallback || err->kind == ERR_CANCELLED)
        return false;
    metric_inc(M_AUTH_FALLBACK);
    if (!l->is_falling_back)
        log_warn("auth.limits_fallback", KV_ERR(err));
    l->is_falling_back = true;
    err_clear(err);
    return true;
}

static void main_works(struct limits *l)
{
    if (l->is_falling_back)
        log_info("auth.limits_restored");
    l->is_falling_back = false;
}

static str full_key(const char *kind, const char *limit, str key, struct arena *a)
{
    return arena_printf(a, "%s:%s:%.*s", kind, limit, STR_ARG(key));
}

static struct limit_bucket bucket_of(const struct auth_limit *row, str key, uint32_t cost, struct arena *a)
{
    int64_t interval = MAX((int64_t)row->per_ms * 1000 / row->count, 1);
    return (struct limit_bucket){full_key("take", row->name, key, a), interval, interval * MAX(row->burst, 1), cost};
}

bool limits_take(struct limits *l, const struct limits_take *takes, size_t n, struct limit_verdict *out,
                 struct err *err)
{
    ARENA(a, SCRATCH_MAX);
    struct limit_bucket buckets[LIMITS_TAKES_MAX];
    size_t of[LIMITS_TAKES_MAX], used = 0;
    if (n > LIMITS_TAKES_MAX)
        return err_set(err, ERR_LIMIT, "more than %u limits in one request", LIMITS_TAKES_MAX);
    for (size_t i = 0; i < n; i++) {
        const struct auth_limit *row = map_get(&l->table, str_c(takes[i].limit));
        if (takes[i].key.n > LIMITS_KEY_MAX)
            return err_set(err, ERR_LIMIT, "key of limit '%s' is too long", takes[i].limit);
        if (!row || row->count == 0)
            continue;
        of[used] = i;
        buckets[used++] = bucket_of(row, takes[i].key, takes[i].cost, &a);
    }
    struct limit_verdict v = {.is_granted = true}, all = {.is_granted = true};
    if (used) {
        bool ok = l->main->take(l->main_ctx, buckets, used, &a, &v, err);
        if (ok)
            main_works(l);
        else if (!fall_back(l, err) || !l->fallback->take(l->fallback_ctx, buckets, used, &a, &v, err))
            return false;
    }
    all.is_granted = v.is_granted;
    all.retry_after_ms = v.retry_after_ms;
    all.refused = v.is_granted ? 0 : of[v.refused];
    for (size_t i = 0; i < used; i++)
        all.used[of[i]] = v.used[i];
    if (!v.is_granted)
        metric_inc_label(M_LIMITS_REFUSED,
                         ((const struct auth_limit *)map_get(&l->table, str_c(takes[all.refused].limit)))->name);
    *out = all;
    return true;
}

void limits_reset(struct limits *l, const char *limit, str key)
{
    ARENA(a, SCRATCH_MAX);
    struct err err = ERR_INIT; /* a bucket that was not reset fills up by itself */
    str k = full_key("take", limit, key, &a);
    if (!l->main->reset(l->main_ctx, k, &a, &err) && fall_back(l, &err))
        (void)l->fallback->reset(l->fallback_ctx, k, &a, &err);
}

void limits_give(struct limits *l, const char *limit, str key, uint32_t cost)
{
    ARENA(a, SCRATCH_MAX);
    struct err err = ERR_INIT; /* a bucket fills up by itself */
    const struct auth_limit *row = map_get(&l->table, str_c(limit));
    if (!row || row->count == 0)
        return;
    struct limit_bucket b = bucket_of(row, key, cost, &a);
    if (!l->main->give(l->main_ctx, &b, &a, &err) && fall_back(l, &err))
        (void)l->fallback->give(l->fallback_ctx, &b, &a, &err);
}

static bool is_holder(str holder, struct err *err)
{
    return (holder.n > 0 && holder.n <= HOLDER_MAX) ||
           err_set(err, ERR_LIMIT, "a holder has a name of 1 to %u bytes", HOLDER_MAX);
}

/* It may have leased from both, before and after Redis went away. */
bool limits_release(struct limits *l, str holder, struct err *err)
{
    ARENA(a, SCRATCH_MAX);
    struct err ignored = ERR_INIT; /* see limits.h */
    if (!is_holder(holder, err))
        return false;
    if (!l->main->release(l->main_ctx, holder, &a, &ignored))
        IGNORE(fall_back(l, &ignored));
    err_clear(&ignored);
    if (l->fallback)
        IGNORE(l->fallback->release(l->fallback_ctx, holder, &a, &ignored));
    return true;
}

bool limits_lease(struct limits *l, str holder, const struct limits_lease *items, size_t n, bool is_renewal,
                  struct arena *a, protobuf_c_boolean *granted, struct err *err)
{
    if (!is_holder(holder, err))
        return false;
    if (n > LEASE_ITEMS_MAX)
        return err_set(err, ERR_LIMIT, "a lease has at most %u items", LEASE_ITEMS_MAX);
    struct lease_item *v = arena_array(a, struct lease_item, n);
    size_t *of = arena_array(a, size_t, n), used = 0;
    for (size_t i = 0; i < n; i++) {
        const struct auth_limit *row = map_get(&l->table, str_c(items[i].limit));
        if (items[i].key.n > LIMITS_KEY_MAX)
            return err_set(err, ERR_LIMIT, "key of limit '%s' is too long", items[i].limit);
        granted[i] = 1;
        if (!row)
            continue;
        of[used] = i;
        v[used++] = (struct lease_item){
            .key = full_key("lease", items[i].limit, items[i].key, a), .count = items[i].count, .max = row->burst};
    }
    if (used == 0)
        return true;
    bool ok = l->main->lease(l->main_ctx, holder, v, used, l->lease_ttl_ms, is_renewal, a, err);
    if (ok)
        main_works(l);
    else if (!fall_back(l, err) ||
             !l->fallback->lease(l->fallback_ctx, holder, v, used, l->lease_ttl_ms, is_renewal, a, err))
        return false;
    for (size_t i = 0; i < used; i++) {
        granted[of[i]] = v[i].is_granted;
        if (!v[i].is_granted)
            metric_inc_label(M_LIMITS_REFUSED,
                             ((const struct auth_limit *)map_get(&l->table, str_c(items[of[i]].limit)))->name);
    }
    return true;
}
