#include "data/redis_address.h"

#include "base/num.h"

/* A part of the address with its percent escapes undone (RFC 3986 2.1); NULL when one is broken. */
static char *unescape(str s)
{
    char *out = str_dup(s);
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++, n++) {
        out[n] = s.p[i];
        if (s.p[i] != '%')
            continue;
        int high = i + 2 < s.n ? ascii_hex((unsigned char)s.p[i + 1]) : -1;
        int low = i + 2 < s.n ? ascii_hex((unsigned char)s.p[i + 2]) : -1;
        if (high < 0 || low < 0 || (high | low) == 0) {
            explicit_bzero(out, s.n);
            free(out);
            return NULL;
        }
        out[n] = (char)(high << 4 | low);
        i += 2;
    }
    explicit_bzero(out + n, s.n - n);
    return out;
}

static bool parse_credentials(struct redis_address *a, str cred, struct err *err)
{
    ptrdiff_t colon = str_find(cred, ':');
    if (colon > 0)
        a->user = unescape(str_slice(cred, 0, (size_t)colon));
    a->password = unescape(str_slice(cred, (size_t)(colon + 1), SIZE_MAX));
    return (a->password && (colon <= 0 || a->user)) ||
           err_set(err, ERR_INVALID,
                   "redis user and password have '%%' only before two hexadecimal digits, %%25 for itself");
}

/* redis://[[user]:password@]host[:port][/db] */
static bool parse_tcp_url(struct redis_address *a, str rest, struct err *err)
{
    ptrdiff_t at = str_rfind(rest, '@');
    if (at >= 0) {
        if (!parse_credentials(a, str_slice(rest, 0, (size_t)at), err))
            return false;
        rest = str_slice(rest, (size_t)at + 1, SIZE_MAX);
    }
    ptrdiff_t slash = str_find(rest, '/');
    if (slash >= 0) {
        str db = str_slice(rest, (size_t)slash + 1, SIZE_MAX);
        rest = str_slice(rest, 0, (size_t)slash);
        if (db.n && !num_u32(db, 1u << 20, &a->db))
            return err_set(err, ERR_INVALID, "redis database '%.*s' is no number", STR_ARG(db));
    }
    ptrdiff_t bracket = str_rfind(rest, ']'), colon = str_rfind(rest, ':');
    uint32_t port = 6379;
    if (colon > bracket) {
        if (!num_u32(str_slice(rest, (size_t)colon + 1, SIZE_MAX), 65535, &port) || port == 0)
            return err_set(err, ERR_INVALID, "redis port in '%.*s' is no number from 1 to 65535", STR_ARG(rest));
        rest = str_slice(rest, 0, (size_t)colon);
    }
    if (bracket > 0 && rest.p[0] == '[')
        rest = str_slice(rest, 1, (size_t)bracket);
    if (rest.n == 0)
        return err_set(err, ERR_INVALID, "redis address has no host");
    a->host = str_dup(rest);
    a->port = (uint16_t)port;
    return true;
}

bool redis_address_parse(str url, struct redis_address *a, struct err *err)
{
    if (str_starts(url, S("unix:")) && url.n > 5) {
        a->path = str_dup(str_slice(url, 5, SIZE_MAX));
        return true;
    }
    if (str_starts(url, S("redis://")))
        return parse_tcp_url(a, str_slice(url, 8, SIZE_MAX), err);
    if (str_starts(url, S("rediss://")))
        return err_set(err, ERR_INVALID,
                       "redis is not reached over TLS: let a tunnel on this machine do that, or use redis://");
    return err_set(err, ERR_INVALID, "redis address must be redis://[:password@]host:port[/db] or unix:/path");
}

void redis_address_done(struct redis_address *a)
{
    if (a->password)
        explicit_bzero(a->password, strlen(a->password));
    free(a->password);
    free(a->user);
    free(a->host);
    free(a->path);
}
