/*
 * From due to a session. A recipient whose time has come waits at its domain (domain.c) until it is known which site
 * that is, then in a flow (one for each tenant and priority) of the site. Sites take turns for the process' sessions;
 * in a site flows take turns by deficit round robin, counted in recipients, so that a large mailing delays nobody
 * else's single message by more than a turn. How many sessions a site gets is an adaptive window: one more for each
 * window of successes, one less for a failure; failures of all that are at work there (a whole window at most) without
 * a success suspend the site.
 *
 * The local store has a site, and one more for each shard of it that is away: what is for that shard waits there, and a
 * single attempt now and then finds out that it is back, upon which all goes at once.
 *
 * Nothing here waits: it runs on the loop or on any fiber.
 */
#include "queue-service/schedule.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "base/trouble.h"
#include "queue-service/domain.h"
#include "queue-service/job.h"
#include "queue-service/node.h"
#include "queue-service/results.h"
#include "queue-service/shard.h"

#define WINDOW_FIRST 5.0
#define LOCAL_RETRY_FIRST_MS 250
/* one attempt in so long while the store is away: it costs next to nothing */
#define LOCAL_RETRY_MAX_MS 1000
#define SWEEP_MS 30000
/* after its last job: window and failures are remembered so long */
#define SITE_KEEP_MS (5 * 60 * 1000)
#define NOT_NOW_S 2       /* the shard may not work at the moment */
#define FULLNESS_TOLD 90u /* percent of the memory from which on /readyz says so */
#define FULLNESS_OVER 85u
#define JOB_ARENA_MAX ((size_t)16 << 20)

enum { WHEEL_RCPT, WHEEL_MESSAGE }; /* zero needs not be set */

static int64_t mono_s(void)
{
    return clock_mono_ms() / 1000;
}

/* --- recipients --- */

static uint64_t flow_key(int64_t tenant_id, uint32_t priority)
{
    return (uint64_t)tenant_id << 2 | MIN(priority, 2u);
}

static size_t flow_bytes(const struct flow *f)
{
    return heap_bytes(f) + MAP_ENTRY_BYTES;
}

static void flow_free_if_empty(struct flow *f)
{
    if (!list_empty(&f->rcpts))
        return;
    list_remove(&f->node);
    f->site->queue->route_bytes -= flow_bytes(f);
    (void)map64_remove(&f->site->flow_of, flow_key(f->tenant_id, f->priority)); /* it is this one */
    free(f);
}

void rcpt_detach(struct rcpt *r)
{
    struct queue *q = r->msg->shard->queue;
    if (r->state == R_DUE)
        wheel_remove(&r->timer);
    else if (r->state == R_ACTIVE)
        q->n_active--;
    if (r->state != R_READY)
        return;
    struct flow *f = r->flow;
    list_remove(&r->node);
    r->flow = NULL;
    if (f) {
        f->site->n_ready--;
        flow_free_if_empty(f);
    }
}

static void on_due(struct wheel_node *n)
{
    schedule_ready(CONTAINER_OF(n, struct rcpt, timer));
}

/* The longest that it can have been meant to wait: more is left only when the wall clock went back. */
static int64_t longest_wait_ms(const struct rcpt *r)
{
    const struct queue *q = r->msg->shard->queue;
    uint32_t most_s = 0;
    if (r->attempts == 0)
        return MAX(r->due_unix - r->msg->created_unix, 0) * 1000;
    for (size_t i = 0; i < q->opts.n_retry; i++)
        most_s = MAX(most_s, q->retry_s[i]);
    return (int64_t)most_s * 1000 / 5 * 6; /* queue_backoff_s */
}

/* What waits does so by the monotonic clock: the wall clock's jumps do not touch it. */
void schedule_rcpt(struct rcpt *r)
{
    int64_t wait_ms = MIN(r->due_unix * 1000 - queue_unix_ms(r->msg->shard->queue), longest_wait_ms(r));
    assert(r->state == R_DUE && !list_in(&r->timer.node));
    if (wait_ms <= 0) {
        schedule_ready(r);
        return;
    }
    wheel_add(&r->msg->shard->queue->wheel, &r->timer, (clock_mono_ms() + wait_ms + 999) / 1000);
}

static void on_message_timer(struct wheel_node *n)
{
    struct message *m = CONTAINER_OF(n, struct message, timer);
    struct err err = ERR_INIT;
    message_ref(m);
    if (queue_spawn(m->shard->queue, "queue.expire", results_expire, m, &err))
        return;
    message_unref(m); /* too many fibers now: in a moment */
    wheel_add(&m->shard->queue->wheel, &m->timer, mono_s() + NOT_NOW_S);
}

static bool has_notice_to_give(const struct message *m)
{
    for (uint32_t i = 0; message_text(m, TEXT_SENDER).n && i < m->n_rcpts; i++)
        if (!m->rcpts[i].is_delay_notified && m->rcpts[i].state != R_DONE && m->rcpts[i].state != R_FAILED)
            return true;
    return false;
}

void schedule_message(struct message *m)
{
    struct queue *q = m->shard->queue;
    int64_t age_s = m->expires_unix - m->created_unix;
    if (has_notice_to_give(m))
        age_s = MIN(age_s, (int64_t)q->opts.delay_notice_s);
    m->timer.kind = WHEEL_MESSAGE;
    wheel_add(&q->wheel, &m->timer, MAX((m->born_ms + age_s * 1000 + 999) / 1000, mono_s() + 1));
}

/* --- flows --- */

/* Append to the flow of its message's tenant and priority. */
void site_add(struct site *s, struct rcpt *r, bool at_head)
{
    struct message *m = r->msg;
    struct flow *f = map64_get(&s->flow_of, flow_key(m->tenant_id, m->priority));
    if (!f) {
        f = xnew(struct flow);
        *f = (struct flow){.site = s, .tenant_id = m->tenant_id, .priority = m->priority};
        list_init(&f->rcpts);
        list_push(&s->flows, &f->node);
        (void)map64_put(&s->flow_of, flow_key(m->tenant_id, m->priority), f); /* nothing was there */
        s->queue->route_bytes += flow_bytes(f);
    }
    r->state = R_READY;
    r->flow = f;
    if (at_head)
        list_push_front(&f->rcpts, &r->node);
    else
        list_push(&f->rcpts, &r->node);
    s->n_ready++;
}

/* --- sites --- */

static size_t site_bytes(const struct site *s)
{
    /* the map has a copy of the key */
    return heap_bytes(s) + 2 * heap_bytes(s->key) + heap_bytes(s->remote.mx) + MAP_ENTRY_BYTES;
}

struct site *site_get(struct queue *q, enum site_kind kind, str key)
{
    struct site *s = map_get(&q->sites, key);
    if (s)
        return s;
    s = xnew(struct site);
    s->queue = q;
    s->kind = kind;
    s->key = str_dup(key);
    list_init(&s->flows);
    map64_init(&s->flow_of);
    s->window = WINDOW_FIRST;
    s->used_ms = clock_mono_ms();
    (void)map_put(&q->sites, key, s); /* nothing was there */
    q->route_bytes += site_bytes(s);
    return s;
}

/* One block: what is small may be many. */
void site_set_hosts(struct site *s, const struct remote_site *found)
{
    size_t n = found->n_mx * sizeof(struct dns_mx);
    for (size_t i = 0; i < found->n_mx; i++)
        n += found->mx[i].name.n + 1;
    s->queue->route_bytes -= site_bytes(s);
    free(s->remote.mx);
    s->remote = (struct remote_site){.key = str_c(s->key), .mx = xcalloc(1, n + 1), .n_mx = found->n_mx};
    char *p = (char *)(s->remote.mx + found->n_mx);
    for (size_t i = 0; i < found->n_mx; i++) {
        str name = found->mx[i].name;
        memcpy(p, name.p, name.n);
        s->remote.mx[i] = (struct dns_mx){found->mx[i].preference, str_n(p, name.n)};
        p += name.n + 1;
    }
    s->queue->route_bytes += site_bytes(s);
}

static void site_free(struct site *s)
{
    struct queue *q = s->queue;
    assert(list_empty(&s->flows) && s->n_sessions == 0 && s->n_domains == 0);
    fiber_timer_stop(&s->resume);
    list_remove(&s->waiting);
    (void)map_remove(&q->sites, str_c(s->key)); /* it is this one */
    q->route_bytes -= site_bytes(s);
    free(s->remote.mx);
    map64_done(&s->flow_of);
    free(s->key);
    free(s);
}

bool site_is_suspended(const struct site *s)
{
    return clock_mono_ms() < s->suspended_until_ms;
}

/* Sessions that the site may have now. Among nodes a site's cap is divided evenly: no node has to ask another. */
static unsigned site_limit(const struct site *s)
{
    const struct queue *q = s->queue;
    if (s->kind != SITE_REMOTE)
        return s->suspensions > 0 ? 1 : q->opts.max_local_jobs; /* one finds out for all */
    unsigned share = MAX(q->opts.max_site_sessions / MAX(q->n_live_nodes, 1), 1);
    return MIN((unsigned)MAX(s->window, 1), share);
}

static struct places *places_of(const struct site *s)
{
    return s->kind == SITE_REMOTE ? &s->queue->remote_places : &s->queue->local_places;
}

struct session {
    struct list_node node; /* of queue->sessions */
    struct job job;
};

/* Also when it has not had its first turn. */
static void break_off(struct job *job)
{
    job->is_broken_off = true;
    if (job->attempt)
        fiber_cancel(job->attempt);
}

void schedule_cancel_sessions(struct queue *q, const struct shard *s)
{
    LIST_EACH(&q->sessions, n)
    {
        struct session *run = LIST_ITEM(n, struct session, node);
        if (run->job.is_under_way && (!s || run->job.msg->shard == s))
            break_off(&run->job);
    }
}

/* Whether the job is about any of these recipients (by their place in the message), and about any other. */
static void look_for(const struct job *job, const bool *is_meant, bool *has_meant, bool *has_others)
{
    *has_meant = *has_others = false;
    for (size_t i = 0; i < job->n; i++) {
        if (!job->rcpts[i])
            continue;
        bool meant = is_meant[job->rcpts[i] - job->msg->rcpts];
        *has_meant |= meant;
        *has_others |= !meant;
    }
}

void schedule_cancel_message(const struct message *m, const bool *is_meant, bool spare_sent)
{
    LIST_EACH(&m->shard->queue->sessions, n)
    {
        struct session *run = LIST_ITEM(n, struct session, node);
        bool has_meant, has_others;
        if (!run->job.is_under_way || run->job.msg != m)
            continue;
        look_for(&run->job, is_meant, &has_meant, &has_others);
        /* others may have it already: twice is worse than late */
        if (has_meant && !(run->job.is_sent && (spare_sent || has_others)))
            break_off(&run->job);
    }
}

const struct job *schedule_job_of(const struct rcpt *r)
{
    LIST_EACH(&r->msg->shard->queue->sessions, n)
    {
        const struct job *job = &LIST_ITEM(n, struct session, node)->job;
        for (size_t i = 0; job->is_under_way && job->msg == r->msg && i < job->n; i++)
            if (job->rcpts[i] == r)
                return job;
    }
    return NULL;
}

void schedule_cancel_lost(const struct shard *s)
{
    LIST_EACH(&s->queue->sessions, n)
    {
        struct session *run = LIST_ITEM(n, struct session, node);
        if (run->job.is_under_way && run->job.msg->is_gone && run->job.msg->shard == s)
            break_off(&run->job);
    }
}

FIBER static void attempt(void *arg)
{
    struct job *job = arg;
    if (job->is_broken_off)
        return;
    job->attempt = fiber_self();
    if (job->site->kind == SITE_LOCAL)
        local_job(job);
    else
        deliver_job(job);
    job->attempt = NULL;
}

/* What was found out is committed, however the attempt ended. */
FIBER static void work(struct job *job)
{
    ARENA(a, JOB_ARENA_MAX);
    struct err err = ERR_INIT; /* no fiber free: in a moment */
    job->arena = &a;
    job->u = arena_array(&a, struct update, job->n);
    job->add = arena_array(&a, struct message *, job->n);
    FIBER_GROUP(g, 1);
    job->is_under_way = true;
    if (fiber_group_spawn(&g, "queue.attempt", attempt, job, &err))
        IGNORE(fiber_group_wait(&g, &err));
    job->is_under_way = false;
    if (job->n_updates && results_commit(job->site->queue, job->msg, job->u, job->n_updates, job->add, job->n_add))
        for (size_t i = 0; i < job->n_updates; i++) /* false: somebody else's now, or we stop */
            job_forget(job, job->u[i].rcpt);
}

FIBER static void session(void *arg)
{
    struct site *s = arg;
    struct queue *q = s->queue;
    struct session run = {.job = {.msg = NULL}};
    list_push(&q->sessions, &run.node);
    while (!q->is_draining && !site_is_suspended(s) && s->n_sessions <= site_limit(s) && site_take(s, &run.job)) {
        work(&run.job);
        job_end(&run.job);
    }
    list_remove(&run.node);
    s->n_sessions--;
    s->used_ms = clock_mono_ms();
    struct places *p = places_of(s);
    p->n--;
    site_kick(s); /* it may have got more while the last one ended */
    for (struct list_node *n; p->n < p->max && (n = list_pop(&p->waiting));)
        site_kick(LIST_ITEM(n, struct site, waiting));
    queue_fiber_ended(q);
}

void site_kick(struct site *s)
{
    struct queue *q = s->queue;
    struct places *p = places_of(s);
    struct err err = ERR_INIT; /* no fiber free: the next tick tries again */
    while (s->n_ready > s->n_sessions && s->n_sessions < site_limit(s) && !site_is_suspended(s) && !q->is_draining) {
        if (p->n >= p->max) {
            if (!list_in(&s->waiting))
                list_push(&p->waiting, &s->waiting);
            return;
        }
        if (!queue_spawn(q, "queue.session", session, s, &err))
            return;
        s->n_sessions++;
        p->n++;
    }
}

static void on_resume(void *arg)
{
    struct site *s = arg;
    s->suspended_until_ms = 0;
    site_kick(s);
}

void site_hurry(struct site *s, uint64_t act)
{
    if (s->hurried_by == act)
        return;
    s->hurried_by = act;
    fiber_timer_stop(&s->resume);
    on_resume(s);
}

void site_succeeded(struct site *s)
{
    bool is_back = s->suspensions > 0;
    s->failed_cohorts = 0;
    s->suspensions = 0;
    s->text[0] = '\0';
    s->window = MIN(s->window + 1 / s->window, (double)s->queue->opts.max_site_sessions);
    if (is_back)
        site_kick(s);
}

void site_failed(struct site *s, const char *text)
{
    struct queue *q = s->queue;
    /* a single message's host is not asked again at once */
    s->failed_cohorts += 1 / MIN(s->window, (double)MAX(s->n_sessions, 1));
    s->window = MAX(s->window - 1, 1);
    (void)snprintf(s->text, sizeof(s->text), "%s", text);
    if (s->failed_cohorts < 0.999 && s->kind == SITE_REMOTE)
        return;
    if (site_is_suspended(s))
        return;
    int64_t ms = s->kind == SITE_LOCAL ? queue_growing_ms(LOCAL_RETRY_FIRST_MS, LOCAL_RETRY_MAX_MS, s->suspensions)
                                       : queue_backoff_s(q, s->suspensions) * 1000;
    s->suspensions++;
    s->failed_cohorts = 0;
    s->suspended_until_ms = clock_mono_ms() + ms;
    metric_inc(M_QUEUE_SITES_SUSPENDED);
    log_info("queue.site_suspended", KV_Z("site", s->key), KV_I64("ms", ms), KV_Z("reason", s->text));
    fiber_timer_start(&s->resume, ms, on_resume, s);
}

/* --- jobs --- */

static int quantum(const struct flow *f)
{
    static const int by_priority[] = {5, 20, 40}; /* bulk, normal, system: 1 to 4 to 8 */
    return by_priority[MIN(f->priority, 2u)];
}

/* A recipient whose shard may not work now (leaving, or the lease has lapsed) waits a little, out of the way. */
static void set_aside(struct rcpt *r)
{
    rcpt_detach(r);
    r->state = R_DUE;
    wheel_add(&r->msg->shard->queue->wheel, &r->timer, mono_s() + NOT_NOW_S);
}

/* The flow whose turn it is; its first recipient may be worked on. NULL when none is left. */
static struct flow *next_flow(struct site *s)
{
    for (struct list_node *n; (n = list_first(&s->flows));) {
        struct flow *f = LIST_ITEM(n, struct flow, node);
        struct rcpt *r = LIST_ITEM(list_first(&f->rcpts), struct rcpt, node);
        if (!shard_may_work(r->msg->shard)) {
            set_aside(r);
            continue;
        }
        if (f->deficit > 0)
            return f;
        f->deficit += quantum(f);
        list_remove(&f->node);
        list_push(&s->flows, &f->node);
        if (list_first(&s->flows) == &f->node)
            return f;
    }
    return NULL;
}

static void job_add(struct job *job, struct rcpt *r)
{
    rcpt_detach(r);
    r->state = R_ACTIVE;
    r->msg->shard->queue->n_active++;
    job->rcpts[job->n++] = r;
}

bool site_take(struct site *s, struct job *job)
{
    struct flow *f = next_flow(s);
    if (!f)
        return false;
    struct message *m = LIST_ITEM(list_first(&f->rcpts), struct rcpt, node)->msg;
    size_t n = 0;
    *job = (struct job){.msg = m, .site = s, .started_ms = clock_mono_ms()};
    struct rcpt *mine[QUEUE_JOB_RCPTS];
    for (uint32_t i = 0; i < m->n_rcpts && n < QUEUE_JOB_RCPTS; i++)
        if (m->rcpts[i].state == R_READY && m->rcpts[i].flow == f)
            mine[n++] = &m->rcpts[i];
    f->deficit -= (int)n;
    for (size_t i = 0; i < n; i++)
        job_add(job, mine[i]); /* the last may free the flow */
    message_ref(m);
    m->shard->n_active++;
    s->used_ms = clock_mono_ms();
    return true;
}

void job_forget(struct job *job, const struct rcpt *r)
{
    for (size_t i = 0; i < job->n; i++)
        if (job->rcpts[i] == r)
            job->rcpts[i] = NULL;
}

/* A recipient that nothing became of (the attempt was broken off) waits a little, so that who broke it off gets it
 * first. */
void job_end(struct job *job)
{
    struct shard *s = job->msg->shard;
    struct queue *q = s->queue;
    for (size_t i = 0; i < job->n && !job->msg->is_gone; i++)
        if (job->rcpts[i])
            set_aside(job->rcpts[i]);
    if (--s->n_active == 0 && s->state == SHARD_LEAVING)
        node_wake(q); /* it can be given up now */
    message_unref(job->msg);
    fiber_cond_broadcast(&q->ended);
}

void site_put_back(struct site *s, struct rcpt *r)
{
    rcpt_detach(r);
    site_add(s, r, true);
}

void site_move(struct site *s, struct rcpt *r)
{
    rcpt_detach(r);
    site_add(s, r, false);
}

/* --- the second hand --- */

/* Sites with something ready and nobody at it are asked again: whatever kept them, nothing stays for ever. */
static void kick_all(struct queue *q)
{
    str key;
    void *value;
    for (struct map_iter it = {0}; map_next(&q->sites, &it, &key, &value);)
        site_kick(value);
}

static void sweep(struct queue *q)
{
    int64_t now = clock_mono_ms();
    str key;
    void *value;
    for (struct map_iter it = {0}; map_next(&q->sites, &it, &key, &value);) {
        struct site *s = value;
        if (list_empty(&s->flows) && s->n_sessions == 0 && s->n_domains == 0 && now - s->used_ms > SITE_KEEP_MS &&
            !site_is_suspended(s))
            site_free(s);
    }
}

int64_t schedule_oldest_unix(const struct queue *q)
{
    int64_t oldest = 0;
    for (unsigned i = 0; i < q->opts.n_shards; i++) {
        struct list_node *n = list_first(&q->shards[i].messages);
        int64_t at = n ? LIST_ITEM(n, struct message, node)->created_unix : 0;
        if (at && (!oldest || at < oldest))
            oldest = at;
    }
    return oldest;
}

static void set_gauges(struct queue *q)
{
    int64_t oldest = schedule_oldest_unix(q);
    metric_set(M_QUEUE_MESSAGES, (int64_t)q->n_messages);
    metric_set(M_QUEUE_RECIPIENTS, (int64_t)q->n_rcpts);
    metric_set(M_QUEUE_ACTIVE, (int64_t)q->n_active);
    metric_set(M_QUEUE_HELD, (int64_t)q->n_held);
    metric_set(M_QUEUE_SHARDS, q->n_owned);
    metric_set(M_QUEUE_MEMORY, (int64_t)queue_bytes(q));
    metric_set(M_QUEUE_MEMORY_MAX, (int64_t)q->opts.max_bytes);
    metric_set(M_QUEUE_OLDEST_SECONDS, oldest ? queue_unix(q) - oldest : 0);
}

void schedule_tell_fullness(const struct queue *q)
{
    uint64_t percent = queue_bytes(q) / MAX(q->opts.max_bytes / 100, 1);
    char why[160];
    if (percent < FULLNESS_OVER)
        trouble_over("queue.memory");
    /* in between it stays as it is, so that it does not come and go */
    if (percent < (trouble_is("queue.memory") ? FULLNESS_OVER : FULLNESS_TOLD))
        return;
    (void)snprintf(why, sizeof(why), "%llu %% of queue.memory is used by %zu messages%s", (unsigned long long)percent,
                   q->n_messages, percent >= 100 ? ": new mail is refused here" : "");
    trouble_note("queue.memory", why);
}

static void on_tick(void *arg)
{
    struct queue *q = arg;
    fiber_timer_start(&q->tick, 1000, on_tick, q);
    wheel_advance(&q->wheel, mono_s());
    domains_tick(q);
    kick_all(q);
    set_gauges(q);
    schedule_tell_fullness(q);
    if (clock_mono_ms() - q->swept_ms >= SWEEP_MS) {
        q->swept_ms = clock_mono_ms();
        domains_sweep(q);
        sweep(q);
    }
}

void schedule_init(struct queue *q)
{
    static const wheel_fn fns[] = {[WHEEL_RCPT] = on_due, [WHEEL_MESSAGE] = on_message_timer};
    wheel_init(&q->wheel, mono_s(), fns);
}

void schedule_start(struct queue *q)
{
    q->wheel.now_s = mono_s(); /* nothing is in it yet */
    q->swept_ms = clock_mono_ms();
    fiber_timer_start(&q->tick, 1000, on_tick, q);
}

void schedule_stop(struct queue *q)
{
    fiber_timer_stop(&q->tick);
}

void schedule_done(struct queue *q)
{
    str key;
    void *value;
    domains_done(q);
    for (struct map_iter it = {0}; map_next(&q->sites, &it, &key, &value);)
        site_free(value);
    map_done(&q->sites);
}
