/* A body arrives: hashed, parsed and kept while it streams in, then stored on its shard. */
#include "base/clock.h"
#include "fiber/work.h"
#include "store-service/blob/spool.h"
#include "store-service/content/parsed.h"
#include "store-service/service.h"

#define SHARDS_TRIED_MAX 3u

FIBER static bool receive(struct rpc_source *in, uint64_t max, struct spool *spool, struct mime_parser *mime,
                          struct err *err)
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

struct parsing {
    struct mime_parser *mime;
    struct arena *arena;
    str packed;
};

static void parse_end(void *arg)
{
    struct parsing *p = arg;
    p->packed = parsed_pack(parsed_of_mime(mime_finish(p->mime), p->arena), p->arena);
}

/* On the shard of the account; with none named on any shard that takes it, for what waits in a queue must not depend on
 * one. */
FIBER static bool keep(struct store *s, const Thurn__PutBlobRequest *q, struct spool *spool, Thurn__BlobRef *blob,
                       struct err *err)
{
    uint64_t first = random_below(s->n_shards);
    unsigned n_tries = q->account ? 1 : MIN(s->n_shards, SHARDS_TRIED_MAX);
    for (unsigned i = 0; i < n_tries; i++) {
        err_clear(err);
        struct shard *sh = q->account ? store_shard(s, q->account->shard, err) : &s->shards[(first + i) % s->n_shards];
        int64_t tenant_id = q->account ? q->account->tenant_id : q->tenant_id;
        if (sh && blob_store(sh, tenant_id, spool, (struct hold){rpc_str(q->holder), q->hold_until_unix}, err)) {
            blob->space = sh->number;
            blob->tenant_id = tenant_id;
            return true;
        }
        if (!err_is_temporary(err))
            return false;
    }
    return false;
}

FIBER bool store_do_put_blob(struct store *s, struct rpc_call *c, const Thurn__PutBlobRequest *q,
                             Thurn__PutBlobReply *r, struct err *err)
{
    if (!c->body)
        return err_set(err, ERR_INVALID, "no body given");
    if (!hold_ok(q->holder, err))
        return false;
    if ((q->account && !store_shard(s, q->account->shard, err)) || !disk_room_take(s->room, "body", err))
        return false;
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
    struct parsing p = {.mime = mime, .arena = &a};
    if (!work_run(parse_end, &p, err)) /* of many parts and addresses: tens of milliseconds */
        return false;
    parsed_cache_put(s->parsed, hash, p.packed);
    r->blob = arena_new(c->arena, Thurn__BlobRef);
    thurn__blob_ref__init(r->blob);
    r->blob->hash = rpc_bytes(arena_str(c->arena, hash));
    r->blob->size = spool.size;
    return keep(s, q, &spool, r->blob, err);
}
