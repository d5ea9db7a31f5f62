/*
 * beacon.h: after a commit, whoever watches the account learns of it.
 *
 * Watchers (front-end processes) long-poll with Watch; what happened to their accounts since is kept for them, one
 * entry an account. Between store processes beacons go over Redis, on 1,024 channels by account; a process subscribes
 * to those that its watchers need. All of it may be lost: a watcher that asks too late is unknown and starts over, and
 * modseqs tell what was missed.
 *
 * The room watch/ owns no table; it keeps who watches what, and which accounts have news. It calls no other room.
 * Newcomers: what watchers are to tell apart is a ChangeType of common.proto with its KIND_ here.
 */
#ifndef STORE_SERVICE_BEACON_H
#define STORE_SERVICE_BEACON_H

#include "store-service/service.h"

#define KIND_EMAIL (1u << THURN__CHANGE_TYPE__CHANGE_EMAIL)
#define KIND_MAILBOX (1u << THURN__CHANGE_TYPE__CHANGE_MAILBOX)
#define KIND_THREAD (1u << THURN__CHANGE_TYPE__CHANGE_THREAD)

struct beacons *beacons_new(struct redis *redis, unsigned linger_ms);
void beacons_free(struct beacons *b);
/* After a commit: the account is at that modseq, and things of these kinds (KIND_…) changed. Does not wait. */
void beacon_publish(struct store *s, int64_t account_id, int64_t modseq, unsigned kinds);

#endif
