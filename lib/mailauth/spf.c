/*
 * A record is read whole before its first term is evaluated: a syntax error anywhere is permerror whatever stands
 * before it (RFC 7208 4.6). include and redirect evaluate another record; all count against the same limits.
 */
#include "mailauth/spf.h"

#include "base/buf.h"
#include "base/num.h"

#define EXPANSION_MAX 8192u /* of one macro string: a domain-spec or an explanation */
#define RECORD_MAX 65535u
#define DEPTH_MAX (SPF_TERMS_MAX + 1)

enum term_kind { T_ALL, T_INCLUDE, T_A, T_MX, T_PTR, T_IP4, T_IP6, T_EXISTS };

struct term {
    enum term_kind kind;
    enum spf_result result; /* when it matches */
    str text;               /* as published */
    str spec;               /* domain-spec; empty when absent */
    struct auth_ip net;
    unsigned bits4, bits6;
};
struct record {
    struct term *terms;
    size_t n, cap;
    str redirect, exp;
    bool has_redirect, has_exp;
};

struct spf {
    struct auth_dns *dns;
    const struct spf_query *q;
    struct arena *arena;
    str sender, local, sender_domain; /* with postmaster in place of what is missing */
    unsigned n_terms, n_void;
    str *names; /* of the client, validated (5.5); asked for once */
    size_t n_names;
    struct auth_dns_answer ptr;
    bool has_names;
    struct spf_verdict *out;
};

const char *spf_result_name(enum spf_result r)
{
    static const char *const names[] = {"none", "neutral", "pass", "fail", "softfail", "temperror", "permerror"};
    return names[r];
}

static enum spf_result problem(struct spf *s, enum spf_result r, const char *what, str about)
{
    if (str_empty(s->out->problem)) /* the first is the cause */
        s->out->problem = arena_printf(s->arena, "%s%s%.*s", what, about.n ? ": " : "", (int)MIN(about.n, 200u),
                                       about.n ? about.p : "");
    return r;
}

/* --- syntax, RFC 7208 12 --- */

static bool is_delimiter(char c)
{
    return c != 0 && strchr(".-+,/_=", c) != NULL;
}

/* The end of a macro-expand that begins at p, after the %; NULL when it is none. */
static const char *macro_end(const char *p, const char *end, bool is_exp)
{
    if (p == end)
        return NULL;
    if (*p == '%' || *p == '_' || *p == '-')
        return p + 1;
    if (*p++ != '{' || p == end)
        return NULL;
    char letter = (char)ascii_lower((unsigned char)*p++);
    if (letter == 0 || !strchr("slodiphv", letter)) {
        if (letter == 0 || !is_exp || !strchr("crt", letter))
            return NULL;
    }
    bool has_digits = false, is_zero = true;
    for (; p < end && ascii_is_digit((unsigned char)*p); p++) {
        has_digits = true;
        is_zero = is_zero && *p == '0';
    }
    if (has_digits && is_zero)
        return NULL;
    if (p < end && (*p == 'r' || *p == 'R'))
        p++;
    while (p < end && is_delimiter(*p))
        p++;
    return p < end && *p == '}' ? p + 1 : NULL;
}

static bool macro_string_ok(str s, bool is_exp)
{
    const char *p = s.p, *end = s.p + s.n;
    while (p < end) {
        unsigned char c = (unsigned char)*p++;
        if (c == '%') {
            p = macro_end(p, end, is_exp);
            if (!p)
                return false;
        } else if (c < 0x21 || c > 0x7e) {
            if (!(is_exp && c == ' '))
                return false;
        }
    }
    return true;
}

static bool toplabel_ok(str l)
{
    bool has_letter = false;
    for (size_t i = 0; i < l.n; i++) {
        unsigned char c = (unsigned char)l.p[i];
        if (!ascii_is_alnum(c) && c != '-')
            return false;
        has_letter = has_letter || !ascii_is_digit(c);
    }
    return l.n > 0 && has_letter && l.p[0] != '-' && l.p[l.n - 1] != '-';
}

/* domain-spec: a macro string that ends with a top label or with a macro. */
static bool domain_spec_ok(str s)
{
    if (s.n == 0 || !macro_string_ok(s, false))
        return false;
    const char *end = s.p + s.n, *last = NULL;
    for (const char *p = s.p; p < end;) { /* where the last macro ends */
        if (*p++ == '%')
            last = p = macro_end(p, end, false);
    }
    if (last == end)
        return true;
    str tail = auth_name_trim(s);
    ptrdiff_t dot = str_rfind(tail, '.');
    return dot >= 0 && (!last || tail.p + dot >= last) && toplabel_ok(str_slice(tail, (size_t)dot + 1, SIZE_MAX));
}

/* The digits of a prefix length: no leading zeros. */
static bool bits_ok(str digits, unsigned max, unsigned *out)
{
    uint32_t n;
    if (!num_u32(digits, max, &n) || (digits.n > 1 && digits.p[0] == '0'))
        return false;
    *out = n;
    return true;
}

/* [ip4-cidr-length] ["/" ip6-cidr-length] off the end of an a or mx: what is left is the domain-spec. */
static bool take_dual_cidr(str *s, unsigned *bits4, unsigned *bits6)
{
    *bits4 = 32;
    *bits6 = 128;
    const char *at = s->p + s->n;
    while (at > s->p && (ascii_is_digit((unsigned char)at[-1]) || at[-1] == '/'))
        at--;
    while (at < s->p + s->n && *at != '/') /* digits of a name */
        at++;
    str cidr = str_n(at, (size_t)(s->p + s->n - at));
    /* A slash within a macro's delimiters is followed by its brace, so it is not reached from the end. */
    if (cidr.n == 0)
        return true;
    s->n -= cidr.n;
    ptrdiff_t six = str_find_str(cidr, S("//"));
    str v4 = six >= 0 ? str_slice(cidr, 0, (size_t)six) : cidr;
    str v6 = six >= 0 ? str_slice(cidr, (size_t)six + 2, SIZE_MAX) : STR_NONE;
    return (v4.n == 0 || bits_ok(str_slice(v4, 1, SIZE_MAX), 32, bits4)) && (six < 0 || bits_ok(v6, 128, bits6));
}

static bool parse_ip(struct term *t, str value)
{
    ptrdiff_t slash = str_find(value, '/');
    unsigned max = t->kind == T_IP4 ? 32 : 128, *bits = t->kind == T_IP4 ? &t->bits4 : &t->bits6;
    str text = slash >= 0 ? str_slice(value, 0, (size_t)slash) : value;
    *bits = max;
    if (slash >= 0 && !bits_ok(str_slice(value, (size_t)slash + 1, SIZE_MAX), max, bits))
        return false;
    if (!auth_ip_parse(text, &t->net))
        return false;
    if (t->kind == T_IP6 && !t->net.is_v6) { /* ::ffff:192.0.2.1: clients of that form count as IPv4 */
        bool is_mapped = str_find(text, ':') >= 0;
        t->bits4 = *bits >= 96 ? *bits - 96 : 0;
        return is_mapped;
    }
    return t->net.is_v6 == (t->kind == T_IP6);
}

static bool parse_mechanism(str text, struct term *t)
{
    static const struct {
        str name;
        enum term_kind kind;
    } names[] = {{S_INIT("all"), T_ALL}, {S_INIT("include"), T_INCLUDE}, {S_INIT("a"), T_A},
                 {S_INIT("mx"), T_MX},   {S_INIT("ptr"), T_PTR},         {S_INIT("ip4"), T_IP4},
                 {S_INIT("ip6"), T_IP6}, {S_INIT("exists"), T_EXISTS}};
    *t = (struct term){.result = SPF_PASS, .text = text};
    str s = text;
    static const char signs[] = "+-~?";
    static const enum spf_result results[] = {SPF_PASS, SPF_FAIL, SPF_SOFTFAIL, SPF_NEUTRAL};
    const char *sign = s.n && s.p[0] ? strchr(signs, s.p[0]) : NULL;
    if (sign) {
        t->result = results[sign - signs];
        s = str_slice(s, 1, SIZE_MAX);
    }
    size_t n = 0;
    while (n < s.n && s.p[n] != ':' && s.p[n] != '/')
        n++;
    size_t i = 0;
    while (i < ARRAY_LEN(names) && !str_eq_nocase(names[i].name, str_slice(s, 0, n)))
        i++;
    if (i == ARRAY_LEN(names))
        return false;
    t->kind = names[i].kind;
    bool has_colon = n < s.n && s.p[n] == ':';
    str value = str_slice(s, n + has_colon, SIZE_MAX);
    switch (t->kind) {
    case T_ALL:
        return n == s.n;
    case T_IP4:
    case T_IP6:
        return has_colon && parse_ip(t, value);
    case T_INCLUDE:
    case T_EXISTS:
        t->spec = value;
        return has_colon && domain_spec_ok(value);
    case T_PTR:
        t->spec = value;
        return n == s.n || (has_colon && domain_spec_ok(value));
    default: /* a, mx */
        if (!take_dual_cidr(&value, &t->bits4, &t->bits6))
            return false;
        t->spec = value;
        return has_colon ? domain_spec_ok(value) : value.n == 0;
    }
}

/* name "=" macro-string; *is_modifier says whether it is one at all. */
static bool parse_modifier(str text, struct record *r, bool *is_modifier)
{
    size_t n = 0;
    while (n < text.n && (ascii_is_alnum((unsigned char)text.p[n]) || (n > 0 && strchr("-_.", text.p[n]) && text.p[n])))
        n++;
    *is_modifier = n > 0 && n < text.n && text.p[n] == '=' && ascii_is_alpha((unsigned char)text.p[0]);
    if (!*is_modifier)
        return true;
    str name = str_slice(text, 0, n), value = str_slice(text, n + 1, SIZE_MAX);
    if (str_eq_nocase(name, S("redirect"))) {
        bool ok = !r->has_redirect && domain_spec_ok(value);
        r->has_redirect = true;
        r->redirect = value;
        return ok;
    }
    if (str_eq_nocase(name, S("exp"))) {
        bool ok = !r->has_exp && domain_spec_ok(value);
        r->has_exp = true;
        r->exp = value;
        return ok;
    }
    return macro_string_ok(value, false); /* one that we do not know */
}

static bool parse_record(struct spf *s, str text, struct record *r)
{
    str rest = str_slice(text, strlen("v=spf1"), SIZE_MAX), word;
    *r = (struct record){0};
    while (str_split(&rest, ' ', &word)) {
        struct term t;
        bool is_modifier;
        if (word.n == 0)
            continue;
        if (!parse_modifier(word, r, &is_modifier) || (!is_modifier && !parse_mechanism(word, &t))) {
            (void)problem(s, SPF_PERMERROR, "the record has a term that is no SPF", word);
            return false;
        }
        if (is_modifier)
            continue;
        if (r->n == r->cap) {
            size_t cap = MAX(r->cap * 2, 16u);
            struct term *more = arena_array(s->arena, struct term, cap);
            if (r->n)
                memcpy(more, r->terms, r->n * sizeof *more);
            r->terms = more;
            r->cap = cap;
        }
        r->terms[r->n++] = t;
    }
    return true;
}

/* --- macros, RFC 7208 7 --- */

FIBER static str validated_name(struct spf *s, str domain);

static str dotted_ip(struct spf *s)
{
    static const char hex[] = "0123456789ABCDEF"; /* as the examples of 7.4 and the test suites have it */
    const struct auth_ip *ip = &s->q->client;
    if (!ip->is_v6)
        return auth_ip_print(ip, s->arena);
    char z[64];
    for (size_t i = 0; i < 16; i++) {
        z[4 * i] = hex[ip->b[i] >> 4];
        z[4 * i + 2] = hex[ip->b[i] & 15];
        z[4 * i + 1] = z[4 * i + 3] = '.';
    }
    return arena_str(s->arena, str_n(z, 63));
}

FIBER static str macro_value(struct spf *s, char letter, str domain)
{
    switch (letter) {
    case 's':
        return s->sender;
    case 'l':
        return s->local;
    case 'o':
        return s->sender_domain;
    case 'd':
        return domain;
    case 'i':
        return dotted_ip(s);
    case 'p':
        return validated_name(s, domain);
    case 'v':
        return s->q->client.is_v6 ? S("ip6") : S("in-addr");
    case 'h':
        return s->q->helo;
    case 'c':
        return auth_ip_print(&s->q->client, s->arena);
    case 'r':
        return s->q->receiver.n ? s->q->receiver : S("unknown");
    default: /* t */
        return arena_printf(s->arena, "%lld", (long long)s->q->now_unix);
    }
}

static void add_escaped(struct buf *out, str v)
{
    for (size_t i = 0; i < v.n; i++) {
        unsigned char c = (unsigned char)v.p[i];
        if (ascii_is_alnum(c) || (c && strchr("-._~", c)))
            buf_addc(out, (char)c);
        else
            buf_printf(out, "%%%02X", c);
    }
}

/* Split at the delimiters, reverse, keep the rightmost, join by dots. */
static str transform(struct spf *s, str value, const char *delimiters, uint32_t keep, bool is_reverse)
{
    size_t n = 1;
    for (size_t i = 0; i < value.n; i++)
        n += value.p[i] && strchr(delimiters, value.p[i]) != NULL;
    str *parts = arena_array(s->arena, str, n);
    size_t at = 0, from = 0;
    for (size_t i = 0; i <= value.n; i++) {
        if (i < value.n && !(value.p[i] && strchr(delimiters, value.p[i])))
            continue;
        parts[at++] = str_slice(value, from, i);
        from = i + 1;
    }
    BUF(out, EXPANSION_MAX);
    size_t first = keep && keep < n ? n - keep : 0;
    for (size_t i = first; i < n; i++) {
        if (i > first)
            buf_addc(&out, '.');
        buf_add(&out, parts[is_reverse ? n - 1 - i : i]);
    }
    return arena_str(s->arena, buf_str(&out));
}

FIBER static void expand_macro(struct spf *s, const char *p, const char *end, str domain, struct buf *out)
{
    char delimiters[16] = "";
    size_t n = 0;
    char letter = *p++; /* after the brace */
    uint32_t keep = 0;
    bool is_reverse = false;
    for (; ascii_is_digit((unsigned char)*p); p++)
        keep = MIN(keep * 10 + (uint32_t)(*p - '0'), 1000000u);
    if (*p == 'r' || *p == 'R') {
        is_reverse = true;
        p++;
    }
    for (; p < end - 1; p++)
        if (n < sizeof delimiters - 1 && !strchr(delimiters, *p))
            delimiters[n++] = *p;
    str value = macro_value(s, (char)ascii_lower((unsigned char)letter), domain);
    if (keep || is_reverse || n)
        value = transform(s, value, n ? delimiters : ".", keep, is_reverse);
    if (letter >= 'A' && letter <= 'Z')
        add_escaped(out, value);
    else
        buf_add(out, value);
}

/* A macro string that is known to be well-formed. False: it becomes too long. */
FIBER static bool expand(struct spf *s, str spec, str domain, str *out)
{
    BUF(b, EXPANSION_MAX);
    const char *p = spec.p, *end = spec.p + spec.n;
    while (p < end) {
        if (*p != '%') {
            buf_addc(&b, *p++);
            continue;
        }
        p++;
        const char *after = macro_end(p, end, true);
        if (*p == '%')
            buf_addc(&b, '%');
        else if (*p == '_')
            buf_addc(&b, ' ');
        else if (*p == '-')
            buf_add(&b, S("%20"));
        else
            expand_macro(s, p + 1, after, domain, &b);
        p = after;
    }
    *out = arena_str(s->arena, buf_str(&b));
    return buf_ok(&b);
}

/* The target of a term. False: it cannot be a name, so it has no records. */
FIBER static bool target_of(struct spf *s, str spec, str domain, str *out)
{
    if (str_empty(spec)) {
        *out = domain;
        return true;
    }
    if (!expand(s, spec, domain, out))
        return false;
    *out = auth_name_trim(*out);
    while (out->n > 253) { /* 7.3: labels go from the left */
        ptrdiff_t dot = str_find(*out, '.');
        if (dot < 0)
            return false;
        *out = str_slice(*out, (size_t)dot + 1, SIZE_MAX);
    }
    return auth_name_ok(*out);
}

/* --- mechanisms, RFC 7208 5 --- */

enum match { NO_MATCH, MATCH, MATCH_TEMPERROR, MATCH_PERMERROR };

FIBER static void ask(struct spf *s, enum auth_dns_type type, str name, struct auth_dns_answer *out)
{
    *out = (struct auth_dns_answer){0};
    s->dns->ask(s->dns, type, name, s->arena, out);
}

static bool is_void(const struct auth_dns_answer *r)
{
    return r->result == AUTH_DNS_NODATA || r->result == AUTH_DNS_NXDOMAIN;
}

/* A term whose own question had no answer. False: that was one too many. */
static bool count_void(struct spf *s, const struct auth_dns_answer *r)
{
    if (!is_void(r) || ++s->n_void <= SPF_VOID_MAX)
        return true;
    (void)problem(s, SPF_PERMERROR, "more than 2 terms name what is not in the DNS", STR_NONE);
    return false;
}

static enum auth_dns_type address_type(const struct spf *s)
{
    return s->q->client.is_v6 ? AUTH_DNS_AAAA : AUTH_DNS_A;
}

static bool has_client(const struct spf *s, const struct auth_dns_answer *r, unsigned bits4, unsigned bits6)
{
    for (size_t i = 0; i < r->n; i++)
        if (auth_ip_in(&s->q->client, &r->v[i].ip, s->q->client.is_v6 ? bits6 : bits4))
            return true;
    return false;
}

FIBER static enum match match_a(struct spf *s, const struct term *t, str target)
{
    struct auth_dns_answer r;
    ask(s, address_type(s), target, &r);
    if (r.result == AUTH_DNS_TEMP)
        return MATCH_TEMPERROR;
    if (!count_void(s, &r))
        return MATCH_PERMERROR;
    return has_client(s, &r, t->bits4, t->bits6) ? MATCH : NO_MATCH;
}

FIBER static enum match match_mx(struct spf *s, const struct term *t, str target)
{
    struct auth_dns_answer mx, r;
    ask(s, AUTH_DNS_MX, target, &mx);
    if (mx.result == AUTH_DNS_TEMP)
        return MATCH_TEMPERROR;
    if (!count_void(s, &mx))
        return MATCH_PERMERROR;
    for (size_t i = 0; i < mx.n; i++) {
        if (i == SPF_HOSTS_MAX) {
            (void)problem(s, SPF_PERMERROR, "mx names more than 10 hosts", target);
            return MATCH_PERMERROR;
        }
        if (!auth_name_ok(mx.v[i].text)) /* a null MX, too */
            continue;
        ask(s, address_type(s), mx.v[i].text, &r);
        if (r.result == AUTH_DNS_TEMP)
            return MATCH_TEMPERROR;
        if (has_client(s, &r, t->bits4, t->bits6))
            return MATCH;
    }
    return NO_MATCH;
}

/* The names that the client's address leads to and that lead back to it, 5.5. What fails is left out. */
FIBER static void find_names(struct spf *s)
{
    if (s->has_names)
        return;
    s->has_names = true;
    s->names = arena_array(s->arena, str, SPF_HOSTS_MAX);
    ask(s, AUTH_DNS_PTR, auth_ip_arpa(&s->q->client, s->arena), &s->ptr);
    for (size_t i = 0; i < MIN(s->ptr.n, SPF_HOSTS_MAX); i++) {
        struct auth_dns_answer r;
        if (!auth_name_ok(s->ptr.v[i].text))
            continue;
        ask(s, address_type(s), s->ptr.v[i].text, &r);
        if (has_client(s, &r, 32, 128))
            s->names[s->n_names++] = s->ptr.v[i].text;
    }
}

/* The one of them that is `domain`, else one below it, else any (7.2). */
FIBER static str validated_name(struct spf *s, str domain)
{
    find_names(s);
    str best = s->n_names ? s->names[0] : S("unknown");
    for (size_t i = s->n_names; i-- > 0;)
        if (auth_name_below(s->names[i], domain))
            best = s->names[i];
    for (size_t i = 0; i < s->n_names; i++)
        if (str_eq_nocase(s->names[i], domain))
            best = s->names[i];
    return best;
}

FIBER static enum match match_ptr(struct spf *s, str target)
{
    find_names(s);
    if (!count_void(s, &s->ptr))
        return MATCH_PERMERROR;
    for (size_t i = 0; i < s->n_names; i++)
        if (auth_name_below(s->names[i], target))
            return MATCH;
    return NO_MATCH; /* 5.5: so is an error of the DNS */
}

FIBER static enum match match_exists(struct spf *s, str target)
{
    struct auth_dns_answer r;
    ask(s, AUTH_DNS_A, target, &r); /* also for IPv6 clients, 5.7 */
    if (r.result == AUTH_DNS_TEMP)
        return MATCH_TEMPERROR;
    if (!count_void(s, &r))
        return MATCH_PERMERROR;
    return r.n ? MATCH : NO_MATCH;
}

FIBER static enum spf_result check_host(struct spf *s, str domain, unsigned depth, struct record *r);

/* 5.2 has this table. */
FIBER static enum match match_include(struct spf *s, str target, unsigned depth)
{
    struct record r;
    str outer = s->out->mechanism;
    enum spf_result inner = check_host(s, target, depth + 1, &r);
    s->out->mechanism = outer;
    switch (inner) {
    case SPF_PASS:
        return MATCH;
    case SPF_TEMPERROR:
        return MATCH_TEMPERROR;
    case SPF_NONE:
        (void)problem(s, SPF_PERMERROR, "include of a domain without an SPF record", target);
        return MATCH_PERMERROR;
    case SPF_PERMERROR:
        return MATCH_PERMERROR;
    default:
        return NO_MATCH;
    }
}

static bool count_term(struct spf *s)
{
    if (++s->n_terms <= SPF_TERMS_MAX)
        return true;
    (void)problem(s, SPF_PERMERROR, "more than 10 terms ask the DNS", STR_NONE);
    return false;
}

FIBER static enum match match(struct spf *s, const struct term *t, str domain, unsigned depth)
{
    str target;
    switch (t->kind) {
    case T_ALL:
        return MATCH;
    case T_IP4:
    case T_IP6:
        return auth_ip_in(&s->q->client, &t->net, t->net.is_v6 ? t->bits6 : t->bits4) ? MATCH : NO_MATCH;
    default:
        break;
    }
    if (!count_term(s))
        return MATCH_PERMERROR;
    if (!target_of(s, t->spec, domain, &target)) {
        const struct auth_dns_answer none = {.result = AUTH_DNS_NXDOMAIN};
        if (t->kind == T_INCLUDE) {
            (void)problem(s, SPF_PERMERROR, "include of what is no domain name", t->spec);
            return MATCH_PERMERROR;
        }
        return count_void(s, &none) ? NO_MATCH : MATCH_PERMERROR;
    }
    switch (t->kind) {
    case T_A:
        return match_a(s, t, target);
    case T_MX:
        return match_mx(s, t, target);
    case T_PTR:
        return match_ptr(s, target);
    case T_EXISTS:
        return match_exists(s, target);
    default:
        return match_include(s, target, depth);
    }
}

/* --- records, RFC 7208 4 --- */

/* 4.5: the one record among the TXT records. */
FIBER static enum spf_result find_record(struct spf *s, str domain, str *out)
{
    struct auth_dns_answer r;
    size_t n = 0;
    ask(s, AUTH_DNS_TXT, domain, &r);
    if (r.result == AUTH_DNS_TEMP)
        return problem(s, SPF_TEMPERROR, "the DNS does not answer for the SPF record", domain);
    for (size_t i = 0; i < r.n; i++) {
        str text = r.v[i].text;
        if (!str_starts_nocase(text, S("v=spf1")) || (text.n > 6 && text.p[6] != ' '))
            continue;
        n++;
        *out = text;
    }
    if (n > 1)
        return problem(s, SPF_PERMERROR, "the domain has more than one SPF record", domain);
    if (n == 0)
        return SPF_NONE;
    if (out->n > RECORD_MAX)
        return problem(s, SPF_PERMERROR, "the SPF record is too long", domain);
    return SPF_PASS;
}

FIBER static enum spf_result redirect(struct spf *s, str domain, struct record *r, unsigned depth)
{
    str target;
    if (!count_term(s))
        return SPF_PERMERROR;
    if (!target_of(s, r->redirect, domain, &target))
        return problem(s, SPF_PERMERROR, "redirect to what is no domain name", r->redirect);
    enum spf_result result = check_host(s, target, depth + 1, r); /* and its exp, 6.2 */
    if (result == SPF_NONE)                                       /* 6.1 */
        return problem(s, SPF_PERMERROR, "redirect to a domain without an SPF record", target);
    return result;
}

/* *r: the record that decided, for its exp. */
FIBER static enum spf_result check_host(struct spf *s, str domain, unsigned depth, struct record *r)
{
    str text;
    *r = (struct record){0};
    if (depth > DEPTH_MAX) /* each level has cost a term */
        return problem(s, SPF_PERMERROR, "too deep", domain);
    enum spf_result found = find_record(s, domain, &text);
    if (found != SPF_PASS)
        return found;
    if (!parse_record(s, text, r))
        return SPF_PERMERROR;
    for (size_t i = 0; i < r->n; i++) {
        switch (match(s, &r->terms[i], domain, depth)) {
        case NO_MATCH:
            continue;
        case MATCH:
            s->out->mechanism = r->terms[i].text;
            s->out->domain = domain;
            return r->terms[i].result;
        case MATCH_TEMPERROR:
            return problem(s, SPF_TEMPERROR, "the DNS does not answer for", r->terms[i].text);
        case MATCH_PERMERROR:
            return problem(s, SPF_PERMERROR, "a term cannot be evaluated", r->terms[i].text);
        }
    }
    if (r->has_redirect)
        return redirect(s, domain, r, depth);
    s->out->domain = domain;
    return SPF_NEUTRAL; /* 4.7 */
}

/* 6.2: whatever goes wrong, there is no explanation. */
FIBER static void explain(struct spf *s, const struct record *r, str domain)
{
    struct auth_dns_answer txt;
    str target, text;
    if (!r->has_exp || !target_of(s, r->exp, domain, &target))
        return;
    ask(s, AUTH_DNS_TXT, target, &txt);
    if (txt.n != 1 || !macro_string_ok(txt.v[0].text, true) || !expand(s, txt.v[0].text, domain, &text))
        return;
    for (size_t i = 0; i < text.n; i++) /* what was expanded may have anything in it */
        if (!ascii_is_print((unsigned char)text.p[i]))
            return;
    s->out->explanation = text;
}

/* 4.3: a domain that nobody could have records for. */
static bool domain_ok(str domain)
{
    return auth_name_ok(domain) && str_find(auth_name_trim(domain), '.') > 0 && domain.p[0] != '[';
}

FIBER static void check(struct auth_dns *dns, const struct spf_query *q, str sender, struct arena *a,
                        struct spf_verdict *out)
{
    struct spf s = {.dns = dns, .q = q, .arena = a, .out = out};
    struct record r;
    ptrdiff_t at = str_rfind(sender, '@');
    *out = (struct spf_verdict){0};
    s.sender_domain = at >= 0 ? str_slice(sender, (size_t)at + 1, SIZE_MAX) : sender;
    s.local = at > 0 ? str_slice(sender, 0, (size_t)at) : S("postmaster");
    s.sender = arena_printf(a, "%.*s@%.*s", STR_ARG(s.local), STR_ARG(s.sender_domain));
    str domain = auth_name_trim(s.sender_domain);
    if (!domain_ok(domain)) {
        out->result = problem(&s, SPF_NONE, "no domain name", domain);
        out->domain = domain;
        return;
    }
    out->result = check_host(&s, domain, 0, &r);
    if (out->result == SPF_FAIL)
        explain(&s, &r, out->domain);
    if (out->result == SPF_NONE)
        (void)problem(&s, SPF_NONE, "no SPF record", domain);
    else if (out->result < SPF_TEMPERROR)
        out->problem = STR_NONE;
    out->domain = domain;
}

FIBER void spf_check(struct auth_dns *dns, const struct spf_query *q, struct arena *a, struct spf_verdict *out)
{
    check(dns, q, q->sender.n ? q->sender : q->helo, a, out);
}

FIBER void spf_check_helo(struct auth_dns *dns, const struct spf_query *q, struct arena *a, struct spf_verdict *out)
{
    check(dns, q, q->helo, a, out);
}
