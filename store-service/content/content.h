/*
 * content.h: one body on its way into mailboxes: where it is or will be, and what it says.
 *
 * The room content/ stands between a request and blob/: a body is read once as it comes (content.c, put_blob.c),
 * hashed, parsed and put where it stays. It owns s_email's column "parsed" and keeps parsed_cache. It calls blob/
 * alone. Newcomers: who wants to see a whole body as it passes (a hash for DKIM, a scanner) stands beside the parser,
 * in the loops of content.c and put_blob.c that feed it.
 */
#ifndef STORE_SERVICE_CONTENT_H
#define STORE_SERVICE_CONTENT_H

#include "store-service/blob/blob.h"
#include "store-service/content/parsed.h"

struct content {
    unsigned char hash[BLOB_HASH_SIZE];
    uint64_t size;  /* without a prefix */
    bool is_inline; /* not stored yet: data goes into the database with the message */
    str data;
    enum blob_codec codec;
    str packed; /* parsed; offsets count the prefix */
    str prefix;
    int64_t sent_unix;
    int64_t thread_keys[THREAD_KEYS_MAX];
    size_t n_thread_keys;
    struct spool *spool; /* a large body that has to be stored on each shard; borrowed */
};

/*
 * From a request's body, for accounts of one tenant or more. Parsed; large content is not stored yet: see
 * content_place. All in a. Suspends. Errors: INVALID, LIMIT, NOT_FOUND (the BlobRef).
 */
FIBER bool content_of_body(struct store *s, const Thurn__Body *body, str prefix, struct arena *a, struct content *out,
                           struct err *err) WARN_UNUSED;
/* Make sure that a shard has the body for a tenant, unless it goes inline with the message. Suspends. */
FIBER bool content_place(struct store *s, const Thurn__Body *body, struct content *c, struct shard *sh,
                         int64_t tenant_id, struct err *err) WARN_UNUSED;
/* False: a body that its holder relies on is gone. Logged, and INTERNAL: it is not an account that was not found. */
bool content_lost(str hash, struct err *err);
/* After content_of_body or content_place failed: whoever brings a body by its hash holds it, so NOT_FOUND becomes
 * content_lost: it speaks of accounts and mailboxes only. Always false. */
bool content_must_be(const Thurn__Body *body, struct err *err);
#define CONTENT_MAX (512u * 1024) /* of Body.content */
#define CONTENT_PREFIX_MAX (8u * 1024)

#endif
