/*
 * The room sync/ answers what a client missed: Sync of one mailbox (here), Changes of an account (changes.c). It owns
 * no table, caches nothing, and calls every other room. A new kind of thing is a ChangeType that changes.c reads.
 *
 * What changed in one mailbox since a modseq. From the change log while that reaches back far enough and is not longer
 * than reading the mailbox would be; otherwise from the rows: those above the modseq, and of the UIDs that the client
 * knows those that are not there any more.
 */
#include "store-service/account/timeline.h"
#include "store-service/log/change.h"
#include "store-service/mailbox/mailbox.h"
#include "store-service/message/keyword.h"
#include "store-service/message/message.h"

#define LOG_ROWS_MAX 5000
#define LOG_UIDS_MAX 100000u
#define ROWS_MAX 4000u
#define UIDS_PAGE 20000
#define VANISHED_MAX 30000u /* ranges: half of what a reply may be */

// clang-format off
static const struct sql_stmt read_log = {
    "s_mailbox_log", "iiiii", "iib",
    "SELECT modseq, op, items FROM s_changes WHERE account_id = ?1 AND modseq > ?2 AND week >= ?3 AND mailbox_id = ?4 AND"
    " type = 0 ORDER BY modseq LIMIT ?5",
    NULL, false};
static const struct sql_stmt read_uids = {
    "s_mailbox_uids", "iiii", "i",
    "SELECT uid FROM s_msg WHERE account_id = ?1 AND mailbox_id = ?2 AND uid > ?3 ORDER BY uid LIMIT ?4", NULL, false};
// clang-format on

struct sync_op {
    struct op op;
    const Thurn__SyncRequest *q;
    const struct uidset *known;
    struct arena *arena;
    Thurn__SyncReply *r;
};

static void queue_log(struct sql_tx *tx, const struct sync_op *s, int64_t since, struct sql_result *out)
{
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 5);
    v[0] = sql_i(s->op.account.account_id);
    v[1] = sql_i(since);
    v[2] = sql_i(log_first_week(&s->op.account, since));
    v[3] = sql_i(s->q->mailbox_id);
    v[4] = sql_i(LOG_ROWS_MAX + 1);
    sql_queue(tx, &read_log, v, 1, out);
}

/* UIDs that came or changed, and those that went; both may hold a UID that came and went. False: too many. */
static bool take_log(const struct sql_result *r, struct arena *a, struct uidset *changed, struct uidset *gone)
{
    uint64_t *c = arena_alloc(a, LOG_UIDS_MAX * sizeof *c), *g = arena_alloc(a, LOG_UIDS_MAX * sizeof *g);
    size_t n_c = 0, n_g = 0;
    if (r->n_rows > LOG_ROWS_MAX)
        return false;
    for (size_t i = 0; i < r->n_rows; i++) {
        int64_t op = sql_at(r, i, 1)->i;
        bool is_gone = op == CHANGE_UNLINKED || op == CHANGE_DESTROYED;
        struct cursor cur = cur_of(sql_at(r, i, 2)->s);
        struct change_item it = {0};
        while (change_item_next(&cur, &it)) {
            if (n_c == LOG_UIDS_MAX || n_g == LOG_UIDS_MAX)
                return false;
            if (is_gone)
                g[n_g++] = it.uid;
            else
                c[n_c++] = it.uid;
        }
    }
    *changed = uidset_of_values(a, c, n_c);
    *gone = uidset_of_values(a, g, n_g);
    return true;
}

FIBER static bool read_messages(struct sql_tx *tx, struct sync_op *s, const struct uidset *uids, int64_t since,
                                struct err *err)
{
    struct msg_query q = {.account_id = s->op.account.account_id,
                          .mailbox_id = s->q->mailbox_id,
                          .uids = uids,
                          .since_modseq = since,
                          .limit = ROWS_MAX};
    struct msg_row *rows;
    size_t n, bytes = 0;
    uint64_t next;
    if (!messages_read(tx, &q, &rows, &n, &next, err))
        return false;
    s->r->messages = arena_array(s->arena, Thurn__Message *, n);
    s->r->n_messages = 0;
    for (size_t i = 0; i < n && bytes < REPLY_BYTES_MAX / 2; i++) {
        bytes += message_proto_size(&rows[i]);
        s->r->messages[s->r->n_messages++] = message_to_proto(&rows[i], s->arena);
        if (!sql_breathe(tx, err))
            return false;
    }
    s->r->next_uid = s->r->n_messages < n ? rows[s->r->n_messages].uid : (uint32_t)next;
    return keywords_name(tx, q.account_id, s->r->messages, s->r->n_messages, s->arena, &s->r->keyword_names,
                         &s->r->n_keyword_names, err);
}

static bool put_vanished(struct sync_op *s, const struct uidset *gone, struct err *err)
{
    if (gone->n > VANISHED_MAX)
        return err_set(err, ERR_LIMIT, "the messages that have vanished are more than %u ranges", VANISHED_MAX);
    uidset_to_proto(gone, s->arena, &s->r->vanished, &s->r->n_vanished);
    return true;
}

FIBER static bool vanished_by_rows(struct sql_tx *tx, struct sync_op *s, const struct mailbox_row *m, struct err *err)
{
    struct uidset there = uidset_of(sql_arena(tx)), below = uidset_of(sql_arena(tx));
    struct sql_result r = {.n_rows = UIDS_PAGE};
    for (int64_t after = 0; r.n_rows == UIDS_PAGE;) {
        struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 4);
        v[0] = sql_i(m->account_id);
        v[1] = sql_i(m->mailbox_id);
        v[2] = sql_i(after);
        v[3] = sql_i(UIDS_PAGE);
        if (!sql_exec(tx, &read_uids, v, 1, &r, err) || !sql_breathe(tx, err))
            return false;
        for (size_t i = 0; i < r.n_rows; i++)
            uidset_add(&there, (uint64_t)(after = sql_at(&r, i, 0)->i));
    }
    if (m->uidnext > 1)
        uidset_add_range(&below, 1, (uint64_t)m->uidnext - 1);
    struct uidset known = uidset_and(sql_arena(tx), s->known, &below);
    struct uidset gone = uidset_minus(s->arena, &known, &there);
    return put_vanished(s, &gone, err);
}

FIBER static bool sync_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct sync_op *s = arg;
    struct sql_result box, log;
    struct mailbox_row m;
    op_begin_read(tx, &s->op);
    mailbox_queue_get(tx, s->op.ref->account_id, s->q->mailbox_id, &box);
    if (!sql_run(tx, err) || !op_ready(&s->op, err) || !mailbox_take_one(&box, &m, err))
        return false;
    s->r->mailbox = mailbox_to_proto(&m, s->arena);
    s->r->n_vanished = s->r->n_messages = s->r->n_keyword_names = 0;
    s->r->next_uid = 0;
    s->r->is_from_start = false;
    uint64_t known = MIN(s->q->since_modseq, (uint64_t)INT64_MAX);
    if (known >= (uint64_t)m.highestmodseq && known <= (uint64_t)s->op.account.modseq)
        return true;
    if (known > (uint64_t)s->op.account.modseq)
        known = 0;
    if (!op_known_since(tx, &s->op, &known, err))
        return false;
    int64_t since = (int64_t)known;
    s->r->is_from_start = known == 0;
    struct uidset changed, gone, all = uidset_of(sql_arena(tx));
    if (since >= s->op.account.floor_modseq && since <= s->op.account.modseq) {
        queue_log(tx, s, since, &log);
        if (!sql_run(tx, err))
            return false;
        if (take_log(&log, sql_arena(tx), &changed, &gone)) {
            struct uidset vanished = uidset_and(s->arena, &gone, s->known);
            struct uidset there = uidset_minus(sql_arena(tx), &changed, &gone); /* a UID never comes back */
            return put_vanished(s, &vanished, err) && read_messages(tx, s, &there, since, err);
        }
    }
    uidset_add_range(&all, 1, UINT32_MAX);
    return vanished_by_rows(tx, s, &m, err) && read_messages(tx, s, &all, since, err);
}

FIBER bool store_do_sync(struct store *st, struct rpc_call *c, const Thurn__SyncRequest *q, Thurn__SyncReply *r,
                         struct err *err)
{
    struct sync_op s = {.q = q, .arena = c->arena, .r = r};
    struct uidset known;
    if (!op_init(&s.op, st, q->account, err) ||
        !uidset_of_proto(c->arena, q->known_uids, q->n_known_uids, UINT32_MAX, true, &known, err))
        return false;
    s.known = &known;
    return op_read(&s.op, sync_body, &s, err);
}
