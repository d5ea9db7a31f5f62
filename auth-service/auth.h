/*
 * auth.h: the auth service: who there is, whether a password is right, how much anyone may do.
 *
 * The directory (tenants, domains, accounts, aliases) is a SQL database; every process of the service keeps a bounded
 * cache of it. A mutation drops the entry here at once and, by a Redis message, in the other processes; without Redis
 * they see it when the entry's time is over. While the database is away, entries are used past their time.
 *
 * Limits and leases are kept in Redis, or in this process when there is none; while Redis is away, in this process.
 */
#ifndef AUTH_SERVICE_AUTH_H
#define AUTH_SERVICE_AUTH_H

#include <protobuf-c/protobuf-c.h>

#include "data/redis.h"
#include "data/sql.h"

struct auth;

/* A token bucket of `burst` tokens that fills at `count` tokens per `per_ms`. For leases, burst is the most that may be
 * held. */
struct auth_limit {
    const char *name; /* one of base/limits.def; a limit that is not in the table does not limit */
    uint32_t count;
    uint32_t per_ms;
    uint32_t burst;
};

struct auth_opts {
    struct sql_db *directory;
    struct redis *redis;           /* NULL: limits and leases in this process alone */
    unsigned n_shards;             /* shard databases that new accounts may be placed on, numbered from 1; default 1 */
    const unsigned *shard_weights; /* n_shards of them, 0 = takes no new accounts; NULL = all equal */
    str admin_token;               /* whoever says it is an administrator; empty = nobody over the network */
    str default_domain;            /* added to logins without @; empty = none */
    const struct auth_limit *limits; /* without rows of these names: "auth.failures.ip" 40, one back each 60 s, and
                                      * "auth.failures.account" 20, one back each 90 s */
    size_t n_limits;
    /* of the directory cache; default 64 MiB, and a quarter of that for what is not there */
    size_t cache_bytes;
    unsigned cache_ttl_s; /* default 30 */
    /* default 10; that there is no such address is asked again before, at a bounded rate */
    unsigned cache_negative_ttl_s;
    unsigned cache_stale_s;     /* how long past its time while the directory is away; default 3600 */
    unsigned verified_ttl_s;    /* how long a verified password needs no second hash; default 600 */
    unsigned lease_ttl_ms;      /* default 60000 */
    unsigned argon2_memory_kib; /* default 19456 */
    unsigned argon2_passes;     /* default 2 */
    unsigned penalty_first_ms;  /* delay of the first wrong answer; default 2000; tests make it short */
    unsigned penalty_max_ms;    /* default 15000 */
    unsigned events_keep_s;     /* how long the record of administration is kept; default 365 days */
    bool takes_weak_passwords;  /* a password that is set in the clear need not be hard to guess */
};

/* Strings and tables of opts are copied; directory and redis are borrowed and outlive the service. */
struct auth *auth_new(const struct auth_opts *opts, struct err *err) WARN_UNUSED;
/* Bring the directory's schema up to date. See sql_migrate. */
FIBER bool auth_migrate(struct sql_db *directory, bool dry_run, unsigned *applied, struct err *err) WARN_UNUSED;
/* The service of auth.proto; lives as long as the auth object. */
ProtobufCService *auth_service(struct auth *auth);
/* Remove what of the record of administration is past its time, in slices. UNAVAILABLE: the directory is away; some may
 * be gone.
 */
FIBER bool auth_prune_events(struct auth *auth, uint64_t *removed, struct err *err) WARN_UNUSED;
/* A fiber's body: the same each hour, until it is cancelled. Its end comes before auth_free. */
FIBER void auth_housekeeping(void *auth);
/* No call may be under way. */
void auth_free(struct auth *auth);

#endif
