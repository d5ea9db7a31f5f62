/*
 * policy.h: what a domain publishes about how mail is to reach it: MTA-STS (RFC 8461) and TLS reporting (RFC 8460).
 * Texts only; who fetches and keeps them is elsewhere.
 */
#ifndef MAILAUTH_POLICY_H
#define MAILAUTH_POLICY_H

#include "base/arena.h"

#define MTA_STS_POLICY_MAX 65536u /* bytes of a policy, RFC 8461 3.3 */
#define MTA_STS_MX_MAX 100u
#define MTA_STS_AGE_MAX 31557600u /* seconds, 3.2 */

enum mta_sts_mode { MTA_STS_NONE, MTA_STS_TESTING, MTA_STS_ENFORCE };
struct mta_sts_policy {
    enum mta_sts_mode mode;
    uint32_t max_age_s;
    str *mx; /* patterns, "*.example.org" among them; views of the text */
    size_t n_mx;
};

/* The id of the _mta-sts record among these TXT records (3.1). False: there is none, or more than one. */
bool mta_sts_id(const str *texts, size_t n, str *id) WARN_UNUSED;
/* A policy (3.2). False: *problem says what is wrong with it, and it is as if there were none. */
bool mta_sts_parse(str text, struct arena *a, struct mta_sts_policy *out, const char **problem) WARN_UNUSED;
/* Whether the name of an MX fits one of the patterns (4.1). Addresses never do. */
bool mta_sts_allows(const struct mta_sts_policy *p, str mx);

/* The rua= of the _smtp._tls record among these (RFC 8460 3): URIs with commas between. False: none, or more than one
 * record. */
bool tls_rpt_addresses(const str *texts, size_t n, str *rua) WARN_UNUSED;

#endif
