/*
 * timeline.h: an account's rows at its first use, and after a failover that may have lost commits: then its counters
 * jump, so that nothing that a client saw of what was lost is given out again.
 */
#ifndef STORE_SERVICE_ACCOUNT_TIMELINE_H
#define STORE_SERVICE_ACCOUNT_TIMELINE_H

#include "store-service/account/op.h"

#define TIMELINE_MODSEQ_GAP (1 << 20) /* the jump */
#define TIMELINE_UID_GAP (1 << 18)    /* of 2^32: for 16,000 failovers */

/* The first eight digits of the current WAL file's name are the timeline: it changes when a standby is promoted. SQLite
 * has no such thing: restoring a backup sets the column to -1. A query of its own, as it is run once then and not for
 * each row. Readers look at it too: what they would be told before the first write is what was lost. */
#define PG_TIMELINE "(SELECT ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint)"

/* Make the rows of an account at its first use, or jump its counters after a failover. Suspends. */
FIBER bool account_prepare(struct shard *sh, const Thurn__AccountRef *ref, struct err *err) WARN_UNUSED;
/* After op_ready: *since is a modseq that a client brings. One that was given out for changes which a failover took
 * back tells nothing of what he knows, and becomes 0. One round trip when it is below the floor. */
FIBER bool op_known_since(struct sql_tx *tx, const struct op *op, uint64_t *since, struct err *err) WARN_UNUSED;

#endif
