/*
 * Subscriptions, RFC 9051 6.3.7. That of a mailbox which exists is its row's is_subscribed. s_subscription holds the
 * names that have no such row: left behind by DELETE and RENAME, or given before there is a mailbox. A mailbox that
 * comes to have such a name, however it is made, is subscribed by it.
 *
 * So the row needs no path, deliveries need not look here, and nothing had to be moved when the table came.
 */
#include "store-service/mailbox/subscription.h"

#include "base/num.h"
#include "store-service/account/op.h"

// clang-format off
static const struct sql_stmt load_names = {
    "s_load_subscriptions", "i", "it", "SELECT sub_id, path FROM s_subscription WHERE account_id = ?1", NULL, false};
static const struct sql_stmt insert_names = {
    "s_insert_subscriptions", "iit", "", "INSERT INTO s_subscription (account_id, sub_id, path) VALUES (?1, ?2, ?3)",
    "INSERT INTO s_subscription (account_id, sub_id, path) SELECT * FROM {rows} AS v", true};
static const struct sql_stmt delete_name = {
    "s_delete_subscription", "ii", "", "DELETE FROM s_subscription WHERE account_id = ?1 AND sub_id = ?2", NULL, false};
// clang-format on

void subscriptions_queue_load(struct sql_tx *tx, int64_t account_id, struct sql_result *out)
{
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 1);
    v[0] = sql_i(account_id);
    sql_queue(tx, &load_names, v, 1, out);
}

static int by_path(const void *a, const void *b)
{
    const struct subscription *x = a, *y = b;
    return str_cmp(x->path, y->path);
}

static void add(struct subscriptions *s, int64_t id, str path)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 16;
        struct subscription *v = arena_array(s->arena, struct subscription, s->cap);
        if (s->n)
            memcpy(v, s->v, s->n * sizeof *v);
        s->v = v;
    }
    s->v[s->n++] = (struct subscription){id, path};
    s->last_id = MAX(s->last_id, id);
    s->bytes += path.n;
}

struct subscriptions subscriptions_take(struct arena *a, const struct sql_result *r)
{
    struct subscriptions s = {.arena = a};
    for (size_t i = 0; i < r->n_rows; i++)
        add(&s, sql_at(r, i, 0)->i, sql_at(r, i, 1)->s);
    s.n_stored = s.n;
    if (s.n)
        qsort(s.v, s.n, sizeof *s.v, by_path);
    return s;
}

static const struct subscription *find(const struct subscriptions *s, str path)
{
    const struct subscription key = {.path = path};
    return s->n_stored ? bsearch(&key, s->v, s->n_stored, sizeof key, by_path) : NULL;
}

bool subscriptions_add(struct subscriptions *s, str path, struct err *err)
{
    if (find(s, path))
        return true;
    if (s->n >= SUBSCRIPTIONS_MAX || s->bytes + path.n > SUBSCRIPTION_BYTES_MAX)
        return err_set(err, ERR_LIMIT, "the account is subscribed to %zu names without a mailbox", s->n);
    add(s, s->last_id + 1, arena_str(s->arena, path));
    return true;
}

bool subscriptions_remove(struct sql_tx *tx, const struct subscriptions *s, int64_t account_id, str path)
{
    const struct subscription *there = find(s, path);
    if (!there)
        return false;
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 2);
    v[0] = sql_i(account_id);
    v[1] = sql_i(there->id);
    sql_queue(tx, &delete_name, v, 1, NULL);
    return true;
}

void subscriptions_queue_insert(struct sql_tx *tx, const struct subscriptions *s, int64_t account_id)
{
    size_t n = s->n - s->n_stored;
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, size_mul(n, 3)), *p = v;
    for (size_t i = s->n_stored; i < s->n; i++) {
        *p++ = sql_i(account_id);
        *p++ = sql_i(s->v[i].id);
        *p++ = sql_s(s->v[i].path);
    }
    sql_queue(tx, &insert_names, v, n, NULL);
}

/* --- names and rows --- */

static int by_parent_and_name(const void *a, const void *b)
{
    const struct mailbox_row *x = *(struct mailbox_row *const *)a, *y = *(struct mailbox_row *const *)b;
    return x->parent_id != y->parent_id ? (x->parent_id > y->parent_id) - (x->parent_id < y->parent_id)
                                        : str_cmp(x->name, y->name);
}

static struct mailbox_row *resolve(struct mailbox_row **sorted, size_t n, str path)
{
    struct mailbox_row *at = NULL;
    str name;
    while (str_split(&path, '/', &name)) {
        const struct mailbox_row wanted = {.parent_id = at ? at->mailbox_id : 0, .name = name}, *key = &wanted;
        struct mailbox_row **found = bsearch(&key, sorted, n, sizeof *sorted, by_parent_and_name);
        if (!found)
            return NULL;
        at = *found;
    }
    return at;
}

FIBER void subscriptions_apply(const struct subscriptions *s, struct mailbox_list *l, struct mailbox_set *taken)
{
    *taken = (struct mailbox_set){0};
    if (s->n_stored == 0 || l->n == 0)
        return;
    struct mailbox_row **sorted = arena_array(l->arena, struct mailbox_row *, l->n);
    for (size_t i = 0; i < l->n; i++)
        sorted[i] = &l->v[i];
    qsort(sorted, l->n, sizeof *sorted, by_parent_and_name);
    taken->ids = arena_array(l->arena, int64_t, s->n_stored);
    for (size_t i = 0; i < s->n_stored; i++) {
        struct mailbox_row *m = resolve(sorted, l->n, s->v[i].path);
        if (!m || m->is_subscribed)
            continue;
        m->is_subscribed = 1;
        taken->ids[taken->n++] = m->mailbox_id;
    }
}

/* --- what is below a mailbox --- */

static bool leave_below(struct subscriptions *s, struct mailbox_list *l, int64_t parent_id, struct buf *path,
                        unsigned depth, struct err *err)
{
    size_t n = path->n;
    for (size_t i = 0; i < l->n && depth < MAILBOX_DEPTH_MAX; i++) {
        const struct mailbox_row *m = &l->v[i];
        if (m->parent_id != parent_id)
            continue;
        buf_addc(path, '/');
        buf_add(path, m->name);
        if ((m->is_subscribed && !subscriptions_add(s, buf_str(path), err)) ||
            !leave_below(s, l, m->mailbox_id, path, depth + 1, err))
            return false;
        buf_truncate(path, n);
    }
    return true;
}

bool subscriptions_leave(struct subscriptions *s, struct mailbox_list *l, const struct mailbox_row *m, struct err *err)
{
    BUF(path, MAILBOX_PATH_MAX);
    buf_add(&path, mailbox_path(l, m));
    return (!m->is_subscribed || subscriptions_add(s, buf_str(&path), err)) &&
           leave_below(s, l, m->mailbox_id, &path, 1, err);
}

/* --- the list --- */

struct names_op {
    struct op op;
    struct arena *arena;
    Thurn__ListSubscriptionsReply *r;
};

FIBER static bool names_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct names_op *l = arg;
    struct sql_result r;
    op_begin_read(tx, &l->op);
    subscriptions_queue_load(tx, l->op.ref->account_id, &r);
    if (!sql_run(tx, err) || !op_ready(&l->op, err))
        return false;
    struct subscriptions s = subscriptions_take(sql_arena(tx), &r);
    l->r->names = arena_array(l->arena, char *, s.n);
    l->r->n_names = s.n;
    for (size_t i = 0; i < s.n; i++)
        l->r->names[i] = arena_strz(l->arena, s.v[i].path);
    l->r->modseq = (uint64_t)l->op.account.modseq;
    return true;
}

FIBER bool store_do_list_subscriptions(struct store *s, struct rpc_call *c, const Thurn__AccountRequest *q,
                                       Thurn__ListSubscriptionsReply *r, struct err *err)
{
    struct names_op l = {.arena = c->arena, .r = r};
    return op_init(&l.op, s, q->account, err) && op_read(&l.op, names_body, &l, err);
}
