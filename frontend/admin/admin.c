#include "frontend/admin/admin.h"

#include "base/log.h"
#include "base/num.h"
#include "frontend/admin/audit.h"
#include "frontend/admin/json.h"

#define ADMIN_BODY_MAX (4u << 20)

static bool is_trusted(const struct admin *a, const struct http_req *req)
{
    if (net_addr_is_unix(req->peer))
        return true;
    str given = http_req_header(req, S("authorization"));
    if (!str_starts_nocase(given, S("bearer ")))
        return false;
    return a->token.n && str_eq_secret(str_trim(str_slice(given, 7, SIZE_MAX)), a->token);
}

FIBER static bool admit(void *arg, struct http_req *req)
{
    if (is_trusted(arg, req))
        return true;
    char peer[NET_ADDR_TEXT_MAX];
    log_info("admin.refused", KV_STR("peer", net_ip_format(req->peer, peer)), KV_STR("path", req->path));
    http_reply_header(req, S("www-authenticate"), S("Bearer"));
    http_reply_json(req, 401, S("{\"error\":\"denied\",\"message\":\"this needs the admin token: Authorization: Bearer TOKEN\"}"));
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
    if (!is_trusted(a, req)) /* admit has asked already: a route without it opens nothing */
        return false;
    rpc_call_init(call, req->arena);
    call->principal.rights = RPC_RIGHT_ADMIN | RPC_RIGHT_SYSTEM;
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
