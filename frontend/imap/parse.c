#include "frontend/imap/parse.h"

#include "base/num.h"
#include "mail/text_search.h"
#include "mail/utf7.h"

/* --- characters --- */

static bool is_atom_char(unsigned char c)
{
    return c > ' ' && c < 0x7f && !memchr("(){%*\"\\]", c, 8);
}

static bool is_astring_char(unsigned char c)
{
    return is_atom_char(c) || c == ']';
}

static bool is_tag_char(unsigned char c)
{
    return is_astring_char(c) && c != '+';
}

static bool is_list_char(unsigned char c)
{
    return is_astring_char(c) || c == '%' || c == '*';
}

bool imap_parse_sp(struct cursor *c)
{
    if (!cur_skip(c, ' '))
        return false;
    while (cur_skip(c, ' '))
        ;
    return true;
}

bool imap_parse_more(struct cursor *c)
{
    return imap_parse_sp(c) && cur_left(c) && cur_peek(c) != ')';
}

bool imap_parse_end(const struct cursor *c)
{
    struct cursor at = *c;
    (void)imap_parse_sp(&at);
    return cur_left(&at) == 0;
}

bool imap_parse_word(struct cursor *c, str word)
{
    struct cursor at = *c;
    if (!cur_skip_nocase(&at, word) || (at.p < at.end && is_atom_char(*at.p)))
        return false;
    *c = at;
    return true;
}

static bool take_run(struct cursor *c, bool (*is)(unsigned char), str *out)
{
    str s = cur_take_while(c, is, SIZE_MAX);
    if (s.n == 0)
        return false;
    *out = s;
    return true;
}

bool imap_parse_atom(struct cursor *c, str *out)
{
    return take_run(c, is_atom_char, out);
}

bool imap_parse_tag(struct cursor *c, str *out)
{
    return take_run(c, is_tag_char, out) && out->n <= 128;
}

/* --- strings --- */

static bool quoted(struct cursor *c, struct arena *a, str *out)
{
    const unsigned char *close = c->p + 1;
    while (close < c->end && *close != '"')
        close += *close == '\\' ? 2 : 1;
    if (close >= c->end)
        return false;
    char *text = arena_alloc(a, (size_t)(close - c->p));
    size_t n = 0;
    for (c->p++; c->p < close; c->p++) {
        if (*c->p == '\\' && *++c->p != '"' && *c->p != '\\')
            return false;
        if (*c->p == '\r' || *c->p == '\n' || *c->p == '\0')
            return false;
        text[n++] = (char)*c->p;
    }
    c->p++;
    text[n] = '\0';
    *out = str_n(text, n);
    return true;
}

static bool literal(struct cursor *c, str *out)
{
    uint64_t n;
    if (!cur_skip(c, '{') || !cur_u64(c, UINT32_MAX, &n))
        return false;
    (void)cur_skip(c, '+'); /* RFC 7888 */
    if (!cur_skip(c, '}') || !cur_skip(c, '\r') || !cur_skip(c, '\n') || n > cur_left(c))
        return false;
    *out = cur_take(c, (size_t)n);
    if (n == 0)
        *out = S("");
    return !memchr(out->p, 0, out->n); /* CHAR8 */
}

bool imap_parse_string(struct cursor *c, struct arena *a, str *out)
{
    return cur_peek(c) == '"' ? quoted(c, a, out) : literal(c, out);
}

bool imap_parse_astring(struct cursor *c, struct arena *a, str *out)
{
    int ch = cur_peek(c);
    return ch == '"' || ch == '{' ? imap_parse_string(c, a, out) : take_run(c, is_astring_char, out);
}

bool imap_parse_nstring(struct cursor *c, struct arena *a, str *out)
{
    if (imap_parse_word(c, S("NIL"))) {
        *out = STR_NONE;
        return true;
    }
    return imap_parse_string(c, a, out);
}

bool imap_parse_u32(struct cursor *c, uint32_t *out)
{
    return cur_u32(c, UINT32_MAX, out);
}

bool imap_parse_u64(struct cursor *c, uint64_t *out)
{
    return cur_u64(c, INT64_MAX, out);
}

bool imap_line_literal(str line, str *before, uint64_t *size, bool *is_sync)
{
    if (!str_ends(line, S("}")))
        return false;
    ptrdiff_t open = str_rfind(line, '{');
    if (open < 0)
        return false;
    str inner = str_slice(line, (size_t)open + 1, line.n - 1);
    bool sync = !str_ends(inner, S("+"));
    if (!sync)
        inner.n--;
    uint64_t n;
    if (!num_u64(inner, INT64_MAX, &n))
        return false;
    *before = str_slice(line, 0, (size_t)open);
    *size = n;
    *is_sync = sync;
    return true;
}

/* --- mailbox names --- */

static bool is_component(str s)
{
    return s.n > 0 && s.n <= 255 && !str_eq(s, S(".")) && !str_eq(s, S(".."));
}

bool imap_mailbox_name(str raw, struct arena *a, str *out)
{
    BUF(utf8, IMAP_MAILBOX_NAME_MAX);
    BUF(nfc, IMAP_MAILBOX_NAME_MAX);
    if (raw.n > IMAP_MAILBOX_NAME_MAX || !utf7_decode(&utf8, raw))
        return false;
    text_nfc(&nfc, buf_str(&utf8));
    if (!buf_ok(&utf8) || !buf_ok(&nfc))
        return false;
    str name = arena_str(a, buf_str(&nfc)), rest = name, component;
    if (str_ends(rest, S("/")) && rest.n > 1) /* CREATE "parent/": a hint that there will be children */
        name = rest = arena_str(a, str_slice(rest, 0, rest.n - 1));
    for (size_t i = 0; i < name.n; i++)
        if (ascii_is_ctl((unsigned char)name.p[i]))
            return false;
    bool is_first = true, any = false;
    while (str_split(&rest, '/', &component)) {
        if (!is_component(component))
            return false;
        if (is_first && str_eq_nocase(component, S("INBOX")))
            memcpy((char *)(uintptr_t)component.p, "INBOX", 5);
        is_first = false;
        any = true;
    }
    if (!any || str_ends(name, S("/")))
        return false;
    *out = name;
    return true;
}

bool imap_parse_mailbox(struct cursor *c, struct arena *a, str *out, bool *is_valid)
{
    str raw;
    if (!imap_parse_astring(c, a, &raw))
        return false;
    *is_valid = imap_mailbox_name(raw, a, out);
    if (!*is_valid)
        *out = S("");
    return true;
}

bool imap_parse_list_mailbox(struct cursor *c, struct arena *a, str *out)
{
    int ch = cur_peek(c);
    return ch == '"' || ch == '{' ? imap_parse_string(c, a, out) : take_run(c, is_list_char, out);
}

/* --- sets --- */

/* seq-number: nz-number / "*" */
static bool seq_number(struct cursor *c, uint32_t *out)
{
    if (cur_skip(c, '*')) {
        *out = 0;
        return true;
    }
    return imap_parse_u32(c, out) && *out > 0;
}

bool imap_parse_set(struct cursor *c, struct arena *a, struct imap_set *out)
{
    size_t room = 8;
    struct imap_set set = {arena_alloc(a, room * sizeof(*set.v)), 0};
    do {
        struct imap_range r;
        if (!seq_number(c, &r.first))
            return false;
        r.last = r.first;
        if (cur_skip(c, ':') && !seq_number(c, &r.last))
            return false;
        if (set.n == IMAP_SET_MAX)
            return false;
        if (set.n == room) {
            struct imap_range *more = arena_alloc(a, room * 2 * sizeof(*more));
            memcpy(more, set.v, room * sizeof(*more));
            set.v = more;
            room *= 2;
        }
        set.v[set.n++] = r;
    } while (cur_skip(c, ','));
    *out = set;
    return true;
}

static int compare_ranges(const void *a, const void *b)
{
    const struct imap_range *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

/* One element of a set as a range of UIDs; empty ranges get first > last. */
static bool resolve_one(struct imap_range r, const struct uid_map *uids, bool is_uid, bool must_exist,
                        struct imap_range *out)
{
    uint32_t max = is_uid ? uid_map_max(uids) : uid_map_count(uids);
    bool has_star = r.first == 0 || r.last == 0;
    uint32_t first = r.first ? r.first : max, last = r.last ? r.last : max;
    if (first > last) {
        uint32_t swap = first;
        first = last;
        last = swap;
    }
    *out = (struct imap_range){1, 0};
    if (max == 0) /* nothing is there: "*" names nothing, a number names what does not exist */
        return is_uid || !must_exist || has_star;
    if (is_uid) {
        out->first = first;
        out->last = MIN(last, max);
        return true;
    }
    if (last > max && must_exist)
        return false;
    if (first > max)
        return true;
    out->first = uid_map_uid(uids, first);
    out->last = uid_map_uid(uids, MIN(last, max));
    return true;
}

bool imap_set_resolve(const struct imap_set *set, const struct uid_map *uids, bool is_uid, bool must_exist,
                      struct arena *a, Thurn__Range ***out, size_t *n)
{
    struct imap_range *v = arena_alloc(a, (set->n + 1) * sizeof(*v));
    size_t count = 0;
    for (size_t i = 0; i < set->n; i++) {
        if (!resolve_one(set->v[i], uids, is_uid, must_exist, &v[count]))
            return false;
        count += v[count].first <= v[count].last;
    }
    qsort(v, count, sizeof(*v), compare_ranges);
    Thurn__Range **ranges = arena_array(a, Thurn__Range *, count + 1);
    size_t k = 0;
    for (size_t i = 0; i < count; i++) {
        if (k && v[i].first <= ranges[k - 1]->last + 1) {
            ranges[k - 1]->last = MAX(ranges[k - 1]->last, v[i].last);
            continue;
        }
        ranges[k] = arena_new(a, Thurn__Range);
        thurn__range__init(ranges[k]);
        ranges[k]->first = v[i].first;
        ranges[k++]->last = v[i].last;
    }
    *out = ranges;
    *n = k;
    return true;
}

/* Collects numbers and ranges into "1:3,5", joining what touches. */
struct set_writer {
    struct buf *out;
    uint64_t first, last; /* 0 = nothing yet */
    bool any;
};

static void end_range(struct set_writer *w)
{
    if (!w->first)
        return;
    if (w->any)
        buf_addc(w->out, ',');
    w->any = true;
    buf_add_u64(w->out, w->first);
    if (w->last > w->first) {
        buf_addc(w->out, ':');
        buf_add_u64(w->out, w->last);
    }
}

static void put_range(struct set_writer *w, uint64_t first, uint64_t last)
{
    if (w->first && first == w->last + 1) {
        w->last = last;
        return;
    }
    end_range(w);
    w->first = first;
    w->last = last;
}

void imap_add_set(struct buf *out, Thurn__Range *const *v, size_t n, const struct uid_map *as_seq)
{
    struct set_writer w = {.out = out};
    for (size_t i = 0; i < n; i++) {
        if (!as_seq) {
            put_range(&w, v[i]->first, v[i]->last);
            continue;
        }
        uint32_t last = (uint32_t)MIN(v[i]->last, (uint64_t)uid_map_max(as_seq));
        for (uint64_t uid = v[i]->first; uid <= last; uid++) {
            uint32_t seq = uid_map_seq(as_seq, (uint32_t)uid);
            if (seq)
                put_range(&w, seq, seq);
        }
    }
    end_range(&w);
}

/* --- flags --- */

static const struct {
    str name;
    uint32_t bit;
} system_flags[] = {
    {S_INIT("\\Seen"), THURN__FLAG__FLAG_SEEN},       {S_INIT("\\Answered"), THURN__FLAG__FLAG_ANSWERED},
    {S_INIT("\\Flagged"), THURN__FLAG__FLAG_FLAGGED}, {S_INIT("\\Deleted"), THURN__FLAG__FLAG_DELETED},
    {S_INIT("\\Draft"), THURN__FLAG__FLAG_DRAFT},
};

static bool add_keyword(struct arena *a, str name, struct imap_flags *f)
{
    if (name.n > IMAP_KEYWORD_MAX)
        return false;
    for (size_t i = 0; i < f->n_keywords; i++)
        if (str_eq_nocase(str_c(f->keywords[i]), name))
            return true;
    if (f->n_keywords == IMAP_KEYWORDS_MAX)
        return false;
    if (!f->keywords)
        f->keywords = arena_array(a, char *, IMAP_KEYWORDS_MAX);
    f->keywords[f->n_keywords++] = arena_strz(a, name);
    return true;
}

static bool flag(struct cursor *c, struct arena *a, struct imap_flags *f)
{
    str name;
    if (cur_peek(c) != '\\')
        return imap_parse_atom(c, &name) && add_keyword(a, name, f);
    const unsigned char *from = c->p++;
    if (!imap_parse_atom(c, &name))
        return false;
    name = str_n(from, name.n + 1);
    if (str_eq_nocase(name, S("\\Recent"))) /* RFC 3501 2.3.2: cannot be altered; clients send it back in APPEND */
        return true;
    for (size_t i = 0; i < ARRAY_LEN(system_flags); i++) {
        if (str_eq_nocase(name, system_flags[i].name)) {
            f->bits |= system_flags[i].bit;
            return true;
        }
    }
    return false;
}

bool imap_parse_flags(struct cursor *c, struct arena *a, bool needs_parens, struct imap_flags *out)
{
    struct imap_flags f = {0};
    bool has_parens = cur_skip(c, '(');
    (void)imap_parse_sp(c);
    if (needs_parens && !has_parens)
        return false;
    if (!has_parens || cur_peek(c) != ')') {
        do {
            if (!flag(c, a, &f))
                return false;
        } while (imap_parse_more(c));
    }
    if (has_parens && !cur_skip(c, ')'))
        return false;
    *out = f;
    return true;
}
