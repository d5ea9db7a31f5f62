/* ListMailboxes, CreateMailbox, RenameMailbox, DeleteMailbox, SetMailbox, Subscribe: the account's rows are read whole
 * under its lock, looked at, and those that change are written. */
#include "store-service/log/change.h"
#include "store-service/mailbox/leaving.h"
#include "store-service/mailbox/subscription.h"
#include "store-service/message/keyword.h"
#include "store-service/watch/beacon.h"

struct loaded {
    struct mailbox_list boxes; /* is_subscribed is true of every name that is subscribed */
    struct subscriptions names;
    struct mailbox_set taken; /* of boxes: subscribed by their names, not by their rows */
};

/* After op_begin or op_begin_read. */
FIBER static bool load(struct sql_tx *tx, struct op *op, struct loaded *l, struct err *err)
{
    struct sql_result boxes, names;
    mailbox_queue_all(tx, &op->ref->account_id, 1, &boxes);
    subscriptions_queue_load(tx, op->ref->account_id, &names);
    if (!sql_run(tx, err) || !op_ready(op, err))
        return false;
    l->boxes = mailbox_list_of(sql_arena(tx), &boxes, op->account.account_id);
    l->names = subscriptions_take(sql_arena(tx), &names);
    subscriptions_apply(&l->names, &l->boxes, &l->taken);
    return true;
}

FIBER static bool lock(struct sql_tx *tx, struct op *op, struct loaded *l, struct err *err)
{
    op_begin(tx, op);
    return load(tx, op, l, err);
}

/* Those that walking a path has made. */
static void write_new(struct sql_tx *tx, struct op *op, const struct mailbox_list *l)
{
    for (size_t i = l->n_stored; i < l->n; i++) {
        struct change row = {op->account.account_id, l->v[i].created_modseq, op->account.week,
                             l->v[i].mailbox_id,     CHANGE_MBOX_CREATED,    STR_NONE};
        change_queue(tx, &row, 1);
    }
    mailbox_queue_insert(tx, l->v + l->n_stored, l->n - l->n_stored);
}

static str *path_of(char *const *path, size_t n, struct arena *a)
{
    str *v = arena_array(a, str, n);
    for (size_t i = 0; i < n; i++)
        v[i] = str_c(path[i]);
    return v;
}

/* The reply of what is done once, when all of it is queued. */
static void answer(struct sql_tx *tx, const struct op *op, const struct mailbox_row *m, Thurn__MailboxReply *r,
                   struct arena *a)
{
    r->mailbox = mailbox_to_proto(m, a);
    r->modseq = (uint64_t)op->account.modseq;
    op_remember(tx, op);
}

static bool find(struct mailbox_list *l, int64_t id, struct mailbox_row **out, struct err *err)
{
    *out = mailbox_list_id(l, id);
    return *out || err_set(err, ERR_NOT_FOUND, "no such mailbox");
}

/* By its path as it is now, under the lock; by its id when there is no path; by both when there are both. */
static bool find_named(struct op *op, struct mailbox_list *l, int64_t id, char *const *path, size_t n,
                       struct mailbox_row **out, struct err *err)
{
    if (n == 0)
        return find(l, id, out, err);
    *out = mailbox_list_walk(l, &op->account, path_of(path, n, l->arena), n, false, &op->shard->store->limits,
                             op->now_unix, err);
    return *out &&
           (id == 0 || (*out)->mailbox_id == id || err_set(err, ERR_NOT_FOUND, "another mailbox has that name now"));
}

/* --- list --- */

struct list_op {
    struct op op;
    const Thurn__ListMailboxesRequest *q;
    struct arena *arena;
    Thurn__ListMailboxesReply *r;
};

/* From the request's id on, as many as fit beside what the reply has already. */
static void add_page(struct list_op *l, const struct mailbox_list *boxes)
{
    Thurn__ListMailboxesReply *r = l->r;
    size_t room = thurn__list_mailboxes_reply__get_packed_size(r);
    r->mailboxes = arena_array(l->arena, Thurn__Mailbox *, boxes->n);
    for (size_t i = 0; i < boxes->n; i++) {
        if (boxes->v[i].mailbox_id < l->q->from_mailbox_id)
            continue;
        Thurn__Mailbox *m = mailbox_to_proto(&boxes->v[i], l->arena);
        room += thurn__mailbox__get_packed_size(m) + 4; /* its tag and length */
        if (l->q->is_paged && room > REPLY_BYTES_MAX) {
            r->next_mailbox_id = m->mailbox_id;
            return;
        }
        r->mailboxes[r->n_mailboxes++] = m;
    }
}

FIBER static bool list_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct list_op *l = arg;
    struct loaded now;
    struct sql_result names = {0};
    *l->r = (Thurn__ListMailboxesReply)THURN__LIST_MAILBOXES_REPLY__INIT; /* a body may run again */
    op_begin_read(tx, &l->op);
    if (l->q->with_keywords && l->q->from_mailbox_id == 0)
        keywords_queue_load(tx, &l->op.ref->account_id, 1, &names);
    if (!load(tx, &l->op, &now, err))
        return false;
    keywords_to_proto(&names, NULL, l->arena, &l->r->keyword_names, &l->r->n_keyword_names);
    struct keywords k = keywords_take(sql_arena(tx), &names, l->op.account.account_id);
    l->r->is_keywords_full = keywords_are_full(&k);
    add_page(l, &now.boxes);
    l->r->modseq = (uint64_t)l->op.account.modseq;
    return true;
}

FIBER bool store_do_list_mailboxes(struct store *s, struct rpc_call *c, const Thurn__ListMailboxesRequest *q,
                                   Thurn__ListMailboxesReply *r, struct err *err)
{
    struct list_op l = {.q = q, .arena = c->arena, .r = r};
    return op_init(&l.op, s, q->account, err) && op_read(&l.op, list_body, &l, err);
}

/* --- create --- */

struct create_op {
    struct op op;
    const Thurn__CreateMailboxRequest *q;
    struct arena *arena;
    Thurn__MailboxReply *r;
};

static bool role_is_free(const struct mailbox_list *l, int64_t role, int64_t except_id, struct err *err)
{
    for (size_t i = 0; i < l->n; i++)
        if (role != THURN__MAILBOX_ROLE__ROLE_NONE && l->v[i].role == role && l->v[i].mailbox_id != except_id)
            return err_set(err, ERR_EXISTS, "mailbox '%.*s' has that role", STR_ARG(l->v[i].name));
    return true;
}

static bool check_role(int64_t role, struct err *err)
{
    bool ok = role >= THURN__MAILBOX_ROLE__ROLE_NONE && role <= THURN__MAILBOX_ROLE__ROLE_ALL &&
              role != THURN__MAILBOX_ROLE__ROLE_INBOX;
    return ok || err_set(err, ERR_INVALID, "that role cannot be given");
}

FIBER static bool create_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct create_op *cr = arg;
    struct loaded now;
    if (!lock(tx, &cr->op, &now, err))
        return false;
    if (cr->op.is_repeat)
        return true;
    struct mailbox_list *l = &now.boxes;
    str *path = path_of(cr->q->path, cr->q->n_path, sql_arena(tx));
    if (!role_is_free(l, cr->q->role, 0, err))
        return false;
    struct mailbox_row *m = mailbox_list_walk(l, &cr->op.account, path, cr->q->n_path, true,
                                              &cr->op.shard->store->limits, cr->op.now_unix, err);
    if (!m)
        return false;
    if (l->n == l->n_stored)
        return err_set(err, ERR_EXISTS, "mailbox '%.*s' exists", STR_ARG(m->name));
    m->role = cr->q->role;
    m->is_subscribed = cr->q->is_subscribed;
    subscriptions_apply(&now.names, l, &now.taken);
    write_new(tx, &cr->op, l);
    answer(tx, &cr->op, m, cr->r, cr->arena);
    op_end(tx, &cr->op);
    return true;
}

FIBER bool store_do_create_mailbox(struct store *s, struct rpc_call *c, const Thurn__CreateMailboxRequest *q,
                                   Thurn__MailboxReply *r, struct err *err)
{
    struct create_op cr = {.q = q, .arena = c->arena, .r = r};
    if ((q->role && !check_role(q->role, err)) || !op_init_once(&cr.op, s, q->account, q->request_id, c, &r->base, err))
        return false;
    cr.op.kinds = KIND_MAILBOX;
    return op_write(&cr.op, create_body, &cr, err);
}

/* --- rename --- */

struct rename_op {
    struct op op;
    const Thurn__RenameMailboxRequest *q;
    struct arena *arena;
    Thurn__MailboxReply *r;
};

/* Whether `inner` is `outer` or lies below it. The depth is bounded, so the chain of parents is too. */
static bool is_within(struct mailbox_list *l, const struct mailbox_row *inner, int64_t outer_id)
{
    for (unsigned depth = 0; inner && depth <= MAILBOX_DEPTH_MAX; depth++) {
        if (inner->mailbox_id == outer_id)
            return true;
        inner = mailbox_list_id(l, inner->parent_id);
    }
    return false;
}

/* RFC 9051 6.3.6: INBOX's messages get the new name; an empty INBOX stays, and what is below it. The row is renamed and
 * a new one takes its place, so it costs the same whatever it holds. */
static void replace_inbox(struct rename_op *rn, struct mailbox_list *l, int64_t old_id)
{
    (void)account_next_modseq(&rn->op.account, rn->op.now_unix);
    struct mailbox_row inbox =
        mailbox_make(&rn->op.account, 0, S("INBOX"), THURN__MAILBOX_ROLE__ROLE_INBOX, rn->op.now_unix);
    inbox.is_subscribed = mailbox_list_id(l, old_id)->is_subscribed; /* a subscription stays with the name */
    mailbox_list_add(l, inbox);
    rn->op.account.inbox_id = inbox.mailbox_id;
    mailbox_list_id(l, old_id)->role = THURN__MAILBOX_ROLE__ROLE_NONE;
    for (size_t i = 0; i < l->n_stored; i++)
        if (l->v[i].parent_id == old_id)
            l->v[i].parent_id = inbox.mailbox_id;
}

static void write_below_inbox(struct sql_tx *tx, struct rename_op *rn, const struct mailbox_list *l)
{
    for (size_t i = 0; i < l->n_stored; i++) {
        if (l->v[i].parent_id != rn->op.account.inbox_id)
            continue;
        change_queue_mailbox(tx, &rn->op, l->v[i].mailbox_id, CHANGE_MBOX_UPDATED);
        mailbox_queue_update(tx, &l->v[i], 1);
    }
}

/* How many levels hang below a mailbox, itself included. */
static unsigned height(struct mailbox_list *l, int64_t id, unsigned depth)
{
    unsigned most = 1;
    for (size_t i = 0; i < l->n && depth < MAILBOX_DEPTH_MAX; i++) {
        if (l->v[i].parent_id != id)
            continue;
        unsigned h = 1 + height(l, l->v[i].mailbox_id, depth + 1);
        most = MAX(most, h);
    }
    return most;
}

/*
 * The old names have been left in now->names. What moved is still subscribed, and now its rows say so; a new name may
 * be one that was subscribed before.
 */
static void write_subscriptions(struct sql_tx *tx, struct rename_op *rn, struct loaded *now)
{
    struct mailbox_set found;
    subscriptions_apply(&now->names, &now->boxes, &found);
    for (size_t i = 0; i < found.n; i++)
        change_queue_mailbox(tx, &rn->op, found.ids[i], CHANGE_MBOX_UPDATED);
    for (size_t i = 0; i < now->taken.n + found.n; i++) {
        int64_t id = i < now->taken.n ? now->taken.ids[i] : found.ids[i - now->taken.n];
        mailbox_queue_update(tx, mailbox_list_id(&now->boxes, id), 1);
    }
    subscriptions_queue_insert(tx, &now->names, rn->op.account.account_id);
}

FIBER static bool rename_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct rename_op *rn = arg;
    struct loaded now;
    struct mailbox_row *m, *parent = NULL;
    size_t n = rn->q->n_path;
    if (!lock(tx, &rn->op, &now, err))
        return false;
    if (rn->op.is_repeat)
        return true;
    if (!find_named(&rn->op, &now.boxes, rn->q->mailbox_id, rn->q->from_path, rn->q->n_from_path, &m, err))
        return false;
    struct mailbox_list *l = &now.boxes;
    int64_t id = m->mailbox_id;
    bool is_inbox = id == rn->op.account.inbox_id;
    str *path = path_of(rn->q->path, n, sql_arena(tx));
    if (n == 0 || n + (is_inbox ? 0 : height(l, id, 0) - 1) > MAILBOX_DEPTH_MAX)
        return err_set(err, ERR_INVALID, "a path has 1 to %u names", MAILBOX_DEPTH_MAX);
    if (!mailbox_name(&path[n - 1], sql_arena(tx), err))
        return false;
    if (n > 1) {
        parent = mailbox_list_walk(l, &rn->op.account, path, n - 1, true, &rn->op.shard->store->limits, rn->op.now_unix,
                                   err);
        if (!parent)
            return false;
    }
    if (parent && is_within(l, parent, id))
        return err_set(err, ERR_INVALID, "a mailbox cannot move into itself");
    struct mailbox_row *there = mailbox_list_child(l, parent ? parent->mailbox_id : 0, path[n - 1]);
    if (there && (there->mailbox_id != id || str_eq(there->name, path[n - 1])))
        return err_set(err, ERR_EXISTS, "mailbox '%.*s' exists", STR_ARG(path[n - 1]));
    int64_t parent_id = parent ? parent->mailbox_id : 0; /* parent may move when the list grows */
    if (!is_inbox && !subscriptions_leave(&now.names, l, mailbox_list_id(l, id), err))
        return false;
    if (is_inbox)
        replace_inbox(rn, l, id);
    m = mailbox_list_id(l, id);
    m->parent_id = parent_id;
    m->name = path[n - 1];
    change_queue_mailbox(tx, &rn->op, id, CHANGE_MBOX_UPDATED);
    mailbox_queue_update(tx, m, 1); /* first: the name INBOX becomes free */
    write_new(tx, &rn->op, l);
    if (is_inbox)
        write_below_inbox(tx, rn, l);
    write_subscriptions(tx, rn, &now);
    answer(tx, &rn->op, m, rn->r, rn->arena);
    op_end(tx, &rn->op);
    return true;
}

FIBER bool store_do_rename_mailbox(struct store *s, struct rpc_call *c, const Thurn__RenameMailboxRequest *q,
                                   Thurn__MailboxReply *r, struct err *err)
{
    struct rename_op rn = {.q = q, .arena = c->arena, .r = r};
    if (!op_init_once(&rn.op, s, q->account, q->request_id, c, &r->base, err))
        return false;
    rn.op.kinds = KIND_MAILBOX;
    return op_write(&rn.op, rename_body, &rn, err);
}

/* --- delete --- */

struct delete_op {
    struct op op;
    const Thurn__DeleteMailboxRequest *q;
    struct arena *arena;
    Thurn__MailboxReply *r;
    bool leaves; /* its messages are still to go */
};

static bool check_delete(struct delete_op *d, struct mailbox_list *l, const struct mailbox_row *m, struct err *err)
{
    if (m->mailbox_id == d->op.account.inbox_id)
        return err_set(err, ERR_INVALID, "INBOX cannot be deleted");
    for (size_t i = 0; i < l->n; i++)
        if (l->v[i].parent_id == m->mailbox_id)
            return err_set(err, ERR_CONFLICT, "mailbox '%.*s' has children", STR_ARG(m->name));
    return true;
}

FIBER static bool delete_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct delete_op *d = arg;
    struct loaded now;
    struct mailbox_row *m;
    if (!lock(tx, &d->op, &now, err))
        return false;
    if (d->op.is_repeat)
        return true;
    if (!find_named(&d->op, &now.boxes, d->q->mailbox_id, d->q->path, d->q->n_path, &m, err) ||
        !check_delete(d, &now.boxes, m, err) || !subscriptions_leave(&now.names, &now.boxes, m, err))
        return false;
    struct mailbox_row before = *m;
    if (!mailbox_leave(tx, &d->op, m, &d->leaves, err))
        return false;
    subscriptions_queue_insert(tx, &now.names, m->account_id);
    change_queue_mailbox(tx, &d->op, m->mailbox_id, CHANGE_MBOX_DESTROYED);
    answer(tx, &d->op, &before, d->r, d->arena);
    op_end(tx, &d->op);
    return true;
}

FIBER bool store_do_delete_mailbox(struct store *s, struct rpc_call *c, const Thurn__DeleteMailboxRequest *q,
                                   Thurn__MailboxReply *r, struct err *err)
{
    struct delete_op d = {.q = q, .arena = c->arena, .r = r};
    if (!op_init_once(&d.op, s, q->account, q->request_id, c, &r->base, err))
        return false;
    d.op.kinds = KIND_MAILBOX | KIND_EMAIL | KIND_THREAD;
    bool ok = op_write(&d.op, delete_body, &d, err);
    /* Also when whoever did it, or may have done it, may not have come to begin that. */
    if (d.leaves || d.op.is_repeat)
        mailbox_leave_later(d.op.shard);
    return ok;
}

/* --- set --- */

static void set_subscribed(struct sql_tx *tx, struct loaded *now, struct mailbox_row *m, bool is_subscribed)
{
    m->is_subscribed = is_subscribed;
    if (!is_subscribed)
        (void)subscriptions_remove(tx, &now->names, m->account_id, mailbox_path(&now->boxes, m));
}

struct set_op {
    struct op op;
    const Thurn__SetMailboxRequest *q;
    struct arena *arena;
    Thurn__Mailbox *out;
};

FIBER static bool set_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct set_op *st = arg;
    struct loaded now;
    struct mailbox_row *m;
    if (!lock(tx, &st->op, &now, err) || !find(&now.boxes, st->q->mailbox_id, &m, err))
        return false;
    struct mailbox_row before = *m;
    if (st->q->has_is_subscribed)
        set_subscribed(tx, &now, m, st->q->is_subscribed);
    if (st->q->has_role && (int64_t)st->q->role != m->role) {
        if (m->mailbox_id == st->op.account.inbox_id)
            return err_set(err, ERR_INVALID, "INBOX keeps its role");
        if (!check_role(st->q->role, err) || !role_is_free(&now.boxes, st->q->role, m->mailbox_id, err))
            return false;
        m->role = st->q->role;
    }
    if (m->role != before.role || m->is_subscribed != before.is_subscribed) {
        change_queue_mailbox(tx, &st->op, m->mailbox_id, CHANGE_MBOX_UPDATED);
        mailbox_queue_update(tx, m, 1);
    }
    op_end(tx, &st->op);
    st->out = mailbox_to_proto(m, st->arena);
    return true;
}

FIBER bool store_do_set_mailbox(struct store *s, struct rpc_call *c, const Thurn__SetMailboxRequest *q,
                                Thurn__MailboxReply *r, struct err *err)
{
    struct set_op st = {.q = q, .arena = c->arena};
    if (!op_init(&st.op, s, q->account, err))
        return false;
    st.op.kinds = KIND_MAILBOX;
    if (!op_write(&st.op, set_body, &st, err))
        return false;
    r->mailbox = st.out;
    r->modseq = (uint64_t)st.op.account.modseq;
    return true;
}

/* --- subscribe --- */

struct subscribe_op {
    struct op op;
    const Thurn__SubscribeRequest *q;
    struct arena *arena;
    Thurn__Mailbox *out;
};

/* The mailbox of that path, whose names become NFC; NULL when there is none. */
static bool look_up(struct subscribe_op *sb, struct loaded *now, str *path, struct mailbox_row **out, struct err *err)
{
    for (size_t i = 0; i < sb->q->n_path; i++)
        if (!mailbox_name(&path[i], now->boxes.arena, err))
            return false;
    *out = mailbox_list_walk(&now->boxes, &sb->op.account, path, sb->q->n_path, false, &sb->op.shard->store->limits,
                             sb->op.now_unix, err);
    if (!*out && err->kind != ERR_NOT_FOUND)
        return false;
    err_clear(err);
    return true;
}

static bool subscribe_name(struct sql_tx *tx, struct subscribe_op *sb, struct loaded *now, str name, bool *is_changed,
                           struct err *err)
{
    int64_t account_id = sb->op.account.account_id;
    if (!sb->q->is_subscribed) {
        *is_changed = subscriptions_remove(tx, &now->names, account_id, name);
        return true;
    }
    if (!subscriptions_add(&now->names, name, err))
        return false;
    *is_changed = now->names.n > now->names.n_stored;
    subscriptions_queue_insert(tx, &now->names, account_id);
    return true;
}

FIBER static bool subscribe_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct subscribe_op *sb = arg;
    struct loaded now;
    struct mailbox_row *m;
    bool is_changed;
    str *path = path_of(sb->q->path, sb->q->n_path, sql_arena(tx));
    if (!lock(tx, &sb->op, &now, err) || !look_up(sb, &now, path, &m, err))
        return false;
    if (m) {
        is_changed = (m->is_subscribed != 0) != sb->q->is_subscribed;
        set_subscribed(tx, &now, m, sb->q->is_subscribed);
        if (is_changed)
            mailbox_queue_update(tx, m, 1);
    } else if (!subscribe_name(tx, sb, &now, mailbox_path_join(sql_arena(tx), path, sb->q->n_path), &is_changed, err)) {
        return false;
    }
    if (is_changed)
        change_queue_mailbox(tx, &sb->op, m ? m->mailbox_id : 0, CHANGE_MBOX_UPDATED);
    op_end(tx, &sb->op);
    sb->out = m ? mailbox_to_proto(m, sb->arena) : NULL;
    return true;
}

FIBER bool store_do_subscribe(struct store *s, struct rpc_call *c, const Thurn__SubscribeRequest *q,
                              Thurn__MailboxReply *r, struct err *err)
{
    struct subscribe_op sb = {.q = q, .arena = c->arena};
    if (!op_init(&sb.op, s, q->account, err))
        return false;
    sb.op.kinds = KIND_MAILBOX;
    if (!op_write(&sb.op, subscribe_body, &sb, err))
        return false;
    r->mailbox = sb.out;
    r->modseq = (uint64_t)sb.op.account.modseq;
    return true;
}
