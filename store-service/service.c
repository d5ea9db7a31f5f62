/* The generated methods: who may call, then the function that does it. */
#include "store-service/service.h"

#include "proto/store_calls.h"

struct shard *store_shard(struct store *s, uint32_t number, struct err *err)
{
    if (number >= 1 && number <= s->n_shards)
        return &s->shards[number - 1];
    (void)err_set(err, ERR_INVALID, "no shard %u here", number);
    return NULL;
}

static struct store *store_of(Thurn__Store_Service *service)
{
    struct store *s = CONTAINER_OF(service, struct store, service);
    CHECK(s, STORE_MAGIC);
    return s;
}

#define METHOD(name, Request, Reply, reply)                                                                            \
    static void method_##name(Thurn__Store_Service *service, const Thurn__##Request *q,                                \
                              Thurn__##Reply##_Closure closure, void *closure_data)                                    \
    {                                                                                                                  \
        struct rpc_call *c = closure_data;                                                                             \
        Thurn__##Reply r;                                                                                              \
        thurn__##reply##__init(&r);                                                                                    \
        const Thurn__AccountRef *of = store_account_of_##name(q);                                                      \
        bool ok = rpc_may_call(c, store_callers_##name, of ? of->account_id : 0, of ? of->tenant_id : 0,               \
                               of ? of->incarnation : 0, &c->err) &&                                                   \
                  store_do_##name(store_of(service), c, q, &r, &c->err);                                               \
        closure(ok ? &r : NULL, closure_data);                                                                         \
    }
#include "store-service/methods.def"
#undef METHOD

static const Thurn__Store_Service prototype = {
    .base = {.descriptor = &thurn__store__descriptor, .invoke = protobuf_c_service_invoke_internal},
#define METHOD(name, Request, Reply, reply) .name = method_##name,
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
