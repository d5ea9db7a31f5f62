#include "rpc/client.h"

#include "base/clock.h"
#include "base/metrics.h"
#include "base/num.h"
#include "fiber/loop.h"
#include "rpc/node.h"

#define REMOTE_MAGIC 0x49c10001u
#define HOSTS_MAX 64 /* entries of the setting; a name may stand for many nodes */
#define CONNECT_TIMEOUT_MS 2000
#define RESOLVE_EVERY_MS 5000
#define KEEP_EVERY_MS 1000
#define RESOLVE_TIMEOUT_MS 5000
#define ATTEMPTS_MAX 4
#define RETRY_PAUSE_MS 50
/* for a node that is left alone; one that is so for longer is given up on */
#define RETRY_WAIT_MAX_MS 1000
#define NODES_MAX 256u
#define EACH_TIMEOUT_MS 5000

/* --- which nodes there are --- */

static struct rpc_node *find(const struct rpc_remote *r, const struct net_addr *a)
{
    char text[NET_ADDR_TEXT_MAX];
    str want = net_addr_format(a, text);
    LIST_EACH(&r->nodes, n)
    {
        struct rpc_node *node = LIST_ITEM(n, struct rpc_node, node);
        if (str_eq(want, str_c(node->text)))
            return node;
    }
    return NULL;
}

static void want(struct rpc_remote *r, const struct net_addr *a, str host, unsigned *n_wanted)
{
    if (*n_wanted >= NODES_MAX)
        return;
    struct rpc_node *n = find(r, a);
    if (!n)
        n = rpc_node_new(r, a, host);
    n->is_removed = false;
    ++*n_wanted;
}

/* An address and not a name. */
static bool want_literal(struct rpc_remote *r, str text, unsigned *n_wanted)
{
    struct net_addr a;
    struct err ignored = ERR_INIT;
    char ip[NET_ADDR_TEXT_MAX];
    if (!net_addr_parse(text, &a, &ignored))
        return false;
    want(r, &a, net_ip_format(&a, ip), n_wanted);
    return true;
}

/* "host:port" whose host is no address. */
static bool host_parse(str s, str *host, uint16_t *port)
{
    ptrdiff_t colon = str_rfind(s, ':');
    uint32_t n;
    if (colon <= 0 || !num_u32(str_slice(s, (size_t)colon + 1, SIZE_MAX), 65535, &n) || n == 0)
        return false;
    for (ptrdiff_t i = 0; i < colon; i++)
        if (!ascii_is_alnum((unsigned char)s.p[i]) && !strchr("-._", s.p[i]))
            return false;
    *host = str_slice(s, 0, (size_t)colon);
    *port = (uint16_t)n;
    return true;
}

/* Look the names up and bring the nodes in line. A name that cannot be resolved now keeps nothing alive but is tried
 * again; when none can, the nodes stay as they are. */
static bool resolve(struct rpc_remote *r, struct err *err)
{
    FIBER_DEADLINE(RESOLVE_TIMEOUT_MS);
    ARENA(a, 1 << 20);
    struct net_addr *found[HOSTS_MAX] = {NULL};
    size_t n_found[HOSTS_MAX] = {0};
    unsigned n_good = 0;
    for (size_t i = 0; i < r->n_hosts; i++) {
        str host;
        uint16_t port;
        bool is_secure;
        if (!host_parse(r->hosts[i], &host, &port))
            continue;
        err_clear(err);
        if (!dns_ips(r->dns, host, &a, &found[i], &n_found[i], &is_secure, err))
            continue;
        n_good++;
        for (size_t k = 0; k < n_found[i]; k++)
            net_addr_set_port(&found[i][k], port);
    }
    r->resolved_at_ms = clock_mono_ms();
    if (n_good == 0)
        return false;
    err_clear(err);
    LIST_EACH(&r->nodes, n)
    LIST_ITEM(n, struct rpc_node, node)->is_removed = true;
    unsigned n_wanted = 0;
    for (size_t i = 0; i < r->n_hosts; i++) {
        (void)want_literal(r, r->hosts[i], &n_wanted);
        str host;
        uint16_t port;
        for (size_t k = 0; k < n_found[i] && host_parse(r->hosts[i], &host, &port); k++)
            want(r, &found[i][k], host, &n_wanted);
    }
    LIST_EACH(&r->nodes, n)
    {
        struct rpc_node *node = LIST_ITEM(n, struct rpc_node, node);
        if (node->is_removed)
            rpc_node_settle(node);
    }
    return true;
}

FIBER static void resolver(void *arg)
{
    struct rpc_remote *r = arg;
    struct err err = ERR_INIT;
    if (!resolve(r, &err)) /* the nodes stay; the next look is soon */
        err_clear(&err);
    r->is_resolving = false;
    r->n_users--;
    fiber_cond_broadcast(&r->changed);
}

static void resolve_behind(struct rpc_remote *r)
{
    if (!r->has_names || r->is_resolving || r->is_closing ||
        (r->resolved_at_ms != 0 && clock_mono_ms() - r->resolved_at_ms < RESOLVE_EVERY_MS))
        return;
    r->is_resolving = true;
    r->n_users++;
    fiber_spawn_system("rpc.resolve", resolver, r);
}

/* Once a second: look names up again, connect to what can be connected to. */
static void keep(void *arg)
{
    struct rpc_remote *r = arg;
    resolve_behind(r);
    LIST_EACH(&r->nodes, n)
    rpc_node_wake(LIST_ITEM(n, struct rpc_node, node));
    fiber_timer_start(&r->keeper, KEEP_EVERY_MS, keep, r);
}

/* The first call waits for the first look-up. */
FIBER static bool know_nodes(struct rpc_remote *r, struct err *err)
{
    resolve_behind(r);
    while (r->is_resolving && list_empty(&r->nodes))
        if (!fiber_cond_wait(&r->changed, err))
            return false;
    return true;
}

/* --- choosing --- */

static uint64_t mix(uint64_t v)
{
    v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9ull;
    v = (v ^ (v >> 27)) * 0x94d049bb133111ebull;
    return v ^ (v >> 31);
}

/* What the attempts of one call met with. Compared, never followed: nodes may go meanwhile. */
struct tried {
    const struct rpc_node *last;
    const struct rpc_node *busy[ATTEMPTS_MAX]; /* they said BUSY, so they are not asked again */
    unsigned n_busy;
};

static bool was_busy(const struct tried *t, const struct rpc_node *n)
{
    for (unsigned i = 0; i < t->n_busy; i++)
        if (t->busy[i] == n)
            return true;
    return false;
}

/* Rendezvous hashing by key; without one, a node with the fewest calls. The one tried last is taken only when it is the
 * only one. */
static struct rpc_node *pick(const struct rpc_remote *r, uint64_t key, const struct tried *tried)
{
    struct rpc_node *best = NULL;
    uint64_t best_score = 0, n_equal = 0;
    LIST_EACH(&r->nodes, l)
    {
        struct rpc_node *n = LIST_ITEM(l, struct rpc_node, node);
        if (!node_is_healthy(n) || was_busy(tried, n))
            continue;
        uint64_t score = key ? mix(n->hash ^ mix(key)) >> 1 : UINT64_MAX / 2 - (n->n_calls + n->n_waiting);
        if (n == tried->last)
            score = 0;
        if (best && score < best_score)
            continue;
        n_equal = best && score == best_score ? n_equal + 1 : 1;
        /* Of several that are equal each has the same chance, or all idle callers would call the first of the list. */
        if (n_equal == 1 || random_below(n_equal) == 0) {
            best = n;
            best_score = score;
        }
    }
    return best;
}

static bool no_node(const struct rpc_remote *r, struct err *err)
{
    const char *why = "none is known";
    LIST_EACH(&r->nodes, l)
    {
        const struct rpc_node *n = LIST_ITEM(l, struct rpc_node, node);
        why = err_is_set(&n->failure) ? n->failure.msg : "going away";
    }
    return err_set(err, ERR_UNAVAILABLE, "no node of '%s' can be reached: %s", r->name, why);
}

/* One attempt. tried->last is what was tried. */
FIBER static bool attempt(struct rpc_remote *r, unsigned method, const ProtobufCMessage *request, struct rpc_call *c,
                          struct tried *tried, bool *is_retryable)
{
    *is_retryable = true;
    if (!know_nodes(r, &c->err))
        return false;
    struct rpc_node *n = pick(r, c->route_key, tried);
    tried->last = n;
    if (!n)
        return no_node(r, &c->err);
    if (!rpc_node_connect(n, &c->err))
        return false;
    return rpc_node_call(n, method, request, c, is_retryable);
}

static bool may_be_cured(const struct err *err)
{
    return err->kind == ERR_UNAVAILABLE || err->kind == ERR_BUSY;
}

/*
 * How long to wait before attempt number i + 1; negative: do not. A node that is BUSY did nothing, and another may do
 * it at once; the same is not asked again, for it has too much to do already.
 */
static int64_t pause_before(const struct rpc_remote *r, const struct rpc_call *c, struct tried *tried, int i)
{
    if (c->err.kind == ERR_BUSY) {
        tried->busy[tried->n_busy++] = tried->last;
        return pick(r, c->route_key, tried) ? 0 : -1;
    }
    int64_t soonest = INT64_MAX;
    LIST_EACH(&r->nodes, l)
    {
        const struct rpc_node *n = LIST_ITEM(l, struct rpc_node, node);
        if (!n->is_removed)
            soonest = MIN(soonest, node_is_healthy(n) ? 0 : n->retry_at_ms - clock_mono_ms());
    }
    if (soonest > RETRY_WAIT_MAX_MS)
        return -1;
    int64_t pause = RETRY_PAUSE_MS << i;
    return MAX(soonest, 0) + pause / 2 + (int64_t)random_below((uint64_t)pause);
}

static void leave(struct rpc_remote *r)
{
    r->n_users--;
    if (r->is_closing)
        fiber_cond_broadcast(&r->changed);
}

FIBER static void invoke(ProtobufCService *service, unsigned method, const ProtobufCMessage *request,
                         ProtobufCClosure closure, void *closure_data)
{
    struct rpc_remote *r = (struct rpc_remote *)(void *)service;
    struct rpc_call *c = closure_data;
    CHECK(r, REMOTE_MAGIC);
    c->transport = r;
    r->n_users++;
    struct tried tried = {.last = NULL};
    for (int i = 1;; i++) {
        bool is_retryable;
        if (attempt(r, method, request, c, &tried, &is_retryable))
            break;
        if (!is_retryable || !may_be_cured(&c->err) || i == ATTEMPTS_MAX || r->is_closing)
            break;
        struct err slept = ERR_INIT;
        int64_t pause = pause_before(r, c, &tried, i);
        if (pause < 0 || (pause > 0 && !fiber_sleep_ms(pause, &slept)))
            break; /* what the call failed with says more than that its time is up */
        metric_inc(M_RPC_RETRIES);
        err_clear(&c->err);
    }
    leave(r);
    closure(err_is_set(&c->err) ? NULL : c->reply, c);
}

/* --- life --- */

bool rpc_client_check(const str *nodes, size_t n, struct err *err)
{
    if (n == 0 || n > HOSTS_MAX)
        return err_set(err, ERR_INVALID, "%zu addresses; there are 1 to %d", n, HOSTS_MAX);
    for (size_t i = 0; i < n; i++) {
        struct net_addr addr;
        struct err ignored = ERR_INIT; /* then it is a name */
        str host;
        uint16_t port;
        if (!net_addr_parse(nodes[i], &addr, &ignored) && !host_parse(nodes[i], &host, &port))
            return err_set(err, ERR_INVALID, "'%.*s': expected HOST:PORT or unix:PATH",
                           (int)MIN(nodes[i].n, (size_t)100), nodes[i].p);
    }
    return true;
}

static bool add_hosts(struct rpc_remote *r, const struct rpc_client_opts *opts, struct err *err)
{
    if (!rpc_client_check(opts->nodes, opts->n_nodes, err))
        return err_prefix(err, "service '%s' has", opts->name);
    r->hosts = xcalloc(opts->n_nodes, sizeof(*r->hosts));
    for (; r->n_hosts < opts->n_nodes; r->n_hosts++)
        r->hosts[r->n_hosts] = str_n(str_dup(opts->nodes[r->n_hosts]), opts->nodes[r->n_hosts].n);
    unsigned n_wanted = 0;
    for (size_t i = 0; i < r->n_hosts; i++) {
        if (want_literal(r, r->hosts[i], &n_wanted))
            continue;
        if (!r->dns)
            return err_set(err, ERR_INVALID, "'%.*s' is a name, and there is no DNS here", STR_ARG(r->hosts[i]));
        r->has_names = true;
    }
    return true;
}

static void free_remote(struct rpc_remote *r)
{
    while (!list_empty(&r->nodes))
        rpc_node_free(LIST_ITEM(list_first(&r->nodes), struct rpc_node, node));
    for (size_t i = 0; i < r->n_hosts; i++)
        free((char *)(uintptr_t)r->hosts[i].p);
    free(r->hosts);
    free(r->name);
    r->magic = 0;
    free(r);
}

ProtobufCService *rpc_client_new(const struct rpc_client_opts *opts, struct err *err)
{
    struct rpc_remote *r = xnew(struct rpc_remote);
    r->base.descriptor = opts->service;
    r->base.invoke = invoke;
    r->magic = REMOTE_MAGIC;
    r->name = xstrdup(opts->name);
    r->roles = opts->roles;
    r->server_role = opts->server_role;
    r->set = opts->set;
    r->tls = opts->tls;
    r->dns = opts->dns;
    r->connect_timeout_ms = opts->connect_timeout_ms ? opts->connect_timeout_ms : CONNECT_TIMEOUT_MS;
    list_init(&r->nodes);
    fiber_cond_init(&r->changed);
    if (!add_hosts(r, opts, err)) {
        free_remote(r);
        return NULL;
    }
    fiber_timer_start(&r->keeper, 1, keep, r);
    return &r->base;
}

static struct rpc_remote *remote_of(ProtobufCService *client)
{
    struct rpc_remote *r = (struct rpc_remote *)(void *)client;
    CHECK(r, REMOTE_MAGIC);
    return r;
}

void rpc_client_free(ProtobufCService *client)
{
    if (!client)
        return;
    struct rpc_remote *r = remote_of(client);
    static const struct err why = {ERR_CANCELLED, "the client closes"};
    r->is_closing = true;
    fiber_timer_stop(&r->keeper);
    LIST_EACH(&r->nodes, l)
    {
        struct rpc_node *n = LIST_ITEM(l, struct rpc_node, node);
        if (n->connector)
            fiber_cancel(n->connector);
        else
            rpc_node_close(n, &why);
    }
    while (r->n_users > 0) /* they unwind; whoever still calls is soon done with it */
        fiber_cond_wait_uninterrupted(&r->changed);
    free_remote(r);
}

/* One node being asked by rpc_client_each. */
struct question {
    struct rpc_node *node;
    unsigned method;
    const ProtobufCMessage *request;
    struct rpc_call call;
    bool is_good;
};

FIBER static void ask(void *arg)
{
    struct question *q = arg;
    bool is_retryable;
    q->call.deadline_mono_ms = MIN(q->call.deadline_mono_ms, fiber_deadline());
    q->is_good = rpc_node_connect(q->node, &q->call.err) &&
                 rpc_node_call(q->node, q->method, q->request, &q->call, &is_retryable);
}

/* One that does not answer takes time of nobody else. Each question has its reply or its error then. */
FIBER static void ask_all(struct question *questions, size_t n)
{
    FIBER_DEADLINE(EACH_TIMEOUT_MS);
    FIBER_GROUP(g, NODES_MAX);
    struct err err = ERR_INIT;
    for (size_t i = 0; i < n; i++)
        IGNORE(
            fiber_group_spawn(&g, "rpc.each", ask, &questions[i], &questions[i].call.err)); /* the node's error, then */
    IGNORE(fiber_group_wait(&g, &err)); /* what is cut short has its own error */
}

bool rpc_client_each(ProtobufCService *client, unsigned method, const ProtobufCMessage *request,
                     const struct rpc_pass *pass, struct arena *a,
                     void (*fn)(void *arg, const ProtobufCMessage *reply, const struct err *err), void *arg,
                     struct err *err)
{
    struct rpc_remote *r = remote_of(client);
    r->n_users++;
    if (!know_nodes(r, err)) {
        leave(r);
        return false;
    }
    struct question *questions = arena_array(a, struct question, NODES_MAX);
    size_t n = 0;
    LIST_EACH(&r->nodes, l)
    {
        struct rpc_node *node = LIST_ITEM(l, struct rpc_node, node);
        if (node->is_removed || n == NODES_MAX)
            continue;
        node->n_waiting++; /* it stays while it is asked */
        struct question *q = &questions[n++];
        *q = (struct question){.node = node, .method = method, .request = request};
        rpc_call_init(&q->call, a);
        q->call.pass = *pass;
        q->call.transport = r;
    }
    ask_all(questions, n);
    for (size_t i = 0; i < n; i++) {
        fn(arg, questions[i].is_good ? questions[i].call.reply : NULL, &questions[i].call.err);
        questions[i].node->n_waiting--;
        rpc_node_settle(questions[i].node);
    }
    bool ok = n > 0 || no_node(r, err);
    leave(r);
    return ok;
}

unsigned rpc_client_healthy(ProtobufCService *client)
{
    unsigned n = 0;
    LIST_EACH(&remote_of(client)->nodes, l)
    n += LIST_ITEM(l, struct rpc_node, node)->state == NODE_UP && !LIST_ITEM(l, struct rpc_node, node)->is_going_away;
    return n;
}
