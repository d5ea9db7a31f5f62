#include "base/clock.h"
#include "base/metrics.h"
#include "rpc/internal.h"

void rpc_call_init(struct rpc_call *c, struct arena *a)
{
    *c = (struct rpc_call){
        .arena = a, .deadline_mono_ms = fiber_deadline(), .trace_id = fiber_context()->trace_id, .is_idempotent = true};
}

void rpc_call_again(struct rpc_call *c)
{
    err_clear(&c->err);
    c->reply = NULL;
    c->is_done = false;
    c->transport = NULL;
}

static void on_reply(const ProtobufCMessage *reply, void *closure_data)
{
    struct rpc_call *c = closure_data;
    assert(!c->is_done);
    c->is_done = true;
    if (!reply) {
        if (!err_is_set(&c->err))
            (void)err_set(&c->err, ERR_INTERNAL, "the service gave no reason");
        return;
    }
    assert(!err_is_set(&c->err));
    if (c->transport) /* unpacked into the arena by a remote stub */
        c->reply = reply;
    else
#ifdef THURN_DEBUG
        c->reply = rpc_copy(reply, c->arena);
#else
        c->reply = rpc_keep(reply, c->arena);
#endif
}

void rpc_observe(const ProtobufCService *s, unsigned method, int64_t began_us, const struct err *err)
{
    char label[64]; /* cut as metrics cut it; not by printf, as this is done for each call */
    str service = str_c(s->descriptor->short_name), name = str_c(s->descriptor->methods[method].name);
    service = str_slice(service, 0, sizeof(label) - 2);
    name = str_slice(name, 0, sizeof(label) - 2 - service.n);
    memcpy(label, service.p, service.n);
    label[service.n] = '.';
    memcpy(label + service.n + 1, name.p, name.n);
    label[service.n + 1 + name.n] = '\0';
    metric_observe_us(M_RPC_SERVER_SECONDS, label, clock_mono_us() - began_us);
    if (err_is_set(err))
        metric_inc_label(M_RPC_SERVER_ERRORS, err_kind_name(err->kind));
}

bool rpc_invoke(ProtobufCService *s, unsigned method, const ProtobufCMessage *request, struct rpc_call *c)
{
    assert(method < s->descriptor->n_methods && request->descriptor == s->descriptor->methods[method].input);
    assert(!c->is_done && !err_is_set(&c->err));
    bool is_local = s->invoke == protobuf_c_service_invoke_internal;
    int64_t began_us = clock_mono_us(), old = fiber_set_deadline(c->deadline_mono_ms);
#ifdef THURN_DEBUG
    if (is_local) /* so that roles cannot share memory by accident */
        request = rpc_copy(request, c->arena);
#endif
    s->invoke(s, method, request, on_reply, c);
    fiber_restore_deadline(old);
    assert(c->is_done);
    if (is_local)
        rpc_observe(s, method, began_us, &c->err);
    return !err_is_set(&c->err);
}

bool rpc_set_fits(char *own, str theirs)
{
    if (!own || !theirs.n)
        return true;
    if (!own[0] && theirs.n < RPC_SET_SIZE)
        snprintf(own, RPC_SET_SIZE, "%.*s", STR_ARG(theirs));
    return str_eq(theirs, str_c(own));
}
