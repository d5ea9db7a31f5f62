/*
 * ready.h: whether what this process stands on answers.
 *
 * Each database is asked once a second by a fiber of its own, so that one which hangs delays no answer about the
 * others; who wants to know reads the last verdict and never waits. A database whose schema is older than this program
 * is as good as away: the first answer that counts is that of sql_migrate, which has nothing left to do. A schema never
 * goes back, so after that a trivial statement is enough.
 */
#ifndef SERVER_READY_H
#define SERVER_READY_H

#include "data/sql.h"

struct ready;

/* As auth_migrate, queue_migrate and store_migrate. */
FIBER typedef bool (*ready_migrate)(struct sql_db *db, bool dry_run, unsigned *applied, struct err *err);

struct ready *ready_new(void);
/* Ask this one too, under a name that goes in front of its errors ("shard 2"; copied). Before ready_start. */
void ready_add(struct ready *r, struct sql_db *db, ready_migrate migrate, const char *what);
void ready_start(struct ready *r);
/* The last verdict on a database that was added. Errors: UNAVAILABLE when it was not asked yet or has not answered for
 * some seconds, INVALID when its schema is not this program's, or what the database said. */
bool ready_verdict(const struct ready *r, const struct sql_db *db, struct err *err) WARN_UNUSED;
/* Waits for the questions under way: as long as a silent database may take. NULL is fine. */
FIBER void ready_free(struct ready *r);

#endif
