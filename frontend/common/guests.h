/*
 * guests.h: how many fibers peers have that have not logged in, in all of a process's front-ends together.
 *
 * A session holds a fiber while a command of it is under way, and who sends a message slowly, stops in the middle of a
 * literal or reads no answers can make that long. So a stranger's command begins only while fewer than so many of its address
 * (/64 for IPv6; loopback is not limited) and of all strangers are under way; the others' fibers are for who has logged in.
 */
#ifndef FRONTEND_COMMON_GUESTS_H
#define FRONTEND_COMMON_GUESTS_H

#include "net/addr.h"

#define GUESTS_MAX 6000u /* of the 8,192 fibers that a process has at most (fiber.h) */

struct guests;
struct guest_address;
/* Embedded in the session; zeroed: not counted. */
struct guest {
    struct guests *all;
    struct guest_address *address;
};

/* 0: no limit. */
struct guests *guests_new(unsigned max, unsigned max_per_address);
/* Before the fiber starts. False: too many, and nothing is counted. A guest that is counted stays so. */
bool guest_enter(struct guests *g, struct guest *guest, const struct net_addr *peer);
/* The fiber ends, or the peer has logged in. A guest that is not counted is allowed. */
void guest_leave(struct guest *guest);
unsigned guests_count(const struct guests *g);
/* There must be no guests. NULL is allowed. */
void guests_free(struct guests *g);

#endif
