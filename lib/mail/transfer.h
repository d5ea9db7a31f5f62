/*
 * transfer.h: content transfer encodings (RFC 2045 section 6), decoded as a stream, leniently, and encoded.
 */
#ifndef MAIL_TRANSFER_H
#define MAIL_TRANSFER_H

#include "base/buf.h"

enum transfer_kind {
    TRANSFER_IDENTITY, /* 7bit, 8bit, binary, and what nobody knows */
    TRANSFER_BASE64,
    TRANSFER_QP,
    TRANSFER_UU /* x-uuencode */
};
/* From the value of Content-Transfer-Encoding. */
enum transfer_kind transfer_kind_of(str encoding);

#define TRANSFER_WS_MAX 256u /* white space before a line end that is held back in quoted-printable */

struct transfer {
    enum transfer_kind kind;
    uint32_t bits;   /* base64: collected so far */
    unsigned n_bits; /* base64: sextets in it, 0..3 */
    bool is_ended;   /* base64: padding seen; uu: "end" seen */
    bool in_uu;      /* uu: after "begin" */
    unsigned n_held;
    char held[TRANSFER_WS_MAX]; /* QP: "=" and what follows, or white space; uu: the line so far */
};
void transfer_init(struct transfer *t, enum transfer_kind kind);
/*
 * Decode the next piece. Base64 skips what is not of its alphabet and ends at its padding. Quoted-printable keeps a "="
 * that is no escape, and drops white space at line ends. The result does not depend on how the input was cut.
 */
void transfer_feed(struct transfer *t, str bytes, struct buf *out);
void transfer_finish(struct transfer *t, struct buf *out);
/* All at once. */
void transfer_decode(enum transfer_kind kind, str bytes, struct buf *out);

/*
 * Encode as a stream, TRANSFER_BASE64 or TRANSFER_QP. The result does not depend on how the input was cut.
 * Quoted-printable is for text: line ends (LF or CRLF) become CRLF; a CR that stands alone is encoded. Lines stay
 * within 76 characters.
 */
struct transfer_encoder {
    enum transfer_kind kind;
    size_t column; /* QP: in the line that is being written */
    unsigned n_held;
    char held[128]; /* base64: less than a line; QP: what the next bytes decide about */
};
void transfer_encoder_init(struct transfer_encoder *e, enum transfer_kind kind);
void transfer_encode(struct transfer_encoder *e, str bytes, struct buf *out);
void transfer_encode_end(struct transfer_encoder *e, struct buf *out);
/* Base64 in lines of 76 with CRLF, the last one included. */
void transfer_encode_base64(struct buf *out, str bytes);
/* Quoted-printable for text: line ends (LF or CRLF) become CRLF, lines stay within 76 characters. */
void transfer_encode_qp(struct buf *out, str text);

#endif
