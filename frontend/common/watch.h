/*
 * watch.h: learn of changes in accounts: one long poll (Store.Watch) for all sessions of a front-end process.
 *
 * Subscribers name an account and get a callback with its newest modseq. Beacons may be lost, so every account is also
 * asked for its state (Store.States) every 30 to 60 s, in batches. A subscriber that was told reads the log itself.
 */
#ifndef FRONTEND_COMMON_WATCH_H
#define FRONTEND_COMMON_WATCH_H

#include "proto/store.pb-c.h"

#include "base/list.h"
#include "fiber/fiber.h"

struct watch;
/* Embedded in the subscriber. fn runs on a fiber of the watcher or on the loop, and must not suspend. */
struct watch_sub {
    struct list_node node;
    int64_t account_id;
    void (*fn)(void *arg, uint64_t modseq);
    void *arg;
};

/* name tells this process from others that watch; it is copied. Nothing runs before the first subscriber. */
struct watch *watch_new(ProtobufCService *store, str name);
/*
 * Subscribe; ref is copied, and replaces what was known of where the account lives. fn hears of every change that is
 * committed from now on, and of the newest one before (at once, when it is known): compare modseqs.
 */
void watch_add(struct watch *w, struct watch_sub *sub, const Thurn__AccountRef *ref);
/* A zeroed or removed subscriber is allowed. */
void watch_remove(struct watch *w, struct watch_sub *sub);
unsigned watch_accounts(const struct watch *w);
/* There must be no subscribers. Waits for the calls under way. Takes NULL. */
FIBER void watch_free(struct watch *w);

#endif
