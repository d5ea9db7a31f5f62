/* The methods of auth.proto: check the caller's rights and the request's sizes, call the function, answer. */
#include "auth-service/internal.h"

#include "auth-service/schema.h"
#include "base/clock.h"
#include "base/log.h"
#include "proto/auth_calls.h"

#define MISTAKES_BYTES ((size_t)20 << 20) /* about 100,000 */
#define VERIFIED_BYTES ((size_t)20 << 20)
/* of the directory cache, beside it, for what is not there: strangers make up as much as they like */
#define ABSENT_SHARE 4u
#define SHARDS_MAX 1000u

static struct auth *auth_of(Thurn__Auth_Service *s)
{
    struct auth *auth = CONTAINER_OF(s, struct auth, service);
    CHECK(auth, AUTH_MAGIC);
    return auth;
}

/*
 * METHOD(auth.proto's name, its request and reply, expression): the expression sees auth, q, a (the call's arena), out
 * and err, and is false on failure.
 */
#define METHOD(name, Request, Reply, reply_init, expression)                                                           \
    FIBER static void m_##name(Thurn__Auth_Service *service, const Thurn__##Request *q,                                \
                               Thurn__##Reply##_Closure closure, void *closure_data)                                   \
    {                                                                                                                  \
        struct auth *auth = auth_of(service);                                                                          \
        struct rpc_call *c = closure_data;                                                                             \
        struct arena *a = c->arena;                                                                                    \
        struct err *err = &c->err;                                                                                     \
        Thurn__##Reply reply = reply_init, *out = &reply;                                                              \
        (void)auth, (void)q, (void)a, (void)err, (void)out; /* not every expression needs all */                       \
        bool ok = rpc_may_call(c, auth_callers_##name, 0, 0, 0, err) && (expression);                                  \
        closure(ok ? out : NULL, closure_data);                                                                        \
    }

/* --- for the roles --- */

FIBER static bool resolve_all(struct auth *auth, const Thurn__ResolveRequest *q, struct arena *a,
                              Thurn__ResolveReply *out, struct err *err)
{
    out->resolutions = arena_array(a, Thurn__Resolution *, MAX(q->n_addresses, 1));
    if (!resolve(auth, q->addresses, q->n_addresses, a, out->resolutions, err))
        return false;
    out->n_resolutions = q->n_addresses;
    return true;
}

/* An account may use every address whose mail reaches it, unless it may not send at all. */
FIBER static bool may_send_as(struct auth *auth, const Thurn__MaySendAsRequest *q, struct arena *a,
                              Thurn__MaySendAsReply *out, struct err *err)
{
    Thurn__LocateRequest locate = THURN__LOCATE_REQUEST__INIT;
    Thurn__LocateReply located = THURN__LOCATE_REPLY__INIT;
    Thurn__Resolution *resolution;
    int64_t id = q->account_id;
    locate.account_ids = &id;
    locate.n_account_ids = 1;
    char *address = q->address;
    if (!resolve(auth, &address, 1, a, &resolution, err))
        return false;
    for (size_t i = 0; i < resolution->n_targets; i++) {
        const Thurn__AccountRef *ref = resolution->targets[i]->account;
        out->is_allowed |= ref && ref->account_id == id;
    }
    if (!account_locate(auth, &locate, a, &located, err))
        return false;
    if (located.n_accounts == 0)
        return err_set(err, ERR_NOT_FOUND, "no account %lld", (long long)id);
    out->is_allowed &= located.accounts[0]->state == THURN__ACCOUNT_STATE__ACCOUNT_ACTIVE;
    return true;
}

FIBER static bool take(struct auth *auth, const Thurn__TakeRequest *q, struct arena *a, Thurn__TakeReply *out,
                       struct err *err)
{
    struct limits_take takes[LIMITS_TAKES_MAX];
    struct limit_verdict v;
    if (q->n_takes > LIMITS_TAKES_MAX)
        return err_set(err, ERR_LIMIT, "more than %u limits in one request", LIMITS_TAKES_MAX);
    for (size_t i = 0; i < q->n_takes; i++)
        takes[i] = (struct limits_take){q->takes[i]->limit, str_c(q->takes[i]->key), q->takes[i]->cost};
    if (!limits_take(auth->limits, takes, q->n_takes, &v, err))
        return false;
    out->is_granted = v.is_granted;
    if (!v.is_granted)
        out->refused_by = arena_strz(a, str_c(takes[v.refused].limit));
    out->retry_after_ms = v.retry_after_ms;
    return true;
}

FIBER static bool lease(struct auth *auth, const Thurn__LeaseRequest *q, struct arena *a, Thurn__LeaseReply *out,
                        struct err *err)
{
    if (q->n_items > AUTH_BATCH_MAX)
        return err_set(err, ERR_LIMIT, "more than %u items in one request", AUTH_BATCH_MAX);
    struct limits_lease *items = arena_array(a, struct limits_lease, q->n_items);
    for (size_t i = 0; i < q->n_items; i++)
        items[i] = (struct limits_lease){q->items[i]->limit, str_c(q->items[i]->key), q->items[i]->count};
    out->n_granted = q->n_items;
    out->granted = arena_array(a, protobuf_c_boolean, q->n_items);
    return limits_lease(auth->limits, str_c(q->holder), items, q->n_items, q->is_renewal, a, out->granted, err);
}

METHOD(authenticate, AuthenticateRequest, AuthenticateReply, THURN__AUTHENTICATE_REPLY__INIT,
       login(auth, q, a, out, err))
METHOD(resolve, ResolveRequest, ResolveReply, THURN__RESOLVE_REPLY__INIT, resolve_all(auth, q, a, out, err))
METHOD(locate, LocateRequest, LocateReply, THURN__LOCATE_REPLY__INIT, account_locate(auth, q, a, out, err))
METHOD(credentials, CredentialsRequest, CredentialsReply, THURN__CREDENTIALS_REPLY__INIT,
       account_credentials(auth, q, a, out, err))
METHOD(news, NewsRequest, NewsReply, THURN__NEWS_REPLY__INIT, news_wait(&auth->news, q, a, out, err))
METHOD(may_send_as, MaySendAsRequest, MaySendAsReply, THURN__MAY_SEND_AS_REPLY__INIT, may_send_as(auth, q, a, out, err))
METHOD(take, TakeRequest, TakeReply, THURN__TAKE_REPLY__INIT, take(auth, q, a, out, err))
METHOD(lease, LeaseRequest, LeaseReply, THURN__LEASE_REPLY__INIT, lease(auth, q, a, out, err))

FIBER static bool release(struct auth *auth, const Thurn__HolderRequest *q, struct err *err)
{
    return limits_release(auth->limits, str_c(q->holder), err);
}

/* It is long and random: guessing is no way, so wrong ones are not counted. */
static bool log_in_admin(struct auth *auth, str token, struct arena *a, Thurn__AdminReply *out, struct err *err)
{
    struct rpc_pass pass;
    if (!auth->admin_token || !str_eq_secret(token, str_c(auth->admin_token)))
        return err_set(err, ERR_DENIED, "this needs the admin token of the auth service");
    rpc_pass_make(&(struct rpc_principal){.is_admin = true}, &pass);
    out->pass = rpc_bytes(arena_str(a, rpc_pass_str(&pass)));
    return true;
}

METHOD(release, HolderRequest, Empty, THURN__EMPTY__INIT, release(auth, q, err))
METHOD(authenticate_admin, AdminRequest, AdminReply, THURN__ADMIN_REPLY__INIT,
       log_in_admin(auth, rpc_str(q->token), a, out, err))

/* --- for administration --- */

METHOD(add_tenant, AddTenantRequest, Tenant, THURN__TENANT__INIT, admin_add_tenant(auth, q, a, out, err))
METHOD(list_tenants, ListRequest, ListTenantsReply, THURN__LIST_TENANTS_REPLY__INIT,
       admin_list_tenants(auth, q, a, out, err))
METHOD(add_domain, AddDomainRequest, Domain, THURN__DOMAIN__INIT, admin_add_domain(auth, q, a, out, err))
METHOD(set_domain, SetDomainRequest, Domain, THURN__DOMAIN__INIT, admin_set_domain(auth, q, a, out, err))
METHOD(get_domain, NameRequest, Domain, THURN__DOMAIN__INIT, admin_get_domain(auth, str_c(q->name), a, out, err))
METHOD(remove_domain, NameRequest, Empty, THURN__EMPTY__INIT, admin_remove_domain(auth, q, a, err))
METHOD(list_domains, ListRequest, ListDomainsReply, THURN__LIST_DOMAINS_REPLY__INIT,
       admin_list_domains(auth, q, a, out, err))
METHOD(add_accounts, AddAccountsRequest, AddAccountsReply, THURN__ADD_ACCOUNTS_REPLY__INIT,
       account_add(auth, q, a, out, err))
METHOD(set_account, SetAccountRequest, AccountReply, THURN__ACCOUNT_REPLY__INIT, account_set(auth, q, a, out, err))
METHOD(get_account, NameRequest, AccountReply, THURN__ACCOUNT_REPLY__INIT,
       account_get(auth, str_c(q->name), a, out, err))
METHOD(remove_account, RemoveAccountRequest, AccountReply, THURN__ACCOUNT_REPLY__INIT,
       account_remove(auth, q, a, out, err))
METHOD(rename_account, RenameAccountRequest, AccountReply, THURN__ACCOUNT_REPLY__INIT,
       account_rename(auth, q, a, out, err))
METHOD(list_accounts, ListRequest, ListAccountsReply, THURN__LIST_ACCOUNTS_REPLY__INIT,
       account_list(auth, q, a, out, err))
METHOD(set_alias, Alias, Alias, THURN__ALIAS__INIT, admin_set_alias(auth, q, a, out, err))
METHOD(remove_alias, NameRequest, Empty, THURN__EMPTY__INIT, admin_remove_alias(auth, q, a, err))
METHOD(list_aliases, ListRequest, ListAliasesReply, THURN__LIST_ALIASES_REPLY__INIT,
       admin_list_aliases(auth, q, a, out, err))
METHOD(record, RecordRequest, Empty, THURN__EMPTY__INIT, event_record(auth, q, err))
METHOD(list_events, ListEventsRequest, ListEventsReply, THURN__LIST_EVENTS_REPLY__INIT,
       event_list(auth, q, a, out, err))

static const Thurn__Auth_Service methods = {
    .base = {.descriptor = &thurn__auth__descriptor, .invoke = protobuf_c_service_invoke_internal},
    .authenticate = m_authenticate,
    .resolve = m_resolve,
    .locate = m_locate,
    .may_send_as = m_may_send_as,
    .take = m_take,
    .lease = m_lease,
    .add_tenant = m_add_tenant,
    .list_tenants = m_list_tenants,
    .add_domain = m_add_domain,
    .set_domain = m_set_domain,
    .get_domain = m_get_domain,
    .remove_domain = m_remove_domain,
    .list_domains = m_list_domains,
    .add_accounts = m_add_accounts,
    .set_account = m_set_account,
    .get_account = m_get_account,
    .remove_account = m_remove_account,
    .list_accounts = m_list_accounts,
    .set_alias = m_set_alias,
    .remove_alias = m_remove_alias,
    .list_aliases = m_list_aliases,
    .credentials = m_credentials,
    .news = m_news,
    .rename_account = m_rename_account,
    .record = m_record,
    .list_events = m_list_events,
    .authenticate_admin = m_authenticate_admin,
    .release = m_release,
};

/* --- life --- */

static void default_to(unsigned *value, unsigned fallback)
{
    if (*value == 0)
        *value = fallback;
}

static void set_defaults(struct auth_opts *o)
{
    default_to(&o->n_shards, 1);
    if (!o->cache_bytes)
        o->cache_bytes = (size_t)64 << 20;
    default_to(&o->cache_ttl_s, 30);
    default_to(&o->cache_negative_ttl_s, 10);
    default_to(&o->cache_stale_s, 3600);
    default_to(&o->verified_ttl_s, 600);
    default_to(&o->lease_ttl_ms, 60000);
    default_to(&o->argon2_memory_kib, 19456);
    default_to(&o->argon2_passes, 2);
    default_to(&o->penalty_first_ms, 2000);
    default_to(&o->penalty_max_ms, 15000);
    default_to(&o->events_keep_s, 365 * 86400);
}

struct auth *auth_new(const struct auth_opts *opts, struct err *err)
{
    if (opts->n_shards > SHARDS_MAX) {
        err_set(err, ERR_INVALID, "more than %u shards", SHARDS_MAX);
        return NULL;
    }
    struct auth *auth = xnew(struct auth);
    auth->magic = AUTH_MAGIC;
    auth->opts = *opts;
    set_defaults(&auth->opts);
    auth->default_domain = opts->default_domain.n ? str_dup(opts->default_domain) : NULL;
    auth->admin_token = opts->admin_token.n ? str_dup(opts->admin_token) : NULL;
    auth->weights = xcalloc(auth->opts.n_shards, sizeof(*auth->weights));
    for (unsigned i = 0; i < auth->opts.n_shards; i++)
        auth->weights[i] = opts->shard_weights ? opts->shard_weights[i] : 1;
    cache_init(&auth->records, auth->opts.cache_bytes, record_free);
    cache_init(&auth->absent, auth->opts.cache_bytes / ABSENT_SHARE, record_free);
    cache_init(&auth->verified, VERIFIED_BYTES, xfree);
    cache_init(&auth->mistakes, MISTAKES_BYTES, xfree);
    map_init(&auth->undecided[0]);
    map_init(&auth->undecided[1]);
    news_init(&auth->news);
    auth->limits = limits_new(opts->redis, opts->limits, opts->n_limits, auth->opts.lease_ttl_ms);
    random_bytes(auth->mac_key, sizeof(auth->mac_key));
    auth->service = methods;
    directory_listen(auth);
    return auth;
}

ProtobufCService *auth_service(struct auth *auth)
{
    CHECK(auth, AUTH_MAGIC);
    return &auth->service.base;
}

bool auth_migrate(struct sql_db *directory, bool dry_run, unsigned *applied, struct err *err)
{
    return sql_migrate(directory, "auth", auth_migrations, auth_n_migrations, dry_run, applied, err);
}

void auth_free(struct auth *auth)
{
    if (!auth)
        return;
    CHECK(auth, AUTH_MAGIC);
    if (auth->opts.redis)
        redis_on_message(auth->opts.redis, NULL, NULL, auth);
    limits_free(auth->limits);
    cache_done(&auth->records);
    cache_done(&auth->absent);
    map_done(&auth->undecided[0]);
    map_done(&auth->undecided[1]);
    cache_done(&auth->verified);
    cache_done(&auth->mistakes);
    free(auth->default_domain);
    if (auth->admin_token)
        explicit_bzero(auth->admin_token, strlen(auth->admin_token));
    free(auth->admin_token);
    free(auth->weights);
    free(auth->dummy_secret);
    explicit_bzero(auth->mac_key, sizeof(auth->mac_key));
    auth->magic = 0;
    free(auth);
}
