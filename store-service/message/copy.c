/* Copy and Move, RFC 9051 6.4.7, RFC 6851: all or nothing, and as cheap as rows: the emails are the same ones. */
#include "store-service/log/change.h"
#include "store-service/mailbox/mailbox.h"
#include "store-service/message/message.h"
#include "store-service/watch/beacon.h"

#define COPY_MAX 50000u /* messages of one Copy */

struct copy_op {
    struct op op;
    const Thurn__CopyRequest *q;
    const struct uidset *uids;
    str to_name;         /* its path, or empty */
    struct arena *arena; /* of the reply */
    Thurn__CopyReply *r;
    struct uidset from, to, uids_before;
    size_t n_copied;
};

static bool check_room(const struct copy_op *cp, const struct mailbox_row *to, const struct msg_row *rows, size_t n,
                       struct err *err)
{
    const Thurn__AccountRef *ref = cp->op.ref;
    uint64_t bytes = 0;
    if ((uint64_t)to->uidnext + n > UINT32_MAX)
        return err_set(err, ERR_LIMIT, "the mailbox has no UIDs left");
    if (cp->q->is_move)
        return true;
    for (size_t i = 0; i < n; i++)
        bytes += (uint64_t)rows[i].size;
    if ((ref->quota_bytes && (uint64_t)cp->op.account.used_bytes + bytes > ref->quota_bytes) ||
        (ref->quota_messages && (uint64_t)cp->op.account.used_messages + n > ref->quota_messages))
        return err_set(err, ERR_QUOTA, "account %lld is over quota", (long long)ref->account_id);
    return true;
}

static void link_messages(struct sql_tx *tx, struct copy_op *cp, struct mailbox_row *to, const struct msg_row *rows,
                          size_t n)
{
    struct arena *a = sql_arena(tx);
    struct msg_insert *v = arena_array(a, struct msg_insert, n);
    struct change_item *items = arena_array(a, struct change_item, n);
    for (size_t i = 0; i < n; i++) {
        v[i] = (struct msg_insert){to->account_id, to->mailbox_id, rows[i]};
        v[i].row.uid = (uint32_t)to->uidnext++;
        v[i].row.saved_unix = cp->op.now_unix;
        items[i] = (struct change_item){v[i].row.uid, rows[i].email_id, rows[i].thread_id};
        mailbox_count(to, &cp->op.account, rows[i].flags, rows[i].size, 1);
        uidset_add(&cp->from, rows[i].uid);
        uidset_add(&cp->to, v[i].row.uid);
    }
    int64_t first = change_queue_items(tx, &cp->op, to, CHANGE_LINKED, items, n);
    for (size_t i = 0; i < n; i++)
        v[i].row.modseq = first + (int64_t)(i / CHANGE_ITEMS_MAX);
    messages_queue_insert(tx, v, n);
}

/* Both mailboxes, of which to may be from itself. */
struct ends {
    struct sql_result from_rows, to_rows;
    struct mailbox_row from, to_row, *to;
};

static void queue_ends(struct sql_tx *tx, struct copy_op *cp, struct ends *e)
{
    int64_t account_id = cp->op.ref->account_id;
    mailbox_queue_get(tx, account_id, cp->q->mailbox_id, &e->from_rows);
    if (cp->to_name.n)
        mailbox_queue_find(tx, account_id, cp->to_name, &e->to_rows);
    else
        mailbox_queue_get(tx, account_id, cp->q->to_mailbox_id, &e->to_rows);
}

static bool take_ends(struct copy_op *cp, struct ends *e, struct err *err)
{
    if (!mailbox_take_one(&e->from_rows, &e->from, err))
        return false;
    if (cp->to_name.n ? !mailbox_take_found(&e->to_rows, cp->q->to_mailbox_id, &e->to_row, err)
                      : !mailbox_take_one(&e->to_rows, &e->to_row, err))
        return false;
    e->to = e->from.mailbox_id == e->to_row.mailbox_id ? &e->from : &e->to_row;
    return true;
}

/* These are read. Counted before they are written: what has no room is rolled back as a whole. */
FIBER static bool copy_rows(struct sql_tx *tx, struct copy_op *cp, struct ends *e, const struct msg_row *rows, size_t n,
                            struct err *err)
{
    cp->n_copied += n;
    if (cp->n_copied > COPY_MAX)
        return err_set(err, ERR_LIMIT, "more than %u messages at once", COPY_MAX);
    if (n == 0)
        return true;
    if (!check_room(cp, e->to, rows, n, err))
        return false;
    link_messages(tx, cp, e->to, rows, n);
    return !cp->q->is_move || messages_remove(tx, &cp->op, &e->from, rows, n, true, err);
}

/* The first ROWS_AT_ONCE are there; the others, as many at a time. */
FIBER static bool copy_rest(struct sql_tx *tx, struct copy_op *cp, struct ends *e, struct msg_query *q, struct err *err)
{
    /* A mailbox may be copied into itself: what was in it before. */
    if (e->to == &e->from) {
        struct uidset before = uidset_of(cp->arena);
        uidset_add_range(&before, 1, cp->to.v[0].first - 1);
        cp->uids_before = uidset_and(cp->arena, cp->uids, &before);
        q->uids = &cp->uids_before;
    }
    while (q->from_uid) {
        SQL_PIECE(piece, tx);
        struct msg_row *rows;
        size_t n;
        if (!messages_read(tx, q, &rows, &n, &q->from_uid, err) || !copy_rows(tx, cp, e, rows, n, err) ||
            !sql_run(tx, err) || !sql_breathe(tx, err))
            return false;
    }
    return true;
}

FIBER static bool copy_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct copy_op *cp = arg;
    struct ends e;
    struct msg_row *rows;
    size_t n;
    cp->from = uidset_of(cp->arena);
    cp->to = uidset_of(cp->arena);
    cp->n_copied = 0;
    op_begin(tx, &cp->op);
    queue_ends(tx, cp, &e);
    struct msg_query q = {
        .account_id = cp->op.ref->account_id, .mailbox_id = cp->q->mailbox_id, .uids = cp->uids, .limit = ROWS_AT_ONCE};
    if (!messages_read(tx, &q, &rows, &n, &q.from_uid, err) || !op_ready(&cp->op, err))
        return false;
    if (cp->op.is_repeat)
        return true;
    if (!take_ends(cp, &e, err) || !copy_rows(tx, cp, &e, rows, n, err))
        return false;
    thurn__copy_reply__init(cp->r);
    cp->r->uidvalidity = (uint32_t)e.to->uidvalidity;
    cp->r->to_mailbox_id = e.to->mailbox_id;
    cp->r->modseq = (uint64_t)cp->op.account.modseq;
    if (n == 0)
        return true;
    if (q.from_uid && !copy_rest(tx, cp, &e, &q, err))
        return false;
    mailbox_queue_counts(tx, e.to, 1);
    if (cp->q->is_move && e.to != &e.from)
        mailbox_queue_counts(tx, &e.from, 1);
    uidset_to_proto(&cp->from, cp->arena, &cp->r->from, &cp->r->n_from);
    uidset_to_proto(&cp->to, cp->arena, &cp->r->to, &cp->r->n_to);
    cp->r->modseq = (uint64_t)cp->op.account.modseq;
    op_remember(tx, &cp->op);
    op_end(tx, &cp->op);
    return true;
}

FIBER bool store_do_copy(struct store *s, struct rpc_call *c, const Thurn__CopyRequest *q, Thurn__CopyReply *r,
                         struct err *err)
{
    struct copy_op cp = {.q = q, .arena = c->arena, .r = r};
    struct uidset uids;
    if (!op_init_once(&cp.op, s, q->account, q->request_id, c, &r->base, err) ||
        (!q->is_move && !disk_room_take(s->room, "copy", err)) ||
        (q->n_to_path && !mailbox_path_given(q->to_path, q->n_to_path, c->arena, &cp.to_name, err)) ||
        !uidset_of_proto(c->arena, q->uids, q->n_uids, UINT32_MAX, false, &uids, err))
        return false;
    cp.op.kinds = KIND_EMAIL | KIND_MAILBOX;
    cp.uids = &uids;
    return op_write(&cp.op, copy_body, &cp, err);
}
