/*
 * encoded_word.h: non-ASCII text in header fields (RFC 2047).
 */
#ifndef MAIL_ENCODED_WORD_H
#define MAIL_ENCODED_WORD_H

#include "base/buf.h"

/*
 * Decode an unfolded value to UTF-8. White space between two encoded words goes; the bytes of neighbours in one charset
 * are joined before conversion (senders split characters). What is no encoded word stays, 8-bit bytes made UTF-8.
 */
void encoded_word_decode(struct buf *out, str value);

/*
 * Append UTF-8 text as encoded words of at most 75 characters with folding (CRLF SP) between them; column is where the
 * first one begins. Characters are never split.
 */
void encoded_word_encode(struct buf *out, str utf8, size_t column);

#endif
