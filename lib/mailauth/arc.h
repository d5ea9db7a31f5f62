/*
 * arc.h: Authenticated Received Chain, RFC 8617: what those before us saw, sealed by each of them.
 */
#ifndef MAILAUTH_ARC_H
#define MAILAUTH_ARC_H

#include "mailauth/dkim.h"

#define ARC_INSTANCES_MAX 50u /* RFC 8617 4.2.1 */

enum arc_status { ARC_NONE, ARC_PASS, ARC_FAIL, ARC_TEMP }; /* TEMP: the DNS did not answer for a key */
const char *arc_status_name(enum arc_status s);             /* "none", "pass", "fail" */

struct arc_set {
    struct header_field results; /* ARC-Authentication-Results */
    struct header_field message_field, seal_field;
    struct signature message, seal;
    str cv;
};
struct arc_chain {
    enum arc_status status;
    const char *problem;  /* of FAIL and TEMP */
    unsigned failed_at;   /* the instance that it is about; 0 = the chain as such */
    struct arc_set *sets; /* 1..n at [0..n-1]; whole only when the structure is right */
    unsigned n;
    str header;
};

/* Read the sets of a header and ask for the body hash of the newest. Texts are views of header or in a. */
void arc_begin(struct arc_chain *c, str header, struct body_hashes *bodies, struct arena *a);
/* Check the newest message signature and every seal. Suspends in dns->ask, once for each instance and once more. */
FIBER void arc_check(struct arc_chain *c, const struct body_hashes *bodies, struct auth_dns *dns, struct arena *a);

/*
 * A new set for a message that goes on from here, in three steps, since it has two signatures and the second covers the
 * first: arc_prepare makes the results and the message signature without its b=, with what is to be signed;
 * arc_prepare_seal, with that signature, the seal without its b=; dkim_finish puts a signature into either. They go to
 * the top of the header in the order seal, message, results. how->auid is not used. results: what was found here, as in
 * Authentication-Results without its name ("mx.example; spf=pass …"). False: no set can be added (the chain has failed
 * in an earlier instance, or is at its end).
 */
struct arc_sealing {
    unsigned instance;
    const char *cv;
    str results, message, seal; /* whole fields with their line ends */
};
bool arc_prepare(const struct arc_chain *c, const struct dkim_signing *how, str header,
                 const unsigned char body_hash[BODY_HASH_SIZE], str results, struct arena *a, struct arc_sealing *out,
                 unsigned char digest[DKIM_DIGEST_SIZE]) WARN_UNUSED;
void arc_prepare_seal(const struct arc_chain *c, const struct dkim_signing *how, struct arena *a, struct arc_sealing *s,
                      unsigned char digest[DKIM_DIGEST_SIZE]);

#endif
