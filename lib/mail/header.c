#include "mail/header.h"

#include "mail/encoded_word.h"

/* Length of the line at s, its LF included; all of s when there is none. */
static size_t line_length(str s)
{
    const char *lf = s.n ? memchr(s.p, '\n', s.n) : NULL;
    return lf ? (size_t)(lf - s.p) + 1 : s.n;
}

static str without_line_end(str line)
{
    if (line.n && line.p[line.n - 1] == '\n')
        line.n--;
    if (line.n && line.p[line.n - 1] == '\r')
        line.n--;
    return line;
}

static bool name_of(str line, str *name, size_t *colon)
{
    size_t i = 0;
    while (i < line.n && (unsigned char)line.p[i] > ' ' && (unsigned char)line.p[i] < 0x7f && line.p[i] != ':')
        i++;
    if (i == 0)
        return false;
    size_t end = i;
    while (i < line.n && (line.p[i] == ' ' || line.p[i] == '\t')) /* RFC 5322 4.5.8 */
        i++;
    if (i >= line.n || line.p[i] != ':')
        return false;
    *name = str_slice(line, 0, end);
    *colon = i;
    return true;
}

bool header_is_field_line(str line)
{
    str name;
    size_t colon;
    return name_of(line, &name, &colon);
}

static bool is_continuation(str s)
{
    return s.n && (s.p[0] == ' ' || s.p[0] == '\t');
}

bool header_next(struct header_iter *it, struct header_field *field)
{
    while (it->at < it->block.n) {
        str rest = str_slice(it->block, it->at, SIZE_MAX);
        size_t n = line_length(rest);
        str first = without_line_end(str_slice(rest, 0, n));
        if (first.n == 0)
            return false;
        /* A line of white space alone does not end the header: it continues the field (obsolete folding). */
        while (n < rest.n && is_continuation(str_slice(rest, n, SIZE_MAX)))
            n += line_length(str_slice(rest, n, SIZE_MAX));
        str name;
        size_t colon;
        bool is_field = name_of(first, &name, &colon);
        if (is_field) {
            field->name = name;
            field->raw = str_slice(rest, 0, n);
            field->value = without_line_end(str_slice(rest, colon + 1, n));
            field->offset = it->at;
        }
        it->at += n;
        if (is_field)
            return true;
    }
    return false;
}

bool header_find(str block, str name, struct header_field *field)
{
    struct header_iter it = header_iter_of(block);
    struct header_field f;
    while (header_next(&it, &f)) {
        if (str_eq_nocase(f.name, name)) {
            *field = f;
            return true;
        }
    }
    return false;
}

str header_unfold(struct arena *a, str value)
{
    value = str_trim(value);
    bool is_clean = true;
    for (size_t i = 0; i < value.n && is_clean; i++)
        is_clean = value.p[i] != '\r' && value.p[i] != '\n' && value.p[i] != '\0';
    if (is_clean)
        return arena_str(a, value);
    char *out = arena_alloc(a, value.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < value.n; i++) {
        char c = value.p[i];
        if (c == '\0' || c == '\n' || c == '\r') {
            /* A bare CR within a line must not join words. */
            bool is_fold =
                i + 1 < value.n && (value.p[i + 1] == ' ' || value.p[i + 1] == '\t' || value.p[i + 1] == '\n');
            if (c == '\r' && !is_fold)
                out[n++] = ' ';
            continue;
        }
        out[n++] = c;
    }
    out[n] = '\0';
    return str_n(out, n);
}

str header_decode(struct arena *a, str value)
{
    str line = header_unfold(a, value);
    if (ascii_only(line.p, line.n) && str_find_str(line, S("=?")) < 0)
        return line;
    BUF(out, line.n * 4 + 16);
    encoded_word_decode(&out, line);
    return arena_str(a, buf_str(&out));
}
