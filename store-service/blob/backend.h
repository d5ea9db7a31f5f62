/*
 * backend.h: where large bodies live. Newcomers: a backend is a folder's file in backend/ with a table of functions,
 * its maker here, a tier (blob.h), and its settings in store.h.
 */
#ifndef STORE_SERVICE_BLOB_BACKEND_H
#define STORE_SERVICE_BLOB_BACKEND_H

#include "store-service/blob/blob.h"
#include "store-service/blob/spool.h"

#define BLOB_REMOVE_MAX 1000u
struct blob_object { /* what a backend is asked for */
    uint32_t space;
    const struct blob_place *place; /* tenant, hash, blob_id, size; seg and off as put said */
};
struct blob_backend {
    const char *name; /* in metrics */
    enum blob_tier tier;
    /* Store the whole body; on return it is durable. Sets *seg and *off. Suspends. Errors: UNAVAILABLE. */
    FIBER bool (*put)(struct blob_backend *b, const struct blob_object *o, struct spool *body, int64_t *seg,
                      int64_t *off, struct err *err);
    /* Hand on [offset, offset + length) in pieces. Suspends. Errors: NOT_FOUND (it is not in that place, and nothing
     * was handed on: look its place up again; no caller of blob_read ever sees that), UNAVAILABLE, the sink's. */
    FIBER bool (*get)(struct blob_backend *b, const struct blob_object *o, uint64_t offset, uint64_t length,
                      struct rpc_sink *out, struct err *err);
    /* The name under which an object is to be deleted later, in a; empty: nothing is to be done (segments). */
    str (*garbage_name)(struct blob_backend *b, const struct blob_object *o, struct arena *a);
    /* Delete by these names, at most BLOB_REMOVE_MAX of them; what is not there is a success. Sets is_gone[i] (false at
     * the call) of each that is gone, also when others fail. May be NULL. Suspends. Errors: UNAVAILABLE. */
    FIBER bool (*remove)(struct blob_backend *b, const str *names, size_t n, bool *is_gone, struct err *err);
    /* Make room: move what lives out of files that are mostly dead. May be NULL. Suspends. */
    FIBER bool (*compact)(struct blob_backend *b, struct store *s, bool dry_run, struct err *err);
    FIBER void (*free)(struct blob_backend *b);
};
FIBER struct blob_backend *blob_segment_new(str folder, struct err *err) WARN_UNUSED;
struct blob_backend *blob_s3_new(const struct store_blob_opts *opts, struct err *err) WARN_UNUSED;

#endif
