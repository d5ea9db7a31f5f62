#include "net/addr.h"

#include <arpa/inet.h>

#include "base/num.h"

/* --- parsing --- */

static void set_in4(struct net_addr *a, struct in_addr ip)
{
    *a = (struct net_addr){.len = sizeof(struct sockaddr_in)};
    a->in4.sin_family = AF_INET;
    a->in4.sin_addr = ip;
}

bool net_ip_parse(str s, struct net_addr *out)
{
    char text[INET6_ADDRSTRLEN];
    if (s.n == 0 || s.n >= sizeof(text) || memchr(s.p, '\0', s.n))
        return false;
    memcpy(text, s.p, s.n);
    text[s.n] = '\0';
    struct in_addr ip4;
    struct in6_addr ip6;
    if (inet_pton(AF_INET, text, &ip4) == 1) {
        set_in4(out, ip4);
        return true;
    }
    if (inet_pton(AF_INET6, text, &ip6) != 1)
        return false;
    *out = (struct net_addr){.len = sizeof(struct sockaddr_in6)};
    out->in6.sin6_family = AF_INET6;
    out->in6.sin6_addr = ip6;
    net_addr_unmap(out);
    return true;
}

void net_addr_unmap(struct net_addr *a)
{
    if (a->len == 0 || a->sa.sa_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr))
        return;
    in_port_t port = a->in6.sin6_port;
    struct in_addr ip4;
    memcpy(&ip4, a->in6.sin6_addr.s6_addr + 12, sizeof(ip4));
    set_in4(a, ip4);
    a->in4.sin_port = port;
}

static bool unix_parse(str path, struct net_addr *out, struct err *err)
{
    struct net_addr a = {.len = sizeof(struct sockaddr_un)};
    if (path.n == 0 || path.n >= sizeof(a.un.sun_path) || memchr(path.p, '\0', path.n))
        return err_set(err, ERR_INVALID, "'unix:%.*s': a socket path has 1 to %zu bytes", STR_ARG(path),
                       sizeof(a.un.sun_path) - 1);
    a.un.sun_family = AF_UNIX;
    memcpy(a.un.sun_path, path.p, path.n);
    *out = a;
    return true;
}

bool net_addr_parse(str s, struct net_addr *out, struct err *err)
{
    if (str_starts(s, S("unix:")))
        return unix_parse(str_slice(s, 5, SIZE_MAX), out, err);
    struct net_addr a;
    uint32_t port;
    ptrdiff_t colon = str_rfind(s, ':');
    if (colon < 0 || !num_u32(str_slice(s, (size_t)colon + 1, SIZE_MAX), 65535, &port))
        return err_set(err, ERR_INVALID, "'%.*s': expected ADDRESS:PORT, [IPV6]:PORT, *:PORT or unix:PATH", STR_ARG(s));
    str host = str_slice(s, 0, (size_t)colon);
    bool is_bracketed = host.n >= 2 && host.p[0] == '[' && host.p[host.n - 1] == ']';
    if (str_eq(host, S("*"))) {
        a = (struct net_addr){.len = sizeof(struct sockaddr_in6)};
        a.in6.sin6_family = AF_INET6;
        a.in6.sin6_addr = in6addr_any;
    } else if (!net_ip_parse(is_bracketed ? str_slice(host, 1, host.n - 1) : host, &a) ||
               (!is_bracketed && str_find(host, ':') >= 0)) {
        return err_set(err, ERR_INVALID, "'%.*s': '%.*s' is not an IP address (IPv6 goes in brackets)", STR_ARG(s),
                       STR_ARG(host));
    }
    net_addr_set_port(&a, (uint16_t)port);
    *out = a;
    return true;
}

/* --- printing --- */

str net_ip_format(const struct net_addr *a, char buf[NET_ADDR_TEXT_MAX])
{
    const char *ok = NULL;
    if (a->len && a->sa.sa_family == AF_INET)
        ok = inet_ntop(AF_INET, &a->in4.sin_addr, buf, NET_ADDR_TEXT_MAX);
    else if (a->len && a->sa.sa_family == AF_INET6)
        ok = inet_ntop(AF_INET6, &a->in6.sin6_addr, buf, NET_ADDR_TEXT_MAX);
    else if (net_addr_is_unix(a))
        ok = "unix";
    if (!ok)
        ok = "unknown";
    if (ok != buf)
        (void)snprintf(buf, NET_ADDR_TEXT_MAX, "%s", ok);
    return str_c(buf);
}

str net_addr_format(const struct net_addr *a, char buf[NET_ADDR_TEXT_MAX])
{
    char ip[NET_ADDR_TEXT_MAX];
    if (net_addr_is_unix(a))
        (void)snprintf(buf, NET_ADDR_TEXT_MAX, "unix:%s", a->un.sun_path);
    else
        (void)snprintf(buf, NET_ADDR_TEXT_MAX, a->len && a->sa.sa_family == AF_INET6 ? "[%.64s]:%u" : "%.64s:%u",
                       net_ip_format(a, ip).p, net_addr_port(a));
    return str_c(buf);
}

/* --- facts --- */

uint16_t net_addr_port(const struct net_addr *a)
{
    if (a->len == 0)
        return 0;
    switch (a->sa.sa_family) {
    case AF_INET:
        return ntohs(a->in4.sin_port);
    case AF_INET6:
        return ntohs(a->in6.sin6_port);
    default:
        return 0;
    }
}

void net_addr_set_port(struct net_addr *a, uint16_t port)
{
    if (a->len && a->sa.sa_family == AF_INET)
        a->in4.sin_port = htons(port);
    else if (a->len && a->sa.sa_family == AF_INET6)
        a->in6.sin6_port = htons(port);
}

bool net_addr_is_unix(const struct net_addr *a)
{
    return a->len && a->sa.sa_family == AF_UNIX;
}

bool net_addr_is_loopback(const struct net_addr *a)
{
    if (a->len == 0)
        return false;
    switch (a->sa.sa_family) {
    case AF_UNIX:
        return true;
    case AF_INET:
        return ntohl(a->in4.sin_addr.s_addr) >> 24 == 127;
    case AF_INET6:
        return IN6_IS_ADDR_LOOPBACK(&a->in6.sin6_addr);
    default:
        return false;
    }
}

/* The address as bytes; empty when it is no IP address. */
static str ip_bytes(const struct net_addr *a)
{
    if (a->len && a->sa.sa_family == AF_INET)
        return str_n(&a->in4.sin_addr, 4);
    if (a->len && a->sa.sa_family == AF_INET6)
        return str_n(&a->in6.sin6_addr, 16);
    return STR_NONE;
}

bool net_addr_equal_ip(const struct net_addr *a, const struct net_addr *b)
{
    str x = ip_bytes(a), y = ip_bytes(b);
    return x.n > 0 && str_eq(x, y);
}

static bool is_any_of(const struct net_addr *any, const struct net_addr *of)
{
    static const unsigned char zeros[16];
    str ip = ip_bytes(any);
    return ip.n && memcmp(ip.p, zeros, ip.n) == 0 && (ip.n == 16 || ip_bytes(of).n == 4);
}

bool net_addr_collides(const struct net_addr *a, const struct net_addr *b)
{
    if (net_addr_is_unix(a) || net_addr_is_unix(b))
        return net_addr_is_unix(a) && net_addr_is_unix(b) && strcmp(a->un.sun_path, b->un.sun_path) == 0;
    uint16_t port = net_addr_port(a);
    return port && port == net_addr_port(b) && (net_addr_equal_ip(a, b) || is_any_of(a, b) || is_any_of(b, a));
}

str net_addr_limit_key(const struct net_addr *a, char buf[NET_ADDR_TEXT_MAX])
{
    if (!a->len || a->sa.sa_family != AF_INET6)
        return net_ip_format(a, buf);
    struct net_addr network = *a;
    memset(network.in6.sin6_addr.s6_addr + 8, 0, 8);
    return net_ip_format(&network, buf);
}

/* --- networks --- */

bool net_cidr_parse(str s, struct net_cidr *out, struct err *err)
{
    ptrdiff_t slash = str_find(s, '/');
    struct net_cidr c;
    if (!net_ip_parse(slash < 0 ? s : str_slice(s, 0, (size_t)slash), &c.base))
        return err_set(err, ERR_INVALID, "'%.*s' is not a network: expected ADDRESS or ADDRESS/BITS", STR_ARG(s));
    uint32_t bits_max = c.base.sa.sa_family == AF_INET ? 32 : 128, bits = bits_max;
    if (slash >= 0 && !num_u32(str_slice(s, (size_t)slash + 1, SIZE_MAX), bits_max, &bits))
        return err_set(err, ERR_INVALID, "'%.*s' is not a network: expected 0 to %u bits", STR_ARG(s), bits_max);
    c.bits = bits;
    *out = c;
    return true;
}

bool net_cidr_contains(const struct net_cidr *c, const struct net_addr *a)
{
    str net = ip_bytes(&c->base), ip = ip_bytes(a);
    if (net.n != ip.n || net.n == 0)
        return false;
    size_t whole = c->bits / 8;
    unsigned rest = c->bits % 8;
    if (memcmp(net.p, ip.p, whole) != 0)
        return false;
    return rest == 0 || (((unsigned char)net.p[whole] ^ (unsigned char)ip.p[whole]) >> (8 - rest)) == 0;
}
