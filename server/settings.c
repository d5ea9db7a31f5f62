#include "server/settings.h"

#include <stdio.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/num.h"
#include "mail/address.h"
#include "queue-service/remote/remote.h"
#include "server/folder.h"
#include "server/node.h"

#define SECRET_MIN 32 /* bytes */
#define TOKEN_MIN 16
#define QUOTED_MAX 60u /* bytes of a value that a complaint repeats */
#define QUOTED(s) (int)MIN((s).n, (size_t)QUOTED_MAX), (s).p

bool settings_roles(const struct config *c, unsigned *bits, struct err *err)
{
    static const struct {
        const char *name;
        unsigned bit;
    } names[] = {
        {"frontend", ROLE_FRONTEND_BIT},
        {"queue", ROLE_QUEUE_BIT},
        {"store", ROLE_STORE_BIT},
        {"auth", ROLE_AUTH_BIT},
    };
    size_t n;
    const str *roles = config_list(c, CFG_ROLES, &n);
    unsigned found = 0;
    for (size_t i = 0; i < n; i++) {
        size_t k = 0;
        while (k < ARRAY_LEN(names) && !str_eq(roles[i], str_c(names[k].name)))
            k++;
        if (k == ARRAY_LEN(names))
            return config_complain(c, CFG_ROLES, err, "has '%.*s'; there are frontend, queue, store and auth",
                                   QUOTED(roles[i]));
        found |= names[k].bit;
    }
    *bits = found;
    return found || config_complain(c, CFG_ROLES, err, "is empty; name at least one role");
}

bool settings_retry(const struct config *c, uint32_t *out, size_t max, size_t *n, struct err *err)
{
    size_t count;
    const str *list = config_list(c, CFG_QUEUE_RETRY, &count);
    if (!count || count > max)
        return config_complain(c, CFG_QUEUE_RETRY, err, "must have 1 to %zu times", max);
    for (size_t i = 0; i < count; i++) {
        uint64_t ms;
        if (!num_duration_ms(list[i], 86400000, &ms) || ms < 1000)
            return config_complain(c, CFG_QUEUE_RETRY, err, "has '%.*s', which is no time from 1s to 1d",
                                   QUOTED(list[i]));
        out[i] = (uint32_t)(ms / 1000);
    }
    *n = count;
    return true;
}

/* What the others will not believe us is said at the start. */
static bool check_own_roles(const struct config *c, const struct tls_client *own, struct err *err)
{
    unsigned roles;
    if (!settings_roles(c, &roles, err))
        return false;
    for (unsigned i = 0; i < RPC_ROLES; i++) {
        char uri[RPC_ROLES_TEXT];
        if ((roles & 1u << i) && !tls_client_has_uri(own, rpc_role_uri(1u << i, uri)))
            return config_complain(c, CFG_RPC_CERTIFICATE, err,
                                   "does not name the role '%s': it needs URI:%s among its subjectAltNames",
                                   rpc_role_name(i), uri);
    }
    return true;
}

bool settings_rpc_tls(const struct config *c, struct tls_client **client, struct tls_server **server, struct err *err)
{
    str ca = config_str(c, CFG_RPC_CA);
    struct tls_cert_files own = {config_str(c, CFG_RPC_CERTIFICATE), config_str(c, CFG_RPC_KEY)};
    struct err bad = ERR_INIT;
    *client = NULL;
    *server = NULL;
    if (!ca.n)
        return true;
    if (!own.certificate.n || !own.key.n)
        return config_complain(c, CFG_RPC_CA, err, "needs rpc.tls.certificate and rpc.tls.key beside it");
    *client = tls_client_new(&(struct tls_client_opts){.ca_file = ca, .own = own}, &bad);
    if (*client)
        *server = tls_server_new(&(struct tls_server_opts){.certs = &own, .n_certs = 1, .client_ca = ca}, &bad);
    bool is_usable = *server != NULL;
    if (is_usable && check_own_roles(c, *client, err))
        return true;
    tls_client_free(*client);
    tls_server_free(*server);
    *client = NULL;
    *server = NULL;
    return !is_usable && config_complain(c, CFG_RPC_CA, err, "and its certificate and key cannot be used: %s", bad.msg);
}

static bool check_rpc_tls(const struct config *c, struct err *err)
{
    struct tls_client *client;
    struct tls_server *server;
    if (!settings_rpc_tls(c, &client, &server, err))
        return false;
    tls_client_free(client);
    tls_server_free(server);
    return true;
}

static bool check_hostname(const struct config *c, struct err *err)
{
    ARENA(a, 4096);
    struct err bad = ERR_INIT;
    str host = config_str(c, CFG_HOSTNAME), normal;
    if (!ascii_only(host.p, host.n) || str_starts(host, S("[")) || !domain_normalize(host, &a, &normal, &bad))
        return config_complain(c, CFG_HOSTNAME, err, "is no host name");
    return host.n <= 253 || config_complain(c, CFG_HOSTNAME, err, "is longer than 253 bytes");
}

static bool check_database(const struct config *c, enum config_id id, str dsn, struct err *err)
{
    struct err bad = ERR_INIT;
    return !dsn.n || sql_check_dsn(dsn, &bad) || config_complain(c, id, err, "cannot be used: %s", bad.msg);
}

/* Two shards in one database would give their accounts the same mail. */
static bool check_shards(const struct config *c, struct err *err)
{
    size_t n;
    const str *dsns = config_list(c, CFG_SHARDS, &n);
    if (n > SETTINGS_SHARDS_MAX)
        return config_complain(c, CFG_SHARDS, err, "names more than %d shards", SETTINGS_SHARDS_MAX);
    for (size_t i = 0; i < n; i++) {
        if (!dsns[i].n)
            return config_complain(c, CFG_SHARDS, err, "has an empty entry, the %zu.", i + 1);
        if (!check_database(c, CFG_SHARDS, dsns[i], err))
            return false;
        for (size_t k = 0; k < i; k++)
            if (str_eq(dsns[i], dsns[k]))
                return config_complain(c, CFG_SHARDS, err, "names one database twice, as shard %zu and as shard %zu",
                                       k + 1, i + 1);
    }
    return true;
}

static bool check_databases(const struct config *c, unsigned roles, struct err *err)
{
    return (!(roles & ROLE_AUTH_BIT) || check_database(c, CFG_DIRECTORY_DB, config_str(c, CFG_DIRECTORY_DB), err)) &&
           (!(roles & ROLE_QUEUE_BIT) || check_database(c, CFG_QUEUE_DB, config_str(c, CFG_QUEUE_DB), err)) &&
           (!(roles & ROLE_STORE_BIT) || check_shards(c, err));
}

bool settings_on_sqlite(const struct config *c, unsigned roles)
{
    size_t n;
    (void)config_list(c, CFG_SHARDS, &n);
    return ((roles & ROLE_AUTH_BIT) && !config_str(c, CFG_DIRECTORY_DB).n) ||
           ((roles & ROLE_QUEUE_BIT) && !config_str(c, CFG_QUEUE_DB).n) || ((roles & ROLE_STORE_BIT) && !n);
}

static void narrow_database(str dsn)
{
    static const char *const files[] = {"", "-wal", "-shm"};
    for (size_t i = 0; str_starts(dsn, S("sqlite:")) && i < ARRAY_LEN(files); i++) {
        BUF(path, 4096);
        buf_printf(&path, "%.*s%s", STR_ARG(str_slice(dsn, 7, SIZE_MAX)), files[i]);
        folder_narrow(buf_z(&path));
    }
}

void settings_narrow(const struct config *c)
{
    size_t n;
    CLEANUP(xfree_char) char *data = str_dup(config_str(c, CFG_DATA));
    const str *shards = config_list(c, CFG_SHARDS, &n);
    folder_narrow(data);
    narrow_database(config_str(c, CFG_DIRECTORY_DB));
    narrow_database(config_str(c, CFG_QUEUE_DB));
    for (size_t i = 0; i < n; i++)
        narrow_database(shards[i]);
}

static bool check_workers(const struct config *c, unsigned roles, struct err *err)
{
    static const struct {
        enum config_id id;
        unsigned role;
    } services[] = {{CFG_RPC_AUTH, ROLE_AUTH_BIT}, {CFG_RPC_STORE, ROLE_STORE_BIT}, {CFG_RPC_QUEUE, ROLE_QUEUE_BIT}};
    if (!config_int(c, CFG_WORKERS))
        return true;
    if (!(roles & ROLE_FRONTEND_BIT))
        return config_complain(c, CFG_WORKERS, err, "needs the role 'frontend' in this process");
    for (size_t i = 0; i < ARRAY_LEN(services) && roles != ROLE_FRONTEND_BIT; i++)
        if (!(roles & services[i].role)) /* they have the certificate of this process, and with it all its roles */
            return config_complain(c, CFG_WORKERS, err,
                                   "would get this process's certificate, and more rights than a front-end has: "
                                   "give it the role 'frontend' alone, or all services");
    return true;
}

static bool check_rpc_listen(const struct config *c, bool has_service, struct err *err)
{
    size_t n;
    const str *list = config_list(c, CFG_RPC_LISTEN, &n);
    if (n && !has_service)
        return config_complain(c, CFG_RPC_LISTEN, err, "is set, but this process has no service to offer");
    if (n > NODE_RPC_LISTENERS_MAX)
        return config_complain(c, CFG_RPC_LISTEN, err, "has more than %d addresses", NODE_RPC_LISTENERS_MAX);
    for (size_t i = 0; i < n; i++) {
        struct net_addr addr;
        struct err bad = ERR_INIT;
        if (!net_addr_parse(list[i], &addr, &bad))
            return config_complain(c, CFG_RPC_LISTEN, err, "has %s", bad.msg);
        if (!net_addr_is_unix(&addr) && !config_str(c, CFG_RPC_CA).n)
            return config_complain(
                c, CFG_RPC_LISTEN, err,
                "is open to whoever reaches it without rpc.tls; set rpc.tls.ca, certificate and key, or listen at unix:PATH");
    }
    return true;
}

/* What passes are signed with. Without others that call, or that sign, the process draws its own. */
static bool check_secret(const struct config *c, unsigned roles, bool has_service, struct err *err)
{
    static const enum config_id remote[] = {CFG_RPC_AUTH, CFG_RPC_STORE, CFG_RPC_QUEUE};
    static const unsigned bits[] = {ROLE_AUTH_BIT, ROLE_STORE_BIT, ROLE_QUEUE_BIT};
    size_t n;
    str secret = config_str(c, CFG_RPC_SECRET);
    (void)config_list(c, CFG_RPC_LISTEN, &n);
    if (!has_service)
        return !secret.n || config_complain(c, CFG_RPC_SECRET, err,
                                            "is for auth, store and queue alone; a front-end must not know it");
    for (size_t i = 0; i < ARRAY_LEN(remote) && !n; i++)
        if (!(roles & bits[i]))
            (void)config_list(c, remote[i], &n);
    if (n && !secret.n)
        return config_complain(
            c, CFG_RPC_SECRET, err,
            "is needed with rpc.listen, and with a service elsewhere: the same on every auth, store and queue process, e.g. of "
            "'openssl rand -hex 32'");
    return !secret.n || secret.n >= SECRET_MIN ||
           config_complain(c, CFG_RPC_SECRET, err, "is shorter than %d bytes", SECRET_MIN);
}

/* It is all that stands before the API, and guesses at it are not counted. */
static bool check_token(const struct config *c, struct err *err)
{
    str token = config_str(c, CFG_ADMIN_TOKEN);
    return !token.n || token.n >= TOKEN_MIN ||
           config_complain(c, CFG_ADMIN_TOKEN, err,
                           "is shorter than %d bytes: take e.g. what 'openssl rand -hex 32' prints", TOKEN_MIN);
}

/* Every service that a role here calls is here too, or there is where it is. */
static bool check_services(const struct config *c, unsigned roles, struct err *err)
{
    static const struct {
        enum config_id id;
        const char *name;
        unsigned role, callers;
    } services[] = {
        {CFG_RPC_AUTH, "auth", ROLE_AUTH_BIT, ROLE_FRONTEND_BIT | ROLE_QUEUE_BIT},
        {CFG_RPC_STORE, "store", ROLE_STORE_BIT, ROLE_FRONTEND_BIT | ROLE_QUEUE_BIT},
        {CFG_RPC_QUEUE, "queue", ROLE_QUEUE_BIT, ROLE_FRONTEND_BIT},
    };
    for (size_t i = 0; i < ARRAY_LEN(services); i++) {
        size_t n;
        const str *list = config_list(c, services[i].id, &n);
        if (roles & services[i].role || !(roles & services[i].callers))
            continue;
        if (!n)
            return config_complain(c, services[i].id, err,
                                   "must say where the %s service is, or the role '%s' must be here", services[i].name,
                                   services[i].name);
        struct err bad = ERR_INIT;
        if (!rpc_client_check(list, n, &bad))
            return config_complain(c, services[i].id, err, "has %s", bad.msg);
    }
    return true;
}

static bool check_blobs(const struct config *c, struct err *err)
{
    str endpoint = config_str(c, CFG_S3_ENDPOINT);
    if (!str_eq(config_str(c, CFG_BLOBS_KIND), S("s3")))
        return true;
    if (!endpoint.n || !config_str(c, CFG_S3_BUCKET).n)
        return config_complain(c, CFG_BLOBS_KIND, err, "is s3: blobs.s3.endpoint and blobs.s3.bucket are needed");
    return str_starts(endpoint, S("http://")) || str_starts(endpoint, S("https://")) ||
           config_complain(c, CFG_S3_ENDPOINT, err, "must begin with http:// or https://, not '%.*s'",
                           QUOTED(endpoint));
}

static bool check_queue(const struct config *c, struct err *err)
{
    uint32_t retry[QUEUE_RETRIES_MAX];
    size_t n;
    struct err bad = ERR_INIT;
    str relay = config_str(c, CFG_OUT_RELAY);
    if (!settings_retry(c, retry, ARRAY_LEN(retry), &n, err))
        return false;
    return !relay.n || remote_check_relay(relay, &bad) ||
           config_complain(c, CFG_OUT_RELAY, err, "must be HOST or HOST:PORT: %s", bad.msg);
}

static bool check_dns(const struct config *c, struct err *err)
{
    size_t n;
    const str *servers = config_list(c, CFG_DNS_SERVERS, &n);
    for (size_t i = 0; i < n; i++) {
        struct err bad = ERR_INIT;
        if (!dns_check_server(servers[i], &bad))
            return config_complain(c, CFG_DNS_SERVERS, err, "has %s", bad.msg);
    }
    str anchor = config_str(c, CFG_DNS_TRUST_ANCHOR);
    CLEANUP(xfree_char) char *path = str_dup(anchor);
    return !anchor.n || access(path, R_OK) == 0 ||
           config_complain(c, CFG_DNS_TRUST_ANCHOR, err, "names a file that cannot be read");
}

static bool check_redis(const struct config *c, struct err *err)
{
    str url = config_str(c, CFG_REDIS);
    struct err bad = ERR_INIT; /* it would quote a password */
    return !url.n || redis_check_url(url, &bad) ||
           config_complain(c, CFG_REDIS, err, "must be redis://[:password@]host:port[/db] or unix:/path");
}

bool settings_check(const struct config *c, struct err *err)
{
    unsigned roles;
    if (!settings_roles(c, &roles, err))
        return false;
    bool has_service = (roles & ~(unsigned)ROLE_FRONTEND_BIT) != 0;
    return check_hostname(c, err) && check_workers(c, roles, err) && check_databases(c, roles, err) &&
           check_rpc_listen(c, has_service, err) && check_secret(c, roles, has_service, err) && check_token(c, err) &&
           check_services(c, roles, err) && (!(roles & ROLE_STORE_BIT) || check_blobs(c, err)) &&
           (!(roles & ROLE_QUEUE_BIT) || check_queue(c, err)) && check_dns(c, err) &&
           (!has_service || check_redis(c, err)) && check_rpc_tls(c, err);
}
