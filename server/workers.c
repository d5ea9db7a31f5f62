#include "server/workers.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/num.h"
#include "fiber/loop.h"

#define CONFIG_FD 3
#define FIRST_SOCKET_FD 4
#define RESTART_DELAY_MS 1000
#define ENVIRONMENT "THURN_INHERITED"

struct worker {
    uv_process_t process;
    struct workers *all;
    unsigned number;      /* from 1 */
    bool is_running;      /* the process; its handle is closed when it ends */
    struct fiber_timer restart;
};

struct workers {
    struct serve *serve;
    unsigned n;
    struct worker *list;
    int config_fd;
    struct inherited_fd sockets[FRONTENDS_LISTENERS_MAX];
    size_t n_sockets;
    char *socket_path;
    bool is_stopping;
    struct fiber *stopper; /* waits in workers_stop */
};

/* What a worker is told. Credentials of databases, Redis and S3 are not in this list. */
static const enum config_id passed_on[] = {
    CFG_HOSTNAME, CFG_DATA, CFG_DEFAULT_DOMAIN, CFG_DRAIN_TIMEOUT, CFG_PROXY_FROM, CFG_MAX_CONNECTIONS, CFG_MAX_PER_IP,
    CFG_TLS_CERTIFICATES, CFG_DNS_SERVERS, CFG_DNS_TIMEOUT, CFG_DNS_TRUST_ANCHOR, CFG_MESSAGE_MAX, CFG_RECIPIENTS_MAX,
    CFG_SEND_RATE, CFG_IMAP_PER_ACCOUNT, CFG_IMAP_IDLE, CFG_PLAIN_LOGIN, CFG_LOG_LEVEL, CFG_LOG_FORMAT,
};

static bool write_config(struct workers *w, struct err *err)
{
    BUF(yaml, 1 << 20);
    config_export(&w->serve->config, passed_on, ARRAY_LEN(passed_on), &yaml);
    buf_add(&yaml, S("roles: [frontend]\n"));
    static const char *const services[] = {"store", "queue", "auth"};
    for (size_t i = 0; i < ARRAY_LEN(services); i++) {
        buf_printf(&yaml, "rpc.%s: ", services[i]);
        BUF(address, NODE_PATH_MAX);
        buf_printf(&address, "unix:%s", w->socket_path);
        buf_add_json(&yaml, buf_str(&address));
        buf_addc(&yaml, '\n');
    }
    w->config_fd = memfd_create("thurn-worker-config", MFD_CLOEXEC);
    if (w->config_fd < 0 || write(w->config_fd, yaml.p, yaml.n) != (ssize_t)yaml.n)
        return err_set(err, ERR_UNAVAILABLE, "cannot write the workers' config: %s", strerror(errno));
    return true;
}

static bool bind_sockets(struct workers *w, struct err *err)
{
    for (enum frontend_kind kind = FRONTEND_SMTP; kind < FRONTEND_HTTP; kind++) {
        struct net_addr addrs[FRONTENDS_ADDRESSES_MAX];
        size_t n;
        if (!frontends_addresses(&w->serve->config, kind, addrs, &n, err))
            return false;
        for (size_t i = 0; i < n; i++) {
            int fd = listener_bind(&addrs[i], err);
            if (fd < 0)
                return err_prefix(err, "listen.%s", frontend_listens[kind].name);
            w->sockets[w->n_sockets++] = (struct inherited_fd){kind, fd};
        }
    }
    return true;
}

static void spawn(struct worker *worker);

static void restart(void *arg)
{
    struct worker *worker = arg;
    if (!worker->all->is_stopping)
        spawn(worker);
}

static void on_closed(uv_handle_t *handle)
{
    struct worker *worker = handle->data;
    worker->is_running = false;
    if (worker->all->stopper)
        fiber_wake(worker->all->stopper);
    if (!worker->all->is_stopping)
        fiber_timer_start(&worker->restart, RESTART_DELAY_MS, restart, worker);
}

static void on_exit_of(uv_process_t *process, int64_t status, int signum)
{
    struct worker *worker = process->data;
    if (!worker->all->is_stopping) {
        metric_inc(M_WORKER_RESTARTS);
        log_error("worker.ended", KV_I64("worker", worker->number), KV_I64("pid", process->pid), KV_I64("status", status),
                  KV_I64("signal", signum));
    }
    uv_close((uv_handle_t *)process, on_closed);
}

static str worker_socket(const struct workers *w, unsigned number, struct buf *out)
{
    buf_printf(out, "%s/worker-%u.sock", w->serve->node.data, number);
    return buf_str(out);
}

static void spawn(struct worker *worker)
{
    struct workers *w = worker->all;
    BUF(inherited, 4096);
    BUF(socket, NODE_PATH_MAX);
    BUF(variable, 8192);
    uv_stdio_container_t stdio[FIRST_SOCKET_FD + FRONTENDS_LISTENERS_MAX];
    for (int i = 0; i < 3; i++)
        stdio[i] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = i};
    stdio[CONFIG_FD] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = w->config_fd};
    for (size_t i = 0; i < w->n_sockets; i++) {
        stdio[FIRST_SOCKET_FD + i] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = w->sockets[i].fd};
        buf_printf(&inherited, "%s%d:%zu", i ? "," : "", (int)w->sockets[i].kind, FIRST_SOCKET_FD + i);
    }
    buf_printf(&variable, ENVIRONMENT "=%s", buf_z(&inherited));
    buf_printf(&socket, "THURN_WORKER_SOCKET=");
    (void)worker_socket(w, worker->number, &socket);
    char *args[] = {(char[]){"thurn"}, (char[]){"serve"}, (char[]){"--config"}, (char[]){"/proc/self/fd/3"}, NULL};
    char *env[] = {variable.p, socket.p, (char[]){"PATH=/usr/bin:/bin"}, NULL};
    uv_process_options_t opts = {
        .file = "/proc/self/exe",
        .args = args,
        .env = env,
        .stdio = stdio,
        .stdio_count = FIRST_SOCKET_FD + (int)w->n_sockets,
        .exit_cb = on_exit_of,
    };
    worker->process.data = worker;
    int rc = uv_spawn(fiber_loop(), &worker->process, &opts);
    worker->is_running = true;
    if (rc != 0) {
        log_error("worker.spawn", KV_I64("worker", worker->number), KV_Z("reason", uv_strerror(rc)));
        uv_close((uv_handle_t *)&worker->process, on_closed);
    }
}

struct workers *workers_start(struct serve *s, unsigned count, const char *socket_path, struct err *err)
{
    struct workers *w = xnew(struct workers);
    w->serve = s;
    w->config_fd = -1;
    w->socket_path = xstrdup(socket_path);
    w->list = xcalloc(count, sizeof(*w->list));
    if (!write_config(w, err) || !bind_sockets(w, err)) {
        workers_stop(w);
        return NULL;
    }
    for (w->n = 0; w->n < count; w->n++) {
        w->list[w->n] = (struct worker){.all = w, .number = w->n + 1};
        spawn(&w->list[w->n]);
    }
    return w;
}

size_t workers_metrics(struct workers *w, struct arena *a, str *pages)
{
    size_t n = 0;
    for (unsigned i = 0; w && i < w->n; i++) {
        BUF(path, NODE_PATH_MAX);
        struct err err = ERR_INIT;
        struct http_response rep;
        struct http_request req = {
            .method = "GET",
            .url = S("http://worker/metrics"),
            .unix_socket = worker_socket(w, i + 1, &path),
            .response_max = 4u << 20,
        };
        FIBER_DEADLINE(1000);
        if (w->list[i].is_running && http_request(w->serve->node.http, &req, a, &rep, &err) && rep.status == 200)
            pages[n++] = rep.body;
    }
    return n;
}

void workers_signal(struct workers *w, int signum)
{
    for (unsigned i = 0; w && i < w->n; i++)
        if (w->list[i].is_running)
            (void)uv_process_kill(&w->list[i].process, signum); /* gone already: its exit is on the way */
}

static bool any_running(const struct workers *w)
{
    for (unsigned i = 0; i < w->n; i++)
        if (w->list[i].is_running)
            return true;
    return false;
}

void workers_stop(struct workers *w)
{
    if (!w)
        return;
    w->is_stopping = true;
    workers_signal(w, SIGTERM);
    for (unsigned i = 0; i < w->n; i++)
        fiber_timer_stop(&w->list[i].restart);
    w->stopper = fiber_self();
    bool is_late = false;
    while (any_running(w)) {
        struct err err = ERR_INIT;
        if (is_late) {
            fiber_wait_uninterrupted(); /* for on_closed, which is sure to come after KILL */
        } else if (!fiber_wait(&err)) {
            is_late = true;
            workers_signal(w, SIGKILL);
        }
    }
    for (size_t i = 0; i < w->n_sockets; i++)
        close(w->sockets[i].fd);
    if (w->config_fd >= 0)
        close(w->config_fd);
    free(w->socket_path);
    free(w->list);
    free(w);
}

bool workers_inherited(struct inherited_fd *out, size_t *n)
{
    const char *text = getenv(ENVIRONMENT);
    if (!text)
        return false;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    str rest = str_c(text), item;
    for (*n = 0; *n < FRONTENDS_LISTENERS_MAX && rest.n && str_split(&rest, ',', &item);) {
        str kind;
        uint32_t k, fd;
        if (str_split(&item, ':', &kind) && num_u32(kind, FRONTENDS_ - 1, &k) && num_u32(item, 1u << 20, &fd))
            out[(*n)++] = (struct inherited_fd){(enum frontend_kind)k, (int)fd};
    }
    return true;
}
