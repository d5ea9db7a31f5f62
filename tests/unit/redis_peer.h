/*
 * redis_peer.h: a Redis server of the test's own, on a Unix socket in a temporary folder.
 */
#ifndef UNIT_REDIS_PEER_H
#define UNIT_REDIS_PEER_H

#include <sys/types.h>

#include "base/str.h"

struct redis_peer {
    char dir[64], socket[96], url[112];
    pid_t pid; /* 0 = not running */
};
/* False when Redis is left out on purpose: see needs.h. */
bool redis_peer_make(struct redis_peer *p);
void redis_peer_start(struct redis_peer *p); /* returns when it listens */
void redis_peer_kill(struct redis_peer *p);
void redis_peer_done(struct redis_peer *p);

#endif
