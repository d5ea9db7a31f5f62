/*
 * Who owns which shard. One fiber (the coordinator) renews this node's lease, looks at nodes and shards, and moves
 * towards the owner that rendezvous hashing names among the living, not draining nodes. The database's clock decides
 * about leases; by our own clock we stop a fifth of the lease early, and past that begin nothing. A round is a few
 * short statements: whatever may take long (loading a shard, above all) is done by other fibers, so that the lease is
 * held meanwhile.
 *
 * On SQLite there is one node: its lease does not end, and other nodes' rows are of an earlier life.
 */
#include "queue-service/node.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "queue-service/commit.h"
#include "queue-service/schedule.h"
#include "queue-service/schema.h"
#include "queue-service/shard.h"

#define CHANNEL "queue:shards"
#define NODES_MAX 1000u
#define FOREVER_MS ((int64_t)100 * 365 * 86400 * 1000)
#define BREAK_WAIT_MS 2000 /* what was broken off may still tell its result */
#define LEASE_ENDED_MS 20  /* after another's lease has run out, by rounding and the way */

static void lose_all(struct queue *q)
{
    for (unsigned i = 0; i < q->opts.n_shards; i++)
        shard_lose(&q->shards[i]);
}

/* --- what the database says --- */

struct node_row {
    str name;
    int64_t left_ms; /* of its lease */
    bool is_alive, is_draining;
};
struct shard_row {
    int64_t number, epoch;
    str owner;
};
struct view {
    struct arena *arena;
    struct node_row *nodes;
    struct shard_row *shards;
    size_t n_nodes, n_shards;
};

FIBER static bool view_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct view *v = arg;
    struct sql_result nodes, shards;
    sql_queue(tx, &q_nodes, NULL, 1, &nodes);
    sql_queue(tx, &q_shards, NULL, 1, &shards);
    if (!sql_run(tx, err))
        return false;
    v->n_nodes = MIN(nodes.n_rows, NODES_MAX);
    v->n_shards = shards.n_rows;
    v->nodes = arena_array(v->arena, struct node_row, v->n_nodes);
    v->shards = arena_array(v->arena, struct shard_row, v->n_shards);
    for (size_t i = 0; i < v->n_nodes; i++)
        v->nodes[i] = (struct node_row){arena_str(v->arena, sql_at(&nodes, i, 0)->s), sql_at(&nodes, i, 1)->i,
                                        sql_at(&nodes, i, 1)->i > 0, sql_at(&nodes, i, 2)->i != 0};
    for (size_t i = 0; i < v->n_shards; i++)
        v->shards[i] = (struct shard_row){sql_at(&shards, i, 0)->i, sql_at(&shards, i, 1)->i,
                                          arena_str(v->arena, sql_at(&shards, i, 2)->s)};
    return true;
}

static const struct node_row *node_of(const struct view *v, str name)
{
    for (size_t i = 0; i < v->n_nodes; i++)
        if (str_eq(v->nodes[i].name, name))
            return &v->nodes[i];
    return NULL;
}

static bool is_alive(const struct view *v, str owner)
{
    const struct node_row *n = owner.n ? node_of(v, owner) : NULL;
    return n && n->is_alive;
}

/* Highest random weight: when a node comes or goes, only its own share moves. */
static str desired_owner(const struct view *v, int64_t shard)
{
    str best = S("");
    uint64_t most = 0;
    for (size_t i = 0; i < v->n_nodes; i++) {
        if (!v->nodes[i].is_alive || v->nodes[i].is_draining)
            continue;
        char text[300];
        int n = snprintf(text, sizeof(text), "%lld:%.*s", (long long)shard, STR_ARG(v->nodes[i].name));
        uint64_t weight = hash_stable(str_n(text, (size_t)n));
        if (best.n == 0 || weight > most) {
            best = v->nodes[i].name;
            most = weight;
        }
    }
    return best;
}

/* What we believe to own and the database does not confirm is lost. */
static void confirm(struct queue *q, const struct view *v)
{
    for (size_t i = 0; i < v->n_shards; i++) {
        const struct shard_row *row = &v->shards[i];
        if (row->number >= (int64_t)q->opts.n_shards)
            continue;
        struct shard *s = &q->shards[row->number];
        if (s->state != SHARD_OTHERS && (row->epoch != s->epoch || !str_eq(row->owner, str_c(q->node)))) {
            log_warn("queue.shard_lost", KV_I64("shard", row->number));
            shard_lose(s);
        }
    }
}

void node_wake(struct queue *q)
{
    q->is_woken = true;
    fiber_cond_broadcast(&q->wake);
}

bool node_recheck(struct queue *q, struct err *err)
{
    ARENA(a, 1u << 20);
    struct view v = {.arena = &a};
    if (!sql_read(q->opts.db, view_body, &v, err))
        return false;
    const struct node_row *me = node_of(&v, str_c(q->node));
    if (!me || !me->is_alive) { /* the lease is gone, and so is everything */
        lose_all(q);
        q->is_registered = false;
        node_wake(q);
        return true;
    }
    confirm(q, &v);
    return true;
}

/* --- moving --- */

/* Something is to be had, or somebody is new: what they would notice by themselves in a third of a lease. */
static void tell_others(struct queue *q)
{
    if (q->opts.redis)
        redis_publish(q->opts.redis, S(CHANNEL), str_c(q->node));
}

struct change {
    struct queue *q;
    struct view *view;
    struct sql_value *rows; /* shard, epoch, node */
    size_t n;
    str dead[16]; /* owners whose leases are to be ended first */
    size_t n_dead;
    struct sql_result got;
    struct arena *arena;
};

FIBER static bool expire_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct change *c = arg;
    struct sql_value v[ARRAY_LEN(c->dead)];
    for (size_t i = 0; i < c->n_dead; i++) {
        v[i] = sql_s(c->dead[i]);
        sql_queue(tx, &q_expire_node, &v[i], 1, NULL);
    }
    return sql_run(tx, err);
}

FIBER static bool acquire_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct change *c = arg;
    struct sql_result r;
    if (!sql_exec(tx, &q_acquire, c->rows, c->n, &r, err))
        return false;
    c->got = r;
    size_t n = r.n_rows * r.n_cols; /* two integers a row: nothing but the array to copy */
    c->got.values = arena_array(c->arena, struct sql_value, n);
    if (n)
        memcpy(c->got.values, r.values, n * sizeof(r.values[0]));
    return true;
}

FIBER static bool release_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct change *c = arg;
    return sql_exec(tx, &q_release, c->rows, c->n, NULL, err);
}

static void add_row(struct change *c, int64_t shard, int64_t epoch)
{
    c->rows[3 * c->n] = sql_i(shard);
    c->rows[3 * c->n + 1] = sql_i(epoch);
    c->rows[3 * c->n++ + 2] = sql_s(str_c(c->q->node));
}

static void add_dead(struct change *c, str owner)
{
    for (size_t i = 0; i < c->n_dead; i++)
        if (str_eq(c->dead[i], owner))
            return;
    if (c->n_dead < ARRAY_LEN(c->dead))
        c->dead[c->n_dead++] = owner;
}

static const struct shard_row *row_of(const struct view *v, int64_t shard)
{
    for (size_t i = 0; i < v->n_shards; i++)
        if (v->shards[i].number == shard)
            return &v->shards[i];
    return NULL;
}

/* What was got is to be loaded. On SQLite an owner before us was an earlier life, of which no attempt is left to tell
 * its result. */
static void take_got(struct change *c)
{
    struct queue *q = c->q;
    bool is_pg = sql_db_is_pg(q->opts.db);
    for (size_t i = 0; i < c->got.n_rows; i++) {
        struct shard *s = &q->shards[sql_at(&c->got, i, 0)->i];
        const struct shard_row *before = row_of(c->view, (int64_t)s->number);
        shard_set_state(s, SHARD_LOADING);
        s->epoch = sql_at(&c->got, i, 1)->i;
        s->counter = 0;
        s->work_at_ms = clock_mono_ms();
        bool is_taken_over = is_pg && before->owner.n && !str_eq(before->owner, str_c(q->node));
        s->is_in_doubt = is_taken_over || s->n_active > 0;
        if (is_taken_over)
            metric_inc(M_QUEUE_TAKEOVERS);
    }
    if (c->got.n_rows)
        log_info("queue.shards_acquired", KV_I64("n", (int64_t)c->got.n_rows), KV_I64("owned", q->n_owned));
}

/* Shards of the dead could not be had: something holds them, or their owner's row, that must have been over long ago.
 */
FIBER static bool end_stuck(struct queue *q, struct arena *a, struct err *err)
{
    struct sql_value age_ms = sql_i(q->opts.lease_ms);
    struct sql_result r;
    if (!sql_query(q->opts.db, &q_end_stuck, &age_ms, a, &r, err))
        return false;
    if (r.n_rows)
        log_warn("queue.stuck_ended", KV_I64("n", (int64_t)r.n_rows));
    return true;
}

FIBER static bool acquire(struct queue *q, struct view *v, struct err *err)
{
    struct change c = {
        .q = q, .view = v, .arena = v->arena, .rows = arena_array(v->arena, struct sql_value, 3 * v->n_shards)};
    bool is_pg = sql_db_is_pg(q->opts.db);
    for (size_t i = 0; i < v->n_shards; i++) {
        const struct shard_row *row = &v->shards[i];
        if (row->number >= (int64_t)q->opts.n_shards || q->shards[row->number].state != SHARD_OTHERS)
            continue;
        bool is_mine = str_eq(row->owner, str_c(q->node)), is_free = row->owner.n == 0;
        if (!is_mine && !is_free && is_alive(v, row->owner) && is_pg)
            continue;
        if (!str_eq(desired_owner(v, row->number), str_c(q->node)) && is_pg)
            continue;
        if (!is_mine && !is_free)
            add_dead(&c, row->owner);
        add_row(&c, row->number, row->epoch);
    }
    if (c.n == 0)
        return true;
    if (c.n_dead && !sql_write(q->opts.db, expire_body, &c, err))
        return false;
    if (!sql_write(q->opts.db, acquire_body, &c, err))
        return false;
    take_got(&c);
    return c.n_dead == 0 || c.got.n_rows == c.n || end_stuck(q, v->arena, err);
}

/* Whether the shard can be given up now. Attempts under way may end; after a while they are broken off where that does
 * no harm, and what has no result even then is done by the next owner, perhaps again. */
static bool has_left(struct shard *s)
{
    int64_t late_ms = clock_mono_ms() - s->break_at_ms;
    if (s->n_active == 0 || late_ms >= BREAK_WAIT_MS)
        return true;
    if (late_ms >= 0)
        schedule_cancel_sessions(s->queue, s);
    return false;
}

static bool belongs_elsewhere(const struct queue *q, const struct view *v, int64_t shard)
{
    str desired = desired_owner(v, shard);
    return q->is_draining || (sql_db_is_pg(q->opts.db) && desired.n && !str_eq(desired, str_c(q->node)));
}

/* Whether the shard, which belongs elsewhere, can be given up now, and under which epoch. */
static bool may_leave(struct shard *s, const struct shard_row *row, int64_t *epoch)
{
    *epoch = s->epoch;
    switch (s->state) {
    case SHARD_OTHERS: /* ours in the database only, of an earlier life */
        *epoch = row->epoch;
        return str_eq(row->owner, str_c(s->queue->node)) && s->n_active == 0;
    case SHARD_LOADING:
        shard_lose(s);
        return true;
    case SHARD_OWNED:
        s->break_at_ms = clock_mono_ms() + s->queue->opts.drain_ms;
        shard_set_state(s, SHARD_LEAVING);
        return has_left(s);
    case SHARD_LEAVING:
        break;
    }
    return has_left(s);
}

/* Give up what belongs elsewhere: at once what is idle, the others as their attempts end. Waits for none, for the lease
 * has to be held meanwhile. */
FIBER static bool leave(struct queue *q, struct view *v, struct err *err)
{
    struct change c = {
        .q = q, .view = v, .arena = v->arena, .rows = arena_array(v->arena, struct sql_value, 3 * v->n_shards)};
    for (size_t i = 0; i < v->n_shards; i++) {
        int64_t number = v->shards[i].number, epoch;
        if (number >= (int64_t)q->opts.n_shards)
            continue;
        struct shard *s = &q->shards[number];
        if (!belongs_elsewhere(q, v, number)) {
            if (s->state == SHARD_LEAVING)
                shard_set_state(s, SHARD_OWNED);
        } else if (may_leave(s, &v->shards[i], &epoch)) {
            add_row(&c, number, epoch);
        }
    }
    if (c.n == 0)
        return true;
    if (!sql_write(q->opts.db, release_body, &c, err))
        return false;
    for (size_t i = 0; i < c.n; i++)
        shard_lose(&q->shards[c.rows[3 * i].i]);
    log_info("queue.shards_released", KV_I64("n", (int64_t)c.n), KV_I64("owned", q->n_owned));
    tell_others(q);
    return true;
}

/* --- the lease --- */

struct renew {
    struct queue *q;
    bool is_alive;
    int64_t now_ms; /* by the database's clock */
};

FIBER static bool register_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct renew *r = arg;
    struct queue *q = r->q;
    struct sql_result got;
    int64_t lease_ms = sql_is_pg(tx) ? q->opts.lease_ms : FOREVER_MS;
    struct sql_value *numbers = arena_array(sql_arena(tx), struct sql_value, q->opts.n_shards);
    struct sql_value params[2] = {sql_s(str_c(q->node)), sql_i(lease_ms)};
    for (unsigned i = 0; i < q->opts.n_shards; i++)
        numbers[i] = sql_i(i);
    if (!sql_is_pg(tx))
        sql_queue(tx, &q_forget_nodes, params, 1, NULL);
    else
        sql_queue(tx, &q_forget_dead, NULL, 1, NULL);
    for (unsigned i = 0; i < q->opts.n_shards; i += 1000)
        sql_queue(tx, &q_make_shards, numbers + i, MIN(q->opts.n_shards - i, 1000u), NULL);
    if (!sql_exec(tx, &q_register, params, 1, &got, err))
        return false;
    r->now_ms = got.n_rows ? sql_at(&got, 0, 0)->i : 0;
    return true;
}

/* Times of rows are by the database's clock, so that they mean the same to every node: how far ours is ahead of it, as
 * far as can be told from a time that was taken between these two of ours. */
static void compare_clocks(struct queue *q, int64_t before_ms, int64_t db_ms, int64_t after_ms)
{
    q->clock_ahead_ms = db_ms < before_ms ? before_ms - db_ms : db_ms > after_ms ? after_ms - db_ms : 0;
}

FIBER static bool renew_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct renew *r = arg;
    struct sql_value params[3] = {sql_s(str_c(r->q->node)), sql_i(sql_is_pg(tx) ? r->q->opts.lease_ms : FOREVER_MS),
                                  sql_i(r->q->is_draining)};
    struct sql_result got;
    if (!sql_exec(tx, &q_renew, params, 1, &got, err))
        return false;
    r->is_alive = got.n_rows == 1;
    r->now_ms = r->is_alive ? sql_at(&got, 0, 0)->i : 0;
    return true;
}

FIBER static bool hold_lease(struct queue *q, struct err *err)
{
    int64_t start = clock_mono_ms(), before_ms = clock_unix_ms();
    struct renew r = {.q = q};
    if (q->is_registered && (sql_db_is_pg(q->opts.db) || q->is_draining)) {
        if (!sql_write(q->opts.db, renew_body, &r, err))
            return false;
        if (!r.is_alive) {
            log_warn("queue.lease_lost");
            lose_all(q);
            q->is_registered = false;
        }
    }
    if (!q->is_registered) {
        if (!sql_write(q->opts.db, register_body, &r, err))
            return false;
        q->is_registered = true;
        tell_others(q);
    }
    if (r.now_ms && sql_db_is_pg(q->opts.db))
        compare_clocks(q, before_ms, r.now_ms, clock_unix_ms());
    q->lease_until_ms = sql_db_is_pg(q->opts.db) ? start + (int64_t)q->opts.lease_ms * 4 / 5 : INT64_MAX;
    return true;
}

FIBER static bool bound_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct queue *q = arg;
    struct sql_value params[2] = {sql_i(QUEUE_LEASE_MAX_MS), sql_i(q->opts.lease_ms)};
    return sql_exec(tx, &q_bound_leases, params, 1, NULL, err);
}

/* What the view says of the nodes. */
static void count_nodes(struct queue *q, const struct view *v, bool *has_endless)
{
    q->n_live_nodes = 0;
    q->next_end_ms = INT64_MAX;
    *has_endless = false;
    for (size_t i = 0; i < v->n_nodes; i++) {
        const struct node_row *n = &v->nodes[i];
        q->n_live_nodes += n->is_alive && !n->is_draining;
        *has_endless |= n->left_ms > QUEUE_LEASE_MAX_MS;
        if (n->is_alive && !str_eq(n->name, str_c(q->node)))
            q->next_end_ms = MIN(q->next_end_ms, clock_mono_ms() + n->left_ms + LEASE_ENDED_MS);
    }
    q->has_no_share = v->n_shards > 0;
    for (size_t i = 0; i < v->n_shards && q->has_no_share; i++)
        q->has_no_share = v->shards[i].number >= (int64_t)q->opts.n_shards ||
                          !str_eq(desired_owner(v, v->shards[i].number), str_c(q->node));
}

FIBER static bool coordinate_once(struct queue *q, struct err *err)
{
    ARENA(a, 1u << 22);
    struct view v = {.arena = &a};
    if (!hold_lease(q, err) || !sql_read(q->opts.db, view_body, &v, err))
        return false;
    confirm(q, &v);
    bool has_endless;
    count_nodes(q, &v, &has_endless);
    if (has_endless && sql_db_is_pg(q->opts.db) && !sql_write(q->opts.db, bound_body, q, err))
        return false;
    if (!q->is_draining && !acquire(q, &v, err))
        return false;
    if (!leave(q, &v, err))
        return false;
    load_start(q);
    commit_doubtful(q);
    return true;
}

/* When something is to be done with this shard, by itself. */
static int64_t shard_alarm_ms(const struct shard *s)
{
    if (s->state == SHARD_LEAVING)
        return clock_mono_ms() < s->break_at_ms ? s->break_at_ms : s->break_at_ms + BREAK_WAIT_MS;
    return s->work_at_ms && s->queue->n_loaders == 0 ? s->work_at_ms : INT64_MAX; /* the last loader wakes us */
}

/* When the next round is: a third of the lease from now, or just when another's lease runs out (one that lives renews
 * it before); on SQLite only when something has to be done. */
static int64_t next_round_ms(const struct queue *q, bool ok)
{
    bool is_pg = sql_db_is_pg(q->opts.db);
    if (!ok || q->n_doubtful)
        return MIN(QUEUE_AWAY_RETRY_MS, q->opts.lease_ms / 3);
    int64_t wait = is_pg ? q->opts.lease_ms / 3 : 60000, alarm = is_pg ? q->next_end_ms : INT64_MAX;
    for (unsigned i = 0; i < q->opts.n_shards; i++)
        alarm = MIN(alarm, shard_alarm_ms(&q->shards[i]));
    return MIN(wait, MAX(alarm - clock_mono_ms(), 50));
}

FIBER static void wait_round(struct queue *q, int64_t ms)
{
    FIBER_DEADLINE(ms);
    struct err err = ERR_INIT; /* the time is over, or somebody woke us */
    while (!q->is_woken && !q->is_stopping)
        if (!fiber_cond_wait(&q->wake, &err))
            break;
    q->is_woken = false;
}

FIBER static bool unregister_body(struct sql_tx *tx, void *arg, struct err *err)
{
    return sql_exec(tx, &q_unregister, arg, 1, NULL, err);
}

FIBER static void unregister(struct queue *q)
{
    struct err err = ERR_INIT; /* the lease runs out by itself */
    struct sql_value node = sql_s(str_c(q->node));
    IGNORE(sql_write(q->opts.db, unregister_body, &node, &err));
}

void node_coordinate(void *arg)
{
    struct queue *q = arg;
    bool was_away = false;
    while (!q->is_stopping && !fiber_is_cancelled(fiber_self())) {
        struct err err = ERR_INIT;
        bool ok = coordinate_once(q, &err);
        if (!ok && !was_away)
            log_warn("queue.coordination_failed", KV_ERR(&err));
        was_away = !ok;
        wait_round(q, next_round_ms(q, ok));
    }
    if (q->is_registered && q->n_taken == 0)
        unregister(q);
    lose_all(q);
    q->is_registered = false;
    queue_fiber_ended(q);
}
