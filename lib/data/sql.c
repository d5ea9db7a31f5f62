#include "data/sql_driver.h"

#include "base/clock.h"
#include "base/metrics.h"

void sql_db_init(struct sql_db *db, const struct sql_driver *driver, const struct sql_opts *opts)
{
    db->magic = SQL_DB_MAGIC;
    db->driver = driver;
    db->opts = *opts;
    db->name = xstrdup(opts->name ? opts->name : "db");
    db->dsn = str_dup(opts->dsn);
    db->opts.name = db->name;
    db->opts.dsn = str_c(db->dsn);
    db->member = opts->member ? xstrdup(opts->member) : NULL;
    db->opts.member = db->member;
    if (!db->opts.pool)
        db->opts.pool = driver->is_pg ? 8 : 2;
    if (!db->opts.statement_timeout_ms)
        db->opts.statement_timeout_ms = 15000;
    if (!db->opts.max_waiting)
        db->opts.max_waiting = 10000;
}

void sql_db_done(struct sql_db *db)
{
    db->magic = 0;
    xfree(db->name);
    xfree(db->member);
    if (db->dsn)
        explicit_bzero(db->dsn, strlen(db->dsn)); /* may hold a password */
    xfree(db->dsn);
}

void sql_close(struct sql_db *db)
{
    if (!db)
        return;
    CHECK(db, SQL_DB_MAGIC);
    db->driver->close(db);
}

const char *sql_name(const struct sql_db *db)
{
    return db->name;
}

bool sql_db_is_pg(const struct sql_db *db)
{
    return db->driver->is_pg;
}

/* --- inside a body --- */

struct arena *sql_arena(struct sql_tx *tx)
{
    return tx->arena;
}

void sql_piece_begin(struct sql_piece *p, struct sql_tx *tx)
{
    *p = (struct sql_piece){.tx = tx, .outer = tx->arena};
    arena_init(&p->arena, SQL_TX_ARENA_MAX);
    tx->arena = &p->arena;
}

static bool check_arena(struct sql_tx *tx)
{
    struct err err = ERR_INIT;
    if (arena_ok(tx->arena))
        return true;
    (void)err_set(&err, ERR_INTERNAL, "the transaction needs more than %zu bytes of memory", tx->arena->cap);
    sql_tx_fail(tx, &err);
    return false;
}

void sql_piece_end(struct sql_piece *p)
{
    (void)check_arena(p->tx); /* the transaction has failed then, and says so at its end */
    p->tx->arena = p->outer;
    arena_done(&p->arena);
}

bool sql_breathe(struct sql_tx *tx, struct err *err)
{
    return !tx->db->driver->breathe || tx->db->driver->breathe(tx, err);
}

bool sql_is_pg(const struct sql_tx *tx)
{
    return tx->db->driver->is_pg;
}

void sql_queue(struct sql_tx *tx, const struct sql_stmt *st, const struct sql_value *params, size_t n_rows,
               struct sql_result *out)
{
    assert(st->is_rowset || n_rows == 1);
    if (out)
        *out = (struct sql_result){.n_cols = strlen(st->cols)};
    if (tx->is_failed || n_rows == 0)
        return;
    atomic_fetch_add_explicit(&tx->db->statements, 1, memory_order_relaxed);
    tx->db->driver->queue(tx, st, params, n_rows, out);
}

bool sql_run(struct sql_tx *tx, struct err *err)
{
    if (!tx->is_failed && sql_fault_run(tx->db)) {
        struct err fault = ERR_INIT;
        (void)err_set(&fault, ERR_UNAVAILABLE, "injected fault");
        sql_tx_fail(tx, &fault);
    }
    if (!tx->is_failed)
        return tx->db->driver->run(tx, err);
    return err_set(err, tx->err.kind, "%s", tx->err.msg);
}

bool sql_exec(struct sql_tx *tx, const struct sql_stmt *st, const struct sql_value *params, size_t n_rows,
              struct sql_result *out, struct err *err)
{
    sql_queue(tx, st, params, n_rows, out);
    return sql_run(tx, err);
}

void sql_tx_fail(struct sql_tx *tx, const struct err *err)
{
    if (tx->is_failed)
        return;
    tx->is_failed = true;
    tx->err = *err;
}

bool sql_tx_verdict(struct sql_tx *tx, bool body_ok, struct err *err)
{
    assert(body_ok || err_is_set(err));
    if (!body_ok)
        return false;
    return (!tx->is_failed && check_arena(tx)) || err_set(err, tx->err.kind, "%s", tx->err.msg);
}

/* --- running bodies --- */

static bool finish(struct sql_db *db, int64_t began_us, bool ok, struct err *err)
{
    metric_observe_us(M_SQL_SECONDS, db->name, clock_mono_us() - began_us);
    if (ok)
        return true;
    metric_inc_label(M_SQL_ERRORS, err_kind_name(err->kind));
    return false;
}

bool sql_write(struct sql_db *db, sql_body body, void *arg, struct err *err)
{
    CHECK(db, SQL_DB_MAGIC);
    int64_t began_us = clock_mono_us();
    return finish(db, began_us, db->driver->write(db, body, arg, err), err);
}

bool sql_read(struct sql_db *db, sql_body body, void *arg, struct err *err)
{
    CHECK(db, SQL_DB_MAGIC);
    int64_t began_us = clock_mono_us();
    return finish(db, began_us, db->driver->read(db, body, arg, err), err);
}

bool sql_query(struct sql_db *db, const struct sql_stmt *st, const struct sql_value *params, struct arena *a,
               struct sql_result *out, struct err *err)
{
    CHECK(db, SQL_DB_MAGIC);
    assert(!st->is_rowset);
    int64_t began_us = clock_mono_us();
    struct sql_result got = {.n_cols = strlen(st->cols)};
    atomic_fetch_add_explicit(&db->statements, 1, memory_order_relaxed);
    bool ok = sql_fault_run(db) ? err_set(err, ERR_UNAVAILABLE, "injected fault")
                                : db->driver->query(db, st, params, a, &got, err);
    if (ok)
        *out = got;
    return finish(db, began_us, ok, err);
}

/* The smallest write there is: a number of the file's header, which nobody uses. */
FIBER static bool write_probe(struct sql_tx *tx, void *arg, struct err *err)
{
    (void)arg;
    return tx->db->driver->script(tx, "PRAGMA user_version = 0", err);
}

bool sql_ping(struct sql_db *db, struct err *err)
{
    if (db->is_stuck)
        return sql_write(db, write_probe, NULL, err);
    static const struct sql_stmt ping = {"sql_ping", "", "i", "SELECT 1", "SELECT 1::bigint", false};
    ARENA(a, 4096);
    struct sql_result r;
    return sql_query(db, &ping, NULL, &a, &r, err);
}

/* --- counts and faults --- */

void sql_get_stats(const struct sql_db *db, struct sql_stats *out)
{
    *out = (struct sql_stats){.round_trips = db->round_trips,
                              .commits = db->commits,
                              .statements = db->statements,
                              .rollbacks = db->rollbacks};
}

void sql_fail_nth(struct sql_db *db, unsigned nth, bool after_commit)
{
    db->fail_run = after_commit ? 0 : nth;
    db->fail_commit = after_commit ? nth : 0;
}

static bool strikes(_Atomic unsigned *count)
{
    unsigned left = atomic_load_explicit(count, memory_order_relaxed);
    while (left && !atomic_compare_exchange_weak(count, &left, left - 1))
        ;
    return left == 1;
}

bool sql_fault_run(struct sql_db *db)
{
    return strikes(&db->fail_run);
}

bool sql_fault_commit(struct sql_db *db)
{
    return strikes(&db->fail_commit);
}
