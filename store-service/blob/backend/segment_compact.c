/*
 * Compaction of segments. One that is mostly dead is emptied: its bodies are appended anew and their rows changed. The
 * file stays for a day after that, as a copy of the databases that was made before names the old places. Its time says
 * since when it waits: nothing was appended to it or moved out of it since then. Bodies that died in it have been dead
 * for a day anyway.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "store-service/blob/backend.h"
#include "store-service/blob/backend/segment.h"
#include "store-service/service.h"

#define COMPACT_AGE_S 3600 /* a body's row gets its place long before its segment is that old */
#define COMPACT_PAGE 200
#define EMPTY_KEPT_S DAY_S /* so long is a segment kept after the last body was moved out of it */

// clang-format off
static const struct sql_stmt live_bytes = {
    "s_live_bytes", "i", "ii",
    "SELECT coalesce(sum(stored_len), 0), count(*) FROM s_blob WHERE tier = 1 AND seg = ?1",
    "SELECT coalesce(sum(stored_len), 0)::bigint, count(*) FROM s_blob WHERE tier = 1 AND seg = $1", false};
static const struct sql_stmt live_blobs = {
    "s_live_blobs", "iii", BLOB_PLACE_TYPES,
    "SELECT " BLOB_PLACE_COLS " FROM s_blob b WHERE b.tier = 1 AND b.seg = ?1 AND b.blob_id > ?2 ORDER BY b.blob_id LIMIT ?3",
    NULL, false};
static const struct sql_stmt move_blob = {
    "s_move_blob", "iiiii", "",
    "UPDATE s_blob SET seg = ?4, off = ?5 WHERE blob_id = ?1 AND tier = 1 AND seg = ?2 AND off = ?3", NULL, false};
// clang-format on

struct moving {
    const struct blob_place *p;
    int64_t seg, off;
};

FIBER static bool move_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct moving *m = arg;
    const struct sql_value v[] = {sql_i(m->p->blob_id), sql_i(m->p->seg), sql_i(m->p->off), sql_i(m->seg),
                                  sql_i(m->off)};
    return sql_exec(tx, &move_blob, v, 1, NULL, err);
}

struct proving {
    const struct blob_place *p;
    int fd;
    bool ok;
};

static void prove(void *arg)
{
    struct proving *pr = arg;
    pr->ok =
        segment_body_holds(pr->fd, (uint64_t)pr->p->off, (uint64_t)pr->p->size, (const unsigned char *)pr->p->hash.p);
}

/* What is damaged stays where it is, and with it its segment: the copy would look sound to whoever opens it. */
FIBER static bool move_one(struct segments *s, struct shard *sh, const struct blob_place *p, int fd, struct err *err)
{
    struct spool body;
    struct proving pr = {.p = p, .fd = fd};
    struct moving m = {.p = p};
    struct blob_object o = {sh->number, p};
    if (p->hash.n != BLOB_HASH_SIZE)
        return err_set(err, ERR_INTERNAL, "a body's name has %zu bytes", p->hash.n);
    if (!work_run(prove, &pr, err))
        return false;
    if (!pr.ok) {
        struct err damaged = ERR_INIT;
        (void)blob_damaged(p, &damaged); /* one that is lost does not keep the others from being moved */
        return true;
    }
    spool_of_file(&body, fd, (uint64_t)p->off, (uint64_t)p->size, (const unsigned char *)p->hash.p);
    return segment_put(&s->base, &o, &body, &m.seg, &m.off, err) && sql_write(sh->db, move_body, &m, err);
}

struct stamp_job {
    int fd, error;
};

static void stamp(void *arg)
{
    struct stamp_job *j = arg;
    const struct timespec now[2] = {{.tv_sec = clock_unix()}, {.tv_sec = clock_unix()}};
    j->error = futimens(j->fd, now) != 0 || fsync(j->fd) != 0 ? errno : 0;
}

/* Durable before a row points elsewhere. */
FIBER static bool stamp_moving(int64_t seg, int fd, struct err *err)
{
    struct stamp_job j = {.fd = fd};
    return work_run(stamp, &j, err) &&
           (!j.error || err_set(err, ERR_UNAVAILABLE, "segment %lld: %s", (long long)seg, strerror(j.error)));
}

FIBER static bool move_all(struct segments *s, struct store *store, int64_t seg, int fd, struct err *err)
{
    for (unsigned i = 0; i < store->n_shards; i++) {
        struct shard *sh = &store->shards[i];
        int64_t after = 0;
        for (size_t n = COMPACT_PAGE; n == COMPACT_PAGE;) {
            ARENA(a, 1 << 20);
            const struct sql_value v[] = {sql_i(seg), sql_i(after), sql_i(COMPACT_PAGE)};
            struct sql_result r;
            if (!sql_query(sh->db, &live_blobs, v, &a, &r, err))
                return false;
            n = r.n_rows;
            if (n && !stamp_moving(seg, fd, err))
                return false;
            for (size_t k = 0; k < n; k++) {
                struct blob_place p = blob_place_take(sql_at(&r, k, 0));
                if (!move_one(s, sh, &p, fd, err))
                    return false;
                after = p.blob_id;
            }
        }
    }
    return true;
}

/* What rows say is alive in a segment, on all shards. False when a shard is away: then nobody knows. */
FIBER static bool count_live(struct store *store, int64_t seg, uint64_t *bytes, uint64_t *n, struct err *err)
{
    *bytes = *n = 0;
    for (unsigned i = 0; i < store->n_shards; i++) {
        ARENA(a, 4096);
        const struct sql_value v[] = {sql_i(seg)};
        struct sql_result r;
        if (!sql_query(store->shards[i].db, &live_bytes, v, &a, &r, err))
            return false;
        *bytes += (uint64_t)sql_at(&r, 0, 0)->i;
        *n += (uint64_t)sql_at(&r, 0, 1)->i;
    }
    return true;
}

FIBER static bool compact_one(struct segments *s, struct store *store, const struct segment_file *f, bool dry_run,
                              struct err *err)
{
    uint64_t live, n;
    if (!count_live(store, f->seg, &live, &n, err))
        return false;
    if (live + n * SEGMENT_HEADER > f->bytes / 2 || dry_run)
        return true;
    char name[SEGMENT_NAME_MAX];
    segment_name(name, f->seg);
    if (n == 0) {
        if (f->changed_unix + EMPTY_KEPT_S < clock_unix())
            (void)unlinkat(s->dir_fd, name, 0); /* the next compaction tries again */
        return true;
    }
    int fd = openat(s->dir_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, ERR_UNAVAILABLE, "segment %s: %s", name, strerror(errno));
    bool ok = move_all(s, store, f->seg, fd, err);
    close(fd);
    return ok;
}

FIBER bool segment_compact(struct blob_backend *b, struct store *store, bool dry_run, struct err *err)
{
    struct segments *s = CONTAINER_OF(b, struct segments, base);
    ARENA(a, 64 << 20);
    struct segment_list l = {.s = s, .a = &a};
    if (!work_run(segment_list_read, &l, err))
        return false;
    if (l.error)
        return err_set(err, ERR_UNAVAILABLE, "segments: %s", strerror(l.error));
    for (size_t i = 0; i < l.n; i++)
        if (l.v[i].seg != s->open_seg && l.v[i].changed_unix + COMPACT_AGE_S < clock_unix() &&
            !compact_one(s, store, &l.v[i], dry_run, err))
            return false;
    return true;
}
