/*
 * internal.h: what the files of the auth service share: the object itself, and what a directory row is in memory.
 */
#ifndef AUTH_SERVICE_INTERNAL_H
#define AUTH_SERVICE_INTERNAL_H

#include "auth-service/auth.h"
#include "auth-service/cache.h"
#include "auth-service/limits.h"
#include "auth-service/name.h"
#include "auth-service/secret.h"
#include "base/buf.h"
#include "base/clock.h"
#include "proto/auth.pb-c.h"
#include "rpc/call.h"

#define AUTH_MAGIC 0x41555448u
#define AUTH_ALIAS_TARGETS_MAX 1000u
#define AUTH_BATCH_MAX 1000u /* addresses, ids or accounts in one request */

/* An id that nobody had before and nobody will have again: 47 bits, so that it is exact in JSON. */
static inline int64_t new_id(void)
{
    return (int64_t)random_below((UINT64_C(1) << 47) - 1) + 1;
}
/* A write that draws ids meets one that is there once in a billion times, and one of the same name when two add it at
 * once: EXISTS, upon which it is run again and draws another, or finds what is there. So is one whose outcome is
 * unknown, when it has a key (request_id, or the name itself) by which it finds what it made. */
FIBER bool write_drawing(struct auth *auth, sql_body body, void *arg, bool has_key, struct err *err) WARN_UNUSED;

/* One row of account, in an arena. */
struct account {
    int64_t account_id, tenant_id;
    str key, address, display_name, secret;
    Thurn__AccountState state;
    uint64_t quota_bytes, quota_messages;
    uint32_t shard, epoch;
    int64_t created_unix, credential_version;
    int64_t made_by;     /* the request id of AddAccounts; 0 = none */
    int64_t incarnation; /* which account of this number: see AccountRef */
    bool is_admin;
};
struct domain {
    int64_t domain_id, tenant_id;
    str name, catch_all;
    bool is_disabled;
    int64_t created_unix;
};
/*
 * What changed in the directory of late, for those who wait for it (Auth.News): numbers grow by one with each change,
 * from a number at random, so that those of another process are not taken for ours.
 */
#define NEWS_KEPT 4096u
struct news {
    uint64_t last;           /* number of the newest */
    uint64_t first;          /* of the oldest that is kept, in kept[number % NEWS_KEPT] */
    int64_t kept[NEWS_KEPT]; /* the account; 0 = something else */
    unsigned n_waiting;
    struct fiber_cond more;
};
/* What the directory says about a key. */
enum record_kind { RECORD_NONE, RECORD_ACCOUNT, RECORD_ALIAS, RECORD_DOMAIN };
struct record {
    enum record_kind kind;
    struct account account;
    struct domain domain;
    str address;  /* of an alias */
    str *targets; /* of an alias */
    size_t n_targets;
};

struct auth {
    uint32_t magic;
    struct auth_opts opts;
    char *default_domain, *admin_token; /* may be NULL */
    unsigned *weights;                  /* of n_shards */
    struct cache records;               /* key, domain name or "!admin:<tenant>" -> struct cached (directory.c) */
    struct cache absent;                /* the same, of those that nobody has: they never push out what is there */
    struct cache verified;              /* MAC of account, version and password -> expiry */
    struct cache mistakes;              /* MAC of a wrong password, not to be counted again -> expiry */
    struct limits *limits;
    unsigned char mac_key[32];
    unsigned n_delayed;      /* log-ins that wait out a penalty, or for other attempts */
    struct map undecided[2]; /* by address, by account: attempts under way (login.c) */
    char *dummy_secret;      /* what an unknown account's password is compared with; made at the first need */
    struct news news;
    /* of the cache: grows with every drop, so that a look-up under way does not bring back old rows */
    uint64_t generation;
    int64_t looks_second; /* in which n_looks counts: cached "there is nobody" answers that were asked again */
    unsigned n_looks;
    Thurn__Auth_Service service;
};

/* --- directory.c: look-ups through the cache --- */
/*
 * The records of n keys (or domain names when is_domain), each a pointer into `a`; kind RECORD_NONE where there is
 * none. One round trip for all that are not cached. UNAVAILABLE when the database is away and something is not cached.
 */
FIBER bool directory_get(struct auth *auth, const str *keys, size_t n, bool is_domain, struct arena *a,
                         const struct record **out, struct err *err) WARN_UNUSED;
/* Past the cache; refreshes it. */
FIBER bool directory_get_fresh(struct auth *auth, str key, struct arena *a, const struct record **out, struct err *err)
    WARN_UNUSED;
/* The admin account that gets postmaster's mail of this tenant; RECORD_NONE when there is no admin. */
FIBER bool directory_admin(struct auth *auth, int64_t tenant_id, struct arena *a, const struct record **out,
                           struct err *err) WARN_UNUSED;
/* A row changed: drop it here and tell the other processes. account_id: the account that was there before, 0 = none. */
void directory_changed(struct auth *auth, str key, int64_t account_id);
void directory_listen(struct auth *auth);
void account_of_row(const struct sql_result *r, size_t row, struct account *out); /* views of the result */
void domain_of_row(const struct sql_result *r, size_t row, struct domain *out);
void record_free(void *cached);
Thurn__AccountRef *account_ref(const struct account *acc, struct arena *a);
Thurn__Account *account_message(const struct account *acc, struct arena *a);
Thurn__Domain *domain_message(const struct domain *d, struct arena *a);

/* --- news.c --- */
void news_init(struct news *c);
void news_note(struct news *c, int64_t account_id);
void news_lose(struct news *c); /* some may have been missed */
FIBER bool news_wait(struct news *c, const Thurn__NewsRequest *q, struct arena *a, Thurn__NewsReply *out,
                     struct err *err) WARN_UNUSED;

/* --- resolve.c, login.c --- */
FIBER bool resolve(struct auth *auth, char *const *addresses, size_t n, struct arena *a, Thurn__Resolution **out,
                   struct err *err) WARN_UNUSED;
/* The same as if the directory held rec under key (an alias' key, a domain's name). *has_loop: on the way of one of the
 * addresses is a circle, or more than 16 aliases, even when it leads to somebody too. */
FIBER bool resolve_as_if(struct auth *auth, str key, const struct record *rec, char *const *addresses, size_t n,
                         struct arena *a, Thurn__Resolution **out, bool *has_loop, struct err *err) WARN_UNUSED;
FIBER bool login(struct auth *auth, const Thurn__AuthenticateRequest *q, struct arena *a, Thurn__AuthenticateReply *out,
                 struct err *err) WARN_UNUSED;

/* --- admin.c: each answers by filling *out, in the arena --- */
FIBER bool admin_add_tenant(struct auth *auth, const Thurn__AddTenantRequest *q, struct arena *a, Thurn__Tenant *out,
                            struct err *err);
FIBER bool admin_list_tenants(struct auth *auth, const Thurn__ListRequest *q, struct arena *a,
                              Thurn__ListTenantsReply *out, struct err *err);
FIBER bool admin_add_domain(struct auth *auth, const Thurn__AddDomainRequest *q, struct arena *a, Thurn__Domain *out,
                            struct err *err);
FIBER bool admin_set_domain(struct auth *auth, const Thurn__SetDomainRequest *q, struct arena *a, Thurn__Domain *out,
                            struct err *err);
FIBER bool admin_get_domain(struct auth *auth, str name, struct arena *a, Thurn__Domain *out, struct err *err);
FIBER bool admin_remove_domain(struct auth *auth, const Thurn__NameRequest *q, struct arena *a, struct err *err);
FIBER bool admin_list_domains(struct auth *auth, const Thurn__ListRequest *q, struct arena *a,
                              Thurn__ListDomainsReply *out, struct err *err);
FIBER bool admin_set_alias(struct auth *auth, const Thurn__Alias *q, struct arena *a, Thurn__Alias *out,
                           struct err *err);
FIBER bool admin_remove_alias(struct auth *auth, const Thurn__NameRequest *q, struct arena *a, struct err *err);
FIBER bool admin_list_aliases(struct auth *auth, const Thurn__ListRequest *q, struct arena *a,
                              Thurn__ListAliasesReply *out, struct err *err);

/* --- targets.c: where an alias or a catch-all would lead, before it is written --- */
/* INVALID for a circle. *out gets a sentence for each target here that nobody has; TARGETS_WARNINGS_MAX at most. */
#define TARGETS_WARNINGS_MAX 20u
FIBER bool targets_of_alias(struct auth *auth, const struct name *alias, char **targets, size_t n, struct arena *a,
                            char ***out, size_t *n_out, struct err *err) WARN_UNUSED;
FIBER bool targets_of_catch_all(struct auth *auth, const struct domain *d, struct arena *a, char ***out, size_t *n_out,
                                struct err *err) WARN_UNUSED;

/* --- account.c --- */
FIBER bool account_add(struct auth *auth, const Thurn__AddAccountsRequest *q, struct arena *a,
                       Thurn__AddAccountsReply *out, struct err *err);
FIBER bool account_set(struct auth *auth, const Thurn__SetAccountRequest *q, struct arena *a, Thurn__AccountReply *out,
                       struct err *err);
FIBER bool account_get(struct auth *auth, str address, struct arena *a, Thurn__AccountReply *out, struct err *err);
FIBER bool account_remove(struct auth *auth, const Thurn__RemoveAccountRequest *q, struct arena *a,
                          Thurn__AccountReply *out, struct err *err);
FIBER bool account_rename(struct auth *auth, const Thurn__RenameAccountRequest *q, struct arena *a,
                          Thurn__AccountReply *out, struct err *err);
FIBER bool account_list(struct auth *auth, const Thurn__ListRequest *q, struct arena *a, Thurn__ListAccountsReply *out,
                        struct err *err);
FIBER bool account_locate(struct auth *auth, const Thurn__LocateRequest *q, struct arena *a, Thurn__LocateReply *out,
                          struct err *err);
FIBER bool account_credentials(struct auth *auth, const Thurn__CredentialsRequest *q, struct arena *a,
                               Thurn__CredentialsReply *out, struct err *err);
/* Hash on the work pool. out is SECRET_HASH_MAX bytes. */
FIBER bool secret_make_on_pool(struct auth *auth, str password, char *out, struct err *err) WARN_UNUSED;

/* --- event.c: the record of administration (event.h) --- */
FIBER bool event_record(struct auth *auth, const Thurn__RecordRequest *q, struct err *err) WARN_UNUSED;
FIBER bool event_list(struct auth *auth, const Thurn__ListEventsRequest *q, struct arena *a,
                      Thurn__ListEventsReply *out, struct err *err) WARN_UNUSED;

/* --- leads.c: the aliases and catch-alls that name an address --- */
struct lead {
    bool is_catch_all;
    str key;       /* of the alias; the domain's name */
    str shown;     /* the alias' address; "@domain" */
    str targets;   /* as stored, one a line; of a catch-all the one */
    size_t n_left; /* targets */
};
/*
 * Within a transaction: those that name `to`, locked, with their targets as they are to be: `to` replaced by `instead`,
 * or taken out when that is NULL. leads_write writes them; an alias that is left without targets goes. Views live as
 * long as the transaction's arena.
 */
FIBER bool leads_find(struct sql_tx *tx, const struct name *to, const struct name *instead, struct lead **out,
                      size_t *n, struct err *err) WARN_UNUSED;
FIBER bool leads_write(struct sql_tx *tx, const struct lead *leads, size_t n, struct err *err) WARN_UNUSED;
/* Their caches, after the commit. */
void leads_changed(struct auth *auth, const struct lead *leads, size_t n);
/* A page of ListAliases with a target: catch-alls first, on the first page. */
FIBER bool leads_list(struct auth *auth, const Thurn__ListRequest *q, struct arena *a, Thurn__ListAliasesReply *out,
                      struct err *err) WARN_UNUSED;
/* One row of an alias. */
Thurn__Alias *alias_message(const struct sql_result *r, size_t row, struct arena *a);

/* LIKE takes two signs for wildcards: text as itself, in small letters (ESCAPE is a backslash), and a substring search.
 */
void like_add(struct buf *b, str literal);
str like_pattern(const char *match, struct arena *a); /* of at most NAME_KEY_MAX bytes */

/* One read-only statement's page arguments: (after, limit, domain, LIKE pattern). */
FIBER bool directory_page(struct auth *auth, const struct sql_stmt *st, const Thurn__ListRequest *q, struct arena *a,
                          struct sql_result *out, size_t *limit, struct err *err) WARN_UNUSED;

#endif
