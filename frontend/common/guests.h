/*
 * guests.h: how many fibers peers have that have not logged in, by service, in all of a process's front-ends together.
 *
 * A session holds a fiber while a command of it is under way, and who sends a message slowly, stops in the middle of a
 * literal or reads no answers can make that long. So a stranger's command begins only while fewer than so many of its
 * address
 * (/64 for IPv6; loopback is not limited) and of all strangers of that service are under way. The services' shares do
 * not overlap, and together they leave room: whatever strangers do on one port, the other services' log-ins have
 * theirs, and who has logged in has the rest.
 */
#ifndef FRONTEND_COMMON_GUESTS_H
#define FRONTEND_COMMON_GUESTS_H

#include "net/addr.h"

/* Of the 8,192 fibers that a process has at most (fiber.h); listeners take up to 1,280 for handshakes (listener.h). */
#define GUEST_SERVICES(X)                                                                                              \
    X(SMTP, "smtp", 2400)                                                                                              \
    X(SUBMISSION, "submission", 1200)                                                                                  \
    X(IMAP, "imap", 1200)
enum guest_service {
#define GUEST_(id, name, max) GUEST_##id,
    GUEST_SERVICES(GUEST_)
#undef GUEST_
        GUEST_SERVICES_
};

struct guests;
struct guest_share;
struct guest_address;
/* Embedded in the session; zeroed: not counted. */
struct guest {
    struct guest_share *share;
    struct guest_address *address;
};

/* max: of each service, NULL = the shares above, 0 = no limit. max_per_address: of one service, 0 = no limit. */
struct guests *guests_new(const unsigned *max, unsigned max_per_address);
/* Before the fiber starts. False: too many, and nothing is counted. A guest that is counted stays so. */
bool guest_enter(struct guests *g, enum guest_service service, struct guest *guest, const struct net_addr *peer);
/* The fiber ends, or the peer has logged in. A guest that is not counted is allowed. */
void guest_leave(struct guest *guest);
unsigned guests_count(const struct guests *g, enum guest_service service);
/* There must be no guests. NULL is allowed. */
void guests_free(struct guests *g);

#endif
