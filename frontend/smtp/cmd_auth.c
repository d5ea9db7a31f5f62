/*
 * cmd_auth.c: AUTH PLAIN (RFC 4616) and LOGIN, RFC 4954.
 */
#include "frontend/smtp/session.h"
#include "proto/auth_calls.h"

#define AUTH_TIMEOUT_MS 60000 /* for the whole exchange: an answer from auth may be late on purpose */

/* What the client sent, wiped at the end of its scope. */
struct secret {
    struct buf b;
};
static void secret_done(struct secret *x)
{
    if (x->b.p)
        explicit_bzero(x->b.p, x->b.size);
    buf_done(&x->b);
}
#define SECRET(name)                                                                                                   \
    __attribute__((cleanup(secret_done))) struct secret name;                                                          \
    buf_init(&name.b, SASL_LINE_MAX)

/* Base64 from the wire; "=" stands for nothing (RFC 4954 4). False: answered. */
FIBER static bool decode(struct smtp_session *s, str base64, struct secret *out)
{
    if (str_eq(base64, S("*"))) {
        smtp_mistake(s, SMTP_AUTH_CANCELLED);
        return false;
    }
    if (str_eq(base64, S("=")))
        return true;
    /* Room first, so that nothing of it is left behind in memory that was outgrown. */
    if (buf_reserve(&out->b, base64.n) && buf_add_unbase64(&out->b, base64))
        return true;
    smtp_mistake(s, SMTP_BASE64);
    return false;
}

/* The answer is waited for like a command: without a fiber. It goes to smtp_auth_answer. */
FIBER static void ask(struct smtp_session *s, enum smtp_reply prompt, enum smtp_auth_step step)
{
    s->auth.step = step;
    smtp_say(s, prompt);
}

FIBER static void succeeded(struct smtp_session *s, const Thurn__AuthenticateReply *r)
{
    s->login = (struct smtp_login){.account_id = r->account ? r->account->account_id : 0,
                                   .tenant_id = r->account ? r->account->tenant_id : 0,
                                   .address = xstrdup(r->address),
                                   .may_send = r->state == THURN__ACCOUNT_STATE__ACCOUNT_ACTIVE};
    logins_add(s->server->opts.logins, &s->login_check, r, NULL, smtp_login_ended, s);
    guest_leave(&s->guest);
    fiber_context()->account = str_c(s->login.address);
    metric_inc_label(M_SMTP_AUTH, "ok");
    smtp_say(s, SMTP_AUTH_OK);
}

FIBER static void failed(struct smtp_session *s, const struct err *err)
{
    enum smtp_reply reply = smtp_failure(SMTP_AT_LOGIN, err->kind);
    bool is_wrong = reply == SMTP_AUTH_FAILED;
    metric_inc_label(M_SMTP_AUTH, is_wrong ? "denied" : "failed");
    log_info("smtp.auth", KV_ERR(err));
    if (!is_wrong) {
        smtp_mistake(s, reply);
    } else if (++s->auth_failures >= smtp_limits(s)->auth_failures_max) {
        metric_inc_label(M_SMTP_REFUSED, "auth_failures");
        smtp_say_last(s, SMTP_AUTH_TOO_MANY, SMTP_CLOSE_AUTH);
    } else {
        smtp_mistake(s, reply);
    }
}

FIBER static void log_in(struct smtp_session *s, str login, str password)
{
    ARENA(a, 256 * 1024);
    struct rpc_call call;
    char peer[NET_ADDR_TEXT_MAX];
    Thurn__AuthenticateRequest q = THURN__AUTHENTICATE_REQUEST__INIT;
    const Thurn__AuthenticateReply *reply;
    if (memchr(login.p, 0, login.n) || !utf8_valid(login.p, login.n) || !password.n || !login.n) {
        struct err err = ERR_INIT;
        (void)err_set(&err, ERR_DENIED, "not a login and password");
        failed(s, &err);
        return;
    }
    smtp_call_init(s, &call, &a);
    q.login = arena_strz(&a, login);
    q.password = rpc_bytes(password);
    q.peer_ip = rpc_bytes(net_ip_format(stream_peer(s->stream), peer));
    q.service = (char *)(uintptr_t) "smtp";
    q.session = arena_strz(&a, arena_printf(&a, "%016llx", (unsigned long long)s->id));
    if (auth_authenticate(&call, s->server->opts.auth, &q, &reply))
        succeeded(s, reply);
    else
        failed(s, &call.err);
}

FIBER static void take_plain(struct smtp_session *s, str base64)
{
    SECRET(message);
    struct sasl_plain m;
    if (!decode(s, base64, &message))
        return;
    if (sasl_plain_parse(buf_str(&message.b), &m))
        log_in(s, m.authcid, m.password);
    else
        smtp_mistake(s, SMTP_BASE64);
}

FIBER static void take_user(struct smtp_session *s, str base64)
{
    SECRET(user);
    if (!decode(s, base64, &user))
        return;
    free(s->auth.user);
    s->auth.user = str_dup(base64); /* as it came: it may hold any bytes */
    ask(s, SMTP_AUTH_PASSWORD, AUTH_STEP_PASSWORD);
}

FIBER static void take_password(struct smtp_session *s, str base64)
{
    SECRET(user);
    SECRET(password);
    if (decode(s, base64, &password) && decode(s, str_c(s->auth.user), &user))
        log_in(s, buf_str(&user.b), buf_str(&password.b));
}

/* What a mechanism begins with, and what it does with each answer. */
static const struct {
    enum smtp_reply prompt;
    void (*take)(struct smtp_session *s, str base64);
} steps[] = {
    [AUTH_STEP_PLAIN] = {SMTP_AUTH_GO_ON, take_plain},
    [AUTH_STEP_USER] = {SMTP_AUTH_USERNAME, take_user},
    [AUTH_STEP_PASSWORD] = {SMTP_AUTH_PASSWORD, take_password},
};

FIBER static void begin(struct smtp_session *s, enum smtp_auth_step step, str initial)
{
    s->auth.until_mono_ms = clock_mono_ms() + AUTH_TIMEOUT_MS;
    if (initial.n)
        steps[step].take(s, initial);
    else
        ask(s, steps[step].prompt, step);
}

void smtp_auth_answer(struct smtp_session *s)
{
    enum smtp_auth_step step = s->auth.step;
    str line;
    s->auth.step = AUTH_STEP_NONE;
    FIBER_DEADLINE(MAX(s->auth.until_mono_ms - clock_mono_ms(), (int64_t)1));
    if (smtp_read_line(s, SASL_LINE_MAX, &line))
        steps[step].take(s, line);
}

FIBER void smtp_cmd_auth(struct smtp_session *s, enum smtp_verb verb, str args)
{
    (void)verb;
    FIBER_DEADLINE(AUTH_TIMEOUT_MS);
    str mechanism = smtp_word(&args);
    if (s->kind != SMTP_KIND_SUBMISSION)
        smtp_mistake(s, SMTP_NO_AUTH);
    else if (!smtp_login_allowed(s))
        smtp_mistake(s, SMTP_AUTH_NEEDS_TLS);
    else if (s->login.address || s->txn)
        smtp_mistake(s, SMTP_AUTH_ALREADY);
    else if (str_eq_nocase(mechanism, S("PLAIN")))
        begin(s, AUTH_STEP_PLAIN, args);
    else if (str_eq_nocase(mechanism, S("LOGIN")))
        begin(s, AUTH_STEP_USER, args);
    else
        smtp_mistake(s, SMTP_AUTH_MECHANISM);
}
