/* LIST with RFC 5258 (LIST-EXTENDED), RFC 5819 (LIST-STATUS) and RFC 6154 (SPECIAL-USE); LSUB. */
#include "frontend/imap/commands.h"

#include "frontend/imap/format.h"
#include "frontend/imap/list_pattern.h"
#include "frontend/imap/mailboxes.h"
#include "frontend/imap/parse.h"
#include "frontend/imap/status.h"

#define PATTERNS_MAX 50u
#define OUT_MAX (16u << 20)

struct list_request {
    str reference, patterns[PATTERNS_MAX];
    size_t n_patterns;
    bool is_extended;
    /* selection */
    bool only_subscribed, only_special, is_recursive;
    /* return */
    bool with_subscribed;
    unsigned status_items; /* 0 = no STATUS */
};

static const char *const role_attributes[] = {
    [THURN__MAILBOX_ROLE__ROLE_ARCHIVE] = "\\Archive", [THURN__MAILBOX_ROLE__ROLE_DRAFTS] = "\\Drafts",
    [THURN__MAILBOX_ROLE__ROLE_FLAGGED] = "\\Flagged", [THURN__MAILBOX_ROLE__ROLE_IMPORTANT] = "\\Important",
    [THURN__MAILBOX_ROLE__ROLE_JUNK] = "\\Junk",       [THURN__MAILBOX_ROLE__ROLE_SENT] = "\\Sent",
    [THURN__MAILBOX_ROLE__ROLE_TRASH] = "\\Trash",     [THURN__MAILBOX_ROLE__ROLE_ALL] = "\\All",
};

static const char *role_attribute(const Thurn__Mailbox *row)
{
    return (size_t)row->role < ARRAY_LEN(role_attributes) ? role_attributes[row->role] : NULL;
}

/* --- parsing --- */

/* "(" [option *(SP option)] ")" after its opening parenthesis. */
static bool selection_options(struct cursor *c, struct list_request *q)
{
    if (cur_skip(c, ')'))
        return true;
    do {
        if (imap_parse_word(c, S("SUBSCRIBED")))
            q->only_subscribed = q->with_subscribed = true;
        else if (imap_parse_word(c, S("SPECIAL-USE")))
            q->only_special = true;
        else if (imap_parse_word(c, S("RECURSIVEMATCH")))
            q->is_recursive = true;
        else if (!imap_parse_word(c, S("REMOTE"))) /* there are none */
            return false;
    } while (imap_parse_more(c));
    /* RFC 5258 3: RECURSIVEMATCH needs something to match. */
    return cur_skip(c, ')') && (!q->is_recursive || q->only_subscribed || q->only_special);
}

static bool return_options(struct cursor *c, struct list_request *q)
{
    if (!cur_skip(c, '('))
        return false;
    if (cur_skip(c, ')'))
        return true;
    do {
        if (imap_parse_word(c, S("SUBSCRIBED"))) {
            q->with_subscribed = true;
        } else if (imap_parse_word(c, S("STATUS"))) {
            if (!imap_parse_sp(c) || !imap_parse_status_items(c, &q->status_items))
                return false;
        } else if (!imap_parse_word(c, S("CHILDREN")) && !imap_parse_word(c, S("SPECIAL-USE"))) {
            return false; /* those two are always told */
        }
    } while (imap_parse_more(c));
    return cur_skip(c, ')');
}

static bool patterns(struct cursor *c, struct arena *a, struct list_request *q)
{
    if (!cur_skip(c, '(')) {
        q->n_patterns = 1;
        return imap_parse_list_mailbox(c, a, &q->patterns[0]);
    }
    q->is_extended = true;
    do {
        if (q->n_patterns == PATTERNS_MAX || !imap_parse_list_mailbox(c, a, &q->patterns[q->n_patterns]))
            return false;
        q->n_patterns++;
    } while (imap_parse_more(c));
    return cur_skip(c, ')');
}

static bool parse_list(struct cursor *c, struct arena *a, struct list_request *q)
{
    if (!imap_parse_sp(c))
        return false;
    if (cur_skip(c, '(')) {
        q->is_extended = true;
        if (!selection_options(c, q) || !imap_parse_sp(c))
            return false;
    }
    if (!imap_parse_astring(c, a, &q->reference) || !imap_parse_sp(c) || !patterns(c, a, q))
        return false;
    if (imap_parse_end(c))
        return true;
    q->is_extended = true;
    return imap_parse_sp(c) && imap_parse_word(c, S("RETURN")) && imap_parse_sp(c) && return_options(c, q) &&
           imap_parse_end(c);
}

/* --- matching --- */

static bool matches(const struct list_request *q, str name)
{
    for (size_t i = 0; i < q->n_patterns; i++)
        if (imap_pattern_matches(q->patterns[i], name))
            return true;
    return false;
}

/* Patterns that can match nothing are dropped. */
static void make_patterns(struct arena *a, struct list_request *q)
{
    size_t n = 0;
    for (size_t i = 0; i < q->n_patterns; i++)
        if (imap_pattern_make(q->reference, q->patterns[i], a, &q->patterns[n]))
            n++;
    q->n_patterns = n;
}

/*
 * Mark every ancestor of a subscribed mailbox. With unlisted: only of one that the request itself does not return, as
 * RFC 5258 3.5 wants no CHILDINFO for what the client sees anyway.
 */
static bool *mark_ancestors(struct arena *a, const struct imap_mailboxes *list, const struct list_request *unlisted)
{
    bool *marked = arena_array(a, bool, list->n + 1);
    for (size_t i = 0; i < list->n; i++) {
        if (!list->v[i].row->is_subscribed || (unlisted && matches(unlisted, list->v[i].name)))
            continue;
        str name = list->v[i].name;
        for (size_t k = name.n; k-- > 0;) {
            const struct imap_mailbox *up = name.p[k] == '/' ? imap_mailboxes_find(list, str_slice(name, 0, k)) : NULL;
            if (up)
                marked[up - list->v] = true;
        }
    }
    return marked;
}

/* What is to be listed. Names without a mailbox come with the subscriptions alone. */
FIBER static bool load(struct imap_session *s, struct imap_command *c, bool with_missing, struct imap_mailboxes *out,
                       struct err *err)
{
    return imap_mailboxes_load(s, c, false, out, err) && (!with_missing || imap_mailboxes_add_missing(s, c, out, err));
}

/* --- LIST --- */

static void add_entry(struct buf *out, const char *verb, const struct imap_mailbox *m, bool with_subscribed)
{
    buf_printf(out, "* %s (%s", verb, m->has_children ? "\\HasChildren" : "\\HasNoChildren");
    if (m->is_missing)
        buf_add(out, S(" \\NonExistent"));
    const char *role = role_attribute(m->row);
    if (role)
        buf_printf(out, " %s", role);
    if (with_subscribed && m->row->is_subscribed)
        buf_add(out, S(" \\Subscribed"));
    buf_add(out, S(") \"/\" "));
    imap_add_mailbox(out, m->name);
}

static void list_one(const struct imap_session *s, const struct list_request *q, const struct imap_mailbox *m,
                     bool has_match_below, struct buf *out)
{
    bool is_selected = (!q->only_subscribed || m->row->is_subscribed) && (!q->only_special || role_attribute(m->row));
    bool tells_below = q->is_recursive && q->only_subscribed && has_match_below;
    if (!m->name.n || !matches(q, m->name) || !(is_selected || tells_below))
        return;
    add_entry(out, "LIST", m, q->with_subscribed);
    if (tells_below)
        buf_add(out, S(" (\"CHILDINFO\" (\"SUBSCRIBED\"))"));
    buf_add(out, S("\r\n"));
    if (q->status_items && is_selected && !m->is_missing)
        imap_add_status(s, out, m->name, m->row, q->status_items, 0); /* RECENT is not worth a call a mailbox */
}

FIBER bool cmd_list(struct imap_session *s, struct imap_command *c, struct err *err)
{
    struct list_request *q = arena_new(c->arena, struct list_request);
    if (!parse_list(&c->args, c->arena, q))
        return imap_bad(c, err, "Malformed LIST.");
    if (!q->is_extended && q->patterns[0].n == 0) /* the hierarchy delimiter is asked for */
        return imap_write(s, S("* LIST (\\Noselect) \"/\" \"\"\r\n"), err);
    make_patterns(c->arena, q);
    struct imap_mailboxes list;
    if (!load(s, c, q->only_subscribed, &list, err))
        return false;
    bool *below = mark_ancestors(c->arena, &list, q);
    BUF(out, OUT_MAX);
    for (size_t i = 0; i < list.n; i++) {
        list_one(s, q, &list.v[i], below[i], &out);
        if (!fiber_yield_if_due(err))
            return false;
    }
    return imap_write_buf(s, &out, err);
}

/* --- LSUB --- */

/*
 * RFC 3501 6.3.9: "%" shows the unsubscribed parent of what is subscribed, as \Noselect. So is what has no mailbox:
 * LSUB has no \NonExistent, which implies it.
 */
static void lsub_one(const struct list_request *q, const struct imap_mailbox *m, bool is_parent, struct buf *out)
{
    if (!(m->row->is_subscribed || is_parent) || !m->name.n || !matches(q, m->name))
        return;
    if (m->row->is_subscribed && !m->is_missing) {
        add_entry(out, "LSUB", m, false);
    } else {
        buf_add(out, S("* LSUB (\\Noselect) \"/\" "));
        imap_add_mailbox(out, m->name);
    }
    buf_add(out, S("\r\n"));
}

FIBER bool cmd_lsub(struct imap_session *s, struct imap_command *c, struct err *err)
{
    struct list_request *q = arena_new(c->arena, struct list_request);
    if (!parse_list(&c->args, c->arena, q) || q->is_extended)
        return imap_bad(c, err, "Malformed LSUB.");
    bool has_percent = str_find(q->patterns[0], '%') >= 0;
    make_patterns(c->arena, q);
    struct imap_mailboxes list;
    if (!load(s, c, true, &list, err))
        return false;
    bool *below = mark_ancestors(c->arena, &list, NULL);
    BUF(out, OUT_MAX);
    for (size_t i = 0; i < list.n; i++) {
        lsub_one(q, &list.v[i], has_percent && below[i], &out);
        if (!fiber_yield_if_due(err))
            return false;
    }
    return imap_write_buf(s, &out, err);
}
