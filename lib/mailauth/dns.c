#include "mailauth/dns.h"

#include <arpa/inet.h>

bool auth_ip_parse(str s, struct auth_ip *out)
{
    static const unsigned char mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    char z[INET6_ADDRSTRLEN];
    struct auth_ip ip = {0};
    if (s.n == 0 || s.n >= sizeof z || memchr(s.p, 0, s.n))
        return false;
    memcpy(z, s.p, s.n);
    z[s.n] = 0;
    if (inet_pton(AF_INET, z, ip.b) != 1) {
        if (inet_pton(AF_INET6, z, ip.b) != 1)
            return false;
        ip.is_v6 = memcmp(ip.b, mapped, sizeof mapped) != 0;
        if (!ip.is_v6)
            memmove(ip.b, ip.b + 12, 4);
    }
    *out = ip;
    return true;
}

str auth_ip_print(const struct auth_ip *ip, struct arena *a)
{
    char z[INET6_ADDRSTRLEN] = "";
    if (!inet_ntop(ip->is_v6 ? AF_INET6 : AF_INET, ip->b, z, sizeof z))
        panic("an address does not print");
    return arena_str(a, str_c(z));
}

bool auth_ip_in(const struct auth_ip *ip, const struct auth_ip *net, unsigned bits)
{
    unsigned whole = bits / 8, rest = bits % 8;
    if (ip->is_v6 != net->is_v6 || memcmp(ip->b, net->b, whole) != 0)
        return false;
    return rest == 0 || ((ip->b[whole] ^ net->b[whole]) >> (8 - rest)) == 0;
}

str auth_ip_arpa(const struct auth_ip *ip, struct arena *a)
{
    static const char hex[] = "0123456789abcdef";
    if (!ip->is_v6)
        return arena_printf(a, "%u.%u.%u.%u.in-addr.arpa", ip->b[3], ip->b[2], ip->b[1], ip->b[0]);
    char z[64];
    for (size_t i = 0; i < 16; i++) {
        z[4 * i] = hex[ip->b[15 - i] & 15];
        z[4 * i + 2] = hex[ip->b[15 - i] >> 4];
        z[4 * i + 1] = z[4 * i + 3] = '.';
    }
    return arena_printf(a, "%.*sip6.arpa", 64, z);
}

bool auth_name_ok(str name)
{
    str label, rest = auth_name_trim(name);
    if (rest.n == 0 || rest.n > 253 || memchr(rest.p, 0, rest.n) || str_ends(rest, S(".")))
        return false;
    while (str_split(&rest, '.', &label))
        if (label.n < 1 || label.n > 63)
            return false;
    return true;
}

bool auth_name_below(str name, str domain)
{
    return str_eq_nocase(name, domain) ||
           (name.n > domain.n && name.p[name.n - domain.n - 1] == '.' && str_ends_nocase(name, domain));
}
