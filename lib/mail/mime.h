/*
 * mime.h: the structure of a message, from a push parser. RFC 5322, 2045, 2046, 2183, 2231.
 *
 * Feed the message in pieces of any size; bodies are never buffered. Every byte sequence is a message: nothing here
 * fails. At a limit (depth, parts, header bytes) the part in question is a leaf and limit_hit says so; of a message's
 * own header that is too long only the beginning is read, it still ends at its blank line. Lenient as Dovecot is: LF or
 * CRLF, NUL bytes, 8-bit headers, no blank line, no closing boundary. The result does not depend on how the message was
 * cut into pieces.
 *
 * All results live in the arena given to mime_new and stay good after mime_free. Strings hold no NUL and no CR or LF.
 */
#ifndef MAIL_MIME_H
#define MAIL_MIME_H

#include "mail/address.h"

/* Grows when the same bytes may give another result; kept beside stored results. */
#define MIME_PARSER_VERSION 3u

struct mime_limits {
    unsigned depth;     /* nested multiparts and messages; default 64 */
    unsigned parts;     /* default 10,000 */
    size_t root_header; /* bytes of the message's own header that are read as header; default 256 KiB */
    size_t part_header; /* bytes of each part's header, what follows is its body; default 64 KiB */
    unsigned params;    /* of one field; default and most 64 */
    size_t value;       /* bytes of one parameter, id, description, …; default 4096 */
    size_t text; /* bytes of all strings kept of all parts together, with MIME_PART_COST and MIME_ADDRESS_COST for each
                    part and address: what is kept of a message fits into one reply; default 640 KiB */
    unsigned addresses; /* rows of one address field; default ADDRESS_LIST_MAX */
};
#define MIME_PART_COST 48u
#define MIME_ADDRESS_COST 16u
#define MIME_BOUNDARY_MAX 2048u
#define MIME_PREVIEW_MAX 256u /* characters */
#define MIME_REFERENCES_MAX 100u

struct mime_param {
    str name;  /* lower case */
    str value; /* RFC 2231 and (as many senders do) RFC 2047 decoded, UTF-8 */
};
struct mime_params {
    struct mime_param *v;
    size_t n;
};
/* The value of a parameter, or the empty view. name is lower case. */
str mime_param(const struct mime_params *params, const char *name);

/* What IMAP's ENVELOPE is made of (RFC 9051 7.5.2). sender and reply_to are as in the header: empty when absent. */
struct mime_envelope {
    str date, subject, in_reply_to, message_id; /* unfolded, otherwise as in the header; p is NULL when absent */
    struct address_list from, sender, reply_to, to, cc, bcc;
};

struct mime_part {
    str type, subtype; /* upper case; TEXT PLAIN when absent or unreadable (MESSAGE RFC822 within a digest) */
    struct mime_params params;
    str id;          /* Content-ID with its angle brackets */
    str description; /* unfolded, otherwise as in the header */
    str encoding;    /* upper case; "7BIT" when absent */
    str md5;
    str disposition; /* lower case; empty = none */
    struct mime_params disposition_params;
    str *languages;
    size_t n_languages;
    str location;
    /* Offsets from the start of the message. The header, with its blank line, is [header_offset, body_offset). */
    uint64_t header_offset, body_offset, body_size;
    uint32_t body_lines;                     /* line ends in the body */
    struct mime_part *parent, *next;         /* next = the following part of the same multipart */
    struct mime_part *children, *last_child; /* of a multipart; of message/rfc822: one, the message within */
    unsigned n_children;
    struct mime_envelope *envelope; /* of message/rfc822 with a child: the envelope of that child; else NULL */
};

struct mime_message {
    struct mime_part *root;
    struct mime_envelope envelope;
    str header; /* the root's header block as it is, up to limits.root_header */
    uint64_t size;
    unsigned n_parts;
    bool limit_hit;      /* something was left out because of a limit */
    bool has_attachment; /* as JMAP understands it: a part that is neither inline text nor an inline image */
    /* at most MIME_PREVIEW_MAX characters of the first text, UTF-8, white space folded (RFC 8970) */
    str preview;
    int64_t sent_unix; /* Date; 0 = none or unreadable */
    /* Message ids without brackets: References in order, then those of In-Reply-To, without repeats. */
    str *references;
    size_t n_references;
    str message_id; /* without brackets; empty = none */
};

struct mime_parser;
/* limits may be NULL, and a zero in it means the default. */
struct mime_parser *mime_new(struct arena *a, const struct mime_limits *limits);
void mime_feed(struct mime_parser *p, str bytes);
/* The end of the message. The parser takes no more. */
const struct mime_message *mime_finish(struct mime_parser *p);
void mime_free(struct mime_parser *p);
DEFINE_CLEANUP(struct mime_parser, mime_free)

/* All of it from memory. */
const struct mime_message *mime_parse(struct arena *a, str message, const struct mime_limits *limits);

/*
 * The part that an IMAP section number names ("1.2.3", RFC 9051 6.4.5.1), or NULL. The empty path is the root. Numbers
 * run through message/rfc822 as IMAP says: below it, 1 is the message's only part unless that is a multipart.
 */
const struct mime_part *mime_part_by_number(const struct mime_message *m, const uint32_t *path, size_t n);
static inline bool mime_is_type(const struct mime_part *p, str type)
{
    return str_eq(p->type, type);
}
/* message/rfc822 or message/global. */
bool mime_is_message(const struct mime_part *p);

#endif
