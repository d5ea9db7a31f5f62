/*
 * admin.h: the admin API: JSON over HTTP, from which the command line and every other tool are made.
 *
 *   GET    /v1/domains[?after=&limit=&match=]        {"domains":[…],"next":""}
 *   POST   /v1/domains                               {"name":…,"tenant_id":1,"catch_all":…}
 *   GET|PATCH|DELETE /v1/domains/NAME
 *   GET    /v1/accounts[?domain=&after=&limit=&match=]
 *   POST   /v1/accounts                              one account, or {"accounts":[…]} (up to 1,000): a result for each
 *   GET|PATCH|DELETE /v1/accounts/ADDRESS            PATCH {"address":NEW,"keep_alias":false} renames;
 *                                                    DELETE ?with_aliases=1 takes it out of aliases and catch-alls;
 * {"led_here":[…]} GET    /v1/aliases[?domain=&after=&limit=&target=ADDRESS]   PUT|DELETE /v1/aliases/ADDRESS
 * {"targets":[…]} GET    /v1/tenants[?domain=&after=&limit=&match=]   POST /v1/tenants   {"name":…} GET
 * /v1/queue[?sender=&recipient=&limit=]   GET /v1/queue/ID   POST /v1/queue  {"op":"retry","filter":{…}} GET
 * /v1/queue-stats GET    /v1/verify?shard=1[&from=ID]                {"findings":[…],"checked":n,"next":0} POST
 * /v1/sweep  {"older_than_s":86400,"dry_run":false} GET    /v1/audit[?since=UNIX&who=&what=&after=&limit=]
 * {"events":[…],"next":""}
 *
 * Whatever changes something is on record: who, from where, what, before and after. What cannot be recorded is not
 * done. Errors: {"error":kind,"message":text} with the HTTP status of the kind. Callers over the control socket of a
 * process with the auth service are trusted (its file mode is the lock); others need "Authorization: Bearer TOKEN",
 * which the auth service is asked about.
 */
#ifndef FRONTEND_ADMIN_ADMIN_H
#define FRONTEND_ADMIN_ADMIN_H

#include "net/http_server.h"
#include "rpc/call.h"

struct admin {
    ProtobufCService *auth, *store, *queue;
    /* the auth service is in this process: it trusts the control socket. Otherwise a token is needed there too */
    bool is_vouching;
    /* Ask every queue node (remote) or the only one (local). */
    FIBER bool (*each_queue)(struct admin *a, unsigned method, const ProtobufCMessage *request,
                             const struct rpc_pass *pass, struct arena *arena,
                             void (*fn)(void *arg, const ProtobufCMessage *reply, const struct err *err), void *arg,
                             struct err *err);
    void *arg;
    /* Who used the token lately, so that it is recorded once an hour for each address. */
    struct {
        char peer[NET_ADDR_TEXT_MAX];
        int64_t at_ms;
    } uses[64];
};

/* The routes; each handler's arg is the struct admin. */
extern const struct http_route admin_routes[];
extern const size_t admin_routes_n;

#endif
