/*
 * dir_watch.h: learn of changes of the directory: one long poll (Auth.News) for all of a front-end process.
 *
 * What a subscriber keeps of the directory's answers is old when it is told so. News may be lost (the auth service
 * restarts, Redis is away): everything that is kept also has a life of its own, which is the net below this.
 */
#ifndef FRONTEND_COMMON_DIR_WATCH_H
#define FRONTEND_COMMON_DIR_WATCH_H

#include "proto/auth.pb-c.h"

#include "base/list.h"
#include "fiber/fiber.h"

struct dir_news {
    const int64_t *account_ids; /* that were changed or removed, ascending, each once */
    size_t n_account_ids;
    bool is_gap; /* anything may have changed; then there are no ids */
};
/* Embedded in the subscriber, zeroed at first. fn runs on the watcher's fiber and must not suspend; it hears of each
 * change of whatever kind (domain, alias, account), with the accounts among them. */
struct dir_sub {
    struct list_node node;
    void (*fn)(void *arg, const struct dir_news *news);
    void *arg;
};
struct dir_watch;

/* auth is borrowed. Nothing runs before the first subscriber. */
struct dir_watch *dir_watch_new(ProtobufCService *auth);
void dir_watch_add(struct dir_watch *w, struct dir_sub *sub, void (*fn)(void *arg, const struct dir_news *news),
                   void *arg);
void dir_watch_remove(struct dir_sub *sub); /* a zeroed or removed one is allowed */
/* There must be no subscribers. Waits for a call under way. Takes NULL. */
FIBER void dir_watch_free(struct dir_watch *w);

#endif
