#include "store-service/account/timeline.h"

#include "base/clock.h"
#include "store-service/mailbox/mailbox.h"
#include "store-service/watch/beacon.h"

// clang-format off
static const struct sql_stmt read_number = {"s_read_number", "", "i", "SELECT number FROM s_shard", NULL, false};
static const struct sql_stmt read_timeline = {"s_read_timeline", "", "i", "SELECT 0", "SELECT " PG_TIMELINE, false};
static const struct sql_stmt insert_account = {
    "s_insert_account", ACCOUNT_COL_TYPES, "",
    "INSERT INTO s_account (" ACCOUNT_COLS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
    NULL, false};
static const struct sql_stmt insert_gap = {"s_insert_gap", "iii", "",
                                           "INSERT INTO s_gap (account_id, low, high) VALUES (?1, ?2, ?3)", NULL, false};
static const struct sql_stmt find_gap = {"s_find_gap", "ii", "i",
                                         "SELECT 1 FROM s_gap WHERE account_id = ?1 AND low < ?2 AND high > ?2", NULL, false};
static const struct sql_stmt jump_uids = {
    "s_jump_uids", "iii", "", "UPDATE s_mailbox SET uidnext = uidnext + ?2, highestmodseq = ?3 WHERE account_id = ?1", NULL,
    false};
// clang-format on

struct prepare {
    const Thurn__AccountRef *ref;
    uint32_t shard;
    int64_t now_unix;
    int64_t jumped_to; /* out: the modseq after a failover; 0 = there was none */
};

static const struct {
    const char *name;
    int role;
} default_mailboxes[] = {
    {"INBOX", THURN__MAILBOX_ROLE__ROLE_INBOX}, {"Drafts", THURN__MAILBOX_ROLE__ROLE_DRAFTS},
    {"Sent", THURN__MAILBOX_ROLE__ROLE_SENT},   {"Junk", THURN__MAILBOX_ROLE__ROLE_JUNK},
    {"Trash", THURN__MAILBOX_ROLE__ROLE_TRASH}, {"Archive", THURN__MAILBOX_ROLE__ROLE_ARCHIVE},
};

static bool create(struct sql_tx *tx, const struct prepare *p, int64_t timeline)
{
    struct account_row a = {.account_id = p->ref->account_id,
                            .tenant_id = p->ref->tenant_id,
                            .epoch = p->ref->epoch,
                            .modseq = 1,
                            .floor_modseq = 1,
                            .timeline = timeline,
                            .week = p->now_unix / WEEK_S,
                            .week_modseq = 1,
                            .incarnation = (int64_t)p->ref->incarnation};
    struct mailbox_row rows[ARRAY_LEN(default_mailboxes)];
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        rows[i] = mailbox_make(&a, 0, str_c(default_mailboxes[i].name), default_mailboxes[i].role, p->now_unix);
        rows[i].is_subscribed = 1;
    }
    a.inbox_id = rows[0].mailbox_id;
    const int64_t cols[] = {a.account_id,  a.tenant_id, a.epoch,       a.modseq,      a.floor_modseq,
                            a.uidvalidity, a.email_seq, a.mailbox_seq, a.used_bytes,  a.used_messages,
                            a.inbox_id,    a.timeline,  a.week,        a.week_modseq, a.incarnation};
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, ARRAY_LEN(cols));
    for (size_t i = 0; i < ARRAY_LEN(cols); i++)
        v[i] = sql_i(cols[i]);
    sql_queue(tx, &insert_account, v, 1, NULL);
    mailbox_queue_insert(tx, rows, ARRAY_LEN(rows));
    return true;
}

/* Commits may have been lost with the old primary: what a client saw of them must never be given out again. States
 * below the new floor, and so all in the gap, are answered from the rows instead of from the log. */
static bool jump(struct sql_tx *tx, struct prepare *p, struct account_row *a)
{
    int64_t low = a->modseq;
    a->modseq += TIMELINE_MODSEQ_GAP;
    a->floor_modseq = a->modseq;
    a->week_modseq = a->modseq;
    a->timeline = a->now_timeline;
    a->email_seq += TIMELINE_MODSEQ_GAP;
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 3);
    v[0] = sql_i(a->account_id);
    v[1] = sql_i(TIMELINE_UID_GAP);
    v[2] = sql_i(a->modseq);
    sql_queue(tx, &jump_uids, v, 1, NULL);
    struct sql_value *gap = arena_array(sql_arena(tx), struct sql_value, 3);
    gap[0] = sql_i(a->account_id);
    gap[1] = sql_i(low);
    gap[2] = sql_i(a->modseq);
    sql_queue(tx, &insert_gap, gap, 1, NULL);
    account_queue_update(tx, a, 1);
    p->jumped_to = a->modseq;
    return true;
}

FIBER static bool prepare_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct prepare *p = arg;
    struct sql_result found, timeline, number;
    p->jumped_to = 0;
    account_queue_lock(tx, &p->ref->account_id, 1, &found);
    sql_queue(tx, &read_timeline, NULL, 1, &timeline);
    sql_queue(tx, &read_number, NULL, 1, &number);
    if (!sql_run(tx, err))
        return false;
    /* Databases given in another order: nobody's mail is here, and nobody's may begin here. */
    if (number.n_rows && sql_at(&number, 0, 0)->i != p->shard)
        return err_set(err, ERR_UNAVAILABLE, "the database of shard %u is that of shard %lld", p->shard,
                       (long long)sql_at(&number, 0, 0)->i);
    if (found.n_rows == 0)
        return create(tx, p, sql_at(&timeline, 0, 0)->i);
    struct account_row a = account_take(&found, 0);
    return !account_needs_prepare(&a) || !account_is_ours(&a, p->ref) || jump(tx, p, &a);
}

bool account_prepare(struct shard *sh, const Thurn__AccountRef *ref, struct err *err)
{
    struct prepare p = {.ref = ref, .shard = sh->number, .now_unix = clock_unix()};
    if (sql_write(sh->db, prepare_body, &p, err)) {
        if (p.jumped_to) /* every view of it is to be looked at anew */
            beacon_publish(sh->store, ref->account_id, p.jumped_to, KIND_EMAIL | KIND_MAILBOX | KIND_THREAD);
        return true;
    }
    if (err->kind != ERR_EXISTS) /* somebody else made it at the same time */
        return false;
    err_clear(err);
    return true;
}

bool op_known_since(struct sql_tx *tx, const struct op *op, uint64_t *since, struct err *err)
{
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 2);
    struct sql_result r;
    if (*since == 0 || *since >= (uint64_t)op->account.floor_modseq) /* gaps are below the floor */
        return true;
    v[0] = sql_i(op->account.account_id);
    v[1] = sql_i((int64_t)*since);
    if (!sql_exec(tx, &find_gap, v, 1, &r, err))
        return false;
    if (r.n_rows)
        *since = 0;
    return true;
}
