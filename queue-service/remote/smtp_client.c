/*
 * smtp_client.c: the connection: greeting, EHLO, STARTTLS, replies.
 */
#include "queue-service/remote/smtp_internal.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "fiber/fiber.h"

#define INPUT_MAX ((size_t)16 * 1024)

/* --- trouble --- */

void smtp_trouble_set(struct smtp_trouble *t, bool is_permanent, const char *status, const char *fmt, ...)
{
    t->is_permanent = is_permanent;
    t->code = 0;
    (void)snprintf(t->status, sizeof(t->status), "%s", status);
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(t->text, sizeof(t->text), fmt, ap);
    va_end(ap);
}

void smtp_trouble_reply(struct smtp_trouble *t, const struct smtp_reply *r)
{
    t->is_permanent = smtp_reply_class(r) == 5;
    t->code = r->code;
    memcpy(t->status, r->status, sizeof(t->status));
    memcpy(t->text, r->text, sizeof(t->text));
    if (r->status[0] != '4' && r->status[0] != '5') { /* 2xx or 3xx where it makes no sense */
        t->is_permanent = false;
        (void)snprintf(t->status, sizeof(t->status), "4.5.0");
    }
}

void smtp_trouble_lost(struct smtp_trouble *t, const struct smtp_client *c, const char *command, const struct err *err)
{
    const char *status = err->kind == ERR_INVALID || err->kind == ERR_LIMIT ? "4.5.0" : "4.4.2";
    smtp_trouble_set(t, false, status, "connection with %s lost while waiting for the answer to %s: %s", c->peer,
                     command, err->msg);
}

/* --- replies --- */

/* The next line; of one that is longer than it may be its beginning: what counts is the code. n_read: bytes of the
 * reply so far. */
FIBER static bool reply_line(struct smtp_client *c, struct buf *beginning, size_t *n_read, str *line, struct err *err)
{
    if (stream_read_line(c->stream, SMTP_REPLY_LINE_MAX, false, line, err)) {
        *n_read += line->n;
        return true;
    }
    if (err->kind != ERR_LIMIT)
        return false;
    err_clear(err);
    buf_clear(beginning);
    buf_add(beginning, str_slice(stream_input(c->stream), 0, SMTP_REPLY_LINE_MAX));
    *line = buf_str(beginning);
    while (*n_read <= SMTP_REPLY_BYTES_MAX) {
        str in = stream_input(c->stream);
        ptrdiff_t lf = str_find(in, '\n');
        size_t n = lf < 0 ? in.n : (size_t)lf + 1;
        *n_read += n;
        stream_consume(c->stream, n);
        if (lf >= 0)
            return true;
        if (!stream_fill(c->stream, err))
            return false;
    }
    return err_set(err, ERR_LIMIT, "reply of more than %zu bytes", SMTP_REPLY_BYTES_MAX);
}

bool smtp_read_reply(struct smtp_client *c, unsigned timeout_ms, struct smtp_caps *caps, struct smtp_reply *out,
                     struct err *err)
{
    FIBER_DEADLINE(timeout_ms);
    BUF(beginning, SMTP_REPLY_LINE_MAX);
    size_t n_read = 0;
    *out = (struct smtp_reply){0};
    for (;;) {
        str line;
        if (!reply_line(c, &beginning, &n_read, &line, err)) {
            if (err->kind == ERR_LIMIT)
                metric_inc_label(M_REMOTE_REFUSED, "reply_too_long");
            return false;
        }
        c->is_reused = false;
        enum smtp_reply_step step = smtp_reply_add(out, line);
        if (step == SMTP_REPLY_LONG) {
            metric_inc_label(M_REMOTE_REFUSED, "reply_too_long");
            return err_set(err, ERR_LIMIT, "reply of more than %u lines", SMTP_REPLY_LINES_MAX);
        }
        if (step == SMTP_REPLY_BAD) {
            metric_inc_label(M_REMOTE_REFUSED, "reply_malformed");
            return err_set(err, ERR_INVALID, "the peer's answer is no SMTP reply");
        }
        if (caps && smtp_reply_class(out) == 2)
            smtp_caps_add(caps, line, out->n_lines == 1);
        if (step == SMTP_REPLY_DONE)
            return true;
    }
}

/* Say one command, and read its reply. */
FIBER static bool ask(struct smtp_client *c, const char *verb, str arg, struct smtp_caps *caps, struct smtp_reply *r,
                      struct smtp_trouble *why)
{
    struct err err = ERR_INIT;
    FIBER_DEADLINE(c->settings->command_ms);
    bool is_written = arg.n ? stream_printf(c->stream, &err, "%s %.*s\r\n", verb, STR_ARG(arg))
                            : stream_printf(c->stream, &err, "%s\r\n", verb);
    if (is_written && smtp_read_reply(c, c->settings->command_ms, caps, r, &err))
        return true;
    smtp_trouble_lost(why, c, verb, &err);
    return false;
}

/* --- opening --- */

FIBER static bool greeting(struct smtp_client *c, struct smtp_trouble *why)
{
    struct err err = ERR_INIT;
    struct smtp_reply r;
    if (!smtp_read_reply(c, c->settings->command_ms, NULL, &r, &err)) {
        smtp_trouble_lost(why, c, "the connection", &err);
        return false;
    }
    if (r.code == 220)
        return true;
    smtp_trouble_reply(why, &r);
    why->is_permanent = false; /* 554 is said of the host, not of the message: another host, or later */
    if (why->status[0] == '5')
        why->status[0] = '4';
    return false;
}

/* EHLO, or HELO where that is not known (RFC 5321 3.2). */
FIBER static bool hello(struct smtp_client *c, struct smtp_trouble *why)
{
    struct smtp_reply r;
    c->caps = (struct smtp_caps){0};
    str name = c->settings->hostname;
    if (!ask(c, "EHLO", name, &c->caps, &r, why))
        return false;
    if (smtp_reply_class(&r) == 5) {
        c->caps = (struct smtp_caps){0};
        if (!ask(c, "HELO", name, NULL, &r, why))
            return false;
    }
    if (smtp_reply_class(&r) == 2)
        return true;
    smtp_trouble_reply(why, &r);
    return false;
}

/* RFC 3207. */
FIBER static enum smtp_opened start_tls(struct smtp_client *c, bool is_must, struct smtp_trouble *why)
{
    struct smtp_reply r;
    struct err err = ERR_INIT;
    if (!c->settings->tls || !smtp_can(c, SMTP_CAP_STARTTLS)) {
        if (!is_must)
            return SMTP_OPENED;
        smtp_trouble_set(why, c->settings->tls != NULL, c->settings->tls ? "5.7.10" : "4.7.10",
                         "the message must not travel in clear, and %s offers no TLS", c->peer);
        return SMTP_TLS_FAILED;
    }
    if (!ask(c, "STARTTLS", STR_NONE, NULL, &r, why))
        return SMTP_TLS_FAILED;
    if (r.code != 220) {
        if (!is_must && r.code != 421)
            return SMTP_OPENED;
        smtp_trouble_reply(why, &r);
        why->is_permanent = false;
        why->status[0] = '4';
        return r.code == 421 ? SMTP_REFUSED : SMTP_TLS_FAILED;
    }
    /* What came in clear behind the go-ahead is not the server's (RFC 3207 6): drop it. */
    stream_consume(c->stream, stream_input(c->stream).n);
    FIBER_DEADLINE(c->settings->command_ms);
    str sni = str_starts(c->host, S("[")) ? STR_NONE : c->host;
    if (!stream_start_tls_client(c->stream, c->settings->tls, sni, TLS_VERIFY_NONE, &err)) {
        smtp_trouble_set(why, false, "4.7.5", "TLS with %s failed: %s", c->peer, err.msg);
        return SMTP_TLS_FAILED;
    }
    return hello(c, why) ? SMTP_OPENED : SMTP_REFUSED; /* what was offered in clear is forgotten */
}

static void name_peer(struct smtp_client *c, const struct net_addr *addr)
{
    char ip[NET_ADDR_TEXT_MAX];
    str text = net_ip_format(addr, ip);
    if (str_starts(c->host, S("[")))
        (void)snprintf(c->peer, sizeof(c->peer), "[%.*s]", STR_ARG(text));
    else
        (void)snprintf(c->peer, sizeof(c->peer), "%.*s[%.*s]", STR_ARG(str_slice(c->host, 0, 200)), STR_ARG(text));
}

FIBER static enum smtp_opened talk(struct smtp_client *c, enum smtp_security security, struct smtp_trouble *why)
{
    if (!greeting(c, why) || !hello(c, why))
        return SMTP_REFUSED;
    return security == SMTP_CLEAR ? SMTP_OPENED : start_tls(c, security == SMTP_TLS_MUST, why);
}

enum smtp_opened smtp_client_open(const struct smtp_settings *settings, const struct net_addr *addr, str host,
                                  enum smtp_security security, struct smtp_client **out, struct smtp_trouble *why)
{
    struct err err = ERR_INIT;
    struct stream_opts opts = {.input_max = INPUT_MAX};
    struct smtp_client *c = xnew(struct smtp_client);
    c->magic = SMTP_CLIENT_MAGIC;
    c->settings = settings;
    c->host = host;
    c->opened_mono_ms = clock_mono_ms();
    name_peer(c, addr);
    {
        FIBER_DEADLINE(settings->connect_ms);
        c->stream = stream_connect(addr, NULL, &opts, &err);
    }
    if (!c->stream) {
        metric_inc_label(M_REMOTE_SESSIONS, "unreachable");
        smtp_trouble_set(why, false, "4.4.1", "%s: %s", c->peer, err.msg);
        free(c);
        return SMTP_REFUSED;
    }
    enum smtp_opened opened = talk(c, security, why);
    static const char *const label[] = {"opened", "refused", "tls_failed"};
    metric_inc_label(M_REMOTE_SESSIONS, label[opened]);
    c->host = STR_NONE;
    if (opened == SMTP_OPENED)
        *out = c;
    else
        smtp_client_quit(c);
    return opened;
}

void smtp_client_quit(struct smtp_client *c)
{
    CHECK(c, SMTP_CLIENT_MAGIC);
    if (c->is_in_content) {
        stream_abort(c->stream);
    } else {
        (void)stream_try_write(c->stream, S("QUIT\r\n")); /* false: broken, or stuck in a write */
        stream_close(c->stream);
    }
    c->magic = 0;
    free(c);
}

/* --- facts --- */

struct stream *smtp_client_stream(struct smtp_client *c)
{
    CHECK(c, SMTP_CLIENT_MAGIC);
    return c->stream;
}

const struct smtp_caps *smtp_client_caps(const struct smtp_client *c)
{
    CHECK(c, SMTP_CLIENT_MAGIC);
    return &c->caps;
}

str smtp_client_peer(const struct smtp_client *c)
{
    CHECK(c, SMTP_CLIENT_MAGIC);
    return str_c(c->peer);
}

int64_t smtp_client_ends_mono_ms(const struct smtp_client *c)
{
    CHECK(c, SMTP_CLIENT_MAGIC);
    return c->opened_mono_ms + SMTP_SESSION_MS_MAX;
}

bool smtp_client_is_fresh(const struct smtp_client *c)
{
    CHECK(c, SMTP_CLIENT_MAGIC);
    unsigned most = SMTP_SESSION_MESSAGES_MAX;
    if (c->caps.mail_max)
        most = MIN(most, c->caps.mail_max);
    return c->n_messages < most && clock_mono_ms() < smtp_client_ends_mono_ms(c);
}

void smtp_client_reused(struct smtp_client *c)
{
    CHECK(c, SMTP_CLIENT_MAGIC);
    c->is_reused = true;
}
