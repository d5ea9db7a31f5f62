/*
 * proxy.c: the header of the PROXY protocol, versions 1 (text) and 2 (binary), as HAProxy's proxy-protocol.txt says.
 */
#include "net/listener.h"

#include <arpa/inet.h>

#include "base/num.h"

#define V1_MAX 107u /* with CRLF */
#define V2_HEAD 16u
#define V2_MAX (V2_HEAD + 4096u) /* addresses and TLVs; longer ones are nobody's */

static const char v2_signature[12] = "\r\n\r\n\0\r\nQUIT\n";

/* --- version 1: "PROXY TCP4 192.0.2.1 192.0.2.2 40000 25\r\n" --- */

static bool word(str *rest, str *out)
{
    return str_split(rest, ' ', out) && !str_empty(*out);
}

static bool v1_address(str text, str port_text, int family, struct net_addr *out)
{
    uint32_t port;
    struct net_addr a;
    bool has_colon = str_find(text, ':') >= 0;
    if (has_colon != (family == AF_INET6) || !net_ip_parse(text, &a) || !num_u32(port_text, 65535, &port))
        return false;
    net_addr_set_port(&a, (uint16_t)port);
    *out = a;
    return true;
}

static enum proxy_result v1_parse(str input, struct proxy_header *out)
{
    const char *end = memmem(input.p, MIN(input.n, (size_t)V1_MAX), "\r\n", 2);
    if (!end)
        return input.n >= V1_MAX ? PROXY_BAD : PROXY_MORE;
    struct proxy_header h = {.length = (size_t)(end - input.p) + 2};
    str rest = str_n(input.p + 6, (size_t)(end - input.p) - 6), family, from, to, from_port, to_port;
    if (!word(&rest, &family))
        return PROXY_BAD;
    if (str_eq(family, S("UNKNOWN"))) {
        h.is_local = true;
        *out = h;
        return PROXY_OK;
    }
    int af = str_eq(family, S("TCP4")) ? AF_INET : str_eq(family, S("TCP6")) ? AF_INET6 : AF_UNSPEC;
    if (af == AF_UNSPEC || !word(&rest, &from) || !word(&rest, &to) || !word(&rest, &from_port) ||
        !word(&rest, &to_port) || !str_empty(rest) || !v1_address(from, from_port, af, &h.source) ||
        !v1_address(to, to_port, af, &h.destination))
        return PROXY_BAD;
    *out = h;
    return PROXY_OK;
}

/* --- version 2 --- */

static struct net_addr v2_in4(const unsigned char *ip, const unsigned char *port)
{
    struct net_addr a = {.len = sizeof(struct sockaddr_in)};
    a.in4.sin_family = AF_INET;
    memcpy(&a.in4.sin_addr, ip, 4);
    memcpy(&a.in4.sin_port, port, 2);
    return a;
}

static struct net_addr v2_in6(const unsigned char *ip, const unsigned char *port)
{
    struct net_addr a = {.len = sizeof(struct sockaddr_in6)};
    a.in6.sin6_family = AF_INET6;
    memcpy(&a.in6.sin6_addr, ip, 16);
    memcpy(&a.in6.sin6_port, port, 2);
    net_addr_unmap(&a);
    return a;
}

static enum proxy_result v2_parse(str input, struct proxy_header *out)
{
    if (input.n < V2_HEAD)
        return PROXY_MORE;
    const unsigned char *p = (const unsigned char *)input.p;
    unsigned command = p[12] & 0x0f, family = p[13] >> 4;
    size_t length = (size_t)p[14] << 8 | p[15];
    if (p[12] >> 4 != 2 || command > 1 || V2_HEAD + length > V2_MAX)
        return PROXY_BAD;
    if (input.n < V2_HEAD + length)
        return PROXY_MORE;
    struct proxy_header h = {.length = V2_HEAD + length};
    p += V2_HEAD;
    if (command == 0 || family == 0 || family == 3) { /* LOCAL, UNSPEC, or a Unix socket at the other side */
        h.is_local = true;
    } else if (family == 1 && length >= 12) {
        h.source = v2_in4(p, p + 8);
        h.destination = v2_in4(p + 4, p + 10);
    } else if (family == 2 && length >= 36) {
        h.source = v2_in6(p, p + 32);
        h.destination = v2_in6(p + 16, p + 34);
    } else {
        return PROXY_BAD;
    }
    *out = h;
    return PROXY_OK;
}

enum proxy_result proxy_parse(str input, struct proxy_header *out)
{
    str v1 = S("PROXY "), v2 = str_n(v2_signature, sizeof(v2_signature));
    size_t n1 = MIN(input.n, v1.n), n2 = MIN(input.n, v2.n);
    if (input.n == 0)
        return PROXY_MORE;
    if (memcmp(input.p, v1.p, n1) == 0)
        return n1 < v1.n ? PROXY_MORE : v1_parse(input, out);
    if (memcmp(input.p, v2.p, n2) == 0)
        return n2 < v2.n ? PROXY_MORE : v2_parse(input, out);
    return PROXY_BAD;
}
