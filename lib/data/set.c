/*
 * set.c: which installation a database belongs to. The rows are written by thurn setup and thurn migrate --new, and
 * never change.
 */
#include <errno.h>
#include <unistd.h>

#include "data/sql_driver.h"

static const char create_table[] = "CREATE TABLE IF NOT EXISTS thurn_set (member text PRIMARY KEY, id text NOT NULL)";
// clang-format off
static const struct sql_stmt stmt_tables = {
    "set_tables", "", "ii",
    "SELECT count(*), coalesce(sum(name = 'thurn_set'), 0) FROM sqlite_schema WHERE name IN ('thurn_set', 'thurn_schema')",
    "SELECT (to_regclass('thurn_set') IS NOT NULL)::int::bigint + (to_regclass('thurn_schema') IS NOT NULL)::int::bigint,"
    " (to_regclass('thurn_set') IS NOT NULL)::int::bigint", false};
const struct sql_stmt sql_stmt_set = {"set_of", "t", "t", "SELECT id FROM thurn_set WHERE member = ?1", NULL, false};
static const struct sql_stmt stmt_join = {"set_join", "tt", "", "INSERT INTO thurn_set (member, id) VALUES (?1, ?2)", NULL, false};
// clang-format on

struct look {
    const char *member;
    char *id;
    bool is_empty;
};

FIBER static bool look_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct look *l = arg;
    struct sql_result tables, row;
    const struct sql_value member[] = {sql_s(str_c(l->member))};
    l->id[0] = '\0';
    if (!sql_exec(tx, &stmt_tables, NULL, 1, &tables, err))
        return false;
    l->is_empty = sql_at(&tables, 0, 0)->i == 0;
    if (sql_at(&tables, 0, 1)->i == 0)
        return true;
    if (!sql_exec(tx, &sql_stmt_set, member, 1, &row, err))
        return false;
    if (row.n_rows)
        snprintf(l->id, SQL_SET_ID_SIZE, "%.*s", STR_ARG(sql_at(&row, 0, 0)->s));
    return true;
}

bool sql_set_look(struct sql_db *db, const char *member, char id[SQL_SET_ID_SIZE], bool *is_empty, struct err *err)
{
    struct look l = {.member = member, .id = id};
    /* Opening would make the file. */
    if (!db->driver->is_pg && access(db->dsn, F_OK) != 0 && errno == ENOENT) {
        id[0] = '\0';
        *is_empty = true;
        return true;
    }
    if (!sql_read(db, look_body, &l, err))
        return false;
    *is_empty = l.is_empty;
    return true;
}

struct join {
    const char *member, *id;
};

FIBER static bool join_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct join *j = arg;
    const struct sql_value row[] = {sql_s(str_c(j->member)), sql_s(str_c(j->id))};
    return tx->db->driver->script(tx, create_table, err) && sql_exec(tx, &stmt_join, row, 1, NULL, err);
}

bool sql_set_join(struct sql_db *db, const char *member, const char *id, struct err *err)
{
    struct join j = {member, id};
    return sql_write(db, join_body, &j, err) && (!db->driver->migrated || db->driver->migrated(db, err));
}

bool sql_set_fits(const struct sql_opts *opts, str found, struct err *err)
{
    if (!found.n)
        return err_set(err, ERR_UNAVAILABLE, "it was never set up: is it the right one?");
    if (!opts->set->id[0])
        snprintf(opts->set->id, SQL_SET_ID_SIZE, "%.*s", STR_ARG(found));
    return str_eq(found, str_c(opts->set->id)) || err_set(err, ERR_UNAVAILABLE, "it belongs to another installation");
}
