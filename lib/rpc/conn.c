#include "base/clock.h"
#include "rpc/internal.h"
#include "fiber/loop.h"

#define CONN_MAGIC 0x49c00001u
#define OUTPUT_MARK ((size_t)512 * 1024)     /* senders wait above it */
#define OUTPUT_MAX ((size_t)8 * 1024 * 1024) /* posts end the connection above it */
#define SILENCE_MS 5000

struct rpc_conn {
    uint32_t magic;
    struct stream *stream;
    struct rpc_conn_events events;
    void *owner;
    struct fiber_mutex room; /* one sender at a time waits for the stream */
    unsigned n_senders;
    bool is_over; /* end was called, or is about to be */
    bool is_pinged;
    bool is_freed;        /* the last sender frees */
    uint64_t heard_bytes; /* at the last look */
    struct fiber_timer silence;
    struct loop_task end_task;
    struct err why;
};

static void call_end(void *arg)
{
    struct rpc_conn *c = arg;
    struct err why = c->why; /* the owner may free the connection */
    c->events.end(c->owner, &why);
}

void rpc_conn_break(struct rpc_conn *c, enum err_kind kind, const char *why)
{
    CHECK(c, CONN_MAGIC);
    if (c->is_over)
        return;
    c->is_over = true;
    (void)err_set(&c->why, kind, "%s", why);
    fiber_timer_stop(&c->silence);
    stream_idle_stop(c->stream);
    loop_defer(&c->end_task, call_end, c);
}

static void on_readable(void *arg)
{
    struct rpc_conn *c = arg;
    CHECK(c, CONN_MAGIC);
    while (!c->is_over) {
        struct rpc_frame f;
        size_t used;
        enum rpc_frame_result r = rpc_frame_parse(stream_input(c->stream), &f, &used);
        if (r == RPC_FRAME_MORE)
            break;
        if (r == RPC_FRAME_BAD) {
            rpc_conn_break(c, ERR_INVALID, "malformed frame");
            return;
        }
        if (f.type == RPC_PING)
            rpc_conn_post(c, &(struct rpc_frame){.type = RPC_PONG, .number = f.number});
        else if (f.type != RPC_PONG && !c->events.frame(c->owner, &f))
            rpc_conn_break(c, ERR_INVALID, "unexpected frame");
        stream_consume(c->stream, used);
    }
    if (c->is_over)
        return;
    if (stream_at_end(c->stream))
        rpc_conn_break(c, ERR_UNAVAILABLE, "connection closed");
    else
        stream_idle(c->stream, on_readable, c);
}

static void on_silence(void *arg)
{
    struct rpc_conn *c = arg;
    CHECK(c, CONN_MAGIC);
    uint64_t heard = stream_bytes_in(c->stream);
    bool is_silent = heard == c->heard_bytes;
    c->heard_bytes = heard;
    if (is_silent && c->is_pinged) {
        rpc_conn_break(c, ERR_UNAVAILABLE, "no answer to a ping");
        return;
    }
    c->is_pinged = is_silent;
    if (is_silent)
        rpc_conn_post(c, &(struct rpc_frame){.type = RPC_PING, .number = (uint64_t)clock_mono_ms()});
    if (!c->is_over)
        fiber_timer_start(&c->silence, SILENCE_MS, on_silence, c);
}

struct rpc_conn *rpc_conn_new(struct stream *s, const struct rpc_conn_events *events, void *owner)
{
    struct rpc_conn *c = xnew(struct rpc_conn);
    *c = (struct rpc_conn){.magic = CONN_MAGIC, .stream = s, .events = *events, .owner = owner};
    fiber_mutex_init(&c->room);
    stream_set_input_max(s, 2 * (size_t)RPC_FRAME_MAX);
    stream_set_output_high(s, OUTPUT_MAX);
    fiber_timer_start(&c->silence, SILENCE_MS, on_silence, c);
    stream_idle(s, on_readable, c);
    return c;
}

void rpc_conn_free(struct rpc_conn *c)
{
    if (!c)
        return;
    CHECK(c, CONN_MAGIC);
    fiber_timer_stop(&c->silence);
    loop_task_cancel(&c->end_task);
    if (!c->is_over)
        (void)err_set(&c->why, ERR_UNAVAILABLE, "connection closed");
    c->is_over = true;
    if (c->n_senders > 0) {
        c->is_freed = true;
        stream_fail(c->stream, c->why.msg);
        return;
    }
    stream_close(c->stream);
    c->magic = 0;
    free(c);
}

struct stream *rpc_conn_stream(struct rpc_conn *c)
{
    CHECK(c, CONN_MAGIC);
    return c->stream;
}

/* One buffer for all connections: it is filled and copied on without a suspension between. */
static struct buf *frame_buffer(void)
{
    static struct buf b;
    if (b.cap == 0)
        buf_init(&b, RPC_FRAME_MAX + 64);
    buf_clear(&b);
    return &b;
}

static void release_frame_buffer(struct buf *b)
{
    if (b->size > 256 * 1024)
        buf_release(b);
}

FIBER static bool wait_for_room(struct rpc_conn *c, struct err *err)
{
    if (!fiber_mutex_lock(&c->room, err))
        return false;
    bool ok = c->is_over || stream_drain(c->stream, OUTPUT_MARK / 2, err);
    fiber_mutex_unlock(&c->room);
    return ok;
}

FIBER static bool send_frame(struct rpc_conn *c, const struct rpc_frame *f, const ProtobufCMessage *m, struct err *err)
{
    for (;;) {
        if (c->is_over) {
            *err = c->why;
            return false;
        }
        if (stream_output_pending(c->stream) <= OUTPUT_MARK)
            break;
        if (!wait_for_room(c, err))
            return false;
    }
    struct buf *b = frame_buffer();
    rpc_frame_add(b, f, m);
    bool ok;
    if (!buf_ok(b) || b->n > RPC_FRAME_MAX)
        ok = err_set(err, ERR_LIMIT, "message over %u bytes", RPC_MESSAGE_MAX);
    else
        ok = stream_try_write(c->stream, buf_str(b)) || err_set(err, ERR_UNAVAILABLE, "connection broke");
    release_frame_buffer(b);
    return ok;
}

bool rpc_conn_send(struct rpc_conn *c, const struct rpc_frame *f, const ProtobufCMessage *m, struct err *err)
{
    CHECK(c, CONN_MAGIC);
    c->n_senders++;
    bool ok = send_frame(c, f, m, err);
    if (--c->n_senders == 0 && c->is_freed)
        rpc_conn_free(c);
    return ok;
}

void rpc_conn_post(struct rpc_conn *c, const struct rpc_frame *f)
{
    CHECK(c, CONN_MAGIC);
    if (c->is_over)
        return;
    struct buf *b = frame_buffer();
    rpc_frame_add(b, f, NULL);
    if (!stream_try_write(c->stream, buf_str(b)))
        rpc_conn_break(c, ERR_UNAVAILABLE, "the peer does not read");
}
