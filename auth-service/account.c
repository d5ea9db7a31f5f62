/*
 * Accounts. New ones are placed on the shard that holds the fewest for its weight, under the lock of the placement
 * rows; a bulk of up to 1,000 is one transaction, and passwords are hashed before it begins.
 */
#include "auth-service/event.h"
#include "auth-service/password.h"
#include "auth-service/schema.h"
#include "base/log.h"
#include "base/map.h"
#include "fiber/work.h"

#define DISPLAY_NAME_MAX 256u
#define ADD_PARAMS 14u
#define HASHERS_MAX 8u /* threads of the work pool for the passwords of one request */

/* --- adding --- */

struct new_account {
    const Thurn__NewAccount *q;
    struct name name;
    struct err err; /* why it is not added */
    char secret[SECRET_HASH_MAX];
    struct account row;
};

struct add {
    struct auth *auth;
    struct new_account *v;
    size_t n;
    int64_t request_id; /* 0 = none */
    const Thurn__Author *by;
    size_t next; /* whose password is hashed next */
    struct arena *arena;
};

/* What of an account is in events. Only what differs from `other`; all that is not a default when that is NULL. */
static str account_facts(const struct account *one, const struct account *other, bool is_secret_new, struct arena *a)
{
    static const char *const states[] = {"active", "suspended", "receive-only", "closed"};
    static const struct account none;
    const struct account *o = other ? other : &none;
    FACTS(f);
    if (!other) {
        facts_int(&f, "account_id", one->account_id);
        facts_int(&f, "tenant_id", one->tenant_id);
        facts_int(&f, "shard", one->shard);
    }
    if (one->state != o->state || !other)
        facts_str(&f, "state", (size_t)one->state < ARRAY_LEN(states) ? str_c(states[one->state]) : S("unknown"));
    if (one->quota_bytes != o->quota_bytes)
        facts_int(&f, "quota_bytes", (int64_t)one->quota_bytes);
    if (one->quota_messages != o->quota_messages)
        facts_int(&f, "quota_messages", (int64_t)one->quota_messages);
    if (!str_eq(one->display_name, o->display_name))
        facts_str(&f, "display_name", one->display_name);
    if (one->is_admin != o->is_admin)
        facts_bool(&f, "is_admin", one->is_admin);
    if (is_secret_new)
        facts_str(&f, "password", S("changed"));
    return facts_end(&f, a);
}

static bool name_ok(const char *display_name, struct err *err)
{
    size_t n = strlen(display_name);
    for (size_t i = 0; i < n; i++)
        if (ascii_is_ctl((unsigned char)display_name[i]))
            return err_set(err, ERR_INVALID, "control character in the display name");
    return (n <= DISPLAY_NAME_MAX && utf8_valid(display_name, n)) ||
           err_set(err, ERR_INVALID, "a display name has at most %u bytes of UTF-8", DISPLAY_NAME_MAX);
}

static bool quota_ok(uint64_t a, uint64_t b, struct err *err)
{
    return (a <= INT64_MAX && b <= INT64_MAX) || err_set(err, ERR_INVALID, "quota is too large");
}

/* A hash that is brought along, or "" when the clear password is to be hashed. */
static bool given_secret(ProtobufCBinaryData password, const char *hash, char out[SECRET_HASH_MAX], struct err *err)
{
    out[0] = '\0';
    if (password.len)
        return password.len <= SECRET_PASSWORD_MAX ||
               err_set(err, ERR_INVALID, "a password has 1 to %u bytes", SECRET_PASSWORD_MAX);
    if (!hash[0])
        return err_set(err, ERR_INVALID, "neither a password nor a hash is given");
    if (strlen(hash) >= SECRET_HASH_MAX)
        return err_set(err, ERR_INVALID, "password hash is too long");
    if (!secret_is_known(str_c(hash), err))
        return false;
    /* "{ARGON2ID}$argon2id$…" is kept without its prefix, the form that we make ourselves. */
    const char *bare = strstr(hash, "}$argon2");
    (void)snprintf(out, SECRET_HASH_MAX, "%s", bare ? bare + 1 : hash);
    return true;
}

static bool account_name_ok(const struct name *n, struct err *err)
{
    return name_is_visible(n, err) &&
           (str_find(n->local, '+') < 0 ||
            err_set(err, ERR_INVALID, "an account's local part has no '+': it begins a subaddress"));
}

static void check_new(struct add *add, struct new_account *n)
{
    const Thurn__NewAccount *q = n->q;
    IGNORE(name_parse(str_c(q->address), add->arena, &n->name, &n->err) && account_name_ok(&n->name, &n->err) &&
           name_ok(q->display_name, &n->err) && quota_ok(q->quota_bytes, q->quota_messages, &n->err) &&
           given_secret(q->password, q->password_hash, n->secret, &n->err)); /* n->err keeps the candidate out */
}

FIBER static void hash_some(void *arg)
{
    struct add *add = arg;
    while (add->next < add->n) {
        struct new_account *n = &add->v[add->next++];
        if (err_is_set(&n->err) || n->secret[0])
            continue;
        char made[SECRET_HASH_MAX];
        str password = rpc_str(n->q->password);
        if (password_check_on_pool(add->auth, password, &n->name, &n->err) &&
            secret_make_on_pool(add->auth, password, made, &n->err))
            (void)snprintf(n->secret, SECRET_HASH_MAX, "%s", made);
    }
}

FIBER static bool hash_all(struct add *add, struct err *err)
{
    /* A quarter of the pool: log-ins want it too, and do not wait behind a thousand new passwords. */
    unsigned n = MIN(MAX(work_pool_threads() / 4, 1u), HASHERS_MAX);
    FIBER_GROUP(g, HASHERS_MAX);
    for (unsigned i = 0; i < n && i < add->n; i++)
        if (!fiber_group_spawn(&g, "auth.hash", hash_some, add, err))
            return false;
    return fiber_group_wait(&g, err);
}

/* Domains must be ours. The transaction looks again; this spares the hashing of passwords for mistakes. */
FIBER static bool find_domains(struct add *add, struct err *err)
{
    str *names = arena_array(add->arena, str, add->n);
    size_t *of = arena_array(add->arena, size_t, add->n), n = 0;
    const struct record **found = arena_array(add->arena, const struct record *, add->n);
    for (size_t i = 0; i < add->n; i++)
        if (!err_is_set(&add->v[i].err)) {
            of[n] = i;
            names[n++] = add->v[i].name.domain;
        }
    if (!directory_get(add->auth, names, n, true, add->arena, found, err))
        return false;
    for (size_t k = 0; k < n; k++) {
        struct new_account *a = &add->v[of[k]];
        if (found[k]->kind != RECORD_DOMAIN)
            err_set(&a->err, ERR_NOT_FOUND, "no domain '%.*s'", STR_ARG(names[k]));
    }
    return true;
}

static bool is_candidate(const struct new_account *n)
{
    return !err_is_set(&n->err);
}

/* Views of a result become the arena's; the secret is left out. */
static void account_own(struct account *row, struct arena *a)
{
    row->key = arena_str(a, row->key);
    row->address = arena_str(a, row->address);
    row->display_name = arena_str(a, row->display_name);
    row->secret = STR_NONE;
}

/* What the transaction finds about a candidate. */
/* OURS: this request made it, when it was sent before */
enum verdict { VERDICT_NEW, VERDICT_EXISTS, VERDICT_NO_DOMAIN, VERDICT_OURS };

/* The candidates' domains are kept from being removed; each has the tenant of its own. */
static void take_domains(struct add *add, const struct sql_result *r, enum verdict *verdicts)
{
    struct map domains;
    map_init(&domains);
    for (size_t i = 0; i < r->n_rows; i++)
        (void)map_put(&domains, sql_at(r, i, DOMAIN_NAME)->s, (void *)(uintptr_t)sql_at(r, i, DOMAIN_TENANT));
    for (size_t i = 0; i < add->n; i++) {
        if (!is_candidate(&add->v[i]))
            continue;
        const struct sql_value *tenant = map_get(&domains, add->v[i].name.domain);
        if (tenant)
            add->v[i].row.tenant_id = tenant->i;
        else
            verdicts[i] = VERDICT_NO_DOMAIN;
    }
    map_done(&domains);
}

/* Those that are accounts or aliases already. */
static void take_existing(struct map *seen, struct add *add, const struct sql_result *r, size_t key_col,
                          enum verdict *verdicts)
{
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct new_account *hit = map_get(seen, sql_at(r, i, key_col)->s);
        if (hit)
            verdicts[hit - add->v] = VERDICT_EXISTS;
    }
}

/* Those that this request made when it was sent before. */
static void take_ours(struct map *seen, struct add *add, const struct sql_result *r, enum verdict *verdicts)
{
    for (size_t i = 0; add->request_id && i < r->n_rows; i++) {
        struct new_account *hit = map_get(seen, sql_at(r, i, ACCOUNT_KEY)->s);
        if (!hit || sql_at(r, i, ACCOUNT_MADE_BY)->i != add->request_id)
            continue;
        account_of_row(r, i, &hit->row);
        account_own(&hit->row, add->arena);
        verdicts[hit - add->v] = VERDICT_OURS;
    }
}

/* Also EXISTS: what is twice in this request. */
FIBER static bool judge(struct sql_tx *tx, struct add *add, enum verdict *verdicts, struct err *err)
{
    struct sql_value *keys = arena_array(sql_arena(tx), struct sql_value, add->n);
    struct sql_value *names = arena_array(sql_arena(tx), struct sql_value, add->n);
    struct map seen;
    map_init(&seen);
    size_t n = 0;
    for (size_t i = 0; i < add->n; i++) {
        verdicts[i] = VERDICT_NEW;
        if (!is_candidate(&add->v[i]))
            continue;
        names[n] = sql_s(add->v[i].name.domain);
        keys[n++] = sql_s(add->v[i].name.key);
        if (map_get(&seen, add->v[i].name.key))
            verdicts[i] = VERDICT_EXISTS;
        else
            (void)map_put(&seen, add->v[i].name.key, &add->v[i]); /* nothing was there */
    }
    struct sql_result domains, accounts, aliases;
    sql_queue(tx, &q_keep_domains, names, n, &domains);
    sql_queue(tx, &q_accounts_by_key, keys, n, &accounts);
    sql_queue(tx, &q_aliases_by_key, keys, n, &aliases);
    bool ok = n == 0 || sql_run(tx, err);
    if (ok && n) {
        take_domains(add, &domains, verdicts);
        take_existing(&seen, add, &accounts, ACCOUNT_KEY, verdicts);
        take_ours(&seen, add, &accounts, verdicts);
        take_existing(&seen, add, &aliases, ALIAS_KEY, verdicts);
    }
    map_done(&seen);
    return ok;
}

/* Counts of all shards, which locks them. */
FIBER static bool lock_placement(struct sql_tx *tx, const struct auth *auth, int64_t *counts, struct err *err)
{
    struct arena *a = sql_arena(tx);
    unsigned n = auth->opts.n_shards;
    struct sql_value *params = arena_array(a, struct sql_value, n);
    struct sql_result *results = arena_array(a, struct sql_result, n);
    for (unsigned i = 0; i < n; i++) { /* in one order everywhere, so that two bulks do not deadlock */
        params[i] = sql_i(i + 1);
        sql_queue(tx, &q_lock_placement, &params[i], 1, &results[i]);
    }
    if (!sql_run(tx, err))
        return false;
    for (unsigned i = 0; i < n; i++)
        counts[i] = sql_at(&results[i], 0, 0)->i;
    return true;
}

/* The shard with the fewest accounts for its weight. */
static unsigned pick_shard(const struct auth *auth, const int64_t *counts)
{
    unsigned best = 0;
    double least = 0;
    for (unsigned i = 0; i < auth->opts.n_shards; i++) {
        if (auth->weights[i] == 0)
            continue;
        double load = (double)(counts[i] + 1) / auth->weights[i];
        if (best == 0 || load < least) {
            best = i + 1;
            least = load;
        }
    }
    return best;
}

static void fill_row(struct new_account *n, unsigned shard, int64_t request_id)
{
    int64_t tenant_id = n->row.tenant_id;
    n->row = (struct account){.account_id = new_id(),
                              .tenant_id = tenant_id,
                              .key = n->name.key,
                              .address = n->name.address,
                              .display_name = str_c(n->q->display_name),
                              .secret = str_c(n->secret),
                              .quota_bytes = n->q->quota_bytes,
                              .quota_messages = n->q->quota_messages,
                              .shard = shard,
                              .epoch = 1,
                              .created_unix = clock_unix(),
                              .credential_version = 1,
                              .is_admin = n->q->is_admin,
                              .incarnation = (int64_t)random_below(INT64_MAX) + 1,
                              .made_by = request_id};
}

static void fill_params(const struct account *r, str domain, struct sql_value *p)
{
    const struct sql_value v[ADD_PARAMS] = {sql_i(r->account_id),
                                            sql_i(r->tenant_id),
                                            sql_s(domain),
                                            sql_s(r->key),
                                            sql_s(r->address),
                                            sql_i((int64_t)r->quota_bytes),
                                            sql_i((int64_t)r->quota_messages),
                                            sql_i(r->shard),
                                            sql_s(r->display_name),
                                            sql_i(r->created_unix),
                                            sql_i(r->is_admin),
                                            sql_s(r->secret),
                                            sql_i(r->incarnation),
                                            sql_i(r->made_by)};
    memcpy(p, v, sizeof(v));
}

FIBER static bool insert_rows(struct sql_tx *tx, struct add *add, const enum verdict *verdicts, size_t n_new,
                              struct err *err)
{
    struct arena *a = sql_arena(tx);
    const struct auth *auth = add->auth;
    int64_t *counts = arena_array(a, int64_t, auth->opts.n_shards),
            *before = arena_array(a, int64_t, auth->opts.n_shards);
    struct sql_value *params = arena_array(a, struct sql_value, ADD_PARAMS * n_new), *placed;
    struct event *events = arena_array(a, struct event, n_new);
    if (!lock_placement(tx, auth, counts, err))
        return false;
    memcpy(before, counts, auth->opts.n_shards * sizeof(*counts));
    size_t k = 0;
    for (size_t i = 0; i < add->n; i++) {
        struct new_account *n = &add->v[i];
        if (!is_candidate(n) || verdicts[i] != VERDICT_NEW)
            continue;
        unsigned shard = pick_shard(auth, counts);
        if (shard == 0)
            return err_set(err, ERR_LIMIT, "no shard takes new accounts");
        counts[shard - 1]++;
        fill_row(n, shard, add->request_id);
        events[k] = (struct event){
            .what = S("account.add"), .subject = n->row.address, .after = account_facts(&n->row, NULL, false, a)};
        fill_params(&n->row, n->name.domain, &params[ADD_PARAMS * k++]);
    }
    sql_queue(tx, &q_add_account, params, n_new, NULL);
    if (!event_add(tx, add->by, events, n_new, err))
        return false;
    placed = arena_array(a, struct sql_value, 2 * auth->opts.n_shards);
    for (unsigned i = 0; i < auth->opts.n_shards; i++) {
        placed[2 * i] = sql_i(i + 1);
        placed[2 * i + 1] = sql_i(counts[i] - before[i]);
        if (counts[i] != before[i])
            sql_queue(tx, &q_add_placement, &placed[2 * i], 1, NULL);
    }
    return sql_run(tx, err);
}

struct add_txn {
    struct add *add;
    enum verdict *verdicts;
};
FIBER static bool add_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct add_txn *t = arg;
    if (!judge(tx, t->add, t->verdicts, err))
        return false;
    size_t n_new = 0;
    for (size_t i = 0; i < t->add->n; i++)
        n_new += is_candidate(&t->add->v[i]) && t->verdicts[i] == VERDICT_NEW;
    return n_new == 0 || insert_rows(tx, t->add, t->verdicts, n_new, err);
}

static Thurn__AddAccountsReply__Result *result_of(struct auth *auth, struct new_account *n, struct arena *a)
{
    Thurn__AddAccountsReply__Result *r = arena_new(a, Thurn__AddAccountsReply__Result);
    thurn__add_accounts_reply__result__init(r);
    if (err_is_set(&n->err)) {
        r->error_kind = n->err.kind;
        r->error = arena_strz(a, str_c(n->err.msg));
        return r;
    }
    r->account = account_message(&n->row, a);
    directory_changed(auth, n->row.key, 0); /* nobody knew this id */
    if (n->row.is_admin)
        directory_changed(auth, arena_printf(a, "!admin:%lld", (long long)n->row.tenant_id), 0);
    return r;
}

bool account_add(struct auth *auth, const Thurn__AddAccountsRequest *q, struct arena *a, Thurn__AddAccountsReply *out,
                 struct err *err)
{
    if (q->n_accounts > AUTH_BATCH_MAX)
        return err_set(err, ERR_LIMIT, "more than %u accounts in one request", AUTH_BATCH_MAX);
    struct add add = {.auth = auth,
                      .by = q->by,
                      .request_id = (int64_t)q->request_id,
                      .n = q->n_accounts,
                      .arena = a,
                      .v = arena_array(a, struct new_account, q->n_accounts)};
    struct add_txn txn = {.add = &add, .verdicts = arena_array(a, enum verdict, add.n)};
    for (size_t i = 0; i < add.n; i++) {
        add.v[i].q = q->accounts[i];
        check_new(&add, &add.v[i]);
    }
    if (!find_domains(&add, err) || !hash_all(&add, err) ||
        !write_drawing(auth, add_body, &txn, add.request_id != 0, err))
        return false;
    out->results = arena_array(a, Thurn__AddAccountsReply__Result *, add.n);
    for (size_t i = 0; i < add.n; i++) {
        const struct name *name = &add.v[i].name;
        if (txn.verdicts[i] == VERDICT_EXISTS)
            err_set(&add.v[i].err, ERR_EXISTS, "'%.*s' exists", STR_ARG(name->address));
        else if (txn.verdicts[i] == VERDICT_NO_DOMAIN)
            err_set(&add.v[i].err, ERR_NOT_FOUND, "no domain '%.*s'", STR_ARG(name->domain));
        out->results[out->n_results++] = result_of(auth, &add.v[i], a);
        explicit_bzero(add.v[i].secret, SECRET_HASH_MAX);
    }
    return true;
}

/* --- changing and reading --- */

struct change {
    struct auth *auth;
    const Thurn__Author *by;
    const struct name *name;
    struct arena *arena;
    /* account_set */
    struct sql_value params[8];
    bool has_secret;
    /* account_remove, account_rename */
    int64_t incarnation;         /* 0 = whichever it is */
    const struct name *new_name; /* NULL: it goes */
    bool follows, keeps_alias;   /* what led to the old address: to the new one, or nowhere */
    /* Set by the body. */
    bool is_found;
    struct account row; /* as it is now, or was before it went */
    struct lead *leads;
    size_t n_leads;
};

FIBER static bool set_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct change *c = arg;
    struct sql_result before, after;
    struct account was;
    sql_queue(tx, &q_lock_account, &c->params[0], 1, &before);
    sql_queue(tx, &q_set_account, c->params, 1, &after);
    if (!sql_run(tx, err))
        return false;
    c->is_found = before.n_rows == 1 && after.n_rows == 1;
    if (!c->is_found)
        return true;
    account_of_row(&before, 0, &was);
    account_of_row(&after, 0, &c->row);
    account_own(&c->row, c->arena);
    struct event e = {.what = S("account.set"),
                      .subject = c->row.address,
                      .before = account_facts(&was, &c->row, false, sql_arena(tx)),
                      .after = account_facts(&c->row, &was, c->has_secret, sql_arena(tx))};
    return str_eq(e.before, e.after) || event_add(tx, c->by, &e, 1, err); /* nothing changed: no event */
}

/* Its row, locked, and that it is the one that is meant. */
FIBER static bool lock_account(struct sql_tx *tx, struct change *c, struct err *err)
{
    struct sql_value key = sql_s(c->name->key);
    struct sql_result r;
    if (!sql_exec(tx, &q_lock_account, &key, 1, &r, err))
        return false;
    c->n_leads = 0;
    c->is_found = r.n_rows == 1;
    if (!c->is_found)
        return true;
    account_of_row(&r, 0, &c->row);
    account_own(&c->row, c->arena);
    if (!rpc_incarnation_fits((uint64_t)c->incarnation, (uint64_t)c->row.incarnation))
        return err_set(err, ERR_CONFLICT, "'%.*s' is another account by now", STR_ARG(c->name->address));
    return true;
}

/* Find what led to it and write what it is to be; the names for the event. */
FIBER static bool move_leads(struct sql_tx *tx, struct change *c, struct facts *f, struct err *err)
{
    struct lead *leads;
    size_t n;
    if (!leads_find(tx, c->name, c->new_name, &leads, &n, err) || !leads_write(tx, leads, n, err))
        return false;
    str *shown = arena_array(sql_arena(tx), str, n);
    c->leads = arena_array(c->arena, struct lead, n);
    c->n_leads = n;
    for (size_t i = 0; i < n; i++) {
        shown[i] = leads[i].shown;
        c->leads[i].key = arena_str(c->arena, leads[i].key); /* all that their caches need */
    }
    if (n)
        facts_list(f, "aliases", shown, n);
    return true;
}

FIBER static bool remove_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct change *c = arg;
    if (!lock_account(tx, c, err) || !c->is_found)
        return !err_is_set(err);
    FACTS(aliases);
    if (c->follows && !move_leads(tx, c, &aliases, err))
        return false;
    struct sql_value key = sql_s(c->name->key), less[2] = {sql_i(c->row.shard), sql_i(-1)};
    struct event e = {.what = S("account.remove"),
                      .subject = c->row.address,
                      .before = account_facts(&c->row, NULL, false, sql_arena(tx))};
    if (c->n_leads)
        e.after = facts_end(&aliases, sql_arena(tx));
    sql_queue(tx, &q_remove_account, &key, 1, NULL);
    sql_queue(tx, &q_add_placement, less, 1, NULL);
    return event_add(tx, c->by, &e, 1, err);
}

/* That the new address may be an account of this tenant. */
FIBER static bool check_new_name(struct sql_tx *tx, struct change *c, struct err *err)
{
    const struct name *to = c->new_name;
    struct sql_value *domains = arena_array(sql_arena(tx), struct sql_value, 2), key = sql_s(to->key);
    struct sql_result found, account, alias;
    domains[0] = sql_s(c->name->domain);
    domains[1] = sql_s(to->domain);
    sql_queue(tx, &q_keep_domains, domains, 2, &found);
    sql_queue(tx, &q_accounts_by_key, &key, 1, &account);
    sql_queue(tx, &q_aliases_by_key, &key, 1, &alias);
    if (!sql_run(tx, err))
        return false;
    const struct sql_value *tenant = NULL;
    for (size_t i = 0; i < found.n_rows; i++)
        if (str_eq(sql_at(&found, i, DOMAIN_NAME)->s, to->domain))
            tenant = sql_at(&found, i, DOMAIN_TENANT);
    if (!tenant)
        return err_set(err, ERR_NOT_FOUND, "no domain '%.*s'", STR_ARG(to->domain));
    if (tenant->i != c->row.tenant_id)
        return err_set(err, ERR_CONFLICT, "domain '%.*s' belongs to another tenant", STR_ARG(to->domain));
    if ((account.n_rows && !str_eq(to->key, c->name->key)) || alias.n_rows)
        return err_set(err, ERR_EXISTS, "'%.*s' exists", STR_ARG(to->address));
    return true;
}

FIBER static bool rename_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct change *c = arg;
    const struct name *from = c->name, *to = c->new_name;
    if (!lock_account(tx, c, err) || !c->is_found)
        return !err_is_set(err);
    str old = c->row.address;
    FACTS(before);
    FACTS(after);
    facts_str(&before, "address", old);
    facts_str(&after, "address", to->address);
    if (!check_new_name(tx, c, err) || !move_leads(tx, c, &after, err))
        return false;
    struct sql_value row[4] = {sql_s(from->key), sql_s(to->key), sql_s(to->domain), sql_s(to->address)};
    struct sql_value alias[4] = {sql_s(from->key), sql_s(from->domain), sql_s(old),
                                 sql_s(arena_printf(sql_arena(tx), "%.*s\n", STR_ARG(to->address)))};
    struct sql_result renamed;
    sql_queue(tx, &q_rename_account, row, 1, &renamed);
    if (c->keeps_alias)
        sql_queue(tx, &q_set_alias, alias, 1, NULL);
    facts_bool(&after, "keeps_alias", c->keeps_alias);
    struct event e = {.what = S("account.rename"),
                      .subject = old,
                      .before = facts_end(&before, sql_arena(tx)),
                      .after = facts_end(&after, sql_arena(tx))};
    if (!event_add(tx, c->by, &e, 1, err))
        return false;
    account_of_row(&renamed, 0, &c->row);
    account_own(&c->row, c->arena);
    return true;
}

FIBER static bool run_change(struct change *c, sql_body body, Thurn__AccountReply *out, struct err *err)
{
    struct auth *auth = c->auth;
    if (!sql_write(auth->opts.directory, body, c, err))
        return false;
    if (!c->is_found)
        return err_set(err, ERR_NOT_FOUND, "no account '%.*s'", STR_ARG(c->name->address));
    directory_changed(auth, c->name->key, c->row.account_id);
    if (c->new_name)
        directory_changed(auth, c->new_name->key, 0);
    leads_changed(auth, c->leads, c->n_leads);
    directory_changed(auth, arena_printf(c->arena, "!admin:%lld", (long long)c->row.tenant_id), 0);
    out->account = account_message(&c->row, c->arena);
    return true;
}

bool account_set(struct auth *auth, const Thurn__SetAccountRequest *q, struct arena *a, Thurn__AccountReply *out,
                 struct err *err)
{
    struct name name;
    char secret[SECRET_HASH_MAX] = "";
    struct change c = {
        .auth = auth, .by = q->by, .name = &name, .arena = a, .has_secret = q->has_password || q->has_password_hash};
    if (!name_parse(str_c(q->address), a, &name, err) || !name_ok(q->display_name, err) ||
        !quota_ok(q->quota_bytes, q->quota_messages, err))
        return false;
    if (q->has_state && q->state > THURN__ACCOUNT_STATE__ACCOUNT_CLOSED)
        return err_set(err, ERR_INVALID, "no account state %d", (int)q->state);
    if (c.has_secret &&
        !given_secret(q->has_password ? q->password : (ProtobufCBinaryData){0, NULL}, q->password_hash, secret, err))
        return false;
    if (q->has_password && !secret[0] &&
        (!password_check_on_pool(auth, rpc_str(q->password), &name, err) ||
         !secret_make_on_pool(auth, rpc_str(q->password), secret, err)))
        return false;
    c.params[0] = sql_s(name.key);
    c.params[1] = q->has_state ? sql_i(q->state) : sql_null();
    c.params[2] = q->has_quota_bytes ? sql_i((int64_t)q->quota_bytes) : sql_null();
    c.params[3] = q->has_quota_messages ? sql_i((int64_t)q->quota_messages) : sql_null();
    c.params[4] = q->has_display_name ? sql_s(str_c(q->display_name)) : sql_null();
    c.params[5] = q->has_is_admin ? sql_i(q->is_admin) : sql_null();
    c.params[6] = c.has_secret ? sql_s(str_c(secret)) : sql_null();
    c.params[7] = sql_i(c.has_secret || q->has_state);
    bool ok = run_change(&c, set_body, out, err);
    explicit_bzero(secret, sizeof(secret));
    return ok;
}

bool account_remove(struct auth *auth, const Thurn__RemoveAccountRequest *q, struct arena *a, Thurn__AccountReply *out,
                    struct err *err)
{
    struct name name;
    struct change c = {.auth = auth,
                       .by = q->by,
                       .name = &name,
                       .arena = a,
                       .incarnation = (int64_t)q->incarnation,
                       .follows = q->with_aliases};
    return name_parse(str_c(q->name), a, &name, err) && run_change(&c, remove_body, out, err);
}

bool account_rename(struct auth *auth, const Thurn__RenameAccountRequest *q, struct arena *a, Thurn__AccountReply *out,
                    struct err *err)
{
    struct name name, to;
    struct change c = {.auth = auth,
                       .by = q->by,
                       .name = &name,
                       .new_name = &to,
                       .arena = a,
                       .follows = true,
                       .keeps_alias = q->keep_alias};
    if (!name_parse(str_c(q->address), a, &name, err) || !name_parse(str_c(q->new_address), a, &to, err) ||
        !account_name_ok(&to, err))
        return false;
    if (c.keeps_alias && str_eq(name.key, to.key))
        return err_set(err, ERR_INVALID, "'%.*s' and '%.*s' are one address", STR_ARG(name.address),
                       STR_ARG(to.address));
    return run_change(&c, rename_body, out, err);
}

bool account_get(struct auth *auth, str address, struct arena *a, Thurn__AccountReply *out, struct err *err)
{
    struct name name;
    const struct record *rec;
    if (!name_parse(address, a, &name, err) || !directory_get_fresh(auth, name.key, a, &rec, err))
        return false;
    if (rec->kind != RECORD_ACCOUNT)
        return err_set(err, ERR_NOT_FOUND, "no account '%.*s'", STR_ARG(name.address));
    out->account = account_message(&rec->account, a);
    return true;
}

bool account_list(struct auth *auth, const Thurn__ListRequest *q, struct arena *a, Thurn__ListAccountsReply *out,
                  struct err *err)
{
    struct sql_result r;
    size_t limit;
    if (!directory_page(auth, &q_list_accounts, q, a, &r, &limit, err))
        return false;
    out->accounts = arena_array(a, Thurn__Account *, r.n_rows);
    for (size_t i = 0; i < r.n_rows; i++) {
        struct account acc;
        account_of_row(&r, i, &acc);
        out->accounts[out->n_accounts++] = account_message(&acc, a);
    }
    if (r.n_rows == limit)
        out->next = arena_strz(a, sql_at(&r, r.n_rows - 1, ACCOUNT_KEY)->s);
    return true;
}

struct locate {
    const Thurn__LocateRequest *q;
    struct arena *arena;
    Thurn__LocateReply *out;
};
FIBER static bool locate_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct locate *l = arg;
    struct sql_value *ids = arena_array(sql_arena(tx), struct sql_value, l->q->n_account_ids);
    for (size_t i = 0; i < l->q->n_account_ids; i++)
        ids[i] = sql_i(l->q->account_ids[i]);
    struct sql_result r;
    if (!sql_exec(tx, &q_accounts_by_id, ids, l->q->n_account_ids, &r, err))
        return false;
    l->out->accounts = arena_array(l->arena, Thurn__Account *, r.n_rows);
    l->out->n_accounts = 0;
    for (size_t i = 0; i < r.n_rows; i++) {
        struct account acc;
        account_of_row(&r, i, &acc);
        l->out->accounts[l->out->n_accounts++] = account_message(&acc, l->arena);
    }
    return true;
}

bool account_locate(struct auth *auth, const Thurn__LocateRequest *q, struct arena *a, Thurn__LocateReply *out,
                    struct err *err)
{
    if (q->n_account_ids > AUTH_BATCH_MAX)
        return err_set(err, ERR_LIMIT, "more than %u accounts in one request", AUTH_BATCH_MAX);
    struct locate l = {.q = q, .arena = a, .out = out};
    return q->n_account_ids == 0 || sql_read(auth->opts.directory, locate_body, &l, err);
}

struct credentials {
    const struct sql_value *ids;
    size_t n;
    struct arena *arena;
    struct map64 found; /* account id → struct account in the arena */
};
FIBER static bool credentials_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct credentials *c = arg;
    struct sql_result r;
    map64_done(&c->found); /* a try before this one may have been cut short */
    map64_init(&c->found);
    if (!sql_exec(tx, &q_accounts_by_id, c->ids, c->n, &r, err))
        return false;
    for (size_t i = 0; i < r.n_rows; i++) {
        struct account *acc = arena_new(c->arena, struct account);
        account_of_row(&r, i, acc); /* its strings end with the transaction: only the numbers are used */
        if (acc->state == THURN__ACCOUNT_STATE__ACCOUNT_ACTIVE ||
            acc->state == THURN__ACCOUNT_STATE__ACCOUNT_RECEIVE_ONLY)
            (void)map64_put(&c->found, (uint64_t)acc->account_id,
                            acc); /* the same again when asked for twice, or tried twice */
    }
    return true;
}

/* The pass anew when it is ours and what it stood on is so still, however old it is: the session goes on. */
static ProtobufCBinaryData renew(str bytes, int64_t account_id, int64_t version, struct arena *a)
{
    struct rpc_pass pass = rpc_pass_of(bytes);
    struct rpc_principal p;
    struct err ignored = ERR_INIT; /* then there is no new one */
    int64_t expires_unix;
    if (!pass.n || !rpc_pass_read(&pass, &p, &expires_unix, &ignored) || p.is_admin || p.account_id != account_id ||
        !version || p.credential_version != version)
        return rpc_bytes(STR_NONE);
    rpc_pass_make(&p, &pass);
    return rpc_bytes(arena_str(a, rpc_pass_str(&pass)));
}

/* Rows come in any order and may be fewer than the ids; an id may be asked for twice. */
bool account_credentials(struct auth *auth, const Thurn__CredentialsRequest *q, struct arena *a,
                         Thurn__CredentialsReply *out, struct err *err)
{
    size_t n = q->n_account_ids;
    if (n > AUTH_BATCH_MAX)
        return err_set(err, ERR_LIMIT, "more than %u accounts in one request", AUTH_BATCH_MAX);
    if (q->n_passes && q->n_passes != n)
        return err_set(err, ERR_INVALID, "%zu passes for %zu accounts", q->n_passes, n);
    struct sql_value *ids = arena_array(a, struct sql_value, n);
    for (size_t i = 0; i < n; i++)
        ids[i] = sql_i(q->account_ids[i]);
    struct credentials c = {.ids = ids, .n = n, .arena = a};
    map64_init(&c.found);
    bool ok = n == 0 || sql_read(auth->opts.directory, credentials_body, &c, err);
    out->n_versions = n;
    out->versions = arena_array(a, int64_t, n);
    out->n_accounts = n;
    out->accounts = arena_array(a, Thurn__AccountRef *, n);
    for (size_t i = 0; ok && i < n; i++) {
        static const struct account nobody;
        const struct account *acc = map64_get(&c.found, (uint64_t)q->account_ids[i]);
        acc = acc ? acc : &nobody;
        out->versions[i] = acc->credential_version;
        out->accounts[i] = account_ref(acc, a);
    }
    out->n_passes = ok ? q->n_passes : 0;
    out->passes = arena_array(a, ProtobufCBinaryData, out->n_passes);
    for (size_t i = 0; i < out->n_passes; i++)
        out->passes[i] = renew(rpc_str(q->passes[i]), q->account_ids[i], out->versions[i], a);
    map64_done(&c.found);
    return ok;
}
