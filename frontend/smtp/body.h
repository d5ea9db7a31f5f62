/*
 * body.h: a message's content on its way from the wire to the store: in memory while it is small, else into a blob.
 *
 * In memory there is room in front of the content for the trace fields, which are written when the header is known, so
 * that the whole is one piece without having been moved.
 *
 * What is wrong with a message is noted in `failure`; its remaining bytes are still read, because the connection goes
 * on after them.
 */
#ifndef FRONTEND_SMTP_BODY_H
#define FRONTEND_SMTP_BODY_H

#include "base/buf.h"
#include "frontend/smtp/data.h"
#include "frontend/smtp/reply.h"
#include "proto/common.pb-c.h"
#include "rpc/call.h"

struct smtp_session;

#define SMTP_BODY_ROOM 3072u /* for the trace fields */

struct smtp_body {
    struct buf memory; /* room, then content; released once there is a blob */
    uint64_t size;     /* of the content, trace fields not counted */
    size_t trace_at;   /* where they begin in the room */
    bool is_traced;
    enum smtp_reply failure;
    struct err why; /* of a failure that is not the sender's fault */
    bool is_blob;
    Thurn__BlobRef blob;
    uint8_t hash[32];
    bool is_crlf_at_end;
    bool is_8bit; /* whatever the client said; of a body in memory only known when it is queued */
};

/* Where the bytes come from: the DATA of a command, or BDAT chunks. */
struct smtp_body_reader {
    struct smtp_session *session;
    bool is_chunked;
    struct smtp_data data;      /* DATA */
    struct smtp_chunks *chunks; /* BDAT: the message's judgement; NULL: the chunk was refused and is thrown away */
    uint64_t left;              /* BDAT: bytes of this chunk still to come */
    bool is_last;               /* BDAT: this is the last chunk */
    /* BDAT: run a command without effect that came between chunks, and answer it */
    FIBER void (*run)(struct smtp_session *s, str line);
    bool is_pulling;     /* BDAT: go on with the next command when a chunk is used up */
    bool is_interrupted; /* BDAT: another command came between; it is still in the input */
    bool is_broken;      /* the connection failed: s->close is set */
};

void smtp_body_init(struct smtp_body *b, size_t inline_max);
void smtp_body_done(struct smtp_body *b);
/*
 * Read to the end of data, or of this chunk (of all chunks, once a blob is being written). False: the connection is
 * gone, or a command came between chunks (r says which); the transaction must not be completed.
 */
FIBER bool smtp_body_read(struct smtp_body *b, struct smtp_body_reader *r) WARN_UNUSED;
/* Read and forget the rest of r. False: the connection is gone. */
FIBER bool smtp_body_skip(struct smtp_body_reader *r) WARN_UNUSED;
/* All of it has come: add what is missing, or set failure. */
void smtp_body_finish(struct smtp_body *b, struct smtp_session *s);
/* Trace fields and content in one piece; not for a blob. */
str smtp_body_content(const struct smtp_body *b);

#endif
