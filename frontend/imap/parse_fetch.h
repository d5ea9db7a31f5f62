/*
 * parse_fetch.h: what FETCH asks for (RFC 3501 6.4.5, RFC 7162, RFC 8970). Pure.
 */
#ifndef FRONTEND_IMAP_PARSE_FETCH_H
#define FRONTEND_IMAP_PARSE_FETCH_H

#include "frontend/imap/parse.h"

enum imap_fetch_kind {
    FETCH_FLAGS,
    FETCH_UID,
    FETCH_INTERNALDATE,
    FETCH_RFC822_SIZE,
    FETCH_ENVELOPE,
    FETCH_BODY, /* BODYSTRUCTURE without extension data */
    FETCH_BODYSTRUCTURE,
    FETCH_MODSEQ,
    FETCH_PREVIEW,
    FETCH_SECTION /* BODY[…], RFC822, RFC822.HEADER, RFC822.TEXT */
};
enum imap_section_text { SECTION_ALL, SECTION_HEADER, SECTION_FIELDS, SECTION_FIELDS_NOT, SECTION_TEXT, SECTION_MIME };

#define IMAP_SECTION_DEPTH_MAX 64u
#define IMAP_SECTION_FIELDS_MAX 100u
struct imap_fetch_item {
    enum imap_fetch_kind kind;
    /* FETCH_SECTION only */
    const char *alias; /* "RFC822.TEXT": how the client calls it; NULL for BODY[…] */
    uint32_t *path;
    size_t n_path;
    enum imap_section_text text;
    str *fields;
    size_t n_fields;
    bool sets_seen; /* not .PEEK */
    bool has_partial;
    uint32_t partial_offset, partial_length;
};
struct imap_fetch {
    struct imap_set set;
    struct imap_fetch_item *items;
    size_t n_items;
    bool has_changed_since;
    uint64_t changed_since;
};
#define IMAP_FETCH_ITEMS_MAX 100u /* different ones */
#define IMAP_FETCH_ITEMS_ADDED 2u /* room behind them: UID and MODSEQ, which go unasked */

/* The arguments of FETCH. */
bool imap_parse_fetch(struct cursor *c, struct arena *a, struct imap_fetch *out);
/* "BODY[1.HEADER.FIELDS (From)]<0>": the name of a section in the response. */
void imap_add_section_name(struct buf *out, const struct imap_fetch_item *item);

#endif
