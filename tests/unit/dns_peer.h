/*
 * dns_peer.h: a DNS server of the test's own: a thread that answers over UDP from a table.
 */
#ifndef UNIT_DNS_PEER_H
#define UNIT_DNS_PEER_H

#include "base/str.h"

/* One record. data by type: A and AAAA an address; MX "10 name"; TXT text ("|" separates strings); PTR and CNAME a
 * name; other types hex. A name with only an "RCODE" record answers with that code; "SILENCE" never answers. */
struct dns_record {
    const char *name, *type, *data;
};
/* Serves until the process ends; returns the port on 127.0.0.1. Other names are NXDOMAIN; a name without the type: no
 * data. */
uint16_t dns_peer_start(const struct dns_record *records, size_t n);
/* From now on nothing is answered (or, with an rcode above 0, everything with that); DNS_PEER_LIT: as in the table
 * again. Answers for names that begin with "short." may not be cached. */
#define DNS_PEER_LIT (-1)
void dns_peer_dark(int rcode);
unsigned dns_peer_queries(void); /* that came in */

#endif
