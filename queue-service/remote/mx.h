/*
 * mx.h: where a domain's mail goes (RFC 5321 5.1, RFC 7505), and which addresses may be connected to.
 */
#ifndef QUEUE_SERVICE_REMOTE_MX_H
#define QUEUE_SERVICE_REMOTE_MX_H

#include "base/list.h"
#include "base/map.h"
#include "queue-service/remote/remote.h"

#define MX_CACHE_MAX 4096u
#define MX_CACHE_MS 60000
#define MX_KEY_MAX 512u      /* longer lists of hosts are cut, and told apart by a hash */
#define MX_ADDRESSES_MAX 16u /* of one host */
#define MX_OWN_MAX 64u

/* Answers kept for a minute, and this host's own addresses. */
struct mx {
    struct dns *dns;
    bool allow_private;
    struct map sites; /* domain → struct mx_kept */
    struct list by_age;
    size_t n_kept;
    struct net_addr own[MX_OWN_MAX]; /* of the interfaces, without loopback */
    size_t n_own;
};
void mx_init(struct mx *mx, struct dns *dns, bool allow_private);
void mx_done(struct mx *mx);

/* As remote_resolve. Suspends. */
FIBER bool mx_lookup(struct mx *mx, str domain, struct arena *a, struct remote_site *out, struct err *err) WARN_UNUSED;
/* The key of a site: its hosts' names, sorted, each once. In a. */
str mx_site_key(const struct dns_mx *mx, size_t n, struct arena *a);
/*
 * Addresses of an MX host (or of an address literal), the kinds by turns, without those that are not to be used
 * (is_trusted: the name is the operator's, and all are). Errors: NOT_FOUND (no address), DENIED (none that may be used;
 * the text says why), UNAVAILABLE, TIMEOUT. Suspends.
 */
FIBER bool mx_addresses(struct mx *mx, str host, bool is_trusted, struct arena *a, struct net_addr **out, size_t *n,
                        struct err *err) WARN_UNUSED;
/* Whether an address is on loopback, private, link-local, multicast or reserved. IPv6 forms that embed IPv4 included.
 */
bool mx_is_private(const struct net_addr *addr);

#endif
