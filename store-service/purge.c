/*
 * PurgeAccount: all rows of an account, some thousands a transaction; repeating it goes on where it stopped.
 *
 * One row stays: that of the account itself, at an epoch that nobody has. It is written first. Who still believes in the
 * account (a front-end's cache, a message on its way) gets CONFLICT, asks the directory, and hears that there is none;
 * without it the first late delivery would make the account anew, beside what is left of the old one.
 */
#include "base/clock.h"
#include "store-service/blob.h"

#define PAGE 5000

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
static const struct sql_stmt purge_rest[] = {
    {"s_purge_mailboxes", "i", "", "DELETE FROM s_mailbox WHERE account_id = ?1", NULL, false},
    {"s_purge_subscriptions", "i", "", "DELETE FROM s_subscription WHERE account_id = ?1", NULL, false},
    {"s_purge_gaps", "i", "", "DELETE FROM s_gap WHERE account_id = ?1", NULL, false},
    {"s_purge_keywords", "i", "", "DELETE FROM s_keyword WHERE account_id = ?1", NULL, false},
    {"s_purge_threads", "i", "", "DELETE FROM s_thread_key WHERE account_id = ?1", NULL, false},
    {"s_purge_changes", "i", "", "DELETE FROM s_changes WHERE account_id = ?1", NULL, false},
    {"s_purge_requests", "i", "", "DELETE FROM s_request WHERE account_id = ?1", NULL, false},
};
static const struct sql_stmt bury_account = {
    "s_bury_account", "iiii", "",
    "INSERT INTO s_account (" ACCOUNT_COLS ") VALUES (?1, ?2, ?3, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, ?4)"
    " ON CONFLICT (account_id) DO UPDATE SET epoch = excluded.epoch, used_bytes = 0, used_messages = 0, inbox_id = 0",
    NULL, false};

struct purge {
    const Thurn__AccountRef *ref;
    int64_t account_id, tenant_id, now_unix;
    size_t n; /* rows of this page */
};

FIBER static bool page_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct purge *p = arg;
    struct arena *a = sql_arena(tx);
    const struct sql_value v[] = {sql_i(p->account_id), sql_i(PAGE)};
    const struct sql_value burial[] = {sql_i(p->account_id), sql_i(p->tenant_id), sql_i(EPOCH_GONE),
                                       sql_i((int64_t)p->ref->incarnation)};
    struct sql_result account, rows, gone;
    account_queue_lock(tx, &p->account_id, 1, &account);
    if (!sql_run(tx, err))
        return false;
    struct account_row there = account.n_rows ? account_take(&account, 0) : (struct account_row){.epoch = EPOCH_GONE};
    if (there.epoch != EPOCH_GONE && !account_check(&there, p->ref, err)) /* another account's mail stays */
        return false;
    sql_queue(tx, &bury_account, burial, 1, NULL);
    if (!sql_exec(tx, &read_msgs, v, 1, &rows, err))
        return false;
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
    p->n = rows.n_rows;
    return true;
}

FIBER static bool rest_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct purge *p = arg;
    const struct sql_value v[] = {sql_i(p->account_id)};
    for (size_t i = 0; i < ARRAY_LEN(purge_rest); i++)
        if (!sql_exec(tx, &purge_rest[i], v, 1, NULL, err))
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
    struct purge p = {.ref = q->account, .account_id = q->account->account_id, .tenant_id = q->account->tenant_id, .now_unix = clock_unix()};
    do {
        if (!sql_write(op.shard->db, page_body, &p, err))
            return false;
    } while (p.n > 0);
    return sql_write(op.shard->db, rest_body, &p, err);
}
