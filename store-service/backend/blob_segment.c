/*
 * Bodies in append-only segment files of a folder: <folder>/00000001.seg, … Each is a row of records: a header of 64
 * bytes and the body. One thread appends; all bodies that wait are written and then made durable by one fdatasync.
 *
 * A record is proven by the SHA-256 of its body, which is in its header, and the header by the first bytes of its own
 * SHA-256. At the start the newest segment is read to its end. A last record that runs past the end of the file was never
 * finished, and is cut off. Anything else that does not hold may be damage in front of acknowledged bodies: the file is
 * left as it is, and appending goes on in a new one. So it does after a failed write or sync, when nothing is known.
 *
 * A segment that is mostly dead is compacted: its bodies are appended anew and their rows changed. The file stays for a day
 * after that, as a copy of the databases that was made before names the old places. Its time says since when it waits:
 * nothing was appended to it or moved out of it since then. Bodies that died in it have been dead for a day anyway.
 */
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"
#include "fiber/work.h"
#include "store-service/spool.h"

#define SEGMENT_BYTES ((uint64_t)64 << 20)
#define RECORD_MAGIC 0x31424854u /* "THB1" */
#define RECORD_HEADER 64u
#define BATCH_MAX 256u
#define QUEUE_MAX 10000u
#define COMPACT_AGE_S 3600       /* a body's row gets its place long before its segment is that old */
#define COMPACT_PAGE 200
#define EMPTY_KEPT_S DAY_S       /* so long is a segment kept after the last body was moved out of it */

struct segments {
    struct blob_backend base;
    char *folder;
    int dir_fd, lock_fd;
    struct work_lane *lane;
    /* Of the lane's thread. */
    int fd;                /* the segment that is appended to; -1 = begin a new one */
    int64_t seg;           /* its number, or the last one used */
    uint64_t end;
    _Atomic int64_t open_seg; /* seg, for compaction, which leaves it alone */
};

struct put_job {
    struct work_item item;
    const struct blob_object *o;
    const struct spool *body;
    int64_t seg, off;
    int error;             /* errno; 0 = stored */
};

static struct segments *of(struct blob_backend *b)
{
    return CONTAINER_OF(b, struct segments, base);
}

static void segment_name(char out[32], int64_t seg)
{
    snprintf(out, 32, "%08lld.seg", (long long)seg);
}

/* --- records --- */

static void header_seal(unsigned char h[RECORD_HEADER])
{
    unsigned char sum[BLOB_HASH_SIZE];
    blob_hash(str_n(h + 8, RECORD_HEADER - 8), sum);
    memcpy(h + 4, sum, 4);
}

static void header_make(unsigned char h[RECORD_HEADER], const struct blob_object *o, const struct spool *body)
{
    uint32_t magic = htole32(RECORD_MAGIC), space = htole32(o->space), zero = 0;
    uint64_t size = htole64(body->size), id = htole64((uint64_t)o->place->blob_id);
    memcpy(h, &magic, 4);
    memcpy(h + 8, &space, 4);
    memcpy(h + 12, &zero, 4);
    memcpy(h + 16, &size, 8);
    memcpy(h + 24, &id, 8);
    memcpy(h + 32, body->hash, BLOB_HASH_SIZE);
    header_seal(h);
}

static bool header_read(const unsigned char h[RECORD_HEADER], uint64_t *size)
{
    unsigned char again[RECORD_HEADER];
    uint32_t magic;
    memcpy(&magic, h, 4);
    memcpy(again, h, RECORD_HEADER);
    header_seal(again);
    memcpy(size, h + 16, 8);
    *size = le64toh(*size);
    return le32toh(magic) == RECORD_MAGIC && memcmp(again, h, RECORD_HEADER) == 0;
}

static bool record_holds(int fd, uint64_t at, uint64_t size, const unsigned char *want)
{
    unsigned char hash[BLOB_HASH_SIZE];
    char *p = xmalloc(size ? size : 1);
    struct spool body;
    spool_of_file(&body, fd, at, size, want);
    bool ok = spool_read_blocking(&body, 0, p, size);
    if (ok)
        blob_hash(str_n(p, size), hash);
    xfree(p);
    return ok && memcmp(hash, want, BLOB_HASH_SIZE) == 0;
}

/* --- appending: on the lane's thread --- */

static bool write_all(int fd, const void *p, size_t n, uint64_t at)
{
    for (size_t done = 0; done < n;) {
        ssize_t w = pwrite(fd, (const char *)p + done, n - done, (off_t)(at + done));
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0)
            return false;
        done += (size_t)w;
    }
    return true;
}

static bool segment_begin(struct segments *s)
{
    char name[32];
    segment_name(name, s->seg + 1);
    int fd = openat(s->dir_fd, name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 || fsync(s->dir_fd) != 0) {
        int error = errno;
        if (fd >= 0)
            close(fd);
        errno = error;
        return false;
    }
    s->fd = fd;
    s->seg++;
    s->end = 0;
    s->open_seg = s->seg;
    return true;
}

static void segment_end(struct segments *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

static bool append_body(struct segments *s, const struct spool *body, uint64_t at)
{
    if (body->memory.p)
        return write_all(s->fd, body->memory.p, body->size, at);
    char *chunk = xmalloc(SPOOL_CHUNK);
    bool ok = true;
    for (uint64_t done = 0; ok && done < body->size;) {
        size_t n = MIN(body->size - done, SPOOL_CHUNK);
        ok = spool_read_blocking(body, done, chunk, n) && write_all(s->fd, chunk, n, at + done);
        done += n;
    }
    xfree(chunk);
    return ok;
}

static bool append(struct segments *s, struct put_job *j)
{
    uint64_t need = RECORD_HEADER + j->body->size;
    if (s->fd >= 0 && s->end > 0 && s->end + need > SEGMENT_BYTES) {
        if (fdatasync(s->fd) != 0)
            return false;
        segment_end(s);
    }
    if (s->fd < 0 && !segment_begin(s))
        return false;
    unsigned char h[RECORD_HEADER];
    header_make(h, j->o, j->body);
    if (!write_all(s->fd, h, sizeof h, s->end) || !append_body(s, j->body, s->end + RECORD_HEADER))
        return false;
    j->seg = s->seg;
    j->off = (int64_t)(s->end + RECORD_HEADER);
    s->end += need;
    return true;
}

static void put_batch(void *ctx, struct work_item **items, size_t n)
{
    struct segments *s = ctx;
    size_t i = 0;
    int error = 0;
    for (; i < n && !error; i++)
        if (!append(s, CONTAINER_OF(items[i], struct put_job, item)))
            error = errno ? errno : EIO;
    if (!error && fdatasync(s->fd) != 0)
        error = errno;
    if (error) {
        segment_end(s);
        for (i = 0; i < n; i++)
            CONTAINER_OF(items[i], struct put_job, item)->error = error;
    }
}

FIBER static bool segment_put(struct blob_backend *b, const struct blob_object *o, struct spool *body, int64_t *seg, int64_t *off,
                        struct err *err)
{
    struct segments *s = of(b);
    struct put_job j = {.o = o, .body = body};
    if (!work_lane_run(s->lane, &j.item, err))
        return false;
    if (j.error)
        return err_set(err, ERR_UNAVAILABLE, "segment in '%s': %s", s->folder, strerror(j.error));
    *seg = j.seg;
    *off = j.off;
    return true;
}

/* --- reading --- */

struct get_job {
    struct segments *s;
    int64_t seg;
    uint64_t at;
    char *p;
    size_t n;
    int fd, error;
};

static void read_piece(void *arg)
{
    struct get_job *j = arg;
    if (j->fd < 0) {
        char name[32];
        segment_name(name, j->seg);
        j->fd = openat(j->s->dir_fd, name, O_RDONLY | O_CLOEXEC);
    }
    for (size_t done = 0; j->fd >= 0 && done < j->n;) {
        ssize_t n = pread(j->fd, j->p + done, j->n - done, (off_t)(j->at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            j->error = n < 0 ? errno : EIO;
            return;
        }
        done += (size_t)n;
    }
    if (j->fd < 0)
        j->error = errno;
}

FIBER static bool segment_get(struct blob_backend *b, const struct blob_object *o, uint64_t offset, uint64_t length,
                        struct rpc_sink *out, struct err *err)
{
    struct segments *s = of(b);
    struct get_job j = {.s = s, .seg = o->place->seg, .fd = -1, .p = xmalloc(MIN(length, SPOOL_CHUNK))};
    bool ok = true;
    while (ok && length) {
        j.at = (uint64_t)o->place->off + offset;
        j.n = MIN(length, SPOOL_CHUNK);
        ok = work_run(read_piece, &j, err);
        if (ok && j.error)
            ok = err_set(err, j.error == ENOENT ? ERR_NOT_FOUND : j.error == EIO ? ERR_INTERNAL : ERR_UNAVAILABLE,
                         "segment %lld: %s", (long long)j.seg, strerror(j.error));
        for (size_t done = 0; ok && done < j.n; done += RPC_CHUNK_MAX)
            ok = out->write(out, str_n(j.p + done, MIN(j.n - done, RPC_CHUNK_MAX)), err);
        offset += j.n;
        length -= j.n;
    }
    if (j.fd >= 0)
        close(j.fd);
    xfree(j.p);
    return ok;
}

static str segment_garbage_name(struct blob_backend *b, const struct blob_object *o, struct arena *a)
{
    (void)b;
    (void)o;
    (void)a;
    return STR_NONE; /* compaction finds it: no row points there any more */
}

/* --- compaction --- */

struct seg_file {
    int64_t seg;
    uint64_t bytes;
    int64_t changed_unix;
};
struct seg_list {
    struct segments *s;
    struct arena *a;
    struct seg_file *v;
    size_t n, cap;
    int error;
};

static void list_files(void *arg)
{
    struct seg_list *l = arg;
    DIR *d = opendir(l->s->folder);
    if (!d) {
        l->error = errno;
        return;
    }
    struct dirent *e;
    while ((e = readdir(d))) {
        str name = str_c(e->d_name);
        uint64_t seg;
        struct stat st;
        if (!str_ends(name, S(".seg")) || !num_u64(str_slice(name, 0, name.n - 4), INT64_MAX, &seg) ||
            fstatat(l->s->dir_fd, e->d_name, &st, 0) != 0)
            continue;
        if (l->n == l->cap) {
            l->cap = l->cap ? l->cap * 2 : 64;
            struct seg_file *v = arena_alloc(l->a, size_mul(l->cap, sizeof *v));
            if (l->n)
                memcpy(v, l->v, l->n * sizeof *v);
            l->v = v;
        }
        l->v[l->n++] = (struct seg_file){(int64_t)seg, (uint64_t)st.st_size, st.st_mtime};
    }
    closedir(d);
}

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

struct moving {
    const struct blob_place *p;
    int64_t seg, off;
};

FIBER static bool move_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct moving *m = arg;
    const struct sql_value v[] = {sql_i(m->p->blob_id), sql_i(m->p->seg), sql_i(m->p->off), sql_i(m->seg), sql_i(m->off)};
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
    pr->ok = record_holds(pr->fd, (uint64_t)pr->p->off, (uint64_t)pr->p->size, (const unsigned char *)pr->p->hash.p);
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

FIBER static bool compact_one(struct segments *s, struct store *store, const struct seg_file *f, bool dry_run, struct err *err)
{
    uint64_t live, n;
    if (!count_live(store, f->seg, &live, &n, err))
        return false;
    if (live + n * RECORD_HEADER > f->bytes / 2 || dry_run)
        return true;
    char name[32];
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

FIBER static bool segment_compact(struct blob_backend *b, struct store *store, bool dry_run, struct err *err)
{
    struct segments *s = of(b);
    ARENA(a, 64 << 20);
    struct seg_list l = {.s = s, .a = &a};
    if (!work_run(list_files, &l, err))
        return false;
    if (l.error)
        return err_set(err, ERR_UNAVAILABLE, "segments: %s", strerror(l.error));
    for (size_t i = 0; i < l.n; i++)
        if (l.v[i].seg != s->open_seg && l.v[i].changed_unix + COMPACT_AGE_S < clock_unix() &&
            !compact_one(s, store, &l.v[i], dry_run, err))
            return false;
    return true;
}

/* --- opening --- */

/* What a segment's records are like, read from its start. */
enum segment_state {
    SEGMENT_HOLDS,
    SEGMENT_UNFINISHED, /* but for a last record that runs past the end of the file */
    SEGMENT_DAMAGED,    /* a record does not hold; what is behind it is not known */
};

/* *end: up to where records hold. */
static enum segment_state check_segment(int fd, uint64_t bytes, uint64_t *end)
{
    unsigned char h[RECORD_HEADER];
    uint64_t size;
    for (*end = 0; *end < bytes; *end += RECORD_HEADER + size) {
        if (bytes - *end < RECORD_HEADER)
            return SEGMENT_UNFINISHED;
        if (pread(fd, h, sizeof h, (off_t)*end) != (ssize_t)sizeof h || !header_read(h, &size))
            return SEGMENT_DAMAGED;
        if (size > bytes - *end - RECORD_HEADER)
            return SEGMENT_UNFINISHED;
        if (!record_holds(fd, *end + RECORD_HEADER, size, h + 32))
            return SEGMENT_DAMAGED;
    }
    return SEGMENT_HOLDS;
}

struct open_job {
    struct segments *s;
    int error;
    bool is_damaged; /* the newest segment, from s->end on; it is not appended to */
    uint64_t bytes;  /* its length */
};

/* Go on in the newest segment, or leave it alone when its end does not hold. */
static bool open_newest(struct open_job *j)
{
    struct segments *s = j->s;
    char name[32];
    segment_name(name, s->seg);
    s->fd = openat(s->dir_fd, name, O_RDWR | O_CLOEXEC);
    if (s->fd < 0)
        return false;
    enum segment_state state = check_segment(s->fd, j->bytes, &s->end);
    if (state == SEGMENT_UNFINISHED && (ftruncate(s->fd, (off_t)s->end) != 0 || fdatasync(s->fd) != 0))
        return false;
    j->is_damaged = state == SEGMENT_DAMAGED;
    if (j->is_damaged)
        segment_end(s);
    return true;
}

/* A new folder's name has to be on the disk before what is in it is acknowledged. One that we may not see is not new. */
static bool sync_parent(const struct segments *s)
{
    int fd = openat(s->dir_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno == EACCES;
    bool ok = fsync(fd) == 0;
    int error = errno;
    close(fd);
    errno = error;
    return ok;
}

static void open_folder(void *arg)
{
    struct open_job *j = arg;
    struct segments *s = j->s;
    ARENA(a, 64 << 20);
    struct seg_list l = {.s = s, .a = &a};
    if (mkdir(s->folder, 0700) != 0 && errno != EEXIST)
        goto failed;
    s->dir_fd = open(s->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    s->lock_fd = s->dir_fd < 0 ? -1 : openat(s->dir_fd, "lock", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (s->lock_fd < 0 || flock(s->lock_fd, LOCK_EX | LOCK_NB) != 0)
        goto failed;
    list_files(&l);
    if (l.error) {
        errno = l.error;
        goto failed;
    }
    for (size_t i = 0; i < l.n; i++) {
        if (l.v[i].seg > s->seg) {
            s->seg = l.v[i].seg;
            j->bytes = l.v[i].bytes;
        }
    }
    s->open_seg = s->seg;
    if (s->seg == 0 ? sync_parent(s) : open_newest(j))
        return;
failed:
    j->error = errno;
}

FIBER static void segment_free(struct blob_backend *b)
{
    struct segments *s = of(b);
    if (s->lane)
        work_lane_free(s->lane);
    segment_end(s);
    if (s->dir_fd >= 0)
        close(s->dir_fd);
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    xfree(s->folder);
    xfree(s);
}

struct blob_backend *blob_segment_new(str folder, struct err *err)
{
    struct segments *s = xnew(struct segments);
    s->base = (struct blob_backend){.name = "folder", .tier = BLOB_SEGMENT, .put = segment_put, .get = segment_get,
                                    .garbage_name = segment_garbage_name, .compact = segment_compact, .free = segment_free};
    s->folder = str_dup(folder);
    s->fd = s->dir_fd = s->lock_fd = -1;
    struct open_job j = {.s = s};
    bool ok = work_run(open_folder, &j, err);
    if (ok && j.error == EWOULDBLOCK)
        ok = err_set(err, ERR_UNAVAILABLE, "the folder '%s' is in use by another process", s->folder);
    else if (ok && j.error)
        ok = err_set(err, ERR_UNAVAILABLE, "the folder '%s': %s", s->folder, strerror(j.error));
    if (!ok) {
        segment_free(&s->base);
        return NULL;
    }
    if (j.is_damaged)
        log_error("store.segment_damaged", KV_Z("folder", s->folder), KV_I64("segment", s->seg),
                  KV_I64("holds_to", (int64_t)s->end), KV_I64("bytes", (int64_t)j.bytes));
    s->lane = work_lane_new("blob-append", put_batch, s, BATCH_MAX, QUEUE_MAX);
    return &s->base;
}
