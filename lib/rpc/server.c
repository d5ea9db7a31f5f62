#include "rpc/server.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/metrics.h"
#include "rpc/internal.h"

#define SERVER_MAGIC 0x495e0001u
#define MAX_INFLIGHT_DEFAULT 4096
#define HELLO_TIMEOUT_MS 10000
#define REQUEST_ARENA_CAP ((size_t)64 * 1024 * 1024)
/* of the caller's time, kept for the answer: he hears from us what we wait for, and not that we are silent */
#define ANSWER_MS 250

struct rpc_server {
    uint32_t magic;
    ProtobufCService **services;
    size_t n_services;
    unsigned max_inflight, n_inflight;
    char *set;
    unsigned roles;
    struct list peers;
    bool is_draining;
    struct fiber_cond changed; /* a request or a peer has gone */
};

/* One connection. It outlives its end until its last request is done. */
struct peer {
    struct list_node node;
    struct rpc_server *server;
    struct rpc_conn *conn; /* NULL once it has ended */
    bool is_greeted;
    unsigned door, roles; /* RPC_BY_*: the most that it may be; what it is */
    struct fiber_timer hello_timer;
    ProtobufCService *services[RPC_SERVICES_MAX]; /* by the peer's numbers; NULL = not served here */
    size_t n_services;
    struct map64 calls; /* number + 1 → struct served */
    unsigned n_calls;
};

/* One request under way. */
struct served {
    struct peer *peer;
    uint32_t number;
    unsigned method;
    ProtobufCService *service;
    ProtobufCMessage *request;
    int64_t began_us;
    struct arena arena;
    struct rpc_call call;
    struct fiber *fiber; /* NULL before its first slice */
    bool is_cancelled;
    struct rpc_source source;
    struct rpc_inflow inflow;
    struct rpc_sink sink;
    uint64_t credit;
};

/* --- bodies --- */

FIBER static bool source_read(struct rpc_source *source, str *piece, struct err *err)
{
    struct served *v = CONTAINER_OF(source, struct served, source);
    while (!rpc_inflow_has(&v->inflow)) {
        if (v->inflow.is_ended) {
            if (err_is_set(&v->inflow.failure)) {
                *err = v->inflow.failure;
                return false;
            }
            *piece = S("");
            return true;
        }
        v->inflow.waiter = fiber_self();
        bool ok = fiber_wait(err);
        v->inflow.waiter = NULL;
        if (!ok)
            return false;
    }
    size_t credit;
    *piece = rpc_inflow_take(&v->inflow, &credit);
    if (credit > 0 && v->peer->conn)
        rpc_conn_post(v->peer->conn,
                      &(struct rpc_frame){.type = RPC_WINDOW_MORE, .call = v->number, .credit = (uint32_t)credit});
    return true;
}

FIBER static bool send_to(struct served *v, const struct rpc_frame *f, const ProtobufCMessage *m, struct err *err)
{
    if (!v->peer->conn)
        return err_set(err, ERR_CANCELLED, "the caller has gone");
    return rpc_conn_send(v->peer->conn, f, m, err);
}

FIBER static bool sink_write(struct rpc_sink *sink, str piece, struct err *err)
{
    struct served *v = CONTAINER_OF(sink, struct served, sink);
    while (piece.n > 0) {
        while (v->credit == 0)
            if (!fiber_wait(err))
                return false;
        size_t n = MIN(MIN(piece.n, (size_t)RPC_CHUNK_MAX), (size_t)v->credit);
        v->credit -= n;
        const struct rpc_frame f = {.type = RPC_DATA, .call = v->number, .payload = str_slice(piece, 0, n)};
        if (!send_to(v, &f, NULL, err))
            return false;
        piece = str_slice(piece, n, SIZE_MAX);
    }
    return true;
}

/* --- requests --- */

static void peer_free_if_done(struct peer *p)
{
    if (p->conn || p->n_calls > 0)
        return;
    struct rpc_server *s = p->server;
    list_remove(&p->node);
    fiber_timer_stop(&p->hello_timer);
    map64_done(&p->calls);
    free(p);
    fiber_cond_broadcast(&s->changed);
}

static void served_free(struct served *v)
{
    rpc_inflow_done(&v->inflow);
    arena_done(&v->arena);
    free(v);
}

FIBER static void send_error(struct served *v, const struct err *why)
{
    struct err err = ERR_INIT;
    const struct rpc_frame f = {.type = RPC_ERROR, .call = v->number, .kind = why->kind, .payload = str_c(why->msg)};
    if (!send_to(v, &f, NULL, &err)) /* then nobody waits for it */
        err_clear(&err);
}

/* The service's answer. It is sent from here, because the reply may live on the service's stack. */
FIBER static void on_answer(const ProtobufCMessage *reply, void *closure_data)
{
    struct rpc_call *c = closure_data;
    struct served *v = CONTAINER_OF(c, struct served, call);
    assert(!c->is_done);
    c->is_done = true;
    if (reply) {
        struct err err = ERR_INIT;
        const struct rpc_frame f = {.type = RPC_REPLY, .call = v->number};
        if (send_to(v, &f, reply, &err))
            return;
        c->err = err;
    } else if (!err_is_set(&c->err)) {
        (void)err_set(&c->err, ERR_INTERNAL, "the service gave no reason");
    }
    send_error(v, &c->err);
}

static void serve(void *arg)
{
    struct served *v = arg;
    struct peer *p = v->peer;
    struct rpc_server *s = p->server;
    v->fiber = fiber_self();
    if (v->is_cancelled)
        fiber_cancel(v->fiber);
    fiber_context()->trace_id = v->call.trace_id;
    v->service->invoke(v->service, v->method, v->request, on_answer, &v->call);
    assert(v->call.is_done);
    rpc_observe(v->service, v->method, v->began_us, &v->call.err);
    (void)map64_remove(&p->calls, (uint64_t)v->number + 1);
    p->n_calls--;
    s->n_inflight--;
    metric_add(M_RPC_SERVER_RUNNING, -1);
    served_free(v);
    fiber_cond_broadcast(&s->changed);
    peer_free_if_done(p);
}

static void refuse(struct peer *p, uint32_t call, enum err_kind kind, const char *why, const char *reason)
{
    metric_inc_label(M_RPC_REFUSED, reason);
    rpc_conn_post(p->conn, &(struct rpc_frame){.type = RPC_ERROR, .call = call, .kind = kind, .payload = str_c(why)});
}

static struct served *served_new(struct peer *p, const struct rpc_frame *f, ProtobufCService *service)
{
    struct served *v = xnew(struct served);
    v->peer = p;
    v->number = f->call;
    v->method = f->request.method;
    v->service = service;
    v->began_us = clock_mono_us();
    v->credit = RPC_WINDOW;
    v->source.read = source_read;
    v->sink.write = sink_write;
    rpc_inflow_init(&v->inflow);
    arena_init(&v->arena, REQUEST_ARENA_CAP);
    v->call = (struct rpc_call){.arena = &v->arena,
                                .deadline_mono_ms = f->request.ms_left == RPC_NO_DEADLINE
                                                        ? FIBER_NO_DEADLINE
                                                        : clock_mono_ms() + f->request.ms_left -
                                                              MIN(f->request.ms_left / 16, ANSWER_MS),
                                .pass = f->request.pass,
                                .is_remote = true,
                                .roles = p->roles,
                                .trace_id = f->request.trace_id,
                                .route_key = f->request.route_key,
                                .is_idempotent = true,
                                .body = f->request.flags & RPC_FLAG_BODY ? &v->source : NULL,
                                .out = f->request.flags & RPC_FLAG_OUT ? &v->sink : NULL};
    ProtobufCAllocator alloc;
    v->request =
        protobuf_c_message_unpack(service->descriptor->methods[v->method].input, rpc_arena_allocator(&v->arena, &alloc),
                                  f->payload.n, (const uint8_t *)f->payload.p);
    return v;
}

static bool on_request(struct peer *p, const struct rpc_frame *f)
{
    struct rpc_server *s = p->server;
    if (map64_get(&p->calls, (uint64_t)f->call + 1) || f->request.service >= p->n_services)
        return false;
    ProtobufCService *service = p->services[f->request.service];
    if (!service || f->request.method >= service->descriptor->n_methods) {
        /* a newer caller: a node of its own release may answer, or will once the upgrade is through */
        refuse(p, f->call, ERR_UNAVAILABLE,
               service ? "this node's release does not know the method" : "this node does not serve the service",
               "unknown");
        return true;
    }
    if (s->is_draining || s->n_inflight >= s->max_inflight) {
        refuse(p, f->call, s->is_draining ? ERR_UNAVAILABLE : ERR_BUSY,
               s->is_draining ? "draining" : "too many requests", s->is_draining ? "draining" : "inflight");
        return true;
    }
    struct served *v = served_new(p, f, service);
    if (!v->request) {
        refuse(p, f->call, ERR_INVALID, "malformed request", "malformed");
        served_free(v);
        return true;
    }
    struct err err = ERR_INIT;
    if (!fiber_spawn(service->descriptor->methods[v->method].name, serve, v, v->call.deadline_mono_ms, &err)) {
        refuse(p, f->call, ERR_BUSY, err.msg, "fibers");
        served_free(v);
        return true;
    }
    (void)map64_put(&p->calls, (uint64_t)f->call + 1, v);
    p->n_calls++;
    s->n_inflight++;
    metric_add(M_RPC_SERVER_RUNNING, 1);
    return true;
}

static void cancel(struct served *v)
{
    v->is_cancelled = true;
    if (v->fiber)
        fiber_cancel(v->fiber);
}

/* --- the connection --- */

static bool no_role(const struct rpc_frame *f, const char *why)
{
    metric_inc_label(M_RPC_REFUSED, "role");
    log_warn("rpc.role", KV_STR("roles", f->hello.roles), KV_Z("reason", why));
    return false;
}

static bool take_roles(struct peer *p, const struct rpc_frame *f)
{
    const struct stream *stream = rpc_conn_stream(p->conn);
    unsigned claimed;
    if (!rpc_roles_parse(f->hello.roles, &claimed))
        return no_role(f, "it claims no role that there is");
    for (unsigned i = 0; i < RPC_ROLES; i++) {
        char uri[RPC_ROLES_TEXT];
        if ((claimed & 1u << i) && stream_has_tls(stream) &&
            !stream_tls_peer_has_uri(stream, rpc_role_uri(1u << i, uri)))
            return no_role(f, "its certificate does not name the role");
    }
    if (claimed & ~p->door)
        return no_role(f, "only front-ends come by this socket");
    p->roles = claimed;
    return true;
}

static bool on_hello(struct peer *p, const struct rpc_frame *f)
{
    struct rpc_server *s = p->server;
    if (p->is_greeted)
        return false;
    p->is_greeted = true;
    fiber_timer_stop(&p->hello_timer);
    struct rpc_frame own = {.type = RPC_HELLO};
    own.hello.version_min = RPC_VERSION_MIN;
    own.hello.version_max = RPC_VERSION_MAX;
    char roles[RPC_ROLES_TEXT];
    own.hello.roles = rpc_roles_print(s->roles, roles);
    own.hello.set = str_c(s->set);
    rpc_conn_post(p->conn, &own);
    if (f->hello.version_max < RPC_VERSION_MIN || f->hello.version_min > RPC_VERSION_MAX) {
        metric_inc_label(M_RPC_REFUSED, "version");
        return false;
    }
    if (!take_roles(p, f))
        return false;
    if (!rpc_set_fits(s->set, f->hello.set)) { /* it sees the same, and says so */
        metric_inc_label(M_RPC_REFUSED, "installation");
        return false;
    }
    p->n_services = f->hello.n_services;
    for (size_t i = 0; i < p->n_services; i++)
        for (size_t k = 0; k < s->n_services; k++)
            if (str_eq(f->hello.services[i], str_c(s->services[k]->descriptor->name)))
                p->services[i] = s->services[k];
    if (s->is_draining)
        rpc_conn_post(p->conn, &(struct rpc_frame){.type = RPC_GOAWAY});
    return true;
}

static bool on_frame(void *owner, const struct rpc_frame *f)
{
    struct peer *p = owner;
    if (f->type == RPC_HELLO)
        return on_hello(p, f);
    if (!p->is_greeted)
        return false;
    if (f->type == RPC_REQUEST)
        return on_request(p, f);
    struct served *v = map64_get(&p->calls, (uint64_t)f->call + 1);
    switch (f->type) {
    case RPC_DATA:
        return !v || (v->call.body && rpc_inflow_put(&v->inflow, f->payload));
    case RPC_DATA_END:
        if (v)
            rpc_inflow_end(&v->inflow, f->kind, f->payload);
        return true;
    case RPC_WINDOW_MORE:
        if (v) {
            v->credit = MIN(v->credit + f->credit, (uint64_t)RPC_WINDOW);
            if (v->fiber)
                fiber_wake(v->fiber);
        }
        return true;
    case RPC_CANCEL:
        if (v)
            cancel(v);
        return true;
    default:
        return false;
    }
}

static void on_end(void *owner, const struct err *why)
{
    struct peer *p = owner;
    if (why->kind == ERR_INVALID) {
        metric_inc_label(M_RPC_REFUSED, "protocol");
        log_warn("rpc.peer", KV_ERR(why));
    }
    rpc_conn_free(TAKE(p->conn));
    uint64_t number;
    void *call;
    struct map_iter it = {0};
    while (map64_next(&p->calls, &it, &number, &call)) {
        struct served *v = call;
        rpc_inflow_end(&v->inflow, ERR_CANCELLED, S("the caller has gone"));
        cancel(v);
    }
    peer_free_if_done(p);
}

static const struct rpc_conn_events events = {.frame = on_frame, .end = on_end};

static void on_no_hello(void *arg)
{
    struct peer *p = arg;
    metric_inc_label(M_RPC_REFUSED, "hello");
    rpc_conn_break(p->conn, ERR_TIMEOUT, "no hello");
}

static void accept_peer(struct rpc_server *s, struct stream *stream, unsigned door)
{
    CHECK(s, SERVER_MAGIC);
    struct peer *p = xnew(struct peer);
    p->server = s;
    p->door = door;
    map64_init(&p->calls);
    list_push(&s->peers, &p->node);
    fiber_timer_start(&p->hello_timer, HELLO_TIMEOUT_MS, on_no_hello, p);
    p->conn = rpc_conn_new(stream, &events, p);
}

void rpc_server_accept(void *server, struct stream *stream)
{
    accept_peer(server, stream, RPC_ROLES_ALL);
}

void rpc_server_accept_frontend(void *server, struct stream *stream)
{
    accept_peer(server, stream, RPC_BY_FRONTEND);
}

/* --- life --- */

struct rpc_server *rpc_server_new(const struct rpc_server_opts *opts)
{
    struct rpc_server *s = xnew(struct rpc_server);
    s->magic = SERVER_MAGIC;
    s->services = xcalloc(opts->n_services, sizeof(*s->services));
    memcpy(s->services, opts->services, opts->n_services * sizeof(*s->services));
    s->n_services = opts->n_services;
    s->max_inflight = opts->max_inflight ? opts->max_inflight : MAX_INFLIGHT_DEFAULT;
    s->set = opts->set;
    s->roles = opts->roles;
    list_init(&s->peers);
    fiber_cond_init(&s->changed);
    return s;
}

void rpc_server_drain(struct rpc_server *s)
{
    CHECK(s, SERVER_MAGIC);
    struct err err = ERR_INIT;
    if (!s->is_draining) {
        s->is_draining = true;
        LIST_EACH(&s->peers, n)
        {
            struct peer *p = LIST_ITEM(n, struct peer, node);
            if (p->conn && p->is_greeted)
                rpc_conn_post(p->conn, &(struct rpc_frame){.type = RPC_GOAWAY});
        }
    }
    while (s->n_inflight > 0)
        if (!fiber_cond_wait(&s->changed, &err)) /* its time is up: rpc_server_free cancels the rest */
            return;
}

void rpc_server_free(struct rpc_server *s)
{
    if (!s)
        return;
    CHECK(s, SERVER_MAGIC);
    s->is_draining = true;
    LIST_EACH(&s->peers, n)
    {
        struct peer *p = LIST_ITEM(n, struct peer, node);
        if (p->conn)
            rpc_conn_break(p->conn, ERR_CANCELLED, "server stopped");
    }
    while (!list_empty(&s->peers)) /* their requests are cancelled, and unwind */
        fiber_cond_wait_uninterrupted(&s->changed);
    free(s->services);
    s->magic = 0;
    free(s);
}
