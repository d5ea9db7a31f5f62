/*
 * Where mail for an address goes. A pass over the addresses works only on what is already known (no waiting, plain
 * recursion); what it misses is noted, read in one round trip, and the pass is made again.
 *
 * Order: account or alias of the exact address; the same without "+detail"; postmaster and abuse of any of our domains,
 * and postmaster without a domain, fall to an admin (RFC 5321 4.5.1, RFC 2142); the domain's catch-all.
 */
#include "auth-service/internal.h"

#include "base/num.h"

#define DEPTH_MAX 16u
#define ALIASES_MAX 1000u /* expanded for one address */
#define ROUNDS_MAX 64u

struct resolver {
    struct auth *auth;
    struct arena *arena;
    struct map known; /* key, domain name, or "!<tenant>" for its admin -> const struct record */
    struct map wanted_keys, wanted_domains, wanted_admins; /* missing in this pass; values are non-NULL */
    /* of the address in hand */
    Thurn__Target *targets[AUTH_ALIAS_TARGETS_MAX + 1], *suspended[AUTH_ALIAS_TARGETS_MAX + 1];
    bool has_loop; /* on the way of one of the addresses, whether it led elsewhere too or not */
};

/* One address being resolved. */
struct expansion {
    struct resolver *r;
    struct map seen; /* alias key -> IN_PROGRESS or DONE */
    size_t n_aliases;
    size_t n_targets, n_suspended;
    bool is_incomplete, has_loop, is_too_large, has_closed;
};
static char in_progress, done;

static const struct record *known(struct expansion *e, struct map *wanted, str key)
{
    const struct record *rec = map_get(&e->r->known, key);
    if (!rec) {
        (void)map_put(wanted, key, e->r); /* any value that is not NULL */
        e->is_incomplete = true;
    }
    return rec;
}

static bool has_target(Thurn__Target **list, size_t n, const Thurn__Target *t)
{
    for (size_t i = 0; i < n; i++)
        if (t->account ? list[i]->account && list[i]->account->account_id == t->account->account_id
                       : !list[i]->account && strcmp(list[i]->address, t->address) == 0)
            return true;
    return false;
}

static void add_target(struct expansion *e, const struct account *acc, str address, str detail, bool is_suspended)
{
    struct arena *a = e->r->arena;
    Thurn__Target *t = arena_new(a, Thurn__Target);
    thurn__target__init(t);
    if (acc && !is_suspended)
        t->account = account_ref(acc, a);
    t->address = arena_strz(a, address);
    t->detail = arena_strz(a, detail);
    Thurn__Target **list = is_suspended ? e->r->suspended : e->r->targets;
    size_t *n = is_suspended ? &e->n_suspended : &e->n_targets;
    if (has_target(list, *n, t))
        return;
    if (e->n_targets + e->n_suspended == AUTH_ALIAS_TARGETS_MAX) {
        e->is_too_large = true;
        return;
    }
    list[(*n)++] = t;
}

static void add_account(struct expansion *e, const struct account *acc, str address, str detail)
{
    if (acc->state == THURN__ACCOUNT_STATE__ACCOUNT_CLOSED)
        e->has_closed = true;
    else
        add_target(e, acc, address, detail, acc->state == THURN__ACCOUNT_STATE__ACCOUNT_SUSPENDED);
}

static bool walk(struct expansion *e, str address, unsigned depth);

static void walk_alias(struct expansion *e, str key, const struct record *rec, unsigned depth)
{
    void *state = map_get(&e->seen, key);
    if (state == &done)
        return;
    if (state == &in_progress || depth == DEPTH_MAX) {
        e->has_loop = true;
        return;
    }
    if (++e->n_aliases > ALIASES_MAX) {
        e->is_too_large = true;
        return;
    }
    (void)map_put(&e->seen, key, &in_progress);
    for (size_t i = 0; i < rec->n_targets; i++)
        (void)walk(e, rec->targets[i], depth + 1); /* an unknown member is left out */
    (void)map_put(&e->seen, key, &done);
}

/* A key that may hold an account or an alias. */
static bool walk_key(struct expansion *e, str key, str address, str detail, unsigned depth)
{
    const struct record *rec = known(e, &e->r->wanted_keys, key);
    if (!rec || rec->kind == RECORD_NONE)
        return false;
    if (rec->kind == RECORD_ACCOUNT)
        add_account(e, &rec->account, address, detail);
    else
        walk_alias(e, key, rec, depth);
    return true;
}

/* An admin of the tenant, or of another one. */
static bool walk_admin(struct expansion *e, int64_t tenant_id)
{
    str key = arena_printf(e->r->arena, "!%lld", (long long)tenant_id);
    const struct record *rec = known(e, &e->r->wanted_admins, key);
    if (!rec || rec->kind == RECORD_NONE)
        return false;
    add_account(e, &rec->account, rec->account.address, S(""));
    return true;
}

static bool walk_postmaster(struct expansion *e, const struct name *name, const struct domain *domain)
{
    return (str_eq(name->local, S("postmaster")) || str_eq(name->local, S("abuse"))) &&
           walk_admin(e, domain->tenant_id);
}

static bool walk_local(struct expansion *e, const struct name *name, const struct domain *domain, unsigned depth)
{
    struct arena *a = e->r->arena;
    str base = STR_NONE, detail = S("");
    bool has_detail = name_split_detail(name->local, &base, &detail);
    str base_key = has_detail ? name_key(base, name->domain, a) : STR_NONE;
    if (has_detail) /* wanted together with the exact key, in one round trip */
        (void)known(e, &e->r->wanted_keys, base_key);
    if (walk_key(e, name->key, name->address, S(""), depth) || e->is_incomplete)
        return true;
    if (has_detail && walk_key(e, base_key, name->address, detail, depth))
        return true;
    if (walk_postmaster(e, name, domain) || e->is_incomplete)
        return true;
    return domain->catch_all.n && depth < DEPTH_MAX && walk(e, domain->catch_all, depth + 1);
}

/* False: nothing is known under this address (and what is needed to say so was known). */
static bool walk(struct expansion *e, str address, unsigned depth)
{
    struct arena *a = e->r->arena;
    struct name name;
    struct err ignored = ERR_INIT;               /* no address: nobody has it */
    if (str_eq_nocase(address, S("postmaster"))) /* RFC 5321 4.1.1.3 */
        return walk_admin(e, 0) || e->is_incomplete;
    if (!name_parse(address, a, &name, &ignored))
        return false;
    if (str_starts(name.domain, S("["))) {
        add_target(e, NULL, name.address, S(""), false);
        return true;
    }
    const struct record *rec = known(e, &e->r->wanted_domains, name.domain);
    if (!rec)
        return true;
    if (rec->kind == RECORD_NONE)
        add_target(e, NULL, name.address, S(""), false);
    else if (rec->domain.is_disabled)
        add_target(e, NULL, name.address, S(""), true);
    else
        return walk_local(e, &name, &rec->domain, depth);
    return true;
}

static bool is_remote(const struct resolver *r, str address)
{
    struct name name;
    struct err ignored = ERR_INIT; /* checked by walk before */
    if (!name_parse(address, r->arena, &name, &ignored))
        return false;
    const struct record *rec = map_get(&r->known, name.domain);
    return str_starts(name.domain, S("[")) || (rec && rec->kind == RECORD_NONE);
}

static Thurn__Resolution *conclude(struct expansion *e, str address)
{
    struct arena *a = e->r->arena;
    Thurn__Resolution *out = arena_new(a, Thurn__Resolution);
    thurn__resolution__init(out);
    if (is_remote(e->r, address)) {
        out->kind = THURN__RECIPIENT_KIND__RECIPIENT_REMOTE;
    } else if (e->is_too_large) {
        out->kind = THURN__RECIPIENT_KIND__RECIPIENT_LOOP;
        return out;
    } else if (e->n_targets) {
        out->kind = THURN__RECIPIENT_KIND__RECIPIENT_LOCAL;
        /* Suspended members go without an account: they wait in the queue, which asks again. */
        for (size_t i = 0; i < e->n_suspended; i++)
            e->r->targets[e->n_targets++] = e->r->suspended[i];
    } else {
        out->kind = e->n_suspended  ? THURN__RECIPIENT_KIND__RECIPIENT_SUSPENDED
                    : e->has_loop   ? THURN__RECIPIENT_KIND__RECIPIENT_LOOP
                    : e->has_closed ? THURN__RECIPIENT_KIND__RECIPIENT_CLOSED
                                    : THURN__RECIPIENT_KIND__RECIPIENT_UNKNOWN;
        return out;
    }
    out->n_targets = e->n_targets;
    out->targets = arena_array(a, Thurn__Target *, e->n_targets);
    if (e->n_targets)
        memcpy(out->targets, e->r->targets, e->n_targets * sizeof(out->targets[0]));
    return out;
}

/* NULL when something has to be read first. */
static Thurn__Resolution *resolve_one(struct resolver *r, str address)
{
    struct expansion e = {.r = r};
    map_init(&e.seen);
    (void)walk(&e, address, 0); /* unknown shows as no targets */
    map_done(&e.seen);
    if (e.is_incomplete)
        return NULL;
    r->has_loop |= e.has_loop;
    return conclude(&e, address);
}

/* --- reading what is missing --- */

FIBER static bool learn(struct resolver *r, struct map *wanted, bool is_domain, struct err *err)
{
    str key, *keys = arena_array(r->arena, str, wanted->n);
    const struct record **found = arena_array(r->arena, const struct record *, wanted->n);
    size_t n = 0;
    void *value;
    for (struct map_iter it = {0}; n < AUTH_BATCH_MAX && map_next(wanted, &it, &key, &value);)
        keys[n++] = arena_str(r->arena, key);
    map_done(wanted);
    map_init(wanted);
    if (n == 0)
        return true;
    if (!directory_get(r->auth, keys, n, is_domain, r->arena, found, err))
        return false;
    for (size_t i = 0; i < n; i++)
        (void)map_put(&r->known, keys[i], (void *)(uintptr_t)found[i]); /* nothing was there */
    return true;
}

FIBER static bool learn_admins(struct resolver *r, struct err *err)
{
    str key;
    void *value;
    for (struct map_iter it = {0}; map_next(&r->wanted_admins, &it, &key, &value);) {
        int64_t tenant_id;
        const struct record *found;
        if (!num_i64(str_slice(key, 1, SIZE_MAX), INT64_MIN, INT64_MAX, &tenant_id) ||
            !directory_admin(r->auth, tenant_id, r->arena, &found, err))
            return false;
        (void)map_put(&r->known, key, (void *)(uintptr_t)found); /* nothing was there */
    }
    map_done(&r->wanted_admins);
    map_init(&r->wanted_admins);
    return true;
}

FIBER static bool rounds(struct resolver *r, char *const *addresses, size_t n, Thurn__Resolution **out, struct err *err)
{
    for (unsigned round = 0; round < ROUNDS_MAX; round++) {
        size_t missing = 0;
        for (size_t i = 0; i < n; i++)
            if (!out[i] && !(out[i] = resolve_one(r, str_c(addresses[i]))))
                missing++;
        if (missing == 0)
            return true;
        if (!arena_ok(r->arena))
            return err_set(err, ERR_LIMIT, "alias expansion needs too much memory");
        if (!learn(r, &r->wanted_domains, true, err) || !learn(r, &r->wanted_keys, false, err) || !learn_admins(r, err))
            return false;
    }
    return err_set(err, ERR_LIMIT, "alias expansion takes too many rounds");
}

bool resolve_as_if(struct auth *auth, str key, const struct record *rec, char *const *addresses, size_t n,
                   struct arena *a, Thurn__Resolution **out, bool *has_loop, struct err *err)
{
    if (n > AUTH_BATCH_MAX)
        return err_set(err, ERR_LIMIT, "more than %u addresses", AUTH_BATCH_MAX);
    struct resolver *r = arena_new(a, struct resolver);
    r->auth = auth;
    r->arena = a;
    struct map *maps[] = {&r->known, &r->wanted_keys, &r->wanted_domains, &r->wanted_admins};
    for (size_t i = 0; i < ARRAY_LEN(maps); i++)
        map_init(maps[i]);
    for (size_t i = 0; i < n; i++)
        out[i] = NULL;
    if (rec)
        (void)map_put(&r->known, key, (void *)(uintptr_t)rec); /* nothing was there */
    bool ok = rounds(r, addresses, n, out, err);
    for (size_t i = 0; i < ARRAY_LEN(maps); i++)
        map_done(maps[i]);
    *has_loop = r->has_loop;
    return ok;
}

bool resolve(struct auth *auth, char *const *addresses, size_t n, struct arena *a, Thurn__Resolution **out,
             struct err *err)
{
    bool has_loop; /* shows in the resolutions */
    return resolve_as_if(auth, STR_NONE, NULL, addresses, n, a, out, &has_loop, err);
}
