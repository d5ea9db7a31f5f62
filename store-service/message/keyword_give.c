/*
 * Names of keywords that no message has any more are given back when the dictionary is full.
 *
 * Which ids are in use is read page by page, each on a snapshot of its own. What changed since the first of them is in
 * the change log: under the account's lock those messages are looked at once more, and then the names that were seen
 * nowhere go.
 */
#include "base/clock.h"
#include "store-service/log/change.h"
#include "store-service/message/keyword.h"

#define PAGE 4000
#define LATE_ROWS 200 /* of the log: more went on meanwhile than is looked at under the lock */
#define EVERY_MS 60000

// clang-format off
static const struct sql_stmt read_page = {
    "s_keywords_in_use", "iiii", "iib",
    "SELECT mailbox_id, uid, kw FROM s_msg WHERE account_id = ?1 AND (mailbox_id, uid) > (?2, ?3) ORDER BY mailbox_id, uid"
    " LIMIT ?4",
    NULL, false};
static const struct sql_stmt read_log = {
    "s_keywords_log", "iiii", "iib",
    "SELECT op, mailbox_id, items FROM s_changes WHERE account_id = ?1 AND modseq > ?2 AND week >= ?3 ORDER BY modseq LIMIT ?4",
    NULL, false};
static const struct sql_stmt read_late = {
    "s_keywords_late", "iii", "b", "SELECT kw FROM s_msg WHERE account_id = ?1 AND mailbox_id = ?2 AND uid = ?3",
    "SELECT m.kw FROM {rows} AS v (a, b, uid) JOIN s_msg m ON m.account_id = v.a AND m.mailbox_id = v.b AND m.uid = v.uid", true};
static const struct sql_stmt delete_keywords = {
    "s_delete_keywords", "ii", "", "DELETE FROM s_keyword WHERE account_id = ?1 AND kw_id = ?2",
    "DELETE FROM s_keyword k USING {rows} AS v (a, id) WHERE k.account_id = v.a AND k.kw_id = v.id", true};
// clang-format on

struct give_op {
    struct op op;
    bool *is_used; /* by id */
    int64_t since; /* modseq at the first page; -1 = not read yet */
    int64_t at[2]; /* mailbox and UID of the last row that was read */
    size_t n_rows;
    bool has_room;
};

static void note(struct give_op *g, str kw)
{
    const unsigned char *p = (const unsigned char *)kw.p;
    for (size_t i = 0; i + 1 < kw.n; i += 2)
        g->is_used[p[i] << 8 | p[i + 1]] = true;
}

FIBER static bool page_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct give_op *g = arg;
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 4);
    struct sql_result r;
    op_begin_read(tx, &g->op);
    v[0] = sql_i(g->op.ref->account_id);
    v[1] = sql_i(g->at[0]);
    v[2] = sql_i(g->at[1]);
    v[3] = sql_i(PAGE);
    if (!sql_exec(tx, &read_page, v, 1, &r, err) || !op_ready(&g->op, err))
        return false;
    if (g->since < 0)
        g->since = g->op.account.modseq;
    for (size_t i = 0; i < r.n_rows; i++) {
        note(g, sql_at(&r, i, 2)->s);
        if (!sql_breathe(tx, err))
            return false;
    }
    g->n_rows = r.n_rows;
    if (r.n_rows) {
        g->at[0] = sql_at(&r, r.n_rows - 1, 0)->i;
        g->at[1] = sql_at(&r, r.n_rows - 1, 1)->i;
    }
    return true;
}

/* The messages that the log speaks of, as they are now. */
FIBER static bool note_late(struct sql_tx *tx, struct give_op *g, const struct sql_result *log, struct err *err)
{
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, log->n_rows * CHANGE_ITEMS_MAX * 3);
    size_t n = 0;
    for (size_t i = 0; i < log->n_rows; i++) {
        if (sql_at(log, i, 0)->i >= CHANGE_MBOX_CREATED)
            continue;
        struct cursor cur = cur_of(sql_at(log, i, 2)->s);
        struct change_item it = {0};
        while (change_item_next(&cur, &it)) {
            v[n * 3] = sql_i(g->op.account.account_id);
            v[n * 3 + 1] = *sql_at(log, i, 1);
            v[n++ * 3 + 2] = sql_i(it.uid);
        }
    }
    struct sql_result r = {0};
    if (n && !sql_exec(tx, &read_late, v, n, &r, err))
        return false;
    for (size_t i = 0; i < r.n_rows; i++)
        note(g, sql_at(&r, i, 0)->s);
    return true;
}

FIBER static bool give_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct give_op *g = arg;
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 4);
    struct sql_result names, log;
    g->has_room = false;
    op_begin(tx, &g->op);
    keywords_queue_load(tx, &g->op.ref->account_id, 1, &names);
    if (!sql_run(tx, err) || !op_ready(&g->op, err))
        return false;
    v[0] = sql_i(g->op.account.account_id);
    v[1] = sql_i(g->since);
    v[2] = sql_i(log_first_week(&g->op.account, g->since));
    v[3] = sql_i(LATE_ROWS + 1);
    if (!sql_exec(tx, &read_log, v, 1, &log, err))
        return false;
    if (g->since < g->op.account.floor_modseq || log.n_rows > LATE_ROWS)
        return true; /* too much went on: another time */
    if (!note_late(tx, g, &log, err))
        return false;
    struct keywords k = keywords_take(sql_arena(tx), &names, g->op.account.account_id);
    struct sql_value *gone = arena_array(sql_arena(tx), struct sql_value, k.n * 2);
    size_t n = 0;
    for (size_t i = 0; i < k.n; i++) {
        if (g->is_used[k.v[i].id & UINT16_MAX] || k.v[i].id == k.last_id) /* the last says which ids there were */
            continue;
        gone[n * 2] = sql_i(g->op.account.account_id);
        gone[n++ * 2 + 1] = sql_i(k.v[i].id);
    }
    sql_queue(tx, &delete_keywords, gone, n, NULL);
    g->has_room = n > 0 && k.last_id < UINT16_MAX; /* else ids are out, whatever is given back */
    return true;
}

/* Not again at once for an account that fills its dictionary with what it uses. */
static bool is_due(struct shard *sh, int64_t account_id)
{
    struct given *at = &sh->given[(uint64_t)account_id % ARRAY_LEN(sh->given)];
    int64_t now = clock_mono_ms();
    if (at->account_id == account_id && now - at->mono_ms < EVERY_MS)
        return false;
    *at = (struct given){account_id, now};
    return true;
}

bool keywords_give_back(struct store *s, const Thurn__AccountRef *ref, struct err *err)
{
    ARENA(a, 1 << 20);
    struct give_op g = {.since = -1, .is_used = arena_array(&a, bool, UINT16_MAX + 1)};
    if (!op_init(&g.op, s, ref, err) || !is_due(g.op.shard, ref->account_id))
        return false;
    do {
        if (!op_read(&g.op, page_body, &g, err) || !fiber_yield_if_due(err))
            return false;
    } while (g.n_rows == PAGE);
    return op_write(&g.op, give_body, &g, err) && g.has_room;
}
