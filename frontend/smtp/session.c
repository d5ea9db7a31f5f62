#include "frontend/smtp/session.h"

#include "frontend/smtp/command.h"
#include "net/cap.h"

#define SKIP_MAX ((size_t)1 << 20) /* of a line that is too long; then the session ends */

static const char *const kind_names[SMTP_KINDS_] = {"mx", "submission", "lmtp"};
static const char *const close_names[SMTP_CLOSES_] = {
    [SMTP_OPEN] = "open",
#define CLOSE(id, text) [SMTP_CLOSE_##id] = text,
#include "frontend/smtp/close.def"
#undef CLOSE
};

/* --- replies --- */

void smtp_lost(struct smtp_session *s, const struct err *err)
{
    if (s->close)
        return;
    s->close = err->kind == ERR_TIMEOUT     ? SMTP_CLOSE_TIMEOUT
               : err->kind == ERR_CANCELLED ? SMTP_CLOSE_DRAIN
                                            : SMTP_CLOSE_PEER;
}

void smtp_say_text(struct smtp_session *s, str text)
{
    struct err err = ERR_INIT;
    FIBER_DEADLINE(smtp_limits(s)->command_timeout_ms); /* the peer may read nothing */
    if (!stream_write(s->stream, text, &err))
        smtp_lost(s, &err);
}

void smtp_say(struct smtp_session *s, enum smtp_reply r)
{
    smtp_say_text(s, smtp_reply_line(r));
}

void smtp_sayf(struct smtp_session *s, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof(text) - 2, fmt, ap);
    va_end(ap);
    assert(n >= 0 && (size_t)n < sizeof(text) - 2); /* names and addresses are bounded where they were parsed */
    memcpy(text + n, "\r\n", 2);
    smtp_say_text(s, str_n(text, (size_t)n + 2));
}

void smtp_say_last(struct smtp_session *s, enum smtp_reply r, enum smtp_close why)
{
    smtp_say(s, r);
    if (!s->close)
        s->close = why;
}

void smtp_mistake(struct smtp_session *s, enum smtp_reply r)
{
    const struct smtp_limits *l = smtp_limits(s);
    struct err err = ERR_INIT;
    if (++s->bad > l->bad_hard) {
        metric_inc_label(M_SMTP_REFUSED, "mistakes");
        smtp_say_last(s, SMTP_MISTAKES, SMTP_CLOSE_MISTAKES);
        return;
    }
    if (s->bad > l->bad_soft) {
        metric_inc_label(M_SMTP_REFUSED, "tarpit");
        if (!fiber_sleep_ms(l->tarpit_ms, &err)) {
            smtp_lost(s, &err);
            return;
        }
    }
    smtp_say(s, r);
}

/* --- lines --- */

bool smtp_read_line(struct smtp_session *s, size_t max, str *line)
{
    struct err err = ERR_INIT;
    FIBER_DEADLINE(smtp_limits(s)->command_timeout_ms);
    if (stream_read_line(s->stream, max, true, line, &err))
        return true;
    if (err.kind == ERR_INVALID) {
        metric_inc_label(M_SMTP_REFUSED, "bare_newline");
        smtp_mistake(s, SMTP_BARE_NEWLINE);
    } else if (err.kind == ERR_LIMIT) {
        str in = stream_input(s->stream);
        ptrdiff_t lf = str_find(in, '\n');
        metric_inc_label(M_SMTP_REFUSED, "line");
        stream_consume(s->stream, lf >= 0 ? (size_t)lf + 1 : in.n);
        if (lf >= 0)
            smtp_mistake(s, SMTP_LINE_TOO_LONG);
        else /* no fiber waits for the end of it */
            smtp_say_last(s, SMTP_LINE_TOO_LONG, SMTP_CLOSE_LINE);
    } else {
        smtp_lost(s, &err);
    }
    return false;
}

/* RFC 4954 4: an AUTH line with its initial response, or an answer, may be longer than other commands. */
static size_t line_max(const struct smtp_session *s, str input)
{
    return s->auth.step || str_starts_nocase(input, S("AUTH ")) ? SASL_LINE_MAX : smtp_limits(s)->line_max;
}

/* Whether there is something to do for a fiber: a whole line, or the end of one that was too long. */
static bool has_line(const struct smtp_session *s)
{
    return str_find(stream_input(s->stream), '\n') >= 0;
}

/* Without a fiber, drop what has come of a line that is too long, but for the LF that ends it. */
static void skip_long_line(struct smtp_session *s)
{
    str in = stream_input(s->stream);
    ptrdiff_t lf = str_find(in, '\n');
    if (!s->skipped && (lf >= 0 || in.n <= line_max(s, in) + 2))
        return;
    size_t n = lf >= 0 ? (size_t)lf : in.n;
    s->skipped += n;
    stream_consume(s->stream, n);
}

/* --- life --- */

void smtp_forget_hello(struct smtp_session *s)
{
    free(s->helo);
    free(s->helo_host);
    s->helo = s->helo_host = NULL;
}

static void close_session(struct smtp_session *s)
{
    struct smtp_server *server = s->server;
    char peer[NET_ADDR_TEXT_MAX];
    fiber_timer_stop(&s->timer);
    fiber_context()->session_id = s->id;
    log_info("smtp.session", KV_Z("kind", kind_names[s->kind]),
             KV_STR("peer", net_ip_format(stream_peer(s->stream), peer)), KV_Z("helo", s->helo ? s->helo : ""),
             KV_Z("account", s->login.address ? s->login.address : ""), KV_STR("tls", stream_tls_version(s->stream)),
             KV_Z("reason", close_names[s->close]), KV_I64("ms", clock_mono_ms() - s->started_ms),
             KV_I64("commands", s->commands), KV_I64("mistakes", s->bad), KV_I64("messages", s->messages),
             KV_I64("in", stream_bytes_in(s->stream)), KV_I64("out", stream_bytes_out(s->stream)));
    fiber_context()->session_id = 0;
    metric_inc_label(M_SMTP_SESSIONS_ENDED, close_names[s->close]);
    metric_add_label(M_SMTP_SESSIONS, kind_names[s->kind], -1);
    smtp_txn_free(s->txn);
    logins_remove(server->opts.logins, &s->login_check);
    guest_leave(&s->guest);
    stream_idle_stop(s->stream);
    stream_close(s->stream);
    list_remove(&s->node);
    server->n_sessions--;
    server->n_of_kind[s->kind]--;
    smtp_forget_hello(s);
    free(s->auth.user);
    free(s->login.address);
    s->magic = 0;
    free(s);
    if (server->drainer)
        fiber_wake(server->drainer);
}

void smtp_session_end(struct smtp_session *s, enum smtp_close why, enum smtp_reply goodbye)
{
    CHECK(s, SMTP_SESSION_MAGIC);
    assert(!s->is_busy);
    s->close = why;
    if (goodbye)
        (void)stream_try_write(s->stream, smtp_reply_line(goodbye)); /* a peer that reads nothing gets no goodbye */
    close_session(s);
}

/* A command under way goes on to its end; a message is not taken any more (cmd_data.c). */
void smtp_login_ended(void *arg)
{
    struct smtp_session *s = arg;
    CHECK(s, SMTP_SESSION_MAGIC);
    s->is_login_over = true;
    if (!s->is_busy)
        smtp_session_end(s, SMTP_CLOSE_LOGIN, SMTP_LOGIN_ENDED);
}

static void on_silence(void *arg)
{
    metric_inc_label(M_SMTP_REFUSED, "timeout");
    smtp_session_end(arg, SMTP_CLOSE_TIMEOUT, SMTP_TIMEOUT);
}

static void on_ready(void *arg);

FIBER static void one_command(struct smtp_session *s)
{
    str line;
    if (s->skipped) {
        s->skipped = 0;
        stream_consume(s->stream, 1); /* its LF */
        metric_inc_label(M_SMTP_REFUSED, "line");
        smtp_mistake(s, SMTP_LINE_TOO_LONG);
        return;
    }
    if (s->auth.step)
        smtp_auth_answer(s);
    else if (smtp_read_line(s, line_max(s, stream_input(s->stream)), &line))
        smtp_command_run(s, line);
}

FIBER static void run(void *arg)
{
    struct smtp_session *s = arg;
    struct err err = ERR_INIT;
    struct fiber_context *context = fiber_context();
    s->fiber = fiber_self();
    context->session_id = s->id;
    context->account = str_c(s->login.address);
    context->trace_id = s->txn ? s->txn->trace : 0;
    while (!s->close && !s->is_login_over && s->server->phase != SMTP_BREAKING && has_line(s))
        one_command(s);
    if (!s->close && s->is_login_over)
        smtp_say_last(s, SMTP_LOGIN_ENDED, SMTP_CLOSE_LOGIN);
    if (!s->close && (s->server->phase == SMTP_BREAKING || (s->server->phase == SMTP_DRAINING && !s->txn)))
        smtp_say_last(s, SMTP_SHUTDOWN, SMTP_CLOSE_DRAIN);
    FIBER_DEADLINE(smtp_limits(s)->command_timeout_ms);
    if (s->close != SMTP_CLOSE_PEER && !stream_flush(s->stream, &err))
        smtp_lost(s, &err);
    context->account = STR_NONE;
    s->fiber = NULL;
    s->is_busy = false;
    guest_leave(&s->guest);
    if (s->close) {
        close_session(s);
        return;
    }
    int64_t ms = smtp_limits(s)->command_timeout_ms;
    if (s->auth.step)
        ms = MIN(ms, MAX(s->auth.until_mono_ms - clock_mono_ms(), (int64_t)1));
    fiber_timer_start(&s->timer, ms, on_silence, s);
    on_ready(s); /* something may have come while the replies went out */
}

/* A host of our own (LMTP) and who has logged in are no guests. */
static bool start_fiber(struct smtp_session *s)
{
    struct err err = ERR_INIT;
    if (s->kind != SMTP_KIND_LMTP && !s->login.address &&
        !guest_enter(s->server->opts.guests, s->kind == SMTP_KIND_MX ? GUEST_SMTP : GUEST_SUBMISSION, &s->guest,
                     stream_peer(s->stream))) {
        metric_inc_label(M_SMTP_REFUSED, "busy_address");
        return false;
    }
    if (fiber_spawn("smtp", run, s, FIBER_NO_DEADLINE, &err))
        return true;
    metric_inc_label(M_SMTP_REFUSED, "fibers");
    return false;
}

static void on_ready(void *arg)
{
    struct smtp_session *s = arg;
    CHECK(s, SMTP_SESSION_MAGIC);
    skip_long_line(s);
    if (s->skipped > SKIP_MAX || (s->skipped && s->auth.step)) { /* no command is lost by ending an exchange */
        metric_inc_label(M_SMTP_REFUSED, "line");
        smtp_session_end(s, SMTP_CLOSE_LINE, SMTP_LINE_TOO_LONG);
    } else if (has_line(s)) {
        fiber_timer_stop(&s->timer);
        s->is_busy = start_fiber(s);
        if (!s->is_busy)
            smtp_session_end(s, SMTP_CLOSE_FULL, SMTP_BUSY);
    } else if (stream_at_end(s->stream)) {
        smtp_session_end(s, SMTP_CLOSE_PEER, SMTP_REPLY_NONE);
    } else {
        stream_idle(s->stream, on_ready, s); /* the timer goes on: half a line buys no time */
    }
}

static void greet(struct smtp_session *s)
{
    const struct smtp_opts *o = &s->server->opts;
    BUF(b, 512);
    buf_printf(&b, "220 %.*s %s Thurn\r\n", STR_ARG(o->hostname), s->kind == SMTP_KIND_LMTP ? "LMTP" : "ESMTP");
    (void)stream_try_write(s->stream, buf_str(&b)); /* nothing was written before: there is room */
}

void smtp_session_start(struct smtp_server *server, enum smtp_kind kind, struct stream *stream)
{
    CHECK(server, SMTP_SERVER_MAGIC);
    bool is_draining = server->phase != SMTP_SERVING;
    if (is_draining || server->n_of_kind[kind] >= server->opts.limits.sessions_max) {
        if (!is_draining)
            IGNORE(cap_reached(kind_names[kind], "sessions", server->opts.limits.sessions_max));
        metric_inc_label(M_SMTP_REFUSED, is_draining ? "draining" : "sessions");
        (void)stream_try_write(stream, smtp_reply_line(is_draining ? SMTP_SHUTDOWN : SMTP_BUSY));
        stream_close(stream);
        return;
    }
    struct smtp_session *s = xnew(struct smtp_session);
    s->magic = SMTP_SESSION_MAGIC;
    s->kind = kind;
    s->server = server;
    s->stream = stream;
    s->id = random_u64() >> 1; /* as a signed number in logs */
    s->started_ms = clock_mono_ms();
    list_push(&server->sessions, &s->node);
    server->n_sessions++;
    server->n_of_kind[kind]++;
    metric_add_label(M_SMTP_SESSIONS, kind_names[kind], 1);
    greet(s);
    fiber_timer_start(&s->timer, smtp_limits(s)->command_timeout_ms, on_silence, s);
    stream_idle(s->stream, on_ready, s);
}

void smtp_call_init(struct smtp_session *s, struct rpc_call *call, struct arena *a)
{
    rpc_call_init(call, a);
    call->pass = s->login_check.pass;
}

bool smtp_login_allowed(const struct smtp_session *s)
{
    return s->kind == SMTP_KIND_SUBMISSION &&
           plain_login_allowed((enum plain_login)s->server->opts.plain_login, s->stream);
}
