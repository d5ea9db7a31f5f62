/* The generated methods: who may call, then the function that does it. */
#include "store-service/internal.h"

enum access { OF_ACCOUNT, SYSTEM, OF_ACCOUNT_OR_SYSTEM };

static bool may_call(const struct rpc_call *c, enum access access, const Thurn__AccountRef *account, struct err *err)
{
    if (c->principal.rights & (RPC_RIGHT_SYSTEM | RPC_RIGHT_ADMIN))
        return true;
    if (access != SYSTEM && account && account->account_id == c->principal.account_id &&
        account->tenant_id == c->principal.tenant_id)
        return true;
    return err_set(err, ERR_DENIED, "not allowed for account %lld", (long long)c->principal.account_id);
}

static struct store *store_of(Thurn__Store_Service *service)
{
    struct store *s = CONTAINER_OF(service, struct store, service);
    CHECK(s, STORE_MAGIC);
    return s;
}

/* The account that a request of each access class is about. */
#define ACCOUNT_OF_OF_ACCOUNT(q) (q)->account
#define ACCOUNT_OF_OF_ACCOUNT_OR_SYSTEM(q) (q)->account
#define ACCOUNT_OF_SYSTEM(q) NULL

#define METHOD(name, Request, Reply, reply, access)                                                                    \
    static void method_##name(Thurn__Store_Service *service, const Thurn__##Request *q,                                \
                              Thurn__##Reply##_Closure closure, void *closure_data)                                    \
    {                                                                                                                  \
        struct rpc_call *c = closure_data;                                                                             \
        Thurn__##Reply r;                                                                                              \
        thurn__##reply##__init(&r);                                                                                    \
        bool ok = may_call(c, access, ACCOUNT_OF_##access(q), &c->err) &&                                              \
                  store_do_##name(store_of(service), c, q, &r, &c->err);                                               \
        closure(ok ? &r : NULL, closure_data);                                                                         \
    }
#include "store-service/methods.def"
#undef METHOD

static const Thurn__Store_Service prototype = {
    .base = {.descriptor = &thurn__store__descriptor, .invoke = protobuf_c_service_invoke_internal},
#define METHOD(name, Request, Reply, reply, access) .name = method_##name,
#include "store-service/methods.def"
#undef METHOD
};

void service_init(struct store *s)
{
    s->service = prototype;
}

ProtobufCService *store_service(struct store *s)
{
    CHECK(s, STORE_MAGIC);
    return &s->service.base;
}
