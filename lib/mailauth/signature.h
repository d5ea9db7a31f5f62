/*
 * signature.h: one signature as a header field holds it (RFC 6376 3.5; of ARC-Message-Signature RFC 8617 4.1.2), and
 * its check.
 */
#ifndef MAILAUTH_SIGNATURE_H
#define MAILAUTH_SIGNATURE_H

#include "mail/header.h"
#include "mailauth/canon.h"
#include "mailauth/key.h"

#define SIGNED_FIELDS_MAX 1000u /* names in h= */

enum dkim_result { DKIM_NONE, DKIM_PASS, DKIM_FAIL, DKIM_POLICY, DKIM_NEUTRAL, DKIM_TEMPERROR, DKIM_PERMERROR };
const char *dkim_result_name(enum dkim_result r); /* as in RFC 8601 2.7.1 */

struct signature {
    struct header_field field;
    enum dkim_algorithm algorithm;
    enum canon header_form, body_form;
    str domain, selector;              /* d=, s=, as written */
    str auid;                          /* i=; "@d" when absent */
    str body_hash, value;              /* decoded */
    str names;                         /* h= */
    uint64_t length;                   /* l=, or CANON_NO_LENGTH */
    int64_t signed_unix, expires_unix; /* t=, x=; -1 = absent */
    unsigned instance;                 /* of ARC */
    int body_at;                       /* place in body_hashes, -1 = none was wanted */
};

/* Parse the field. False: what is wrong, in words (permerror). is_arc: i= is the instance and there is no v=. */
bool signature_parse(const struct header_field *field, bool is_arc, struct arena *a, struct signature *out,
                     const char **problem);

/* The digest of the header fields that h= names, from the last one up, and of the field itself without its b=. */
void signature_digest(const struct signature *s, str header, unsigned char out[DKIM_DIGEST_SIZE]);
/* A field without the value of its b=, as it is signed: canonical, without its line end (3.7). */
void signature_unsigned_field(enum canon form, str raw_field, struct buf *out);

/*
 * Find the key and check the signature over the digest. Suspends in dns->ask, once. *is_testing: the record says t=y.
 * PASS, FAIL (the signature does not fit), POLICY (too short a key), TEMPERROR, PERMERROR; *problem says why it is not
 * PASS.
 */
FIBER enum dkim_result signature_check(struct auth_dns *dns, const struct signature *s,
                                       const unsigned char digest[DKIM_DIGEST_SIZE], struct arena *a,
                                       const char **problem, bool *is_testing);

#endif
