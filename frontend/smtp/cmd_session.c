/*
 * cmd_session.c: the commands that are about the session itself: greeting, TLS, and those that do little.
 */
#include "frontend/smtp/session.h"

/* What may stand in a Received field (RFC 5321 4.4): as it came when that is ASCII, else as A-labels. */
static char *host_of(str s)
{
    ARENA(scratch, 16 * 1024);
    struct err err = ERR_INIT;
    str normal;
    if (!domain_normalize(s, &scratch, &normal, &err))
        return NULL;
    return str_dup(ascii_only(s.p, s.n) ? s : normal);
}

/* RFC 5321 4.1.4: a new hello is also a reset. */
FIBER void smtp_cmd_hello(struct smtp_session *s, enum smtp_verb verb, str args)
{
    const struct smtp_opts *o = &s->server->opts;
    if (!smtp_hello_parse(args)) {
        smtp_mistake(s, SMTP_HELLO_SYNTAX);
        return;
    }
    smtp_reset(s);
    smtp_forget_hello(s);
    s->helo = str_dup(args);
    s->helo_host = host_of(args);
    s->is_esmtp = verb != SMTP_VERB_HELO;
    if (!s->is_esmtp) {
        smtp_sayf(s, "250 %.*s", STR_ARG(o->hostname));
        return;
    }
    BUF(b, 1024);
    buf_printf(&b, "250-%.*s\r\n250-PIPELINING\r\n250-SIZE %llu\r\n", STR_ARG(o->hostname),
               (unsigned long long)o->message_max);
    if (o->tls && !stream_has_tls(s->stream))
        buf_add(&b, S("250-STARTTLS\r\n"));
    if (smtp_login_allowed(s))
        buf_add(&b, S("250-AUTH PLAIN LOGIN\r\n"));
    buf_add(&b, S("250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 CHUNKING\r\n"));
    smtp_say_text(s, buf_str(&b));
}

/*
 * RFC 3207. The go-ahead leaves with the handshake; what came with the command in the clear is dropped, and nothing
 * that was said before is believed after (4.2).
 */
FIBER void smtp_cmd_starttls(struct smtp_session *s, enum smtp_verb verb, str args)
{
    (void)verb;
    struct err err = ERR_INIT;
    bool had_plaintext = false;
    if (args.n || stream_has_tls(s->stream) || !s->server->opts.tls) {
        FIBER_DEADLINE(smtp_limits(s)->command_timeout_ms);
        smtp_mistake(s, args.n ? SMTP_SYNTAX : stream_has_tls(s->stream) ? SMTP_TLS_ALREADY : SMTP_NO_TLS);
        return;
    }
    FIBER_DEADLINE(smtp_limits(s)->tls_timeout_ms);
    smtp_say(s, SMTP_START_TLS);
    if (s->close)
        return;
    if (!stream_start_tls_server(s->stream, s->server->opts.tls, &had_plaintext, &err)) {
        log_info("smtp.tls_failed", KV_ERR(&err));
        s->close = SMTP_CLOSE_TLS;
        return;
    }
    if (had_plaintext) {
        char peer[NET_ADDR_TEXT_MAX];
        metric_inc_label(M_SMTP_REFUSED, "plaintext_after_starttls");
        log_warn("smtp.injection", KV_STR("peer", net_ip_format(stream_peer(s->stream), peer)));
    }
    smtp_reset(s);
    smtp_forget_hello(s);
    free(s->login.address);
    s->login = (struct smtp_login){.address = NULL};
    logins_remove(s->server->opts.logins, &s->login_check);
    fiber_context()->account = STR_NONE;
}

FIBER void smtp_cmd_rset(struct smtp_session *s, enum smtp_verb verb, str args)
{
    (void)verb;
    if (args.n) {
        smtp_mistake(s, SMTP_SYNTAX);
        return;
    }
    smtp_reset(s);
    smtp_say(s, SMTP_OK);
}

FIBER void smtp_cmd_noop(struct smtp_session *s, enum smtp_verb verb, str args)
{
    (void)verb;
    (void)args;
    smtp_say(s, SMTP_OK);
}

FIBER void smtp_cmd_quit(struct smtp_session *s, enum smtp_verb verb, str args)
{
    (void)verb;
    (void)args;
    smtp_say_last(s, SMTP_BYE, SMTP_CLOSE_QUIT);
}

/* RFC 5321 3.5.3: we do not say who has a mailbox here. */
FIBER void smtp_cmd_vrfy(struct smtp_session *s, enum smtp_verb verb, str args)
{
    (void)verb;
    if (args.n)
        smtp_say(s, SMTP_VRFY);
    else
        smtp_mistake(s, SMTP_SYNTAX);
}

FIBER void smtp_cmd_expn(struct smtp_session *s, enum smtp_verb verb, str args)
{
    (void)verb;
    (void)args;
    smtp_mistake(s, SMTP_NO_EXPN);
}

FIBER void smtp_cmd_help(struct smtp_session *s, enum smtp_verb verb, str args)
{
    (void)verb;
    (void)args;
    smtp_say(s, SMTP_HELP);
}

FIBER void smtp_cmd_foreign(struct smtp_session *s, enum smtp_verb verb, str args)
{
    (void)verb;
    (void)args;
    metric_inc_label(M_SMTP_REFUSED, "foreign");
    smtp_say_last(s, SMTP_FOREIGN, SMTP_CLOSE_FOREIGN);
}
