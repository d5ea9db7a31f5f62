#include "data/sql_driver.h"

#define LOCK_KEY 0x746875726e /* of the advisory lock: "thurn" */

static const char create_table[] =
    "CREATE TABLE IF NOT EXISTS thurn_schema (component text NOT NULL, version bigint NOT NULL, what text NOT NULL,"
    " PRIMARY KEY (component, version))";
// clang-format off
static const struct sql_stmt stmt_lock = {"schema_lock", "i", "i", "SELECT ?1",
                                          "SELECT 1::bigint FROM (SELECT pg_advisory_xact_lock($1)) AS l", false};
static const struct sql_stmt stmt_exists = {
    "schema_exists", "", "i", "SELECT count(*) FROM sqlite_schema WHERE name = 'thurn_schema'",
    "SELECT count(*) FROM pg_catalog.pg_class WHERE oid = to_regclass('thurn_schema')", false};
static const struct sql_stmt stmt_version = {
    "schema_version", "t", "i", "SELECT coalesce(max(version), 0) FROM thurn_schema WHERE component = ?1", NULL, false};
static const struct sql_stmt stmt_record = {"schema_record", "tit", "",
                                            "INSERT INTO thurn_schema (component, version, what) VALUES (?1, ?2, ?3)",
                                            NULL, false};
// clang-format on

struct migration {
    const char *component;
    const struct sql_migration *step; /* NULL: only look */
    int64_t version;                  /* out: what the database is at */
    bool is_applied;                  /* out */
};

FIBER static bool read_version(struct sql_tx *tx, struct migration *m, struct err *err)
{
    struct sql_result r;
    m->version = 0;
    if (!sql_exec(tx, &stmt_exists, NULL, 1, &r, err))
        return false;
    if (sql_at(&r, 0, 0)->i == 0)
        return true;
    const struct sql_value v[] = {sql_s(str_c(m->component))};
    if (!sql_exec(tx, &stmt_version, v, 1, &r, err))
        return false;
    m->version = sql_at(&r, 0, 0)->i;
    return true;
}

FIBER static bool look_body(struct sql_tx *tx, void *arg, struct err *err)
{
    return read_version(tx, arg, err);
}

/* Another process may have applied the step since we looked: the lock, then the version decides. */
FIBER static bool step_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct migration *m = arg;
    m->is_applied = false;
    const struct sql_value key[] = {sql_i(LOCK_KEY)};
    if (!sql_exec(tx, &stmt_lock, key, 1, NULL, err) || !read_version(tx, m, err))
        return false;
    if (m->version >= m->step->version)
        return true;
    const char *text = sql_is_pg(tx) ? m->step->pg : m->step->sqlite;
    if (!tx->db->driver->script(tx, create_table, err) || !tx->db->driver->script(tx, text, err))
        return false;
    const struct sql_value row[] = {sql_s(str_c(m->component)), sql_i(m->step->version), sql_s(str_c(m->step->what))};
    m->is_applied = sql_exec(tx, &stmt_record, row, 1, NULL, err);
    return m->is_applied;
}

bool sql_migrate(struct sql_db *db, const char *component, const struct sql_migration *steps, size_t n, bool dry_run,
                 unsigned *applied, struct err *err)
{
    struct migration m = {.component = component};
    unsigned count = 0;
    if (!sql_read(db, look_body, &m, err))
        return err_prefix(err, "schema of %s", component);
    if (m.version > (int64_t)n + 1)
        return err_set(err, ERR_INVALID, "the schema of %s is at version %lld, which is newer than this program (%zu)",
                       component, (long long)m.version, n);
    for (size_t i = 0; i < n; i++) {
        assert(steps[i].version == i + 1);
        if (steps[i].version <= m.version)
            continue;
        m.step = &steps[i];
        if (dry_run) {
            count++;
            continue;
        }
        if (!sql_write(db, step_body, &m, err))
            return err_prefix(err, "schema of %s, step %u (%s)", component, steps[i].version, steps[i].what);
        count += m.is_applied;
        if (m.is_applied)
            m.version = steps[i].version;
    }
    if (count && !dry_run && db->driver->migrated && !db->driver->migrated(db, err))
        return err_prefix(err, "schema of %s", component);
    *applied = count;
    return true;
}
