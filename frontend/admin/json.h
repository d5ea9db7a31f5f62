/*
 * json.h: between JSON objects and the contracts' messages. Getters take the whole request as wrong on a wrong type.
 */
#ifndef FRONTEND_ADMIN_JSON_H
#define FRONTEND_ADMIN_JSON_H

#include <jansson.h>

#include "frontend/admin/admin.h"
#include "proto/auth.pb-c.h"

static inline void json_decref_(json_t *j)
{
    json_decref(j);
}
DEFINE_CLEANUP(json_t, json_decref_)

/* The request's body as an object; INVALID with line and column otherwise. */
json_t *admin_body(struct http_req *req, struct err *err) WARN_UNUSED;
/* Members. Absent leaves *out alone and sets *has (may be NULL) false; a wrong type is INVALID. Strings live in `a`. */
bool admin_get_str(json_t *o, const char *key, struct arena *a, char **out, protobuf_c_boolean *has, struct err *err)
    WARN_UNUSED;
bool admin_get_u64(json_t *o, const char *key, uint64_t *out, protobuf_c_boolean *has, struct err *err) WARN_UNUSED;
bool admin_get_bool(json_t *o, const char *key, protobuf_c_boolean *out, protobuf_c_boolean *has, struct err *err)
    WARN_UNUSED;
/* INVALID when the object has a member that is not in this NULL-terminated list. */
bool admin_only(json_t *o, const char *const *keys, struct err *err) WARN_UNUSED;
/* Answer with the object (taken over), or with the error. */
FIBER void admin_answer(struct http_req *req, int status, json_t *o);
/* A string from bytes that need not be UTF-8. */
json_t *admin_string(str s);
/* o with "warnings" when there are any. Returns o. */
json_t *admin_warnings(json_t *o, char *const *warnings, size_t n);

/* Set up a call with the admin right, or answer 401 and return false. */
FIBER bool admin_enter(struct admin *a, struct http_req *req, struct rpc_call *call);
/* Whose change the request is; in the request's arena, with an act of its own. */
FIBER Thurn__Author *admin_author(struct http_req *req);
/* Put what is done outside of the directory on record: before it is done, and with the same author again when it is
 * known what came of it. before (NULL = nothing) is kept as the first call said it; both are taken over. */
FIBER bool admin_record(struct admin *a, const struct rpc_call *of, Thurn__Author *by, const char *what, str subject,
                        json_t *before, json_t *after, struct err *err) WARN_UNUSED;
/* The name that a prefix route is about, e.g. of /v1/domains/NAME, or of /v1/domains/?name=NAME: a path cannot hold
 * every address
 * ("a/b@example.org"). NUL-terminated in the request's arena. */
char *admin_tail(struct http_req *req, const char *prefix);

FIBER void admin_domains(void *arg, struct http_req *req);
FIBER void admin_domain(void *arg, struct http_req *req);
FIBER void admin_accounts(void *arg, struct http_req *req);
FIBER void admin_account(void *arg, struct http_req *req);
FIBER void admin_aliases(void *arg, struct http_req *req);
FIBER void admin_alias(void *arg, struct http_req *req);
FIBER void admin_tenants(void *arg, struct http_req *req);
FIBER void admin_queue(void *arg, struct http_req *req);
FIBER void admin_queue_message(void *arg, struct http_req *req);
FIBER void admin_queue_stats(void *arg, struct http_req *req);
FIBER void admin_verify(void *arg, struct http_req *req);
FIBER void admin_sweep(void *arg, struct http_req *req);
FIBER void admin_audit(void *arg, struct http_req *req);

/* Fill a ListRequest from after, limit, match and domain. */
#define ADMIN_LIST_REQUEST(name, req)                                                                                  \
    Thurn__ListRequest name = THURN__LIST_REQUEST__INIT;                                                               \
    name.after = admin_param((req), "after");                                                                          \
    name.match = admin_param((req), "match");                                                                          \
    name.domain = admin_param((req), "domain");                                                                        \
    name.limit = admin_limit(req)
char *admin_param(struct http_req *req, const char *name); /* "" when absent */
uint32_t admin_limit(struct http_req *req);

#endif
