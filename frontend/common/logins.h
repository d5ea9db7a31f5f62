/*
 * logins.h: the logins that open sessions stand on, and their end when the account's password or state changes.
 *
 * All sessions of a process are kept in one list by account. Every few seconds, and for an account that changed at
 * once, the auth service is asked what is committed for these accounts (Auth.Credentials, 1,000 to a call); each
 * session whose login stands on something else is told, and the quotas that the others go by are those of now. Nothing
 * depends on an event that could be lost: while the auth service is away sessions go on, and the first answer after
 * that ends those it has to. The cost is one look-up by primary key for each account, each round.
 *
 * The pass by which a session calls the services (rpc/rights.h) is kept with its login, and renewed by the same
 * question at half of its time.
 */
#ifndef FRONTEND_COMMON_LOGINS_H
#define FRONTEND_COMMON_LOGINS_H

#include "proto/auth.pb-c.h"

#include "base/list.h"
#include "fiber/fiber.h"
#include "rpc/rights.h"

#define LOGINS_PERIOD_MS 3000 /* between the end of a round and the next */

struct logins;
/* Embedded in the session; zeroed at first. */
struct login {
    struct list_node node;
    int64_t account_id, version;
    Thurn__AccountRef *quotas; /* see logins_add */
    struct rpc_pass pass;      /* goes with the session's calls; made anew while it is in the list */
    int64_t pass_mono_ms;      /* when it was made */
    void (*ended)(void *arg);  /* see logins_add */
    void *arg;
};

struct dir_watch;
/* auth is borrowed; so is changes, which outlives this (NULL = nobody tells of changes). period_ms 0: LOGINS_PERIOD_MS.
 * Nothing runs before the first login. */
struct logins *logins_new(ProtobufCService *auth, struct dir_watch *changes, unsigned period_ms);
/*
 * A session has logged in, and got this answer. ended runs once, on a fiber of the list, when the login no longer
 * stands; it may free the session and must not suspend. The login is out of the list by then. A login is added once.
 * quotas is borrowed, as long as the login is in the list: its quotas are kept as the directory has them; NULL = not
 * wanted.
 */
void logins_add(struct logins *l, struct login *login, const Thurn__AuthenticateReply *r, Thurn__AccountRef *quotas,
                void (*ended)(void *arg), void *arg);
/* The session ends by itself. A zeroed or removed login is allowed. */
void logins_remove(struct logins *l, struct login *login);
unsigned logins_accounts(const struct logins *l);
/* There must be no logins. Waits for a call under way. Takes NULL. */
FIBER void logins_free(struct logins *l);

#endif
