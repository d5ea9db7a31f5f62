/*
 * Buckets and leases in Redis, by scripts, with Redis' own clock, so that nodes need not agree on the time. Each key
 * expires by itself when it says nothing any more.
 *
 * That clock may be set back. A time that no taker can have written by the clock of now (a bucket emptier than empty, a
 * lease longer than leases are) says nothing: otherwise everybody would be refused until the clock had caught up.
 */
#include "data/redis.h"

#include "auth-service/limits.h"

#define LEASES_AT_ONCE 60u /* keys in one script call */

/* KEYS: buckets. ARGV: interval, tolerance, cost for each. Answer: granted, index of the refused, ms to wait, used of
 * each. Times are microseconds; a double holds them exactly, but %.14g (tostring) would not print them. */
static const char take_script[] =
    "local t = redis.call('TIME') local now = t[1] * 1000000 + t[2] "
    "local tats = {} local out = {1, 0, 0} "
    "for i, key in ipairs(KEYS) do "
    " local interval, tolerance, cost = tonumber(ARGV[3*i-2]), tonumber(ARGV[3*i-1]), tonumber(ARGV[3*i]) "
    " local tat = math.max(tonumber(redis.call('GET', key) or '0'), now) "
    " if tat > now + tolerance then tat = now end "
    " out[3 + i] = math.ceil((tat - now) / interval) "
    " local over = tat + math.max(cost, 1) * interval - now - tolerance "
    " if over > 0 and out[1] == 1 then out[1] = 0 out[2] = i - 1 out[3] = math.ceil(over / 1000) end "
    " tats[i] = tat + cost * interval "
    "end "
    "if out[1] == 1 then for i, key in ipairs(KEYS) do if tonumber(ARGV[3*i]) > 0 then "
    " redis.call('SET', key, string.format('%.0f', tats[i]), 'PX', math.ceil((tats[i] - now) / 1000) + 1) "
    "end end end "
    "return out";

/* KEYS: one bucket. ARGV: microseconds to take off its time. */
static const char give_script[] =
    "local t = redis.call('TIME') local now = t[1] * 1000000 + t[2] "
    "local tat = tonumber(redis.call('GET', KEYS[1]) or '0') - tonumber(ARGV[1]) "
    "if tat <= now then redis.call('DEL', KEYS[1]) "
    "else redis.call('SET', KEYS[1], string.format('%.0f', tat), 'PX', math.ceil((tat - now) / 1000) + 1) end "
    "return {1}";

/* KEYS: hashes holder -> 'count:until'. ARGV: holder, ttl ms, renewal, then count and max for each. Answer: 1 or 0
 * each. */
static const char lease_script[] =
    "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000) "
    "local holder, ttl, renewal, out = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1', {} "
    "local held = 'held:' .. holder "
    "for i, key in ipairs(KEYS) do "
    " local want, max = tonumber(ARGV[2 + 2*i]), tonumber(ARGV[3 + 2*i]) "
    " local sum, before, all = 0, 0, redis.call('HGETALL', key) "
    " for j = 1, #all, 2 do "
    "  local count, till = string.match(all[j + 1], '(%d+):(%d+)') "
    "  if not till or tonumber(till) <= now or tonumber(till) > now + ttl then redis.call('HDEL', key, all[j]) "
    "  elseif all[j] == holder then before = tonumber(count) "
    "  else sum = sum + tonumber(count) end "
    " end "
    " local ok = renewal or want <= before or sum + want <= max "
    " local count = ok and want or before "
    " if count > 0 then redis.call('HSET', key, holder, string.format('%d:%.0f', count, now + ttl)) "
    "  redis.call('PEXPIRE', key, ttl * 2) redis.call('SADD', held, key) "
    " else redis.call('SREM', held, key) redis.call('HDEL', key, holder) end "
    " out[i] = ok and 1 or 0 "
    "end "
    "redis.call('PEXPIRE', held, ttl * 2) "
    "return out";

/* KEYS: the holder's set of what it leased, kept by lease_script. ARGV: holder. */
static const char release_script[] =
    "for _, key in ipairs(redis.call('SMEMBERS', KEYS[1])) do redis.call('HDEL', key, ARGV[1]) end "
    "redis.call('DEL', KEYS[1]) "
    "return {1}";

void *limits_redis_new(struct redis *redis)
{
    return redis;
}

static void redis_backend_free(void *ctx UNUSED)
{
}

static str number(int64_t v, struct arena *a)
{
    return arena_printf(a, "%lld", (long long)v);
}

static bool answer_ok(const struct redis_value *v, size_t n, struct err *err)
{
    bool ok = v->type == REDIS_ARRAY && v->n_items == n;
    for (size_t i = 0; ok && i < n; i++)
        ok = v->items[i].type == REDIS_INT;
    return ok || err_set(err, ERR_UNAVAILABLE, "unexpected answer of a limit script");
}

FIBER static bool redis_take(void *ctx, const struct limit_bucket *buckets, size_t n, struct arena *a,
                             struct limit_verdict *out, struct err *err)
{
    str words[4 * LIMITS_TAKES_MAX];
    for (size_t i = 0; i < n; i++) {
        words[i] = buckets[i].key;
        words[n + 3 * i] = number(buckets[i].interval_us, a);
        words[n + 3 * i + 1] = number(buckets[i].tolerance_us, a);
        words[n + 3 * i + 2] = number(buckets[i].cost, a);
    }
    struct redis_value v;
    if (!redis_script(ctx, take_script, words, n, 4 * n, a, &v, err) || !answer_ok(&v, n + 3, err))
        return false;
    *out = (struct limit_verdict){.is_granted = v.items[0].i == 1,
                                  .refused = MIN((size_t)v.items[1].i, n - 1),
                                  .retry_after_ms = (uint64_t)v.items[2].i};
    for (size_t i = 0; i < n; i++)
        out->used[i] = (uint32_t)v.items[3 + i].i;
    return true;
}

FIBER static bool redis_reset(void *ctx, str key, struct arena *a, struct err *err)
{
    str words[2] = {S("DEL"), key};
    struct redis_value v;
    return redis_command(ctx, words, 2, a, &v, err);
}

FIBER static bool redis_give(void *ctx, const struct limit_bucket *b, struct arena *a, struct err *err)
{
    str words[2] = {b->key, number(b->cost * b->interval_us, a)};
    struct redis_value v;
    return redis_script(ctx, give_script, words, 1, 2, a, &v, err);
}

FIBER static bool lease_some(struct redis *r, str holder, struct lease_item *items, size_t n, int64_t ttl_ms,
                             bool is_renewal, struct arena *a, struct err *err)
{
    str words[3 * LEASES_AT_ONCE + 3];
    for (size_t i = 0; i < n; i++) {
        words[i] = items[i].key;
        words[n + 3 + 2 * i] = number(items[i].count, a);
        words[n + 4 + 2 * i] = number(items[i].max, a);
    }
    words[n] = holder;
    words[n + 1] = number(ttl_ms, a);
    words[n + 2] = is_renewal ? S("1") : S("0");
    struct redis_value v;
    if (!redis_script(r, lease_script, words, n, 3 * n + 3, a, &v, err) || !answer_ok(&v, n, err))
        return false;
    for (size_t i = 0; i < n; i++)
        items[i].is_granted = v.items[i].i == 1;
    return true;
}

FIBER static bool redis_lease(void *ctx, str holder, struct lease_item *items, size_t n, int64_t ttl_ms,
                              bool is_renewal, struct arena *a, struct err *err)
{
    for (size_t i = 0; i < n; i += LEASES_AT_ONCE)
        if (!lease_some(ctx, holder, items + i, MIN(n - i, LEASES_AT_ONCE), ttl_ms, is_renewal, a, err))
            return false;
    return true;
}

FIBER static bool redis_release(void *ctx, str holder, struct arena *a, struct err *err)
{
    str words[2] = {arena_printf(a, "held:%.*s", STR_ARG(holder)), holder};
    struct redis_value v;
    return redis_script(ctx, release_script, words, 1, 2, a, &v, err) && answer_ok(&v, 1, err);
}

const struct limits_backend limits_redis = {.name = "redis",
                                            .take = redis_take,
                                            .reset = redis_reset,
                                            .give = redis_give,
                                            .lease = redis_lease,
                                            .release = redis_release,
                                            .done = redis_backend_free};
