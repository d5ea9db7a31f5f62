/*
 * schema.h: the directory's tables and the statements over them, for both dialects.
 */
#ifndef AUTH_SERVICE_SCHEMA_H
#define AUTH_SERVICE_SCHEMA_H

#include "data/sql.h"

extern const struct sql_migration auth_migrations[];
extern const size_t auth_n_migrations;

/* Columns of an account row in the order of every ACCOUNT_COLS statement. */
// clang-format off
enum account_col {
    ACCOUNT_ID, ACCOUNT_TENANT, ACCOUNT_KEY, ACCOUNT_ADDRESS, ACCOUNT_STATE, ACCOUNT_QUOTA_BYTES, ACCOUNT_QUOTA_MESSAGES,
    ACCOUNT_SHARD, ACCOUNT_EPOCH, ACCOUNT_NAME, ACCOUNT_CREATED, ACCOUNT_IS_ADMIN, ACCOUNT_SECRET, ACCOUNT_CREDENTIAL_VERSION,
    ACCOUNT_INCARNATION, ACCOUNT_MADE_BY
};
// clang-format on
enum domain_col {
    DOMAIN_ID,
    DOMAIN_TENANT,
    DOMAIN_NAME,
    DOMAIN_CATCH_ALL,
    DOMAIN_DISABLED,
    DOMAIN_CREATED,
    DOMAIN_MADE_BY
};
enum alias_col { ALIAS_KEY, ALIAS_ADDRESS, ALIAS_TARGETS };

/* Look-ups. The rowset ones take many keys; their results come in any order. */
extern const struct sql_stmt q_accounts_by_key, q_aliases_by_key, q_domains_by_name, q_accounts_by_id, q_admin_of;
/* Pages: (after, limit, domain or empty, LIKE pattern). */
extern const struct sql_stmt q_list_accounts, q_list_aliases, q_list_domains, q_list_tenants;
/* Mutations. Domains are locked first, and what is said of them and of what is in them is read behind that:
 * q_keep_domains (rows of domains in any order) holds against removal, q_lock_domain against everything that puts
 * something into it. */
extern const struct sql_stmt q_keep_domains, q_lock_domain, q_lock_account;
extern const struct sql_stmt q_tenant_by_name, q_tenant_by_id, q_add_tenant, q_add_domain, q_set_domain,
    q_remove_domain, q_domain_in_use, q_lock_placement, q_add_placement, q_add_account, q_set_account, q_replace_secret,
    q_remove_account, q_rename_account, q_set_alias, q_remove_alias;
/* What leads to an address (leads.c). */
extern const struct sql_stmt q_aliases_to, q_catch_alls_to, q_list_aliases_to, q_list_catch_alls_to, q_set_targets,
    q_remove_aliases, q_set_catch_alls;
/* The record of administration (event.c): (act, seq, at, who, origin, what, subject, was, became). */
enum event_col {
    EVENT_ACT,
    EVENT_SEQ,
    EVENT_AT,
    EVENT_WHO,
    EVENT_ORIGIN,
    EVENT_WHAT,
    EVENT_SUBJECT,
    EVENT_WAS,
    EVENT_BECAME,
    EVENT_COLS_
};
extern const struct sql_stmt q_add_events, q_record, q_list_events, q_prune_events;

#endif
