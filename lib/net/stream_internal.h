/*
 * stream_internal.h: the insides of a stream, shared by stream*.c and listener.c.
 *
 * Bytes on their way in:  kernel → the loop's one read buffer → (TLS) → in → the reader.
 * Bytes on their way out: the writer → out → (TLS) → queue → wire (in flight in libuv) → kernel.
 * All buffers are empty and without memory while the stream is idle.
 */
#ifndef NET_STREAM_INTERNAL_H
#define NET_STREAM_INTERNAL_H

#include <openssl/ssl.h>

#include "base/buf.h"
#include "fiber/loop.h"
#include "net/stream.h"

#define STREAM_MAGIC 0x57e40001u
#define STREAM_TLS_PIECE 16384u /* the largest TLS record */

enum stream_mode { STREAM_PLAIN, STREAM_HANDSHAKE, STREAM_TLS };

struct stream {
    uint32_t magic;
    enum stream_mode mode;
    bool is_reading;    /* libuv reads */
    bool is_at_eof;     /* the peer will send no more */
    bool is_writing;    /* `wire` is in flight */
    bool is_closing;    /* stream_close was called: nobody but this file knows the stream any more */
    bool is_uv_closed;  /* uv_close was called */
    bool is_unseen;     /* input came since the reader last looked */
    struct err failure; /* set once the connection is of no use */
    struct stream_opts opts;

    /* Input. The first in_off bytes of `in` are consumed; the next `lent` are in the reader's hands. While they are,
     * `in` does not move: what does not fit goes to `late`. scanned: so many bytes past in_off hold no LF. */
    struct buf in, late;
    size_t in_off, lent, scanned;
    struct fiber *reader;
    stream_ready_fn on_ready;
    void *ready_arg;
    struct loop_task ready_task;

    /* Output. */
    struct buf out, queue, wire;
    struct fiber *writer;
    uv_write_t write_req;
    struct loop_task flush_task;

    /* TLS. */
    SSL *ssl;
    struct tls_server *tls_server;
    struct tls_client *tls_client;
    struct buf cipher; /* arrived, and not taken by OpenSSL yet */
    size_t cipher_off;
    str chunk; /* in the read callback: the bytes that just arrived */

    uint64_t bytes_in, bytes_out;
    uint64_t acknowledged; /* bytes_in when the kernel was last told to acknowledge */
    uint64_t min_rate, rate_from_bytes;
    int64_t rate_from_ms;

    struct net_addr peer, local, wire_peer;
    void (*on_gone)(void *arg); /* the listener's count */
    void *gone_arg;
    struct fiber_timer linger;
    union {
        uv_handle_t handle;
        uv_stream_t uv;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    };
    uv_connect_t connect_req;
    uv_shutdown_t shutdown_req;
};

/* A stream whose handle is initialised for this family and not open yet. */
struct stream *stream_new(int family, const struct stream_opts *opts, struct err *err) WARN_UNUSED;
void stream_set_caps(struct stream *s); /* of the output buffers, by opts.output_high */
/* The handle is open: learn the addresses, set the options. */
void stream_opened(struct stream *s);

/* --- stream.c, for stream_tls.c and stream_io.c --- */
void stream_broke(struct stream *s, enum err_kind kind, const char *why);
void stream_read_on(struct stream *s); /* start or stop libuv's reading as the room demands */
void stream_send(struct stream *s);    /* hand `out` to TLS, `queue` to the kernel */
size_t stream_room(const struct stream *s);
void stream_take_in(struct stream *s, str bytes); /* plaintext arrived */
void stream_arrived(struct stream *s);            /* wake whoever waits for input */
void stream_unlend(struct stream *s);
/* One wait of the reader or writer, with the least rate. */
FIBER bool stream_wait(struct stream *s, struct fiber **who, struct err *err) WARN_UNUSED;

/* --- stream_tls.c --- */
void stream_tls_pump(struct stream *s); /* decrypt what is there into `in` */
void stream_tls_seal(struct stream *s); /* encrypt `out` into `queue` */
void stream_tls_goodbye(struct stream *s);
void stream_tls_done(struct stream *s);

#endif
