#include "unit/testdb.h"

#include <libpq-fe.h>
#include <stdio.h>
#include <unistd.h>

#include "unit/needs.h"
#include "unit/tmp.h"

static const char *pg_dsn(void)
{
    return getenv("THURN_TEST_PG");
}

bool testdb_have(enum testdb_kind kind)
{
    return kind == TESTDB_SQLITE ||
           needs("pg", pg_dsn() && *pg_dsn(),
                 "start a cluster with tests/integration/pg.sh and set THURN_TEST_PG to its DSN");
}

const char *testdb_kind_name(enum testdb_kind kind)
{
    return kind == TESTDB_SQLITE ? "sqlite" : "postgres";
}

static void exec_on(const char *dsn, const char *sql)
{
    PGconn *c = PQconnectdb(dsn);
    PGresult *r = PQexec(c, sql);
    ExecStatusType st = PQresultStatus(r);
    if (st != PGRES_COMMAND_OK && st != PGRES_TUPLES_OK)
        panic("test database: %s: %s", sql, PQerrorMessage(c));
    PQclear(r);
    PQfinish(c);
}

static void pg_name(char *out, size_t size, const char *name)
{
    snprintf(out, size, "t_%s_%d", name, (int)getpid());
}

static str pg_dsn_of(const char *name, struct arena *a)
{
    char db[64];
    pg_name(db, sizeof db, name);
    return arena_printf(a, "%s dbname=%s", pg_dsn(), db); /* the last dbname counts */
}

static void sqlite_path(char *out, size_t size, const char *name)
{
    snprintf(out, size, "%s/thurn-test-%s-%d.db", test_tmp(), name, (int)getpid());
}

static void sqlite_remove(const char *name)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
    char path[256], file[300];
    sqlite_path(path, sizeof path, name);
    for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
        snprintf(file, sizeof file, "%s%s", path, suffixes[i]);
        (void)unlink(file); /* may not exist */
    }
}

void testdb_drop(enum testdb_kind kind, const char *name)
{
    if (kind == TESTDB_SQLITE) {
        sqlite_remove(name);
        return;
    }
    char db[64], sql[128];
    pg_name(db, sizeof db, name);
    snprintf(sql, sizeof sql, "DROP DATABASE IF EXISTS %s WITH (FORCE)", db);
    exec_on(pg_dsn(), sql);
}

str testdb_make(enum testdb_kind kind, const char *name, struct arena *a)
{
    testdb_drop(kind, name);
    if (kind == TESTDB_SQLITE) {
        char path[256];
        sqlite_path(path, sizeof path, name);
        return arena_printf(a, "sqlite:%s", path);
    }
    char db[64], sql[128];
    pg_name(db, sizeof db, name);
    snprintf(sql, sizeof sql, "CREATE DATABASE %s", db);
    exec_on(pg_dsn(), sql);
    return pg_dsn_of(name, a);
}

struct sql_db *testdb_open(enum testdb_kind kind, const char *name, unsigned pool, struct arena *a)
{
    struct err err = ERR_INIT;
    struct sql_opts o = {.name = name, .dsn = testdb_make(kind, name, a), .pool = pool};
    struct sql_db *db = sql_open(&o, &err);
    if (!db)
        panic("test database: %s", err.msg);
    return db;
}

void testdb_pg_exec(const char *name, const char *sql)
{
    ARENA(a, 4096);
    exec_on(pg_dsn_of(name, &a).p, sql);
}

void *testdb_pg_hold(const char *name, const char *sql)
{
    ARENA(a, 4096);
    PGconn *c = PQconnectdb(pg_dsn_of(name, &a).p);
    PGresult *r = PQexec(c, sql);
    if (PQresultStatus(r) != PGRES_TUPLES_OK && PQresultStatus(r) != PGRES_COMMAND_OK)
        panic("test database: %s", PQerrorMessage(c));
    PQclear(r);
    return c;
}

void testdb_pg_let_go(void *held)
{
    PQfinish(held);
}
