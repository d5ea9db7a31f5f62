#include "frontend/smtp/session.h"

#include "proto/auth_calls.h"

bool smtp_take(struct smtp_session *s, enum limit limit, str key, uint32_t cost, bool fail_open)
{
    ARENA(a, 64 * 1024);
    struct rpc_call call;
    Thurn__LimitTake take = THURN__LIMIT_TAKE__INIT, *takes[] = {&take};
    Thurn__TakeRequest q = THURN__TAKE_REQUEST__INIT;
    const Thurn__TakeReply *reply;
    smtp_call_init(s, &call, &a);
    take.limit = (char *)(uintptr_t)limit_name(limit);
    take.key = arena_strz(&a, key);
    take.cost = cost;
    q.n_takes = 1;
    q.takes = takes;
    if (!auth_take(&call, s->server->opts.auth, &q, &reply)) {
        log_warn("smtp.trouble", KV_Z("at", "limit"), KV_Z("limit", limit_name(limit)), KV_ERR(&call.err));
        return fail_open;
    }
    if (!reply->is_granted)
        metric_inc_label(M_SMTP_REFUSED, limit_name(limit));
    return reply->is_granted;
}

bool smtp_take_peer(struct smtp_session *s, enum limit limit)
{
    char key[NET_ADDR_TEXT_MAX];
    const struct net_addr *peer = stream_peer(s->stream);
    if (net_addr_is_loopback(peer) || net_addr_is_unix(peer))
        return true;
    /* Without auth no recipient can be resolved either: nothing is gained by refusing here. */
    return smtp_take(s, limit, net_addr_limit_key(peer, key), 1, true);
}
