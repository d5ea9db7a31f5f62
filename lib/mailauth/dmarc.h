/*
 * dmarc.h: Domain-based Message Authentication, Reporting and Conformance, RFC 9989: does what was authenticated belong
 * to the author's domain, and what does its owner want to be done with mail where it does not?
 *
 * Organizational domains are found by the DNS tree walk (4.10), not by a list of public suffixes.
 */
#ifndef MAILAUTH_DMARC_H
#define MAILAUTH_DMARC_H

#include "mailauth/dns.h"

#define DMARC_QUERIES_MAX 8u /* of one tree walk, 4.10 */
#define DMARC_AUTHORS_MAX 8u /* domains in From that are looked at: with more the message is refused */

enum dmarc_policy { DMARC_POLICY_NONE, DMARC_POLICY_QUARANTINE, DMARC_POLICY_REJECT };
enum dmarc_result { DMARC_NONE, DMARC_PASS, DMARC_FAIL, DMARC_TEMPERROR, DMARC_PERMERROR };
const char *dmarc_policy_name(enum dmarc_policy p);
const char *dmarc_result_name(enum dmarc_result r); /* as in RFC 8601 */

struct dmarc_record {
    str domain;                  /* where it was found; without _dmarc */
    enum dmarc_policy p, sp, np; /* sp and np: what applies when they are absent, too */
    bool has_sp, has_np;
    char psd; /* y, n, u */
    bool is_dkim_strict, is_spf_strict;
    bool is_testing; /* t=y */
    str rua, ruf;    /* as published */
    str fo;          /* "0" when absent */
};
/* One TXT record. False: it is none of DMARC's (4.7: v=DMARC1 must come first), or to be left alone (4.10.1). */
bool dmarc_record_parse(str text, struct dmarc_record *out) WARN_UNUSED;
/* The next mailto: address of rua or ruf, with an obsolete size cut off; in a. False at the end; other schemes are
 * passed over. */
bool dmarc_uri_next(str *list, struct arena *a, str *address);

/*
 * The domains of the message's From fields, in A-label form, each once. *n is 0 when there is none or one cannot be
 * read, which no honest message has; more than DMARC_AUTHORS_MAX are as bad, and *n is 0 then, too.
 */
void dmarc_authors(str header, struct arena *a, str authors[DMARC_AUTHORS_MAX], size_t *n);

struct dmarc_input {
    const str *authors; /* of dmarc_authors */
    size_t n_authors;
    str spf_domain;  /* of MAIL FROM, or of HELO where that was empty; empty unless SPF passed */
    const str *dkim; /* d= of every signature that passed */
    size_t n_dkim;
    bool is_incomplete; /* SPF or a key got no answer from the DNS: what would be FAIL is TEMPERROR (5.3.6) */
};
struct dmarc_verdict {
    enum dmarc_result result;
    enum dmarc_policy policy;   /* that the owner asks for, sp and np considered */
    enum dmarc_policy to_apply; /* the same with t=y considered; NONE unless result is FAIL */
    struct dmarc_record record; /* of the author's domain; domain empty when there is none */
    str author;                 /* the domain it is about: with several, the one that decided */
    bool is_spf_aligned, is_dkim_aligned;
    const char *problem; /* why it is not PASS */
};
/* Suspends in dns->ask: up to 8 questions for each different domain, and 3 for one that may not exist. */
FIBER void dmarc_check(struct auth_dns *dns, const struct dmarc_input *in, struct arena *a, struct dmarc_verdict *out);

/* The organizational domain of a name, by its own tree walk (4.10.2). False: the DNS did not answer. */
FIBER bool dmarc_organization(struct auth_dns *dns, str domain, struct arena *a, str *out);

#endif
