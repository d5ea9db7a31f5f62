/* A body arrives: hashed, parsed and kept while it streams in, then stored on its shard. */
#include "base/clock.h"
#include "store-service/parsed.h"
#include "store-service/spool.h"

static struct shard *shard_for(struct store *s, const Thurn__PutBlobRequest *q, int64_t *tenant_id, struct err *err)
{
    if (q->account) {
        *tenant_id = q->account->tenant_id;
        return store_shard(s, q->account->shard, err);
    }
    *tenant_id = q->tenant_id;
    return &s->shards[random_below(s->n_shards)];
}

static bool receive(struct rpc_source *in, uint64_t max, struct spool *spool, struct mime_parser *mime, struct err *err)
{
    for (;;) {
        str piece;
        if (!in->read(in, &piece, err))
            return false;
        if (str_empty(piece))
            return spool_finish(spool, err);
        if (piece.n > max - MIN(max, spool->size))
            return err_set(err, ERR_LIMIT, "the body has more than %llu bytes", (unsigned long long)max);
        mime_feed(mime, piece);
        if (!spool_write(spool, piece, err))
            return false;
    }
}

bool store_do_put_blob(struct store *s, struct rpc_call *c, const Thurn__PutBlobRequest *q, Thurn__PutBlobReply *r,
                       struct err *err)
{
    int64_t tenant_id;
    struct shard *sh = shard_for(s, q, &tenant_id, err);
    if (!sh)
        return false;
    if (!c->body)
        return err_set(err, ERR_INVALID, "no body given");
    ARENA(a, 64 << 20);
    SPOOL_SCOPE struct spool spool;
    spool_init(&spool, s->spool_folder);
    CLEANUP(mime_free) struct mime_parser *mime = mime_new(&a, NULL);
    uint64_t max = q->size_max ? MIN(q->size_max, s->limits.message_bytes) : s->limits.message_bytes;
    if (!receive(c->body, max, &spool, mime, err))
        return false;
    if (spool.size == 0)
        return err_set(err, ERR_INVALID, "an empty body");
    str hash = str_n(spool.hash, BLOB_HASH_SIZE);
    parsed_cache_put(s->parsed, hash, parsed_pack(parsed_of_mime(mime_finish(mime), &a), &a));
    if (!blob_store(sh, tenant_id, &spool, q->hold_until_unix, err))
        return false;
    r->blob = arena_new(c->arena, Thurn__BlobRef);
    thurn__blob_ref__init(r->blob);
    r->blob->space = sh->number;
    r->blob->tenant_id = tenant_id;
    r->blob->hash = rpc_bytes(arena_str(c->arena, hash));
    r->blob->size = spool.size;
    return true;
}
