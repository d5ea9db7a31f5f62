#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "fiber/loop.h"
#include "rpc/node.h"

#define BACKOFF_MIN_MS 100
#define BACKOFF_MAX_MS 5000
#define GOAWAY_PAUSE_MS 1000

/* One call under way: on the stack of the fiber that makes it. */
struct remote_call {
    struct rpc_call *call;
    const ProtobufCMessageDescriptor *output;
    uint32_t number;
    struct fiber *fiber;
    bool is_over; /* answered, or the connection ended */
    bool is_lost; /* the latter */
    struct rpc_inflow inflow;
    uint64_t credit;
    str unsent; /* of the body's present piece */
    bool is_body_sent;
    bool has_side_effect; /* the source was read, or the sink written to */
};

struct rpc_node *rpc_node_new(struct rpc_remote *client, const struct net_addr *addr, str host)
{
    struct rpc_node *n = xnew(struct rpc_node);
    n->client = client;
    n->addr = *addr;
    n->host = str_dup(host);
    n->hash = hash_stable(net_addr_format(addr, n->text));
    map64_init(&n->calls);
    fiber_cond_init(&n->changed);
    list_push(&client->nodes, &n->node);
    return n;
}

void rpc_node_free(struct rpc_node *n)
{
    assert(n->n_calls == 0 && n->n_waiting == 0 && n->state != NODE_CONNECTING);
    rpc_conn_free(n->conn);
    map64_done(&n->calls);
    list_remove(&n->node);
    free(n->host);
    free(n);
}

bool node_is_healthy(const struct rpc_node *n)
{
    if (n->is_removed || n->is_going_away)
        return false;
    return n->state != NODE_DOWN || clock_mono_ms() >= n->retry_at_ms;
}

void rpc_node_settle(struct rpc_node *n)
{
    if (n->n_calls > 0 || n->n_waiting > 0 || n->state == NODE_CONNECTING)
        return;
    if (n->is_removed) {
        rpc_node_free(n);
        return;
    }
    if (n->is_going_away && n->conn)
        rpc_conn_break(n->conn, ERR_UNAVAILABLE, "going away");
}

/* --- what arrives --- */

static void over(struct remote_call *r)
{
    r->is_over = true;
    fiber_wake(r->fiber);
}

static void on_reply(struct remote_call *r, const struct rpc_frame *f)
{
    ProtobufCAllocator alloc;
    struct rpc_call *c = r->call;
    c->reply = protobuf_c_message_unpack(r->output, rpc_arena_allocator(c->arena, &alloc), f->payload.n,
                                         (const uint8_t *)f->payload.p);
    if (!c->reply)
        (void)err_set(&c->err, ERR_INTERNAL, "malformed %s", r->output->name);
    over(r);
}

static bool on_hello(struct rpc_node *n, const struct rpc_frame *f)
{
    if (n->is_greeted)
        return false;
    if (f->hello.version_max < RPC_VERSION_MIN || f->hello.version_min > RPC_VERSION_MAX)
        (void)err_set(&n->failure, ERR_INVALID, "it speaks versions %u to %u of the protocol, we speak %u to %u",
                      f->hello.version_min, f->hello.version_max, RPC_VERSION_MIN, RPC_VERSION_MAX);
    else if (!rpc_set_fits(n->client->set, f->hello.set))
        (void)err_set(&n->failure, ERR_INVALID, "its databases belong to another installation than ours");
    n->is_greeted = true;
    fiber_cond_broadcast(&n->changed);
    return true;
}

static bool on_frame(void *owner, const struct rpc_frame *f)
{
    struct rpc_node *n = owner;
    if (f->type == RPC_HELLO)
        return on_hello(n, f);
    if (f->type == RPC_GOAWAY) {
        n->is_going_away = true;
        rpc_node_settle(n);
        return true;
    }
    struct remote_call *r = map64_get(&n->calls, (uint64_t)f->call + 1);
    if (!r || r->is_over)
        return f->type == RPC_REPLY || f->type == RPC_ERROR || f->type == RPC_DATA || f->type == RPC_WINDOW_MORE;
    switch (f->type) {
    case RPC_REPLY:
        on_reply(r, f);
        return true;
    case RPC_ERROR:
        (void)err_set(&r->call->err, f->kind, "%.*s", STR_ARG(f->payload));
        over(r);
        return true;
    case RPC_DATA:
        return r->call->out && rpc_inflow_put(&r->inflow, f->payload);
    case RPC_WINDOW_MORE:
        r->credit = MIN(r->credit + f->credit, (uint64_t)RPC_WINDOW);
        fiber_wake(r->fiber);
        return true;
    default:
        return false;
    }
}

static void failed(struct rpc_node *n, const struct err *why)
{
    n->failure = *why;
    n->n_failures++;
    int64_t pause = MIN((int64_t)BACKOFF_MIN_MS << MIN(n->n_failures - 1, 10u), (int64_t)BACKOFF_MAX_MS);
    n->retry_at_ms = clock_mono_ms() + pause / 2 + (int64_t)random_below((uint64_t)pause / 2 + 1);
}

void rpc_node_close(struct rpc_node *n, const struct err *why)
{
    rpc_conn_free(TAKE(n->conn));
    n->is_going_away = false;
    if (n->state == NODE_UP)
        n->state = NODE_DOWN;
    uint64_t number;
    void *call;
    struct map_iter it = {0};
    while (map64_next(&n->calls, &it, &number, &call)) {
        struct remote_call *r = call;
        if (r->is_over)
            continue;
        (void)err_set(&r->call->err, ERR_UNAVAILABLE, "%s: %s", n->text, why->msg);
        r->is_lost = true;
        over(r);
    }
    fiber_cond_broadcast(&n->changed);
}

static void on_end(void *owner, const struct err *why)
{
    struct rpc_node *n = owner;
    if (n->is_going_away) {
        n->failure = *why;
        n->retry_at_ms = clock_mono_ms() + GOAWAY_PAUSE_MS;
    } else if (n->state == NODE_UP) {
        log_info("rpc.lost", KV_Z("service", n->client->name), KV_Z("node", n->text), KV_ERR(why));
        failed(n, why);
    } else if (!err_is_set(&n->failure)) {
        n->failure = *why;
    }
    rpc_node_close(n, why);
    rpc_node_settle(n);
}

static const struct rpc_conn_events events = {.frame = on_frame, .end = on_end};

/* --- connecting --- */

FIBER static bool greet(struct rpc_node *n, struct err *err)
{
    struct rpc_frame hello = {.type = RPC_HELLO};
    hello.hello.version_min = RPC_VERSION_MIN;
    hello.hello.version_max = RPC_VERSION_MAX;
    char roles[RPC_ROLES_TEXT];
    hello.hello.roles = rpc_roles_print(n->client->roles, roles);
    hello.hello.services[0] = str_c(n->client->base.descriptor->name);
    hello.hello.n_services = 1;
    hello.hello.set = str_c(n->client->set);
    if (!rpc_conn_send(n->conn, &hello, NULL, err))
        return false;
    while (n->conn && !n->is_greeted)
        if (!fiber_cond_wait(&n->changed, err))
            return false;
    if (!err_is_set(&n->failure))
        return true;
    *err = n->failure;
    return false;
}

FIBER static bool open_conn(struct rpc_node *n, struct err *err)
{
    struct rpc_remote *client = n->client;
    FIBER_DEADLINE((int64_t)client->connect_timeout_ms);
    struct stream *s = stream_connect(&n->addr, NULL, &(struct stream_opts){.is_prompt = true}, err);
    if (!s)
        return false;
    if (client->tls && !net_addr_is_unix(&n->addr) &&
        !stream_start_tls_client(s, client->tls, str_c(n->host), TLS_VERIFY_PEER, err)) {
        stream_close(s);
        return false;
    }
    /* Whoever has a certificate of ours could listen where a service is expected: it is one that may be. */
    char uri[RPC_ROLES_TEXT];
    if (stream_has_tls(s) && client->server_role &&
        !stream_tls_peer_has_uri(s, rpc_role_uri(client->server_role, uri))) {
        stream_close(s);
        return err_set(err, ERR_DENIED, "its certificate does not name %s", uri);
    }
    err_clear(&n->failure);
    n->is_greeted = false;
    n->conn = rpc_conn_new(s, &events, n);
    return greet(n, err);
}

FIBER static void connector(void *arg)
{
    struct rpc_node *n = arg;
    struct rpc_remote *client = n->client;
    struct err err = ERR_INIT;
    n->connector = fiber_self();
    if (client->is_closing)
        fiber_cancel(n->connector);
    if (open_conn(n, &err)) {
        n->state = NODE_UP;
        if (n->n_failures > 0)
            log_info("rpc.connected", KV_Z("service", client->name), KV_Z("node", n->text));
        n->n_failures = 0;
    } else {
        rpc_conn_free(TAKE(n->conn));
        n->state = NODE_DOWN;
        failed(n, &err);
        if (n->n_failures == 1 && !client->is_closing)
            log_warn("rpc.unreachable", KV_Z("service", client->name), KV_Z("node", n->text), KV_ERR(&err));
    }
    n->connector = NULL;
    fiber_cond_broadcast(&n->changed);
    client->n_users--;
    fiber_cond_broadcast(&client->changed);
    rpc_node_settle(n);
}

void rpc_node_wake(struct rpc_node *n)
{
    if (n->state != NODE_DOWN || n->client->is_closing || !node_is_healthy(n))
        return;
    n->state = NODE_CONNECTING;
    n->client->n_users++;
    fiber_spawn_system("rpc.connect", connector, n);
}

bool rpc_node_connect(struct rpc_node *n, struct err *err)
{
    rpc_node_wake(n);
    bool ok = true;
    n->n_waiting++;
    while (ok && n->state == NODE_CONNECTING)
        ok = fiber_cond_wait(&n->changed, err);
    n->n_waiting--;
    if (!ok)
        rpc_node_settle(n);
    else if (n->state != NODE_UP || !n->conn)
        ok = err_set(err, ERR_UNAVAILABLE, "%s: %s", n->text, n->failure.msg);
    return ok;
}

/* --- calling --- */

static uint32_t new_number(struct rpc_node *n)
{
    while (map64_get(&n->calls, (uint64_t)n->next_number + 1))
        n->next_number++;
    return n->next_number++;
}

/* Send what of the body the window allows. False when the source failed (told to the server) or the wire did. */
FIBER static bool send_body(struct rpc_node *n, struct remote_call *r, struct err *err)
{
    if (r->unsent.n == 0) {
        r->has_side_effect = true;
        if (!r->call->body->read(r->call->body, &r->unsent, err)) {
            if (n->conn && !r->is_over)
                rpc_conn_post(n->conn, &(struct rpc_frame){.type = RPC_DATA_END,
                                                           .call = r->number,
                                                           .kind = err->kind,
                                                           .payload = str_c(err->msg)});
            return false;
        }
        if (r->is_over || !n->conn)
            return true;
        if (r->unsent.n == 0) {
            r->is_body_sent = true;
            return rpc_conn_send(n->conn, &(struct rpc_frame){.type = RPC_DATA_END, .call = r->number}, NULL, err);
        }
    }
    size_t size = MIN(MIN(r->unsent.n, (size_t)RPC_CHUNK_MAX), (size_t)r->credit);
    if (size == 0)
        return true;
    const struct rpc_frame f = {.type = RPC_DATA, .call = r->number, .payload = str_slice(r->unsent, 0, size)};
    r->credit -= size;
    r->unsent = str_slice(r->unsent, size, SIZE_MAX);
    return rpc_conn_send(n->conn, &f, NULL, err);
}

FIBER static bool take_out(struct rpc_node *n, struct remote_call *r, struct err *err)
{
    size_t credit;
    str piece = rpc_inflow_take(&r->inflow, &credit);
    if (credit > 0 && n->conn && !r->is_over)
        rpc_conn_post(n->conn,
                      &(struct rpc_frame){.type = RPC_WINDOW_MORE, .call = r->number, .credit = (uint32_t)credit});
    r->has_side_effect = true;
    return r->call->out->write(r->call->out, piece, err);
}

/* Move bodies and wait until the answer is here and all that came before it is delivered. */
FIBER static bool exchange(struct rpc_node *n, struct remote_call *r, struct err *err)
{
    for (;;) {
        if (rpc_inflow_has(&r->inflow)) {
            if (!take_out(n, r, err))
                return false;
        } else if (r->is_over) {
            return true;
        } else if (r->call->body && !r->is_body_sent && (r->credit > 0 || r->unsent.n == 0)) {
            if (!send_body(n, r, err) && !r->is_over)
                return false;
            err_clear(err); /* when the answer came first, it counts */
        } else if (!fiber_wait(err)) {
            return r->is_over;
        }
    }
}

static uint32_t ms_left(const struct rpc_call *c)
{
    if (c->deadline_mono_ms == FIBER_NO_DEADLINE)
        return RPC_NO_DEADLINE;
    int64_t left = c->deadline_mono_ms - clock_mono_ms();
    return (uint32_t)MIN(MAX(left, 0), (int64_t)RPC_NO_DEADLINE - 1);
}

bool rpc_node_call(struct rpc_node *n, unsigned method, const ProtobufCMessage *request, struct rpc_call *c,
                   bool *is_retryable)
{
    struct remote_call r = {.call = c,
                            .output = n->client->base.descriptor->methods[method].output,
                            .number = new_number(n),
                            .fiber = fiber_self(),
                            .credit = RPC_WINDOW};
    rpc_inflow_init(&r.inflow);
    r.inflow.waiter = r.fiber;
    struct rpc_frame f = {.type = RPC_REQUEST, .call = r.number};
    f.request.method = (uint16_t)method;
    f.request.flags = (c->body ? RPC_FLAG_BODY : 0) | (c->out ? RPC_FLAG_OUT : 0);
    f.request.ms_left = ms_left(c);
    f.request.pass = c->pass;
    f.request.trace_id = c->trace_id;
    f.request.route_key = c->route_key;
    (void)map64_put(&n->calls, (uint64_t)r.number + 1, &r);
    n->n_calls++;
    metric_add_label(M_RPC_CLIENT_RUNNING, n->client->name, 1);
    struct err err = ERR_INIT;
    bool is_sent = rpc_conn_send(n->conn, &f, request, &err);
    bool ok = is_sent && exchange(n, &r, &err);
    if (is_sent && !r.is_over && n->conn)
        rpc_conn_post(n->conn, &(struct rpc_frame){.type = RPC_CANCEL, .call = r.number});
    (void)map64_remove(&n->calls, (uint64_t)r.number + 1);
    n->n_calls--;
    metric_add_label(M_RPC_CLIENT_RUNNING, n->client->name, -1);
    rpc_inflow_done(&r.inflow);
    if (!ok && !err_is_set(&c->err)) {
        c->reply = NULL;
        c->err = err;
    }
    *is_retryable = !r.has_side_effect && (!is_sent || c->is_idempotent);
    rpc_node_settle(n);
    return !err_is_set(&c->err);
}
