#include "frontend/admin/admin.h"

#include <unistd.h>

#include "base/log.h"
#include "base/num.h"
#include "frontend/admin/audit.h"
#include "frontend/admin/json.h"
#include "proto/auth_calls.h"

#define ADMIN_BODY_MAX (4u << 20)

/* The caller's pass: by the control socket of a process that can make one, or of the auth service for a token. */
FIBER static bool get_pass(const struct admin *a, const struct http_req *req, struct rpc_pass *out, struct err *err)
{
    /* The control socket's mode is its lock; another Unix socket's may not be (listen.http), so it is asked who came.
     */
    if (a->is_vouching && net_addr_is_unix(req->peer) && req->has_user && (req->user == 0 || req->user == geteuid())) {
        rpc_pass_make(&(struct rpc_principal){.is_admin = true}, out);
        return true;
    }
    str given = http_req_header(req, S("authorization"));
    if (!str_starts_nocase(given, S("bearer ")))
        return err_set(err, ERR_DENIED, "no token");
    Thurn__AdminRequest q = THURN__ADMIN_REQUEST__INIT;
    const Thurn__AdminReply *r;
    struct rpc_call call;
    rpc_call_init(&call, req->arena);
    q.token = rpc_bytes(str_trim(str_slice(given, 7, SIZE_MAX)));
    if (!auth_authenticate_admin(&call, a->auth, &q, &r)) {
        *err = call.err;
        return false;
    }
    *out = rpc_pass_of(rpc_str(r->pass));
    return true;
}

FIBER static bool admit(void *arg, struct http_req *req)
{
    struct rpc_pass *pass = arena_new(req->arena, struct rpc_pass);
    struct err err = ERR_INIT;
    if (get_pass(arg, req, pass, &err)) {
        req->admitted = pass;
        return true;
    }
    if (err.kind != ERR_DENIED) {
        http_reply_err(req, &err);
        return false;
    }
    char peer[NET_ADDR_TEXT_MAX];
    log_info("admin.refused", KV_STR("peer", net_ip_format(req->peer, peer)), KV_STR("path", req->path));
    http_reply_header(req, S("www-authenticate"), S("Bearer"));
    http_reply_json(
        req, 401, S("{\"error\":\"denied\",\"message\":\"this needs the admin token: Authorization: Bearer TOKEN\"}"));
    return false;
}

const struct http_route admin_routes[] = {
    {"*", "/v1/domains", admin_domains, ADMIN_BODY_MAX, false, false, admit},
    {"*", "/v1/domains/*", admin_domain, ADMIN_BODY_MAX, false, false, admit},
    {"*", "/v1/accounts", admin_accounts, ADMIN_BODY_MAX, false, false, admit},
    {"*", "/v1/accounts/*", admin_account, ADMIN_BODY_MAX, false, false, admit},
    {"*", "/v1/aliases", admin_aliases, ADMIN_BODY_MAX, false, false, admit},
    {"*", "/v1/aliases/*", admin_alias, ADMIN_BODY_MAX, false, false, admit},
    {"*", "/v1/tenants", admin_tenants, ADMIN_BODY_MAX, false, false, admit},
    {"*", "/v1/queue", admin_queue, ADMIN_BODY_MAX, false, false, admit},
    {"GET", "/v1/queue/*", admin_queue_message, 0, false, false, admit},
    {"GET", "/v1/queue-stats", admin_queue_stats, 0, false, false, admit},
    {"GET", "/v1/verify", admin_verify, 0, false, false, admit},
    {"POST", "/v1/sweep", admin_sweep, ADMIN_BODY_MAX, false, false, admit},
    {"GET", "/v1/audit", admin_audit, 0, false, false, admit},
};
const size_t admin_routes_n = ARRAY_LEN(admin_routes);

bool admin_enter(struct admin *a, struct http_req *req, struct rpc_call *call)
{
    if (!req->admitted) /* a route without admit opens nothing */
        return false;
    rpc_call_init(call, req->arena);
    call->pass = *(const struct rpc_pass *)req->admitted;
    if (!req->has_user)
        audit_token_use(a, req, call);
    return true;
}

char *admin_tail(struct http_req *req, const char *prefix)
{
    str tail = str_slice(req->path, strlen(prefix), SIZE_MAX);
    return tail.n ? arena_strz(req->arena, tail) : admin_param(req, "name");
}

char *admin_param(struct http_req *req, const char *name)
{
    return arena_strz(req->arena, http_req_param(req, str_c(name)));
}

uint32_t admin_limit(struct http_req *req)
{
    uint32_t limit = 0;
    return num_u32(http_req_param(req, S("limit")), 1000, &limit) ? limit : 0;
}
