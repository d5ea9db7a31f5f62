#include "store-service/message/message.h"

#include "base/num.h"
#include "store-service/log/change.h"
#include "store-service/mailbox/mailbox.h"
#include "store-service/message/keyword.h"

#define MSG_COLS                                                                                                       \
    "m.uid, m.modseq, m.flags, m.kw, m.email_id, m.thread_id, m.size, m.internal_unix, m.internal_zone, m.saved_unix"
#define MSG_TYPES "iiibiiiiii"
#define PARSED_COLS ", e.sent_unix, e.parsed"
#define PARSED_TYPES "ib"
#define BODY_COLS ", e.prefix, " BLOB_PLACE_COLS ", i.data"
#define BODY_TYPES "b" BLOB_PLACE_TYPES "b"
#define JOIN_EMAIL " JOIN s_email e ON e.account_id = m.account_id AND e.email_id = m.email_id"
#define JOIN_BODY " JOIN s_blob b ON b.blob_id = e.blob_id LEFT JOIN s_blob_inline i ON i.blob_id = b.blob_id"

/* One range in order, which can stop early; and many small ranges in one statement. */
#define SELECT(NAME, COLS, TYPES, JOINS)                                                                               \
    {                                                                                                                  \
        {NAME,                                                                                                         \
         "iiiiiii",                                                                                                    \
         MSG_TYPES TYPES,                                                                                              \
         "SELECT " MSG_COLS COLS " FROM s_msg m" JOINS                                                                 \
         " WHERE m.account_id = ?1 AND m.mailbox_id = ?2 AND m.uid >= ?3 AND m.uid <= ?4 AND m.modseq > ?5"            \
         " AND (m.flags & ?6) = ?6 ORDER BY m.uid LIMIT ?7",                                                           \
         NULL,                                                                                                         \
         false},                                                                                                       \
        {                                                                                                              \
            NAME "_set", "iiiiiii", MSG_TYPES TYPES,                                                                   \
                "SELECT " MSG_COLS COLS " FROM s_msg m" JOINS                                                          \
                " WHERE m.account_id = ?1 AND m.mailbox_id = ?2 AND m.uid >= ?3 AND m.uid <= ?4 AND m.modseq > ?5"     \
                " AND (m.flags & ?6) = ?6 ORDER BY m.uid LIMIT ?7",                                                    \
                "SELECT " MSG_COLS COLS " FROM unnest($1, $2, $3, $4, $5, $6) AS q (account_id, mailbox_id, lo, hi,"   \
                " since, flags) JOIN s_msg m ON m.account_id = q.account_id AND m.mailbox_id = q.mailbox_id AND"       \
                " m.uid >= q.lo AND m.uid <= q.hi AND m.modseq > q.since AND (m.flags & q.flags) = q.flags" JOINS      \
                " ORDER BY m.uid LIMIT ($7)[1]",                                                                       \
                true                                                                                                   \
        }                                                                                                              \
    }
static const struct sql_stmt selects[4][2] = {
    [0] = SELECT("s_msgs", "", "", ""),
    [MSG_WITH_PARSED] = SELECT("s_msgs_parsed", PARSED_COLS, PARSED_TYPES, JOIN_EMAIL),
    [MSG_WITH_BODY] = SELECT("s_msgs_body", BODY_COLS, BODY_TYPES, JOIN_EMAIL JOIN_BODY),
    [MSG_WITH_PARSED | MSG_WITH_BODY] =
        SELECT("s_msgs_both", PARSED_COLS BODY_COLS, PARSED_TYPES BODY_TYPES, JOIN_EMAIL JOIN_BODY),
};
#define SET_RANGES_MAX 1000u

static struct msg_row take(const struct sql_result *r, size_t row, unsigned with)
{
    const struct sql_value *v = sql_at(r, row, 0);
    struct msg_row m = {.uid = (uint32_t)v[0].i,
                        .modseq = v[1].i,
                        .flags = v[2].i,
                        .kw = v[3].s,
                        .email_id = v[4].i,
                        .thread_id = v[5].i,
                        .size = v[6].i,
                        .internal_unix = v[7].i,
                        .internal_zone = v[8].i,
                        .saved_unix = v[9].i};
    v += 10;
    if (with & MSG_WITH_PARSED) {
        m.sent_unix = v[0].i;
        m.parsed = v[1].s;
        v += 2;
    }
    if (with & MSG_WITH_BODY) {
        m.prefix = v[0].s;
        m.place = blob_place_take(v + 1);
        m.place.data = v[10].s;
    }
    return m;
}

/* The next ranges that go into one statement: one large one, or small ones that together are not much over the limit.
 */
static size_t chunk_of(const struct uidset *s, size_t at, uint64_t limit)
{
    uint64_t span = 0;
    size_t n = 0;
    while (at + n < s->n && n < SET_RANGES_MAX) {
        uint64_t more = s->v[at + n].last - s->v[at + n].first + 1;
        if (n > 0 && span + more > 2 * limit)
            break;
        span += more;
        n++;
    }
    return n;
}

FIBER static bool read_chunk(struct sql_tx *tx, const struct msg_query *q, size_t at, size_t n, uint64_t from,
                             size_t limit, struct sql_result *r, struct err *err)
{
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, n * 7), *p = v;
    for (size_t i = 0; i < n; i++) {
        *p++ = sql_i(q->account_id);
        *p++ = sql_i(q->mailbox_id);
        *p++ = sql_i((int64_t)MAX(q->uids->v[at + i].first, from));
        *p++ = sql_i((int64_t)q->uids->v[at + i].last);
        *p++ = sql_i(q->since_modseq);
        *p++ = sql_i(q->flags);
        *p++ = sql_i((int64_t)limit);
    }
    return sql_exec(tx, &selects[q->with][n > 1], v, n, r, err);
}

bool messages_read(struct sql_tx *tx, const struct msg_query *q, struct msg_row **rows, size_t *n, uint64_t *next_uid,
                   struct err *err)
{
    struct arena *a = sql_arena(tx);
    struct msg_row *out = NULL;
    size_t got = 0, cap = 0, at = 0;
    uint64_t from = q->from_uid;
    for (;;) {
        while (at < q->uids->n && q->uids->v[at].last < from)
            at++;
        if (at == q->uids->n || got > q->limit)
            break;
        size_t count = chunk_of(q->uids, at, q->limit + 1), want = MIN(q->limit + 1 - got, ROWS_AT_ONCE);
        struct sql_result r;
        if (!read_chunk(tx, q, at, count, from, want, &r, err))
            return false;
        /* SQLite limits each range by itself; the first ones are whole in any case */
        size_t n_rows = MIN(r.n_rows, want);
        if (got + n_rows > cap) {
            cap = MAX(cap * 2, got + n_rows);
            struct msg_row *more = arena_alloc(a, size_mul(cap, sizeof *more));
            if (got)
                memcpy(more, out, got * sizeof *more);
            out = more;
        }
        for (size_t i = 0; i < n_rows; i++) {
            out[got++] = take(&r, i, q->with);
            if (!sql_breathe(tx, err))
                return false;
        }
        if (n_rows == want)
            from = (uint64_t)out[got - 1].uid + 1;
        else
            at += count;
    }
    *next_uid = got > q->limit ? out[q->limit].uid : 0;
    *n = MIN(got, q->limit);
    *rows = out;
    return true;
}

Thurn__Message *message_to_proto(const struct msg_row *m, struct arena *a)
{
    Thurn__Message *p = arena_new(a, Thurn__Message);
    thurn__message__init(p);
    p->uid = m->uid;
    p->modseq = (uint64_t)m->modseq;
    p->flags = (uint32_t)m->flags;
    kw_to_proto(m->kw, a, &p->keywords, &p->n_keywords);
    p->email_id = m->email_id;
    p->thread_id = m->thread_id;
    p->size = (uint64_t)m->size;
    p->internal_unix = m->internal_unix;
    p->internal_zone = (int32_t)m->internal_zone;
    p->saved_unix = m->saved_unix;
    return p;
}

size_t message_proto_size(const struct msg_row *m)
{
    return 80 + m->kw.n * 2 + m->parsed.n;
}

/* --- writing --- */

// clang-format off
static const struct sql_stmt insert_msgs = {
    "s_insert_msgs", "iiiiiiiiiiib", "",
    "INSERT INTO s_msg (account_id, mailbox_id, uid, email_id, thread_id, modseq, internal_unix, saved_unix, size, flags,"
    " internal_zone, kw) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    "INSERT INTO s_msg (account_id, mailbox_id, uid, email_id, thread_id, modseq, internal_unix, saved_unix, size, flags,"
    " internal_zone, kw) SELECT * FROM {rows} AS v",
    true};
static const struct sql_stmt delete_msgs = {
    "s_delete_msgs", "iii", "", "DELETE FROM s_msg WHERE account_id = ?1 AND mailbox_id = ?2 AND uid = ?3",
    "DELETE FROM s_msg m USING {rows} AS v (a, b, uid)"
    " WHERE m.account_id = v.a AND m.mailbox_id = v.b AND m.uid = v.uid",
    true};
static const struct sql_stmt delete_orphans = {
    "s_delete_orphans", "iii", "ii",
    "DELETE FROM s_email WHERE account_id = ?1 AND email_id = ?3 AND NOT EXISTS (SELECT 1 FROM s_msg WHERE"
    " account_id = ?1 AND thread_id = ?2 AND email_id = ?3) RETURNING email_id, blob_id",
    /* Each once: of a thousand copies of one email, every look-up would step over all that were deleted just now. */
    "DELETE FROM s_email e USING (SELECT DISTINCT * FROM {rows} AS u) AS v (a, t, email_id) WHERE e.account_id = v.a AND"
    " e.email_id = v.email_id AND NOT EXISTS (SELECT 1 FROM s_msg m WHERE m.account_id = v.a AND m.thread_id = v.t AND"
    " m.email_id = v.email_id) RETURNING e.email_id, e.blob_id",
    true};

/* The keys of threads whose last email has gone. */
static const struct sql_stmt delete_thread_keys = {
    "s_delete_thread_keys", "ii", "",
    "DELETE FROM s_thread_key WHERE account_id = ?1 AND thread_id = ?2 AND NOT EXISTS (SELECT 1 FROM s_msg WHERE"
    " account_id = ?1 AND thread_id = ?2)",
    "DELETE FROM s_thread_key k USING {rows} AS v (a, t) WHERE k.account_id = v.a AND k.thread_id = v.t AND NOT EXISTS"
    " (SELECT 1 FROM s_msg m WHERE m.account_id = v.a AND m.thread_id = v.t)",
    true};
// clang-format on

void messages_queue_insert(struct sql_tx *tx, const struct msg_insert *v, size_t n)
{
    struct sql_value *values = arena_array(sql_arena(tx), struct sql_value, size_mul(n, 12)), *p = values;
    for (size_t i = 0; i < n; i++) {
        const struct msg_row *m = &v[i].row;
        const int64_t cols[] = {v[i].account_id,  v[i].mailbox_id, m->uid,  m->email_id, m->thread_id,    m->modseq,
                                m->internal_unix, m->saved_unix,   m->size, m->flags,    m->internal_zone};
        for (size_t k = 0; k < ARRAY_LEN(cols); k++)
            *p++ = sql_i(cols[k]);
        *p++ = sql_s(m->kw);
    }
    sql_queue(tx, &insert_msgs, values, n, NULL);
}

static int compare_ids(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* Where the rows of one email come together. */
static int compare_emails(const void *a, const void *b)
{
    return compare_ids(&(*(const struct msg_row *const *)a)->email_id, &(*(const struct msg_row *const *)b)->email_id);
}

/* Emails that are in no mailbox any more; each is asked for once. *ids (ascending) is set to those that are gone. */
FIBER static bool remove_orphans(struct sql_tx *tx, struct op *op, const struct msg_row *v, size_t n, int64_t **ids,
                                 size_t *n_ids, struct err *err)
{
    const struct msg_row **rows = arena_array(sql_arena(tx), const struct msg_row *, n);
    struct sql_value *keys = arena_array(sql_arena(tx), struct sql_value, size_mul(n, 3)), *p = keys;
    for (size_t i = 0; i < n; i++)
        rows[i] = &v[i];
    qsort(rows, n, sizeof *rows, compare_emails);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && rows[i]->email_id == rows[i - 1]->email_id)
            continue;
        *p++ = sql_i(op->account.account_id);
        *p++ = sql_i(rows[i]->thread_id);
        *p++ = sql_i(rows[i]->email_id);
    }
    struct sql_result r;
    if (!sql_exec(tx, &delete_orphans, keys, (size_t)(p - keys) / 3, &r, err))
        return false;
    int64_t *blobs = arena_array(sql_arena(tx), int64_t, r.n_rows);
    *ids = arena_array(sql_arena(tx), int64_t, r.n_rows);
    *n_ids = r.n_rows;
    for (size_t i = 0; i < r.n_rows; i++) {
        (*ids)[i] = sql_at(&r, i, 0)->i;
        blobs[i] = sql_at(&r, i, 1)->i;
    }
    if (r.n_rows)
        qsort(*ids, r.n_rows, sizeof **ids, compare_ids);
    blob_queue_unref(tx, blobs, r.n_rows, op->now_unix);
    return true;
}

/* gone: emails, ascending. */
static void queue_thread_keys(struct sql_tx *tx, const struct op *op, const struct msg_row *v, size_t n,
                              const int64_t *gone, size_t n_gone)
{
    int64_t *threads = arena_array(sql_arena(tx), int64_t, n);
    size_t n_threads = 0, rows = 0;
    for (size_t i = 0; i < n; i++)
        if (n_gone && bsearch(&v[i].email_id, gone, n_gone, sizeof *gone, compare_ids))
            threads[n_threads++] = v[i].thread_id;
    if (n_threads == 0)
        return;
    qsort(threads, n_threads, sizeof *threads, compare_ids);
    struct sql_value *keys = arena_array(sql_arena(tx), struct sql_value, size_mul(n_threads, 2));
    for (size_t i = 0; i < n_threads; i++) {
        if (i > 0 && threads[i] == threads[i - 1])
            continue;
        keys[rows * 2] = sql_i(op->account.account_id);
        keys[rows++ * 2 + 1] = sql_i(threads[i]);
    }
    sql_queue(tx, &delete_thread_keys, keys, rows, NULL);
}

FIBER static bool remove_some(struct sql_tx *tx, struct op *op, struct mailbox_row *m, const struct msg_row *v,
                              size_t n, bool is_move, struct err *err)
{
    struct arena *a = sql_arena(tx);
    struct sql_value *keys = arena_array(a, struct sql_value, size_mul(n, 3));
    for (size_t i = 0; i < n; i++) {
        keys[i * 3] = sql_i(op->account.account_id);
        keys[i * 3 + 1] = sql_i(m->mailbox_id);
        keys[i * 3 + 2] = sql_i(v[i].uid);
        mailbox_count(m, &op->account, v[i].flags, v[i].size, -1);
    }
    sql_queue(tx, &delete_msgs, keys, n, NULL);
    int64_t *gone = NULL;
    size_t n_gone = 0;
    if (!is_move && !remove_orphans(tx, op, v, n, &gone, &n_gone, err))
        return false;
    queue_thread_keys(tx, op, v, n, gone, n_gone);
    struct change_item *unlinked = arena_array(a, struct change_item, n),
                       *destroyed = arena_array(a, struct change_item, n);
    size_t n_unlinked = 0, n_destroyed = 0;
    for (size_t i = 0; i < n; i++) {
        struct change_item item = {v[i].uid, v[i].email_id, v[i].thread_id};
        if (n_gone && bsearch(&v[i].email_id, gone, n_gone, sizeof *gone, compare_ids))
            destroyed[n_destroyed++] = item;
        else
            unlinked[n_unlinked++] = item;
    }
    if (n_unlinked)
        change_queue_items(tx, op, m, CHANGE_UNLINKED, unlinked, n_unlinked);
    if (n_destroyed)
        change_queue_items(tx, op, m, CHANGE_DESTROYED, destroyed, n_destroyed);
    return true;
}

bool messages_remove(struct sql_tx *tx, struct op *op, struct mailbox_row *m, const struct msg_row *v, size_t n,
                     bool is_move, struct err *err)
{
    for (size_t at = 0; at < n; at += ROWS_AT_ONCE) {
        if (at > 0 && (!sql_run(tx, err) || !sql_breathe(tx, err)))
            return false;
        if (!remove_some(tx, op, m, v + at, MIN(n - at, ROWS_AT_ONCE), is_move, err))
            return false;
    }
    return true;
}
