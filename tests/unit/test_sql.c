/* Both drivers do the same: one set of cases, run on SQLite and on PostgreSQL. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "data/sql.h"
#include "unit/testdb.h"

static enum testdb_kind kind;

static const struct sql_migration steps[] = {
    {1, "items",
     "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, body BLOB, n INTEGER NOT NULL DEFAULT 0 CHECK (n < 1000));"
     "CREATE UNIQUE INDEX item_name ON item (name);",
     "CREATE TABLE item (id bigint PRIMARY KEY, name text, body bytea, n int NOT NULL DEFAULT 0 CHECK (n < 1000));"
     "CREATE UNIQUE INDEX item_name ON item (name);"},
    {2, "log", "CREATE TABLE log (at INTEGER)", "CREATE TABLE log (at bigint)"},
};
// clang-format off
static const struct sql_stmt insert_item = {
    "insert_item", "itb", "", "INSERT INTO item (id, name, body) VALUES (?1, ?2, ?3)", NULL, false};
static const struct sql_stmt insert_items = {
    "insert_items", "itb", "i", "INSERT INTO item (id, name, body) VALUES (?1, ?2, ?3) RETURNING id",
    "INSERT INTO item (id, name, body) SELECT * FROM {rows} AS v RETURNING id", true};
static const struct sql_stmt delete_items = {"delete_items", "i", "", "DELETE FROM item WHERE id = ?1",
                                             "DELETE FROM item WHERE id = ANY ($1)", true};
static const struct sql_stmt set_items = {
    "set_items", "iit", "", "UPDATE item SET n = ?2, name = ?3 WHERE id = ?1",
    "UPDATE item SET n = v.n, name = v.name FROM {rows} AS v (id, n, name) WHERE item.id = v.id", true};
static const struct sql_stmt get_item = {"get_item", "i", "itbi", "SELECT id, name, body, n FROM item WHERE id = ?1",
                                         NULL, false};
static const struct sql_stmt count_items = {"count_items", "", "i", "SELECT count(*) FROM item", NULL, false};
static const struct sql_stmt add_n = {"add_n", "ii", "i", "UPDATE item SET n = n + ?2 WHERE id = ?1 RETURNING n", NULL,
                                      false};
static const struct sql_stmt wrong = {"wrong", "", "", "SELECT nothing FROM nowhere", NULL, false};
// clang-format on

#define SEEN __attribute__((visibility("default"))) /* by the library, in place of its own */
/* What SQLite calls to have its log on the disk: the disk may fail there. */
static _Atomic bool is_sync_broken;
SEEN int fdatasync(int fd)
{
    if (is_sync_broken) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}
SEEN int fsync(int fd)
{
    return fdatasync(fd);
}

/* Each case runs on a fiber with a fresh, migrated database. */
struct world {
    struct sql_db *db;
    struct arena a;
    void (*fn)(struct world *w);
};

static void world_main(void *arg)
{
    struct world *w = arg;
    struct err err = ERR_INIT;
    unsigned n = 0;
    w->db = testdb_open(kind, "sql", 4, &w->a);
    if (!sql_migrate(w->db, "test", steps, ARRAY_LEN(steps), false, &n, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(n, 2);
    w->fn(w);
    sql_close(w->db);
    testdb_drop(kind, "sql");
}

static void run(void (*fn)(struct world *w))
{
    struct world w = {.fn = fn};
    arena_init(&w.a, 1 << 24);
    assert_true(fiber_main(world_main, &w));
    arena_done(&w.a);
}

static int64_t count(struct world *w)
{
    struct err err = ERR_INIT;
    struct sql_result r;
    if (!sql_query(w->db, &count_items, NULL, &w->a, &r, &err))
        fail_msg("%s", err.msg);
    return sql_at(&r, 0, 0)->i;
}

/* --- values --- */

struct item {
    int64_t id;
    struct sql_value name, body;
};

static bool put_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct item *it = arg;
    const struct sql_value v[] = {sql_i(it->id), it->name, it->body};
    return sql_exec(tx, &insert_item, v, 1, NULL, err);
}

static void check_value(const struct sql_value *got, const struct sql_value *want)
{
    assert_int_equal(got->is_null, want->is_null);
    assert_true(got->is_null || str_eq(got->s, want->s));
}

static void values_case(struct world *w)
{
    static char big[100000];
    for (size_t i = 0; i < sizeof big; i++)
        big[i] = (char)(i * 7);
    struct item items[] = {
        {1, sql_s(S("plain")), sql_s(str_n("a\0b", 3))},
        {2, sql_null(), sql_null()},
        {INT64_MAX, sql_s(S("")), sql_s(S(""))},
        {INT64_MIN, sql_s(S("Jürgen 日本")), sql_s(str_n(big, sizeof big))},
    };
    struct err err = ERR_INIT;
    for (size_t i = 0; i < ARRAY_LEN(items); i++)
        if (!sql_write(w->db, put_body, &items[i], &err))
            fail_msg("%s", err.msg);
    for (size_t i = 0; i < ARRAY_LEN(items); i++) {
        struct sql_value key = sql_i(items[i].id);
        struct sql_result r;
        assert_true(sql_query(w->db, &get_item, &key, &w->a, &r, &err));
        assert_int_equal(r.n_rows, 1);
        assert_int_equal(r.n_cols, 4);
        assert_true(sql_at(&r, 0, 0)->i == items[i].id);
        check_value(sql_at(&r, 0, 1), &items[i].name);
        check_value(sql_at(&r, 0, 2), &items[i].body);
        assert_int_equal(sql_at(&r, 0, 3)->i, 0);
    }
    struct sql_value none = sql_i(77);
    struct sql_result r;
    assert_true(sql_query(w->db, &get_item, &none, &w->a, &r, &err));
    assert_int_equal(r.n_rows, 0);
}

/* --- row sets --- */

struct many {
    size_t n;
    int64_t first, n_affected, n_returned;
};

static bool many_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct many *m = arg;
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, m->n * 3);
    for (size_t i = 0; i < m->n; i++) {
        v[i * 3] = sql_i(m->first + (int64_t)i);
        v[i * 3 + 1] = i % 10 == 3 ? sql_null() : sql_s(arena_printf(sql_arena(tx), "name %zu", i));
        v[i * 3 + 2] = i % 10 == 5 ? sql_null() : sql_s(arena_printf(sql_arena(tx), "body %zu", i));
    }
    struct sql_result r;
    if (!sql_exec(tx, &insert_items, v, m->n, &r, err))
        return false;
    m->n_affected = r.n_affected;
    m->n_returned = (int64_t)r.n_rows;
    return true;
}

static bool clear_body(struct sql_tx *tx, void *arg, struct err *err)
{
    static const struct sql_stmt clear = {"clear", "", "", "DELETE FROM item", NULL, false};
    (void)arg;
    return sql_exec(tx, &clear, NULL, 1, NULL, err);
}

static void rowset_case(struct world *w)
{
    struct err err = ERR_INIT;
    struct many m = {.n = 1000, .first = 1};
    struct sql_stats before, after;
    sql_get_stats(w->db, &before);
    if (!sql_write(w->db, many_body, &m, &err))
        fail_msg("%s", err.msg);
    sql_get_stats(w->db, &after);
    assert_int_equal(m.n_affected, 1000);
    assert_int_equal(m.n_returned, 1000);
    assert_int_equal(count(w), 1000);
    assert_int_equal(after.commits - before.commits, 1);
    assert_int_equal(after.round_trips - before.round_trips, kind == TESTDB_PG ? 2 : 1);
    struct sql_value key = sql_i(14);
    struct sql_result r;
    assert_true(sql_query(w->db, &get_item, &key, &w->a, &r, &err));
    assert_true(sql_at(&r, 0, 1)->is_null);
    assert_true(str_eq(sql_at(&r, 0, 2)->s, S("body 13")));
    m = (struct many){.n = 0, .first = 5000};
    assert_true(sql_write(w->db, many_body, &m, &err));
    assert_int_equal(m.n_returned, 0);
}

static bool change_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct many *m = arg;
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, m->n * 3),
                     *gone = arena_array(sql_arena(tx), struct sql_value, m->n);
    for (size_t i = 0; i < m->n; i++) {
        v[i * 3] = sql_i(m->first + (int64_t)i);
        v[i * 3 + 1] = sql_i((int64_t)i + 1);
        v[i * 3 + 2] = i == 1 ? sql_null()
                              : sql_s(arena_printf(sql_arena(tx), "changed %lld", (long long)(m->first + (int64_t)i)));
        gone[i] = sql_i(m->first + (int64_t)i);
    }
    struct sql_result r;
    if (!sql_exec(tx, &set_items, v, m->n, &r, err))
        return false;
    m->n_affected = r.n_affected;
    return sql_exec(tx, &delete_items, gone, m->n / 2, &r, err); /* the first half of them */
}

/* A few rows go another way than many; each number of them is a statement of its own. */
static void few_rows_case(struct world *w)
{
    struct err err = ERR_INIT;
    for (size_t n = 1; n <= 20; n++) {
        struct many m = {.n = n, .first = 100 * (int64_t)n};
        for (int again = 0; again < 2; again++) {
            struct sql_value key = sql_i(m.first + (int64_t)n - 1);
            struct sql_result r;
            if (!sql_write(w->db, many_body, &m, &err) || !sql_write(w->db, change_body, &m, &err))
                fail_msg("%zu rows: %s", n, err.msg);
            assert_int_equal(m.n_returned, n);
            assert_int_equal(m.n_affected, n);
            assert_int_equal(count(w), n - n / 2);
            assert_true(sql_query(w->db, &get_item, &key, &w->a, &r, &err));
            assert_int_equal(sql_at(&r, 0, 3)->i, n);
            assert_true(n == 2 ? sql_at(&r, 0, 1)->is_null : str_starts(sql_at(&r, 0, 1)->s, S("changed ")));
            assert_true(sql_write(w->db, clear_body, NULL, &err));
        }
    }
}

/* --- a disk that takes no more: reads go on, and readiness tells until a write goes through again --- */

static void limit_files(rlim_t bytes)
{
    struct rlimit limit = {bytes, RLIM_INFINITY};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void full_disk_case(struct world *w)
{
    struct err err = ERR_INIT;
    struct many m = {.n = 10, .first = 1};
    if (kind != TESTDB_SQLITE)
        return;
    assert_true(sql_write(w->db, many_body, &m, &err));
    signal(SIGXFSZ, SIG_IGN);
    limit_files(1);
    assert_false(sql_write(w->db, clear_body, NULL, &err));
    if (!err_is_temporary(&err))
        fail_msg("%s", err.msg);
    assert_int_equal(count(w), 10);
    for (int i = 0; i < 2; i++) {
        err_clear(&err);
        assert_false(sql_ping(w->db, &err));
    }
    limit_files(RLIM_INFINITY);
    err_clear(&err);
    if (!sql_ping(w->db, &err) || !sql_write(w->db, clear_body, NULL, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(count(w), 0);
}

/* --- errors --- */

static bool wrong_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct item it = {100, sql_s(S("hundred")), sql_null()};
    (void)arg;
    return put_body(tx, &it, err) && sql_exec(tx, &wrong, NULL, 1, NULL, err);
}

static bool own_error_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct item it = {101, sql_s(S("own")), sql_null()};
    (void)arg;
    return put_body(tx, &it, err) && err_set(err, ERR_LIMIT, "no more");
}

/* The failure shows only at the end: queued statements go out with COMMIT. */
static bool queued_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct item *it = arg;
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 3);
    v[0] = sql_i(it->id);
    v[1] = it->name;
    v[2] = it->body;
    (void)err;
    sql_queue(tx, &insert_item, v, 1, NULL);
    return true;
}

static bool check_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct sql_value v[] = {sql_i(1), sql_i(5000)};
    (void)arg;
    return sql_exec(tx, &add_n, v, 1, NULL, err);
}

/* A sync that failed leaves nobody knowing what is on the disk: the outcome is unknown, not "nothing was done". */
static void failed_sync_case(struct world *w)
{
    struct err err = ERR_INIT;
    struct item one = {1, sql_s(S("one")), sql_null()}, two = {2, sql_s(S("two")), sql_null()};
    if (kind != TESTDB_SQLITE)
        return;
    is_sync_broken = true;
    assert_false(sql_write(w->db, put_body, &one, &err));
    is_sync_broken = false;
    assert_int_equal(err.kind, ERR_TIMEOUT);
    err_clear(&err);
    assert_true(sql_write(w->db, put_body, &two, &err));
    assert_in_range(count(w), 1, 2);
}

static void errors_case(struct world *w)
{
    struct item one = {1, sql_s(S("one")), sql_null()}, same = {2, sql_s(S("one")), sql_null()};
    static const struct {
        sql_body body;
        enum err_kind kind;
    } cases[] = {
        {put_body, ERR_EXISTS},      {queued_body, ERR_EXISTS},  {wrong_body, ERR_INTERNAL},
        {own_error_body, ERR_LIMIT}, {check_body, ERR_CONFLICT},
    };
    struct err err = ERR_INIT;
    assert_true(sql_write(w->db, queued_body, &one, &err));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_false(sql_write(w->db, cases[i].body, &same, &err));
        if (err.kind != cases[i].kind)
            fail_msg("case %zu: %s", i, err.msg);
        err_clear(&err);
        assert_int_equal(count(w), 1); /* nothing is half kept, and the connection works */
    }
    struct sql_result r;
    assert_false(sql_query(w->db, &wrong, NULL, &w->a, &r, &err));
    assert_int_equal(err.kind, ERR_INTERNAL);
    err_clear(&err);
    assert_true(sql_ping(w->db, &err));
}

/* --- many at once: group commit, row locks --- */

struct adder {
    struct world *w;
    int64_t seen;
    bool ok;
};

FIBER static bool add_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct adder *ad = arg;
    const struct sql_value v[] = {sql_i(1), sql_i(1)};
    struct sql_result r;
    if (!sql_exec(tx, &add_n, v, 1, &r, err))
        return false;
    ad->seen = sql_at(&r, 0, 0)->i;
    return true;
}

static void adder_main(void *arg)
{
    struct adder *ad = arg;
    struct err err = ERR_INIT;
    ad->ok = sql_write(ad->w->db, add_body, ad, &err);
}

static void concurrent_case(struct world *w)
{
    enum { N = 200 };
    struct item one = {1, sql_s(S("one")), sql_null()};
    struct err err = ERR_INIT;
    assert_true(sql_write(w->db, put_body, &one, &err));
    static struct adder adders[N];
    bool seen[N + 1] = {false};
    FIBER_GROUP(g, N);
    struct sql_stats before, after;
    sql_get_stats(w->db, &before);
    for (size_t i = 0; i < N; i++) {
        adders[i] = (struct adder){.w = w};
        assert_true(fiber_group_spawn(&g, "adder", adder_main, &adders[i], &err));
    }
    assert_true(fiber_group_wait(&g, &err));
    sql_get_stats(w->db, &after);
    for (size_t i = 0; i < N; i++) {
        assert_true(adders[i].ok);
        assert_in_range(adders[i].seen, 1, N);
        assert_false(seen[adders[i].seen]);
        seen[adders[i].seen] = true;
    }
    if (kind == TESTDB_SQLITE)
        assert_true(after.commits - before.commits < N / 4);
}

/* One failing body among many that share its commit takes nobody with it, and leaves nothing: neither what it wrote
 * before a statement that failed nor what it wrote before it changed its mind. */
enum { MIXED = 120 };
// clang-format off
static const struct sql_stmt insert_half = {
    "insert_half", "i", "", "INSERT INTO item (id) VALUES (?1 + 1000)", "INSERT INTO item (id) VALUES ($1 + 1000)", false};
// clang-format on
static bool mixed_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct adder *ad = arg;
    const struct sql_value half[] = {sql_i(ad->seen)};
    const struct sql_value v[] = {sql_i(ad->seen), ad->seen % 5 == 0 ? sql_s(S("same")) : sql_null(), sql_null()};
    if (!sql_exec(tx, &insert_half, half, 1, NULL, err) || !sql_exec(tx, &insert_item, v, 1, NULL, err))
        return false;
    return ad->seen % 5 != 1 || err_set(err, ERR_DENIED, "changed its mind");
}
static void mixed_main(void *arg)
{
    struct adder *ad = arg;
    struct err err = ERR_INIT;
    ad->ok = sql_write(ad->w->db, mixed_body, ad, &err);
    assert_true(ad->ok || err.kind == (ad->seen % 5 == 0 ? ERR_EXISTS : ERR_DENIED));
}

static void savepoint_case(struct world *w)
{
    static struct adder adders[MIXED];
    struct err err = ERR_INIT;
    FIBER_GROUP(g, MIXED);
    for (size_t i = 0; i < MIXED; i++) {
        adders[i] = (struct adder){.w = w, .seen = (int64_t)i};
        assert_true(fiber_group_spawn(&g, "mixed", mixed_main, &adders[i], &err));
    }
    assert_true(fiber_group_wait(&g, &err));
    size_t n_same = 0, n_ok = 0;
    for (size_t i = 0; i < MIXED; i++) {
        assert_true(adders[i].ok == (i % 5 > 1) || (i % 5 == 0 && adders[i].ok));
        n_same += i % 5 == 0 && adders[i].ok;
        n_ok += adders[i].ok;
    }
    assert_int_equal(n_same, 1);
    assert_int_equal(count(w), 2 * n_ok);
}

/* --- reading bodies: one snapshot, and large results --- */

struct snapshot {
    struct world *w;
    int64_t first, second;
};

static bool snapshot_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct snapshot *s = arg;
    struct sql_result a, b;
    if (!sql_exec(tx, &count_items, NULL, 1, &a, err) || !sql_exec(tx, &count_items, NULL, 1, &b, err))
        return false;
    s->first = sql_at(&a, 0, 0)->i;
    s->second = sql_at(&b, 0, 0)->i;
    return true;
}

static void read_case(struct world *w)
{
    static const struct sql_stmt all = {"all_items", "", "it", "SELECT id, name FROM item ORDER BY id", NULL, false};
    struct err err = ERR_INIT;
    struct many m = {.n = 1000, .first = 1};
    assert_true(sql_write(w->db, many_body, &m, &err));
    for (int i = 0; i < 30; i++) {
        struct sql_result r;
        assert_true(sql_query(w->db, &all, NULL, &w->a, &r, &err));
        assert_int_equal(r.n_rows, 1000);
        assert_int_equal(sql_at(&r, 999, 0)->i, 1000);
    }
    struct snapshot s = {.w = w};
    assert_true(sql_read(w->db, snapshot_body, &s, &err));
    assert_int_equal(s.first, 1000);
    assert_int_equal(s.second, 1000);
    /* What was written is read at once, whichever connection reads. */
    for (int i = 0; i < 50; i++) {
        struct item it = {2000 + i, sql_null(), sql_null()};
        assert_true(sql_write(w->db, put_body, &it, &err));
        assert_int_equal(count(w), 1001 + i);
    }
}

/* --- faults --- */

static void faults_case(struct world *w)
{
    struct err err = ERR_INIT;
    unsigned n = 1;
    struct item it = {1, sql_s(S("x")), sql_null()};
    for (;; n++) {
        sql_fail_nth(w->db, n, false);
        if (sql_write(w->db, put_body, &it, &err))
            break;
        assert_int_equal(err.kind, ERR_UNAVAILABLE);
        err_clear(&err);
        sql_fail_nth(w->db, 0, false);
        assert_int_equal(count(w), 0);
    }
    assert_int_equal(n, 3); /* the statement, the commit, and then it works */
    sql_fail_nth(w->db, 1, true);
    it.id = 2;
    it.name = sql_null();
    assert_false(sql_write(w->db, put_body, &it, &err));
    assert_int_equal(err.kind, ERR_TIMEOUT);
    assert_int_equal(count(w), 2);
}

/* --- schema --- */

static void migrate_case(struct world *w)
{
    static const struct sql_migration more[] = {
        {1, "items", "no", "no"},
        {2, "log", "no", "no"},
        {3, "third", "CREATE TABLE third (x INTEGER)", "CREATE TABLE third (x int)"},
        {4, "broken", "CREATE TABLE fourth (x INTEGER); CREATE TABEL", "CREATE TABLE fourth (x int); CREATE TABEL"},
    };
    struct err err = ERR_INIT;
    unsigned n;
    assert_true(sql_migrate(w->db, "test", more, 2, false, &n, &err));
    assert_int_equal(n, 0);
    assert_true(sql_migrate(w->db, "test", more, 3, true, &n, &err));
    assert_int_equal(n, 1);
    assert_true(sql_migrate(w->db, "test", more, 3, false, &n, &err));
    assert_int_equal(n, 1);
    assert_false(sql_migrate(w->db, "test", more, 4, false, &n, &err));
    assert_int_equal(err.kind, ERR_INTERNAL);
    err_clear(&err);
    /* The failed step left nothing: table fourth can be made. */
    static const struct sql_migration other[] = {
        {1, "fourth", "CREATE TABLE fourth (x INTEGER)", "CREATE TABLE fourth (x int)"}};
    assert_true(sql_migrate(w->db, "other", other, 1, false, &n, &err));
    assert_int_equal(n, 1);
    /* One step newer than the program is a rolling upgrade; two are not. */
    assert_true(sql_migrate(w->db, "test", more, 2, false, &n, &err));
    assert_false(sql_migrate(w->db, "test", more, 1, false, &n, &err));
    assert_int_equal(err.kind, ERR_INVALID);
}

struct migrator {
    struct world *w;
    unsigned applied;
    bool ok;
};

static void migrator_main(void *arg)
{
    static const struct sql_migration race[] = {
        {1, "r1", "CREATE TABLE r1 (x INTEGER)", "CREATE TABLE r1 (x int)"},
        {2, "r2", "CREATE TABLE r2 (x INTEGER)", "CREATE TABLE r2 (x int)"},
    };
    struct migrator *m = arg;
    struct err err = ERR_INIT;
    m->ok = sql_migrate(m->w->db, "race", race, 2, false, &m->applied, &err);
}

static void migrate_race_case(struct world *w)
{
    struct migrator m[4];
    struct err err = ERR_INIT;
    FIBER_GROUP(g, 4);
    for (int i = 0; i < 4; i++) {
        m[i] = (struct migrator){.w = w};
        assert_true(fiber_group_spawn(&g, "migrator", migrator_main, &m[i], &err));
    }
    assert_true(fiber_group_wait(&g, &err));
    unsigned n = 0;
    for (int i = 0; i < 4; i++) {
        assert_true(m[i].ok);
        n += m[i].applied;
    }
    assert_int_equal(n, 2);
}

static void dsn_case(void **state)
{
    static const char *const bad[] = {"", "sqlite:", "postgresql://[bad", "nonsense=1"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct err err = ERR_INIT;
        assert_null(sql_open(&(struct sql_opts){.dsn = str_c(bad[i])}, &err));
        assert_int_equal(err.kind, ERR_INVALID);
    }
}

/* A file system that cannot read without waiting, as some tmpfs cannot: new tables are seen nevertheless, at once. */
static void memory_case(struct world *w)
{
    struct err err = ERR_INIT;
    static const struct sql_migration more[] = {
        {1, "more", "CREATE TABLE more (id INTEGER)", "CREATE TABLE more (id bigint)"}};
    static const struct sql_stmt count_more = {"count_more", "", "i", "SELECT count(*) FROM more", NULL, false};
    struct sql_result r;
    unsigned n = 0;
    assert_int_equal(count(w), 0); /* what reads on the loop knows the first tables now */
    if (!sql_migrate(w->db, "more", more, ARRAY_LEN(more), false, &n, &err) ||
        !sql_query(w->db, &count_more, NULL, &w->a, &r, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(sql_at(&r, 0, 0)->i, 0);
}

static void test_memory(void **state)
{
    (void)state;
    const char *before = getenv("TMPDIR");
    char *folder = before ? xstrdup(before) : NULL;
    if (access("/dev/shm", W_OK) == 0)
        assert_int_equal(setenv("TMPDIR", "/dev/shm", 1), 0);
    run(memory_case);
    assert_int_equal(folder ? setenv("TMPDIR", folder, 1) : unsetenv("TMPDIR"), 0);
    xfree(folder);
}

#define CASE(name)                                                                                                     \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        run(name##_case);                                                                                              \
    }
CASE(values)
CASE(rowset)
CASE(few_rows)
CASE(full_disk)
CASE(errors)
CASE(concurrent)
CASE(savepoint)
CASE(read)
CASE(faults)
CASE(failed_sync)
CASE(migrate)
CASE(migrate_race)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),    cmocka_unit_test(test_rowset),      cmocka_unit_test(test_few_rows),
        cmocka_unit_test(test_full_disk), cmocka_unit_test(test_errors),      cmocka_unit_test(test_concurrent),
        cmocka_unit_test(test_savepoint), cmocka_unit_test(test_failed_sync), cmocka_unit_test(test_read),
        cmocka_unit_test(test_faults),    cmocka_unit_test(test_migrate),     cmocka_unit_test(test_migrate_race),
        cmocka_unit_test(dsn_case),       cmocka_unit_test(test_memory),
    };
    int failed = 0;
    for (kind = TESTDB_SQLITE; kind < TESTDB_KINDS; kind++)
        if (testdb_have(kind))
            failed += cmocka_run_group_tests_name(testdb_kind_name(kind), tests, NULL, NULL);
    return failed;
}
