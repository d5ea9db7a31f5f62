#include "store-service/mailbox/mailbox.h"

#include <unicode/unorm2.h>
#include <unicode/ustring.h>

#include "base/num.h"

// clang-format off
static const struct sql_stmt get_mailbox = {
    "s_get_mailbox", "ii", MAILBOX_COL_TYPES,
    "SELECT " MAILBOX_COLS("") " FROM s_mailbox WHERE account_id = ?1 AND mailbox_id = ?2 AND parent_id >= 0", NULL, false};
static const struct sql_stmt all_mailboxes = {
    "s_all_mailboxes", "i", MAILBOX_COL_TYPES,
    "SELECT " MAILBOX_COLS("") " FROM s_mailbox WHERE account_id = ?1 AND parent_id >= 0 ORDER BY mailbox_id",
    "SELECT " MAILBOX_COLS("") " FROM s_mailbox WHERE account_id = ANY ($1) AND parent_id >= 0 ORDER BY account_id, mailbox_id", true};
// clang-format on
/* From the top down, one component a step: at is the mailbox that was reached, rest what is still to be walked. */
#define FIND(FROM, POSITION)                                                                                           \
    "WITH RECURSIVE walk (account_id, path, at, rest) AS (SELECT " FROM " UNION ALL"                                   \
    " SELECT w.account_id, w.path, m.mailbox_id, substr(w.rest, " POSITION "(w.rest, '/') + 1) FROM walk w"            \
    " JOIN s_mailbox m ON m.account_id = w.account_id AND m.parent_id = w.at AND"                                      \
    " m.name = substr(w.rest, 1, " POSITION "(w.rest, '/') - 1) WHERE w.rest <> '')"                                   \
    " SELECT w.path, " MAILBOX_COLS("m.") " FROM walk w JOIN s_mailbox m ON m.account_id = w.account_id AND"           \
                                          " m.mailbox_id = w.at WHERE w.rest = ''"
// clang-format off
const struct sql_stmt mailbox_find = {"s_find_mailboxes", "it", "t" MAILBOX_COL_TYPES, FIND("?1, ?2, 0, ?2 || '/'", "instr"),
                                      FIND("v.a, v.path, 0::bigint, v.path || '/' FROM {rows} AS v (a, path)", "strpos"), true};
static const struct sql_stmt insert_mailboxes = {
    "s_insert_mailboxes", MAILBOX_COL_TYPES, "",
    "INSERT INTO s_mailbox (" MAILBOX_COLS("") ") VALUES"
    " (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
    "INSERT INTO s_mailbox (" MAILBOX_COLS("") ") SELECT * FROM {rows} AS v",
    true};
static const struct sql_stmt update_mailboxes = {
    "s_update_mailboxes", MAILBOX_COL_TYPES, "",
    "UPDATE s_mailbox SET parent_id = ?3, name = ?4, role = ?5, kind = ?6, uidvalidity = ?7, uidnext = ?8,"
    " highestmodseq = ?9, created_modseq = ?10, total = ?11, unseen = ?12, deleted = ?13, bytes = ?14, is_subscribed = ?15"
    " WHERE account_id = ?1 AND mailbox_id = ?2",
    "UPDATE s_mailbox m SET parent_id = v.c3, name = v.c4, role = v.c5, kind = v.c6, uidvalidity = v.c7, uidnext = v.c8,"
    " highestmodseq = v.c9, created_modseq = v.c10, total = v.c11, unseen = v.c12, deleted = v.c13, bytes = v.c14,"
    " is_subscribed = v.c15 FROM {rows}"
    " AS v (c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15)"
    " WHERE m.account_id = v.c1 AND m.mailbox_id = v.c2",
    true};

/* What messages change in a mailbox. */
static const struct sql_stmt count_mailboxes = {
    "s_count_mailboxes", "iiiiiiii", "",
    "UPDATE s_mailbox SET uidnext = ?3, highestmodseq = ?4, total = ?5, unseen = ?6, deleted = ?7, bytes = ?8"
    " WHERE account_id = ?1 AND mailbox_id = ?2",
    "UPDATE s_mailbox m SET uidnext = v.c3, highestmodseq = v.c4, total = v.c5, unseen = v.c6, deleted = v.c7,"
    " bytes = v.c8 FROM {rows} AS v (c1, c2, c3, c4, c5, c6, c7, c8) WHERE m.account_id = v.c1 AND m.mailbox_id = v.c2",
    true};
// clang-format on

void mailbox_queue_get(struct sql_tx *tx, int64_t account_id, int64_t mailbox_id, struct sql_result *out)
{
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 2);
    v[0] = sql_i(account_id);
    v[1] = sql_i(mailbox_id);
    sql_queue(tx, &get_mailbox, v, 1, out);
}

void mailbox_queue_find(struct sql_tx *tx, int64_t account_id, str path, struct sql_result *out)
{
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 2);
    v[0] = sql_i(account_id);
    v[1] = sql_s(path);
    sql_queue(tx, &mailbox_find, v, 1, out);
}

void mailbox_queue_all(struct sql_tx *tx, const int64_t *account_ids, size_t n, struct sql_result *out)
{
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, n);
    for (size_t i = 0; i < n; i++)
        v[i] = sql_i(account_ids[i]);
    sql_queue(tx, &all_mailboxes, v, n, out);
}

struct mailbox_row mailbox_of_cols(const struct sql_value *v)
{
    return (struct mailbox_row){
        .account_id = v[0].i,
        .mailbox_id = v[1].i,
        .parent_id = v[2].i,
        .name = v[3].s,
        .role = v[4].i,
        .kind = v[5].i,
        .uidvalidity = v[6].i,
        .uidnext = v[7].i,
        .highestmodseq = v[8].i,
        .created_modseq = v[9].i,
        .total = v[10].i,
        .unseen = v[11].i,
        .deleted = v[12].i,
        .bytes = v[13].i,
        .is_subscribed = v[14].i,
    };
}

struct mailbox_row mailbox_take(const struct sql_result *r, size_t row)
{
    return mailbox_of_cols(sql_at(r, row, 0));
}

bool mailbox_take_one(const struct sql_result *r, struct mailbox_row *out, struct err *err)
{
    if (r->n_rows == 0)
        return err_set(err, ERR_NOT_FOUND, "no such mailbox");
    *out = mailbox_take(r, 0);
    return true;
}

bool mailbox_take_found(const struct sql_result *r, int64_t mailbox_id, struct mailbox_row *out, struct err *err)
{
    if (r->n_rows == 0)
        return err_set(err, ERR_NOT_FOUND, "no such mailbox");
    struct mailbox_row m = mailbox_of_cols(sql_at(r, 0, 1));
    if (mailbox_id && m.mailbox_id != mailbox_id)
        return err_set(err, ERR_NOT_FOUND, "another mailbox has that name now");
    *out = m;
    return true;
}

static struct sql_value *to_values(struct arena *a, const struct mailbox_row *rows, size_t n)
{
    struct sql_value *v = arena_array(a, struct sql_value, size_mul(n, 15)), *p = v;
    for (size_t i = 0; i < n; i++) {
        const struct mailbox_row *m = &rows[i];
        *p++ = sql_i(m->account_id);
        *p++ = sql_i(m->mailbox_id);
        *p++ = sql_i(m->parent_id);
        *p++ = sql_s(m->name);
        const int64_t cols[] = {m->role,  m->kind,   m->uidvalidity, m->uidnext, m->highestmodseq, m->created_modseq,
                                m->total, m->unseen, m->deleted,     m->bytes,   m->is_subscribed};
        for (size_t k = 0; k < ARRAY_LEN(cols); k++)
            *p++ = sql_i(cols[k]);
    }
    return v;
}

void mailbox_queue_insert(struct sql_tx *tx, const struct mailbox_row *rows, size_t n)
{
    sql_queue(tx, &insert_mailboxes, to_values(sql_arena(tx), rows, n), n, NULL);
}

void mailbox_queue_counts(struct sql_tx *tx, const struct mailbox_row *rows, size_t n)
{
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, size_mul(n, 8));
    for (size_t i = 0; i < n; i++) {
        const struct mailbox_row *m = &rows[i];
        const int64_t cols[8] = {m->account_id, m->mailbox_id, m->uidnext, m->highestmodseq,
                                 m->total,      m->unseen,     m->deleted, m->bytes};
        for (size_t k = 0; k < 8; k++)
            v[i * 8 + k] = sql_i(cols[k]);
    }
    sql_queue(tx, &count_mailboxes, v, n, NULL);
}

void mailbox_queue_update(struct sql_tx *tx, const struct mailbox_row *rows, size_t n)
{
    sql_queue(tx, &update_mailboxes, to_values(sql_arena(tx), rows, n), n, NULL);
}

Thurn__Mailbox *mailbox_to_proto(const struct mailbox_row *m, struct arena *a)
{
    Thurn__Mailbox *p = arena_new(a, Thurn__Mailbox);
    thurn__mailbox__init(p);
    p->mailbox_id = m->mailbox_id;
    p->parent_id = m->parent_id;
    p->name = arena_strz(a, m->name);
    p->role = (Thurn__MailboxRole)m->role;
    p->kind = (Thurn__CollectionKind)m->kind;
    p->uidvalidity = (uint32_t)m->uidvalidity;
    p->uidnext = (uint32_t)m->uidnext;
    p->highestmodseq = (uint64_t)m->highestmodseq;
    p->total = (uint64_t)m->total;
    p->unseen = (uint64_t)m->unseen;
    p->deleted = (uint64_t)m->deleted;
    p->bytes = (uint64_t)m->bytes;
    p->is_subscribed = m->is_subscribed != 0;
    p->created_modseq = (uint64_t)m->created_modseq;
    return p;
}

/* Unicode's composed form (RFC 9051 5.1 asks for Net-Unicode): one name, however it was typed. */
static bool to_nfc(str name, struct arena *a, str *out)
{
    UChar wide[MAILBOX_NAME_MAX + 1], composed[4 * MAILBOX_NAME_MAX];
    int32_t n_wide, n_composed, n_out;
    UErrorCode rc = U_ZERO_ERROR;
    *out = name;
    if (ascii_only(name.p, name.n))
        return true;
    char *p = arena_alloc(a, 4 * MAILBOX_NAME_MAX);
    u_strFromUTF8(wide, ARRAY_LEN(wide), &n_wide, name.p, (int32_t)name.n, &rc);
    n_composed = unorm2_normalize(unorm2_getNFCInstance(&rc), wide, n_wide, composed, ARRAY_LEN(composed), &rc);
    u_strToUTF8(p, 4 * MAILBOX_NAME_MAX, &n_out, composed, n_composed, &rc);
    *out = str_n(p, (size_t)n_out);
    return U_SUCCESS(rc) && n_out <= (int32_t)MAILBOX_NAME_MAX;
}

bool mailbox_name(str *name, struct arena *a, struct err *err)
{
    bool ok = name->n > 0 && name->n <= MAILBOX_NAME_MAX && utf8_valid(name->p, name->n) && to_nfc(*name, a, name);
    for (size_t i = 0; ok && i < name->n; i++)
        ok = name->p[i] != '/' && !ascii_is_ctl((unsigned char)name->p[i]);
    return ok ||
           err_set(err, ERR_INVALID, "'%.*s' is no name of a mailbox", (int)MIN(name->n, MAILBOX_NAME_MAX), name->p);
}

bool mailbox_path_given(char *const *path, size_t n, struct arena *a, str *out, struct err *err)
{
    if (n == 0 || n > MAILBOX_DEPTH_MAX)
        return err_set(err, ERR_INVALID, "a path has 1 to %u names", MAILBOX_DEPTH_MAX);
    str *names = arena_array(a, str, n);
    for (size_t i = 0; i < n; i++) {
        names[i] = str_c(path[i]);
        if (!mailbox_name(&names[i], a, err))
            return false;
    }
    *out = mailbox_path_join(a, names, n);
    return true;
}

struct mailbox_row mailbox_make(struct account_row *acct, int64_t parent_id, str name, int role, int64_t now_unix)
{
    /* RFC 9051 2.3.1.1: a mailbox made again under the same name must have a greater UIDVALIDITY. */
    acct->uidvalidity = MAX(acct->uidvalidity + 1, now_unix & UINT32_MAX);
    return (struct mailbox_row){.account_id = acct->account_id,
                                .mailbox_id = ++acct->mailbox_seq,
                                .parent_id = parent_id,
                                .name = name,
                                .role = role,
                                .kind = THURN__COLLECTION_KIND__COLLECTION_MAIL,
                                .uidvalidity = acct->uidvalidity,
                                .uidnext = 1,
                                .highestmodseq = acct->modseq,
                                .created_modseq = acct->modseq};
}

void mailbox_count(struct mailbox_row *m, struct account_row *a, int64_t flags, int64_t size, int sign)
{
    m->total += sign;
    m->bytes += sign * size;
    m->unseen += flags & THURN__FLAG__FLAG_SEEN ? 0 : sign;
    m->deleted += flags & THURN__FLAG__FLAG_DELETED ? sign : 0;
    a->used_messages += sign;
    a->used_bytes += sign * size;
}

/* --- paths --- */

struct mailbox_row *mailbox_list_add(struct mailbox_list *l, struct mailbox_row row)
{
    if (l->n == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 16;
        struct mailbox_row *v = arena_array(l->arena, struct mailbox_row, l->cap);
        if (l->n)
            memcpy(v, l->v, l->n * sizeof *v);
        l->v = v;
    }
    l->v[l->n] = row;
    return &l->v[l->n++];
}

struct mailbox_list mailbox_list_of(struct arena *a, const struct sql_result *r, int64_t account_id)
{
    struct mailbox_list l = {.arena = a};
    for (size_t i = 0; i < r->n_rows; i++)
        if (sql_at(r, i, 0)->i == account_id)
            mailbox_list_add(&l, mailbox_take(r, i));
    l.n_stored = l.n;
    return l;
}

/* INBOX is matched without case, RFC 9051 5.1. */
static bool name_equal(const struct mailbox_row *m, str name)
{
    return str_eq(m->name, name) ||
           (m->parent_id == 0 && str_eq_nocase(name, S("INBOX")) && str_eq(m->name, S("INBOX")));
}

struct mailbox_row *mailbox_list_child(struct mailbox_list *l, int64_t parent_id, str name)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->v[i].parent_id == parent_id && name_equal(&l->v[i], name))
            return &l->v[i];
    return NULL;
}

struct mailbox_row *mailbox_list_id(struct mailbox_list *l, int64_t mailbox_id)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->v[i].mailbox_id == mailbox_id)
            return &l->v[i];
    return NULL;
}

struct mailbox_row *mailbox_list_walk(struct mailbox_list *l, struct account_row *acct, const str *path, size_t n,
                                      bool may_create, const struct store_limits *limits, int64_t now_unix,
                                      struct err *err)
{
    struct mailbox_row *at = NULL;
    if (n == 0 || n > MAILBOX_DEPTH_MAX) {
        (void)err_set(err, ERR_INVALID, "a path has 1 to %u names", MAILBOX_DEPTH_MAX);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        int64_t parent_id = at ? at->mailbox_id : 0;
        str name = path[i];
        if (!mailbox_name(&name, l->arena, err))
            return NULL;
        at = mailbox_list_child(l, parent_id, name);
        if (at)
            continue;
        if (!may_create) {
            (void)err_set(err, ERR_NOT_FOUND, "no mailbox '%.*s'", STR_ARG(name));
            return NULL;
        }
        if (l->n >= limits->mailboxes) {
            (void)err_set(err, ERR_LIMIT, "the account has %u mailboxes", limits->mailboxes);
            return NULL;
        }
        (void)account_next_modseq(acct, now_unix);
        at = mailbox_list_add(l, mailbox_make(acct, parent_id, name, THURN__MAILBOX_ROLE__ROLE_NONE, now_unix));
    }
    return at;
}

str mailbox_path_join(struct arena *a, const str *path, size_t n)
{
    BUF(joined, MAILBOX_PATH_MAX);
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_addc(&joined, '/');
        buf_add(&joined, i == 0 && str_eq_nocase(path[0], S("INBOX")) ? S("INBOX") : path[i]);
    }
    return arena_str(a, buf_str(&joined));
}

str mailbox_path(struct mailbox_list *l, const struct mailbox_row *m)
{
    str names[MAILBOX_DEPTH_MAX];
    size_t at = MAILBOX_DEPTH_MAX;
    while (m && at > 0) {
        names[--at] = m->name;
        m = m->parent_id ? mailbox_list_id(l, m->parent_id) : NULL;
    }
    return mailbox_path_join(l->arena, names + at, MAILBOX_DEPTH_MAX - at);
}
