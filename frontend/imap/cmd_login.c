/* Getting in: RFC 3501 6.2, SASL PLAIN (RFC 4616) with initial response (RFC 4959). */
#include "frontend/imap/commands.h"

#include "base/clock.h"
#include "base/metrics.h"
#include "frontend/imap/parse.h"
#include "proto/auth_calls.h"

#define CREDENTIAL_MAX 1024u /* bytes of a login, and of a password */
#define SASL_LINE_MAX 8192u
#define HANDSHAKE_MS 30000 /* as of a connection that begins with TLS */

static void take_account(struct imap_session *s, const Thurn__AuthenticateReply *r)
{
    s->account = user_account_copy(r->account);
    xfree(s->login);
    s->login = str_dup(str_c(r->address));
    fiber_context()->account = str_c(s->login);
}

static bool refused(struct imap_session *s, struct imap_command *c, const struct rpc_call *call, struct err *err)
{
    (void)imap_failed(c, IMAP_AT_LOGIN, call, err);
    if ((err->kind == ERR_DENIED || err->kind == ERR_NOT_FOUND || err->kind == ERR_INVALID) &&
        ++s->auth_failures >= s->server->opts.limits.auth_failures) {
        metric_inc_label(M_IMAP_REFUSED, "auth_failures");
        imap_end(s, IMAP_END_AUTH_FAILURES);
    } else if (err->kind == ERR_LIMIT) {
        metric_inc_label(M_IMAP_REFUSED, "auth_rate");
        c->text = S("Too many failed logins, try again later.");
    }
    return false;
}

FIBER static bool log_in(struct imap_session *s, struct imap_command *c, str login, str password, struct err *err)
{
    if (login.n == 0 || login.n > CREDENTIAL_MAX || password.n > CREDENTIAL_MAX)
        return imap_no(c, err, ERR_DENIED, "AUTHENTICATIONFAILED", "Wrong login or password.");
    char ip[NET_ADDR_TEXT_MAX], session[24];
    Thurn__AuthenticateRequest q = THURN__AUTHENTICATE_REQUEST__INIT;
    const Thurn__AuthenticateReply *r;
    struct rpc_call call;
    snprintf(session, sizeof(session), "%016llx", (unsigned long long)s->id);
    q.login = arena_strz(c->arena, login);
    q.password = rpc_bytes(password);
    q.peer_ip = rpc_bytes(net_ip_format(stream_peer(s->stream), ip));
    q.service = arena_strz(c->arena, S("imap"));
    q.session = session;
    rpc_call_init(&call, c->arena);
    bool ok = auth_authenticate(&call, s->server->opts.auth, &q, &r);
    if (!ok)
        return refused(s, c, &call, err);
    if (!r->account)
        return err_set(err, ERR_INTERNAL, "login without an account");
    take_account(s, r);
    if (!leases_take(s->server->leases, s->account.account_id, err)) {
        metric_inc_label(M_IMAP_REFUSED, "sessions_of_account");
        c->text = S("Too many connections of this account.");
        return false;
    }
    s->has_lease = true;
    s->state = IMAP_AUTH;
    stream_set_input_max(s->stream, imap_line_max(s));
    logins_add(s->server->opts.logins, &s->login_check, r, &s->account, imap_login_ended, s);
    guest_leave(&s->guest);
    BUF(code, 2048);
    buf_add(&code, S("CAPABILITY "));
    imap_add_capabilities(s, &code);
    c->code = arena_str(c->arena, buf_str(&code));
    c->text = S("Logged in.");
    return true;
}

static bool privacy_required(struct imap_command *c, struct err *err)
{
    metric_inc_label(M_IMAP_REFUSED, "plaintext_login");
    return imap_no(c, err, ERR_DENIED, "PRIVACYREQUIRED", "Use TLS first."); /* RFC 5530 */
}

FIBER bool cmd_login(struct imap_session *s, struct imap_command *c, struct err *err)
{
    str login, password;
    if (!imap_parse_sp(&c->args) || !imap_parse_astring(&c->args, c->arena, &login) || !imap_parse_sp(&c->args) ||
        !imap_parse_astring(&c->args, c->arena, &password) || !imap_parse_end(&c->args))
        return imap_bad(c, err, "Expected login and password.");
    if (!imap_may_login(s))
        return privacy_required(c, err);
    bool ok = log_in(s, c, login, password, err);
    explicit_bzero((char *)(uintptr_t)password.p, password.n);
    return ok;
}

/* [authzid] NUL authcid NUL passwd */
FIBER static bool sasl_plain(struct imap_session *s, struct imap_command *c, str message, struct err *err)
{
    str rest = message, authzid, login, password;
    ptrdiff_t first = str_find(rest, '\0');
    if (first < 0)
        return imap_bad(c, err, "Malformed SASL message.");
    authzid = str_slice(rest, 0, (size_t)first);
    rest = str_slice(rest, (size_t)first + 1, SIZE_MAX);
    ptrdiff_t second = str_find(rest, '\0');
    if (second < 0)
        return imap_bad(c, err, "Malformed SASL message.");
    login = str_slice(rest, 0, (size_t)second);
    password = str_slice(rest, (size_t)second + 1, SIZE_MAX);
    if (memchr(password.p, 0, password.n) || !utf8_valid(login.p, login.n))
        return imap_bad(c, err, "Malformed SASL message.");
    if (authzid.n && !str_eq(authzid, login))
        return imap_no(c, err, ERR_DENIED, "AUTHORIZATIONFAILED", "Acting for others is not allowed.");
    return log_in(s, c, login, password, err);
}

/* The client's answer to an empty challenge; "*" cancels (RFC 3501 6.2.2). */
FIBER static bool ask(struct imap_session *s, struct imap_command *c, str *answer, struct err *err)
{
    if (!imap_write(s, S("+ \r\n"), err) || !stream_flush(s->stream, err) ||
        !stream_read_line(s->stream, SASL_LINE_MAX, false, answer, err)) {
        imap_end(s, err->kind == ERR_LIMIT     ? IMAP_END_LIMIT
                    : err->kind == ERR_TIMEOUT ? IMAP_END_AUTH_TIMEOUT
                                               : IMAP_END_BROKEN);
        return false;
    }
    if (str_eq(*answer, S("*")))
        return imap_bad(c, err, "Cancelled.");
    return true;
}

FIBER bool cmd_authenticate(struct imap_session *s, struct imap_command *c, struct err *err)
{
    str mechanism, encoded = S("");
    if (!imap_parse_sp(&c->args) || !imap_parse_atom(&c->args, &mechanism))
        return imap_bad(c, err, "Expected a mechanism.");
    bool has_initial = imap_parse_sp(&c->args) && cur_left(&c->args);
    if (has_initial) {
        encoded = cur_rest(&c->args);
        if (str_eq(encoded, S("="))) /* RFC 4959 3: an empty one */
            encoded = S("");
    }
    if (!has_initial && !imap_parse_end(&c->args))
        return imap_bad(c, err, "Malformed arguments.");
    if (!str_eq_nocase(mechanism, S("PLAIN")))
        return imap_no(c, err, ERR_INVALID, "CANNOT", "Mechanism not supported.");
    if (!imap_may_login(s))
        return privacy_required(c, err);
    if (!has_initial && !ask(s, c, &encoded, err))
        return false;
    BUF(message, SASL_LINE_MAX);
    if (!buf_add_unbase64(&message, encoded))
        return imap_bad(c, err, "Malformed base64.");
    bool ok = sasl_plain(s, c, buf_str(&message), err);
    if (message.p)
        explicit_bzero(message.p, message.n);
    return ok;
}

FIBER bool cmd_starttls(struct imap_session *s, struct imap_command *c, struct err *err)
{
    bool had_plaintext = false;
    if (!imap_parse_end(&c->args))
        return imap_bad(c, err, "No arguments expected.");
    if (!s->server->opts.tls || stream_has_tls(s->stream))
        return imap_bad(c, err, "TLS is not offered here.");
    c->is_silent = true;
    FIBER_DEADLINE(HANDSHAKE_MS);
    if (!imap_printf(s, err, "%.*s OK Begin TLS negotiation now.\r\n", STR_ARG(c->tag)) ||
        !stream_flush(s->stream, err) ||
        !stream_start_tls_server(s->stream, s->server->opts.tls, &had_plaintext, err)) {
        imap_end(s, IMAP_END_BROKEN);
        return false;
    }
    if (had_plaintext) { /* commands that somebody put before the handshake: nothing of this connection is believed */
        metric_inc_label(M_IMAP_REFUSED, "starttls_injection");
        imap_end(s, IMAP_END_TLS);
    }
    return true;
}
