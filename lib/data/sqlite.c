/*
 * SQLite: one writer thread that commits what waits together, reader threads, and reads on the loop where they do not
 * wait (sqlite_conn.c says how).
 */
#include "data/sqlite_conn.h"

#include "base/clock.h"
#include "base/metrics.h"
#include "fiber/work.h"

#define WRITE_BATCH_MAX 256
#define READ_BATCH_MAX 64
#define READERS_MAX 16

struct sqlite_reader {
    struct sqlite_db *db;
    struct work_lane *lane;
    struct sqlite_conn conn;
    unsigned n_waiting;
};

struct sqlite_db {
    struct sql_db base;
    struct work_lane *writer;
    struct sqlite_conn write_conn; /* of the writer's thread */
    struct sqlite_reader readers[READERS_MAX];
    struct sqlite_conn inline_conn; /* of the loop thread, once it is open */
    bool is_inline_able, is_inline_opening;
    char thread_name[16];
};

/* One body (or one query: st) on its way through a lane. Lives on the caller's stack. */
struct sqlite_job {
    struct work_item item;
    sql_body body;
    void *arg;
    const struct sql_stmt *st;
    const struct sql_value *params;
    struct sql_result *out;
    struct arena *arena;
    struct err err; /* unset = done */
};

static struct sqlite_db *of(struct sql_db *base)
{
    return CONTAINER_OF(base, struct sqlite_db, base);
}

/* --- writing: on the writer's thread --- */

static bool run_body(struct sqlite_db *db, struct sqlite_conn *conn, struct sqlite_job *job)
{
    struct sqlite_tx tx = {.base = {.db = &db->base, .arena = job->arena}, .conn = conn};
    bool ok = job->body(&tx.base, job->arg, &job->err);
    /* What the body queued last counts as one more run, as it would on PostgreSQL. */
    if (ok && !tx.base.is_failed && sql_fault_run(&db->base))
        return err_set(&job->err, ERR_UNAVAILABLE, "injected fault");
    return sql_tx_verdict(&tx.base, ok, &job->err);
}

/* Something failed: was it the disk? */
static void look_at_disk(struct sqlite_db *db)
{
    switch (db->write_conn.h ? sqlite3_extended_errcode(db->write_conn.h) & 0xff : SQLITE_CANTOPEN) {
    case SQLITE_FULL:
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
        db->base.is_stuck = true;
    }
}

static void rollback(struct sqlite_db *db, const char *text)
{
    struct err ignored = ERR_INIT; /* the transaction may be gone already */
    if (!sqlite_conn_exec(&db->write_conn, text, &ignored))
        err_clear(&ignored);
    atomic_fetch_add_explicit(&db->base.rollbacks, 1, memory_order_relaxed);
}

static void fail_job(struct sqlite_job *job, const struct err *err)
{
    if (!err_is_set(&job->err))
        job->err = *err;
}

static void fail_jobs(struct work_item **items, size_t n, const struct err *err)
{
    for (size_t i = 0; i < n; i++)
        fail_job(CONTAINER_OF(items[i], struct sqlite_job, item), err);
}

/* Run one body inside the open transaction; false: the transaction itself is gone. */
static bool write_one(struct sqlite_db *db, struct sqlite_job *job, bool is_alone, size_t *n_done)
{
    struct err err = ERR_INIT;
    if (!is_alone && !sqlite_conn_exec(&db->write_conn, "SAVEPOINT body", &err)) {
        fail_job(job, &err);
        return !sqlite3_get_autocommit(db->write_conn.h);
    }
    if (run_body(db, &db->write_conn, job)) {
        ++*n_done;
        return is_alone || sqlite_conn_exec(&db->write_conn, "RELEASE body", &job->err);
    }
    look_at_disk(db);
    if (sqlite3_get_autocommit(db->write_conn.h)) /* a full disk, say, has rolled back everything */
        return false;
    if (!is_alone)
        rollback(db, "ROLLBACK TO body; RELEASE body");
    return true;
}

static void commit(struct sqlite_db *db, struct work_item **items, size_t n, size_t n_done)
{
    struct err err = ERR_INIT;
    if (n_done == 0) {
        rollback(db, "ROLLBACK");
        return;
    }
    if (sqlite_conn_exec(&db->write_conn, "COMMIT", &err)) {
        db->base.is_stuck = false;
        atomic_fetch_add_explicit(&db->base.commits, 1, memory_order_relaxed);
        metric_inc(M_SQL_COMMITS);
        if (!sql_fault_commit(&db->base))
            return;
        (void)err_set(&err, ERR_TIMEOUT, "injected fault: outcome unknown");
    } else {
        look_at_disk(db);
        /* After a failed sync nobody knows what is on the disk. */
        if ((sqlite3_extended_errcode(db->write_conn.h) & 0xff) == SQLITE_IOERR)
            err.kind = ERR_TIMEOUT;
        rollback(db, "ROLLBACK");
    }
    fail_jobs(items, n, &err);
}

/* One transaction over items; returns how many have their verdict. */
static size_t write_transaction(struct sqlite_db *db, struct work_item **items, size_t n)
{
    struct err err = ERR_INIT;
    if ((!db->write_conn.h && !sqlite_conn_open(&db->write_conn, db->base.dsn, SQLITE_WRITER, &err)) ||
        !sqlite_conn_exec(&db->write_conn, "BEGIN IMMEDIATE", &err)) {
        look_at_disk(db);
        fail_jobs(items, n, &err);
        return n;
    }
    size_t n_done = 0;
    for (size_t i = 0; i < n; i++) {
        struct sqlite_job *job = CONTAINER_OF(items[i], struct sqlite_job, item);
        if (write_one(db, job, n == 1, &n_done))
            continue;
        if (!sqlite3_get_autocommit(db->write_conn.h))
            rollback(db, "ROLLBACK");
        (void)err_set(&err, ERR_UNAVAILABLE, "sqlite: the transaction was rolled back");
        fail_jobs(items, i + 1, &err);
        return i + 1;
    }
    commit(db, items, n, n_done);
    return n;
}

static void write_batch(void *ctx, struct work_item **items, size_t n)
{
    struct sqlite_db *db = ctx;
    atomic_fetch_add_explicit(&db->base.round_trips, 1, memory_order_relaxed);
    metric_inc(M_SQL_ROUND_TRIPS);
    for (size_t i = 0; i < n;)
        i += write_transaction(db, items + i, n - i);
}

FIBER static bool sqlite_write(struct sql_db *base, sql_body body, void *arg, struct err *err)
{
    struct sqlite_db *db = of(base);
    ARENA(arena, SQL_TX_ARENA_MAX);
    struct sqlite_job job = {.body = body, .arg = arg, .arena = &arena};
    if (!work_lane_run(db->writer, &job.item, err))
        return false;
    return !err_is_set(&job.err) || err_set(err, job.err.kind, "%s", job.err.msg);
}

/* --- reading --- */

/* A query needs no transaction; a body gets one snapshot. */
static bool read_one(struct sqlite_db *db, struct sqlite_conn *conn, struct sqlite_job *job, bool *would_block)
{
    struct sqlite_tx tx = {.base = {.db = &db->base, .arena = job->arena}, .conn = conn};
    bool ok;
    if (job->st) {
        sqlite_tx_queue(&tx.base, job->st, job->params, 1, job->out);
        ok = true;
    } else {
        static const struct sql_stmt begin = {"sql_begin", "", "", "BEGIN", NULL, false};
        static const struct sql_stmt end = {"sql_end", "", "", "COMMIT", NULL, false};
        sqlite_tx_queue(&tx.base, &begin, NULL, 1, NULL);
        assert(job->body);
        ok = job->body(&tx.base, job->arg, &job->err);
        struct sqlite_tx ending = {.base = {.db = &db->base, .arena = job->arena}, .conn = conn};
        if (!sqlite3_get_autocommit(conn->h))
            sqlite_tx_queue(&ending.base, &end, NULL, 1, NULL);
    }
    *would_block = tx.is_would_block;
    return sql_tx_verdict(&tx.base, ok, &job->err);
}

static void read_batch(void *ctx, struct work_item **items, size_t n)
{
    struct sqlite_reader *r = ctx;
    struct err err = ERR_INIT;
    atomic_fetch_add_explicit(&r->db->base.round_trips, 1, memory_order_relaxed);
    metric_inc(M_SQL_ROUND_TRIPS);
    if (!r->conn.h && !sqlite_conn_open(&r->conn, r->db->base.dsn, SQLITE_READER, &err)) {
        fail_jobs(items, n, &err);
        return;
    }
    bool would_block;
    for (size_t i = 0; i < n; i++)
        (void)read_one(r->db, &r->conn, CONTAINER_OF(items[i], struct sqlite_job, item), &would_block);
}

/* Open the loop thread's connection on a pool thread: opening reads the file and may recover the log. */
static void open_inline(void *arg)
{
    struct sqlite_db *db = arg;
    struct err err = ERR_INIT;
    sqlite_inline_probe();
    bool ok =
        sqlite_conn_open(&db->inline_conn, db->base.dsn, SQLITE_INLINE, &err) &&
        sqlite_conn_exec(&db->inline_conn, "SELECT count(*) FROM sqlite_schema", &err); /* has the schema parsed */
    if (!sqlite_inline_probed())
        ok = db->is_inline_able = false; /* on tmpfs, say */
    if (!ok)
        sqlite_conn_close(&db->inline_conn);
}

FIBER static bool inline_ready(struct sqlite_db *db)
{
    if (db->is_inline_opening || !db->is_inline_able)
        return false;
    if (db->inline_conn.h)
        return true;
    struct err err = ERR_INIT;
    db->is_inline_opening = true;
    bool ok = work_run(open_inline, db, &err);
    db->is_inline_opening = false;
    return ok && db->inline_conn.h;
}

FIBER static bool read_on_lane(struct sqlite_db *db, struct sqlite_job *job, struct err *err)
{
    struct sqlite_reader *r = &db->readers[0];
    for (unsigned i = 1; i < db->base.opts.pool; i++)
        if (db->readers[i].n_waiting < r->n_waiting)
            r = &db->readers[i];
    r->n_waiting++;
    bool ok = work_lane_run(r->lane, &job->item, err);
    r->n_waiting--;
    return ok;
}

FIBER static bool read_job(struct sqlite_db *db, struct sqlite_job *job, struct err *err)
{
    if (inline_ready(db)) {
        bool would_block = false;
        sqlite_inline_enter(&db->inline_conn);
        bool ok = read_one(db, &db->inline_conn, job, &would_block);
        sqlite_inline_leave();
        if (ok || !would_block)
            return ok || err_set(err, job->err.kind, "%s", job->err.msg);
        err_clear(&job->err);
    }
    if (!read_on_lane(db, job, err))
        return false;
    return !err_is_set(&job->err) || err_set(err, job->err.kind, "%s", job->err.msg);
}

FIBER static bool sqlite_read(struct sql_db *base, sql_body body, void *arg, struct err *err)
{
    ARENA(arena, SQL_TX_ARENA_MAX);
    struct sqlite_job job = {.body = body, .arg = arg, .arena = &arena};
    return read_job(of(base), &job, err);
}

FIBER static bool sqlite_query(struct sql_db *base, const struct sql_stmt *st, const struct sql_value *params,
                               struct arena *a, struct sql_result *out, struct err *err)
{
    struct sqlite_job job = {.st = st, .params = params, .out = out, .arena = a};
    return read_job(of(base), &job, err);
}

/* --- the driver --- */

static bool sqlite_run(struct sql_tx *tx, struct err *err)
{
    return !tx->is_failed || err_set(err, tx->err.kind, "%s", tx->err.msg);
}

static bool sqlite_script(struct sql_tx *base, const char *text, struct err *err)
{
    struct sqlite_tx *tx = CONTAINER_OF(base, struct sqlite_tx, base);
    if (base->is_failed)
        return err_set(err, base->err.kind, "%s", base->err.msg);
    if (sqlite_conn_exec(tx->conn, text, err))
        return true;
    sql_tx_fail(base, err);
    return false;
}

static void close_inline(void *arg)
{
    struct sqlite_db *db = arg;
    sqlite_conn_close(&db->inline_conn);
}

/* The loop thread's connection knows the schema of before, and to read the new one it might have to wait. */
FIBER static bool sqlite_migrated(struct sql_db *base, struct err *err)
{
    struct sqlite_db *db = of(base);
    if (db->is_inline_opening || !db->inline_conn.h)
        return true;
    db->is_inline_opening = true; /* nobody uses it meanwhile */
    bool ok = work_run(close_inline, db, err);
    db->is_inline_opening = false;
    return ok;
}

FIBER static void sqlite_close(struct sql_db *base)
{
    struct sqlite_db *db = of(base);
    work_lane_free(db->writer);
    for (unsigned i = 0; i < base->opts.pool; i++) {
        work_lane_free(db->readers[i].lane);
        sqlite_conn_close(&db->readers[i].conn);
    }
    sqlite_conn_close(&db->inline_conn);
    sqlite_conn_close(&db->write_conn);
    sql_db_done(base);
    xfree(db);
}

static const struct sql_driver sqlite_driver = {
    .is_pg = false,
    .write = sqlite_write,
    .read = sqlite_read,
    .query = sqlite_query,
    .close = sqlite_close,
    .queue = sqlite_tx_queue,
    .run = sqlite_run,
    .script = sqlite_script,
    .migrated = sqlite_migrated,
};

/* Once in a process, before SQLite initialises itself: its memory statistics take a lock at every allocation. */
static bool configure_library(void)
{
    static bool is_done, is_inline_able;
    if (!is_done) {
        is_done = true;
        (void)sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0); /* refused when something else began to use SQLite first */
        is_inline_able = sqlite_inline_init();
    }
    return is_inline_able;
}

bool sqlite_check_dsn(str path, struct err *err)
{
    return (path.n && !memchr(path.p, 0, path.n)) ||
           err_set(err, ERR_INVALID, "a SQLite data source is \"sqlite:\" and the path of a file");
}

struct sql_db *sqlite_open(const struct sql_opts *opts, struct err *err)
{
    if (!sqlite_check_dsn(opts->dsn, err))
        return NULL;
    struct sqlite_db *db = xnew(struct sqlite_db);
    sql_db_init(&db->base, &sqlite_driver, opts);
    db->base.opts.pool = MIN(db->base.opts.pool, READERS_MAX);
    db->is_inline_able = configure_library();
    snprintf(db->thread_name, sizeof db->thread_name, "sql-%s", db->base.name);
    db->writer = work_lane_new(db->thread_name, write_batch, db, WRITE_BATCH_MAX, db->base.opts.max_waiting);
    for (unsigned i = 0; i < db->base.opts.pool; i++) {
        db->readers[i].db = db;
        db->readers[i].lane =
            work_lane_new(db->thread_name, read_batch, &db->readers[i], READ_BATCH_MAX, db->base.opts.max_waiting);
    }
    return &db->base;
}
