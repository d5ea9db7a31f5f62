#include "sieve/internal.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>

#include "mail/address.h"

bool word_header_name(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] <= ' ' || (unsigned char)s.p[i] >= 0x7f || s.p[i] == ':')
            return false;
    return s.n > 0 && s.n <= 998;
}

bool word_variable_name(str s, str *space, str *name)
{
    size_t start = 0, last_dot = SIZE_MAX;
    if (s.n == 0 || s.n > 64)
        return false;
    for (size_t i = 0; i <= s.n; i++) {
        unsigned char c = i < s.n ? (unsigned char)s.p[i] : '.';
        if (c == '.') {
            if (i == start)
                return false;
            if (i < s.n)
                last_dot = i;
            start = i + 1;
        } else if (!(ascii_is_alpha(c) || c == '_' || (ascii_is_digit(c) && i > start))) {
            return false;
        }
    }
    *space = last_dot == SIZE_MAX ? STR_NONE : str_slice(s, 0, last_dot);
    *name = last_dot == SIZE_MAX ? s : str_slice(s, last_dot + 1, SIZE_MAX);
    return true;
}

bool word_comparator(str s, enum comparator *out, enum cap *cap)
{
    static const struct {
        const char *name;
        enum comparator c;
        enum cap cap;
    } names[] = {{"i;octet", CMP_OCTET, CAP_COMPARATOR_OCTET},
                 {"i;ascii-casemap", CMP_CASEMAP, CAP_COMPARATOR_CASEMAP},
                 {"i;ascii-numeric", CMP_NUMERIC, CAP_COMPARATOR_NUMERIC},
                 {"i;unicode-casemap", CMP_UNICODE, CAP_COMPARATOR_UNICODE}};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (!str_eq(s, str_c(names[i].name)))
            continue;
        *out = names[i].c;
        *cap = names[i].cap;
        return true;
    }
    return false;
}

bool word_relation(str s, enum relation *out)
{
    static const char *const names[] = {"gt", "ge", "lt", "le", "eq", "ne"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (str_eq_nocase(s, str_c(names[i]))) {
            *out = (enum relation)i;
            return true;
        }
    }
    return false;
}

/* RFC 9051 9: flag-keyword is an atom; of the flags with a backslash only those that a client may set. */
bool word_flag(str s)
{
    str rest = s.n && s.p[0] == '\\' ? str_slice(s, 1, SIZE_MAX) : s;
    for (size_t i = 0; i < rest.n; i++) {
        unsigned char c = (unsigned char)rest.p[i];
        if (c <= ' ' || c >= 0x7f || strchr("(){%*\"\\]", c))
            return false;
    }
    return rest.n > 0 && rest.n <= 255;
}

/* 2.4.2.3: one address as header fields have it, perhaps with a name before it; no list and no group. */
bool word_address(str s, struct arena *a, str *out)
{
    struct address_list list;
    struct smtp_path path;
    struct err err = ERR_INIT;
    unsigned n_at = 0;
    bool is_quoted = false;
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (ascii_is_ctl(c) && c != '\t')
            return false;
        if (is_quoted && c == '\\')
            i++;
        else if (c == '"')
            is_quoted = !is_quoted;
        else if (!is_quoted && strchr(",;:()[]", c))
            return false;
        else if (!is_quoted)
            n_at += c == '@';
    }
    if (n_at != 1 || is_quoted)
        return false;
    address_list_parse(a, s, 2, &list);
    if (list.n != 1 || list.is_cut || list.v[0].group_start.p || list.v[0].is_group_end || !list.v[0].local.n ||
        !list.v[0].domain.n)
        return false;
    BUF(b, 1024);
    address_add_local(&b, list.v[0].local);
    buf_addc(&b, '@');
    buf_add(&b, list.v[0].domain);
    if (!buf_ok(&b) || !smtp_mailbox_parse(arena_str(a, buf_str(&b)), true, a, &path, &err))
        return false;
    *out = path.address;
    return true;
}

bool word_date_part(str s)
{
    static const char *const names[] = {"year",   "month", "day",     "date",  "julian", "hour",   "minute",
                                        "second", "time",  "iso8601", "std11", "zone",   "weekday"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (str_eq_nocase(s, str_c(names[i])))
            return true;
    return false;
}

bool word_zone(str s, int *minutes)
{
    if (s.n != 5 || (s.p[0] != '+' && s.p[0] != '-'))
        return false;
    for (size_t i = 1; i < 5; i++)
        if (!ascii_is_digit((unsigned char)s.p[i]))
            return false;
    int hours = (s.p[1] - '0') * 10 + (s.p[2] - '0'), rest = (s.p[3] - '0') * 10 + (s.p[4] - '0');
    if (hours > 23 || rest > 59)
        return false;
    *minutes = (s.p[0] == '-' ? -1 : 1) * (hours * 60 + rest);
    return true;
}

bool word_mailbox(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (ascii_is_ctl((unsigned char)s.p[i]))
            return false;
    return s.n > 0 && s.n <= 4096 && utf8_valid(s.p, s.n);
}

const char *word_regex_problem(str pattern)
{
    static char text[120];
    int code;
    PCRE2_SIZE at;
    if (pattern.n > 1024)
        return "it is longer than 1024 bytes";
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)(pattern.n ? pattern.p : ""), pattern.n,
                                   PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);
    if (re) {
        pcre2_code_free(re);
        return NULL;
    }
    pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
    return text;
}

static bool decode_uri(str s, struct arena *a, str *out)
{
    char *p = arena_alloc(a, s.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++) {
        int hi = i + 2 < s.n ? ascii_hex((unsigned char)s.p[i + 1]) : -1,
            lo = i + 2 < s.n ? ascii_hex((unsigned char)s.p[i + 2]) : -1;
        bool is_escape = s.p[i] == '%' && hi >= 0 && lo >= 0;
        unsigned char c = (unsigned char)s.p[i];
        if (!is_escape && !ascii_is_alnum(c) && (c == 0 || !strchr("-._~!$'()*+,:@/?", c))) /* qchar, RFC 6068 2 */
            return false;
        p[n++] = is_escape ? (char)(hi * 16 + lo) : s.p[i];
        i += is_escape ? 2 : 0;
    }
    *out = str_n(p, n);
    return true;
}

static bool addresses_ok(str list, struct arena *a, size_t *n)
{
    str one, address;
    for (; str_split(&list, ',', &one); ++*n)
        if (!word_address(one, a, &address))
            return false;
    return true;
}

/* RFC 6068: addresses, then perhaps header fields. */
bool word_uri_mailto(str s, struct arena *a, const char **problem)
{
    str rest = str_slice(s, strlen("mailto:"), SIZE_MAX), to = rest, fields = STR_NONE, one, value;
    ptrdiff_t query = str_find(rest, '?');
    size_t n = 0;
    if (query >= 0) {
        to = str_slice(rest, 0, (size_t)query);
        fields = str_slice(rest, (size_t)query + 1, SIZE_MAX);
    }
    *problem = "a mailto: has addresses, each of which is local@domain";
    if (!decode_uri(to, a, &to) || !addresses_ok(to, a, &n))
        return false;
    while (str_split(&fields, '&', &one)) {
        ptrdiff_t eq = str_find(one, '=');
        str name;
        *problem = "behind the '?' of a mailto: come field=value, with '&' between them";
        if (eq <= 0 || !decode_uri(str_slice(one, 0, (size_t)eq), a, &name) || !word_header_name(name) ||
            !decode_uri(str_slice(one, (size_t)eq + 1, SIZE_MAX), a, &value))
            return false;
        *problem = "to= and cc= of a mailto: are addresses";
        if ((str_eq_nocase(name, S("to")) || str_eq_nocase(name, S("cc"))) && !addresses_ok(value, a, &n))
            return false;
    }
    *problem = n ? NULL : "a mailto: has at least one address";
    return n > 0;
}

/* RFC 5435 3.6. */
bool word_notify_option(str s)
{
    ptrdiff_t eq = str_find(s, '=');
    if (eq <= 0 || !ascii_is_alnum((unsigned char)s.p[0]))
        return false;
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if ((ptrdiff_t)i < eq ? !ascii_is_alnum(c) && !strchr(".-_", c) : c == '\r' || c == '\n')
            return false;
    }
    return true;
}
