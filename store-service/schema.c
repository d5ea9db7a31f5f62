/*
 * The tables of a shard. Names begin with s_, as a small installation may keep several services in one database.
 *
 *   s_account    one row an account: the modseq that orders all its changes, quota used, counters of ids. Its row lock
 *                comes first in every mutation.
 *   s_mailbox    counters, uidnext and highestmodseq, changed in the transaction that changes the messages
 *   s_email      immutable content: what was parsed of it, and which body. Its ids grow with time and are unique in the
 *                shard, so rows and their only index are written at the end; an account finds its emails by s_msg
 *   s_msg        an email's membership in a mailbox; no index on anything that changes, so updates stay heap-only
 *   s_subscription   subscribed names without a mailbox; s_mailbox says it of those that exist
 *   s_changes    append-only log; one row a change and mailbox, with all the messages that it touched
 *   s_blob       where each body lies and how many emails refer to it; s_blob_inline holds the small ones
 *   s_hold       who keeps a body for how long although no email refers to it
 *   s_garbage    objects whose blob row is gone and that are still to be deleted
 *   s_thread_key message ids (with their subject) to threads
 *   s_gap        which modseqs of an account a failover took back
 *   s_delivered, s_request   what was done under which key, for a while
 *
 * Whose rows go when: those of s_hold with their holder's release, with their body, or by their time (sweep.c); those
 * of s_email, s_blob's references and s_thread_key with the last message that has them; messages with Expunge, their
 * mailbox or their account; s_changes and s_request by age (sweep.c), s_delivered too; what belongs to an account with
 * it (purge.c). All of it in slices, with rests between them.
 *
 * On PostgreSQL the log and the keys are partitioned by week, so that the old ones are dropped, not deleted.
 */
#include "base/clock.h"
#include "store-service/service.h"

#define COMMON_TABLES(INT, BYTES, SMALL, FILL50, FILL80, WITHOUT_ROWID)                                                \
    "CREATE TABLE s_account (account_id " INT " PRIMARY KEY, tenant_id " INT " NOT NULL, epoch " INT " NOT NULL,"      \
    " modseq " INT " NOT NULL, floor_modseq " INT " NOT NULL, uidvalidity " INT " NOT NULL, email_seq " INT            \
    " NOT NULL, mailbox_seq " INT " NOT NULL, used_bytes " INT " NOT NULL, used_messages " INT                         \
    " NOT NULL, inbox_id " INT " NOT NULL, timeline " INT " NOT NULL, week " INT " NOT NULL, week_modseq " INT         \
    " NOT NULL)" FILL50 ";"                                                                                            \
    "CREATE TABLE s_mailbox (account_id " INT " NOT NULL, mailbox_id " INT " NOT NULL, parent_id " INT " NOT NULL,"    \
    " name text NOT NULL, role " SMALL " NOT NULL, kind " SMALL " NOT NULL, uidvalidity " INT                          \
    " NOT NULL, uidnext " INT " NOT NULL, highestmodseq " INT " NOT NULL, created_modseq " INT " NOT NULL, total " INT \
    " NOT NULL, unseen " INT " NOT NULL, deleted " INT " NOT NULL, bytes " INT " NOT NULL, is_subscribed " SMALL       \
    " NOT NULL,"                                                                                                       \
    " PRIMARY KEY (account_id, mailbox_id))" FILL50 ";"                                                                \
    "CREATE UNIQUE INDEX s_mailbox_name ON s_mailbox (account_id, parent_id, name);"                                   \
    "CREATE TABLE s_email (email_id " INT " PRIMARY KEY, account_id " INT " NOT NULL, thread_id " INT " NOT NULL,"     \
    " blob_id " INT " NOT NULL, size " INT " NOT NULL, sent_unix " INT " NOT NULL, prefix " BYTES ", parsed " BYTES    \
    " NOT NULL);"                                                                                                      \
    "CREATE TABLE s_msg (account_id " INT " NOT NULL, mailbox_id " INT " NOT NULL, uid " INT                           \
    " NOT NULL, email_id " INT " NOT NULL, thread_id " INT " NOT NULL, modseq " INT " NOT NULL, internal_unix " INT    \
    " NOT NULL, saved_unix " INT " NOT NULL, size " INT " NOT NULL, flags " SMALL " NOT NULL, internal_zone " SMALL    \
    " NOT NULL, kw " BYTES " NOT NULL, PRIMARY KEY (account_id, mailbox_id, uid))" FILL80 WITHOUT_ROWID ";"            \
    "CREATE INDEX s_msg_thread ON s_msg (account_id, thread_id, email_id);"                                            \
    "CREATE TABLE s_keyword (account_id " INT " NOT NULL, kw_id " INT " NOT NULL, name text NOT NULL, fold text"       \
    " NOT NULL, PRIMARY KEY (account_id, kw_id), UNIQUE (account_id, fold));"                                          \
    "CREATE TABLE s_thread_key (account_id " INT " NOT NULL, key " INT " NOT NULL, thread_id " INT " NOT NULL,"        \
    " PRIMARY KEY (account_id, key))" WITHOUT_ROWID ";"                                                                \
    "CREATE TABLE s_blob (blob_id " INT " PRIMARY KEY, tenant_id " INT " NOT NULL, hash " BYTES " NOT NULL, size " INT \
    " NOT NULL, tier " SMALL " NOT NULL, codec " SMALL " NOT NULL, is_ready " SMALL " NOT NULL, seg " INT              \
    " NOT NULL, off " INT " NOT NULL, stored_len " INT " NOT NULL, refs " INT " NOT NULL, zero_since " INT             \
    " NOT NULL, hold_until " INT " NOT NULL);"                                                                         \
    "CREATE UNIQUE INDEX s_blob_hash ON s_blob (tenant_id, hash);"                                                     \
    "CREATE INDEX s_blob_zero ON s_blob (zero_since) WHERE refs = 0;"                                                  \
    "CREATE INDEX s_blob_seg ON s_blob (seg) WHERE tier = 1;"                                                          \
    "CREATE TABLE s_blob_inline (blob_id " INT " PRIMARY KEY, data " BYTES " NOT NULL);"                               \
    "CREATE TABLE s_garbage (object text PRIMARY KEY, at " INT " NOT NULL);"

#define LOG_TABLES(INT, BYTES, SMALL, BY_WEEK, BY_DAY)                                                                 \
    "CREATE TABLE s_changes (account_id " INT " NOT NULL, modseq " INT " NOT NULL, week " INT " NOT NULL, type " SMALL \
    " NOT NULL, op " SMALL " NOT NULL, mailbox_id " INT " NOT NULL, items " BYTES " NOT NULL,"                         \
    " PRIMARY KEY (account_id, modseq, week))" BY_WEEK ";"                                                             \
    "CREATE TABLE s_delivered (day " INT " NOT NULL, key " BYTES " NOT NULL, account_id " INT                          \
    " NOT NULL, mailbox_id " INT " NOT NULL, uid " INT " NOT NULL, PRIMARY KEY (day, key))" BY_DAY ";"                 \
    "CREATE TABLE s_request (account_id " INT " NOT NULL, request_id " BYTES " NOT NULL, day " INT                     \
    " NOT NULL, reply " BYTES " NOT NULL, PRIMARY KEY (account_id, request_id, day))" BY_DAY ";"

/*
 * Partitions have their week in their name. A week that cannot get its partition (its rows are in the default one
 * already) stays there. Floors are raised before the changes below them go.
 */
#define PARTITION_FUNCTIONS                                                                                            \
    "CREATE TABLE s_changes_default PARTITION OF s_changes DEFAULT;"                                                   \
    "CREATE TABLE s_delivered_default PARTITION OF s_delivered DEFAULT;"                                               \
    "CREATE TABLE s_request_default PARTITION OF s_request DEFAULT;"                                                   \
    "CREATE FUNCTION s_make_partitions(first_week bigint, last_week bigint) RETURNS bigint LANGUAGE plpgsql AS $$\n"   \
    "DECLARE w bigint; t text; width bigint; n bigint := 0;\n"                                                         \
    "BEGIN\n"                                                                                                          \
    "  PERFORM set_config('lock_timeout', '2s', true);\n"                                                              \
    "  FOR w IN first_week..last_week LOOP\n"                                                                          \
    "    FOREACH t IN ARRAY ARRAY['s_changes', 's_delivered', 's_request'] LOOP\n"                                     \
    "      CONTINUE WHEN to_regclass(t || '_w' || w) IS NOT NULL;\n"                                                   \
    "      width := CASE t WHEN 's_changes' THEN 1 ELSE 7 END;\n"                                                      \
    "      BEGIN\n"                                                                                                    \
    "        EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%s) TO (%s)',\n"                         \
    "                       t || '_w' || w, t, w * width, (w + 1) * width);\n"                                         \
    "        n := n + 1;\n"                                                                                            \
    "      EXCEPTION WHEN check_violation THEN NULL;\n"                                                                \
    "      END;\n"                                                                                                     \
    "    END LOOP;\n"                                                                                                  \
    "  END LOOP;\n"                                                                                                    \
    "  RETURN n;\n"                                                                                                    \
    "END $$;"                                                                                                          \
    "CREATE FUNCTION s_drop_partitions(t text, before_week bigint) RETURNS bigint LANGUAGE plpgsql AS $$\n"            \
    "DECLARE p record; n bigint := 0;\n"                                                                               \
    "BEGIN\n"                                                                                                          \
    "  PERFORM set_config('lock_timeout', '2s', true);\n"                                                              \
    "  FOR p IN SELECT c.relname AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid\n"                   \
    "           WHERE i.inhparent = to_regclass(t) AND c.relname ~ '_w[0-9]+$'\n"                                      \
    "           AND substring(c.relname from '_w([0-9]+)$')::bigint < before_week LOOP\n"                              \
    "    EXECUTE format('DROP TABLE %I', p.name);\n"                                                                   \
    "    n := n + 1;\n"                                                                                                \
    "  END LOOP;\n"                                                                                                    \
    "  RETURN n;\n"                                                                                                    \
    "END $$;"

/* A path may be longer than what fits into an index of PostgreSQL, so it is no key; names are unique as each change of
 * them reads them all under the account's lock. */
#define SUBSCRIPTION_TABLE(INT, WITHOUT_ROWID)                                                                         \
    "CREATE TABLE s_subscription (account_id " INT " NOT NULL, sub_id " INT " NOT NULL, path text NOT NULL,"           \
    " PRIMARY KEY (account_id, sub_id))" WITHOUT_ROWID ";"

/* One row: which shard this database is, written by the first `thurn migrate` that names it. */
#define NUMBER_TABLE(INT, WITHOUT_ROWID)                                                                               \
    "CREATE TABLE s_shard (only_row " INT " PRIMARY KEY CHECK (only_row = 1), number " INT " NOT NULL)" WITHOUT_ROWID  \
    ";"

/* The modseqs between low and high were given out, if at all, by a primary whose commits are lost. */
#define GAP_TABLE(INT, WITHOUT_ROWID)                                                                                  \
    "CREATE TABLE s_gap (account_id " INT " NOT NULL, low " INT " NOT NULL, high " INT " NOT NULL,"                    \
    " PRIMARY KEY (account_id, low))" WITHOUT_ROWID ";"

#define THREAD_INDEX "CREATE INDEX s_thread_key_thread ON s_thread_key (account_id, thread_id);"

/* Mostly empty. */
#define LEAVING_INDEX "CREATE INDEX s_mailbox_leaving ON s_mailbox (account_id) WHERE parent_id = -1;"

/* Rows live for minutes, mostly. */
#define HOLD_TABLE(INT, BYTES, WITHOUT_ROWID)                                                                          \
    "CREATE TABLE s_hold (blob_id " INT " NOT NULL, holder " BYTES " NOT NULL, until " INT " NOT NULL,"                \
    " PRIMARY KEY (blob_id, holder))" WITHOUT_ROWID ";"

static const struct sql_migration steps[] = {
    {1, "accounts, mailboxes, messages, change log, bodies",
     COMMON_TABLES("INTEGER", "BLOB", "INTEGER", "", "", " WITHOUT ROWID")
         LOG_TABLES("INTEGER", "BLOB", "INTEGER", " WITHOUT ROWID", " WITHOUT ROWID"),
     COMMON_TABLES("bigint", "bytea", "int", " WITH (fillfactor = 50)", " WITH (fillfactor = 80)", "") LOG_TABLES(
         "bigint", "bytea", "int", " PARTITION BY RANGE (week)",
         " PARTITION BY RANGE (day)") "ALTER TABLE s_blob_inline ALTER COLUMN data SET STORAGE EXTERNAL;" /* it is
                                                                                                             compressed
                                                                                                             already */
     PARTITION_FUNCTIONS},
    {2, "subscriptions to names without a mailbox", SUBSCRIPTION_TABLE("INTEGER", " WITHOUT ROWID"),
     SUBSCRIPTION_TABLE("bigint", "")},
    {3, "the number of the shard", NUMBER_TABLE("INTEGER", " WITHOUT ROWID"), NUMBER_TABLE("bigint", "")},
    {4, "which account of a number it is", "ALTER TABLE s_account ADD COLUMN incarnation INTEGER NOT NULL DEFAULT 0;",
     "ALTER TABLE s_account ADD COLUMN incarnation bigint NOT NULL DEFAULT 0;"},
    {5, "mailboxes that are on their way out", LEAVING_INDEX, LEAVING_INDEX},
    {6, "modseqs that failovers took back", GAP_TABLE("INTEGER", " WITHOUT ROWID"), GAP_TABLE("bigint", "")},
    {7, "which keys a thread has", THREAD_INDEX, THREAD_INDEX},
    {8, "who holds a body", HOLD_TABLE("INTEGER", "BLOB", " WITHOUT ROWID"), HOLD_TABLE("bigint", "bytea", "")},
};

#define WEEKS_AHEAD 3 /* each partition costs every statement that may read it a lock */

FIBER bool schema_make_partitions(struct sql_db *db, struct err *err)
{
    static const struct sql_stmt make = {
        "s_make_partitions", "ii", "i", "SELECT ?1 + ?2", "SELECT s_make_partitions($1, $2)", false};
    if (!sql_db_is_pg(db))
        return true;
    ARENA(a, 4096);
    int64_t week = clock_unix() / WEEK_S;
    const struct sql_value v[] = {sql_i(week - 1), sql_i(week + WEEKS_AHEAD)};
    struct sql_result r;
    return sql_query(db, &make, v, &a, &r, err);
}

bool store_migrate(struct sql_db *shard, bool dry_run, unsigned *applied, struct err *err)
{
    return sql_migrate(shard, "store", steps, ARRAY_LEN(steps), dry_run, applied, err) &&
           (dry_run || schema_make_partitions(shard, err));
}

struct claim {
    struct sql_value number;
    int64_t found; /* out */
};
FIBER static bool claim_body(struct sql_tx *tx, void *arg, struct err *err)
{
    static const struct sql_stmt claim = {
        "s_claim",
        "i",
        "i",
        "INSERT INTO s_shard (only_row, number) VALUES (1, ?1) ON CONFLICT (only_row) DO UPDATE SET only_row = 1 RETURNING number",
        NULL,
        false};
    struct claim *c = arg;
    struct sql_result r;
    if (!sql_exec(tx, &claim, &c->number, 1, &r, err))
        return false;
    c->found = sql_at(&r, 0, 0)->i;
    return true;
}

bool store_claim(struct sql_db *shard, uint32_t number, struct err *err)
{
    struct claim c = {.number = sql_i(number)};
    return sql_write(shard, claim_body, &c, err) &&
           (c.found == number ||
            err_set(err, ERR_CONFLICT, "this database is that of shard %lld: the order of store.shards must not change",
                    (long long)c.found));
}
