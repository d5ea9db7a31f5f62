#include "net/stream_internal.h"

#include <netinet/tcp.h>

#include "base/clock.h"

#define READ_BUFFER ((size_t)64 * 1024)
#define INPUT_MAX_DEFAULT ((size_t)64 * 1024)
#define OUTPUT_HIGH_DEFAULT ((size_t)256 * 1024)
/* over the high-water mark: one write's piece, TLS overhead */
#define OUTPUT_SLACK ((size_t)1024 * 1024)
#define INPUT_CAP ((size_t)256 * 1024 * 1024) /* over any input_max */
#define LINGER_MS 2000

/* The loop's one read buffer: a connection has none of its own. Its content is used up before the callback returns. */
static char read_buffer[READ_BUFFER];

/* --- reading --- */

size_t stream_room(const struct stream *s)
{
    size_t held = s->in.n - s->in_off + s->late.n;
    return held < s->opts.input_max ? s->opts.input_max - held : 0;
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *out)
{
    (void)suggested;
    const struct stream *s = h->data;
    /* Encrypted bytes are more than the plain ones, and OpenSSL wants whole records. */
    size_t n = s->is_closing || s->mode != STREAM_PLAIN ? READ_BUFFER : MIN(READ_BUFFER, stream_room(s));
    *out = uv_buf_init(read_buffer, (unsigned)n);
}

void stream_take_in(struct stream *s, str bytes)
{
    s->is_unseen = true;
    if (s->lent > 0 && (s->late.n > 0 || s->in.n + bytes.n + 1 > s->in.size)) {
        buf_add(&s->late, bytes);
    } else {
        if (s->lent == 0 && s->in_off > 0) {
            buf_consume(&s->in, s->in_off);
            s->in_off = 0;
        }
        buf_add(&s->in, bytes);
    }
}

void stream_arrived(struct stream *s)
{
    if (s->reader)
        fiber_wake(s->reader);
    else if (s->on_ready)
        loop_defer(&s->ready_task, s->ready_task.fn, s);
}

void stream_broke(struct stream *s, enum err_kind kind, const char *why)
{
    if (!err_is_set(&s->failure))
        (void)err_set(&s->failure, kind, "%s", why);
    if (s->is_reading) {
        s->is_reading = false;
        (void)uv_read_stop(&s->uv);
    }
    buf_release(&s->out);
    buf_release(&s->queue);
    if (s->writer)
        fiber_wake(s->writer);
    stream_arrived(s);
}

/* Encrypted bytes that OpenSSL cannot take yet. */
static void keep_cipher(struct stream *s, str bytes)
{
    if (s->cipher_off > 0) {
        buf_consume(&s->cipher, s->cipher_off);
        s->cipher_off = 0;
    }
    buf_add(&s->cipher, bytes);
}

void stream_fail(struct stream *s, const char *why)
{
    CHECK(s, STREAM_MAGIC);
    stream_broke(s, ERR_UNAVAILABLE, why);
}

static void close_now(struct stream *s);

static void on_end(struct stream *s, int status)
{
    s->is_at_eof = true;
    s->is_reading = false;
    (void)uv_read_stop(&s->uv);
    if (s->is_closing) {
        if (!s->is_writing || status != UV_EOF)
            close_now(s);
    } else if (status != UV_EOF) {
        stream_broke(s, ERR_UNAVAILABLE, uv_strerror(status));
    } else {
        stream_arrived(s);
    }
}

static void on_read(uv_stream_t *h, ssize_t n, const uv_buf_t *b)
{
    struct stream *s = h->data;
    if (n == 0)
        return;
    if (n > 0 && s->is_closing)
        return; /* lingering: nobody wants it */
    if (n < 0) {
        on_end(s, (int)n);
        return;
    }
    s->bytes_in += (uint64_t)n;
    str bytes = str_n(b->base, (size_t)n);
    if (s->mode == STREAM_PLAIN) {
        stream_take_in(s, bytes);
        stream_arrived(s);
    } else if (s->mode == STREAM_HANDSHAKE) {
        keep_cipher(s, bytes);
        stream_arrived(s);
    } else {
        s->chunk = bytes;
        stream_tls_pump(s);
        keep_cipher(s, s->chunk); /* the input was full before all was decrypted */
        s->chunk = STR_NONE;
    }
    stream_read_on(s);
}

void stream_read_on(struct stream *s)
{
    bool is_full = s->mode == STREAM_PLAIN ? stream_room(s) == 0 : s->cipher.n - s->cipher_off >= READ_BUFFER;
    if (s->mode == STREAM_TLS)
        is_full = is_full || stream_room(s) == 0;
    bool want = s->is_closing || !is_full;
    if (s->is_at_eof || err_is_set(&s->failure) || s->is_uv_closed)
        want = false;
    if (want == s->is_reading)
        return;
    s->is_reading = want;
    if (!want)
        (void)uv_read_stop(&s->uv);
    else if (uv_read_start(&s->uv, on_alloc, on_read) != 0)
        stream_broke(s, ERR_UNAVAILABLE, "connection cannot be read");
}

/* --- writing --- */

static void after_output(struct stream *s);

static void on_written(uv_write_t *req, int status)
{
    struct stream *s = req->data;
    s->is_writing = false;
    if (status == 0)
        s->bytes_out += s->wire.n;
    buf_release(&s->wire);
    if (status != 0 && !s->is_uv_closed)
        stream_broke(s, ERR_UNAVAILABLE, uv_strerror(status));
    after_output(s);
}

static void start_write(struct stream *s, size_t already_sent)
{
    if (already_sent > 0)
        buf_consume(&s->queue, already_sent);
    struct buf empty = s->wire;
    s->wire = s->queue;
    s->queue = empty;
    uv_buf_t b = uv_buf_init(s->wire.p, (unsigned)s->wire.n);
    s->write_req.data = s;
    int r = uv_write(&s->write_req, &s->uv, &b, 1, on_written);
    if (r == 0)
        s->is_writing = true;
    else
        stream_broke(s, ERR_UNAVAILABLE, uv_strerror(r));
}

void stream_send(struct stream *s)
{
    if (err_is_set(&s->failure) || s->is_uv_closed)
        return;
    if (s->mode == STREAM_TLS) {
        stream_tls_seal(s);
    } else if (s->mode == STREAM_PLAIN && s->queue.n == 0) {
        struct buf empty = s->queue;
        s->queue = s->out;
        s->out = empty;
    } else if (s->mode == STREAM_PLAIN) {
        buf_add(&s->queue, buf_str(&s->out));
        buf_clear(&s->out);
    }
    if (err_is_set(&s->failure))
        return;
    if (!buf_ok(&s->queue) || !buf_ok(&s->out)) {
        stream_broke(s, ERR_INTERNAL, "output over its limit");
        return;
    }
    if (s->is_writing || s->queue.n == 0)
        return;
    uv_buf_t b = uv_buf_init(s->queue.p, (unsigned)MIN(s->queue.n, (size_t)INT32_MAX));
    int r = uv_try_write(&s->uv, &b, 1);
    if (r < 0 && r != UV_EAGAIN) {
        stream_broke(s, ERR_UNAVAILABLE, uv_strerror(r));
        return;
    }
    size_t sent = r > 0 ? (size_t)r : 0;
    s->bytes_out += sent;
    if (sent == s->queue.n) {
        if (s->queue.size > STREAM_TLS_PIECE)
            buf_release(&s->queue);
        else
            buf_clear(&s->queue);
    } else {
        start_write(s, sent);
    }
}

static void after_output(struct stream *s)
{
    if (!s->is_uv_closed)
        stream_send(s);
    if (s->writer)
        fiber_wake(s->writer);
    if (s->is_closing && !s->is_writing)
        stream_close(s);
}

/* --- waiting --- */

/* When the least rate will be broken if nothing moves until then. */
static int64_t too_slow_at(const struct stream *s)
{
    if (s->min_rate == 0)
        return FIBER_NO_DEADLINE;
    uint64_t moved = s->bytes_in + s->bytes_out - s->rate_from_bytes;
    return s->rate_from_ms + MAX((int64_t)30000, (int64_t)(moved / s->min_rate * 1000));
}

/* Something came, and there is no answer to carry the acknowledgement. Also when one has left: then this does nothing.
 */
static void acknowledge(struct stream *s)
{
    int fd, on = 1;
    if (s->acknowledged == s->bytes_in || s->opts.is_prompt || s->handle.type != UV_TCP ||
        uv_fileno(&s->handle, &fd) != 0)
        return;
    s->acknowledged = s->bytes_in;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on)); /* it is a hint */
}

bool stream_wait(struct stream *s, struct fiber **who, struct err *err)
{
    assert(!*who && fiber_self());
    if (who == &s->reader)
        acknowledge(s);
    int64_t slow_at = too_slow_at(s), old = fiber_set_deadline(slow_at);
    *who = fiber_self();
    bool ok = fiber_wait(err);
    *who = NULL;
    fiber_restore_deadline(old);
    if (!ok && err->kind == ERR_TIMEOUT && slow_at < old) {
        err_clear(err);
        if (too_slow_at(s) > clock_mono_ms()) /* something moved meanwhile */
            return true;
        return err_set(err, ERR_TIMEOUT, "slower than %llu bytes a second", (unsigned long long)s->min_rate);
    }
    return ok;
}

void stream_set_min_rate(struct stream *s, uint64_t bytes_per_s)
{
    CHECK(s, STREAM_MAGIC);
    s->min_rate = bytes_per_s;
    s->rate_from_ms = clock_mono_ms();
    s->rate_from_bytes = s->bytes_in + s->bytes_out;
}

/* --- idle --- */

static void run_ready(void *arg)
{
    struct stream *s = arg;
    stream_ready_fn ready = s->on_ready;
    s->on_ready = NULL;
    if (ready)
        ready(s->ready_arg);
}

void stream_idle(struct stream *s, stream_ready_fn ready, void *arg)
{
    CHECK(s, STREAM_MAGIC);
    assert(!s->reader);
    stream_unlend(s);
    s->on_ready = ready;
    s->ready_arg = arg;
    s->ready_task.fn = run_ready;
    stream_send(s);
    if (s->in.n == s->in_off) {
        buf_release(&s->in);
        s->in_off = 0;
    } else {
        acknowledge(s); /* part of a command */
    }
    if (s->out.n == 0)
        buf_release(&s->out);
    if (s->queue.n == 0)
        buf_release(&s->queue);
    if (s->mode == STREAM_TLS)
        stream_tls_pump(s);
    if ((s->is_unseen && s->in.n > s->in_off) || s->is_at_eof || err_is_set(&s->failure))
        stream_arrived(s);
    stream_read_on(s);
}

void stream_idle_stop(struct stream *s)
{
    CHECK(s, STREAM_MAGIC);
    s->on_ready = NULL;
    loop_task_cancel(&s->ready_task);
}

bool stream_at_end(const struct stream *s)
{
    CHECK(s, STREAM_MAGIC);
    return s->is_at_eof || err_is_set(&s->failure);
}

/* --- life --- */

/* The three swap their memory, so all have the same. */
void stream_set_caps(struct stream *s)
{
    s->out.cap = s->queue.cap = s->wire.cap = s->opts.output_high * 2 + OUTPUT_SLACK;
}

struct stream *stream_new(int family, const struct stream_opts *opts, struct err *err)
{
    struct stream *s = xnew(struct stream);
    s->magic = STREAM_MAGIC;
    if (opts)
        s->opts = *opts;
    if (!s->opts.input_max)
        s->opts.input_max = INPUT_MAX_DEFAULT;
    if (!s->opts.output_high)
        s->opts.output_high = OUTPUT_HIGH_DEFAULT;
    /* Caps are backstops here: reading and writing stop at their marks before. */
    buf_init(&s->in, INPUT_CAP);
    buf_init(&s->late, INPUT_CAP);
    buf_init(&s->cipher, 4 * READ_BUFFER);
    stream_set_caps(s);
    int r = family == AF_UNIX ? uv_pipe_init(fiber_loop(), &s->pipe, 0) : uv_tcp_init(fiber_loop(), &s->tcp);
    if (r != 0) {
        free(s);
        (void)err_set(err, ERR_UNAVAILABLE, "no socket: %s", uv_strerror(r));
        return NULL;
    }
    s->handle.data = s;
    return s;
}

static void learn(struct net_addr *a, int fd, int (*get)(int, struct sockaddr *restrict, socklen_t *restrict))
{
    a->len = sizeof(a->un);
    if (get(fd, &a->sa, &a->len) != 0)
        a->len = 0;
    net_addr_unmap(a);
}

void stream_opened(struct stream *s)
{
    int fd;
    if (uv_fileno(&s->handle, &fd) != 0)
        return;
    learn(&s->wire_peer, fd, getpeername);
    learn(&s->local, fd, getsockname);
    if (net_addr_is_unix(&s->local))
        s->wire_peer = s->local;
    s->peer = s->wire_peer;
    if (s->handle.type == UV_TCP)
        (void)uv_tcp_nodelay(&s->tcp, 1); /* we gather what belongs together ourselves */
}

struct stream *stream_from_fd(int fd, const struct stream_opts *opts, struct err *err)
{
    struct net_addr a = {.len = sizeof(a.un)};
    if (getsockname(fd, &a.sa, &a.len) != 0) {
        (void)err_set(err, ERR_INVALID, "descriptor %d is no socket", fd);
        return NULL;
    }
    struct stream *s = stream_new(a.sa.sa_family, opts, err);
    if (!s)
        return NULL;
    int r = a.sa.sa_family == AF_UNIX ? uv_pipe_open(&s->pipe, fd) : uv_tcp_open(&s->tcp, fd);
    if (r != 0) {
        (void)err_set(err, ERR_UNAVAILABLE, "descriptor %d: %s", fd, uv_strerror(r));
        stream_abort(s);
        return NULL;
    }
    stream_opened(s);
    return s;
}

static void on_connect(uv_connect_t *req, int status)
{
    struct stream *s = req->data;
    if (status != 0 && !err_is_set(&s->failure))
        (void)err_set(&s->failure, status == UV_ETIMEDOUT ? ERR_TIMEOUT : ERR_UNAVAILABLE, "%s", uv_strerror(status));
    s->is_writing = false;
    if (s->writer)
        fiber_wake(s->writer);
}

struct stream *stream_connect(const struct net_addr *addr, const struct net_addr *local, const struct stream_opts *opts,
                              struct err *err)
{
    char text[NET_ADDR_TEXT_MAX];
    if (addr->len == 0) {
        (void)err_set(err, ERR_INVALID, "no address to connect to");
        return NULL;
    }
    struct stream *s = stream_new(addr->sa.sa_family, opts, err);
    if (!s)
        return NULL;
    s->connect_req.data = s;
    int r = 0;
    if (net_addr_is_unix(addr))
        uv_pipe_connect(&s->connect_req, &s->pipe, addr->un.sun_path, on_connect);
    else if (!local || !local->len || (r = uv_tcp_bind(&s->tcp, &local->sa, 0)) == 0)
        r = uv_tcp_connect(&s->connect_req, &s->tcp, &addr->sa, on_connect);
    if (r != 0) {
        (void)err_set(err, ERR_UNAVAILABLE, "connect to %s: %s", net_addr_format(addr, text).p, uv_strerror(r));
        stream_abort(s);
        return NULL;
    }
    s->is_writing = true; /* the stream stays until on_connect has run */
    while (s->is_writing && stream_wait(s, &s->writer, err))
        ;
    if (!err_is_set(err) && err_is_set(&s->failure))
        *err = s->failure;
    if (err_is_set(err)) {
        (void)err_prefix(err, "connect to %s", net_addr_format(addr, text).p);
        stream_abort(s);
        return NULL;
    }
    stream_opened(s);
    return s;
}

static void on_closed(uv_handle_t *h)
{
    struct stream *s = h->data;
    if (s->on_gone)
        s->on_gone(s->gone_arg);
    stream_tls_done(s);
    buf_done(&s->in);
    buf_done(&s->late);
    buf_done(&s->cipher);
    buf_done(&s->out);
    buf_done(&s->queue);
    buf_done(&s->wire);
    s->magic = 0;
    free(s);
}

static void close_now(struct stream *s)
{
    if (s->is_uv_closed)
        return;
    s->is_uv_closed = true;
    fiber_timer_stop(&s->linger);
    loop_task_cancel(&s->ready_task);
    loop_task_cancel(&s->flush_task);
    uv_close(&s->handle, on_closed); /* its callback comes after those of all requests */
}

static void on_linger_over(void *arg)
{
    close_now(arg);
}

static void on_shutdown(uv_shutdown_t *req, int status)
{
    struct stream *s = req->data;
    if (status != 0 && status != UV_ECANCELED)
        close_now(s);
}

/*
 * First the output goes out, then our side is closed, then we wait for the peer's end: a close with unread input would
 * make the kernel send a reset, which can destroy our last bytes at the peer. Comes back here from after_output.
 */
void stream_close(struct stream *s)
{
    if (!s)
        return;
    CHECK(s, STREAM_MAGIC);
    assert(!s->reader && !s->writer);
    if (!s->is_closing) {
        s->is_closing = true;
        s->on_ready = NULL;
        loop_task_cancel(&s->ready_task);
        loop_task_cancel(&s->flush_task);
        if (!err_is_set(&s->failure)) {
            stream_send(s);
            stream_tls_goodbye(s);
            stream_send(s);
        }
        fiber_timer_start(&s->linger, LINGER_MS, on_linger_over, s);
    }
    if (s->is_uv_closed || (s->is_writing && !err_is_set(&s->failure)))
        return;
    if (err_is_set(&s->failure) || s->is_at_eof) {
        close_now(s);
        return;
    }
    if (uv_is_writable(&s->uv)) {
        s->shutdown_req.data = s;
        if (uv_shutdown(&s->shutdown_req, &s->uv, on_shutdown) != 0) {
            close_now(s);
            return;
        }
    }
    stream_read_on(s);
}

void stream_abort(struct stream *s)
{
    if (!s)
        return;
    CHECK(s, STREAM_MAGIC);
    assert(!s->reader && !s->writer);
    s->is_closing = true;
    s->on_ready = NULL;
    close_now(s);
}

/* --- facts --- */

const struct net_addr *stream_peer(const struct stream *s)
{
    return &s->peer;
}
const struct net_addr *stream_local(const struct stream *s)
{
    return &s->local;
}
const struct net_addr *stream_wire_peer(const struct stream *s)
{
    return &s->wire_peer;
}
bool stream_peer_user(const struct stream *s, uint32_t *uid)
{
    int fd;
    struct ucred peer;
    socklen_t n = sizeof(peer);
    if (s->handle.type != UV_NAMED_PIPE || uv_fileno(&s->handle, &fd) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) != 0)
        return false;
    *uid = peer.uid;
    return true;
}
uint64_t stream_bytes_in(const struct stream *s)
{
    return s->bytes_in;
}
uint64_t stream_bytes_out(const struct stream *s)
{
    return s->bytes_out;
}

void stream_keepalive(struct stream *s, unsigned seconds)
{
    if (s->handle.type == UV_TCP)
        (void)uv_tcp_keepalive(&s->tcp, seconds > 0, seconds);
}

void stream_set_peer(struct stream *s, const struct net_addr *peer, const struct net_addr *local)
{
    s->peer = *peer;
    s->local = *local;
}
