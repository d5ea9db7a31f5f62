#include "frontend/imap/mailboxes.h"

#include "base/map.h"
#include "frontend/imap/parse.h"
#include "proto/store_calls.h"

#define DEPTH_MAX 64u /* components of a name; deeper ones are not shown */

static int compare_names(const void *a, const void *b)
{
    const struct imap_mailbox *x = a, *y = b;
    bool x_is_inbox = str_eq(x->name, S("INBOX")), y_is_inbox = str_eq(y->name, S("INBOX"));
    if (x_is_inbox != y_is_inbox)
        return x_is_inbox ? -1 : 1;
    return str_cmp(x->name, y->name);
}

/* The full name of a row; empty when its parents are missing, go in circles or too deep. */
static str full_name(struct arena *a, const struct map64 *by_id, const Thurn__Mailbox *row)
{
    const Thurn__Mailbox *chain[DEPTH_MAX];
    size_t n = 0, bytes = 0;
    for (;;) {
        if (!row || n == DEPTH_MAX)
            return S("");
        chain[n++] = row;
        bytes += strlen(row->name) + 1;
        if (row->parent_id == 0)
            break;
        const struct imap_mailbox *parent = map64_get(by_id, (uint64_t)row->parent_id);
        row = parent ? parent->row : NULL;
    }
    BUF(name, bytes);
    while (n > 0) {
        if (name.n)
            buf_addc(&name, '/');
        buf_add(&name, str_c(chain[--n]->name));
    }
    return arena_str(a, buf_str(&name));
}

/* One page of them, behind those that are there. */
static void add_rows(struct imap_mailboxes *list, Thurn__Mailbox *const *rows, size_t n, struct arena *a)
{
    struct imap_mailbox *all = arena_array(a, struct imap_mailbox, list->n + n + 1);
    if (list->n)
        memcpy(all, list->v, list->n * sizeof(*all));
    list->v = all;
    for (size_t i = 0; i < n; i++)
        if (rows[i]->kind == THURN__COLLECTION_KIND__COLLECTION_MAIL)
            list->v[list->n++].row = rows[i];
}

static void give_names(struct imap_mailboxes *list, struct arena *a)
{
    struct map64 by_id;
    map64_init(&by_id);
    for (size_t i = 0; i < list->n; i++)
        (void)map64_put(&by_id, (uint64_t)list->v[i].row->mailbox_id, &list->v[i]); /* ids are unique */
    for (size_t i = 0; i < list->n; i++) {
        struct imap_mailbox *parent = map64_get(&by_id, (uint64_t)list->v[i].row->parent_id);
        if (parent)
            parent->has_children = true;
        list->v[i].name = full_name(a, &by_id, list->v[i].row);
    }
    map64_done(&by_id);
}

FIBER bool imap_mailboxes_load(struct imap_session *s, struct imap_command *c, bool with_keywords,
                               struct imap_mailboxes *out, struct err *err)
{
    Thurn__ListMailboxesRequest q = THURN__LIST_MAILBOXES_REQUEST__INIT;
    struct imap_mailboxes list = {0};
    q.account = &s->account;
    q.with_keywords = with_keywords;
    q.is_paged = true;
    do {
        const Thurn__ListMailboxesReply *r;
        struct rpc_call call;
        imap_call(s, &call, c->arena);
        if (!STORE_CALL(s, &call, store_list_mailboxes, &q, &r))
            return imap_failed(c, IMAP_AT_ACCOUNT, &call, err);
        if (q.from_mailbox_id == 0) { /* what a later page has of later is told once more */
            s->listed_modseq = r->modseq;
            list.keywords = r->keyword_names;
            list.n_keywords = r->n_keyword_names;
            list.is_keywords_full = r->is_keywords_full;
        }
        add_rows(&list, r->mailboxes, r->n_mailboxes, c->arena);
        q.from_mailbox_id = r->next_mailbox_id;
    } while (q.from_mailbox_id);
    give_names(&list, c->arena);
    qsort(list.v, list.n, sizeof(*list.v), compare_names);
    *out = list;
    return true;
}

/* A name and those above it, as far as they are not in the list. Sorted in later, so a name can come more than once. */
static void add_missing(struct imap_mailboxes *list, size_t n_known, str name)
{
    static const Thurn__Mailbox subscribed = {.name = (char *)"", .is_subscribed = true}, above = {.name = (char *)""};
    const struct imap_mailboxes known = {.v = list->v, .n = n_known};
    for (size_t k = name.n; k > 0; k--) {
        if (k < name.n && name.p[k] != '/')
            continue;
        str prefix = str_slice(name, 0, k);
        if (imap_mailboxes_find(&known, prefix))
            return; /* and so all above it */
        list->v[list->n++] =
            (struct imap_mailbox){.row = k == name.n ? &subscribed : &above, .name = prefix, .is_missing = true};
    }
}

/* Keep one of each name: the subscribed one. */
static void drop_twins(struct imap_mailboxes *list)
{
    size_t n = 0;
    for (size_t i = 0; i < list->n; i++) {
        if (n == 0 || !list->v[i].is_missing || !str_eq(list->v[n - 1].name, list->v[i].name))
            list->v[n++] = list->v[i];
        else if (list->v[i].row->is_subscribed)
            list->v[n - 1] = list->v[i];
    }
    list->n = n;
}

FIBER bool imap_mailboxes_add_missing(struct imap_session *s, struct imap_command *c, struct imap_mailboxes *list,
                                      struct err *err)
{
    Thurn__AccountRequest q = THURN__ACCOUNT_REQUEST__INIT;
    const Thurn__ListSubscriptionsReply *r;
    struct rpc_call call;
    q.account = &s->account;
    imap_call(s, &call, c->arena);
    if (!STORE_CALL(s, &call, store_list_subscriptions, &q, &r))
        return imap_failed(c, IMAP_AT_ACCOUNT, &call, err);
    if (r->n_names == 0)
        return true;
    size_t room = list->n, n_known = list->n;
    for (size_t i = 0; i < r->n_names; i++) {
        room++;
        for (const char *p = r->names[i]; *p; p++)
            room += *p == '/';
    }
    struct imap_mailboxes all = *list;
    all.v = arena_array(c->arena, struct imap_mailbox, room);
    if (list->n)
        memcpy(all.v, list->v, list->n * sizeof(*all.v));
    for (size_t i = 0; i < r->n_names; i++)
        add_missing(&all, n_known, str_c(r->names[i]));
    qsort(all.v, all.n, sizeof(*all.v), compare_names);
    drop_twins(&all);
    *list = all;
    return true;
}

const struct imap_mailbox *imap_mailboxes_find(const struct imap_mailboxes *list, str name)
{
    const struct imap_mailbox key = {.name = name};
    return name.n && list->n ? bsearch(&key, list->v, list->n, sizeof(*list->v), compare_names) : NULL;
}

bool imap_mailboxes_get(const struct imap_mailboxes *list, struct imap_command *c, str name, const char *code,
                        const Thurn__Mailbox **out, struct err *err)
{
    const struct imap_mailbox *m = imap_mailboxes_find(list, name);
    if (str_empty(name)) /* imap_parse_mailbox: it cannot be one */
        return imap_no(c, err, ERR_NOT_FOUND, "CANNOT", "Not a valid mailbox name.");
    if (!m)
        return imap_no(c, err, ERR_NOT_FOUND, code, "No such mailbox.");
    *out = m->row;
    return true;
}

FIBER bool imap_mailbox_open(struct imap_session *s, struct imap_command *c, str name, const char *code,
                             const Thurn__Mailbox **out, struct err *err)
{
    struct imap_mailboxes list;
    return imap_mailboxes_load(s, c, false, &list, err) && imap_mailboxes_get(&list, c, name, code, out, err);
}

FIBER bool imap_destination_failed(struct imap_session *s, struct imap_command *c, str name,
                                   const struct rpc_call *call, struct err *err)
{
    const Thurn__Mailbox *row;
    if (call->err.kind != ERR_NOT_FOUND)
        return imap_failed(c, IMAP_AT_DESTINATION, call, err);
    if (!imap_mailbox_open(s, c, name, "TRYCREATE", &row, err))
        return false;
    c->at = IMAP_AT_DESTINATION;
    s->is_dirty |= s->view != NULL; /* the selected mailbox may be what is missing: the next sync tells */
    return err_set(err, ERR_UNAVAILABLE, "the mailbox is there: %s", call->err.msg);
}

bool imap_mailbox_arg(struct imap_command *c, str *name, struct err *err)
{
    bool is_valid;
    if (!imap_parse_sp(&c->args) || !imap_parse_mailbox(&c->args, c->arena, name, &is_valid) ||
        !imap_parse_end(&c->args))
        return imap_bad(c, err, "Expected one mailbox name.");
    if (!is_valid)
        return imap_no(c, err, ERR_INVALID, "CANNOT", "Not a valid mailbox name.");
    return true;
}
