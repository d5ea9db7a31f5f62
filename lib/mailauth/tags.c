#include "mailauth/tags.h"

#include "base/buf.h"

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool name_ok(str name)
{
    if (name.n == 0 || !ascii_is_alpha((unsigned char)name.p[0]))
        return false;
    for (size_t i = 0; i < name.n; i++)
        if (!ascii_is_alnum((unsigned char)name.p[i]) && name.p[i] != '_')
            return false;
    return true;
}

static bool parse(str text, bool is_lenient, struct tags *out)
{
    str entry;
    out->n = 0;
    while (str_split(&text, ';', &entry)) {
        ptrdiff_t eq = str_find(entry, '=');
        struct tag t = {.name = str_trim(str_slice(entry, 0, eq < 0 ? SIZE_MAX : (size_t)eq)),
                        .value = eq < 0 ? STR_NONE : str_trim(str_slice(entry, (size_t)eq + 1, SIZE_MAX))};
        if (eq < 0 && t.name.n == 0) { /* what stands behind the last semicolon */
            if (text.n && !is_lenient)
                return false;
            continue;
        }
        bool is_twice = false;
        for (size_t i = 0; i < out->n; i++)
            is_twice = is_twice || str_eq(out->v[i].name, t.name);
        bool ok = eq >= 0 && name_ok(t.name) && !is_twice && out->n < TAGS_MAX;
        if (!ok && !is_lenient)
            return false;
        if (ok)
            out->v[out->n++] = t;
    }
    return true;
}

bool tags_parse(str text, struct tags *out)
{
    return parse(text, false, out);
}

void tags_parse_lenient(str text, struct tags *out)
{
    IGNORE(parse(text, true, out)); /* it only fails when it is strict */
}

const str *tags_get(const struct tags *t, const char *name)
{
    for (size_t i = 0; i < t->n; i++)
        if (str_eq(t->v[i].name, str_c(name)))
            return &t->v[i].value;
    return NULL;
}

str tag_compact(str value, struct arena *a)
{
    char *p = arena_alloc(a, value.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < value.n; i++)
        if (!is_space(value.p[i]))
            p[n++] = value.p[i];
    p[n] = 0;
    return str_n(p, n);
}

bool tag_base64(str value, struct arena *a, str *out)
{
    str text = tag_compact(value, a);
    BUF(b, text.n);
    if (text.n == 0 || !buf_add_unbase64(&b, text))
        return false;
    *out = arena_str(a, buf_str(&b));
    return true;
}

bool tag_list_next(str *rest, char separator, str *word)
{
    if (!str_split(rest, separator, word))
        return false;
    *word = str_trim(*word);
    return true;
}

bool tag_list_has(str list, str word)
{
    str w;
    while (tag_list_next(&list, ':', &w))
        if (str_eq_nocase(w, word))
            return true;
    return false;
}
