#include "frontend/common/sasl.h"

#define IDENTITY_MAX 255u

bool plain_login_allowed(enum plain_login policy, const struct stream *s)
{
    if (stream_has_tls(s) || policy == PLAIN_LOGIN_ALWAYS)
        return true;
    const struct net_addr *peer = stream_peer(s);
    return policy == PLAIN_LOGIN_LOOPBACK && (net_addr_is_loopback(peer) || net_addr_is_unix(peer));
}

bool sasl_plain_parse(str message, struct sasl_plain *out)
{
    struct sasl_plain m;
    if (message.n > SASL_MESSAGE_MAX)
        return false;
    ptrdiff_t first = str_find(message, '\0');
    if (first < 0)
        return false;
    m.authzid = str_slice(message, 0, (size_t)first);
    str rest = str_slice(message, (size_t)first + 1, SIZE_MAX);
    ptrdiff_t second = str_find(rest, '\0');
    if (second < 0)
        return false;
    m.authcid = str_slice(rest, 0, (size_t)second);
    m.password = str_slice(rest, (size_t)second + 1, SIZE_MAX);
    if (m.authcid.n == 0 || m.authcid.n > IDENTITY_MAX || m.authzid.n > IDENTITY_MAX || m.password.n == 0 ||
        str_find(m.password, '\0') >= 0 || !utf8_valid(message.p, message.n))
        return false;
    if (m.authzid.n && !str_eq(m.authzid, m.authcid))
        return false;
    *out = m;
    return true;
}
