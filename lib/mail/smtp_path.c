#include "mail/address.h"

#include <arpa/inet.h>
#include <idn2.h>

#define LABEL_MAX 63u
#define LITERAL_MAX 128u

static bool is_atext(unsigned char c)
{
    return ascii_is_alnum(c) || (c && memchr("!#$%&'*+-/=?^_`{|}~", c, 19));
}

static bool is_dot_string(str s)
{
    bool after_dot = true;
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c == '.') {
            if (after_dot)
                return false;
            after_dot = true;
        } else if (is_atext(c) || c >= 0x80) {
            after_dot = false;
        } else {
            return false;
        }
    }
    return s.n > 0 && !after_dot;
}

void address_add_local(struct buf *b, str local)
{
    if (is_dot_string(local)) {
        buf_add(b, local);
        return;
    }
    buf_addc(b, '"');
    for (size_t i = 0; i < local.n; i++) {
        if (local.p[i] == '"' || local.p[i] == '\\')
            buf_addc(b, '\\');
        buf_addc(b, local.p[i]);
    }
    buf_addc(b, '"');
}

/* RFC 5321 4.1.2: Dot-string or Quoted-string, RFC 6531 3.3 adds UTF-8. */
static bool take_local(struct cursor *c, bool allow_utf8, struct arena *a, str *out)
{
    if (cur_peek(c) != '"') {
        const unsigned char *from = c->p;
        while (c->p < c->end && (is_atext(*c->p) || *c->p == '.' || (allow_utf8 && *c->p >= 0x80)))
            c->p++;
        str s = str_n(from, (size_t)(c->p - from));
        if (!is_dot_string(s))
            return false;
        *out = arena_str(a, s);
        return true;
    }
    c->p++;
    char text[SMTP_LOCAL_MAX + 1];
    size_t n = 0;
    while (c->p < c->end && *c->p != '"') {
        if (*c->p == '\\' && ++c->p == c->end)
            return false;
        unsigned char ch = *c->p++;
        if (ascii_is_ctl(ch) || (ch >= 0x80 && !allow_utf8))
            return false;
        if (n < sizeof(text)) /* one more than allowed, so that the caller sees that it is too long */
            text[n++] = (char)ch;
    }
    *out = arena_str(a, str_n(text, n));
    return cur_skip(c, '"');
}

static bool is_host_char(unsigned char c)
{
    return ascii_is_alnum(c) || c == '-' || c == '.' || c == '_' || c >= 0x80;
}

/* Labels of letters, digits, inner hyphens and (as seen in the field) underscores. */
static bool is_domain(str s, bool allow_utf8)
{
    str rest = s, label;
    if (s.n == 0 || s.p[s.n - 1] == '.')
        return false;
    while (str_split(&rest, '.', &label)) {
        if (label.n == 0 || label.n > (ascii_only(label.p, label.n) ? LABEL_MAX : SMTP_DOMAIN_MAX) ||
            label.p[0] == '-' || label.p[label.n - 1] == '-')
            return false;
        for (size_t i = 0; i < label.n; i++)
            if (!is_host_char((unsigned char)label.p[i]) || ((unsigned char)label.p[i] >= 0x80 && !allow_utf8))
                return false;
    }
    return true;
}

/* "[192.0.2.1]" or "[IPv6:2001:db8::1]" (RFC 5321 4.1.3). */
static bool is_literal(str s)
{
    char text[INET6_ADDRSTRLEN];
    unsigned char binary[16];
    if (s.n < 3 || s.p[0] != '[' || s.p[s.n - 1] != ']')
        return false;
    str inner = str_slice(s, 1, s.n - 1);
    int family = AF_INET;
    if (str_starts_nocase(inner, S("IPv6:"))) {
        family = AF_INET6;
        inner = str_slice(inner, 5, SIZE_MAX);
    }
    if (inner.n >= sizeof(text) || memchr(inner.p, 0, inner.n))
        return false;
    memcpy(text, inner.p, inner.n);
    text[inner.n] = '\0';
    return inet_pton(family, text, binary) == 1;
}

static bool take_domain(struct cursor *c, bool allow_utf8, str *out)
{
    const unsigned char *from = c->p;
    if (cur_peek(c) == '[') {
        while (c->p < c->end && *c->p != ']' && (size_t)(c->p - from) < LITERAL_MAX)
            c->p++;
        if (!cur_skip(c, ']'))
            return false;
        *out = str_n(from, (size_t)(c->p - from));
        return is_literal(*out);
    }
    while (c->p < c->end && is_host_char(*c->p))
        c->p++;
    *out = str_n(from, (size_t)(c->p - from));
    return is_domain(*out, allow_utf8);
}

/* "@a.example,@b.example:" (RFC 5321 4.1.2 A-d-l), checked and dropped. */
static bool skip_route(struct cursor *c, bool allow_utf8)
{
    str domain;
    do {
        if (!cur_skip(c, '@') || !take_domain(c, allow_utf8, &domain))
            return false;
    } while (cur_skip(c, ','));
    return cur_skip(c, ':');
}

static bool take_mailbox(struct cursor *c, bool allow_utf8, bool allow_postmaster, struct arena *a,
                         struct smtp_path *out, struct err *err)
{
    *out = (struct smtp_path){.local = S(""), .domain = S(""), .address = S("")};
    if (!take_local(c, allow_utf8, a, &out->local))
        return err_set(err, ERR_INVALID, "malformed local part");
    if (out->local.n > SMTP_LOCAL_MAX)
        return err_set(err, ERR_LIMIT, "local part too long");
    if (cur_skip(c, '@')) {
        if (!take_domain(c, allow_utf8, &out->domain))
            return err_set(err, ERR_INVALID, "malformed domain");
        if (out->domain.n > SMTP_DOMAIN_MAX)
            return err_set(err, ERR_LIMIT, "domain too long");
        out->domain = arena_str(a, out->domain);
        out->is_literal = out->domain.p[0] == '[';
    } else if (!allow_postmaster || !str_eq_nocase(out->local, S("postmaster"))) {
        return err_set(err, ERR_INVALID, "address without a domain");
    }
    out->has_utf8 = !ascii_only(out->local.p, out->local.n) || !ascii_only(out->domain.p, out->domain.n);
    if (out->has_utf8 && (!utf8_valid(out->local.p, out->local.n) || !utf8_valid(out->domain.p, out->domain.n)))
        return err_set(err, ERR_INVALID, "address is not UTF-8");
    BUF(text, SMTP_PATH_MAX);
    address_add_local(&text, out->local);
    if (out->domain.n) {
        buf_addc(&text, '@');
        buf_add(&text, out->domain);
    }
    out->address = arena_str(a, buf_str(&text));
    return true;
}

bool smtp_path_parse(struct cursor *c, bool allow_utf8, struct arena *a, struct smtp_path *out, struct err *err)
{
    struct cursor at = *c;
    struct smtp_path path = {.address = S(""), .local = S(""), .domain = S("")};
    if (!cur_skip(&at, '<'))
        return err_set(err, ERR_INVALID, "path must be in angle brackets");
    if (cur_skip(&at, '>')) {
        path.is_null = true;
    } else {
        if (cur_peek(&at) == '@' && !skip_route(&at, allow_utf8))
            return err_set(err, ERR_INVALID, "malformed source route");
        if (!take_mailbox(&at, allow_utf8, true, a, &path, err))
            return false;
        if (!cur_skip(&at, '>'))
            return err_set(err, ERR_INVALID, "path does not end with '>'");
    }
    if ((size_t)(at.p - c->p) > SMTP_PATH_MAX)
        return err_set(err, ERR_LIMIT, "path too long");
    *c = at;
    *out = path;
    return true;
}

/* Outside of a quoted local part. */
static bool has_space(str s)
{
    bool is_quoted = false;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '\\' && is_quoted)
            i++;
        else if (s.p[i] == '"')
            is_quoted = !is_quoted;
        else if (!is_quoted && (s.p[i] == ' ' || s.p[i] == '\t'))
            return true;
    }
    return false;
}

bool smtp_mailbox_parse(str s, bool allow_utf8, struct arena *a, struct smtp_path *out, struct err *err)
{
    struct smtp_path path;
    struct cursor c = cur_of(s);
    if (s.n > SMTP_PATH_MAX)
        return err_set(err, ERR_LIMIT, "address too long");
    if (has_space(s))
        return err_set(err, ERR_INVALID, "there is a space in it");
    if (!take_mailbox(&c, allow_utf8, false, a, &path, err))
        return false;
    if (c.p != c.end)
        return err_set(err, ERR_INVALID, "text after the address");
    *out = path;
    return true;
}

/* --- normal forms --- */

static str lower(struct arena *a, str s)
{
    char *out = arena_strz(a, s);
    for (size_t i = 0; i < s.n; i++)
        out[i] = (char)ascii_lower((unsigned char)out[i]);
    return str_n(out, s.n);
}

bool domain_is_number(str domain)
{
    ptrdiff_t dot = str_rfind(domain, '.');
    str last = dot < 0 ? domain : str_slice(domain, (size_t)dot + 1, SIZE_MAX);
    for (size_t i = 0; i < last.n; i++)
        if (!ascii_is_digit((unsigned char)last.p[i]))
            return false;
    return last.n > 0;
}

bool domain_normalize(str domain, struct arena *a, str *out, struct err *err)
{
    if (domain.n == 0 || domain.n > SMTP_DOMAIN_MAX || memchr(domain.p, 0, domain.n))
        return err_set(err, ERR_INVALID, "no domain name");
    if (ascii_only(domain.p, domain.n)) {
        if (domain.p[0] == '[' ? !is_literal(domain) : !is_domain(domain, false))
            return err_set(err, ERR_INVALID, "malformed domain '%.*s'", STR_ARG(domain));
        *out = lower(a, domain);
        return true;
    }
    uint8_t *ascii = NULL;
    char *z = arena_strz(a, domain);
    int rc = idn2_lookup_u8((const uint8_t *)z, &ascii, IDN2_NONTRANSITIONAL | IDN2_NFC_INPUT);
    if (rc != IDN2_OK)
        return err_set(err, ERR_INVALID, "domain '%.*s' has no A-label form: %s", STR_ARG(domain), idn2_strerror(rc));
    str result = arena_str(a, str_c((const char *)ascii));
    idn2_free(ascii);
    if (!is_domain(result, false))
        return err_set(err, ERR_INVALID, "malformed domain '%.*s'", STR_ARG(domain));
    *out = lower(a, result);
    return true;
}

bool address_normalize(str local, str domain, struct arena *a, str *out, struct err *err)
{
    str ascii_domain;
    if (!domain_normalize(domain, a, &ascii_domain, err))
        return false;
    if (local.n == 0 || local.n > SMTP_LOCAL_MAX)
        return err_set(err, ERR_INVALID, "no local part, or one too long");
    BUF(text, SMTP_PATH_MAX + SMTP_DOMAIN_MAX);
    address_add_local(&text, local);
    buf_addc(&text, '@');
    buf_add(&text, ascii_domain);
    *out = arena_str(a, buf_str(&text));
    return true;
}

bool address_equal(str a, str b)
{
    if (str_eq(a, b))
        return true;
    ARENA(scratch, 16 * 1024);
    struct err err = ERR_INIT;
    struct smtp_path pa, pb;
    str da, db;
    if (!smtp_mailbox_parse(a, true, &scratch, &pa, &err) || !smtp_mailbox_parse(b, true, &scratch, &pb, &err))
        return false;
    if (!domain_normalize(pa.domain, &scratch, &da, &err) || !domain_normalize(pb.domain, &scratch, &db, &err))
        return false;
    return str_eq(pa.local, pb.local) && str_eq(da, db);
}
