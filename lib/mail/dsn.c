#include "mail/dsn.h"

static bool is_xchar(unsigned char c)
{
    return c > ' ' && c < 0x7f && c != '+' && c != '=';
}

void dsn_add_xtext(struct buf *out, str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (is_xchar(c))
            buf_addc(out, (char)c);
        else
            buf_printf(out, "+%02X", c);
    }
}

bool dsn_add_unxtext(struct buf *out, str xtext)
{
    size_t before = out->n;
    for (size_t i = 0; i < xtext.n; i++) {
        unsigned char c = (unsigned char)xtext.p[i];
        if (c == '+' && i + 2 < xtext.n && ascii_hex((unsigned char)xtext.p[i + 1]) >= 0 &&
            ascii_hex((unsigned char)xtext.p[i + 2]) >= 0) {
            buf_addc(out,
                     (char)(ascii_hex((unsigned char)xtext.p[i + 1]) << 4 | ascii_hex((unsigned char)xtext.p[i + 2])));
            i += 2;
        } else if (is_xchar(c)) {
            buf_addc(out, (char)c);
        } else {
            buf_truncate(out, before);
            return false;
        }
    }
    return true;
}

/* The character at s.p[*at], which is valid UTF-8; *at moves past it. */
static uint32_t next_char(str s, size_t *at)
{
    unsigned char c = (unsigned char)s.p[(*at)++];
    unsigned n = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc0 ? 1 : 0;
    uint32_t u = n == 3 ? c & 7u : n == 2 ? c & 15u : n == 1 ? c & 31u : c;
    for (; n > 0 && *at < s.n; n--)
        u = u << 6 | ((unsigned char)s.p[(*at)++] & 0x3fu);
    return u;
}

/* utf-8-addr-xtext (RFC 6533 3); with keep_specials the ASCII part is there already. */
static void add_utf8_xtext(struct buf *out, str s, bool keep_specials)
{
    if (!utf8_valid(s.p, s.n)) {
        dsn_add_xtext(out, s);
        return;
    }
    for (size_t at = 0; at < s.n;) {
        uint32_t u = next_char(s, &at);
        if (u < 0x7f && (keep_specials || (is_xchar((unsigned char)u) && u != '\\')))
            buf_addc(out, (char)u);
        else
            buf_printf(out, "\\x{%02X}", (unsigned)u);
    }
}

bool dsn_is_typed(str orcpt)
{
    size_t n = 0;
    while (n < orcpt.n && (ascii_is_alnum((unsigned char)orcpt.p[n]) || orcpt.p[n] == '-'))
        n++;
    return n > 0 && n < orcpt.n && orcpt.p[n] == ';';
}

void dsn_add_orcpt(struct buf *out, str address)
{
    if (ascii_only(address.p, address.n)) {
        buf_add(out, S("rfc822;"));
        dsn_add_xtext(out, address);
    } else {
        buf_add(out, S("utf-8;"));
        add_utf8_xtext(out, address, false);
    }
}

void dsn_add_recipient(struct buf *out, str address, bool is_utf8)
{
    bool is_ascii = ascii_only(address.p, address.n);
    buf_add(out, is_ascii ? S("rfc822; ") : S("utf-8; "));
    if (is_ascii || is_utf8)
        buf_add(out, address);
    else
        add_utf8_xtext(out, address, false);
}

void dsn_add_original(struct buf *out, str orcpt, bool is_utf8)
{
    str rest = orcpt, type;
    if (!dsn_is_typed(orcpt)) {
        dsn_add_recipient(out, orcpt, is_utf8);
        return;
    }
    (void)str_split(&rest, ';', &type);
    buf_add(out, type);
    buf_add(out, S("; "));
    if (str_eq_nocase(type, S("utf-8"))) {
        if (is_utf8)
            buf_add(out, rest);
        else
            add_utf8_xtext(out, rest, true);
    } else if (!dsn_add_unxtext(out, rest)) {
        buf_add(out, rest);
    }
}
