/* Where a message's content comes from: memory, the database (small ones), or the store's blobs. */
#include "queue-service/body.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "proto/store_calls.h"
#include "queue-service/schema.h"

#define BLOB_CALL_MS 60000
#define HOLD_MORE_S 86400 /* a blob is held a day longer than its message may live */
#define RELEASE_CALL_MS 10000
#define RELEASE_AGAIN_MS 1000
#define RELEASE_AT_ONCE 200u
#define RELEASES_MAX 65536u      /* that wait for a store that is away */
#define KEEP_S (30 * 86400)      /* a body with held recipients, from each look at it */
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
FIBER static bool read_range(struct queue *q, struct message *m, uint64_t offset, uint64_t n, struct buf_sink *to,
                             struct err *err)
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
    return to->b.n == n ||
           err_set(err, ERR_INTERNAL, "blob of message %llu is shorter than it was", (unsigned long long)m->id);
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

struct body_hold body_hold_of(str enqueue_id, uint64_t id, int64_t expires_unix)
{
    struct body_hold h = {.until_unix = expires_unix + HOLD_MORE_S};
    memcpy(h.holder, enqueue_id.p, ENQUEUE_ID_SIZE);
    memcpy(h.holder + ENQUEUE_ID_SIZE, &id, sizeof(id));
    return h;
}

static ProtobufCBinaryData holder_bytes(const struct body_hold *h)
{
    return rpc_bytes(str_n(h->holder, sizeof(h->holder)));
}

bool body_put(struct queue *q, int64_t tenant_id, str content, const struct body_hold *hold, struct arena *a,
              const Thurn__BlobRef **out, struct err *err)
{
    struct rpc_call c;
    struct str_source source = {.source = {.read = str_read}, .rest = content};
    Thurn__PutBlobRequest req = THURN__PUT_BLOB_REQUEST__INIT;
    const Thurn__PutBlobReply *r;
    req.tenant_id = tenant_id;
    req.size_max = content.n;
    req.hold_until_unix = hold->until_unix;
    req.holder = holder_bytes(hold);
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

/* --- holding --- */

bool body_hold(struct queue *q, const Thurn__BlobRef *blob, const struct body_hold *hold, struct arena *a,
               struct err *err)
{
    struct rpc_call c;
    Thurn__HoldBlobRequest req = THURN__HOLD_BLOB_REQUEST__INIT;
    Thurn__BlobRef copy = *blob;
    req.blob = &copy;
    req.hold_until_unix = hold->until_unix;
    req.holder = holder_bytes(hold);
    queue_call_init(&c, a, BLOB_CALL_MS);
    if (store_hold_blob(&c, q->opts.store, &req, NULL))
        return true;
    *err = c.err;
    return false;
}

static struct body_hold hold_of(const struct message *m)
{
    return body_hold_of(str_n(m->enqueue_id, ENQUEUE_ID_SIZE), m->id, m->expires_unix);
}

bool body_hold_new(struct queue *q, const struct message *m, struct arena *a, struct err *err)
{
    struct body_hold hold = hold_of(m);
    FIBER_DEADLINE(BLOB_CALL_MS);
    return !m->blob || body_hold(q, body_blob_ref(m, a), &hold, a, err);
}

void body_keep(struct queue *q, struct message *m, struct arena *a)
{
    struct err err = ERR_INIT;
    struct body_hold hold = hold_of(m);
    int64_t now = queue_unix(q);
    if (!m->blob || m->blob->held_until_unix > now + KEEP_S / 2)
        return;
    hold.until_unix = MAX(now, m->expires_unix) + KEEP_S;
    FIBER_DEADLINE(BLOB_CALL_MS);
    if (body_hold(q, body_blob_ref(m, a), &hold, a, &err))
        m->blob->held_until_unix = hold.until_unix;
    else
        log_error("queue.hold_failed", KV_I64("id", (int64_t)m->id), KV_ERR(&err));
}

/* --- releasing --- */

struct release {
    struct message_blob blob;
    struct body_hold hold;
};

/* Some that are in the same space as the first, to the front. */
static size_t gather_space(struct release *v, size_t n)
{
    size_t same = 0;
    for (size_t i = 0; i < n && same < RELEASE_AT_ONCE; i++) {
        if (v[i].blob.space != v[0].blob.space)
            continue;
        struct release r = v[same];
        v[same++] = v[i];
        v[i] = r;
    }
    return same;
}

/* Those that came meanwhile lie behind. */
FIBER static bool release_some(struct queue *q, size_t n, struct err *err)
{
    ARENA(a, RPC_MESSAGE_MAX);
    struct rpc_call c;
    Thurn__ReleaseBlobsRequest req = THURN__RELEASE_BLOBS_REQUEST__INIT;
    const struct release *copy =
        (struct release *)(uintptr_t)arena_str(&a, str_n(q->releases, n * sizeof(*q->releases))).p;
    Thurn__BlobHold *holds = arena_array(&a, Thurn__BlobHold, n);
    Thurn__BlobRef *refs = arena_array(&a, Thurn__BlobRef, n);
    req.holds = arena_array(&a, Thurn__BlobHold *, n);
    for (size_t i = 0; i < n; i++) {
        thurn__blob_hold__init(&holds[i]);
        thurn__blob_ref__init(&refs[i]);
        refs[i].space = copy[i].blob.space;
        refs[i].tenant_id = copy[i].blob.tenant_id;
        refs[i].hash = rpc_bytes(str_n(copy[i].blob.hash, sizeof(copy[i].blob.hash)));
        holds[i].blob = &refs[i];
        holds[i].holder = holder_bytes(&copy[i].hold);
        req.holds[req.n_holds++] = &holds[i];
    }
    queue_call_init(&c, &a, RELEASE_CALL_MS);
    FIBER_DEADLINE(RELEASE_CALL_MS);
    if (store_release_blobs(&c, q->opts.store, &req, NULL))
        return true;
    *err = c.err;
    return false;
}

/* The first n are done with. */
static void forget_releases(struct queue *q, size_t n)
{
    q->n_releases -= n;
    memmove(q->releases, q->releases + n, q->n_releases * sizeof(*q->releases));
}

/* The first n go behind the others, so that a shard that is away keeps none of another's waiting. */
static void postpone_releases(struct queue *q, size_t n)
{
    struct release *some = xcalloc(n, sizeof(*some));
    memcpy(some, q->releases, n * sizeof(*some));
    memmove(q->releases, q->releases + n, (q->n_releases - n) * sizeof(*some));
    memcpy(q->releases + q->n_releases - n, some, n * sizeof(*some));
    xfree(some);
}

/* While a store is away they wait, but a stop does not wait for it. */
FIBER static void releaser(void *queue)
{
    struct queue *q = queue;
    while (q->n_releases) {
        struct err err = ERR_INIT, slept = ERR_INIT;
        size_t n = gather_space(q->releases, q->n_releases);
        if (release_some(q, n, &err)) {
            forget_releases(q, n);
            continue;
        }
        log_warn("queue.release_failed", KV_I64("bodies", (int64_t)q->n_releases), KV_ERR(&err));
        if (!err_is_temporary(&err))
            forget_releases(q, n); /* they end by their time */
        else if (q->is_stopping || !fiber_sleep_ms(RELEASE_AGAIN_MS, &slept))
            break;
        else
            postpone_releases(q, n);
    }
    q->is_releasing = false;
    queue_fiber_ended(q);
}

void body_release(struct queue *q, const struct message *m)
{
    struct err err = ERR_INIT; /* no fiber free: with the next one */
    if (!m->blob)
        return;
    if (q->n_releases == RELEASES_MAX) {
        metric_inc(M_QUEUE_HOLDS_LEFT);
        return;
    }
    if (q->n_releases == q->releases_room) {
        q->releases_room = q->releases_room ? 2 * q->releases_room : 64;
        q->releases = xrealloc(q->releases, q->releases_room * sizeof(*q->releases));
    }
    q->releases[q->n_releases++] = (struct release){.blob = *m->blob, .hold = hold_of(m)};
    if (!q->is_releasing)
        q->is_releasing = queue_spawn(q, "queue.release", releaser, q, &err);
}
