/*
 * internal.h: the compact form of a program, and what the compiler and the interpreter share.
 *
 * A node is a command or a test: one byte of op, two of line, four of length, and that many bytes. Inside:
 *
 *     IF, ELSIF         a test node, then the nodes of the block
 *     ELSE              the nodes of the block
 *     NOT               a test node;  ALLOF, ANYOF: test nodes
 *     all others        one byte of how many items there are, the items, and for those with a block its nodes
 *
 * An item is a byte that names it, whose two top bits say what follows: nothing, a number, a string, or a list (a count
 * and strings). Numbers are varints. A string is a varint, twice its length and one more if it holds references to
 * variables, and its bytes.
 */
#ifndef SIEVE_INTERNAL_H
#define SIEVE_INTERNAL_H

#include "base/buf.h"
#include "base/varint.h"
#include "sieve/sieve.h"

// clang-format off
enum cap {
    CAP_NONE, /* always there */
    CAP_FILEINTO, CAP_ENVELOPE, CAP_ENCODED_CHARACTER, CAP_VARIABLES, CAP_BODY, CAP_RELATIONAL, CAP_SUBADDRESS, CAP_REGEX, CAP_COPY, CAP_DATE,
    CAP_INDEX, CAP_EDITHEADER, CAP_IMAP4FLAGS, CAP_MAILBOX, CAP_MAILBOXID, CAP_SPECIAL_USE, CAP_MBOXMETADATA, CAP_SERVERMETADATA,
    CAP_FOREVERYPART, CAP_MIME, CAP_REPLACE, CAP_ENCLOSE, CAP_EXTRACTTEXT, CAP_ENOTIFY, CAP_IHAVE, CAP_INCLUDE, CAP_DUPLICATE, CAP_VACATION,
    CAP_VACATION_SECONDS, CAP_REJECT, CAP_EREJECT, CAP_REDIRECT_DSN, CAP_REDIRECT_DELIVERBY, CAP_ENVELOPE_DSN, CAP_ENVELOPE_DELIVERBY,
    CAP_ENVIRONMENT, CAP_EXTLISTS, CAP_SPAMTEST, CAP_SPAMTESTPLUS, CAP_VIRUSTEST, CAP_FCC, CAP_IMAPSIEVE,
    CAP_COMPARATOR_OCTET, CAP_COMPARATOR_CASEMAP, CAP_COMPARATOR_NUMERIC, CAP_COMPARATOR_UNICODE,
    CAP_V_ENVIRONMENT, CAP_V_DEBUG, CAP_V_DUPLICATE,
    CAP_EXTRA,
    CAPS_
};
// clang-format on

// clang-format off
enum op {
    OP_END,
    /* control */
    OP_REQUIRE, OP_IF, OP_ELSIF, OP_ELSE, OP_STOP, OP_ERROR, OP_INCLUDE, OP_RETURN, OP_GLOBAL, OP_FOREVERYPART, OP_BREAK,
    /* actions */
    OP_KEEP, OP_DISCARD, OP_FILEINTO, OP_REDIRECT, OP_REJECT, OP_EREJECT, OP_VACATION, OP_NOTIFY, OP_SET, OP_SETFLAG, OP_ADDFLAG, OP_REMOVEFLAG,
    OP_ADDHEADER, OP_DELETEHEADER, OP_REPLACE, OP_ENCLOSE, OP_EXTRACTTEXT, OP_DEBUG_LOG,
    /* tests */
    OP_TRUE, OP_FALSE, OP_NOT, OP_ALLOF, OP_ANYOF, OP_ADDRESS, OP_HEADER, OP_ENVELOPE, OP_EXISTS, OP_SIZE, OP_STRING, OP_HASFLAG, OP_BODY, OP_DATE,
    OP_CURRENTDATE, OP_MAILBOXEXISTS, OP_MAILBOXIDEXISTS, OP_SPECIALUSE_EXISTS, OP_METADATA, OP_METADATAEXISTS, OP_SERVERMETADATA,
    OP_SERVERMETADATAEXISTS, OP_VALID_NOTIFY_METHOD, OP_NOTIFY_METHOD_CAPABILITY, OP_IHAVE, OP_DUPLICATE, OP_ENVIRONMENT, OP_VALID_EXT_LIST,
    OP_SPAMTEST, OP_VIRUSTEST,
    OP_UNKNOWN,               /* under ihave: an error only if it is reached */
    OP_EXTRA                  /* + place in sieve_options.extra */
};
// clang-format on

#define ITEM_KIND(id) ((id)&0xc0)
enum { ITEM_FLAG = 0x00, ITEM_NUMBER = 0x40, ITEM_STRING = 0x80, ITEM_LIST = 0xc0 };
// clang-format off
enum item_id {
    I_NONE,
    I_COPY, I_CREATE, I_OVER, I_UNDER, I_LAST, I_RAW, I_TEXT, I_MIME, I_ANYCHILD, I_TYPE, I_SUBTYPE, I_CONTENTTYPE, I_ONCE, I_OPTIONAL, I_GLOBAL,
    I_LOWER, I_UPPER, I_LOWERFIRST, I_UPPERFIRST, I_QUOTEWILDCARD, I_QUOTEREGEX, I_LENGTH, I_ENCODEURL, I_PERCENT, I_ORIGINALZONE, I_BYTRACE, I_LISTS,
    I_EXTRA_FLAG = 0x30,      /* + place of the tag */
    I_MATCH = ITEM_NUMBER, I_COMPARATOR, I_PART, I_INDEX, I_SIZE, I_DAYS, I_SECONDS, I_FIRST, I_NUMBER_1,
    I_EXTRA_NUMBER = 0x60,    /* + place of the tag */
    I_STRING_1 = ITEM_STRING, I_STRING_2, I_STRING_3, I_FLAGS_VARIABLE, I_ZONE, I_DATE_PART, I_SUBJECT, I_FROM, I_HANDLE, I_FCC, I_SPECIAL_USE,
    I_MAILBOXID, I_NOTIFY, I_RET, I_BYTIME_RELATIVE, I_BYTIME_ABSOLUTE, I_BYMODE, I_IMPORTANCE, I_MESSAGE, I_NAME, I_HEADER, I_UNIQUEID, I_REASON,
    I_EXTRA_STRING = 0xa8,    /* + place of the tag */
    I_LIST_1 = ITEM_LIST, I_LIST_2, I_LIST_3, I_FLAGS, I_ADDRESSES, I_OPTIONS, I_CONTENT, I_PARAM
};
// clang-format on

enum match_type { MATCH_IS, MATCH_CONTAINS, MATCH_MATCHES, MATCH_REGEX, MATCH_COUNT, MATCH_VALUE, MATCH_LIST };
enum relation { REL_GT, REL_GE, REL_LT, REL_LE, REL_EQ, REL_NE };
enum comparator { CMP_CASEMAP, CMP_OCTET, CMP_NUMERIC, CMP_UNICODE };
enum address_part { PART_ALL, PART_LOCALPART, PART_DOMAIN, PART_USER, PART_DETAIL };
/* I_MATCH: the type, and its relation times 16. */

#define NODE_HEAD 7u
struct node {
    enum op op;
    unsigned line;
    const unsigned char *p, *end; /* what is inside */
};
/* The node at *p, which moves behind it. False at the end. */
bool node_next(const unsigned char **p, const unsigned char *end, struct node *out);

#define ITEMS_MAX 24u
struct sv_string {
    str text;
    bool has_vars;
};
struct item {
    unsigned char id;
    uint64_t number; /* of a list: how many strings */
    struct sv_string string;
    struct cursor list; /* its strings */
};
struct call {
    struct node node;
    struct item items[ITEMS_MAX];
    size_t n;
    const unsigned char *block; /* up to node.end */
};
void call_of(const struct node *n, struct call *out);
const struct item *call_item(const struct call *c, unsigned char id); /* NULL: it is absent */
bool sv_string_next(struct cursor *list, struct sv_string *out);

struct sieve_program {
    uint32_t n_code;
    uint64_t caps;    /* that it has asked for, by require or ihave */
    uint64_t offered; /* that there are, for ihave */
    unsigned char code[];
};
static inline bool program_has(const struct sieve_program *p, enum cap c)
{
    return p->caps >> c & 1;
}

/* --- specifications (spec.c) --- */
struct cap_spec {
    const char *name;
    enum cap cap;
    bool is_hidden; /* not announced: another name for one that is */
};
extern const struct cap_spec cap_specs[];
bool cap_find(str name, enum cap *out);
const char *cap_name(enum cap c);

enum tag_kind {
    TAG_PLAIN,
    TAG_STRING,
    TAG_LIST,
    TAG_NUMBER,
    TAG_MATCH,
    TAG_RELATION,
    TAG_COMPARATOR,
    TAG_PART,
    TAG_SIZE,
    TAG_MIME_OPT
};
struct tag_spec {
    const char *name;
    enum tag_kind kind;
    unsigned char item;
    enum cap cap, cap2; /* both are needed */
    int value;          /* MATCH: type; PART: part */
};
#define TAG_GROUPS_MAX 5u
enum block_kind { BLOCK_NONE, BLOCK_YES };
struct call_spec {
    const char *name;
    enum op op;
    bool is_test;
    enum cap cap, other_cap; /* either one will do */
    const char *arguments;   /* s string, l list, n number, one for each; a leading '?' makes the first optional */
    const struct tag_spec *groups[TAG_GROUPS_MAX];
    enum block_kind block;
};
extern const struct call_spec call_specs[];
const struct call_spec *call_spec_find(str name, bool is_test);
const struct call_spec *call_spec_of(enum op op);

/* --- words of the language that are checked when they are constant, and again when they were made at run time
 * (words.c) --- */
bool word_header_name(str s);                          /* RFC 5322 2.2 */
bool word_variable_name(str s, str *space, str *name); /* "a.b.c": namespace "a.b" and name */
bool word_comparator(str s, enum comparator *out, enum cap *cap);
bool word_relation(str s, enum relation *out);
bool word_flag(str s);                               /* one flag or keyword that IMAP can have */
bool word_address(str s, struct arena *a, str *out); /* one bare address, RFC 5228 2.4.2.3 */
bool word_date_part(str s);
bool word_zone(str s, int *minutes);         /* "+0100" */
bool word_mailbox(str s);                    /* UTF-8 without control characters, not too long */
const char *word_regex_problem(str pattern); /* NULL: it is a pattern */
bool word_notify_option(str s);
bool word_uri_mailto(str s, struct arena *a, const char **problem);

#endif
