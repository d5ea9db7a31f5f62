#include "store-service/account/account.h"

#include "base/clock.h"
#include "base/num.h"
#include "store-service/account/timeline.h"

// clang-format off
static const struct sql_stmt lock_accounts = {
    "s_lock_accounts", "i", ACCOUNT_COL_TYPES "i", "SELECT " ACCOUNT_COLS ", 0 FROM s_account WHERE account_id = ?1",
    "SELECT " ACCOUNT_COLS ", " PG_TIMELINE " FROM s_account WHERE account_id = ANY ($1) ORDER BY account_id FOR UPDATE",
    true};
static const struct sql_stmt read_account = {"s_read_account", "i", ACCOUNT_COL_TYPES "i",
                                             "SELECT " ACCOUNT_COLS ", 0 FROM s_account WHERE account_id = ?1",
                                             "SELECT " ACCOUNT_COLS ", " PG_TIMELINE " FROM s_account WHERE account_id = $1",
                                             false};
static const struct sql_stmt update_accounts = {
    "s_update_accounts", "iiiiiiiiiiiii", "",
    "UPDATE s_account SET modseq = ?2, floor_modseq = ?3, uidvalidity = ?4, email_seq = ?5, mailbox_seq = ?6,"
    " used_bytes = ?7, used_messages = ?8, inbox_id = ?9, timeline = ?10, week = ?11, week_modseq = ?12, incarnation = ?13"
    " WHERE account_id = ?1",
    "UPDATE s_account a SET modseq = v.c2, floor_modseq = v.c3, uidvalidity = v.c4, email_seq = v.c5, mailbox_seq = v.c6,"
    " used_bytes = v.c7, used_messages = v.c8, inbox_id = v.c9, timeline = v.c10, week = v.c11, week_modseq = v.c12,"
    " incarnation = v.c13 FROM {rows}"
    " AS v (c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13) WHERE a.account_id = v.c1",
    true};
// clang-format on

void account_queue_lock(struct sql_tx *tx, const int64_t *ids, size_t n, struct sql_result *out)
{
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, n);
    for (size_t i = 0; i < n; i++)
        v[i] = sql_i(ids[i]);
    sql_queue(tx, &lock_accounts, v, n, out);
}

void account_queue_read(struct sql_tx *tx, int64_t id, struct sql_result *out)
{
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 1);
    v[0] = sql_i(id);
    sql_queue(tx, &read_account, v, 1, out);
}

struct account_row account_take(const struct sql_result *r, size_t row)
{
    const struct sql_value *v = sql_at(r, row, 0);
    return (struct account_row){
        .account_id = v[0].i,
        .tenant_id = v[1].i,
        .epoch = v[2].i,
        .modseq = v[3].i,
        .floor_modseq = v[4].i,
        .uidvalidity = v[5].i,
        .email_seq = v[6].i,
        .mailbox_seq = v[7].i,
        .used_bytes = v[8].i,
        .used_messages = v[9].i,
        .inbox_id = v[10].i,
        .timeline = v[11].i,
        .week = v[12].i,
        .week_modseq = v[13].i,
        .incarnation = v[14].i,
        .now_timeline = v[15].i,
    };
}

void account_queue_update(struct sql_tx *tx, const struct account_row *rows, size_t n)
{
    enum { COLS = 13 };
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, size_mul(n, COLS));
    for (size_t i = 0; i < n; i++) {
        const struct account_row *a = &rows[i];
        const int64_t cols[COLS] = {a->account_id,  a->modseq,      a->floor_modseq,  a->uidvalidity, a->email_seq,
                                    a->mailbox_seq, a->used_bytes,  a->used_messages, a->inbox_id,    a->timeline,
                                    a->week,        a->week_modseq, a->incarnation};
        for (size_t k = 0; k < COLS; k++)
            v[i * COLS + k] = sql_i(cols[k]);
    }
    sql_queue(tx, &update_accounts, v, n, NULL);
}

bool account_check(struct account_row *row, const Thurn__AccountRef *ref, struct err *err)
{
    if (row->epoch != (int64_t)ref->epoch)
        return err_set(err, ERR_CONFLICT, "account %lld is at epoch %lld here, not %u", (long long)row->account_id,
                       (long long)row->epoch, ref->epoch);
    if (!rpc_incarnation_fits((uint64_t)row->incarnation, ref->incarnation))
        return err_set(err, ERR_CONFLICT, "account %lld here is another one of this number: incarnation %llx, not %llx",
                       (long long)row->account_id, (unsigned long long)row->incarnation,
                       (unsigned long long)ref->incarnation);
    if (row->tenant_id != ref->tenant_id)
        return err_set(err, ERR_INVALID, "account %lld is not of tenant %lld", (long long)row->account_id,
                       (long long)ref->tenant_id);
    if (!row->incarnation)
        row->incarnation = (int64_t)ref->incarnation;
    return true;
}

/* Who knows another account of this number changes nothing of this one; account_check tells him. */
bool account_is_ours(const struct account_row *row, const Thurn__AccountRef *ref)
{
    return row->epoch == (int64_t)ref->epoch && rpc_incarnation_fits((uint64_t)row->incarnation, ref->incarnation);
}

bool account_needs_prepare(const struct account_row *row)
{
    return row->timeline != row->now_timeline;
}

int64_t account_next_modseq(struct account_row *row, int64_t now_unix)
{
    int64_t week = now_unix / WEEK_S;
    if (week > row->week) { /* a clock that goes back keeps logging into the later week */
        row->week = week;
        row->week_modseq = row->modseq;
    }
    return ++row->modseq;
}

/* --- methods --- */

struct get_op {
    struct op op;
};

FIBER static bool get_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct get_op *g = arg;
    op_begin_read(tx, &g->op);
    return sql_run(tx, err) && op_ready(&g->op, err);
}

FIBER bool store_do_get_account(struct store *s, struct rpc_call *c, const Thurn__AccountRequest *q,
                                Thurn__AccountInfo *r, struct err *err)
{
    (void)c;
    struct get_op g;
    if (!op_init(&g.op, s, q->account, err) || !op_read(&g.op, get_body, &g, err))
        return false;
    r->modseq = (uint64_t)g.op.account.modseq;
    r->used_bytes = (uint64_t)g.op.account.used_bytes;
    r->used_messages = (uint64_t)g.op.account.used_messages;
    r->floor_modseq = (uint64_t)g.op.account.floor_modseq;
    return true;
}

/* Modseqs of many accounts: one statement a shard. A shard that is away is left out. */
struct states_op {
    const Thurn__AccountRef **refs;
    size_t n;
    struct arena *arena;
    Thurn__StatesReply__State **out;
    size_t n_out;
    bool *needs_prepare; /* of each of out: the database has failed over */
};

// clang-format off
static const struct sql_stmt read_states = {
    "s_read_states", "ii", "iii",
    "SELECT account_id, modseq, timeline <> 0 FROM s_account WHERE account_id = ?1 AND (incarnation = ?2 OR incarnation = 0 OR ?2 = 0)",
    "SELECT a.account_id, a.modseq, (a.timeline <> " PG_TIMELINE ")::int::bigint FROM {rows} AS v (id, incarnation) JOIN s_account a ON a.account_id = v.id AND"
    " (a.incarnation = v.incarnation OR a.incarnation = 0 OR v.incarnation = 0)",
    true};
// clang-format on

FIBER static bool states_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct states_op *st = arg;
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, st->n * 2);
    for (size_t i = 0; i < st->n; i++) {
        v[i * 2] = sql_i(st->refs[i]->account_id);
        v[i * 2 + 1] = sql_i((int64_t)st->refs[i]->incarnation);
    }
    struct sql_result r;
    if (!sql_exec(tx, &read_states, v, st->n, &r, err))
        return false;
    st->out = arena_array(st->arena, Thurn__StatesReply__State *, r.n_rows);
    st->needs_prepare = arena_array(st->arena, bool, r.n_rows);
    st->n_out = r.n_rows;
    for (size_t i = 0; i < r.n_rows; i++) {
        st->out[i] = arena_new(st->arena, Thurn__StatesReply__State);
        thurn__states_reply__state__init(st->out[i]);
        st->out[i]->account_id = sql_at(&r, i, 0)->i;
        st->out[i]->modseq = (uint64_t)sql_at(&r, i, 1)->i;
        st->needs_prepare[i] = sql_at(&r, i, 2)->i != 0;
    }
    return true;
}

/* Those that a failover has made run backwards: their counters jump, and whoever watches them hears of it by beacon. */
FIBER static bool prepare_states(struct shard *sh, const struct states_op *st, struct err *err)
{
    for (size_t i = 0; i < st->n_out; i++) {
        const Thurn__AccountRef *ref = NULL;
        for (size_t k = 0; st->needs_prepare[i] && k < st->n && !ref; k++)
            if (st->refs[k]->account_id == st->out[i]->account_id)
                ref = st->refs[k];
        if (ref && !account_prepare(sh, ref, err))
            return false;
    }
    return true;
}

FIBER bool store_do_states(struct store *s, struct rpc_call *c, const Thurn__StatesRequest *q, Thurn__StatesReply *r,
                           struct err *err)
{
    if (q->n_accounts > 1000)
        return err_set(err, ERR_LIMIT, "more than 1000 accounts");
    r->states = arena_array(c->arena, Thurn__StatesReply__State *, q->n_accounts);
    const Thurn__AccountRef **refs = arena_array(c->arena, const Thurn__AccountRef *, q->n_accounts);
    for (unsigned k = 0; k < s->n_shards; k++) {
        struct states_op st = {.refs = refs, .arena = c->arena};
        for (size_t i = 0; i < q->n_accounts; i++)
            if (q->accounts[i]->shard == s->shards[k].number)
                refs[st.n++] = q->accounts[i];
        if (st.n == 0)
            continue;
        struct err away = ERR_INIT; /* the caller asks again at its next poll */
        if (!sql_read(s->shards[k].db, states_body, &st, &away) || !prepare_states(&s->shards[k], &st, &away))
            continue;
        /* An id may stand twice in a request; the array has room for each once. */
        for (size_t i = 0; i < st.n_out && r->n_states < q->n_accounts; i++)
            r->states[r->n_states++] = st.out[i];
    }
    return true;
}

/* --- what a shard has --- */

#define SHARD_ACCOUNTS_PAGE 2000 /* fits into a reply */

FIBER bool store_do_shard_accounts(struct store *s, struct rpc_call *c, const Thurn__ShardAccountsRequest *q,
                                   Thurn__ShardAccountsReply *r, struct err *err)
{
    static const struct sql_stmt read_page = {
        "s_shard_accounts",
        "iii",
        "iiiiii",
        "SELECT account_id, tenant_id, epoch, incarnation, used_bytes, used_messages FROM s_account WHERE account_id >= ?1"
        " AND epoch <> ?2 ORDER BY account_id LIMIT ?3",
        NULL,
        false};
    struct shard *sh = store_shard(s, q->shard, err);
    const struct sql_value v[] = {sql_i(q->from_account_id), sql_i(EPOCH_GONE), sql_i(SHARD_ACCOUNTS_PAGE + 1)};
    struct sql_result rows;
    if (!sh || !sql_query(sh->db, &read_page, v, c->arena, &rows, err))
        return false;
    if (rows.n_rows > SHARD_ACCOUNTS_PAGE)
        r->next_account_id = sql_at(&rows, SHARD_ACCOUNTS_PAGE, 0)->i;
    r->n_accounts = MIN(rows.n_rows, SHARD_ACCOUNTS_PAGE);
    r->accounts = arena_array(c->arena, Thurn__ShardAccount *, r->n_accounts);
    for (size_t i = 0; i < r->n_accounts; i++) {
        const struct sql_value *row = sql_at(&rows, i, 0);
        Thurn__ShardAccount *p = r->accounts[i] = arena_new(c->arena, Thurn__ShardAccount);
        thurn__shard_account__init(p);
        p->account = arena_new(c->arena, Thurn__AccountRef);
        thurn__account_ref__init(p->account);
        p->account->account_id = row[0].i;
        p->account->tenant_id = row[1].i;
        p->account->shard = sh->number;
        p->account->epoch = (uint32_t)row[2].i;
        p->account->incarnation = (uint64_t)row[3].i;
        p->used_bytes = (uint64_t)row[4].i;
        p->used_messages = (uint64_t)row[5].i;
    }
    return true;
}
