/*
 * internal.h: shared by the files of lib/rpc only.
 */
#ifndef RPC_INTERNAL_H
#define RPC_INTERNAL_H

#include "net/stream.h"
#include "rpc/frame.h"

/* --- copy.c --- */
/* m in the arena: what is there already stays, the rest is copied. Changes what of m is in the arena. */
ProtobufCMessage *rpc_keep(const ProtobufCMessage *m, struct arena *a);

/* --- call.c --- */
/* Count one served request. */
void rpc_observe(const ProtobufCService *s, unsigned method, int64_t began_us, const struct err *err);

/* --- flow.c: the body of a call, one direction --- */
struct rpc_inflow {
    struct buf arrived, lent; /* lent: in the reader's hands */
    size_t lent_used;
    bool is_ended;
    struct err failure; /* why it ended, when not by its end */
    struct fiber *waiter;
};
void rpc_inflow_init(struct rpc_inflow *f);
void rpc_inflow_done(struct rpc_inflow *f);
bool rpc_inflow_put(struct rpc_inflow *f, str bytes) WARN_UNUSED; /* false: more than the window */
void rpc_inflow_end(struct rpc_inflow *f, enum err_kind kind, str text);
bool rpc_inflow_has(const struct rpc_inflow *f);
/* The next piece (there is one), a view until the next call; *credit is what may be given back to the sender. */
str rpc_inflow_take(struct rpc_inflow *f, size_t *credit);

/* --- conn.c: frames over a stream. Runs on the loop; holds no fiber. --- */
struct rpc_conn;
struct rpc_conn_events {
    /* A frame arrived. False: it breaks the protocol, the connection ends. Must not suspend, nor free the connection.
     */
    bool (*frame)(void *owner, const struct rpc_frame *f);
    /* The connection is of no use any more; called once, never inside another rpc_conn function. */
    void (*end)(void *owner, const struct err *why);
};
/* Takes over the stream. */
struct rpc_conn *rpc_conn_new(struct stream *s, const struct rpc_conn_events *events, void *owner);
/* Close (what is queued still goes out) and free; end is not called any more. Senders under way get UNAVAILABLE. */
void rpc_conn_free(struct rpc_conn *c);
struct stream *rpc_conn_stream(struct rpc_conn *c);
/* Send a frame; suspends while the output is above its mark. Errors: UNAVAILABLE, TIMEOUT, CANCELLED, LIMIT (too
 * large). */
FIBER bool rpc_conn_send(struct rpc_conn *c, const struct rpc_frame *f, const ProtobufCMessage *m, struct err *err)
    WARN_UNUSED;
/* A small frame without suspending. When there is no room for it, the connection ends. */
void rpc_conn_post(struct rpc_conn *c, const struct rpc_frame *f);
/* Give it up; `end` follows from the loop. */
void rpc_conn_break(struct rpc_conn *c, enum err_kind kind, const char *why);

#endif
