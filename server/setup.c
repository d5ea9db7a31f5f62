/*
 * setup.c: the first run. Makes what is missing (data folder, config, certificate, databases, domain, account) and says
 * what comes next; safe to run again.
 */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "fiber/fiber.h"
#include "proto/auth_calls.h"
#include "server/frontends.h"
#include "server/serve.h"
#include "server/verbs.h"

#define UNPRIVILEGED_OFFSET "10000"

struct setup {
    struct options *o;
    char address[320];
    char password[32];  /* empty when the account was there before */
    char host[256];
    int status;
};

/* 20 letters and digits that are not mistaken for each other: 114 bits. */
static void make_password(char *out, size_t n)
{
    static const char alphabet[] = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
    for (size_t i = 0; i + 1 < n && i < 20; i++) {
        out[i] = alphabet[random_below(sizeof(alphabet) - 1)];
        out[i + 1] = '\0';
    }
}

static void default_address(char *out, size_t n)
{
    char host[200] = "localhost";
    (void)gethostname(host, sizeof(host) - 1);
    const char *user = getenv("SUDO_USER");
    struct passwd *pw = user && user[0] ? NULL : getpwuid(getuid());
    if (!user || !user[0])
        user = pw && strcmp(pw->pw_name, "root") != 0 ? pw->pw_name : "postmaster";
    snprintf(out, n, "%.60s@%s%s", user, host, strchr(host, '.') ? "" : ".local");
}

/* Whether this process may bind ports below 1024. */
static bool may_bind_low_ports(void)
{
    FILE *f = fopen("/proc/sys/net/ipv4/ip_unprivileged_port_start", "re");
    int start = 1024;
    char line[32];
    if (f) {
        if (fgets(line, sizeof(line), f))
            start = (int)strtol(line, NULL, 10);
        fclose(f);
    }
    return geteuid() == 0 || start <= 25;
}

/* DATA/thurn.yaml, once. Options given now are remembered there. */
static bool write_config(struct setup *s, const char *data, struct err *err)
{
    char path[NODE_PATH_MAX];
    snprintf(path, sizeof(path), "%s/thurn.yaml", data);
    if (s->o->config_file || access(path, F_OK) == 0)
        return true;
    const char *offset = s->o->port_offset ? s->o->port_offset : may_bind_low_ports() ? "0" : UNPRIVILEGED_OFFSET;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(err, ERR_DENIED, "cannot write '%s': %s", path, strerror(errno));
    BUF(text, 4096);
    const char *domain = strchr(s->address, '@') + 1;
    buf_add(&text, S("# Made by `thurn setup`. All settings: `thurn config reference`.\n"));
    buf_printf(&text, "hostname: %s\ndefault_domain: %s\n", s->host, domain);
    if (strcmp(offset, "0") != 0)
        buf_printf(&text, "listen:\n  # Added to the standard ports (25, 143, 993 …), for a server without root's rights.\n"
                          "  port_offset: %s\n", offset);
    bool ok = write(fd, text.p, text.n) == (ssize_t)text.n && fsync(fd) == 0;
    close(fd);
    return ok ? true : err_set(err, ERR_UNAVAILABLE, "cannot write '%s': %s", path, strerror(errno));
}

static bool add_domain(struct rpc_call *call, ProtobufCService *auth, const char *name)
{
    Thurn__AddDomainRequest q = THURN__ADD_DOMAIN_REQUEST__INIT;
    q.name = (char *)(uintptr_t)name;
    if (auth_add_domain(call, auth, &q, NULL))
        return true;
    return call->err.kind == ERR_EXISTS;
}

static bool add_account(struct setup *s, struct rpc_call *call, ProtobufCService *auth, struct err *err)
{
    Thurn__NewAccount account = THURN__NEW_ACCOUNT__INIT, *accounts[] = {&account};
    Thurn__AddAccountsRequest q = THURN__ADD_ACCOUNTS_REQUEST__INIT;
    const Thurn__AddAccountsReply *r;
    make_password(s->password, sizeof(s->password));
    account.address = s->address;
    account.password = rpc_bytes(str_c(s->password));
    account.is_admin = true;
    q.accounts = accounts;
    q.n_accounts = 1;
    if (!auth_add_accounts(call, auth, &q, &r)) {
        *err = call->err;
        return false;
    }
    if (r->n_results == 1 && r->results[0]->account)
        return true;
    s->password[0] = '\0';
    if (r->n_results == 1 && r->results[0]->error_kind == ERR_EXISTS)
        return true;
    return err_set(err, ERR_INVALID, "account %s: %s", s->address, r->n_results ? r->results[0]->error : "no answer");
}

static bool make_account(struct setup *s, struct node *node, struct err *err)
{
    ARENA(a, 1 << 20);
    struct rpc_call call;
    rpc_call_init(&call, &a);
    call.principal.rights = RPC_RIGHT_ADMIN | RPC_RIGHT_SYSTEM;
    if (!node->auth)
        return err_set(err, ERR_INVALID, "setup needs the auth role; on a cluster use thurn domain add, account add");
    if (!add_domain(&call, node->auth_service, strchr(s->address, '@') + 1)) {
        *err = call.err;
        return err_prefix(err, "domain");
    }
    rpc_call_init(&call, &a);
    call.principal.rights = RPC_RIGHT_ADMIN | RPC_RIGHT_SYSTEM;
    return add_account(s, &call, node->auth_service, err);
}

static unsigned port_of(const struct config *c, enum frontend_kind kind)
{
    struct net_addr addrs[8];
    size_t n;
    struct err err = ERR_INIT;
    return frontends_addresses(c, kind, addrs, &n, &err) && n ? net_addr_port(&addrs[0]) : 0;
}

static void print_result(const struct setup *s, const struct config *c)
{
    const char *domain = strchr(s->address, '@') + 1;
    unsigned smtp = port_of(c, FRONTEND_SMTP);
    const char *shown = s->o->is_dev ? "127.0.0.1" : s->host;
    char command[NODE_PATH_MAX]; /* how this very program is called for this very server */
    snprintf(command, sizeof(command), "%s%s%s", s->o->program, s->o->data ? " --data " : "", s->o->data ? s->o->data : "");
    printf("\nThurn is set up.\n\n");
    printf("  Your mail program\n");
    printf("    incoming   IMAP  %s  port %u  TLS        (or port %u with STARTTLS)\n", shown, port_of(c, FRONTEND_IMAPS),
           port_of(c, FRONTEND_IMAP));
    printf("    outgoing   SMTP  %s  port %u  TLS        (or port %u with STARTTLS)\n", shown, port_of(c, FRONTEND_SUBMISSIONS),
           port_of(c, FRONTEND_SUBMISSION));
    printf("    login      %s\n", s->address);
    if (s->password[0])
        printf("    password   %s        (shown only now)\n", s->password);
    else
        printf("    password   as before\n");
    printf("\n  Mail for %s is taken on port %u. Data: %.*s\n", domain, smtp, STR_ARG(config_str(c, CFG_DATA)));
    printf("\n  To be reached from the internet, publish:\n");
    printf("    %s.  MX   10 %s.\n    %s.  A    <address of this machine>\n    %s.  TXT  \"v=spf1 mx ~all\"\n", domain, s->host,
           s->host, domain);
    if (smtp != 25)
        printf("  and let port 25 lead to port %u here.\n", smtp);
    printf("\n  Next\n    %s account passwd %s\n    %s account add ann@%s\n    %s queue list\n    curl http://127.0.0.1:%u/readyz\n\n",
           command, s->address, command, domain, command, port_of(c, FRONTEND_HTTP));
    fflush(stdout);
}

FIBER static bool setup_all(struct setup *s, struct err *err)
{
    struct config c;
    struct node node = {0};
    bool ok = node_make_folder(options_default_data(s->o), err) && write_config(s, options_default_data(s->o), err);
    if (!ok)
        return false;
    ok = options_config(s->o, &c, err);
    if (ok) {
        unsigned applied;
        snprintf(s->host, sizeof(s->host), "%.*s", STR_ARG(config_str(&c, CFG_HOSTNAME)));
        ok = node_open(&node, &c, err) && node_migrate(&node, false, &applied, err) && make_account(s, &node, err);
        node_close(&node);
    }
    if (ok) { /* the certificate is made now, so that a wrong setting shows before the server starts */
        struct tls_server *tls = frontends_tls(&c, options_default_data(s->o), err);
        ok = tls != NULL;
        tls_server_free(tls);
    }
    if (ok)
        print_result(s, &c);
    config_done(&c);
    return ok;
}

FIBER static void setup_fiber(void *arg)
{
    struct setup *s = arg;
    struct err err = ERR_INIT;
    if (!setup_all(s, &err))
        s->status = verb_fail(&err);
}

int verb_setup(struct options *o)
{
    struct err err = ERR_INIT;
    struct setup s = {.o = o};
    bool is_serving = options_flag(o, "--serve");
    if (!options_finish(o, 0, 1, &err))
        return verb_fail(&err);
    if (o->n_args)
        snprintf(s.address, sizeof(s.address), "%s", o->args[0]);
    else
        default_address(s.address, sizeof(s.address));
    const char *at = strrchr(s.address, '@');
    if (!at || at == s.address || strchr(s.address, '@') != at || !at[1]) {
        (void)err_set(&err, ERR_INVALID, "'%.100s' is no mail address such as you@example.com", s.address);
        return verb_fail(&err);
    }
    char host[200] = "";
    (void)gethostname(host, sizeof(host) - 1);
    snprintf(s.host, sizeof(s.host), "%s%s", strchr(host, '.') ? "" : "mail.", strchr(host, '.') ? host : at + 1);
    if (!fiber_main(setup_fiber, &s))
        return EXIT_FAILED;
    explicit_bzero(s.password, sizeof(s.password));
    o->n_args = 0;
    return s.status == EXIT_DONE && is_serving ? serve_run(o) : s.status;
}
