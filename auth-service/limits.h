/*
 * limits.h: token buckets (GCRA) and leases, over a backend: this process's memory, or Redis.
 *
 * Redis is only a hint: while it does not answer, the same limits are applied in this process (each process then grants
 * the whole limit by itself; a metric counts it).
 */
#ifndef AUTH_SERVICE_LIMITS_H
#define AUTH_SERVICE_LIMITS_H

#include "auth-service/auth.h"

#define LIMITS_TAKES_MAX 16u
#define LIMITS_KEY_MAX 512u

/* One bucket as a backend sees it. A bucket holds tolerance_us / interval_us tokens. */
struct limit_bucket {
    str key;
    int64_t interval_us, tolerance_us;
    uint32_t cost; /* 0: look whether one more would be granted, take nothing */
};
struct limit_verdict {
    bool is_granted;
    size_t refused; /* which bucket, when not granted */
    uint64_t retry_after_ms;
    uint32_t used[LIMITS_TAKES_MAX]; /* tokens that were gone before */
};
struct lease_item {
    str key;
    uint32_t count, max;
    bool is_granted; /* out */
};

/* Where buckets and leases live. All may suspend. On failure outputs are not to be used. */
struct limits_backend {
    const char *name;
    FIBER bool (*take)(void *ctx, const struct limit_bucket *buckets, size_t n, struct arena *a,
                       struct limit_verdict *out, struct err *err);
    FIBER bool (*reset)(void *ctx, str key, struct arena *a, struct err *err);
    /* Put bucket->cost tokens back; a full bucket stays as it is. */
    FIBER bool (*give)(void *ctx, const struct limit_bucket *bucket, struct arena *a, struct err *err);
    /* A holder's whole share of each item; a share that is not renewed within ttl_ms is free again. */
    FIBER bool (*lease)(void *ctx, str holder, struct lease_item *items, size_t n, int64_t ttl_ms, bool is_renewal,
                        struct arena *a, struct err *err);
    /* All shares of the holder are free. */
    FIBER bool (*release)(void *ctx, str holder, struct arena *a, struct err *err);
    void (*done)(void *ctx);
};
/* backend/local.c, backend/redis.c */
extern const struct limits_backend limits_local, limits_redis;
void *limits_local_new(void);
void *limits_redis_new(struct redis *redis);

struct limits;
/* The table is copied. */
struct limits *limits_new(struct redis *redis, const struct auth_limit *table, size_t n, int64_t lease_ttl_ms);
void limits_free(struct limits *l);

struct limits_take {
    const char *limit;
    str key;
    uint32_t cost;
};
/* All or none. *refused indexes takes. Errors: LIMIT (too many takes, key too long), never because of Redis. */
FIBER bool limits_take(struct limits *l, const struct limits_take *takes, size_t n, struct limit_verdict *out,
                       struct err *err) WARN_UNUSED;
/* Fill the bucket up again. */
FIBER void limits_reset(struct limits *l, const char *limit, str key);
/* Put back what was taken and not used: tokens of one bucket. */
FIBER void limits_give(struct limits *l, const char *limit, str key, uint32_t cost);
struct limits_lease {
    const char *limit;
    str key;
    uint32_t count;
};
FIBER bool limits_lease(struct limits *l, str holder, const struct limits_lease *items, size_t n, bool is_renewal,
                        struct arena *a, protobuf_c_boolean *granted, struct err *err) WARN_UNUSED;
/* The holder is gone. Errors: LIMIT (no name of a holder), never because of Redis: then the leases run out by
 * themselves. */
FIBER bool limits_release(struct limits *l, str holder, struct err *err) WARN_UNUSED;

#endif
