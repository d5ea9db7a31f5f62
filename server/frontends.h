/*
 * frontends.h: the protocol servers of a process and the sockets they listen on.
 */
#ifndef SERVER_FRONTENDS_H
#define SERVER_FRONTENDS_H

#include "net/http_server.h"
#include "server/node.h"

struct dir_watch;
struct guests;
struct logins;
struct smtp_server;
struct imap_server;
#define FRONTENDS_LISTENERS_MAX 64
#define FRONTENDS_ADDRESSES_MAX 8 /* of one kind */

/* The listeners of the mail protocols and of HTTP, in one order for parents that bind and workers that inherit. */
// clang-format off
enum frontend_kind {
    FRONTEND_SMTP, FRONTEND_SUBMISSION, FRONTEND_SUBMISSIONS, FRONTEND_LMTP, FRONTEND_IMAP, FRONTEND_IMAPS,
    FRONTEND_HTTP, FRONTEND_HTTPS,
    FRONTENDS_
};
// clang-format on
extern const struct frontend_listen {
    const char *name;
    enum config_id setting;
    bool has_tls; /* from the first byte */
} frontend_listens[FRONTENDS_];

struct frontends {
    struct node *node;
    struct tls_server *tls;
    struct dir_watch *changes;
    struct logins *logins;
    struct guests *guests;
    struct smtp_server *smtp;
    struct imap_server *imap;
    struct http_server *http;
    struct listener *listeners[FRONTENDS_LISTENERS_MAX];
    size_t n_listeners;
    struct net_cidr *proxy_from;
    size_t n_proxy_from;
};

/* A socket that listens already: a process binds them all before it touches a database; a worker has them from its
 * parent. */
struct frontend_socket {
    enum frontend_kind kind;
    int fd; /* -1 once a listener has it */
};

/* Make the servers of this process: the mail protocols when it has the frontend role and serves_mail (a parent of
 * workers does not). http serves what server/health.h says. */
FIBER bool frontends_open(struct frontends *f, struct node *node, struct http_server *http, bool serves_mail,
                          struct err *err) WARN_UNUSED;
/* Bind what the settings say for the kinds from first to last; appended to out, which has room for
 * FRONTENDS_LISTENERS_MAX and is the caller's to close, also after a failure. Errors: INVALID, UNAVAILABLE with what to
 * do. */
bool frontends_bind(const struct config *c, enum frontend_kind first, enum frontend_kind last,
                    struct frontend_socket *out, size_t *n, struct err *err) WARN_UNUSED;
/* Accept on those of the kinds from first to last. */
FIBER bool frontends_listen(struct frontends *f, enum frontend_kind first, enum frontend_kind last,
                            struct frontend_socket *sockets, size_t n, struct err *err) WARN_UNUSED;
/* The addresses of one kind from the settings, port offset added. */
bool frontends_addresses(const struct config *c, enum frontend_kind kind, struct net_addr *out, size_t *n,
                         struct err *err) WARN_UNUSED;
/* Whether a process can serve with these settings: settings_check, the listeners, the certificates. Binds nothing. */
bool frontends_check(const struct config *c, struct err *err) WARN_UNUSED;
/* Whether all its TCP listeners could be bound now. UNAVAILABLE: says which cannot, and who is there. */
bool frontends_probe(const struct config *c, struct err *err) WARN_UNUSED;
/* Stop accepting, say goodbye to idle sessions, wait for the rest until the fiber's deadline. */
FIBER void frontends_drain(struct frontends *f);
FIBER void frontends_close(struct frontends *f);

/* tls.certificates, or the self-signed certificate in the data folder, made if missing. */
struct tls_server *frontends_tls(const struct config *c, const char *data, struct err *err) WARN_UNUSED;

#endif
