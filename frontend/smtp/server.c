#include "frontend/smtp/session.h"

#define MESSAGE_MAX_DEFAULT ((uint64_t)50 << 20)
#define RECIPIENTS_MAX 1000u
#define INLINE_MAX ((size_t)512 * 1024) /* what store.proto and queue.proto take in one request */

static const struct smtp_limits defaults = {
    .line_max = 2048,
    .sessions_max = 20000,
    .bad_soft = 10,
    .bad_hard = 20,
    .junk_max = 100,
    .unknown_max = 100,
    .auth_failures_max = 5,
    .chunks_max = 20000,
    .received_max = 50,
    .header_max = (size_t)256 * 1024,
    .inline_max = INLINE_MAX,
    .command_timeout_ms = 300000,
    .data_timeout_ms = 3600000,
    .min_rate = 500,
    .stray_timeout_ms = 15000,
    .tls_timeout_ms = 30000,
    .tarpit_ms = 1000,
    .deliver_ms = 3000,
    .enqueue_ms = 30000,
};

static void fill_in(struct smtp_limits *l)
{
#define DEFAULT(member)                                                                                                \
    if (!l->member)                                                                                                    \
        l->member = defaults.member;
    DEFAULT(line_max)
    DEFAULT(sessions_max)
    DEFAULT(bad_soft)
    DEFAULT(bad_hard)
    DEFAULT(junk_max)
    DEFAULT(unknown_max)
    DEFAULT(auth_failures_max)
    DEFAULT(chunks_max)
    DEFAULT(received_max)
    DEFAULT(header_max)
    DEFAULT(inline_max)
    DEFAULT(command_timeout_ms)
    DEFAULT(data_timeout_ms)
    DEFAULT(min_rate)
    DEFAULT(stray_timeout_ms)
    DEFAULT(tls_timeout_ms)
    DEFAULT(tarpit_ms)
    DEFAULT(deliver_ms)
    DEFAULT(enqueue_ms)
#undef DEFAULT
    l->inline_max = MIN(l->inline_max, INLINE_MAX - SMTP_BODY_ROOM);
    l->header_max = MIN(l->header_max, l->inline_max - 1); /* so it is whole in memory, or too big */
}

static void on_changes(void *arg, const struct dir_news *news)
{
    struct smtp_server *s = arg;
    (void)news; /* what an answer stood on is not kept: any change makes all of them old */
    resolver_outdate(s->resolver);
}

struct smtp_server *smtp_server_new(const struct smtp_opts *opts, struct err *err)
{
    if (!opts->auth || !opts->store || !opts->queue || !opts->logins || !opts->guests || !opts->hostname.n ||
        opts->hostname.n > SMTP_DOMAIN_MAX) {
        (void)err_set(
            err, ERR_INVALID,
            "the SMTP server needs a hostname, the lists of logins and guests, and the auth, store and queue services");
        return NULL;
    }
    struct smtp_server *s = xnew(struct smtp_server);
    s->magic = SMTP_SERVER_MAGIC;
    s->opts = *opts;
    fill_in(&s->opts.limits);
    if (!s->opts.message_max)
        s->opts.message_max = MESSAGE_MAX_DEFAULT;
    if (!s->opts.recipients_max || s->opts.recipients_max > RECIPIENTS_MAX)
        s->opts.recipients_max = RECIPIENTS_MAX;
    s->opts.hostname = str_c(str_dup(opts->hostname));
    /* then auth knows who that is */
    s->opts.postmaster = str_c(str_dup(opts->postmaster.n ? opts->postmaster : S("postmaster")));
    s->resolver = resolver_new(opts->auth, NULL);
    if (opts->changes)
        dir_watch_add(opts->changes, &s->changes, on_changes, s);
    list_init(&s->sessions);
    return s;
}

void smtp_server_free(struct smtp_server *s)
{
    if (!s)
        return;
    CHECK(s, SMTP_SERVER_MAGIC);
    assert(list_empty(&s->sessions));
    dir_watch_remove(&s->changes);
    resolver_free(s->resolver);
    free((char *)(uintptr_t)s->opts.hostname.p);
    free((char *)(uintptr_t)s->opts.postmaster.p);
    s->magic = 0;
    free(s);
}

unsigned smtp_server_sessions(const struct smtp_server *s)
{
    return s->n_sessions;
}

/* Sessions that wait for a command, and (all) those that do so inside of a transaction. */
static void end_idle(struct smtp_server *s, bool all)
{
    LIST_EACH(&s->sessions, n)
    {
        struct smtp_session *one = LIST_ITEM(n, struct smtp_session, node);
        if (!one->is_busy && (all || !one->txn))
            smtp_session_end(one, SMTP_CLOSE_DRAIN, SMTP_SHUTDOWN);
    }
}

static void break_off(struct smtp_server *s)
{
    s->phase = SMTP_BREAKING;
    end_idle(s, true);
    LIST_EACH(&s->sessions, n)
    {
        struct smtp_session *one = LIST_ITEM(n, struct smtp_session, node);
        if (one->fiber)
            fiber_cancel(one->fiber);
    }
}

void smtp_server_drain(struct smtp_server *s)
{
    CHECK(s, SMTP_SERVER_MAGIC);
    struct err err = ERR_INIT;
    assert(!s->drainer);
    s->drainer = fiber_self();
    s->phase = SMTP_DRAINING;
    end_idle(s, false);
    while (s->n_sessions && fiber_wait(&err))
        ;
    if (s->n_sessions)
        break_off(s);
    while (s->n_sessions) /* their fibers unwind, whatever our own deadline says */
        fiber_wait_uninterrupted();
    s->drainer = NULL;
}

void smtp_accept_mx(void *server, struct stream *s)
{
    smtp_session_start(server, SMTP_KIND_MX, s);
}

void smtp_accept_submission(void *server, struct stream *s)
{
    smtp_session_start(server, SMTP_KIND_SUBMISSION, s);
}

void smtp_accept_lmtp(void *server, struct stream *s)
{
    smtp_session_start(server, SMTP_KIND_LMTP, s);
}
