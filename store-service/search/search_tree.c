#include "base/num.h"
#include "mail/charset.h"
#include "mail/date.h"
#include "mail/header.h"
#include "mail/transfer.h"
#include "store-service/search/search.h"

#define FIELD_NAME_MAX 256u
#define DECODED_MAX ((size_t)64 << 20) /* text of one part that is looked at */

/* --- compiling --- */

/* Fields that were parsed when the message came; others are read from its header. */
static bool is_parsed_field(str f)
{
    static const str names[] = {S_INIT("subject"),     S_INIT("from"),   S_INIT("to"),
                                S_INIT("cc"),          S_INIT("bcc"),    S_INIT("message-id"),
                                S_INIT("in-reply-to"), S_INIT("sender"), S_INIT("reply-to")};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (str_eq_nocase(f, names[i]))
            return true;
    return false;
}

static enum search_level level_of(const struct search_node *n)
{
    switch (n->op) {
    case THURN__SEARCH_OP__SEARCH_SENT_BEFORE:
        return SEARCH_PARSED;
    case THURN__SEARCH_OP__SEARCH_HEADER:
        /* Without a text the question is whether the field is there, which only the header knows. */
        return n->text.n && is_parsed_field(n->field) ? SEARCH_PARSED : SEARCH_BODY;
    case THURN__SEARCH_OP__SEARCH_BODY:
    case THURN__SEARCH_OP__SEARCH_TEXT:
        return SEARCH_BODY;
    default:
        return SEARCH_ROW;
    }
}

static bool compile(struct search_tree *t, struct search_node *n, const Thurn__SearchKey *k, unsigned depth,
                    struct arena *a, struct err *err)
{
    bool is_tree = k->op == THURN__SEARCH_OP__SEARCH_AND || k->op == THURN__SEARCH_OP__SEARCH_OR ||
                   k->op == THURN__SEARCH_OP__SEARCH_NOT;
    if (depth > SEARCH_DEPTH_MAX || ++t->n_nodes > SEARCH_NODES_MAX)
        return err_set(err, ERR_LIMIT, "the search is too large");
    if (k->op > THURN__SEARCH_OP__SEARCH_MODSEQ || (k->op == THURN__SEARCH_OP__SEARCH_NOT && k->n_keys != 1) ||
        (!is_tree && k->n_keys))
        return err_set(err, ERR_INVALID, "a malformed search");
    *n = (struct search_node){
        .op = k->op, .number = k->number, .is_local = k->is_local, .field = str_c(k->field), .text = str_c(k->text)};
    if (n->field.n > FIELD_NAME_MAX || n->text.n > TEXT_SEARCH_NEEDLE_MAX)
        return err_set(err, ERR_LIMIT, "a search text is too long");
    if (k->op == THURN__SEARCH_OP__SEARCH_UIDS &&
        !uidset_of_proto(a, k->uids, k->n_uids, UINT32_MAX, false, &n->uids, err))
        return false;
    t->wants_keywords |= k->op == THURN__SEARCH_OP__SEARCH_KEYWORD;
    n->level = level_of(n);
    bool has_text = k->op == THURN__SEARCH_OP__SEARCH_HEADER || k->op == THURN__SEARCH_OP__SEARCH_BODY ||
                    k->op == THURN__SEARCH_OP__SEARCH_TEXT;
    if (has_text && !(n->finder = text_search_new(n->text)))
        return err_set(err, ERR_LIMIT, "a search text is too long");
    n->keys = arena_array(a, struct search_node, k->n_keys);
    for (size_t i = 0; i < k->n_keys; i++) {
        n->n_keys = i + 1;
        if (!compile(t, &n->keys[i], k->keys[i], depth + 1, a, err))
            return false;
    }
    return true;
}

bool search_compile(struct search_tree *t, const Thurn__SearchKey *key, struct arena *a, struct err *err)
{
    *t = (struct search_tree){.root = {.op = THURN__SEARCH_OP__SEARCH_ALL}};
    return !key || compile(t, &t->root, key, 1, a, err);
}

static void set_keywords(struct search_node *n, const struct keywords *k)
{
    n->keyword_id = 0;
    for (size_t i = 0; n->op == THURN__SEARCH_OP__SEARCH_KEYWORD && i < k->n; i++)
        if (str_eq_nocase(k->v[i].name, n->text))
            n->keyword_id = k->v[i].id;
    for (size_t i = 0; i < n->n_keys; i++)
        set_keywords(&n->keys[i], k);
}

void search_set_keywords(struct search_tree *t, const struct keywords *k)
{
    set_keywords(&t->root, k);
}

static void done(struct search_node *n)
{
    text_search_free(n->finder);
    for (size_t i = 0; i < n->n_keys; i++)
        done(&n->keys[i]);
}

void search_done(struct search_tree *t)
{
    done(&t->root);
}

/* --- parsed fields --- */

static bool found_in(const struct search_node *n, str text)
{
    text_search_reset(n->finder);
    return text_search_feed(n->finder, text) || text_search_finish(n->finder);
}

/* An address list as people read it: Name <local@domain>, … */
static bool in_addresses(const struct search_node *n, Thurn__Address *const *v, size_t count)
{
    BUF(b, 1 << 20);
    for (size_t i = 0; i < count; i++) {
        const Thurn__Address *p = v[i];
        if (*p->group_start)
            buf_printf(&b, "%s: ", p->group_start);
        if (*p->group_start || p->is_group_end)
            continue;
        buf_printf(&b, *p->name ? "%s <" : "%s<", p->name);
        buf_printf(&b, "%s%s%s>, ", p->local, *p->domain ? "@" : "", p->domain);
    }
    return found_in(n, buf_str(&b));
}

static bool in_parsed(const struct search_node *n, const Thurn__Envelope *e, struct arena *a)
{
    const struct {
        const char *name;
        Thurn__Address *const *v;
        size_t n;
    } lists[] = {{"from", e->from, e->n_from},
                 {"to", e->to, e->n_to},
                 {"cc", e->cc, e->n_cc},
                 {"bcc", e->bcc, e->n_bcc},
                 {"sender", e->sender, e->n_sender},
                 {"reply-to", e->reply_to, e->n_reply_to}};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        if (str_eq_nocase(n->field, str_c(lists[i].name)))
            return in_addresses(n, lists[i].v, lists[i].n);
    }
    str text = str_eq_nocase(n->field, S("subject"))      ? header_decode(a, str_c(e->subject))
               : str_eq_nocase(n->field, S("message-id")) ? str_c(e->message_id)
                                                          : str_c(e->in_reply_to);
    return found_in(n, text);
}

/* RFC 9051 6.4.4: the Date field's day, disregarding time and zone. */
static bool sent_before(const struct search_node *n, const Thurn__ParsedEmail *p)
{
    struct mail_date d;
    return date_parse(str_c(p->envelope->date), &d) && date_days(d.year, d.month, d.day) * DAY_S < (int64_t)n->number;
}

/* --- bodies --- */

static bool in_header(const struct search_node *n, str header, str field, struct arena *a)
{
    struct header_iter it = header_iter_of(header);
    struct header_field f;
    while (header_next(&it, &f)) {
        if (field.n && !str_eq_nocase(f.name, field))
            continue;
        if (found_in(n, header_decode(a, f.value)))
            return true;
        if (!field.n && found_in(n, f.name)) /* TEXT looks at the whole header */
            return true;
    }
    return false;
}

static bool in_text_part(const struct search_node *n, const Thurn__Part *p, str raw)
{
    str charset = S("us-ascii");
    for (size_t i = 0; i < p->n_params; i++)
        if (!strcmp(p->params[i]->name, "charset"))
            charset = str_c(p->params[i]->value);
    BUF(plain, DECODED_MAX);
    BUF(utf8, DECODED_MAX);
    transfer_decode(transfer_kind_of(str_c(p->encoding)), str_slice(raw, p->body_offset, p->body_offset + p->body_size),
                    &plain);
    charset_to_utf8(charset, buf_str(&plain), &utf8);
    return found_in(n, buf_str(&utf8));
}

/* Text parts, and the headers of messages within. */
static bool in_parts(const struct search_node *n, const Thurn__Part *p, str raw, struct arena *a)
{
    if (!strcmp(p->type, "TEXT") && p->n_parts == 0)
        return in_text_part(n, p, raw);
    for (size_t i = 0; i < p->n_parts; i++) {
        if (p->envelope &&
            in_header(n, str_slice(raw, p->parts[i]->header_offset, p->parts[i]->body_offset), STR_NONE, a))
            return true;
        if (in_parts(n, p->parts[i], raw, a))
            return true;
    }
    return false;
}

static bool in_body(const struct search_node *n, const struct search_subject *s)
{
    str header = str_slice(s->raw, 0, s->parsed->root->body_offset);
    switch (n->op) {
    case THURN__SEARCH_OP__SEARCH_HEADER:
        return in_header(n, header, n->field, s->arena);
    case THURN__SEARCH_OP__SEARCH_TEXT:
        if (in_header(n, header, STR_NONE, s->arena))
            return true;
        FALLTHROUGH;
    default:
        return in_parts(n, s->parsed->root, s->raw, s->arena);
    }
}

/* --- asking --- */

static bool ask_row(const struct search_node *n, const struct msg_row *m)
{
    switch (n->op) {
    case THURN__SEARCH_OP__SEARCH_UIDS:
        return uidset_has(&n->uids, m->uid);
    case THURN__SEARCH_OP__SEARCH_FLAGS_SET:
        return ((uint64_t)m->flags & n->number) == n->number;
    case THURN__SEARCH_OP__SEARCH_KEYWORD:
        return n->keyword_id && kw_has(m->kw, n->keyword_id);
    case THURN__SEARCH_OP__SEARCH_LARGER:
        return (uint64_t)m->size > n->number;
    case THURN__SEARCH_OP__SEARCH_SMALLER:
        return (uint64_t)m->size < n->number;
    case THURN__SEARCH_OP__SEARCH_BEFORE:
        return m->internal_unix + (n->is_local ? m->internal_zone * 60 : 0) < (int64_t)n->number;
    case THURN__SEARCH_OP__SEARCH_MODSEQ:
        return (uint64_t)m->modseq >= n->number;
    default:
        return true; /* ALL */
    }
}

static enum search_answer ask(const struct search_node *n, const struct search_subject *s, enum search_level level);

/* Cheap keys first: a key that needs more is only waited for when no other one decides. */
static enum search_answer ask_all(const struct search_node *n, const struct search_subject *s, enum search_level level,
                                  enum search_answer decisive)
{
    enum search_answer answer = decisive == SEARCH_NO ? SEARCH_YES : SEARCH_NO;
    for (enum search_level at = SEARCH_ROW; at <= level; at++) {
        answer = decisive == SEARCH_NO ? SEARCH_YES : SEARCH_NO;
        for (size_t i = 0; i < n->n_keys; i++) {
            enum search_answer one = ask(&n->keys[i], s, at);
            if (one == decisive)
                return decisive;
            if (one == SEARCH_NEEDS_MORE)
                answer = SEARCH_NEEDS_MORE;
        }
        if (answer != SEARCH_NEEDS_MORE)
            return answer;
    }
    return answer;
}

static enum search_answer ask(const struct search_node *n, const struct search_subject *s, enum search_level level)
{
    enum search_answer one;
    switch (n->op) {
    case THURN__SEARCH_OP__SEARCH_AND:
        return ask_all(n, s, level, SEARCH_NO);
    case THURN__SEARCH_OP__SEARCH_OR:
        return ask_all(n, s, level, SEARCH_YES);
    case THURN__SEARCH_OP__SEARCH_NOT:
        one = ask(&n->keys[0], s, level);
        return one == SEARCH_NEEDS_MORE ? one : one == SEARCH_YES ? SEARCH_NO : SEARCH_YES;
    default:
        break;
    }
    if (n->level > level)
        return SEARCH_NEEDS_MORE;
    bool is_match = n->level == SEARCH_ROW                          ? ask_row(n, s->row)
                    : n->op == THURN__SEARCH_OP__SEARCH_SENT_BEFORE ? sent_before(n, s->parsed)
                    : n->level == SEARCH_PARSED                     ? in_parsed(n, s->parsed->envelope, s->arena)
                                                                    : in_body(n, s);
    return is_match ? SEARCH_YES : SEARCH_NO;
}

enum search_answer search_ask(const struct search_tree *t, const struct search_subject *s, enum search_level level)
{
    return ask(&t->root, s, level);
}
