/* Where a message's content comes from: memory, the database (small ones), or the store's blobs. */
#include "queue-service/internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "proto/store_calls.h"

#define BLOB_CALL_MS 60000
#define KEEP_S (30 * 86400) /* a body with held recipients, from each look at it */
#define BLOB_PIECE (256u * 1024) /* read from the store at a time */

bool body_inline(struct queue *q, struct message *m, struct arena *a, str *out, struct err *err)
{
    assert(!m->blob);
    if (m->body) { /* copied: it may be dropped while the caller waits */
        *out = arena_str(a, str_n(m->body, m->size));
        return true;
    }
    struct sql_value id = sql_i((int64_t)m->id);
    struct sql_result r;
    if (!sql_query(q->opts.db, &q_load_body, &id, a, &r, err))
        return false;
    if (r.n_rows != 1)
        return err_set(err, ERR_INTERNAL, "body of message %llu is not there", (unsigned long long)m->id);
    *out = sql_at(&r, 0, 0)->s;
    return HOLDS(out->n == m->size, err);
}

Thurn__BlobRef *body_blob_ref(const struct message *m, struct arena *a)
{
    Thurn__BlobRef *b = arena_new(a, Thurn__BlobRef);
    thurn__blob_ref__init(b);
    b->space = m->blob->space;
    b->tenant_id = m->blob->tenant_id;
    b->hash = rpc_bytes(str_n(m->blob->hash, sizeof(m->blob->hash)));
    b->size = m->size;
    return b;
}

/* --- reading a blob in pieces --- */

struct buf_sink {
    struct rpc_sink sink;
    struct buf b;
};
FIBER static bool sink_write(struct rpc_sink *s, str piece, struct err *err)
{
    struct buf *b = &CONTAINER_OF(s, struct buf_sink, sink)->b;
    buf_add(b, piece);
    return buf_ok(b) || err_set(err, ERR_INTERNAL, "store sends more of a blob than was asked for");
}

/* [offset, offset + n) of the blob into b, which is emptied first. */
FIBER static bool read_range(struct queue *q, struct message *m, uint64_t offset, uint64_t n, struct buf_sink *to, struct err *err)
{
    ARENA(a, RPC_MESSAGE_MAX);
    struct rpc_call c;
    Thurn__ReadBlobRequest req = THURN__READ_BLOB_REQUEST__INIT;
    req.blob = body_blob_ref(m, &a);
    req.offset = offset;
    req.length = n;
    to->sink.write = sink_write;
    buf_clear(&to->b);
    queue_call_init(&c, &a, BLOB_CALL_MS);
    c.out = &to->sink;
    FIBER_DEADLINE(BLOB_CALL_MS);
    if (!store_read_blob(&c, q->opts.store, &req, NULL)) {
        *err = c.err;
        return false;
    }
    return to->b.n == n || err_set(err, ERR_INTERNAL, "blob of message %llu is shorter than it was", (unsigned long long)m->id);
}

struct body_source {
    struct rpc_source source;
    struct queue *q;
    struct message *m;
    uint64_t offset;
    str content; /* of an inline body */
    struct buf_sink piece;
};
FIBER static bool source_read(struct rpc_source *src, str *piece, struct err *err)
{
    struct body_source *s = CONTAINER_OF(src, struct body_source, source);
    uint64_t n = MIN(s->m->size - s->offset, BLOB_PIECE);
    if (n == 0) {
        *piece = S("");
        return true;
    }
    if (!s->m->blob)
        *piece = s->content;
    else if (read_range(s->q, s->m, s->offset, n, &s->piece, err))
        *piece = buf_str(&s->piece.b);
    else
        return false;
    s->offset += piece->n;
    return true;
}

struct rpc_source *body_open(struct queue *q, struct message *m, str content)
{
    struct body_source *s = xnew(struct body_source);
    assert(m->blob || content.n == m->size);
    s->source.read = source_read;
    s->q = q;
    s->m = m;
    s->content = content;
    buf_init(&s->piece.b, BLOB_PIECE);
    return &s->source;
}

void body_close(struct rpc_source *src)
{
    struct body_source *s = CONTAINER_OF(src, struct body_source, source);
    buf_done(&s->piece.b);
    free(s);
}

bool body_head(struct queue *q, struct message *m, size_t max, struct arena *a, str *out, struct err *err)
{
    if (!m->blob) {
        str all;
        if (!body_inline(q, m, a, &all, err))
            return false;
        *out = str_slice(all, 0, max);
        return true;
    }
    struct buf_sink to = {.b = {0}};
    buf_init(&to.b, max);
    bool ok = read_range(q, m, 0, MIN(m->size, max), &to, err);
    if (ok)
        *out = arena_str(a, buf_str(&to.b));
    buf_done(&to.b);
    return ok;
}

/* --- putting --- */

struct str_source {
    struct rpc_source source;
    str rest;
};
FIBER static bool str_read(struct rpc_source *src, str *piece, struct err *err UNUSED)
{
    struct str_source *s = CONTAINER_OF(src, struct str_source, source);
    *piece = str_slice(s->rest, 0, RPC_CHUNK_MAX);
    s->rest = str_slice(s->rest, piece->n, SIZE_MAX);
    return true;
}

bool body_put(struct queue *q, int64_t tenant_id, str content, int64_t hold_until, struct arena *a,
              const Thurn__BlobRef **out, struct err *err)
{
    struct rpc_call c;
    struct str_source source = {.source = {.read = str_read}, .rest = content};
    Thurn__PutBlobRequest req = THURN__PUT_BLOB_REQUEST__INIT;
    const Thurn__PutBlobReply *r;
    req.tenant_id = tenant_id;
    req.size_max = content.n;
    req.hold_until_unix = hold_until;
    queue_call_init(&c, a, BLOB_CALL_MS);
    c.body = &source.source;
    if (!store_put_blob(&c, q->opts.store, &req, &r)) {
        *err = c.err;
        return false;
    }
    if (!r->blob || r->blob->hash.len != 32)
        return err_set(err, ERR_INTERNAL, "store gives no usable reference to a blob");
    *out = r->blob;
    return HOLDS(r->blob->size == content.n, err);
}

bool body_hold(struct queue *q, const Thurn__BlobRef *blob, int64_t hold_until, struct arena *a, struct err *err)
{
    struct rpc_call c;
    Thurn__HoldBlobRequest req = THURN__HOLD_BLOB_REQUEST__INIT;
    Thurn__BlobRef copy = *blob;
    req.blob = &copy;
    req.hold_until_unix = hold_until;
    queue_call_init(&c, a, BLOB_CALL_MS);
    if (store_hold_blob(&c, q->opts.store, &req, NULL))
        return true;
    *err = c.err;
    return false;
}

void body_keep(struct queue *q, struct message *m, struct arena *a)
{
    struct err err = ERR_INIT;
    int64_t now = queue_unix(q), until = MAX(now, m->expires_unix) + KEEP_S;
    if (!m->blob || m->blob->held_until_unix > now + KEEP_S / 2)
        return;
    FIBER_DEADLINE(BLOB_CALL_MS);
    if (body_hold(q, body_blob_ref(m, a), until, a, &err))
        m->blob->held_until_unix = until;
    else
        log_error("queue.hold_failed", KV_I64("id", (int64_t)m->id), KV_ERR(&err));
}
