/*
 * blob.h: bodies by the hash of their content, scoped to a tenant and a shard (their "space").
 *
 * A body is compressed into s_blob_inline when that takes at most BLOB_INLINE_MAX bytes; else the backend (segment
 * files or S3) holds it, and its row says where. A row counts the emails that refer to it. One without references stays
 * until the sweep has found it unused for a day and not held.
 *
 * The room blob/ owns s_blob, s_blob_inline, s_hold and s_garbage, and what the backends keep; it caches nothing but
 * what a backend does. It calls no other room, and knows nothing of what a body says.
 *
 *   blob.h      storing and holding; reading (blob_read.c); compressing small ones (blob_codec.c)
 *   spool.h     a body while it is on its way
 *   backend.h   where large ones live; the seam for another place
 *   sweep.h     what nothing refers to goes
 *
 * A large body's row is made before the body is stored ("not ready"), so whatever a crash leaves behind has a row, and
 * the sweep finds it.
 */
#ifndef STORE_SERVICE_BLOB_H
#define STORE_SERVICE_BLOB_H

#include "store-service/service.h"

struct spool;

#define BLOB_HASH_SIZE 32u
#define BLOB_INLINE_MAX (16u * 1024) /* compressed */
#define BLOB_INLINE_TRY (64u * 1024) /* larger bodies are not worth the attempt to compress */
#define BLOB_HOLD_S DAY_S
#define BLOB_HOLDER_MAX 32u   /* bytes of a holder's name */
#define BLOB_RELEASE_MAX 500u /* holds released by one call */

/* Whose hold it is, and until when if he does not release it. No holder: it cannot be released. */
struct hold {
    str holder;
    int64_t until_unix;
};
bool hold_ok(ProtobufCBinaryData holder, struct err *err) WARN_UNUSED; /* INVALID: his name is too long */

enum blob_tier { BLOB_INLINE, BLOB_SEGMENT, BLOB_OBJECT };
enum blob_codec { BLOB_RAW, BLOB_ZSTD, BLOB_ZSTD_HEADERS /* with the dictionary of blob_codec.c */ };

/* A row of s_blob. */
struct blob_place {
    int64_t blob_id, tenant_id, size;
    str hash;
    int64_t tier, codec, seg, off, stored_len;
    str data; /* BLOB_INLINE, when it was read along */
};
#define BLOB_PLACE_COLS "b.blob_id, b.tenant_id, b.hash, b.size, b.tier, b.codec, b.seg, b.off, b.stored_len"
#define BLOB_PLACE_TYPES "iibiiiiii"
struct blob_place blob_place_take(const struct sql_value *v);
/* Deep copy. */
struct blob_place blob_place_copy(const struct blob_place *p, struct arena *a);

/* --- within transactions --- */
/* One reference less for each id (an id may occur more than once). */
void blob_queue_unref(struct sql_tx *tx, const int64_t *ids, size_t n, int64_t now_unix);

/* --- codec (blob_codec.c); any thread --- */
/* Compress for inline storage; false: it does not fit. *out lives in a. */
bool blob_compress(str content, struct arena *a, str *out, enum blob_codec *codec);
/* Errors: INTERNAL (damaged). *out lives in a, or is data itself when it is not compressed. */
bool blob_decompress(str data, enum blob_codec codec, uint64_t size, struct arena *a, str *out, struct err *err)
    WARN_UNUSED;
void blob_hash(str content, unsigned char out[BLOB_HASH_SIZE]);
/* Ids that grow with time. */
int64_t blob_new_id(void);

/* --- storing --- */
/*
 * Make content durable on this shard for this tenant, if it is not there yet, and hold it.
 * content: all of it, or NULL and a spool (see spool.h). Suspends. On success the row is ready.
 * Errors: UNAVAILABLE.
 */
FIBER bool blob_store(struct shard *sh, int64_t tenant_id, struct spool *body, struct hold hold, struct err *err)
    WARN_UNUSED;

/* --- reading --- */
/* Where a body is. Errors: NOT_FOUND. place (with inline data) lives in a. */
FIBER bool blob_find(struct shard *sh, int64_t tenant_id, str hash, struct arena *a, struct blob_place *out,
                     struct err *err) WARN_UNUSED;
/* All of an inline body, proven by its hash. Any thread. *out lives in a, or is p->data. Errors: INTERNAL (damaged). */
bool blob_inline(const struct blob_place *p, struct arena *a, str *out, struct err *err) WARN_UNUSED;
/*
 * Bytes [offset, offset + length) of the content, clamped to it, into the sink. Suspends. Errors: UNAVAILABLE (also of
 * a body whose row is there and whose bytes are not: logged and counted), INTERNAL, the sink's.
 *
 * Who reads a whole body gets its last piece only when its hash holds; a part of a body outside the database is not
 * proven, as that would take all of it. Damage is logged, counted, and INTERNAL.
 */
FIBER bool blob_read(struct shard *sh, const struct blob_place *p, uint64_t offset, uint64_t length,
                     struct rpc_sink *out, struct err *err) WARN_UNUSED;
/* The same into a; length bounded by the caller. *is_lost: it is UNAVAILABLE because its bytes are not there. */
FIBER bool blob_read_range(struct shard *sh, const struct blob_place *p, uint64_t offset, uint64_t length,
                           struct arena *a, str *out, bool *is_lost, struct err *err) WARN_UNUSED;
/* It does not have the hash that it is kept under: logs and counts that, sets INTERNAL and returns false. Any thread.
 */
bool blob_damaged(const struct blob_place *p, struct err *err);

#endif
