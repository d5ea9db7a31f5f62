#include "store-service/blob/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/trouble.h"
#include "fiber/work.h"

void spool_init(struct spool *s, const char *folder)
{
    *s = (struct spool){.fd = -1, .folder = folder};
    buf_init(&s->buf, SPOOL_MEMORY_MAX + RPC_CHUNK_MAX);
    s->md = EVP_MD_CTX_new();
    if (!s->md || EVP_DigestInit_ex(s->md, EVP_sha256(), NULL) != 1)
        panic("no SHA-256");
}

void spool_of_memory(struct spool *s, str content)
{
    *s = (struct spool){.fd = -1, .size = content.n, .memory = str_n(content.p ? content.p : "", content.n)};
    blob_hash(content, s->hash);
}

void spool_of_file(struct spool *s, int fd, uint64_t base, uint64_t size, const unsigned char hash[BLOB_HASH_SIZE])
{
    *s = (struct spool){.fd = fd, .base = base, .size = size};
    memcpy(s->hash, hash, BLOB_HASH_SIZE);
}

struct flush {
    struct spool *s;
    int error;
};

/* On a pool thread: append what is in the buffer to the file, which is made first when there is none. */
static void flush_file(void *arg)
{
    struct flush *f = arg;
    struct spool *s = f->s;
    if (s->fd < 0) {
        s->fd = open(s->folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        s->is_fd_owned = true;
    }
    uint64_t at = s->size - s->buf.n;
    for (size_t done = 0; s->fd >= 0 && done < s->buf.n;) {
        ssize_t n = pwrite(s->fd, s->buf.p + done, s->buf.n - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            f->error = n < 0 ? errno : EIO;
            return;
        }
        done += (size_t)n;
    }
    if (s->fd < 0)
        f->error = errno;
}

FIBER static bool flush(struct spool *s, struct err *err)
{
    struct flush f = {.s = s};
    if (!work_run(flush_file, &f, err))
        return false;
    if (f.error) {
        (void)err_set(err, ERR_UNAVAILABLE, "spool '%s': %s", s->folder, strerror(f.error));
        trouble_note("spool", err->msg);
        return false;
    }
    trouble_over("spool");
    buf_clear(&s->buf);
    return true;
}

bool spool_write(struct spool *s, str piece, struct err *err)
{
    if (EVP_DigestUpdate(s->md, piece.p, piece.n) != 1)
        panic("SHA-256 failed");
    while (piece.n) {
        str part = str_slice(piece, 0, RPC_CHUNK_MAX);
        piece = str_slice(piece, part.n, SIZE_MAX);
        buf_add(&s->buf, part);
        s->size += part.n;
        bool is_full = s->buf.n > SPOOL_MEMORY_MAX || (s->fd >= 0 && s->buf.n >= SPOOL_CHUNK);
        if (is_full && !flush(s, err))
            return false;
    }
    return true;
}

bool spool_finish(struct spool *s, struct err *err)
{
    if (EVP_DigestFinal_ex(s->md, s->hash, NULL) != 1)
        panic("SHA-256 failed");
    if (s->fd >= 0)
        return s->buf.n == 0 || flush(s, err);
    s->memory = str_n(buf_z(&s->buf), s->buf.n);
    return true;
}

bool spool_read_blocking(const struct spool *s, uint64_t offset, void *p, size_t n)
{
    assert(offset <= s->size && n <= s->size - offset);
    if (s->memory.p) {
        memcpy(p, s->memory.p + offset, n);
        return true;
    }
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(s->fd, (char *)p + done, n - done, (off_t)(s->base + offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        done += (size_t)got;
    }
    return true;
}

struct reading {
    const struct spool *s;
    uint64_t offset;
    char *p;
    size_t n;
    bool ok;
};

static void read_file(void *arg)
{
    struct reading *r = arg;
    r->ok = spool_read_blocking(r->s, r->offset, r->p, r->n);
}

bool spool_view(const struct spool *s, uint64_t offset, size_t n, struct arena *a, str *out, struct err *err)
{
    assert(offset <= s->size && n <= s->size - offset);
    if (s->memory.p) {
        *out = str_n(s->memory.p + offset, n);
        return true;
    }
    struct reading r = {.s = s, .offset = offset, .p = arena_alloc(a, n), .n = n};
    if (!work_run(read_file, &r, err))
        return false;
    if (!r.ok)
        return err_set(err, ERR_UNAVAILABLE, "spool: cannot read back");
    *out = str_n(r.p, n);
    return true;
}

void spool_done(struct spool *s)
{
    buf_done(&s->buf);
    EVP_MD_CTX_free(s->md);
    s->md = NULL;
    if (s->fd >= 0 && s->is_fd_owned)
        close(s->fd);
    s->fd = -1;
}
