#include "queue-service/remote/mx.h"

#include <ifaddrs.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "mail/address.h"

#define KEPT_SIZE_MAX ((size_t)64 * 1024)

/* One cached answer; everything is in its arena. */
struct mx_kept {
    struct list_node node;
    struct arena arena;
    str domain;
    struct remote_site site;
    int64_t ends_mono_ms;
};

/* --- addresses --- */

/* RFC 6890 and its registries: what is not the public internet's. */
static const char *const private_networks[] = {
    "0.0.0.0/8",      "10.0.0.0/8",     "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24",   "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",    "::/127",
    "64:ff9b:1::/48", "100::/64",       "fc00::/7",      "fe80::/9",    "ff00::/8",
};
/* IPv6 networks whose addresses carry an IPv4 address, and where: NAT64, IPv4-compatible, 6to4. (Mapped
 * ones are IPv4 addresses by the time they come here.) */
static const struct {
    const char *network;
    unsigned at;
} embedding_networks[] = {{"64:ff9b::/96", 12}, {"::/96", 12}, {"2002::/16", 2}};

static bool is_in(const char *network, const struct net_addr *addr)
{
    struct net_cidr c;
    struct err err = ERR_INIT;
    if (!net_cidr_parse(str_c(network), &c, &err))
        panic("network %s: %s", network, err.msg);
    return net_cidr_contains(&c, addr);
}

bool mx_is_private(const struct net_addr *addr)
{
    for (size_t i = 0; i < ARRAY_LEN(private_networks); i++)
        if (is_in(private_networks[i], addr))
            return true;
    if (addr->sa.sa_family != AF_INET6)
        return false;
    for (size_t i = 0; i < ARRAY_LEN(embedding_networks); i++) {
        if (!is_in(embedding_networks[i].network, addr))
            continue;
        struct net_addr inner = {.len = sizeof(inner.in4)};
        inner.in4.sin_family = AF_INET;
        memcpy(&inner.in4.sin_addr, &addr->in6.sin6_addr.s6_addr[embedding_networks[i].at], 4);
        return mx_is_private(&inner);
    }
    return false;
}

static void learn_own(struct mx *mx)
{
    struct ifaddrs *list;
    if (getifaddrs(&list) != 0)
        return; /* the greeting's name still finds loops */
    for (struct ifaddrs *i = list; i && mx->n_own < MX_OWN_MAX; i = i->ifa_next) {
        if (!i->ifa_addr || (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6))
            continue;
        struct net_addr *a = &mx->own[mx->n_own];
        *a = (struct net_addr){.len = i->ifa_addr->sa_family == AF_INET ? sizeof(a->in4) : sizeof(a->in6)};
        memcpy(&a->sa, i->ifa_addr, a->len);
        if (!net_addr_is_loopback(a))
            mx->n_own++;
    }
    freeifaddrs(list);
}

static bool is_own(const struct mx *mx, const struct net_addr *addr)
{
    for (size_t i = 0; i < mx->n_own; i++)
        if (net_addr_equal_ip(&mx->own[i], addr))
            return true;
    return false;
}

/* "[192.0.2.1]", "[ipv6:2001:db8::1]" (RFC 5321 4.1.3). */
static bool literal(str host, struct net_addr *out)
{
    if (!str_starts(host, S("[")) || !str_ends(host, S("]")))
        return false;
    str ip = str_slice(host, 1, host.n - 1);
    if (str_starts_nocase(ip, S("ipv6:")))
        ip = str_slice(ip, 5, SIZE_MAX);
    return net_ip_parse(ip, out);
}

/* First one of each family by turns, in the order that DNS gave (which is random). */
static void interleave(const struct net_addr *in, size_t n, struct net_addr *out)
{
    size_t at[2] = {0, 0}, k = 0;
    const int family[2] = {AF_INET6, AF_INET};
    for (int turn = 0; k < n; turn ^= 1) {
        while (at[turn] < n && in[at[turn]].sa.sa_family != family[turn])
            at[turn]++;
        if (at[turn] < n)
            out[k++] = in[at[turn]++];
    }
}

/* Leave out what is not to be used. */
static bool choose(const struct mx *mx, str host, struct net_addr *found, size_t *n, struct err *err)
{
    const char *why = "an address of this host itself";
    size_t n_found = *n, kept = 0;
    for (size_t i = 0; i < n_found; i++) {
        if (is_own(mx, &found[i])) {
            metric_inc_label(M_REMOTE_REFUSED, "own_address");
        } else if (!mx->allow_private && mx_is_private(&found[i])) {
            metric_inc_label(M_REMOTE_REFUSED, "private_address");
            why = "an address that is not on the public internet";
        } else {
            found[kept++] = found[i];
        }
    }
    char text[NET_ADDR_TEXT_MAX];
    *n = kept;
    return kept > 0 || err_set(err, ERR_DENIED, "'%.*s' has %s, which is not used: %s", STR_ARG(host), why,
                               net_ip_format(&found[n_found - 1], text).p);
}

bool mx_addresses(struct mx *mx, str host, bool is_trusted, struct arena *a, struct net_addr **out, size_t *n,
                  struct err *err)
{
    struct net_addr *found = arena_new(a, struct net_addr);
    size_t n_found = 1;
    bool is_secure;
    if (!literal(host, found) && !dns_ips(mx->dns, host, a, &found, &n_found, &is_secure, err))
        return false;
    for (size_t i = 0; i < n_found; i++)
        net_addr_unmap(&found[i]);
    if (!is_trusted && !choose(mx, host, found, &n_found, err))
        return false;
    *out = arena_array(a, struct net_addr, n_found);
    interleave(found, n_found, *out);
    *n = MIN(n_found, (size_t)MX_ADDRESSES_MAX);
    return true;
}

/* --- sites --- */

static int name_cmp(const void *a, const void *b)
{
    return str_cmp(*(const str *)a, *(const str *)b);
}

str mx_site_key(const struct dns_mx *mx, size_t n, struct arena *a)
{
    str *names = arena_array(a, str, n);
    for (size_t i = 0; i < n; i++)
        names[i] = mx[i].name;
    qsort(names, n, sizeof(*names), name_cmp);
    BUF(key, RPC_CHUNK_MAX);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && str_eq(names[i], names[i - 1]))
            continue;
        if (key.n)
            buf_addc(&key, ',');
        buf_add(&key, names[i]);
    }
    if (key.n <= MX_KEY_MAX)
        return arena_str(a, buf_str(&key));
    return arena_printf(a, "%.*s,+%016llx", (int)(MX_KEY_MAX - 32), key.p,
                        (unsigned long long)hash_stable(buf_str(&key)));
}

static void forget(struct mx *mx, struct mx_kept *k)
{
    (void)map_remove(&mx->sites, k->domain);
    list_remove(&k->node);
    mx->n_kept--;
    struct arena all = k->arena; /* holds k itself */
    arena_done(&all);
}

void mx_init(struct mx *mx, struct dns *dns, bool allow_private)
{
    *mx = (struct mx){.dns = dns, .allow_private = allow_private};
    map_init(&mx->sites);
    list_init(&mx->by_age);
    learn_own(mx);
}

void mx_done(struct mx *mx)
{
    LIST_EACH(&mx->by_age, n)
    forget(mx, LIST_ITEM(n, struct mx_kept, node));
    map_done(&mx->sites);
}

static void copy_site(const struct remote_site *from, struct arena *a, struct remote_site *out)
{
    *out = (struct remote_site){
        .key = arena_str(a, from->key), .mx = arena_array(a, struct dns_mx, from->n_mx), .n_mx = from->n_mx};
    for (size_t i = 0; i < from->n_mx; i++)
        out->mx[i] = (struct dns_mx){from->mx[i].preference, arena_str(a, from->mx[i].name)};
}

static void keep(struct mx *mx, str domain, const struct remote_site *site)
{
    if (map_get(&mx->sites, domain))
        return; /* another fiber was faster */
    if (mx->n_kept >= MX_CACHE_MAX)
        forget(mx, LIST_ITEM(list_first(&mx->by_age), struct mx_kept, node));
    struct arena arena;
    arena_init(&arena, KEPT_SIZE_MAX);
    struct mx_kept *k = arena_new(&arena, struct mx_kept);
    k->domain = arena_str(&arena, domain);
    copy_site(site, &arena, &k->site);
    k->ends_mono_ms = clock_mono_ms() + MX_CACHE_MS;
    k->arena = arena;
    (void)map_put(&mx->sites, k->domain, k);
    list_push(&mx->by_age, &k->node);
    mx->n_kept++;
}

static bool is_kept(struct mx *mx, str domain, struct arena *a, struct remote_site *out)
{
    struct mx_kept *k = map_get(&mx->sites, domain);
    if (k && clock_mono_ms() >= k->ends_mono_ms) {
        forget(mx, k);
        k = NULL;
    }
    if (k)
        copy_site(&k->site, a, out);
    return k != NULL;
}

static void one_host(str name, struct arena *a, struct remote_site *out)
{
    *out = (struct remote_site){.key = name, .mx = arena_new(a, struct dns_mx), .n_mx = 1};
    out->mx[0].name = name;
}

/* Without MX records the domain itself is the host, if it has an address (RFC 5321 5.1). */
FIBER static bool implicit_mx(struct mx *mx, str domain, struct arena *a, struct remote_site *out, struct err *err)
{
    struct net_addr *ips;
    size_t n;
    bool is_secure;
    if (!dns_ips(mx->dns, domain, a, &ips, &n, &is_secure, err)) {
        if (err->kind != ERR_NOT_FOUND)
            return false;
        err_clear(err);
        return err_set(err, ERR_NOT_FOUND, "domain '%.*s' has neither MX nor address records", STR_ARG(domain));
    }
    one_host(domain, a, out);
    return true;
}

FIBER static bool look_up(struct mx *mx, str domain, struct arena *a, struct remote_site *out, struct err *err)
{
    struct dns_mx *v;
    size_t n, kept = 0;
    bool is_secure;
    if (!dns_mx(mx->dns, domain, a, &v, &n, &is_secure, err)) {
        if (err->kind != ERR_NOT_FOUND)
            return false;
        err_clear(err);
        return implicit_mx(mx, domain, a, out, err);
    }
    for (size_t i = 0; i < n; i++)
        if (v[i].name.n)
            v[kept++] = v[i];
    if (kept == 0) /* RFC 7505 */
        return err_set(err, ERR_DENIED, "domain '%.*s' takes no mail (null MX)", STR_ARG(domain));
    *out = (struct remote_site){.key = mx_site_key(v, kept, a), .mx = v, .n_mx = kept};
    return true;
}

bool mx_lookup(struct mx *mx, str domain, struct arena *a, struct remote_site *out, struct err *err)
{
    str name;
    struct net_addr ignored;
    if (is_kept(mx, domain, a, out))
        return true;
    if (!domain_normalize(domain, a, &name, err))
        return false;
    if (literal(name, &ignored))
        one_host(name, a, out);
    else if (!look_up(mx, name, a, out, err))
        return false;
    keep(mx, domain, out);
    return true;
}
