/*
 * dns.h: how the engines of this folder ask the DNS: through this seam only, so that a test gives the answers.
 */
#ifndef MAILAUTH_DNS_H
#define MAILAUTH_DNS_H

#include "base/arena.h"

struct auth_ip {
    bool is_v6;
    unsigned char b[16]; /* 4 of them for IPv4 */
};
/* "192.0.2.1", "2001:db8::1". An IPv4-mapped IPv6 address becomes an IPv4 address. */
bool auth_ip_parse(str s, struct auth_ip *out) WARN_UNUSED;
str auth_ip_print(const struct auth_ip *ip, struct arena *a);
/* Whether the first bits of both are equal; false for addresses of two kinds. */
bool auth_ip_in(const struct auth_ip *ip, const struct auth_ip *net, unsigned bits);
/* "1.2.0.192.in-addr.arpa" and its like in ip6.arpa. */
str auth_ip_arpa(const struct auth_ip *ip, struct arena *a);

enum auth_dns_type { AUTH_DNS_TXT, AUTH_DNS_A, AUTH_DNS_AAAA, AUTH_DNS_MX, AUTH_DNS_PTR };
enum auth_dns_result {
    AUTH_DNS_FOUND,  /* at least one record */
    AUTH_DNS_NODATA, /* the name is there, without such a record */
    AUTH_DNS_NXDOMAIN,
    AUTH_DNS_TEMP /* no answer in time, SERVFAIL, bogus */
};
struct auth_dns_answer {
    enum auth_dns_result result;
    bool is_secure; /* DNSSEC said so */
    size_t n;
    struct auth_dns_record {
        str text;            /* TXT: its strings joined; MX and PTR: the name without its final dot */
        struct auth_ip ip;   /* A, AAAA */
        unsigned preference; /* MX */
    } * v;                   /* ascending preference; in the asker's arena */
};

/*
 * Somebody who asks. May suspend; obeys the fiber's deadline, after which the answer is TEMP. Follows CNAMEs. The name
 * has no final dot and is at most 253 bytes; its labels may be of any bytes but dots and NUL.
 */
struct auth_dns {
    FIBER void (*ask)(struct auth_dns *dns, enum auth_dns_type type, str name, struct arena *a,
                      struct auth_dns_answer *out);
};

/* Whether a text can be a domain name to be asked for: labels of 1 to 63 bytes, at most 253 in all, a final dot
 * allowed. */
bool auth_name_ok(str name);
/* Whether the name is the domain, or lies below it. */
bool auth_name_below(str name, str domain);
/* A name without its final dot. */
static inline str auth_name_trim(str name)
{
    return str_ends(name, S(".")) ? str_slice(name, 0, name.n - 1) : name;
}

#endif
