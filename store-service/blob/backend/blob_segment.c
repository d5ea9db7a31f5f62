/*
 * Bodies in append-only segment files of a folder: <folder>/00000001.seg, … Each is a row of records: a header of 64
 * bytes and the body. One thread appends; all bodies that wait are written and then made durable by one fdatasync.
 *
 * A record is proven by the SHA-256 of its body, which is in its header, and the header by the first bytes of its own
 * SHA-256. At the start the newest segment is read to its end. A last record that runs past the end of the file was
 * never finished, and is cut off. Anything else that does not hold may be damage in front of acknowledged bodies: the
 * file is left as it is, and appending goes on in a new one. So it does after a failed write or sync, when nothing is
 * known.
 *
 * segment_file.c knows the files and their records, segment_compact.c makes room.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "store-service/blob/backend.h"
#include "store-service/blob/backend/segment.h"

#define SEGMENT_BYTES ((uint64_t)64 << 20)
#define BATCH_MAX 256u
#define QUEUE_MAX 10000u

struct put_job {
    struct work_item item;
    const struct blob_object *o;
    const struct spool *body;
    int64_t seg, off;
    int error; /* errno; 0 = stored */
};

static struct segments *of(struct blob_backend *b)
{
    return CONTAINER_OF(b, struct segments, base);
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

/* A number is used once at most, whether or not its file came to be: a file of that name may be there, left by a
 * failure. */
static int create_next(struct segments *s, char name[SEGMENT_NAME_MAX])
{
    int fd;
    do {
        segment_name(name, ++s->seg);
        fd = openat(s->dir_fd, name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    } while (fd < 0 && errno == EEXIST);
    return fd;
}

static bool segment_begin(struct segments *s)
{
    char name[SEGMENT_NAME_MAX];
    int fd = create_next(s, name);
    if (fd < 0)
        return false;
    if (fsync(s->dir_fd) != 0) {
        int error = errno;
        close(fd);
        IGNORE(unlinkat(s->dir_fd, name, 0) == 0); /* nothing points to it; compaction takes it otherwise */
        errno = error;
        return false;
    }
    s->fd = fd;
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
    uint64_t need = SEGMENT_HEADER + j->body->size;
    if (s->fd >= 0 && s->end > 0 && s->end + need > SEGMENT_BYTES) {
        if (fdatasync(s->fd) != 0)
            return false;
        segment_end(s);
    }
    if (s->fd < 0 && !segment_begin(s))
        return false;
    unsigned char h[SEGMENT_HEADER];
    segment_header_make(h, j->o, j->body);
    if (!write_all(s->fd, h, sizeof h, s->end) || !append_body(s, j->body, s->end + SEGMENT_HEADER))
        return false;
    j->seg = s->seg;
    j->off = (int64_t)(s->end + SEGMENT_HEADER);
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

FIBER bool segment_put(struct blob_backend *b, const struct blob_object *o, struct spool *body, int64_t *seg,
                       int64_t *off, struct err *err)
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
        char name[SEGMENT_NAME_MAX];
        segment_name(name, j->seg);
        j->fd = openat(j->s->dir_fd, name, O_RDONLY | O_CLOEXEC);
    }
    for (size_t done = 0; j->fd >= 0 && done < j->n;) {
        ssize_t n = pread(j->fd, j->p + done, j->n - done, (off_t)(j->at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            j->error = n < 0 ? errno : ENOENT; /* the file ends before it: it is not there */
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
    uint64_t whole = length;
    while (ok && length) {
        j.at = (uint64_t)o->place->off + offset;
        j.n = MIN(length, SPOOL_CHUNK);
        ok = work_run(read_piece, &j, err);
        if (ok && j.error)
            ok = err_set(err, j.error == ENOENT && length == whole ? ERR_NOT_FOUND : ERR_UNAVAILABLE,
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

/* --- opening --- */

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
    char name[SEGMENT_NAME_MAX];
    segment_name(name, s->seg);
    s->fd = openat(s->dir_fd, name, O_RDWR | O_CLOEXEC);
    if (s->fd < 0)
        return false;
    enum segment_state state = segment_check(s->fd, j->bytes, &s->end);
    if (state == SEGMENT_UNFINISHED && (ftruncate(s->fd, (off_t)s->end) != 0 || fdatasync(s->fd) != 0))
        return false;
    j->is_damaged = state == SEGMENT_DAMAGED;
    if (j->is_damaged)
        segment_end(s);
    return true;
}

/* A new folder's name has to be on the disk before what is in it is acknowledged. One that we may not see is not new.
 */
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
    struct segment_list l = {.s = s, .a = &a};
    if (mkdir(s->folder, 0700) != 0 && errno != EEXIST)
        goto failed;
    s->dir_fd = open(s->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    s->lock_fd = s->dir_fd < 0 ? -1 : openat(s->dir_fd, "lock", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (s->lock_fd < 0 || flock(s->lock_fd, LOCK_EX | LOCK_NB) != 0)
        goto failed;
    segment_list_read(&l);
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
    s->base = (struct blob_backend){.name = "folder",
                                    .tier = BLOB_SEGMENT,
                                    .put = segment_put,
                                    .get = segment_get,
                                    .garbage_name = segment_garbage_name,
                                    .compact = segment_compact,
                                    .free = segment_free};
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
