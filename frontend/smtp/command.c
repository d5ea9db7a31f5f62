#include "frontend/smtp/command.h"

#include "frontend/smtp/session.h"

enum {
    SMTP_ONLY = 1,
    LMTP_ONLY = 2,
    NEEDS_HELLO = 4,
    NEEDS_LOGIN = 8, /* in submission */
    LAST = 16,       /* must be the last of a pipelined group (RFC 2920 3.1) */
    JUNK = 32,       /* brings no mail */
    OWN_TIME = 64    /* sets its own deadlines */
};

static const struct smtp_command {
    void (*run)(struct smtp_session *s, enum smtp_verb verb, str args);
    const char *name;
    unsigned flags;
} commands[SMTP_VERBS_] = {
#define CMD(verb, handler, flags) [SMTP_VERB_##verb] = {smtp_cmd_##handler, #verb, flags},
#include "frontend/smtp/commands.def"
#undef CMD
};

/* What stands against this command now; NONE: nothing. */
static enum smtp_reply objection(const struct smtp_session *s, const struct smtp_command *c)
{
    if (s->kind == SMTP_KIND_LMTP ? c->flags & SMTP_ONLY : c->flags & LMTP_ONLY)
        return SMTP_WRONG_PROTOCOL;
    if ((c->flags & NEEDS_HELLO) && !s->helo)
        return SMTP_HELLO_FIRST;
    if (!(c->flags & NEEDS_LOGIN) || s->kind != SMTP_KIND_SUBMISSION || s->login.address)
        return SMTP_REPLY_NONE;
    return smtp_login_allowed(s) || !s->server->opts.tls ? SMTP_LOGIN_FIRST : SMTP_TLS_FIRST;
}

FIBER static void run_checked(struct smtp_session *s, const struct smtp_command *c, enum smtp_verb verb, str args)
{
    /* Whoever does not wait for the answer has written his text without knowing us: a bot, or a smuggled message. */
    if ((c->flags & LAST) && stream_input(s->stream).n) {
        metric_inc_label(M_SMTP_REFUSED, "out_of_turn");
        smtp_say_last(s, SMTP_OUT_OF_TURN, SMTP_CLOSE_SYNC);
        return;
    }
    /* To ask whether a recipient is there, and not to send, is no mistake: sender verification does it. What nobody has
     * is counted there. */
    bool is_question = verb == SMTP_VERB_RSET && s->txn && s->txn->n_rcpts;
    if ((c->flags & JUNK) && !is_question && ++s->junk > smtp_limits(s)->junk_max &&
        ++s->bad > smtp_limits(s)->bad_hard) {
        metric_inc_label(M_SMTP_REFUSED, "junk");
        smtp_say_last(s, SMTP_MISTAKES, SMTP_CLOSE_MISTAKES);
        return;
    }
    enum smtp_reply no = objection(s, c);
    if (no)
        smtp_mistake(s, no);
    else
        c->run(s, verb, args);
}

void smtp_command_run(struct smtp_session *s, str line)
{
    enum smtp_verb verb;
    str args;
    s->commands++;
    if (!smtp_verb_parse(line, &verb, &args)) {
        FIBER_DEADLINE(smtp_limits(s)->command_timeout_ms);
        smtp_mistake(s, SMTP_UNKNOWN_COMMAND);
        return;
    }
    const struct smtp_command *c = &commands[verb];
    int64_t from = clock_mono_us(), old = fiber_deadline();
    if (!(c->flags & OWN_TIME))
        (void)fiber_set_deadline(clock_mono_ms() + smtp_limits(s)->command_timeout_ms);
    run_checked(s, c, verb, args);
    fiber_restore_deadline(old);
    metric_observe_us(M_SMTP_COMMAND_SECONDS, c->name, clock_mono_us() - from);
}
