/* Runs the scripts of tests/protocol/imap and in_process against the IMAP front-end over the real store and auth
 * services. */
#include "unit/test.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "auth-service/auth.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/num.h"
#include "frontend/common/guests.h"
#include "frontend/common/logins.h"
#include "frontend/imap/imap.h"
#include "proto/auth_calls.h"
#include "protocol/script.h"
#include "rpc/client.h"
#include "store-service/store.h"
#include "unit/testdb.h"
#include "unit/tmp.h"

static enum testdb_kind kind;

/* The store as the front-end sees it. The watcher's own calls come at any time, so they are never the ones that fail.
 */
struct proxy {
    ProtobufCService base; /* first */
    ProtobufCService *real, *faulty;
    bool is_twice; /* each call is made twice, and the first answer is lost */
    unsigned late; /* which call from now is done when its time is up; 0 = none */
};

struct world {
    struct arena a;
    char folder[128];
    struct sql_db *directory, *shard;
    struct auth *auth;
    struct store *store;
    ProtobufCService *faulty;
    struct proxy proxy;
    struct logins *logins;
    struct guests *guests;
    struct imap_server *imap;
    const char *path;
};

static void swallow(const ProtobufCMessage *reply, void *closure_data)
{
    (void)reply;
    (void)closure_data;
}

static void proxy_invoke(ProtobufCService *service, unsigned method, const ProtobufCMessage *request,
                         ProtobufCClosure closure, void *closure_data)
{
    struct proxy *p = (struct proxy *)(void *)service;
    const char *name = service->descriptor->methods[method].name;
    bool is_watcher = strcmp(name, "Watch") == 0 || strcmp(name, "States") == 0;
    ProtobufCService *to = is_watcher ? p->real : p->faulty;
    if (p->is_twice && !is_watcher) {
        struct rpc_call *c = closure_data;
        to->invoke(to, method, request, swallow, c);
        err_clear(&c->err);
    }
    if (p->late && !is_watcher && --p->late == 0) {
        struct rpc_call *c = closure_data;
        to->invoke(to, method, request, swallow, c);
        err_clear(&c->err);
        (void)err_set(&c->err, ERR_TIMEOUT, "too late on purpose");
        closure(NULL, closure_data);
        return;
    }
    to->invoke(to, method, request, closure, closure_data);
}

static void add_users(struct world *w)
{
    struct rpc_call c;
    rpc_call_init(&c, &w->a);
    Thurn__AddDomainRequest domain = THURN__ADD_DOMAIN_REQUEST__INIT;
    domain.name = (char *)(uintptr_t) "example.test";
    if (!auth_add_domain(&c, auth_service(w->auth), &domain, NULL))
        fail_msg("%s", c.err.msg);
    Thurn__AddAccountsRequest accounts = THURN__ADD_ACCOUNTS_REQUEST__INIT;
    Thurn__NewAccount users[2], *list[] = {&users[0], &users[1]};
    for (size_t i = 0; i < 2; i++) {
        thurn__new_account__init(&users[i]);
        users[i].address = (char *)(uintptr_t)(i ? "bob@example.test" : "alice@example.test");
        users[i].password = rpc_bytes(S("secret"));
    }
    users[1].quota_bytes = 3000;
    accounts.accounts = list;
    accounts.n_accounts = 2;
    rpc_call_init(&c, &w->a);
    const Thurn__AddAccountsReply *r = NULL;
    if (!auth_add_accounts(&c, auth_service(w->auth), &accounts, &r))
        fail_msg("%s", c.err.msg);
    for (size_t i = 0; i < r->n_results; i++)
        if (r->results[i]->error_kind)
            fail_msg("%s", r->results[i]->error);
}

FIBER static struct stream *dial(void *arg, str listener)
{
    struct world *w = arg;
    if (!str_eq(listener, S("imap")))
        return NULL;
    struct err err = ERR_INIT;
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    struct stream *client = stream_from_fd(ends[0], NULL, &err), *server = stream_from_fd(ends[1], NULL, &err);
    assert_non_null(client);
    assert_non_null(server);
    imap_accept(w->imap, server);
    return client;
}

/* "walk STORE 1 +FLAGS (\Seen)": see README.md. */
FIBER static void walk(struct world *w, struct script *s, str text)
{
    ARENA(a, 1u << 20);
    char *line = arena_strz(&a, text);
    for (char *p = line; *p; p++)
        if (*p == '|')
            *p = '\n';
    for (int after = 0; after < 2; after++) {
        bool ok = false;
        for (unsigned n = 1; !ok; n++) {
            assert_true(n < 50);
            rpc_faulty_set(w->faulty, n, after);
            script_send(s, 1, arena_printf(&a, "w%d.%u %s", after, n, line));
            ok = script_tagged(s, 1, arena_printf(&a, "w%d.%u", after, n));
        }
        rpc_faulty_set(w->faulty, 0, false);
    }
}

/* "suspend alice", "activate alice", "password alice NEW", "remove alice": by an administrator. False: none of these.
 */
FIBER static bool change_account(struct world *w, str line)
{
    ARENA(a, 65536);
    struct rpc_call c;
    str rest = line, what, who;
    if (!str_split(&rest, ' ', &what) || !str_split(&rest, ' ', &who))
        return false;
    char *address = arena_strz(&a, arena_printf(&a, "%.*s@example.test", STR_ARG(who)));
    rpc_call_init(&c, &a);
    bool ok;
    if (str_eq(what, S("remove"))) {
        Thurn__RemoveAccountRequest q = THURN__REMOVE_ACCOUNT_REQUEST__INIT;
        q.name = address;
        ok = auth_remove_account(&c, auth_service(w->auth), &q, NULL);
    } else {
        Thurn__SetAccountRequest q = THURN__SET_ACCOUNT_REQUEST__INIT;
        q.address = address;
        q.has_password = str_eq(what, S("password"));
        q.password = rpc_bytes(rest);
        q.has_state = !q.has_password;
        q.state =
            str_eq(what, S("suspend")) ? THURN__ACCOUNT_STATE__ACCOUNT_SUSPENDED : THURN__ACCOUNT_STATE__ACCOUNT_ACTIVE;
        if (q.has_state && !str_eq(what, S("suspend")) && !str_eq(what, S("activate")))
            return false;
        ok = auth_set_account(&c, auth_service(w->auth), &q, NULL);
    }
    if (!ok)
        fprintf(stderr, "%s\n", c.err.msg);
    return ok;
}

FIBER static bool command(void *arg, struct script *s, str line)
{
    struct world *w = arg;
    if (str_starts(line, S("walk "))) {
        walk(w, s, str_slice(line, 5, SIZE_MAX));
        return true;
    }
    /* from now on the store's nodes die when they have answered, and the stub asks others */
    if (str_eq(line, S("twice"))) {
        w->proxy.is_twice = true;
        return true;
    }
    uint32_t n;
    if (str_starts(line, S("fail ")) && num_u32(str_slice(line, 5, SIZE_MAX), 100, &n)) { /* the n-th call from now */
        rpc_faulty_set(w->faulty, n, false);
        return true;
    }
    if (str_starts(line, S("late ")))
        return num_u32(str_slice(line, 5, SIZE_MAX), 100, &w->proxy.late);
    if (str_starts(line, S("fail"))) { /* the next call of the store fails */
        rpc_faulty_set(w->faulty, 1, str_eq(line, S("fail after")));
        return true;
    }
    return change_account(w, line);
}

static void world_main(void *arg)
{
    struct world *w = arg;
    struct err err = ERR_INIT;
    unsigned n = 0;
    static const struct auth_limit limits[] = {{"auth.failures.ip", 100, 60000, 100},
                                               {"auth.failures.account", 100, 60000, 100},
                                               {"imap.sessions.account", 0, 0, 3}};
    w->directory = testdb_open(kind, "imap_auth", 2, &w->a);
    w->shard = testdb_open(kind, "imap_store", 2, &w->a);
    struct auth_opts auth = {.directory = w->directory,
                             .default_domain = S("example.test"),
                             .limits = limits,
                             .n_limits = ARRAY_LEN(limits),
                             .n_shards = 1,
                             .argon2_memory_kib = 64,
                             .argon2_passes = 1,
                             .penalty_first_ms = 1,
                             .penalty_max_ms = 2,
                             .takes_weak_passwords = true};
    struct store_opts store = {
        .shards = &w->shard, .n_shards = 1, .blobs = {.folder = str_c(w->folder)}, .limits = {.watch_linger_ms = 1}};
    if (!auth_migrate(w->directory, false, &n, &err) || !store_migrate(w->shard, false, &n, &err) ||
        !(w->auth = auth_new(&auth, &err)) || !(w->store = store_new(&store, &err)))
        fail_msg("%s", err.msg);
    add_users(w);
    w->faulty = rpc_faulty_new(store_service(w->store));
    w->proxy = (struct proxy){.base = {store_service(w->store)->descriptor, proxy_invoke, NULL},
                              .real = store_service(w->store),
                              .faulty = w->faulty};
    w->logins = logins_new(auth_service(w->auth), NULL, 10);
    w->guests = guests_new((unsigned[GUEST_SERVICES_]){0}, 0);
    struct imap_opts imap = {.logins = w->logins,
                             .guests = w->guests,
                             .hostname = S("mx.example.test"),
                             .auth = auth_service(w->auth),
                             .store = &w->proxy.base,
                             .plain = IMAP_PLAIN_ALWAYS,
                             .limits = {.message_bytes = 2u << 20, .bad_commands = 5, .auth_failures = 2}};
    w->imap = imap_server_new(&imap);
    struct script_hooks hooks = {dial, command, w};
    script_run(w->path, &hooks);
    imap_server_drain(w->imap, 0);
    imap_server_free(w->imap);
    logins_free(w->logins);
    guests_free(w->guests);
    rpc_faulty_free(w->faulty);
    store_free(w->store);
    auth_free(w->auth);
    sql_close(w->shard);
    sql_close(w->directory);
    testdb_drop(kind, "imap_store");
    testdb_drop(kind, "imap_auth");
}

static void run_script(void **state)
{
    struct world w = {.path = *state};
    arena_init(&w.a, 1u << 26);
    metrics_reset();
    snprintf(w.folder, sizeof(w.folder), "%s/thurn-test-imap-XXXXXX", test_tmp());
    assert_non_null(mkdtemp(w.folder));
    assert_true(fiber_main(world_main, &w));
    arena_done(&w.a);
    char remove[160];
    snprintf(remove, sizeof(remove), "rm -r %s", w.folder);
    assert_int_equal(system(remove), 0);
}

static struct CMUnitTest tests[200];
static size_t n_tests;

static int only_scripts(const struct dirent *e)
{
    return str_ends(str_c(e->d_name), S(".txt"));
}

static void add_scripts(const char *folder, const char *only)
{
    struct dirent **names;
    int n = scandir(folder, &names, only_scripts, alphasort);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        char path[512];
        snprintf(path, sizeof(path), "%s/%s", folder, names[i]->d_name);
        if (strstr(names[i]->d_name, only) && n_tests < ARRAY_LEN(tests))
            tests[n_tests++] = (struct CMUnitTest){
                .name = xstrdup(names[i]->d_name), .test_func = run_script, .initial_state = xstrdup(path)};
        free(names[i]);
    }
    free(names);
}

/* test_imap [PART OF A SCRIPT'S NAME] */
int main(int argc, char **argv)
{
    int failed = 0;
    log_configure(LOG_ERROR, LOG_LOGFMT);
    add_scripts("tests/protocol/imap", argc > 1 ? argv[1] : "");
    add_scripts("tests/protocol/in_process", argc > 1 ? argv[1] : "");
    assert_true(n_tests > 0);
    for (kind = 0; kind < TESTDB_KINDS; kind++) {
        if (!testdb_have(kind))
            continue;
        printf("# %s\n", testdb_kind_name(kind));
        failed += _cmocka_run_group_tests("imap", tests, n_tests, NULL, NULL);
    }
    return failed;
}
