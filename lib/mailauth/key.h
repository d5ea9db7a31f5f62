/*
 * key.h: keys of DKIM and ARC: the records that publish them (RFC 6376 3.6.1, RFC 8463), and what is done with them.
 */
#ifndef MAILAUTH_KEY_H
#define MAILAUTH_KEY_H

#include "base/err.h"
#include "mailauth/dns.h"

#define DKIM_RSA_BITS_MIN 1024u /* RFC 8301 3.2 */
#define DKIM_RSA_BITS_MAX 8192u /* larger ones would only cost us time */
#define DKIM_DIGEST_SIZE 32u

enum dkim_algorithm { DKIM_RSA_SHA256, DKIM_ED25519_SHA256, DKIM_ALGORITHMS };
const char *dkim_algorithm_name(enum dkim_algorithm a); /* "rsa-sha256" */

struct dkim_key_record {
    enum dkim_algorithm algorithm;
    str p;           /* decoded */
    bool is_testing; /* t=y */
    bool is_strict;  /* t=s: i= must be of d= itself */
};
enum dkim_key_status {
    DKIM_KEY_OK,
    DKIM_KEY_OTHER,   /* of a kind that we do not know, or not for mail: as if it were not there */
    DKIM_KEY_REVOKED, /* p= is empty */
    DKIM_KEY_BAD
};
enum dkim_key_status dkim_key_parse(str text, struct arena *a, struct dkim_key_record *out);

/* Whether the signature over the digest is of this key. *problem: what is wrong with the key itself, else NULL. */
bool dkim_key_verify(const struct dkim_key_record *key, const unsigned char digest[DKIM_DIGEST_SIZE], str signature,
                     const char **problem);

/*
 * A private key. Made and used where keys are kept, and nowhere else.
 */
struct dkim_private_key;
/* Errors: INVALID (no PEM of an RSA key of 1,024 to 8,192 bits or an Ed25519 key). */
struct dkim_private_key *dkim_private_key_load(str pem, struct err *err) WARN_UNUSED;
/* bits: of RSA. Takes up to seconds: from the work pool. Errors: INTERNAL. */
struct dkim_private_key *dkim_private_key_make(enum dkim_algorithm algorithm, unsigned bits, struct err *err)
    WARN_UNUSED;
void dkim_private_key_free(struct dkim_private_key *k);
DEFINE_CLEANUP(struct dkim_private_key, dkim_private_key_free)
enum dkim_algorithm dkim_private_key_algorithm(const struct dkim_private_key *k);
/* As PEM (PKCS #8), in a. Secret: wipe it. */
str dkim_private_key_pem(const struct dkim_private_key *k, struct arena *a);
/* The text of the key record to publish, in a. */
str dkim_private_key_record(const struct dkim_private_key *k, struct arena *a);
/* The signature over the digest, in a. RSA-2048 takes about 600 us. Errors: INTERNAL. */
bool dkim_private_key_sign(const struct dkim_private_key *k, const unsigned char digest[DKIM_DIGEST_SIZE],
                           struct arena *a, str *out, struct err *err) WARN_UNUSED;

#endif
