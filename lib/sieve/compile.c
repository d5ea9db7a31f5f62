/*
 * One pass: each command is read, checked against its specification and written. A mistake is noted and reading goes on
 * behind the next ';' or '}', so that an author sees several at once.
 */
#include <stdio.h>

#include "sieve/internal.h"
#include "sieve/lex.h"

#define CODE_MAX (8u << 20)
#define POSITIONAL_MAX 8u

struct strings {
    struct token *v;
    size_t n, cap;
};
struct positional {
    char kind; /* s, l, n */
    struct token at;
    struct strings strings;
    uint64_t number;
};
struct call_in_making {
    const struct call_spec *spec;
    struct token at;
    struct buf items;
    unsigned n_items;
    uint64_t seen;   /* tags by bit of their item, and MATCH, PART, COMPARATOR below */
    int precedences; /* of set's modifiers, one bit for ten */
    bool has_match, has_part, has_comparator, has_mime_option;
    enum match_type match;
    enum relation relation;
    enum comparator comparator;
    struct token tag_at;
    struct positional pos[POSITIONAL_MAX];
    size_t n_pos;
};
struct compiler {
    struct lexer lexer;
    struct token now;
    struct arena *arena;
    struct sieve_errors *errors;
    const struct sieve_options *options;
    struct buf code;
    uint64_t caps, all_caps; /* here; anywhere in the script */
    unsigned depth, n_loops;
    bool may_require;
    bool is_ihave;
};

static void fail(struct compiler *c, const struct token *at, const char *fmt, ...) PRINTF(3, 4);
static void fail(struct compiler *c, const struct token *at, const char *fmt, ...)
{
    struct sieve_errors *e = c->errors;
    if (e->n == SIEVE_ERRORS_MAX) {
        e->is_cut = true;
        return;
    }
    if (e->n && e->v[e->n - 1].line == at->line && e->v[e->n - 1].column == at->column)
        return; /* one for each place */
    struct sieve_error *to = &e->v[e->n++];
    to->line = at->line;
    to->column = at->column;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(to->text, sizeof to->text, fmt, ap);
    va_end(ap);
}

static void next(struct compiler *c)
{
    lex(&c->lexer, &c->now);
    if (c->now.kind == T_BAD) {
        fail(c, &c->now, "%.*s", STR_ARG(c->now.text));
        lex(&c->lexer, &c->now);
        while (c->now.kind == T_BAD)
            lex(&c->lexer, &c->now);
    }
}

static bool has_cap(const struct compiler *c, enum cap cap)
{
    return cap == CAP_NONE || (c->caps >> cap & 1);
}

/* Behind the next ';' or a block of braces, or before the '}' that closes the block around it. */
static void resync(struct compiler *c)
{
    unsigned braces = 0;
    for (;; next(c)) {
        switch (c->now.kind) {
        case T_EOF:
            return;
        case T_SEMICOLON:
            if (braces == 0) {
                next(c);
                return;
            }
            break;
        case T_LBRACE:
            braces++;
            break;
        case T_RBRACE:
            if (braces == 0)
                return;
            if (--braces == 0) {
                next(c);
                return;
            }
            break;
        default:
            break;
        }
    }
}

/* --- writing --- */

static size_t begin_node(struct compiler *c, enum op op, unsigned line)
{
    unsigned l = MIN(line, 65535u);
    const unsigned char head[NODE_HEAD] = {(unsigned char)op, (unsigned char)(l >> 8), (unsigned char)l, 0, 0, 0, 0};
    size_t at = c->code.n;
    buf_add_n(&c->code, head, sizeof head);
    return at;
}

static void end_node(struct compiler *c, size_t at)
{
    size_t n = c->code.n - at - NODE_HEAD;
    if (!buf_ok(&c->code))
        return;
    for (int i = 0; i < 4; i++)
        c->code.p[at + 3 + (size_t)i] = (char)(n >> (24 - 8 * i));
}

static bool is_reference_start(str s)
{
    return str_find_str(s, S("${")) >= 0;
}

/* "${hex: 24 24}" and "${unicode: 40}", RFC 5228 2.4.2.4; what is not quite so stays. False: a character that there is
 * not. */
static bool decode_one(str inner, struct buf *out, bool *is_one)
{
    bool is_hex = str_starts_nocase(inner, S("hex:")), is_unicode = str_starts_nocase(inner, S("unicode:"));
    str rest = str_slice(inner, is_hex ? 4 : 8, SIZE_MAX);
    BUF(decoded, inner.n + 4);
    size_t n = 0;
    *is_one = false;
    if (!is_hex && !is_unicode)
        return true;
    for (size_t i = 0; i < rest.n;) {
        uint32_t v = 0;
        size_t digits = 0;
        while (i < rest.n && (rest.p[i] == ' ' || rest.p[i] == '\t' || rest.p[i] == '\r' || rest.p[i] == '\n'))
            i++;
        if (i == rest.n)
            break;
        for (; i < rest.n && ascii_hex((unsigned char)rest.p[i]) >= 0; i++, digits++)
            v = v > 0xffffff ? v : v * 16 + (uint32_t)ascii_hex((unsigned char)rest.p[i]);
        if (digits == 0 || (is_hex && digits > 2) || (i < rest.n && !strchr(" \t\r\n", rest.p[i])))
            return true;
        if (is_hex) {
            buf_addc(&decoded, (char)v);
        } else if (v > 0x10ffff || (v >= 0xd800 && v <= 0xdfff)) {
            return false;
        } else if (v < 0x80) {
            buf_addc(&decoded, (char)v);
        } else {
            if (v >= 0x10000)
                buf_addc(&decoded, (char)(0xf0 | v >> 18));
            if (v >= 0x800)
                buf_addc(&decoded, (char)(v >= 0x10000 ? 0x80 | (v >> 12 & 0x3f) : 0xe0 | v >> 12));
            buf_addc(&decoded, (char)(v >= 0x800 ? 0x80 | (v >> 6 & 0x3f) : 0xc0 | v >> 6));
            buf_addc(&decoded, (char)(0x80 | (v & 0x3f)));
        }
        n++;
    }
    *is_one = n > 0;
    if (n)
        buf_add(out, buf_str(&decoded));
    return true;
}

static str encoded_characters(struct compiler *c, const struct token *t)
{
    str s = t->text;
    if (!has_cap(c, CAP_ENCODED_CHARACTER) || !is_reference_start(s))
        return s;
    BUF(out, s.n + 1);
    while (s.n) {
        ptrdiff_t at = str_find_str(s, S("${"));
        bool is_one = false;
        if (at < 0)
            break;
        buf_add(&out, str_slice(s, 0, (size_t)at));
        s = str_slice(s, (size_t)at, SIZE_MAX);
        ptrdiff_t end = str_find(s, '}');
        if (end > 0 && !decode_one(str_slice(s, 2, (size_t)end), &out, &is_one))
            fail(c, t, "${unicode:...} names a character that does not exist");
        size_t n = is_one ? (size_t)end + 1 : 2;
        if (!is_one)
            buf_add(&out, S("${"));
        s = str_slice(s, n, SIZE_MAX);
    }
    buf_add(&out, s);
    return arena_str(c->arena, buf_str(&out));
}

static void put_string(struct compiler *c, struct buf *out, str s)
{
    bool has_vars = has_cap(c, CAP_VARIABLES) && is_reference_start(s);
    varint_put(out, (uint64_t)s.n << 1 | has_vars);
    buf_add(out, s);
}

static void item_number(struct call_in_making *k, unsigned char id, uint64_t n)
{
    buf_addc(&k->items, (char)id);
    varint_put(&k->items, n);
    k->n_items++;
}

static void item_flag(struct call_in_making *k, unsigned char id)
{
    buf_addc(&k->items, (char)id);
    k->n_items++;
}

static void item_string(struct compiler *c, struct call_in_making *k, unsigned char id, str s)
{
    buf_addc(&k->items, (char)id);
    put_string(c, &k->items, s);
    k->n_items++;
}

static void item_list(struct compiler *c, struct call_in_making *k, unsigned char id, const struct strings *l)
{
    buf_addc(&k->items, (char)id);
    varint_put(&k->items, l->n);
    for (size_t i = 0; i < l->n; i++)
        put_string(c, &k->items, l->v[i].text);
    k->n_items++;
}

/* --- checking what is constant --- */

static bool is_constant(const struct compiler *c, str s)
{
    return !(has_cap(c, CAP_VARIABLES) && is_reference_start(s));
}

static void check_header(struct compiler *c, const struct token *t)
{
    if (is_constant(c, t->text) && !word_header_name(t->text))
        fail(c, t, "'%.*s' cannot be the name of a header field", STR_ARG(t->text));
}

static void check_mailbox(struct compiler *c, const struct token *t)
{
    if (is_constant(c, t->text) && !word_mailbox(t->text))
        fail(c, t, "this cannot be the name of a mailbox");
}

static void check_special_use(struct compiler *c, const struct token *t)
{
    if (is_constant(c, t->text) && (t->text.n < 2 || t->text.p[0] != '\\' || !word_flag(t->text)))
        fail(c, t, "a special use is a word like \"\\\\Junk\"");
}

static void check_address(struct compiler *c, const struct token *t)
{
    ARENA(a, 1 << 20);
    str address;
    if (is_constant(c, t->text) && !word_address(t->text, &a, &address))
        fail(c, t, "'%.*s' is no e-mail address", STR_ARG(str_slice(t->text, 0, 80)));
}

static void check_variable(struct compiler *c, const struct token *t)
{
    str space, name;
    if (!is_constant(c, t->text) || !word_variable_name(t->text, &space, &name)) {
        fail(c, t, "'%.*s' cannot be the name of a variable", STR_ARG(str_slice(t->text, 0, 80)));
        return;
    }
    if (space.n && !(str_eq_nocase(space, S("global")) && has_cap(c, CAP_INCLUDE)))
        fail(c, t, "there are no variables in '%.*s.'", STR_ARG(space));
}

static void check_envelope_parts(struct compiler *c, const struct strings *l)
{
    static const struct {
        const char *name;
        enum cap cap;
    } parts[] = {{"from", CAP_NONE},
                 {"to", CAP_NONE},
                 {"auth", CAP_NONE},
                 {"notify", CAP_ENVELOPE_DSN},
                 {"orcpt", CAP_ENVELOPE_DSN},
                 {"ret", CAP_ENVELOPE_DSN},
                 {"envid", CAP_ENVELOPE_DSN},
                 {"bytimeabsolute", CAP_ENVELOPE_DELIVERBY},
                 {"bytimerelative", CAP_ENVELOPE_DELIVERBY},
                 {"bymode", CAP_ENVELOPE_DELIVERBY},
                 {"bytrace", CAP_ENVELOPE_DELIVERBY}};
    for (size_t i = 0; i < l->n; i++) {
        size_t k = 0;
        while (k < ARRAY_LEN(parts) && !str_eq_nocase(l->v[i].text, str_c(parts[k].name)))
            k++;
        if (!is_constant(c, l->v[i].text))
            continue;
        if (k == ARRAY_LEN(parts))
            fail(c, &l->v[i], "an envelope has no part '%.*s'", STR_ARG(str_slice(l->v[i].text, 0, 80)));
        else if (!has_cap(c, parts[k].cap))
            fail(c, &l->v[i], "'%s' needs require \"%s\"", parts[k].name, cap_name(parts[k].cap));
    }
}

static void check_flags(struct compiler *c, const struct strings *l)
{
    for (size_t i = 0; i < l->n; i++) {
        str rest = l->v[i].text, word;
        while (is_constant(c, l->v[i].text) && str_split(&rest, ' ', &word))
            if (word.n && !word_flag(word))
                fail(c, &l->v[i], "'%.*s' is no flag that IMAP has", STR_ARG(str_slice(word, 0, 80)));
    }
}

static void check_notify_method(struct compiler *c, const struct token *t)
{
    ARENA(a, 1 << 20);
    const char *problem = NULL;
    if (!is_constant(c, t->text))
        return;
    ptrdiff_t colon = str_find(t->text, ':');
    bool is_known = str_starts_nocase(t->text, S("mailto:"));
    for (size_t i = 0; c->options && c->options->schemes && c->options->schemes[i]; i++)
        is_known = is_known ||
                   (colon > 0 && str_eq_nocase(str_slice(t->text, 0, (size_t)colon), str_c(c->options->schemes[i])));
    if (colon <= 0)
        fail(c, t, "a method of notification is a URI, like mailto:user@example.org");
    else if (str_starts_nocase(t->text, S("mailto:")) && !word_uri_mailto(t->text, &a, &problem))
        fail(c, t, "%s", problem);
    else if (!is_known)
        fail(c, t, "nobody can be notified by '%.*s:'", (int)MIN(colon, 40), t->text.p);
}

static void check_keys(struct compiler *c, const struct call_in_making *k, const struct strings *keys)
{
    for (size_t i = 0; k->has_match && k->match == MATCH_REGEX && i < keys->n; i++) {
        const char *problem = is_constant(c, keys->v[i].text) ? word_regex_problem(keys->v[i].text) : NULL;
        if (problem)
            fail(c, &keys->v[i], "the pattern is wrong: %s", problem);
    }
}

static void check_zone(struct compiler *c, const struct token *t)
{
    int minutes;
    if (is_constant(c, t->text) && !word_zone(t->text, &minutes))
        fail(c, t, "'%.*s' is no time zone like \"+0100\"", STR_ARG(str_slice(t->text, 0, 80)));
}

/* What the table cannot say. */
static void check_call(struct compiler *c, struct call_in_making *k)
{
    struct positional *p = k->pos;
    enum op op = k->spec->op;
    if (k->has_match && k->has_comparator && k->comparator == CMP_NUMERIC && k->match != MATCH_IS &&
        k->match != MATCH_VALUE && k->match != MATCH_COUNT)
        fail(c, &k->tag_at, "the comparator i;ascii-numeric cannot look for parts of a text");
    if ((k->seen >> I_LAST & 1) && !(k->seen >> 63 & 1) && op != OP_DUPLICATE && op != OP_ADDHEADER)
        fail(c, &k->at, ":last needs :index");
    switch (op) {
    case OP_ADDRESS:
    case OP_HEADER: /* a name that no field can have fits none: it is no mistake */
        check_keys(c, k, &p[1].strings);
        break;
    case OP_ENVELOPE:
        check_envelope_parts(c, &p[0].strings);
        check_keys(c, k, &p[1].strings);
        break;
    case OP_STRING:
    case OP_HASFLAG:
    case OP_SERVERMETADATA:
        check_keys(c, k, &p[k->n_pos - 1].strings);
        break;
    case OP_BODY:
        if ((k->seen >> I_RAW & 1) + (k->seen >> I_TEXT & 1) + (k->seen >> 60 & 1) > 1)
            fail(c, &k->at, ":raw, :text and :content exclude each other");
        FALLTHROUGH;
    case OP_ENVIRONMENT:
    case OP_METADATA:
    case OP_NOTIFY_METHOD_CAPABILITY:
        check_keys(c, k, &p[k->n_pos - 1].strings);
        break;
    case OP_DATE:
    case OP_CURRENTDATE: {
        const struct token *part = &p[k->n_pos - 2].strings.v[0];
        if (is_constant(c, part->text) && !word_date_part(part->text))
            fail(c, part, "a date has no part '%.*s'", STR_ARG(str_slice(part->text, 0, 80)));
        check_keys(c, k, &p[k->n_pos - 1].strings);
        break;
    }
    case OP_SIZE:
        if (!(k->seen >> I_OVER & 1) && !(k->seen >> I_UNDER & 1))
            fail(c, &k->at, "size needs :over or :under");
        break;
    case OP_FILEINTO:
        check_mailbox(c, &p[0].strings.v[0]);
        break;
    case OP_SPECIALUSE_EXISTS:
        for (size_t i = 0; i < p[k->n_pos - 1].strings.n; i++)
            check_special_use(c, &p[k->n_pos - 1].strings.v[i]);
        break;
    case OP_REDIRECT:
        if (!(k->seen >> I_LISTS & 1))
            check_address(c, &p[0].strings.v[0]);
        break;
    case OP_SET:
    case OP_EXTRACTTEXT:
        check_variable(c, &p[0].strings.v[0]);
        break;
    case OP_GLOBAL:
        for (size_t i = 0; i < p[0].strings.n; i++)
            check_variable(c, &p[0].strings.v[i]);
        break;
    case OP_SETFLAG:
    case OP_ADDFLAG:
    case OP_REMOVEFLAG:
        if (k->n_pos == 2) {
            if (!has_cap(c, CAP_VARIABLES))
                fail(c, &p[0].at, "a variable for flags needs require \"variables\"");
            else
                check_variable(c, &p[0].strings.v[0]);
        }
        check_flags(c, &p[k->n_pos - 1].strings);
        break;
    case OP_ADDHEADER:
    case OP_DELETEHEADER:
        check_header(c, &p[0].strings.v[0]);
        if (k->n_pos == 2 && op == OP_DELETEHEADER)
            check_keys(c, k, &p[1].strings);
        break;
    case OP_NOTIFY:
        check_notify_method(c, &p[0].strings.v[0]);
        break;
    case OP_BREAK:
        if (c->n_loops == 0)
            fail(c, &k->at, "break stands outside of a foreverypart");
        break;
    case OP_DUPLICATE:
        if ((k->seen >> 62 & 1) && (k->seen >> 61 & 1))
            fail(c, &k->at, "duplicate has either :header or :uniqueid");
        break;
    default:
        break;
    }
}

/* --- arguments --- */

static void add_string(struct compiler *c, struct strings *l, struct token t)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 4;
        struct token *more = arena_array(c->arena, struct token, cap);
        if (l->n)
            memcpy(more, l->v, l->n * sizeof *more);
        l->v = more;
        l->cap = cap;
    }
    t.text = encoded_characters(c, &t);
    l->v[l->n++] = t;
}

/* A string, or a list of them in brackets. */
static bool read_strings(struct compiler *c, struct strings *out)
{
    *out = (struct strings){0};
    if (c->now.kind == T_STRING) {
        add_string(c, out, c->now);
        next(c);
        return true;
    }
    if (c->now.kind != T_LBRACKET) {
        fail(c, &c->now, "here a string or a list of strings was expected, not %s", token_name(c->now.kind));
        return false;
    }
    do {
        next(c);
        if (c->now.kind != T_STRING) {
            fail(c, &c->now, "a list has strings in it, here is %s", token_name(c->now.kind));
            return false;
        }
        add_string(c, out, c->now);
        next(c);
    } while (c->now.kind == T_COMMA);
    if (c->now.kind != T_RBRACKET) {
        fail(c, &c->now, "here a ',' or the ']' of the list was expected, not %s", token_name(c->now.kind));
        return false;
    }
    next(c);
    return true;
}

static bool read_tag_value(struct compiler *c, const struct token *tag, struct strings *out, bool is_list)
{
    if (!read_strings(c, out))
        return false;
    if (!is_list && out->n != 1) {
        fail(c, tag, ":%.*s takes one string", STR_ARG(tag->text));
        return false;
    }
    return true;
}

static void check_tag_string(struct compiler *c, const struct tag_spec *t, const struct token *v)
{
    switch (t->item) {
    case I_ZONE:
        check_zone(c, v);
        break;
    case I_FROM:
        check_address(c, v);
        break;
    case I_HEADER:
        check_header(c, v);
        break;
    case I_FCC:
        check_mailbox(c, v);
        break;
    case I_SPECIAL_USE:
        check_special_use(c, v);
        break;
    case I_IMPORTANCE:
        if (is_constant(c, v->text) && (v->text.n != 1 || v->text.p[0] < '1' || v->text.p[0] > '3'))
            fail(c, v, ":importance is \"1\", \"2\" or \"3\"");
        break;
    case I_BYMODE:
        if (is_constant(c, v->text) && !str_eq_nocase(v->text, S("notify")) && !str_eq_nocase(v->text, S("return")))
            fail(c, v, ":bymode is \"notify\" or \"return\"");
        break;
    case I_RET:
        if (is_constant(c, v->text) && !str_eq_nocase(v->text, S("full")) && !str_eq_nocase(v->text, S("hdrs")))
            fail(c, v, ":ret is \"FULL\" or \"HDRS\"");
        break;
    default:
        break;
    }
}

/* Whether the tag was there already, by what it fills. */
static bool seen_twice(struct compiler *c, struct call_in_making *k, const struct token *tag, unsigned bit)
{
    bool is_twice = k->seen >> bit & 1;
    k->seen |= (uint64_t)1 << bit;
    if (is_twice)
        fail(c, tag, ":%.*s, or what says the same, stands here twice", STR_ARG(tag->text));
    return is_twice;
}

static bool read_match_tag(struct compiler *c, struct call_in_making *k, const struct tag_spec *t,
                           const struct token *tag)
{
    struct strings v;
    if (k->has_match) {
        fail(c, tag, "there can be one way of matching, :%.*s is the second", STR_ARG(tag->text));
        return false;
    }
    k->has_match = true;
    k->match = (enum match_type)t->value;
    k->tag_at = *tag;
    if (t->kind == TAG_MATCH)
        return true;
    if (!read_tag_value(c, tag, &v, false))
        return false;
    if (!word_relation(v.v[0].text, &k->relation)) {
        fail(c, &v.v[0], "a relation is \"gt\", \"ge\", \"lt\", \"le\", \"eq\" or \"ne\"");
        return false;
    }
    return true;
}

static bool read_comparator(struct compiler *c, struct call_in_making *k, const struct token *tag)
{
    struct strings v;
    enum cap cap;
    if (k->has_comparator) {
        fail(c, tag, ":comparator stands here twice");
        return false;
    }
    k->has_comparator = true;
    if (!read_tag_value(c, tag, &v, false))
        return false;
    if (!word_comparator(v.v[0].text, &k->comparator, &cap) || !has_cap(c, cap)) {
        fail(c, &v.v[0], "the comparator '%.*s' is not known, or needs a require",
             STR_ARG(str_slice(v.v[0].text, 0, 60)));
        return false;
    }
    return true;
}

static const struct tag_spec *find_tag(const struct call_spec *spec, str name)
{
    for (size_t g = 0; g < TAG_GROUPS_MAX && spec->groups[g]; g++)
        for (const struct tag_spec *t = spec->groups[g]; t->name; t++)
            if (str_eq_nocase(name, str_c(t->name)))
                return t;
    return NULL;
}

static bool read_tag(struct compiler *c, struct call_in_making *k)
{
    struct token tag = c->now;
    const struct tag_spec *t = find_tag(k->spec, tag.text);
    struct strings v;
    if (!t) {
        fail(c, &tag, "%s has no :%.*s", k->spec->name, STR_ARG(str_slice(tag.text, 0, 60)));
        return false;
    }
    if (!has_cap(c, t->cap) || !has_cap(c, t->cap2)) {
        fail(c, &tag, ":%s needs require \"%s\"", t->name, cap_name(has_cap(c, t->cap) ? t->cap2 : t->cap));
        return false;
    }
    next(c);
    switch (t->kind) {
    case TAG_MATCH:
    case TAG_RELATION:
        return read_match_tag(c, k, t, &tag);
    case TAG_COMPARATOR:
        return read_comparator(c, k, &tag);
    case TAG_PART:
        if (k->has_part) {
            fail(c, &tag, "there can be one part of an address, :%.*s is the second", STR_ARG(tag.text));
            return false;
        }
        k->has_part = true;
        item_number(k, t->item, (uint64_t)t->value);
        return true;
    case TAG_PLAIN:
    case TAG_SIZE:
        if (t->value) { /* a modifier of set */
            if (k->precedences >> t->value / 5 & 1) {
                fail(c, &tag, ":%s cannot stand beside another of its rank", t->name);
                return false;
            }
            k->precedences |= 1 << t->value / 5;
        }
        if (t->kind == TAG_SIZE && ((k->seen >> I_OVER & 1) || (k->seen >> I_UNDER & 1))) {
            fail(c, &tag, "size has either :over or :under");
            return false;
        }
        if (t->item && seen_twice(c, k, &tag, t->item))
            return false;
        if (t->item)
            item_flag(k, t->item);
        return true;
    case TAG_MIME_OPT:
        if (k->has_mime_option) {
            fail(c, &tag, ":type, :subtype, :contenttype and :param exclude each other");
            return false;
        }
        k->has_mime_option = true;
        item_flag(k, t->item);
        return true;
    case TAG_NUMBER:
        if (c->now.kind != T_NUMBER) {
            fail(c, &c->now, ":%s takes a number", t->name);
            return false;
        }
        if (t->item == I_INDEX && (c->now.number == 0 || seen_twice(c, k, &tag, 63)))
            fail(c, &c->now, ":index counts from 1");
        item_number(k, t->item, t->item == I_DAYS && c->now.number > 100000 ? 100000 : c->now.number);
        next(c);
        return true;
    case TAG_STRING:
        if ((t->item == I_HEADER && seen_twice(c, k, &tag, 62)) ||
            (t->item == I_UNIQUEID && seen_twice(c, k, &tag, 61)))
            return false;
        if (!read_tag_value(c, &tag, &v, false))
            return false;
        check_tag_string(c, t, &v.v[0]);
        item_string(c, k, t->item, v.v[0].text);
        return true;
    case TAG_LIST:
        if (t->item == I_PARAM && k->has_mime_option) {
            fail(c, &tag, ":type, :subtype, :contenttype and :param exclude each other");
            return false;
        }
        k->has_mime_option = k->has_mime_option || t->item == I_PARAM;
        if (t->item == I_CONTENT && seen_twice(c, k, &tag, 60))
            return false;
        if (!read_tag_value(c, &tag, &v, true))
            return false;
        if (t->item == I_FLAGS)
            check_flags(c, &v);
        if (t->item == I_ADDRESSES)
            for (size_t i = 0; i < v.n; i++)
                check_address(c, &v.v[i]);
        if (t->item == I_OPTIONS)
            for (size_t i = 0; i < v.n; i++)
                if (is_constant(c, v.v[i].text) && !word_notify_option(v.v[i].text))
                    fail(c, &v.v[i], "an option is name=value");
        item_list(c, k, t->item, &v);
        return true;
    }
    return false;
}

static bool read_extra_tag(struct compiler *c, struct call_in_making *k, const struct sieve_extra *e)
{
    struct token tag = c->now;
    struct strings v;
    for (unsigned i = 0; e->tags && e->tags[i]; i++) {
        str name = str_c(e->tags[i] + 1);
        bool has_value = str_ends(name, S("=s")), has_number = str_ends(name, S("=n"));
        if (has_value || has_number)
            name.n -= 2;
        if (!str_eq_nocase(tag.text, name))
            continue;
        next(c);
        if (has_number) {
            if (c->now.kind != T_NUMBER) {
                fail(c, &c->now, ":%.*s takes a number", STR_ARG(name));
                return false;
            }
            item_number(k, (unsigned char)(I_EXTRA_NUMBER + i), c->now.number);
            next(c);
            return true;
        }
        if (!has_value) {
            item_flag(k, (unsigned char)(I_EXTRA_FLAG + i));
            return true;
        }
        if (!read_tag_value(c, &tag, &v, false))
            return false;
        item_string(c, k, (unsigned char)(I_EXTRA_STRING + i), v.v[0].text);
        return true;
    }
    return read_tag(c, k); /* those of matching */
}

static bool add_positional(struct compiler *c, struct call_in_making *k)
{
    if (k->n_pos == POSITIONAL_MAX) {
        fail(c, &c->now, "%s does not take so many arguments", k->spec->name);
        return false;
    }
    struct positional *p = &k->pos[k->n_pos++];
    *p = (struct positional){.at = c->now};
    if (c->now.kind == T_NUMBER) {
        p->kind = 'n';
        p->number = c->now.number;
        next(c);
        return true;
    }
    p->kind = c->now.kind == T_STRING ? 's' : 'l';
    return read_strings(c, &p->strings);
}

static const char *kind_name(char kind)
{
    return kind == 's' ? "a string" : kind == 'l' ? "a string or a list of strings" : "a number";
}

/* The positional arguments against "sl" or "?sl" and "s?l". */
static bool place_positional(struct compiler *c, struct call_in_making *k)
{
    char kinds[POSITIONAL_MAX + 1] = "";
    size_t n = 0, n_strings = 0, n_lists = 0, n_all = 0;
    for (const char *p = k->spec->arguments; *p; p++)
        n_all += *p != '?';
    bool with_optional = k->n_pos == n_all;
    for (const char *p = k->spec->arguments; *p; p++) {
        if (*p == '?' && !with_optional)
            p++; /* leave it out */
        else if (*p != '?')
            kinds[n++] = *p;
    }
    if (k->n_pos != n) {
        if (k->n_pos < n)
            fail(c, &c->now, "%s takes %s here, not %s", k->spec->name, kind_name(kinds[k->n_pos]),
                 token_name(c->now.kind));
        else
            fail(c, &k->pos[n].at, "%s takes no more arguments", k->spec->name);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        struct positional *p = &k->pos[i];
        if (p->kind != kinds[i] && !(kinds[i] == 'l' && p->kind == 's')) {
            fail(c, &p->at, "%s takes %s here", k->spec->name, kind_name(kinds[i]));
            return false;
        }
        if (kinds[i] == 'n')
            item_number(k, I_NUMBER_1, p->number);
        else if (kinds[i] == 's')
            item_string(c, k, (unsigned char)(I_STRING_1 + n_strings++), p->strings.v[0].text);
        else
            item_list(c, k, (unsigned char)(I_LIST_1 + n_lists++), &p->strings);
    }
    return true;
}

static bool read_arguments(struct compiler *c, struct call_in_making *k, const struct sieve_extra *extra)
{
    for (;;) {
        switch (c->now.kind) {
        case T_TAG:
            if (!(extra ? read_extra_tag(c, k, extra) : read_tag(c, k)))
                return false;
            break;
        case T_STRING:
        case T_LBRACKET:
        case T_NUMBER:
            if (!add_positional(c, k))
                return false;
            break;
        default:
            if (k->has_match)
                item_number(k, I_MATCH, (uint64_t)k->match | (uint64_t)k->relation << 4);
            if (k->has_comparator)
                item_number(k, I_COMPARATOR, k->comparator);
            if (!place_positional(c, k))
                return false;
            if (!extra)
                check_call(c, k);
            return true;
        }
    }
}

/* --- tests and commands --- */

static void blocks(struct compiler *c, bool is_inner);

static const struct sieve_extra *find_extra(const struct compiler *c, str name, bool is_test, unsigned *index)
{
    if (!has_cap(c, CAP_EXTRA) || !c->options)
        return NULL;
    for (const struct sieve_extra *e = c->options->extra; e && e->name; e++) {
        *index = (unsigned)(e - c->options->extra);
        if (e->is_test == is_test && str_eq_nocase(name, str_c(e->name)))
            return e;
    }
    return NULL;
}

/* A call of a specification, up to where its ';' or block begins. */
static bool read_call(struct compiler *c, const struct token *at, const struct call_spec *spec,
                      const struct sieve_extra *extra, enum op op)
{
    struct call_in_making k = {.spec = spec, .at = *at, .tag_at = *at};
    buf_init(&k.items, CODE_MAX);
    size_t node = begin_node(c, op, at->line);
    bool ok = read_arguments(c, &k, extra);
    if (ok && k.n_items > ITEMS_MAX) {
        fail(c, at, "%s has too many arguments", spec->name);
        ok = false;
    }
    buf_addc(&c->code, (char)k.n_items);
    buf_add(&c->code, buf_str(&k.items));
    buf_done(&k.items);
    end_node(c, node);
    return ok;
}

// clang-format off
static const struct tag_spec extra_match_tags[] = {
    {"is", TAG_MATCH, I_MATCH, CAP_NONE, CAP_NONE, MATCH_IS}, {"contains", TAG_MATCH, I_MATCH, CAP_NONE, CAP_NONE, MATCH_CONTAINS},
    {"matches", TAG_MATCH, I_MATCH, CAP_NONE, CAP_NONE, MATCH_MATCHES}, {"regex", TAG_MATCH, I_MATCH, CAP_REGEX, CAP_NONE, MATCH_REGEX},
    {"count", TAG_RELATION, I_MATCH, CAP_RELATIONAL, CAP_NONE, MATCH_COUNT}, {"value", TAG_RELATION, I_MATCH, CAP_RELATIONAL, CAP_NONE, MATCH_VALUE},
    {"comparator", TAG_COMPARATOR, I_COMPARATOR, CAP_NONE, CAP_NONE, 0}, {NULL, TAG_PLAIN, 0, CAP_NONE, CAP_NONE, 0}};

/* Passes over the arguments and tests of what is not known. */
static void skip_unknown(struct compiler *c)
{
    unsigned depth = 0;
    while (c->now.kind != T_EOF) {
        if (c->now.kind == T_LPAREN)
            depth++;
        else if (c->now.kind == T_RPAREN && depth-- == 0)
            return;
        else if (depth == 0 && (c->now.kind == T_SEMICOLON || c->now.kind == T_LBRACE || c->now.kind == T_RBRACE || c->now.kind == T_COMMA))
            return;
        next(c);
    }
}
// clang-format on

static void put_unknown(struct compiler *c, const struct token *at, const char *what)
{
    struct call_in_making k = {.at = *at};
    buf_init(&k.items, CODE_MAX);
    size_t node = begin_node(c, OP_UNKNOWN, at->line);
    item_string(c, &k, I_STRING_1,
                arena_printf(c->arena, "%s '%.*s' is not known, or needs a require", what,
                             STR_ARG(str_slice(at->text, 0, 60))));
    buf_addc(&c->code, 1);
    buf_add(&c->code, buf_str(&k.items));
    buf_done(&k.items);
    end_node(c, node);
}

static uint64_t offered(const struct sieve_options *o);

static void ihave(struct compiler *c, size_t node)
{
    struct node n;
    struct call call;
    struct sv_string s;
    const unsigned char *p = (unsigned char *)c->code.p + node;
    if (!buf_ok(&c->code) || !node_next(&p, (unsigned char *)c->code.p + c->code.n, &n))
        return;
    call_of(&n, &call);
    const struct item *list = call_item(&call, I_LIST_1);
    struct cursor at = list ? list->list : cur_of(STR_NONE);
    uint64_t all = 0;
    bool has_all = true;
    while (list && sv_string_next(&at, &s)) {
        enum cap cap;
        if (s.has_vars || !cap_find(s.text, &cap) || !(offered(c->options) >> cap & 1)) {
            has_all = false;
            continue;
        }
        all |= (uint64_t)1 << cap;
    }
    if (has_all) /* RFC 5463 4: from here on they can be used */
        c->all_caps |= c->caps |= all;
}

static bool test(struct compiler *c);

static bool test_list(struct compiler *c)
{
    if (c->now.kind != T_LPAREN) {
        fail(c, &c->now, "here the '(' of a list of tests was expected, not %s", token_name(c->now.kind));
        return false;
    }
    do {
        next(c);
        if (!test(c))
            return false;
    } while (c->now.kind == T_COMMA);
    if (c->now.kind != T_RPAREN) {
        fail(c, &c->now, "here a ',' or the ')' of the tests was expected, not %s", token_name(c->now.kind));
        return false;
    }
    next(c);
    return true;
}

static bool test_inner(struct compiler *c)
{
    struct token at = c->now;
    unsigned index;
    if (at.kind != T_IDENTIFIER) {
        fail(c, &at, "here a test was expected, not %s", token_name(at.kind));
        return false;
    }
    next(c);
    enum op tree = str_eq_nocase(at.text, S("not"))     ? OP_NOT
                   : str_eq_nocase(at.text, S("allof")) ? OP_ALLOF
                   : str_eq_nocase(at.text, S("anyof")) ? OP_ANYOF
                                                        : OP_END;
    if (tree) {
        size_t node = begin_node(c, tree, at.line);
        bool ok = tree == OP_NOT ? test(c) : test_list(c);
        end_node(c, node);
        return ok;
    }
    const struct call_spec *spec = call_spec_find(at.text, true);
    const struct sieve_extra *extra = find_extra(c, at.text, true, &index);
    if (extra) {
        struct call_spec own = {
            .name = extra->name, .is_test = true, .arguments = extra->arguments, .groups = {extra_match_tags}};
        return read_call(c, &at, &own, extra, (enum op)(OP_EXTRA + index));
    }
    if (!spec || (!has_cap(c, spec->cap) && (spec->other_cap == CAP_NONE || !has_cap(c, spec->other_cap)))) {
        if (c->is_ihave) {
            put_unknown(c, &at, "test");
            skip_unknown(c);
            return true;
        }
        if (!spec)
            fail(c, &at, "there is no test '%.*s'", STR_ARG(str_slice(at.text, 0, 60)));
        else
            fail(c, &at, "the test '%s' needs require \"%s\"", spec->name, cap_name(spec->cap));
        return false;
    }
    size_t node = c->code.n;
    bool ok = read_call(c, &at, spec, NULL, spec->op);
    if (ok && spec->op == OP_IHAVE)
        ihave(c, node);
    return ok;
}

static bool test(struct compiler *c)
{
    if (c->depth == SIEVE_NESTING_MAX) {
        fail(c, &c->now, "tests and blocks are nested more than %u deep", SIEVE_NESTING_MAX);
        return false;
    }
    c->depth++;
    bool ok = test_inner(c);
    c->depth--;
    return ok;
}

static bool block(struct compiler *c)
{
    struct token at = c->now;
    if (at.kind != T_LBRACE) {
        fail(c, &at, "here the '{' of a block was expected, not %s", token_name(at.kind));
        return false;
    }
    if (c->depth == SIEVE_NESTING_MAX) {
        fail(c, &at, "tests and blocks are nested more than %u deep", SIEVE_NESTING_MAX);
        return false;
    }
    next(c);
    c->depth++;
    blocks(c, true);
    c->depth--;
    if (c->now.kind != T_RBRACE) {
        fail(c, &at, "the block that begins here is not closed by a '}'");
        return false;
    }
    next(c);
    return true;
}

static bool require(struct compiler *c, const struct token *at)
{
    struct strings l;
    if (!c->may_require)
        fail(c, at, "require stands before all other commands");
    if (!read_strings(c, &l))
        return false;
    for (size_t i = 0; i < l.n; i++) {
        enum cap cap;
        bool is_there = cap_find(l.v[i].text, &cap);
        for (size_t k = 0; c->options && c->options->without && c->options->without[k]; k++)
            is_there = is_there && !str_eq(l.v[i].text, str_c(c->options->without[k]));
        if (c->options && c->options->extra_capability && str_eq(l.v[i].text, str_c(c->options->extra_capability))) {
            cap = CAP_EXTRA;
            is_there = true;
        }
        if (!is_there) {
            fail(c, &l.v[i], "the extension \"%.*s\" is not known here", STR_ARG(str_slice(l.v[i].text, 0, 80)));
            continue;
        }
        c->caps |= (uint64_t)1 << cap;
        if (cap == CAP_VACATION_SECONDS) /* RFC 6131 2 */
            c->caps |= (uint64_t)1 << CAP_VACATION;
        if (cap == CAP_SPAMTESTPLUS)
            c->caps |= (uint64_t)1 << CAP_SPAMTEST;
        if (cap == CAP_V_DUPLICATE)
            c->caps |= (uint64_t)1 << CAP_DUPLICATE;
        if (cap == CAP_V_ENVIRONMENT)
            c->caps |= (uint64_t)1 << CAP_ENVIRONMENT;
        c->is_ihave = c->is_ihave || cap == CAP_IHAVE;
    }
    if (c->now.kind != T_SEMICOLON) {
        fail(c, &c->now, "here a ';' was expected, not %s", token_name(c->now.kind));
        return false;
    }
    next(c);
    return true;
}

static bool conditional(struct compiler *c, enum op op, const struct token *at)
{
    size_t node = begin_node(c, op, at->line);
    uint64_t caps = c->caps;
    bool ok = (op == OP_ELSE || test(c)) && block(c);
    if (c->is_ihave) /* what ihave allowed, it allowed here */
        c->caps = caps;
    end_node(c, node);
    return ok;
}

static bool end_of_command(struct compiler *c, const char *name)
{
    if (c->now.kind == T_SEMICOLON) {
        next(c);
        return true;
    }
    if (c->now.kind == T_LBRACE)
        fail(c, &c->now, "%s has no block, here a ';' was expected", name);
    else
        fail(c, &c->now, "here a ';' was expected to end %s, not %s", name, token_name(c->now.kind));
    return false;
}

static bool extra_command(struct compiler *c, const struct token *at, const struct sieve_extra *extra, unsigned index)
{
    struct call_spec own = {.name = extra->name, .arguments = extra->arguments, .groups = {extra_match_tags}};
    size_t node = c->code.n;
    bool ok = read_call(c, at, &own, extra, (enum op)(OP_EXTRA + index));
    if (!ok)
        return false;
    if (!extra->has_block)
        return end_of_command(c, extra->name);
    ok = block(c);
    end_node(c, node);
    return ok;
}

static bool command(struct compiler *c, bool *had_if)
{
    struct token at = c->now;
    unsigned index;
    if (at.kind != T_IDENTIFIER) {
        fail(c, &at, "here a command was expected, not %s", token_name(at.kind));
        if (at.kind != T_SEMICOLON && at.kind != T_LBRACE && at.kind != T_RBRACE)
            next(c);
        return false;
    }
    next(c);
    bool may_else = *had_if;
    *had_if = false;
    if (str_eq_nocase(at.text, S("require")))
        return require(c, &at);
    c->may_require = false;
    if (str_eq_nocase(at.text, S("if"))) {
        *had_if = true;
        return conditional(c, OP_IF, &at);
    }
    bool is_elsif = str_eq_nocase(at.text, S("elsif"));
    if (is_elsif || str_eq_nocase(at.text, S("else"))) {
        if (!may_else)
            fail(c, &at, "%s stands behind no if", is_elsif ? "elsif" : "else");
        *had_if = is_elsif;
        return conditional(c, is_elsif ? OP_ELSIF : OP_ELSE, &at);
    }
    const struct sieve_extra *extra = find_extra(c, at.text, false, &index);
    if (extra)
        return extra_command(c, &at, extra, index);
    const struct call_spec *spec = call_spec_find(at.text, false);
    if (!spec || !has_cap(c, spec->cap)) {
        if (c->is_ihave) {
            put_unknown(c, &at, "command");
            skip_unknown(c);
            if (c->now.kind == T_LBRACE)
                return block(c); /* its commands come behind, where nothing gets to */
            return end_of_command(c, "the command");
        }
        if (!spec)
            fail(c, &at, "there is no command '%.*s'", STR_ARG(str_slice(at.text, 0, 60)));
        else
            fail(c, &at, "the command '%s' needs require \"%s\"", spec->name, cap_name(spec->cap));
        return false;
    }
    size_t node = c->code.n;
    if (!read_call(c, &at, spec, NULL, spec->op))
        return false;
    if (spec->block == BLOCK_NONE)
        return end_of_command(c, spec->name);
    c->n_loops++;
    bool ok = block(c);
    c->n_loops--;
    end_node(c, node);
    return ok;
}

static void blocks(struct compiler *c, bool is_inner)
{
    bool had_if = false;
    while (c->now.kind != T_EOF && !(is_inner && c->now.kind == T_RBRACE)) {
        if (c->now.kind == T_RBRACE) {
            fail(c, &c->now, "a '}' too many");
            next(c);
        } else if (!command(c, &had_if)) {
            resync(c);
            had_if = true; /* of what could not be read: no error upon the error */
        }
    }
}

static uint64_t offered(const struct sieve_options *o)
{
    uint64_t caps = 0;
    for (const struct cap_spec *s = cap_specs; s->name; s++) {
        /* RFC 5463 4: they change how strings are read */
        bool is_there = s->cap != CAP_VARIABLES && s->cap != CAP_ENCODED_CHARACTER;
        for (size_t i = 0; o && o->without && o->without[i]; i++)
            is_there = is_there && strcmp(s->name, o->without[i]) != 0;
        if (is_there)
            caps |= (uint64_t)1 << s->cap;
    }
    return caps;
}

struct sieve_program *sieve_compile(str script, const struct sieve_options *options, struct sieve_errors *errors)
{
    ARENA(a, 64u << 20);
    size_t max = options && options->script_max ? options->script_max : SIEVE_SCRIPT_MAX;
    struct compiler c = {.arena = &a, .errors = errors, .options = options, .may_require = true};
    struct token start = {.line = 1, .column = 1};
    errors->n = 0;
    errors->is_cut = false;
    if (script.n > max) {
        fail(&c, &start, "the script has %zu bytes, at most %zu are allowed", script.n, max);
        return NULL;
    }
    buf_init(&c.code, CODE_MAX);
    /* 2.7.3: always there; the one of Unicode with them, as scripts of others use it so. */
    c.caps = (uint64_t)1 << CAP_COMPARATOR_OCTET | (uint64_t)1 << CAP_COMPARATOR_CASEMAP |
             (uint64_t)1 << CAP_COMPARATOR_UNICODE;
    if (str_starts(script, S("\xef\xbb\xbf")))
        script = str_slice(script, 3, SIZE_MAX);
    lexer_init(&c.lexer, script, &a);
    next(&c);
    blocks(&c, false);
    if (errors->n == 0 && (!buf_ok(&c.code) || !arena_ok(&a)))
        fail(&c, &start, "the script is too large");
    struct sieve_program *p = NULL;
    if (errors->n == 0) {
        p = xmalloc(sizeof *p + c.code.n);
        *p = (struct sieve_program){
            .n_code = (uint32_t)c.code.n, .caps = c.all_caps | c.caps, .offered = offered(options)};
        if (c.code.n)
            memcpy(p->code, c.code.p, c.code.n);
    }
    buf_done(&c.code);
    return p;
}

void sieve_program_free(struct sieve_program *p)
{
    free(p);
}

size_t sieve_program_bytes(const struct sieve_program *p)
{
    return sizeof *p + p->n_code;
}

void sieve_capabilities(const struct sieve_options *options, struct buf *out)
{
    bool is_first = true;
    for (const struct cap_spec *s = cap_specs; s->name; s++) {
        bool is_there = !s->is_hidden;
        for (size_t k = 0; options && options->without && options->without[k]; k++)
            is_there = is_there && strcmp(s->name, options->without[k]) != 0;
        if (!is_there)
            continue;
        buf_printf(out, "%s%s", is_first ? "" : " ", s->name);
        is_first = false;
    }
}
