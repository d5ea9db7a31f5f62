/*
 * segment.h: what the files of the folder backend share. blob_segment.c has its story.
 */
#ifndef STORE_SERVICE_BACKEND_SEGMENT_H
#define STORE_SERVICE_BACKEND_SEGMENT_H

#include "fiber/work.h"
#include "store-service/blob/backend.h"

struct segments {
    struct blob_backend base;
    char *folder;
    int dir_fd, lock_fd;
    struct work_lane *lane;
    /* Of the lane's thread. */
    int fd;      /* the segment that is appended to; -1 = begin a new one */
    int64_t seg; /* its number, or the last one tried */
    uint64_t end;
    _Atomic int64_t open_seg; /* its number, for compaction, which leaves it alone */
};

/* --- the files (segment_file.c) --- */
#define SEGMENT_NAME_MAX 32
void segment_name(char out[SEGMENT_NAME_MAX], int64_t seg); /* "00000001.seg" */

struct segment_file {
    int64_t seg;
    uint64_t bytes;
    int64_t changed_unix;
};
struct segment_list {
    const struct segments *s;
    struct arena *a;
    struct segment_file *v; /* in any order; in a */
    size_t n, cap;
    int error; /* errno; 0 = read */
};
void segment_list_read(void *list); /* of list->s's folder; blocks: for work_run */

/* --- records: a header, and the body (segment_file.c) --- */
#define SEGMENT_HEADER 64u
void segment_header_make(unsigned char h[SEGMENT_HEADER], const struct blob_object *o, const struct spool *body);
/* Whether a body at that place has that hash. Blocks. */
bool segment_body_holds(int fd, uint64_t at, uint64_t size, const unsigned char *want);

/* What a segment's records are like, read from its start. */
enum segment_state {
    SEGMENT_HOLDS,
    SEGMENT_UNFINISHED, /* but for a last record that runs past the end of the file */
    SEGMENT_DAMAGED,    /* a record does not hold; what is behind it is not known */
};
/* *end: up to where records hold. Blocks. */
enum segment_state segment_check(int fd, uint64_t bytes, uint64_t *end);

/* --- the backend's members --- */
FIBER bool segment_put(struct blob_backend *b, const struct blob_object *o, struct spool *body, int64_t *seg,
                       int64_t *off, struct err *err) WARN_UNUSED;
FIBER bool segment_compact(struct blob_backend *b, struct store *store, bool dry_run, struct err *err) WARN_UNUSED;

#endif
