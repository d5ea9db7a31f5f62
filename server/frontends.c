#include "server/frontends.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "frontend/common/dir_watch.h"
#include "frontend/common/guests.h"
#include "frontend/common/logins.h"
#include "frontend/imap/imap.h"
#include "frontend/smtp/smtp.h"
#include "server/folder.h"
#include "server/settings.h"

const struct frontend_listen frontend_listens[FRONTENDS_] = {
    [FRONTEND_SMTP] = {"smtp", CFG_LISTEN_SMTP, false},
    [FRONTEND_SUBMISSION] = {"submission", CFG_LISTEN_SUBMISSION, false},
    [FRONTEND_SUBMISSIONS] = {"submissions", CFG_LISTEN_SUBMISSIONS, true},
    [FRONTEND_LMTP] = {"lmtp", CFG_LISTEN_LMTP, false},
    [FRONTEND_IMAP] = {"imap", CFG_LISTEN_IMAP, false},
    [FRONTEND_IMAPS] = {"imaps", CFG_LISTEN_IMAPS, true},
    [FRONTEND_HTTP] = {"http", CFG_LISTEN_HTTP, false},
    [FRONTEND_HTTPS] = {"https", CFG_LISTEN_HTTPS, true},
};

#define CERTIFICATES_MAX 256

static bool self_signed(const struct config *c, const char *data, struct tls_cert_files *out, struct arena *a,
                        struct err *err)
{
    str folder = arena_printf(a, "%s/tls", data);
    out->certificate = arena_printf(a, "%s/tls/self-signed.pem", data);
    out->key = arena_printf(a, "%s/tls/self-signed.key", data);
    if (access(out->certificate.p, R_OK) == 0 && access(out->key.p, R_OK) == 0)
        return true;
    char *host = arena_strz(a, config_str(c, CFG_HOSTNAME));
    const char *names[] = {host, "localhost", "127.0.0.1", "::1"};
    return folder_make(folder.p, err) && tls_make_self_signed(names, ARRAY_LEN(names), out->certificate, out->key, err);
}

/* The certificates of these settings, or the self-signed one; *out lives in a. */
static bool tls_options(const struct config *c, const char *data, struct tls_server_opts *out, struct arena *a,
                        struct err *err)
{
    struct tls_cert_files *files = arena_array(a, struct tls_cert_files, CERTIFICATES_MAX);
    size_t n;
    const str *pairs = config_list(c, CFG_TLS_CERTIFICATES, &n);
    if (n > CERTIFICATES_MAX)
        return config_complain(c, CFG_TLS_CERTIFICATES, err, "has more than %d pairs", CERTIFICATES_MAX);
    for (size_t i = 0; i < n; i++) {
        str rest = str_trim(pairs[i]);
        if (!str_split(&rest, ' ', &files[i].certificate) || !str_trim(rest).n)
            return config_complain(c, CFG_TLS_CERTIFICATES, err, "wants pairs \"CERTIFICATE.pem KEY.pem\", not '%.*s'",
                                   (int)MIN(pairs[i].n, (size_t)60), pairs[i].p);
        files[i].key = str_trim(rest);
    }
    if (!n && !self_signed(c, data, &files[n++], a, err))
        return false;
    *out = (struct tls_server_opts){.certs = files, .n_certs = n, .allows_cbc = config_bool(c, CFG_TLS_CBC)};
    return true;
}

struct tls_server *frontends_tls(const struct config *c, const char *data, struct err *err)
{
    ARENA(a, 1 << 20);
    struct tls_server_opts opts;
    return tls_options(c, data, &opts, &a, err) ? tls_server_new(&opts, err) : NULL;
}

/* limits.allow_plain_login: 0 never, 1 loopback, 2 always. */
static int plain_login(const struct config *c)
{
    str s = config_str(c, CFG_PLAIN_LOGIN);
    return str_eq(s, S("always")) ? 2 : str_eq(s, S("loopback")) ? 1 : 0;
}

static bool has_room(void *arg)
{
    struct err err = ERR_INIT;
    return disk_room_take(arg, "mail", &err); /* the answer says enough */
}

static bool open_mail(struct frontends *f, struct err *err)
{
    const struct config *c = f->node->config;
    str domain = config_str(c, CFG_DEFAULT_DOMAIN);
    BUF(postmaster, 512);
    if (domain.n)
        buf_printf(&postmaster, "postmaster@%.*s", STR_ARG(domain));
    f->changes = dir_watch_new(f->node->auth_service);
    f->logins = logins_new(f->node->auth_service, f->changes, 0);
    f->guests = guests_new(NULL, (unsigned)config_int(c, CFG_BUSY_PER_IP));
    struct smtp_opts smtp = {
        .hostname = config_str(c, CFG_HOSTNAME),
        .postmaster = buf_str(&postmaster),
        .auth = f->node->auth_service,
        .store = f->node->store_service,
        .queue = f->node->queue_service,
        .logins = f->logins,
        .guests = f->guests,
        .changes = f->changes,
        .tls = f->tls,
        .plain_login = plain_login(c),
        .message_max = (uint64_t)config_int(c, CFG_MESSAGE_MAX),
        .recipients_max = (unsigned)config_int(c, CFG_RECIPIENTS_MAX),
        .keeps_bcc = config_bool(c, CFG_KEEP_BCC),
        .has_room = has_room,
        .room = f->node->room,
    };
    struct imap_opts imap = {
        .hostname = config_str(c, CFG_HOSTNAME),
        .holder = str_c(getenv("THURN_HOLDER")), /* in a worker; the parent gives back what is in this name */
        .auth = f->node->auth_service,
        .store = f->node->store_service,
        .logins = f->logins,
        .guests = f->guests,
        .tls = f->tls,
        .plain = (enum imap_plain)plain_login(c),
        .limits = {.message_bytes = (uint64_t)config_int(c, CFG_MESSAGE_MAX),
                   .idle_ms = (unsigned)config_int(c, CFG_IMAP_IDLE)},
    };
    f->smtp = smtp_server_new(&smtp, err);
    if (!f->smtp)
        return false;
    f->imap = imap_server_new(&imap);
    return true;
}

bool frontends_open(struct frontends *f, struct node *node, struct http_server *http, bool serves_mail, struct err *err)
{
    *f = (struct frontends){.node = node, .http = http};
    const struct config *c = node->config;
    size_t n;
    const str *nets = config_list(c, CFG_PROXY_FROM, &n);
    f->proxy_from = xcalloc(n, sizeof(*f->proxy_from));
    for (; f->n_proxy_from < n; f->n_proxy_from++)
        if (!net_cidr_parse(nets[f->n_proxy_from], &f->proxy_from[f->n_proxy_from], err))
            return err_prefix(err, "listen.proxy_protocol_from");
    (void)config_list(c, CFG_LISTEN_HTTPS, &n);
    bool is_frontend = (node->roles & ROLE_FRONTEND_BIT) != 0;
    if (!is_frontend && !n)
        return true;
    f->tls = frontends_tls(c, node->data, err);
    return f->tls && (!is_frontend || !serves_mail || open_mail(f, err));
}

bool frontends_addresses(const struct config *c, enum frontend_kind kind, struct net_addr *out, size_t *n,
                         struct err *err)
{
    size_t count;
    const str *list = config_list(c, frontend_listens[kind].setting, &count);
    int64_t offset = config_int(c, CFG_PORT_OFFSET);
    if (count > FRONTENDS_ADDRESSES_MAX)
        return config_complain(c, frontend_listens[kind].setting, err, "has more than %d addresses",
                               FRONTENDS_ADDRESSES_MAX);
    for (size_t i = 0; i < count; i++) {
        struct err bad = ERR_INIT;
        bool is_exact = str_starts(list[i], S("="));
        if (!net_addr_parse(str_slice(list[i], is_exact, SIZE_MAX), &out[i], &bad))
            return config_complain(c, frontend_listens[kind].setting, err, "has %s", bad.msg);
        if (net_addr_is_unix(&out[i]) || is_exact)
            continue;
        int64_t port = net_addr_port(&out[i]) + offset;
        if (port > 65535)
            return config_complain(c, CFG_PORT_OFFSET, err, "makes port %lld of listen.%s, above 65535",
                                   (long long)port, frontend_listens[kind].name);
        net_addr_set_port(&out[i], (uint16_t)port);
    }
    *n = count;
    return true;
}

/* Who takes over the connections of a kind. */
static void set_accept(struct frontends *f, enum frontend_kind kind, struct listener_opts *opts)
{
    switch (kind) {
    case FRONTEND_SMTP:
        opts->accept = smtp_accept_mx;
        opts->arg = f->smtp;
        opts->refuse_text = S("421 4.3.2 too many connections, try again later\r\n");
        break;
    case FRONTEND_SUBMISSION:
    case FRONTEND_SUBMISSIONS:
        opts->accept = smtp_accept_submission;
        opts->arg = f->smtp;
        opts->refuse_text = S("421 4.3.2 too many connections, try again later\r\n");
        break;
    case FRONTEND_LMTP:
        opts->accept = smtp_accept_lmtp;
        opts->arg = f->smtp;
        opts->refuse_text = S("421 4.3.2 too many connections, try again later\r\n");
        break;
    case FRONTEND_IMAP:
    case FRONTEND_IMAPS:
        opts->accept = imap_accept;
        opts->arg = f->imap;
        opts->refuse_text = S("* BYE [LIMIT] too many connections, try again later\r\n");
        break;
    default:
        opts->accept = http_server_accept;
        opts->arg = f->http;
        opts->refuse_text = S("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        break;
    }
    if (frontend_listens[kind].has_tls)
        opts->refuse_text = STR_NONE; /* nothing may be said before the handshake */
}

bool frontends_bind(const struct config *c, enum frontend_kind first, enum frontend_kind last,
                    struct frontend_socket *out, size_t *n, struct err *err)
{
    for (enum frontend_kind kind = first; kind <= last; kind++) {
        struct net_addr addrs[FRONTENDS_ADDRESSES_MAX];
        size_t count;
        if (!frontends_addresses(c, kind, addrs, &count, err))
            return false;
        for (size_t i = 0; i < count; i++) {
            int fd = listener_bind(&addrs[i], err);
            if (fd < 0)
                return err_prefix(err, "listen.%s", frontend_listens[kind].name);
            assert(*n < FRONTENDS_LISTENERS_MAX);
            out[(*n)++] = (struct frontend_socket){kind, fd};
        }
    }
    return true;
}

/* Each listener's share of the descriptors that this process may have, in percent: one that is full takes none from the
 * others. What is left is for databases, calls between processes and files. */
static const unsigned descriptor_shares[FRONTENDS_] = {
    [FRONTEND_SMTP] = 30, [FRONTEND_SUBMISSION] = 10, [FRONTEND_SUBMISSIONS] = 10, [FRONTEND_LMTP] = 5,
    [FRONTEND_IMAP] = 10, [FRONTEND_IMAPS] = 20,      [FRONTEND_HTTP] = 3,         [FRONTEND_HTTPS] = 2,
};

static unsigned connections_max(const struct config *c, enum frontend_kind kind)
{
    struct rlimit limit;
    size_t n;
    uint64_t most = (uint64_t)config_int(c, CFG_MAX_CONNECTIONS);
    (void)config_list(c, frontend_listens[kind].setting, &n);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        most = MIN(most, (uint64_t)limit.rlim_cur * descriptor_shares[kind] / 100 / MAX(n, (size_t)1));
    return (unsigned)MAX(most, (uint64_t)1);
}

static bool listen_one(struct frontends *f, struct frontend_socket *socket, struct err *err)
{
    const struct config *c = f->node->config;
    const struct frontend_listen *row = &frontend_listens[socket->kind];
    struct listener_opts opts = {
        .name = row->name,
        .inherited_fd = socket->fd,
        .implicit_tls = row->has_tls ? f->tls : NULL,
        .proxy_from = f->proxy_from,
        .n_proxy_from = socket->kind >= FRONTEND_HTTP ? 0 : f->n_proxy_from,
        .max_connections = connections_max(c, socket->kind),
        .max_per_ip = (unsigned)config_int(c, CFG_MAX_PER_IP),
    };
    set_accept(f, socket->kind, &opts);
    socket->fd = -1;
    struct listener *l = listener_start(&opts, err);
    if (!l)
        return err_prefix(err, "listen.%s", row->name);
    f->listeners[f->n_listeners++] = l;
    return true;
}

bool frontends_listen(struct frontends *f, enum frontend_kind first, enum frontend_kind last,
                      struct frontend_socket *sockets, size_t n, struct err *err)
{
    for (size_t i = 0; i < n; i++)
        if (sockets[i].kind >= first && sockets[i].kind <= last && !listen_one(f, &sockets[i], err))
            return false;
    return true;
}

void frontends_drain(struct frontends *f)
{
    for (size_t i = 0; i < f->n_listeners; i++)
        listener_stop(f->listeners[i]);
    if (f->smtp)
        smtp_server_drain(f->smtp);
    if (f->imap)
        imap_server_drain(f->imap, (unsigned)config_int(f->node->config, CFG_DRAIN_TIMEOUT) / 2);
}

void frontends_close(struct frontends *f)
{
    for (size_t i = 0; i < f->n_listeners; i++)
        listener_free(f->listeners[i]);
    smtp_server_free(f->smtp);
    imap_server_free(f->imap);
    logins_free(f->logins);
    dir_watch_free(f->changes);
    guests_free(f->guests);
    tls_server_free(f->tls);
    free(f->proxy_from);
    *f = (struct frontends){0};
}

/* Where this process is to listen, so far. */
struct taken {
    struct net_addr addrs[FRONTENDS_LISTENERS_MAX + NODE_RPC_LISTENERS_MAX];
    const char *names[FRONTENDS_LISTENERS_MAX + NODE_RPC_LISTENERS_MAX];
    size_t n;
};

static bool take(struct taken *t, const struct config *c, enum config_id id, const char *name,
                 const struct net_addr *addr, struct err *err)
{
    char text[NET_ADDR_TEXT_MAX];
    for (size_t i = 0; i < t->n; i++)
        if (net_addr_collides(&t->addrs[i], addr))
            return config_complain(c, id, err, "has %s, where the listener '%s' is already",
                                   net_addr_format(addr, text).p, t->names[i]);
    t->addrs[t->n] = *addr;
    t->names[t->n++] = name;
    return true;
}

static bool check_listeners(const struct config *c, unsigned roles, struct err *err)
{
    ARENA(a, 64 * 1024);
    struct taken *taken = arena_new(&a, struct taken);
    struct net_addr addrs[FRONTENDS_ADDRESSES_MAX];
    size_t n;
    const str *rpc = config_list(c, CFG_RPC_LISTEN, &n);
    for (size_t i = 0; i < n && i < NODE_RPC_LISTENERS_MAX; i++)
        if (!net_addr_parse(rpc[i], &addrs[0], err) || !take(taken, c, CFG_RPC_LISTEN, "rpc", &addrs[0], err))
            return false;
    for (enum frontend_kind kind = 0; kind < FRONTENDS_; kind++) {
        if (!frontends_addresses(c, kind, addrs, &n, err))
            return false;
        bool is_used = kind >= FRONTEND_HTTP || (roles & ROLE_FRONTEND_BIT);
        for (size_t i = 0; i < n && is_used; i++)
            if (!take(taken, c, frontend_listens[kind].setting, frontend_listens[kind].name, &addrs[i], err))
                return false;
    }
    return true;
}

bool frontends_probe(const struct config *c, struct err *err)
{
    unsigned roles;
    if (!settings_roles(c, &roles, err))
        return false;
    for (enum frontend_kind kind = 0; kind < FRONTENDS_; kind++) {
        struct net_addr addrs[FRONTENDS_ADDRESSES_MAX];
        size_t n;
        if (!(roles & ROLE_FRONTEND_BIT) && kind != FRONTEND_HTTP)
            continue;
        if (!frontends_addresses(c, kind, addrs, &n, err))
            return false;
        for (size_t i = 0; i < n; i++) {
            if (net_addr_is_unix(&addrs[i]))
                continue;
            int fd = listener_bind(&addrs[i], err);
            if (fd < 0)
                return err_prefix(err, "listen.%s", frontend_listens[kind].name);
            (void)close(fd); /* nobody was accepted */
        }
    }
    return true;
}

bool frontends_check(const struct config *c, struct err *err)
{
    size_t n;
    unsigned roles;
    if (!settings_check(c, err) || !settings_roles(c, &roles, err) || !check_listeners(c, roles, err))
        return false;
    const str *nets = config_list(c, CFG_PROXY_FROM, &n);
    for (size_t i = 0; i < n; i++) {
        struct net_cidr cidr;
        struct err bad = ERR_INIT;
        if (!net_cidr_parse(nets[i], &cidr, &bad))
            return config_complain(c, CFG_PROXY_FROM, err, "has %s", bad.msg);
    }
    (void)config_list(c, CFG_TLS_CERTIFICATES, &n);
    if (!n)
        return true;
    struct err bad = ERR_INIT;
    struct tls_server *tls = frontends_tls(c, "", &bad);
    tls_server_free(tls);
    return tls || config_complain(c, CFG_TLS_CERTIFICATES, err, "cannot be used: %s", bad.msg);
}
