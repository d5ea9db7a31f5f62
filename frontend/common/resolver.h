/*
 * resolver.h: who is behind an address, asked of the auth service and remembered for a few seconds.
 *
 * Answers that say "local" live a little longer than those that do not; "no such user" and other answers that turn mail
 * away for good are not remembered at all, so that an account that was just added gets mail at once. When the directory
 * is away, what was local a while ago still is; what is not known is an error (never "unknown user"). The cache is
 * bounded in bytes; the least recently used go. Answers under an address that is not the mailbox's own (aliases,
 * details behind a "+", catch-alls: a stranger can make up as many as he likes) have a quarter of it, and push out
 * their like alone.
 *
 * A change of the directory makes all answers old at once, whatever they were about (resolver_outdate): asking again is
 * one call, and what an answer stood on is not kept. For a second after it answers live no longer than a second, for
 * the node that gave it may have heard later.
 *
 * A mailbox that was found full is remembered as full, so that the next RCPT for it can be refused without asking.
 */
#ifndef FRONTEND_COMMON_RESOLVER_H
#define FRONTEND_COMMON_RESOLVER_H

#include "base/list.h"
#include "base/map.h"
#include "proto/auth.pb-c.h"
#include "rpc/call.h"

struct resolver_opts {
    unsigned local_ms; /* life of an answer RECIPIENT_LOCAL; default 5000 */
    unsigned other_ms; /* of REMOTE and SUSPENDED; default 1000. All others: none */
    unsigned stale_ms; /* how long a local answer serves while auth is away; default 600000 */
    unsigned full_ms;  /* how long a mailbox without room is remembered as such; default 30000 */
    size_t bytes_max;  /* default 16 MiB */
};
/* One answer; shared and constant. Hold it with a reference. */
struct resolved {
    unsigned refs;
    Thurn__Resolution *answer;
    uint64_t full_size; /* until full_until_ms: the smallest message that the only mailbox had no room for */
    int64_t fresh_until_ms, stale_until_ms, full_until_ms;
    size_t bytes;
    bool is_own; /* the address is that of the only mailbox */
    struct list_node used;
    char *address;
    uint64_t generation; /* of the resolver, when it was asked for */
};
struct resolver;

/* auth is borrowed. opts may be NULL. */
struct resolver *resolver_new(ProtobufCService *auth, const struct resolver_opts *opts);
void resolver_free(struct resolver *r); /* answers that are still held live on */
/*
 * Ask about one address (normalized: A-label domain). *out is a reference for the caller. One call to auth when the
 * answer is not in the cache. Errors: what auth says; UNAVAILABLE when it is away.
 */
FIBER bool resolver_get(struct resolver *r, str address, struct resolved **out, struct err *err) WARN_UNUSED;
struct resolved *resolved_ref(struct resolved *a);
void resolved_unref(struct resolved *a); /* NULL is allowed */
void resolver_forget(struct resolver *r, str address);
/* The directory changed. */
void resolver_outdate(struct resolver *r);
/* The only mailbox behind the address had no room for a message of this size. */
void resolver_mark_full(struct resolver *r, str address, uint64_t size);
/* It had no room for one as large as this, a moment ago. A message of unknown size (0) may be small enough. */
bool resolved_is_full(const struct resolved *a, uint64_t size);
size_t resolver_count(const struct resolver *r);
size_t resolver_bytes(const struct resolver *r);

#endif
