/*
 * session.h: one SMTP or LMTP connection, and the transaction that it may be in.
 *
 * Life. The accept callback greets and lets the stream idle. When a whole line is there a fiber starts, which runs
 * commands for as long as whole lines are in the input, sends what they answered in one write, and ends. While no fiber
 * runs, the timer says when the peer was silent for too long; a line that passes its limit is dropped as it comes.
 * Whoever wants the session to end sets `close`; it is closed by its own fiber, or, when it has none, by whoever
 * noticed.
 */
#ifndef FRONTEND_SMTP_SESSION_H
#define FRONTEND_SMTP_SESSION_H

#include "base/clock.h"
#include "base/limits.h"
#include "base/list.h"
#include "base/log.h"
#include "base/metrics.h"
#include "frontend/common/guests.h"
#include "frontend/common/logins.h"
#include "frontend/common/dir_watch.h"
#include "frontend/common/resolver.h"
#include "frontend/common/sasl.h"
#include "frontend/smtp/body.h"
#include "frontend/smtp/parse.h"
#include "frontend/smtp/smtp.h"
#include "mail/delivery_key.h"

#define SMTP_SERVER_MAGIC 0x53e20001u
#define SMTP_SESSION_MAGIC 0x53e20002u
/* of one message after alias expansion: what one Enqueue or Deliver takes */
#define SMTP_TARGETS_MAX 1000u
#define SMTP_TXN_ARENA_MAX ((size_t)8 << 20)

enum smtp_kind { SMTP_KIND_MX, SMTP_KIND_SUBMISSION, SMTP_KIND_LMTP, SMTP_KINDS_ };

enum smtp_close {
    SMTP_OPEN,
#define CLOSE(id, text) SMTP_CLOSE_##id,
#include "frontend/smtp/close.def"
#undef CLOSE
    SMTP_CLOSES_
};

struct smtp_server {
    uint32_t magic;
    struct smtp_opts opts; /* strings are owned */
    struct resolver *resolver;
    struct dir_sub changes;
    struct list sessions;
    unsigned n_sessions, n_of_kind[SMTP_KINDS_];
    enum { SMTP_SERVING, SMTP_DRAINING, SMTP_BREAKING } phase;
    struct fiber *drainer; /* woken when a session has ended */
};

struct smtp_rcpt {
    str address;  /* normalized, without routes */
    str original; /* ORCPT, or empty */
    unsigned notify;
    struct resolved *resolved; /* a reference; NULL: relayed to another host */
};

struct smtp_txn {
    struct arena arena;
    struct smtp_mail_args mail;
    str sender;              /* domain as A-label; empty: null sender */
    struct smtp_rcpt *rcpts; /* in the arena */
    size_t n_rcpts, rcpts_room;
    size_t n_targets; /* over all recipients, after expansion */
    int64_t started_ms;
    unsigned char enqueue_id[ENQUEUE_ID_SIZE];
    char id[17];     /* the first half of it, what logs and replies call the message */
    uint64_t trace;  /* the same as a number */
    bool is_granted; /* the sending limit was asked */
    bool has_chunks; /* BDAT began */
    unsigned n_chunks;
    struct smtp_chunks chunks;
    struct smtp_body body;
};

struct smtp_login {
    int64_t account_id, tenant_id;
    char *address; /* owned; NULL: nobody has logged in */
    bool may_send;
};

/* What AUTH waits for. */
enum smtp_auth_step { AUTH_STEP_NONE, AUTH_STEP_PLAIN, AUTH_STEP_USER, AUTH_STEP_PASSWORD };
struct smtp_auth {
    enum smtp_auth_step step;
    char *user;            /* AUTH_STEP_PASSWORD: the answer before, base64; owned */
    int64_t until_mono_ms; /* of the whole exchange */
};

struct smtp_session {
    uint32_t magic;
    enum smtp_kind kind;
    struct smtp_server *server;
    struct list_node node;
    struct stream *stream;
    bool is_busy;             /* a fiber runs commands, or is about to */
    struct fiber *fiber;      /* that one, once it runs */
    struct fiber_timer timer; /* while idle */
    size_t skipped;           /* bytes dropped of a line that is too long; 0: no such line is coming in */
    uint64_t id;
    int64_t started_ms;
    enum smtp_close close;
    bool is_esmtp;    /* EHLO or LHLO */
    bool is_admitted; /* the peer's session limit was asked */
    char *helo;       /* what the client calls itself; NULL before HELO */
    char *helo_host;  /* the same when it is a host name or an address literal, in ASCII; else NULL */
    struct smtp_auth auth;
    struct smtp_login login;
    struct login login_check; /* in opts.logins */
    struct guest guest;       /* in opts.guests, while a fiber runs before the login */
    bool is_login_over;       /* no longer good: nothing more is taken under it */
    struct smtp_txn *txn;     /* NULL: no MAIL yet */
    unsigned commands, bad, junk, unknown, auth_failures, overshoot, messages;
};

/* --- session.c --- */
/* Greet and wait. Runs on the loop. */
void smtp_session_start(struct smtp_server *server, enum smtp_kind kind, struct stream *stream);
/* End an idle session: why, and what it is told (may be SMTP_REPLY_NONE). Frees s. */
void smtp_session_end(struct smtp_session *s, enum smtp_close why, enum smtp_reply goodbye);
/* The login that the session stands on is no longer good. arg is the session. */
void smtp_login_ended(void *arg);
/* Write a reply; when the peer is gone s->close is set instead. */
FIBER void smtp_say(struct smtp_session *s, enum smtp_reply r);
FIBER void smtp_say_text(struct smtp_session *s, str text);
FIBER void smtp_sayf(struct smtp_session *s, const char *fmt, ...) PRINTF(2, 3);
/* The same for a mistake: it counts, is answered late after some, and ends the session after more. */
FIBER void smtp_mistake(struct smtp_session *s, enum smtp_reply r);
/* Say it and end the session. */
FIBER void smtp_say_last(struct smtp_session *s, enum smtp_reply r, enum smtp_close why);
/* A read or write on the session's stream failed. */
void smtp_lost(struct smtp_session *s, const struct err *err);
/* A line of at most max bytes; false: s->close is set, or the line was answered as a mistake (*line is unset). */
FIBER bool smtp_read_line(struct smtp_session *s, size_t max, str *line);
/* The next line is the client's answer in an AUTH exchange (s->auth.step): go on with it. */
FIBER void smtp_auth_answer(struct smtp_session *s);
/* An arena call as this session: principal, trace. */
void smtp_call_init(struct smtp_session *s, struct rpc_call *call, struct arena *a);
bool smtp_login_allowed(const struct smtp_session *s); /* AUTH may be used now */
static inline const struct smtp_limits *smtp_limits(const struct smtp_session *s)
{
    return &s->server->opts.limits;
}

/* --- txn.c --- */
struct smtp_txn *smtp_txn_new(void);
void smtp_txn_free(struct smtp_txn *t);
/* Add a recipient. It takes over the reference. */
void smtp_txn_add(struct smtp_txn *t, const struct smtp_rcpt *r);
/* Forget the transaction. */
void smtp_reset(struct smtp_session *s);
void smtp_forget_hello(struct smtp_session *s);

/* --- take.c --- */
/* Ask auth for cost of a limit. With auth away: granted when fail_open, else not. */
FIBER bool smtp_take(struct smtp_session *s, enum limit limit, str key, uint32_t cost, bool fail_open);
/* The same, keyed by the peer's address; loopback and Unix sockets are not limited. */
FIBER bool smtp_take_peer(struct smtp_session *s, enum limit limit);

/* --- the commands: args is what follows the verb, a view of the input --- */
#define CMD(verb, handler, flags) FIBER void smtp_cmd_##handler(struct smtp_session *s, enum smtp_verb verb, str args);
CMD(, hello, )
CMD(, mail, )
CMD(, rcpt, )
CMD(, data, )
CMD(, bdat, )
CMD(, rset, )
CMD(, noop, )
CMD(, quit, )
CMD(, starttls, )
CMD(, auth, )
CMD(, vrfy, )
CMD(, expn, )
CMD(, help, )
CMD(, foreign, )
#undef CMD

#endif
