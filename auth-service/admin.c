/* Administration of tenants, domains and aliases. */
#include "auth-service/event.h"
#include "auth-service/schema.h"

#define TENANT_NAME_MAX 128u

/* --- tenants --- */

struct add_tenant {
    str name;
    const Thurn__Author *by;
    int64_t id;
};
FIBER static bool tenant_event(struct sql_tx *tx, const struct add_tenant *t, struct err *err)
{
    FACTS(after);
    facts_int(&after, "tenant_id", t->id);
    struct event e = {.what = S("tenant.add"), .subject = t->name, .after = facts_end(&after, sql_arena(tx))};
    return event_add(tx, t->by, &e, 1, err);
}
FIBER static bool add_tenant_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct add_tenant *t = arg;
    struct sql_value name = sql_s(t->name);
    struct sql_result r;
    if (!sql_exec(tx, &q_tenant_by_name, &name, 1, &r, err))
        return false;
    if (r.n_rows) { /* adding what exists succeeds */
        t->id = sql_at(&r, 0, 0)->i;
        return true;
    }
    t->id = new_id();
    struct sql_value params[2] = {sql_i(t->id), name};
    return sql_exec(tx, &q_add_tenant, params, 1, NULL, err) && tenant_event(tx, t, err);
}

bool admin_add_tenant(struct auth *auth, const Thurn__AddTenantRequest *q, struct arena *a, Thurn__Tenant *out,
                      struct err *err)
{
    struct add_tenant t = {.name = str_trim(str_c(q->name)), .by = q->by};
    if (t.name.n == 0 || t.name.n > TENANT_NAME_MAX || !utf8_valid(t.name.p, t.name.n))
        return err_set(err, ERR_INVALID, "a tenant's name has 1 to %u bytes of UTF-8", TENANT_NAME_MAX);
    if (!write_drawing(auth, add_tenant_body, &t, true, err))
        return false;
    out->tenant_id = t.id;
    out->name = arena_strz(a, t.name);
    return true;
}

bool admin_list_tenants(struct auth *auth, const Thurn__ListRequest *q, struct arena *a, Thurn__ListTenantsReply *out,
                        struct err *err)
{
    struct sql_result r;
    size_t limit;
    Thurn__ListRequest page = *q;
    if (page.limit == 0)
        page.limit = AUTH_BATCH_MAX;
    if (!directory_page(auth, &q_list_tenants, &page, a, &r, &limit, err))
        return false;
    out->tenants = arena_array(a, Thurn__Tenant *, r.n_rows);
    for (size_t i = 0; i < r.n_rows; i++) {
        Thurn__Tenant *t = out->tenants[out->n_tenants++] = arena_new(a, Thurn__Tenant);
        thurn__tenant__init(t);
        t->tenant_id = sql_at(&r, i, 0)->i;
        t->name = arena_strz(a, sql_at(&r, i, 1)->s);
    }
    if (r.n_rows == limit)
        out->next = out->tenants[r.n_rows - 1]->name;
    return true;
}

/* --- domains --- */

/* An address for a catch-all, in its shown form; empty stays empty. */
static bool catch_all_address(const char *given, struct arena *a, str *out, struct err *err)
{
    struct name name;
    if (!given[0]) {
        *out = S("");
        return true;
    }
    if (!name_parse(str_c(given), a, &name, err))
        return err_prefix(err, "catch-all address");
    *out = name.address;
    return true;
}

/* What changed from one to the other, or the whole of the one that is there (the other is NULL). */
FIBER static bool domain_event(struct sql_tx *tx, const Thurn__Author *by, str what, const struct domain *was,
                               const struct domain *now, struct err *err)
{
    const struct domain *d = now ? now : was;
    struct event e = {.what = what, .subject = d->name};
    FACTS(before);
    FACTS(after);
    for (int i = 0; i < 2; i++) {
        struct facts *f = i ? &after : &before;
        const struct domain *one = i ? now : was, *other = i ? was : now;
        if (!one)
            continue;
        if (!other)
            facts_int(f, "domain_id", one->domain_id), facts_int(f, "tenant_id", one->tenant_id);
        if (other ? !str_eq(one->catch_all, other->catch_all) : one->catch_all.n > 0)
            facts_str(f, "catch_all", one->catch_all);
        if (other ? one->is_disabled != other->is_disabled : one->is_disabled)
            facts_bool(f, "is_disabled", one->is_disabled);
        *(i ? &e.after : &e.before) = facts_end(f, sql_arena(tx));
    }
    return str_eq(e.before, e.after) || event_add(tx, by, &e, 1, err); /* nothing changed: no event */
}

struct add_domain {
    struct domain d;
    const Thurn__Author *by;
    int64_t request_id;
    bool is_taken;
};
FIBER static bool add_domain_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct add_domain *add = arg;
    struct domain *d = &add->d;
    struct sql_value tenant = sql_i(d->tenant_id), name = sql_s(d->name);
    struct sql_result r;
    if (!sql_exec(tx, &q_domains_by_name, &name, 1, &r, err))
        return false;
    add->is_taken = r.n_rows && !(add->request_id && sql_at(&r, 0, DOMAIN_MADE_BY)->i == add->request_id);
    if (r.n_rows) {
        d->domain_id = sql_at(&r, 0, DOMAIN_ID)->i; /* when this request made it, sent before */
        d->created_unix = sql_at(&r, 0, DOMAIN_CREATED)->i;
        return true;
    }
    if (!sql_exec(tx, &q_tenant_by_id, &tenant, 1, &r, err))
        return false;
    if (r.n_rows == 0)
        return err_set(err, ERR_NOT_FOUND, "no tenant %lld", (long long)d->tenant_id);
    d->domain_id = new_id();
    struct sql_value params[6] = {sql_i(d->domain_id), sql_i(d->tenant_id),    name,
                                  sql_s(d->catch_all), sql_i(d->created_unix), sql_i(add->request_id)};
    return sql_exec(tx, &q_add_domain, params, 1, NULL, err) &&
           domain_event(tx, add->by, S("domain.add"), NULL, d, err);
}

bool admin_add_domain(struct auth *auth, const Thurn__AddDomainRequest *q, struct arena *a, Thurn__Domain *out,
                      struct err *err)
{
    struct add_domain add = {.d = {.tenant_id = q->tenant_id ? q->tenant_id : 1, .created_unix = clock_unix()},
                             .by = q->by,
                             .request_id = (int64_t)q->request_id};
    char **warnings;
    size_t n_warnings;
    if (!name_domain(str_c(q->name), a, &add.d.name, err) ||
        !catch_all_address(q->catch_all, a, &add.d.catch_all, err) ||
        !targets_of_catch_all(auth, &add.d, a, &warnings, &n_warnings, err))
        return false;
    if (!write_drawing(auth, add_domain_body, &add, add.request_id != 0, err))
        return false;
    if (add.is_taken)
        return err_set(err, ERR_EXISTS, "domain '%.*s' exists", STR_ARG(add.d.name));
    directory_changed(auth, add.d.name, 0);
    *out = *domain_message(&add.d, a);
    out->warnings = warnings;
    out->n_warnings = n_warnings;
    return true;
}

struct set_domain {
    struct sql_value params[3];
    const Thurn__Author *by;
    struct domain d;
    struct arena *arena;
    bool is_found;
};
FIBER static bool set_domain_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct set_domain *s = arg;
    struct sql_result before, r;
    struct domain was;
    sql_queue(tx, &q_lock_domain, &s->params[0], 1, &before);
    sql_queue(tx, &q_set_domain, s->params, 1, &r);
    if (!sql_run(tx, err))
        return false;
    s->is_found = r.n_rows == 1 && before.n_rows == 1;
    if (!s->is_found)
        return true;
    domain_of_row(&before, 0, &was);
    domain_of_row(&r, 0, &s->d);
    s->d.name = arena_str(s->arena, s->d.name);
    s->d.catch_all = arena_str(s->arena, s->d.catch_all);
    return domain_event(tx, s->by, S("domain.set"), &was, &s->d, err);
}

/* A catch-all that is to be set on a domain that is there. */
FIBER static bool check_catch_all(struct auth *auth, str name, str catch_all, struct arena *a, char ***warnings,
                                  size_t *n_warnings, struct err *err)
{
    const struct record *rec;
    *n_warnings = 0;
    if (!directory_get(auth, &name, 1, true, a, &rec, err))
        return false;
    struct domain d = rec->domain;
    d.catch_all = catch_all;
    return rec->kind != RECORD_DOMAIN || targets_of_catch_all(auth, &d, a, warnings, n_warnings, err);
}

bool admin_set_domain(struct auth *auth, const Thurn__SetDomainRequest *q, struct arena *a, Thurn__Domain *out,
                      struct err *err)
{
    struct set_domain s = {.arena = a, .by = q->by};
    str name, catch_all;
    char **warnings = NULL;
    size_t n_warnings = 0;
    if (!name_domain(str_c(q->name), a, &name, err) || !catch_all_address(q->catch_all, a, &catch_all, err) ||
        (q->has_catch_all && !check_catch_all(auth, name, catch_all, a, &warnings, &n_warnings, err)))
        return false;
    s.params[0] = sql_s(name);
    s.params[1] = q->has_catch_all ? sql_s(catch_all) : sql_null();
    s.params[2] = q->has_is_disabled ? sql_i(q->is_disabled) : sql_null();
    if (!sql_write(auth->opts.directory, set_domain_body, &s, err))
        return false;
    if (!s.is_found)
        return err_set(err, ERR_NOT_FOUND, "no domain '%.*s'", STR_ARG(name));
    directory_changed(auth, name, 0);
    *out = *domain_message(&s.d, a);
    out->warnings = warnings;
    out->n_warnings = n_warnings;
    return true;
}

bool admin_get_domain(struct auth *auth, str given, struct arena *a, Thurn__Domain *out, struct err *err)
{
    str name;
    const struct record *rec;
    if (!name_domain(given, a, &name, err) || !directory_get(auth, &name, 1, true, a, &rec, err))
        return false;
    if (rec->kind != RECORD_DOMAIN)
        return err_set(err, ERR_NOT_FOUND, "no domain '%.*s'", STR_ARG(name));
    *out = *domain_message(&rec->domain, a);
    return true;
}

struct remove_name {
    struct sql_value key, domain;
    const Thurn__Author *by;
    bool is_found, is_in_use;
};
FIBER static bool remove_domain_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct remove_name *m = arg;
    struct sql_result locked, used, removed;
    sql_queue(tx, &q_lock_domain, &m->key, 1, &locked);
    sql_queue(tx, &q_domain_in_use, &m->key, 1, &used);
    if (!sql_run(tx, err))
        return false;
    m->is_in_use = used.n_rows > 0;
    m->is_found = false;
    if (m->is_in_use)
        return true;
    if (!sql_exec(tx, &q_remove_domain, &m->key, 1, &removed, err))
        return false;
    m->is_found = removed.n_rows > 0;
    if (!m->is_found)
        return true;
    struct domain was;
    domain_of_row(&removed, 0, &was);
    return domain_event(tx, m->by, S("domain.remove"), &was, NULL, err);
}

bool admin_remove_domain(struct auth *auth, const Thurn__NameRequest *q, struct arena *a, struct err *err)
{
    str name;
    if (!name_domain(str_c(q->name), a, &name, err))
        return false;
    struct remove_name m = {.key = sql_s(name), .by = q->by};
    if (!sql_write(auth->opts.directory, remove_domain_body, &m, err))
        return false;
    directory_changed(auth, name, 0);
    if (m.is_in_use)
        return err_set(err, ERR_CONFLICT, "domain '%.*s' still has accounts or aliases", STR_ARG(name));
    return m.is_found || err_set(err, ERR_NOT_FOUND, "no domain '%.*s'", STR_ARG(name));
}

bool admin_list_domains(struct auth *auth, const Thurn__ListRequest *q, struct arena *a, Thurn__ListDomainsReply *out,
                        struct err *err)
{
    struct sql_result r;
    size_t limit;
    if (!directory_page(auth, &q_list_domains, q, a, &r, &limit, err))
        return false;
    out->domains = arena_array(a, Thurn__Domain *, r.n_rows);
    for (size_t i = 0; i < r.n_rows; i++) {
        struct domain d;
        domain_of_row(&r, i, &d);
        out->domains[out->n_domains++] = domain_message(&d, a);
    }
    if (r.n_rows == limit)
        out->next = out->domains[r.n_rows - 1]->name;
    return true;
}

/* --- aliases --- */

FIBER static bool alias_event(struct sql_tx *tx, const Thurn__Author *by, str what, str address,
                              const Thurn__Alias *was, const Thurn__Alias *now, struct err *err)
{
    struct event e = {.what = what, .subject = address};
    for (int i = 0; i < 2; i++) {
        const Thurn__Alias *one = i ? now : was;
        FACTS(f);
        if (!one)
            continue;
        str *targets = arena_array(sql_arena(tx), str, one->n_targets);
        for (size_t k = 0; k < one->n_targets; k++)
            targets[k] = str_c(one->targets[k]);
        facts_list(&f, "targets", targets, one->n_targets);
        *(i ? &e.after : &e.before) = facts_end(&f, sql_arena(tx));
    }
    return str_eq(e.before, e.after) || event_add(tx, by, &e, 1, err);
}

struct set_alias {
    struct sql_value params[4]; /* key, domain, address, targets */
    const Thurn__Author *by;
    const Thurn__Alias *now;
};
/* The alias' domain must be ours, and no account may have its address. */
FIBER static bool set_alias_body(struct sql_tx *tx, void *arg, struct err *err)
{
    const struct set_alias *s = arg;
    struct sql_result domain, account, before;
    sql_queue(tx, &q_lock_domain, &s->params[1], 1, &domain);
    sql_queue(tx, &q_accounts_by_key, &s->params[0], 1, &account);
    sql_queue(tx, &q_aliases_by_key, &s->params[0], 1, &before);
    if (!sql_run(tx, err))
        return false;
    if (domain.n_rows == 0)
        return err_set(err, ERR_NOT_FOUND, "no domain '%.*s'", STR_ARG(s->params[1].s));
    if (account.n_rows)
        return err_set(err, ERR_EXISTS, "'%.*s' is an account", STR_ARG(s->params[2].s));
    const Thurn__Alias *was = before.n_rows ? alias_message(&before, 0, sql_arena(tx)) : NULL;
    return sql_exec(tx, &q_set_alias, s->params, 1, NULL, err) &&
           alias_event(tx, s->by, S("alias.set"), s->params[2].s, was, s->now, err);
}

bool admin_set_alias(struct auth *auth, const Thurn__Alias *q, struct arena *a, Thurn__Alias *out, struct err *err)
{
    struct name name, target;
    if (!name_parse(str_c(q->address), a, &name, err) || !name_is_visible(&name, err))
        return false;
    if (q->n_targets == 0 || q->n_targets > AUTH_ALIAS_TARGETS_MAX)
        return err_set(err, ERR_INVALID, "an alias has 1 to %u targets", AUTH_ALIAS_TARGETS_MAX);
    BUF(targets, AUTH_ALIAS_TARGETS_MAX * (NAME_KEY_MAX + 1));
    out->targets = arena_array(a, char *, q->n_targets);
    for (size_t i = 0; i < q->n_targets; i++) {
        if (!name_parse(str_c(q->targets[i]), a, &target, err))
            return err_prefix(err, "target");
        buf_add(&targets, target.address);
        buf_addc(&targets, '\n');
        out->targets[out->n_targets++] = arena_strz(a, target.address);
    }
    struct set_alias s = {
        {sql_s(name.key), sql_s(name.domain), sql_s(name.address), sql_s(buf_str(&targets))}, q->by, out};
    if (!targets_of_alias(auth, &name, out->targets, out->n_targets, a, &out->warnings, &out->n_warnings, err) ||
        !sql_write(auth->opts.directory, set_alias_body, &s, err))
        return false;
    directory_changed(auth, name.key, 0);
    out->address = arena_strz(a, name.address);
    return true;
}

FIBER static bool remove_alias_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct remove_name *m = arg;
    struct sql_result domain, r;
    sql_queue(tx, &q_lock_domain, &m->domain, 1, &domain);
    sql_queue(tx, &q_remove_alias, &m->key, 1, &r);
    if (!sql_run(tx, err))
        return false;
    m->is_found = r.n_rows > 0;
    if (!m->is_found)
        return true;
    const Thurn__Alias *was = alias_message(&r, 0, sql_arena(tx));
    return alias_event(tx, m->by, S("alias.remove"), str_c(was->address), was, NULL, err);
}

bool admin_remove_alias(struct auth *auth, const Thurn__NameRequest *q, struct arena *a, struct err *err)
{
    struct name name;
    if (!name_parse(str_c(q->name), a, &name, err))
        return false;
    struct remove_name m = {.key = sql_s(name.key), .domain = sql_s(name.domain), .by = q->by};
    if (!sql_write(auth->opts.directory, remove_alias_body, &m, err))
        return false;
    directory_changed(auth, name.key, 0);
    return m.is_found || err_set(err, ERR_NOT_FOUND, "no alias '%.*s'", STR_ARG(name.address));
}

Thurn__Alias *alias_message(const struct sql_result *r, size_t row, struct arena *a)
{
    Thurn__Alias *m = arena_new(a, Thurn__Alias);
    thurn__alias__init(m);
    m->address = arena_strz(a, sql_at(r, row, ALIAS_ADDRESS)->s);
    str rest = sql_at(r, row, ALIAS_TARGETS)->s, target;
    size_t n = 0;
    for (size_t i = 0; i < rest.n; i++)
        n += rest.p[i] == '\n';
    m->targets = arena_array(a, char *, n + 1);
    while (str_split(&rest, '\n', &target))
        if (target.n)
            m->targets[m->n_targets++] = arena_strz(a, target);
    return m;
}

bool admin_list_aliases(struct auth *auth, const Thurn__ListRequest *q, struct arena *a, Thurn__ListAliasesReply *out,
                        struct err *err)
{
    struct sql_result r;
    size_t limit, bytes = 0, i = 0;
    if (q->target[0])
        return leads_list(auth, q, a, out, err);
    if (!directory_page(auth, &q_list_aliases, q, a, &r, &limit, err))
        return false;
    out->aliases = arena_array(a, Thurn__Alias *, r.n_rows);
    for (; i < r.n_rows && bytes < RPC_MESSAGE_MAX / 2; i++) { /* aliases may be long: a page ends early */
        bytes += sql_at(&r, i, ALIAS_TARGETS)->s.n;
        out->aliases[out->n_aliases++] = alias_message(&r, i, a);
    }
    if (i && (i < r.n_rows || r.n_rows == limit))
        out->next = arena_strz(a, sql_at(&r, i - 1, ALIAS_KEY)->s);
    return true;
}
