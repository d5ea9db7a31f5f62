/*
 * dns.h: DNS by libunbound, asynchronous, with answers that say whether DNSSEC vouches for them.
 *
 * Servers, their port and timeouts are settings, so that a test can stand in for the world. Answers are cached by
 * libunbound, and the last good one is kept for a day: it is given again while the name's servers do not answer
 * (RFC 8767). Errors: NOT_FOUND (no such name, or no such record), UNAVAILABLE (SERVFAIL, bogus), TIMEOUT.
 */
#ifndef NET_DNS_H
#define NET_DNS_H

#include "base/arena.h"
#include "net/addr.h"

struct dns;

struct dns_opts {
    const str *servers; /* "192.0.2.53" or "127.0.0.1:5300"; none = /etc/resolv.conf */
    size_t n_servers;
    str trust_anchor_file; /* empty = no DNSSEC validation here */
    unsigned timeout_ms;   /* for one look-up; default 5000 */
};
/* Whether this may stand among the servers; the error is "'…', which is no address like …". */
bool dns_check_server(str server, struct err *err) WARN_UNUSED;
struct dns *dns_new(const struct dns_opts *opts, struct err *err) WARN_UNUSED;
void dns_free(struct dns *d);

struct dns_mx {
    uint16_t preference;
    str name; /* lower case, without the final dot; empty for a null MX (RFC 7505) */
};
/* Sorted by preference, equal ones shuffled. At most 100. is_secure: DNSSEC-validated. Suspends. */
FIBER bool dns_mx(struct dns *d, str domain, struct arena *a, struct dns_mx **out, size_t *n, bool *is_secure,
                  struct err *err) WARN_UNUSED;
/* AAAA and A, at most 16 of each. */
FIBER bool dns_ips(struct dns *d, str name, struct arena *a, struct net_addr **out, size_t *n, bool *is_secure,
                   struct err *err) WARN_UNUSED;
/* TXT records, each joined to one string. */
FIBER bool dns_txt(struct dns *d, str name, struct arena *a, str **out, size_t *n, bool *is_secure, struct err *err)
    WARN_UNUSED;
FIBER bool dns_ptr(struct dns *d, const struct net_addr *ip, struct arena *a, str **out, size_t *n, struct err *err)
    WARN_UNUSED;
/* Raw RDATA of any type (TLSA = 52). */
FIBER bool dns_raw(struct dns *d, str name, int rrtype, struct arena *a, str **out, size_t *n, bool *is_secure,
                   struct err *err) WARN_UNUSED;

#endif
