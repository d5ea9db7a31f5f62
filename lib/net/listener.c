#include "net/listener.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/metrics.h"
#include "net/cap.h"
#include "net/port_holder.h"
#include "net/stream_internal.h"
#include "net/tls_internal.h"

#define LISTENER_MAGIC 0x115e0001u
#define BACKLOG 4096
#define PROXY_INPUT_MAX (8u * 1024)
#define HANDSHAKE_TIMEOUT_MS 30000
/* handshakes of one listener at once; what is established must still get a fiber, and so must the others */
#define PREPARING_MAX 256u

struct listener {
    uint32_t magic;
    struct listener_opts opts;
    struct net_cidr *proxy_from; /* owned copies of what opts points to */
    char *name, *refuse_text;
    struct net_addr addr;
    unsigned n_connections, n_preparing;
    struct map per_ip; /* limit key → struct ip_count */
    bool is_stopped;   /* accepts no more */
    bool is_freed;     /* goes with its last connection */
    bool is_handle_open;
    union {
        uv_handle_t handle;
        uv_stream_t uv;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    };
};

struct ip_count {
    unsigned n;
};

/* One accepted connection's place; goes with the stream. */
struct place {
    struct listener *listener;
    struct ip_count *ip; /* NULL = not counted */
    char key[NET_ADDR_TEXT_MAX];
};

/* --- counting --- */

static void free_if_done(struct listener *l)
{
    if (!l->is_freed || l->n_connections > 0 || l->n_preparing > 0 || l->is_handle_open)
        return;
    assert(l->per_ip.n == 0);
    map_done(&l->per_ip);
    tls_server_free(l->opts.implicit_tls);
    free(l->proxy_from);
    free(l->name);
    free(l->refuse_text);
    l->magic = 0;
    free(l);
}

static void leave_ip(struct place *p)
{
    if (!p->ip || --p->ip->n > 0)
        return;
    free(map_remove(&p->listener->per_ip, str_c(p->key)));
    p->ip = NULL;
}

static void on_gone(void *arg)
{
    struct place *p = arg;
    struct listener *l = p->listener;
    CHECK(l, LISTENER_MAGIC);
    leave_ip(p);
    free(p);
    l->n_connections--;
    metric_set_label(M_CONNECTIONS, l->name, l->n_connections);
    free_if_done(l);
}

/* Count the stream by its peer's address (loopback and Unix sockets are not counted). False over the limit. */
static bool enter_ip(struct place *p, const struct stream *s)
{
    struct listener *l = p->listener;
    if (l->opts.max_per_ip == 0 || net_addr_is_loopback(stream_peer(s)))
        return true;
    str key = net_addr_limit_key(stream_peer(s), p->key);
    struct ip_count *c = map_get(&l->per_ip, key);
    if (c && c->n >= l->opts.max_per_ip)
        return false;
    if (!c) {
        c = xnew(struct ip_count);
        (void)map_put(&l->per_ip, key, c);
    }
    c->n++;
    p->ip = c;
    return true;
}

static void refuse(struct listener *l, struct stream *s, const char *reason)
{
    metric_inc_label(M_CONNECTIONS_REFUSED, reason);
    if (l->refuse_text && !l->opts.implicit_tls && s->mode == STREAM_PLAIN) {
        uv_buf_t b = uv_buf_init(l->refuse_text, (unsigned)strlen(l->refuse_text));
        (void)uv_try_write(&s->uv, &b, 1); /* as much as goes at once: a refused peer is not waited for */
    }
    stream_abort(s);
}

/* --- what comes before the protocol: PROXY header, TLS --- */

static bool is_proxy(const struct listener *l, const struct stream *s)
{
    for (size_t i = 0; i < l->opts.n_proxy_from; i++)
        if (net_cidr_contains(&l->proxy_from[i], stream_wire_peer(s)))
            return true;
    return l->opts.n_proxy_from > 0 && net_addr_is_unix(stream_wire_peer(s));
}

FIBER static bool read_proxy_header(struct stream *s, struct err *err)
{
    struct proxy_header h;
    for (;;) {
        str in = stream_input(s);
        enum proxy_result r = str_empty(in) ? PROXY_MORE : proxy_parse(in, &h);
        if (r == PROXY_OK)
            break;
        if (r == PROXY_BAD || in.n > PROXY_INPUT_MAX)
            return err_set(err, ERR_INVALID, "no valid PROXY header");
        if (!stream_fill(s, err))
            return err_prefix(err, "PROXY header");
    }
    stream_consume(s, h.length);
    if (!h.is_local)
        stream_set_peer(s, &h.source, &h.destination);
    return true;
}

/* TLS with the plain bytes that came behind the PROXY header: they are the peer's hello. */
FIBER static bool start_tls(struct listener *l, struct stream *s, struct err *err)
{
    str early = stream_input(s);
    buf_add(&s->cipher, early);
    stream_consume(s, early.n);
    return stream_start_tls_server(s, l->opts.implicit_tls, NULL, err);
}

/*
 * A connection before the accept callback. It is idle until its PROXY header or TLS hello is whole, so that a peer that
 * connects and says nothing holds no fiber; the fiber has what is left of the time.
 */
struct preparation {
    struct listener *listener;
    struct stream *stream;
    struct place *place;
    struct fiber_timer timer; /* while idle */
    int64_t deadline_mono_ms;
};

FIBER static void prepare_stream(const struct preparation *p)
{
    struct listener *l = p->listener;
    struct stream *s = p->stream;
    struct err err = ERR_INIT;
    if (is_proxy(l, s)) {
        if (!read_proxy_header(s, &err)) {
            metric_inc_label(M_CONNECTIONS_REFUSED, "proxy");
            stream_abort(s);
            return;
        }
        if (!enter_ip(p->place, s)) { /* now it is known whom to count */
            refuse(l, s, "per_ip");
            return;
        }
    }
    if (l->opts.implicit_tls && !start_tls(l, s, &err)) {
        char ip[NET_ADDR_TEXT_MAX];
        log_debug("listener.tls", KV_Z("listener", l->name), KV_STR("peer", net_ip_format(stream_peer(s), ip)),
                  KV_ERR(&err));
        stream_close(s);
        return;
    }
    if (l->is_freed) { /* meanwhile: whoever would take it over may be gone */
        metric_inc_label(M_CONNECTIONS_REFUSED, "stopped");
        stream_abort(s);
        return;
    }
    if (!str_empty(stream_input(s))) /* a command in the segment of the PROXY header: nobody has looked at it yet */
        s->is_unseen = true;
    l->opts.accept(l->opts.arg, s);
}

FIBER static void prepare(void *arg)
{
    struct preparation p = *(struct preparation *)arg;
    free(arg);
    prepare_stream(&p);
    struct listener *l = p.listener; /* its connection may be over already */
    l->n_preparing--;
    free_if_done(l);
}

/* Whether what the peer says first is here as a whole (or can never be). */
static bool is_opening_whole(const struct listener *l, struct stream *s)
{
    str in = stream_input(s);
    if (stream_at_end(s) || in.n > PROXY_INPUT_MAX)
        return true;
    if (str_empty(in))
        return false;
    struct proxy_header h;
    if (is_proxy(l, s))
        return proxy_parse(in, &h) != PROXY_MORE;
    /* RFC 8446 5.1: content type 22, version, length of the record with the hello. */
    const unsigned char *p = (const unsigned char *)in.p;
    return p[0] != 22 || (in.n >= 5 && in.n >= 5 + ((size_t)p[3] << 8 | p[4]));
}

static void give_up(struct preparation *p, const char *reason)
{
    fiber_timer_stop(&p->timer);
    metric_inc_label(M_CONNECTIONS_REFUSED, reason);
    stream_abort(p->stream);
    free(p);
}

static void on_opening_late(void *arg)
{
    give_up(arg, "timeout");
}

static void on_opening(void *arg)
{
    struct preparation *p = arg;
    struct err err = ERR_INIT;
    if (!is_opening_whole(p->listener, p->stream)) {
        stream_idle(p->stream, on_opening, p);
        return;
    }
    fiber_timer_stop(&p->timer);
    struct listener *l = p->listener;
    if (l->n_preparing >= PREPARING_MAX) {
        IGNORE(cap_reached(l->name, "handshakes", PREPARING_MAX));
        give_up(p, "handshakes");
    } else if (fiber_spawn("accept", prepare, p, p->deadline_mono_ms, &err)) {
        l->n_preparing++;
    } else {
        give_up(p, "fibers");
    }
}

static void take(struct listener *l, struct stream *s)
{
    struct place *place = xnew(struct place);
    place->listener = l;
    s->on_gone = on_gone;
    s->gone_arg = place;
    l->n_connections++;
    metric_set_label(M_CONNECTIONS, l->name, l->n_connections);
    metric_inc_label(M_CONNECTIONS_TOTAL, l->name);
    bool has_proxy = is_proxy(l, s);
    if (l->opts.max_connections && l->n_connections > l->opts.max_connections) {
        IGNORE(cap_reached(l->name, "connections", l->opts.max_connections));
        refuse(l, s, "connections");
        return;
    }
    if (!has_proxy && !enter_ip(place, s)) {
        refuse(l, s, "per_ip");
        return;
    }
    if (!has_proxy && !l->opts.implicit_tls) {
        l->opts.accept(l->opts.arg, s);
        return;
    }
    unsigned ms = l->opts.handshake_timeout_ms ? l->opts.handshake_timeout_ms : HANDSHAKE_TIMEOUT_MS;
    struct preparation *p = xnew(struct preparation);
    *p = (struct preparation){.listener = l, .stream = s, .place = place, .deadline_mono_ms = clock_mono_ms() + ms};
    fiber_timer_start(&p->timer, ms, on_opening_late, p);
    stream_idle(s, on_opening, p);
}

static void on_connection(uv_stream_t *h, int status)
{
    struct listener *l = h->data;
    struct err err = ERR_INIT;
    if (status != 0) {
        metric_inc_label(M_CONNECTIONS_REFUSED, "accept");
        return;
    }
    struct stream *s = stream_new(l->handle.type == UV_NAMED_PIPE ? AF_UNIX : AF_INET, &l->opts.stream, &err);
    if (!s)
        return;
    if (uv_accept(h, &s->uv) != 0) {
        stream_abort(s);
        return;
    }
    stream_opened(s);
    take(l, s);
}

/* --- life --- */

/* A socket file that nobody listens on is left over from a process that was killed. */
static void remove_stale_socket(const struct net_addr *a)
{
    struct stat st;
    if (stat(a->un.sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (connect(fd, &a->sa, a->len) != 0 && errno == ECONNREFUSED)
        (void)unlink(a->un.sun_path); /* if it cannot be removed, bind says so */
    (void)close(fd);
}

/* "*" where there is no IPv6. */
static bool fall_back_to_ipv4(struct net_addr *a)
{
    if (a->sa.sa_family != AF_INET6 || !IN6_IS_ADDR_UNSPECIFIED(&a->in6.sin6_addr))
        return false;
    struct net_addr any = {.len = sizeof(struct sockaddr_in)};
    any.in4.sin_family = AF_INET;
    net_addr_set_port(&any, net_addr_port(a));
    *a = any;
    return true;
}

static int open_handle(struct listener *l)
{
    int r;
    if (net_addr_is_unix(&l->addr)) {
        if ((r = uv_pipe_init(fiber_loop(), &l->pipe, 0)) != 0)
            return r;
        l->is_handle_open = true;
        if (l->opts.inherited_fd > 0)
            return uv_pipe_open(&l->pipe, l->opts.inherited_fd);
        remove_stale_socket(&l->addr);
        if ((r = uv_pipe_bind(&l->pipe, l->addr.un.sun_path)) != 0)
            return r;
        /* Its mode is its lock: only this user's processes may call. */
        return chmod(l->addr.un.sun_path, 0600) == 0 ? 0 : uv_translate_sys_error(errno);
    }
    if ((r = uv_tcp_init(fiber_loop(), &l->tcp)) != 0)
        return r;
    l->is_handle_open = true;
    if (l->opts.inherited_fd > 0)
        return uv_tcp_open(&l->tcp, l->opts.inherited_fd);
    r = uv_tcp_bind(&l->tcp, &l->addr.sa, 0);
    if (r == UV_EAFNOSUPPORT && fall_back_to_ipv4(&l->addr))
        r = uv_tcp_bind(&l->tcp, &l->addr.sa, 0);
    return r;
}

/* libuv says "not allowed" of a folder that is missing, and "in use" of a path where something else is. */
static const char *what_to_do_unix(const struct sockaddr_un *un, int r)
{
    struct stat st;
    str path = str_c(un->sun_path);
    ptrdiff_t slash = str_rfind(path, '/');
    CLEANUP(xfree_char) char *folder =
        slash > 0 ? str_dup(str_slice(path, 0, (size_t)slash)) : xstrdup(slash < 0 ? "." : "/");
    if (r == UV_EADDRINUSE)
        return stat(un->sun_path, &st) == 0 && !S_ISSOCK(st.st_mode)
                   ? "a file that is no socket is there: remove it, or choose another path"
                   : "another program listens there: stop it, or choose another path";
    if (r != UV_EACCES && r != UV_ENOTDIR)
        return uv_strerror(r);
    return stat(folder, &st) != 0 || !S_ISDIR(st.st_mode)
               ? "its folder cannot be reached: make it, or choose another path"
               : "its folder is not writable: run as its owner, or choose another path";
}

/* The whole sentence; in a. */
static str what_to_do(const struct net_addr *addr, int r, struct arena *a)
{
    if (net_addr_is_unix(addr))
        return str_c(what_to_do_unix(&addr->un, r));
    str holder;
    switch (r) {
    case UV_EADDRINUSE:
        holder = port_holder(addr, a);
        return arena_printf(a, "%.*s listens there: stop it, or choose another port",
                            STR_ARG(holder.n ? holder : S("another program")));
    case UV_EACCES:
        return S("not allowed: ports below 1024 need root or CAP_NET_BIND_SERVICE");
    case UV_EADDRNOTAVAIL:
        return S("this machine does not have that address");
    default:
        return str_c(uv_strerror(r));
    }
}

static bool bind_to(int fd, const struct net_addr *a)
{
    int on = 1, off = 0;
    if (net_addr_is_unix(a)) {
        remove_stale_socket(a);
        return bind(fd, &a->sa, a->len) == 0 && chmod(a->un.sun_path, 0600) == 0;
    }
    return setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
           (a->sa.sa_family != AF_INET6 || setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) == 0) &&
           bind(fd, &a->sa, a->len) == 0;
}

int listener_bind(const struct net_addr *addr, struct err *err)
{
    struct net_addr a = *addr;
    char text[NET_ADDR_TEXT_MAX];
    int fd = socket(a.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 && errno == EAFNOSUPPORT && fall_back_to_ipv4(&a))
        fd = socket(a.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind_to(fd, &a) && listen(fd, BACKLOG) == 0)
        return fd;
    int r = uv_translate_sys_error(errno);
    ARENA(scratch, 4096);
    (void)err_set(err, ERR_UNAVAILABLE, "%s: %.*s", net_addr_format(&a, text).p, STR_ARG(what_to_do(&a, r, &scratch)));
    if (fd >= 0)
        (void)close(fd);
    return -1;
}

static void on_handle_closed(uv_handle_t *h)
{
    struct listener *l = h->data;
    l->is_handle_open = false;
    free_if_done(l);
}

/* Where the socket really is: it may have been given to us, or asked for any free port. */
static void take_address(struct listener *l, int fd)
{
    struct net_addr a = {.len = sizeof(a.un)};
    if (getsockname(fd, &a.sa, &a.len) == 0)
        l->addr = a;
}

struct listener *listener_start(const struct listener_opts *opts, struct err *err)
{
    assert(opts->accept && opts->name);
    struct listener *l = xnew(struct listener);
    l->magic = LISTENER_MAGIC;
    l->opts = *opts;
    l->name = xstrdup(opts->name);
    l->addr = opts->addr;
    if (opts->inherited_fd > 0)
        take_address(l, opts->inherited_fd);
    if (opts->refuse_text.n)
        l->refuse_text = str_dup(opts->refuse_text);
    if (opts->n_proxy_from) {
        l->proxy_from = xcalloc(opts->n_proxy_from, sizeof(*l->proxy_from));
        memcpy(l->proxy_from, opts->proxy_from, opts->n_proxy_from * sizeof(*l->proxy_from));
    }
    if (opts->implicit_tls)
        tls_server_ref(opts->implicit_tls);
    map_init(&l->per_ip);
    int r = open_handle(l);
    l->handle.data = l;
    if (r == 0)
        r = uv_listen(&l->uv, BACKLOG, on_connection);
    if (r != 0) {
        char text[NET_ADDR_TEXT_MAX];
        ARENA(scratch, 4096);
        (void)err_set(err, ERR_UNAVAILABLE, "listener '%s' on %s: %.*s", l->name, net_addr_format(&l->addr, text).p,
                      STR_ARG(what_to_do(&l->addr, r, &scratch)));
        listener_free(l);
        return NULL;
    }
    if (!net_addr_is_unix(&l->addr))
        take_address(l, listener_fd(l));
    return l;
}

void listener_stop(struct listener *l)
{
    CHECK(l, LISTENER_MAGIC);
    if (l->is_stopped)
        return;
    l->is_stopped = true;
    if (l->is_handle_open)
        uv_close(&l->handle, on_handle_closed); /* of a Unix socket: removes its file */
}

void listener_free(struct listener *l)
{
    if (!l)
        return;
    listener_stop(l);
    l->is_freed = true;
    free_if_done(l);
}

const struct net_addr *listener_addr(const struct listener *l)
{
    CHECK(l, LISTENER_MAGIC);
    return &l->addr;
}

int listener_fd(const struct listener *l)
{
    CHECK(l, LISTENER_MAGIC);
    int fd = -1;
    (void)uv_fileno(&l->handle, &fd);
    return fd;
}

unsigned listener_connections(const struct listener *l)
{
    CHECK(l, LISTENER_MAGIC);
    return l->n_connections;
}
