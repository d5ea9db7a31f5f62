#include "store-service/blob/blob.h"

#include "base/clock.h"
#include "base/metrics.h"
#include "base/num.h"
#include "store-service/blob/backend.h"
#include "store-service/service.h"

// clang-format off
static const struct sql_stmt intend_blob = {
    "s_intend_blob", "iibiiiiiiii", "i" "ii",
    "INSERT INTO s_blob (blob_id, tenant_id, hash, size, tier, codec, is_ready, seg, off, stored_len, refs, zero_since,"
    " hold_until) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, 0, ?8, ?9, ?10, ?11) ON CONFLICT (tenant_id, hash) DO UPDATE SET"
    " hold_until = CASE WHEN s_blob.hold_until < excluded.hold_until THEN excluded.hold_until ELSE s_blob.hold_until END"
    " RETURNING blob_id, is_ready, tier",
    NULL, false};
static const struct sql_stmt insert_inline = {"s_insert_inline", "ib", "",
                                              "INSERT INTO s_blob_inline (blob_id, data) VALUES (?1, ?2)", NULL, false};
static const struct sql_stmt place_blob = {
    "s_place_blob", "iiiii", "",
    "UPDATE s_blob SET is_ready = 1, tier = ?2, codec = 0, seg = ?3, off = ?4, stored_len = ?5"
    " WHERE blob_id = ?1 AND is_ready = 0",
    NULL, false};
static const struct sql_stmt see_blob = {"s_see_blob", "i", "i", "SELECT 1 FROM s_blob WHERE blob_id = ?1 AND is_ready = 1",
                                         NULL, false};
static const struct sql_stmt unref_blobs = {
    "s_unref_blobs", "iii", "",
    "UPDATE s_blob SET refs = refs - ?2, zero_since = CASE WHEN refs <= ?2 THEN ?3 ELSE zero_since END WHERE blob_id = ?1",
    "UPDATE s_blob b SET refs = refs - v.n, zero_since = CASE WHEN refs <= v.n THEN v.at ELSE zero_since END"
    " FROM {rows} AS v (blob_id, n, at) WHERE b.blob_id = v.blob_id",
    true};
static const struct sql_stmt hold_blob = {
    "s_hold_blob", "ibi", "i",
    "UPDATE s_blob SET hold_until = CASE WHEN hold_until < ?3 THEN ?3 ELSE hold_until END"
    " WHERE tenant_id = ?1 AND hash = ?2 AND is_ready = 1 RETURNING blob_id",
    NULL, false};
static const struct sql_stmt add_hold = {
    "s_add_hold", "ibi", "",
    "INSERT INTO s_hold (blob_id, holder, until) VALUES (?1, ?2, ?3) ON CONFLICT (blob_id, holder) DO UPDATE SET"
    " until = CASE WHEN s_hold.until < excluded.until THEN excluded.until ELSE s_hold.until END",
    NULL, false};
/* (tenant, hash, holder) */
static const struct sql_stmt release_holds = {
    "s_release_holds", "ibb", "",
    "DELETE FROM s_hold WHERE blob_id = (SELECT blob_id FROM s_blob WHERE tenant_id = ?1 AND hash = ?2) AND holder = ?3",
    "DELETE FROM s_hold h USING {rows} AS v (tenant_id, hash, holder), s_blob b WHERE b.tenant_id = v.tenant_id AND b.hash = v.hash"
    " AND h.blob_id = b.blob_id AND h.holder = v.holder",
    true};
// clang-format on

struct blob_place blob_place_take(const struct sql_value *v)
{
    return (struct blob_place){.blob_id = v[0].i,
                               .tenant_id = v[1].i,
                               .hash = v[2].s,
                               .size = v[3].i,
                               .tier = v[4].i,
                               .codec = v[5].i,
                               .seg = v[6].i,
                               .off = v[7].i,
                               .stored_len = v[8].i};
}

struct blob_place blob_place_copy(const struct blob_place *p, struct arena *a)
{
    struct blob_place copy = *p;
    copy.hash = arena_str(a, p->hash);
    copy.data = arena_str(a, p->data);
    return copy;
}

static int compare_ids(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

void blob_queue_unref(struct sql_tx *tx, const int64_t *ids, size_t n, int64_t now_unix)
{
    if (n == 0)
        return;
    int64_t *sorted = arena_alloc(sql_arena(tx), size_mul(n, sizeof *sorted));
    memcpy(sorted, ids, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, compare_ids);
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, size_mul(n, 3));
    size_t rows = 0;
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && sorted[i] == sorted[i - 1]) {
            v[(rows - 1) * 3 + 1].i++;
            continue;
        }
        v[rows * 3] = sql_i(sorted[i]);
        v[rows * 3 + 1] = sql_i(1);
        v[rows * 3 + 2] = sql_i(now_unix);
        rows++;
    }
    sql_queue(tx, &unref_blobs, v, rows, NULL);
}

/* --- storing --- */

struct storing {
    int64_t tenant_id, blob_id, now_unix;
    struct hold hold;
    const struct spool *body;
    str data; /* compressed, for inline */
    enum blob_codec codec;
    enum blob_tier tier;
    bool is_ready;
    int64_t seg, off;
};

/*
 * The body's own row is held for a day at least, for what is about to refer to it, and as long as a nameless holder
 * wants. It is written for a named one too: the sweep that waits for this transaction looks at that row again, and not
 * at s_hold.
 */
static int64_t row_hold(const struct hold *h, int64_t now_unix)
{
    int64_t day = now_unix + BLOB_HOLD_S;
    return h->holder.n ? day : MAX(h->until_unix, day);
}

static void queue_hold(struct sql_tx *tx, int64_t blob_id, const struct hold *h)
{
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 3);
    v[0] = sql_i(blob_id);
    v[1] = sql_s(h->holder);
    v[2] = sql_i(h->until_unix);
    if (h->holder.n)
        sql_queue(tx, &add_hold, v, 1, NULL);
}

FIBER static bool intend_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct storing *st = arg;
    int64_t id = blob_new_id();
    bool is_inline = st->tier == BLOB_INLINE;
    const struct sql_value v[] = {sql_i(id),
                                  sql_i(st->tenant_id),
                                  sql_s(str_n(st->body->hash, BLOB_HASH_SIZE)),
                                  sql_i((int64_t)st->body->size),
                                  sql_i(st->tier),
                                  sql_i(st->codec),
                                  sql_i(is_inline),
                                  sql_i(is_inline ? (int64_t)st->data.n : (int64_t)st->body->size),
                                  sql_i(0),
                                  sql_i(st->now_unix),
                                  sql_i(row_hold(&st->hold, st->now_unix))};
    struct sql_result r;
    if (!sql_exec(tx, &intend_blob, v, 1, &r, err))
        return false;
    st->blob_id = sql_at(&r, 0, 0)->i;
    st->is_ready = sql_at(&r, 0, 1)->i != 0;
    queue_hold(tx, st->blob_id, &st->hold);
    if (st->blob_id != id || !is_inline)
        return true;
    const struct sql_value data[] = {sql_i(id), sql_s(st->data)};
    return sql_exec(tx, &insert_inline, data, 1, NULL, err);
}

FIBER static bool place_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct storing *st = arg;
    const struct sql_value v[] = {sql_i(st->blob_id), sql_i(st->tier), sql_i(st->seg), sql_i(st->off),
                                  sql_i((int64_t)st->body->size)};
    struct sql_result placed, there;
    if (!sql_exec(tx, &place_blob, v, 1, &placed, err) || placed.n_affected)
        return !err_is_set(err);
    /* Somebody else stored the same body at the same time, or the sweep took the row: it came for longer than it was
     * held. */
    return sql_exec(tx, &see_blob, v, 1, &there, err) &&
           (there.n_rows || err_set(err, ERR_UNAVAILABLE, "body %lld was swept while it came", (long long)st->blob_id));
}

bool blob_store(struct shard *sh, int64_t tenant_id, struct spool *body, struct hold hold, struct err *err)
{
    struct blob_backend *b = sh->store->blobs;
    struct storing st = {.tenant_id = tenant_id, .body = body, .now_unix = clock_unix(), .tier = b->tier, .hold = hold};
    ARENA(a, BLOB_INLINE_TRY * 2);
    if (body->memory.p && blob_compress(body->memory, &a, &st.data, &st.codec))
        st.tier = BLOB_INLINE;
    if (!sql_write(sh->db, intend_body, &st, err))
        return false;
    if (st.is_ready)
        return true;
    struct blob_place place = {.blob_id = st.blob_id,
                               .tenant_id = tenant_id,
                               .size = (int64_t)body->size,
                               .hash = str_n(body->hash, BLOB_HASH_SIZE)};
    struct blob_object o = {sh->number, &place};
    st.tier = b->tier;
    if (!b->put(b, &o, body, &st.seg, &st.off, err)) {
        metric_inc_label(M_STORE_BLOB_ERRORS, b->name);
        return false;
    }
    metric_add_label(M_STORE_BLOB_BYTES, b->name, (int64_t)body->size);
    return sql_write(sh->db, place_body, &st, err);
}

/* --- holding --- */

bool hold_ok(ProtobufCBinaryData holder, struct err *err)
{
    return holder.len <= BLOB_HOLDER_MAX ||
           err_set(err, ERR_INVALID, "a holder has more than %u bytes", BLOB_HOLDER_MAX);
}

struct holding {
    const Thurn__BlobRef *blob;
    struct hold hold;
    int64_t now_unix;
};

FIBER static bool hold_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct holding *h = arg;
    const struct sql_value v[] = {sql_i(h->blob->tenant_id), sql_s(rpc_str(h->blob->hash)),
                                  sql_i(row_hold(&h->hold, h->now_unix))};
    struct sql_result r;
    if (!sql_exec(tx, &hold_blob, v, 1, &r, err))
        return false;
    if (r.n_rows == 0)
        return err_set(err, ERR_NOT_FOUND, "no such body");
    queue_hold(tx, sql_at(&r, 0, 0)->i, &h->hold);
    return true;
}

FIBER bool store_do_hold_blob(struct store *s, struct rpc_call *c, const Thurn__HoldBlobRequest *q, Thurn__Empty *r,
                              struct err *err)
{
    (void)c;
    (void)r;
    if (!q->blob)
        return err_set(err, ERR_INVALID, "no body given");
    struct shard *sh = store_shard(s, q->blob->space, err);
    struct holding h = {q->blob, {rpc_str(q->holder), q->hold_until_unix}, clock_unix()};
    return sh && hold_ok(q->holder, err) && sql_write(sh->db, hold_body, &h, err);
}

FIBER static bool release_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const Thurn__ReleaseBlobsRequest *q = arg;
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 3 * q->n_holds);
    for (size_t i = 0; i < q->n_holds; i++) {
        v[3 * i] = sql_i(q->holds[i]->blob->tenant_id);
        v[3 * i + 1] = sql_s(rpc_str(q->holds[i]->blob->hash));
        v[3 * i + 2] = sql_s(rpc_str(q->holds[i]->holder));
    }
    return sql_exec(tx, &release_holds, v, q->n_holds, NULL, err);
}

FIBER bool store_do_release_blobs(struct store *s, struct rpc_call *c, const Thurn__ReleaseBlobsRequest *q,
                                  Thurn__Empty *r, struct err *err)
{
    (void)c;
    (void)r;
    if (q->n_holds == 0 || q->n_holds > BLOB_RELEASE_MAX)
        return err_set(err, ERR_INVALID, "1 to %u holds are released at a time", BLOB_RELEASE_MAX);
    for (size_t i = 0; i < q->n_holds; i++)
        if (!q->holds[i]->blob || q->holds[i]->blob->space != q->holds[0]->blob->space)
            return err_set(err, ERR_INVALID, "holds of no space, or of several");
    struct shard *sh = store_shard(s, q->holds[0]->blob->space, err);
    return sh && sql_write(sh->db, release_body, (void *)(uintptr_t)q, err);
}
