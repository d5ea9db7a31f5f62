#include "server/serve.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "fiber/loop.h"
#include "server/confine.h"
#include "server/folder.h"
#include "server/health.h"
#include "server/installation.h"
#include "server/running.h"
#include "server/settings.h"
#include "server/verbs.h"
#include "server/workers.h"

#define WORKER_SOCKET "THURN_WORKER_SOCKET"
#define START_TIMEOUT_MS 120000
#define SETTLE_MS 5000

static struct serve serve;
static uv_signal_t signals[3];

static void configure_log(const struct config *c)
{
    enum log_level level = LOG_INFO;
    IGNORE(log_level_parse(config_str(c, CFG_LOG_LEVEL), &level)); /* the row's choices are exactly these */
    log_configure(level, str_eq(config_str(c, CFG_LOG_FORMAT), S("json")) ? LOG_JSON : LOG_LOGFMT);
}

/* As many descriptors as the system lets us have: one for each connection. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
            log_warn("server.descriptors", KV_Z("reason", strerror(errno)));
    }
}

static bool listen_control(struct serve *s, struct err *err)
{
    char path[NODE_PATH_MAX];
    struct listener_opts opts = {
        .name = "control",
        .inherited_fd = -1,
        .max_connections = 100,
        .accept = http_server_accept,
        .arg = s->http,
    };
    if (s->is_worker)
        return true;
    snprintf(path, sizeof(path), "unix:%s/control.sock", s->node.data);
    if (!net_addr_parse(str_c(path), &opts.addr, err))
        return err_prefix(err, "control socket");
    s->control = listener_start(&opts, err);
    return s->control != NULL;
}

FIBER static bool migrate_own(struct serve *s, struct err *err)
{
    unsigned applied = 0;
    if (!node_on_sqlite(&s->node))
        return true; /* `thurn migrate` is a step of its own in a cluster */
    if (!node_migrate(&s->node, false, &applied, err))
        return false;
    if (applied)
        log_info("server.migrated", KV_I64("steps", applied));
    return true;
}

/* Another user and the fences, once the ports are ours and before anything of mail is touched. */
static bool confine(struct serve *s, unsigned n_workers, struct err *err)
{
    const struct config *c = &s->config;
    struct confine what = {
        .is_worker = s->is_worker, .starts_workers = n_workers > 0, .config_file = s->options->config_file};
    CLEANUP(xfree_char) char *data = str_dup(config_str(c, CFG_DATA));
    if (!settings_roles(c, &what.roles, err) || (!s->is_worker && !confine_become(c, err)))
        return false;
    if (geteuid() == 0 && !s->is_worker)
        log_warn(
            "server.root",
            KV_Z("reason", "it goes on as root: name a user in the setting 'user', or give the data folder to one"));
    /* the fence opens what is there */
    if ((s->options->is_dev || !settings_on_sqlite(c, what.roles)) && !folder_make(data, err))
        return false;
    return confine_fence(c, &what, err);
}

/* A process that is nothing but a front-end, and calls over TCP: nothing of this machine is its business. */
static bool needs_unix_sockets(const struct serve *s)
{
    static const enum config_id services[] = {CFG_RPC_AUTH, CFG_RPC_STORE, CFG_RPC_QUEUE};
    if (s->node.roles != ROLE_FRONTEND_BIT || s->workers)
        return true;
    for (size_t i = 0; i < ARRAY_LEN(services); i++) {
        size_t n;
        const str *list = config_list(&s->config, services[i], &n);
        for (size_t k = 0; k < n; k++)
            if (str_starts(list[k], S("unix:")))
                return true;
    }
    return false;
}

/* Everything but mail itself, which workers serve when there are any. */
FIBER static bool start_services(struct serve *s, bool has_workers, const char *socket, struct err *err)
{
    bool has_services = (s->node.roles & ~(unsigned)ROLE_FRONTEND_BIT) != 0;
    s->http = health_server_new(s);
    return migrate_own(s, err) && node_start(&s->node, has_workers && has_services ? socket : NULL, err) &&
           listen_control(s, err) && frontends_open(&s->frontends, &s->node, s->http, !has_workers, err);
}

FIBER static bool start(struct serve *s, struct err *err)
{
    unsigned count = s->is_worker ? 0 : (unsigned)config_int(&s->config, CFG_WORKERS);
    char socket[NODE_PATH_MAX];
    unsigned roles;
    if ((!s->is_worker && !running_none(&s->config, err)) || !settings_roles(&s->config, &roles, err))
        return false;
    if (!s->is_worker && !s->options->is_dev && !installation_glance(&s->config, roles, err))
        return false;
    enum frontend_kind first = (roles & ROLE_FRONTEND_BIT) && !s->is_worker ? FRONTEND_SMTP : FRONTEND_HTTP;
    if (!frontends_bind(&s->config, first, FRONTEND_HTTPS, s->sockets, &s->n_sockets, err) || !confine(s, count, err) ||
        !node_open(&s->node, &s->config, s->options->is_dev ? NODE_NEW : NODE_AS_IT_IS, err))
        return false;
    if (!s->is_worker)
        settings_narrow(&s->config); /* now they are known to be ours: a folder that was mistyped is left as it is */
    snprintf(socket, sizeof(socket), "%s/services.sock", s->node.data);
    if (!start_services(s, count > 0, socket, err) ||
        !frontends_listen(&s->frontends, count ? FRONTEND_HTTP : FRONTEND_SMTP, FRONTEND_HTTPS, s->sockets,
                          s->n_sockets, err))
        return false;
    if (count)
        s->workers = workers_start(s, count, socket, err);
    return (!count || s->workers) && (needs_unix_sockets(s) || confine_sockets(err));
}

/* Those that no listener has: of mail, in the parent of workers. */
static void close_sockets(struct serve *s)
{
    for (size_t i = 0; i < s->n_sockets; i++)
        if (s->sockets[i].fd >= 0)
            (void)close(s->sockets[i].fd);
    s->n_sockets = 0;
}

/* Give everything back, in the order of dependence. Copes with what was never made. */
FIBER static void tear_down(struct serve *s)
{
    close_sockets(s);
    workers_stop(s->workers);
    s->workers = NULL;
    listener_free(s->control);
    frontends_close(&s->frontends);
    if (s->http)
        http_server_free(s->http);
    node_close(&s->node);
    for (size_t i = 0; i < ARRAY_LEN(signals); i++)
        uv_close((uv_handle_t *)&signals[i], NULL);
}

static bool read_config(struct serve *s, struct config *out, struct err *err)
{
    if (!options_config(s->options, out, err))
        return false;
    if (!s->is_worker)
        return true;
    const char *socket = getenv(WORKER_SOCKET);
    char text[NODE_PATH_MAX];
    snprintf(text, sizeof(text), "unix:%s", socket ? socket : "");
    return socket ? config_override(out, CFG_LISTEN_HTTP, str_c(text), err)
                  : err_set(err, ERR_INVALID, "a worker was started without its parent");
}

/* All files are read before anything is taken up, which cannot fail. What is wrong for workers would be wrong here. */
static bool reload(struct serve *s, const struct config *fresh, struct err *err)
{
    const struct node *node = &s->node;
    CLEANUP(tls_server_free) struct tls_server *mail = NULL;
    CLEANUP(tls_server_free) struct tls_server *called = NULL;
    CLEANUP(tls_client_free) struct tls_client *caller = NULL;
    if (!frontends_check(fresh, err) || !settings_rpc_tls(fresh, &caller, &called, err))
        return false;
    if ((caller != NULL) != (node->rpc_tls != NULL))
        return config_complain(fresh, CFG_RPC_CA, err, "cannot come or go while the process runs; restart it");
    if (s->frontends.tls)
        mail = frontends_tls(fresh, node->data, err);
    if ((s->frontends.tls && !mail) || !workers_reload(s->workers, fresh, err))
        return false;
    if (mail)
        tls_server_take(s->frontends.tls, TAKE(mail));
    if (caller) {
        tls_client_take(node->rpc_tls, TAKE(caller));
        tls_server_take(node->rpc_tls_server, TAKE(called));
    }
    configure_log(fresh);
    return true;
}

static void reload_fiber(void *arg)
{
    struct serve *s = arg;
    struct err err = ERR_INIT;
    struct config fresh;
    BUF(changed, 4096);
    if (!read_config(s, &fresh, &err) || !reload(s, &fresh, &err)) {
        log_error("server.reload", KV_ERR(&err)); /* what was in force stays in force */
    } else {
        config_needs_restart(&s->config, &fresh, &changed);
        if (changed.n)
            log_warn("server.needs_restart", KV_STR("settings", buf_str(&changed)));
        log_info("server.reloaded");
    }
    config_done(&fresh);
}

static void start_reload(struct serve *s)
{
    struct err err = ERR_INIT;
    if (!fiber_spawn("server.reload", reload_fiber, s, clock_mono_ms() + START_TIMEOUT_MS, &err))
        log_error("server.reload", KV_ERR(&err));
}

FIBER static void start_fiber(void *arg)
{
    struct serve *s = arg;
    struct err err = ERR_INIT;
    if (!start(s, &err)) {
        s->status = verb_fail(&err);
        tear_down(s);
        fiber_runtime_stop();
        return;
    }
    s->is_ready = true;
    if (s->is_reload_due)
        start_reload(s);
    log_info("server.ready", KV_Z("version", THURN_VERSION), KV_Z("node", s->node.name), KV_I64("pid", getpid()));
    /* What is still away after a while is said once; it serves what it can, and /readyz says the same until it is
     * mended. */
    if (fiber_sleep_ms(SETTLE_MS, &err) && !s->is_draining && !node_ready(&s->node, &err))
        log_warn("server.waiting", KV_ERR(&err));
}

FIBER static void stop_fiber(void *arg)
{
    struct serve *s = arg;
    int64_t from = clock_mono_ms();
    log_info("server.draining");
    close_sockets(s);
    workers_stop(s->workers);
    s->workers = NULL;
    frontends_drain(&s->frontends);
    node_drain(&s->node);
    tear_down(s);
    log_info("server.stopped", KV_I64("ms", clock_mono_ms() - from));
    fiber_runtime_stop();
}

static void on_signal(uv_signal_t *handle, int signum)
{
    struct serve *s = handle->data;
    struct err err = ERR_INIT;
    if (signum == SIGHUP) {
        if (s->is_ready)
            start_reload(s);
        s->is_reload_due = !s->is_ready; /* while it starts: as soon as it is up */
        return;
    }
    if (s->is_draining || !s->is_ready) /* asked twice, or not yet up: at once. What was acknowledged is durable. */
        _exit(s->status);
    s->is_draining = true;
    if (!fiber_spawn("server.stop", stop_fiber, s, clock_mono_ms() + config_int(&s->config, CFG_DRAIN_TIMEOUT), &err))
        fiber_runtime_stop();
}

/* A HUP that comes before watch_signals waits for it, instead of ending the process. */
static void hold_hup(int how)
{
    sigset_t hup;
    (void)sigemptyset(&hup);
    (void)sigaddset(&hup, SIGHUP);
    (void)pthread_sigmask(how, &hup, NULL);
}

static void watch_signals(struct serve *s)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        signals[i].data = s;
        if (uv_signal_init(fiber_loop(), &signals[i]) != 0 || uv_signal_start(&signals[i], on_signal, numbers[i]) != 0)
            panic("signals cannot be watched");
        uv_unref((uv_handle_t *)&signals[i]);
    }
    hold_hup(SIG_UNBLOCK);
}

static bool configure(struct serve *s, struct err *err)
{
    s->is_worker = workers_inherited(s->sockets, &s->n_sockets);
    if (!read_config(s, &s->config, err))
        return false;
    configure_log(&s->config);
    return true;
}

int serve_run(struct options *o)
{
    struct serve *s = &serve;
    struct err err = ERR_INIT;
    hold_hup(SIG_BLOCK);
    *s = (struct serve){.options = o, .start_unix = clock_unix()};
    if (!options_finish(o, 0, 0, &err) || !configure(s, &err) || !frontends_check(&s->config, &err)) {
        config_done(&s->config);
        return verb_fail(&err);
    }
    raise_descriptor_limit();
    metric_set_label(M_BUILD_INFO, THURN_VERSION, 1);
    if (!confine_loop(&err) || !fiber_runtime_init(NULL, &err))
        return verb_fail(&err);
    watch_signals(s);
    if (!fiber_spawn("server.start", start_fiber, s, FIBER_NO_DEADLINE, &err))
        return verb_fail(&err);
    fiber_runtime_run();
    config_done(&s->config);
    return s->status;
}

int verb_serve(struct options *o)
{
    return serve_run(o);
}
