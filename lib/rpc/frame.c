#include "rpc/frame.h"

static const str hello_magic = S_INIT("THRN");

/* --- reading --- */

static bool take_u(struct cursor *c, size_t bytes, uint64_t *out)
{
    str s = cur_take(c, bytes);
    if (!s.p)
        return false;
    uint64_t v = 0;
    for (size_t i = 0; i < bytes; i++)
        v = v << 8 | (unsigned char)s.p[i];
    *out = v;
    return true;
}
#define TAKE_FIELD(type, name)                                                                                         \
    static bool name(struct cursor *c, type *out)                                                                      \
    {                                                                                                                  \
        uint64_t v;                                                                                                    \
        if (!take_u(c, sizeof(type), &v))                                                                              \
            return false;                                                                                              \
        *out = (type)v;                                                                                                \
        return true;                                                                                                   \
    }
TAKE_FIELD(uint8_t, take_u8)
TAKE_FIELD(uint16_t, take_u16)
TAKE_FIELD(uint32_t, take_u32)
TAKE_FIELD(uint64_t, take_u64)

static bool take_name(struct cursor *c, str *out)
{
    uint8_t n;
    if (!take_u8(c, &n) || cur_left(c) < n)
        return false;
    *out = cur_take(c, n);
    return true;
}

static bool hello_parse(struct cursor *c, struct rpc_frame *f)
{
    uint8_t n;
    if (!str_eq(cur_take(c, hello_magic.n), hello_magic) || !take_u16(c, &f->hello.version_min) ||
        !take_u16(c, &f->hello.version_max) || !take_name(c, &f->hello.roles) || !take_u8(c, &n) ||
        n > RPC_SERVICES_MAX || f->hello.version_min > f->hello.version_max)
        return false;
    for (f->hello.n_services = 0; f->hello.n_services < n; f->hello.n_services++)
        if (!take_name(c, &f->hello.services[f->hello.n_services]))
            return false;
    /* A release before says nothing here; later versions may say more. */
    return cur_left(c) == 0 || take_name(c, &f->hello.set);
}

static bool rest(struct cursor *c, struct rpc_frame *f)
{
    f->payload = cur_rest(c);
    c->p = c->end;
    return true;
}

static bool take_pass(struct cursor *c, struct rpc_pass *out)
{
    str bytes;
    if (!take_name(c, &bytes))
        return false;
    *out = rpc_pass_of(bytes);
    return out->n == bytes.n;
}

static bool request_parse(struct cursor *c, struct rpc_frame *f)
{
    return take_u32(c, &f->call) && take_u8(c, &f->request.service) && take_u16(c, &f->request.method) &&
           take_u8(c, &f->request.flags) && take_u32(c, &f->request.ms_left) && take_pass(c, &f->request.pass) &&
           take_u64(c, &f->request.trace_id) && take_u64(c, &f->request.route_key) && rest(c, f) &&
           f->payload.n <= RPC_MESSAGE_MAX;
}

static bool kind_parse(struct cursor *c, struct rpc_frame *f)
{
    uint8_t kind;
    if (!take_u32(c, &f->call) || !take_u8(c, &kind))
        return false;
    f->kind = kind < ERR_KINDS_ ? (enum err_kind)kind : ERR_INTERNAL; /* a later release may know more */
    return rest(c, f) && (f->type != RPC_ERROR || f->kind != ERR_NONE);
}

static bool content_parse(struct cursor *c, struct rpc_frame *f)
{
    switch (f->type) {
    case RPC_HELLO:
        return hello_parse(c, f) && rest(c, f);
    case RPC_REQUEST:
        return request_parse(c, f);
    case RPC_REPLY:
        return take_u32(c, &f->call) && rest(c, f) && f->payload.n <= RPC_MESSAGE_MAX;
    case RPC_ERROR:
    case RPC_DATA_END:
        return kind_parse(c, f);
    case RPC_DATA:
        return take_u32(c, &f->call) && rest(c, f) && f->payload.n > 0 && f->payload.n <= RPC_CHUNK_MAX;
    case RPC_WINDOW_MORE:
        return take_u32(c, &f->call) && take_u32(c, &f->credit) && cur_left(c) == 0;
    case RPC_CANCEL:
        return take_u32(c, &f->call) && cur_left(c) == 0;
    case RPC_PING:
    case RPC_PONG:
        return take_u64(c, &f->number) && cur_left(c) == 0;
    case RPC_GOAWAY:
        return cur_left(c) == 0;
    default:
        return false;
    }
}

enum rpc_frame_result rpc_frame_parse(str input, struct rpc_frame *out, size_t *used)
{
    struct cursor c = cur_of(input);
    uint32_t length;
    uint8_t type;
    if (!take_u32(&c, &length))
        return RPC_FRAME_MORE;
    if (length == 0 || length > RPC_FRAME_MAX)
        return RPC_FRAME_BAD;
    if (cur_left(&c) < length)
        return RPC_FRAME_MORE;
    c.end = c.p + length;
    struct rpc_frame f = {0};
    if (!take_u8(&c, &type))
        return RPC_FRAME_BAD;
    f.type = (enum rpc_frame_type)type;
    if (!content_parse(&c, &f))
        return RPC_FRAME_BAD;
    *out = f;
    *used = 4 + (size_t)length;
    return RPC_FRAME_OK;
}

/* --- writing --- */

static void add_u(struct buf *b, size_t bytes, uint64_t v)
{
    char out[8];
    for (size_t i = 0; i < bytes; i++)
        out[i] = (char)(v >> 8 * (bytes - 1 - i));
    buf_add_n(b, out, bytes);
}

static void add_name(struct buf *b, str name)
{
    assert(name.n < 256);
    add_u(b, 1, name.n);
    buf_add(b, name);
}

static void add_head(struct buf *b, const struct rpc_frame *f)
{
    switch (f->type) {
    case RPC_HELLO:
        buf_add(b, hello_magic);
        add_u(b, 2, f->hello.version_min);
        add_u(b, 2, f->hello.version_max);
        add_name(b, f->hello.roles);
        add_u(b, 1, f->hello.n_services);
        for (size_t i = 0; i < f->hello.n_services; i++)
            add_name(b, f->hello.services[i]);
        add_name(b, f->hello.set);
        return;
    case RPC_PING:
    case RPC_PONG:
        add_u(b, 8, f->number);
        return;
    case RPC_GOAWAY:
        return;
    default:
        add_u(b, 4, f->call);
    }
    if (f->type == RPC_REQUEST) {
        add_u(b, 1, f->request.service);
        add_u(b, 2, f->request.method);
        add_u(b, 1, f->request.flags);
        add_u(b, 4, f->request.ms_left);
        add_name(b, rpc_pass_str(&f->request.pass));
        add_u(b, 8, f->request.trace_id);
        add_u(b, 8, f->request.route_key);
    } else if (f->type == RPC_ERROR || f->type == RPC_DATA_END) {
        add_u(b, 1, f->kind);
    } else if (f->type == RPC_WINDOW_MORE) {
        add_u(b, 4, f->credit);
    }
}

void rpc_frame_add(struct buf *out, const struct rpc_frame *f, const ProtobufCMessage *message)
{
    size_t at = out->n;
    add_u(out, 4, 0);
    add_u(out, 1, f->type);
    add_head(out, f);
    if (message) {
        size_t n = protobuf_c_message_get_packed_size(message);
        char *to = buf_reserve(out, n);
        if (to)
            buf_commit(out, protobuf_c_message_pack(message, (uint8_t *)to));
    } else {
        buf_add(out, f->payload);
    }
    if (!buf_ok(out))
        return;
    size_t length = out->n - at - 4;
    for (size_t i = 0; i < 4; i++)
        out->p[at + i] = (char)(length >> 8 * (3 - i));
}
