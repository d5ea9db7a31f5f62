/*
 * data.h: the bytes of a message on the wire: end of data, dot-stuffing, and stray CR or LF. Pure.
 *
 * Only <CR><LF>.<CR><LF> ends DATA (RFC 5321 4.1.1.4); the <CR><LF> of the DATA command itself counts as the first. A
 * CR without LF or an LF without CR is noted and never taken for a line end, so nobody can hide the end of one message
 * and the beginning of another in it.
 */
#ifndef FRONTEND_SMTP_DATA_H
#define FRONTEND_SMTP_DATA_H

#include "base/str.h"

struct smtp_data {
    bool is_in_line; /* the last byte taken was not a line's end */
    bool has_stray;  /* a bare CR or LF was seen */
    bool is_end;     /* the end of data was taken */
};
/*
 * Take bytes from the front of `in`, and return how many; *piece is the content in them, a view of `in` without the
 * dots that were stuffed, as long as can be (maybe empty). When nothing can be taken more input is needed, of which at
 * most two bytes are ever left waiting. Not to be called after is_end.
 */
size_t smtp_data_next(struct smtp_data *d, str in, str *piece);

/* The same judgement over the chunks of BDAT (RFC 3030), which are content as they are. */
struct smtp_chunks {
    bool is_after_cr; /* the last byte was a CR */
    bool is_after_lf; /* the last two were CR LF */
    bool has_stray;
};
void smtp_chunks_check(struct smtp_chunks *c, str bytes);

#endif
