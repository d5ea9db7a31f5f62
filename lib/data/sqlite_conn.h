/*
 * sqlite_conn.h: one connection to a SQLite file with its prepared statements, used by one thread at a time.
 * Included by lib/data only.
 */
#ifndef DATA_SQLITE_CONN_H
#define DATA_SQLITE_CONN_H

#include <sqlite3.h>

#include "base/map.h"
#include "data/sql_driver.h"

enum sqlite_role {
    SQLITE_WRITER, /* WAL, synchronous=FULL, checkpoints */
    SQLITE_READER,
    SQLITE_INLINE, /* a reader for the loop thread */
};

struct sqlite_conn {
    sqlite3 *h;         /* NULL while closed */
    struct map64 stmts; /* const struct sql_stmt * → sqlite3_stmt * */
    unsigned n_ops;     /* SQLITE_INLINE: operations since sqlite_inline_enter */
};

struct sqlite_tx {
    struct sql_tx base;
    struct sqlite_conn *conn;
    bool is_would_block; /* inline: failed because it would have waited; a reader thread can do it */
};

/* May block on the disk. Errors: UNAVAILABLE. */
bool sqlite_conn_open(struct sqlite_conn *c, const char *path, enum sqlite_role role, struct err *err) WARN_UNUSED;
void sqlite_conn_close(struct sqlite_conn *c); /* a closed one is allowed */
/* Run a plain text: BEGIN, SAVEPOINT, a script. */
bool sqlite_conn_exec(struct sqlite_conn *c, const char *text, struct err *err) WARN_UNUSED;
/* The driver's queue: execute for each row and gather the results; failure goes to tx. */
void sqlite_tx_queue(struct sql_tx *tx, const struct sql_stmt *st, const struct sql_value *params, size_t n_rows,
                     struct sql_result *out);

/* Make reads on the loop thread possible; false: this SQLite does not let us. Once, before the first open. */
bool sqlite_inline_init(void);
/* Between these the calling thread's reads never wait: they fail with is_would_block instead. */
void sqlite_inline_enter(struct sqlite_conn *c);
void sqlite_inline_leave(void);
/* Between these the calling thread's reads find out whether the file system can read without waiting; they may wait.
 * False: it cannot. Opening a database reads it. */
void sqlite_inline_probe(void);
bool sqlite_inline_probed(void) WARN_UNUSED;

/* For open.c. */
struct sql_db *sqlite_open(const struct sql_opts *opts, struct err *err) WARN_UNUSED; /* dsn without "sqlite:" */
bool sqlite_check_dsn(str path, struct err *err) WARN_UNUSED;                         /* what follows "sqlite:" */

#endif
