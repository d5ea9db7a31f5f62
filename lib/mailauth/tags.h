/*
 * tags.h: lists of tag=value, as DKIM signatures and key records (RFC 6376 3.2), ARC, DMARC and MTA-STS records have
 * them.
 */
#ifndef MAILAUTH_TAGS_H
#define MAILAUTH_TAGS_H

#include "base/arena.h"

#define TAGS_MAX 64u

struct tag {
    str name;
    str value; /* white space at both ends removed; what is folded is left so */
};
struct tags {
    struct tag v[TAGS_MAX];
    size_t n;
};
/* False: an entry is no tag, a name is there twice, or there are more than TAGS_MAX. Views of text. */
bool tags_parse(str text, struct tags *out) WARN_UNUSED;
/* The same, leaving out what is no tag and the later ones of a name (DMARC, RFC 9989 4.7). */
void tags_parse_lenient(str text, struct tags *out);
/* The value of that tag (names are case-sensitive, RFC 6376 3.2); NULL when it is not there. */
const str *tags_get(const struct tags *t, const char *name);

/* Without any white space, in a. */
str tag_compact(str value, struct arena *a);
/* Base64 with white space in it, decoded, in a. */
bool tag_base64(str value, struct arena *a, str *out) WARN_UNUSED;
/* The next word of a list with this separator, trimmed; false at the end. */
bool tag_list_next(str *rest, char separator, str *word);
bool tag_list_has(str list, str word); /* of one with colons; ASCII case folded */

#endif
