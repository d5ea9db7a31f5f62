#include "auth-service/schema.h"

/* Ids are drawn at random (internal.h, new_id): other databases refer to them, and a directory that lost its last
 * commits in a failover must not give one of them to somebody else. Accounts a shard holds are counted in placement,
 * which is also the lock under which new accounts are placed. */
const struct sql_migration auth_migrations[] = {
    {1, "tenants, domains, accounts, aliases",
     "CREATE TABLE dir_counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
     "INSERT INTO dir_counter VALUES ('tenant', 1), ('domain', 0), ('account', 0);"
     "CREATE TABLE dir_tenant (tenant_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);"
     "INSERT INTO dir_tenant VALUES (1, 'default');"
     "CREATE TABLE dir_domain (domain_id INTEGER PRIMARY KEY, tenant_id INTEGER NOT NULL REFERENCES dir_tenant,"
     " name TEXT NOT NULL UNIQUE, catch_all TEXT NOT NULL, is_disabled INTEGER NOT NULL, created_unix INTEGER NOT NULL);"
     "CREATE TABLE dir_account (account_id INTEGER PRIMARY KEY, tenant_id INTEGER NOT NULL REFERENCES dir_tenant,"
     " domain TEXT NOT NULL, key TEXT NOT NULL UNIQUE, address TEXT NOT NULL, state INTEGER NOT NULL,"
     " quota_bytes INTEGER NOT NULL, quota_messages INTEGER NOT NULL, shard INTEGER NOT NULL, epoch INTEGER NOT NULL,"
     " display_name TEXT NOT NULL, created_unix INTEGER NOT NULL, is_admin INTEGER NOT NULL, secret TEXT NOT NULL,"
     " credential_version INTEGER NOT NULL);"
     "CREATE INDEX dir_account_domain ON dir_account (domain, key);"
     "CREATE INDEX dir_account_admin ON dir_account (account_id) WHERE is_admin = 1;"
     "CREATE TABLE dir_alias (key TEXT PRIMARY KEY, domain TEXT NOT NULL, address TEXT NOT NULL, targets TEXT NOT NULL)"
     " WITHOUT ROWID;"
     "CREATE INDEX dir_alias_domain ON dir_alias (domain, key);"
     "CREATE TABLE dir_placement (shard INTEGER PRIMARY KEY, accounts INTEGER NOT NULL);",
     "CREATE TABLE dir_counter (name text PRIMARY KEY, value bigint NOT NULL);"
     "INSERT INTO dir_counter VALUES ('tenant', 1), ('domain', 0), ('account', 0);"
     "CREATE TABLE dir_tenant (tenant_id bigint PRIMARY KEY, name text NOT NULL UNIQUE);"
     "INSERT INTO dir_tenant VALUES (1, 'default');"
     "CREATE TABLE dir_domain (domain_id bigint PRIMARY KEY, tenant_id bigint NOT NULL REFERENCES dir_tenant,"
     " name text COLLATE \"C\" NOT NULL UNIQUE, catch_all text NOT NULL, is_disabled bigint NOT NULL,"
     " created_unix bigint NOT NULL);"
     "CREATE TABLE dir_account (account_id bigint PRIMARY KEY, tenant_id bigint NOT NULL REFERENCES dir_tenant,"
     " domain text COLLATE \"C\" NOT NULL, key text COLLATE \"C\" NOT NULL UNIQUE, address text NOT NULL,"
     " state bigint NOT NULL, quota_bytes bigint NOT NULL, quota_messages bigint NOT NULL, shard bigint NOT NULL,"
     " epoch bigint NOT NULL, display_name text NOT NULL, created_unix bigint NOT NULL, is_admin bigint NOT NULL,"
     " secret text NOT NULL, credential_version bigint NOT NULL);"
     "CREATE INDEX dir_account_domain ON dir_account (domain, key);"
     "CREATE INDEX dir_account_admin ON dir_account (account_id) WHERE is_admin = 1;"
     "CREATE TABLE dir_alias (key text COLLATE \"C\" PRIMARY KEY, domain text COLLATE \"C\" NOT NULL, address text NOT NULL,"
     " targets text NOT NULL);"
     "CREATE INDEX dir_alias_domain ON dir_alias (domain, key);"
     "CREATE TABLE dir_placement (shard bigint PRIMARY KEY, accounts bigint NOT NULL);"},
    {2, "ids that never come again",
     "DROP TABLE dir_counter; ALTER TABLE dir_account ADD COLUMN incarnation INTEGER NOT NULL DEFAULT 0;",
     "DROP TABLE dir_counter; ALTER TABLE dir_account ADD COLUMN incarnation bigint NOT NULL DEFAULT 0;"},
    {3, "which request made it",
     "ALTER TABLE dir_account ADD COLUMN made_by INTEGER NOT NULL DEFAULT 0; ALTER TABLE dir_domain ADD COLUMN made_by INTEGER "
     "NOT NULL DEFAULT 0;",
     "ALTER TABLE dir_account ADD COLUMN made_by bigint NOT NULL DEFAULT 0; ALTER TABLE dir_domain ADD COLUMN made_by bigint NOT "
     "NULL DEFAULT 0;"},
    {4, "the record of administration",
     "CREATE TABLE dir_event (act INTEGER NOT NULL, seq INTEGER NOT NULL, at_ms INTEGER NOT NULL, who TEXT NOT NULL, origin TEXT "
     "NOT NULL,"
     " what TEXT NOT NULL, subject TEXT NOT NULL, was TEXT NOT NULL, became TEXT NOT NULL, PRIMARY KEY (act, seq)) WITHOUT ROWID;"
     "CREATE INDEX dir_event_at ON dir_event (at_ms, act, seq);",
     "CREATE TABLE dir_event (act bigint NOT NULL, seq bigint NOT NULL, at_ms bigint NOT NULL, who text NOT NULL, origin text "
     "NOT NULL,"
     " what text NOT NULL, subject text NOT NULL, was text NOT NULL, became text NOT NULL, PRIMARY KEY (act, seq));"
     "CREATE INDEX dir_event_at ON dir_event (at_ms, act, seq);"},
};
const size_t auth_n_migrations = sizeof(auth_migrations) / sizeof(auth_migrations[0]);

#define ACCOUNT_COLS                                                                                                     \
    "account_id, tenant_id, key, address, state, quota_bytes, quota_messages, shard, epoch, display_name, created_unix," \
    " is_admin, secret, credential_version, incarnation, made_by"
#define ACCOUNT_TYPES "iittiiiiitiitiii"
#define DOMAIN_COLS "domain_id, tenant_id, name, catch_all, is_disabled, created_unix, made_by"
#define DOMAIN_TYPES "iittiii"
#define ALIAS_COLS "key, address, targets"
#define ALIAS_TYPES "ttt"

/* --- look-ups --- */
// clang-format off
const struct sql_stmt q_accounts_by_key = {
    .name = "accounts_by_key", .params = "t", .cols = ACCOUNT_TYPES, .is_rowset = true,
    .sqlite = "SELECT " ACCOUNT_COLS " FROM dir_account WHERE key = ?1",
    .pg = "SELECT " ACCOUNT_COLS " FROM dir_account WHERE key = ANY($1::text[])"};
const struct sql_stmt q_aliases_by_key = {
    .name = "aliases_by_key", .params = "t", .cols = ALIAS_TYPES, .is_rowset = true,
    .sqlite = "SELECT " ALIAS_COLS " FROM dir_alias WHERE key = ?1",
    .pg = "SELECT " ALIAS_COLS " FROM dir_alias WHERE key = ANY($1::text[])"};
const struct sql_stmt q_domains_by_name = {
    .name = "domains_by_name", .params = "t", .cols = DOMAIN_TYPES, .is_rowset = true,
    .sqlite = "SELECT " DOMAIN_COLS " FROM dir_domain WHERE name = ?1",
    .pg = "SELECT " DOMAIN_COLS " FROM dir_domain WHERE name = ANY($1::text[])"};
const struct sql_stmt q_accounts_by_id = {
    .name = "accounts_by_id", .params = "i", .cols = ACCOUNT_TYPES, .is_rowset = true,
    .sqlite = "SELECT " ACCOUNT_COLS " FROM dir_account WHERE account_id = ?1",
    .pg = "SELECT " ACCOUNT_COLS " FROM dir_account WHERE account_id = ANY($1::bigint[])"};
/* The admin who gets postmaster's mail: one of the tenant before others, the oldest first; suspended ones last. */
const struct sql_stmt q_admin_of = {
    .name = "admin_of", .params = "i", .cols = ACCOUNT_TYPES,
    .sqlite = "SELECT " ACCOUNT_COLS " FROM dir_account WHERE is_admin = 1 AND state <> 3"
              " ORDER BY (tenant_id = ?1) DESC, (state = 1), created_unix, account_id LIMIT 1"};

/* --- pages --- */
const struct sql_stmt q_list_accounts = {
    .name = "list_accounts", .params = "titt", .cols = ACCOUNT_TYPES,
    .sqlite = "SELECT " ACCOUNT_COLS " FROM dir_account WHERE key > ?1 AND (?3 = '' OR domain = ?3)"
              " AND (?4 = '' OR key LIKE ?4 ESCAPE '\\') ORDER BY key LIMIT ?2"};
const struct sql_stmt q_list_aliases = {
    .name = "list_aliases", .params = "titt", .cols = ALIAS_TYPES,
    .sqlite = "SELECT " ALIAS_COLS " FROM dir_alias WHERE key > ?1 AND (?3 = '' OR domain = ?3)"
              " AND (?4 = '' OR key LIKE ?4 ESCAPE '\\') ORDER BY key LIMIT ?2"};
const struct sql_stmt q_list_domains = {
    .name = "list_domains", .params = "titt", .cols = DOMAIN_TYPES,
    .sqlite = "SELECT " DOMAIN_COLS " FROM dir_domain WHERE name > ?1 AND (?3 = '' OR name = ?3)"
              " AND (?4 = '' OR name LIKE ?4 ESCAPE '\\') ORDER BY name LIMIT ?2"};
const struct sql_stmt q_list_tenants = {
    .name = "list_tenants", .params = "titt", .cols = "it",
    .sqlite = "SELECT tenant_id, name FROM dir_tenant WHERE name > ?1"
              " AND (?3 = '' OR tenant_id = (SELECT tenant_id FROM dir_domain WHERE name = ?3))"
              " AND (?4 = '' OR name LIKE ?4 ESCAPE '\\') ORDER BY name LIMIT ?2"};

/* --- the record of administration --- */
const struct sql_stmt q_add_events = {.name = "add_events",
                                      .params = "iiitttttt",
                                      .cols = "",
                                      .is_rowset = true,
                                      .sqlite = "INSERT INTO dir_event (act, seq, at_ms, who, origin, what, subject, was, became)"
                                                " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (act, seq) DO NOTHING",
                                      .pg = "INSERT INTO dir_event (act, seq, at_ms, who, origin, what, subject, was, became)"
                                            " SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], "
                                            "$5::text[], $6::text[], $7::text[], $8::text[],"
                                            " $9::text[]) ON CONFLICT (act, seq) DO NOTHING"};
const struct sql_stmt q_record = {
    .name = "record",
    .params = "iiitttttt",
    .cols = "",
    .sqlite = "INSERT INTO dir_event (act, seq, at_ms, who, origin, what, subject, was, became)"
              " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (act, seq) DO UPDATE SET became = excluded.became"
              " WHERE dir_event.what = excluded.what AND dir_event.who = excluded.who"}; /* an act is told on by him who did it */
const struct sql_stmt q_list_events = {
    .name = "list_events",
    .params = "iiitti",
    .cols = "iiitttttt",
    .sqlite =
        "SELECT act, seq, at_ms, who, origin, what, subject, was, became FROM dir_event WHERE (at_ms, act, seq) > (?1, ?2, ?3)"
        " AND (?4 = '' OR who LIKE ?4 ESCAPE '\\') AND (?5 = '' OR what LIKE ?5 ESCAPE '\\' OR subject LIKE ?5 ESCAPE '\\')"
        " ORDER BY at_ms, act, seq LIMIT ?6",
    .pg = "SELECT act, seq, at_ms, who, origin, what, subject, was, became FROM dir_event WHERE (at_ms, act, seq) > ($1, $2, $3)"
          " AND ($4 = '' OR who ILIKE $4 ESCAPE '\\') AND ($5 = '' OR what ILIKE $5 ESCAPE '\\' OR subject ILIKE $5 ESCAPE '\\')"
          " ORDER BY at_ms, act, seq LIMIT $6"};
const struct sql_stmt q_prune_events = {.name = "prune_events",
                                        .params = "ii",
                                        .cols = "i",
                                        .sqlite = "DELETE FROM dir_event WHERE (act, seq) IN (SELECT act, seq FROM dir_event "
                                                  "WHERE at_ms < ?1 ORDER BY at_ms LIMIT ?2) RETURNING seq"};

/* --- what leads to an address: a LIKE pattern that lets no line pass unseen which names it, to be compared exactly afterwards
 * --- */
const struct sql_stmt q_aliases_to = {
    .name = "aliases_to",
    .params = "t",
    .cols = ALIAS_TYPES,
    .sqlite = "SELECT " ALIAS_COLS " FROM dir_alias WHERE targets LIKE ?1 ESCAPE '\\' ORDER BY key",
    .pg = "SELECT " ALIAS_COLS " FROM dir_alias WHERE targets ILIKE $1 ESCAPE '\\' ORDER BY key FOR UPDATE"};
const struct sql_stmt q_catch_alls_to = {
    .name = "catch_alls_to",
    .params = "t",
    .cols = DOMAIN_TYPES,
    .sqlite = "SELECT " DOMAIN_COLS " FROM dir_domain WHERE catch_all || char(10) LIKE ?1 ESCAPE '\\' ORDER BY name",
    .pg = "SELECT " DOMAIN_COLS " FROM dir_domain WHERE catch_all || chr(10) ILIKE $1 ESCAPE '\\' ORDER BY name FOR UPDATE"};
const struct sql_stmt q_list_aliases_to = {
    .name = "list_aliases_to",
    .params = "tit",
    .cols = ALIAS_TYPES,
    .sqlite = "SELECT " ALIAS_COLS " FROM dir_alias WHERE key > ?1 AND targets LIKE ?3 ESCAPE '\\' ORDER BY key LIMIT ?2",
    .pg = "SELECT " ALIAS_COLS " FROM dir_alias WHERE key > $1 AND targets ILIKE $3 ESCAPE '\\' ORDER BY key LIMIT $2"};
const struct sql_stmt q_list_catch_alls_to = {
    .name = "list_catch_alls_to",
    .params = "t",
    .cols = DOMAIN_TYPES,
    .sqlite = "SELECT " DOMAIN_COLS " FROM dir_domain WHERE catch_all || char(10) LIKE ?1 ESCAPE '\\' ORDER BY name LIMIT 1000",
    .pg = "SELECT " DOMAIN_COLS " FROM dir_domain WHERE catch_all || chr(10) ILIKE $1 ESCAPE '\\' ORDER BY name LIMIT 1000"};
const struct sql_stmt q_set_targets = {.name = "set_targets",
                                       .params = "tt",
                                       .cols = "",
                                       .is_rowset = true,
                                       .sqlite = "UPDATE dir_alias SET targets = ?2 WHERE key = ?1",
                                       .pg = "UPDATE dir_alias SET targets = v.targets FROM unnest($1::text[], $2::text[]) AS v "
                                             "(key, targets) WHERE dir_alias.key = v.key"};
const struct sql_stmt q_remove_aliases = {.name = "remove_aliases",
                                          .params = "t",
                                          .cols = "",
                                          .is_rowset = true,
                                          .sqlite = "DELETE FROM dir_alias WHERE key = ?1",
                                          .pg = "DELETE FROM dir_alias WHERE key = ANY($1::text[])"};
const struct sql_stmt q_set_catch_alls = {.name = "set_catch_alls",
                                          .params = "tt",
                                          .cols = "",
                                          .is_rowset = true,
                                          .sqlite = "UPDATE dir_domain SET catch_all = ?2 WHERE name = ?1",
                                          .pg = "UPDATE dir_domain SET catch_all = v.catch_all FROM unnest($1::text[], "
                                                "$2::text[]) AS v (name, catch_all) WHERE dir_domain.name = v.name"};

/* --- mutations --- */
const struct sql_stmt q_lock_account = {.name = "lock_account",
                                        .params = "t",
                                        .cols = ACCOUNT_TYPES,
                                        .sqlite = "SELECT " ACCOUNT_COLS " FROM dir_account WHERE key = ?1",
                                        .pg = "SELECT " ACCOUNT_COLS " FROM dir_account WHERE key = $1 FOR UPDATE"};
const struct sql_stmt q_rename_account = {
    .name = "rename_account",
    .params = "tttt",
    .cols = ACCOUNT_TYPES,
    .sqlite = "UPDATE dir_account SET key = ?2, domain = ?3, address = ?4 WHERE key = ?1 RETURNING " ACCOUNT_COLS};
const struct sql_stmt q_keep_domains = {
    .name = "keep_domains", .params = "t", .cols = DOMAIN_TYPES, .is_rowset = true,
    .sqlite = "SELECT " DOMAIN_COLS " FROM dir_domain WHERE name = ?1",
    .pg = "SELECT " DOMAIN_COLS " FROM dir_domain WHERE name = ANY($1::text[]) ORDER BY name FOR KEY SHARE"};
const struct sql_stmt q_lock_domain = {
    .name = "lock_domain", .params = "t", .cols = DOMAIN_TYPES,
    .sqlite = "SELECT " DOMAIN_COLS " FROM dir_domain WHERE name = ?1",
    .pg = "SELECT " DOMAIN_COLS " FROM dir_domain WHERE name = $1 FOR UPDATE"};
const struct sql_stmt q_tenant_by_name = {
    .name = "tenant_by_name", .params = "t", .cols = "it", .sqlite = "SELECT tenant_id, name FROM dir_tenant WHERE name = ?1"};
const struct sql_stmt q_tenant_by_id = {
    .name = "tenant_by_id", .params = "i", .cols = "i", .sqlite = "SELECT tenant_id FROM dir_tenant WHERE tenant_id = ?1"};
const struct sql_stmt q_add_tenant = {
    .name = "add_tenant", .params = "it", .cols = "", .sqlite = "INSERT INTO dir_tenant (tenant_id, name) VALUES (?1, ?2)"};
const struct sql_stmt q_add_domain = {
    .name = "add_domain", .params = "iittii", .cols = "",
    .sqlite = "INSERT INTO dir_domain (domain_id, tenant_id, name, catch_all, is_disabled, created_unix, made_by)"
              " VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6)"};
/* A NULL leaves its column as it is. */
const struct sql_stmt q_set_domain = {
    .name = "set_domain", .params = "tti", .cols = DOMAIN_TYPES,
    .sqlite = "UPDATE dir_domain SET catch_all = coalesce(?2, catch_all), is_disabled = coalesce(?3, is_disabled)"
              " WHERE name = ?1 RETURNING " DOMAIN_COLS,
    .pg = "UPDATE dir_domain SET catch_all = coalesce($2::text, catch_all), is_disabled = coalesce($3::bigint, is_disabled)"
          " WHERE name = $1 RETURNING " DOMAIN_COLS};
const struct sql_stmt q_domain_in_use = {
    .name = "domain_in_use", .params = "t", .cols = "i",
    .sqlite = "SELECT 1 WHERE EXISTS (SELECT 1 FROM dir_account WHERE domain = ?1) OR EXISTS (SELECT 1 FROM dir_alias WHERE domain = ?1)",
    .pg = "SELECT 1::bigint WHERE EXISTS (SELECT 1 FROM dir_account WHERE domain = $1)"
          " OR EXISTS (SELECT 1 FROM dir_alias WHERE domain = $1)"};
const struct sql_stmt q_remove_domain = {.name = "remove_domain",
                                         .params = "t",
                                         .cols = DOMAIN_TYPES,
                                         .sqlite = "DELETE FROM dir_domain WHERE name = ?1 RETURNING " DOMAIN_COLS};
/* Makes the row if need be, locks it, and says how many accounts are there. */
const struct sql_stmt q_lock_placement = {
    .name = "lock_placement", .params = "i", .cols = "i",
    .sqlite = "INSERT INTO dir_placement (shard, accounts) VALUES (?1, 0)"
              " ON CONFLICT (shard) DO UPDATE SET accounts = dir_placement.accounts RETURNING accounts"};
const struct sql_stmt q_add_placement = {
    .name = "add_placement", .params = "ii", .cols = "",
    .sqlite = "UPDATE dir_placement SET accounts = accounts + ?2 WHERE shard = ?1"};
const struct sql_stmt q_add_account = {
    .name = "add_account", .params = "iitttiiitiitii", .cols = "", .is_rowset = true,
    .sqlite = "INSERT INTO dir_account (account_id, tenant_id, domain, key, address, quota_bytes, quota_messages, shard,"
              " display_name, created_unix, is_admin, secret, incarnation, made_by, state, epoch, credential_version)"
              " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, 0, 1, 1)",
    .pg = "INSERT INTO dir_account (account_id, tenant_id, domain, key, address, quota_bytes, quota_messages, shard,"
          " display_name, created_unix, is_admin, secret, incarnation, made_by, state, epoch, credential_version)"
          " SELECT *, 0, 1, 1 FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[],"
          " $7::bigint[], $8::bigint[], $9::text[], $10::bigint[], $11::bigint[], $12::text[], $13::bigint[], $14::bigint[])"};
const struct sql_stmt q_set_account = {
    .name = "set_account", .params = "tiiititi", .cols = ACCOUNT_TYPES,
    .sqlite = "UPDATE dir_account SET state = coalesce(?2, state), quota_bytes = coalesce(?3, quota_bytes),"
              " quota_messages = coalesce(?4, quota_messages), display_name = coalesce(?5, display_name),"
              " is_admin = coalesce(?6, is_admin), secret = coalesce(?7, secret),"
              " credential_version = credential_version + ?8 WHERE key = ?1 RETURNING " ACCOUNT_COLS,
    .pg = "UPDATE dir_account SET state = coalesce($2::bigint, state), quota_bytes = coalesce($3::bigint, quota_bytes),"
          " quota_messages = coalesce($4::bigint, quota_messages), display_name = coalesce($5::text, display_name),"
          " is_admin = coalesce($6::bigint, is_admin), secret = coalesce($7::text, secret),"
          " credential_version = credential_version + $8 WHERE key = $1 RETURNING " ACCOUNT_COLS};
/* At a login: only when it is still the one that was verified. */
const struct sql_stmt q_replace_secret = {
    .name = "replace_secret", .params = "itt", .cols = "",
    .sqlite = "UPDATE dir_account SET secret = ?3 WHERE account_id = ?1 AND secret = ?2"};
const struct sql_stmt q_remove_account = {
    .name = "remove_account", .params = "t", .cols = ACCOUNT_TYPES,
    .sqlite = "DELETE FROM dir_account WHERE key = ?1 RETURNING " ACCOUNT_COLS};
const struct sql_stmt q_set_alias = {
    .name = "set_alias", .params = "tttt", .cols = "",
    .sqlite = "INSERT INTO dir_alias (key, domain, address, targets) VALUES (?1, ?2, ?3, ?4)"
              " ON CONFLICT (key) DO UPDATE SET address = excluded.address, targets = excluded.targets"};
const struct sql_stmt q_remove_alias = {.name = "remove_alias",
                                        .params = "t",
                                        .cols = ALIAS_TYPES,
                                        .sqlite = "DELETE FROM dir_alias WHERE key = ?1 RETURNING " ALIAS_COLS};
// clang-format on
