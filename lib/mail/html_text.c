#include "mail/html_text.h"

#include "base/num.h"

static const struct {
    str name;
    const char *utf8;
} entities[] = {
    {S_INIT("amp"), "&"},
    {S_INIT("lt"), "<"},
    {S_INIT("gt"), ">"},
    {S_INIT("quot"), "\""},
    {S_INIT("apos"), "'"},
    {S_INIT("nbsp"), " "},
    {S_INIT("copy"), "\xc2\xa9"},
    {S_INIT("reg"), "\xc2\xae"},
    {S_INIT("euro"), "\xe2\x82\xac"},
    {S_INIT("ndash"), "\xe2\x80\x93"},
    {S_INIT("mdash"), "\xe2\x80\x94"},
    {S_INIT("hellip"), "\xe2\x80\xa6"},
    {S_INIT("lsquo"), "\xe2\x80\x98"},
    {S_INIT("rsquo"), "\xe2\x80\x99"},
    {S_INIT("ldquo"), "\xe2\x80\x9c"},
    {S_INIT("rdquo"), "\xe2\x80\x9d"},
    {S_INIT("auml"), "\xc3\xa4"},
    {S_INIT("ouml"), "\xc3\xb6"},
    {S_INIT("uuml"), "\xc3\xbc"},
    {S_INIT("Auml"), "\xc3\x84"},
    {S_INIT("Ouml"), "\xc3\x96"},
    {S_INIT("Uuml"), "\xc3\x9c"},
    {S_INIT("szlig"), "\xc3\x9f"},
    {S_INIT("eacute"), "\xc3\xa9"},
    {S_INIT("egrave"), "\xc3\xa8"},
    {S_INIT("agrave"), "\xc3\xa0"},
    {S_INIT("ccedil"), "\xc3\xa7"},
    {S_INIT("zwnj"), ""},
    {S_INIT("shy"), ""},
};

static void add_code_point(struct buf *out, uint32_t c)
{
    if (c == 0 || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        c = 0xfffd;
    if (c < 0x80) {
        buf_addc(out, (char)c);
    } else if (c < 0x800) {
        buf_addc(out, (char)(0xc0 | c >> 6));
        buf_addc(out, (char)(0x80 | (c & 0x3f)));
    } else if (c < 0x10000) {
        buf_addc(out, (char)(0xe0 | c >> 12));
        buf_addc(out, (char)(0x80 | (c >> 6 & 0x3f)));
        buf_addc(out, (char)(0x80 | (c & 0x3f)));
    } else {
        buf_addc(out, (char)(0xf0 | c >> 18));
        buf_addc(out, (char)(0x80 | (c >> 12 & 0x3f)));
        buf_addc(out, (char)(0x80 | (c >> 6 & 0x3f)));
        buf_addc(out, (char)(0x80 | (c & 0x3f)));
    }
}

static bool hex_u32(str s, uint32_t *out)
{
    uint32_t v = 0;
    for (size_t i = 0; i < s.n; i++) {
        int digit = ascii_hex((unsigned char)s.p[i]);
        if (digit < 0 || i >= 6)
            return false;
        v = v << 4 | (uint32_t)digit;
    }
    *out = v;
    return s.n > 0;
}

/* A reference at s ("&…;"); returns its length, or 0 when it is none. */
static size_t add_reference(struct buf *out, str s)
{
    ptrdiff_t end = str_find(str_slice(s, 0, 12), ';');
    if (end < 2)
        return 0;
    str name = str_slice(s, 1, (size_t)end);
    uint32_t code;
    if (name.p[0] == '#') {
        bool is_hex = name.n > 1 && (name.p[1] | 0x20) == 'x';
        if (is_hex ? !hex_u32(str_slice(name, 2, SIZE_MAX), &code)
                   : !num_u32(str_slice(name, 1, SIZE_MAX), 0x10ffff, &code))
            return 0;
        add_code_point(out, code);
        return (size_t)end + 1;
    }
    for (size_t i = 0; i < ARRAY_LEN(entities); i++) {
        if (str_eq(name, entities[i].name)) {
            buf_add(out, str_c(entities[i].utf8));
            return (size_t)end + 1;
        }
    }
    return 0;
}

static str tag_name(str tag)
{
    size_t n = 0;
    if (n < tag.n && tag.p[n] == '/')
        n++;
    while (n < tag.n && ascii_is_alnum((unsigned char)tag.p[n]))
        n++;
    return str_slice(tag, 0, n);
}

/* Elements whose content is no text. */
static bool is_hidden(str name)
{
    return str_eq_nocase(name, S("style")) || str_eq_nocase(name, S("script")) || str_eq_nocase(name, S("head")) ||
           str_eq_nocase(name, S("title"));
}

/* Elements within a line: words go on across them. */
static bool is_within_line(str name)
{
    static const str names[] = {S_INIT("b"),    S_INIT("i"),    S_INIT("u"),      S_INIT("a"),     S_INIT("em"),
                                S_INIT("span"), S_INIT("font"), S_INIT("strong"), S_INIT("small"), S_INIT("sup"),
                                S_INIT("sub"),  S_INIT("code"), S_INIT("wbr"),    S_INIT("big"),   S_INIT("s")};
    if (name.n && name.p[0] == '/')
        name = str_slice(name, 1, SIZE_MAX);
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (str_eq_nocase(name, names[i]))
            return true;
    return false;
}

/* Length of the tag at s, from "<" to its ">" outside of quotes. */
static size_t tag_length(str s)
{
    char quote = 0;
    for (size_t i = 1; i < s.n; i++) {
        char c = s.p[i];
        if (quote) {
            if (c == quote)
                quote = 0;
        } else if ((c == '"' || c == '\'') && s.p[i - 1] == '=') {
            quote = c;
        } else if (c == '>') {
            return i + 1;
        }
    }
    return s.n;
}

/* Offset after the end tag of a hidden element. */
static size_t skip_element(str s, str name)
{
    for (size_t i = 0; i + 1 < s.n; i++) {
        if (s.p[i] != '<' || s.p[i + 1] != '/' || !str_starts_nocase(str_slice(s, i + 2, SIZE_MAX), name))
            continue;
        return i + tag_length(str_slice(s, i, SIZE_MAX));
    }
    return s.n;
}

static size_t markup(struct buf *out, str s)
{
    if (str_starts(s, S("<!--"))) {
        ptrdiff_t end = str_find_str(s, S("-->"));
        return end < 0 ? s.n : (size_t)end + 3;
    }
    size_t n = tag_length(s);
    str name = tag_name(str_slice(s, 1, n));
    if (is_hidden(name))
        n += skip_element(str_slice(s, n, SIZE_MAX), name);
    if (!is_within_line(name))
        buf_addc(out, '\n');
    return n;
}

void html_to_text(struct buf *out, str html)
{
    size_t at = 0;
    while (at < html.n && buf_ok(out)) {
        size_t from = at;
        while (at < html.n && html.p[at] != '<' && html.p[at] != '&')
            at++;
        buf_add(out, str_slice(html, from, at));
        if (at >= html.n)
            break;
        str rest = str_slice(html, at, SIZE_MAX);
        bool is_tag =
            rest.p[0] == '<' && rest.n > 1 &&
            (ascii_is_alpha((unsigned char)rest.p[1]) || rest.p[1] == '/' || rest.p[1] == '!' || rest.p[1] == '?');
        size_t n = is_tag ? markup(out, rest) : rest.p[0] == '&' ? add_reference(out, rest) : 0;
        if (n == 0) {
            buf_addc(out, rest.p[0]);
            n = 1;
        }
        at += n;
    }
}
