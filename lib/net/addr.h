/*
 * addr.h: network addresses and endpoints as people write them.
 */
#ifndef NET_ADDR_H
#define NET_ADDR_H

#include <sys/socket.h>
#include <netinet/in.h>
#include <sys/un.h>

#include "base/err.h"

struct net_addr {
    socklen_t len; /* 0 = none */
    union {
        struct sockaddr sa;
        struct sockaddr_in in4;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    };
};
#define NET_ADDR_TEXT_MAX 128

/* "192.0.2.1:25", "[2001:db8::1]:25", "*:25" (dual stack), "unix:/path". No names, no look-ups. */
bool net_addr_parse(str s, struct net_addr *out, struct err *err) WARN_UNUSED;
/* An IP address without port; v4-mapped IPv6 becomes IPv4. */
bool net_ip_parse(str s, struct net_addr *out) WARN_UNUSED;
/* A v4-mapped IPv6 address, as dual-stack sockets report it, becomes IPv4. */
void net_addr_unmap(struct net_addr *a);
/* "192.0.2.1:25" or "[…]:25" or "unix:/path"; NUL-terminated into buf; returns a view of it. */
str net_addr_format(const struct net_addr *a, char buf[NET_ADDR_TEXT_MAX]);
/* The IP alone, as in logs and Received fields; "unix" for Unix sockets. */
str net_ip_format(const struct net_addr *a, char buf[NET_ADDR_TEXT_MAX]);
uint16_t net_addr_port(const struct net_addr *a);
void net_addr_set_port(struct net_addr *a, uint16_t port);
bool net_addr_is_loopback(const struct net_addr *a);
bool net_addr_is_unix(const struct net_addr *a);
bool net_addr_equal_ip(const struct net_addr *a, const struct net_addr *b);
/* Whether two listeners could not be at both: one port, and one address or one of them "all" ("*" stands for IPv4 too);
 * or one socket. Port 0 takes any that is free and is in nobody's way. */
bool net_addr_collides(const struct net_addr *a, const struct net_addr *b);
/* What limits count by: the /32 of IPv4, the /64 of IPv6, as text. */
str net_addr_limit_key(const struct net_addr *a, char buf[NET_ADDR_TEXT_MAX]);

/* "10.0.0.0/8", "2001:db8::/32", "192.0.2.1". */
struct net_cidr {
    struct net_addr base;
    unsigned bits;
};
bool net_cidr_parse(str s, struct net_cidr *out, struct err *err) WARN_UNUSED;
bool net_cidr_contains(const struct net_cidr *c, const struct net_addr *a);

#endif
