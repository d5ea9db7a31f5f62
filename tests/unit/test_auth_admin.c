/* Administration through the auth service's methods: its record, removing and renaming, and which passwords are taken.
 */
#include "auth-service/auth.h"

#include "unit/test.h"

#include "auth-service/password.h"
#include "base/clock.h"
#include "base/log.h"
#include "proto/auth_calls.h"
#include "unit/testdb.h"

#define SECRET_TEXT "five wooden geese 71"
#define HASH "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0$0000000000000000000000"

static enum testdb_kind kind;

struct world {
    struct arena a;
    struct sql_db *db;
    struct auth *auth;
    ProtobufCService *s;
    struct err err; /* of the last call */
    Thurn__Author by;
    void (*fn)(struct world *w);
};

static void world_main(void *arg)
{
    struct world *w = arg;
    struct err err = ERR_INIT;
    unsigned n = 0;
    w->db = testdb_open(kind, "auth_admin", 4, &w->a);
    if (!auth_migrate(w->db, false, &n, &err))
        fail_msg("%s", err.msg);
    struct auth_opts opts = {.directory = w->db, .argon2_memory_kib = 64, .argon2_passes = 1, .events_keep_s = 1000};
    w->auth = auth_new(&opts, &err);
    w->s = auth_service(w->auth);
    thurn__author__init(&w->by);
    w->by.who = arena_strz(&w->a, S("root"));
    w->by.origin = arena_strz(&w->a, S("unix socket, uid 0 (root)"));
    w->fn(w);
    auth_free(w->auth);
    sql_close(w->db);
    testdb_drop(kind, "auth_admin");
}

static void run(void (*fn)(struct world *w))
{
    struct world w = {.fn = fn};
    arena_init(&w.a, 1 << 26);
    assert_true(fiber_main(world_main, &w));
    arena_done(&w.a);
}

static char *z(const char *s)
{
    return (char *)(uintptr_t)s;
}

/* CALL(w, method, Reply, request): the reply, or NULL with w->err set. ACT: of a change, whose author is w->by with an
 * act of its own. */
#define CALL(w, method, Reply, request)                                                                                \
    __extension__({                                                                                                    \
        struct rpc_call c_;                                                                                            \
        const Thurn__##Reply *r_ = NULL;                                                                               \
        rpc_call_init(&c_, &(w)->a);                                                                                   \
        if (!auth_##method(&c_, (w)->s, request, &r_))                                                                 \
            r_ = NULL;                                                                                                 \
        (w)->err = c_.err;                                                                                             \
        r_;                                                                                                            \
    })
#define ACT(w, method, Reply, request)                                                                                 \
    __extension__({                                                                                                    \
        (w)->by.act = random_u64();                                                                                    \
        (request)->by = &(w)->by;                                                                                      \
        CALL(w, method, Reply, request);                                                                               \
    })

/* --- what each method does, with everything that it can change --- */

static void add_tenant(struct world *w)
{
    Thurn__AddTenantRequest q = THURN__ADD_TENANT_REQUEST__INIT;
    q.name = z("others");
    assert_non_null(ACT(w, add_tenant, Tenant, &q));
}
static bool add_domain_named(struct world *w, const char *name, int64_t tenant)
{
    Thurn__AddDomainRequest q = THURN__ADD_DOMAIN_REQUEST__INIT;
    q.name = z(name);
    q.tenant_id = tenant;
    return ACT(w, add_domain, Domain, &q) != NULL;
}
static void add_domain(struct world *w)
{
    assert_true(add_domain_named(w, "example.net", 0));
}
static void set_domain(struct world *w)
{
    Thurn__SetDomainRequest q = THURN__SET_DOMAIN_REQUEST__INIT;
    q.name = z("example.net");
    q.catch_all = z("ann@example.org");
    q.has_catch_all = true;
    assert_non_null(ACT(w, set_domain, Domain, &q));
}
static void remove_domain(struct world *w)
{
    Thurn__NameRequest q = THURN__NAME_REQUEST__INIT;
    q.name = z("example.net");
    assert_non_null(ACT(w, remove_domain, Empty, &q));
}
static enum err_kind add_account_named(struct world *w, const char *address, const char *password)
{
    Thurn__NewAccount n = THURN__NEW_ACCOUNT__INIT, *list = &n;
    Thurn__AddAccountsRequest q = THURN__ADD_ACCOUNTS_REQUEST__INIT;
    n.address = z(address);
    n.password = rpc_bytes(str_c(password));
    q.accounts = &list;
    q.n_accounts = 1;
    const Thurn__AddAccountsReply *r = ACT(w, add_accounts, AddAccountsReply, &q);
    assert_non_null(r);
    if (r->results[0]->error)
        (void)snprintf(w->err.msg, sizeof(w->err.msg), "%s", r->results[0]->error);
    return r->results[0]->error_kind;
}
static void add_accounts(struct world *w)
{
    assert_int_equal(add_account_named(w, "cleo@example.org", SECRET_TEXT), ERR_NONE);
}
static void set_account(struct world *w)
{
    Thurn__SetAccountRequest q = THURN__SET_ACCOUNT_REQUEST__INIT;
    q.address = z("cleo@example.org");
    q.state = THURN__ACCOUNT_STATE__ACCOUNT_SUSPENDED;
    q.has_state = true;
    q.quota_bytes = 77;
    q.has_quota_bytes = true;
    q.password = rpc_bytes(S(SECRET_TEXT " and more"));
    q.has_password = true;
    assert_non_null(ACT(w, set_account, AccountReply, &q));
}
static void rename_account(struct world *w)
{
    Thurn__RenameAccountRequest q = THURN__RENAME_ACCOUNT_REQUEST__INIT;
    q.address = z("cleo@example.org");
    q.new_address = z("cleopatra@example.org");
    assert_non_null(ACT(w, rename_account, AccountReply, &q));
}
static bool remove_named(struct world *w, const char *address, uint64_t incarnation, bool with_aliases)
{
    Thurn__RemoveAccountRequest q = THURN__REMOVE_ACCOUNT_REQUEST__INIT;
    q.name = z(address);
    q.incarnation = incarnation;
    q.with_aliases = with_aliases;
    return ACT(w, remove_account, AccountReply, &q) != NULL;
}
static void remove_account(struct world *w)
{
    assert_true(remove_named(w, "cleopatra@example.org", 0, false));
}
static bool set_alias_to(struct world *w, const char *address, const char *targets)
{
    Thurn__Alias q = THURN__ALIAS__INIT;
    char *list[16];
    str rest = str_c(targets), one;
    q.address = z(address);
    q.targets = list;
    while (str_split(&rest, ' ', &one))
        list[q.n_targets++] = arena_strz(&w->a, one);
    return ACT(w, set_alias, Alias, &q) != NULL;
}
static void set_alias(struct world *w)
{
    assert_true(set_alias_to(w, "info@example.org", "ann@example.org x@far.example"));
}
static void remove_alias(struct world *w)
{
    Thurn__NameRequest q = THURN__NAME_REQUEST__INIT;
    q.name = z("info@example.org");
    assert_non_null(ACT(w, remove_alias, Empty, &q));
}
static void record(struct world *w)
{
    Thurn__Event e = THURN__EVENT__INIT;
    Thurn__RecordRequest q = THURN__RECORD_REQUEST__INIT;
    q.event = &e;
    e.what = z("queue.drop");
    e.subject = z("@slow.example");
    assert_non_null(ACT(w, record, Empty, &q));
    e.after = z("{\"affected\":3}");
    q.by = &w->by; /* the same act, with its outcome */
    assert_non_null(CALL(w, record, Empty, &q));
}

/* Every method of the service. what: the event that fn's one call makes. NULL: it changes nothing that an administrator
 * decides.
 */
static const struct {
    const char *method, *what;
    void (*fn)(struct world *w);
} methods[] = {
    {"Authenticate", NULL, NULL},
    {"Resolve", NULL, NULL},
    {"Locate", NULL, NULL},
    {"MaySendAs", NULL, NULL},
    {"Take", NULL, NULL},
    {"Lease", NULL, NULL},
    {"ListTenants", NULL, NULL},
    {"GetDomain", NULL, NULL},
    {"ListDomains", NULL, NULL},
    {"GetAccount", NULL, NULL},
    {"ListAccounts", NULL, NULL},
    {"ListAliases", NULL, NULL},
    {"Credentials", NULL, NULL},
    {"ListEvents", NULL, NULL},
    {"News", NULL, NULL},
    {"AuthenticateAdmin", NULL, NULL},
    {"Release", NULL, NULL},
    {"AddTenant", "tenant.add", add_tenant},
    {"AddDomain", "domain.add", add_domain},
    {"SetDomain", "domain.set", set_domain},
    {"RemoveDomain", "domain.remove", remove_domain},
    {"AddAccounts", "account.add", add_accounts},
    {"SetAccount", "account.set", set_account},
    {"RenameAccount", "account.rename", rename_account},
    {"RemoveAccount", "account.remove", remove_account},
    {"SetAlias", "alias.set", set_alias},
    {"RemoveAlias", "alias.remove", remove_alias},
    {"Record", "queue.drop", record},
};

static const Thurn__ListEventsReply *events_after(struct world *w, const char *cursor, uint32_t limit, const char *who,
                                                  const char *what)
{
    Thurn__ListEventsRequest q = THURN__LIST_EVENTS_REQUEST__INIT;
    q.after = z(cursor);
    q.limit = limit;
    q.who = z(who);
    q.what = z(what);
    const Thurn__ListEventsReply *r = CALL(w, list_events, ListEventsReply, &q);
    assert_non_null(r);
    return r;
}

/* A method that is not in the table fails this test: say there what it writes. */
static void table_is_whole(struct world *w)
{
    (void)w;
    const ProtobufCServiceDescriptor *d = &thurn__auth__descriptor;
    assert_int_equal(d->n_methods, ARRAY_LEN(methods));
    for (unsigned i = 0; i < d->n_methods; i++) {
        bool is_known = false;
        for (size_t k = 0; k < ARRAY_LEN(methods); k++)
            is_known |= strcmp(methods[k].method, d->methods[i].name) == 0;
        if (!is_known)
            fail_msg("%s is in no row", d->methods[i].name);
    }
}

static void assert_no_secret(const Thurn__Event *e)
{
    const char *texts[] = {e->who, e->origin, e->what, e->subject, e->before, e->after};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        assert_true(!strstr(texts[i], "geese") && !strstr(texts[i], "argon2") && !strstr(texts[i], "$"));
}

static void one_event_each(struct world *w)
{
    assert_true(add_domain_named(w, "example.org", 0));
    assert_int_equal(add_account_named(w, "ann@example.org", SECRET_TEXT), ERR_NONE);
    size_t before = events_after(w, "", 1000, "", "")->n_events;
    assert_int_equal(before, 2);
    for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
        if (!methods[i].fn)
            continue;
        methods[i].fn(w);
        const Thurn__ListEventsReply *r = events_after(w, "", 1000, "", "");
        if (r->n_events != before + 1)
            fail_msg("%s: %zu events instead of one", methods[i].method, r->n_events - before);
        before = r->n_events;
        const Thurn__ListEventsReply *last = events_after(w, "", 1000, "", methods[i].what);
        const Thurn__Event *e = last->events[last->n_events - 1];
        assert_string_equal(e->what, methods[i].what);
        assert_string_equal(e->who, "root");
        assert_string_equal(e->origin, "unix socket, uid 0 (root)");
        assert_true(e->subject[0] && (e->before[0] || e->after[0]));
        assert_in_range(e->at_unix_ms, (uint64_t)clock_unix_ms() - 600000, (uint64_t)clock_unix_ms());
        for (size_t k = 0; k < r->n_events; k++)
            assert_no_secret(r->events[k]);
    }
}

static const Thurn__Event *last_of(struct world *w, const char *what)
{
    const Thurn__ListEventsReply *r = events_after(w, "", 1000, "", what);
    assert_true(r->n_events > 0);
    return r->events[r->n_events - 1];
}

static void before_and_after(struct world *w)
{
    assert_true(add_domain_named(w, "example.org", 0));
    assert_true(add_domain_named(w, "example.net", 0));
    assert_int_equal(add_account_named(w, "ann@example.org", SECRET_TEXT), ERR_NONE);
    add_accounts(w);
    set_account(w);
    const Thurn__Event *e = last_of(w, "account.set");
    assert_string_equal(e->before, "{\"state\":\"active\",\"quota_bytes\":0}");
    assert_string_equal(e->after, "{\"state\":\"suspended\",\"quota_bytes\":77,\"password\":\"changed\"}");
    set_domain(w);
    e = last_of(w, "domain.set");
    assert_string_equal(e->before, "{\"catch_all\":\"\"}");
    assert_string_equal(e->after, "{\"catch_all\":\"ann@example.org\"}");
    set_alias(w);
    assert_true(set_alias_to(w, "info@example.org", "ann@example.org"));
    e = last_of(w, "alias.set");
    assert_string_equal(e->before, "{\"targets\":[\"ann@example.org\",\"x@far.example\"]}");
    assert_string_equal(e->after, "{\"targets\":[\"ann@example.org\"]}");
    record(w);
    e = last_of(w, "queue.drop");
    assert_string_equal(e->after, "{\"affected\":3}");
    assert_string_equal(e->before, "");
}

/* What changes nothing, fails, or is the same request once more makes no event. */
static void no_event(struct world *w)
{
    assert_true(add_domain_named(w, "example.org", 0));
    assert_int_equal(add_account_named(w, "ann@example.org", SECRET_TEXT), ERR_NONE);
    size_t n = events_after(w, "", 1000, "", "")->n_events;
    assert_false(add_domain_named(w, "example.org", 0));
    assert_int_equal(add_account_named(w, "ann@example.org", SECRET_TEXT), ERR_EXISTS);
    assert_false(remove_named(w, "nobody@example.org", 0, true));
    assert_false(set_alias_to(w, "ann@example.org", "x@far.example"));
    Thurn__SetAccountRequest q = THURN__SET_ACCOUNT_REQUEST__INIT;
    q.address = z("ann@example.org");
    q.has_state = true;
    assert_non_null(ACT(w, set_account, AccountReply, &q)); /* it is active */
    assert_int_equal(events_after(w, "", 1000, "", "")->n_events, n);
    q.password = rpc_bytes(S("nine stone lanterns"));
    q.has_password = true;
    assert_non_null(ACT(w, set_account, AccountReply, &q));
    assert_non_null(CALL(w, set_account, AccountReply, &q)); /* its answer was lost */
    assert_int_equal(events_after(w, "", 1000, "", "")->n_events, n + 1);
    sql_fail_nth(w->db, 1, true); /* committed, and nobody knows: with a key it is run again */
    Thurn__AddDomainRequest d = THURN__ADD_DOMAIN_REQUEST__INIT;
    d.name = z("twice.example");
    d.request_id = 7;
    assert_non_null(ACT(w, add_domain, Domain, &d));
    assert_int_equal(events_after(w, "", 1000, "", "")->n_events, n + 2);
}

/* An event that cannot be written takes its change with it. */
// clang-format off
static const struct sql_stmt q_break = {
    .name = "break_events", .params = "", .cols = "", .sqlite = "ALTER TABLE dir_event RENAME TO dir_event_away"};
// clang-format on
FIBER static bool break_body(struct sql_tx *tx, void *arg, struct err *err)
{
    (void)arg;
    return sql_exec(tx, &q_break, NULL, 1, NULL, err);
}
static void together(struct world *w)
{
    struct err err = ERR_INIT;
    assert_true(add_domain_named(w, "example.org", 0));
    assert_true(sql_write(w->db, break_body, NULL, &err));
    assert_false(add_domain_named(w, "example.com", 0));
    Thurn__NameRequest name = THURN__NAME_REQUEST__INIT;
    name.name = z("example.com");
    assert_null(CALL(w, get_domain, Domain, &name));
    assert_int_equal(w->err.kind, ERR_NOT_FOUND);
}

/* An import: one event for each account that was made, in pages; and by whom. */
static void pages(struct world *w)
{
    Thurn__NewAccount rows[25], *list[25];
    Thurn__AddAccountsRequest q = THURN__ADD_ACCOUNTS_REQUEST__INIT;
    assert_true(add_domain_named(w, "example.org", 0));
    for (int i = 0; i < 25; i++) {
        list[i] = &rows[i];
        thurn__new_account__init(&rows[i]);
        rows[i].address =
            arena_strz(&w->a, arena_printf(&w->a, "u%02d@%s", i, i == 3 ? "nowhere.example" : "example.org"));
        rows[i].password_hash = z(HASH);
    }
    q.accounts = list;
    q.n_accounts = 25;
    w->by.who = z("An import with 100%");
    assert_non_null(ACT(w, add_accounts, AddAccountsReply, &q));
    const char *cursor = "";
    size_t n = 0;
    do {
        const Thurn__ListEventsReply *r = events_after(w, cursor, 10, "iMPORT with 100%", "account.");
        for (size_t i = 0; i < r->n_events; i++, n++)
            assert_string_equal(r->events[i]->subject,
                                arena_strz(&w->a, arena_printf(&w->a, "u%02zu@example.org", n < 3 ? n : n + 1)));
        cursor = r->next;
    } while (cursor[0]);
    assert_int_equal(n, 24);
    assert_int_equal(events_after(w, "", 0, "root", "")->n_events, 1);
    assert_int_equal(events_after(w, "", 0, "", "U07@example")->n_events, 1);
    Thurn__ListEventsRequest l = THURN__LIST_EVENTS_REQUEST__INIT;
    l.since_unix_ms = (uint64_t)clock_unix_ms() + 600000;
    assert_int_equal(CALL(w, list_events, ListEventsReply, &l)->n_events, 0);
    l.after = z("1.2");
    assert_null(CALL(w, list_events, ListEventsReply, &l));
    assert_int_equal(w->err.kind, ERR_INVALID);
}

/* A year of a busy directory, in slices; what is younger stays. */
// clang-format off
static const struct sql_stmt q_age = {.name = "age_events",
                                      .params = "ii",
                                      .cols = "",
                                      .sqlite = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2)"
                                                " INSERT INTO dir_event SELECT i, 0, ?1, 'a', 'b', 'c.d', 'e', '', '' FROM n"};
// clang-format on
FIBER static bool age_body(struct sql_tx *tx, void *arg, struct err *err)
{
    return sql_exec(tx, &q_age, arg, 1, NULL, err);
}
static void pruned(struct world *w)
{
    struct err err = ERR_INIT;
    uint64_t removed = 0;
    struct sql_stats before, after;
    struct sql_value old[2] = {sql_i(clock_unix_ms() - 1001 * 1000), sql_i(2500)};
    assert_true(add_domain_named(w, "example.org", 0));
    assert_true(sql_write(w->db, age_body, old, &err));
    sql_get_stats(w->db, &before);
    assert_true(auth_prune_events(w->auth, &removed, &err));
    sql_get_stats(w->db, &after);
    assert_int_equal(removed, 2500);
    assert_int_equal(after.commits - before.commits, 3);
    assert_int_equal(events_after(w, "", 1000, "", "")->n_events, 1);
}

/* --- removing and renaming --- */

static const Thurn__Account *account(struct world *w, const char *address)
{
    Thurn__NameRequest q = THURN__NAME_REQUEST__INIT;
    q.name = z(address);
    const Thurn__AccountReply *r = CALL(w, get_account, AccountReply, &q);
    return r ? r->account : NULL;
}

/* Where mail to the address goes, the addresses in one text; the kind when it goes nowhere. */
static const char *way(struct world *w, const char *address)
{
    char *one = z(address);
    Thurn__ResolveRequest q = THURN__RESOLVE_REQUEST__INIT;
    q.addresses = &one;
    q.n_addresses = 1;
    const Thurn__ResolveReply *r = CALL(w, resolve, ResolveReply, &q);
    assert_non_null(r);
    const Thurn__Resolution *found = r->resolutions[0];
    if (found->kind != THURN__RECIPIENT_KIND__RECIPIENT_LOCAL)
        return found->kind == THURN__RECIPIENT_KIND__RECIPIENT_UNKNOWN ? "unknown" : "other";
    BUF(b, 4096);
    for (size_t i = 0; i < found->n_targets; i++)
        buf_printf(&b, "%s%s", i ? " " : "", found->targets[i]->address);
    return arena_strz(&w->a, buf_str(&b));
}

static const char *leads(struct world *w, const char *address)
{
    Thurn__ListRequest q = THURN__LIST_REQUEST__INIT;
    q.target = z(address);
    const Thurn__ListAliasesReply *r = CALL(w, list_aliases, ListAliasesReply, &q);
    assert_non_null(r);
    BUF(b, 4096);
    for (size_t i = 0; i < r->n_aliases; i++)
        buf_printf(&b, "%s%s", i ? " " : "", r->aliases[i]->address);
    return arena_strz(&w->a, buf_str(&b));
}

static void family(struct world *w)
{
    assert_true(add_domain_named(w, "example.org", 0));
    assert_true(add_domain_named(w, "example.net", 0));
    assert_int_equal(add_account_named(w, "Ann@example.org", SECRET_TEXT), ERR_NONE);
    assert_int_equal(add_account_named(w, "joann@example.org", SECRET_TEXT), ERR_NONE);
    assert_int_equal(add_account_named(w, "bob@example.org", SECRET_TEXT), ERR_NONE);
    assert_true(set_alias_to(w, "both@example.org", "bob@example.org ANN@example.org"));
    assert_true(set_alias_to(w, "list@example.org", "ann+list@EXAMPLE.org"));
    assert_true(set_alias_to(w, "only@example.net", "ann@example.org"));
    assert_true(set_alias_to(w, "not@example.org", "joann@example.org ann@far.example"));
    set_domain(w);
}

static void removed(struct world *w)
{
    family(w);
    assert_string_equal(leads(w, "ann@example.org"), "@example.net both@example.org list@example.org only@example.net");
    assert_string_equal(leads(w, "joann@example.org"), "not@example.org");
    assert_string_equal(leads(w, "nobody@example.org"), "");
    uint64_t incarnation = account(w, "ann@example.org")->incarnation;
    assert_true(incarnation != 0);
    assert_false(remove_named(w, "ann@example.org", incarnation + 1, true)); /* removed and made again meanwhile */
    assert_int_equal(w->err.kind, ERR_CONFLICT);
    assert_non_null(account(w, "ann@example.org"));
    assert_string_equal(way(w, "only@example.net"), "ann@example.org"); /* as the alias has it */
    assert_string_equal(way(w, "x@example.net"), "ann@example.org");
    assert_true(remove_named(w, "ann@example.org", incarnation, true));
    assert_null(account(w, "ann@example.org"));
    assert_string_equal(leads(w, "ann@example.org"), "");
    assert_string_equal(way(w, "both@example.org"), "bob@example.org"); /* no cache says otherwise */
    assert_string_equal(way(w, "list@example.org"), "unknown");
    assert_string_equal(way(w, "only@example.net"), "unknown");
    assert_string_equal(way(w, "x@example.net"), "unknown");
    assert_string_equal(way(w, "not@example.org"), "joann@example.org ann@far.example");
    const Thurn__Event *e = last_of(w, "account.remove");
    assert_string_equal(e->subject, "Ann@example.org");
    assert_non_null(
        strstr(e->after, "[\"both@example.org\",\"list@example.org\",\"only@example.net\",\"@example.net\"]"));
    assert_true(remove_named(w, "joann@example.org", 0, false)); /* by name, its alias stays */
    assert_string_equal(leads(w, "joann@example.org"), "not@example.org");
}

static enum err_kind rename_to(struct world *w, const char *from, const char *to, bool keep_alias)
{
    Thurn__RenameAccountRequest q = THURN__RENAME_ACCOUNT_REQUEST__INIT;
    q.address = z(from);
    q.new_address = z(to);
    q.keep_alias = keep_alias;
    return ACT(w, rename_account, AccountReply, &q) ? ERR_NONE : w->err.kind;
}

static bool logs_in(struct world *w, const char *login)
{
    Thurn__AuthenticateRequest q = THURN__AUTHENTICATE_REQUEST__INIT;
    q.login = z(login);
    q.password = rpc_bytes(S(SECRET_TEXT));
    q.peer_ip = rpc_bytes(S("192.0.2.7"));
    return CALL(w, authenticate, AuthenticateReply, &q) != NULL;
}

static void renamed(struct world *w)
{
    family(w);
    add_tenant(w);
    Thurn__ListRequest all = THURN__LIST_REQUEST__INIT;
    const Thurn__ListTenantsReply *tenants = CALL(w, list_tenants, ListTenantsReply, &all);
    assert_true(add_domain_named(w, "other.example", tenants->tenants[1]->tenant_id));
    int64_t id = account(w, "ann@example.org")->account_id;
    uint64_t incarnation = account(w, "ann@example.org")->incarnation;
    assert_true(logs_in(w, "ann@example.org")); /* all caches know her */
    assert_string_equal(way(w, "ann@example.org"), "ann@example.org");
    assert_string_equal(way(w, "maria@example.net"), "ann@example.org");
    assert_int_equal(rename_to(w, "ann@example.org", "bob@example.org", false), ERR_EXISTS);
    assert_int_equal(rename_to(w, "ann@example.org", "both@example.org", false), ERR_EXISTS);
    assert_int_equal(rename_to(w, "ann@example.org", "ann@nowhere.example", false), ERR_NOT_FOUND);
    assert_int_equal(rename_to(w, "ann@example.org", "ann@other.example", false), ERR_CONFLICT);
    assert_int_equal(rename_to(w, "ann@example.org", "a+b@example.org", false), ERR_INVALID);
    assert_int_equal(rename_to(w, "ann@example.org", "ANN@example.org", true), ERR_INVALID);
    assert_int_equal(rename_to(w, "nobody@example.org", "new@example.org", false), ERR_NOT_FOUND);
    assert_int_equal(account(w, "ann@example.org")->account_id, id);

    assert_int_equal(rename_to(w, "ann@example.org", "Maria@example.net", false), ERR_NONE);
    assert_null(account(w, "ann@example.org"));
    assert_int_equal(account(w, "maria@example.net")->account_id, id);
    assert_int_equal(account(w, "maria@example.net")->incarnation, incarnation);
    assert_true(logs_in(w, "maria@example.net"));
    assert_false(logs_in(w, "ann@example.org"));
    assert_string_equal(way(w, "ann@example.org"), "unknown");
    assert_string_equal(way(w, "maria+x@example.net"), "maria+x@example.net");
    assert_string_equal(way(w, "both@example.org"), "bob@example.org Maria@example.net");
    assert_string_equal(way(w, "list@example.org"), "Maria+list@example.net");
    assert_string_equal(way(w, "whoever@example.net"), "Maria@example.net");
    assert_string_equal(last_of(w, "account.rename")->before, "{\"address\":\"Ann@example.org\"}");

    assert_int_equal(rename_to(w, "maria@example.net", "ann@example.org", true), ERR_NONE);
    assert_string_equal(way(w, "maria@example.net"), "ann@example.org");
    assert_int_equal(rename_to(w, "ann@example.org", "ANN@example.org", false), ERR_NONE);
    assert_string_equal(account(w, "ann@example.org")->address, "ANN@example.org");
    Thurn__NameRequest domain = THURN__NAME_REQUEST__INIT;
    domain.name = z("example.org");
    assert_null(ACT(w, remove_domain, Empty, &domain)); /* it is in use again */
}

/* --- passwords --- */

static const struct {
    const char *password, *why; /* why it is refused; NULL: it is taken */
} passwords[] = {
    {"password", "common words"},
    {"hunter2", "common words"},
    {"P4ssw0rd", "signs for letters"},
    {"12345678", "common words"},
    {"abcdefghi", "sequence"},
    {"zxcvghnm,", "row of keys"},
    {"aaaaaaaaaaaa", "repeats"},
    {"annexample", "the address"},
    {"17.03.1984", "date"},
    {"kQ3", "too short"},
    {"x", "too short"},
    {"Summer2024!", "common words"},
    {SECRET_TEXT, NULL},
    {"correct horse", NULL},
    {"kq3vXw9pTz", NULL},
    {"gr\xc3\xbc\xc3\x9f gott zusammen", NULL},
};
static void weak_passwords(struct world *w)
{
    assert_true(add_domain_named(w, "example.org", 0));
    for (size_t i = 0; i < ARRAY_LEN(passwords); i++) {
        const char *address = arena_strz(&w->a, arena_printf(&w->a, "ann%zu@example.org", i));
        enum err_kind k =
            add_account_named(w, passwords[i].why && strstr(passwords[i].why, "address") ? "ann@example.org" : address,
                              passwords[i].password);
        if (k != (passwords[i].why ? ERR_INVALID : ERR_NONE) ||
            (passwords[i].why && !strstr(w->err.msg, passwords[i].why)))
            fail_msg("'%s': %s %s", passwords[i].password, err_kind_name(k), w->err.msg);
        if (passwords[i].why && i > 0 && strlen(passwords[i].password) > 3) /* "password" and "x" are in the sentence */
            assert_null(strstr(w->err.msg, passwords[i].password));
    }
    assert_int_equal(add_account_named(w, "bob@example.org", SECRET_TEXT), ERR_NONE);
    Thurn__SetAccountRequest q = THURN__SET_ACCOUNT_REQUEST__INIT;
    q.address = z("bob@example.org");
    q.password = rpc_bytes(S("qwerty123"));
    q.has_password = true;
    assert_null(ACT(w, set_account, AccountReply, &q));
    assert_int_equal(w->err.kind, ERR_INVALID);
    char longest[SECRET_PASSWORD_MAX]; /* the estimate takes the square of what it looks at */
    memset(longest, '\xff', sizeof(longest));
    q.password = rpc_bytes(str_n(longest, sizeof(longest)));
    assert_null(ACT(w, set_account, AccountReply, &q));
    for (size_t i = 0; i < sizeof(longest); i++)
        longest[i] = (char)('!' + random_below(90));
    assert_non_null(ACT(w, set_account, AccountReply, &q));
}

#define CASE(name)                                                                                                     \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        run(name);                                                                                                     \
    }
CASE(table_is_whole)
CASE(one_event_each)
CASE(before_and_after)
CASE(no_event)
CASE(together)
CASE(pages)
CASE(pruned)
CASE(removed)
CASE(renamed)
CASE(weak_passwords)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_is_whole),   cmocka_unit_test(test_one_event_each),
        cmocka_unit_test(test_before_and_after), cmocka_unit_test(test_no_event),
        cmocka_unit_test(test_together),         cmocka_unit_test(test_pages),
        cmocka_unit_test(test_pruned),           cmocka_unit_test(test_removed),
        cmocka_unit_test(test_renamed),          cmocka_unit_test(test_weak_passwords),
    };
    int failed = 0;
    log_configure(LOG_ERROR, LOG_LOGFMT);
    for (kind = 0; kind < TESTDB_KINDS; kind++)
        if (testdb_have(kind))
            failed += cmocka_run_group_tests_name(testdb_kind_name(kind), tests, NULL, NULL);
    return failed;
}
