/*
 * Accounts. New ones are placed on the shard that holds the fewest for its weight, under the lock of the placement
 * rows; a bulk of up to 1,000 is one transaction, and passwords are hashed before it begins.
 */
#include "auth-service/internal.h"

#include "auth-service/schema.h"
#include "base/clock.h"
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
    struct err err;       /* why it is not added */
    char secret[SECRET_HASH_MAX];
    struct account row;
};

struct add {
    struct auth *auth;
    struct new_account *v;
    size_t n;
    int64_t request_id;   /* 0 = none */
    size_t next;          /* whose password is hashed next */
    struct arena *arena;
};

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
        return password.len <= SECRET_PASSWORD_MAX || err_set(err, ERR_INVALID, "a password has 1 to %u bytes", SECRET_PASSWORD_MAX);
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

static void check_new(struct add *add, struct new_account *n)
{
    const Thurn__NewAccount *q = n->q;
    if (!name_parse(str_c(q->address), add->arena, &n->name, &n->err) || !name_is_visible(&n->name, &n->err) ||
        !name_ok(q->display_name, &n->err) ||
        !quota_ok(q->quota_bytes, q->quota_messages, &n->err) || !given_secret(q->password, q->password_hash, n->secret, &n->err))
        return;
    if (str_find(n->name.local, '+') >= 0)
        err_set(&n->err, ERR_INVALID, "an account's local part has no '+': it begins a subaddress");
}

FIBER static void hash_some(void *arg)
{
    struct add *add = arg;
    while (add->next < add->n) {
        struct new_account *n = &add->v[add->next++];
        if (err_is_set(&n->err) || n->secret[0])
            continue;
        char made[SECRET_HASH_MAX];
        if (secret_make_on_pool(add->auth, rpc_str(n->q->password), made, &n->err))
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
enum verdict { VERDICT_NEW, VERDICT_EXISTS, VERDICT_NO_DOMAIN, VERDICT_OURS }; /* OURS: this request made it, when it was sent before */

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
static void take_existing(struct map *seen, struct add *add, const struct sql_result *r, size_t key_col, enum verdict *verdicts)
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
    n->row = (struct account){.account_id = new_id(), .tenant_id = tenant_id, .key = n->name.key, .address = n->name.address,
                              .display_name = str_c(n->q->display_name), .secret = str_c(n->secret),
                              .quota_bytes = n->q->quota_bytes, .quota_messages = n->q->quota_messages, .shard = shard,
                              .epoch = 1, .created_unix = clock_unix(), .credential_version = 1, .is_admin = n->q->is_admin, .incarnation = (int64_t)random_below(INT64_MAX) + 1,
                              .made_by = request_id};
}

static void fill_params(const struct account *r, str domain, struct sql_value *p)
{
    const struct sql_value v[ADD_PARAMS] = {sql_i(r->account_id), sql_i(r->tenant_id), sql_s(domain), sql_s(r->key), sql_s(r->address),
                                    sql_i((int64_t)r->quota_bytes), sql_i((int64_t)r->quota_messages), sql_i(r->shard),
                                    sql_s(r->display_name), sql_i(r->created_unix), sql_i(r->is_admin), sql_s(r->secret), sql_i(r->incarnation), sql_i(r->made_by)};
    memcpy(p, v, sizeof(v));
}

FIBER static bool insert_rows(struct sql_tx *tx, struct add *add, const enum verdict *verdicts, size_t n_new,
                              struct err *err)
{
    struct arena *a = sql_arena(tx);
    const struct auth *auth = add->auth;
    int64_t *counts = arena_array(a, int64_t, auth->opts.n_shards), *before = arena_array(a, int64_t, auth->opts.n_shards);
    struct sql_value *params = arena_array(a, struct sql_value, ADD_PARAMS * n_new), *placed;
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
        fill_params(&n->row, n->name.domain, &params[ADD_PARAMS * k++]);
    }
    sql_queue(tx, &q_add_account, params, n_new, NULL);
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

bool account_add(struct auth *auth, const Thurn__AddAccountsRequest *q, struct arena *a, Thurn__AddAccountsReply *out, struct err *err)
{
    if (q->n_accounts > AUTH_BATCH_MAX)
        return err_set(err, ERR_LIMIT, "more than %u accounts in one request", AUTH_BATCH_MAX);
    struct add add = {.auth = auth, .request_id = (int64_t)q->request_id, .n = q->n_accounts, .arena = a, .v = arena_array(a, struct new_account, q->n_accounts)};
    struct add_txn txn = {.add = &add, .verdicts = arena_array(a, enum verdict, add.n)};
    for (size_t i = 0; i < add.n; i++) {
        add.v[i].q = q->accounts[i];
        check_new(&add, &add.v[i]);
    }
    if (!find_domains(&add, err) || !hash_all(&add, err) || !write_drawing(auth, add_body, &txn, add.request_id != 0, err))
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

struct one {
    const struct sql_stmt *st;
    struct sql_value params[8];
    struct account row;
    struct arena *arena;
    bool is_found, is_removed;
};
static void own_row(struct one *o, const struct sql_result *r)
{
    account_of_row(r, 0, &o->row);
    account_own(&o->row, o->arena);
}
FIBER static bool one_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct one *o = arg;
    struct sql_result r;
    if (!sql_exec(tx, o->st, o->params, 1, &r, err))
        return false;
    o->is_found = r.n_rows == 1;
    if (o->is_found)
        own_row(o, &r);
    if (!o->is_found || !o->is_removed)
        return true;
    struct sql_value less[2] = {sql_i(o->row.shard), sql_i(-1)};
    return sql_exec(tx, &q_add_placement, less, 1, NULL, err);
}

FIBER static bool run_one(struct auth *auth, struct one *o, const struct name *name, Thurn__AccountReply *out, struct err *err)
{
    if (!sql_write(auth->opts.directory, one_body, o, err))
        return false;
    if (!o->is_found)
        return err_set(err, ERR_NOT_FOUND, "no account '%.*s'", STR_ARG(name->address));
    directory_changed(auth, name->key, o->row.account_id);
    directory_changed(auth, arena_printf(o->arena, "!admin:%lld", (long long)o->row.tenant_id), 0);
    out->account = account_message(&o->row, o->arena);
    return true;
}

bool account_set(struct auth *auth, const Thurn__SetAccountRequest *q, struct arena *a, Thurn__AccountReply *out, struct err *err)
{
    struct name name;
    char secret[SECRET_HASH_MAX] = "";
    bool has_secret = q->has_password || q->has_password_hash;
    if (!name_parse(str_c(q->address), a, &name, err) || !name_ok(q->display_name, err) ||
        !quota_ok(q->quota_bytes, q->quota_messages, err))
        return false;
    if (q->has_state && q->state > THURN__ACCOUNT_STATE__ACCOUNT_CLOSED)
        return err_set(err, ERR_INVALID, "no account state %d", (int)q->state);
    if (has_secret && !given_secret(q->has_password ? q->password : (ProtobufCBinaryData){0, NULL}, q->password_hash, secret, err))
        return false;
    if (q->has_password && !secret[0] && !secret_make_on_pool(auth, rpc_str(q->password), secret, err))
        return false;
    struct one o = {.st = &q_set_account, .arena = a};
    o.params[0] = sql_s(name.key);
    o.params[1] = q->has_state ? sql_i(q->state) : sql_null();
    o.params[2] = q->has_quota_bytes ? sql_i((int64_t)q->quota_bytes) : sql_null();
    o.params[3] = q->has_quota_messages ? sql_i((int64_t)q->quota_messages) : sql_null();
    o.params[4] = q->has_display_name ? sql_s(str_c(q->display_name)) : sql_null();
    o.params[5] = q->has_is_admin ? sql_i(q->is_admin) : sql_null();
    o.params[6] = has_secret ? sql_s(str_c(secret)) : sql_null();
    o.params[7] = sql_i(has_secret || q->has_state);
    bool ok = run_one(auth, &o, &name, out, err);
    explicit_bzero(secret, sizeof(secret));
    return ok;
}

bool account_remove(struct auth *auth, str address, struct arena *a, Thurn__AccountReply *out, struct err *err)
{
    struct name name;
    if (!name_parse(address, a, &name, err))
        return false;
    struct one o = {.st = &q_remove_account, .arena = a, .is_removed = true};
    o.params[0] = sql_s(name.key);
    return run_one(auth, &o, &name, out, err);
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

bool account_list(struct auth *auth, const Thurn__ListRequest *q, struct arena *a, Thurn__ListAccountsReply *out, struct err *err)
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

bool account_locate(struct auth *auth, const Thurn__LocateRequest *q, struct arena *a, Thurn__LocateReply *out, struct err *err)
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
        if (acc->state == THURN__ACCOUNT_STATE__ACCOUNT_ACTIVE || acc->state == THURN__ACCOUNT_STATE__ACCOUNT_RECEIVE_ONLY)
            (void)map64_put(&c->found, (uint64_t)acc->account_id, acc); /* the same again when asked for twice, or tried twice */
    }
    return true;
}

/* Rows come in any order and may be fewer than the ids; an id may be asked for twice. */
bool account_credentials(struct auth *auth, const Thurn__CredentialsRequest *q, struct arena *a, Thurn__CredentialsReply *out,
                         struct err *err)
{
    size_t n = q->n_account_ids;
    if (n > AUTH_BATCH_MAX)
        return err_set(err, ERR_LIMIT, "more than %u accounts in one request", AUTH_BATCH_MAX);
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
    map64_done(&c.found);
    return ok;
}
