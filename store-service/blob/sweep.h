/*
 * sweep.h: bodies that nothing refers to or holds go, slice by slice (pace.h); what is left half-way is found again.
 */
#ifndef STORE_SERVICE_BLOB_SWEEP_H
#define STORE_SERVICE_BLOB_SWEEP_H

#include "store-service/service.h"

struct blob_sweep {
    uint64_t removed, bytes, kept;
};
/* Remove those that were unused for so long, and say in *out, which is added to, how many. dry_run: only say. Suspends.
 */
FIBER bool blob_sweep(struct shard *sh, int64_t older_than_s, bool dry_run, struct blob_sweep *out, struct err *err)
    WARN_UNUSED;
/* Delete the objects whose row is gone. Those that cannot be deleted keep no other from going. Suspends. */
FIBER bool blob_sweep_garbage(struct shard *sh, struct err *err) WARN_UNUSED;

#endif
