#include "base/str.h"

#include <openssl/crypto.h>

bool str_eq_nocase(str a, str b)
{
    return a.n == b.n && str_cmp_nocase(a, b) == 0;
}

bool str_eq_secret(str a, str b)
{
    return a.n == b.n && (a.n == 0 || CRYPTO_memcmp(a.p, b.p, a.n) == 0);
}

int str_cmp(str a, str b)
{
    size_t n = MIN(a.n, b.n);
    int d = n ? memcmp(a.p, b.p, n) : 0;
    return d ? d : (a.n > b.n) - (a.n < b.n);
}

int str_cmp_nocase(str a, str b)
{
    size_t n = MIN(a.n, b.n);
    for (size_t i = 0; i < n; i++) {
        int d = ascii_lower((unsigned char)a.p[i]) - ascii_lower((unsigned char)b.p[i]);
        if (d)
            return d;
    }
    return (a.n > b.n) - (a.n < b.n);
}

bool str_starts(str s, str prefix)
{
    return s.n >= prefix.n && str_eq(str_n(s.p, prefix.n), prefix);
}

bool str_starts_nocase(str s, str prefix)
{
    return s.n >= prefix.n && str_eq_nocase(str_n(s.p, prefix.n), prefix);
}

bool str_ends(str s, str suffix)
{
    return s.n >= suffix.n && (s.n == 0 || str_eq(str_n(s.p + (s.n - suffix.n), suffix.n), suffix));
}

bool str_ends_nocase(str s, str suffix)
{
    return s.n >= suffix.n && (s.n == 0 || str_eq_nocase(str_n(s.p + (s.n - suffix.n), suffix.n), suffix));
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

str str_trim(str s)
{
    while (s.n && is_blank(s.p[0])) {
        s.p++;
        s.n--;
    }
    while (s.n && is_blank(s.p[s.n - 1]))
        s.n--;
    return s;
}

str str_slice(str s, size_t from, size_t to)
{
    to = MIN(to, s.n);
    from = MIN(from, to);
    return s.p ? str_n(s.p + from, to - from) : s;
}

ptrdiff_t str_find(str s, char c)
{
    const char *at = s.n ? memchr(s.p, c, s.n) : NULL;
    return at ? at - s.p : -1;
}

ptrdiff_t str_rfind(str s, char c)
{
    const char *at = s.n ? memrchr(s.p, c, s.n) : NULL;
    return at ? at - s.p : -1;
}

ptrdiff_t str_find_str(str s, str needle)
{
    if (needle.n == 0)
        return 0;
    const char *at = s.n ? memmem(s.p, s.n, needle.p, needle.n) : NULL;
    return at ? at - s.p : -1;
}

ptrdiff_t str_find_nocase(str s, str needle)
{
    if (needle.n == 0)
        return 0;
    for (size_t i = 0; i + needle.n <= s.n; i++)
        if (str_eq_nocase(str_n(s.p + i, needle.n), needle))
            return (ptrdiff_t)i;
    return -1;
}

bool str_split(str *s, char sep, str *head)
{
    if (s->n == 0 && s->p == NULL) {
        *head = STR_NONE;
        return false;
    }
    ptrdiff_t at = str_find(*s, sep);
    if (at < 0) {
        *head = *s;
        *s = STR_NONE;
    } else {
        *head = str_n(s->p, (size_t)at);
        *s = str_n(s->p + at + 1, s->n - (size_t)at - 1);
    }
    return true;
}

char *str_dup(str s)
{
    char *z = xmalloc(s.n + 1);
    if (s.n)
        memcpy(z, s.p, s.n);
    z[s.n] = '\0';
    return z;
}

bool cur_skip_nocase(struct cursor *c, str literal)
{
    if (!str_starts_nocase(cur_rest(c), literal))
        return false;
    c->p += literal.n;
    return true;
}

str cur_take(struct cursor *c, size_t n)
{
    if (cur_left(c) < n)
        return STR_NONE;
    str s = str_n(c->p, n);
    c->p += n;
    return s;
}

str cur_take_while(struct cursor *c, bool (*is)(unsigned char), size_t max)
{
    const unsigned char *from = c->p;
    while (c->p < c->end && (size_t)(c->p - from) < max && is(*c->p))
        c->p++;
    return str_n(from, (size_t)(c->p - from));
}
