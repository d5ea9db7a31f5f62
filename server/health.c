#include "server/health.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/trouble.h"
#include "frontend/admin/admin.h"
#include "server/metrics_join.h"
#include "server/metrics_process.h"
#include "server/workers.h"

#define PAGE_MAX (4u << 20)
#define DEGRADED_MAX (64u * 1024)
#define METRICS_TYPE "text/plain; version=0.0.4"
#define PAGES_MAX (16u << 20) /* with workers */

static struct serve *serving;
static struct admin admin;

FIBER static void livez(void *arg, struct http_req *req)
{
    (void)arg;
    http_reply(req, 200, "text/plain", S("ok\n"));
}

/* Mail is served by the workers when there are any: one at least has to be ready. */
FIBER static bool workers_ready(struct arena *a, struct buf *degraded, struct err *err)
{
    struct worker_answer answers[WORKERS_MAX];
    if (!serving->workers)
        return true;
    size_t n = workers_ask(serving->workers, S("/readyz"), a, answers);
    for (size_t i = 0; i < n; i++) {
        str lines = answers[i].body, line;
        while (str_split(&lines, '\n', &line))
            if (str_starts(line, S("degraded: ")))
                buf_printf(degraded, "%.*s (worker %u)\n", STR_ARG(line), answers[i].worker);
    }
    return n > 0 || err_set(err, ERR_UNAVAILABLE, "no worker is ready");
}

FIBER static void readyz(void *arg, struct http_req *req)
{
    (void)arg;
    struct err err = ERR_INIT;
    BUF(workers, DEGRADED_MAX);
    BUF(text, 2 * DEGRADED_MAX);
    if (!serving->is_ready)
        (void)err_set(&err, ERR_UNAVAILABLE, "starting");
    else if (serving->is_draining)
        (void)err_set(&err, ERR_UNAVAILABLE, "draining");
    else
        IGNORE(node_ready(&serving->node, &err) && workers_ready(req->arena, &workers, &err)); /* err says it */
    buf_add(&text, S("ok\n"));
    (void)trouble_print(&text); /* what was noticed just now too */
    buf_add(&text, buf_str(&workers));
    if (!err_is_set(&err)) {
        http_reply(req, 200, "text/plain", buf_str(&text));
        return;
    }
    http_reply(req, 503, "text/plain", arena_printf(req->arena, "%s\n", err.msg));
}

FIBER static void metrics(void *arg, struct http_req *req)
{
    (void)arg;
    BUF(own, PAGE_MAX);
    BUF(all, PAGES_MAX);
    metrics_print(&own);
    metrics_process_print(serving->start_unix, &own);
    if (!serving->workers) {
        http_reply(req, 200, METRICS_TYPE, buf_str(&own));
        return;
    }
    struct worker_answer answers[WORKERS_MAX];
    struct metrics_page pages[WORKERS_MAX + 1] = {{.text = buf_str(&own)}};
    size_t n = workers_ask(serving->workers, S("/metrics"), req->arena, answers);
    for (size_t i = 0; i < n; i++)
        pages[1 + i] = (struct metrics_page){answers[i].worker, answers[i].body};
    metrics_join(pages, 1 + n, &all);
    http_reply(req, 200, METRICS_TYPE, buf_str(&all));
}

/* Ask every queue node; with the queue in this process, that one. */
FIBER static bool each_queue(struct admin *a, unsigned method, const ProtobufCMessage *request,
                             const struct rpc_pass *pass, struct arena *arena,
                             void (*fn)(void *arg, const ProtobufCMessage *reply, const struct err *err), void *arg,
                             struct err *err)
{
    if (serving->node.is_queue_remote)
        return rpc_client_each(a->queue, method, request, pass, arena, fn, arg, err);
    struct rpc_call call;
    rpc_call_init(&call, arena);
    call.pass = *pass;
    bool ok = rpc_invoke(a->queue, method, request, &call);
    fn(arg, ok ? call.reply : NULL, &call.err);
    return true;
}

struct http_server *health_server_new(struct serve *s)
{
    static const struct http_route health[] = {
        {"GET", "/livez", livez, 0, false, true, NULL},
        {"GET", "/readyz", readyz, 0, false, true, NULL},
        {"GET", "/metrics", metrics, 0, false, true, NULL},
    };
    struct http_route routes[64];
    size_t n = ARRAY_LEN(health);
    assert(n + admin_routes_n <= ARRAY_LEN(routes));
    memcpy(routes, health, sizeof(health));
    serving = s;
    const struct node *node = &s->node;
    /* Other processes take a call in an administrator's name from a front-end alone. */
    bool is_alone = !node->is_auth_remote && !node->is_store_remote && !node->is_queue_remote;
    bool may_administer = node->roles & ROLE_FRONTEND_BIT || (node->roles & ROLE_AUTH_BIT && is_alone);
    if (may_administer && node->auth_service && node->store_service && node->queue_service) {
        admin = (struct admin){
            .auth = node->auth_service,
            .store = node->store_service,
            .queue = node->queue_service,
            .is_vouching = node->auth != NULL,
            .each_queue = each_queue,
        };
        memcpy(routes + n, admin_routes, admin_routes_n * sizeof(*routes));
        n += admin_routes_n;
    }
    struct http_server_opts opts = {.routes = routes, .n_routes = n, .arg = &admin};
    return http_server_new(&opts);
}
