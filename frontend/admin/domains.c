#include "frontend/admin/json.h"

#include "base/clock.h"
#include "proto/auth_calls.h"

static json_t *domain_json(const Thurn__Domain *d)
{
    json_t *o = json_pack("{s:s, s:I, s:I, s:s, s:b, s:I}", "name", d->name, "domain_id", (json_int_t)d->domain_id,
                          "tenant_id", (json_int_t)d->tenant_id, "catch_all", d->catch_all, "is_disabled",
                          (int)d->is_disabled, "created_unix", (json_int_t)d->created_unix);
    return admin_warnings(o, d->warnings, d->n_warnings);
}

FIBER static void list(struct admin *a, struct http_req *req, struct rpc_call *call)
{
    ADMIN_LIST_REQUEST(q, req);
    const Thurn__ListDomainsReply *r;
    if (!auth_list_domains(call, a->auth, &q, &r)) {
        http_reply_err(req, &call->err);
        return;
    }
    json_t *domains = json_array();
    for (size_t i = 0; i < r->n_domains; i++)
        json_array_append_new(domains, domain_json(r->domains[i]));
    admin_answer(req, 200, json_pack("{s:o, s:s}", "domains", domains, "next", r->next));
}

static bool parse_new(struct http_req *req, Thurn__AddDomainRequest *q, struct err *err)
{
    static const char *const keys[] = {"name", "tenant_id", "catch_all", NULL};
    CLEANUP(json_decref_) json_t *o = admin_body(req, err);
    uint64_t tenant = 0;
    if (!o || !admin_only(o, keys, err) || !admin_get_str(o, "name", req->arena, &q->name, NULL, err) ||
        !admin_get_str(o, "catch_all", req->arena, &q->catch_all, NULL, err) ||
        !admin_get_u64(o, "tenant_id", &tenant, NULL, err))
        return false;
    q->tenant_id = (int64_t)tenant;
    return true;
}

void admin_domains(void *arg, struct http_req *req)
{
    struct admin *a = arg;
    struct rpc_call call;
    struct err err = ERR_INIT;
    if (!admin_enter(a, req, &call))
        return;
    if (str_eq(req->method, S("GET"))) {
        list(a, req, &call);
        return;
    }
    Thurn__AddDomainRequest q = THURN__ADD_DOMAIN_REQUEST__INIT;
    const Thurn__Domain *d;
    q.request_id = random_u64();
    q.by = admin_author(req);
    if (!str_eq(req->method, S("POST")))
        (void)err_set(&err, ERR_INVALID, "GET or POST");
    if (err_is_set(&err) || !parse_new(req, &q, &err))
        http_reply_err(req, &err);
    else if (!auth_add_domain(&call, a->auth, &q, &d))
        http_reply_err(req, &call.err);
    else
        admin_answer(req, 201, domain_json(d));
}

static bool parse_change(struct http_req *req, Thurn__SetDomainRequest *q, struct err *err)
{
    static const char *const keys[] = {"catch_all", "is_disabled", NULL};
    CLEANUP(json_decref_) json_t *o = admin_body(req, err);
    return o && admin_only(o, keys, err) &&
           admin_get_str(o, "catch_all", req->arena, &q->catch_all, &q->has_catch_all, err) &&
           admin_get_bool(o, "is_disabled", &q->is_disabled, &q->has_is_disabled, err);
}

void admin_domain(void *arg, struct http_req *req)
{
    struct admin *a = arg;
    struct rpc_call call;
    struct err err = ERR_INIT;
    if (!admin_enter(a, req, &call))
        return;
    Thurn__NameRequest name = THURN__NAME_REQUEST__INIT;
    name.name = admin_tail(req, "/v1/domains/");
    const Thurn__Domain *d;
    if (str_eq(req->method, S("GET"))) {
        if (auth_get_domain(&call, a->auth, &name, &d))
            admin_answer(req, 200, domain_json(d));
    } else if (str_eq(req->method, S("DELETE"))) {
        name.by = admin_author(req);
        if (auth_remove_domain(&call, a->auth, &name, NULL))
            http_reply_json(req, 200, S("{}"));
    } else if (str_eq(req->method, S("PATCH"))) {
        Thurn__SetDomainRequest q = THURN__SET_DOMAIN_REQUEST__INIT;
        if (parse_change(req, &q, &call.err)) {
            q.name = name.name;
            q.by = admin_author(req);
            if (auth_set_domain(&call, a->auth, &q, &d))
                admin_answer(req, 200, domain_json(d));
        }
    } else {
        (void)err_set(&err, ERR_INVALID, "GET, PATCH or DELETE");
        http_reply_err(req, &err);
    }
    if (err_is_set(&call.err))
        http_reply_err(req, &call.err);
}

static json_t *tenant_json(const Thurn__Tenant *t)
{
    return json_pack("{s:I, s:s}", "tenant_id", (json_int_t)t->tenant_id, "name", t->name);
}

void admin_tenants(void *arg, struct http_req *req)
{
    static const char *const keys[] = {"name", NULL};
    struct admin *a = arg;
    struct rpc_call call;
    if (!admin_enter(a, req, &call))
        return;
    if (str_eq(req->method, S("GET"))) {
        ADMIN_LIST_REQUEST(q, req);
        const Thurn__ListTenantsReply *r;
        if (auth_list_tenants(&call, a->auth, &q, &r)) {
            json_t *tenants = json_array();
            for (size_t i = 0; i < r->n_tenants; i++)
                json_array_append_new(tenants, tenant_json(r->tenants[i]));
            admin_answer(req, 200, json_pack("{s:o, s:s}", "tenants", tenants, "next", r->next));
        }
    } else {
        CLEANUP(json_decref_) json_t *o = admin_body(req, &call.err);
        Thurn__AddTenantRequest q = THURN__ADD_TENANT_REQUEST__INIT;
        const Thurn__Tenant *t;
        q.by = admin_author(req);
        if (o && admin_only(o, keys, &call.err) && admin_get_str(o, "name", req->arena, &q.name, NULL, &call.err) &&
            auth_add_tenant(&call, a->auth, &q, &t))
            admin_answer(req, 201, tenant_json(t));
    }
    if (err_is_set(&call.err))
        http_reply_err(req, &call.err);
}
