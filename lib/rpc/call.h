/*
 * call.h: what travels with every service call, and the seam between a caller and a service.
 *
 * A service is its .proto. Callers hold a ProtobufCService * and do not know whether it is the local object or a remote
 * stub: server/ decides once. Every call's closure_data is a `struct rpc_call *`.
 *
 * Caller:   the generated typed wrapper of proto/<x>_calls.h, e.g.
 *               bool store_append(struct rpc_call *c, ProtobufCService *s, const Thurn__AppendRequest *q,
 *                                 const Thurn__AppendReply **r);
 *           which suspends, and on failure returns false with c->err set.
 * Service:  the generated method; it is entered on a fiber of its own with the call's deadline (a local call runs on
 * the caller's fiber), gets closure_data, and answers by closure(&reply, closure_data) or, on failure, sets c->err and
 * calls closure(NULL, closure_data), before it returns. reply may live on its stack or in c->arena.
 *
 * Bodies: a request may carry a source of bytes beside its message, and a reply may be followed by bytes into a sink.
 * Both move in chunks of at most 64 KiB with a window, local or remote; nothing is buffered whole.
 *
 * A reply lives in the caller's arena. In debug builds local calls are packed and unpacked as remote ones are.
 */
#ifndef RPC_CALL_H
#define RPC_CALL_H

#include <protobuf-c/protobuf-c.h>

#include "base/arena.h"
#include "fiber/fiber.h"
#include "rpc/rights.h"

#define RPC_MESSAGE_MAX (1024u * 1024) /* one packed request or reply */
#define RPC_CHUNK_MAX (64u * 1024)

/* Bytes to be read: the next piece as a view until the next call; empty at the end. */
struct rpc_source {
    FIBER bool (*read)(struct rpc_source *s, str *piece, struct err *err);
};
struct rpc_sink {
    FIBER bool (*write)(struct rpc_sink *s, str piece, struct err *err);
};

/*
 * Which databases a process stands on (data/sql.h, sql_set): peers of two installations do not talk to each other. A
 * process that has none of its own learns the id from the first peer that has. The buffer holds RPC_SET_SIZE bytes with
 * the id and its NUL, empty: not known; NULL: not asked.
 */
#define RPC_SET_SIZE 33u
bool rpc_set_fits(char *own, str theirs);

struct rpc_call {
    /* Set by the caller (rpc_call_init fills in defaults: the fiber's deadline, context and arena). */
    struct arena *arena;
    int64_t deadline_mono_ms;
    struct rpc_pass pass; /* on whose behalf: from the log-in; none = the process by itself */
    uint64_t trace_id;
    uint64_t route_key;      /* same key, same node while it is healthy (account id); 0 = any */
    bool is_idempotent;      /* may be sent again after an unknown outcome. All methods are, some only with a key in the
                              * request: their .proto says which */
    struct rpc_source *body; /* may be NULL */
    struct rpc_sink *out;    /* may be NULL */
    /* Set by the server that took it from a peer. */
    bool is_remote;
    unsigned roles; /* RPC_BY_*: whom the connection is from */
    /* Set by the callee. */
    struct err err;
    const ProtobufCMessage *reply; /* in arena */
    bool is_done;
    struct fiber *waiter;
    void *transport; /* the remote stub's own */
};
void rpc_call_init(struct rpc_call *c, struct arena *a);

/*
 * Invoke method number `method` and wait. The typed wrappers call this. False: c->err says why; may be called again
 * with the same call after rpc_call_again(). Errors: what the service said; UNAVAILABLE (no node), TIMEOUT, CANCELLED.
 */
FIBER bool rpc_invoke(ProtobufCService *s, unsigned method, const ProtobufCMessage *request, struct rpc_call *c)
    WARN_UNUSED;
void rpc_call_again(struct rpc_call *c);

/* Helpers. */
struct ProtobufCAllocator *rpc_arena_allocator(struct arena *a, ProtobufCAllocator *storage); /* free does nothing */
ProtobufCMessage *rpc_copy(const ProtobufCMessage *m, struct arena *a); /* deep, by pack and unpack */
static inline ProtobufCBinaryData rpc_bytes(str s)
{
    return (ProtobufCBinaryData){s.n, (uint8_t *)(uintptr_t)s.p};
}
static inline str rpc_str(ProtobufCBinaryData b)
{
    return str_n(b.data, b.len);
}

#endif
