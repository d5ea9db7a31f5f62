/*
 * session.h: one connection, and the command that it runs. Shared by the files of the front-end.
 */
#ifndef FRONTEND_IMAP_SESSION_H
#define FRONTEND_IMAP_SESSION_H

#include "proto/auth.pb-c.h"
#include "proto/store.pb-c.h"

#include "base/arena.h"
#include "base/buf.h"
#include "base/map.h"
#include "fiber/fiber.h"
#include "frontend/common/guests.h"
#include "frontend/common/leases.h"
#include "frontend/common/logins.h"
#include "frontend/common/user_account.h"
#include "frontend/common/watch.h"
#include "frontend/imap/imap.h"
#include "frontend/imap/uid_map.h"
#include "rpc/call.h"

#define IMAP_SESSION_MAGIC 0x696d6170u
/* backstop; what goes in is bounded by the limits and by 1 MiB replies */
#define IMAP_COMMAND_ARENA (64u << 20)
#define IMAP_OWN_CHANGES 16u
#define IMAP_RANGES_MAX 10000u /* of one request (common.proto) */

/* Why a session ended: name for log and metric, and the BYE text (NULL: none is sent). */
#define IMAP_ENDS(X)                                                                                                   \
    X(CLIENT, "closed", NULL)                                                                                          \
    X(LOGOUT, "logout", NULL)                                                                                          \
    X(BROKEN, "broken", NULL)                                                                                          \
    X(IDLE, "idle_timeout", "Too long idle.")                                                                          \
    X(AUTH_TIMEOUT, "auth_timeout", "No login in time.")                                                               \
    X(TIMEOUT, "command_timeout", "Command took too long.")                                                            \
    X(BAD_COMMANDS, "bad_commands", "Too many invalid commands.")                                                      \
    X(AUTH_FAILURES, "auth_failures", "Too many failed logins.")                                                       \
    X(LIMIT, "limit", "A limit was exceeded.")                                                                         \
    X(LITERAL, "literal_size", "Out of step after a literal.")                                                         \
    X(BUSY, "busy", "[UNAVAILABLE] Too busy, try again later.")                                                        \
    X(DRAIN, "drain", "[UNAVAILABLE] Server going down, come back.")                                                   \
    X(LOGIN, "login_ended", "[AUTHENTICATIONFAILED] Your password or account has changed, log in again.")              \
    X(MAILBOX_GONE, "mailbox_gone", "The selected mailbox is gone.")                                                   \
    X(TLS, "tls", NULL)
enum imap_end {
    IMAP_END_NONE,
#define IMAP_END_(id, name, text) IMAP_END_##id,
    IMAP_ENDS(IMAP_END_)
#undef IMAP_END_
};

/* States of RFC 3501 3, as bits for the command table. */
enum imap_state { IMAP_NEW = 1, IMAP_AUTH = 2, IMAP_SELECTED = 4 };

/* The open mailbox, as the client knows it. */
struct imap_view {
    int64_t mailbox_id;
    uint32_t uidvalidity;
    bool is_readonly, is_inbox; /* inbox: when it was opened; RENAME takes the name from it and leaves a new one */
    struct uid_map uids;
    uint64_t modseq;        /* everything up to here was told */
    struct uid_map recents; /* those of uids that are \Recent for this session */
    char **keywords;        /* that were announced beside the usual ones */
    unsigned n_keywords, keywords_room;
    struct map announced;  /* them and the usual ones, in small letters */
    bool is_keywords_full; /* PERMANENTFLAGS offers no new ones */
    /* Modseqs of this session's own changes, told already by the command that made them. */
    struct {
        uint64_t first, last;
    } own[IMAP_OWN_CHANGES];
    unsigned n_own; /* counts on; the newest IMAP_OWN_CHANGES are there */
};

struct imap_server;
struct imap_session {
    uint32_t magic;
    struct imap_server *server;
    struct list_node node; /* in server->sessions */
    uint64_t id;
    struct stream *stream;    /* NULL once it is being closed */
    struct fiber *fiber;      /* that runs its commands; NULL while idle */
    struct fiber_timer timer; /* while idle: the login's or the silence's end */
    struct fiber_timer again; /* in IDLE, after the store did not answer: when it is asked again */
    unsigned again_ms;        /* about how long that is; 0: it answered */
    enum imap_state state;
    enum imap_end end;            /* set: close when the command is done */
    bool has_condstore, is_dirty; /* dirty: the account changed since the last sync */
    bool is_behind;               /* … which the store did not answer */
    bool is_starting;             /* a fiber was spawned and has not run yet */
    bool has_lease;
    char *idle_tag; /* in IDLE: its tag */
    char *login;
    struct login login_check; /* in server->opts.logins */
    struct guest guest;       /* in server->opts.guests, while a fiber runs before the login */
    Thurn__AccountRef account;
    uint64_t listed_modseq; /* of the account, when its mailboxes were last listed */
    uint64_t beacon_modseq; /* newest beacon */
    uint64_t synced_modseq; /* of the account: changes up to here are no news for the view */
    struct watch_sub watch;
    struct imap_view *view; /* IMAP_SELECTED */
    int64_t began_mono_ms;
    uint32_t commands, bad_in_row, auth_failures;
};

/* What a call named that failed: the columns of failures.def. */
enum imap_at { IMAP_AT_MAILBOX, IMAP_AT_DESTINATION, IMAP_AT_ACCOUNT, IMAP_AT_BODY, IMAP_AT_LOGIN, IMAP_ATS_ };

/* One command while it runs. All of it lives in the arena. */
struct imap_command {
    const struct imap_command_def *def;
    struct arena *arena;
    str tag, name;
    bool is_uid;        /* UID FETCH, … */
    struct cursor args; /* after the name; literals are in place: "{5}\r\nhello" */
    /* The last literal was left unread (APPEND): its size, and whether the client waits for "+". */
    uint64_t literal;
    bool has_literal, is_sync_literal;
    /* The tagged reply. code: "TRYCREATE" and the like, without brackets; empty = none (or from the error's kind). */
    str code;
    enum imap_at at; /* of the call that failed: gives the code when none is set */
    str text;        /* of OK; empty = the standard text */
    bool is_bad;     /* failed because of the client's syntax: BAD */
    bool is_silent;  /* the handler wrote the tagged reply itself, or none is due yet (IDLE) */
};

typedef FIBER bool (*imap_handler)(struct imap_session *s, struct imap_command *c, struct err *err);
/* Flags of commands.def. */
enum {
    IMAP_MAY_UID = 1,      /* has a UID form */
    IMAP_NO_EXPUNGE = 2,   /* no EXPUNGE responses while it runs, unless it came as UID (RFC 3501 7.4.1) */
    IMAP_STREAMS = 4,      /* its last literal is read by the handler */
    IMAP_TRANSFERS = 8,    /* bodies or whole mailboxes: may take transfer_ms */
    IMAP_ALWAYS_SYNC = 16, /* asks the store for changes even when no beacon came */
    IMAP_NO_SYNC = 32      /* nothing to tell after it */
};
struct imap_command_def {
    const char *name;
    imap_handler handler;
    unsigned states, flags;
};
const struct imap_command_def *imap_command_find(str name);

struct imap_server {
    uint32_t magic;
    struct imap_opts opts;
    char *hostname;
    struct list sessions;
    unsigned n_sessions;
    uint64_t next_session;
    bool is_draining;
    struct watch *watch;
    struct fiber_cond ended; /* a session went away */
    struct fiber *drainer;   /* waits for the last ones */
    char holder[40];         /* of leases: this process */
    struct leases *leases;
    struct imap_recents *recents;
};

/* --- session.c --- */
/* End the session after the current command. */
void imap_end(struct imap_session *s, enum imap_end why);
/* Run a fiber for an idle session: input arrived, or the account changed. From the loop or another fiber. */
void imap_wake(struct imap_session *s);
/* The same for a client in IDLE that is to be told of changes; while the store does not answer, at the pace of `again`.
 */
void imap_wake_to_push(struct imap_session *s);
/* The login that the session stands on is no longer good: end it, also inside of a command or of IDLE. arg is the
 * session. */
void imap_login_ended(void *arg);
bool imap_may_login(const struct imap_session *s);
/* Bytes of one line: little before the login, then what the longest sets need. */
size_t imap_line_max(const struct imap_session *s);
/* "IMAP4rev1 …" as it is now. */
void imap_add_capabilities(const struct imap_session *s, struct buf *out);

/* --- output --- */
FIBER bool imap_write(struct imap_session *s, str bytes, struct err *err) WARN_UNUSED;
/* What was gathered in b. When it did not fit there, the session ends: a reply with a hole is none. */
FIBER bool imap_write_buf(struct imap_session *s, const struct buf *b, struct err *err) WARN_UNUSED;
FIBER bool imap_printf(struct imap_session *s, struct err *err, const char *fmt, ...) PRINTF(3, 4) WARN_UNUSED;
static inline bool imap_is_broken(const struct imap_session *s)
{
    return s->end == IMAP_END_BROKEN;
}

/* --- failures --- */
/* A syntax error: BAD. Always false. */
bool imap_bad(struct imap_command *c, struct err *err, const char *text);
/* NO with a response code of our own ("NONEXISTENT"). Always false. */
bool imap_no(struct imap_command *c, struct err *err, enum err_kind kind, const char *code, const char *text);
/* The failure of a service call becomes the command's. Always false. */
bool imap_failed(struct imap_command *c, enum imap_at at, const struct rpc_call *call, struct err *err);
/* The tagged reply of a failed command. */
FIBER bool imap_send_failure(struct imap_session *s, struct imap_command *c, const struct err *why, struct err *err)
    WARN_UNUSED;

/* --- store calls --- */
/* Prepare a call on behalf of the session's account. */
void imap_call(struct imap_session *s, struct rpc_call *call, struct arena *a);
/* After CONFLICT: ask the directory where the account is now. True when it moved, so that the call makes sense again.
 */
FIBER bool imap_relocated(struct imap_session *s, struct rpc_call *call);
/* STORE_CALL(s, &call, store_fetch, &request, &reply): the call, again after the account moved. */
#define STORE_CALL(s, call, method, request, reply)                                                                    \
    (method((call), (s)->server->opts.store, (request), (reply)) ||                                                    \
     (imap_relocated((s), (call)) && method((call), (s)->server->opts.store, (request), (reply))))

/* RFC 7162 3.1: from now on this client gets MODSEQ. With a mailbox open it is told where that stands. */
FIBER bool imap_enable_condstore(struct imap_session *s, struct err *err) WARN_UNUSED;

#endif
