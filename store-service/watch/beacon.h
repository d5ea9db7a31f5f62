/*
 * beacon.h: after a commit, whoever watches the account learns of it.
 *
 * Watchers (front-end processes) long-poll with Watch; what happened to their accounts since is kept for them, one
 * entry an account. Between store processes beacons go over Redis, on 1,024 channels by account; a process subscribes
 * to those that its watchers need. All of it may be lost: a watcher that asks too late is unknown and starts over, and
 * modseqs tell what was missed.
 */
#ifndef STORE_SERVICE_BEACON_H
#define STORE_SERVICE_BEACON_H

#include "store-service/internal.h"

struct beacons *beacons_new(struct redis *redis, unsigned linger_ms);
void beacons_free(struct beacons *b);

#endif
