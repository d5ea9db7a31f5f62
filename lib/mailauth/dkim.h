/*
 * dkim.h: DomainKeys Identified Mail, RFC 6376 with RFC 8301 and RFC 8463: verifying the signatures of a message, and
 * making ours.
 *
 * The header is there before the body: dkim_begin reads which hashes of the body will be needed, the body is fed to
 * them while it streams in (together with what ARC and signing want), and then each signature is checked.
 */
#ifndef MAILAUTH_DKIM_H
#define MAILAUTH_DKIM_H

#include "mailauth/signature.h"

#define DKIM_SIGNATURES_MAX 8u /* that are looked at, from the top: the others are left out */

struct dkim_verdict {
    enum dkim_result result;
    struct signature sig; /* domain and selector may be empty when it is damaged */
    const char *problem;  /* why it is not PASS */
    bool is_testing;      /* the key's record says t=y */
    bool is_partial;      /* l= leaves the end of the body unsigned: not to be relied on (8.2); never PASS */
};
struct dkim_message {
    str header;
    struct dkim_verdict v[DKIM_SIGNATURES_MAX];
    size_t n;
    bool is_cut; /* there are more */
};

/* Read the signatures of a header (all of it, with or without its blank line) and ask for their body hashes. Texts are
 * views of header or in a. */
void dkim_begin(struct dkim_message *m, str header, struct body_hashes *bodies, struct arena *a);
/* Check signature i; the bodies have ended. Suspends in dns->ask, once; signatures may be checked side by side. */
FIBER void dkim_check(struct dkim_message *m, size_t i, const struct body_hashes *bodies, struct auth_dns *dns,
                      int64_t now_unix, struct arena *a);

/* --- signing --- */

struct dkim_signing {
    enum dkim_algorithm algorithm;
    enum canon header_form, body_form;
    str domain, selector;
    str auid; /* empty: none */
    int64_t now_unix;
    int64_t lifetime_s; /* 0: no x= */
};
/* The fields that are signed where they are there, as many as there are; those marked in dkim.c are signed once more
 * than there are, so that none can be added. Lower case, NULL at the end. */
extern const char *const dkim_signed_fields[];
/*
 * The DKIM-Signature field with an empty b=, folded, with its line end, in a; and the digest that is to be signed. The
 * body's hash is of body_form without a length.
 */
str dkim_prepare(const struct dkim_signing *how, str header, const unsigned char body_hash[BODY_HASH_SIZE],
                 struct arena *a, unsigned char digest[DKIM_DIGEST_SIZE]);
/* The same for a field that begins otherwise: "ARC-Message-Signature: i=1;" (RFC 8617 4.1.2), which has no v= and i= of
 * its own. */
str dkim_prepare_field(const struct dkim_signing *how, str beginning, str header,
                       const unsigned char body_hash[BODY_HASH_SIZE], struct arena *a,
                       unsigned char digest[DKIM_DIGEST_SIZE]);
/* The same field with the signature in it. Folding does not matter to the digest: b= is signed as if it were empty. */
str dkim_finish(str prepared, str signature, struct arena *a);

#endif
