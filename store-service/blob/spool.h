/*
 * spool.h: a body while it is on its way: hashed as it arrives, in memory while it is small, in an unlinked file when
 * it grows. Then it can be read at any offset.
 */
#ifndef STORE_SERVICE_SPOOL_H
#define STORE_SERVICE_SPOOL_H

#include <openssl/evp.h>

#include "base/buf.h"
#include "store-service/blob/blob.h"

#define SPOOL_MEMORY_MAX (512u * 1024)
#define SPOOL_CHUNK (256u * 1024) /* of file reads and writes */

struct spool {
    uint64_t size;
    unsigned char hash[BLOB_HASH_SIZE]; /* after spool_finish */
    str memory;                         /* all of the content, when it is in memory: p is not NULL */
    int fd;                             /* else the file, from offset base; -1 */
    uint64_t base;
    bool is_fd_owned;
    const char *folder;
    struct buf buf; /* content, or what has not gone to the file yet */
    EVP_MD_CTX *md;
};

void spool_init(struct spool *s, const char *folder);
/* Content that is there already; borrowed. */
void spool_of_memory(struct spool *s, str content);
void spool_of_file(struct spool *s, int fd, uint64_t base, uint64_t size, const unsigned char hash[BLOB_HASH_SIZE]);
/* Suspends now and then. Errors: UNAVAILABLE (no room in the folder). */
FIBER bool spool_write(struct spool *s, str piece, struct err *err) WARN_UNUSED;
FIBER bool spool_finish(struct spool *s, struct err *err) WARN_UNUSED;
/* Bytes [offset, offset + n), which are there, into p. Blocking file I/O: for work functions and lanes. */
bool spool_read_blocking(const struct spool *s, uint64_t offset, void *p, size_t n) WARN_UNUSED;
/* The same on a fiber: a view of memory, or read into `a`. */
FIBER bool spool_view(const struct spool *s, uint64_t offset, size_t n, struct arena *a, str *out, struct err *err)
    WARN_UNUSED;
void spool_done(struct spool *s);

static inline void spool_scope_done_(struct spool *s)
{
    spool_done(s);
}
#define SPOOL_SCOPE __attribute__((cleanup(spool_scope_done_)))

#endif
