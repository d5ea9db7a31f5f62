#include "frontend/common/user_account.h"

#include "base/clock.h"
#include "base/num.h"
#include "proto/auth_calls.h"

#define CALL_MS 60000

Thurn__AccountRef user_account_copy(const Thurn__AccountRef *r)
{
    Thurn__AccountRef ref = THURN__ACCOUNT_REF__INIT;
    ref.account_id = r->account_id;
    ref.tenant_id = r->tenant_id;
    ref.shard = r->shard;
    ref.epoch = r->epoch;
    ref.incarnation = r->incarnation;
    ref.quota_bytes = r->quota_bytes;
    ref.quota_messages = r->quota_messages;
    return ref;
}

void user_account_call_init(struct rpc_call *call, struct arena *a, const struct rpc_pass *pass, int64_t account_id)
{
    rpc_call_init(call, a);
    call->pass = *pass;
    call->route_key = (uint64_t)account_id;
    call->deadline_mono_ms = MIN(call->deadline_mono_ms, clock_mono_ms() + CALL_MS);
}

FIBER enum user_account_place user_account_locate(ProtobufCService *auth, Thurn__AccountRef *account,
                                                  struct rpc_call *call)
{
    if (call->err.kind != ERR_CONFLICT)
        return USER_ACCOUNT_SAME;
    ARENA(a, 1u << 20);
    Thurn__LocateRequest q = THURN__LOCATE_REQUEST__INIT;
    const Thurn__LocateReply *r;
    struct rpc_call locate;
    q.account_ids = &account->account_id;
    q.n_account_ids = 1;
    rpc_call_init(&locate, &a);
    if (!auth_locate(&locate, auth, &q, &r) || r->n_accounts == 0)
        return USER_ACCOUNT_SAME;
    const Thurn__Account *now = r->accounts[0];
    if (!rpc_incarnation_fits(now->incarnation, account->incarnation))
        return USER_ACCOUNT_OTHER;
    if (now->shard == account->shard && now->epoch == account->epoch)
        return USER_ACCOUNT_SAME; /* the conflict was about something else */
    account->shard = now->shard;
    account->epoch = now->epoch;
    rpc_call_again(call);
    return USER_ACCOUNT_MOVED;
}

ProtobufCBinaryData user_account_request_id(struct arena *a)
{
    enum { SIZE = 16 };
    void *id = arena_alloc(a, SIZE);
    random_bytes(id, SIZE);
    return rpc_bytes(str_n(id, SIZE));
}

void user_account_mailbox_path(struct arena *a, str name, char ***path, size_t *n)
{
    size_t count = 1;
    for (size_t i = 0; i < name.n; i++)
        count += name.p[i] == '/';
    *path = arena_array(a, char *, count);
    *n = 0;
    str component;
    while (str_split(&name, '/', &component))
        (*path)[(*n)++] = arena_strz(a, component);
}
