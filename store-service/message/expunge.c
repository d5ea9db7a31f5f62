#include "store-service/account/op.h"
#include "store-service/mailbox/mailbox.h"
#include "store-service/message/message.h"
#include "store-service/watch/beacon.h"

struct expunge_op {
    struct op op;
    const Thurn__ExpungeRequest *q;
    const struct uidset *uids;
    uint64_t from_uid;
    struct arena *arena;
    struct uidset gone; /* of one transaction, in arena */
    uint64_t next_uid;
};

FIBER static bool expunge_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct expunge_op *e = arg;
    struct sql_result box;
    struct mailbox_row m;
    struct msg_row *rows;
    size_t n;
    e->gone = uidset_of(e->arena);
    e->next_uid = 0;
    op_begin(tx, &e->op);
    mailbox_queue_get(tx, e->op.ref->account_id, e->q->mailbox_id, &box);
    if (!sql_run(tx, err) || !op_ready(&e->op, err) || !mailbox_take_one(&box, &m, err))
        return false;
    if (!e->q->is_any && m.deleted == 0) /* as mostly at CLOSE: no message is looked at */
        return true;
    struct msg_query q = {.account_id = e->op.ref->account_id,
                          .mailbox_id = e->q->mailbox_id,
                          .uids = e->uids,
                          .from_uid = e->from_uid,
                          .limit = MESSAGES_PER_TX,
                          .flags = e->q->is_any ? THURN__FLAG__FLAG_NONE : THURN__FLAG__FLAG_DELETED};
    if (!messages_read(tx, &q, &rows, &n, &e->next_uid, err))
        return false;
    for (size_t i = 0; i < n; i++)
        uidset_add(&e->gone, rows[i].uid);
    if (n == 0)
        return true;
    if (!messages_remove(tx, &e->op, &m, rows, n, false, err))
        return false;
    mailbox_queue_counts(tx, &m, 1);
    op_end(tx, &e->op);
    return true;
}

FIBER bool store_do_expunge(struct store *s, struct rpc_call *c, const Thurn__ExpungeRequest *q, Thurn__ExpungeReply *r,
                            struct err *err)
{
    struct expunge_op e = {.q = q, .arena = c->arena};
    struct uidset uids, gone = uidset_of(c->arena);
    if (!op_init(&e.op, s, q->account, err) ||
        !uidset_of_proto(c->arena, q->uids, q->n_uids, UINT32_MAX, true, &uids, err))
        return false;
    e.op.kinds = KIND_EMAIL | KIND_MAILBOX | KIND_THREAD;
    e.uids = &uids;
    do { /* a large one in several transactions: each is complete in itself */
        if (!op_write(&e.op, expunge_body, &e, err))
            return false;
        for (size_t i = 0; i < e.gone.n; i++)
            uidset_add_range(&gone, e.gone.v[i].first, e.gone.v[i].last);
        e.from_uid = e.next_uid;
    } while (e.next_uid && !q->is_paged);
    uidset_to_proto(&gone, c->arena, &r->uids, &r->n_uids);
    r->modseq = (uint64_t)e.op.account.modseq;
    r->next_uid = (uint32_t)e.next_uid;
    return true;
}
