/*
 * content_field.h: Content-Type and Content-Disposition (RFC 2045 5.1, RFC 2183, RFC 2231), read leniently.
 */
#ifndef MAIL_CONTENT_FIELD_H
#define MAIL_CONTENT_FIELD_H

#include "mail/mime.h"

#define CONTENT_PARAMS_MAX 64u /* parameters (with continuations) of one field that are read at most */

struct content_field {
    str token, subtype; /* "TEXT" "PLAIN" in upper case; subtype is empty for a disposition. Empty when unreadable. */
    struct mime_params params;
    bool is_cut; /* more parameters than max_params */
};

/*
 * Parse a field's value (folded or not). with_subtype: type "/" subtype; otherwise one token, lower case. Parameters
 * come in the order of their first appearance: continuations joined, percent-encoding and charsets undone; of equal
 * names the first counts, except that an extended one (name*) beats a plain one. Values longer than max_value are cut
 * at a character. *out lives in a.
 */
void content_field_parse(struct arena *a, str value, bool with_subtype, unsigned max_params, size_t max_value,
                         struct content_field *out);

#endif
