#include "frontend/common/dir_watch.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "proto/auth_calls.h"
#include "rpc/call.h"

#define DIR_WATCH_MAGIC 0x64697277u
#define POLL_MS 25000
#define CALL_SLACK_MS 10000
/* between answers that know nothing of the one before: nodes that take turns must not make a spin */
#define GAP_MS 1000
#define RETRY_MS_MIN 250
#define RETRY_MS_MAX 15000
#define CALL_ARENA ((size_t)1 << 20)

struct dir_watch {
    uint32_t magic;
    ProtobufCService *auth;
    struct list subs;
    uint64_t at, route_key; /* route_key: numbers are those of one node */
    bool is_running, is_closing, is_failing;
    struct fiber *poller, *freer;
};

struct dir_watch *dir_watch_new(ProtobufCService *auth)
{
    struct dir_watch *w = xnew(struct dir_watch);
    w->magic = DIR_WATCH_MAGIC;
    w->auth = auth;
    w->route_key = random_u64() | 1;
    list_init(&w->subs);
    return w;
}

static void tell(struct dir_watch *w, const Thurn__NewsReply *r)
{
    struct dir_news news = {r->account_ids, r->n_account_ids, r->is_gap};
    LIST_EACH(&w->subs, n)
    {
        struct dir_sub *sub = LIST_ITEM(n, struct dir_sub, node);
        sub->fn(sub->arg, &news);
    }
}

FIBER static bool ask(struct dir_watch *w, bool *is_gap, struct err *err)
{
    ARENA(a, CALL_ARENA);
    Thurn__NewsRequest q = THURN__NEWS_REQUEST__INIT;
    const Thurn__NewsReply *r;
    struct rpc_call c;
    rpc_call_init(&c, &a);
    c.route_key = w->route_key;
    c.deadline_mono_ms = clock_mono_ms() + POLL_MS + CALL_SLACK_MS;
    q.after = w->at;
    q.wait_ms = POLL_MS;
    if (!auth_news(&c, w->auth, &q, &r))
        return err_set(err, c.err.kind, "%s", c.err.msg);
    *is_gap = r->is_gap && w->at;
    w->at = r->at;
    if (r->has_news)
        tell(w, r);
    return true;
}

static void note(struct dir_watch *w, const struct err *err)
{
    if (err_is_set(err))
        metric_inc(M_DIR_WATCH_FAILURES);
    if (err_is_set(err) && !w->is_failing)
        log_warn("directory.unwatched", KV_ERR(err));
    else if (!err_is_set(err) && w->is_failing)
        log_info("directory.watched");
    w->is_failing = err_is_set(err);
}

FIBER static void poll_loop(struct dir_watch *w)
{
    struct err stop = ERR_INIT;
    int64_t retry_ms = RETRY_MS_MIN;
    while (!w->is_closing) {
        struct err err = ERR_INIT;
        bool is_gap = false;
        int64_t pause_ms = 0;
        if (ask(w, &is_gap, &err)) {
            retry_ms = RETRY_MS_MIN;
            pause_ms = is_gap ? GAP_MS : 0;
        } else {
            pause_ms = retry_ms / 2 + (int64_t)random_below((uint64_t)retry_ms);
            retry_ms = MIN(retry_ms * 2, (int64_t)RETRY_MS_MAX);
        }
        if (!w->is_closing)
            note(w, &err);
        if (pause_ms && !fiber_sleep_ms(pause_ms, &stop))
            return; /* cancelled */
    }
}

FIBER static void run(void *arg)
{
    struct dir_watch *w = arg;
    w->poller = fiber_self();
    if (!w->is_closing)
        poll_loop(w);
    w->poller = NULL;
    w->is_running = false;
    if (w->freer)
        fiber_wake(w->freer);
}

void dir_watch_add(struct dir_watch *w, struct dir_sub *sub, void (*fn)(void *arg, const struct dir_news *news),
                   void *arg)
{
    CHECK(w, DIR_WATCH_MAGIC);
    assert(!list_in(&sub->node));
    struct err err = ERR_INIT; /* at the cap of fibers the next subscriber tries again; lives of answers are the net */
    sub->fn = fn;
    sub->arg = arg;
    list_push(&w->subs, &sub->node);
    if (!w->is_running)
        w->is_running = fiber_spawn("dir_watch", run, w, FIBER_NO_DEADLINE, &err);
}

void dir_watch_remove(struct dir_sub *sub)
{
    if (list_in(&sub->node))
        list_remove(&sub->node);
}

void dir_watch_free(struct dir_watch *w)
{
    if (!w)
        return;
    CHECK(w, DIR_WATCH_MAGIC);
    assert(list_empty(&w->subs));
    w->is_closing = true;
    if (w->poller)
        fiber_cancel(w->poller);
    w->freer = fiber_self();
    while (w->is_running) /* it uses this memory: whatever happens to us, it ends first */
        fiber_wait_uninterrupted();
    w->magic = 0;
    xfree(w);
}
