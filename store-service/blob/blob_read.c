/* Reading bodies: inline ones from their row, the others from their backend; a whole one is proven by its hash. */
#include "store-service/blob/blob.h"

#include <openssl/evp.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/metrics.h"
#include "store-service/blob/backend.h"
#include "store-service/service.h"

// clang-format off
static const struct sql_stmt find_blob = {
    "s_find_blob", "ib", BLOB_PLACE_TYPES "b",
    "SELECT " BLOB_PLACE_COLS ", i.data FROM s_blob b LEFT JOIN s_blob_inline i ON i.blob_id = b.blob_id"
    " WHERE b.tenant_id = ?1 AND b.hash = ?2 AND b.is_ready = 1",
    NULL, false};
// clang-format on

bool blob_find(struct shard *sh, int64_t tenant_id, str hash, struct arena *a, struct blob_place *out, struct err *err)
{
    const struct sql_value v[] = {sql_i(tenant_id), sql_s(hash)};
    struct sql_result r;
    if (hash.n != BLOB_HASH_SIZE)
        return err_set(err, ERR_INVALID, "a body's name has %u bytes", BLOB_HASH_SIZE);
    if (!sql_query(sh->db, &find_blob, v, a, &r, err))
        return false;
    if (r.n_rows == 0)
        return err_set(err, ERR_NOT_FOUND, "no such body");
    *out = blob_place_take(sql_at(&r, 0, 0));
    out->data = sql_at(&r, 0, 9)->s;
    return true;
}

bool blob_damaged(const struct blob_place *p, struct err *err)
{
    BUF(hex, 2 * BLOB_HASH_SIZE);
    buf_add_hex(&hex, p->hash);
    metric_inc(M_STORE_DAMAGED);
    log_error("store.body_damaged", KV_I64("tenant_id", p->tenant_id), KV_STR("hash", buf_str(&hex)),
              KV_I64("blob_id", p->blob_id), KV_I64("segment", p->seg), KV_I64("offset", p->off));
    return err_set(err, ERR_INTERNAL, "body %lld is damaged", (long long)p->blob_id);
}

static bool is_proven(const struct blob_place *p, const unsigned char hash[BLOB_HASH_SIZE])
{
    return p->hash.n == BLOB_HASH_SIZE && memcmp(hash, p->hash.p, BLOB_HASH_SIZE) == 0;
}

bool blob_inline(const struct blob_place *p, struct arena *a, str *out, struct err *err)
{
    unsigned char hash[BLOB_HASH_SIZE];
    struct err why = ERR_INIT; /* what is wrong with it matters less than which one it is */
    if (!blob_decompress(p->data, (enum blob_codec)p->codec, (uint64_t)p->size, a, out, &why))
        return blob_damaged(p, err);
    blob_hash(*out, hash);
    return is_proven(p, hash) || blob_damaged(p, err);
}

FIBER static bool read_inline(const struct blob_place *p, uint64_t offset, uint64_t length, struct rpc_sink *out,
                              struct err *err)
{
    ARENA(a, BLOB_INLINE_TRY * 2);
    str content;
    if (!blob_inline(p, &a, &content, err))
        return false;
    content = str_slice(content, offset, offset + length);
    while (content.n) {
        str piece = str_slice(content, 0, RPC_CHUNK_MAX);
        content = str_slice(content, piece.n, SIZE_MAX);
        if (!out->write(out, piece, err))
            return false;
    }
    return true;
}

/* A whole body on its way to a sink, which gets the last piece when the hash is right. */
struct proof {
    struct rpc_sink sink, *out;
    const struct blob_place *place;
    uint64_t left;
    EVP_MD_CTX *md;
};

FIBER static bool write_proven(struct rpc_sink *sink, str piece, struct err *err)
{
    struct proof *p = CONTAINER_OF(sink, struct proof, sink);
    unsigned char hash[BLOB_HASH_SIZE];
    if (EVP_DigestUpdate(p->md, piece.p, piece.n) != 1)
        panic("SHA-256 failed");
    p->left -= MIN(piece.n, p->left);
    if (p->left == 0 && (EVP_DigestFinal_ex(p->md, hash, NULL) != 1 || !is_proven(p->place, hash)))
        return blob_damaged(p->place, err);
    return p->out->write(p->out, piece, err);
}

/* Its row is there, its bytes are not: whoever restores the bucket or the folder brings it back, so nobody hears that
 * there is no such thing. */
static bool bytes_lost(const struct blob_backend *b, const struct blob_place *p, const struct err *why, struct err *err)
{
    BUF(hex, 2 * BLOB_HASH_SIZE);
    buf_add_hex(&hex, p->hash);
    metric_inc_label(M_STORE_LOST, b->name);
    log_error("store.bytes_lost", KV_I64("tenant_id", p->tenant_id), KV_STR("hash", buf_str(&hex)),
              KV_I64("blob_id", p->blob_id), KV_I64("segment", p->seg), KV_I64("offset", p->off), KV_ERR(why));
    return err_set(err, ERR_UNAVAILABLE, "the bytes of body %lld are not where its row says", (long long)p->blob_id);
}

/* Everything that referred to it was removed while it was about to be read. */
static bool row_lost(const struct blob_place *p, struct err *err)
{
    err_clear(err);
    return err_set(err, ERR_UNAVAILABLE, "body %lld was removed just now", (long long)p->blob_id);
}

FIBER static bool read_outside(struct shard *sh, const struct blob_place *p, uint64_t offset, uint64_t length,
                               struct rpc_sink *out, bool *is_lost, struct err *err)
{
    struct blob_backend *b = sh->store->blobs;
    struct blob_object o = {sh->number, p};
    if (p->tier != (int64_t)b->tier)
        return err_set(err, ERR_UNAVAILABLE, "a body is in another kind of blob store than '%s'", b->name);
    if (b->get(b, &o, offset, length, out, err))
        return true;
    if (err->kind != ERR_NOT_FOUND)
        return false;
    /* A segment was compacted between looking up and reading: nothing was written to the sink yet. */
    err_clear(err);
    ARENA(a, 64 * 1024);
    struct blob_place now;
    struct err why = ERR_INIT;
    if (!blob_find(sh, p->tenant_id, p->hash, &a, &now, err))
        return err->kind == ERR_NOT_FOUND && row_lost(p, err);
    o.place = &now;
    if (b->get(b, &o, offset, length, out, &why))
        return true;
    *is_lost = why.kind == ERR_NOT_FOUND;
    return *is_lost ? bytes_lost(b, &now, &why, err) : err_set(err, why.kind, "%s", why.msg);
}

FIBER static bool read_body(struct shard *sh, const struct blob_place *p, uint64_t offset, uint64_t length,
                            struct rpc_sink *out, bool *is_lost, struct err *err)
{
    *is_lost = false;
    uint64_t size = (uint64_t)p->size;
    offset = MIN(offset, size);
    length = MIN(length, size - offset);
    if (length == 0)
        return true;
    if (p->tier == BLOB_INLINE)
        return read_inline(p, offset, length, out, err);
    if (length < size)
        return read_outside(sh, p, offset, length, out, is_lost, err);
    struct proof proof = {.sink = {write_proven}, .out = out, .place = p, .left = size, .md = EVP_MD_CTX_new()};
    if (!proof.md || EVP_DigestInit_ex(proof.md, EVP_sha256(), NULL) != 1)
        panic("no SHA-256");
    bool ok = read_outside(sh, p, 0, size, &proof.sink, is_lost, err);
    EVP_MD_CTX_free(proof.md);
    return ok;
}

bool blob_read(struct shard *sh, const struct blob_place *p, uint64_t offset, uint64_t length, struct rpc_sink *out,
               struct err *err)
{
    bool is_lost;
    return read_body(sh, p, offset, length, out, &is_lost, err);
}

struct memory_sink {
    struct rpc_sink sink;
    char *p;
    size_t n, room;
};

static bool memory_write(struct rpc_sink *sink, str piece, struct err *err)
{
    struct memory_sink *m = CONTAINER_OF(sink, struct memory_sink, sink);
    if (piece.n > m->room - m->n)
        return err_set(err, ERR_INTERNAL, "a body is longer than its row says");
    memcpy(m->p + m->n, piece.p, piece.n);
    m->n += piece.n;
    return true;
}

bool blob_read_range(struct shard *sh, const struct blob_place *p, uint64_t offset, uint64_t length, struct arena *a,
                     str *out, bool *is_lost, struct err *err)
{
    offset = MIN(offset, (uint64_t)p->size);
    length = MIN(length, (uint64_t)p->size - offset);
    struct memory_sink m = {.sink = {memory_write}, .p = arena_alloc(a, length), .room = length};
    if (!read_body(sh, p, offset, length, &m.sink, is_lost, err))
        return false;
    *out = str_n(m.p, m.n);
    return true;
}

FIBER bool store_do_read_blob(struct store *s, struct rpc_call *c, const Thurn__ReadBlobRequest *q, Thurn__Empty *r,
                              struct err *err)
{
    (void)r;
    if (!q->blob || !c->out)
        return err_set(err, ERR_INVALID, "no body or no sink given");
    struct shard *sh = store_shard(s, q->blob->space, err);
    struct blob_place p;
    if (!sh || !blob_find(sh, q->blob->tenant_id, rpc_str(q->blob->hash), c->arena, &p, err))
        return false;
    return blob_read(sh, &p, q->offset, q->length ? q->length : UINT64_MAX, c->out, err);
}
