#include "frontend/imap/parse_fetch.h"

#include "frontend/imap/format.h"

/* An attribute name ends at a separator or at the "[" of a section. */
static bool is_name_char(unsigned char c)
{
    return ascii_is_alnum(c) || c == '.';
}

static bool take_name(struct cursor *c, str *out)
{
    *out = cur_take_while(c, is_name_char, 32);
    return out->n > 0;
}

static const struct {
    str name;
    enum imap_fetch_kind kind;
} plain_items[] = {
    {S_INIT("FLAGS"), FETCH_FLAGS},
    {S_INIT("UID"), FETCH_UID},
    {S_INIT("INTERNALDATE"), FETCH_INTERNALDATE},
    {S_INIT("RFC822.SIZE"), FETCH_RFC822_SIZE},
    {S_INIT("ENVELOPE"), FETCH_ENVELOPE},
    {S_INIT("BODYSTRUCTURE"), FETCH_BODYSTRUCTURE},
    {S_INIT("MODSEQ"), FETCH_MODSEQ},
    {S_INIT("PREVIEW"), FETCH_PREVIEW},
};

static const struct {
    str name;
    enum imap_section_text text;
    bool sets_seen;
} old_sections[] = {
    {S_INIT("RFC822"), SECTION_ALL, true},
    {S_INIT("RFC822.HEADER"), SECTION_HEADER, false},
    {S_INIT("RFC822.TEXT"), SECTION_TEXT, true},
};

/* "(" astring *(SP astring) ")" */
static bool field_list(struct cursor *c, struct arena *a, struct imap_fetch_item *item)
{
    if (!imap_parse_sp(c) || !cur_skip(c, '('))
        return false;
    item->fields = arena_array(a, str, IMAP_SECTION_FIELDS_MAX);
    do {
        if (item->n_fields == IMAP_SECTION_FIELDS_MAX || !imap_parse_astring(c, a, &item->fields[item->n_fields]))
            return false;
        item->n_fields++;
    } while (imap_parse_more(c));
    return cur_skip(c, ')');
}

static bool section_text(struct cursor *c, struct arena *a, struct imap_fetch_item *item)
{
    str name;
    if (!take_name(c, &name))
        return false;
    if (str_eq_nocase(name, S("HEADER"))) {
        item->text = SECTION_HEADER;
    } else if (str_eq_nocase(name, S("TEXT"))) {
        item->text = SECTION_TEXT;
    } else if (str_eq_nocase(name, S("MIME")) && item->n_path) {
        item->text = SECTION_MIME;
    } else if (str_eq_nocase(name, S("HEADER.FIELDS"))) {
        item->text = SECTION_FIELDS;
        return field_list(c, a, item);
    } else if (str_eq_nocase(name, S("HEADER.FIELDS.NOT"))) {
        item->text = SECTION_FIELDS_NOT;
        return field_list(c, a, item);
    } else {
        return false;
    }
    return true;
}

/* After "[": section-spec "]". */
static bool section(struct cursor *c, struct arena *a, struct imap_fetch_item *item)
{
    if (cur_skip(c, ']'))
        return true;
    bool wants_text = true;
    if (ascii_is_digit((unsigned char)MAX(cur_peek(c), 0)))
        item->path = arena_array(a, uint32_t, IMAP_SECTION_DEPTH_MAX);
    while (ascii_is_digit((unsigned char)MAX(cur_peek(c), 0))) {
        if (item->n_path == IMAP_SECTION_DEPTH_MAX || !imap_parse_u32(c, &item->path[item->n_path]) ||
            item->path[item->n_path] == 0)
            return false;
        item->n_path++;
        wants_text = cur_skip(c, '.');
        if (!wants_text)
            break;
    }
    if (wants_text && !section_text(c, a, item))
        return false;
    return cur_skip(c, ']');
}

/* "<" number "." nz-number ">" */
static bool partial(struct cursor *c, struct imap_fetch_item *item)
{
    if (!cur_skip(c, '<'))
        return true;
    item->has_partial = true;
    return imap_parse_u32(c, &item->partial_offset) && cur_skip(c, '.') && imap_parse_u32(c, &item->partial_length) &&
           item->partial_length > 0 && cur_skip(c, '>');
}

static bool body_item(struct cursor *c, struct arena *a, bool is_peek, struct imap_fetch_item *item)
{
    if (!cur_skip(c, '[')) {
        item->kind = FETCH_BODY;
        return !is_peek;
    }
    item->kind = FETCH_SECTION;
    item->sets_seen = !is_peek;
    return section(c, a, item) && partial(c, item);
}

static bool item(struct cursor *c, struct arena *a, struct imap_fetch_item *out)
{
    str name;
    *out = (struct imap_fetch_item){0};
    if (!take_name(c, &name))
        return false;
    if (str_eq_nocase(name, S("BODY")))
        return body_item(c, a, false, out);
    if (str_eq_nocase(name, S("BODY.PEEK")))
        return body_item(c, a, true, out);
    for (size_t i = 0; i < ARRAY_LEN(plain_items); i++) {
        if (!str_eq_nocase(name, plain_items[i].name))
            continue;
        out->kind = plain_items[i].kind;
        if (out->kind == FETCH_PREVIEW) { /* RFC 8970: (LAZY) may be ignored, previews are at hand */
            struct cursor at = *c;
            if (imap_parse_sp(&at) && cur_skip_nocase(&at, S("(LAZY)")))
                *c = at;
        }
        return true;
    }
    for (size_t i = 0; i < ARRAY_LEN(old_sections); i++) {
        if (!str_eq_nocase(name, old_sections[i].name))
            continue;
        out->kind = FETCH_SECTION;
        out->alias = old_sections[i].name.p;
        out->text = old_sections[i].text;
        out->sets_seen = old_sections[i].sets_seen;
        return true;
    }
    return false;
}

static bool add_plain(struct imap_fetch *f, enum imap_fetch_kind kind)
{
    f->items[f->n_items++] = (struct imap_fetch_item){.kind = kind};
    return true;
}

/* ALL, FAST, FULL */
static bool macro(struct cursor *c, struct imap_fetch *f)
{
    bool is_all = imap_parse_word(c, S("ALL")), is_full = !is_all && imap_parse_word(c, S("FULL"));
    if (!is_all && !is_full && !imap_parse_word(c, S("FAST")))
        return false;
    (void)add_plain(f, FETCH_FLAGS);
    (void)add_plain(f, FETCH_INTERNALDATE);
    (void)add_plain(f, FETCH_RFC822_SIZE);
    if (is_all || is_full)
        (void)add_plain(f, FETCH_ENVELOPE);
    if (is_full)
        (void)add_plain(f, FETCH_BODY);
    return true;
}

static bool same_fields(const struct imap_fetch_item *x, const struct imap_fetch_item *y)
{
    bool same = x->n_fields == y->n_fields;
    for (size_t i = 0; same && i < x->n_fields; i++)
        same = str_eq_nocase(x->fields[i], y->fields[i]);
    return same;
}

/* They are one and the same in the response. */
static bool same_item(const struct imap_fetch_item *x, const struct imap_fetch_item *y)
{
    return x->kind == y->kind && x->alias == y->alias && x->text == y->text && x->n_path == y->n_path &&
           (x->n_path == 0 || memcmp(x->path, y->path, x->n_path * sizeof(*x->path)) == 0) && same_fields(x, y) &&
           x->has_partial == y->has_partial && x->partial_offset == y->partial_offset &&
           x->partial_length == y->partial_length;
}

/* Nothing is told twice: the newest item goes when it was there before. */
static void keep_once(struct imap_fetch *f)
{
    const struct imap_fetch_item *newest = &f->items[f->n_items - 1];
    for (size_t i = 0; i + 1 < f->n_items; i++) {
        if (!same_item(&f->items[i], newest))
            continue;
        f->items[i].sets_seen |= newest->sets_seen;
        f->n_items--;
        return;
    }
}

static bool items(struct cursor *c, struct arena *a, struct imap_fetch *f)
{
    f->items = arena_array(a, struct imap_fetch_item, IMAP_FETCH_ITEMS_MAX + IMAP_FETCH_ITEMS_ADDED);
    if (macro(c, f))
        return true;
    bool is_list = cur_skip(c, '(');
    (void)imap_parse_sp(c);
    do {
        if (f->n_items == IMAP_FETCH_ITEMS_MAX || !item(c, a, &f->items[f->n_items]))
            return false;
        f->n_items++;
        keep_once(f);
    } while (is_list && imap_parse_more(c));
    return !is_list || cur_skip(c, ')');
}

/* " (CHANGEDSINCE 123)" (RFC 7162 3.1.4.1) */
static bool modifiers(struct cursor *c, struct imap_fetch *f)
{
    if (imap_parse_end(c))
        return true;
    f->has_changed_since = true;
    return imap_parse_sp(c) && cur_skip(c, '(') && imap_parse_word(c, S("CHANGEDSINCE")) && imap_parse_sp(c) &&
           imap_parse_u64(c, &f->changed_since) && cur_skip(c, ')') && imap_parse_end(c);
}

bool imap_parse_fetch(struct cursor *c, struct arena *a, struct imap_fetch *out)
{
    *out = (struct imap_fetch){0};
    return imap_parse_set(c, a, &out->set) && imap_parse_sp(c) && items(c, a, out) && modifiers(c, out);
}

void imap_add_section_name(struct buf *out, const struct imap_fetch_item *it)
{
    static const char *const names[] = {"", "HEADER", "HEADER.FIELDS", "HEADER.FIELDS.NOT", "TEXT", "MIME"};
    if (it->alias) {
        buf_add(out, str_c(it->alias));
        return;
    }
    buf_add(out, S("BODY["));
    for (size_t i = 0; i < it->n_path; i++) {
        if (i)
            buf_addc(out, '.');
        buf_add_u64(out, it->path[i]);
    }
    if (it->n_path && it->text != SECTION_ALL)
        buf_addc(out, '.');
    buf_add(out, str_c(names[it->text]));
    if (it->text == SECTION_FIELDS || it->text == SECTION_FIELDS_NOT) {
        for (size_t i = 0; i < it->n_fields; i++) {
            buf_add(out, i ? S(" ") : S(" ("));
            imap_add_astring(out, it->fields[i]);
        }
        buf_addc(out, ')');
    }
    buf_addc(out, ']');
    if (it->has_partial)
        buf_printf(out, "<%u>", it->partial_offset);
}
