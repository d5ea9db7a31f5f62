/*
 * A session's life. The listener gives a stream; the greeting is written from the loop. From then on the session is
 * either idle (the stream watches for bytes, one timer runs) or has one fiber, which runs the commands that have
 * arrived and lets go. Only the fiber, or the loop while there is none, frees the session.
 */
#include "frontend/imap/session.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/metrics.h"
#include "frontend/imap/commands.h"
#include "frontend/imap/recent.h"
#include "frontend/imap/view.h"
#include "net/cap.h"

#define SERVER_MAGIC 0x696d7376u
#define KEEPALIVE_S 120u /* below the idle limits of load balancers and of mobile networks */
#define AGAIN_MS_MIN 1000u
#define AGAIN_MS_MAX 60000u
#define LINE_BYTES_NEW ((size_t)16 * 1024) /* before the login */
#define NOTICE_MS 5000                     /* to write a last word */

static const struct {
    const char *name, *text;
} ends[] = {{"", NULL},
#define IMAP_END_(id, name, text) {name, text},
            IMAP_ENDS(IMAP_END_)
#undef IMAP_END_
};

static const struct imap_limits default_limits = {
    .line_bytes = 512 * 1024,
    .command_bytes = 512 * 1024,
    .message_bytes = 50ull << 20,
    .bad_commands = 20,
    .auth_failures = 5,
    .auth_ms = 60 * 1000,
    .idle_ms = 30 * 60 * 1000,
    .command_ms = 5 * 60 * 1000,
    .transfer_ms = 60 * 60 * 1000,
    .min_rate = 500,
    .sessions = 100000,
};

/* --- server --- */

struct imap_server *imap_server_new(const struct imap_opts *opts)
{
    struct imap_server *server = xnew(struct imap_server);
    server->magic = SERVER_MAGIC;
    server->opts = *opts;
    server->hostname = str_dup(opts->hostname);
    struct imap_limits *l = &server->opts.limits;
#define DEFAULT(field)                                                                                                 \
    if (!l->field)                                                                                                     \
    l->field = default_limits.field
    DEFAULT(line_bytes);
    DEFAULT(command_bytes);
    DEFAULT(message_bytes);
    DEFAULT(bad_commands);
    DEFAULT(auth_failures);
    DEFAULT(auth_ms);
    DEFAULT(idle_ms);
    DEFAULT(command_ms);
    DEFAULT(transfer_ms);
    DEFAULT(min_rate);
    DEFAULT(sessions);
#undef DEFAULT
    list_init(&server->sessions);
    fiber_cond_init(&server->ended);
    if (opts->holder.n)
        snprintf(server->holder, sizeof(server->holder), "%.*s", STR_ARG(opts->holder));
    else
        snprintf(server->holder, sizeof(server->holder), "imap-%016llx", (unsigned long long)random_u64());
    server->watch = watch_new(opts->store, str_c(server->holder));
    server->leases = leases_new(server->opts.auth, LIMIT_IMAP_SESSIONS_ACCOUNT, str_c(server->holder));
    server->recents = imap_recents_new();
    return server;
}

unsigned imap_server_sessions(const struct imap_server *server)
{
    return server->n_sessions;
}

FIBER void imap_server_free(struct imap_server *server)
{
    if (!server)
        return;
    CHECK(server, SERVER_MAGIC);
    assert(server->n_sessions == 0);
    leases_free(server->leases);
    watch_free(server->watch);
    imap_recents_free(server->recents);
    xfree(server->hostname);
    xfree(server);
}

/* --- output --- */

FIBER bool imap_write(struct imap_session *s, str bytes, struct err *err)
{
    if (stream_write(s->stream, bytes, err))
        return true;
    imap_end(s, err->kind == ERR_TIMEOUT ? IMAP_END_TIMEOUT : IMAP_END_BROKEN);
    return false;
}

FIBER bool imap_write_buf(struct imap_session *s, const struct buf *b, struct err *err)
{
    if (buf_ok(b))
        return imap_write(s, buf_str(b), err);
    log_error("imap.reply_too_long", KV_I64("bytes_max", b->cap));
    metric_inc_label(M_IMAP_REFUSED, "reply");
    imap_end(s, IMAP_END_BROKEN);
    return err_set(err, ERR_LIMIT, "a reply is too long");
}

FIBER bool imap_printf(struct imap_session *s, struct err *err, const char *fmt, ...)
{
    BUF(line, 64 * 1024);
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(&line, fmt, ap);
    va_end(ap);
    return imap_write_buf(s, &line, err);
}

bool imap_may_login(const struct imap_session *s)
{
    switch (s->server->opts.plain) {
    case IMAP_PLAIN_ALWAYS:
        return true;
    case IMAP_PLAIN_LOOPBACK:
        return stream_has_tls(s->stream) || net_addr_is_loopback(stream_peer(s->stream));
    case IMAP_PLAIN_NEVER:
        break;
    }
    return stream_has_tls(s->stream);
}

size_t imap_line_max(const struct imap_session *s)
{
    size_t max = s->server->opts.limits.line_bytes;
    return s->state == IMAP_NEW ? MIN(max, LINE_BYTES_NEW) : max;
}

void imap_add_capabilities(const struct imap_session *s, struct buf *out)
{
    buf_add(out, S("IMAP4rev1 LITERAL+ ID ENABLE SASL-IR"));
    if (s->state == IMAP_NEW) {
        if (s->server->opts.tls && !stream_has_tls(s->stream))
            buf_add(out, S(" STARTTLS"));
        buf_add(out, imap_may_login(s) ? S(" AUTH=PLAIN") : S(" LOGINDISABLED"));
        return;
    }
    buf_add(out, S(" IDLE NAMESPACE CHILDREN UNSELECT UIDPLUS MOVE CONDSTORE ESEARCH SPECIAL-USE CREATE-SPECIAL-USE"
                   " LIST-EXTENDED LIST-STATUS STATUS=SIZE PREVIEW"));
    buf_printf(out, " APPENDLIMIT=%llu", (unsigned long long)s->server->opts.limits.message_bytes);
}

FIBER bool imap_enable_condstore(struct imap_session *s, struct err *err)
{
    if (s->has_condstore)
        return true;
    s->has_condstore = true;
    return !s->view || imap_printf(s, err, "* OK [HIGHESTMODSEQ %llu] CONDSTORE is on.\r\n",
                                   (unsigned long long)MAX(s->view->modseq, (uint64_t)1));
}

/* --- the end --- */

void imap_end(struct imap_session *s, enum imap_end why)
{
    if (s->end == IMAP_END_NONE)
        s->end = why;
}

static void log_end(const struct imap_session *s)
{
    char text[NET_ADDR_TEXT_MAX];
    log_info("imap.session", KV_STR("login", str_c(s->login)),
             KV_STR("peer", net_ip_format(stream_peer(s->stream), text)), KV_STR("tls", stream_tls_version(s->stream)),
             KV_Z("reason", ends[s->end].name), KV_I64("ms", clock_mono_ms() - s->began_mono_ms),
             KV_I64("commands", s->commands), KV_I64("in", stream_bytes_in(s->stream)),
             KV_I64("out", stream_bytes_out(s->stream)));
}

/* From its fiber's last step, or from the loop when it has none. */
static void finish(struct imap_session *s)
{
    struct imap_server *server = s->server;
    fiber_timer_stop(&s->timer);
    fiber_timer_stop(&s->again);
    if (ends[s->end].text) {
        BUF(bye, 256);
        buf_printf(&bye, "* BYE %s\r\n", ends[s->end].text);
        (void)stream_try_write(s->stream, buf_str(&bye)); /* the peer may be gone */
    }
    log_end(s);
    metric_inc_label(M_IMAP_ENDED, ends[s->end].name);
    metric_add(M_IMAP_SESSIONS, -1);
    imap_view_close(s);
    watch_remove(server->watch, &s->watch);
    logins_remove(server->opts.logins, &s->login_check);
    guest_leave(&s->guest);
    if (s->has_lease)
        leases_release(s->server->leases, s->account.account_id);
    if (s->end == IMAP_END_BROKEN)
        stream_abort(s->stream);
    else
        stream_close(s->stream);
    list_remove(&s->node);
    server->n_sessions--;
    fiber_cond_broadcast(&server->ended);
    if (server->drainer)
        fiber_wake(server->drainer);
    xfree(s->idle_tag);
    xfree(s->login);
    s->magic = 0;
    xfree(s);
}

/* --- idle --- */

static bool is_idle(const struct imap_session *s)
{
    return !s->fiber && !s->is_starting;
}

static void finish_idle(struct imap_session *s, enum imap_end why)
{
    stream_idle_stop(s->stream);
    imap_end(s, why);
    finish(s);
}

static void on_silence(void *arg)
{
    struct imap_session *s = arg;
    CHECK(s, IMAP_SESSION_MAGIC);
    if (!is_idle(s))
        return;
    enum imap_end why = s->state == IMAP_NEW ? IMAP_END_AUTH_TIMEOUT : IMAP_END_IDLE;
    metric_inc_label(M_IMAP_REFUSED, ends[why].name);
    finish_idle(s, why);
}

void imap_login_ended(void *arg)
{
    struct imap_session *s = arg;
    CHECK(s, IMAP_SESSION_MAGIC);
    if (is_idle(s)) {
        finish_idle(s, IMAP_END_LOGIN);
        return;
    }
    imap_end(s, IMAP_END_LOGIN);
    if (s->fiber)
        fiber_cancel(s->fiber);
}

static bool has_line(const struct imap_session *s)
{
    str input = stream_input(s->stream);
    return input.n && memchr(input.p, '\n', input.n);
}

/* More input than a line may have, and no end of it. */
static bool is_over_line(const struct imap_session *s)
{
    return stream_input(s->stream).n >= imap_line_max(s) && !has_line(s);
}

static void on_ready(void *arg);

static void go_idle(struct imap_session *s)
{
    const struct imap_limits *l = &s->server->opts.limits;
    int64_t ms = l->idle_ms;
    if (s->state == IMAP_NEW) /* the whole of it, not each wait */
        ms = MAX(s->began_mono_ms + l->auth_ms - clock_mono_ms(), (int64_t)1);
    fiber_timer_start(&s->timer, ms, on_silence, s);
    stream_idle(s->stream, on_ready, s);
}

static void on_ready(void *arg)
{
    struct imap_session *s = arg;
    CHECK(s, IMAP_SESSION_MAGIC);
    if (!has_line(s) && !is_over_line(s) && !stream_at_end(s->stream)) {
        stream_idle(s->stream, on_ready, s); /* part of a line: no reason for a fiber */
        return;
    }
    imap_wake(s);
}

/* --- running --- */

/* Run what has arrived. False: an end. */
FIBER static bool run_commands(struct imap_session *s)
{
    struct err err = ERR_INIT;
    if (s->idle_tag && s->is_dirty && !imap_push_updates(s, &err))
        return false;
    while (s->end == IMAP_END_NONE && has_line(s)) {
        if (!(s->idle_tag ? imap_end_idle(s, &err) : imap_run_command(s, &err)))
            return false;
        if (s->server->is_draining)
            imap_end(s, IMAP_END_DRAIN);
    }
    if (s->end == IMAP_END_NONE && is_over_line(s)) {
        metric_inc_label(M_IMAP_REFUSED, "line");
        imap_end(s, IMAP_END_LIMIT);
    }
    if (s->end == IMAP_END_NONE && stream_at_end(s->stream))
        imap_end(s, IMAP_END_CLIENT);
    FIBER_DEADLINE(s->server->opts.limits.command_ms);
    if (s->end != IMAP_END_BROKEN && !stream_flush(s->stream, &err))
        imap_end(s, err.kind == ERR_TIMEOUT ? IMAP_END_TIMEOUT : IMAP_END_BROKEN);
    return s->end == IMAP_END_NONE;
}

static bool must_push(const struct imap_session *s)
{
    return s->idle_tag && s->is_dirty;
}

static void on_again(void *arg)
{
    imap_wake_to_push(arg);
}

/* At a random moment around twice the time of before: what is away is not asked by all of its sessions at once, not
 * even when it comes back. */
static void push_later(struct imap_session *s)
{
    s->again_ms = MIN(MAX(s->again_ms * 2, AGAIN_MS_MIN), AGAIN_MS_MAX);
    fiber_timer_start(&s->again, s->again_ms / 2 + (int64_t)random_below(s->again_ms), on_again, s);
}

FIBER static void run(void *arg)
{
    struct imap_session *s = arg;
    CHECK(s, IMAP_SESSION_MAGIC);
    s->is_starting = false;
    s->fiber = fiber_self();
    fiber_context()->session_id = s->id;
    fiber_context()->account = str_c(s->login);
    bool goes_on = run_commands(s);
    s->fiber = NULL;
    fiber_context()->account = STR_NONE; /* it may be freed with the session */
    guest_leave(&s->guest);
    if (!goes_on) {
        imap_end(s, IMAP_END_BROKEN);
        finish(s);
        return;
    }
    if (!s->is_behind)
        s->again_ms = 0;
    if (has_line(s) || stream_at_end(s->stream) || (must_push(s) && !s->is_behind)) {
        imap_wake(s); /* it came while the last replies went out */
        return;
    }
    go_idle(s);
    if (must_push(s))
        push_later(s);
}

static bool start_fiber(struct imap_session *s)
{
    struct err err = ERR_INIT;
    if (s->state == IMAP_NEW && !guest_enter(s->server->opts.guests, GUEST_IMAP, &s->guest, stream_peer(s->stream))) {
        metric_inc_label(M_IMAP_REFUSED, "busy_address");
        return false;
    }
    if (fiber_spawn("imap", run, s, FIBER_NO_DEADLINE, &err))
        return true;
    metric_inc_label(M_IMAP_REFUSED, "fibers");
    return false;
}

static bool start(struct imap_session *s)
{
    fiber_timer_stop(&s->timer);
    fiber_timer_stop(&s->again);
    stream_idle_stop(s->stream);
    s->is_starting = start_fiber(s);
    return s->is_starting;
}

void imap_wake(struct imap_session *s)
{
    if (!is_idle(s) || start(s))
        return;
    imap_end(s, IMAP_END_BUSY);
    finish(s);
}

void imap_wake_to_push(struct imap_session *s)
{
    if (!is_idle(s) || list_in(&s->again.node) || start(s))
        return;
    go_idle(s);
    push_later(s);
}

/* --- accept --- */

static void turn_away(struct stream *stream, const char *text)
{
    metric_inc_label(M_IMAP_REFUSED, "sessions");
    (void)stream_try_write(stream, str_c(text)); /* a courtesy */
    stream_close(stream);
}

void imap_accept(void *arg, struct stream *stream)
{
    struct imap_server *server = arg;
    CHECK(server, SERVER_MAGIC);
    bool is_full = server->n_sessions >= server->opts.limits.sessions;
    if (is_full)
        IGNORE(cap_reached("imap", "sessions", server->opts.limits.sessions));
    if (server->is_draining || is_full) {
        turn_away(stream, "* BYE [UNAVAILABLE] Too busy, try again later.\r\n");
        return;
    }
    struct imap_session *s = xnew(struct imap_session);
    s->magic = IMAP_SESSION_MAGIC;
    s->server = server;
    s->id = random_u64() >> 1;
    s->stream = stream;
    s->state = IMAP_NEW;
    s->began_mono_ms = clock_mono_ms();
    thurn__account_ref__init(&s->account);
    list_push(&server->sessions, &s->node);
    server->n_sessions++;
    metric_add(M_IMAP_SESSIONS, 1);
    stream_keepalive(stream, KEEPALIVE_S);
    stream_set_input_max(stream, imap_line_max(s));
    BUF(greeting, 2048);
    buf_add(&greeting, S("* OK [CAPABILITY "));
    imap_add_capabilities(s, &greeting);
    buf_printf(&greeting, "] %s ready.\r\n", server->hostname);
    (void)stream_try_write(stream, buf_str(&greeting)); /* if not, the peer is gone and reading says so */
    go_idle(s);
}

/* --- drain --- */

/* One idle session after the other, spread over the window: clients come back at different times. */
FIBER static bool dismiss_idle(struct imap_server *server, unsigned window_ms, struct err *err)
{
    unsigned n = server->n_sessions;
    for (unsigned i = 0; i < n && !list_empty(&server->sessions); i++) {
        struct imap_session *s = LIST_ITEM(list_first(&server->sessions), struct imap_session, node);
        list_remove(&s->node);
        list_push(&server->sessions, &s->node);
        if (is_idle(s))
            finish_idle(s, IMAP_END_DRAIN);
        if (window_ms && !fiber_sleep_ms((int64_t)random_below((uint64_t)window_ms * 2 / n + 1), err))
            return false;
    }
    return true;
}

FIBER void imap_server_drain(struct imap_server *server, unsigned window_ms)
{
    CHECK(server, SERVER_MAGIC);
    struct err err = ERR_INIT;
    server->is_draining = true;
    bool in_time = dismiss_idle(server, window_ms, &err);
    while (in_time && server->n_sessions) {
        struct err none = ERR_INIT;
        in_time = dismiss_idle(server, 0, &none) && (!server->n_sessions || fiber_cond_wait(&server->ended, &none));
    }
    LIST_EACH(&server->sessions, n)
    {
        struct imap_session *s = LIST_ITEM(n, struct imap_session, node);
        imap_end(s, IMAP_END_DRAIN);
        if (s->fiber)
            fiber_cancel(s->fiber);
    }
    server->drainer = fiber_self();
    while (server->n_sessions) { /* those that were cancelled unwind by themselves, and use this memory until then */
        struct err none = ERR_INIT;
        (void)dismiss_idle(server, 0, &none);
        if (server->n_sessions)
            fiber_wait_uninterrupted();
    }
    server->drainer = NULL;
}
