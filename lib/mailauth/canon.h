/*
 * canon.h: what is hashed of a message: canonical forms of header fields and of the body (RFC 6376 3.4).
 *
 * A body is read once, while it streams in, however many signatures there are: those with the same form and length
 * share a hash.
 */
#ifndef MAILAUTH_CANON_H
#define MAILAUTH_CANON_H

#include "base/buf.h"

enum canon { CANON_SIMPLE, CANON_RELAXED };
#define CANON_NO_LENGTH UINT64_MAX
#define BODY_HASHES_MAX 8u
#define BODY_HASH_SIZE 32u /* SHA-256 */

/* One header field with its line end, as it lies in the message, in its canonical form, with its line end. */
void canon_header(enum canon form, str raw_field, struct buf *out);

struct body_hash;
struct body_hashes {
    struct body_hash *v[BODY_HASHES_MAX];
    size_t n;
    bool is_ended;
};
/* Ask for the hash of that form and of the first `length` bytes of it. Returns its place; the same for the same. -1:
 * there are too many. */
int body_hashes_want(struct body_hashes *b, enum canon form, uint64_t length);
void body_hashes_feed(struct body_hashes *b, str piece); /* any pieces of the body, in order */
void body_hashes_end(struct body_hashes *b);             /* once */
/* After the end: the hash, and how long the whole canonical body is. */
const unsigned char *body_hash_value(const struct body_hashes *b, int at, uint64_t *length);
void body_hashes_done(struct body_hashes *b); /* a zeroed one is allowed */

#endif
