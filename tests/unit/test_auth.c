/* The auth service on SQLite and on PostgreSQL, through its methods. */
#include "auth-service/auth.h"

#include "unit/test.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "proto/auth.pb-c.h"
#include "proto/auth_calls.h"
#include "unit/testdb.h"

static enum testdb_kind kind;

static const struct auth_limit limit_rows[] = {
    {"smtp.messages.account", 1, 1000, 3},
    {"smtp.sessions.ip", 0, 0, 2},
    {"auth.failures.ip", 1, 60000, 6},
    {"auth.failures.account", 1, 60000, 4},
};
static const unsigned weights[] = {1, 2, 0};

struct world {
    struct arena a;
    struct sql_db *db;
    struct auth *auth;
    ProtobufCService *s;
    struct err err; /* of the last call */
    void (*fn)(struct world *w);
};

#define ADMIN_TOKEN "the administrator's token of a test"
static struct auth_opts options(struct world *w)
{
    return (struct auth_opts){.directory = w->db,
                              .admin_token = S(ADMIN_TOKEN),
                              .default_domain = S("example.org"),
                              .limits = limit_rows,
                              .n_limits = ARRAY_LEN(limit_rows),
                              .n_shards = 3,
                              .shard_weights = weights,
                              .argon2_memory_kib = 64,
                              .argon2_passes = 1,
                              .penalty_first_ms = 1,
                              .penalty_max_ms = 3,
                              .takes_weak_passwords = true};
}

static void world_main(void *arg)
{
    struct world *w = arg;
    struct err err = ERR_INIT;
    unsigned n = 0;
    w->db = testdb_open(kind, "auth", 4, &w->a);
    if (!auth_migrate(w->db, false, &n, &err))
        fail_msg("%s", err.msg);
    struct auth_opts opts = options(w);
    w->auth = auth_new(&opts, &err);
    w->s = auth_service(w->auth);
    w->fn(w);
    auth_free(w->auth);
    sql_close(w->db);
    testdb_drop(kind, "auth");
}

static void run(void (*fn)(struct world *w))
{
    struct world w = {.fn = fn};
    arena_init(&w.a, 1 << 26);
    metrics_reset();
    assert_true(fiber_main(world_main, &w));
    arena_done(&w.a);
}

static void begin(struct world *w, struct rpc_call *c)
{
    rpc_call_init(c, &w->a);
}
/* CALL(w, method, request): the reply, or NULL with w->err set. */
#define CALL(w, method, Reply, request)                                                                                \
    __extension__({                                                                                                    \
        struct rpc_call c_;                                                                                            \
        const Thurn__##Reply *r_ = NULL;                                                                               \
        begin(w, &c_);                                                                                                 \
        if (!auth_##method(&c_, (w)->s, request, &r_))                                                                 \
            r_ = NULL;                                                                                                 \
        (w)->err = c_.err;                                                                                             \
        r_;                                                                                                            \
    })

static char *z(const char *s)
{
    return (char *)(uintptr_t)s;
}

static bool add_domain(struct world *w, const char *name, const char *catch_all)
{
    Thurn__AddDomainRequest q = THURN__ADD_DOMAIN_REQUEST__INIT;
    q.name = z(name);
    q.catch_all = z(catch_all);
    return CALL(w, add_domain, Domain, &q) != NULL;
}

/* One account; returns its error kind. */
static enum err_kind add(struct world *w, const char *address, const char *password, const char *hash, bool is_admin)
{
    Thurn__NewAccount n = THURN__NEW_ACCOUNT__INIT, *list = &n;
    Thurn__AddAccountsRequest q = THURN__ADD_ACCOUNTS_REQUEST__INIT;
    n.address = z(address);
    n.password = rpc_bytes(str_c(password));
    n.password_hash = z(hash);
    n.is_admin = is_admin;
    n.quota_bytes = 1000;
    q.accounts = &list;
    q.n_accounts = 1;
    const Thurn__AddAccountsReply *r = CALL(w, add_accounts, AddAccountsReply, &q);
    if (!r)
        fail_msg("%s", w->err.msg);
    return r->results[0]->error_kind;
}

static bool set_alias(struct world *w, const char *address, const char *targets)
{
    Thurn__Alias q = THURN__ALIAS__INIT;
    char *list[16];
    str rest = str_c(targets), one;
    q.address = z(address);
    q.targets = list;
    while (str_split(&rest, ' ', &one))
        list[q.n_targets++] = arena_strz(&w->a, one);
    return CALL(w, set_alias, Alias, &q) != NULL;
}

/* What another process wrote at the same time: past the check for circles. */
// clang-format off
static const struct sql_stmt q_alias_row = {
    .name = "alias_row", .params = "ttt", .cols = "",
    .sqlite = "INSERT INTO dir_alias (key, domain, address, targets) VALUES (?1, ?2, ?1, ?3)"};
// clang-format on
FIBER static bool alias_row_body(struct sql_tx *tx, void *arg, struct err *err)
{
    return sql_exec(tx, &q_alias_row, arg, 1, NULL, err);
}
static void alias_row(struct world *w, str address, str domain, str targets)
{
    struct sql_value params[3] = {sql_s(address), sql_s(domain), sql_s(targets)};
    struct err err = ERR_INIT;
    if (!sql_write(w->db, alias_row_body, params, &err))
        fail_msg("%s", err.msg);
}

static const Thurn__AuthenticateReply *log_in(struct world *w, const char *user, const char *password, const char *ip)
{
    Thurn__AuthenticateRequest q = THURN__AUTHENTICATE_REQUEST__INIT;
    q.login = z(user);
    q.password = rpc_bytes(str_c(password));
    q.peer_ip = rpc_bytes(str_c(ip));
    q.service = z("imap");
    return CALL(w, authenticate, AuthenticateReply, &q);
}

/* "kind: target target" with accounts as a:ID, details in brackets. */
static const char *route(struct world *w, const char *address)
{
    static const char *const kinds[] = {"remote", "local", "unknown", "suspended", "closed", "loop"};
    Thurn__ResolveRequest q = THURN__RESOLVE_REQUEST__INIT;
    char *list[1] = {z(address)};
    q.addresses = list;
    q.n_addresses = 1;
    const Thurn__ResolveReply *r = CALL(w, resolve, ResolveReply, &q);
    if (!r)
        return w->err.msg;
    struct buf b;
    buf_init(&b, 10000);
    buf_add(&b, str_c(kinds[r->resolutions[0]->kind]));
    for (size_t i = 0; i < r->resolutions[0]->n_targets; i++) {
        const Thurn__Target *t = r->resolutions[0]->targets[i];
        buf_printf(&b, " %s%s", t->account ? "" : "~", t->address);
        if (t->detail[0])
            buf_printf(&b, "[%s]", t->detail);
    }
    const char *out = arena_strz(&w->a, buf_str(&b));
    buf_done(&b);
    return out;
}

static void set_state(struct world *w, const char *address, Thurn__AccountState state)
{
    Thurn__SetAccountRequest q = THURN__SET_ACCOUNT_REQUEST__INIT;
    q.address = z(address);
    q.state = state;
    q.has_state = 1;
    assert_non_null(CALL(w, set_account, AccountReply, &q));
}

/* --- cases --- */

static void directory(struct world *w)
{
    assert_true(add_domain(w, "Example.ORG", ""));
    assert_false(add_domain(w, "example.org", ""));
    assert_int_equal(w->err.kind, ERR_EXISTS);
    assert_false(add_domain(w, "exa mple", ""));
    assert_int_equal(w->err.kind, ERR_INVALID);
    assert_false(add_domain(w, "[192.0.2.1]", ""));
    assert_true(add_domain(w,
                           "b\xc3\xbc"
                           "cher.example",
                           ""));
    assert_int_equal(add(w, "Alice@example.org", "secret", "", false), ERR_NONE);
    assert_int_equal(add(w, "aLICE@EXAMPLE.org", "secret", "", false), ERR_EXISTS);
    assert_int_equal(add(w, "bob@nowhere.example", "secret", "", false), ERR_NOT_FOUND);
    assert_int_equal(add(w, "bob", "secret", "", false), ERR_INVALID);
    assert_int_equal(add(w, "bob+x@example.org", "secret", "", false), ERR_INVALID);
    assert_int_equal(add(w, "bob@example.org", "", "", false), ERR_INVALID);
    assert_int_equal(add(w, "bob@example.org", "", "{NEW}x", false), ERR_INVALID);
    assert_int_equal(add(w, "bob@example.org", "", "$6$rounds=900000000$abcdefgh$x", false), ERR_INVALID);
    assert_int_equal(add(w,
                         "gr\xc3\xbc\xc3\x9f@b\xc3\xbc"
                         "cher.example",
                         "secret", "", false),
                     ERR_NONE);
    assert_int_equal(add(w, "gru\xcc\x88\xc3\x9f@xn--bcher-kva.example", "secret", "", false), ERR_EXISTS);
    Thurn__NameRequest name = THURN__NAME_REQUEST__INIT;
    name.name = z("ALICE@example.org");
    const Thurn__AccountReply *got = CALL(w, get_account, AccountReply, &name);
    assert_non_null(got);
    assert_string_equal(got->account->address, "Alice@example.org");
    assert_int_equal(got->account->quota_bytes, 1000);
    assert_int_equal(got->account->epoch, 1);

    assert_false(set_alias(w, "alice@example.org", "x@y.example"));
    assert_int_equal(w->err.kind, ERR_EXISTS);
    assert_false(set_alias(w, "info@other.example", "x@y.example"));
    assert_true(set_alias(w, "Info@example.org", "alice@example.org x@y.example"));
    assert_int_equal(add(w, "info@example.org", "secret", "", false), ERR_EXISTS);
    Thurn__ListRequest list = THURN__LIST_REQUEST__INIT;
    list.domain = z("example.org");
    const Thurn__ListAliasesReply *aliases = CALL(w, list_aliases, ListAliasesReply, &list);
    assert_int_equal(aliases->n_aliases, 1);
    assert_int_equal(aliases->aliases[0]->n_targets, 2);
    assert_string_equal(aliases->aliases[0]->address, "Info@example.org");

    name.name = z("example.org");
    assert_null(CALL(w, remove_domain, Empty, &name));
    assert_int_equal(w->err.kind, ERR_CONFLICT);
    name.name = z("info@example.org");
    assert_non_null(CALL(w, remove_alias, Empty, &name));
    assert_null(CALL(w, remove_alias, Empty, &name));
    Thurn__RemoveAccountRequest gone = THURN__REMOVE_ACCOUNT_REQUEST__INIT;
    gone.name = name.name = z("alice@example.org");
    assert_non_null(CALL(w, remove_account, AccountReply, &gone));
    assert_null(CALL(w, get_account, AccountReply, &name));
    assert_int_equal(w->err.kind, ERR_NOT_FOUND);
    name.name = z("example.org");
    assert_non_null(CALL(w, remove_domain, Empty, &name));
    assert_null(CALL(w, get_domain, Domain, &name));
    assert_int_equal(w->err.kind, ERR_NOT_FOUND);
}

/* As a peer of this role would call, with this pass. */
static enum err_kind call_as(struct world *w, unsigned roles, const struct rpc_pass *pass, bool is_admin_method)
{
    struct rpc_call c;
    Thurn__ListRequest list = THURN__LIST_REQUEST__INIT;
    Thurn__ResolveRequest res = THURN__RESOLVE_REQUEST__INIT;
    begin(w, &c);
    c.is_remote = true;
    c.roles = roles;
    if (pass)
        c.pass = *pass;
    bool ok = is_admin_method ? auth_list_domains(&c, w->s, &list, NULL) : auth_resolve(&c, w->s, &res, NULL);
    return ok ? ERR_NONE : c.err.kind;
}

static void rights(struct world *w)
{
    struct rpc_pass admin, account, forged;
    rpc_pass_make(&(struct rpc_principal){.is_admin = true}, &admin);
    rpc_pass_make(&(struct rpc_principal){.account_id = 1, .tenant_id = 1}, &account);
    forged = account;
    forged.bytes[0] = 1; /* says that it is an administrator's */
    assert_int_equal(call_as(w, RPC_BY_FRONTEND, NULL, false), ERR_NONE);
    assert_int_equal(call_as(w, RPC_BY_STORE | RPC_BY_AUTH, NULL, false), ERR_DENIED);
    assert_int_equal(call_as(w, RPC_BY_STORE, &admin, false), ERR_DENIED);
    assert_int_equal(call_as(w, 0, &admin, true), ERR_DENIED);
    assert_int_equal(call_as(w, RPC_BY_FRONTEND, NULL, true), ERR_DENIED);
    assert_int_equal(call_as(w, RPC_BY_FRONTEND, &account, true), ERR_DENIED);
    assert_int_equal(call_as(w, RPC_BY_FRONTEND, &forged, true), ERR_DENIED);
    /* only front-ends serve administrators */
    assert_int_equal(call_as(w, RPC_BY_QUEUE | RPC_BY_STORE | RPC_BY_AUTH, &admin, true), ERR_DENIED);
    assert_int_equal(call_as(w, RPC_BY_FRONTEND, &admin, true), ERR_NONE);
    struct rpc_principal p;
    int64_t expires_unix;
    for (size_t i = 0; i < RPC_PASS_SIZE; i++) { /* no bit of it may be another */
        forged = admin;
        forged.bytes[i] ^= 1;
        assert_false(rpc_pass_read(&forged, &p, &expires_unix, &w->err));
        assert_int_equal(w->err.kind, ERR_DENIED);
        err_clear(&w->err);
    }
}

/* The administrator's token is the auth service's alone. */
static void admin_token(struct world *w)
{
    Thurn__AdminRequest q = THURN__ADMIN_REQUEST__INIT;
    q.token = rpc_bytes(S("another token"));
    assert_null(CALL(w, authenticate_admin, AdminReply, &q));
    assert_int_equal(w->err.kind, ERR_DENIED);
    q.token = rpc_bytes(STR_NONE);
    assert_null(CALL(w, authenticate_admin, AdminReply, &q));
    q.token = rpc_bytes(S(ADMIN_TOKEN));
    const Thurn__AdminReply *r = CALL(w, authenticate_admin, AdminReply, &q);
    assert_non_null(r);
    struct rpc_pass pass = rpc_pass_of(rpc_str(r->pass));
    assert_int_equal(call_as(w, RPC_BY_FRONTEND, &pass, true), ERR_NONE);
}

/* A pass is made anew as long as what it stood on stands, and for nobody else. */
static void passes(struct world *w)
{
    assert_true(add_domain(w, "example.org", ""));
    assert_int_equal(add(w, "alice@example.org", "secret", "", false), ERR_NONE);
    const Thurn__AuthenticateReply *r = log_in(w, "alice@example.org", "secret", "192.0.2.1");
    assert_non_null(r);
    struct rpc_pass pass = rpc_pass_of(rpc_str(r->pass));
    struct rpc_principal p;
    int64_t expires_unix;
    assert_true(rpc_pass_read(&pass, &p, &expires_unix, &w->err));
    assert_true(p.account_id == r->account->account_id && p.incarnation == r->account->incarnation && !p.is_admin);
    assert_true(expires_unix > clock_unix());
    int64_t ids[3] = {p.account_id, p.account_id, p.account_id + 1};
    struct rpc_pass forged = pass;
    forged.bytes[20] ^= 1;
    ProtobufCBinaryData given[3] = {rpc_bytes(rpc_pass_str(&pass)), rpc_bytes(rpc_pass_str(&forged)),
                                    rpc_bytes(rpc_pass_str(&pass))};
    Thurn__CredentialsRequest q = THURN__CREDENTIALS_REQUEST__INIT;
    q.account_ids = ids;
    q.n_account_ids = 3;
    q.passes = given;
    q.n_passes = 3;
    const Thurn__CredentialsReply *c = CALL(w, credentials, CredentialsReply, &q);
    assert_non_null(c);
    assert_int_equal(c->n_passes, 3);
    struct rpc_pass fresh = rpc_pass_of(rpc_str(c->passes[0]));
    assert_true(rpc_pass_read(&fresh, &p, &expires_unix, &w->err) && p.account_id == ids[0]);
    assert_int_equal(c->passes[1].len, 0);
    assert_int_equal(c->passes[2].len, 0);
    Thurn__SetAccountRequest set = THURN__SET_ACCOUNT_REQUEST__INIT;
    set.address = z("alice@example.org");
    set.has_password = true;
    set.password = rpc_bytes(S("changed"));
    assert_non_null(CALL(w, set_account, AccountReply, &set));
    c = CALL(w, credentials, CredentialsReply, &q);
    assert_non_null(c);
    assert_int_equal(c->passes[0].len, 0);
}

static void logins(struct world *w)
{
    assert_true(add_domain(w, "example.org", ""));
    assert_int_equal(add(w, "alice@example.org", "secret", "", true), ERR_NONE);
    const Thurn__AuthenticateReply *r = log_in(w, "ALICE", "secret", "192.0.2.1");
    assert_non_null(r);
    assert_string_equal(r->address, "alice@example.org");
    assert_true(r->is_admin && r->account->account_id > 0 && r->account->shard > 0);
    int64_t hashes = metric_get(M_AUTH_HASHES, NULL);
    assert_non_null(log_in(w, "alice@example.org", "secret", "192.0.2.1"));
    assert_int_equal(metric_get(M_AUTH_HASHES, NULL), hashes); /* verified a moment ago */
    assert_null(log_in(w, "alice", "Secret", "192.0.2.1"));
    assert_int_equal(w->err.kind, ERR_DENIED);
    char text[240];
    memcpy(text, w->err.msg, sizeof(text));
    assert_null(log_in(w, "nobody", "secret", "192.0.2.1"));
    assert_int_equal(w->err.kind, ERR_DENIED);
    assert_string_equal(text, w->err.msg); /* one answer for all */
    assert_null(log_in(w, "alice", "", "192.0.2.1"));
    assert_null(log_in(w, "", "secret", "192.0.2.1"));

    Thurn__SetAccountRequest q = THURN__SET_ACCOUNT_REQUEST__INIT;
    q.address = z("alice@example.org");
    q.password = rpc_bytes(S("another"));
    q.has_password = 1;
    assert_non_null(CALL(w, set_account, AccountReply, &q));
    assert_null(log_in(w, "alice", "secret", "192.0.2.2")); /* not remembered past the change */
    assert_non_null(log_in(w, "alice", "another", "192.0.2.2"));
    set_state(w, "alice@example.org", THURN__ACCOUNT_STATE__ACCOUNT_SUSPENDED);
    assert_null(log_in(w, "alice", "another", "192.0.2.3"));
    assert_int_equal(w->err.kind, ERR_DENIED);
    set_state(w, "alice@example.org", THURN__ACCOUNT_STATE__ACCOUNT_RECEIVE_ONLY);
    assert_non_null(log_in(w, "alice", "another", "192.0.2.3"));
}

static void schemes(struct world *w)
{
    static const char *const hashes[] = {
        "$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/",
        "{SHA256-CRYPT}$5$saltsalt$gOjOtoMpVhru2uyjeJSEc/JaLQWOXMNmlOnj6T4AtC.",
        "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/",
        "{SSHA}yI6cZwQadOA1e+/f+T+H3eCQQhRzYWx0",
        "{SSHA512}+mohhbPgqahe9B/7Z+88H7b3SYD46/lw5OcuNT7ZU31ZMIPCAd/W5D4cinqsK8jbsRnH37fUuPExEROVvXDpf3NhbHQ=",
        "$2y$04$abcdefghijklmnopqrstuughE8Ev8uGFaUgY2cNEySvxngrb/Jzdm",
        "{CRYPT}$y$j75$abcdefghijklmnopqrst$EfYiDIa6lYIegZ9PrHU9A/tg7wNt3AqIaDrSqySLY7B",
        "{PLAIN}password",
    };
    assert_true(add_domain(w, "example.org", ""));
    for (size_t i = 0; i < ARRAY_LEN(hashes); i++) {
        char address[64];
        (void)snprintf(address, sizeof(address), "u%zu@example.org", i);
        assert_int_equal(add(w, address, "", hashes[i], false), ERR_NONE);
        if (!log_in(w, address, "password", "192.0.2.1"))
            fail_msg("%s: %s", hashes[i], w->err.msg);
        int64_t made = metric_get(M_AUTH_HASHES, NULL);
        auth_free(w->auth); /* without its memory of verified passwords */
        struct auth_opts opts = options(w);
        w->auth = auth_new(&opts, &w->err);
        w->s = auth_service(w->auth);
        assert_non_null(log_in(w, address, "password", "192.0.2.1"));
        assert_int_equal(metric_get(M_AUTH_HASHES, NULL), made + 1); /* it is argon2id now: verified, not made again */
    }
}

static void brute_force(struct world *w)
{
    assert_true(add_domain(w, "example.org", ""));
    assert_int_equal(add(w, "alice@example.org", "secret", "", false), ERR_NONE);
    for (int i = 0; i < 10; i++) { /* a device with an old password: counted once */
        assert_null(log_in(w, "alice", "old", "192.0.2.9"));
        assert_int_equal(w->err.kind, ERR_DENIED);
    }
    for (int i = 0; i < 3; i++) {
        char guess[16];
        (void)snprintf(guess, sizeof(guess), "guess%d", i);
        assert_null(log_in(w, "alice", guess, "192.0.2.1"));
        assert_int_equal(w->err.kind, ERR_DENIED);
    }
    int64_t hashes = metric_get(M_AUTH_HASHES, NULL);
    assert_null(log_in(w, "alice", "guess9", "192.0.2.2")); /* the account's bucket is empty, whoever asks */
    assert_int_equal(w->err.kind, ERR_LIMIT);
    assert_int_equal(metric_get(M_AUTH_HASHES, NULL), hashes); /* refused before hashing */
    for (int i = 0; i < 3; i++) {
        char user[16];
        (void)snprintf(user, sizeof(user), "u%d", i);
        assert_null(log_in(w, user, "guess", "192.0.2.1"));
    }
    assert_null(log_in(w, "u9", "guess", "192.0.2.1")); /* the address' bucket */
    assert_int_equal(w->err.kind, ERR_LIMIT);
    assert_null(log_in(w, "u9", "guess", "2001:db8::1"));
    assert_int_equal(w->err.kind, ERR_DENIED); /* another address is another bucket */
    assert_int_equal(metric_get(M_AUTH_LOGINS, "limited"), 2);
}

struct guess {
    struct world *w;
    int n;
    unsigned *wrong, *limited, *ok;
};
static void one_guess(void *arg)
{
    struct guess *g = arg;
    ARENA(a, 1 << 20);
    struct rpc_call c;
    Thurn__AuthenticateRequest q = THURN__AUTHENTICATE_REQUEST__INIT;
    const Thurn__AuthenticateReply *r;
    char password[32];
    (void)snprintf(password, sizeof(password), g->n < 0 ? "secret" : "guess%d", g->n);
    rpc_call_init(&c, &a);
    q.login = (char *)(uintptr_t) "alice@example.org";
    q.password = rpc_bytes(str_c(password));
    q.peer_ip = rpc_bytes(S("192.0.2.1"));
    q.service = q.session = (char *)(uintptr_t) "t";
    if (auth_authenticate(&c, g->w->s, &q, &r))
        ++*g->ok;
    else if (c.err.kind == ERR_DENIED)
        ++*g->wrong;
    else if (c.err.kind == ERR_LIMIT)
        ++*g->limited;
    else
        fail_msg("%s", c.err.msg);
}

/* Many at one time are not more than the limit: an attempt is paid for before the password is looked at, and paid back
 * when it was right. */
static void parallel(struct world *w)
{
    enum { GUESSES = 60, RIGHT = 20 };
    unsigned wrong = 0, limited = 0, ok = 0;
    struct err err = ERR_INIT;
    struct guess g[GUESSES];
    assert_true(add_domain(w, "example.org", ""));
    assert_int_equal(add(w, "alice@example.org", "secret", "", false), ERR_NONE);
    int64_t before = metric_get(M_AUTH_HASHES, NULL);
    {
        FIBER_GROUP(group, GUESSES);
        /* as many devices that come back at once: more than the limit, and none is refused */
        for (int i = 0; i < RIGHT; i++) {
            g[i] = (struct guess){w, -1, &wrong, &limited, &ok};
            assert_true(fiber_group_spawn(&group, "right", one_guess, &g[i], &err));
        }
        assert_true(fiber_group_wait(&group, &err));
    }
    assert_int_equal(ok, RIGHT);
    before = metric_get(M_AUTH_HASHES, NULL);
    int64_t waits_before = metric_get(M_AUTH_WAITS, NULL);
    {
        FIBER_GROUP(group, GUESSES);
        for (int i = 0; i < GUESSES; i++) {
            g[i] = (struct guess){w, i, &wrong, &limited, &ok};
            assert_true(fiber_group_spawn(&group, "guess", one_guess, &g[i], &err));
        }
        assert_true(fiber_group_wait(&group, &err));
    }
    assert_int_equal(wrong, 4); /* the account's limit in limit_rows */
    assert_int_equal(limited, GUESSES - 4);
    assert_int_equal(metric_get(M_AUTH_HASHES, NULL) - before, 4);
    /* each waits once or twice, not once for each decision */
    int64_t waits = metric_get(M_AUTH_WAITS, NULL) - waits_before;
    if (waits > 2 * GUESSES)
        fail_msg("%lld waits of %d attempts", (long long)waits, (int)GUESSES);
    assert_true(waits > 0);
}

/* What nobody has (names under a "+" too) is remembered beside what is there, within bytes, and pushes none of it out.
 */
static void made_up(struct world *w)
{
    struct err err = ERR_INIT;
    assert_true(add_domain(w, "example.org", ""));
    assert_int_equal(add(w, "alice@example.org", "secret", "", false), ERR_NONE);
    auth_free(w->auth);
    struct auth_opts opts = options(w);
    opts.cache_bytes = 32 * 1024;
    w->auth = auth_new(&opts, &err);
    w->s = auth_service(w->auth);
    for (int i = 0; i < 1000; i++) {
        char address[64];
        (void)snprintf(address, sizeof(address), "alice+%d@example.org", i);
        assert_true(str_starts(str_c(route(w, address)), S("local alice+")));
        (void)snprintf(address, sizeof(address), "nobody%d@example.org", i);
        assert_string_equal(route(w, address), "unknown");
    }
    int64_t misses = metric_get(M_AUTH_CACHE, "miss");
    (void)route(w, "alice@example.org");
    assert_int_equal(metric_get(M_AUTH_CACHE, "miss"), misses); /* the account and its domain are still there */
}

static void success_resets(struct world *w)
{
    assert_true(add_domain(w, "example.org", ""));
    assert_int_equal(add(w, "alice@example.org", "secret", "", false), ERR_NONE);
    for (int i = 0; i < 3; i++) {
        char guess[16], ip[32];
        (void)snprintf(guess, sizeof(guess), "guess%d", i);
        (void)snprintf(ip, sizeof(ip), "192.0.2.%d", i);
        assert_null(log_in(w, "alice", guess, ip));
    }
    assert_non_null(log_in(w, "alice", "secret", "192.0.2.7"));
    for (int i = 3; i < 7; i++) {
        char guess[16], ip[32];
        (void)snprintf(guess, sizeof(guess), "guess%d", i);
        (void)snprintf(ip, sizeof(ip), "192.0.2.%d", i);
        assert_null(log_in(w, "alice", guess, ip));
        assert_int_equal(w->err.kind, ERR_DENIED);
    }
    assert_null(log_in(w, "alice", "guess7", "192.0.2.8"));
    assert_int_equal(w->err.kind, ERR_LIMIT);
    assert_non_null(log_in(w, "alice", "secret", "192.0.2.8")); /* verified before: strangers do not lock her out */
}

static void routes(struct world *w)
{
    assert_true(add_domain(w, "example.org", ""));
    assert_true(add_domain(w, "catch.example", "alice@example.org"));
    assert_int_equal(add(w, "Alice@example.org", "x", "", true), ERR_NONE);
    assert_int_equal(add(w, "bob@example.org", "x", "", false), ERR_NONE);
    assert_int_equal(add(w, "bob@catch.example", "x", "", false), ERR_NONE);
    assert_int_equal(add(w, "gone@example.org", "x", "", false), ERR_NONE);
    assert_int_equal(add(w, "away@example.org", "x", "", false), ERR_NONE);
    set_state(w, "gone@example.org", THURN__ACCOUNT_STATE__ACCOUNT_CLOSED);
    set_state(w, "away@example.org", THURN__ACCOUNT_STATE__ACCOUNT_SUSPENDED);
    assert_true(
        set_alias(w, "team@example.org", "bob@example.org alice@example.org team2@example.org far@away.example"));
    assert_true(set_alias(w, "team2@example.org", "bob@example.org bob+list@example.org FAR@away.example"));
    alias_row(w, S("loop1@example.org"), S("example.org"), S("loop2@example.org\n"));
    alias_row(w, S("loop2@example.org"), S("example.org"), S("loop1@example.org\n"));
    alias_row(w, S("selfish@example.org"), S("example.org"), S("selfish@example.org\nbob@example.org\n"));
    assert_true(set_alias(w, "dead@example.org", "nobody@example.org gone@example.org"));
    assert_true(set_alias(w, "mixed@example.org", "nobody@example.org bob@example.org away@example.org"));
    static const char *const cases[][2] = {
        {"alice@EXAMPLE.org", "local alice@example.org"},
        {"ALICE+Work@example.org", "local ALICE+Work@example.org[work]"},
        {"\"alice\"@example.org", "local alice@example.org"},
        {"someone@elsewhere.example", "remote ~someone@elsewhere.example"},
        {"someone@[192.0.2.1]", "remote ~someone@[192.0.2.1]"},
        {"nobody@example.org", "unknown"},
        {"nobody+x@example.org", "unknown"},
        {"gone@example.org", "closed"},
        {"away@example.org", "suspended"},
        {"not an address", "unknown"},
        {"team@example.org", "local bob@example.org alice@example.org ~FAR@away.example ~far@away.example"},
        {"team+x@example.org", "local bob@example.org alice@example.org ~FAR@away.example ~far@away.example"},
        {"loop1@example.org", "loop"},
        {"selfish@example.org", "local bob@example.org"},
        {"dead@example.org", "closed"},
        {"mixed@example.org", "local bob@example.org ~away@example.org"},
        {"anything@catch.example", "local alice@example.org"},
        {"bob@catch.example", "local bob@catch.example"},
        {"postmaster@example.org", "local Alice@example.org"},
        {"PostMaster@catch.example", "local Alice@example.org"},
        {"abuse@example.org", "local Alice@example.org"},
        {"Abuse@catch.example", "local Alice@example.org"}, /* before the catch-all */
        {"postmaster", "local Alice@example.org"},
        {"abuse", "unknown"},
    };
    for (int pass = 0; pass < 2; pass++) /* the second time from the cache */
        for (size_t i = 0; i < ARRAY_LEN(cases); i++)
            assert_string_equal(route(w, cases[i][0]), cases[i][1]);
    assert_true(set_alias(w, "postmaster@example.org", "bob@example.org"));
    assert_string_equal(route(w, "postmaster@example.org"), "local bob@example.org");
    Thurn__SetDomainRequest q = THURN__SET_DOMAIN_REQUEST__INIT;
    q.name = z("example.org");
    q.is_disabled = q.has_is_disabled = 1;
    assert_non_null(CALL(w, set_domain, Domain, &q));
    assert_string_equal(route(w, "bob@example.org"), "suspended");
}

/* What SetAlias answers: "refused", or its warnings. */
static const char *alias_answer(struct world *w, const char *address, const char *target)
{
    Thurn__Alias q = THURN__ALIAS__INIT;
    char *list[] = {z(target), z("bob@example.org")};
    q.address = z(address);
    q.targets = list;
    q.n_targets = 2;
    const Thurn__Alias *r = CALL(w, set_alias, Alias, &q);
    if (!r)
        return w->err.kind == ERR_INVALID && strstr(w->err.msg, "circle") ? "refused" : w->err.msg;
    assert_true(r->n_warnings <= 1);
    return r->n_warnings ? r->warnings[0] : "";
}

static const char *catch_all_answer(struct world *w, const char *domain, const char *address)
{
    Thurn__SetDomainRequest q = THURN__SET_DOMAIN_REQUEST__INIT;
    q.name = z(domain);
    q.catch_all = z(address);
    q.has_catch_all = true;
    const Thurn__Domain *r = CALL(w, set_domain, Domain, &q);
    if (!r)
        return w->err.kind == ERR_INVALID && strstr(w->err.msg, "circle") ? "refused" : w->err.msg;
    return r->n_warnings ? r->warnings[0] : "";
}

/* A circle is refused when it would be closed; a target that nobody has is told. */
static void dead_ends(struct world *w)
{
    assert_true(add_domain(w, "example.org", "nobody@example.org")); /* told, not refused: it may be added next */
    assert_true(add_domain(w, "other.example", ""));
    assert_int_equal(add(w, "bob@example.org", "x", "", false), ERR_NONE);
    assert_int_equal(add(w, "gone@example.org", "x", "", false), ERR_NONE);
    set_state(w, "gone@example.org", THURN__ACCOUNT_STATE__ACCOUNT_CLOSED);
    assert_string_equal(alias_answer(w, "self@example.org", "SELF+x@example.org"), "refused");
    assert_string_equal(alias_answer(w, "one@example.org", "two@example.org"),
                        "mail for two@example.org goes nowhere: nobody has this address");
    assert_string_equal(alias_answer(w, "two@example.org", "three@elsewhere.example"), "");
    assert_string_equal(alias_answer(w, "two@example.org", "one@example.org"), "refused");
    assert_string_equal(route(w, "two@example.org"), "local ~three@elsewhere.example bob@example.org"); /* as it was */
    assert_string_equal(alias_answer(w, "three@example.org", "gone@example.org"),
                        "mail for gone@example.org goes nowhere: the account is closed");
    assert_string_equal(alias_answer(w, "four@example.org", "two+tag@example.org"), "");
    assert_string_equal(catch_all_answer(w, "other.example", "bob@example.org"), "");
    assert_string_equal(catch_all_answer(w, "other.example", "none@other.example"),
                        "mail for none@other.example goes nowhere: nobody has this address");
    assert_string_equal(catch_all_answer(w, "other.example", ""), "");
    assert_string_equal(alias_answer(w, "list@other.example", "none@other.example"),
                        "mail for none@other.example goes nowhere: nobody has this address");
    assert_string_equal(catch_all_answer(w, "other.example", "list@other.example"), "refused"); /* by way of none@ */
    assert_string_equal(route(w, "none@other.example"), "unknown");
    /* A chain has an end, or is taken for a circle: rows of another process, which this one did not see coming. */
    for (int i = 0; i < 20; i++)
        alias_row(w, arena_printf(&w->a, "c%d@other.example", i), S("other.example"),
                  i == 19 ? S("bob@example.org\n") : arena_printf(&w->a, "c%d@other.example\n", i + 1));
    assert_string_equal(route(w, "c4@other.example"), "local bob@example.org"); /* sixteen */
    assert_string_equal(route(w, "c3@other.example"), "loop");
}

/* Case is no matter in any script; a letter is not two; what is not seen is in no name. */
static void letters(struct world *w)
{
    assert_true(add_domain(w, "example.org", ""));
    assert_int_equal(add(w, "Ünï@example.org", "x", "", false), ERR_NONE);
    assert_int_equal(add(w, "ÜNÏ@example.org", "x", "", false), ERR_EXISTS);
    assert_int_equal(add(w, "Ольга@example.org", "x", "", false), ERR_NONE);
    assert_int_equal(add(w, "straße@example.org", "x", "", false), ERR_NONE);
    assert_int_equal(add(w, "strasse@example.org", "x", "", false), ERR_NONE);
    assert_string_equal(route(w, "ünï@example.org"), "local ünï@example.org");
    assert_string_equal(route(w, "U\u0308NI\u0308@example.org"), "local ÜNÏ@example.org"); /* decomposed */
    assert_string_equal(route(w, "ОЛЬГА@example.org"), "local ОЛЬГА@example.org");
    assert_non_null(log_in(w, "ольга", "x", "192.0.2.1"));
    static const char *const unseen[] = {"a\u200bb@example.org", "\ufeffann@example.org", "a\u00adb@example.org",
                                         "\"a\u2060\"@example.org"};
    for (size_t i = 0; i < ARRAY_LEN(unseen); i++) {
        assert_int_equal(add(w, unseen[i], "x", "", false), ERR_INVALID);
        assert_false(set_alias(w, unseen[i], "bob@elsewhere.example"));
    }
    /* others' names are theirs */
    assert_string_equal(route(w, "a\u200db@elsewhere.example"), "remote ~a\u200db@elsewhere.example");
}

/* 100 aliases of 100 aliases …: bounded work, and a clear answer. */
static void alias_bomb(struct world *w)
{
    assert_true(add_domain(w, "example.org", ""));
    for (int level = 0; level < 3; level++)
        for (int i = 0; i < (level == 0 ? 1 : 60); i++) {
            Thurn__Alias q = THURN__ALIAS__INIT;
            char *targets[60], address[64];
            for (int k = 0; k < 60; k++)
                targets[k] = z(arena_printf(&w->a, "l%d-%d-%d@%s", level + 1, level == 2 ? i : 0, k,
                                            level == 2 ? "far.example" : "example.org")
                                   .p);
            (void)snprintf(address, sizeof(address), "l%d-0-%d@example.org", level, i);
            q.address = address;
            q.targets = targets;
            q.n_targets = 60;
            assert_non_null(CALL(w, set_alias, Alias, &q));
        }
    assert_string_equal(route(w, "l0-0-0@example.org"), "loop"); /* 3,600 targets */
    assert_true(str_starts(str_c(route(w, "l2-0-5@example.org")), S("local ~l3-5-0@far.example")));
}

/* What open sessions stand on: of each account in the order that was asked, 0 for those that may not be logged in. */
static void credentials(struct world *w)
{
    int64_t ids[4] = {0, 999, 0, 0}, before;
    Thurn__CredentialsRequest q = THURN__CREDENTIALS_REQUEST__INIT;
    assert_true(add_domain(w, "example.org", ""));
    assert_int_equal(add(w, "ann@example.org", "pw", "", false), ERR_NONE);
    assert_int_equal(add(w, "bob@example.org", "pw", "", false), ERR_NONE);
    const Thurn__AuthenticateReply *ann = log_in(w, "ann@example.org", "pw", "192.0.2.1"),
                                   *bob = log_in(w, "bob@example.org", "pw", "192.0.2.1");
    assert_non_null(ann);
    assert_non_null(bob);
    ids[0] = bob->account->account_id;
    ids[2] = ann->account->account_id;
    ids[3] = ids[0];
    q.account_ids = ids;
    q.n_account_ids = ARRAY_LEN(ids);
    const Thurn__CredentialsReply *r = CALL(w, credentials, CredentialsReply, &q);
    assert_non_null(r);
    assert_int_equal(r->n_versions, 4);
    assert_int_equal(r->versions[0], bob->credential_version);
    assert_int_equal(r->versions[1], 0);
    assert_int_equal(r->versions[2], ann->credential_version);
    assert_int_equal(r->versions[3], bob->credential_version);
    before = ann->credential_version;

    Thurn__SetAccountRequest set = THURN__SET_ACCOUNT_REQUEST__INIT;
    set.address = z("ann@example.org");
    set.has_quota_bytes = true; /* no credential */
    assert_non_null(CALL(w, set_account, AccountReply, &set));
    assert_int_equal(CALL(w, credentials, CredentialsReply, &q)->versions[2], before);
    set.has_password = true;
    set.password = rpc_bytes(S("other"));
    assert_non_null(CALL(w, set_account, AccountReply, &set));
    r = CALL(w, credentials, CredentialsReply, &q);
    assert_true(r->versions[2] > before);
    assert_int_equal(r->versions[0], bob->credential_version);
    assert_int_equal(log_in(w, "ann@example.org", "other", "192.0.2.1")->credential_version, r->versions[2]);
    static const struct {
        Thurn__AccountState state;
        bool may_stay;
    } states[] = {{THURN__ACCOUNT_STATE__ACCOUNT_SUSPENDED, false},
                  {THURN__ACCOUNT_STATE__ACCOUNT_RECEIVE_ONLY, true},
                  {THURN__ACCOUNT_STATE__ACCOUNT_CLOSED, false},
                  {THURN__ACCOUNT_STATE__ACCOUNT_ACTIVE, true}};
    for (size_t i = 0; i < ARRAY_LEN(states); i++) {
        set_state(w, "ann@example.org", states[i].state);
        r = CALL(w, credentials, CredentialsReply, &q);
        assert_int_equal(r->versions[2] != 0, states[i].may_stay);
    }
    q.n_account_ids = 1001;
    q.account_ids = arena_array(&w->a, int64_t, 1001);
    assert_null(CALL(w, credentials, CredentialsReply, &q));
    assert_int_equal(w->err.kind, ERR_LIMIT);
}

static void may_send_as(struct world *w)
{
    assert_true(add_domain(w, "example.org", ""));
    assert_int_equal(add(w, "alice@example.org", "x", "", false), ERR_NONE);
    assert_int_equal(add(w, "bob@example.org", "x", "", false), ERR_NONE);
    assert_true(set_alias(w, "team@example.org", "bob@example.org alice@example.org"));
    const Thurn__AuthenticateReply *alice = log_in(w, "alice", "x", "192.0.2.1");
    static const struct {
        const char *address;
        bool is_allowed;
    } cases[] = {{"alice@example.org", true}, {"Alice+x@example.org", true}, {"team@example.org", true},
                 {"bob@example.org", false},  {"x@other.example", false},    {"nobody@example.org", false}};
    Thurn__MaySendAsRequest q = THURN__MAY_SEND_AS_REQUEST__INIT;
    q.account_id = alice->account->account_id;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        q.address = z(cases[i].address);
        const Thurn__MaySendAsReply *r = CALL(w, may_send_as, MaySendAsReply, &q);
        assert_non_null(r);
        assert_int_equal(r->is_allowed, cases[i].is_allowed);
    }
    set_state(w, "alice@example.org", THURN__ACCOUNT_STATE__ACCOUNT_RECEIVE_ONLY);
    q.address = z("alice@example.org");
    assert_false(CALL(w, may_send_as, MaySendAsReply, &q)->is_allowed);
    q.account_id = 999;
    assert_null(CALL(w, may_send_as, MaySendAsReply, &q));
    assert_int_equal(w->err.kind, ERR_NOT_FOUND);
}

static bool take(struct world *w, const char *limit, const char *key, uint32_t cost)
{
    Thurn__LimitTake t = THURN__LIMIT_TAKE__INIT, *list = &t;
    Thurn__TakeRequest q = THURN__TAKE_REQUEST__INIT;
    t.limit = z(limit);
    t.key = z(key);
    t.cost = cost;
    q.takes = &list;
    q.n_takes = 1;
    const Thurn__TakeReply *r = CALL(w, take, TakeReply, &q);
    assert_non_null(r);
    if (!r->is_granted)
        assert_true(strcmp(r->refused_by, limit) == 0 && r->retry_after_ms > 0 && r->retry_after_ms <= 3000);
    return r->is_granted;
}

static bool hold(struct world *w, const char *holder, uint32_t count, bool is_renewal)
{
    Thurn__LeaseRequest__Item item = THURN__LEASE_REQUEST__ITEM__INIT, *list = &item;
    Thurn__LeaseRequest q = THURN__LEASE_REQUEST__INIT;
    item.limit = z("smtp.sessions.ip");
    item.key = z("192.0.2.1");
    item.count = count;
    q.holder = z(holder);
    q.items = &list;
    q.n_items = 1;
    q.is_renewal = is_renewal;
    const Thurn__LeaseReply *r = CALL(w, lease, LeaseReply, &q);
    assert_non_null(r);
    return r->granted[0];
}

static void limits(struct world *w)
{
    clock_freeze(1700000000000, 1000000);
    assert_true(take(w, "smtp.messages.account", "7", 2));
    assert_false(take(w, "smtp.messages.account", "7", 2));
    assert_true(take(w, "smtp.messages.account", "7", 1));
    assert_false(take(w, "smtp.messages.account", "7", 1));
    assert_true(take(w, "smtp.messages.account", "8", 1));
    assert_true(take(w, "no.such.limit", "8", 1000));
    clock_advance_ms(1000);
    assert_true(take(w, "smtp.messages.account", "7", 1));
    assert_false(take(w, "smtp.messages.account", "7", 1));
    clock_advance_ms(100000); /* never more than the burst */
    assert_false(take(w, "smtp.messages.account", "7", 4));
    assert_true(take(w, "smtp.messages.account", "7", 3));

    assert_true(hold(w, "a", 1, false));
    assert_true(hold(w, "b", 1, false));
    assert_false(hold(w, "c", 1, false));
    assert_false(hold(w, "a", 2, false));
    assert_true(hold(w, "a", 1, false)); /* a holder's whole share, not one more */
    assert_true(hold(w, "b", 0, false));
    assert_true(hold(w, "c", 1, false));
    assert_true(hold(w, "b", 5, true)); /* a renewal is never refused */
    assert_false(hold(w, "d", 1, false));
    Thurn__HolderRequest gone = THURN__HOLDER_REQUEST__INIT;
    gone.holder = z("b");
    assert_non_null(CALL(w, release, Empty, &gone));
    assert_false(hold(w, "d", 1, false)); /* a and c hold one each */
    gone.holder = z("a");
    assert_non_null(CALL(w, release, Empty, &gone)); /* what was b's and a's is free at once, the one of c is not */
    assert_true(hold(w, "d", 1, false));
    assert_false(hold(w, "e", 1, false));
    gone.holder = z("nobody");
    assert_non_null(CALL(w, release, Empty, &gone));
    gone.holder = z("");
    assert_null(CALL(w, release, Empty, &gone));
    clock_advance_ms(61000);
    assert_true(hold(w, "d", 2, false)); /* what was not renewed is free */
    clock_real();
}

/* 1,000 accounts in one request; placed by weight; the listing pages through them. */
static void bulk(struct world *w)
{
    assert_true(add_domain(w, "example.org", ""));
    Thurn__AddAccountsRequest q = THURN__ADD_ACCOUNTS_REQUEST__INIT;
    Thurn__NewAccount *accounts = arena_array(&w->a, Thurn__NewAccount, 1000);
    q.accounts = arena_array(&w->a, Thurn__NewAccount *, 1000);
    q.n_accounts = 1000;
    for (int i = 0; i < 1000; i++) {
        thurn__new_account__init(&accounts[i]);
        accounts[i].address = arena_strz(&w->a, arena_printf(&w->a, "u%04d@example.org", i == 999 ? 5 : i));
        accounts[i].password_hash = z("{PLAIN}x");
        q.accounts[i] = &accounts[i];
    }
    struct sql_stats before, after;
    sql_get_stats(w->db, &before);
    const Thurn__AddAccountsReply *r = CALL(w, add_accounts, AddAccountsReply, &q);
    sql_get_stats(w->db, &after);
    if (!r)
        fail_msg("%s", w->err.msg);
    assert_int_equal(after.commits - before.commits, 1);
    unsigned on[4] = {0};
    for (int i = 0; i < 999; i++)
        on[r->results[i]->account->shard]++;
    assert_true(on[1] == 333 && on[2] == 666 && on[3] == 0);
    assert_int_equal(r->results[999]->error_kind, ERR_EXISTS);
    Thurn__ListRequest list = THURN__LIST_REQUEST__INIT;
    size_t seen = 0;
    list.limit = 300;
    for (;;) {
        const Thurn__ListAccountsReply *page = CALL(w, list_accounts, ListAccountsReply, &list);
        seen += page->n_accounts;
        if (!page->next[0])
            break;
        list.after = page->next;
    }
    assert_int_equal(seen, 999);
    list = (Thurn__ListRequest)THURN__LIST_REQUEST__INIT;
    list.match = z("U001");
    assert_int_equal(CALL(w, list_accounts, ListAccountsReply, &list)->n_accounts, 10);
    list.match = z("_");
    assert_int_equal(CALL(w, list_accounts, ListAccountsReply, &list)->n_accounts, 0);
}

/* Sent again after an unknown outcome, a request finds what it made; another request of the same content does not. */
static const Thurn__AddAccountsReply *add_two(struct world *w, uint64_t request_id)
{
    Thurn__NewAccount n[3] = {THURN__NEW_ACCOUNT__INIT, THURN__NEW_ACCOUNT__INIT, THURN__NEW_ACCOUNT__INIT},
                      *list[] = {&n[0], &n[1], &n[2]};
    Thurn__AddAccountsRequest q = THURN__ADD_ACCOUNTS_REQUEST__INIT;
    static const char *const addresses[] = {"ann@example.org", "bob@example.org", "Ann@example.org"};
    for (size_t i = 0; i < 3; i++) {
        n[i].address = z(addresses[i]);
        n[i].password_hash = z("{PLAIN}x");
    }
    q.accounts = list;
    q.n_accounts = 3;
    q.request_id = request_id;
    const Thurn__AddAccountsReply *r = CALL(w, add_accounts, AddAccountsReply, &q);
    if (!r)
        fail_msg("%s", w->err.msg);
    return r;
}
static void repeated(struct world *w)
{
    Thurn__AddDomainRequest d = THURN__ADD_DOMAIN_REQUEST__INIT;
    d.name = z("example.org");
    d.request_id = 5;
    sql_fail_nth(w->db, 1, true); /* it is committed, and nobody is told */
    const Thurn__Domain *domain = CALL(w, add_domain, Domain, &d);
    assert_non_null(domain);
    assert_true(CALL(w, add_domain, Domain, &d)->domain_id == domain->domain_id);
    d.request_id = 6;
    assert_null(CALL(w, add_domain, Domain, &d));
    assert_int_equal(w->err.kind, ERR_EXISTS);
    d.request_id = 0;
    assert_null(CALL(w, add_domain, Domain, &d));

    sql_fail_nth(w->db, 1, true);
    const Thurn__AddAccountsReply *first = add_two(w, 7), *again = add_two(w, 7);
    for (int i = 0; i < 2; i++) {
        assert_non_null(first->results[i]->account);
        assert_true(again->results[i]->account->account_id == first->results[i]->account->account_id);
        assert_true(again->results[i]->account->incarnation == first->results[i]->account->incarnation);
        assert_int_equal(add_two(w, 8)->results[i]->error_kind, ERR_EXISTS);
        assert_int_equal(add_two(w, 0)->results[i]->error_kind, ERR_EXISTS);
    }
    assert_int_equal(first->results[2]->error_kind, ERR_EXISTS); /* twice in one request is no repetition */
    assert_int_equal(again->results[2]->error_kind, ERR_EXISTS);
}

/* A failover took the directory back to before an account was made: nobody gets its number again, nor its incarnation.
 */
static const struct sql_stmt q_lose = {.name = "lose", .params = "", .cols = "", .sqlite = "DELETE FROM dir_account"};
FIBER static bool lose_body(struct sql_tx *tx, void *arg, struct err *err)
{
    (void)arg;
    return sql_exec(tx, &q_lose, NULL, 1, NULL, err);
}
static const Thurn__Account *account_of(struct world *w, const char *address)
{
    Thurn__NameRequest q = THURN__NAME_REQUEST__INIT;
    q.name = z(address);
    const Thurn__AccountReply *r = CALL(w, get_account, AccountReply, &q);
    assert_non_null(r);
    return r->account;
}
static void ids(struct world *w)
{
    enum { N = 20 };
    struct err err = ERR_INIT;
    int64_t seen[N];
    uint64_t incarnations[N];
    assert_true(add_domain(w, "example.org", ""));
    for (int i = 0; i < N; i++) {
        assert_int_equal(add(w, "ann@example.org", "", "{PLAIN}x", false), ERR_NONE);
        const Thurn__Account *a = account_of(w, "ann@example.org");
        assert_true(a->account_id > 0 && a->account_id < INT64_C(1) << 47 && a->incarnation);
        for (int k = 0; k < i; k++)
            assert_true(seen[k] != a->account_id && incarnations[k] != a->incarnation);
        seen[i] = a->account_id;
        incarnations[i] = a->incarnation;
        assert_true(sql_write(w->db, lose_body, NULL, &err));
    }
    /* An id that is drawn twice is drawn again. */
    random_seed(7);
    assert_int_equal(add(w, "bob@example.org", "", "{PLAIN}x", false), ERR_NONE);
    random_seed(7);
    assert_int_equal(add(w, "cleo@example.org", "", "{PLAIN}x", false), ERR_NONE);
    random_seed(0);
    assert_true(account_of(w, "bob@example.org")->account_id != account_of(w, "cleo@example.org")->account_id);
    struct sql_stats stats;
    sql_get_stats(w->db, &stats);
    assert_true(stats.rollbacks > 0); /* it was */
    /* Who asks for the account gets its incarnation with the reference, whichever way. */
    const Thurn__Account *bob = account_of(w, "bob@example.org");
    char *address = z("bob@example.org");
    Thurn__ResolveRequest resolve = THURN__RESOLVE_REQUEST__INIT;
    resolve.addresses = &address;
    resolve.n_addresses = 1;
    assert_true(CALL(w, resolve, ResolveReply, &resolve)->resolutions[0]->targets[0]->account->incarnation ==
                bob->incarnation);
    Thurn__AuthenticateRequest login = THURN__AUTHENTICATE_REQUEST__INIT;
    login.login = address;
    login.password = rpc_bytes(S("x"));
    assert_true(CALL(w, authenticate, AuthenticateReply, &login)->account->incarnation == bob->incarnation);
    Thurn__LocateRequest locate = THURN__LOCATE_REQUEST__INIT;
    int64_t id = bob->account_id;
    locate.account_ids = &id;
    locate.n_account_ids = 1;
    assert_true(CALL(w, locate, LocateReply, &locate)->accounts[0]->incarnation == bob->incarnation);
    /* Domains and tenants likewise: the default tenant alone is number 1. */
    Thurn__AddTenantRequest tenant = THURN__ADD_TENANT_REQUEST__INIT;
    tenant.name = z("some");
    assert_true(CALL(w, add_tenant, Tenant, &tenant)->tenant_id > 1000);
    Thurn__NameRequest domain = THURN__NAME_REQUEST__INIT;
    domain.name = z("example.org");
    assert_true(CALL(w, get_domain, Domain, &domain)->domain_id > 1000);
}

/* The directory away: what is cached is answered, even past its time; the rest is UNAVAILABLE, never "unknown". */
static void directory_away(struct world *w)
{
    assert_true(add_domain(w, "example.org", ""));
    assert_int_equal(add(w, "alice@example.org", "x", "", false), ERR_NONE);
    assert_string_equal(route(w, "alice@example.org"), "local alice@example.org");
    clock_freeze(clock_unix_ms(), clock_mono_ms());
    clock_advance_ms(100000);
    sql_fail_nth(w->db, 1, false);
    assert_string_equal(route(w, "alice@example.org"), "local alice@example.org");
    sql_fail_nth(w->db, 2, false);
    (void)route(w, "bob@example.org");
    assert_int_equal(w->err.kind, ERR_UNAVAILABLE);
    sql_fail_nth(w->db, 0, false);
    assert_string_equal(route(w, "bob@example.org"), "unknown");
    sql_fail_nth(w->db, 1, false); /* he may have been added meanwhile */
    (void)route(w, "bob@example.org");
    assert_int_equal(w->err.kind, ERR_UNAVAILABLE);
    sql_fail_nth(w->db, 0, false);
    clock_real();
}

/* What another process adds is there at once, though this one has just said that it is not. */
static void second_process(struct world *w)
{
    struct err err = ERR_INIT;
    struct auth_opts opts = options(w);
    struct auth *other = auth_new(&opts, &err);
    if (!other)
        fail_msg("%s", err.msg);
    ProtobufCService *mine = w->s, *others = auth_service(other);
    assert_true(add_domain(w, "example.org", ""));
    assert_string_equal(route(w, "new@example.org"), "unknown");
    assert_string_equal(route(w, "info@example.org"), "unknown");
    w->s = others;
    assert_int_equal(add(w, "new@example.org", "x", "", false), ERR_NONE);
    assert_true(set_alias(w, "info@example.org", "new@example.org"));
    w->s = mine;
    assert_string_equal(route(w, "new@example.org"), "local new@example.org");
    assert_string_equal(route(w, "info@example.org"), "local new@example.org");
    auth_free(other);
}

/* A domain that another process removed, and that this one still remembers, gets no accounts and no aliases. */
static void removed_domain(struct world *w)
{
    struct err err = ERR_INIT;
    struct auth_opts opts = options(w);
    struct auth *other = auth_new(&opts, &err);
    if (!other)
        fail_msg("%s", err.msg);
    ProtobufCService *mine = w->s, *others = auth_service(other);
    Thurn__NameRequest name = THURN__NAME_REQUEST__INIT;
    assert_true(add_domain(w, "example.org", ""));
    assert_string_equal(route(w, "new@example.org"), "unknown");
    w->s = others;
    name.name = z("example.org");
    assert_non_null(CALL(w, remove_domain, Empty, &name));
    w->s = mine;
    assert_int_equal(add(w, "new@example.org", "x", "", false), ERR_NOT_FOUND);
    assert_false(set_alias(w, "info@example.org", "x@elsewhere.example"));
    assert_int_equal(w->err.kind, ERR_NOT_FOUND);
    auth_free(other);
}

enum { RIVALS = 40 };
struct rival {
    struct world *w;
    int i;
    bool is_alias;
    unsigned *n_done;
};

/* Every second one an account, every second one an alias, of the same addresses. */
FIBER static void compete(void *arg)
{
    struct rival *r = arg;
    struct rpc_call c;
    begin(r->w, &c);
    char *address = arena_strz(&r->w->a, arena_printf(&r->w->a, "r%d@example.org", r->i / 2)),
         *target = z("x@elsewhere.example");
    if (r->is_alias) {
        Thurn__Alias q = THURN__ALIAS__INIT;
        q.address = address;
        q.targets = &target;
        q.n_targets = 1;
        *r->n_done += auth_set_alias(&c, r->w->s, &q, NULL);
    } else {
        Thurn__NewAccount n = THURN__NEW_ACCOUNT__INIT, *list = &n;
        Thurn__AddAccountsRequest q = THURN__ADD_ACCOUNTS_REQUEST__INIT;
        const Thurn__AddAccountsReply *reply;
        n.address = address;
        n.password_hash = z("{PLAIN}x");
        q.accounts = &list;
        q.n_accounts = 1;
        *r->n_done += auth_add_accounts(&c, r->w->s, &q, &reply) && reply->results[0]->error_kind == ERR_NONE;
    }
}

// clang-format off
static const struct sql_stmt q_both = {
    .name = "both", .params = "", .cols = "i", .sqlite = "SELECT count(*) FROM dir_account a JOIN dir_alias l ON l.key = a.key"};
// clang-format on

/* Nothing becomes an account and an alias, and each address becomes one of them. */
static void account_or_alias(struct world *w)
{
    struct rival rivals[RIVALS];
    struct err err = ERR_INIT;
    struct sql_result r;
    unsigned n_done = 0;
    assert_true(add_domain(w, "example.org", ""));
    {
        FIBER_GROUP(g, RIVALS);
        for (int i = 0; i < RIVALS; i++) {
            rivals[i] = (struct rival){w, i, i % 2, &n_done};
            assert_true(fiber_group_spawn(&g, "rival", compete, &rivals[i], &err));
        }
        assert_true(fiber_group_wait(&g, &err));
    }
    assert_true(sql_query(w->db, &q_both, NULL, &w->a, &r, &err));
    assert_int_equal(sql_at(&r, 0, 0)->i, 0);
    assert_int_equal(n_done, RIVALS / 2);
}

// clang-format off
static const struct sql_stmt q_many_tenants = {
    .name = "many_tenants", .params = "", .cols = "",
    .sqlite = "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)"
              " INSERT INTO dir_tenant (tenant_id, name) SELECT i, 'tenant ' || i FROM n"};
// clang-format on
FIBER static bool many_tenants_body(struct sql_tx *tx, void *arg, struct err *err)
{
    (void)arg;
    return sql_exec(tx, &q_many_tenants, NULL, 1, NULL, err);
}

static void tenants(struct world *w)
{
    struct err err = ERR_INIT;
    Thurn__AddDomainRequest q = THURN__ADD_DOMAIN_REQUEST__INIT;
    Thurn__ListRequest page = THURN__LIST_REQUEST__INIT;
    bool seen[1501] = {false};
    unsigned n = 0;
    assert_true(sql_write(w->db, many_tenants_body, NULL, &err));
    q.name = z("last.example");
    q.tenant_id = 1500;
    assert_non_null(CALL(w, add_domain, Domain, &q));
    q.name = z("none.example");
    q.tenant_id = 1501;
    assert_null(CALL(w, add_domain, Domain, &q));
    assert_int_equal(w->err.kind, ERR_NOT_FOUND);
    page.limit = 400;
    page.after = z("");
    do {
        const Thurn__ListTenantsReply *r = CALL(w, list_tenants, ListTenantsReply, &page);
        assert_non_null(r);
        assert_in_range(r->n_tenants, 1, 400);
        for (size_t i = 0; i < r->n_tenants; i++) {
            assert_in_range(r->tenants[i]->tenant_id, 1, (INT64_C(1) << 47));
            assert_false(seen[r->tenants[i]->tenant_id]);
            seen[r->tenants[i]->tenant_id] = true;
            n++;
        }
        page.after = r->next;
    } while (page.after[0]);
    assert_int_equal(n, 1500);
    page.domain = z("last.example");
    const Thurn__ListTenantsReply *of_domain = CALL(w, list_tenants, ListTenantsReply, &page);
    assert_int_equal(of_domain->n_tenants, 1);
    assert_string_equal(of_domain->tenants[0]->name, "tenant 1500");
}

/* Each statement of a bulk failing in turn: nothing half done, and the repetition succeeds. */
static void failures(struct world *w)
{
    assert_true(add_domain(w, "example.org", ""));
    for (unsigned n = 1; n < 20; n++) {
        Thurn__NewAccount a = THURN__NEW_ACCOUNT__INIT, *list = &a;
        Thurn__AddAccountsRequest q = THURN__ADD_ACCOUNTS_REQUEST__INIT;
        a.address = z("alice@example.org");
        a.password_hash = z("{PLAIN}x");
        q.accounts = &list;
        q.n_accounts = 1;
        sql_fail_nth(w->db, n, false);
        const Thurn__AddAccountsReply *r = CALL(w, add_accounts, AddAccountsReply, &q);
        if (r) {
            sql_fail_nth(w->db, 0, false);
            assert_int_equal(r->results[0]->error_kind, ERR_NONE);
            assert_true(n > 1);
            return;
        }
        assert_int_equal(w->err.kind, ERR_UNAVAILABLE);
    }
    fail_msg("never succeeded");
}

struct hog {
    struct world *w;
    unsigned n;
    bool may_go;
};

FIBER static bool hog_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct hog *h = arg;
    struct sql_result r;
    static const struct sql_stmt one = {"hog", "", "i", "SELECT 1", "SELECT 1::bigint", false};
    if (!sql_exec(tx, &one, NULL, 1, &r, err))
        return false;
    h->n++;
    while (!h->may_go)
        if (!fiber_sleep_ms(5, err))
            return false;
    return true;
}

FIBER static void hog_main(void *arg)
{
    struct hog *h = arg;
    struct err err = ERR_INIT;
    assert_true(sql_read(h->w->db, hog_body, h, &err));
}

/* With all connections in use by others a look-up is given up after some seconds, whatever time its caller has. */
/* A look-up that began before a change and ends after it does not bring the old row back into the cache. */
static const struct sql_stmt q_lock_aliases = {.name = "lock_aliases",
                                               .params = "",
                                               .cols = "",
                                               .sqlite = "SELECT 1",
                                               .pg = "LOCK TABLE dir_alias IN ACCESS EXCLUSIVE MODE"};
FIBER static bool lock_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct hog *h = arg;
    if (!sql_exec(tx, &q_lock_aliases, NULL, 1, NULL, err))
        return false;
    h->n++;
    while (!h->may_go)
        if (!fiber_sleep_ms(5, err))
            return false;
    return true;
}
FIBER static void lock_main(void *arg)
{
    struct hog *h = arg;
    struct err err = ERR_INIT;
    assert_true(sql_write(h->w->db, lock_body, h, &err));
}
FIBER static void route_main(void *arg)
{
    struct hog *h = arg;
    (void)route(h->w, "ann@example.org"); /* reads the accounts, and waits for the aliases */
    h->n++;
}
static void late_answer(struct world *w)
{
    struct err err = ERR_INIT;
    struct hog locking = {.w = w}, routing = {.w = w};
    if (!sql_db_is_pg(w->db))
        return; /* reads nothing while another writes */
    assert_true(add_domain(w, "example.org", ""));
    assert_int_equal(add(w, "ann@example.org", "", "{PLAIN}x", false), ERR_NONE);
    assert_string_equal(route(w, "other@example.org"), "unknown"); /* the domain is known now */
    FIBER_GROUP(g, 2);
    FIBER_DEADLINE(20000);
    assert_true(fiber_group_spawn(&g, "lock", lock_main, &locking, &err));
    while (locking.n == 0)
        assert_true(fiber_sleep_ms(1, &err));
    struct sql_stats before, after;
    sql_get_stats(w->db, &before);
    assert_true(fiber_group_spawn(&g, "route", route_main, &routing, &err));
    do {
        /* its question is on the way: it has a snapshot when it waits for the lock */
        assert_true(fiber_sleep_ms(20, &err));
        sql_get_stats(w->db, &after);
    } while (after.round_trips == before.round_trips);
    set_state(w, "ann@example.org", THURN__ACCOUNT_STATE__ACCOUNT_CLOSED);
    locking.may_go = true;
    assert_true(fiber_group_wait(&g, &err));
    assert_string_equal(route(w, "ann@example.org"), "closed");
}

/* --- who waits for news of the directory --- */
struct reader {
    struct world *w;
    uint64_t after;
    const Thurn__NewsReply *r;
    bool is_done;
};
static const Thurn__NewsReply *news(struct world *w, uint64_t after, unsigned wait_ms)
{
    Thurn__NewsRequest q = THURN__NEWS_REQUEST__INIT;
    q.after = after;
    q.wait_ms = wait_ms;
    return CALL(w, news, NewsReply, &q);
}
static void reader_main(void *arg)
{
    struct reader *r = arg;
    r->r = news(r->w, r->after, 20000);
    r->is_done = true;
}
static int64_t id_of(struct world *w, const char *address)
{
    Thurn__NameRequest name = THURN__NAME_REQUEST__INIT;
    name.name = z(address);
    return CALL(w, get_account, AccountReply, &name)->account->account_id;
}
static void heard(struct world *w)
{
    struct err err = ERR_INIT;
    const Thurn__NewsReply *r = news(w, 0, 20000); /* the first time: at once, and anything may have changed */
    assert_true(r->is_gap && r->has_news && r->at);
    r = news(w, r->at, 1);
    assert_true(!r->is_gap && !r->has_news && r->n_account_ids == 0);
    uint64_t at = r->at;
    assert_true(add_domain(w, "example.org", ""));
    assert_int_equal(add(w, "ann@example.org", "", "{PLAIN}x", false), ERR_NONE);
    assert_int_equal(add(w, "bob@example.org", "", "{PLAIN}x", false), ERR_NONE);
    r = news(w, at, 20000);
    assert_true(!r->is_gap && r->has_news && r->n_account_ids == 0); /* sessions of who is new are nobody's */
    /* One that waits is woken; what changes twice is told once. */
    struct reader reader = {.w = w, .after = r->at};
    FIBER_GROUP(g, 1);
    FIBER_DEADLINE(20000);
    assert_true(fiber_group_spawn(&g, "reader", reader_main, &reader, &err));
    assert_true(fiber_sleep_ms(1, &err));
    assert_false(reader.is_done);
    set_state(w, "ann@example.org", THURN__ACCOUNT_STATE__ACCOUNT_CLOSED);
    set_state(w, "bob@example.org", THURN__ACCOUNT_STATE__ACCOUNT_CLOSED);
    set_state(w, "ann@example.org", THURN__ACCOUNT_STATE__ACCOUNT_ACTIVE);
    assert_true(fiber_group_wait(&g, &err));
    r = news(w, reader.after, 1);
    assert_true(!r->is_gap && r->n_account_ids == 2);
    int64_t ann = id_of(w, "ann@example.org"), bob = id_of(w, "bob@example.org");
    assert_int_equal(r->account_ids[0], MIN(ann, bob));
    assert_int_equal(r->account_ids[1], MAX(ann, bob));
    /* Whoever was away for longer than is kept is told so, and so is a number of another process. */
    at = r->at;
    for (int i = 0; i < 2100; i++) /* each is the account and who its tenant's admin is */
        set_state(w, "ann@example.org", THURN__ACCOUNT_STATE__ACCOUNT_ACTIVE);
    assert_true(news(w, at, 1)->is_gap);
    assert_true(news(w, UINT64_MAX, 1)->is_gap);
    at = news(w, 0, 1)->at;
    set_state(w, "bob@example.org", THURN__ACCOUNT_STATE__ACCOUNT_ACTIVE);
    r = news(w, at, 1);
    assert_true(!r->is_gap && r->n_account_ids == 1 && r->account_ids[0] == bob);
}

static void directory_busy(struct world *w)
{
    enum { CONNECTIONS = 4 };
    struct err err = ERR_INIT;
    struct hog h = {.w = w};
    if (!sql_db_is_pg(w->db))
        return; /* has no connections */
    FIBER_GROUP(g, CONNECTIONS);
    for (int i = 0; i < CONNECTIONS; i++)
        assert_true(fiber_group_spawn(&g, "hog", hog_main, &h, &err));
    while (h.n < CONNECTIONS)
        assert_true(fiber_sleep_ms(1, &err));
    int64_t began = clock_mono_ms();
    FIBER_DEADLINE(20000);
    (void)route(w, "somebody@example.org");
    assert_int_equal(w->err.kind, ERR_UNAVAILABLE);
    assert_in_range(clock_mono_ms() - began, 0, 10000);
    h.may_go = true;
    assert_true(fiber_group_wait(&g, &err));
}

#define CASE(fn)                                                                                                       \
    static void test_##fn(void **state)                                                                                \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        run(fn);                                                                                                       \
    }
CASE(directory)
CASE(rights)
CASE(admin_token)
CASE(passes)
CASE(logins)
CASE(schemes)
CASE(brute_force)
CASE(success_resets)
CASE(parallel)
CASE(made_up)
CASE(routes)
CASE(alias_bomb)
CASE(dead_ends)
CASE(letters)
CASE(credentials)
CASE(may_send_as)
CASE(limits)
CASE(bulk)
CASE(ids)
CASE(repeated)
CASE(late_answer)
CASE(directory_away)
CASE(second_process)
CASE(failures)
CASE(removed_domain)
CASE(account_or_alias)
CASE(tenants)
CASE(directory_busy)
CASE(heard)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_directory),      cmocka_unit_test(test_rights),
        cmocka_unit_test(test_admin_token),    cmocka_unit_test(test_passes),
        cmocka_unit_test(test_logins),         cmocka_unit_test(test_schemes),
        cmocka_unit_test(test_brute_force),    cmocka_unit_test(test_success_resets),
        cmocka_unit_test(test_parallel),       cmocka_unit_test(test_made_up),
        cmocka_unit_test(test_routes),         cmocka_unit_test(test_alias_bomb),
        cmocka_unit_test(test_dead_ends),      cmocka_unit_test(test_letters),
        cmocka_unit_test(test_may_send_as),    cmocka_unit_test(test_limits),
        cmocka_unit_test(test_bulk),           cmocka_unit_test(test_ids),
        cmocka_unit_test(test_repeated),       cmocka_unit_test(test_late_answer),
        cmocka_unit_test(test_directory_away), cmocka_unit_test(test_failures),
        cmocka_unit_test(test_second_process), cmocka_unit_test(test_credentials),
        cmocka_unit_test(test_removed_domain), cmocka_unit_test(test_account_or_alias),
        cmocka_unit_test(test_tenants),        cmocka_unit_test(test_directory_busy),
        cmocka_unit_test(test_heard),
    };
    int failed = 0;
    log_configure(LOG_ERROR, LOG_LOGFMT);
    for (kind = 0; kind < TESTDB_KINDS; kind++)
        if (testdb_have(kind))
            failed += cmocka_run_group_tests_name(testdb_kind_name(kind), tests, NULL, NULL);
    return failed;
}
