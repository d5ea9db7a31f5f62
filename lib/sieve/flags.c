/*
 * imap4flags, RFC 5232: lists of flags are texts with a space between each two; without a variable's name they are the
 * internal one.
 */
#include "sieve/state.h"

#define FLAGS_MAX 200u

static bool has(str *v, size_t n, str flag)
{
    for (size_t i = 0; i < n; i++)
        if (str_eq_nocase(v[i], flag))
            return true;
    return false;
}

static void add_words(struct run *r, str text, str **v, size_t *n)
{
    str word;
    for (size_t i = 0; i < text.n; i++)
        if (ascii_is_ctl((unsigned char)text.p[i]))
            return;
    while (str_split(&text, ' ', &word)) {
        if (word.n == 0 || !word_flag(word) || str_eq_nocase(word, S("\\Recent")) || has(*v, *n, word) ||
            *n == FLAGS_MAX)
            continue; /* RFC 5232 2: what is no flag is left out */
        if (!*v)
            *v = arena_array(r->arena, str, FLAGS_MAX);
        (*v)[(*n)++] = arena_str(r->arena, word);
    }
}

void flags_of_list(struct run *r, struct cursor list, str **out, size_t *n)
{
    str s;
    *out = NULL;
    *n = 0;
    while (list_next(r, &list, &s))
        add_words(r, s, out, n);
}

static str joined(struct run *r, const str *v, size_t n)
{
    BUF(b, 64u << 10);
    for (size_t i = 0; i < n; i++) {
        buf_add(&b, i ? S(" ") : S(""));
        buf_add(&b, v[i]);
    }
    return arena_str(r->arena, buf_str(&b));
}

void flags_apply(struct run *r, const struct call *c)
{
    str *given, *v = NULL;
    size_t n_given, n = 0;
    str name = call_string(r, c, I_STRING_1);
    flags_of_list(r, call_item(c, I_LIST_1)->list, &given, &n_given);
    if (c->node.op != OP_SETFLAG) {
        if (name.p) {
            add_words(r, variable_get(r, name), &v, &n);
        } else if (r->n_flags) {
            v = arena_array(r->arena, str, FLAGS_MAX);
            memcpy(v, r->flags, r->n_flags * sizeof *v);
            n = r->n_flags;
        }
    }
    if (c->node.op == OP_REMOVEFLAG) {
        size_t kept = 0;
        for (size_t i = 0; i < n; i++)
            if (!has(given, n_given, v[i]))
                v[kept++] = v[i];
        n = kept;
    } else {
        for (size_t i = 0; i < n_given; i++)
            add_words(r, given[i], &v, &n);
    }
    if (name.p) {
        IGNORE(variable_set(r, name, joined(r, v, n))); /* it has said so itself */
    } else {
        r->flags = v;
        r->n_flags = n;
    }
}

/* RFC 5232 4: each flag is a value; :count counts them. */
bool flags_test(struct run *r, const struct call *c)
{
    str *v = NULL;
    size_t n = 0;
    struct matcher m;
    const struct item *names = call_item(c, I_LIST_2) ? call_item(c, I_LIST_1) : NULL,
                      *keys = call_item(c, I_LIST_2) ? call_item(c, I_LIST_2) : call_item(c, I_LIST_1);
    matcher_of(r, c, &m);
    if (names) {
        struct cursor at = names->list;
        str name;
        while (list_next(r, &at, &name))
            add_words(r, variable_get(r, name), &v, &n);
    } else {
        v = r->flags;
        n = r->n_flags;
    }
    if (m.type == MATCH_COUNT)
        return match_count(r, &m, n, keys);
    for (size_t i = 0; i < n; i++) {
        struct cursor at = keys->list;
        str key;
        while (list_next(r, &at, &key)) {
            str *words = NULL;
            size_t n_words = 0;
            if (m.type == MATCH_IS || m.type == MATCH_CONTAINS)
                add_words(r, key, &words, &n_words);
            if (n_words < 2) { /* one flag, a part of one, or a pattern */
                if (match_one(&m, v[i], key, &r->match_values) == MATCH_YES)
                    return true;
                continue;
            }
            for (size_t k = 0; k < n_words; k++)
                if (match_one(&m, v[i], words[k], &r->match_values) == MATCH_YES)
                    return true;
        }
    }
    return false;
}
