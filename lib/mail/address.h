/*
 * address.h: mailbox addresses, as header fields hold them and as SMTP paths hold them.
 *
 * The header parser (RFC 5322 3.4 with its obsolete forms, RFC 6532) never fails: what cannot be understood comes out
 * as the best guess, so that IMAP, JMAP and replies have something to show. The path parser (RFC 5321 4.1.2, RFC 6531)
 * is strict, because relaying decisions stand on it.
 */
#ifndef MAIL_ADDRESS_H
#define MAIL_ADDRESS_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"

/*
 * One row of an address list. A group is a row with only group_start set, its members, and a row with only
 * is_group_end. All views live in the arena that was given.
 */
struct mail_address {
    str name;        /* display name (or the comment of `a@b (Name)`), decoded to UTF-8 */
    str raw_name;    /* the same before decoding, unquoted: encoded words are kept (IMAP ENVELOPE) */
    str local;       /* without quotes */
    str domain;      /* as written, comments and white space removed; empty when there was none */
    str route;       /* obsolete source route, "@a,@b"; empty when there was none */
    str group_start; /* name of the group, decoded; p is not NULL in such a row even when the name is empty */
    bool is_group_end;
};
struct address_list {
    struct mail_address *v;
    size_t n;
    bool is_cut; /* there were more than max */
    size_t cap;  /* of v, for who adds to it; 0: no more than n */
};
#define ADDRESS_LIST_MAX 10000u /* what the MIME parser keeps of one field */

/* Parse the value of From, To, … (folded or not). *out lives in a; at most max rows are kept. */
void address_list_parse(struct arena *a, str value, size_t max, struct address_list *out);

/* --- SMTP --- */
#define SMTP_LOCAL_MAX 64u   /* RFC 5321 4.5.3.1.1 */
#define SMTP_DOMAIN_MAX 255u /* RFC 5321 4.5.3.1.2 */
#define SMTP_PATH_MAX 512u   /* our bound of a whole path; RFC 5321 asks for at least 256 */

struct smtp_path {
    str address;   /* local@domain in its shortest form, as given in spelling; empty for <> and not for <Postmaster> */
    str local;     /* content of a quoted string without its quotes and backslashes */
    str domain;    /* empty for <Postmaster>; "[192.0.2.1]" for a literal */
    bool is_null;  /* <> */
    bool has_utf8; /* needs SMTPUTF8 */
    bool is_literal; /* the domain is an address literal */
};
/*
 * Parse a Path at the cursor: "<" [source route ":"] Mailbox ">" or "<>"; a source route is checked and dropped (RFC
 * 5321 appendix C). allow_utf8 admits RFC 6531 characters. The local part's and the domain's lengths are bounded as
 * above. Domains must be syntactically host names (or A-/U-labels, or literals IPv4/IPv6); *out lives in a. Errors:
 * INVALID (syntax), LIMIT (too long).
 */
bool smtp_path_parse(struct cursor *c, bool allow_utf8, struct arena *a, struct smtp_path *out, struct err *err)
    WARN_UNUSED;
/* The same for a bare local@domain, all of s. */
bool smtp_mailbox_parse(str s, bool allow_utf8, struct arena *a, struct smtp_path *out, struct err *err) WARN_UNUSED;

/* Domain name to its A-label form in lower case (IDNA 2008, libidn2, non-transitional); literals as they are, lower
 * case. */
bool domain_normalize(str domain, struct arena *a, str *out, struct err *err) WARN_UNUSED;
/* Whether the last label is all digits, as of an IPv4 address: no name of the DNS ends so (RFC 3696 section 2). */
bool domain_is_number(str domain);
/* local@A-label-domain: the local part as it is (quoted only if it must be). */
bool address_normalize(str local, str domain, struct arena *a, str *out, struct err *err) WARN_UNUSED;
/* Write the local part, with quotes where RFC 5321 4.1.2 needs them. */
void address_add_local(struct buf *b, str local);
/* Whether two addresses are the same mailbox: local parts byte for byte, domains in A-label form. */
bool address_equal(str a, str b);

#endif
