/*
 * charset.h: text in any charset to UTF-8, as a stream.
 *
 * What cannot be converted becomes U+FFFD; nothing fails. Labels are read as mail software writes them: the Latin-1
 * family means its Windows superset, GB2312 means GB18030. An unknown label, US-ASCII and "unknown-8bit" mean: UTF-8
 * when the bytes are well-formed UTF-8, Windows-1252 otherwise.
 */
#ifndef MAIL_CHARSET_H
#define MAIL_CHARSET_H

#include "base/buf.h"

struct charset;
/* Never NULL. */
struct charset *charset_new(str label);
/* Convert the next piece; is_last flushes (an incomplete character becomes U+FFFD). NULs in the text are dropped. */
void charset_feed(struct charset *c, str bytes, bool is_last, struct buf *out);
void charset_free(struct charset *c);
DEFINE_CLEANUP(struct charset, charset_free)

/* All at once. */
void charset_to_utf8(str label, str bytes, struct buf *out);
/* Whether the label names a charset that can be converted. */
bool charset_is_known(str label);
/* The names of those, as mail prefers them, with a space between each two: "US-ASCII UTF-8 ISO-8859-1 …", some 2 KiB.
 */
void charset_add_names(struct buf *out);
/* Bytes of no declared charset: themselves when they are UTF-8, else read as Windows-1252. */
void charset_guess_utf8(str bytes, struct buf *out);

#endif
