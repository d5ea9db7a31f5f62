#include "queue-service/schema.h"

/* Rows are short-lived, so PostgreSQL's autovacuum is told not to wait. q_owned is what the fence casts to: a value
 * below 1 is a check violation. Times are milliseconds for leases, by the database's clock, and seconds else. */
#define CHURN " WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)"

const struct sql_migration queue_migrations[] = {
    {1, "nodes, shards, messages, recipients, bodies",
     "CREATE TABLE q_node (node TEXT PRIMARY KEY, lease_until INTEGER NOT NULL, is_draining INTEGER NOT NULL) WITHOUT ROWID;"
     "CREATE TABLE q_shard (shard INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, owner TEXT);"
     "CREATE TABLE q_msg (msg_id INTEGER PRIMARY KEY, enqueue_id BLOB NOT NULL, tenant INTEGER NOT NULL,"
     " account INTEGER NOT NULL, priority INTEGER NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL,"
     " sender TEXT NOT NULL, flags INTEGER NOT NULL, envelope_id TEXT NOT NULL, body_kind INTEGER NOT NULL,"
     " size INTEGER NOT NULL, blob_space INTEGER NOT NULL, blob_tenant INTEGER NOT NULL, blob_hash BLOB NOT NULL,"
     " received_from TEXT NOT NULL, trace TEXT NOT NULL, prefix BLOB NOT NULL, day INTEGER NOT NULL);"
     "CREATE TABLE q_rcpt (msg_id INTEGER NOT NULL, no INTEGER NOT NULL, address TEXT NOT NULL, original TEXT NOT NULL,"
     " notify INTEGER NOT NULL, state INTEGER NOT NULL, attempts INTEGER NOT NULL, due INTEGER NOT NULL,"
     " code INTEGER NOT NULL, text TEXT NOT NULL, notified INTEGER NOT NULL, PRIMARY KEY (msg_id, no)) WITHOUT ROWID;"
     "CREATE TABLE q_body (msg_id INTEGER PRIMARY KEY, body BLOB NOT NULL);"
     "CREATE TABLE q_late (msg_id INTEGER NOT NULL, no INTEGER NOT NULL, epoch INTEGER NOT NULL, code INTEGER NOT NULL,"
     " PRIMARY KEY (msg_id, no)) WITHOUT ROWID;",
     "CREATE DOMAIN q_owned AS bigint CHECK (VALUE > 0);"
     "CREATE TABLE q_node (node text PRIMARY KEY, lease_until bigint NOT NULL, is_draining bigint NOT NULL);"
     "CREATE TABLE q_shard (shard bigint PRIMARY KEY, epoch bigint NOT NULL, owner text) WITH (fillfactor = 10);"
     "CREATE TABLE q_msg (msg_id bigint PRIMARY KEY, enqueue_id bytea NOT NULL, tenant bigint NOT NULL,"
     " account bigint NOT NULL, priority bigint NOT NULL, created bigint NOT NULL, expires bigint NOT NULL,"
     " sender text NOT NULL, flags bigint NOT NULL, envelope_id text NOT NULL, body_kind bigint NOT NULL,"
     " size bigint NOT NULL, blob_space bigint NOT NULL, blob_tenant bigint NOT NULL, blob_hash bytea NOT NULL,"
     " received_from text NOT NULL, trace text NOT NULL, prefix bytea NOT NULL, day bigint NOT NULL)" CHURN ";"
     "CREATE TABLE q_rcpt (msg_id bigint NOT NULL, no bigint NOT NULL, address text NOT NULL, original text NOT NULL,"
     " notify bigint NOT NULL, state bigint NOT NULL, attempts bigint NOT NULL, due bigint NOT NULL,"
     " code bigint NOT NULL, text text NOT NULL, notified bigint NOT NULL, PRIMARY KEY (msg_id, no))" CHURN ";"
     "CREATE TABLE q_body (msg_id bigint PRIMARY KEY, body bytea NOT NULL)" CHURN ";"
     "ALTER TABLE q_body ALTER COLUMN body SET STORAGE EXTERNAL;"
     "CREATE TABLE q_late (msg_id bigint NOT NULL, no bigint NOT NULL, epoch bigint NOT NULL, code bigint NOT NULL,"
     " PRIMARY KEY (msg_id, no));"},
};
const size_t queue_n_migrations = sizeof(queue_migrations) / sizeof(queue_migrations[0]);

#define NOW_SQLITE "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
#define NOW_PG "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

// clang-format off
const struct sql_stmt q_fence = {
    .name = "q_fence", .params = "iit", .cols = "i", .is_rowset = true,
    .sqlite = "SELECT 1 FROM q_shard s JOIN q_node n ON n.node = s.owner"
              " WHERE s.shard = ?1 AND s.epoch = ?2 AND s.owner = ?3 AND n.lease_until > " NOW_SQLITE,
    .pg = "WITH f AS (SELECT s.shard FROM q_shard s JOIN q_node n ON n.node = s.owner"
          " JOIN unnest($1::bigint[], $2::bigint[], $3::text[]) AS w(shard, epoch, owner)"
          " ON w.shard = s.shard AND w.epoch = s.epoch AND w.owner = s.owner"
          " WHERE n.lease_until > " NOW_PG " ORDER BY s.shard FOR SHARE OF s)"
          " SELECT CAST(CASE WHEN count(*) = cardinality($1::bigint[]) THEN count(*) ELSE 0 END AS q_owned)::bigint FROM f"};
// clang-format on

#define MSG_COLS                                                                                                       \
    "msg_id, enqueue_id, tenant, account, priority, created, expires, sender, flags, envelope_id, body_kind, size,"    \
    " blob_space, blob_tenant, blob_hash, received_from, trace, prefix, day"
#define MSG_TYPES "ibiiiiititiiiibttbi"
// clang-format off
const struct sql_stmt q_add_msg = {
    .name = "q_add_msg", .params = MSG_TYPES, .cols = "", .is_rowset = true,
    .sqlite = "INSERT INTO q_msg (" MSG_COLS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15,"
              " ?16, ?17, ?18, ?19) ON CONFLICT (msg_id) DO NOTHING",
    .pg = "INSERT INTO q_msg (" MSG_COLS ") SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bigint[],"
          " $5::bigint[], $6::bigint[], $7::bigint[], $8::text[], $9::bigint[], $10::text[], $11::bigint[], $12::bigint[],"
          " $13::bigint[], $14::bigint[], $15::bytea[], $16::text[], $17::text[], $18::bytea[], $19::bigint[])"
          " ON CONFLICT (msg_id) DO NOTHING"};
// clang-format on

#define RCPT_COLS "msg_id, no, address, original, notify, state, attempts, due, code, text, notified"
#define RCPT_TYPES "iittiiiiiti"
// clang-format off
const struct sql_stmt q_add_rcpt = {
    .name = "q_add_rcpt", .params = RCPT_TYPES, .cols = "", .is_rowset = true,
    .sqlite = "INSERT INTO q_rcpt (" RCPT_COLS ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
              " ON CONFLICT (msg_id, no) DO NOTHING",
    .pg = "INSERT INTO q_rcpt (" RCPT_COLS ") SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[],"
          " $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::text[], $11::bigint[])"
          " ON CONFLICT (msg_id, no) DO NOTHING"};

const struct sql_stmt q_add_body = {
    .name = "q_add_body", .params = "ib", .cols = "", .is_rowset = true,
    .sqlite = "INSERT INTO q_body (msg_id, body) VALUES (?1, ?2) ON CONFLICT (msg_id) DO NOTHING",
    .pg = "INSERT INTO q_body (msg_id, body) SELECT * FROM unnest($1::bigint[], $2::bytea[]) ON CONFLICT (msg_id) DO NOTHING"};

/* (msg_id, no, state, attempts, due, code, text, notified) */
const struct sql_stmt q_update_rcpt = {
    .name = "q_update_rcpt", .params = "iiiiiiti", .cols = "", .is_rowset = true,
    .sqlite = "UPDATE q_rcpt SET state = ?3, attempts = ?4, due = ?5, code = ?6, text = ?7, notified = ?8"
              " WHERE msg_id = ?1 AND no = ?2",
    .pg = "UPDATE q_rcpt r SET state = u.state, attempts = u.attempts, due = u.due, code = u.code, text = u.text,"
          " notified = u.notified FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[],"
          " $6::bigint[], $7::text[], $8::bigint[]) AS u(msg_id, no, state, attempts, due, code, text, notified)"
          " WHERE r.msg_id = u.msg_id AND r.no = u.no"};
const struct sql_stmt q_delete_rcpts = {.name = "q_delete_rcpts", .params = "i", .cols = "", .is_rowset = true,
                                        .sqlite = "DELETE FROM q_rcpt WHERE msg_id = ?1",
                                        .pg = "DELETE FROM q_rcpt WHERE msg_id = ANY($1::bigint[])"};
const struct sql_stmt q_delete_body = {.name = "q_delete_body", .params = "i", .cols = "", .is_rowset = true,
                                       .sqlite = "DELETE FROM q_body WHERE msg_id = ?1",
                                       .pg = "DELETE FROM q_body WHERE msg_id = ANY($1::bigint[])"};
const struct sql_stmt q_delete_msg = {.name = "q_delete_msg", .params = "i", .cols = "", .is_rowset = true,
                                      .sqlite = "DELETE FROM q_msg WHERE msg_id = ?1",
                                      .pg = "DELETE FROM q_msg WHERE msg_id = ANY($1::bigint[])"};
/* (msg_id, no, epoch, code): what a peer accepted after the shard was lost. The only write without a fence. */
const struct sql_stmt q_add_late = {
    .name = "q_add_late", .params = "iiii", .cols = "", .is_rowset = true,
    .sqlite = "INSERT INTO q_late (msg_id, no, epoch, code) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (msg_id, no) DO NOTHING",
    .pg = "INSERT INTO q_late (msg_id, no, epoch, code) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[],"
          " $4::bigint[]) ON CONFLICT (msg_id, no) DO NOTHING"};

/* --- loading a shard: pages of (id after, id before, limit), the recipients for the same messages --- */
const struct sql_stmt q_load_msgs = {
    .name = "q_load_msgs", .params = "iii", .cols = MSG_TYPES,
    .sqlite = "SELECT " MSG_COLS " FROM q_msg WHERE msg_id > ?1 AND msg_id < ?2 ORDER BY msg_id LIMIT ?3"};
const struct sql_stmt q_load_rcpts = {
    .name = "q_load_rcpts", .params = "iii", .cols = RCPT_TYPES,
    .sqlite = "SELECT " RCPT_COLS " FROM q_rcpt WHERE msg_id > ?1 AND msg_id <= (SELECT max(msg_id) FROM"
              " (SELECT msg_id FROM q_msg WHERE msg_id > ?1 AND msg_id < ?2 ORDER BY msg_id LIMIT ?3) AS page) ORDER BY msg_id, no"};
const struct sql_stmt q_load_late = {
    .name = "q_load_late", .params = "ii", .cols = "iii",
    .sqlite = "SELECT msg_id, no, code FROM q_late WHERE msg_id > ?1 AND msg_id < ?2"};
const struct sql_stmt q_clear_late = {.name = "q_clear_late", .params = "i", .cols = "", .is_rowset = true,
                                      .sqlite = "DELETE FROM q_late WHERE msg_id = ?1",
                                      .pg = "DELETE FROM q_late WHERE msg_id = ANY($1::bigint[])"};
const struct sql_stmt q_load_body = {
    .name = "q_load_body", .params = "i", .cols = "b", .sqlite = "SELECT body FROM q_body WHERE msg_id = ?1"};

/* --- ownership --- */
const struct sql_stmt q_make_shards = {
    .name = "q_make_shards", .params = "i", .cols = "", .is_rowset = true,
    .sqlite = "INSERT INTO q_shard (shard, epoch, owner) VALUES (?1, 0, NULL) ON CONFLICT (shard) DO NOTHING",
    .pg = "INSERT INTO q_shard (shard, epoch, owner) SELECT s, 0, NULL FROM unnest($1::bigint[]) AS u(s)"
          " ON CONFLICT (shard) DO NOTHING"};
/* (node, lease ms): the database's time. A node's earlier life is over: whatever it owned is taken anew, with a new epoch. */
const struct sql_stmt q_register = {
    .name = "q_register", .params = "ti", .cols = "i",
    .sqlite = "INSERT INTO q_node (node, lease_until, is_draining) VALUES (?1, " NOW_SQLITE " + ?2, 0)"
              " ON CONFLICT (node) DO UPDATE SET lease_until = excluded.lease_until, is_draining = 0 RETURNING " NOW_SQLITE,
    .pg = "INSERT INTO q_node (node, lease_until, is_draining) VALUES ($1, " NOW_PG " + $2::bigint, 0)"
          " ON CONFLICT (node) DO UPDATE SET lease_until = excluded.lease_until, is_draining = 0 RETURNING " NOW_PG};
/* SQLite has one node: rows of other names are of earlier lives. */
const struct sql_stmt q_forget_nodes = {
    .name = "q_forget_nodes", .params = "ti", .cols = "", .sqlite = "DELETE FROM q_node WHERE node <> ?1 AND ?2 > 0"};
/* Nodes long dead, whose shards others have: where names are never used again their rows would only grow in number. */
const struct sql_stmt q_forget_dead = {
    .name = "q_forget_dead", .params = "", .cols = "",
    .sqlite = "DELETE FROM q_node WHERE lease_until < " NOW_SQLITE " - 86400000",
    .pg = "DELETE FROM q_node WHERE node IN (SELECT node FROM q_node n WHERE lease_until < " NOW_PG " - 86400000"
          " AND NOT EXISTS (SELECT 1 FROM q_shard s WHERE s.owner = n.node) FOR UPDATE SKIP LOCKED)"};
/* (longest lease ms, lease ms). A lease that ends later than any can was given before the clock went back. The living renew theirs
 * long before it ends; the dead ones' would last for as long as the clock went back. */
const struct sql_stmt q_bound_leases = {
    .name = "q_bound_leases", .params = "ii", .cols = "",
    .sqlite = "UPDATE q_node SET lease_until = " NOW_SQLITE " + ?2 WHERE lease_until > " NOW_SQLITE " + ?1",
    .pg = "UPDATE q_node SET lease_until = " NOW_PG " + $2::bigint"
          " WHERE node IN (SELECT node FROM q_node WHERE lease_until > " NOW_PG " + $1::bigint FOR UPDATE SKIP LOCKED)"};
/* (node, lease ms, draining): the database's time. No row: the lease was gone, and with it all shards. */
const struct sql_stmt q_renew = {
    .name = "q_renew", .params = "tii", .cols = "i",
    .sqlite = "UPDATE q_node SET lease_until = " NOW_SQLITE " + ?2, is_draining = ?3"
              " WHERE node = ?1 AND lease_until > " NOW_SQLITE " RETURNING " NOW_SQLITE,
    .pg = "UPDATE q_node SET lease_until = " NOW_PG " + $2::bigint, is_draining = $3::bigint"
          " WHERE node = $1 AND lease_until > " NOW_PG " RETURNING " NOW_PG};
const struct sql_stmt q_unregister = {
    .name = "q_unregister", .params = "t", .cols = "", .sqlite = "DELETE FROM q_node WHERE node = ?1"};
const struct sql_stmt q_nodes = {
    .name = "q_nodes", .params = "", .cols = "tii",
    .sqlite = "SELECT node, lease_until - " NOW_SQLITE ", is_draining FROM q_node ORDER BY lease_until DESC",
    .pg = "SELECT node, lease_until - " NOW_PG ", is_draining FROM q_node ORDER BY lease_until DESC"};
const struct sql_stmt q_shards = {
    .name = "q_shards", .params = "", .cols = "iit", .sqlite = "SELECT shard, epoch, owner FROM q_shard ORDER BY shard"};
/* Makes a lease that has run out stay so, before its shards are taken. */
const struct sql_stmt q_expire_node = {
    .name = "q_expire_node", .params = "t", .cols = "",
    .sqlite = "UPDATE q_node SET lease_until = 0 WHERE node = ?1 AND lease_until < " NOW_SQLITE,
    .pg = "UPDATE q_node SET lease_until = 0 WHERE node IN (SELECT node FROM q_node WHERE node = $1 AND lease_until < " NOW_PG
          " FOR UPDATE SKIP LOCKED)"};
/* (shard, epoch as seen, new owner): the row says which were got, and their new epoch. Not while its owner lives, unless
 * that is an earlier life of the taker. What somebody else has locked is left for another round: nobody's lease may wait behind
 * the transaction of a node that stands still. */
const struct sql_stmt q_acquire = {
    .name = "q_acquire", .params = "iit", .cols = "ii", .is_rowset = true,
    .sqlite = "UPDATE q_shard SET epoch = epoch + 1, owner = ?3 WHERE shard = ?1 AND epoch = ?2"
              " AND (owner IS NULL OR owner = ?3 OR NOT EXISTS (SELECT 1 FROM q_node n WHERE n.node = q_shard.owner"
              " AND n.lease_until > 0)) RETURNING shard, epoch",
    .pg = "WITH free AS (SELECT s.shard, w.owner FROM q_shard s"
          " JOIN unnest($1::bigint[], $2::bigint[], $3::text[]) AS w(shard, epoch, owner) ON s.shard = w.shard AND s.epoch = w.epoch"
          " WHERE s.owner IS NULL OR s.owner = w.owner"
          " OR NOT EXISTS (SELECT 1 FROM q_node n WHERE n.node = s.owner AND n.lease_until > 0)"
          " ORDER BY s.shard FOR UPDATE OF s SKIP LOCKED)"
          " UPDATE q_shard s SET epoch = s.epoch + 1, owner = free.owner FROM free WHERE s.shard = free.shard RETURNING s.shard, s.epoch"};
/* (age ms). PostgreSQL: ends what a paused or vanished node left: transactions that hold rows of nodes or shards, are so old, and wait
 * for their client to say something. Such a node's lease is over, so the fence would have refused them. */
const struct sql_stmt q_end_stuck = {
    .name = "q_end_stuck", .params = "i", .cols = "i",
    .sqlite = "SELECT 0 WHERE ?1 < 0",
    .pg = "SELECT pg_terminate_backend(a.pid)::int::bigint FROM pg_stat_activity a"
          " WHERE a.datname = current_database() AND a.usename = current_user AND a.pid <> pg_backend_pid()"
          " AND a.wait_event = 'ClientRead' AND a.xact_start < clock_timestamp() - $1::bigint * interval '1 millisecond'"
          " AND EXISTS (SELECT 1 FROM pg_locks l WHERE l.pid = a.pid AND l.relation IN ('q_shard'::regclass, 'q_node'::regclass))"};
/* (shard, epoch, owner) */
const struct sql_stmt q_release = {
    .name = "q_release", .params = "iit", .cols = "", .is_rowset = true,
    .sqlite = "UPDATE q_shard SET epoch = epoch + 1, owner = NULL WHERE shard = ?1 AND epoch = ?2 AND owner = ?3",
    .pg = "UPDATE q_shard s SET epoch = s.epoch + 1, owner = NULL"
          " FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS w(shard, epoch, owner)"
          " WHERE s.shard = w.shard AND s.epoch = w.epoch AND s.owner = w.owner"};
// clang-format on
