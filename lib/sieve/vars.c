#include "sieve/state.h"

#include "base/num.h"

#define EXPANDED_MAX ((size_t)1 << 20) /* of one string of a script */
#define VARIABLES_BYTES_MAX ((size_t)4 << 20)

struct variable scope_global;

void scope_init(struct scope *s)
{
    map_init(&s->names);
    s->n = 0;
}

void scope_done(struct scope *s)
{
    map_done(&s->names);
}

str value_cut(str v)
{
    if (v.n <= SIEVE_VALUE_MAX)
        return v;
    v.n = SIEVE_VALUE_MAX;
    while (v.n && ((unsigned char)v.p[v.n] & 0xc0) == 0x80)
        v.n--;
    return v;
}

static str lower(struct run *r, str name)
{
    char *p = arena_alloc(r->arena, name.n + 1);
    for (size_t i = 0; i < name.n; i++)
        p[i] = (char)ascii_lower((unsigned char)name.p[i]);
    p[name.n] = 0;
    return str_n(p, name.n);
}

/* "global.x" is x among the globals; a name that the script has declared so is, too. NULL: not set. */
static struct scope *scope_of(struct run *r, str full, str *name)
{
    str space;
    if (!word_variable_name(full, &space, name))
        return NULL;
    *name = lower(r, *name);
    if (space.n)
        return str_eq_nocase(space, S("global")) && program_has(r->program, CAP_INCLUDE) ? &r->globals : NULL;
    return map_get(&r->scope->names, *name) == &scope_global ? &r->globals : r->scope;
}

str variable_get(struct run *r, str full)
{
    str name;
    struct scope *s = scope_of(r, full, &name);
    struct variable *v = s ? map_get(&s->names, name) : NULL;
    return v ? v->value : STR_NONE;
}

bool variable_set(struct run *r, str full, str value)
{
    str name;
    struct scope *s = scope_of(r, full, &name);
    if (!s) {
        (void)run_error(r, "'%.*s' cannot be the name of a variable", STR_ARG(str_slice(full, 0, 64)));
        return false;
    }
    struct variable *v = map_get(&s->names, name);
    value = value_cut(value);
    if (!v) {
        if (s->n == SIEVE_VARIABLES_MAX) {
            (void)run_error(r, "there are more than %u variables", SIEVE_VARIABLES_MAX);
            return false;
        }
        s->n++;
        v = arena_new(r->arena, struct variable);
        map_put(&s->names, name, v);
    }
    r->variable_bytes += value.n;
    if (r->variable_bytes > VARIABLES_BYTES_MAX * 4) {
        (void)run_error(r, "the variables take too much memory");
        return false;
    }
    v->value = arena_str(r->arena, value);
    return true;
}

/* A reference at s, which begins with "${": how long it is, and what it stands for. 0: it is none, and stays as it is.
 */
static size_t reference(struct run *r, str s, str *value)
{
    size_t i = 2;
    uint32_t n;
    while (i < s.n && i < 128 && (ascii_is_alnum((unsigned char)s.p[i]) || s.p[i] == '_' || s.p[i] == '.'))
        i++;
    if (i == 2 || i >= s.n || s.p[i] != '}')
        return 0;
    str name = str_slice(s, 2, i), space, last;
    if (ascii_is_digit((unsigned char)name.p[0])) {
        size_t digits = 0;
        while (digits < name.n && ascii_is_digit((unsigned char)name.p[digits]))
            digits++;
        if (digits != name.n)
            return 0;
        *value = num_u32(name, MATCH_VALUES_MAX - 1, &n) && n < r->match_values.n ? r->match_values.v[n] : STR_NONE;
        return i + 1;
    }
    if (!word_variable_name(name, &space, &last))
        return 0;
    *value = variable_get(r, name);
    return i + 1;
}

str run_expand(struct run *r, const struct sv_string *sv)
{
    str s = sv->text;
    if (!sv->has_vars)
        return s;
    BUF(out, EXPANDED_MAX);
    while (s.n) {
        ptrdiff_t at = str_find_str(s, S("${"));
        str value = STR_NONE;
        if (at < 0)
            break;
        buf_add(&out, str_slice(s, 0, (size_t)at));
        s = str_slice(s, (size_t)at, SIZE_MAX);
        size_t n = reference(r, s, &value);
        buf_add(&out, n ? value : S("$"));
        s = str_slice(s, n ? n : 1, SIZE_MAX);
    }
    buf_add(&out, s);
    return arena_str(r->arena, buf_str(&out));
}

str call_string(struct run *r, const struct call *c, unsigned char id)
{
    const struct item *it = call_item(c, id);
    if (!it)
        return STR_NONE;
    str s = run_expand(r, &it->string);
    return s.p ? s : S("");
}

bool list_next(struct run *r, struct cursor *at, str *out)
{
    struct sv_string s;
    if (!sv_string_next(at, &s))
        return false;
    *out = run_expand(r, &s);
    return true;
}

/* --- modifiers of set, RFC 5229 4.1: by their rank, whatever the order in the script --- */

static str first_changed(struct run *r, str v, unsigned char (*change)(unsigned char))
{
    if (v.n == 0)
        return v;
    char *p = arena_strz(r->arena, v);
    p[0] = (char)change((unsigned char)p[0]);
    return str_n(p, v.n);
}

static str all_changed(struct run *r, str v, unsigned char (*change)(unsigned char))
{
    char *p = arena_strz(r->arena, v);
    for (size_t i = 0; i < v.n; i++)
        p[i] = (char)change((unsigned char)p[i]);
    return str_n(p, v.n);
}

static str quoted(struct run *r, str v, const char *what)
{
    BUF(out, 2 * v.n + 1);
    for (size_t i = 0; i < v.n; i++) {
        bool is_special = v.p[i] && strchr(what, v.p[i]);
        if (out.n + 1 + is_special > SIEVE_VALUE_MAX) /* a backslash is not cut off from what it quotes */
            break;
        if (is_special)
            buf_addc(&out, '\\');
        buf_addc(&out, v.p[i]);
    }
    return arena_str(r->arena, buf_str(&out));
}

static str url_encoded(struct run *r, str v)
{
    BUF(out, 3 * v.n + 1);
    for (size_t i = 0; i < v.n; i++) {
        unsigned char ch = (unsigned char)v.p[i];
        if (ascii_is_alnum(ch) || (ch && strchr("-._~", ch)))
            buf_addc(&out, (char)ch);
        else
            buf_printf(&out, "%%%02X", ch);
    }
    return arena_str(r->arena, buf_str(&out));
}

static size_t count_characters(str v)
{
    size_t n = 0;
    for (size_t i = 0; i < v.n; i++)
        n += ((unsigned char)v.p[i] & 0xc0) != 0x80;
    return n;
}

str variable_modify(struct run *r, const struct call *c, str v)
{
    if (call_has(c, I_LOWER))
        v = all_changed(r, v, ascii_lower);
    if (call_has(c, I_UPPER))
        v = all_changed(r, v, ascii_upper);
    if (call_has(c, I_LOWERFIRST))
        v = first_changed(r, v, ascii_lower);
    if (call_has(c, I_UPPERFIRST))
        v = first_changed(r, v, ascii_upper);
    if (call_has(c, I_QUOTEWILDCARD))
        v = quoted(r, v, "*?\\");
    if (call_has(c, I_QUOTEREGEX))
        v = quoted(r, v, ".^$*+?()[]{}|\\");
    if (call_has(c, I_ENCODEURL))
        v = url_encoded(r, v);
    if (call_has(c, I_LENGTH))
        v = arena_printf(r->arena, "%zu", count_characters(v));
    return v;
}
