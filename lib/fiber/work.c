#include "fiber/work.h"

#include <stdlib.h>

#include "base/metrics.h"
#include "base/num.h"
#include "fiber/internal.h"

#define WORK_QUEUE_MAX 1024u /* calls that wait or run */

struct work {
    uv_work_t req;
    void (*fn)(void *arg);
    void *arg;
    struct fiber *waiter;
    bool is_over;
    bool was_cancelled;
};
static unsigned n_pending;

static void on_thread(uv_work_t *req)
{
    const struct work *w = CONTAINER_OF(req, struct work, req);
    w->fn(w->arg);
}

static void after_work(uv_work_t *req, int status)
{
    struct work *w = CONTAINER_OF(req, struct work, req);
    w->is_over = true;
    w->was_cancelled = status == UV_ECANCELED;
    fiber_wake(w->waiter);
}

unsigned work_pool_threads(void)
{
    const char *size = getenv("UV_THREADPOOL_SIZE"); /* set by fiber_runtime_init, unless the environment has it */
    uint32_t n;
    return size && num_u32(str_c(size), 1024, &n) && n > 0 ? n : 4;
}

bool work_run(void (*fn)(void *arg), void *arg, struct err *err)
{
    struct work w = {.fn = fn, .arg = arg, .waiter = fiber_self()};
    if (n_pending >= WORK_QUEUE_MAX) {
        metric_inc(M_WORK_REFUSED);
        return err_set(err, ERR_BUSY, "%u calls wait for the work pool", n_pending);
    }
    if (!fiber_may_wait(err))
        return false;
    if (uv_queue_work(fiber_loop(), &w.req, on_thread, after_work) != 0)
        return err_set(err, ERR_UNAVAILABLE, "the work pool takes no work");
    n_pending++;
    while (!w.is_over && fiber_wait_for("work pool", err))
        ;
    if (!w.is_over) {
        (void)uv_cancel((uv_req_t *)&w.req); /* refused once it runs: then its result counts */
        while (!w.is_over)
            fiber_wait_deaf("work pool");
    }
    n_pending--;
    if (w.was_cancelled)
        return false;
    err_clear(err);
    return true;
}
