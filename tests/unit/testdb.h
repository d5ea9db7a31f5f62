/*
 * testdb.h: empty databases for tests, of both kinds. A test runs its cases once for each kind that is there.
 */
#ifndef UNIT_TESTDB_H
#define UNIT_TESTDB_H

#include "data/sql.h"

enum testdb_kind { TESTDB_SQLITE, TESTDB_PG, TESTDB_KINDS };

/* False for PostgreSQL left out on purpose; a cluster that is missing (THURN_TEST_PG) ends the program: see needs.h. */
bool testdb_have(enum testdb_kind kind);
const char *testdb_kind_name(enum testdb_kind kind);
/* A DSN of a new, empty database; name is the program's and the case's own ([a-z0-9_]). Aborts when it cannot be made.
 * Blocks: call it before the loop runs, or live with it. */
str testdb_make(enum testdb_kind kind, const char *name, struct arena *a);
/* testdb_make and sql_open. */
struct sql_db *testdb_open(enum testdb_kind kind, const char *name, unsigned pool, struct arena *a);
/* Remove what testdb_make made with this name; the database is closed. */
void testdb_drop(enum testdb_kind kind, const char *name);
/* Run one text on the database of that name, blocking, beside the code under test: to look or to meddle. PG only. */
void testdb_pg_exec(const char *name, const char *sql);

/* The same, and the connection stays open as it is, a transaction of it included. testdb_pg_let_go ends it. */
void *testdb_pg_hold(const char *name, const char *sql);
void testdb_pg_let_go(void *held);

#endif
