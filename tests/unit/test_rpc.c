/* The same calls to a local object and through the wire, in every way that they can go wrong. */
#include "test.h"

#include <unistd.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "proto/auth_calls.h"
#include "rpc/client.h"
#include "rpc/internal.h"
#include "rpc/node.h"
#include "rpc/server.h"
#include "fiber/loop.h"

/* --- a service --- */

static int n_served, n_running, max_running, n_cancelled;
static struct fiber_cond hold; /* requests for "hold" wait here */

static void answer_login(const Thurn__AuthenticateRequest *q, Thurn__AuthenticateReply_Closure closure,
                         struct rpc_call *c)
{
    Thurn__AccountRef ref = THURN__ACCOUNT_REF__INIT; /* on the stack: it must be copied */
    struct rpc_principal p;
    int64_t expires_unix;
    struct err err = ERR_INIT; /* most calls have none */
    ref.account_id = rpc_pass_read(&c->pass, &p, &expires_unix, &err) ? p.account_id : 0;
    ref.tenant_id = (int64_t)c->trace_id;
    char name[64];
    (void)snprintf(name, sizeof(name), "<%s>", q->login);
    Thurn__AuthenticateReply r = THURN__AUTHENTICATE_REPLY__INIT;
    r.account = &ref;
    r.address = name;
    r.display_name = arena_strz(c->arena, S("in the arena"));
    closure(&r, c);
}

static void svc_authenticate(Thurn__Auth_Service *s, const Thurn__AuthenticateRequest *q,
                             Thurn__AuthenticateReply_Closure closure, void *data)
{
    (void)s;
    struct rpc_call *c = data;
    n_served++;
    n_running++;
    max_running = MAX(max_running, n_running);
    bool ok = true;
    if (strcmp(q->login, "hold") == 0)
        ok = fiber_cond_wait(&hold, &c->err);
    else if (strcmp(q->login, "slow") == 0)
        ok = fiber_sleep_ms(5, &c->err);
    else if (strcmp(q->login, "denied") == 0)
        ok = err_set(&c->err, ERR_DENIED, "wrong password for '%s'", q->login);
    else if (strcmp(q->login, "away") == 0)
        ok = err_set(&c->err, ERR_UNAVAILABLE, "directory away");
    else if (strcmp(q->login, "full") == 0 || (strcmp(q->login, "full once") == 0 && n_served == 1))
        ok = err_set(&c->err, ERR_BUSY, "too much waits here");
    n_running--;
    if (!ok && c->err.kind == ERR_CANCELLED)
        n_cancelled++;
    if (ok)
        answer_login(q, closure, c);
    else
        closure(NULL, c);
}

/* Copies the body to the sink, and says how much it was. */
static void svc_take(Thurn__Auth_Service *s, const Thurn__TakeRequest *q, Thurn__TakeReply_Closure closure, void *data)
{
    (void)s;
    struct rpc_call *c = data;
    Thurn__TakeReply r = THURN__TAKE_REPLY__INIT;
    uint64_t stop_at = q->n_takes ? q->takes[0]->cost : UINT64_MAX;
    for (str piece = S("x"); c->body && piece.n > 0;) {
        if (!c->body->read(c->body, &piece, &c->err) || (c->out && !c->out->write(c->out, piece, &c->err))) {
            closure(NULL, c);
            return;
        }
        r.retry_after_ms += piece.n;
        if (r.retry_after_ms > stop_at) {
            (void)err_set(&c->err, ERR_LIMIT, "too much");
            closure(NULL, c);
            return;
        }
    }
    closure(&r, c);
}

/* A reply with every repeated kind, half of it on the stack. */
static int64_t seen_deadline; /* of the fiber that served the last resolve */
static void svc_resolve(Thurn__Auth_Service *s, const Thurn__ResolveRequest *q, Thurn__ResolveReply_Closure closure,
                        void *data)
{
    (void)s;
    struct rpc_call *c = data;
    Thurn__Resolution one = THURN__RESOLUTION__INIT, *list[100];
    Thurn__Target target = THURN__TARGET__INIT, *targets[1] = {&target};
    target.address = q->n_addresses ? q->addresses[0] : (char *)(uintptr_t) "none";
    seen_deadline = MIN(c->deadline_mono_ms, fiber_deadline());
    one.kind = THURN__RECIPIENT_KIND__RECIPIENT_LOCAL;
    one.targets = targets;
    one.n_targets = 1;
    for (size_t i = 0; i < ARRAY_LEN(list); i++)
        list[i] = &one;
    Thurn__ResolveReply r = THURN__RESOLVE_REPLY__INIT;
    r.resolutions = list;
    r.n_resolutions = ARRAY_LEN(list);
    closure(&r, c);
}

static Thurn__Auth_Service service = {THURN__AUTH__BASE_INIT, .authenticate = svc_authenticate, .take = svc_take,
                                      .resolve = svc_resolve};

/* --- the ways to reach it --- */

enum way { LOCAL, UNIX, TCP, MTLS, WAYS };
static const char *const way_names[] = {"local", "unix", "tcp", "mtls"};
static char folder[] = "/tmp/thurn-rpc-XXXXXX";
static char cert[96], key[96], socket_path[96];

struct node {
    struct rpc_server *server;
    struct listener *listener;
    struct tls_server *tls;
};
struct setting {
    enum way way;
    struct node node;
    struct tls_client *tls;
    ProtobufCService *client;
};

static struct node start_node(enum way way, const char *address, unsigned max_inflight)
{
    struct err err = ERR_INIT;
    ProtobufCService *services[] = {&service.base};
    struct node n = {.server = rpc_server_new(&(struct rpc_server_opts){
                         .services = services, .n_services = 1, .max_inflight = max_inflight})};
    struct listener_opts o = {.name = "rpc", .accept = rpc_server_accept, .arg = n.server};
    assert_true(net_addr_parse(str_c(address), &o.addr, &err));
    if (way == MTLS) {
        struct tls_cert_files f = {str_c(cert), str_c(key)};
        n.tls = tls_server_new(&(struct tls_server_opts){.certs = &f, .n_certs = 1, .client_ca = str_c(cert)}, &err);
        assert_non_null(n.tls);
        o.implicit_tls = n.tls;
    }
    n.listener = listener_start(&o, &err);
    if (!n.listener)
        fail_msg("%s", err.msg);
    return n;
}
static void stop_node(struct node *n)
{
    listener_free(n->listener);
    rpc_server_free(n->server);
    tls_server_free(n->tls);
    *n = (struct node){0};
}
static str node_text(const struct node *n, char buf[NET_ADDR_TEXT_MAX])
{
    return net_addr_format(listener_addr(n->listener), buf);
}
static ProtobufCService *new_client(const str *nodes, size_t n, struct tls_client *tls)
{
    struct err err = ERR_INIT;
    ProtobufCService *c = rpc_client_new(&(struct rpc_client_opts){.name = "auth",
                                                                   .service = &thurn__auth__descriptor,
                                                                   .nodes = nodes,
                                                                   .n_nodes = n,
                                                                   .tls = tls,
                                                                   .roles = RPC_BY_FRONTEND,
                                                                   .server_role = RPC_BY_AUTH},
                                         &err);
    if (!c)
        fail_msg("%s", err.msg);
    return c;
}
static struct setting set_up(enum way way)
{
    struct err err = ERR_INIT;
    struct setting s = {.way = way};
    n_served = n_running = max_running = n_cancelled = 0;
    fiber_cond_init(&hold);
    if (way == LOCAL) {
        s.client = &service.base;
        return s;
    }
    char unix_address[128], text[NET_ADDR_TEXT_MAX];
    (void)snprintf(unix_address, sizeof(unix_address), "unix:%s", socket_path);
    s.node = start_node(way, way == UNIX ? unix_address : "127.0.0.1:0", 0);
    str node = node_text(&s.node, text);
    if (way == MTLS) {
        s.tls =
            tls_client_new(&(struct tls_client_opts){.ca_file = str_c(cert), .own = {str_c(cert), str_c(key)}}, &err);
        assert_non_null(s.tls);
    }
    s.client = new_client(&node, 1, s.tls);
    return s;
}
static void tear_down(struct setting *s)
{
    if (s->way == LOCAL)
        return;
    rpc_client_free(s->client);
    tls_client_free(s->tls);
    stop_node(&s->node);
}

/* --- calls --- */

#define CALL(name)                                                                                                     \
    ARENA(name##_arena, 8 << 20);                                                                                      \
    struct rpc_call name;                                                                                              \
    rpc_call_init(&name, &name##_arena)

static bool login(ProtobufCService *s, struct rpc_call *c, const char *name, const Thurn__AuthenticateReply **r)
{
    Thurn__AuthenticateRequest q = THURN__AUTHENTICATE_REQUEST__INIT;
    q.login = (char *)(uintptr_t)name;
    return auth_authenticate(c, s, &q, r);
}

static void basics(struct setting *s)
{
    for (int i = 0; i < 3; i++) {
        CALL(c);
        rpc_pass_make(&(struct rpc_principal){.account_id = 77}, &c.pass);
        c.trace_id = 99;
        const Thurn__AuthenticateReply *r = NULL;
        if (!login(s->client, &c, "anna", &r))
            fail_msg("%s", c.err.msg);
        assert_string_equal(r->address, "<anna>");
        assert_string_equal(r->display_name, "in the arena");
        assert_int_equal(r->account->account_id, 77);
        assert_int_equal(r->account->tenant_id, 99);
    }
    {
        CALL(c);
        assert_false(login(s->client, &c, "denied", NULL));
        assert_int_equal(c.err.kind, ERR_DENIED);
        assert_string_equal(c.err.msg, "wrong password for 'denied'");
        rpc_call_again(&c);
        assert_true(login(s->client, &c, "anna", NULL));
    }
    {
        CALL(c);
        Thurn__ResolveRequest q = THURN__RESOLVE_REQUEST__INIT;
        char *addresses[] = {(char *)(uintptr_t) "a@b"};
        q.addresses = addresses;
        q.n_addresses = 1;
        const Thurn__ResolveReply *r = NULL;
        assert_true(auth_resolve(&c, s->client, &q, &r));
        assert_int_equal(r->n_resolutions, 100);
        for (size_t i = 0; i < 100; i++) {
            assert_int_equal(r->resolutions[i]->kind, THURN__RECIPIENT_KIND__RECIPIENT_LOCAL);
            assert_string_equal(r->resolutions[i]->targets[0]->address, "a@b");
        }
    }
}

struct many {
    ProtobufCService *s;
    int n_good;
};
static void call_slow(void *arg)
{
    struct many *m = arg;
    CALL(c);
    if (login(m->s, &c, "slow", NULL))
        m->n_good++;
}
static void pipelined(struct setting *s)
{
    struct err err = ERR_INIT;
    struct many m = {.s = s->client};
    FIBER_GROUP(g, 500);
    for (int i = 0; i < 500; i++)
        assert_true(fiber_group_spawn(&g, "slow", call_slow, &m, &err));
    assert_true(fiber_group_wait(&g, &err));
    assert_int_equal(m.n_good, 500);
    assert_true(max_running > 100); /* they ran at once, over one connection */
}

/* A body of pseudo-random bytes in pieces of odd sizes, and a sink that checks that it comes back. */
struct body {
    struct rpc_source source;
    struct rpc_sink sink;
    size_t size, fail_at, read, written, stop_at;
    char piece[100000];
};
static char byte_at(size_t i)
{
    return (char)(i * 131 ^ i >> 11);
}
static bool body_read(struct rpc_source *source, str *piece, struct err *err)
{
    struct body *b = CONTAINER_OF(source, struct body, source);
    if (b->fail_at && b->read >= b->fail_at)
        return err_set(err, ERR_LIMIT, "source failed");
    if (b->read % 3 == 0 && !fiber_yield(err))
        return false;
    size_t n = MIN(b->size - b->read, 1 + (b->read * 7 + 3333) % sizeof(b->piece));
    for (size_t i = 0; i < n; i++)
        b->piece[i] = byte_at(b->read + i);
    b->read += n;
    *piece = str_n(b->piece, n);
    return true;
}
static bool body_write(struct rpc_sink *sink, str piece, struct err *err)
{
    struct body *b = CONTAINER_OF(sink, struct body, sink);
    for (size_t i = 0; i < piece.n; i++)
        assert_true(piece.p[i] == byte_at(b->written + i));
    b->written += piece.n;
    if (b->stop_at && b->written >= b->stop_at)
        return err_set(err, ERR_LIMIT, "sink failed");
    return fiber_yield(err);
}
static void body_init(struct body *b, size_t size)
{
    memset(b, 0, sizeof(*b));
    b->source.read = body_read;
    b->sink.write = body_write;
    b->size = size;
}

static void bodies(struct setting *s)
{
    static const size_t sizes[] = {0, 1, 65536, 262144, 262145, 3000000};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        static struct body b;
        body_init(&b, sizes[i]);
        CALL(c);
        c.body = &b.source;
        c.out = &b.sink;
        Thurn__TakeRequest q = THURN__TAKE_REQUEST__INIT;
        const Thurn__TakeReply *r = NULL;
        if (!auth_take(&c, s->client, &q, &r))
            fail_msg("%zu: %s", sizes[i], c.err.msg);
        assert_int_equal(r->retry_after_ms, sizes[i]);
        assert_int_equal(b.written, sizes[i]);
    }
    static struct body b;
    static const struct {
        size_t fail_at, stop_at;
        uint32_t limit;
        const char *why;
    } failures[] = {{500000, 0, 0, "source failed"}, {0, 500000, 0, "sink failed"}, {0, 0, 100000, "too much"}};
    for (size_t i = 0; i < ARRAY_LEN(failures); i++) {
        body_init(&b, 3000000);
        b.fail_at = failures[i].fail_at;
        b.stop_at = failures[i].stop_at;
        CALL(c);
        c.body = &b.source;
        c.out = &b.sink;
        Thurn__LimitTake t = THURN__LIMIT_TAKE__INIT, *takes[] = {&t};
        t.cost = failures[i].limit;
        Thurn__TakeRequest q = THURN__TAKE_REQUEST__INIT;
        q.takes = takes;
        q.n_takes = failures[i].limit ? 1 : 0;
        assert_false(auth_take(&c, s->client, &q, NULL));
        assert_int_equal(c.err.kind, ERR_LIMIT);
        assert_string_equal(c.err.msg, failures[i].why);
    }
    basics(s); /* the connection is as good as before */
}

static void hold_login(void *arg)
{
    struct many *m = arg;
    CALL(c);
    if (login(m->s, &c, "hold", NULL))
        m->n_good++;
    else
        assert_true(c.err.kind == ERR_CANCELLED || c.err.kind == ERR_TIMEOUT);
}
static void deadlines(struct setting *s)
{
    struct err err = ERR_INIT;
    {
        CALL(c);
        c.deadline_mono_ms = clock_mono_ms() + 20;
        assert_false(login(s->client, &c, "hold", NULL));
        assert_int_equal(c.err.kind, ERR_TIMEOUT);
    }
    { /* it crosses as the time that is left */
        CALL(c);
        Thurn__ResolveRequest q = THURN__RESOLVE_REQUEST__INIT;
        int64_t deadline = clock_mono_ms() + 30000;
        c.deadline_mono_ms = deadline;
        assert_true(auth_resolve(&c, s->client, &q, NULL));
        assert_in_range(seen_deadline, deadline - 25000, deadline + 5000);
    }
    struct many m = {.s = s->client};
    {
        FIBER_GROUP(g, 10);
        for (int i = 0; i < 10; i++)
            assert_true(fiber_group_spawn(&g, "hold", hold_login, &m, &err));
        while (n_running < 10)
            assert_true(fiber_sleep_ms(1, &err));
    } /* cancels */
    FIBER_DEADLINE(5000);
    while (n_running > 0) /* and the cancellation reaches the other side */
        assert_true(fiber_sleep_ms(1, &err));
    /* the first call may have been cancelled before its own deadline struck there */
    assert_in_range(n_cancelled, 10, 11);
    assert_int_equal(m.n_good, 0);
    basics(s);
}

static void every_way(void (*test)(struct setting *s))
{
    for (int way = 0; way < WAYS; way++) {
        struct setting s = set_up((enum way)way);
        print_message("%s\n", way_names[way]);
        test(&s);
        tear_down(&s);
    }
}
static void all_ways_main(void *arg)
{
    (void)arg;
    every_way(basics);
    every_way(pipelined);
    every_way(bodies);
    every_way(deadlines);
}

/* --- nodes --- */

static void routing_main(void *arg)
{
    (void)arg;
    enum { NODES = 3 };
    struct node nodes[NODES];
    char texts[NODES][NET_ADDR_TEXT_MAX];
    str names[NODES];
    n_served = n_running = 0;
    fiber_cond_init(&hold);
    for (int i = 0; i < NODES; i++) {
        nodes[i] = start_node(TCP, "127.0.0.1:0", 0);
        names[i] = node_text(&nodes[i], texts[i]);
    }
    ProtobufCService *client = new_client(names, NODES, NULL);
    struct err err = ERR_INIT;
    while (rpc_client_healthy(client) < NODES) /* without a call */
        assert_true(fiber_sleep_ms(1, &err));
    for (uint64_t k = 1; k <= 60; k++) {
        CALL(c);
        c.route_key = k;
        assert_true(login(client, &c, "anna", NULL));
    }
    assert_int_equal(rpc_client_healthy(client), NODES); /* keys spread over all */
    assert_int_equal(n_served, 60);
    stop_node(&nodes[1]);
    for (uint64_t k = 1; k <= 60; k++) { /* its keys go to others, and no call fails */
        CALL(c);
        c.route_key = k;
        if (!login(client, &c, "anna", NULL))
            fail_msg("%s", c.err.msg);
    }
    assert_int_equal(rpc_client_healthy(client), NODES - 1);
    rpc_client_free(client);
    stop_node(&nodes[0]);
    stop_node(&nodes[2]);
}

/* Calls without a key, one at a time: every node gets its share. */
static void idle_nodes_main(void *arg)
{
    (void)arg;
    enum { NODES = 3, CALLS = 90 };
    struct node nodes[NODES];
    struct err err = ERR_INIT;
    char texts[NODES][NET_ADDR_TEXT_MAX];
    str names[NODES];
    for (int i = 0; i < NODES; i++) {
        nodes[i] = start_node(TCP, "127.0.0.1:0", 0);
        names[i] = node_text(&nodes[i], texts[i]);
    }
    ProtobufCService *client = new_client(names, NODES, NULL);
    while (rpc_client_healthy(client) < NODES)
        assert_true(fiber_sleep_ms(1, &err));
    for (int i = 0; i < CALLS; i++) {
        CALL(c);
        assert_true(login(client, &c, "anna", NULL));
    }
    /* Each node's calls have numbers in a row. */
    LIST_EACH(&((struct rpc_remote *)(void *)client)->nodes, l)
    assert_in_range(LIST_ITEM(l, struct rpc_node, node)->next_number, CALLS / NODES / 4, CALLS / NODES * 2);
    rpc_client_free(client);
    for (int i = 0; i < NODES; i++)
        stop_node(&nodes[i]);
}

static int n_replies, n_errors;
static void count_each(void *arg, const ProtobufCMessage *reply, const struct err *err)
{
    (void)arg;
    n_replies += reply != NULL;
    n_errors += err_is_set(err);
}
static void release_two(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    while (n_running < 2)
        assert_true(fiber_sleep_ms(1, &err));
    assert_int_equal(metric_get(M_RPC_SERVER_RUNNING, NULL), 2);
    assert_int_equal(metric_get(M_RPC_CLIENT_RUNNING, "auth"), 2);
    fiber_cond_broadcast(&hold);
}
static void each_main(void *arg)
{
    (void)arg;
    fiber_cond_init(&hold);
    struct err err = ERR_INIT;
    struct node a = start_node(TCP, "127.0.0.1:0", 0), b = start_node(TCP, "127.0.0.1:0", 0);
    char ta[NET_ADDR_TEXT_MAX], tb[NET_ADDR_TEXT_MAX];
    str names[] = {node_text(&a, ta), node_text(&b, tb), S("127.0.0.1:1")};
    ProtobufCService *client = new_client(names, 3, NULL);
    ARENA(arena, 1 << 20);
    Thurn__AuthenticateRequest q = THURN__AUTHENTICATE_REQUEST__INIT;
    q.login = (char *)(uintptr_t) "anna";
    assert_true(rpc_client_each(client, AUTH_METHOD_AUTHENTICATE, &q.base, &(struct rpc_pass){0}, &arena, count_each,
                                NULL, &err));
    assert_int_equal(n_replies, 2);
    assert_int_equal(n_errors, 1);

    /* All at once: both requests are held until both have come. */
    n_replies = n_errors = n_running = 0;
    q.login = (char *)(uintptr_t) "hold";
    FIBER_GROUP(g, 1);
    assert_true(fiber_group_spawn(&g, "release", release_two, NULL, &err));
    assert_true(rpc_client_each(client, AUTH_METHOD_AUTHENTICATE, &q.base, &(struct rpc_pass){0}, &arena, count_each,
                                NULL, &err));
    assert_int_equal(n_replies, 2);
    assert_true(fiber_group_wait(&g, &err));
    rpc_client_free(client);
    stop_node(&a);
    stop_node(&b);
    static const str bad[] = {S_INIT("nonsense"), S_INIT("host:99999"), S_INIT("store.svc:7001")};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_null(rpc_client_new(
            &(struct rpc_client_opts){
                .name = "auth", .service = &thurn__auth__descriptor, .nodes = &bad[i], .n_nodes = 1},
            &err));
        assert_int_equal(err.kind, ERR_INVALID);
        err_clear(&err);
    }
}

static void login_after_retry(void *arg)
{
    struct many *m = arg;
    CALL(c);
    if (login(m->s, &c, "anna", NULL))
        m->n_good++;
}
/* --- names --- */

/* A DNS server for the test: every A question is answered with 127.0.0.<last byte of each of addresses>. */
static struct {
    uv_udp_t udp;
    unsigned char hosts[4];
    size_t n_hosts;
    char packet[1500];
} dns_server;

static void on_dns_alloc(uv_handle_t *h, size_t n, uv_buf_t *out)
{
    (void)h;
    (void)n;
    *out = uv_buf_init(dns_server.packet, sizeof(dns_server.packet));
}
static void on_dns(uv_udp_t *udp, ssize_t n, const uv_buf_t *b, const struct sockaddr *from, unsigned flags)
{
    (void)flags;
    if (n < 17 || !from)
        return;
    unsigned char out[1500];
    size_t q = 12;
    while (q < (size_t)n && b->base[q])
        q += 1 + (unsigned char)b->base[q];
    q += 5; /* root, type, class */
    assert_true(q <= (size_t)n);
    bool is_a = b->base[q - 4] == 0 && b->base[q - 3] == 1;
    memcpy(out, b->base, q);
    size_t n_answers = is_a ? dns_server.n_hosts : 0, at = q;
    const unsigned char head[10] = {0x81, 0x80, 0, 1, 0, (unsigned char)n_answers};
    memcpy(out + 2, head, sizeof(head));
    for (size_t i = 0; i < n_answers; i++) { /* TTL 0 */
        const unsigned char answer[16] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, dns_server.hosts[i]};
        memcpy(out + at, answer, sizeof(answer));
        at += sizeof(answer);
    }
    uv_buf_t reply = uv_buf_init((char *)out, (unsigned)at);
    assert_int_equal(uv_udp_try_send(udp, &reply, 1, from), at);
}
static struct dns *start_dns(void)
{
    struct err err = ERR_INIT;
    struct sockaddr_in any;
    assert_int_equal(uv_ip4_addr("127.0.0.1", 0, &any), 0);
    assert_int_equal(uv_udp_init(fiber_loop(), &dns_server.udp), 0);
    assert_int_equal(uv_udp_bind(&dns_server.udp, (const struct sockaddr *)&any, 0), 0);
    assert_int_equal(uv_udp_recv_start(&dns_server.udp, on_dns_alloc, on_dns), 0);
    int len = sizeof(any);
    assert_int_equal(uv_udp_getsockname(&dns_server.udp, (struct sockaddr *)&any, &len), 0);
    char text[32];
    (void)snprintf(text, sizeof(text), "127.0.0.1:%u", ntohs(any.sin_port));
    str server = str_c(text);
    struct dns *d = dns_new(&(struct dns_opts){.servers = &server, .n_servers = 1, .timeout_ms = 2000}, &err);
    if (!d)
        fail_msg("%s", err.msg);
    return d;
}

/* Each address behind a name is a node; the name is looked up again. */
static void names_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    fiber_cond_init(&hold);
    struct node a = start_node(TCP, "127.0.0.1:0", 0);
    char text[NET_ADDR_TEXT_MAX], second[64], name[64];
    unsigned port = net_addr_port(listener_addr(a.listener));
    (void)node_text(&a, text);
    (void)snprintf(second, sizeof(second), "127.0.0.2:%u", port);
    (void)snprintf(name, sizeof(name), "auth.example:%u", port);
    struct node b = start_node(TCP, second, 0);
    struct dns *dns = start_dns();
    str nodes = str_c(name);
    dns_server.hosts[0] = 1;
    dns_server.hosts[1] = 2;
    dns_server.n_hosts = 2;
    ProtobufCService *client = rpc_client_new(&(struct rpc_client_opts){.name = "auth",
                                                                        .service = &thurn__auth__descriptor,
                                                                        .nodes = &nodes,
                                                                        .n_nodes = 1,
                                                                        .dns = dns,
                                                                        .roles = RPC_BY_FRONTEND},
                                              &err);
    assert_non_null(client);
    {
        CALL(c);
        if (!login(client, &c, "anna", NULL)) /* waits for the first look-up */
            fail_msg("%s", c.err.msg);
    }
    FIBER_DEADLINE(15000);
    while (rpc_client_healthy(client) < 2)
        assert_true(fiber_sleep_ms(5, &err));
    dns_server.n_hosts = 1;
    while (rpc_client_healthy(client) == 2) /* it is noticed that one has gone */
        assert_true(fiber_sleep_ms(50, &err));
    {
        CALL(c);
        assert_true(login(client, &c, "anna", NULL));
    }
    rpc_client_free(client);
    dns_free(dns);
    uv_close((uv_handle_t *)&dns_server.udp, NULL);
    stop_node(&a);
    stop_node(&b);
}

/* No node: UNAVAILABLE, soon. A node that comes back while the call is retried: the call succeeds. */
static void outage_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    fiber_cond_init(&hold);
    struct node n = start_node(TCP, "127.0.0.1:0", 0);
    char text[NET_ADDR_TEXT_MAX];
    str name = node_text(&n, text);
    ProtobufCService *client = new_client(&name, 1, NULL);
    metrics_reset();
    {
        CALL(c);
        assert_true(login(client, &c, "anna", NULL));
        stop_node(&n);
        rpc_call_again(&c);
        int64_t began = clock_mono_ms();
        assert_false(login(client, &c, "anna", NULL));
        assert_int_equal(c.err.kind, ERR_UNAVAILABLE);
        assert_true(str_find_str(str_c(c.err.msg), S("127.0.0.1")) >= 0 ||
                    str_find_str(str_c(c.err.msg), S("refused")) >= 0);
        assert_true(clock_mono_ms() - began < 5000);
        assert_true(metric_get(M_RPC_RETRIES, NULL) > 0);
    }
    struct many m = {.s = client};
    FIBER_GROUP(g, 1);
    assert_true(fiber_group_spawn(&g, "retry", login_after_retry, &m, &err));
    assert_true(fiber_sleep_ms(20, &err));
    n = start_node(TCP, text, 0);
    assert_true(fiber_group_wait(&g, &err));
    assert_int_equal(m.n_good, 1);

    /* UNAVAILABLE from the service: an idempotent call is made again, another is not. */
    for (int is_idempotent = 0; is_idempotent < 2; is_idempotent++) {
        n_served = 0;
        ARENA(arena, 1 << 20);
        struct rpc_call c;
        rpc_call_init(&c, &arena);
        c.is_idempotent = is_idempotent;
        c.deadline_mono_ms = clock_mono_ms() + 10000;
        assert_false(login(client, &c, "away", NULL));
        assert_int_equal(c.err.kind, ERR_UNAVAILABLE);
        assert_int_equal(n_served, is_idempotent ? 4 : 1);
    }
    rpc_client_free(client);
    stop_node(&n);
}

/* BUSY: each other node is asked once, at once, with whatever key; the same one never again, and what may not be
 * repeated is not. */
static void busy_main(void *arg)
{
    (void)arg;
    fiber_cond_init(&hold);
    struct node v[3];
    char text[3][NET_ADDR_TEXT_MAX];
    str names[3];
    for (int i = 0; i < 3; i++) {
        v[i] = start_node(TCP, "127.0.0.1:0", 0);
        names[i] = node_text(&v[i], text[i]);
    }
    for (int n = 1; n <= 3; n++) {
        ProtobufCService *client = new_client(names, (size_t)n, NULL);
        for (uint64_t route = 0; route < 8; route++) {
            ARENA(arena, 1 << 20);
            struct rpc_call c;
            rpc_call_init(&c, &arena);
            c.route_key = route;
            n_served = 0;
            assert_false(login(client, &c, "full", NULL));
            assert_int_equal(c.err.kind, ERR_BUSY);
            assert_int_equal(n_served, n);
            n_served = 0;
            rpc_call_again(&c);
            assert_int_equal(login(client, &c, "full once", NULL), n > 1);
            assert_int_equal(n_served, MIN(n, 2));
            n_served = 0;
            rpc_call_again(&c);
            c.is_idempotent = false;
            assert_false(login(client, &c, "full once", NULL));
            assert_int_equal(n_served, 1);
        }
        rpc_client_free(client);
    }
    for (int i = 0; i < 3; i++)
        stop_node(&v[i]);
}

static void hold_and_count(void *arg)
{
    struct many *m = arg;
    CALL(c);
    c.is_idempotent = false;
    if (login(m->s, &c, "hold", NULL))
        m->n_good++;
}
static void drain(void *arg)
{
    rpc_server_drain(arg);
}
static void drain_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct setting s = set_up(TCP);
    struct many m = {.s = s.client};
    FIBER_GROUP(g, 4);
    for (int i = 0; i < 3; i++)
        assert_true(fiber_group_spawn(&g, "hold", hold_and_count, &m, &err));
    while (n_running < 3)
        assert_true(fiber_sleep_ms(1, &err));
    assert_true(fiber_group_spawn(&g, "drain", drain, s.node.server, &err));
    assert_true(fiber_sleep_ms(5, &err));
    assert_int_equal(rpc_client_healthy(s.client), 0); /* no new calls there */
    fiber_cond_broadcast(&hold);
    assert_true(fiber_group_wait(&g, &err)); /* those under way were answered, and drain returned */
    assert_int_equal(m.n_good, 3);
    tear_down(&s);
}

static void inflight_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    fiber_cond_init(&hold);
    n_running = 0;
    metrics_reset();
    struct node n = start_node(TCP, "127.0.0.1:0", 2);
    char text[NET_ADDR_TEXT_MAX];
    str name = node_text(&n, text);
    ProtobufCService *client = new_client(&name, 1, NULL);
    struct many m = {.s = client};
    FIBER_GROUP(g, 4);
    for (int i = 0; i < 2; i++)
        assert_true(fiber_group_spawn(&g, "hold", hold_and_count, &m, &err));
    while (n_running < 2)
        assert_true(fiber_sleep_ms(1, &err));
    CALL(c);
    c.is_idempotent = false;
    assert_false(login(client, &c, "anna", NULL));
    assert_int_equal(c.err.kind, ERR_BUSY);
    assert_int_equal(metric_get(M_RPC_REFUSED, "inflight"), 1);
    /* it may be sent again, but not to the node that has too much to do already */
    rpc_call_again(&c);
    c.is_idempotent = true;
    assert_false(login(client, &c, "anna", NULL));
    assert_int_equal(c.err.kind, ERR_BUSY);
    assert_int_equal(metric_get(M_RPC_REFUSED, "inflight"), 2);
    fiber_cond_broadcast(&hold);
    assert_true(fiber_group_wait(&g, &err));
    assert_int_equal(m.n_good, 2);
    rpc_client_free(client);
    stop_node(&n);
}

/* --- peers that misbehave --- */

static void raw_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    static const str openings[] = {
        S_INIT("GET / HTTP/1.0\r\n\r\n"),                                                     /* no frame */
        S_INIT("\0\0\0\5\x08\0\0\0\1"),                                                       /* no hello */
        S_INIT("\0\0\0\x13\1THRN\0\2\0\2\10frontend\0\0\0\0\x13\1THRN\0\2\0\2\10frontend\0"), /* two */
        S_INIT("\0\0\0\x0b\1THRN\0\7\0\x09\0\0"), /* versions of another age */
    };
    metrics_reset();
    struct setting s = set_up(TCP);
    for (size_t i = 0; i < ARRAY_LEN(openings); i++) {
        struct stream *raw = stream_connect(listener_addr(s.node.listener), NULL, NULL, &err);
        assert_non_null(raw);
        assert_true(stream_write(raw, openings[i], &err) && stream_flush(raw, &err));
        FIBER_DEADLINE(5000);
        while (stream_fill(raw, &err))
            ;
        assert_int_equal(err.kind, ERR_UNAVAILABLE); /* closed */
        err_clear(&err);
        if (i >= 2) /* it said what it speaks */
            assert_true(str_find_str(stream_input(raw), S("THRN\0\2\0\2")) >= 0);
        stream_close(raw);
        basics(&s); /* others do not notice */
    }
    assert_int_equal(metric_get(M_RPC_REFUSED, "protocol"), 4);
    assert_int_equal(metric_get(M_RPC_REFUSED, "version"), 1);
    tear_down(&s);
}

/* Who asks for a method of a later release is told to try elsewhere. */
static void newer_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    metrics_reset();
    struct setting s = set_up(TCP);
    BUF(b, 4096);
    struct rpc_frame hello = {.type = RPC_HELLO};
    hello.hello.version_min = hello.hello.version_max = RPC_VERSION_MAX;
    hello.hello.roles = S("frontend");
    hello.hello.services[0] = str_c(thurn__auth__descriptor.name);
    hello.hello.n_services = 1;
    rpc_frame_add(&b, &hello, NULL);
    struct rpc_frame request = {.type = RPC_REQUEST, .call = 7};
    request.request.method = (uint16_t)thurn__auth__descriptor.n_methods;
    request.request.ms_left = 5000;
    rpc_frame_add(&b, &request, NULL);
    struct stream *raw = stream_connect(listener_addr(s.node.listener), NULL, NULL, &err);
    assert_non_null(raw);
    assert_true(stream_write(raw, buf_str(&b), &err) && stream_flush(raw, &err));
    FIBER_DEADLINE(5000);
    struct rpc_frame answer = {.type = RPC_HELLO};
    while (answer.type == RPC_HELLO) {
        size_t used = 0;
        enum rpc_frame_result r;
        while ((r = rpc_frame_parse(stream_input(raw), &answer, &used)) == RPC_FRAME_MORE)
            assert_true(stream_fill(raw, &err));
        assert_int_equal(r, RPC_FRAME_OK);
        if (answer.type == RPC_HELLO)
            stream_consume(raw, used);
    }
    assert_int_equal(answer.type, RPC_ERROR);
    assert_int_equal(answer.call, 7);
    assert_int_equal(answer.kind, ERR_UNAVAILABLE);
    assert_int_equal(metric_get(M_RPC_REFUSED, "unknown"), 1);
    stream_close(raw);
    tear_down(&s);
}

static void answer_oddly(void *arg, struct stream *raw)
{
    const str *answer = arg;
    assert_true(stream_try_write(raw, *answer));
    stream_close(raw);
}
static void odd_server_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    static str answers[] = {S_INIT("220 mail.example.org ESMTP\r\n"), S_INIT("\0\0\0\x0b\1THRN\0\7\0\x09\0\0")};
    for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
        struct listener_opts o = {.name = "odd", .accept = answer_oddly, .arg = &answers[i]};
        assert_true(net_addr_parse(S("127.0.0.1:0"), &o.addr, &err));
        struct listener *l = listener_start(&o, &err);
        assert_non_null(l);
        char text[NET_ADDR_TEXT_MAX];
        str name = net_addr_format(listener_addr(l), text);
        ProtobufCService *client = new_client(&name, 1, NULL);
        CALL(c);
        assert_false(login(client, &c, "anna", NULL));
        assert_int_equal(c.err.kind, ERR_UNAVAILABLE);
        if (i == 1 && str_find_str(str_c(c.err.msg), S("versions 7 to 9 of the protocol, we speak 2 to 2")) < 0)
            fail_msg("%s", c.err.msg);
        rpc_client_free(client);
        listener_free(l);
    }
}

/* Peers on the databases of two installations part; one that has none learns its own from the first peer, and keeps to
 * it. */
static void installation_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    static char of_nodes[2][RPC_SET_SIZE] = {"11111111111111111111111111111111", "22222222222222222222222222222222"};
    static const struct {
        const char *own;
        bool is_taken[2];
        const char *own_after;
    } cases[] = {
        {"11111111111111111111111111111111", {true, false}, "11111111111111111111111111111111"},
        {"22222222222222222222222222222222", {false, true}, "22222222222222222222222222222222"},
        {"", {true, false}, "11111111111111111111111111111111"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char own[RPC_SET_SIZE];
        snprintf(own, sizeof(own), "%s", cases[i].own);
        for (size_t k = 0; k < 2; k++) {
            ProtobufCService *services[] = {&service.base};
            struct node n = {.server = rpc_server_new(
                                 &(struct rpc_server_opts){.services = services, .n_services = 1, .set = of_nodes[k]})};
            struct listener_opts o = {.name = "rpc", .accept = rpc_server_accept, .arg = n.server};
            assert_true(net_addr_parse(S("127.0.0.1:0"), &o.addr, &err));
            n.listener = listener_start(&o, &err);
            assert_non_null(n.listener);
            char text[NET_ADDR_TEXT_MAX];
            str name = node_text(&n, text);
            ProtobufCService *client = rpc_client_new(&(struct rpc_client_opts){.name = "auth",
                                                                                .service = &thurn__auth__descriptor,
                                                                                .nodes = &name,
                                                                                .n_nodes = 1,
                                                                                .set = own,
                                                                                .roles = RPC_BY_FRONTEND},
                                                      &err);
            assert_non_null(client);
            CALL(c);
            assert_int_equal(login(client, &c, "anna", NULL), cases[i].is_taken[k]);
            if (!cases[i].is_taken[k]) {
                assert_int_equal(c.err.kind, ERR_UNAVAILABLE);
                assert_true(str_find_str(str_c(c.err.msg), S("another installation")) >= 0);
            }
            rpc_client_free(client);
            stop_node(&n);
        }
        assert_string_equal(own, cases[i].own_after);
    }
}

/* The certificate names frontend and auth: who claims more, less than a role, or expects another service there, is not
 * served. */
static void role_main(void *arg)
{
    (void)arg;
    static const struct {
        unsigned claims, expects;
        bool is_served, is_turned_away;
    } cases[] = {
        {RPC_BY_FRONTEND, RPC_BY_AUTH, true, false},
        {RPC_BY_AUTH, 0, true, false},
        {RPC_BY_STORE, RPC_BY_AUTH, false, true},
        {RPC_BY_FRONTEND | RPC_BY_QUEUE, RPC_BY_AUTH, false, true},
        {0, RPC_BY_AUTH, false, true},
        {RPC_BY_FRONTEND, RPC_BY_STORE, false, false},
    };
    struct setting s = set_up(MTLS);
    char text[NET_ADDR_TEXT_MAX];
    str name = node_text(&s.node, text);
    struct err err = ERR_INIT;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        metrics_reset();
        ProtobufCService *client = rpc_client_new(&(struct rpc_client_opts){.name = "auth",
                                                                            .service = &thurn__auth__descriptor,
                                                                            .nodes = &name,
                                                                            .n_nodes = 1,
                                                                            .tls = s.tls,
                                                                            .roles = cases[i].claims,
                                                                            .server_role = cases[i].expects},
                                                  &err);
        assert_non_null(client);
        CALL(c);
        c.is_idempotent = false;
        bool ok = login(client, &c, "anna", NULL);
        if (ok != cases[i].is_served || (metric_get(M_RPC_REFUSED, "role") > 0) != cases[i].is_turned_away)
            fail_msg("case %zu: %s", i, c.err.msg);
        assert_true(ok || c.err.kind == ERR_UNAVAILABLE || c.err.kind == ERR_DENIED);
        rpc_client_free(client);
    }
    tear_down(&s);
}

/* By the door of this process's own front-ends nobody is more than that. */
static void door_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    ProtobufCService *services[] = {&service.base};
    struct node n = {.server = rpc_server_new(&(struct rpc_server_opts){.services = services, .n_services = 1})};
    struct listener_opts o = {.name = "rpc", .accept = rpc_server_accept_frontend, .arg = n.server};
    char address[120];
    (void)snprintf(address, sizeof(address), "unix:%s", socket_path);
    assert_true(net_addr_parse(str_c(address), &o.addr, &err));
    n.listener = listener_start(&o, &err);
    assert_non_null(n.listener);
    str name = str_c(address);
    for (unsigned roles = 1; roles <= RPC_ROLES_ALL; roles++) {
        ProtobufCService *client = rpc_client_new(
            &(struct rpc_client_opts){
                .name = "auth", .service = &thurn__auth__descriptor, .nodes = &name, .n_nodes = 1, .roles = roles},
            &err);
        assert_non_null(client);
        CALL(c);
        c.is_idempotent = false;
        assert_int_equal(login(client, &c, "anna", NULL), roles == RPC_BY_FRONTEND);
        rpc_client_free(client);
    }
    stop_node(&n);
}

/* What the .proto says of repeating arrives at the stub, and the caller's own word stays. */
static bool seen_idempotent;
static void note_invoke(ProtobufCService *s, unsigned method, const ProtobufCMessage *request, ProtobufCClosure closure,
                        void *data)
{
    static const Thurn__Empty empty = THURN__EMPTY__INIT;
    (void)s, (void)method, (void)request;
    seen_idempotent = ((struct rpc_call *)data)->is_idempotent;
    closure(&empty.base, data);
}
static void once_main(void *arg)
{
    (void)arg;
    ProtobufCService noting = {.descriptor = &thurn__auth__descriptor, .invoke = note_invoke};
    Thurn__NameRequest name = THURN__NAME_REQUEST__INIT;
    Thurn__AddDomainRequest domain = THURN__ADD_DOMAIN_REQUEST__INIT;
    CALL(c);
    assert_true(auth_remove_domain(&c, &noting, &name, NULL));
    assert_false(seen_idempotent);
    assert_true(c.is_idempotent);
    rpc_call_again(&c);
    assert_true(auth_add_domain(&c, &noting, &domain, NULL));
    assert_true(seen_idempotent);
}

static void faulty_main(void *arg)
{
    (void)arg;
    for (int after = 0; after < 2; after++) {
        n_served = 0;
        ProtobufCService *f = rpc_faulty_new(&service.base);
        rpc_faulty_set(f, 2, after);
        for (int i = 1; i <= 3; i++) {
            CALL(c);
            assert_int_equal(login(f, &c, "anna", NULL), i != 2);
            assert_int_equal(c.err.kind, i == 2 ? ERR_UNAVAILABLE : ERR_NONE);
        }
        assert_int_equal(n_served, after ? 3 : 2);
        rpc_faulty_free(f);
    }
}

/* How replies of local calls get into the arena without packing: equal to a packed copy, whatever lay where. */
static void test_keep(void **state)
{
    (void)state;
    ARENA(a, 1 << 20);
    char stack_name[] = "on the stack";
    Thurn__AccountRef ref = THURN__ACCOUNT_REF__INIT;
    ref.account_id = 5;
    Thurn__Target *in_arena = arena_new(&a, Thurn__Target), on_stack = THURN__TARGET__INIT;
    thurn__target__init(in_arena);
    in_arena->address = stack_name;
    on_stack.address = arena_strz(&a, S("in the arena"));
    on_stack.account = &ref;
    Thurn__Target *targets[] = {in_arena, &on_stack};
    Thurn__Resolution one = THURN__RESOLUTION__INIT, *list[] = {&one, &one};
    one.targets = targets;
    one.n_targets = 2;
    Thurn__ResolveReply r = THURN__RESOLVE_REPLY__INIT;
    r.resolutions = list;
    r.n_resolutions = 2;
    Thurn__LocateRequest numbers = THURN__LOCATE_REQUEST__INIT;
    int64_t ids[] = {1, -2, INT64_MAX};
    numbers.account_ids = ids;
    numbers.n_account_ids = 3;
    Thurn__BlobRef blob = THURN__BLOB_REF__INIT;
    blob.hash = rpc_bytes(str_c(stack_name));
    const ProtobufCMessage *all[] = {&r.base, &numbers.base, &blob.base};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        uint8_t before[1000], after[1000];
        size_t n = protobuf_c_message_pack(all[i], before);
        const ProtobufCMessage *kept = rpc_keep(all[i], &a);
        assert_true(arena_owns(&a, kept));
        memset(stack_name, 'x', i == 0 ? sizeof(stack_name) - 1 : 0); /* what lay outside may go */
        ref.account_id = 6;
        ids[0] = 9;
        assert_int_equal(protobuf_c_message_pack(kept, after), n);
        assert_memory_equal(before, after, n);
    }
}

#define RUN(name)                                                                                                      \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        assert_true(fiber_main(name##_main, NULL));                                                                    \
    }
RUN(all_ways)
RUN(routing)
RUN(each)
RUN(idle_nodes)
RUN(outage)
RUN(busy)
RUN(names)
RUN(drain)
RUN(inflight)
RUN(raw)
RUN(newer)
RUN(odd_server)
RUN(installation)
RUN(role)
RUN(door)
RUN(faulty)
RUN(once)

static int set_up_all(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    static const char *const names[] = {"127.0.0.1", "URI:thurn:role:frontend", "URI:thurn:role:auth"};
    assert_non_null(mkdtemp(folder));
    (void)snprintf(cert, sizeof(cert), "%s/crt", folder);
    (void)snprintf(key, sizeof(key), "%s/key", folder);
    (void)snprintf(socket_path, sizeof(socket_path), "%s/sock", folder);
    return tls_make_self_signed(names, 3, str_c(cert), str_c(key), &err) ? 0 : -1;
}
static int tear_down_all(void **state)
{
    (void)state;
    (void)unlink(cert);
    (void)unlink(key);
    (void)unlink(socket_path);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_ways),   cmocka_unit_test(test_routing),      cmocka_unit_test(test_each),
        cmocka_unit_test(test_idle_nodes), cmocka_unit_test(test_outage),       cmocka_unit_test(test_busy),
        cmocka_unit_test(test_drain),      cmocka_unit_test(test_inflight),     cmocka_unit_test(test_raw),
        cmocka_unit_test(test_newer),      cmocka_unit_test(test_odd_server),   cmocka_unit_test(test_role),
        cmocka_unit_test(test_door),       cmocka_unit_test(test_installation), cmocka_unit_test(test_names),
        cmocka_unit_test(test_faulty),     cmocka_unit_test(test_once),         cmocka_unit_test(test_keep),
    };
    return cmocka_run_group_tests(tests, set_up_all, tear_down_all);
}
