/*
 * setup.c: the first run. Makes what is missing (data folder, certificate, databases, domain, account, config) and says
 * what comes next; safe to run again. What was given is checked before anything is made, and the config is written when
 * all else has succeeded: a mistake leaves nothing behind that a second try would trip over.
 */
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "fiber/fiber.h"
#include "mail/address.h"
#include "proto/auth_calls.h"
#include "server/confine.h"
#include "server/frontends.h"
#include "server/handover.h"
#include "server/running.h"
#include "server/serve.h"
#include "server/verbs.h"

#define UNPRIVILEGED_OFFSET "10000"
#define DOMAINS_SHOWN 3u
#define HOST_MAX 253 /* RFC 1035 2.3.4 */

struct setup {
    struct options *o;
    const char *user;   /* --user: whose the data folder becomes; NULL: it stays whose it is */
    char address[512];  /* the first account, its domain as A-labels */
    const char *domain; /* of address */
    char password[32];  /* empty when the account was there before */
    char host[256];     /* the name for a config that is made now */
    char domains[600];  /* those that were there before, for people; empty: none */
    char first[256];    /* of them */
    bool is_given;      /* the address, by who calls */
    bool is_served;     /* --serve: the server starts right afterwards */
    bool is_service;    /* --service: systemd starts it, and the program is on PATH */
    bool is_dry;        /* --dry-run: what stands in the way, and nothing is made */
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

/* The settings of a config that is made now, in force for this run. An offset given by option is there already. */
static bool first_settings(const struct setup *s, struct config *c, struct err *err)
{
    const char *offset = may_bind_low_ports() ? "0" : UNPRIVILEGED_OFFSET;
    return config_override(c, CFG_HOSTNAME, str_c(s->host), err) &&
           config_override(c, CFG_DEFAULT_DOMAIN, str_c(s->domain), err) &&
           (s->o->port_offset || config_override(c, CFG_PORT_OFFSET, str_c(offset), err));
}

static bool write_whole(const char *path, str text, struct err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool ok = fd >= 0 && write(fd, text.p, text.n) == (ssize_t)text.n && fsync(fd) == 0;
    if (!ok)
        (void)err_set(err, ERR_UNAVAILABLE, "cannot write '%s': %s", path, strerror(errno));
    if (fd >= 0)
        (void)close(fd); /* synced */
    return ok;
}

/* DATA/thurn.yaml, which was not there. */
static bool write_config(const struct setup *s, const struct config *c, struct err *err)
{
    char path[NODE_PATH_MAX], fresh[NODE_PATH_MAX];
    snprintf(path, sizeof(path), "%.*s/thurn.yaml", STR_ARG(config_str(c, CFG_DATA)));
    snprintf(fresh, sizeof(fresh), "%.*s/thurn.yaml.new", STR_ARG(config_str(c, CFG_DATA)));
    BUF(text, 4096);
    buf_add(&text, S("# Made by `thurn setup`. All settings: `thurn config reference`.\n"));
    buf_printf(&text, "hostname: %.*s\ndefault_domain: %.*s\n", STR_ARG(config_str(c, CFG_HOSTNAME)),
               STR_ARG(config_str(c, CFG_DEFAULT_DOMAIN)));
    if (s->o->http) {
        size_t n;
        buf_add(&text, S("listen.http: "));
        buf_add_json(&text, config_list(c, CFG_LISTEN_HTTP, &n)[0]);
        buf_addc(&text, '\n');
    }
    if (config_int(c, CFG_PORT_OFFSET))
        buf_printf(&text,
                   "listen:\n  # Added to the standard ports (25, 143, 993 …), for a server without root's rights.\n"
                   "  port_offset: %lld\n",
                   (long long)config_int(c, CFG_PORT_OFFSET));
    if (!write_whole(fresh, buf_str(&text), err))
        return false;
    return rename(fresh, path) == 0 || err_set(err, ERR_UNAVAILABLE, "cannot write '%s': %s", path, strerror(errno));
}

/* Whose changes these are: of the user who runs this program, on the databases themselves. */
static Thurn__Author *setup_author(struct arena *a)
{
    Thurn__Author *by = arena_new(a, Thurn__Author);
    const struct passwd *pw = getpwuid(getuid());
    thurn__author__init(by);
    by->who = arena_strz(a, pw ? str_c(pw->pw_name) : arena_printf(a, "uid %u", (unsigned)getuid()));
    by->origin = arena_strz(a, arena_printf(a, "thurn setup, uid %u", (unsigned)getuid()));
    by->act = random_u64() | 1;
    return by;
}

static bool add_domain(struct rpc_call *call, ProtobufCService *auth, const char *name)
{
    Thurn__AddDomainRequest q = THURN__ADD_DOMAIN_REQUEST__INIT;
    q.by = setup_author(call->arena);
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
    q.by = setup_author(call->arena);
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

/* Which domains there are: a folder that has one is set up. */
FIBER static bool find_domains(struct setup *s, struct rpc_call *call, ProtobufCService *auth, struct err *err)
{
    Thurn__ListRequest q = THURN__LIST_REQUEST__INIT;
    const Thurn__ListDomainsReply *r;
    q.limit = DOMAINS_SHOWN + 1;
    if (!auth_list_domains(call, auth, &q, &r)) {
        *err = call->err;
        return err_prefix(err, "domains");
    }
    BUF(text, sizeof(s->domains));
    for (size_t i = 0; i < r->n_domains && i < DOMAINS_SHOWN; i++)
        buf_printf(&text, "%s%.140s", i ? ", " : "", r->domains[i]->name);
    if (r->n_domains > DOMAINS_SHOWN)
        buf_add(&text, S(" and others"));
    snprintf(s->domains, sizeof(s->domains), "%s", buf_z(&text));
    snprintf(s->first, sizeof(s->first), "%s", r->n_domains ? r->domains[0]->name : "");
    return true;
}

/* Whether it is there; anything else than yes or no is an error. */
FIBER static bool find_account(struct setup *s, struct rpc_call *call, ProtobufCService *auth, bool *is_there,
                               struct err *err)
{
    Thurn__NameRequest q = THURN__NAME_REQUEST__INIT;
    const Thurn__AccountReply *r;
    q.name = s->address;
    *is_there = auth_get_account(call, auth, &q, &r);
    if (*is_there || call->err.kind == ERR_NOT_FOUND)
        return true;
    *err = call->err;
    return false;
}

/* Its first setup was broken off between domain and account. */
FIBER static bool is_half_made(struct setup *s, struct rpc_call *call, ProtobufCService *auth)
{
    Thurn__ListRequest q = THURN__LIST_REQUEST__INIT;
    const Thurn__ListAccountsReply *r;
    q.limit = 1;
    return strcmp(s->domains, s->domain) == 0 && auth_list_accounts(call, auth, &q, &r) && r->n_accounts == 0;
}

/* A server that is there gets no second administrator by the way. What to do comes early: a message has an end. */
FIBER static bool refuse_address(struct setup *s, struct rpc_call *call, const struct node *node, struct err *err)
{
    Thurn__NameRequest q = THURN__NAME_REQUEST__INIT;
    q.name = (char *)(uintptr_t)s->domain;
    bool is_domain_there = auth_get_domain(call, node->auth_service, &q, NULL);
    return err_set(err, ERR_CONFLICT,
                   "it is set up already, without %s: while it serves, %s%s%sthurn account add %s (folder '%s')",
                   s->address, is_domain_there ? "" : "thurn domain add ", is_domain_there ? "" : s->domain,
                   is_domain_there ? "" : ", ", s->address, node->data);
}

FIBER static bool make_account(struct setup *s, struct node *node, struct err *err)
{
    ARENA(a, 1 << 20);
    struct rpc_call call;
    bool is_there = false;
    if (!node->auth)
        return err_set(err, ERR_INVALID, "setup needs the auth role; on a cluster use thurn domain add, account add");
    rpc_call_init(&call, &a);
    if (!find_domains(s, &call, node->auth_service, err))
        return false;
    rpc_call_init(&call, &a);
    if (s->domains[0] && (!s->is_given || !find_account(s, &call, node->auth_service, &is_there, err) || is_there))
        return !err_is_set(err);
    rpc_call_init(&call, &a);
    if (s->domains[0] && !is_half_made(s, &call, node->auth_service)) {
        rpc_call_init(&call, &a);
        return refuse_address(s, &call, node, err);
    }
    rpc_call_init(&call, &a);
    if (!add_domain(&call, node->auth_service, s->domain)) {
        *err = call.err;
        return err_prefix(err, "domain");
    }
    rpc_call_init(&call, &a);
    return add_account(s, &call, node->auth_service, err);
}

static unsigned port_of(const struct config *c, enum frontend_kind kind)
{
    struct net_addr addrs[FRONTENDS_ADDRESSES_MAX];
    size_t n;
    struct err err = ERR_INIT;
    return frontends_addresses(c, kind, addrs, &n, &err) && n ? net_addr_port(&addrs[0]) : 0;
}

/* One protocol: the port with TLS from the start and the one with STARTTLS; 0 = not listened on. */
static void print_ports(const char *what, const char *host, unsigned tls, unsigned starttls)
{
    if (tls)
        printf("    %s  %s  port %u  TLS", what, host, tls);
    else if (starttls)
        printf("    %s  %s  port %u  STARTTLS", what, host, starttls);
    else
        printf("    %s  not listened on (setting 'listen')", what);
    if (tls && starttls)
        printf("        (or port %u with STARTTLS)", starttls);
    putchar('\n');
}

/* How this very program is called for this very server. */
static void print_command(const struct options *o, const char *verb)
{
    printf("%s%s%s%s%s %s", o->program, o->config_file ? " --config " : "", o->config_file ? o->config_file : "",
           o->data ? " --data " : "", o->data ? o->data : "", verb);
}

static void print_step(const struct options *o, const char *verb)
{
    printf("    ");
    print_command(o, verb);
}

static void print_next(const struct setup *s, const struct config *c)
{
    unsigned http = port_of(c, FRONTEND_HTTP);
    printf("\n  Next\n");
    if (s->is_service) {
        printf(
            "    systemctl start thurn\n    thurn account passwd %s\n    thurn account add ann@%s\n    thurn queue list\n",
            s->address, s->domain);
        if (http)
            printf("    curl http://127.0.0.1:%u/readyz\n", http);
        putchar('\n');
        return;
    }
    if (!s->is_served) {
        print_step(s->o, "serve");
        putchar('\n');
    }
    print_step(s->o, "account passwd");
    printf(" %s\n", s->address);
    print_step(s->o, "account add");
    printf(" ann@%s\n", s->domain);
    print_step(s->o, "queue list\n");
    if (http)
        printf("    curl http://127.0.0.1:%u/readyz\n", http);
    putchar('\n');
}

static void print_certificate(const struct config *c)
{
    size_t n;
    (void)config_list(c, CFG_TLS_CERTIFICATES, &n);
    if (n)
        return;
    printf(
        "\n  Its certificate is its own (self-signed): mail programs will warn, or ask to trust it. One that they know is "
        "named by\n"
        "    tls.certificates: [\"/etc/…/fullchain.pem /etc/…/privkey.pem\"]      for %.*s, then send SIGHUP\n",
        STR_ARG(config_str(c, CFG_HOSTNAME)));
}

static void print_records(const struct setup *s, const struct config *c, unsigned smtp)
{
    str host = config_str(c, CFG_HOSTNAME);
    printf("\n  To be reached from the internet, publish:\n");
    printf("    %s.  MX   10 %.*s.\n    %.*s.  A    <address of this machine>\n    %s.  TXT  \"v=spf1 mx ~all\"\n",
           s->domain, STR_ARG(host), STR_ARG(host), s->domain);
    printf(
        "  and have whoever gave you the address set its name, or other servers take this one for a sender of spam:\n"
        "    <address of this machine>  PTR  %.*s.\n",
        STR_ARG(host));
    if (smtp && smtp != 25)
        printf("  Let port 25 lead to port %u here.\n", smtp);
}

static void print_result(const struct setup *s, const struct config *c)
{
    unsigned smtp = port_of(c, FRONTEND_SMTP);
    str host = config_str(c, CFG_HOSTNAME);
    char *shown = s->o->is_dev ? xstrdup("127.0.0.1") : str_dup(host);
    printf("\nThurn is set up%s%s.\n\n  Your mail program\n", s->password[0] ? "" : "; there already is ",
           s->password[0] ? "" : s->address);
    print_ports("incoming   IMAP", shown, port_of(c, FRONTEND_IMAPS), port_of(c, FRONTEND_IMAP));
    print_ports("outgoing   SMTP", shown, port_of(c, FRONTEND_SUBMISSIONS), port_of(c, FRONTEND_SUBMISSION));
    free(shown);
    printf("    login      %s\n", s->address);
    if (s->password[0])
        printf("    password   %s        (shown only now)\n", s->password);
    else
        printf("    password   as before\n");
    if (smtp)
        printf("\n  Mail for %s is taken on port %u.", s->domain, smtp);
    else
        printf("\n  Mail for %s is not taken: nothing listens for it (setting 'listen.smtp').", s->domain);
    printf(" Data: %.*s\n", STR_ARG(config_str(c, CFG_DATA)));
    printf("  The server calls itself %.*s", STR_ARG(host));
    if (c->file)
        printf(", as %s says", c->file);
    printf(".\n");
    print_certificate(c);
    if (s->o->is_dev)
        printf(
            "\n  It listens on this machine alone (--dev): nobody else reaches it, and nothing is to be published.\n");
    else
        print_records(s, c, smtp);
    print_next(s, c);
    fflush(stdout);
}

/* It was set up before, and nothing was asked for but that it be there. */
static void print_served(const struct setup *s, const struct config *c)
{
    printf("Thurn %s %s%s. Data: %.*s. More accounts: ", s->is_served ? "serves" : "is set up for", s->domains,
           s->o->is_dev ? " on this machine alone (--dev)" : "", STR_ARG(config_str(c, CFG_DATA)));
    if (s->is_service)
        printf("thurn account add");
    else
        print_command(s->o, "account add");
    printf(" ann@%s\n", s->first);
    fflush(stdout);
}

/* The certificate is made now, so that a wrong setting shows before the server starts. */
static bool make_certificate(const struct node *node, const struct config *c, struct err *err)
{
    struct tls_server *tls = frontends_tls(c, node->data, err);
    tls_server_free(tls);
    return tls != NULL;
}

/* Before anything is made or said to be done: a server that is to start now must be able to; one that starts later may.
 */
static bool may_listen(const struct setup *s, const struct config *c, struct err *err)
{
    struct err taken = ERR_INIT;
    if (frontends_probe(c, &taken))
        return true;
    if (s->is_served)
        return err_set(err, taken.kind, "%s", taken.msg);
    fprintf(stderr, "thurn: warning: as it is now the server could not start: %s\n", taken.msg);
    return true;
}

/* The data folder may have been there, open to others. What is in it serve narrows. */
static bool close_folder(const struct config *c, struct err *err)
{
    struct stat st;
    CLEANUP(xfree_char) char *data = str_dup(config_str(c, CFG_DATA));
    if (stat(data, &st) != 0 || st.st_uid != geteuid() || !(st.st_mode & 077) || chmod(data, st.st_mode & 0700) == 0)
        return true;
    return err_set(err, ERR_DENIED, "cannot close folder '%s' to others: %s", data, strerror(errno));
}

/* The folder becomes that of the user as whom the server will run: the setting's, else --user's. */
static bool hand_over(const struct setup *s, const struct config *c, struct err *err)
{
    CLEANUP(xfree_char) char *data = str_dup(config_str(c, CFG_DATA));
    CLEANUP(xfree_char) char *setting = str_dup(config_str(c, CFG_USER));
    struct handover what = {.user = setting[0] ? setting : s->user, .from_anybody = s->is_service, .is_dry = s->is_dry};
    size_t given;
    if (!s->user)
        return true;
    if (!handover(data, &what, &given, err))
        return false;
    if (given && !s->is_dry)
        printf("The folder %s was set up before; it belongs to user %s now, with all that is in it (%zu changed).\n",
               data, what.user, given);
    fflush(stdout);
    return true;
}

FIBER static bool setup_all(struct setup *s, struct config *c, struct err *err)
{
    struct node node = {0};
    unsigned applied;
    if (!options_config(s->o, c, err) || !running_none(c, err) || (!c->file && !first_settings(s, c, err)) ||
        !frontends_check(c, err))
        return false;
    if (s->is_dry)
        return hand_over(s, c, err);
    if (!may_listen(s, c, err))
        return false;
    bool ok = hand_over(s, c, err) && confine_become(c, err) && node_open(&node, c, NODE_NEW, err) &&
              node_migrate(&node, false, &applied, err) && make_certificate(&node, c, err) &&
              make_account(s, &node, err) && close_folder(c, err);
    node_close(&node);
    if (!ok || (!c->file && !write_config(s, c, err)))
        return false;
    if (s->domains[0] && !s->is_given)
        print_served(s, c);
    else
        print_result(s, c);
    return true;
}

FIBER static void setup_fiber(void *arg)
{
    struct setup *s = arg;
    struct err err = ERR_INIT;
    struct config c;
    if (!setup_all(s, &c, &err))
        s->status = verb_fail(&err);
    config_done(&c);
}

/* Whose account is made, checked: its domain becomes one of ours. */
static bool take_address(struct setup *s, const char *given, struct err *err)
{
    ARENA(a, 16 * 1024);
    struct smtp_path path;
    struct err bad = ERR_INIT;
    str address;
    if (!smtp_mailbox_parse(str_c(given), true, &a, &path, &bad) || path.is_literal ||
        !address_normalize(path.local, path.domain, &a, &address, &bad) || address.n >= sizeof(s->address))
        return err_set(err, ERR_INVALID, "'%.100s' is no mail address such as you@example.com%s%s", given,
                       bad.msg[0] ? ": " : "", bad.msg);
    if (domain_is_number(path.domain))
        return err_set(err, ERR_INVALID,
                       "'%.100s' has an IP address for a domain: mail needs a name, such as you@example.com", given);
    snprintf(s->address, sizeof(s->address), "%.*s", STR_ARG(address));
    s->domain = strrchr(s->address, '@') + 1;
    return true;
}

/* The machine's name when it is a full one, else one in the first domain. */
static bool choose_host(struct setup *s, struct err *err)
{
    ARENA(a, 4096);
    struct err ignored = ERR_INIT; /* a machine's name that is none in the DNS is no name for a mail server */
    char host[200] = "";
    str name;
    (void)gethostname(host, sizeof(host) - 1);
    if (strchr(host, '.') && domain_normalize(str_c(host), &a, &name, &ignored))
        snprintf(s->host, sizeof(s->host), "%.*s", STR_ARG(name));
    else if (snprintf(s->host, sizeof(s->host), "mail.%s", s->domain) > HOST_MAX)
        return err_set(err, ERR_INVALID, "the domain '%.60s…' is too long for a host name below it", s->domain);
    return true;
}

static int run(struct setup *s)
{
    if (!fiber_main(setup_fiber, s))
        return EXIT_FAILED;
    explicit_bzero(s->password, sizeof(s->password));
    return s->status;
}

/* In a process of its own: the server's has to bind its ports before it becomes another user, and has one thread when
 * its fences go up. */
static int run_apart(struct setup *s)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0)
        exit(run(s));
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return pid > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILED;
}

int verb_setup(struct options *o)
{
    struct err err = ERR_INIT;
    struct setup s = {.o = o,
                      .is_served = options_flag(o, "--serve"),
                      .is_service = options_flag(o, "--service"),
                      .is_dry = options_flag(o, "--dry-run")};
    char given[512];
    if (!options_take(o, "--user", &s.user, &err) || !options_finish(o, 0, 1, &err))
        return verb_fail(&err);
    s.is_given = o->n_args > 0;
    s.is_served &= !s.is_dry;
    if (!o->n_args)
        default_address(given, sizeof(given));
    if (!take_address(&s, o->n_args ? o->args[0] : given, &err) || !choose_host(&s, &err))
        return verb_fail(&err);
    int status = s.is_served ? run_apart(&s) : run(&s);
    o->n_args = 0;
    return status == EXIT_DONE && s.is_served ? serve_run(o) : status;
}
