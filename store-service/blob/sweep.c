/* Bodies that nothing refers to or holds, and objects whose row is gone. */
#include "store-service/blob/sweep.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "store-service/blob/backend.h"
#include "store-service/pace.h"

#define PAGE 500

// clang-format off
static const struct sql_stmt dead_blobs = {
    "s_dead_blobs", "iiiii", "iiiiibi",
    "SELECT blob_id, tenant_id, size, tier, is_ready, hash, zero_since FROM s_blob WHERE refs = 0 AND zero_since < ?1 AND"
    " hold_until < ?2 AND (zero_since, blob_id) > (?4, ?5) AND NOT EXISTS (SELECT 1 FROM s_hold h WHERE h.blob_id = s_blob.blob_id"
    " AND h.until >= ?2) ORDER BY zero_since, blob_id LIMIT ?3",
    "SELECT blob_id, tenant_id, size, tier::bigint, is_ready::bigint, hash, zero_since FROM s_blob WHERE refs = 0 AND"
    " zero_since < $1 AND hold_until < $2 AND (zero_since, blob_id) > ($4, $5) AND NOT EXISTS (SELECT 1 FROM s_hold h WHERE"
    " h.blob_id = s_blob.blob_id AND h.until >= $2) ORDER BY zero_since, blob_id LIMIT $3",
    false};
/* The conditions once more: since it was read, somebody may have referred to it or held it. Who holds it writes hold_until too. */
static const struct sql_stmt delete_blobs = {
    "s_delete_blobs", "iii", "i",
    "DELETE FROM s_blob WHERE blob_id = ?1 AND refs = 0 AND zero_since < ?2 AND hold_until < ?3 RETURNING blob_id",
    "DELETE FROM s_blob b USING {rows} AS v (id, before, now) WHERE b.blob_id = v.id AND b.refs = 0 AND"
    " b.zero_since < v.before AND b.hold_until < v.now RETURNING b.blob_id",
    true};
static const struct sql_stmt delete_holds = {
    "s_delete_holds", "i", "", "DELETE FROM s_hold WHERE blob_id = ?1", "DELETE FROM s_hold WHERE blob_id = ANY ($1)", true};
static const struct sql_stmt delete_inlines = {
    "s_delete_inlines", "i", "", "DELETE FROM s_blob_inline WHERE blob_id = ?1",
    "DELETE FROM s_blob_inline WHERE blob_id = ANY ($1)", true};
static const struct sql_stmt insert_garbage = {
    "s_insert_garbage", "ti", "", "INSERT INTO s_garbage (object, at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
    "INSERT INTO s_garbage (object, at) SELECT * FROM {rows} AS v ON CONFLICT DO NOTHING", true};
static const struct sql_stmt read_garbage = {"s_read_garbage", "ti", "t",
                                             "SELECT object FROM s_garbage WHERE object > ?1 ORDER BY object LIMIT ?2",
                                             NULL, false};
static const struct sql_stmt delete_garbage = {
    "s_delete_garbage", "t", "", "DELETE FROM s_garbage WHERE object = ?1", "DELETE FROM s_garbage WHERE object = ANY ($1)",
    true};
static const struct sql_stmt count_blobs = {"s_count_blobs", "", "i", "SELECT count(*) FROM s_blob", NULL, false};
// clang-format on

struct page {
    struct shard *shard;
    int64_t before_unix, now_unix; /* unused since before this */
    bool dry_run;
    int64_t after[2]; /* zero_since and id of the last one that was seen */
    uint64_t n_found, removed, bytes;
};

FIBER static bool delete_page(struct sql_tx *tx, struct page *p, const struct sql_result *dead, struct err *err)
{
    struct blob_backend *b = p->shard->store->blobs;
    struct arena *a = sql_arena(tx);
    struct sql_value *v = arena_array(a, struct sql_value, dead->n_rows * 3);
    for (size_t i = 0; i < dead->n_rows; i++) {
        v[i * 3] = sql_i(sql_at(dead, i, 0)->i);
        v[i * 3 + 1] = sql_i(p->before_unix);
        v[i * 3 + 2] = sql_i(p->now_unix);
    }
    struct sql_result gone;
    if (!sql_exec(tx, &delete_blobs, v, dead->n_rows, &gone, err))
        return false;
    struct sql_value *inlines = arena_array(a, struct sql_value, gone.n_rows);
    struct sql_value *garbage = arena_array(a, struct sql_value, gone.n_rows * 2);
    struct sql_value *ids = arena_array(a, struct sql_value, gone.n_rows);
    size_t n_inlines = 0, n_garbage = 0;
    for (size_t i = 0; i < gone.n_rows; i++) {
        size_t k = 0;
        while (sql_at(dead, k, 0)->i != sql_at(&gone, i, 0)->i)
            k++;
        const struct sql_value *row = sql_at(dead, k, 0);
        p->removed++;
        p->bytes += (uint64_t)row[2].i;
        ids[i] = sql_i(row[0].i);
        if (row[3].i == BLOB_INLINE) {
            inlines[n_inlines++] = sql_i(row[0].i);
            continue;
        }
        struct blob_place place = {.blob_id = row[0].i, .tenant_id = row[1].i, .size = row[2].i, .hash = row[5].s};
        str name = b->garbage_name(b, &(struct blob_object){p->shard->number, &place}, a);
        if (!name.n)
            continue;
        garbage[n_garbage * 2] = sql_s(name);
        garbage[n_garbage++ * 2 + 1] = sql_i(p->now_unix);
    }
    sql_queue(tx, &delete_holds, ids, gone.n_rows, NULL);
    sql_queue(tx, &delete_inlines, inlines, n_inlines, NULL);
    sql_queue(tx, &insert_garbage, garbage, n_garbage, NULL);
    return true;
}

FIBER static bool page_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct page *p = arg;
    const struct sql_value v[] = {sql_i(p->before_unix), sql_i(p->now_unix), sql_i(PAGE), sql_i(p->after[0]),
                                  sql_i(p->after[1])};
    struct sql_result dead;
    p->removed = p->bytes = 0;
    if (!sql_exec(tx, &dead_blobs, v, 1, &dead, err))
        return false;
    p->n_found = dead.n_rows;
    if (!p->dry_run)
        return dead.n_rows == 0 || delete_page(tx, p, &dead, err);
    for (size_t i = 0; i < dead.n_rows; i++) {
        p->removed++;
        p->bytes += (uint64_t)sql_at(&dead, i, 2)->i;
    }
    if (dead.n_rows) { /* these stay where they are */
        p->after[0] = sql_at(&dead, dead.n_rows - 1, 6)->i;
        p->after[1] = sql_at(&dead, dead.n_rows - 1, 0)->i;
    }
    return true;
}

bool blob_sweep(struct shard *sh, int64_t older_than_s, bool dry_run, struct blob_sweep *out, struct err *err)
{
    struct page p = {.shard = sh, .now_unix = clock_unix(), .dry_run = dry_run};
    p.before_unix = p.now_unix - older_than_s;
    uint64_t removed = 0;
    do {
        struct pace pace = pace_begin();
        if (dry_run ? !sql_read(sh->db, page_body, &p, err) : !sql_write(sh->db, page_body, &p, err))
            return false;
        removed += p.removed;
        out->bytes += p.bytes;
        metric_add(M_STORE_SWEPT, (int64_t)(dry_run ? 0 : p.removed));
        if (!pace_rest(&pace, err))
            return false;
    } while (p.n_found == PAGE && p.removed > 0);
    out->removed += removed;
    ARENA(a, 4096);
    struct sql_result r;
    if (!sql_query(sh->db, &count_blobs, NULL, &a, &r, err))
        return false;
    out->kept += (uint64_t)sql_at(&r, 0, 0)->i - (dry_run ? removed : 0);
    return true;
}

/* --- objects whose row is gone --- */

struct forget {
    const struct sql_value *names;
    size_t n;
};

FIBER static bool forget_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct forget *f = arg;
    return sql_exec(tx, &delete_garbage, f->names, f->n, NULL, err);
}

/* One page: those that are gone now are forgotten, also when others are not. */
FIBER static bool remove_page(struct shard *sh, const struct sql_result *page, struct arena *a, struct err *err)
{
    struct blob_backend *b = sh->store->blobs;
    size_t n = page->n_rows;
    str *names = arena_array(a, str, n);
    bool *is_gone = arena_array(a, bool, n);
    struct sql_value *gone = arena_array(a, struct sql_value, n);
    struct forget f = {gone, 0};
    struct err removing = ERR_INIT;
    for (size_t i = 0; i < n; i++)
        names[i] = sql_at(page, i, 0)->s;
    (void)!b->remove(b, names, n, is_gone, &removing);
    for (size_t i = 0; i < n; i++)
        if (is_gone[i])
            gone[f.n++] = sql_s(names[i]);
    if (f.n > 0 && !sql_write(sh->db, forget_body, &f, err))
        return false;
    return !err_is_set(&removing) || err_set(err, removing.kind, "%s", removing.msg);
}

bool blob_sweep_garbage(struct shard *sh, struct err *err)
{
    BUF(from, 4096);
    for (size_t n = BLOB_REMOVE_MAX; sh->store->blobs->remove && n == BLOB_REMOVE_MAX;) {
        ARENA(a, 2 << 20);
        const struct sql_value v[] = {sql_s(buf_str(&from)), sql_i(BLOB_REMOVE_MAX)};
        struct sql_result page;
        if (!sql_query(sh->db, &read_garbage, v, &a, &page, err))
            return false;
        n = page.n_rows;
        struct pace pace = pace_begin();
        if (n > 0 && (!remove_page(sh, &page, &a, err) || !pace_rest(&pace, err)))
            return false;
        if (n > 0) {
            buf_clear(&from);
            buf_add(&from, sql_at(&page, n - 1, 0)->s);
        }
    }
    return true;
}
