/*
 * parse.h: the tokens of IMAP commands (RFC 3501 section 9), over a whole command in memory. Pure.
 *
 * Literals stand in place: "{5}" CRLF and five bytes. Each function takes what it names from the front of the cursor,
 * or leaves the cursor anywhere and returns false: the command is malformed, there is no going on. Results live in the
 * arena.
 */
#ifndef FRONTEND_IMAP_PARSE_H
#define FRONTEND_IMAP_PARSE_H

#include "base/arena.h"
#include "base/buf.h"
#include "proto/store.pb-c.h"

#include "frontend/imap/uid_map.h"

/* Spaces: the grammar has one, and clients send more (two in a list, one before its end or the line's). */
bool imap_parse_sp(struct cursor *c);
bool imap_parse_more(struct cursor *c);           /* after an element of a list: spaces, and another one */
bool imap_parse_end(const struct cursor *c);      /* nothing is left but spaces */
bool imap_parse_word(struct cursor *c, str word); /* this atom, in any case, and not the beginning of a longer one */
bool imap_parse_atom(struct cursor *c, str *out);
bool imap_parse_tag(struct cursor *c, str *out);
bool imap_parse_string(struct cursor *c, struct arena *a, str *out);
bool imap_parse_astring(struct cursor *c, struct arena *a, str *out);
/* A string, or NIL (out->p is NULL). */
bool imap_parse_nstring(struct cursor *c, struct arena *a, str *out);
bool imap_parse_u32(struct cursor *c, uint32_t *out);
bool imap_parse_u64(struct cursor *c, uint64_t *out); /* at most 2^63 - 1 (RFC 7162) */

/*
 * A mailbox name in UTF-8; INBOX and its like as "INBOX". *is_valid is false when the name is well-formed IMAP but can
 * be no mailbox: bad modified UTF-7, 8-bit bytes, control characters, an empty component, too long.
 */
#define IMAP_MAILBOX_NAME_MAX 1000u
bool imap_parse_mailbox(struct cursor *c, struct arena *a, str *out, bool *is_valid);
/* The same without a cursor: a decoded astring. */
bool imap_mailbox_name(str raw, struct arena *a, str *out);
/* A name or pattern of LIST, as it is written. */
bool imap_parse_list_mailbox(struct cursor *c, struct arena *a, str *out);

/* A sequence set as written: 0 stands for "*". */
struct imap_range {
    uint32_t first, last;
};
struct imap_set {
    struct imap_range *v;
    size_t n;
};
#define IMAP_SET_MAX 200000u /* elements of one set: as many as a line can hold */
bool imap_parse_set(struct cursor *c, struct arena *a, struct imap_set *out);
/*
 * The UIDs that a set names in a view: ascending ranges that neither overlap nor touch. What is above the view's
 * highest is left out; but with sequence numbers (not is_uid) and must_exist it is refused: false.
 */
bool imap_set_resolve(const struct imap_set *set, const struct uid_map *uids, bool is_uid, bool must_exist,
                      struct arena *a, Thurn__Range ***out, size_t *n);
/* "1:3,5" from UIDs, as ranges; in sequence numbers of the view when it is given (UIDs that it lacks are left out). */
void imap_add_set(struct buf *out, Thurn__Range *const *v, size_t n, const struct uid_map *as_seq);

/* Flags and keywords, with or without their parentheses. \Recent is passed over; unknown system flags are refused. */
#define IMAP_KEYWORDS_MAX 1024u /* well-formed; the store has its own bound of a message's (LIMIT) */
#define IMAP_KEYWORD_MAX 100u
struct imap_flags {
    uint32_t bits;
    char **keywords;
    size_t n_keywords;
};
bool imap_parse_flags(struct cursor *c, struct arena *a, bool needs_parens, struct imap_flags *out);

/* The literal that a line ends with, if it does: "{123}" or "{123+}". The bytes of the line without it: *before. */
bool imap_line_literal(str line, str *before, uint64_t *size, bool *is_sync);

#endif
