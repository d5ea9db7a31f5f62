/*
 * pg_conn.h: one PostgreSQL connection in pipeline mode. Included by lib/data only.
 *
 * Commands are queued; pg_conn_sync sends them with a sync mark and reads all their results: one round trip. A "tail"
 * is a COMMIT or ROLLBACK whose answer nobody needs: it is sent at once and its result is read by the next user.
 * Waiting is not interrupted by deadlines, so that a connection is never left in the middle of something; the server's
 * statement timeout bounds it, and a connection that stays silent for longer than that is given up.
 */
#ifndef DATA_PG_CONN_H
#define DATA_PG_CONN_H

#include <libpq-fe.h>

#include "base/map.h"
#include "data/sql_driver.h"

enum pg_op_kind { PG_OP_PREPARE, PG_OP_EXEC, PG_OP_SYNC };

struct pg_op {
    enum pg_op_kind kind;
    const struct sql_stmt *st;
    size_t form;            /* see pg_form */
    struct sql_result *out; /* EXEC: NULL when the result is not wanted */
    struct arena *arena;    /* of *out */
};

struct pg_conn {
    struct list_node idle; /* in the pool's list, or not */
    PGconn *h;
    struct uv_poll_s *poll; /* always waits for input; also for output while libpq has some that did not go out */
    struct fiber *waiter;
    bool is_ready, is_broken, wants_write;
    unsigned generation; /* of the pool when it was made */
    unsigned statement_timeout_ms;
    struct fiber_timer timer;
    bool is_overdue;
    struct map64 prepared; /* statement and form → the statement */
    struct pg_op *ops;     /* sent or queued, oldest first; [first, n) have no result yet */
    size_t first, n, cap;
};

struct pg_error { /* what an operation came to */
    struct err err;
    bool is_retryable; /* deadlock, serialization failure */
    bool is_lost;      /* the connection is gone */
    bool is_no_table;  /* a table that the statement names is not there */
};

/* Connect to the first of the DSN's hosts that answers and has the target_session_attrs, from *first_target on;
 * *first_target: which that was. Suspends; honours the deadline, and connect_timeout for each host. Errors:
 * UNAVAILABLE, TIMEOUT, CANCELLED. */
FIBER struct pg_conn *pg_conn_new(const struct sql_opts *opts, unsigned *first_target, struct err *err) WARN_UNUSED;
void pg_conn_free(struct pg_conn *c);

/* Queue a statement, preparing it first when this connection does not know it. Its result, and scratch for arrays, is
 * in `a`. */
void pg_conn_queue(struct pg_conn *c, const struct sql_stmt *st, const struct sql_value *params, size_t n_rows,
                   struct sql_result *out, struct arena *a);
/* Send everything and read all results. False: *e says what the first failure was. */
FIBER bool pg_conn_sync(struct pg_conn *c, struct pg_error *e) WARN_UNUSED;
/* Send the end of a transaction without waiting for its answer. */
void pg_conn_tail(struct pg_conn *c, const struct sql_stmt *st);
/* A text of several statements, outside the pipeline. */
FIBER bool pg_conn_script(struct pg_conn *c, const char *text, struct pg_error *e) WARN_UNUSED;

/* --- pg_value.c --- */
#define PG_INT8 20
#define PG_TEXT 25
#define PG_BYTEA 17

/*
 * How n_rows of a statement go to the server. A form is a prepared statement of its own.
 *
 * 0: as they are: one parameter a column, which for a row set is an array. Otherwise: as {rows} in its text, that many
 * rows of scalar parameters. Few rows are much cheaper so: an array costs the server a function scan to set up, before
 * it has said anything (four microseconds each, and a statement has up to fifteen); VALUES cost next to nothing.
 */
size_t pg_form(const struct sql_stmt *st, size_t n_rows);
#define PG_VALUES_ROWS_MAX 8u
#define PG_PARAMS_MAX 128u

struct pg_params {
    int n;
    const char *values[PG_PARAMS_MAX];
    int lengths[PG_PARAMS_MAX], formats[PG_PARAMS_MAX];
    uint64_t ints[PG_PARAMS_MAX]; /* network order */
};
/* Binary parameters in that form. Arrays live in `a`. */
void pg_params_encode(struct pg_params *p, const struct sql_stmt *st, size_t form, const struct sql_value *v,
                      size_t n_rows, struct arena *a);
/* Returns how many parameters there are. */
int pg_param_types(const struct sql_stmt *st, size_t form, Oid types[PG_PARAMS_MAX]);
/* The statement's text for PostgreSQL: its own, or the shared one with ?N as $N; NUL-terminated in `a`. */
const char *pg_text(const struct sql_stmt *st, size_t form, struct arena *a);
bool pg_result_decode(const PGresult *r, const struct sql_stmt *st, struct arena *a, struct sql_result *out,
                      struct err *err) WARN_UNUSED;
/* The error of a failed result by its SQLSTATE. */
void pg_result_error(const PGresult *r, const char *what, struct pg_error *e);

/* For open.c. */
bool pg_check_dsn(str dsn, struct err *err) WARN_UNUSED;
struct sql_db *pg_open(const struct sql_opts *opts, struct err *err) WARN_UNUSED;

#endif
