/*
 * One attempt to log in. What a stranger can learn is the same whether the account exists or not: the same answer, the
 * same amount of hashing, the same delays.
 *
 * Guessing is slowed down by two buckets of failures, of the peer's address (/64 for IPv6) and of the account: the more
 * tokens are gone, the longer the answer takes; when one is empty the answer is LIMIT before anything is hashed. An
 * attempt takes its tokens before the password is looked at, so that many at one time are not more than the limit, and
 * gets them back unless the password was wrong; who finds a bucket emptied by attempts that are not decided yet waits
 * for them. The same wrong password for the same account (a forgotten device) is counted once. A success fills up the
 * account's bucket, not the address'.
 */
#include "auth-service/internal.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "auth-service/schema.h"
#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/metrics.h"
#include "fiber/work.h"
#include "net/addr.h"

/* log-ins that wait out a penalty at one time; more are answered LIMIT at once */
#define DELAYED_MAX 1000u
#define MISTAKE_TTL_MS (30 * 60 * 1000)
#define DEADLINE_MARGIN_MS 500

struct attempt {
    struct auth *auth;
    const Thurn__AuthenticateRequest *q;
    struct arena *arena;
    str login, password, ip_key;
    str account_key;              /* of the failure bucket and of the mistakes: the login as it is compared */
    struct limit_verdict verdict; /* of the two buckets before: [0] address, [1] account */
    bool is_charged[2];           /* a token of each is taken and not decided on */
    unsigned char mac[32];        /* of the password, under the account */
};

/* --- what is remembered of passwords: only a MAC under a key that dies with the process --- */

static void password_mac(const struct auth *auth, str scope, int64_t version, str password, unsigned char out[32])
{
    BUF(b, NAME_KEY_MAX + SECRET_PASSWORD_MAX + 64);
    buf_printf(&b, "%zu:", scope.n);
    buf_add(&b, scope);
    buf_printf(&b, ":%lld:", (long long)version);
    buf_add(&b, password);
    unsigned n = 32;
    if (!HMAC(EVP_sha256(), auth->mac_key, sizeof(auth->mac_key), (const unsigned char *)b.p, b.n, out, &n))
        panic("HMAC-SHA256 failed");
    explicit_bzero(b.p, b.n);
}

static bool remembered(struct cache *c, const unsigned char mac[32])
{
    const int64_t *until_ms = cache_get(c, str_n(mac, 32));
    return until_ms && *until_ms > clock_mono_ms();
}

static void remember_mac(struct cache *c, const unsigned char mac[32], int64_t ttl_ms)
{
    int64_t *until_ms = xnew(int64_t);
    *until_ms = clock_mono_ms() + ttl_ms;
    cache_put(c, str_n(mac, 32), until_ms, sizeof(*until_ms));
}

/* --- penalties --- */

static str ip_limit_key(ProtobufCBinaryData ip, struct arena *a)
{
    struct net_addr addr;
    char text[NET_ADDR_TEXT_MAX];
    if (!net_ip_parse(rpc_str(ip), &addr))
        return S("unknown");
    return arena_str(a, net_addr_limit_key(&addr, text));
}

static const enum limit buckets[2] = {LIMIT_AUTH_FAILURES_IP, LIMIT_AUTH_FAILURES_ACCOUNT};

static str bucket_key(const struct attempt *t, size_t i)
{
    return i == 0 ? t->ip_key : t->account_key;
}

/* The attempts of this process at one bucket. */
struct undecided {
    size_t n;         /* hold a token and are not decided */
    size_t n_waiting; /* found it empty, and wait for those */
    struct fiber_cond decided;
};

static void forget_if_idle(struct attempt *t, size_t i, struct undecided *u)
{
    if (u->n || u->n_waiting)
        return;
    (void)map_remove(&t->auth->undecided[i], bucket_key(t, i));
    free(u);
}

static void begin_undecided(struct attempt *t, size_t i)
{
    struct undecided *u = map_get(&t->auth->undecided[i], bucket_key(t, i));
    if (!u) {
        u = xnew(struct undecided);
        fiber_cond_init(&u->decided);
        (void)map_put(&t->auth->undecided[i], bucket_key(t, i), u); /* nothing was there */
    }
    u->n++;
}

/* A token that came back is for one of those who wait; when no more can come back, each of them gets its answer. */
static void end_undecided(struct attempt *t, size_t i, bool is_token_back)
{
    struct undecided *u = map_get(&t->auth->undecided[i], bucket_key(t, i));
    if (--u->n == 0)
        fiber_cond_broadcast(&u->decided);
    else if (is_token_back)
        fiber_cond_signal(&u->decided);
    forget_if_idle(t, i, u);
}

/* False: nobody holds a token, or too many wait already, or the wait failed with an error. */
FIBER static bool wait_for_decision(struct attempt *t, size_t i, struct err *err)
{
    struct undecided *u = map_get(&t->auth->undecided[i], bucket_key(t, i));
    if (!u || !u->n || t->auth->n_delayed >= DELAYED_MAX)
        return false;
    t->auth->n_delayed++;
    u->n_waiting++;
    metric_inc(M_AUTH_WAITS);
    bool ok = fiber_cond_wait(&u->decided, err);
    u->n_waiting--;
    t->auth->n_delayed--;
    if (!ok)
        fiber_cond_signal(&u->decided); /* it may have been woken for a token: that is the next one's */
    forget_if_idle(t, i, u);
    return ok;
}

/*
 * Take a token of one bucket, before the other: an empty one of the address must not fill the account's. Not granted:
 * see t->verdict. False: the call has failed.
 */
FIBER static bool charge(struct attempt *t, size_t i, struct err *err)
{
    struct auth *auth = t->auth;
    const struct limits_take take = {limit_name(buckets[i]), bucket_key(t, i), 1};
    struct limit_verdict v;
    for (;;) {
        if (!limits_take(auth->limits, &take, 1, &v, err))
            return false;
        if (v.is_granted)
            break;
        if (!wait_for_decision(t, i, err)) {
            if (err_is_set(err))
                return false;
            break;
        }
    }
    t->verdict.used[i] = v.used[0];
    t->verdict.is_granted = v.is_granted;
    t->verdict.retry_after_ms = v.retry_after_ms;
    t->is_charged[i] = v.is_granted;
    if (v.is_granted)
        begin_undecided(t, i);
    return true;
}

/* The attempt was a failure that counts, or it was none and gets its tokens back. */
FIBER static void decide(struct attempt *t, bool is_failure)
{
    for (size_t i = 0; i < 2; i++) {
        if (!t->is_charged[i])
            continue;
        t->is_charged[i] = false;
        if (!is_failure)
            limits_give(t->auth->limits, limit_name(buckets[i]), bucket_key(t, i), 1);
        end_undecided(t, i, !is_failure); /* not before the tokens are back: who waits for them would find neither */
    }
}

/* 2, 4, 8, 15, 15, … seconds by default. */
static int64_t penalty_ms(const struct attempt *t)
{
    uint32_t before = MAX(t->verdict.used[0], t->verdict.used[1]);
    int64_t ms = t->auth->opts.penalty_first_ms;
    for (uint32_t i = 0; i < before && ms < t->auth->opts.penalty_max_ms; i++)
        ms *= 2;
    return MIN(ms, t->auth->opts.penalty_max_ms);
}

static void log_failure(const struct attempt *t, const char *result)
{
    metric_inc_label(M_AUTH_LOGINS, result);
    log_info("auth.failed", KV_Z("login", t->q->login), KV_STR("peer", rpc_str(t->q->peer_ip)),
             KV_Z("service", t->q->service), KV_Z("result", result), KV_Z("session", t->q->session));
}

/* The one answer for all that is wrong, after its delay. */
FIBER static bool deny(struct attempt *t, const char *result, struct err *err)
{
    struct auth *auth = t->auth;
    log_failure(t, result);
    bool is_new = !remembered(&auth->mistakes, t->mac);
    if (is_new)
        remember_mac(&auth->mistakes, t->mac, MISTAKE_TTL_MS);
    decide(t, is_new);
    if (auth->n_delayed >= DELAYED_MAX) {
        metric_inc_label(M_AUTH_LOGINS, "delayed_full");
        /* and not BUSY: it was tried, and no other node is to try it again */
        return err_set(err, ERR_LIMIT, "too many failed log-ins at one time");
    }
    int64_t ms = penalty_ms(t), left = fiber_deadline();
    if (left != FIBER_NO_DEADLINE)
        ms = MAX(MIN(ms, left - clock_mono_ms() - DEADLINE_MARGIN_MS), 0);
    auth->n_delayed++;
    bool ok = fiber_sleep_ms(ms, err);
    auth->n_delayed--;
    return ok && err_set(err, ERR_DENIED, "wrong login or password");
}

static bool limited(struct attempt *t, struct err *err)
{
    log_failure(t, "limited");
    return err_set(err, ERR_LIMIT, "too many failed log-ins; again in %llu s",
                   (unsigned long long)(t->verdict.retry_after_ms + 999) / 1000);
}

/* --- hashing --- */

struct check {
    str hash, password;
    bool fits;
};
static void run_check(void *arg)
{
    struct check *c = arg;
    c->fits = secret_verify(c->hash, c->password);
}
FIBER static bool check_on_pool(str hash, str password, bool *fits, struct err *err)
{
    struct check c = {.hash = hash, .password = password};
    metric_inc(M_AUTH_HASHES);
    if (!work_run(run_check, &c, err))
        return false;
    *fits = c.fits;
    return true;
}

struct make {
    str password;
    struct secret_cost cost;
    char *out;
    bool ok;
    struct err err;
};
static void run_make(void *arg)
{
    struct make *m = arg;
    m->ok = secret_make(m->password, &m->cost, m->out, &m->err);
}
bool secret_make_on_pool(struct auth *auth, str password, char *out, struct err *err)
{
    struct make m = {.password = password,
                     .cost = {auth->opts.argon2_memory_kib, auth->opts.argon2_passes},
                     .out = out,
                     .err = ERR_INIT};
    metric_inc(M_AUTH_HASHES);
    if (!work_run(run_make, &m, err))
        return false;
    if (!m.ok)
        *err = m.err;
    return m.ok;
}

/* As much hashing as a known account costs. */
FIBER static bool hash_for_nothing(struct auth *auth, str password, struct err *err)
{
    bool ignored;
    if (!auth->dummy_secret) {
        char made[SECRET_HASH_MAX];
        if (!secret_make_on_pool(auth, S("nobody's password"), made, err))
            return false;
        if (!auth->dummy_secret)
            auth->dummy_secret = xstrdup(made);
    }
    return check_on_pool(str_c(auth->dummy_secret), password, &ignored, err);
}

/* --- rehash at the first login with an older scheme --- */

struct replace {
    int64_t account_id;
    str old_secret, new_secret;
};
FIBER static bool replace_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct replace *r = arg;
    struct sql_value params[3] = {sql_i(r->account_id), sql_s(r->old_secret), sql_s(r->new_secret)};
    return sql_exec(tx, &q_replace_secret, params, 1, NULL, err);
}

FIBER static void modernise(struct attempt *t, const struct account *acc)
{
    struct auth *auth = t->auth;
    struct secret_cost cost = {auth->opts.argon2_memory_kib, auth->opts.argon2_passes};
    char made[SECRET_HASH_MAX];
    struct err err = ERR_INIT;
    if (!secret_is_outdated(acc->secret, &cost))
        return;
    struct replace r = {.account_id = acc->account_id, .old_secret = acc->secret};
    bool ok = secret_make_on_pool(auth, t->password, made, &err);
    r.new_secret = str_c(made);
    ok = ok && sql_write(auth->opts.directory, replace_body, &r, &err);
    if (ok)
        directory_changed(auth, acc->key, 0); /* the login stands: it is the same password */
    else
        log_warn("auth.rehash_failed", KV_STR("account", acc->address), KV_ERR(&err)); /* the next login tries again */
}

/* --- the attempt --- */

static bool may_log_in(const struct account *acc)
{
    return acc->state == THURN__ACCOUNT_STATE__ACCOUNT_ACTIVE ||
           acc->state == THURN__ACCOUNT_STATE__ACCOUNT_RECEIVE_ONLY;
}

static bool accept_login(struct attempt *t, const struct account *acc, Thurn__AuthenticateReply *out)
{
    out->account = account_ref(acc, t->arena);
    out->address = arena_strz(t->arena, acc->address);
    out->state = acc->state;
    out->display_name = arena_strz(t->arena, acc->display_name);
    out->is_admin = acc->is_admin;
    out->credential_version = acc->credential_version;
    struct rpc_pass pass;
    rpc_pass_make(&(struct rpc_principal){.account_id = acc->account_id,
                                          .tenant_id = acc->tenant_id,
                                          .incarnation = (uint64_t)acc->incarnation,
                                          .credential_version = acc->credential_version},
                  &pass);
    out->pass = rpc_bytes(arena_str(t->arena, rpc_pass_str(&pass)));
    return true;
}

/* Whether this password was found to fit this version of the credentials a short while ago. */
static bool is_verified(struct attempt *t, const struct account *acc, unsigned char mac[32])
{
    password_mac(t->auth, arena_printf(t->arena, "%lld", (long long)acc->account_id), acc->credential_version,
                 t->password, mac);
    return remembered(&t->auth->verified, mac);
}

FIBER static bool log_in_known(struct attempt *t, const struct account *acc, Thurn__AuthenticateReply *out,
                               struct err *err)
{
    unsigned char mac[32];
    bool fits = false;
    if (is_verified(t, acc, mac) && may_log_in(acc)) {
        metric_inc_label(M_AUTH_LOGINS, "cached");
        return accept_login(t, acc, out);
    }
    if (!charge(t, 1, err))
        return false;
    if (!t->verdict.is_granted)
        return limited(t, err);
    if (!check_on_pool(acc->secret, t->password, &fits, err))
        return false;
    if (!fits) { /* it may have been changed elsewhere a moment ago */
        const struct record *fresh;
        if (!directory_get_fresh(t->auth, acc->key, t->arena, &fresh, err)) {
            if (!err_is_temporary(err))
                return false;
            err_clear(err);
        } else if (fresh->kind == RECORD_ACCOUNT && !str_eq(fresh->account.secret, acc->secret)) {
            acc = &fresh->account;
            if (!check_on_pool(acc->secret, t->password, &fits, err))
                return false;
        }
    }
    if (!fits || !may_log_in(acc))
        return deny(t, "wrong", err);
    (void)is_verified(t, acc, mac); /* for mac: the version may be another now */
    remember_mac(&t->auth->verified, mac, (int64_t)t->auth->opts.verified_ttl_s * 1000);
    limits_reset(t->auth->limits, limit_name(LIMIT_AUTH_FAILURES_ACCOUNT), t->account_key);
    metric_inc_label(M_AUTH_LOGINS, "ok");
    modernise(t, acc);
    return accept_login(t, acc, out);
}

/* The login as an address; without @ in the default domain. NULL key when it can be none. */
static str login_key(struct attempt *t)
{
    struct name name;
    struct err ignored = ERR_INIT; /* what is no address is no account */
    str login = t->login;
    if (str_find(login, '@') < 0 && t->auth->default_domain)
        login = arena_printf(t->arena, "%.*s@%s", STR_ARG(login), t->auth->default_domain);
    return name_parse(login, t->arena, &name, &ignored) ? name.key : STR_NONE;
}

FIBER static bool attempt(struct attempt *t, str key, Thurn__AuthenticateReply *out, struct err *err)
{
    const struct record *rec = NULL;
    if (key.n && !directory_get(t->auth, &key, 1, false, t->arena, &rec, err))
        return false;
    if (rec && rec->kind == RECORD_ACCOUNT && t->password.n)
        return log_in_known(t, &rec->account, out, err);
    if (!charge(t, 1, err))
        return false;
    if (!t->verdict.is_granted)
        return limited(t, err);
    return hash_for_nothing(t->auth, t->password.n ? t->password : S("-"), err) && deny(t, "unknown", err);
}

bool login(struct auth *auth, const Thurn__AuthenticateRequest *q, struct arena *a, Thurn__AuthenticateReply *out,
           struct err *err)
{
    struct attempt t = {.auth = auth,
                        .q = q,
                        .arena = a,
                        .login = str_c(q->login),
                        .password = rpc_str(q->password),
                        .ip_key = ip_limit_key(q->peer_ip, a)};
    if (t.login.n > NAME_KEY_MAX || t.password.n > SECRET_PASSWORD_MAX)
        return err_set(err, ERR_INVALID, "login or password is too long");
    str key = login_key(&t);
    t.account_key = key.n ? key : t.login;
    password_mac(auth, t.account_key, 0, t.password, t.mac);
    if (!charge(&t, 0, err))
        return false;
    if (!t.verdict.is_granted)
        return limited(&t, err);
    bool ok = attempt(&t, key, out, err);
    decide(&t, false); /* unless it was decided already */
    return ok;
}
