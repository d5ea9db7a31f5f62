#include "server/frontends.h"

#include <stdio.h>
#include <unistd.h>

#include "frontend/imap/imap.h"
#include "frontend/smtp/smtp.h"

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

static bool self_signed(const struct config *c, const char *data, struct tls_cert_files *out, struct arena *a, struct err *err)
{
    str folder = arena_printf(a, "%s/tls", data);
    out->certificate = arena_printf(a, "%s/tls/self-signed.pem", data);
    out->key = arena_printf(a, "%s/tls/self-signed.key", data);
    if (access(out->certificate.p, R_OK) == 0 && access(out->key.p, R_OK) == 0)
        return true;
    char *host = arena_strz(a, config_str(c, CFG_HOSTNAME));
    const char *names[] = {host, "localhost", "127.0.0.1", "::1"};
    return node_make_folder(folder.p, err) &&
           tls_make_self_signed(names, ARRAY_LEN(names), out->certificate, out->key, err);
}

struct tls_server *frontends_tls(const struct config *c, const char *data, struct err *err)
{
    ARENA(a, 1 << 20);
    struct tls_cert_files files[CERTIFICATES_MAX];
    size_t n;
    const str *pairs = config_list(c, CFG_TLS_CERTIFICATES, &n);
    if (n > CERTIFICATES_MAX) {
        (void)config_complain(c, CFG_TLS_CERTIFICATES, err, "has more than %d pairs", CERTIFICATES_MAX);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        str rest = str_trim(pairs[i]);
        if (!str_split(&rest, ' ', &files[i].certificate) || !str_trim(rest).n) {
            (void)config_complain(c, CFG_TLS_CERTIFICATES, err, "wants pairs \"CERTIFICATE.pem KEY.pem\", not '%.*s'",
                                  (int)MIN(pairs[i].n, (size_t)60), pairs[i].p);
            return NULL;
        }
        files[i].key = str_trim(rest);
    }
    if (!n && !self_signed(c, data, &files[n++], &a, err))
        return NULL;
    struct tls_server_opts opts = {.certs = files, .n_certs = n};
    return tls_server_new(&opts, err);
}

static enum imap_plain plain_login(const struct config *c)
{
    str s = config_str(c, CFG_PLAIN_LOGIN);
    return str_eq(s, S("always")) ? 2 : str_eq(s, S("loopback")) ? 1 : 0;
}

bool frontends_open(struct frontends *f, struct node *node, struct http_server *http, struct err *err)
{
    *f = (struct frontends){.node = node, .http = http};
    const struct config *c = node->config;
    size_t n;
    const str *nets = config_list(c, CFG_PROXY_FROM, &n);
    f->proxy_from = xcalloc(n, sizeof(*f->proxy_from));
    for (f->n_proxy_from = 0; f->n_proxy_from < n; f->n_proxy_from++)
        if (!net_cidr_parse(nets[f->n_proxy_from], &f->proxy_from[f->n_proxy_from], err))
            return err_prefix(err, "listen.proxy_protocol_from");
    (void)config_list(c, CFG_LISTEN_HTTPS, &n);
    if (!(node->roles & ROLE_FRONTEND_BIT) && !n)
        return true;
    f->tls = frontends_tls(c, node->data, err);
    if (!f->tls)
        return false;
    if (!(node->roles & ROLE_FRONTEND_BIT))
        return true;
    (void)plain_login;
    return true;
}

bool frontends_addresses(const struct config *c, enum frontend_kind kind, struct net_addr *out, size_t *n, struct err *err)
{
    size_t count;
    const str *list = config_list(c, frontend_listens[kind].setting, &count);
    int64_t offset = config_int(c, CFG_PORT_OFFSET);
    if (count > 8)
        return config_complain(c, frontend_listens[kind].setting, err, "has more than 8 addresses");
    for (size_t i = 0; i < count; i++) {
        if (!net_addr_parse(list[i], &out[i], err))
            return err_prefix(err, "listen.%s", frontend_listens[kind].name);
        if (net_addr_is_unix(&out[i]))
            continue;
        int64_t port = net_addr_port(&out[i]) + offset;
        if (port > 65535)
            return config_complain(c, CFG_PORT_OFFSET, err, "makes port %lld of listen.%s, above 65535", (long long)port,
                                   frontend_listens[kind].name);
        net_addr_set_port(&out[i], (uint16_t)port);
    }
    *n = count;
    return true;
}
