/*
 * content.h: a message on its way to another server: line ends made CRLF, dots doubled, long lines folded. Pure.
 *
 * Whatever the content holds, no bare CR or LF leaves: they are what lets a receiver see an end of data where we see
 * none. A bare LF becomes CRLF, a bare CR a space, and so does a NUL
 * (RFC 5322 4). A line of more than 998 bytes (RFC 5321 4.5.3.1.6) goes on in the next, after a space; no character of
 * UTF-8 is cut. With dots (RFC 5321 4.5.2) a line's first dot is doubled and the end is a line of one dot; without
 * (BDAT) the end is only completed to a line. The result does not depend on how the input was cut.
 */
#ifndef QUEUE_SERVICE_REMOTE_CONTENT_H
#define QUEUE_SERVICE_REMOTE_CONTENT_H

#include "base/str.h"

struct smtp_content {
    bool has_dots;
    bool is_inside; /* of a line */
    bool has_cr;    /* the last byte was a CR that has not left yet */
    size_t n_line;  /* bytes of the line that left */
};
void smtp_content_init(struct smtp_content *c, bool has_dots);
/*
 * What leaves next for the input *in, which is moved past it: a view of the input or a literal, never empty. False when
 * the input is used up.
 */
bool smtp_content_next(struct smtp_content *c, str *in, str *out);
/* What closes the content: a literal, perhaps empty. */
str smtp_content_end(struct smtp_content *c);

#endif
