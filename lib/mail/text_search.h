/*
 * text_search.h: substrings as i;unicode-casemap sees them (RFC 5051): case and compatibility forms do not count.
 */
#ifndef MAIL_TEXT_SEARCH_H
#define MAIL_TEXT_SEARCH_H

#include "base/buf.h"

/* Append the folded form of UTF-8 text: full case folding, then compatibility decomposition. Malformed bytes stay
 * themselves. */
void text_fold(struct buf *out, str utf8);

/* Append UTF-8 text in Normalization Form C; malformed bytes become U+FFFD. */
void text_nfc(struct buf *out, str utf8);

#define TEXT_SEARCH_NEEDLE_MAX 1024u /* bytes, folded */

/* Look for one needle in text that comes in pieces. */
struct text_search;
/* NULL when the needle is longer than TEXT_SEARCH_NEEDLE_MAX. An empty needle is in every text. */
struct text_search *text_search_new(str needle_utf8);
/* Begin another text. */
void text_search_reset(struct text_search *s);
/* True once the needle was found; further pieces of this text need not be fed. */
bool text_search_feed(struct text_search *s, str utf8);
/* After the last piece. */
bool text_search_finish(struct text_search *s);
void text_search_free(struct text_search *s);
DEFINE_CLEANUP(struct text_search, text_search_free)

/* All at once. */
bool text_contains(str utf8, str needle_utf8);

#endif
