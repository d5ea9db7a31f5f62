/*
 * name.h: addresses as the directory compares them.
 *
 * A key is local@domain: the local part in NFC with its letters folded to lower case, one by one, as Unicode says; the
 * domain as A-labels in lower case. Two spellings of one mailbox have one key.
 */
#ifndef AUTH_SERVICE_NAME_H
#define AUTH_SERVICE_NAME_H

#include "base/arena.h"
#include "base/err.h"

#define NAME_KEY_MAX 512u

struct name {
    str key;     /* fold(local)@domain */
    str local;   /* folded, without quotes */
    str domain;  /* A-label form */
    str address; /* as given, the domain in A-label form: what is shown */
};
/* Parse an address, without angle brackets. All in the arena. Errors: INVALID, LIMIT (too long). */
bool name_parse(str address, struct arena *a, struct name *out, struct err *err) WARN_UNUSED;
/* Whether a new account or alias may be called so: nothing in the local part is invisible (zero-width and other
 * default-ignorable characters), so that two names that look the same are the same. Others' addresses are not asked. */
bool name_is_visible(const struct name *n, struct err *err) WARN_UNUSED;
/* A domain name alone. */
bool name_domain(str domain, struct arena *a, str *out, struct err *err) WARN_UNUSED;
/* "user+detail": the base part and the detail; false when there is none. The base is never empty. RFC 5233. */
bool name_split_detail(str local, str *base, str *detail) WARN_UNUSED;
str name_key(str folded_local, str domain, struct arena *a);

#endif
