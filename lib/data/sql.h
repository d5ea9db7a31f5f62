/*
 * sql.h: one transaction body, two databases.
 *
 * A body is a function that is given a transaction and runs statements in it. It is written once.
 *
 *  - On SQLite it runs on the database's writer thread (reads: on a reader thread), inside a savepoint; many bodies
 * that wait go into one commit. sql_run executes at once, a row-set statement as a loop over its rows.
 *  - On PostgreSQL it runs on the calling fiber over async libpq in pipeline mode: statements queue until a result is
 *    looked at, and then go out together in one round trip. A row-set statement is ONE statement.
 *    BEGIN travels with the first and COMMIT with the last statements.
 *
 * So a body must not touch fibers, clocks that suspend, or anything of the loop: only tx, its arguments, and memory of
 * tx->arena or of the request (whose owner is suspended meanwhile). It may run more than once (deadlock, serialization,
 * lost connection before COMMIT was sent): it must set all its outputs each time. When COMMIT was sent and the answer
 * is lost the result is ERR_TIMEOUT ("outcome unknown"): callers with a delivery key or request id try again.
 *
 * Statements are static tables; text differs per dialect only where it must. Values are always bound, never formatted.
 */
#ifndef DATA_SQL_H
#define DATA_SQL_H

#include "base/arena.h"
#include "fiber/fiber.h"

struct sql_db;
struct sql_tx;

/* Column and parameter types, one letter each: i = int64, t = text, b = bytes. Both may be null. */
struct sql_stmt {
    const char *name;   /* metrics and prepared-statement name; unique in the database */
    const char *params; /* e.g. "iib" */
    const char *cols;   /* result columns, "" = none */
    const char *sqlite; /* parameters ?1, ?2, … of one row */
    const char *pg;     /* $1, $2, …; NULL = same text as sqlite (?N is rewritten to $N) */
    /* Rows of parameters: sqlite runs once a row. pg has {rows} where a table of them stands ("FROM {rows} AS v (a,
     * b)"), as VALUES of a few or as arrays of many; a text without it takes arrays ($1::bigint[] …). */
    bool is_rowset;
};

struct sql_value {
    bool is_null;
    int64_t i; /* type i */
    str s;     /* types t and b */
};
static inline struct sql_value sql_i(int64_t i)
{
    return (struct sql_value){.i = i};
}
static inline struct sql_value sql_s(str s) /* text and bytes; an empty str is an empty value, not null */
{
    return (struct sql_value){.s = s};
}
static inline struct sql_value sql_null(void)
{
    return (struct sql_value){.is_null = true};
}

struct sql_result {
    size_t n_rows, n_cols;
    struct sql_value *values; /* row-major, in the arena given to sql_tx_* (tx arena) */
    int64_t n_affected;
};
static inline const struct sql_value *sql_at(const struct sql_result *r, size_t row, size_t col)
{
    assert(row < r->n_rows && col < r->n_cols);
    return &r->values[row * r->n_cols + col];
}

/* --- inside a body --- */
struct arena *sql_arena(struct sql_tx *tx); /* lives until sql_write/sql_read returns; results are in it */
/*
 * A body that works through many rows piece by piece, in the memory of one piece: until the end of the scope sql_arena
 * is one of its own, and what is queued has its results there. Each piece ends with sql_run, and does not hold another.
 */
struct sql_piece {
    struct sql_tx *tx;
    struct arena *outer, arena;
};
void sql_piece_begin(struct sql_piece *p, struct sql_tx *tx);
void sql_piece_end(struct sql_piece *p);
#define SQL_PIECE(name, tx)                                                                                            \
    __attribute__((cleanup(sql_piece_end))) struct sql_piece name;                                                     \
    sql_piece_begin(&name, (tx))
/*
 * Queue one statement. n_rows is 1 unless is_rowset (then 0 is allowed and does nothing). params is row-major and is
 * borrowed until the statement has gone out (sql_run, or the end of the body): keep it in the arena. The result, when
 * asked for (non-NULL), is filled by the next sql_run. On SQLite it executes here.
 */
void sql_queue(struct sql_tx *tx, const struct sql_stmt *st, const struct sql_value *params, size_t n_rows,
               struct sql_result *out);
/* Send what is queued and read the results. One round trip. False when any failed: the body returns false too. */
FIBER bool sql_run(struct sql_tx *tx, struct err *err) WARN_UNUSED;
/* sql_queue and sql_run. */
FIBER bool sql_exec(struct sql_tx *tx, const struct sql_stmt *st, const struct sql_value *params, size_t n_rows,
                    struct sql_result *out, struct err *err) WARN_UNUSED;
bool sql_is_pg(const struct sql_tx *tx);
/*
 * For loops in a body over what a client chose: on PostgreSQL, where it runs on the calling fiber, let others run when
 * it has been running for long; elsewhere it has a thread, or is known to be short. The server waits meanwhile, with
 * the transaction's locks, and ends it when it waits too long: so after SQL_BREATH_MS without a statement nobody is let
 * before it any more. False as fiber_yield_if_due.
 */
#define SQL_BREATH_MS 1000
FIBER bool sql_breathe(struct sql_tx *tx, struct err *err) WARN_UNUSED;

/* --- running bodies --- */
typedef FIBER bool (*sql_body)(struct sql_tx *tx, void *arg, struct err *err);
/*
 * Run the body in a write transaction; true means committed and durable. The body's false rolls back and its error is
 * returned. Errors besides the body's own: UNAVAILABLE (database away, statement timeout), BUSY (too many wait),
 * TIMEOUT (outcome unknown), EXISTS (unique key), CONFLICT (serialization after retries; a CHECK that failed),
 * INTERNAL (a statement that is wrong). Suspends; honours the deadline while it waits to start, and once the body has
 * begun waits for its end (the statement timeout bounds that).
 */
FIBER bool sql_write(struct sql_db *db, sql_body body, void *arg, struct err *err) WARN_UNUSED;
/* Run the body on a read snapshot. */
FIBER bool sql_read(struct sql_db *db, sql_body body, void *arg, struct err *err) WARN_UNUSED;
/* One read statement; rows are copied into `a`. */
FIBER bool sql_query(struct sql_db *db, const struct sql_stmt *st, const struct sql_value *params, struct arena *a,
                     struct sql_result *out, struct err *err) WARN_UNUSED;

/* --- databases --- */
/*
 * The databases of one installation hold one random id, made when they were set up, each under its own name in it
 * ("directory", "queue", "shard 2"). So an empty database behind a name that was mistyped, or the database of somebody
 * else, is not taken for ours.
 */
#define SQL_SET_ID_SIZE 33u
struct sql_set {
    char id[SQL_SET_ID_SIZE]; /* empty: not known yet; the first that is asked says it */
    bool is_enforced;
};

struct sql_opts {
    const char *name;              /* in logs and metrics: "directory", "queue", "shard-1" */
    str dsn;                       /* "sqlite:/path/file.db" or a libpq URL/keyword string */
    unsigned pool;                 /* PostgreSQL connections / SQLite readers; default 8 / 2 */
    unsigned statement_timeout_ms; /* default 15000 */
    unsigned max_waiting;          /* callers waiting for a connection or the writer; above it BUSY; default 10000 */
    /* Each new PostgreSQL connection, once set->is_enforced, is refused (UNAVAILABLE) unless the database is this
     * member of this set. NULL: any will do. set is borrowed and outlives the database; member is copied. */
    struct sql_set *set;
    const char *member;
};
/* Opens lazily: a database that is away is no error here. Errors: INVALID (dsn). */
struct sql_db *sql_open(const struct sql_opts *opts, struct err *err) WARN_UNUSED;
/* Whether a dsn is well formed; connects to nothing. */
bool sql_check_dsn(str dsn, struct err *err) WARN_UNUSED;
FIBER void sql_close(struct sql_db *db);
const char *sql_name(const struct sql_db *db);
bool sql_db_is_pg(const struct sql_db *db);
/* Whether a trivial statement succeeds now (readiness); on SQLite after a write that failed because of the disk: a
 * write. */
FIBER bool sql_ping(struct sql_db *db, struct err *err) WARN_UNUSED;

/* The id of the set that this database is `member` of; "" when it is of none. *is_empty: nobody ever set it up. A
 * SQLite file that is missing is empty, and stays missing. */
FIBER bool sql_set_look(struct sql_db *db, const char *member, char id[SQL_SET_ID_SIZE], bool *is_empty,
                        struct err *err) WARN_UNUSED;
/* Make it a member. EXISTS when it is one already. */
FIBER bool sql_set_join(struct sql_db *db, const char *member, const char *id, struct err *err) WARN_UNUSED;

/* --- schema --- */
/* One step; the texts may hold several statements. Steps are append-only; each runs in its own transaction, once. */
struct sql_migration {
    unsigned version; /* 1, 2, 3, … without holes */
    const char *what; /* one line for people */
    const char *sqlite, *pg;
};
/* Bring the schema of one component ("store", "auth", "queue": several may share a database, so their tables have names
 * of their own) up to date. Table thurn_schema records the steps. Safe when several processes do it at once, and
 * idempotent. With dry_run nothing changes. *applied counts steps (to be) applied. A schema that is newer than this
 * program by more than one step is INVALID. */
FIBER bool sql_migrate(struct sql_db *db, const char *component, const struct sql_migration *steps, size_t n,
                       bool dry_run, unsigned *applied, struct err *err) WARN_UNUSED;

/* Statement counts since the start, for benches and tests: round trips, commits, statements. */
struct sql_stats {
    uint64_t round_trips, commits, statements, rollbacks;
};
void sql_get_stats(const struct sql_db *db, struct sql_stats *out);

/* Faults for tests: the n-th sql_run from now on (1 = the next) fails with UNAVAILABLE; with after_commit, the n-th
 * commit takes effect but is reported as "outcome unknown". 0 turns it off. */
void sql_fail_nth(struct sql_db *db, unsigned nth, bool after_commit);

#endif
