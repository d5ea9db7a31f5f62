#include "store-service/log/change.h"

#include "base/num.h"
#include "store-service/mailbox/mailbox.h"

// clang-format off
static const struct sql_stmt insert_changes = {
    "s_insert_changes", "iiiiiib", "",
    "INSERT INTO s_changes (account_id, modseq, week, type, op, mailbox_id, items) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    "INSERT INTO s_changes (account_id, modseq, week, type, op, mailbox_id, items)"
    " SELECT * FROM {rows} AS v",
    true};
// clang-format on

/* What kind of thing it happens to. */
static const Thurn__ChangeType type_of[] = {
    [CHANGE_ADDED] = THURN__CHANGE_TYPE__CHANGE_EMAIL,
    [CHANGE_LINKED] = THURN__CHANGE_TYPE__CHANGE_EMAIL,
    [CHANGE_FLAGS] = THURN__CHANGE_TYPE__CHANGE_EMAIL,
    [CHANGE_UNLINKED] = THURN__CHANGE_TYPE__CHANGE_EMAIL,
    [CHANGE_DESTROYED] = THURN__CHANGE_TYPE__CHANGE_EMAIL,
    [CHANGE_MBOX_CREATED] = THURN__CHANGE_TYPE__CHANGE_MAILBOX,
    [CHANGE_MBOX_UPDATED] = THURN__CHANGE_TYPE__CHANGE_MAILBOX,
    [CHANGE_MBOX_DESTROYED] = THURN__CHANGE_TYPE__CHANGE_MAILBOX,
};
static_assert(ARRAY_LEN(type_of) == CHANGE_OPS_, "each change has its type");

void change_queue(struct sql_tx *tx, const struct change *rows, size_t n)
{
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, size_mul(n, 7)), *p = v;
    for (size_t i = 0; i < n; i++) {
        *p++ = sql_i(rows[i].account_id);
        *p++ = sql_i(rows[i].modseq);
        *p++ = sql_i(rows[i].week);
        *p++ = sql_i(type_of[rows[i].op]);
        *p++ = sql_i(rows[i].op);
        *p++ = sql_i(rows[i].mailbox_id);
        *p++ = sql_s(rows[i].items);
    }
    sql_queue(tx, &insert_changes, v, n, NULL);
}

int64_t change_queue_mailbox(struct sql_tx *tx, struct op *op, int64_t mailbox_id, enum change_op what)
{
    int64_t modseq = account_next_modseq(&op->account, op->now_unix);
    struct change row = {op->account.account_id, modseq, op->account.week, mailbox_id, what, STR_NONE};
    change_queue(tx, &row, 1);
    return modseq;
}

str change_items(struct arena *a, const struct change_item *v, size_t n)
{
    BUF(b, size_mul(n, 32));
    change_items_encode(&b, v, n);
    return arena_str(a, buf_str(&b));
}

int64_t change_queue_items(struct sql_tx *tx, struct op *op, struct mailbox_row *m, enum change_op what,
                           const struct change_item *v, size_t n)
{
    int64_t first = op->account.modseq + 1;
    size_t n_rows = (n + CHANGE_ITEMS_MAX - 1) / CHANGE_ITEMS_MAX;
    struct change *rows = arena_array(sql_arena(tx), struct change, n_rows);
    for (size_t i = 0; i < n_rows; i++) {
        size_t from = i * CHANGE_ITEMS_MAX, count = MIN(n - from, CHANGE_ITEMS_MAX);
        int64_t modseq = account_next_modseq(&op->account, op->now_unix);
        rows[i] = (struct change){op->account.account_id, modseq, op->account.week,
                                  m->mailbox_id,          what,   change_items(sql_arena(tx), v + from, count)};
        m->highestmodseq = modseq;
    }
    change_queue(tx, rows, n_rows);
    return first;
}

int64_t log_first_week(const struct account_row *a, int64_t since)
{
    return since >= a->week_modseq ? a->week : 0;
}
