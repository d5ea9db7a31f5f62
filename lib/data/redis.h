/*
 * redis.h: Redis on hiredis' async client: pipelined commands, Lua scripts, publish and subscribe.
 *
 * Redis is a hint, a limiter and a wake-up, never the record: callers must do something sensible on UNAVAILABLE.
 * Reconnects by itself with back-off; commands while disconnected fail at once with UNAVAILABLE.
 */
#ifndef DATA_REDIS_H
#define DATA_REDIS_H

#include "base/arena.h"
#include "fiber/fiber.h"

struct redis;
struct redis_opts {
    str url;             /* redis://[[user]:password@]host:port[/db], both percent-encoded; unix:/path */
    unsigned timeout_ms; /* of one command; default 1000 */
};
/* Whether the URL is well formed; connects to nothing. The error may quote it, with what is secret in it. */
bool redis_check_url(str url, struct err *err) WARN_UNUSED;
struct redis *redis_new(const struct redis_opts *opts, struct err *err) WARN_UNUSED;
FIBER void redis_free(struct redis *r);

enum redis_type { REDIS_NIL, REDIS_INT, REDIS_STR, REDIS_ARRAY };
struct redis_value {
    enum redis_type type;
    int64_t i;
    str s;
    struct redis_value *items;
    size_t n_items;
};
/* One command of n words; commands of several fibers share the connection in one pipeline. The answer is in `a`. */
FIBER bool redis_command(struct redis *r, const str *words, size_t n, struct arena *a, struct redis_value *out,
                         struct err *err) WARN_UNUSED;
/* EVALSHA with EVAL as the fallback. script is a literal. words: keys first, then arguments. */
FIBER bool redis_script(struct redis *r, const char *script, const str *words, size_t n_keys, size_t n, struct arena *a,
                        struct redis_value *out, struct err *err) WARN_UNUSED;
/* Fire and forget. */
void redis_publish(struct redis *r, str channel, str payload);
/* Messages of a channel go to every listener, on the loop (fn must not suspend). Survives reconnects; on_gap is called
 * after each (also the first) connect because messages may have been lost. At most 8192 channels, 8 listeners; a
 * listener looks at the channel, for others have theirs. redis_on_message with fn NULL takes the listener with this arg
 * away. */
bool redis_subscribe(struct redis *r, str channel, struct err *err) WARN_UNUSED;
void redis_unsubscribe(struct redis *r, str channel);
void redis_on_message(struct redis *r, void (*fn)(void *arg, str channel, str payload), void (*on_gap)(void *arg),
                      void *arg);
bool redis_is_up(const struct redis *r);

#endif
