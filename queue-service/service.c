/* The queue object, its methods, and Enqueue. */
#include "queue-service/service.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "proto/queue_calls.h"
#include "queue-service/admin.h"
#include "queue-service/body.h"
#include "queue-service/commit.h"
#include "queue-service/domain.h"
#include "queue-service/node.h"
#include "queue-service/schedule.h"
#include "queue-service/schema.h"
#include "queue-service/shard.h"

#define ADDRESS_MAX 512u
#define TEXT_MAX 1024u
#define PREFIX_MAX (8u * 1024)
#define DRAIN_MORE_MS 10000 /* for the release itself, besides the attempts */

/* --- helpers of all files --- */

bool queue_spawn(struct queue *q, const char *name, fiber_fn fn, void *arg, struct err *err)
{
    if (!fiber_spawn(name, fn, arg, FIBER_NO_DEADLINE, err))
        return false;
    q->n_fibers++;
    return true;
}

void queue_fiber_ended(struct queue *q)
{
    q->n_fibers--;
    fiber_cond_broadcast(&q->ended);
    if (q->stopper)
        fiber_wake(q->stopper);
}

void queue_call_init(struct rpc_call *c, struct arena *a, int64_t timeout_ms)
{
    rpc_call_init(c, a);
    c->deadline_mono_ms = MIN(c->deadline_mono_ms, clock_mono_ms() + timeout_ms);
}

int64_t queue_unix_ms(const struct queue *q)
{
    return clock_unix_ms() - q->clock_ahead_ms;
}

int64_t queue_unix(const struct queue *q)
{
    return queue_unix_ms(q) / 1000;
}

int64_t queue_backoff_s(const struct queue *q, unsigned attempts)
{
    int64_t ms = (int64_t)q->retry_s[MIN(attempts, q->opts.n_retry - 1)] * 1000;
    ms += (int64_t)random_below((uint64_t)(ms / 5 * 2 + 1)) - ms / 5; /* ±20 %: they must not all come back at once */
    return MAX((ms + 999) / 1000, 1);
}

int64_t queue_growing_ms(int64_t first_ms, int64_t max_ms, unsigned times)
{
    int64_t ms = first_ms;
    for (unsigned i = 0; i < times && ms < max_ms; i++)
        ms *= 2;
    ms = MIN(ms, max_ms);
    return ms - ms / 5 + (int64_t)random_below((uint64_t)(ms / 5 * 2 + 1)); /* so that not all return at once */
}

/* --- Enqueue --- */

static bool text_ok(const char *name, str s, size_t max, struct err *err)
{
    if (s.n > max)
        return err_set(err, ERR_LIMIT, "%s is longer than %zu bytes", name, max);
    for (size_t i = 0; i < s.n; i++)
        if (ascii_is_ctl((unsigned char)s.p[i]))
            return err_set(err, ERR_INVALID, "control character in %s", name);
    return utf8_valid(s.p, s.n) || err_set(err, ERR_INVALID, "%s is not UTF-8", name);
}

static bool address_ok(const char *name, str s, struct err *err)
{
    ptrdiff_t at = str_rfind(s, '@');
    if (at <= 0 || (size_t)at + 1 == s.n)
        return err_set(err, ERR_INVALID, "%s is no address", name);
    return text_ok(name, s, ADDRESS_MAX, err);
}

static bool recipients_ok(const Thurn__EnqueueRequest *req, struct err *err)
{
    if (req->n_recipients == 0 || req->n_recipients > QUEUE_RCPTS_MAX)
        return err_set(err, req->n_recipients ? ERR_LIMIT : ERR_INVALID, "a message has 1 to %u recipients",
                       QUEUE_RCPTS_MAX);
    for (size_t i = 0; i < req->n_recipients; i++)
        if (!address_ok("recipient", str_c(req->recipients[i]->address), err) ||
            !text_ok("original recipient", str_c(req->recipients[i]->original), TEXT_MAX, err))
            return false;
    return true;
}

static bool request_ok(const Thurn__EnqueueRequest *req, struct err *err)
{
    const Thurn__Body *body = req->body;
    if (req->enqueue_id.len != ENQUEUE_ID_SIZE)
        return err_set(err, ERR_INVALID, "enqueue id has not %u bytes", ENQUEUE_ID_SIZE);
    if (!body || (body->blob != NULL) == (body->content.len > 0) || (body->blob && body->blob->hash.len != 32))
        return err_set(err, ERR_INVALID, "a message has either content or a blob");
    if (body->content.len > QUEUE_CONTENT_MAX || req->prefix.len > PREFIX_MAX)
        return err_set(err, ERR_LIMIT, "content or prefix is too long");
    return (req->sender[0] == '\0' || address_ok("sender", str_c(req->sender), err)) &&
           text_ok("envelope id", str_c(req->envelope_id), TEXT_MAX, err) &&
           text_ok("origin", str_c(req->received_from), TEXT_MAX, err) &&
           text_ok("trace", str_c(req->trace), TEXT_MAX, err) && recipients_ok(req, err);
}

static void envelope_of(struct queue *q, const Thurn__EnqueueRequest *req, struct arena *a, struct envelope *e)
{
    int64_t now = queue_unix(q), due = MAX(now, req->not_before_unix);
    struct envelope_rcpt *rcpts = arena_array(a, struct envelope_rcpt, req->n_recipients);
    for (size_t i = 0; i < req->n_recipients; i++)
        rcpts[i] = (struct envelope_rcpt){.address = str_c(req->recipients[i]->address),
                                          .original = str_c(req->recipients[i]->original),
                                          .no = (uint32_t)i,
                                          .notify = req->recipients[i]->notify & 15u,
                                          .state = R_DUE,
                                          .due_unix = due};
    *e = (struct envelope){.enqueue_id = rpc_str(req->enqueue_id),
                           .sender = str_c(req->sender),
                           .envelope_id = str_c(req->envelope_id),
                           .received_from = str_c(req->received_from),
                           .trace = str_c(req->trace),
                           .prefix = rpc_str(req->prefix),
                           .tenant_id = req->tenant_id,
                           .account_id = req->account_id,
                           .created_unix = now,
                           .expires_unix = req->expires_unix > now ? req->expires_unix : due + q->opts.lifetime_s,
                           .priority = MIN(req->priority, 2u),
                           .day = req->day ? req->day : (uint32_t)(now / 86400),
                           .flags = (req->is_8bit ? MSG_IS_8BIT : 0) | (req->is_smtputf8 ? MSG_IS_UTF8 : 0) |
                                    (req->requires_tls ? MSG_REQUIRES_TLS : 0) | (req->ret_full ? MSG_RET_FULL : 0),
                           .rcpts = rcpts,
                           .n_rcpts = req->n_recipients};
}

/* Where the body is to lie: small ones in our database, larger ones with the store, held until they are not needed. */
FIBER static bool place_body(struct queue *q, const Thurn__EnqueueRequest *req, uint64_t id, struct arena *a,
                             struct envelope *e, struct err *err)
{
    struct body_hold hold = body_hold_of(e->enqueue_id, id, e->expires_unix);
    const Thurn__BlobRef *blob = req->body->blob;
    if (!blob && req->body->content.len <= QUEUE_INLINE_MAX) {
        e->body_kind = BODY_INLINE;
        e->size = req->body->content.len;
        return true;
    }
    if (blob ? !body_hold(q, blob, &hold, a, err)
             : !body_put(q, req->tenant_id, rpc_str(req->body->content), &hold, a, &blob, err))
        return false;
    e->body_kind = BODY_BLOB;
    e->size = blob->size;
    e->blob_space = blob->space;
    e->blob_tenant = blob->tenant_id;
    e->blob_hash = rpc_str(blob->hash);
    return true;
}

/* --- one enqueue id is one message --- */

static void remember(struct queue *q, const struct message *m)
{
    struct recent *r = &q->recent_ring[q->recent_next++ % QUEUE_RECENT_MAX];
    if (map_get(&q->recent, str_n(r->enqueue_id, ENQUEUE_ID_SIZE)) == r)
        (void)map_remove(&q->recent, str_n(r->enqueue_id, ENQUEUE_ID_SIZE)); /* it is this one */
    memcpy(r->enqueue_id, m->enqueue_id, ENQUEUE_ID_SIZE);
    r->id = m->id;
    (void)map_put(&q->recent, str_n(r->enqueue_id, ENQUEUE_ID_SIZE), r); /* an older one may be replaced */
}

/* Whether the id was enqueued before; waits while the same is under way. */
FIBER static bool is_known(struct queue *q, str enqueue_id, uint64_t *id, struct err *err)
{
    *id = 0;
    while (map_get(&q->enqueueing, enqueue_id))
        if (!fiber_cond_wait(&q->ended, err))
            return false;
    const struct message *m = index_by_enqueue_id(&q->by_enqueue_id, enqueue_id);
    const struct recent *r = map_get(&q->recent, enqueue_id);
    *id = m ? m->id : r ? r->id : 0;
    return true;
}

FIBER static bool enqueue_new(struct queue *q, const Thurn__EnqueueRequest *req, struct arena *a, uint64_t *id,
                              struct err *err)
{
    struct envelope e;
    envelope_of(q, req, a, &e);
    struct shard *s = shard_for_new(q);
    if (!s)
        return err_set(err, ERR_UNAVAILABLE, "this node has no queue shard now");
    uint64_t new_id = shard_next_id(s);
    if (!place_body(q, req, new_id, a, &e, err))
        return false;
    struct message *m = message_new(s, new_id, &e);
    bool ok = commit_enqueue(q, m, rpc_str(req->body->content), err);
    if (ok) {
        *id = m->id;
        remember(q, m);
    }
    message_unref(m);
    return ok;
}

FIBER static bool enqueue(struct queue *q, const Thurn__EnqueueRequest *req, struct arena *a, Thurn__EnqueueReply *out,
                          struct err *err)
{
    str enqueue_id = rpc_str(req->enqueue_id);
    if (!request_ok(req, err) || !is_known(q, enqueue_id, &out->queue_id, err))
        return false;
    if (out->queue_id)
        return true;
    if (queue_bytes(q) >= q->opts.max_bytes) {
        metric_inc(M_QUEUE_REFUSED);
        schedule_tell_fullness(q);
        return err_set(err, ERR_BUSY, "the queue is full: %zu messages wait", q->n_messages);
    }
    if (q->n_doubtful >= DOUBTFUL_MAX) /* so that what is not known of them is bounded by what is under way */
        return err_set(err, ERR_UNAVAILABLE, "what became of %zu messages has to be found out first", q->n_doubtful);
    if (!disk_room_take(q->opts.room, "queue", err)) {
        err->kind = ERR_BUSY; /* the queue is full, in a way */
        return false;
    }
    (void)map_put(&q->enqueueing, enqueue_id, q); /* nothing was there */
    bool ok = enqueue_new(q, req, a, &out->queue_id, err);
    (void)map_remove(&q->enqueueing, enqueue_id); /* it is ours */
    fiber_cond_broadcast(&q->ended);
    if (ok)
        log_info("queue.enqueued", KV_I64("id", (int64_t)out->queue_id), KV_Z("sender", req->sender),
                 KV_I64("recipients", (int64_t)req->n_recipients), KV_Z("from", req->received_from));
    return ok;
}

/* --- methods --- */

static struct queue *queue_of(Thurn__Queue_Service *s)
{
    struct queue *q = CONTAINER_OF(s, struct queue, service);
    CHECK(q, QUEUE_MAGIC);
    return q;
}

FIBER static bool drain(struct queue *q)
{
    queue_retire(q);
    return true;
}

static bool stats(struct queue *q, struct arena *a, Thurn__QueueStatsReply *out)
{
    admin_stats(q, a, out);
    return true;
}

/* METHOD(function, request, reply, its initialiser, expression): the expression sees q, req, a, out and err. */
#define METHOD(name, Request, Reply, reply_init, expression)                                                           \
    FIBER static void m_##name(Thurn__Queue_Service *service, const Thurn__##Request *req,                             \
                               Thurn__##Reply##_Closure closure, void *closure_data)                                   \
    {                                                                                                                  \
        struct queue *q = queue_of(service);                                                                           \
        struct rpc_call *c = closure_data;                                                                             \
        struct arena *a = c->arena;                                                                                    \
        struct err *err = &c->err;                                                                                     \
        Thurn__##Reply reply = reply_init, *out = &reply;                                                              \
        (void)req, (void)a, (void)err, (void)out; /* not every expression needs all */                                 \
        bool ok = rpc_may_call(c, queue_callers_##name, 0, 0, 0, err) && (expression);                                 \
        closure(ok ? out : NULL, closure_data);                                                                        \
    }
/* Mail from outside is anybody's; of an account, its own. */
METHOD(enqueue, EnqueueRequest, EnqueueReply, THURN__ENQUEUE_REPLY__INIT,
       (!req->account_id || rpc_speaks_for(c, req->account_id, err)) && enqueue(q, req, a, out, err))
METHOD(list, QueueListRequest, QueueListReply, THURN__QUEUE_LIST_REPLY__INIT, admin_list(q, req, a, out, err))
METHOD(show, QueueShowRequest, QueuedMessage, THURN__QUEUED_MESSAGE__INIT, admin_show(q, req->queue_id, a, out, err))
METHOD(act, QueueActRequest, QueueActReply, THURN__QUEUE_ACT_REPLY__INIT, admin_act(q, req, out, err))
METHOD(stats, Empty, QueueStatsReply, THURN__QUEUE_STATS_REPLY__INIT, stats(q, a, out))
METHOD(drain, Empty, Empty, THURN__EMPTY__INIT, drain(q))

static const Thurn__Queue_Service methods = {
    .base = {.descriptor = &thurn__queue__descriptor, .invoke = protobuf_c_service_invoke_internal},
    .enqueue = m_enqueue,
    .list = m_list,
    .show = m_show,
    .act = m_act,
    .stats = m_stats,
    .drain = m_drain,
};

/* --- life --- */

static const uint32_t default_retry_s[] = {60, 180, 420, 900, 1800, 3600};

#define DEFAULT_TO(field, value)                                                                                       \
    do {                                                                                                               \
        if (!(field))                                                                                                  \
            (field) = (value);                                                                                         \
    } while (0)

static void set_defaults(struct queue *q)
{
    struct queue_opts *o = &q->opts;
    if (o->n_retry == 0) {
        o->retry_s = default_retry_s;
        o->n_retry = ARRAY_LEN(default_retry_s);
    }
    memcpy(q->retry_s, o->retry_s, o->n_retry * sizeof(q->retry_s[0]));
    o->retry_s = q->retry_s;
    DEFAULT_TO(o->lifetime_s, 5 * 86400);
    DEFAULT_TO(o->delay_notice_s, 4 * 3600);
    DEFAULT_TO(o->quota_lifetime_s, 86400);
    DEFAULT_TO(o->max_bytes, 256u << 20);
    DEFAULT_TO(o->max_sessions, 500);
    DEFAULT_TO(o->max_site_sessions, 20);
    DEFAULT_TO(o->max_local_jobs, 64);
    DEFAULT_TO(o->outbound_port, 25);
    DEFAULT_TO(o->lease_ms, 6000);
    DEFAULT_TO(o->drain_ms, 10000);
    DEFAULT_TO(o->takeover_hold_ms, 10000);
}

static bool opts_ok(const struct queue_opts *o, struct err *err)
{
    if (o->n_shards == 0 || o->n_shards > QUEUE_SHARDS_MAX)
        return err_set(err, ERR_INVALID, "a queue has 1 to %u shards", QUEUE_SHARDS_MAX);
    if (o->node.n == 0 || o->node.n > 200)
        return err_set(err, ERR_INVALID, "a queue node needs a name of 1 to 200 bytes");
    if (o->n_retry > QUEUE_RETRIES_MAX)
        return err_set(err, ERR_INVALID, "more than %d retry times", QUEUE_RETRIES_MAX);
    for (size_t i = 0; i < o->n_retry; i++)
        if (o->retry_s[i] == 0 || o->retry_s[i] > 86400)
            return err_set(err, ERR_INVALID, "a retry time is 1 s to 1 day");
    return true;
}

static void on_hint(void *arg, str channel, str payload)
{
    struct queue *q = arg;
    if (str_eq(channel, S("queue:shards")) && !str_eq(payload, str_c(q->node)))
        node_wake(q);
}

struct queue *queue_new(const struct queue_opts *opts, struct err *err)
{
    if (!opts_ok(opts, err))
        return NULL;
    const struct remote_opts remote_opts = {.dns = opts->dns,
                                            .tls = opts->tls,
                                            .hostname = opts->hostname,
                                            .port = opts->outbound_port ? opts->outbound_port : 25,
                                            .allow_private_hosts = opts->allow_private_hosts,
                                            .relay = opts->relay};
    struct remote *remote = remote_new(&remote_opts, err);
    if (!remote)
        return NULL;
    struct queue *q = xnew(struct queue);
    q->magic = QUEUE_MAGIC;
    q->opts = *opts;
    q->remote = remote;
    set_defaults(q);
    q->node = str_dup(opts->node);
    q->hostname = str_dup(opts->hostname);
    q->service = methods;
    q->shards = xcalloc(opts->n_shards, sizeof(*q->shards));
    for (unsigned i = 0; i < opts->n_shards; i++) {
        q->shards[i].queue = q;
        q->shards[i].number = i;
        list_init(&q->shards[i].messages);
    }
    index_init(&q->by_id, INDEX_BY_ID);
    index_init(&q->by_enqueue_id, INDEX_BY_ENQUEUE_ID);
    struct map *maps[] = {&q->enqueueing, &q->recent, &q->sites};
    for (size_t i = 0; i < ARRAY_LEN(maps); i++)
        map_init(maps[i]);
    q->recent_ring = xcalloc(QUEUE_RECENT_MAX, sizeof(*q->recent_ring));
    domains_init(q);
    q->remote_places = (struct places){.max = q->opts.max_sessions};
    q->local_places = (struct places){.max = q->opts.max_local_jobs};
    list_init(&q->remote_places.waiting);
    list_init(&q->local_places.waiting);
    list_init(&q->sessions);
    list_init(&q->acts);
    fiber_cond_init(&q->wake);
    fiber_cond_init(&q->ended);
    q->n_live_nodes = 1;
    schedule_init(q);
    commit_init(q);
    return q;
}

bool queue_migrate(struct sql_db *db, bool dry_run, unsigned *applied, struct err *err)
{
    return sql_migrate(db, "queue", queue_migrations, queue_n_migrations, dry_run, applied, err);
}

bool queue_start(struct queue *q, struct err *err)
{
    CHECK(q, QUEUE_MAGIC);
    assert(!q->is_started);
    if (!queue_spawn(q, "queue.coordinator", node_coordinate, q, err))
        return false;
    q->is_started = true;
    if (q->opts.redis) {
        struct err ignored = ERR_INIT; /* without hints the others notice by themselves */
        redis_on_message(q->opts.redis, on_hint, NULL, q);
        IGNORE(redis_subscribe(q->opts.redis, S("queue:shards"), &ignored));
    }
    schedule_start(q);
    return true;
}

ProtobufCService *queue_service(struct queue *q)
{
    CHECK(q, QUEUE_MAGIC);
    return &q->service.base;
}

bool queue_is_ready(const struct queue *q)
{
    return !q->is_draining && (q->n_owned > 0 || q->has_no_share) && clock_mono_ms() < q->lease_until_ms;
}

void queue_retire(struct queue *q)
{
    CHECK(q, QUEUE_MAGIC);
    q->is_draining = true;
    node_wake(q);
    FIBER_DEADLINE(q->opts.drain_ms + DRAIN_MORE_MS);
    struct err err = ERR_INIT; /* what was not released is taken over when the lease ends */
    while (q->is_started && q->n_taken > 0 && fiber_cond_wait(&q->ended, &err))
        continue;
}

void queue_free(struct queue *q)
{
    if (!q)
        return;
    queue_retire(q);
    q->is_stopping = true;
    node_wake(q);
    schedule_stop(q);
    if (q->opts.redis)
        redis_on_message(q->opts.redis, NULL, NULL, q);
    while (q->n_fibers > 0) { /* they hold pointers to us: there is no way but to wait */
        schedule_cancel_sessions(q, NULL);
        q->stopper = fiber_self();
        fiber_wait_uninterrupted();
    }
    for (unsigned i = 0; i < q->opts.n_shards; i++)
        shard_lose(&q->shards[i]);
    admin_done(q);
    batch_free(q->committer);
    remote_free(q->remote);
    schedule_done(q);
    index_done(&q->by_id);
    index_done(&q->by_enqueue_id);
    assert(q->message_bytes == 0 && q->route_bytes == 0); /* it is our own arithmetic */
    map_done(&q->enqueueing);
    map_done(&q->recent);
    free(q->recent_ring);
    free(q->doubtful);
    free(q->releases);
    free(q->shards);
    free(q->node);
    free(q->hostname);
    q->magic = 0;
    free(q);
}
