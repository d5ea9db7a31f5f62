/*
 * downgrade.h: a message with 8-bit text made one of 7-bit text, for hosts that take no other (RFC 6152 3).
 *
 * Two passes over the message, in pieces of any size: the first learns its structure and where 8-bit bytes are, the
 * second writes. Only parts with such bytes change: text becomes quoted-printable, all else base64, and their headers
 * say so; what is 7-bit already leaves byte for byte, be it part of a signed message. (A signature over 8-bit text
 * cannot survive; RFC 1847 2.1 wants such text encoded before it is signed.) Messages within messages are converted
 * from the inside, as they may not be encoded themselves (RFC 2046 5.2.1). Text that never said what it is gets the
 * fields that say it (RFC 1428).
 *
 * 8-bit text in header fields, which needs SMTPUTF8, becomes encoded words (RFC 2047) where words are; elsewhere, and
 * in what stands between parts, a byte becomes "?".
 */
#ifndef MAIL_DOWNGRADE_H
#define MAIL_DOWNGRADE_H

#include "base/buf.h"
#include "base/err.h"

#define DOWNGRADE_PIECE_MAX ((size_t)64 * 1024)
#define DOWNGRADE_HEADER_MAX ((size_t)256 * 1024) /* of one part, when it has to change */
/* what one piece may become, a long header before it included */
#define DOWNGRADE_OUT_MAX ((size_t)4 * 1024 * 1024)

struct downgrade;
struct downgrade *downgrade_new(void);
void downgrade_free(struct downgrade *d);
DEFINE_CLEANUP(struct downgrade, downgrade_free)
/* The first pass, and its end. Errors: LIMIT (more parts, depth or header than are looked at: it stays as it is). */
void downgrade_scan(struct downgrade *d, str bytes);
bool downgrade_plan(struct downgrade *d, struct err *err) WARN_UNUSED;
/* The second pass, over the same bytes, at most DOWNGRADE_PIECE_MAX at a time. */
void downgrade_feed(struct downgrade *d, str bytes, struct buf *out);
void downgrade_end(struct downgrade *d, struct buf *out);

/* What the header of a part is to say from now on. */
struct downgrade_label {
    const char *encoding; /* Content-Transfer-Encoding; NULL = as it is */
    bool adds_version;    /* MIME-Version, where there is none: of a message */
    const char *charset;  /* for a Content-Type of text/plain, where there is none; NULL = adds none */
};
/* A header block with its blank line, in 7-bit text. */
void downgrade_header(str block, const struct downgrade_label *label, struct buf *out);

#endif
