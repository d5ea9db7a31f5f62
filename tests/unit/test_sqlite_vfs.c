/* What is gathered for the log is all there: for the transaction itself before its commit, for everyone after it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sqlite3.h>

#include "data/sqlite_vfs.h"
#include "unit/testdb.h"

static struct arena arena;
static sqlite3 *writer, *reader;

static int setup(void **state)
{
    (void)state;
    arena_init(&arena, 1 << 20);
    str dsn = testdb_make(TESTDB_SQLITE, "vfs", &arena);
    const char *path = dsn.p + strlen("sqlite:");
    const char *vfs = sqlite_writer_vfs();
    assert_string_equal(vfs, sqlite_writer_vfs()); /* a second call is nothing special */
    assert_int_equal(sqlite3_open_v2(path, &writer, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, vfs), SQLITE_OK);
    assert_int_equal(sqlite3_open_v2(path, &reader, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    sqlite3_close(reader);
    sqlite3_close(writer);
    testdb_drop(TESTDB_SQLITE, "vfs");
    arena_done(&arena);
    return 0;
}

static void exec(const char *text)
{
    char *message = NULL;
    if (sqlite3_exec(writer, text, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", text, message);
}

static void assert_answer(sqlite3 *h, const char *query, const char *expected)
{
    sqlite3_stmt *s;
    assert_int_equal(sqlite3_prepare_v2(h, query, -1, &s, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(s), SQLITE_ROW);
    assert_string_equal((const char *)sqlite3_column_text(s, 0), expected);
    sqlite3_finalize(s);
}

#define FILL(n)                                                                                                        \
    "WITH RECURSIVE c (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < " #n ")"                                \
    " INSERT INTO t (body) SELECT randomblob(3000) FROM c;"

/* A page cache of ten pages: most of the transaction is written to the log, and read from it, before the commit. */
static void test_spilled_transaction(void **state)
{
    (void)state;
    exec("PRAGMA synchronous=FULL; PRAGMA journal_mode=WAL; PRAGMA cache_size=10; PRAGMA wal_autocheckpoint=100;"
         "CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB);");
    for (int round = 0; round < 3; round++) {
        exec("DELETE FROM t; BEGIN;" FILL(500) "SAVEPOINT s;" FILL(200));
        assert_answer(writer, "SELECT count(*) || ' ' || sum(length(body)) FROM t", "700 2100000");
        assert_answer(reader, "SELECT count(*) FROM t", "0");
        exec("ROLLBACK TO s; RELEASE s;" FILL(100));
        assert_answer(writer, "SELECT count(*) || ' ' || sum(length(body)) FROM t", "600 1800000");
        exec("COMMIT;");
        assert_answer(reader, "SELECT count(*) || ' ' || sum(length(body)) FROM t", "600 1800000");
        assert_answer(reader, "PRAGMA integrity_check", "ok");
    }
    exec("BEGIN;" FILL(300) "ROLLBACK;");
    assert_answer(reader, "SELECT count(*) FROM t", "600");
    exec("INSERT INTO t (body) VALUES (x'00');");
    assert_answer(reader, "SELECT count(*) FROM t", "601");
    assert_answer(reader, "PRAGMA integrity_check", "ok");
}

/* Each commit is in the file when it returns: another process reads nothing else. */
static void test_small_commits(void **state)
{
    (void)state;
    exec("PRAGMA synchronous=FULL; PRAGMA journal_mode=WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB);");
    for (int i = 1; i <= 50; i++) {
        char expected[8];
        exec(FILL(1));
        (void)snprintf(expected, sizeof(expected), "%d", i);
        assert_answer(reader, "SELECT count(*) FROM t", expected);
    }
    assert_answer(reader, "PRAGMA integrity_check", "ok");
    exec("PRAGMA wal_checkpoint(TRUNCATE);");
    assert_answer(reader, "SELECT count(*) FROM t", "50");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_spilled_transaction, setup, teardown),
        cmocka_unit_test_setup_teardown(test_small_commits, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
