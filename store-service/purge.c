/* PurgeAccount: all rows of an account, some thousands a transaction; repeating it goes on where it stopped. */
#include "base/clock.h"
#include "store-service/blob.h"

#define PAGE 5000

static const struct sql_stmt purge_emails = {
    "s_purge_emails", "ii", "i",
    "DELETE FROM s_email WHERE account_id = ?1 AND email_id IN (SELECT email_id FROM s_email WHERE account_id = ?1 LIMIT ?2)"
    " RETURNING blob_id",
    NULL, false};
static const struct sql_stmt purge_msgs = {
    "s_purge_msgs", "ii", "",
    "DELETE FROM s_msg WHERE account_id = ?1 AND email_id IN (SELECT email_id FROM s_msg WHERE account_id = ?1 LIMIT ?2)",
    NULL, false};
static const struct sql_stmt purge_rest[] = {
    {"s_purge_mailboxes", "i", "", "DELETE FROM s_mailbox WHERE account_id = ?1", NULL, false},
    {"s_purge_keywords", "i", "", "DELETE FROM s_keyword WHERE account_id = ?1", NULL, false},
    {"s_purge_threads", "i", "", "DELETE FROM s_thread_key WHERE account_id = ?1", NULL, false},
    {"s_purge_changes", "i", "", "DELETE FROM s_changes WHERE account_id = ?1", NULL, false},
    {"s_purge_requests", "i", "", "DELETE FROM s_request WHERE account_id = ?1", NULL, false},
    {"s_purge_account", "i", "", "DELETE FROM s_account WHERE account_id = ?1", NULL, false},
};

struct purge {
    int64_t account_id, now_unix;
    int64_t n; /* rows of this page */
};

static bool emails_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct purge *p = arg;
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 2);
    v[0] = sql_i(p->account_id);
    v[1] = sql_i(PAGE);
    struct sql_result r;
    if (!sql_exec(tx, &purge_emails, v, 1, &r, err))
        return false;
    int64_t *blobs = arena_array(sql_arena(tx), int64_t, r.n_rows);
    for (size_t i = 0; i < r.n_rows; i++)
        blobs[i] = sql_at(&r, i, 0)->i;
    blob_queue_unref(tx, blobs, r.n_rows, p->now_unix);
    p->n = (int64_t)r.n_rows;
    return true;
}

static bool msgs_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct purge *p = arg;
    const struct sql_value v[] = {sql_i(p->account_id), sql_i(PAGE)};
    struct sql_result r;
    if (!sql_exec(tx, &purge_msgs, v, 1, &r, err))
        return false;
    p->n = r.n_affected;
    return true;
}

static bool rest_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct purge *p = arg;
    const struct sql_value v[] = {sql_i(p->account_id)};
    for (size_t i = 0; i < ARRAY_LEN(purge_rest); i++)
        if (!sql_exec(tx, &purge_rest[i], v, 1, NULL, err))
            return false;
    return true;
}

bool store_do_purge_account(struct store *s, struct rpc_call *c, const Thurn__AccountRequest *q, Thurn__Empty *r,
                            struct err *err)
{
    (void)c;
    (void)r;
    struct op op; /* for its checks alone */
    if (!op_init(&op, s, q->account, err))
        return false;
    struct purge p = {.account_id = q->account->account_id, .now_unix = clock_unix()};
    const sql_body paged[] = {msgs_body, emails_body};
    for (size_t i = 0; i < ARRAY_LEN(paged); i++) {
        do {
            if (!sql_write(op.shard->db, paged[i], &p, err))
                return false;
        } while (p.n > 0);
    }
    return sql_write(op.shard->db, rest_body, &p, err);
}
