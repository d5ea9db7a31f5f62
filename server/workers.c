#include "server/workers.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>
#include <uv.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/num.h"
#include "fiber/loop.h"
#include "proto/auth_calls.h"

#define CONFIG_FD 3
#define AWAKE_FD 4
#define FIRST_SOCKET_FD 5
#define RESTART_MIN_MS 1000
#define RESTART_MAX_MS 60000
#define LIVED_MS 30000 /* one that ran for so long is replaced without delay when it ends */
#define ASK_TIMEOUT_MS 1000
#define RELEASE_TIMEOUT_MS 5000
#define ENVIRONMENT "THURN_INHERITED"

struct worker {
    uv_process_t process;
    struct workers *all;
    unsigned number; /* from 1 */
    bool is_running; /* the process; its handle is closed when it ends */
    /* an eventfd that the worker raises before it reads its config: from then on HUP does not kill it */
    int awake_fd;
    bool is_awake; /* it was seen raised */
    int64_t started_mono_ms;
    unsigned delay_ms; /* before it is started again */
    struct fiber_timer restart;
    char holder[32]; /* whose name its leases are in: given back when it has ended */
};

struct workers {
    struct serve *serve;
    unsigned n;
    struct worker *list;
    int config_fd;
    char *socket_path;
    bool is_stopping;
    struct fiber *stopper; /* waits in workers_stop */
    unsigned n_leaving;    /* fibers that give back what ended workers held */
};

/* Where a worker finds a service: where its parent does, or at its parent. */
static void add_service(const struct workers *w, const struct config *c, const char *name, enum config_id id,
                        bool is_remote, struct buf *yaml)
{
    if (is_remote) {
        config_export(c, &id, 1, yaml);
        return;
    }
    BUF(address, NODE_PATH_MAX);
    buf_printf(&address, "unix:%s", w->socket_path);
    buf_printf(yaml, "rpc.%s: ", name);
    buf_add_json(yaml, buf_str(&address));
    buf_addc(yaml, '\n');
}

/* Into the memory file that every worker reads, at its start and at HUP. */
static bool write_config(struct workers *w, const struct config *c, struct err *err)
{
    static const enum config_id tls[] = {CFG_RPC_CERTIFICATE, CFG_RPC_KEY, CFG_RPC_CA};
    const struct node *node = &w->serve->node;
    BUF(yaml, 1 << 20);
    config_export_workers(c, &yaml);
    if (node->is_store_remote || node->is_queue_remote || node->is_auth_remote)
        config_export(c, tls, ARRAY_LEN(tls), &yaml);
    buf_add(&yaml, S("roles: [frontend]\n"));
    add_service(w, c, "store", CFG_RPC_STORE, node->is_store_remote, &yaml);
    add_service(w, c, "queue", CFG_RPC_QUEUE, node->is_queue_remote, &yaml);
    add_service(w, c, "auth", CFG_RPC_AUTH, node->is_auth_remote, &yaml);
    if (!buf_ok(&yaml))
        return err_set(err, ERR_LIMIT, "the workers' config is longer than 1 MiB");
    if (pwrite(w->config_fd, yaml.p, yaml.n, 0) != (ssize_t)yaml.n || ftruncate(w->config_fd, (off_t)yaml.n) != 0)
        return err_set(err, ERR_UNAVAILABLE, "cannot write the workers' config: %s", strerror(errno));
    return true;
}

static void spawn(struct worker *worker);

static void restart(void *arg)
{
    struct worker *worker = arg;
    if (!worker->all->is_stopping)
        spawn(worker);
}

static unsigned restart_delay(struct worker *worker)
{
    bool has_lived = clock_mono_ms() - worker->started_mono_ms >= LIVED_MS;
    worker->delay_ms = has_lived || !worker->delay_ms ? RESTART_MIN_MS : MIN(worker->delay_ms * 2, RESTART_MAX_MS);
    return worker->delay_ms;
}

static void close_awake(struct worker *worker)
{
    if (worker->awake_fd >= 0)
        (void)close(worker->awake_fd);
    worker->awake_fd = -1;
}

static void on_closed(uv_handle_t *handle)
{
    struct worker *worker = handle->data;
    worker->is_running = false;
    close_awake(worker);
    if (worker->all->stopper)
        fiber_wake(worker->all->stopper);
    if (!worker->all->is_stopping)
        fiber_timer_start(&worker->restart, restart_delay(worker), restart, worker);
}

struct leaving {
    struct workers *workers;
    char holder[32];
};

/* Sessions that a killed worker held would count until its leases run out. A failure leaves it at that. */
FIBER static void give_back(void *arg)
{
    struct leaving *gone = arg;
    ARENA(a, 64 * 1024);
    struct rpc_call call;
    Thurn__HolderRequest q = THURN__HOLDER_REQUEST__INIT;
    q.holder = gone->holder;
    rpc_call_init(&call, &a);
    if (!auth_release(&call, gone->workers->serve->node.auth_service, &q, NULL))
        log_warn("worker.leases", KV_ERR(&call.err));
    gone->workers->n_leaving--;
    if (gone->workers->stopper)
        fiber_wake(gone->workers->stopper);
    xfree(gone);
}

static void start_giving_back(const struct worker *worker)
{
    struct err err = ERR_INIT;
    struct leaving *gone = xnew(struct leaving);
    gone->workers = worker->all;
    memcpy(gone->holder, worker->holder, sizeof(gone->holder));
    if (fiber_spawn("worker.leases", give_back, gone, clock_mono_ms() + RELEASE_TIMEOUT_MS, &err)) {
        worker->all->n_leaving++;
        return;
    }
    log_warn("worker.leases", KV_ERR(&err));
    xfree(gone);
}

static void on_exit_of(uv_process_t *process, int64_t status, int signum)
{
    struct worker *worker = process->data;
    if (!worker->all->is_stopping) {
        metric_inc(M_WORKER_RESTARTS);
        log_error("worker.ended", KV_I64("worker", worker->number), KV_I64("pid", process->pid),
                  KV_I64("status", status), KV_I64("signal", signum));
        start_giving_back(worker);
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
    BUF(holder, 64);
    uv_stdio_container_t stdio[FIRST_SOCKET_FD + FRONTENDS_LISTENERS_MAX];
    for (int i = 0; i < 3; i++)
        stdio[i] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = i};
    stdio[CONFIG_FD] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = w->config_fd};
    worker->is_awake = false;
    /* -1, out of descriptors: uv_spawn refuses it, and it is tried again */
    worker->awake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    stdio[AWAKE_FD] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = worker->awake_fd};
    const struct serve *serve = w->serve;
    int n = FIRST_SOCKET_FD;
    for (size_t i = 0; i < serve->n_sockets; i++) {
        if (serve->sockets[i].kind >= FRONTEND_HTTP)
            continue;
        buf_printf(&inherited, "%s%d:%d", n > FIRST_SOCKET_FD ? "," : "", (int)serve->sockets[i].kind, n);
        stdio[n++] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = serve->sockets[i].fd};
    }
    buf_printf(&variable, ENVIRONMENT "=%s", buf_z(&inherited));
    buf_printf(&socket, "THURN_WORKER_SOCKET=");
    (void)worker_socket(w, worker->number, &socket);
    snprintf(worker->holder, sizeof(worker->holder), "worker-%016llx", (unsigned long long)random_u64());
    buf_printf(&holder, "THURN_HOLDER=%s", worker->holder);
    char *args[] = {(char[]){"thurn"}, (char[]){"serve"}, (char[]){"--config"}, (char[]){"/proc/self/fd/3"}, NULL};
    char *env[] = {variable.p, socket.p, holder.p, (char[]){"PATH=/usr/bin:/bin"}, NULL};
    uv_process_options_t opts = {
        .file = "/proc/self/exe",
        .args = args,
        .env = env,
        .stdio = stdio,
        .stdio_count = n,
        .exit_cb = on_exit_of,
    };
    worker->process.data = worker;
    worker->started_mono_ms = clock_mono_ms();
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
    w->socket_path = xstrdup(socket_path);
    w->list = xcalloc(count, sizeof(*w->list));
    w->config_fd = memfd_create("thurn-worker-config", MFD_CLOEXEC);
    if (w->config_fd < 0)
        (void)err_set(err, ERR_UNAVAILABLE, "no memory file for the workers' config: %s", strerror(errno));
    if (w->config_fd < 0 || !write_config(w, &s->config, err)) {
        workers_stop(w);
        return NULL;
    }
    for (w->n = 0; w->n < count; w->n++) {
        w->list[w->n] = (struct worker){.all = w, .number = w->n + 1, .awake_fd = -1};
        spawn(&w->list[w->n]);
    }
    return w;
}

/* One worker being asked. */
struct question {
    struct workers *w;
    unsigned worker; /* from 1 */
    str path;
    struct arena *a;
    struct http_response answer;
    bool is_good;
};

FIBER static void ask(void *arg)
{
    struct question *q = arg;
    BUF(socket, NODE_PATH_MAX);
    struct err err = ERR_INIT; /* one that does not answer is missing from what was asked for */
    struct http_request req = {
        .method = "GET",
        .url = arena_printf(q->a, "http://worker%.*s", STR_ARG(q->path)),
        .unix_socket = worker_socket(q->w, q->worker, &socket),
        .response_max = 4u << 20,
    };
    q->is_good = http_request(q->w->serve->node.http, &req, q->a, &q->answer, &err) && q->answer.status == 200;
}

size_t workers_ask(struct workers *w, str path, struct arena *a, struct worker_answer *out)
{
    struct question *questions = arena_array(a, struct question, WORKERS_MAX);
    struct err err = ERR_INIT;
    FIBER_DEADLINE(ASK_TIMEOUT_MS);
    {
        FIBER_GROUP(g, WORKERS_MAX);
        for (unsigned i = 0; i < w->n; i++) {
            questions[i] = (struct question){.w = w, .worker = i + 1, .path = path, .a = a};
            if (w->list[i].is_running && !fiber_group_spawn(&g, "worker.ask", ask, &questions[i], &err))
                break;
        }
        err_clear(&err);
        IGNORE(fiber_group_wait(&g, &err)); /* who is late is missing */
    }
    size_t n = 0;
    for (unsigned i = 0; i < w->n; i++)
        if (questions[i].is_good)
            out[n++] = (struct worker_answer){i + 1, questions[i].answer.body};
    return n;
}

static void workers_signal(struct workers *w, int signum)
{
    for (unsigned i = 0; i < w->n; i++)
        if (w->list[i].is_running)
            (void)uv_process_kill(&w->list[i].process, signum); /* gone already: its exit is on the way */
}

static bool is_awake(struct worker *worker)
{
    uint64_t raised;
    if (worker->is_running && !worker->is_awake)
        worker->is_awake = read(worker->awake_fd, &raised, sizeof(raised)) == (ssize_t)sizeof(raised);
    return worker->is_running && worker->is_awake;
}

bool workers_reload(struct workers *w, const struct config *fresh, struct err *err)
{
    if (!w)
        return true;
    if (!write_config(w, fresh, err))
        return false;
    for (unsigned i = 0; i < w->n; i++)
        if (is_awake(&w->list[i])) /* else it reads what was just written */
            (void)uv_process_kill(&w->list[i].process, SIGHUP);
    return true;
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
    while (any_running(w) || w->n_leaving) {
        struct err err = ERR_INIT;
        if (is_late) {
            fiber_wait_uninterrupted(); /* on_closed is sure to come after KILL, and the rest has little time */
        } else if (!fiber_wait(&err)) {
            is_late = true;
            workers_signal(w, SIGKILL);
        }
    }
    if (w->config_fd >= 0)
        close(w->config_fd);
    free(w->socket_path);
    free(w->list);
    free(w);
}

bool workers_inherited(struct frontend_socket *out, size_t *n)
{
    const char *text = getenv(ENVIRONMENT);
    if (!text)
        return false;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    const uint64_t one = 1;
    if (write(AWAKE_FD, &one, sizeof(one)) != (ssize_t)sizeof(one))
        panic("the parent's eventfd: %s", strerror(errno));
    (void)close(AWAKE_FD);
    str rest = str_c(text), item;
    for (*n = 0; *n < FRONTENDS_LISTENERS_MAX && rest.n && str_split(&rest, ',', &item);) {
        str kind;
        uint32_t k, fd;
        if (str_split(&item, ':', &kind) && num_u32(kind, FRONTENDS_ - 1, &k) && num_u32(item, 1u << 20, &fd))
            out[(*n)++] = (struct frontend_socket){(enum frontend_kind)k, (int)fd};
    }
    return true;
}
