#include "data/pg_conn.h"

#include <netdb.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/num.h"
#include "fiber/loop.h"
#include "fiber/work.h"

#define CONNECT_TIMEOUT_MS 5000 /* of the only host */
#define TARGET_TIMEOUT_MS 1500  /* of one of several */
#define PG_TARGETS_MAX 16u
#define SILENCE_GRACE_MS 5000 /* beyond the statement timeout, before a silent connection is given up */

/* --- waiting for the socket --- */

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct pg_conn *c = poll->data;
    (void)events;
    if (!c)
        return;
    c->is_ready = true;
    if (status < 0)
        c->is_broken = true;
    if (c->waiter) {
        fiber_wake(c->waiter);
        return;
    }
    /* Nobody waits: the answer to a tail, a notice, or the end of the connection. */
    if (c->is_broken || !PQconsumeInput(c->h)) {
        c->is_broken = true;
        uv_poll_stop(poll);
    }
}

static void free_handle(uv_handle_t *h)
{
    xfree(h);
}

static void poll_close(struct pg_conn *c)
{
    if (!c->poll)
        return;
    c->poll->data = NULL;
    uv_poll_stop(c->poll);
    uv_close((uv_handle_t *)c->poll, free_handle);
    c->poll = NULL;
}

static bool poll_open(struct pg_conn *c, int events, struct err *err)
{
    uv_poll_t *poll = xnew(uv_poll_t);
    int rc = uv_poll_init(fiber_loop(), poll, PQsocket(c->h));
    if (rc < 0) {
        xfree(poll);
        return err_set(err, ERR_UNAVAILABLE, "postgres: poll: %s", uv_strerror(rc));
    }
    poll->data = c;
    c->poll = poll;
    uv_poll_start(poll, events, on_poll);
    return true;
}

static void on_overdue(void *arg)
{
    struct pg_conn *c = arg;
    c->is_overdue = true;
    if (c->waiter)
        fiber_wake(c->waiter);
}

/* Until the socket has something for us (or takes more); false: the connection is gone. */
FIBER static bool wait_io(struct pg_conn *c)
{
    int rc = PQflush(c->h);
    if (rc < 0)
        c->is_broken = true;
    if (c->wants_write != (rc == 1)) {
        c->wants_write = rc == 1;
        uv_poll_start(c->poll, UV_READABLE | (c->wants_write ? UV_WRITABLE : 0), on_poll);
    }
    c->is_ready = false;
    c->waiter = fiber_self();
    while (!c->is_ready && !c->is_broken && !c->is_overdue)
        fiber_wait_uninterrupted();
    c->waiter = NULL;
    if (c->is_overdue || c->is_broken || !PQconsumeInput(c->h))
        c->is_broken = true;
    return !c->is_broken;
}

/* --- connecting --- */

/*
 * A DSN may name several hosts, and a name several addresses. Each is tried by itself, in order, with a share of the
 * time of its own: libpq's own walk over the hosts has no time limit without blocking, so that one silent host would
 * eat all of it. Whichever worked last is tried first.
 */
struct target {
    const char *host;    /* for the certificate and the password file; NULL: libpq's default */
    const char *address; /* numeric; NULL: host is a Unix socket's folder, or there is none */
    const char *port;    /* NULL: the default */
};
struct targets {
    const char *hosts, *addresses, *ports; /* the DSN's lists; NULL where it has none */
    struct target v[PG_TARGETS_MAX];
    size_t n;
    struct arena *arena;
};

/* The i-th of a list; a list of one counts for all. NULL when it is empty. */
static const char *of_list(struct arena *a, const char *list, size_t i)
{
    str rest = str_c(list), item = STR_NONE;
    if (!list || !*list)
        return NULL;
    if (!strchr(list, ','))
        i = 0;
    for (size_t k = 0; k <= i; k++)
        if (!str_split(&rest, ',', &item))
            return NULL;
    return item.n ? arena_strz(a, item) : NULL;
}

static size_t list_length(const char *list)
{
    size_t n = list && *list;
    for (; list && *list; list++)
        n += *list == ',';
    return n;
}

static void add_target(struct targets *t, const char *host, const char *address, const char *port)
{
    if (t->n < PG_TARGETS_MAX)
        t->v[t->n++] = (struct target){host, address, port};
}

/* All addresses of a name; none: it is left out. */
static void add_name(struct targets *t, const char *host, const char *port)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG}, *found = NULL;
    char text[NI_MAXHOST];
    if (getaddrinfo(host, NULL, &hints, &found) != 0)
        return;
    for (const struct addrinfo *i = found; i; i = i->ai_next)
        if (getnameinfo(i->ai_addr, i->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST) == 0)
            add_target(t, host, arena_strz(t->arena, str_c(text)), port);
    freeaddrinfo(found);
}

/* On a pool thread: libpq would look names up on the loop. */
static void find_targets(void *arg)
{
    struct targets *t = arg;
    size_t n = MAX(MAX(list_length(t->hosts), list_length(t->addresses)), (size_t)1);
    for (size_t i = 0; i < n; i++) {
        const char *host = of_list(t->arena, t->hosts, i), *address = of_list(t->arena, t->addresses, i);
        const char *port = of_list(t->arena, t->ports, i);
        if (address || !host || *host == '/' || *host == '@')
            add_target(t, host, address, port);
        else
            add_name(t, host, port);
    }
}

/*
 * Options of every session. Our statements are point and range look-ups by primary key: one generic plan is right for
 * all parameters and saves planning each time; a plan that was made while a table was empty must not be a scan.
 *
 * Between two statements of a transaction we wait for nothing but the server: one that is idle for seconds is of a
 * process that was paused, and must not keep its locks from the others. The server notices by keepalives when our host
 * is gone.
 */
static str session_options(const struct sql_opts *opts, const char *own, struct arena *a)
{
    return arena_printf(a,
                        "-c statement_timeout=%u -c idle_in_transaction_session_timeout=5000 -c jit=off"
                        " -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_bitmapscan=off"
                        " -c max_parallel_workers_per_gather=0 -c default_transaction_isolation=read\\ committed"
                        " -c tcp_keepalives_idle=3 -c tcp_keepalives_interval=1 -c tcp_keepalives_count=3 %s",
                        opts->statement_timeout_ms, own ? own : "");
}

struct connect_params {
    const char *keys[64], *values[64];
    size_t n;
    const char *attrs;       /* target_session_attrs */
    int64_t host_timeout_ms; /* connect_timeout */
};

static void add_param(struct connect_params *p, const char *key, const char *value)
{
    assert(p->n + 1 < ARRAY_LEN(p->keys));
    p->keys[p->n] = key;
    p->values[p->n++] = value;
}

/* The DSN's parameters with our own; what says where goes to *t. What the DSN says itself stands later, and wins. */
static void gather_params(const struct sql_opts *opts, const PQconninfoOption *o, struct connect_params *p,
                          struct targets *t)
{
    struct arena *a = t->arena;
    const char *own_options = NULL;
    uint32_t seconds;
    add_param(p, "fallback_application_name", "thurn");
    /* A host that is gone answers nothing: known within seconds, before the deadline of whoever waits. */
    add_param(p, "tcp_user_timeout", "4000");
    add_param(p, "keepalives_idle", "3");
    add_param(p, "keepalives_interval", "1");
    add_param(p, "keepalives_count", "3");
    for (; o->keyword; o++) {
        if (!o->val || !*o->val)
            continue;
        const char *value = arena_strz(a, str_c(o->val));
        if (!strcmp(o->keyword, "options"))
            own_options = value;
        else if (!strcmp(o->keyword, "host"))
            t->hosts = value;
        else if (!strcmp(o->keyword, "hostaddr"))
            t->addresses = value;
        else if (!strcmp(o->keyword, "port"))
            t->ports = value;
        else if (!strcmp(o->keyword, "target_session_attrs"))
            p->attrs = value;
        else if (!strcmp(o->keyword, "connect_timeout"))
            p->host_timeout_ms = num_u32(str_c(value), 3600, &seconds) ? (int64_t)seconds * 1000 : 0;
        else
            add_param(p, o->keyword, value);
    }
    add_param(p, "options", session_options(opts, own_options, a).p);
    add_param(p, "client_encoding", "UTF8");
}

/* libpq may change its socket between two steps, so each step has a poll handle of its own. The first step is to wait
 * until the socket is connected: PQconnectPoll would take one that is still connecting for connected. */
FIBER static bool finish_connect(struct pg_conn *c, struct err *err)
{
    for (PostgresPollingStatusType st = PGRES_POLLING_WRITING;;) {
        if (!poll_open(c, st == PGRES_POLLING_READING ? UV_READABLE : UV_WRITABLE, err))
            return false;
        c->is_ready = false;
        c->waiter = fiber_self();
        bool ok = true;
        while (ok && !c->is_ready)
            ok = fiber_wait(err);
        c->waiter = NULL;
        c->is_broken = false; /* what libpq says of a socket with an error counts: it has the reason */
        poll_close(c);
        if (!ok)
            return err_prefix(err, "connecting");
        st = PQconnectPoll(c->h);
        if (st == PGRES_POLLING_OK)
            return true;
        if (st != PGRES_POLLING_READING && st != PGRES_POLLING_WRITING)
            return err_set(err, ERR_UNAVAILABLE, "%.*s", STR_ARG(str_trim(str_c(PQerrorMessage(c->h)))));
    }
}

FIBER static bool connect_to(struct pg_conn *c, const struct connect_params *params, const struct target *t,
                             const char *attrs, struct err *err)
{
    struct connect_params p = *params;
    if (t->host)
        add_param(&p, "host", t->host);
    if (t->address)
        add_param(&p, "hostaddr", t->address);
    if (t->port)
        add_param(&p, "port", t->port);
    if (attrs)
        add_param(&p, "target_session_attrs", attrs);
    PQfinish(c->h);
    c->h = PQconnectStartParams(p.keys, p.values, 0);
    if (!c->h || PQstatus(c->h) == CONNECTION_BAD)
        return err_set(err, ERR_UNAVAILABLE, "%.*s",
                       STR_ARG(str_trim(str_c(c->h ? PQerrorMessage(c->h) : "no memory"))));
    return finish_connect(c, err);
}

/* Each target once, from *first on. */
FIBER static bool walk_targets(struct pg_conn *c, const struct connect_params *p, const struct targets *t,
                               const char *attrs, unsigned *first, struct err *err)
{
    for (size_t i = 0; i < t->n; i++) {
        unsigned at = (unsigned)((*first + i) % t->n);
        int64_t limit_ms = p->host_timeout_ms ? p->host_timeout_ms : t->n > 1 ? TARGET_TIMEOUT_MS : CONNECT_TIMEOUT_MS;
        err_clear(err);
        {
            FIBER_DEADLINE(limit_ms);
            if (connect_to(c, p, &t->v[at], attrs, err)) {
                *first = at;
                return true;
            }
        }
        if (err->kind == ERR_CANCELLED ||
            (fiber_deadline() != FIBER_NO_DEADLINE && clock_mono_ms() >= fiber_deadline()))
            break; /* the caller's own time is up, not this host's */
    }
    return false;
}

FIBER static bool open_any(struct pg_conn *c, const struct connect_params *p, const struct targets *t, unsigned *first,
                           struct err *err)
{
    if (t->n == 0)
        return err_set(err, ERR_UNAVAILABLE, "postgres: cannot resolve '%s'", t->hosts);
    bool is_preferring = p->attrs && !strcmp(p->attrs, "prefer-standby"); /* two walks, as libpq makes them */
    bool ok = walk_targets(c, p, t, is_preferring ? "standby" : p->attrs, first, err);
    if (!ok && is_preferring && err->kind != ERR_CANCELLED) {
        err_clear(err);
        ok = walk_targets(c, p, t, "any", first, err);
    }
    return ok || err_prefix(err, "postgres");
}

FIBER static bool connect_by_dsn(struct pg_conn *c, const struct sql_opts *opts, unsigned *first, struct err *err)
{
    ARENA(a, 64 * 1024);
    struct connect_params p = {0};
    struct targets t = {.arena = &a};
    char *text = NULL;
    PQconninfoOption *o = PQconninfoParse(opts->dsn.p, &text);
    if (!o) {
        (void)err_set(err, ERR_INVALID, "postgres: bad connection string: %s", text ? text : "no memory");
        PQfreemem(text);
        return false;
    }
    gather_params(opts, o, &p, &t);
    PQconninfoFree(o);
    return work_run(find_targets, &t, err) && open_any(c, &p, &t, first, err);
}

/* Whether this is the database that the process means; one round trip. A server that lost its volume, or another behind
 * the same name, says no here before it can say that there is no such address. */
FIBER static bool is_ours(struct pg_conn *c, const struct sql_opts *opts, struct err *err)
{
    if (!opts->set || !opts->set->is_enforced)
        return true;
    ARENA(a, 64 * 1024);
    struct sql_result r = {.n_cols = 1};
    struct pg_error e;
    const struct sql_value member[] = {sql_s(str_c(opts->member))};
    pg_conn_queue(c, &sql_stmt_set, member, 1, &r, &a);
    bool is_known = pg_conn_sync(c, &e);
    if (!is_known && !e.is_no_table)
        return err_set(err, ERR_UNAVAILABLE, "%s", e.err.msg);
    return sql_set_fits(opts, is_known && r.n_rows ? sql_at(&r, 0, 0)->s : STR_NONE, err) ||
           err_prefix(err, "postgres");
}

struct pg_conn *pg_conn_new(const struct sql_opts *opts, unsigned *first_target, struct err *err)
{
    struct pg_conn *c = xnew(struct pg_conn);
    c->statement_timeout_ms = opts->statement_timeout_ms;
    map64_init(&c->prepared);
    if (connect_by_dsn(c, opts, first_target, err) && poll_open(c, UV_READABLE, err)) {
        if (PQsetnonblocking(c->h, 1) != 0 || PQenterPipelineMode(c->h) != 1)
            (void)err_set(err, ERR_INTERNAL, "postgres: no pipeline mode");
        else if (is_ours(c, opts, err))
            return c;
    }
    pg_conn_free(c);
    return NULL;
}

void pg_conn_free(struct pg_conn *c)
{
    if (!c)
        return;
    list_remove(&c->idle);
    fiber_timer_stop(&c->timer);
    poll_close(c);
    PQfinish(c->h);
    map64_done(&c->prepared);
    xfree(c->ops);
    xfree(c);
}

/* --- the pipeline --- */

static void push_op(struct pg_conn *c, enum pg_op_kind kind, const struct sql_stmt *st, size_t form,
                    struct sql_result *out, struct arena *a)
{
    if (c->first == c->n)
        c->first = c->n = 0;
    if (c->n == c->cap) {
        c->cap = c->cap ? c->cap * 2 : 16;
        c->ops = xrealloc(c->ops, size_mul(c->cap, sizeof *c->ops));
    }
    c->ops[c->n++] = (struct pg_op){kind, st, form, out, a};
}

/* Of the map of prepared statements: addresses leave the highest bits free. */
static uint64_t prepared_key(const struct sql_stmt *st, size_t form)
{
    static_assert(PG_VALUES_ROWS_MAX < 16, "a form has four bits");
    return (uint64_t)(uintptr_t)st | (uint64_t)form << 60;
}

static const char *prepared_name(const struct sql_stmt *st, size_t form, struct arena *a)
{
    return form ? arena_printf(a, "%s/%zu", st->name, form).p : st->name;
}

static bool prepare(struct pg_conn *c, const struct sql_stmt *st, size_t form, const char *name, struct arena *a)
{
    if (map64_get(&c->prepared, prepared_key(st, form)))
        return true;
    Oid types[PG_PARAMS_MAX];
    int n = pg_param_types(st, form, types);
    if (!PQsendPrepare(c->h, name, pg_text(st, form, a), n, types))
        return false;
    map64_put(&c->prepared, prepared_key(st, form), (void *)(uintptr_t)st);
    push_op(c, PG_OP_PREPARE, st, form, NULL, NULL);
    return true;
}

void pg_conn_queue(struct pg_conn *c, const struct sql_stmt *st, const struct sql_value *params, size_t n_rows,
                   struct sql_result *out, struct arena *a)
{
    struct pg_params p;
    size_t form = pg_form(st, n_rows);
    const char *name = prepared_name(st, form, a);
    pg_params_encode(&p, st, form, params, n_rows, a);
    if (!c->is_broken && prepare(c, st, form, name, a) &&
        PQsendQueryPrepared(c->h, name, p.n, p.values, p.lengths, p.formats, 1))
        push_op(c, PG_OP_EXEC, st, form, out, a);
    else
        c->is_broken = true; /* nothing that was queued is lost silently: the next sync fails */
}

static void fail(struct pg_error *e, const PGresult *r, const struct sql_stmt *st)
{
    if (!err_is_set(&e->err))
        pg_result_error(r, st ? st->name : "sync", e);
}

/* Take one result for the oldest operation; r is freed. */
static void take_result(struct pg_conn *c, struct pg_op *op, PGresult *r, struct pg_error *e)
{
    ExecStatusType st = PQresultStatus(r);
    if (st == PGRES_FATAL_ERROR)
        fail(e, r, op->st);
    if (op->kind == PG_OP_PREPARE && st != PGRES_COMMAND_OK)
        map64_remove(&c->prepared, prepared_key(op->st, op->form));
    bool has_result = (st == PGRES_TUPLES_OK || st == PGRES_COMMAND_OK) && op->kind == PG_OP_EXEC && op->out;
    if (has_result && !err_is_set(&e->err) && !pg_result_decode(r, op->st, op->arena, op->out, &e->err))
        assert(err_is_set(&e->err));
    PQclear(r);
}

static void lost(struct pg_conn *c, struct pg_error *e)
{
    c->is_broken = true;
    if (!err_is_set(&e->err))
        (void)err_set(&e->err, ERR_UNAVAILABLE, "postgres: %s: %.*s", c->is_overdue ? "no answer" : "connection lost",
                      STR_ARG(str_trim(str_c(PQerrorMessage(c->h)))));
    e->is_lost = true;
}

FIBER static bool read_op(struct pg_conn *c, struct pg_error *e)
{
    struct pg_op *op = &c->ops[c->first];
    bool is_taken = false;
    for (int n_nulls = 0; n_nulls < 2;) {
        while (PQisBusy(c->h))
            if (!wait_io(c))
                return false;
        PGresult *r = PQgetResult(c->h);
        if (!r) {
            /* NULL ends each command's results, except after a sync; a dead connection gives only NULLs. */
            if (is_taken)
                break;
            n_nulls++;
            continue;
        }
        bool is_sync = PQresultStatus(r) == PGRES_PIPELINE_SYNC;
        take_result(c, op, r, e);
        is_taken = true;
        if (is_sync || PQstatus(c->h) == CONNECTION_BAD)
            break;
    }
    c->first++;
    return is_taken && PQstatus(c->h) != CONNECTION_BAD;
}

bool pg_conn_sync(struct pg_conn *c, struct pg_error *e)
{
    *e = (struct pg_error){0};
    size_t tail = 0; /* operations before this one belong to an earlier user, whose tail nobody waited for */
    for (size_t i = c->first; i < c->n; i++)
        if (c->ops[i].kind == PG_OP_SYNC)
            tail = i + 1;
    c->is_overdue = false;
    fiber_timer_start(&c->timer, c->statement_timeout_ms + SILENCE_GRACE_MS, on_overdue, c);
    if (c->is_broken || !PQpipelineSync(c->h))
        lost(c, e);
    else
        push_op(c, PG_OP_SYNC, NULL, 0, NULL, NULL);
    struct pg_error ignored = {0};
    while (!c->is_broken && c->first < c->n)
        if (!read_op(c, c->first < tail ? &ignored : e))
            lost(c, e);
    fiber_timer_stop(&c->timer);
    if (e->is_lost)
        c->is_broken = true;
    return !err_is_set(&e->err);
}

void pg_conn_tail(struct pg_conn *c, const struct sql_stmt *st)
{
    ARENA(scratch, 4096);
    pg_conn_queue(c, st, NULL, 1, NULL, &scratch);
    for (size_t i = c->first; i < c->n; i++)
        c->ops[i].out = NULL; /* their owner leaves now */
    if (c->is_broken || !PQpipelineSync(c->h) || PQflush(c->h) < 0) {
        c->is_broken = true;
        return;
    }
    push_op(c, PG_OP_SYNC, NULL, 0, NULL, NULL);
}

bool pg_conn_script(struct pg_conn *c, const char *text, struct pg_error *e)
{
    if (!pg_conn_sync(c, e))
        return false;
    c->is_overdue = false;
    fiber_timer_start(&c->timer, 3600 * 1000, on_overdue, c); /* a schema change may take long */
    if (PQexitPipelineMode(c->h) != 1 || !PQsendQuery(c->h, text)) {
        lost(c, e);
    } else {
        for (;;) {
            while (PQisBusy(c->h) && wait_io(c))
                ;
            PGresult *r = c->is_broken ? NULL : PQgetResult(c->h);
            if (!r)
                break;
            if (PQresultStatus(r) == PGRES_FATAL_ERROR)
                fail(e, r, NULL);
            PQclear(r);
        }
        if (c->is_broken || PQenterPipelineMode(c->h) != 1)
            lost(c, e);
    }
    fiber_timer_stop(&c->timer);
    return !err_is_set(&e->err);
}
