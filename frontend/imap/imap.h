/*
 * imap.h: the IMAP front-end (RFC 3501 with the extensions that CAPABILITY names).
 *
 * A server holds the sessions of one process. Listeners hand connections to imap_accept. A session is a small struct
 * and a stream: between commands, and in IDLE, it has no fiber. When a whole line has arrived, a fiber runs the
 * commands that are there and goes away. Changes by others come through one watcher (frontend/common/watch.h).
 *
 * All mail state is the store's. What a session keeps of its mailbox is which UIDs the client knows, as ranges.
 */
#ifndef FRONTEND_IMAP_IMAP_H
#define FRONTEND_IMAP_IMAP_H

#include <protobuf-c/protobuf-c.h>

#include "net/stream.h"

/* Where passwords may cross in the clear. */
enum imap_plain {
    IMAP_PLAIN_NEVER,    /* only under TLS; LOGINDISABLED before */
    IMAP_PLAIN_LOOPBACK, /* also on connections from this machine */
    IMAP_PLAIN_ALWAYS
};

/* Zero means the default. */
struct imap_limits {
    size_t line_bytes;      /* one line; 512 KiB, of which 16 before the login */
    size_t command_bytes;   /* a whole command with its literals, an APPEND's message not counted; 256 KiB */
    uint64_t message_bytes; /* a message in APPEND; 50 MiB. Announced as APPENDLIMIT. */
    unsigned bad_commands;  /* in a row, then BYE; 20 */
    unsigned auth_failures; /* of one session, then BYE; 5 */
    unsigned auth_ms;       /* from the connection to a login, and each command until then; 60 s */
    unsigned idle_ms;       /* silence after login; 30 min (RFC 3501 5.4 asks for no less) */
    unsigned command_ms;    /* one command, but for transfers of bodies; 5 min */
    unsigned transfer_ms;   /* a command that moves bodies; 60 min */
    unsigned min_rate;      /* bytes a second of a message that the client sends; 500 */
    unsigned sessions;      /* of this process; 100,000 */
};

struct imap_opts {
    str hostname; /* for the greeting; copied */
    ProtobufCService *auth, *store;
    str holder;             /* of leases of sessions, at most 39 bytes: this process; empty = made up. Copied */
    struct logins *logins;  /* of all front-ends of this process; outlives the server */
    struct guests *guests;  /* likewise */
    struct tls_server *tls; /* for STARTTLS; NULL = not offered. Outlives the server. */
    enum imap_plain plain;
    struct imap_limits limits;
};

struct guests;
struct logins;
struct imap_server;
struct imap_server *imap_server_new(const struct imap_opts *opts);
/* A listener's accept callback (arg is the server): takes over the stream. */
void imap_accept(void *server, struct stream *s);
unsigned imap_server_sessions(const struct imap_server *server);
/*
 * Say BYE to every session, idle ones spread over window_ms, running ones after their command; new connections are
 * turned away. Returns when none is left, or at the fiber's deadline, when the rest is dropped.
 */
FIBER void imap_server_drain(struct imap_server *server, unsigned window_ms);
/* After imap_server_drain. Takes NULL. */
FIBER void imap_server_free(struct imap_server *server);

#endif
