#include "server/node.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "proto/auth.pb-c.h"
#include "proto/queue.pb-c.h"
#include "proto/store_calls.h"
#include "server/folder.h"
#include "server/installation.h"
#include "server/memory.h"
#include "server/settings.h"

#define TRACE_ROOM (16u * 1024) /* more than trace fields and a prefix have */

static struct sql_db *open_db(struct node *n, const char *name, const char *member, str dsn, const char *file,
                              struct err *err)
{
    char local[NODE_PATH_MAX];
    struct sql_opts opts = {
        .name = name,
        .dsn = dsn,
        .pool = (unsigned)config_int(n->config, CFG_DB_POOL),
        .statement_timeout_ms = (unsigned)config_int(n->config, CFG_DB_TIMEOUT),
        .set = &n->set,
        .member = member,
    };
    if (!dsn.n) {
        snprintf(local, sizeof(local), "sqlite:%s/%s", n->data, file);
        opts.dsn = str_c(local);
    }
    struct sql_db *db = sql_open(&opts, err);
    if (!db)
        (void)err_prefix(err, "database '%s'", name);
    return db;
}

static bool open_shards(struct node *n, struct err *err)
{
    size_t count;
    const str *dsns = config_list(n->config, CFG_SHARDS, &count);
    n->shards = xcalloc(MAX(count, (size_t)1), sizeof(struct sql_db *));
    for (size_t i = 0; i < MAX(count, (size_t)1); i++) {
        char name[24], member[24];
        snprintf(name, sizeof(name), "shard-%zu", i + 1);
        snprintf(member, sizeof(member), "shard %zu", i + 1);
        n->shards[i] = open_db(n, name, member, count ? dsns[i] : STR_NONE, "mail.db", err);
        if (!n->shards[i])
            return false;
        n->n_shards++;
    }
    return true;
}

static bool open_databases(struct node *n, struct err *err)
{
    if (n->roles & ROLE_AUTH_BIT) {
        n->directory_db =
            open_db(n, "directory", "directory", config_str(n->config, CFG_DIRECTORY_DB), "directory.db", err);
        if (!n->directory_db)
            return false;
    }
    if (n->roles & ROLE_QUEUE_BIT) {
        n->queue_db = open_db(n, "queue", "queue", config_str(n->config, CFG_QUEUE_DB), "queue.db", err);
        if (!n->queue_db)
            return false;
    }
    return !(n->roles & ROLE_STORE_BIT) || open_shards(n, err);
}

static bool open_redis(struct node *n, struct redis **out, struct err *err)
{
    struct redis_opts opts = {.url = config_str(n->config, CFG_REDIS)};
    if (!opts.url.n)
        return true;
    *out = redis_new(&opts, err);
    return *out ? true : err_prefix(err, "redis.url");
}

static bool open_dns(struct node *n, struct err *err)
{
    struct dns_opts opts = {
        .trust_anchor_file = config_str(n->config, CFG_DNS_TRUST_ANCHOR),
        .timeout_ms = (unsigned)config_int(n->config, CFG_DNS_TIMEOUT),
    };
    opts.servers = config_list(n->config, CFG_DNS_SERVERS, &opts.n_servers);
    n->dns = dns_new(&opts, err);
    return n->dns ? true : err_prefix(err, "dns.servers");
}

/* A remote service: the addresses of its setting. */
static bool connect_service(struct node *n, enum config_id id, const char *name, enum role server_role,
                            const ProtobufCServiceDescriptor *d, ProtobufCService **out, bool *is_remote,
                            struct err *err)
{
    struct rpc_client_opts opts = {.name = name,
                                   .service = d,
                                   .tls = n->rpc_tls,
                                   .dns = n->dns,
                                   .set = n->set.id,
                                   .roles = n->roles,
                                   .server_role = server_role};
    opts.nodes = config_list(n->config, id, &opts.n_nodes);
    *out = rpc_client_new(&opts, err);
    *is_remote = *out != NULL;
    return *out != NULL;
}

/* base/limits.def with the settings' numbers; a bucket that is full again after per_ms, or a lease. */
static size_t limits_of(const struct config *c, struct auth_limit out[LIMITS_])
{
    static const struct {
        enum config_id setting;
        uint32_t per_ms;
    } rows[LIMITS_] = {
#define LIMIT(id, name, setting, per_ms, help) [LIMIT_##id] = {CFG_##setting, per_ms},
#include "base/limits.def"
#undef LIMIT
    };
    size_t n = 0;
    for (enum limit i = 0; i < LIMITS_; i++) {
        uint32_t most = (uint32_t)config_int(c, rows[i].setting);
        if (most)
            out[n++] = (struct auth_limit){limit_name(i), most, rows[i].per_ms, most};
    }
    return n;
}

static bool open_auth(struct node *n, struct err *err)
{
    size_t shards;
    (void)config_list(n->config, CFG_SHARDS, &shards);
    if (config_int(n->config, CFG_DIRECTORY_SHARDS))
        shards = (size_t)config_int(n->config, CFG_DIRECTORY_SHARDS);
    struct auth_opts opts = {
        .directory = n->directory_db,
        .redis = n->redis,
        .n_shards = (unsigned)MAX(shards, (size_t)1),
        .default_domain = config_str(n->config, CFG_DEFAULT_DOMAIN),
        .events_keep_s = (unsigned)(config_int(n->config, CFG_AUDIT_KEEP) / 1000),
        .takes_weak_passwords = config_bool(n->config, CFG_WEAK_PASSWORDS),
        .admin_token = config_str(n->config, CFG_ADMIN_TOKEN),
    };
    struct auth_limit limits[LIMITS_];
    opts.limits = limits;
    opts.n_limits = limits_of(n->config, limits);
    n->auth = auth_new(&opts, err);
    if (!n->auth)
        return false;
    n->auth_service = auth_service(n->auth);
    return true;
}

FIBER static bool open_store(struct node *n, struct err *err)
{
    bool is_s3 = str_eq(config_str(n->config, CFG_BLOBS_KIND), S("s3"));
    char folder[NODE_PATH_MAX], spool[NODE_PATH_MAX];
    snprintf(folder, sizeof(folder), "%s/blobs", n->data);
    snprintf(spool, sizeof(spool), "%s/spool", n->data);
    if (!folder_make(spool, err))
        return false;
    struct store_opts opts = {
        .shards = n->shards,
        .n_shards = (unsigned)n->n_shards,
        .redis = n->redis_beacons,
        .room = n->room,
        .spool_folder = str_c(spool),
        /* Our trace fields come on top of what a client may send. */
        .limits = {.message_bytes = (uint64_t)config_int(n->config, CFG_MESSAGE_MAX) + TRACE_ROOM},
        .blobs =
            {
                .kind = is_s3 ? STORE_BLOBS_S3 : STORE_BLOBS_FOLDER,
                .folder = str_c(folder),
                .http = n->http,
                .endpoint = config_str(n->config, CFG_S3_ENDPOINT),
                .bucket = config_str(n->config, CFG_S3_BUCKET),
                .region = config_str(n->config, CFG_S3_REGION),
                .access_key = config_str(n->config, CFG_S3_ACCESS_KEY),
                .secret_key = config_str(n->config, CFG_S3_SECRET_KEY),
            },
    };
    n->store = store_new(&opts, err);
    if (!n->store)
        return false;
    n->store_service = store_service(n->store);
    return true;
}

static bool open_queue(struct node *n, struct err *err)
{
    uint32_t retry[QUEUE_RETRIES_MAX];
    size_t n_retry = 0;
    if (!settings_retry(n->config, retry, ARRAY_LEN(retry), &n_retry, err))
        return false;
    struct tls_client_opts tls = {0};
    n->out_tls = tls_client_new(&tls, err);
    if (!n->out_tls)
        return false;
    unsigned shards = (unsigned)config_int(n->config, CFG_QUEUE_SHARDS);
    uint64_t memory = (uint64_t)config_int(n->config, CFG_QUEUE_MEMORY);
    struct queue_opts opts = {
        .db = n->queue_db,
        .node = str_c(n->name),
        .n_shards = shards                      ? shards
                    : sql_db_is_pg(n->queue_db) ? 256
                                                : 1,
        .store = n->store_service,
        .auth = n->auth_service,
        .dns = n->dns,
        .redis = n->redis,
        .tls = n->out_tls,
        .hostname = config_str(n->config, CFG_HOSTNAME),
        .retry_s = retry,
        .n_retry = n_retry,
        .lease_ms = (unsigned)config_int(n->config, CFG_QUEUE_LEASE),
        .max_bytes = memory ? memory : memory_share(memory_bytes("")),
        .lifetime_s = (uint32_t)(config_int(n->config, CFG_QUEUE_LIFETIME) / 1000),
        .outbound_port = (uint16_t)config_int(n->config, CFG_OUT_PORT),
        .room = n->queue_db && !sql_db_is_pg(n->queue_db) ? n->room : NULL,
        .allow_private_hosts = config_bool(n->config, CFG_OUT_PRIVATE),
        .relay = config_str(n->config, CFG_OUT_RELAY),
    };
    n->queue = queue_new(&opts, err);
    if (!n->queue)
        return false;
    n->queue_service = queue_service(n->queue);
    return true;
}

/* What is there is looked at before anything is made, the folder too. */
FIBER static bool take_installation(struct node *n, enum node_make make, struct err *err)
{
    enum installation_verdict verdict = INSTALLATION_OURS;
    unsigned made;
    if (make == NODE_AS_IT_IS)
        return installation_look(n, &verdict, err) &&
               (verdict == INSTALLATION_OURS || installation_refuse(n, verdict, err)) && folder_make(n->data, err);
    n->set.is_enforced = false; /* what comes now makes them */
    if (make == NODE_NEW && !installation_look(n, &verdict, err))
        return false;
    return folder_make(n->data, err) && installation_make(n, make == NODE_JOIN, &made, err);
}

bool node_open_databases(struct node *n, const struct config *c, enum node_make make, struct err *err)
{
    *n = (struct node){.config = c};
    char host[40] = "localhost";
    (void)gethostname(host, sizeof(host) - 1);
    snprintf(n->name, sizeof(n->name), "%.36s-%d-%llx", host, (int)getpid(), (unsigned long long)clock_unix_ms());
    n->data = str_dup(config_str(c, CFG_DATA));
    return settings_check(c, err) && settings_roles(c, &n->roles, err) && open_databases(n, err) &&
           take_installation(n, make, err);
}

bool node_on_sqlite(const struct node *n)
{
    if ((n->directory_db && sql_db_is_pg(n->directory_db)) || (n->queue_db && sql_db_is_pg(n->queue_db)))
        return false;
    for (size_t i = 0; i < n->n_shards; i++)
        if (sql_db_is_pg(n->shards[i]))
            return false;
    return true;
}

/* Mail lies in the data folder: a database in a file, or bodies in segments. */
static bool keeps_files(const struct node *n)
{
    bool has_blobs = (n->roles & ROLE_STORE_BIT) && !str_eq(config_str(n->config, CFG_BLOBS_KIND), S("s3"));
    return has_blobs || (n->roles & ~(unsigned)ROLE_FRONTEND_BIT && node_on_sqlite(n));
}

bool node_open(struct node *n, const struct config *c, enum node_make make, struct err *err)
{
    if (!node_open_databases(n, c, make, err) || !settings_rpc_tls(c, &n->rpc_tls, &n->rpc_tls_server, err))
        return false;
    str secret = config_str(c, CFG_RPC_SECRET);
    if (secret.n)
        rpc_pass_key(secret);
    if (keeps_files(n))
        n->room = disk_room_new(n->data, (uint64_t)config_int(c, CFG_DISK_RESERVE));
    bool has_service = (n->roles & ~(unsigned)ROLE_FRONTEND_BIT) != 0;
    bool needs_auth = n->roles & (ROLE_FRONTEND_BIT | ROLE_QUEUE_BIT), needs_store = needs_auth;
    if (!open_dns(n, err) || (has_service && !open_redis(n, &n->redis, err)) ||
        ((n->roles & ROLE_STORE_BIT) && !open_redis(n, &n->redis_beacons, err)))
        return false;
    n->http = http_client_new(NULL, err);
    if (!n->http)
        return false;
    if (n->roles & ROLE_AUTH_BIT
            ? !open_auth(n, err)
            : needs_auth && !connect_service(n, CFG_RPC_AUTH, "auth", ROLE_AUTH_BIT, &thurn__auth__descriptor,
                                             &n->auth_service, &n->is_auth_remote, err))
        return false;
    if (n->roles & ROLE_STORE_BIT
            ? !open_store(n, err)
            : needs_store && !connect_service(n, CFG_RPC_STORE, "store", ROLE_STORE_BIT, &thurn__store__descriptor,
                                              &n->store_service, &n->is_store_remote, err))
        return false;
    if (n->roles & ROLE_QUEUE_BIT
            ? !open_queue(n, err)
            : (n->roles & ROLE_FRONTEND_BIT) &&
                  !connect_service(n, CFG_RPC_QUEUE, "queue", ROLE_QUEUE_BIT, &thurn__queue__descriptor,
                                   &n->queue_service, &n->is_queue_remote, err))
        return false;
    return true;
}

bool node_migrate(struct node *n, bool dry_run, unsigned *applied, struct err *err)
{
    unsigned steps = 0, one;
    if (n->directory_db) {
        if (!auth_migrate(n->directory_db, dry_run, &one, err))
            return err_prefix(err, "directory");
        steps += one;
    }
    if (n->queue_db) {
        if (!queue_migrate(n->queue_db, dry_run, &one, err))
            return err_prefix(err, "queue");
        steps += one;
    }
    for (size_t i = 0; i < n->n_shards; i++) {
        if (!store_migrate(n->shards[i], dry_run, &one, err) ||
            (!dry_run && !store_claim(n->shards[i], (uint32_t)i + 1, err)))
            return err_prefix(err, "shard %zu", i + 1);
        steps += one;
    }
    *applied = steps;
    return true;
}

static bool listen_at(struct node *n, const struct net_addr *addr, void (*accept)(void *, struct stream *),
                      struct err *err)
{
    char text[NET_ADDR_TEXT_MAX];
    struct listener_opts opts = {
        .name = "rpc",
        .addr = *addr,
        .inherited_fd = -1,
        .implicit_tls = net_addr_is_unix(addr) ? NULL : n->rpc_tls_server,
        .max_connections = 10000,
        .stream = {.is_prompt = true},
        .accept = accept,
        .arg = n->rpc,
    };
    struct listener *l = listener_start(&opts, err);
    if (!l)
        return err_prefix(err, "rpc.listen %.*s", STR_ARG(net_addr_format(addr, text)));
    n->rpc_listeners[n->n_rpc_listeners++] = l;
    return true;
}

#define HOUSEKEEPING_FIRST_MS 60000
#define HOUSEKEEPING_EVERY_MS (6 * 3600 * 1000)

/* Partitions for the weeks to come, old changes and keys, bodies that nothing refers to. Every store node does it, at
 * times of its own: doing it twice costs only time. */
FIBER static void housekeeping(void *arg)
{
    struct node *n = arg;
    struct err err = ERR_INIT;
    int64_t wait_ms = HOUSEKEEPING_FIRST_MS;
    while (fiber_sleep_ms(wait_ms + (int64_t)random_below((uint64_t)wait_ms / 2), &err)) {
        ARENA(a, 1 << 20);
        struct rpc_call call;
        Thurn__SweepRequest q = THURN__SWEEP_REQUEST__INIT;
        const Thurn__SweepReply *swept;
        rpc_call_init(&call, &a);
        if (store_sweep(&call, n->store_service, &q, &swept))
            log_info("store.swept", KV_I64("removed", swept->removed), KV_I64("bytes", swept->bytes),
                     KV_I64("kept", swept->kept));
        else
            log_warn("store.sweep", KV_ERR(&call.err));
        wait_ms = HOUSEKEEPING_EVERY_MS;
    }
}

FIBER static bool start_jobs(struct node *n, struct err *err)
{
    fiber_group_init(&n->jobs, 4);
    n->has_jobs = true;
    return (!n->auth || fiber_group_spawn(&n->jobs, "auth.housekeeping", auth_housekeeping, n->auth, err)) &&
           (!n->store || fiber_group_spawn(&n->jobs, "store.housekeeping", housekeeping, n, err));
}

static void watch_databases(struct node *n)
{
    n->ready = ready_new();
    if (n->directory_db)
        ready_add(n->ready, n->directory_db, auth_migrate, "the directory database");
    if (n->queue_db)
        ready_add(n->ready, n->queue_db, queue_migrate, "the queue database");
    for (size_t i = 0; i < n->n_shards; i++) {
        char what[24];
        snprintf(what, sizeof(what), "shard %zu", i + 1);
        ready_add(n->ready, n->shards[i], store_migrate, what);
    }
    ready_start(n->ready);
}

FIBER static void stop_jobs(struct node *n)
{
    if (n->has_jobs)
        fiber_group_done(&n->jobs);
    n->has_jobs = false;
}

bool node_start(struct node *n, const char *socket_path, struct err *err)
{
    size_t count;
    const str *list = config_list(n->config, CFG_RPC_LISTEN, &count);
    ProtobufCService *services[3];
    static_assert(SQL_SET_ID_SIZE == RPC_SET_SIZE, "one id");
    struct rpc_server_opts opts = {.services = services, .set = n->set.id, .roles = n->roles};
    if (n->auth)
        services[opts.n_services++] = n->auth_service;
    if (n->store)
        services[opts.n_services++] = n->store_service;
    if (n->queue)
        services[opts.n_services++] = n->queue_service;
    watch_databases(n);
    if (!start_jobs(n, err) || (n->queue && !queue_start(n->queue, err)))
        return false;
    if (!count && !socket_path)
        return true;
    n->rpc = rpc_server_new(&opts);
    struct net_addr addr;
    for (size_t i = 0; i < count; i++)
        if (!net_addr_parse(list[i], &addr, err) || !listen_at(n, &addr, rpc_server_accept, err))
            return false;
    if (!socket_path)
        return true;
    char text[NODE_PATH_MAX];
    snprintf(text, sizeof(text), "unix:%s", socket_path);
    return net_addr_parse(str_c(text), &addr, err) && listen_at(n, &addr, rpc_server_accept_frontend, err);
}

void node_drain(struct node *n)
{
    for (size_t i = 0; i < n->n_rpc_listeners; i++)
        listener_stop(n->rpc_listeners[i]);
    stop_jobs(n);
    if (n->queue)
        queue_retire(n->queue);
    if (n->rpc)
        rpc_server_drain(n->rpc);
}

void node_close(struct node *n)
{
    stop_jobs(n);
    ready_free(n->ready);
    for (size_t i = 0; i < n->n_rpc_listeners; i++)
        listener_free(n->rpc_listeners[i]);
    if (n->rpc)
        rpc_server_free(n->rpc);
    queue_free(n->queue);
    store_free(n->store);
    auth_free(n->auth);
    if (n->is_auth_remote)
        rpc_client_free(n->auth_service);
    if (n->is_store_remote)
        rpc_client_free(n->store_service);
    if (n->is_queue_remote)
        rpc_client_free(n->queue_service);
    if (n->directory_db)
        sql_close(n->directory_db);
    if (n->queue_db)
        sql_close(n->queue_db);
    for (size_t i = 0; i < n->n_shards; i++)
        sql_close(n->shards[i]);
    free(n->shards);
    if (n->redis)
        redis_free(n->redis);
    if (n->redis_beacons)
        redis_free(n->redis_beacons);
    if (n->http)
        http_client_free(n->http);
    if (n->dns)
        dns_free(n->dns);
    disk_room_free(n->room);
    tls_client_free(n->rpc_tls);
    tls_client_free(n->out_tls);
    tls_server_free(n->rpc_tls_server);
    free(n->data);
    *n = (struct node){0};
}

static bool remote_ready(ProtobufCService *s, bool is_remote, const char *name, struct err *err)
{
    if (is_remote && rpc_client_healthy(s) == 0)
        return err_set(err, ERR_UNAVAILABLE, "no %s service answers", name);
    return true;
}

bool node_ready(const struct node *n, struct err *err)
{
    if (!remote_ready(n->auth_service, n->is_auth_remote, "auth", err) ||
        !remote_ready(n->store_service, n->is_store_remote, "store", err) ||
        !remote_ready(n->queue_service, n->is_queue_remote, "queue", err))
        return false;
    if (!disk_room_check(n->room, err))
        return false;
    if ((n->directory_db && !ready_verdict(n->ready, n->directory_db, err)) ||
        (n->queue_db && !ready_verdict(n->ready, n->queue_db, err)))
        return false;
    if (n->queue && !queue_is_ready(n->queue))
        return err_set(err, ERR_UNAVAILABLE, "this node owns no queue shard yet");
    /* One shard away concerns its own accounts alone: the store is ready while any answers. */
    for (size_t i = 0; i < n->n_shards; i++) {
        err_clear(err);
        if (ready_verdict(n->ready, n->shards[i], err))
            return true;
    }
    return n->n_shards == 0;
}
