#include "store-service/account/timeline.h"
#include "store-service/log/change.h"
#include "store-service/mailbox/mailbox.h"
#include "store-service/message/add.h"
#include "store-service/message/keyword.h"
#include "store-service/message/message.h"
#include "store-service/watch/beacon.h"

#define FLAGS_PER_TX 4000u /* what a reply has room for, with keywords */

// clang-format off
static const struct sql_stmt update_flags = {
    "s_update_flags", "iiiibi", "",
    "UPDATE s_msg SET flags = ?4, kw = ?5, modseq = ?6 WHERE account_id = ?1 AND mailbox_id = ?2 AND uid = ?3",
    "UPDATE s_msg m SET flags = v.flags, kw = v.kw, modseq = v.modseq FROM {rows}"
    " AS v (a, b, uid, flags, kw, modseq) WHERE m.account_id = v.a AND m.mailbox_id = v.b AND m.uid = v.uid",
    true};
// clang-format on

struct flags_op {
    struct op op;
    const Thurn__StoreFlagsRequest *q;
    const struct uidset *uids;
    struct arena *arena; /* of the reply */
    /* Results of one transaction. */
    Thurn__Message **messages;
    size_t n_messages;
    Thurn__Keyword **names;
    size_t n_names;
    struct uidset modified;
    uint64_t next_uid, modseq_before, unchanged_since;
    bool is_dictionary_full;
};

static int64_t new_flags(const Thurn__StoreFlagsRequest *q, int64_t old)
{
    int64_t given = q->flags;
    return q->op == THURN__STORE_OP__STORE_ADD      ? old | given
           : q->op == THURN__STORE_OP__STORE_REMOVE ? old & ~given
                                                    : given;
}

static str new_keywords(const Thurn__StoreFlagsRequest *q, str old, str given, struct arena *a)
{
    return q->op == THURN__STORE_OP__STORE_ADD      ? kw_union(a, old, given)
           : q->op == THURN__STORE_OP__STORE_REMOVE ? kw_minus(a, old, given)
                                                    : given;
}

static void count_change(struct mailbox_row *m, int64_t old, int64_t now)
{
    m->unseen += ((old & THURN__FLAG__FLAG_SEEN) != 0) - ((now & THURN__FLAG__FLAG_SEEN) != 0);
    m->deleted += ((now & THURN__FLAG__FLAG_DELETED) != 0) - ((old & THURN__FLAG__FLAG_DELETED) != 0);
}

/* Work out the new state of each row; those that change are moved to the front. */
FIBER static bool decide(struct sql_tx *tx, struct flags_op *f, struct mailbox_row *m, struct msg_row *rows, size_t n,
                         str kw, size_t *n_changed, struct err *err)
{
    struct arena *a = sql_arena(tx);
    const Thurn__StoreFlagsRequest *q = f->q;
    *n_changed = 0;
    for (size_t i = 0; i < n; i++) {
        struct msg_row r = rows[i];
        if (!sql_breathe(tx, err))
            return false;
        if (q->has_unchanged_since && (uint64_t)r.modseq > f->unchanged_since) {
            uidset_add(&f->modified, r.uid);
            continue;
        }
        int64_t flags = new_flags(q, r.flags);
        str keywords = new_keywords(q, r.kw, kw, a);
        if (keywords.n / 2 > KEYWORDS_PER_MESSAGE_MAX)
            return err_set(err, ERR_LIMIT, "a message would have more than %u keywords", KEYWORDS_PER_MESSAGE_MAX);
        if (flags == r.flags && str_eq(keywords, r.kw))
            continue;
        count_change(m, r.flags, flags);
        r.flags = flags;
        r.kw = keywords;
        rows[(*n_changed)++] = r;
    }
    return true;
}

static void write_some(struct sql_tx *tx, struct flags_op *f, struct mailbox_row *m, struct msg_row *rows, size_t n)
{
    struct arena *a = sql_arena(tx);
    struct change_item *items = arena_array(a, struct change_item, n);
    struct sql_value *v = arena_array(a, struct sql_value, n * 6);
    for (size_t i = 0; i < n; i++)
        items[i] = (struct change_item){rows[i].uid, rows[i].email_id, rows[i].thread_id};
    int64_t first = change_queue_items(tx, &f->op, m, CHANGE_FLAGS, items, n);
    for (size_t i = 0; i < n; i++) {
        rows[i].modseq = first + (int64_t)(i / CHANGE_ITEMS_MAX);
        struct sql_value *p = v + i * 6;
        p[0] = sql_i(m->account_id);
        p[1] = sql_i(m->mailbox_id);
        p[2] = sql_i(rows[i].uid);
        p[3] = sql_i(rows[i].flags);
        p[4] = sql_s(rows[i].kw);
        p[5] = sql_i(rows[i].modseq);
    }
    sql_queue(tx, &update_flags, v, n, NULL);
}

FIBER static bool write_changes(struct sql_tx *tx, struct flags_op *f, struct mailbox_row *m, struct msg_row *rows,
                                size_t n, struct err *err)
{
    for (size_t at = 0; at < n; at += ROWS_AT_ONCE) {
        if (at > 0 && (!sql_run(tx, err) || !sql_breathe(tx, err)))
            return false;
        write_some(tx, f, m, rows + at, MIN(n - at, ROWS_AT_ONCE));
    }
    mailbox_queue_counts(tx, m, 1);
    return true;
}

FIBER static bool flags_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct flags_op *f = arg;
    struct arena *a = sql_arena(tx);
    struct sql_result box, names = {0};
    struct mailbox_row m;
    struct msg_row *rows;
    size_t n, n_changed;
    f->modified = uidset_of(f->arena);
    op_begin(tx, &f->op);
    mailbox_queue_get(tx, f->op.ref->account_id, f->q->mailbox_id, &box);
    if (f->q->n_keywords)
        keywords_queue_load(tx, &f->op.ref->account_id, 1, &names);
    struct msg_query q = {
        .account_id = f->op.ref->account_id, .mailbox_id = f->q->mailbox_id, .uids = f->uids, .limit = FLAGS_PER_TX};
    /* The messages are read in the same round trip as the lock. */
    if (!messages_read(tx, &q, &rows, &n, &f->next_uid, err) || !op_ready(&f->op, err) ||
        !mailbox_take_one(&box, &m, err))
        return false;
    f->modseq_before = (uint64_t)m.highestmodseq;
    f->unchanged_since = MIN(f->q->unchanged_since, (uint64_t)INT64_MAX);
    if (f->q->has_unchanged_since && !op_known_since(tx, &f->op, &f->unchanged_since, err))
        return false;
    struct keywords k = keywords_take(a, &names, m.account_id);
    str kw;
    bool is_encoded =
        keywords_encode(&k, f->q->keywords, f->q->n_keywords, f->q->op != THURN__STORE_OP__STORE_REMOVE, &kw, err);
    f->is_dictionary_full = k.is_full;
    if (!is_encoded || !decide(tx, f, &m, rows, n, kw, &n_changed, err))
        return false;
    if (n_changed) {
        keywords_queue_insert(tx, &k, m.account_id);
        if (!write_changes(tx, f, &m, rows, n_changed, err))
            return false;
    }
    f->messages = arena_array(f->arena, Thurn__Message *, n_changed);
    f->n_messages = n_changed;
    for (size_t i = 0; i < n_changed; i++) {
        f->messages[i] = message_to_proto(&rows[i], f->arena);
        if (!sql_breathe(tx, err))
            return false;
    }
    op_end(tx, &f->op);
    return keywords_name(tx, m.account_id, f->messages, f->n_messages, f->arena, &f->names, &f->n_names, err);
}

FIBER bool store_do_store_flags(struct store *s, struct rpc_call *c, const Thurn__StoreFlagsRequest *q,
                                Thurn__StoreFlagsReply *r, struct err *err)
{
    struct flags_op f = {.q = q, .arena = c->arena};
    struct uidset uids;
    if (!op_init(&f.op, s, q->account, err) || !keywords_check(q->keywords, q->n_keywords, err) ||
        !uidset_of_proto(c->arena, q->uids, q->n_uids, UINT32_MAX, false, &uids, err))
        return false;
    if ((q->flags & ~(uint32_t)ALL_FLAGS) || q->op > THURN__STORE_OP__STORE_REPLACE)
        return err_set(err, ERR_INVALID, "unknown flags");
    f.op.kinds = KIND_EMAIL | KIND_MAILBOX;
    f.uids = &uids;
    if (!op_write(&f.op, flags_body, &f, err)) {
        struct err why = ERR_INIT; /* of no interest: what was refused stays so */
        if (!f.is_dictionary_full || !keywords_give_back(s, q->account, &why))
            return false;
        err_clear(err);
        if (!op_write(&f.op, flags_body, &f, err))
            return false;
    }
    r->messages = f.messages;
    r->n_messages = f.n_messages;
    uidset_to_proto(&f.modified, c->arena, &r->modified, &r->n_modified);
    r->modseq = (uint64_t)f.op.account.modseq;
    r->modseq_before = f.modseq_before;
    r->next_uid = (uint32_t)f.next_uid;
    r->keyword_names = f.names;
    r->n_keyword_names = f.n_names;
    return true;
}
