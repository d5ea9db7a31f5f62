#include "frontend/admin/json.h"

#include "proto/auth_calls.h"

#define TARGETS_MAX 1000u

static json_t *alias_json(const Thurn__Alias *l)
{
    json_t *targets = json_array();
    for (size_t i = 0; i < l->n_targets; i++)
        json_array_append_new(targets, admin_string(str_c(l->targets[i])));
    return admin_warnings(json_pack("{s:s, s:o}", "address", l->address, "targets", targets), l->warnings,
                          l->n_warnings);
}

void admin_aliases(void *arg, struct http_req *req)
{
    struct admin *a = arg;
    struct rpc_call call;
    if (!admin_enter(a, req, &call))
        return;
    ADMIN_LIST_REQUEST(q, req);
    q.target = admin_param(req, "target");
    const Thurn__ListAliasesReply *r;
    if (!str_eq(req->method, S("GET"))) {
        (void)err_set(&call.err, ERR_INVALID, "GET; add one by PUT /v1/aliases/ADDRESS");
    } else if (auth_list_aliases(&call, a->auth, &q, &r)) {
        json_t *aliases = json_array();
        for (size_t i = 0; i < r->n_aliases; i++)
            json_array_append_new(aliases, alias_json(r->aliases[i]));
        admin_answer(req, 200, json_pack("{s:o, s:s}", "aliases", aliases, "next", r->next));
    }
    if (err_is_set(&call.err))
        http_reply_err(req, &call.err);
}

static bool parse(struct http_req *req, Thurn__Alias *l, struct err *err)
{
    static const char *const keys[] = {"targets", NULL};
    CLEANUP(json_decref_) json_t *o = admin_body(req, err);
    if (!o || !admin_only(o, keys, err))
        return false;
    json_t *targets = json_object_get(o, "targets");
    size_t n = json_array_size(targets);
    if (n == 0 || n > TARGETS_MAX)
        return err_set(err, ERR_INVALID, "'targets' must be a list of 1 to %u addresses", TARGETS_MAX);
    l->targets = arena_array(req->arena, char *, n);
    l->n_targets = n;
    for (size_t i = 0; i < n; i++) {
        json_t *t = json_array_get(targets, i);
        if (!json_is_string(t))
            return err_set(err, ERR_INVALID, "'targets' must be addresses");
        l->targets[i] = arena_strz(req->arena, str_c(json_string_value(t)));
    }
    return true;
}

void admin_alias(void *arg, struct http_req *req)
{
    struct admin *a = arg;
    struct rpc_call call;
    if (!admin_enter(a, req, &call))
        return;
    char *address = admin_tail(req, "/v1/aliases/");
    if (str_eq(req->method, S("PUT"))) {
        Thurn__Alias q = THURN__ALIAS__INIT;
        const Thurn__Alias *r;
        q.address = address;
        q.by = admin_author(req);
        if (parse(req, &q, &call.err) && auth_set_alias(&call, a->auth, &q, &r))
            admin_answer(req, 200, alias_json(r));
    } else if (str_eq(req->method, S("DELETE"))) {
        Thurn__NameRequest name = THURN__NAME_REQUEST__INIT;
        name.name = address;
        name.by = admin_author(req);
        if (auth_remove_alias(&call, a->auth, &name, NULL))
            http_reply_json(req, 200, S("{}"));
    } else {
        (void)err_set(&call.err, ERR_INVALID, "PUT or DELETE");
    }
    if (err_is_set(&call.err))
        http_reply_err(req, &call.err);
}
