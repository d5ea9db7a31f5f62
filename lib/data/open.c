/* Which driver a DSN is for: the only file that knows them all. */
#include "data/pg_conn.h"
#include "data/sqlite_conn.h"

struct sql_db *sql_open(const struct sql_opts *opts, struct err *err)
{
    struct sql_opts o = *opts;
    if (str_starts(o.dsn, S("sqlite:"))) {
        o.dsn = str_slice(o.dsn, 7, SIZE_MAX);
        return sqlite_open(&o, err);
    }
    return pg_open(&o, err);
}

bool sql_check_dsn(str dsn, struct err *err)
{
    return str_starts(dsn, S("sqlite:")) ? sqlite_check_dsn(str_slice(dsn, 7, SIZE_MAX), err) : pg_check_dsn(dsn, err);
}
