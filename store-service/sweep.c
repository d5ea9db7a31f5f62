/*
 * What has to be done from time to time: partitions, retention, bodies that nothing refers to, objects to be deleted,
 * segments to be compacted, and what deletions have left. Everything here may stop half-way and is found again by the
 * next run, and goes in slices with rests between them (pace.c): it never has more than half of a database.
 */
#include "base/clock.h"
#include "store-service/account/account.h"
#include "store-service/blob/backend.h"
#include "store-service/blob/sweep.h"
#include "store-service/mailbox/leaving.h"
#include "store-service/pace.h"

/* --- retention --- */

#define SLICE 1000

// clang-format off
static const struct sql_stmt raise_floors = {
    "s_raise_floors", "iii", "",
    /* The oldest row of an account comes first in its log: mostly it is not old, and that is all that is looked at. */
    "UPDATE s_account SET floor_modseq = max(floor_modseq, (SELECT max(modseq) FROM s_changes c WHERE c.account_id ="
    " s_account.account_id AND week < ?3)) WHERE account_id >= ?1 AND account_id < ?2 AND (SELECT week FROM s_changes c WHERE"
    " c.account_id = s_account.account_id ORDER BY modseq LIMIT 1) < ?3",
    "UPDATE s_account a SET floor_modseq = c.top FROM (SELECT account_id, max(modseq) AS top FROM s_changes WHERE week < $3"
    " AND account_id >= $1 AND account_id < $2 GROUP BY account_id) c WHERE a.account_id = c.account_id AND"
    " a.floor_modseq < c.top",
    false};
static const struct sql_stmt next_account = {
    "s_next_account", "i", "ii",
    "SELECT count(*), coalesce(max(account_id), 0) + 1 FROM (SELECT account_id FROM s_account WHERE account_id >= ?1"
    " ORDER BY account_id LIMIT 100) AS page",
    NULL, false};
static const struct sql_stmt drop_changes = {
    "s_drop_changes", "i", "i", "SELECT 0 WHERE ?1 < 0", "SELECT s_drop_partitions('s_changes', $1)", false};
static const struct sql_stmt drop_delivered = {
    "s_drop_delivered", "i", "ii", "SELECT 0, 0 WHERE ?1 < 0",
    "SELECT s_drop_partitions('s_delivered', $1), s_drop_partitions('s_request', $1)", false};
/*
 * One slice each. SQLite finds the old rows of a page of accounts by their keys (?1 to ?2); PostgreSQL has them in partitions
 * that were dropped, but for what came in when there was no partition for it. ?3: the bound, ?4: how many.
 */
static const struct sql_stmt trim_pages[] = {
    {"s_trim_changes", "iiii", "",
     "DELETE FROM s_changes WHERE (account_id, modseq) IN (SELECT c.account_id, c.modseq FROM s_account a JOIN s_changes c ON"
     " c.account_id = a.account_id AND c.modseq <= a.floor_modseq WHERE a.account_id >= ?1 AND a.account_id < ?2 AND"
     " c.week < ?3 LIMIT ?4)",
     "SELECT $1::bigint, $2::bigint, $3::bigint, $4::bigint WHERE false", false},
    {"s_trim_requests", "iiii", "",
     "DELETE FROM s_request WHERE (account_id, request_id, day) IN (SELECT account_id, request_id, day FROM s_request WHERE"
     " account_id >= ?1 AND account_id < ?2 AND day < ?3 LIMIT ?4)",
     "SELECT $1::bigint, $2::bigint, $3::bigint, $4::bigint WHERE false", false},
};
static const struct sql_stmt trim_rest[] = {
    {"s_trim_default_changes", "ii", "", "DELETE FROM s_changes WHERE false AND ?1 = ?2",
     "DELETE FROM s_changes_default WHERE ctid = ANY (ARRAY (SELECT ctid FROM s_changes_default WHERE week < $1 LIMIT $2))", false},
    {"s_trim_delivered", "ii", "",
     "DELETE FROM s_delivered WHERE (day, key) IN (SELECT day, key FROM s_delivered WHERE day < ?1 LIMIT ?2)",
     "DELETE FROM s_delivered_default WHERE ctid = ANY (ARRAY (SELECT ctid FROM s_delivered_default WHERE day < $1 LIMIT $2))",
     false},
    /* of bodies that messages refer to, whose holder did not come to release them */
    {"s_trim_holds", "ii", "",
     "DELETE FROM s_hold WHERE (blob_id, holder) IN (SELECT blob_id, holder FROM s_hold WHERE until < ?1 LIMIT ?2)",
     "DELETE FROM s_hold WHERE ctid = ANY (ARRAY (SELECT ctid FROM s_hold WHERE until < $1 LIMIT $2))", false},
    {"s_trim_default_requests", "ii", "", "DELETE FROM s_request WHERE false AND ?1 = ?2",
     "DELETE FROM s_request_default WHERE ctid = ANY (ARRAY (SELECT ctid FROM s_request_default WHERE day < $1 LIMIT $2))", false},
};
// clang-format on

struct retention {
    int64_t from, to, week, day;
    const struct sql_stmt *trim; /* the slice that slice_body does */
    struct sql_value params[4];
    int64_t n_gone;
};

FIBER static bool floors_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct retention *r = arg;
    const struct sql_value v[] = {sql_i(r->from), sql_i(r->to), sql_i(r->week)};
    return sql_exec(tx, &raise_floors, v, 1, NULL, err);
}

FIBER static bool slice_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct retention *r = arg;
    struct sql_result gone;
    if (!sql_exec(tx, r->trim, r->params, 1, &gone, err))
        return false;
    r->n_gone = gone.n_affected;
    return true;
}

FIBER static bool trim(struct shard *sh, struct retention *r, struct err *err)
{
    do {
        struct pace pace = pace_begin();
        if (!sql_write(sh->db, slice_body, r, err) || !pace_rest(&pace, err))
            return false;
    } while (r->n_gone >= SLICE);
    return true;
}

/* Floors first: then nobody reads below them any more, and the rows may go. */
FIBER static bool retain_page(struct shard *sh, struct retention *r, struct err *err)
{
    struct pace pace = pace_begin();
    if (!sql_write(sh->db, floors_body, r, err) || !pace_rest(&pace, err))
        return false;
    for (size_t i = 0; i < ARRAY_LEN(trim_pages) && !sql_db_is_pg(sh->db); i++) {
        r->trim = &trim_pages[i];
        r->params[0] = sql_i(r->from);
        r->params[1] = sql_i(r->to);
        r->params[2] = sql_i(i == 0 ? r->week : r->day);
        r->params[3] = sql_i(SLICE);
        if (!trim(sh, r, err))
            return false;
    }
    return true;
}

FIBER static bool drop_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct retention *r = arg;
    /* A partition goes while readers are about that began before its floors were raised; so it goes a week after that.
     */
    const struct sql_value last_week[] = {sql_i(r->week - 1)}, day_week[] = {sql_i(r->day / 7)};
    return sql_exec(tx, &drop_changes, last_week, 1, NULL, err) &&
           sql_exec(tx, &drop_delivered, day_week, 1, NULL, err);
}

FIBER static bool retain(struct shard *sh, struct err *err)
{
    const struct store_limits *l = &sh->store->limits;
    struct retention r = {.from = 1,
                          .week = (clock_unix() - (int64_t)l->change_days * DAY_S) / WEEK_S,
                          .day = clock_unix() / DAY_S - l->delivered_days};
    for (;; r.from = r.to) {
        const struct sql_value from[] = {sql_i(r.from)};
        ARENA(page, 4096);
        struct sql_result next;
        if (!sql_query(sh->db, &next_account, from, &page, &next, err))
            return false;
        r.to = sql_at(&next, 0, 1)->i;
        if (sql_at(&next, 0, 0)->i == 0)
            break;
        if (!retain_page(sh, &r, err))
            return false;
    }
    if (!sql_write(sh->db, drop_body, &r, err))
        return false;
    const int64_t bounds[] = {r.week, r.day, clock_unix(), r.day};
    static_assert(ARRAY_LEN(bounds) == ARRAY_LEN(trim_rest), "a bound for each");
    for (size_t i = 0; i < ARRAY_LEN(trim_rest); i++) {
        r.trim = &trim_rest[i];
        r.params[0] = sql_i(bounds[i]);
        r.params[1] = sql_i(SLICE);
        if (!trim(sh, &r, err))
            return false;
    }
    return true;
}

/* --- the file of SQLite --- */

#define VACUUM_MIN 256    /* pages of 4 KiB: less is not worth a transaction */
#define VACUUM_SLICES 256 /* of one sweep: a GiB */
#define VACUUM_KEEP 10    /* a tenth of the file may be free: it is filled again */

// clang-format off
static const struct sql_stmt count_pages = {
    "s_count_pages", "", "ii", "SELECT (SELECT freelist_count FROM pragma_freelist_count), (SELECT page_count FROM"
    " pragma_page_count)", "SELECT 0::bigint, 0::bigint", false};
static const struct sql_stmt vacuum = {"s_vacuum", "", "", "PRAGMA incremental_vacuum(1000)", "SELECT 1 WHERE false", false};
// clang-format on

FIBER static bool vacuum_body(struct sql_tx *tx, void *arg, struct err *err)
{
    (void)arg;
    return sql_exec(tx, &vacuum, NULL, 1, NULL, err);
}

/* Give back to the disk what is free for good. */
FIBER static bool shrink(struct shard *sh, struct err *err)
{
    int64_t before = INT64_MAX;
    for (int i = 0; i < VACUUM_SLICES && !sql_db_is_pg(sh->db); i++) {
        ARENA(a, 4096);
        struct sql_result r;
        if (!sql_query(sh->db, &count_pages, NULL, &a, &r, err))
            return false;
        int64_t n_free = sql_at(&r, 0, 0)->i;
        if (n_free <= VACUUM_MIN || n_free <= sql_at(&r, 0, 1)->i / VACUUM_KEEP || n_free >= before)
            return true; /* the last: a file from before it could shrink */
        before = n_free;
        struct pace pace = pace_begin();
        if (!sql_write(sh->db, vacuum_body, NULL, err) || !pace_rest(&pace, err))
            return false;
    }
    return true;
}

/* --- all of it --- */

FIBER static bool sweep_accounts(struct shard *sh, struct err *err)
{
    struct err buried = ERR_INIT;
    bool ok = account_sweep_buried(sh, &buried);
    if (!mailbox_sweep_leaving(sh, err))
        return false;
    return ok || err_set(err, buried.kind, "%s", buried.msg);
}

FIBER static bool sweep_shard(struct shard *sh, int64_t older_than_s, bool dry_run, struct blob_sweep *out,
                              struct err *err)
{
    /* First what everybody's writing needs. What one account holds up comes last, so that it holds up nothing else. */
    if (!dry_run && !schema_make_partitions(sh->db, err))
        return false;
    if (!blob_sweep(sh, older_than_s, dry_run, out, err))
        return false;
    if (dry_run)
        return true;
    bool ok = retain(sh, err) && blob_sweep_garbage(sh, err) && shrink(sh, err);
    struct err accounts = ERR_INIT; /* nor do objects that cannot be deleted keep what accounts have left from going */
    if ((ok || err->kind != ERR_CANCELLED) && !sweep_accounts(sh, &accounts) && ok)
        return err_set(err, accounts.kind, "%s", accounts.msg);
    return ok;
}

FIBER bool store_do_sweep(struct store *s, struct rpc_call *c, const Thurn__SweepRequest *q, Thurn__SweepReply *r,
                          struct err *err)
{
    (void)c;
    struct blob_sweep out = {0};
    struct err first = ERR_INIT;
    int64_t older_than_s = q->older_than_s > 0 ? q->older_than_s : DAY_S;
    /* One shard that is away does not keep the others from being swept. */
    for (unsigned i = 0; i < s->n_shards; i++) {
        struct err one = ERR_INIT;
        if (!sweep_shard(&s->shards[i], older_than_s, q->is_dry_run, &out, &one) && !err_is_set(&first))
            first = one;
    }
    if (!err_is_set(&first) && s->blobs->compact && !s->blobs->compact(s->blobs, s, q->is_dry_run, &first))
        (void)err_prefix(&first, "compaction");
    r->removed = out.removed;
    r->bytes = out.bytes;
    r->kept = out.kept;
    return !err_is_set(&first) || err_set(err, first.kind, "%s", first.msg);
}
