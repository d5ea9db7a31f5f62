/*
 * auth_zone.h: a DNS in memory for the engines of lib/mailauth.
 */
#ifndef TESTS_AUTH_ZONE_H
#define TESTS_AUTH_ZONE_H

#include "mailauth/dns.h"

struct auth_zone {
    struct auth_dns dns;
    struct zone_record {
        str name;
        enum { ZONE_RECORD, ZONE_CNAME, ZONE_TIMEOUT } kind; /* TIMEOUT: for each type that is not there */
        enum auth_dns_type type;
        str value; /* text, address, name */
        unsigned preference;
    } v[4000];
    size_t n;
    unsigned n_asked;
};

void zone_init(struct auth_zone *z);
/* type: TXT A AAAA MX PTR CNAME TIMEOUT; MX as "10 host". Texts are borrowed. */
void zone_add(struct auth_zone *z, const char *name, const char *type, const char *value);
void zone_add_str(struct auth_zone *z, const char *name, const char *type, str value); /* with any bytes */

#endif
