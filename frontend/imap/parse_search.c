#include "frontend/imap/parse_search.h"

#include "mail/charset.h"
#include "mail/date.h"

#define DAY 86400

struct parser {
    struct cursor *c;
    struct arena *a;
    const struct uid_map *uids;
    const struct uid_map *recents;
    struct imap_search *out;
    str charset;
    unsigned nodes;
};

/* --- nodes --- */

static Thurn__SearchKey *node(struct parser *p, Thurn__SearchOp op)
{
    Thurn__SearchKey *k = arena_new(p->a, Thurn__SearchKey);
    thurn__search_key__init(k);
    k->op = op;
    k->field = k->text = arena_strz(p->a, S(""));
    p->nodes++;
    return k;
}

static Thurn__SearchKey *number(struct parser *p, Thurn__SearchOp op, uint64_t n)
{
    Thurn__SearchKey *k = node(p, op);
    k->number = n;
    return k;
}

static Thurn__SearchKey *with_keys(struct parser *p, Thurn__SearchOp op, Thurn__SearchKey *x, Thurn__SearchKey *y)
{
    Thurn__SearchKey *k = node(p, op);
    k->keys = arena_array(p->a, Thurn__SearchKey *, 2);
    k->keys[k->n_keys++] = x;
    if (y)
        k->keys[k->n_keys++] = y;
    return k;
}

static Thurn__SearchKey *negate(struct parser *p, Thurn__SearchKey *k)
{
    return with_keys(p, THURN__SEARCH_OP__SEARCH_NOT, k, NULL);
}

static Thurn__SearchKey *nothing(struct parser *p)
{
    return negate(p, node(p, THURN__SEARCH_OP__SEARCH_ALL));
}

/* --- arguments --- */

/* An astring in the command's charset, as UTF-8. */
static bool text(struct parser *p, char **out)
{
    str raw;
    if (!imap_parse_sp(p->c) || !imap_parse_astring(p->c, p->a, &raw) || raw.n > 16384)
        return false;
    BUF(utf8, raw.n * 4 + 16);
    charset_to_utf8(p->charset, raw, &utf8);
    *out = arena_strz(p->a, buf_str(&utf8));
    return true;
}

static bool date(struct parser *p, int64_t *out)
{
    str raw;
    return imap_parse_sp(p->c) && imap_parse_astring(p->c, p->a, &raw) && date_parse_imap_day(raw, out);
}

static Thurn__SearchKey *header(struct parser *p, str field, char *value)
{
    Thurn__SearchKey *k = node(p, THURN__SEARCH_OP__SEARCH_HEADER);
    k->field = arena_strz(p->a, field);
    k->text = value;
    return k;
}

/* BEFORE, ON, SINCE: `before` is the key that says "earlier than that day". */
static bool date_key(struct parser *p, Thurn__SearchOp before, str how, Thurn__SearchKey **out)
{
    int64_t day;
    if (!date(p, &day))
        return false;
    Thurn__SearchKey *from = number(p, before, (uint64_t)MAX(day, (int64_t)0));
    from->is_local = true; /* RFC 3501 6.4.4: disregarding time and timezone */
    if (str_eq_nocase(how, S("BEFORE"))) {
        *out = from;
    } else if (str_eq_nocase(how, S("SINCE"))) {
        *out = negate(p, from);
    } else {
        Thurn__SearchKey *to = number(p, before, (uint64_t)MAX(day + DAY, (int64_t)0));
        to->is_local = true;
        *out = with_keys(p, THURN__SEARCH_OP__SEARCH_AND, negate(p, from), to);
    }
    return true;
}

/* MODSEQ [entry-name SP entry-type SP] number (RFC 7162 3.1.5); per-flag modseqs are the message's. */
static bool modseq_key(struct parser *p, Thurn__SearchKey **out)
{
    uint64_t n;
    str entry;
    if (!imap_parse_sp(p->c))
        return false;
    if (cur_peek(p->c) == '"') {
        if (!imap_parse_string(p->c, p->a, &entry) || !imap_parse_sp(p->c) ||
            !(imap_parse_word(p->c, S("priv")) || imap_parse_word(p->c, S("shared")) ||
              imap_parse_word(p->c, S("all"))) ||
            !imap_parse_sp(p->c))
            return false;
    }
    if (!imap_parse_u64(p->c, &n))
        return false;
    p->out->has_modseq = true;
    *out = number(p, THURN__SEARCH_OP__SEARCH_MODSEQ, n);
    return true;
}

static bool set_key(struct parser *p, bool is_uid, Thurn__SearchKey **out)
{
    struct imap_set set;
    if (!imap_parse_set(p->c, p->a, &set))
        return false;
    *out = node(p, THURN__SEARCH_OP__SEARCH_UIDS);
    if (!imap_set_resolve(&set, p->uids, is_uid, false, p->a, &(*out)->uids, &(*out)->n_uids))
        return false;
    if ((*out)->n_uids == 0) /* no range could also mean all */
        *out = nothing(p);
    return true;
}

static const struct {
    str name;
    uint32_t bit;
    bool is_not;
} flag_keys[] = {
    {S_INIT("ANSWERED"), THURN__FLAG__FLAG_ANSWERED, false}, {S_INIT("UNANSWERED"), THURN__FLAG__FLAG_ANSWERED, true},
    {S_INIT("DELETED"), THURN__FLAG__FLAG_DELETED, false},   {S_INIT("UNDELETED"), THURN__FLAG__FLAG_DELETED, true},
    {S_INIT("DRAFT"), THURN__FLAG__FLAG_DRAFT, false},       {S_INIT("UNDRAFT"), THURN__FLAG__FLAG_DRAFT, true},
    {S_INIT("FLAGGED"), THURN__FLAG__FLAG_FLAGGED, false},   {S_INIT("UNFLAGGED"), THURN__FLAG__FLAG_FLAGGED, true},
    {S_INIT("SEEN"), THURN__FLAG__FLAG_SEEN, false},         {S_INIT("UNSEEN"), THURN__FLAG__FLAG_SEEN, true},
};

static Thurn__SearchKey *recent(struct parser *p)
{
    if (p->recents->n == 0)
        return nothing(p);
    Thurn__SearchKey *k = node(p, THURN__SEARCH_OP__SEARCH_UIDS);
    k->uids = arena_array(p->a, Thurn__Range *, p->recents->n);
    for (uint32_t i = 0; i < p->recents->n; i++) {
        Thurn__Range *r = arena_new(p->a, Thurn__Range);
        thurn__range__init(r);
        r->first = p->recents->v[i].first;
        r->last = p->recents->v[i].last;
        k->uids[k->n_uids++] = r;
    }
    return k;
}

/* Keys that are one word. */
static bool word_key(struct parser *p, str name, Thurn__SearchKey **out)
{
    for (size_t i = 0; i < ARRAY_LEN(flag_keys); i++) {
        if (!str_eq_nocase(name, flag_keys[i].name))
            continue;
        *out = number(p, THURN__SEARCH_OP__SEARCH_FLAGS_SET, flag_keys[i].bit);
        if (flag_keys[i].is_not)
            *out = negate(p, *out);
        return true;
    }
    if (str_eq_nocase(name, S("ALL")))
        *out = node(p, THURN__SEARCH_OP__SEARCH_ALL);
    else if (str_eq_nocase(name, S("RECENT")))
        *out = recent(p);
    else if (str_eq_nocase(name, S("OLD")))
        *out = negate(p, recent(p));
    else if (str_eq_nocase(name, S("NEW")))
        *out = with_keys(p, THURN__SEARCH_OP__SEARCH_AND, recent(p),
                         negate(p, number(p, THURN__SEARCH_OP__SEARCH_FLAGS_SET, THURN__FLAG__FLAG_SEEN)));
    else
        return false;
    return true;
}

static bool any_of(str name, const char *const *names)
{
    for (; *names; names++)
        if (str_eq_nocase(name, str_c(*names)))
            return true;
    return false;
}

/* Keys with one text argument. */
static bool text_key(struct parser *p, str name, Thurn__SearchKey **out)
{
    static const char *const fields[] = {"FROM", "TO", "CC", "BCC", "SUBJECT", NULL};
    char *value;
    if (!text(p, &value))
        return false;
    if (any_of(name, fields)) {
        *out = header(p, name, value);
    } else if (str_eq_nocase(name, S("HEADER"))) {
        str field = str_c(value);
        if (!text(p, &value))
            return false;
        *out = header(p, field, value);
    } else {
        bool is_keyword = any_of(name, (const char *const[]){"KEYWORD", "UNKEYWORD", NULL});
        *out = node(p, is_keyword                       ? THURN__SEARCH_OP__SEARCH_KEYWORD
                       : str_eq_nocase(name, S("BODY")) ? THURN__SEARCH_OP__SEARCH_BODY
                                                        : THURN__SEARCH_OP__SEARCH_TEXT);
        (*out)->text = value;
        if (str_eq_nocase(name, S("UNKEYWORD")))
            *out = negate(p, *out);
    }
    return true;
}

static bool key(struct parser *p, unsigned depth, Thurn__SearchKey **out);

/* key *(SP key), joined by AND. */
static bool keys(struct parser *p, unsigned depth, Thurn__SearchKey **out)
{
    Thurn__SearchKey *and = node(p, THURN__SEARCH_OP__SEARCH_AND);
    size_t room = 4;
    and->keys = arena_array(p->a, Thurn__SearchKey *, room);
    do {
        if (and->n_keys == room) {
            Thurn__SearchKey **more = arena_array(p->a, Thurn__SearchKey *, room * 2);
            memcpy(more, and->keys, room * sizeof(*more));
            and->keys = more;
            room *= 2;
        }
        if (!key(p, depth, &and->keys[ and->n_keys]))
            return false;
        and->n_keys++;
    } while (imap_parse_more(p->c));
    *out = and->n_keys == 1 ? and->keys[0] : and;
    return true;
}

static bool operator_key(struct parser *p, str name, unsigned depth, Thurn__SearchKey **out)
{
    Thurn__SearchKey *x, *y;
    if (!imap_parse_sp(p->c) || !key(p, depth + 1, &x))
        return false;
    if (str_eq_nocase(name, S("NOT"))) {
        *out = negate(p, x);
        return true;
    }
    if (!imap_parse_sp(p->c) || !key(p, depth + 1, &y))
        return false;
    *out = with_keys(p, THURN__SEARCH_OP__SEARCH_OR, x, y);
    return true;
}

static bool size_key(struct parser *p, str name, Thurn__SearchKey **out)
{
    uint64_t n;
    if (!imap_parse_sp(p->c) || !imap_parse_u64(p->c, &n))
        return false;
    *out = number(
        p, str_eq_nocase(name, S("LARGER")) ? THURN__SEARCH_OP__SEARCH_LARGER : THURN__SEARCH_OP__SEARCH_SMALLER, n);
    return true;
}

/* OLDER and YOUNGER (RFC 5032) are not announced, and so not here. */
static bool named_key(struct parser *p, unsigned depth, Thurn__SearchKey **out)
{
    static const char *const dates[] = {"BEFORE", "ON", "SINCE", NULL};
    static const char *const texts[] = {"FROM", "TO",   "CC",      "BCC",       "SUBJECT", "HEADER",
                                        "BODY", "TEXT", "KEYWORD", "UNKEYWORD", NULL};
    str name;
    if (!imap_parse_atom(p->c, &name))
        return false;
    if (word_key(p, name, out))
        return true;
    if (any_of(name, texts))
        return text_key(p, name, out);
    if (any_of(name, dates))
        return date_key(p, THURN__SEARCH_OP__SEARCH_BEFORE, name, out);
    if (str_starts_nocase(name, S("SENT")) && any_of(str_slice(name, 4, SIZE_MAX), dates))
        return date_key(p, THURN__SEARCH_OP__SEARCH_SENT_BEFORE, str_slice(name, 4, SIZE_MAX), out);
    if (str_eq_nocase(name, S("NOT")) || str_eq_nocase(name, S("OR")))
        return operator_key(p, name, depth, out);
    if (str_eq_nocase(name, S("LARGER")) || str_eq_nocase(name, S("SMALLER")))
        return size_key(p, name, out);
    if (str_eq_nocase(name, S("MODSEQ")))
        return modseq_key(p, out);
    return str_eq_nocase(name, S("UID")) && imap_parse_sp(p->c) && set_key(p, true, out);
}

static bool key(struct parser *p, unsigned depth, Thurn__SearchKey **out)
{
    p->out->is_too_large = depth >= IMAP_SEARCH_DEPTH_MAX / 2 || p->nodes > IMAP_SEARCH_NODES_MAX - 4;
    if (p->out->is_too_large)
        return false; /* NOT and date keys make more than one level of their own */
    if (cur_skip(p->c, '('))
        return keys(p, depth + 1, out) && cur_skip(p->c, ')');
    int ch = cur_peek(p->c);
    if (ch == '*' || (ch >= 0 && ascii_is_digit((unsigned char)ch)))
        return set_key(p, false, out);
    return named_key(p, depth, out);
}

/* "RETURN (MIN MAX COUNT) " (RFC 4731) */
static bool return_options(struct parser *p)
{
    struct imap_search *o = p->out;
    if (!imap_parse_word(p->c, S("RETURN")))
        return true;
    o->has_return = true;
    if (!imap_parse_sp(p->c) || !cur_skip(p->c, '('))
        return false;
    if (!cur_skip(p->c, ')')) {
        do {
            if (imap_parse_word(p->c, S("MIN")))
                o->wants_min = true;
            else if (imap_parse_word(p->c, S("MAX")))
                o->wants_max = true;
            else if (imap_parse_word(p->c, S("ALL")))
                o->wants_all = true;
            else if (imap_parse_word(p->c, S("COUNT")))
                o->wants_count = true;
            else
                return false;
        } while (imap_parse_more(p->c));
        if (!cur_skip(p->c, ')'))
            return false;
    }
    if (!o->wants_min && !o->wants_max && !o->wants_count)
        o->wants_all = true;
    return imap_parse_sp(p->c);
}

bool imap_parse_search(struct cursor *c, struct arena *a, const struct uid_map *uids, const struct uid_map *recents,
                       struct imap_search *out)
{
    *out = (struct imap_search){0};
    struct parser p = {.c = c, .a = a, .uids = uids, .recents = recents, .out = out, .charset = S("utf-8")};
    if (!return_options(&p))
        return false;
    if (imap_parse_word(c, S("CHARSET"))) {
        if (!imap_parse_sp(c) || !imap_parse_astring(c, a, &p.charset) || !imap_parse_sp(c))
            return false;
        if (!charset_is_known(p.charset)) {
            out->is_unknown_charset = true;
            return false;
        }
    }
    return keys(&p, 0, &out->key) && imap_parse_end(c);
}
