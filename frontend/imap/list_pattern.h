/*
 * list_pattern.h: the patterns of LIST (RFC 3501 6.3.8). Pure.
 */
#ifndef FRONTEND_IMAP_LIST_PATTERN_H
#define FRONTEND_IMAP_LIST_PATTERN_H

#include "base/arena.h"

#define IMAP_PATTERN_MAX 1000u

/* Reference and pattern as the client wrote them, joined and decoded to UTF-8. False: no mailbox can match. */
bool imap_pattern_make(str reference, str pattern, struct arena *a, str *out);
/* "*" is any run of characters, "%" any run without "/". Time is at most pattern times name. */
bool imap_pattern_matches(str pattern, str name);

#endif
