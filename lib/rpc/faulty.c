#include "rpc/client.h"

#define FAULTY_MAGIC 0x4fa10001u

struct faulty {
    ProtobufCService base; /* first: callers hold this */
    uint32_t magic;
    ProtobufCService *inner;
    unsigned nth; /* 0 = none fails any more */
    bool after;
};

static void swallow(const ProtobufCMessage *reply, void *closure_data)
{
    (void)reply;
    (void)closure_data;
}

static void invoke(ProtobufCService *service, unsigned method, const ProtobufCMessage *request,
                   ProtobufCClosure closure, void *closure_data)
{
    struct faulty *f = (struct faulty *)(void *)service;
    CHECK(f, FAULTY_MAGIC);
    struct rpc_call *c = closure_data;
    if (f->nth == 0 || --f->nth > 0) {
        f->inner->invoke(f->inner, method, request, closure, closure_data);
        return;
    }
    if (f->after)
        f->inner->invoke(f->inner, method, request, swallow, closure_data);
    err_clear(&c->err);
    (void)err_set(&c->err, ERR_UNAVAILABLE, f->after ? "the answer was lost on purpose" : "failed on purpose");
    closure(NULL, closure_data);
}

ProtobufCService *rpc_faulty_new(ProtobufCService *inner)
{
    struct faulty *f = xnew(struct faulty);
    *f = (struct faulty){
        .base = {.descriptor = inner->descriptor, .invoke = invoke}, .magic = FAULTY_MAGIC, .inner = inner};
    return &f->base;
}

void rpc_faulty_set(ProtobufCService *faulty, unsigned nth, bool after)
{
    struct faulty *f = (struct faulty *)(void *)faulty;
    CHECK(f, FAULTY_MAGIC);
    f->nth = nth;
    f->after = after;
}

void rpc_faulty_free(ProtobufCService *faulty)
{
    struct faulty *f = (struct faulty *)(void *)faulty;
    if (!f)
        return;
    CHECK(f, FAULTY_MAGIC);
    f->magic = 0;
    free(f);
}
