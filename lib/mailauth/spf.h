/*
 * spf.h: Sender Policy Framework, RFC 7208: may this client send for this domain?
 */
#ifndef MAILAUTH_SPF_H
#define MAILAUTH_SPF_H

#include "mailauth/dns.h"

#define SPF_TERMS_MAX 10u /* that ask the DNS, RFC 7208 4.6.4 */
#define SPF_VOID_MAX 2u   /* of these without an answer */
#define SPF_HOSTS_MAX 10u /* of one mx or ptr */

enum spf_result { SPF_NONE, SPF_NEUTRAL, SPF_PASS, SPF_FAIL, SPF_SOFTFAIL, SPF_TEMPERROR, SPF_PERMERROR };
const char *spf_result_name(enum spf_result r); /* as in RFC 8601 2.7.2 */

struct spf_query {
    struct auth_ip client;
    str helo;
    str sender;   /* of MAIL FROM; empty for <>, whose identity is postmaster@helo (RFC 7208 2.4) */
    str receiver; /* name of this host; empty = unknown */
    int64_t now_unix;
};
struct spf_verdict {
    enum spf_result result;
    str domain;    /* that was asked about */
    str mechanism; /* the term that decided, as published; empty when none did */
    /* SPF_FAIL: what the domain says about it; plain ASCII, empty when it says nothing. Not to be trusted */
    str explanation;
    str problem; /* of temperror, permerror and none: what, in words */
};

/*
 * check_host() for the identity of MAIL FROM. Suspends in dns->ask, at most some 130 times; the fiber's deadline bounds
 * it. Texts are in `a`, which needs 256 KiB.
 */
FIBER void spf_check(struct auth_dns *dns, const struct spf_query *q, struct arena *a, struct spf_verdict *out);
/* The same for the HELO identity (RFC 7208 2.3). */
FIBER void spf_check_helo(struct auth_dns *dns, const struct spf_query *q, struct arena *a, struct spf_verdict *out);

#endif
