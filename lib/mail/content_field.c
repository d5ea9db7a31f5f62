#include "mail/content_field.h"

#include "base/num.h"
#include "mail/charset.h"
#include "mail/encoded_word.h"
#include "mail/header.h"

#define SEGMENTS_MAX 999u /* highest continuation number of a parameter */

/* One parameter as written: name, name*, name*3 or name*3*. */
struct segment {
    str name;
    str value;
    uint32_t index;
    bool has_index, is_extended;
};

static void skip_comment(struct cursor *c)
{
    unsigned depth = 0;
    while (c->p < c->end) {
        unsigned char ch = *c->p++;
        if (ch == '\\' && c->p < c->end)
            c->p++;
        else if (ch == '(')
            depth++;
        else if (ch == ')' && --depth == 0)
            return;
    }
}

static void skip_cfws(struct cursor *c)
{
    for (;;) {
        int ch = cur_peek(c);
        if (ch == ' ' || ch == '\t' || ch == '\r' || ch == '\n')
            c->p++;
        else if (ch == '(')
            skip_comment(c);
        else
            return;
    }
}

static bool is_token(unsigned char c)
{
    return c > ' ' && c != 0x7f && !memchr("()<>@,;:\\\"/[]?=", c, 15);
}

/* Leniently: a type may hold what a token may not, but not what separates. */
static bool is_type_char(unsigned char c)
{
    return c > ' ' && c != ';' && c != '/' && c != '(' && c != '"' && c != '=' && c != ',';
}

static bool is_name_char(unsigned char c)
{
    return c > ' ' && c != '=' && c != ';' && c != '"' && c != '(';
}

static str quoted_value(struct arena *a, struct cursor *c)
{
    c->p++; /* the opening quote */
    char *out = arena_alloc(a, cur_left(c) + 1);
    size_t n = 0;
    while (c->p < c->end && *c->p != '"') {
        /* A backslash before anything else than a quote or a backslash is kept: file names of Windows. */
        if (*c->p == '\\' && c->p + 1 < c->end && (c->p[1] == '"' || c->p[1] == '\\'))
            c->p++;
        if (*c->p != '\r' && *c->p != '\n' && *c->p != '\0')
            out[n++] = (char)*c->p;
        c->p++;
    }
    cur_skip(c, '"');
    out[n] = '\0';
    return str_n(out, n);
}

/* Up to ";" or a comment: unquoted values with spaces are common in file names. */
static str bare_value(struct cursor *c)
{
    const unsigned char *from = c->p;
    while (c->p < c->end && *c->p != ';' && *c->p != '"') {
        if (*c->p == '(' && c->p > from && (c->p[-1] == ' ' || c->p[-1] == '\t'))
            break;
        c->p++;
    }
    return str_trim(str_n(from, (size_t)(c->p - from)));
}

/* name*, name*N, name*N* (RFC 2231 section 3 and 4). */
static void split_name(struct segment *s)
{
    ptrdiff_t star = str_find(s->name, '*');
    if (star < 0)
        return;
    str rest = str_slice(s->name, (size_t)star + 1, SIZE_MAX);
    s->name = str_slice(s->name, 0, (size_t)star);
    if (str_ends(rest, S("*")) && rest.n > 1) {
        s->is_extended = true;
        rest.n--;
    }
    if (str_empty(rest))
        s->is_extended = true;
    else if (num_u32(rest, SEGMENTS_MAX, &s->index))
        s->has_index = true;
}

static bool next_segment(struct arena *a, struct cursor *c, struct segment *s)
{
    for (;;) {
        skip_cfws(c);
        while (cur_skip(c, ';'))
            skip_cfws(c);
        if (c->p == c->end)
            return false;
        *s = (struct segment){.name = cur_take_while(c, is_name_char, SIZE_MAX)};
        skip_cfws(c);
        if (cur_skip(c, '=')) {
            skip_cfws(c);
            s->value = cur_peek(c) == '"' ? quoted_value(a, c) : bare_value(c);
            split_name(s);
            if (!str_empty(s->name))
                return true;
        } else if (str_empty(s->name)) {
            c->p++; /* a stray delimiter */
        }
    }
}

static void add_percent_decoded(struct buf *out, str s)
{
    for (size_t i = 0; i < s.n; i++) {
        int high, low;
        if (s.p[i] == '%' && i + 2 < s.n && (high = ascii_hex((unsigned char)s.p[i + 1])) >= 0 &&
            (low = ascii_hex((unsigned char)s.p[i + 2])) >= 0) {
            buf_addc(out, (char)(high << 4 | low));
            i += 2;
        } else {
            buf_addc(out, s.p[i]);
        }
    }
}

/* charset'language'text; without the quotes it is all text. */
static str take_charset(str *value)
{
    ptrdiff_t first = str_find(*value, '\'');
    if (first < 0)
        return S("");
    str rest = str_slice(*value, (size_t)first + 1, SIZE_MAX);
    ptrdiff_t second = str_find(rest, '\'');
    if (second < 0)
        return S("");
    str charset = str_slice(*value, 0, (size_t)first);
    *value = str_slice(rest, (size_t)second + 1, SIZE_MAX);
    return charset;
}

static str finish_value(struct arena *a, struct buf *utf8, size_t max_value)
{
    str s = header_unfold(a, buf_str(utf8));
    if (s.n > max_value) {
        s.n = max_value;
        while (s.n && ((unsigned char)s.p[s.n] & 0xc0) == 0x80)
            s.n--;
    }
    return s;
}

/* The segment of that number; name* counts as number 0, and nothing follows it. */
static const struct segment *find_segment(const struct segment *v, size_t n, str name, uint32_t index)
{
    for (size_t i = 0; i < n; i++)
        if (str_eq(v[i].name, name) && (v[i].has_index ? v[i].index == index : v[i].is_extended && index == 0))
            return &v[i];
    return NULL;
}

/* Join what belongs to `name`, all extended or continued segments of it, in the order of their numbers. */
static str join_extended(struct arena *a, const struct segment *v, size_t n, str name, size_t max_value)
{
    size_t bound = 64;
    for (size_t i = 0; i < n; i++)
        bound = size_add(bound, v[i].value.n);
    BUF(bytes, bound);
    str charset = S("");
    const struct segment *s = find_segment(v, n, name, 0);
    for (uint32_t index = 0; s; s = s->has_index ? find_segment(v, n, name, ++index) : NULL) {
        str text = s->value;
        if (s->is_extended && index == 0)
            charset = take_charset(&text);
        if (s->is_extended)
            add_percent_decoded(&bytes, text);
        else
            buf_add(&bytes, text);
    }
    BUF(utf8, bytes.n * 4 + 16);
    if (str_empty(charset) && str_find_str(buf_str(&bytes), S("=?")) >= 0)
        encoded_word_decode(&utf8, buf_str(&bytes));
    else
        charset_to_utf8(charset, buf_str(&bytes), &utf8);
    return finish_value(a, &utf8, max_value);
}

static str plain_value(struct arena *a, str value, size_t max_value)
{
    if (ascii_only(value.p, value.n) && str_find_str(value, S("=?")) < 0 && value.n <= max_value)
        return header_unfold(a, value);
    BUF(utf8, value.n * 4 + 16);
    str line = header_unfold(a, value);
    encoded_word_decode(&utf8, line);
    return finish_value(a, &utf8, max_value);
}

static str lower_copy(struct arena *a, str s)
{
    str copy = header_unfold(a, s);
    for (size_t i = 0; i < copy.n; i++)
        ((char *)(uintptr_t)copy.p)[i] = (char)ascii_lower((unsigned char)copy.p[i]);
    return copy;
}

static str upper_copy(struct arena *a, str s)
{
    str copy = header_unfold(a, s);
    for (size_t i = 0; i < copy.n; i++)
        ((char *)(uintptr_t)copy.p)[i] = (char)ascii_upper((unsigned char)copy.p[i]);
    return copy;
}

static bool is_first_of_name(const struct segment *v, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (str_eq(v[k].name, v[i].name))
            return false;
    return true;
}

static void collect_params(struct arena *a, struct cursor *c, unsigned max_params, size_t max_value,
                           struct content_field *out)
{
    struct segment v[CONTENT_PARAMS_MAX], s;
    size_t n = 0;
    while (next_segment(a, c, &s)) {
        if (n == MIN(max_params, CONTENT_PARAMS_MAX)) {
            out->is_cut = true;
            break;
        }
        s.name = lower_copy(a, str_slice(s.name, 0, 256));
        v[n++] = s;
    }
    if (n == 0)
        return;
    out->params.v = arena_array(a, struct mime_param, n);
    for (size_t i = 0; i < n; i++) {
        if (!is_first_of_name(v, i))
            continue;
        bool has_extended = false;
        const struct segment *plain = NULL;
        for (size_t k = i; k < n; k++) {
            if (!str_eq(v[k].name, v[i].name))
                continue;
            if (v[k].is_extended || v[k].has_index)
                has_extended = true;
            else if (!plain)
                plain = &v[k];
        }
        out->params.v[out->params.n++] = (struct mime_param){
            .name = v[i].name,
            .value =
                has_extended ? join_extended(a, v, n, v[i].name, max_value) : plain_value(a, plain->value, max_value),
        };
    }
}

void content_field_parse(struct arena *a, str value, bool with_subtype, unsigned max_params, size_t max_value,
                         struct content_field *out)
{
    *out = (struct content_field){.token = S(""), .subtype = S("")};
    struct cursor c = cur_of(value);
    skip_cfws(&c);
    str token = cur_take_while(&c, with_subtype ? is_type_char : is_token, 127); /* RFC 6838 4.2 */
    skip_cfws(&c);
    if (with_subtype) {
        if (cur_skip(&c, '/')) {
            skip_cfws(&c);
            out->subtype = upper_copy(a, cur_take_while(&c, is_type_char, 127));
        }
        out->token = upper_copy(a, token);
    } else {
        if (cur_peek(&c) == '=') /* `filename=x` with no type before it: the token was a parameter's name */
            c = cur_of(value);
        else
            out->token = lower_copy(a, token);
    }
    if (with_subtype && cur_peek(&c) == '=' && str_empty(out->subtype)) {
        c = cur_of(value);
        out->token = S("");
    }
    collect_params(a, &c, max_params, max_value, out);
}
