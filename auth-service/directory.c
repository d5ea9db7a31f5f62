/*
 * Look-ups. An entry of the cache is one allocation, copied into the caller's arena, because entries may go while the
 * caller waits for something else.
 */
#include "auth-service/internal.h"

#include <stdio.h>

#include "auth-service/schema.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/num.h"

#define CHANNEL "auth:changed"
#define CHANNEL_ACCOUNTS "auth:accounts" /* ids, after their keys */
#define DRAWS_MAX 3
#define SECOND_LOOKS_MAX 1000u /* a second */
/* a look-up that waits so long for a connection is answered as when the directory is away */
#define LOAD_TIMEOUT_MS 4000

struct cached {
    struct record record;                   /* its strings and targets lie behind it */
    int64_t fresh_until_ms, stale_until_ms; /* monotonic */
};

void record_free(void *p)
{
    free(p);
}

/* --- rows --- */

void account_of_row(const struct sql_result *r, size_t row, struct account *out)
{
    *out = (struct account){
        .account_id = sql_at(r, row, ACCOUNT_ID)->i,
        .tenant_id = sql_at(r, row, ACCOUNT_TENANT)->i,
        .key = sql_at(r, row, ACCOUNT_KEY)->s,
        .address = sql_at(r, row, ACCOUNT_ADDRESS)->s,
        .display_name = sql_at(r, row, ACCOUNT_NAME)->s,
        .secret = sql_at(r, row, ACCOUNT_SECRET)->s,
        .state = (Thurn__AccountState)sql_at(r, row, ACCOUNT_STATE)->i,
        .quota_bytes = (uint64_t)sql_at(r, row, ACCOUNT_QUOTA_BYTES)->i,
        .quota_messages = (uint64_t)sql_at(r, row, ACCOUNT_QUOTA_MESSAGES)->i,
        .shard = (uint32_t)sql_at(r, row, ACCOUNT_SHARD)->i,
        .epoch = (uint32_t)sql_at(r, row, ACCOUNT_EPOCH)->i,
        .created_unix = sql_at(r, row, ACCOUNT_CREATED)->i,
        .credential_version = sql_at(r, row, ACCOUNT_CREDENTIAL_VERSION)->i,
        .is_admin = sql_at(r, row, ACCOUNT_IS_ADMIN)->i != 0,
        .incarnation = sql_at(r, row, ACCOUNT_INCARNATION)->i,
        .made_by = sql_at(r, row, ACCOUNT_MADE_BY)->i,
    };
}

void domain_of_row(const struct sql_result *r, size_t row, struct domain *out)
{
    *out = (struct domain){
        .domain_id = sql_at(r, row, DOMAIN_ID)->i,
        .tenant_id = sql_at(r, row, DOMAIN_TENANT)->i,
        .name = sql_at(r, row, DOMAIN_NAME)->s,
        .catch_all = sql_at(r, row, DOMAIN_CATCH_ALL)->s,
        .is_disabled = sql_at(r, row, DOMAIN_DISABLED)->i != 0,
        .created_unix = sql_at(r, row, DOMAIN_CREATED)->i,
    };
}

/* Targets are stored one a line: addresses never hold a line break. */
static void alias_of_row(const struct sql_result *r, size_t row, struct arena *a, struct record *out)
{
    str rest = sql_at(r, row, ALIAS_TARGETS)->s, target;
    out->kind = RECORD_ALIAS;
    out->address = sql_at(r, row, ALIAS_ADDRESS)->s;
    out->targets = arena_array(a, str, AUTH_ALIAS_TARGETS_MAX);
    while (out->n_targets < AUTH_ALIAS_TARGETS_MAX && str_split(&rest, '\n', &target))
        if (target.n)
            out->targets[out->n_targets++] = target;
}

static void copy_record(const struct record *from, struct arena *a, struct record *to)
{
    *to = *from;
    to->account.key = arena_str(a, from->account.key);
    to->account.address = arena_str(a, from->account.address);
    to->account.display_name = arena_str(a, from->account.display_name);
    to->account.secret = arena_str(a, from->account.secret);
    to->domain.name = arena_str(a, from->domain.name);
    to->domain.catch_all = arena_str(a, from->domain.catch_all);
    to->address = arena_str(a, from->address);
    to->targets = arena_array(a, str, from->n_targets);
    for (size_t i = 0; i < from->n_targets; i++)
        to->targets[i] = arena_str(a, from->targets[i]);
}

/* --- cache --- */

static str keep(char **at, str s)
{
    str kept = str_n(*at, s.n);
    if (s.n)
        memcpy(*at, s.p, s.n);
    *at += s.n;
    return kept;
}

static size_t bytes_behind(const struct record *r)
{
    size_t n = r->account.key.n + r->account.address.n + r->account.display_name.n + r->account.secret.n +
               r->domain.name.n + r->domain.catch_all.n + r->address.n + r->n_targets * sizeof(*r->targets);
    for (size_t i = 0; i < r->n_targets; i++)
        n += r->targets[i].n;
    return n;
}

static struct cached *pack(const struct record *r, size_t *bytes)
{
    *bytes = sizeof(struct cached) + bytes_behind(r);
    struct cached *c = xmalloc(*bytes);
    struct record *to = &c->record;
    char *at = (char *)(c + 1) + r->n_targets * sizeof(*r->targets);
    *to = *r;
    to->targets = (str *)(void *)(c + 1);
    to->account.key = keep(&at, r->account.key);
    to->account.address = keep(&at, r->account.address);
    to->account.display_name = keep(&at, r->account.display_name);
    to->account.secret = keep(&at, r->account.secret);
    to->domain.name = keep(&at, r->domain.name);
    to->domain.catch_all = keep(&at, r->domain.catch_all);
    to->address = keep(&at, r->address);
    for (size_t i = 0; i < r->n_targets; i++)
        to->targets[i] = keep(&at, r->targets[i]);
    return c;
}

static void remember(struct auth *auth, str key, const struct record *r)
{
    int64_t now = clock_mono_ms();
    bool is_absent = r->kind == RECORD_NONE;
    unsigned ttl_s = is_absent ? auth->opts.cache_negative_ttl_s : auth->opts.cache_ttl_s;
    size_t bytes;
    struct cached *c = pack(r, &bytes);
    c->fresh_until_ms = now + (int64_t)ttl_s * 1000;
    c->stale_until_ms = now + (int64_t)MAX(ttl_s, auth->opts.cache_stale_s) * 1000;
    cache_drop(is_absent ? &auth->records : &auth->absent, key);
    cache_put(is_absent ? &auth->absent : &auth->records, key, c, bytes);
}

/* Domains share the cache with addresses: names hold no "@", keys always do, and "!" begins neither. */
static const struct record *recall(struct auth *auth, str key, bool stale_will_do, struct arena *a)
{
    const struct cached *c = cache_get(&auth->records, key);
    if (!c)
        c = cache_get(&auth->absent, key);
    if (!c || clock_mono_ms() >= (stale_will_do ? c->stale_until_ms : c->fresh_until_ms))
        return NULL;
    struct record *r = arena_new(a, struct record);
    copy_record(&c->record, a, r);
    return r;
}

/*
 * Nobody had this address a moment ago. Another process may have added it since, and a refusal is for good: look again,
 * as long as that does not become a burden to the database.
 */
static bool deserves_second_look(struct auth *auth, const struct record *r, bool is_domain)
{
    int64_t second = clock_mono_ms() / 1000;
    if (is_domain || r->kind != RECORD_NONE)
        return false;
    if (second != auth->looks_second) {
        auth->looks_second = second;
        auth->n_looks = 0;
    }
    return auth->n_looks < SECOND_LOOKS_MAX && ++auth->n_looks;
}

static void drop(struct auth *auth, str key)
{
    auth->generation++;
    cache_drop(&auth->records, key);
    cache_drop(&auth->absent, key);
}

bool write_drawing(struct auth *auth, sql_body body, void *arg, bool has_key, struct err *err)
{
    for (int i = 0; i < DRAWS_MAX; i++) {
        err_clear(err);
        if (sql_write(auth->opts.directory, body, arg, err) ||
            (err->kind != ERR_EXISTS && !(err->kind == ERR_TIMEOUT && has_key)))
            break;
    }
    return !err_is_set(err);
}

/* The key goes first: whoever hears of the account finds it dropped. */
void directory_changed(struct auth *auth, str key, int64_t account_id)
{
    char id[24];
    drop(auth, key);
    news_note(&auth->news, account_id);
    if (!auth->opts.redis)
        return;
    redis_publish(auth->opts.redis, S(CHANNEL), key);
    int n = snprintf(id, sizeof(id), "%lld", (long long)account_id);
    if (account_id)
        redis_publish(auth->opts.redis, S(CHANNEL_ACCOUNTS), str_n(id, (size_t)n));
}

static void on_message(void *arg, str channel, str payload)
{
    struct auth *auth = arg;
    int64_t id = 0;
    if (str_eq(channel, S(CHANNEL)))
        drop(auth, payload);
    else if (!str_eq(channel, S(CHANNEL_ACCOUNTS)) || !num_i64(payload, 1, INT64_MAX, &id))
        return;
    news_note(&auth->news, id);
}
/* Messages may have been lost: nothing that is cached is to be trusted as fresh. It stays for when the database is
 * away. */
static void on_gap(void *arg)
{
    struct auth *auth = arg;
    auth->generation++;
    news_lose(&auth->news);
    cache_clear(&auth->absent); /* that somebody is not there is never served stale */
    str key;
    void *slot;
    for (struct map_iter it = {0}; map_next(&auth->records.map, &it, &key, &slot);) {
        struct cached *c = cache_get(&auth->records, key);
        c->fresh_until_ms = 0;
    }
}

void directory_listen(struct auth *auth)
{
    if (!auth->opts.redis)
        return;
    struct err ignored = ERR_INIT; /* without messages entries live out their time */
    redis_on_message(auth->opts.redis, on_message, on_gap, auth);
    IGNORE(redis_subscribe(auth->opts.redis, S(CHANNEL), &ignored));
    IGNORE(redis_subscribe(auth->opts.redis, S(CHANNEL_ACCOUNTS), &ignored));
}

/* --- look-ups --- */

struct load {
    const str *keys;
    size_t n;
    bool is_domain;
    struct arena *arena;
    const struct record **out; /* of keys; NULL before */
};

/* Give every wanted key of this row its record. A key may be wanted more than once. */
static void hand_out(struct load *l, str key, const struct record *r)
{
    for (size_t i = 0; i < l->n; i++)
        if (!l->out[i] && str_eq(l->keys[i], key)) {
            struct record *copy = arena_new(l->arena, struct record);
            copy_record(r, l->arena, copy);
            l->out[i] = copy;
        }
}

static void take_accounts(struct load *l, const struct sql_result *r)
{
    for (size_t i = 0; i < r->n_rows; i++) {
        struct record rec = {.kind = RECORD_ACCOUNT};
        account_of_row(r, i, &rec.account);
        hand_out(l, rec.account.key, &rec);
    }
}

static void take_aliases(struct load *l, const struct sql_result *r, struct arena *scratch)
{
    for (size_t i = 0; i < r->n_rows; i++) {
        struct record rec = {.kind = RECORD_NONE};
        alias_of_row(r, i, scratch, &rec);
        hand_out(l, sql_at(r, i, ALIAS_KEY)->s, &rec);
    }
}

static void take_domains(struct load *l, const struct sql_result *r)
{
    for (size_t i = 0; i < r->n_rows; i++) {
        struct record rec = {.kind = RECORD_DOMAIN};
        domain_of_row(r, i, &rec.domain);
        hand_out(l, rec.domain.name, &rec);
    }
}

FIBER static bool load_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct load *l = arg;
    struct sql_value *params = arena_array(sql_arena(tx), struct sql_value, l->n);
    for (size_t i = 0; i < l->n; i++) {
        params[i] = sql_s(l->keys[i]);
        l->out[i] = NULL;
    }
    struct sql_result first = {0}, second = {0};
    sql_queue(tx, l->is_domain ? &q_domains_by_name : &q_accounts_by_key, params, l->n, &first);
    if (!l->is_domain)
        sql_queue(tx, &q_aliases_by_key, params, l->n, &second);
    if (!sql_run(tx, err))
        return false;
    if (l->is_domain) {
        take_domains(l, &first);
    } else {
        take_accounts(l, &first);
        take_aliases(l, &second, sql_arena(tx));
    }
    return true;
}

/* Read the keys from the database and remember what was found, also that there is nothing. */
FIBER static bool load(struct auth *auth, const str *keys, size_t n, bool is_domain, struct arena *a,
                       const struct record **out, struct err *err)
{
    static const struct record none = {.kind = RECORD_NONE};
    struct load l = {.keys = keys, .n = n, .is_domain = is_domain, .arena = a, .out = out};
    uint64_t generation = auth->generation;
    FIBER_DEADLINE(LOAD_TIMEOUT_MS);
    if (!sql_read(auth->opts.directory, load_body, &l, err))
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!out[i])
            out[i] = &none;
        if (generation == auth->generation)
            remember(auth, keys[i], out[i]);
    }
    return true;
}

bool directory_get(struct auth *auth, const str *keys, size_t n, bool is_domain, struct arena *a,
                   const struct record **out, struct err *err)
{
    str *missing = arena_array(a, str, n);
    size_t *where = arena_array(a, size_t, n), n_missing = 0;
    for (size_t i = 0; i < n; i++) {
        out[i] = recall(auth, keys[i], false, a);
        if (out[i] && deserves_second_look(auth, out[i], is_domain))
            out[i] = NULL;
        metric_inc_label(M_AUTH_CACHE, out[i] ? "hit" : "miss");
        if (!out[i]) {
            missing[n_missing] = keys[i];
            where[n_missing++] = i;
        }
    }
    if (n_missing == 0)
        return true;
    const struct record **loaded = arena_array(a, const struct record *, n_missing);
    bool ok = load(auth, missing, n_missing, is_domain, a, loaded, err);
    if (!ok && !err_is_temporary(err))
        return false;
    for (size_t i = 0; i < n_missing; i++) {
        out[where[i]] = ok ? loaded[i] : recall(auth, missing[i], true, a);
        if (!out[where[i]] || (!ok && !is_domain && out[where[i]]->kind == RECORD_NONE))
            return false; /* away, and no old answer, or one that may have become wrong and would refuse for good */
    }
    if (!ok) {
        metric_inc_label(M_AUTH_CACHE, "stale");
        err_clear(err);
    }
    return true;
}

bool directory_get_fresh(struct auth *auth, str key, struct arena *a, const struct record **out, struct err *err)
{
    return load(auth, &key, 1, false, a, out, err);
}

bool directory_admin(struct auth *auth, int64_t tenant_id, struct arena *a, const struct record **out, struct err *err)
{
    str key = arena_printf(a, "!admin:%lld", (long long)tenant_id);
    if ((*out = recall(auth, key, false, a)))
        return true;
    struct sql_value param = sql_i(tenant_id);
    struct sql_result r;
    if (!sql_query(auth->opts.directory, &q_admin_of, &param, a, &r, err)) {
        if (!err_is_temporary(err) || !(*out = recall(auth, key, true, a)))
            return false;
        err_clear(err);
        return true;
    }
    struct record *rec = arena_new(a, struct record);
    if (r.n_rows) {
        rec->kind = RECORD_ACCOUNT;
        account_of_row(&r, 0, &rec->account);
    }
    remember(auth, key, rec);
    *out = rec;
    return true;
}

/* --- messages --- */

Thurn__AccountRef *account_ref(const struct account *acc, struct arena *a)
{
    Thurn__AccountRef *r = arena_new(a, Thurn__AccountRef);
    thurn__account_ref__init(r);
    r->account_id = acc->account_id;
    r->tenant_id = acc->tenant_id;
    r->shard = acc->shard;
    r->epoch = acc->epoch;
    r->quota_bytes = acc->quota_bytes;
    r->quota_messages = acc->quota_messages;
    r->incarnation = (uint64_t)acc->incarnation;
    return r;
}

Thurn__Account *account_message(const struct account *acc, struct arena *a)
{
    Thurn__Account *m = arena_new(a, Thurn__Account);
    thurn__account__init(m);
    m->account_id = acc->account_id;
    m->tenant_id = acc->tenant_id;
    m->address = arena_strz(a, acc->address);
    m->state = acc->state;
    m->quota_bytes = acc->quota_bytes;
    m->quota_messages = acc->quota_messages;
    m->shard = acc->shard;
    m->epoch = acc->epoch;
    m->display_name = arena_strz(a, acc->display_name);
    m->created_unix = (uint64_t)acc->created_unix;
    m->is_admin = acc->is_admin;
    m->incarnation = (uint64_t)acc->incarnation;
    return m;
}

Thurn__Domain *domain_message(const struct domain *d, struct arena *a)
{
    Thurn__Domain *m = arena_new(a, Thurn__Domain);
    thurn__domain__init(m);
    m->domain_id = d->domain_id;
    m->tenant_id = d->tenant_id;
    m->name = arena_strz(a, d->name);
    m->catch_all = arena_strz(a, d->catch_all);
    m->is_disabled = d->is_disabled;
    m->created_unix = (uint64_t)d->created_unix;
    return m;
}

void like_add(struct buf *b, str literal)
{
    for (size_t i = 0; i < literal.n; i++) {
        if (literal.p[i] == '%' || literal.p[i] == '_' || literal.p[i] == '\\')
            buf_addc(b, '\\');
        buf_addc(b, (char)ascii_lower((unsigned char)literal.p[i]));
    }
}

str like_pattern(const char *match, struct arena *a)
{
    BUF(b, 2 * NAME_KEY_MAX + 2);
    if (!match[0])
        return S("");
    buf_addc(&b, '%');
    like_add(&b, str_c(match));
    buf_addc(&b, '%');
    return arena_str(a, buf_str(&b));
}

bool directory_page(struct auth *auth, const struct sql_stmt *st, const Thurn__ListRequest *q, struct arena *a,
                    struct sql_result *out, size_t *limit, struct err *err)
{
    str domain = S("");
    if (q->domain[0] && !name_domain(str_c(q->domain), a, &domain, err))
        return false;
    *limit = q->limit == 0 ? 100 : MIN(q->limit, AUTH_BATCH_MAX);
    if (strlen(q->match) > NAME_KEY_MAX)
        return err_set(err, ERR_LIMIT, "search text is longer than %u bytes", NAME_KEY_MAX);
    struct sql_value params[4] = {sql_s(str_c(q->after)), sql_i((int64_t)*limit), sql_s(domain),
                                  sql_s(like_pattern(q->match, a))};
    return sql_query(auth->opts.directory, st, params, a, out, err);
}
