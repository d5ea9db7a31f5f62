/*
 * PostgreSQL: a pool of pipelined connections, and bodies run over them on the caller's fiber.
 */
#include "base/clock.h"
#include "base/metrics.h"
#include "data/pg_conn.h"

#define BACKOFF_MIN_MS 50
#define BACKOFF_MAX_MS 1000 /* a server that comes back is used again within a second */

struct pg_db {
    struct sql_db base;
    struct list idle;            /* of struct pg_conn, most recently used first */
    unsigned n_conns, n_waiting; /* made or being made; callers in pool_get */
    unsigned n_connecting;       /* of these, being made */
    unsigned generation;         /* grows when a connection was lost: idle ones made before are suspect */
    struct fiber_cond changed;   /* see connection_free */
    int64_t retry_mono_ms;       /* no new connection before this */
    unsigned backoff_ms;         /* not 0: the last attempt failed */
    struct err last_err;         /* of the last attempt to connect */
    unsigned first_target;       /* of the DSN's hosts: the one that answered last */
    struct fiber *closer;        /* waits for n_conns to become 0 */
};

struct pg_tx {
    struct sql_tx base;
    struct pg_conn *conn;
    bool is_retryable, is_lost, is_commit_sent;
    int64_t idle_since_ms; /* mono: when the last statement was answered */
};

// clang-format off
static const struct sql_stmt stmt_begin = {"sql_begin", "", "", "", "BEGIN", false};
static const struct sql_stmt stmt_begin_read = {"sql_begin_read", "", "", "",
                                                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", false};
static const struct sql_stmt stmt_commit = {"sql_commit", "", "", "", "COMMIT", false};
static const struct sql_stmt stmt_rollback = {"sql_rollback", "", "", "", "ROLLBACK", false};
// clang-format on

static struct pg_db *of(struct sql_db *base)
{
    return CONTAINER_OF(base, struct pg_db, base);
}

/* --- the pool --- */

/*
 * Who waits in pool_find is woken by one of three things. A connection came free: one of them, who takes it. One is no
 * more, or an attempt to connect ended: all of them, for each may now have to connect, or have nothing left to wait
 * for. There is room for another connection and the server is there: one, who connects and passes it on.
 */
static void connection_free(struct pg_db *db)
{
    fiber_cond_signal(&db->changed);
}

static void connection_gone(struct pg_db *db)
{
    db->n_conns--;
    fiber_cond_broadcast(&db->changed);
    if (db->closer)
        fiber_wake(db->closer);
}

static struct pg_conn *pool_pop_idle(struct pg_db *db)
{
    struct list_node *n;
    while ((n = list_pop(&db->idle))) {
        struct pg_conn *c = LIST_ITEM(n, struct pg_conn, idle);
        if (!c->is_broken && c->generation == db->generation)
            return c;
        pg_conn_free(c);
        connection_gone(db);
    }
    return NULL;
}

/* Several attempts that fail at the same time count once. */
static void back_off(struct pg_db *db)
{
    int64_t now_ms = clock_mono_ms();
    if (now_ms < db->retry_mono_ms)
        return;
    db->backoff_ms = MIN(MAX(db->backoff_ms * 2, BACKOFF_MIN_MS), BACKOFF_MAX_MS);
    db->retry_mono_ms = now_ms + db->backoff_ms / 2 + (int64_t)random_below(db->backoff_ms / 2);
}

FIBER static struct pg_conn *pool_connect(struct pg_db *db, struct err *err)
{
    db->n_conns++;
    db->n_connecting++;
    unsigned generation = db->generation;
    struct pg_conn *c = pg_conn_new(&db->base.opts, &db->first_target, err);
    db->n_connecting--;
    if (c) {
        c->generation = generation;
        db->backoff_ms = 0;
        db->retry_mono_ms = 0;
        if (db->n_conns < db->base.opts.pool)
            fiber_cond_signal(&db->changed);
        return c;
    }
    if (err->kind != ERR_CANCELLED) {
        back_off(db);
        db->last_err = *err;
        if (err->kind == ERR_TIMEOUT)
            err->kind = ERR_UNAVAILABLE; /* nothing was begun */
    }
    connection_gone(db);
    return NULL;
}

/* One attempt at a time while the server is away. */
static bool may_connect(const struct pg_db *db)
{
    return db->n_conns < db->base.opts.pool && clock_mono_ms() >= db->retry_mono_ms &&
           (db->backoff_ms == 0 || db->n_connecting == 0);
}

FIBER static struct pg_conn *pool_find(struct pg_db *db, struct err *err)
{
    if (db->n_waiting >= db->base.opts.max_waiting) {
        (void)err_set(err, ERR_BUSY, "too many wait for database %s", db->base.name);
        return NULL;
    }
    while (!db->closer) {
        struct pg_conn *c = pool_pop_idle(db);
        if (c)
            return c;
        if (may_connect(db))
            return pool_connect(db, err);
        if (db->n_conns == 0) {
            (void)err_set(err, ERR_UNAVAILABLE, "%s", db->last_err.msg);
            return NULL;
        }
        db->n_waiting++;
        metric_add_label(M_SQL_WAITING, db->base.name, 1);
        bool ok = fiber_cond_wait(&db->changed, err);
        db->n_waiting--;
        metric_add_label(M_SQL_WAITING, db->base.name, -1);
        if (!ok) {
            if (err->kind == ERR_TIMEOUT)
                err->kind = ERR_UNAVAILABLE; /* it had not begun */
            return NULL;
        }
    }
    (void)err_set(err, ERR_UNAVAILABLE, "database %s is being closed", db->base.name);
    return NULL;
}

FIBER static struct pg_conn *pool_get(struct pg_db *db, struct err *err)
{
    struct pg_conn *c = pool_find(db, err);
    if (c)
        metric_add_label(M_SQL_CONNECTIONS_USED, db->base.name, 1);
    return c;
}

static void pool_put(struct pg_db *db, struct pg_conn *c)
{
    metric_add_label(M_SQL_CONNECTIONS_USED, db->base.name, -1);
    if (c->is_broken || db->closer) {
        if (c->is_broken && c->generation == db->generation)
            db->generation++;
        pg_conn_free(c);
        connection_gone(db);
    } else {
        list_push_front(&db->idle, &c->idle);
        connection_free(db);
    }
}

/* --- transactions --- */

static void pg_queue(struct sql_tx *base, const struct sql_stmt *st, const struct sql_value *params, size_t n_rows,
                     struct sql_result *out)
{
    struct pg_tx *tx = CONTAINER_OF(base, struct pg_tx, base);
    pg_conn_queue(tx->conn, st, params, n_rows, out, base->arena);
}

static void note_error(struct pg_tx *tx, const struct pg_error *e)
{
    sql_tx_fail(&tx->base, &e->err);
    tx->is_retryable |= e->is_retryable;
    tx->is_lost |= e->is_lost;
}

static void count_round_trip(struct sql_db *db)
{
    atomic_fetch_add_explicit(&db->round_trips, 1, memory_order_relaxed);
    metric_inc(M_SQL_ROUND_TRIPS);
}

FIBER static bool pg_run(struct sql_tx *base, struct err *err)
{
    struct pg_tx *tx = CONTAINER_OF(base, struct pg_tx, base);
    struct pg_error e;
    count_round_trip(base->db);
    bool ok = pg_conn_sync(tx->conn, &e);
    tx->idle_since_ms = clock_mono_ms();
    if (ok)
        return true;
    note_error(tx, &e);
    return err_set(err, e.err.kind, "%s", e.err.msg);
}

FIBER static bool pg_script(struct sql_tx *base, const char *text, struct err *err)
{
    struct pg_tx *tx = CONTAINER_OF(base, struct pg_tx, base);
    struct pg_error e;
    if (pg_conn_script(tx->conn, text, &e))
        return true;
    note_error(tx, &e);
    return err_set(err, e.err.kind, "%s", e.err.msg);
}

FIBER static bool pg_breathe(struct sql_tx *base, struct err *err)
{
    struct pg_tx *tx = CONTAINER_OF(base, struct pg_tx, base);
    return clock_mono_ms() - tx->idle_since_ms >= SQL_BREATH_MS || fiber_yield_if_due(err);
}

/* The last round trip: what is queued, and COMMIT. */
FIBER static bool commit(struct pg_tx *tx, struct err *err)
{
    struct sql_db *db = tx->base.db;
    if (sql_fault_run(db))
        return err_set(err, ERR_UNAVAILABLE, "injected fault");
    pg_conn_queue(tx->conn, &stmt_commit, NULL, 1, NULL, tx->base.arena);
    tx->is_commit_sent = true;
    if (!pg_run(&tx->base, err)) {
        /* Whether a lost connection took the commit with it nobody knows, unless an answer before it was an error. */
        if (tx->is_lost)
            err->kind = ERR_TIMEOUT;
        return false;
    }
    atomic_fetch_add_explicit(&db->commits, 1, memory_order_relaxed);
    metric_inc(M_SQL_COMMITS);
    return !sql_fault_commit(db) || err_set(err, ERR_TIMEOUT, "injected fault: outcome unknown");
}

static void rollback(struct pg_tx *tx)
{
    atomic_fetch_add_explicit(&tx->base.db->rollbacks, 1, memory_order_relaxed);
    if (!tx->conn->is_broken)
        pg_conn_tail(tx->conn, &stmt_rollback);
}

/* One run of the body; *again: it may be run once more. */
FIBER static bool try_body(struct pg_db *db, sql_body body, void *arg, bool is_write, bool *again, struct err *err)
{
    struct pg_conn *conn = pool_get(db, err);
    *again = false;
    if (!conn)
        return false;
    ARENA(arena, SQL_TX_ARENA_MAX);
    struct pg_tx tx = {.base = {.db = &db->base, .arena = &arena}, .conn = conn, .idle_since_ms = clock_mono_ms()};
    pg_conn_queue(conn, is_write ? &stmt_begin : &stmt_begin_read, NULL, 1, NULL, &arena);
    bool ok = body(&tx.base, arg, err);
    /* A reading body that ended with statements queued still has to get their results. */
    if (ok && !tx.base.is_failed)
        ok = is_write ? commit(&tx, err) : conn->first == conn->n || sql_run(&tx.base, err);
    ok = sql_tx_verdict(&tx.base, ok, err);
    if (!is_write && ok)
        pg_conn_tail(conn, &stmt_commit);
    else if (!ok && !(tx.is_commit_sent && !tx.base.is_failed))
        rollback(&tx);
    *again = !ok && (tx.is_retryable || (tx.is_lost && !(tx.is_commit_sent && err->kind == ERR_TIMEOUT)));
    pool_put(db, conn);
    return ok;
}

FIBER static bool run_body(struct sql_db *base, sql_body body, void *arg, bool is_write, struct err *err)
{
    bool again = true;
    for (int i = 0; i < SQL_TRIES && again; i++) {
        err_clear(err);
        if (try_body(of(base), body, arg, is_write, &again, err))
            return true;
    }
    return false;
}

FIBER static bool pg_write(struct sql_db *base, sql_body body, void *arg, struct err *err)
{
    return run_body(base, body, arg, true, err);
}

FIBER static bool pg_read(struct sql_db *base, sql_body body, void *arg, struct err *err)
{
    return run_body(base, body, arg, false, err);
}

/* One statement needs no transaction around it. */
FIBER static bool pg_query(struct sql_db *base, const struct sql_stmt *st, const struct sql_value *params,
                           struct arena *a, struct sql_result *out, struct err *err)
{
    struct pg_db *db = of(base);
    struct pg_error e = {0};
    for (int i = 0; i < SQL_TRIES; i++) {
        struct pg_conn *conn = pool_get(db, err);
        if (!conn)
            return false;
        pg_conn_queue(conn, st, params, 1, out, a);
        count_round_trip(base);
        bool ok = pg_conn_sync(conn, &e);
        pool_put(db, conn);
        if (ok)
            return true;
        if (!e.is_lost && !e.is_retryable)
            break;
    }
    return err_set(err, e.err.kind, "%s", e.err.msg);
}

/* --- the driver --- */

FIBER static void pg_close(struct sql_db *base)
{
    struct pg_db *db = of(base);
    db->closer = fiber_self();
    struct list_node *n;
    while ((n = list_pop(&db->idle))) {
        pg_conn_free(LIST_ITEM(n, struct pg_conn, idle));
        db->n_conns--;
    }
    while (db->n_conns > 0)
        fiber_wait_uninterrupted();
    sql_db_done(base);
    xfree(db);
}

static const struct sql_driver pg_driver = {
    .is_pg = true,
    .write = pg_write,
    .read = pg_read,
    .query = pg_query,
    .close = pg_close,
    .queue = pg_queue,
    .run = pg_run,
    .script = pg_script,
    .breathe = pg_breathe,
};

/* Libpq's own complaint quotes what it could not read, a password among it. An '@' in the host is the rest of a
 * password that was not percent-encoded, and would be logged as the name of a host. */
bool pg_check_dsn(str dsn, struct err *err)
{
    char *z = str_dup(dsn);
    PQconninfoOption *options = str_empty(dsn) || memchr(dsn.p, 0, dsn.n) ? NULL : PQconninfoParse(z, NULL);
    bool ok = options != NULL;
    for (const PQconninfoOption *o = options; ok && o->keyword; o++)
        ok = !o->val || strcmp(o->keyword, "host") != 0 || !strchr(o->val, '@');
    explicit_bzero(z, dsn.n);
    xfree(z);
    PQconninfoFree(options);
    return ok ||
           err_set(err, ERR_INVALID,
                   "expected postgresql://USER:PASSWORD@HOST/DATABASE (with @, : and / in them as %%40, %%3A, %%2F), "
                   "host=… dbname=…, or sqlite:PATH");
}

struct sql_db *pg_open(const struct sql_opts *opts, struct err *err)
{
    if (!pg_check_dsn(opts->dsn, err))
        return NULL;
    struct pg_db *db = xnew(struct pg_db);
    sql_db_init(&db->base, &pg_driver, opts);
    list_init(&db->idle);
    fiber_cond_init(&db->changed);
    return &db->base;
}
