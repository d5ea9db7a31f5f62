/* Copy and Move, RFC 9051 6.4.7, RFC 6851: all or nothing, and as cheap as rows: the emails are the same ones. */
#include "store-service/message.h"

struct copy_op {
    struct op op;
    const Thurn__CopyRequest *q;
    const struct uidset *uids;
    str to_name;         /* its path, or empty */
    struct arena *arena; /* of the reply */
    Thurn__CopyReply *r;
    struct uidset from, to;
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

FIBER static bool link_messages(struct sql_tx *tx, struct copy_op *cp, struct mailbox_row *to, const struct msg_row *rows,
                                size_t n, struct err *err)
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
        if (!tx_breathe(tx, err))
            return false;
    }
    int64_t first = change_queue_items(tx, &cp->op, to, CHANGE_LINKED, items, n);
    for (size_t i = 0; i < n; i++)
        v[i].row.modseq = first + (int64_t)(i / CHANGE_ITEMS_MAX);
    return messages_insert(tx, v, n, err);
}

FIBER static bool copy_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct copy_op *cp = arg;
    struct sql_result from_box, to_box;
    struct mailbox_row from, to_row, *to = &to_row;
    struct msg_row *rows;
    size_t n;
    uint64_t more;
    int64_t account_id = cp->op.ref->account_id;
    cp->from = uidset_of(cp->arena);
    cp->to = uidset_of(cp->arena);
    op_begin(tx, &cp->op);
    mailbox_queue_get(tx, account_id, cp->q->mailbox_id, &from_box);
    if (cp->to_name.n)
        mailbox_queue_find(tx, account_id, cp->to_name, &to_box);
    else
        mailbox_queue_get(tx, account_id, cp->q->to_mailbox_id, &to_box);
    struct msg_query q = {.account_id = account_id, .mailbox_id = cp->q->mailbox_id, .uids = cp->uids, .limit = COPY_MAX};
    if (!messages_read(tx, &q, &rows, &n, &more, err) || !op_ready(&cp->op, err))
        return false;
    if (cp->op.is_repeat)
        return true;
    if (!mailbox_take_one(&from_box, &from, err))
        return false;
    if (cp->to_name.n ? !mailbox_take_found(&to_box, cp->q->to_mailbox_id, &to_row, err)
                      : !mailbox_take_one(&to_box, &to_row, err))
        return false;
    if (more)
        return err_set(err, ERR_LIMIT, "more than %u messages at once", COPY_MAX);
    if (from.mailbox_id == to_row.mailbox_id)
        to = &from;
    thurn__copy_reply__init(cp->r);
    cp->r->uidvalidity = (uint32_t)to->uidvalidity;
    cp->r->to_mailbox_id = to->mailbox_id;
    cp->r->modseq = (uint64_t)cp->op.account.modseq;
    if (n == 0)
        return true;
    if (!check_room(cp, to, rows, n, err) || !link_messages(tx, cp, to, rows, n, err))
        return false;
    if (cp->q->is_move && !messages_remove(tx, &cp->op, &from, rows, n, true, err))
        return false;
    mailbox_queue_counts(tx, to, 1);
    if (cp->q->is_move && to != &from)
        mailbox_queue_counts(tx, &from, 1);
    uidset_to_proto(&cp->from, cp->arena, &cp->r->from, &cp->r->n_from);
    uidset_to_proto(&cp->to, cp->arena, &cp->r->to, &cp->r->n_to);
    cp->r->modseq = (uint64_t)cp->op.account.modseq;
    op_remember(tx, &cp->op);
    op_end(tx, &cp->op);
    return true;
}

FIBER bool store_do_copy(struct store *s, struct rpc_call *c, const Thurn__CopyRequest *q, Thurn__CopyReply *r, struct err *err)
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
