/*
 * sql_driver.h: what a driver is, and what drivers have from sql.c. Included by lib/data only; open.c knows which
 * drivers there are.
 */
#ifndef DATA_SQL_DRIVER_H
#define DATA_SQL_DRIVER_H

#include <stdatomic.h>

#include "data/sql.h"

/* results and scratch of one body; over it the body fails with LIMIT */
#define SQL_TX_ARENA_MAX ((size_t)256 << 20)
/* runs of one body after deadlocks and lost connections */
#define SQL_TRIES 3

struct sql_driver {
    bool is_pg;
    /* As sql_write, sql_read and sql_query; they count and time nothing. */
    FIBER bool (*write)(struct sql_db *db, sql_body body, void *arg, struct err *err);
    FIBER bool (*read)(struct sql_db *db, sql_body body, void *arg, struct err *err);
    FIBER bool (*query)(struct sql_db *db, const struct sql_stmt *st, const struct sql_value *params, struct arena *a,
                        struct sql_result *out, struct err *err);
    FIBER void (*close)(struct sql_db *db); /* frees db */
    void (*queue)(struct sql_tx *tx, const struct sql_stmt *st, const struct sql_value *params, size_t n_rows,
                  struct sql_result *out);
    FIBER bool (*run)(struct sql_tx *tx, struct err *err);
    /* Run a text of several statements inside the transaction; nothing may be queued. */
    FIBER bool (*script)(struct sql_tx *tx, const char *text, struct err *err);
    FIBER bool (*breathe)(struct sql_tx *tx, struct err *err); /* NULL: nothing to do */
    /* The schema has changed; NULL: nothing to do. */
    FIBER bool (*migrated)(struct sql_db *db, struct err *err);
};

/* The head of each driver's database object. */
struct sql_db {
    uint32_t magic;
    const struct sql_driver *driver;
    char *name, *dsn, *member; /* owned */
    struct sql_opts opts;      /* defaults filled in; name, dsn and member point to the copies */
    /* Read on any thread. */
    _Atomic uint64_t round_trips, commits, statements, rollbacks;
    _Atomic bool is_stuck; /* SQLite: the disk is full or broken, as far as the last write could tell */
    _Atomic unsigned fail_run, fail_commit; /* sql_fail_nth: this many runs (commits) from now; 0 = off */
};
#define SQL_DB_MAGIC 0x5d1db001u

/* The head of each driver's transaction object. */
struct sql_tx {
    struct sql_db *db;
    struct arena *arena;
    bool is_failed; /* err is set: nothing more is executed, and the transaction must not commit */
    struct err err;
};

/* Whether the set that a connection found (empty: none) is that of opts; learns it where opts do not know it yet. */
bool sql_set_fits(const struct sql_opts *opts, str found, struct err *err) WARN_UNUSED;
extern const struct sql_stmt sql_stmt_set;

void sql_db_init(struct sql_db *db, const struct sql_driver *driver, const struct sql_opts *opts);
void sql_db_done(struct sql_db *db); /* the names; the driver frees the rest */

/* Fail the transaction, keeping the first error. */
void sql_tx_fail(struct sql_tx *tx, const struct err *err);
/* The verdict after a body: false when it failed, or when a statement did whatever the body said. */
bool sql_tx_verdict(struct sql_tx *tx, bool body_ok, struct err *err) WARN_UNUSED;
/* Count one sql_run (one commit); true: the injected fault strikes now. */
bool sql_fault_run(struct sql_db *db);
bool sql_fault_commit(struct sql_db *db);

#endif
