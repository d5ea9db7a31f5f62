#include "mail/downgrade.h"
#include "mail/encoded_word.h"
#include "mail/header.h"

#define SPECIALS "()<>[]:;@\\,\""

static bool is_8bit(str s)
{
    return !ascii_only(s.p, s.n);
}

static void add_masked(struct buf *out, str s)
{
    for (size_t i = 0; i < s.n; i++)
        buf_addc(out, (unsigned char)s.p[i] < 0x80 ? s.p[i] : '?');
}

static size_t column_of(const struct buf *out)
{
    size_t n = 0;
    while (n < out->n && out->p[out->n - 1 - n] != '\n')
        n++;
    return n;
}

static bool is_white(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Words without specials: from the first to the last that has 8-bit bytes they become encoded words, as one text, for
 * the space between two of them would be lost. */
static void add_words(struct arena *a, str words, struct buf *out)
{
    size_t from = 0, to = words.n;
    while (from < words.n && (unsigned char)words.p[from] < 0x80)
        from++;
    while (from > 0 && !is_white(words.p[from - 1]))
        from--;
    while (to > from && (unsigned char)words.p[to - 1] < 0x80)
        to--;
    while (to < words.n && !is_white(words.p[to]))
        to++;
    add_masked(out, str_slice(words, 0, from));
    encoded_word_encode(out, header_unfold(a, str_slice(words, from, to)), column_of(out));
    add_masked(out, str_slice(words, to, SIZE_MAX));
}

/* The length of the quoted string at the front, quotes included. */
static size_t quoted_length(str s)
{
    size_t i = 1;
    for (; i < s.n && s.p[i] != '"'; i++)
        if (s.p[i] == '\\')
            i++;
    return MIN(i + 1, s.n);
}

/* A quoted string with 8-bit bytes: encoded words instead of it, or (as a parameter's value, where those cannot stand
 * by the letter, but where many programs write and read them) within the quotes. */
static void add_quoted(struct arena *a, str quoted, bool is_param, struct buf *out)
{
    BUF(text, quoted.n + 1);
    for (size_t i = 1; i + 1 < quoted.n; i++)
        if (quoted.p[i] != '\\' || ++i + 1 < quoted.n)
            buf_addc(&text, quoted.p[i]);
    if (is_param)
        buf_addc(out, '"');
    encoded_word_encode(out, header_unfold(a, buf_str(&text)), column_of(out));
    if (is_param)
        buf_addc(out, '"');
}

static void add_value(struct arena *a, str value, struct buf *out)
{
    while (value.n) {
        bool is_quoted = value.p[0] == '"';
        size_t n = is_quoted ? quoted_length(value) : 0;
        if (!is_quoted)
            while (n < value.n && !strchr(SPECIALS, value.p[n]) && value.p[n])
                n++;
        str token = str_slice(value, 0, MAX(n, 1));
        if (!is_8bit(token) || n == 0)
            add_masked(out, token);
        else if (is_quoted)
            add_quoted(a, token, out->n && out->p[out->n - 1] == '=', out);
        else
            add_words(a, token, out);
        value = str_slice(value, token.n, SIZE_MAX);
    }
}

/* Subject and its like are text throughout: quotes and brackets mean nothing in them (RFC 5322 3.6.5). */
static bool is_unstructured(str name)
{
    static const str names[] = {S_INIT("Subject"), S_INIT("Comments"), S_INIT("Content-Description"),
                                S_INIT("Organization")};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (str_eq_nocase(name, names[i]))
            return true;
    return str_starts_nocase(name, S("X-"));
}

static void add_field(struct arena *a, const struct header_field *f, struct buf *out)
{
    if (!is_8bit(f->value)) {
        add_masked(out, f->raw);
        return;
    }
    add_masked(out, f->name);
    buf_add(out, S(":"));
    if (is_unstructured(f->name))
        add_words(a, f->value, out);
    else
        add_value(a, f->value, out);
    buf_add(out, S("\r\n"));
}

/* Without the blank line at its end, which *blank gets. */
static str without_blank(str block, str *blank)
{
    size_t n = 0;
    if (str_ends(block, S("\r\n")) && (block.n == 2 || block.p[block.n - 3] == '\n'))
        n = 2;
    else if (str_ends(block, S("\n")) && (block.n == 1 || block.p[block.n - 2] == '\n'))
        n = 1;
    *blank = n ? str_slice(block, block.n - n, SIZE_MAX) : S("\r\n");
    return str_slice(block, 0, block.n - n);
}

void downgrade_header(str block, const struct downgrade_label *label, struct buf *out)
{
    ARENA(a, 4 * DOWNGRADE_HEADER_MAX);
    str blank;
    struct header_field f;
    block = without_blank(block, &blank);
    bool has_version = header_find(block, S("MIME-Version"), &f), has_type = header_find(block, S("Content-Type"), &f);
    struct header_iter it = header_iter_of(block);
    size_t at = 0;
    while (header_next(&it, &f)) {
        add_masked(out, str_slice(block, at, f.offset)); /* lines that are no fields */
        at = f.offset + f.raw.n;
        if (!label->encoding || !str_eq_nocase(f.name, S("Content-Transfer-Encoding")))
            add_field(&a, &f, out);
    }
    add_masked(out, str_slice(block, at, SIZE_MAX));
    if (out->n && out->p[out->n - 1] != '\n')
        buf_add(out, S("\r\n"));
    if (label->adds_version && !has_version)
        buf_add(out, S("MIME-Version: 1.0\r\n"));
    if (label->charset && !has_type)
        buf_printf(out, "Content-Type: text/plain; charset=%s\r\n", label->charset);
    if (label->encoding)
        buf_printf(out, "Content-Transfer-Encoding: %s\r\n", label->encoding);
    buf_add(out, blank);
}
