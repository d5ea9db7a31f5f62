/*
 * PurgeAccount: all rows of an account, in slices with rests between them; repeating it goes on where it stopped, and
 * so does the sweep.
 *
 * One row stays for some weeks: that of the account itself, at an epoch that nobody has. It is written first. Who still
 * believes in the account (a front-end's cache, a message on its way) gets CONFLICT, asks the directory, and hears that
 * there is none; without it the first late delivery would make the account anew, beside what is left of the old one.
 */
#include "base/clock.h"
#include "store-service/account/op.h"
#include "store-service/blob/blob.h"
#include "store-service/pace.h"

#define SLICE 1000
#define BURIED_WEEKS 8

// clang-format off
static const struct sql_stmt read_msgs = {
    "s_purge_read", "ii", "iii", "SELECT mailbox_id, uid, email_id FROM s_msg WHERE account_id = ?1 LIMIT ?2", NULL, false};
static const struct sql_stmt purge_emails = {
    "s_purge_emails", "ii", "i", "DELETE FROM s_email WHERE account_id = ?1 AND email_id = ?2 RETURNING blob_id",
    "DELETE FROM s_email e USING {rows} AS v (a, id) WHERE e.account_id = v.a AND e.email_id = v.id"
    " RETURNING e.blob_id",
    true};
static const struct sql_stmt purge_msgs = {
    "s_purge_msgs", "iii", "", "DELETE FROM s_msg WHERE account_id = ?1 AND mailbox_id = ?2 AND uid = ?3",
    "DELETE FROM s_msg m USING {rows} AS v (a, b, uid) WHERE m.account_id = v.a AND m.mailbox_id = v.b AND"
    " m.uid = v.uid",
    true};
// clang-format on
/* Everything else, each by the second column of its key. */
#define REST(TABLE, KEY)                                                                                               \
    {                                                                                                                  \
        "s_purge_" TABLE, "ii", "",                                                                                    \
            "DELETE FROM s_" TABLE " WHERE account_id = ?1 AND " KEY " IN (SELECT " KEY " FROM s_" TABLE               \
            " WHERE account_id = ?1 LIMIT ?2)",                                                                        \
            NULL, false                                                                                                \
    }
// clang-format off
static const struct sql_stmt purge_rest[] = {
    REST("mailbox", "mailbox_id"), REST("subscription", "sub_id"), REST("gap", "low"),        REST("keyword", "kw_id"),
    REST("thread_key", "key"),     REST("changes", "modseq"),      REST("request", "request_id"),
};
static const struct sql_stmt bury_account = {
    "s_bury_account", "iiiii", "",
    "INSERT INTO s_account (" ACCOUNT_COLS ") VALUES (?1, ?2, ?3, 1, 1, 0, 0, 0, 0, 0, 0, 0, ?5, 1, ?4)"
    " ON CONFLICT (account_id) DO UPDATE SET epoch = excluded.epoch, used_bytes = 0, used_messages = 0, inbox_id = 0,"
    " week = excluded.week",
    NULL, false};
static const struct sql_stmt next_buried = {
    "s_next_buried", "ii", "iii",
    "SELECT account_id, tenant_id, week FROM s_account WHERE account_id > ?1 AND epoch = ?2 ORDER BY account_id LIMIT 1",
    NULL, false};
static const struct sql_stmt forget_account = {
    "s_forget_account", "iii", "", "DELETE FROM s_account WHERE account_id = ?1 AND epoch = ?2 AND week < ?3", NULL, false};
// clang-format on

struct purge {
    const Thurn__AccountRef *ref; /* NULL: it is buried already */
    int64_t account_id, now_unix;
    size_t table; /* of purge_rest */
    bool is_done; /* nothing was left for this slice */
};

/* Another account's mail stays. */
FIBER static bool bury_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct purge *p = arg;
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 5);
    struct sql_result found;
    account_queue_lock(tx, &p->account_id, 1, &found);
    if (!sql_run(tx, err))
        return false;
    struct account_row there = found.n_rows ? account_take(&found, 0) : (struct account_row){.epoch = EPOCH_GONE};
    if (there.epoch != EPOCH_GONE && !account_check(&there, p->ref, err))
        return false;
    v[0] = sql_i(p->account_id);
    v[1] = sql_i(p->ref->tenant_id);
    v[2] = sql_i(EPOCH_GONE);
    v[3] = sql_i((int64_t)p->ref->incarnation);
    v[4] = sql_i(p->now_unix / WEEK_S);
    sql_queue(tx, &bury_account, v, 1, NULL);
    return true;
}

FIBER static bool messages_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct purge *p = arg;
    struct arena *a = sql_arena(tx);
    const struct sql_value v[] = {sql_i(p->account_id), sql_i(SLICE)};
    struct sql_result rows, gone;
    if (!sql_exec(tx, &read_msgs, v, 1, &rows, err))
        return false;
    p->is_done = rows.n_rows == 0;
    struct sql_value *msgs = arena_array(a, struct sql_value, rows.n_rows * 3);
    struct sql_value *emails = arena_array(a, struct sql_value, rows.n_rows * 2);
    for (size_t i = 0; i < rows.n_rows; i++) {
        msgs[i * 3] = emails[i * 2] = sql_i(p->account_id);
        msgs[i * 3 + 1] = *sql_at(&rows, i, 0);
        msgs[i * 3 + 2] = *sql_at(&rows, i, 1);
        emails[i * 2 + 1] = *sql_at(&rows, i, 2);
    }
    sql_queue(tx, &purge_msgs, msgs, rows.n_rows, NULL);
    if (!sql_exec(tx, &purge_emails, emails, rows.n_rows, &gone, err))
        return false;
    int64_t *blobs = arena_array(a, int64_t, gone.n_rows);
    for (size_t i = 0; i < gone.n_rows; i++)
        blobs[i] = sql_at(&gone, i, 0)->i;
    blob_queue_unref(tx, blobs, gone.n_rows, p->now_unix);
    return true;
}

FIBER static bool rest_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct purge *p = arg;
    const struct sql_value v[] = {sql_i(p->account_id), sql_i(SLICE)};
    struct sql_result r;
    if (!sql_exec(tx, &purge_rest[p->table], v, 1, &r, err))
        return false;
    p->is_done = r.n_affected < SLICE;
    return true;
}

FIBER static bool in_slices(struct shard *sh, struct purge *p, sql_body body, struct err *err)
{
    for (;;) {
        struct pace pace = pace_begin();
        if (!sql_write(sh->db, body, p, err))
            return false;
        if (p->is_done)
            return true;
        if (!pace_rest(&pace, err))
            return false;
    }
}

FIBER static bool purge_rows(struct shard *sh, struct purge *p, struct err *err)
{
    if (!in_slices(sh, p, messages_body, err))
        return false;
    for (p->table = 0; p->table < ARRAY_LEN(purge_rest); p->table++)
        if (!in_slices(sh, p, rest_body, err))
            return false;
    return true;
}

FIBER bool store_do_purge_account(struct store *s, struct rpc_call *c, const Thurn__AccountRequest *q, Thurn__Empty *r,
                                  struct err *err)
{
    (void)c;
    (void)r;
    struct op op; /* for its checks alone */
    if (!op_init(&op, s, q->account, err))
        return false;
    struct purge p = {.ref = q->account, .account_id = q->account->account_id, .now_unix = clock_unix()};
    return sql_write(op.shard->db, bury_body, &p, err) && purge_rows(op.shard, &p, err);
}

FIBER static bool forget_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct purge *p = arg;
    const struct sql_value v[] = {sql_i(p->account_id), sql_i(EPOCH_GONE), sql_i(p->now_unix / WEEK_S - BURIED_WEEKS)};
    return sql_exec(tx, &forget_account, v, 1, NULL, err);
}

bool account_sweep_buried(struct shard *sh, struct err *err)
{
    struct purge p = {.now_unix = clock_unix()};
    struct err first = ERR_INIT;
    for (;;) {
        ARENA(a, 16384);
        const struct sql_value v[] = {sql_i(p.account_id), sql_i(EPOCH_GONE)};
        struct sql_result r;
        if (!sql_query(sh->db, &next_buried, v, &a, &r, err))
            return false;
        if (r.n_rows == 0)
            return !err_is_set(&first) || err_set(err, first.kind, "%s", first.msg);
        p.account_id = sql_at(&r, 0, 0)->i;
        bool is_old = sql_at(&r, 0, 2)->i < p.now_unix / WEEK_S - BURIED_WEEKS;
        struct err one = ERR_INIT;
        if (purge_rows(sh, &p, &one) && (!is_old || sql_write(sh->db, forget_body, &p, &one)))
            continue;
        if (one.kind == ERR_CANCELLED)
            return err_set(err, one.kind, "%s", one.msg);
        if (!err_is_set(&first)) /* it keeps no other account from going */
            first = one;
    }
}
