/*
 * stream.h: one connection, plain or TLS, as a fiber reads and writes it.
 *
 * Reading: stream_fill suspends until more bytes are in the input buffer; stream_input is a view of what is there and
 * stream_consume takes from its front. The helpers below build lines and exact counts on that. The input buffer is
 * capped (opts.input_max): a peer that sends more than is consumed is simply not read (TCP pushes back).
 *
 * Writing: stream_write copies into the output buffer and suspends only while it is above its high-water mark;
 * stream_flush suspends until the kernel has all of it. Replies to pipelined commands gather into one write: flush when
 * no further whole command is in the input. A reader that has to wait for input sends what is written first, and
 * acknowledges what has come: many clients send a command or a message in two writes, and the kernel holds the second
 * back for the first (RFC 896) while ours would wait for something to send with the acknowledgement, 40 ms.
 *
 * Idle: a stream with no fiber is given to stream_idle: when bytes arrive (or the peer goes away) the callback runs
 * once, on the loop and outside of any library's callback, and may look at stream_input and spawn a fiber, or call
 * stream_idle again to wait for more. While idle and empty the stream holds no buffers, and its TLS state has released
 * its own.
 *
 * Time: each suspending call honours the fiber's deadline. stream_set_min_rate adds a least rate for long transfers.
 * One fiber reads and one (the same or another) writes; two readers are a bug (asserted).
 *
 * Errors: UNAVAILABLE (peer closed or reset), TIMEOUT, CANCELLED, LIMIT (a line or input over its maximum),
 * INVALID (TLS or PROXY protocol violations), DENIED (certificate not accepted).
 */
#ifndef NET_STREAM_H
#define NET_STREAM_H

#include "net/addr.h"
#include "net/tls.h"

struct stream;

struct stream_opts {
    size_t input_max;   /* default 64 KiB */
    size_t output_high; /* default 256 KiB */
    /* the peer never waits for an acknowledgement (our own programs): none is sent before its time */
    bool is_prompt;
};

/* Connect. addr may be TCP or Unix. local may be NULL (source address). */
FIBER struct stream *stream_connect(const struct net_addr *addr, const struct net_addr *local,
                                    const struct stream_opts *opts, struct err *err) WARN_UNUSED;
/* Take over a connected socket (tests; inherited descriptors). The stream owns fd. */
struct stream *stream_from_fd(int fd, const struct stream_opts *opts, struct err *err) WARN_UNUSED;
/*
 * Close: sends what is buffered for at most 2 s in the background (with TLS close_notify), then frees. No call may be
 * under way. stream_abort drops the connection at once. Both take NULL.
 */
void stream_close(struct stream *s);
void stream_abort(struct stream *s);
/* Make every call on it, also those under way, fail with UNAVAILABLE. It is still to be closed. */
void stream_fail(struct stream *s, const char *why);
DEFINE_CLEANUP(struct stream, stream_close)

/* --- input --- */
FIBER bool stream_fill(struct stream *s, struct err *err) WARN_UNUSED; /* at least one byte more than before */
/* What has arrived and is not consumed; the view dies at the next call on s and at the next suspension of any kind. */
str stream_input(struct stream *s);
void stream_consume(struct stream *s, size_t n);
/* The next line without its end; *line is a view until the next reading call on s, also over suspensions. With strict,
 * only CRLF ends a line and a bare CR or LF is INVALID (the bytes up to the LF are consumed); otherwise LF ends it too.
 * Over max bytes: LIMIT, with the line left in the input. */
FIBER bool stream_read_line(struct stream *s, size_t max, bool strict, str *line, struct err *err) WARN_UNUSED;
/* At least 1, at most n bytes as a view until the next reading call; consumed. */
FIBER bool stream_read_some(struct stream *s, size_t n, str *out, struct err *err) WARN_UNUSED;
FIBER bool stream_read_exact(struct stream *s, void *p, size_t n, struct err *err) WARN_UNUSED;
/* Raise or lower the input cap (e.g. for a literal). */
void stream_set_input_max(struct stream *s, size_t n);
/* Least bytes a second over the time since this call, first counted after 30 s; 0 = none. Slower: TIMEOUT. */
void stream_set_min_rate(struct stream *s, uint64_t bytes_per_s);

/* --- output --- */
FIBER bool stream_write(struct stream *s, str bytes, struct err *err) WARN_UNUSED;
FIBER bool stream_printf(struct stream *s, struct err *err, const char *fmt, ...) PRINTF(3, 4) WARN_UNUSED;
FIBER bool stream_flush(struct stream *s, struct err *err) WARN_UNUSED;
/* Send, and wait until no more than `mark` bytes are pending. */
FIBER bool stream_drain(struct stream *s, size_t mark, struct err *err) WARN_UNUSED;
/* From the loop, without suspending: false (and nothing written) when it would pass the high-water mark. For untagged
 * updates to idle sessions and for goodbyes. */
bool stream_try_write(struct stream *s, str bytes);
size_t stream_output_pending(const struct stream *s);
void stream_set_output_high(struct stream *s, size_t n);

/* --- idle --- */
typedef void (*stream_ready_fn)(void *arg);
/* Also fires for bytes that came since the input was last looked at (stream_input or a reading call). */
void stream_idle(struct stream *s, stream_ready_fn ready, void *arg);
void stream_idle_stop(struct stream *s);
/* Whether the peer has closed or the connection broke; input that came before stays readable. */
bool stream_at_end(const struct stream *s);

/* --- TLS --- */
/*
 * After STARTTLS. Plain bytes that are in the input now are dropped and reported (*had_plaintext, may be NULL): command
 * injection. So write the go-ahead and do NOT flush it: this call sends it, and what arrives later is TLS.
 */
FIBER bool stream_start_tls_server(struct stream *s, struct tls_server *t, bool *had_plaintext, struct err *err)
    WARN_UNUSED;
FIBER bool stream_start_tls_client(struct stream *s, struct tls_client *t, str server_name, enum tls_verify verify,
                                   struct err *err) WARN_UNUSED;
bool stream_has_tls(const struct stream *s);
str stream_tls_version(const struct stream *s); /* "TLSv1.3", empty without */
str stream_tls_cipher(const struct stream *s);
str stream_tls_sni(const struct stream *s); /* empty when none */
str stream_tls_alpn(const struct stream *s);
/* Whether the peer's certificate (accepted in the handshake) has this URI among its alternative names. */
bool stream_tls_peer_has_uri(const struct stream *s, str uri);

/* --- facts --- */
const struct net_addr *stream_peer(const struct stream *s); /* from the PROXY header when there was one */
const struct net_addr *stream_local(const struct stream *s);
const struct net_addr *stream_wire_peer(const struct stream *s); /* who is really connected */
/* The user of the process at the other end of a Unix socket, as the kernel says; false for others. */
bool stream_peer_user(const struct stream *s, uint32_t *uid) WARN_UNUSED;
uint64_t stream_bytes_in(const struct stream *s);
uint64_t stream_bytes_out(const struct stream *s);
/* TCP keepalive after this many seconds of silence (mobile and load-balancer idle limits). */
void stream_keepalive(struct stream *s, unsigned seconds);
/* For the server's own use after PROXY parsing. */
void stream_set_peer(struct stream *s, const struct net_addr *peer, const struct net_addr *local);

#endif
