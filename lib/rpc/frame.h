/*
 * frame.h: the frames of docs/rpc.md, parsed and printed. Pure.
 */
#ifndef RPC_FRAME_H
#define RPC_FRAME_H

#include "base/buf.h"
#include "rpc/call.h"

#define RPC_VERSION_MIN 2u /* 1 said rights instead of a pass */
#define RPC_VERSION_MAX 2u
#define RPC_FRAME_MAX (RPC_MESSAGE_MAX + 1024u) /* after the length */
#define RPC_FRAME_HEAD 5u                       /* length and type */
#define RPC_WINDOW (256u * 1024)
#define RPC_SERVICES_MAX 16u
#define RPC_NO_DEADLINE UINT32_MAX

enum rpc_frame_type {
    RPC_HELLO = 1,
    RPC_REQUEST,
    RPC_REPLY,
    RPC_ERROR,
    RPC_DATA,
    RPC_DATA_END,
    RPC_WINDOW_MORE,
    RPC_CANCEL,
    RPC_PING,
    RPC_PONG,
    RPC_GOAWAY,
    RPC_FRAME_TYPES_
};

#define RPC_FLAG_BODY 1u /* of a request: a body follows */
#define RPC_FLAG_OUT 2u  /* the caller takes bytes before the reply */

struct rpc_frame {
    enum rpc_frame_type type;
    uint32_t call;      /* all but HELLO, PING, PONG, GOAWAY */
    str payload;        /* the message of REQUEST and REPLY, the bytes of DATA, the text of ERROR and DATA_END */
    enum err_kind kind; /* ERROR (never NONE), DATA_END */
    uint32_t credit;    /* WINDOW */
    uint64_t number;    /* PING, PONG */
    struct {
        uint16_t version_min, version_max;
        str roles; /* of the sender, with spaces between */
        str services[RPC_SERVICES_MAX];
        size_t n_services;
        str set; /* of the sender's databases, as far as it knows */
    } hello;
    struct {
        uint8_t service;
        uint16_t method;
        uint8_t flags;
        uint32_t ms_left;
        struct rpc_pass pass;
        uint64_t trace_id, route_key;
    } request;
};

enum rpc_frame_result { RPC_FRAME_MORE, RPC_FRAME_OK, RPC_FRAME_BAD };
/* The frame at the start of input; *used is its length. Views point into input. */
enum rpc_frame_result rpc_frame_parse(str input, struct rpc_frame *out, size_t *used);
/* Append the frame. A message, if not NULL, is packed as the payload instead of f->payload. */
void rpc_frame_add(struct buf *out, const struct rpc_frame *f, const ProtobufCMessage *message);

#endif
