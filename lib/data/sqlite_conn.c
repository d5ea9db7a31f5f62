#include "data/sqlite_conn.h"

#include <errno.h>
#include <sys/uio.h>

#include "base/num.h"
#include "data/sqlite_vfs.h"

static bool set_error(sqlite3 *h, int rc, const char *what, struct err *err)
{
    int extended = h ? sqlite3_extended_errcode(h) : rc;
    const char *text = h ? sqlite3_errmsg(h) : sqlite3_errstr(rc);
    enum err_kind kind = ERR_INTERNAL;
    switch (rc & 0xff) {
    case SQLITE_CONSTRAINT:
        if (extended == SQLITE_CONSTRAINT_UNIQUE || extended == SQLITE_CONSTRAINT_PRIMARYKEY ||
            extended == SQLITE_CONSTRAINT_ROWID)
            kind = ERR_EXISTS;
        else if (extended == SQLITE_CONSTRAINT_CHECK)
            kind = ERR_CONFLICT;
        break;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_FULL:
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_INTERRUPT:
    case SQLITE_PROTOCOL:
        kind = ERR_UNAVAILABLE;
        break;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return err_set(
            err, ERR_INTERNAL,
            "the database is damaged (%s): with the server stopped, put a backup in its place, or save what it has by "
            "'sqlite3 FILE .recover'",
            text);
    case SQLITE_TOOBIG:
        kind = ERR_INTERNAL;
        break;
    }
    return err_set(err, kind, "sqlite: %s: %s", what, text);
}

bool sqlite_conn_exec(struct sqlite_conn *c, const char *text, struct err *err)
{
    int rc = sqlite3_exec(c->h, text, NULL, NULL, NULL);
    return rc == SQLITE_OK || set_error(c->h, rc, "exec", err);
}

/*
 * Reads on the loop thread. While no_wait is set, this thread's file reads go out as preadv2(RWF_NOWAIT): what is in
 * the page cache is returned, what would need the disk is an I/O error, which makes the caller go to a reader thread.
 * WAL readers take their locks without waiting, and a budget of operations ends a query that computes for too long. So
 * a small read whose pages are cached costs some microseconds on the loop, instead of two thread switches of 28, and
 * the loop still never waits for a disk.
 */
#define INLINE_OPS_STEP 1000 /* virtual machine operations between looks at the budget */
#define INLINE_OPS_MAX 20000 /* about half a millisecond */

static _Thread_local bool no_wait, is_probing, is_refused;
static ssize_t (*real_pread)(int fd, void *p, size_t n, off64_t offset);

static ssize_t pread_or_fail(int fd, void *p, size_t n, off64_t offset)
{
    if (!no_wait && !is_probing)
        return real_pread(fd, p, n, offset);
    struct iovec v = {p, n};
    ssize_t got = preadv2(fd, &v, 1, offset, RWF_NOWAIT);
    if (got == (ssize_t)n)
        return got;
    if (is_probing) {
        is_refused |= got < 0 && errno != EAGAIN;
        return real_pread(fd, p, n, offset);
    }
    errno = EAGAIN;
    return -1;
}

bool sqlite_inline_init(void)
{
    if (real_pread)
        return true;
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    if (!vfs || vfs->iVersion < 3)
        return false;
    sqlite3_syscall_ptr old = vfs->xGetSystemCall(vfs, "pread64");
    if (!old)
        return false;
    real_pread = (ssize_t(*)(int, void *, size_t, off64_t))old;
    return vfs->xSetSystemCall(vfs, "pread64", (sqlite3_syscall_ptr)pread_or_fail) == SQLITE_OK;
}

void sqlite_inline_enter(struct sqlite_conn *c)
{
    c->n_ops = 0;
    no_wait = true;
}

void sqlite_inline_leave(void)
{
    no_wait = false;
}

void sqlite_inline_probe(void)
{
    is_probing = true;
    is_refused = false;
}

bool sqlite_inline_probed(void)
{
    is_probing = false;
    return !is_refused;
}

static int count_ops(void *conn)
{
    struct sqlite_conn *c = conn;
    c->n_ops += INLINE_OPS_STEP;
    return no_wait && c->n_ops > INLINE_OPS_MAX;
}

/*
 * Whether a reader thread would fare better: the disk is needed, a lock is held, or it takes too long. Where reading
 * the schema anew would wait, SQLite goes on with the one it knows and says that there is no such table or column.
 */
static bool is_would_block(int rc)
{
    rc &= 0xff;
    return no_wait && (rc == SQLITE_IOERR || rc == SQLITE_BUSY || rc == SQLITE_INTERRUPT || rc == SQLITE_PROTOCOL ||
                       rc == SQLITE_ERROR || rc == SQLITE_SCHEMA);
}

/*
 * The writer keeps its pages in its own cache and checkpoints every 16,000 pages (64 MiB) of log, as the same pages are
 * changed again and again. Readers map the file: a page in the page cache costs them no system call. The inline reader
 * must not map it, as a page fault blocks.
 */
static const char *const role_pragmas[] = {
    /* auto_vacuum takes effect in a file that is still empty: it can give back to the disk what was freed. */
    [SQLITE_WRITER] =
        ("PRAGMA auto_vacuum=INCREMENTAL; PRAGMA synchronous=FULL; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=16000;"
         "PRAGMA journal_size_limit=134217728; PRAGMA cache_size=-65536; PRAGMA temp_store=MEMORY;"
         "PRAGMA secure_delete=FAST;"),
    [SQLITE_READER] = ("PRAGMA query_only=1; PRAGMA cache_size=-8192; PRAGMA mmap_size=1073741824;"
                       "PRAGMA temp_store=MEMORY;"),
    [SQLITE_INLINE] = ("PRAGMA query_only=1; PRAGMA cache_size=-32768; PRAGMA mmap_size=0;"
                       "PRAGMA temp_store=MEMORY;"),
};

bool sqlite_conn_open(struct sqlite_conn *c, const char *path, enum sqlite_role role, struct err *err)
{
    *c = (struct sqlite_conn){0};
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_CREATE;
    int rc = sqlite3_open_v2(path, &c->h, flags, role == SQLITE_WRITER ? sqlite_writer_vfs() : NULL);
    if (rc != SQLITE_OK) {
        bool ok = set_error(c->h, rc, path, err);
        sqlite3_close(c->h);
        c->h = NULL;
        return ok;
    }
    sqlite3_extended_result_codes(c->h, 1);
    sqlite3_busy_timeout(c->h, role == SQLITE_INLINE ? 0 : 5000);
    if (!sqlite_conn_exec(c, role_pragmas[role], err)) {
        sqlite3_close(c->h);
        c->h = NULL;
        return false;
    }
    if (role == SQLITE_INLINE)
        sqlite3_progress_handler(c->h, INLINE_OPS_STEP, count_ops, c);
    map64_init(&c->stmts);
    return true;
}

void sqlite_conn_close(struct sqlite_conn *c)
{
    if (!c->h)
        return;
    struct map_iter it = {0};
    uint64_t key;
    void *stmt;
    while (map64_next(&c->stmts, &it, &key, &stmt))
        sqlite3_finalize(stmt);
    map64_done(&c->stmts);
    sqlite3_close(c->h);
    c->h = NULL;
}

static sqlite3_stmt *prepared(struct sqlite_tx *tx, const struct sql_stmt *st, struct err *err)
{
    struct sqlite_conn *c = tx->conn;
    sqlite3_stmt *s = map64_get(&c->stmts, (uintptr_t)st);
    if (s)
        return s;
    int rc = sqlite3_prepare_v3(c->h, st->sqlite, -1, SQLITE_PREPARE_PERSISTENT, &s, NULL);
    if (rc != SQLITE_OK) {
        tx->is_would_block = is_would_block(rc);
        (void)set_error(c->h, rc, st->name, err);
        return NULL;
    }
    if ((size_t)sqlite3_column_count(s) != strlen(st->cols) ||
        (size_t)sqlite3_bind_parameter_count(s) != strlen(st->params)) {
        sqlite3_finalize(s);
        (void)err_set(err, ERR_INTERNAL, "sqlite: %s: parameters or columns are not as declared", st->name);
        return NULL;
    }
    map64_put(&c->stmts, (uintptr_t)st, s);
    return s;
}

static int bind_row(sqlite3_stmt *s, const char *types, const struct sql_value *v)
{
    int rc = SQLITE_OK;
    for (int i = 0; types[i] && rc == SQLITE_OK; i++) {
        const char *p = v[i].s.p ? v[i].s.p : ""; /* a NULL pointer would bind null */
        if (v[i].is_null)
            rc = sqlite3_bind_null(s, i + 1);
        else if (types[i] == 'i')
            rc = sqlite3_bind_int64(s, i + 1, v[i].i);
        else if (types[i] == 't')
            rc = sqlite3_bind_text64(s, i + 1, p, v[i].s.n, SQLITE_STATIC, SQLITE_UTF8);
        else
            rc = sqlite3_bind_blob64(s, i + 1, p, v[i].s.n, SQLITE_STATIC);
    }
    return rc;
}

/* Result rows while they are gathered: values grow by doubling in the arena. */
struct rows {
    struct arena *a;
    struct sql_value *values;
    size_t n, cap; /* rows */
};

static void take_row(struct rows *r, sqlite3_stmt *s, const char *cols, size_t n_cols)
{
    if (r->n == r->cap) {
        size_t cap = r->cap ? r->cap * 2 : 4;
        struct sql_value *more = arena_alloc(r->a, size_mul(size_mul(cap, n_cols), sizeof *more));
        if (r->n)
            memcpy(more, r->values, r->n * n_cols * sizeof *more);
        r->values = more;
        r->cap = cap;
    }
    struct sql_value *v = &r->values[r->n++ * n_cols];
    for (int i = 0; cols[i]; i++) {
        v[i] = (struct sql_value){.is_null = sqlite3_column_type(s, i) == SQLITE_NULL};
        if (v[i].is_null)
            continue;
        if (cols[i] == 'i') {
            v[i].i = sqlite3_column_int64(s, i);
        } else {
            const void *p = cols[i] == 't' ? (const void *)sqlite3_column_text(s, i) : sqlite3_column_blob(s, i);
            v[i].s = arena_str(r->a, str_n(p, (size_t)sqlite3_column_bytes(s, i)));
        }
    }
}

static bool run_row(struct sqlite_tx *tx, const struct sql_stmt *st, sqlite3_stmt *s, const struct sql_value *params,
                    struct rows *rows, int64_t *n_affected, struct err *err)
{
    size_t n_cols = strlen(st->cols);
    int rc = bind_row(s, st->params, params);
    if (rc == SQLITE_OK)
        while ((rc = sqlite3_step(s)) == SQLITE_ROW && arena_ok(rows->a))
            take_row(rows, s, st->cols, n_cols);
    if (rc == SQLITE_DONE && !sqlite3_stmt_readonly(s))
        *n_affected += sqlite3_changes64(tx->conn->h);
    bool ok = rc == SQLITE_DONE;
    tx->is_would_block = is_would_block(rc);
    if (rc == SQLITE_ROW)
        (void)err_set(err, ERR_INTERNAL, "sqlite: %s: the result is too large", st->name);
    else if (!ok)
        (void)set_error(tx->conn->h, rc, st->name, err);
    sqlite3_reset(s);
    return ok;
}

void sqlite_tx_queue(struct sql_tx *base, const struct sql_stmt *st, const struct sql_value *params, size_t n_rows,
                     struct sql_result *out)
{
    struct sqlite_tx *tx = CONTAINER_OF(base, struct sqlite_tx, base);
    struct err err = ERR_INIT;
    struct rows rows = {.a = base->arena};
    int64_t n_affected = 0;
    size_t n_params = strlen(st->params), i = 0;
    sqlite3_stmt *s = prepared(tx, st, &err);
    if (s)
        while (i < n_rows && run_row(tx, st, s, params + i * n_params, &rows, &n_affected, &err))
            i++;
    if (s)
        sqlite3_clear_bindings(s); /* they point into the caller's memory */
    if (err_is_set(&err)) {
        sql_tx_fail(base, &err);
        return;
    }
    if (out)
        *out = (struct sql_result){
            .n_rows = rows.n, .n_cols = strlen(st->cols), .values = rows.values, .n_affected = n_affected};
}
