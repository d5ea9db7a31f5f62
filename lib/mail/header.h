/*
 * header.h: the fields of a header block (RFC 5322 2.2), as they lie in memory.
 */
#ifndef MAIL_HEADER_H
#define MAIL_HEADER_H

#include "base/arena.h"

struct header_field {
    str name;      /* as written, without white space before the colon */
    str value;     /* after the colon, folded, without the line end that closes the field */
    str raw;       /* name to the last line end, included */
    size_t offset; /* of raw in the block */
};
/* `struct header_iter it = header_iter_of(block); while (header_next(&it, &field)) …` */
struct header_iter {
    str block;
    size_t at;
};
static inline struct header_iter header_iter_of(str block)
{
    return (struct header_iter){block, 0};
}
/* The next field. Lines that are none (no colon, a name with spaces, an mbox "From " line) are passed over. False at
 * the blank line or the end. */
bool header_next(struct header_iter *it, struct header_field *field);
/* The first field of that name, ASCII case folded. */
bool header_find(str block, str name, struct header_field *field);
/* Whether a line (without its end) can open a field: a name of printable ASCII, optional white space, a colon. */
bool header_is_field_line(str line);

/* Line ends, NULs and the white space at both ends removed (RFC 5322 2.2.3): one line, in a. */
str header_unfold(struct arena *a, str value);
/* Unfolded, encoded words decoded (RFC 2047), 8-bit text made UTF-8: what people read. In a. */
str header_decode(struct arena *a, str value);

#endif
