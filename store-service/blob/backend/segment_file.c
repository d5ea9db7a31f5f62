/* The segment files of a folder, and their records: making, reading, checking. Nothing here suspends. */
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/num.h"
#include "store-service/blob/backend.h"
#include "store-service/blob/backend/segment.h"

#define RECORD_MAGIC 0x31424854u /* "THB1" */

void segment_name(char out[SEGMENT_NAME_MAX], int64_t seg)
{
    snprintf(out, SEGMENT_NAME_MAX, "%08lld.seg", (long long)seg);
}

void segment_list_read(void *arg)
{
    struct segment_list *l = arg;
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
            struct segment_file *v = arena_alloc(l->a, size_mul(l->cap, sizeof *v));
            if (l->n)
                memcpy(v, l->v, l->n * sizeof *v);
            l->v = v;
        }
        l->v[l->n++] = (struct segment_file){(int64_t)seg, (uint64_t)st.st_size, st.st_mtime};
    }
    closedir(d);
}

/* --- records --- */

static void header_seal(unsigned char h[SEGMENT_HEADER])
{
    unsigned char sum[BLOB_HASH_SIZE];
    blob_hash(str_n(h + 8, SEGMENT_HEADER - 8), sum);
    memcpy(h + 4, sum, 4);
}

void segment_header_make(unsigned char h[SEGMENT_HEADER], const struct blob_object *o, const struct spool *body)
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

static bool header_read(const unsigned char h[SEGMENT_HEADER], uint64_t *size)
{
    unsigned char again[SEGMENT_HEADER];
    uint32_t magic;
    memcpy(&magic, h, 4);
    memcpy(again, h, SEGMENT_HEADER);
    header_seal(again);
    memcpy(size, h + 16, 8);
    *size = le64toh(*size);
    return le32toh(magic) == RECORD_MAGIC && memcmp(again, h, SEGMENT_HEADER) == 0;
}

bool segment_body_holds(int fd, uint64_t at, uint64_t size, const unsigned char *want)
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

enum segment_state segment_check(int fd, uint64_t bytes, uint64_t *end)
{
    unsigned char h[SEGMENT_HEADER];
    uint64_t size;
    for (*end = 0; *end < bytes; *end += SEGMENT_HEADER + size) {
        if (bytes - *end < SEGMENT_HEADER)
            return SEGMENT_UNFINISHED;
        if (pread(fd, h, sizeof h, (off_t)*end) != (ssize_t)sizeof h || !header_read(h, &size))
            return SEGMENT_DAMAGED;
        if (size > bytes - *end - SEGMENT_HEADER)
            return SEGMENT_UNFINISHED;
        if (!segment_body_holds(fd, *end + SEGMENT_HEADER, size, h + 32))
            return SEGMENT_DAMAGED;
    }
    return SEGMENT_HOLDS;
}
