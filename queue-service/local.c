/*
 * A job into the store. Every recipient is resolved anew at each attempt, for accounts move, close and appear while
 * mail waits. The delivery key (enqueue id and recipient's number) makes a repetition harmless. A recipient that has
 * become an alias of several is replaced by a new message to them, in the transaction that ends it.
 *
 * There is a call for each shard of the store, for one that is away is none of the others' business: its recipients
 * move to a site of its own, and no attempt is counted.
 */
#include "base/clock.h"
#include "proto/auth_calls.h"
#include "proto/store_calls.h"
#include "queue-service/body.h"
#include "queue-service/domain.h"
#include "queue-service/job.h"
#include "queue-service/results.h"

#define RESOLVE_MS 15000
#define DELIVER_MS 30000
#define MOVED_WAIT_S 5
#define NOT_OURS_WAIT_S 61 /* by then the domain is asked for again */

struct target {
    Thurn__DeliverRecipient *to;
    struct rcpt *rcpt;
};
struct work {
    struct queue *q;
    struct job *job;
    struct arena *arena;
    struct target *to; /* those to be delivered */
    size_t n_to;
    str content; /* of an inline body */
};

static struct update *next_update(struct work *w, struct rcpt *r)
{
    struct update *u = &w->job->u[w->job->n_updates++];
    update_init(u, r);
    return u;
}

/* 2 s times the square of the attempts, at most a minute: the store is ours, and near. */
static int64_t local_wait_s(const struct rcpt *r)
{
    int64_t n = MIN(r->attempts + 1, 6);
    return MIN(2 * n * n, 60);
}

/*
 * What the store's answer makes of a recipient. Only the directory says that somebody does not exist: a store that does
 * not find the account was asked with an old resolution, and the next attempt resolves anew.
 */
enum verdict {
    VERDICT_MISSING,
    DELIVERED,
    SHARD_AWAY,
    RESOLVE_AGAIN,
    TRY_AGAIN,
    MAILBOX_FULL,
    CONTENT_REFUSED,
    TOO_BIG,
    NOT_ALLOWED
};
static const enum verdict verdicts[] = {
    [ERR_NONE] = DELIVERED,         [ERR_INVALID] = CONTENT_REFUSED, [ERR_NOT_FOUND] = RESOLVE_AGAIN,
    [ERR_EXISTS] = TRY_AGAIN,       [ERR_DENIED] = NOT_ALLOWED,      [ERR_LIMIT] = TOO_BIG,
    [ERR_CONFLICT] = RESOLVE_AGAIN, [ERR_UNAVAILABLE] = SHARD_AWAY,  [ERR_TIMEOUT] = TRY_AGAIN,
    [ERR_CANCELLED] = TRY_AGAIN,    [ERR_INTERNAL] = TRY_AGAIN,      [ERR_BUSY] = SHARD_AWAY,
    [ERR_QUOTA] = MAILBOX_FULL,
};
_Static_assert(ARRAY_LEN(verdicts) == ERR_KINDS_, "a kind of error has no verdict");

static enum verdict verdict_of(uint32_t kind)
{
    enum verdict v = kind < ERR_KINDS_ ? verdicts[kind] : TRY_AGAIN;
    return v ? v : TRY_AGAIN;
}

static void refused(struct work *w, struct rcpt *r, uint32_t kind, const char *text)
{
    struct queue *q = w->q;
    struct update *u = next_update(w, r);
    switch (verdict_of(kind)) {
    case CONTENT_REFUSED:
        update_fail(u, 554, "5.6.0", text);
        break;
    case TOO_BIG:
        update_fail(u, 552, "5.3.4", text);
        break;
    case NOT_ALLOWED:
        update_fail(u, 550, "5.7.1", text);
        break;
    case MAILBOX_FULL:
        if (message_age_s(r->msg) >= q->opts.quota_lifetime_s)
            update_fail(u, 552, "5.2.2", text);
        else
            update_defer(q, u, queue_backoff_s(q, r->attempts), 452, "4.2.2", text);
        break;
    case RESOLVE_AGAIN:
        update_defer(q, u, MOVED_WAIT_S, 451, "4.3.0", text);
        break;
    default:
        update_defer(q, u, local_wait_s(r), 451, "4.3.0", text);
    }
}

/* --- resolving --- */

static Thurn__DeliverRecipient *delivery_of(struct work *w, const struct rcpt *r, const Thurn__Target *t)
{
    Thurn__DeliverRecipient *d = arena_new(w->arena, Thurn__DeliverRecipient);
    unsigned char *key = arena_alloc(w->arena, DELIVERY_KEY_SIZE);
    delivery_key(r->msg->enqueue_id, r->no, key);
    thurn__deliver_recipient__init(d);
    d->account = t->account;
    d->delivery_key = rpc_bytes(str_n(key, DELIVERY_KEY_SIZE));
    d->day = r->msg->day;
    return d;
}

/* Ends this recipient and begins a message to its targets, which holds the body itself. */
FIBER static void expand(struct work *w, struct rcpt *r, const Thurn__Resolution *res)
{
    struct message *m = r->msg;
    if (res->n_targets > QUEUE_RCPTS_MAX) { /* of a directory with another bound */
        update_defer(w->q, next_update(w, r), local_wait_s(r), 451, "4.3.0",
                     "the address leads to more recipients than a message may have");
        return;
    }
    struct envelope_rcpt *rcpts = arena_array(w->arena, struct envelope_rcpt, res->n_targets);
    str original = rcpt_original(r).n ? rcpt_original(r) : rcpt_address(r);
    for (size_t i = 0; i < res->n_targets; i++)
        rcpts[i] = (struct envelope_rcpt){.address = str_c(res->targets[i]->address),
                                          .original = original,
                                          .no = (uint32_t)i,
                                          .notify = r->notify,
                                          .state = R_DUE,
                                          .due_unix = queue_unix(w->q)};
    struct envelope e = {.sender = message_text(m, TEXT_SENDER),
                         .envelope_id = message_text(m, TEXT_ENVELOPE_ID),
                         .received_from = message_text(m, TEXT_RECEIVED_FROM),
                         .trace = message_text(m, TEXT_TRACE),
                         .prefix = message_text(m, TEXT_PREFIX),
                         .tenant_id = m->tenant_id,
                         .account_id = m->account_id,
                         .created_unix = m->created_unix,
                         .expires_unix = m->expires_unix,
                         .size = m->size,
                         .priority = m->priority,
                         .flags = m->flags,
                         .day = m->day,
                         .body_kind = m->blob ? BODY_BLOB : BODY_INLINE,
                         .blob_space = m->blob ? m->blob->space : 0,
                         .blob_tenant = m->blob ? m->blob->tenant_id : 0,
                         .blob_hash = m->blob ? str_n(m->blob->hash, 32) : S(""),
                         .rcpts = rcpts,
                         .n_rcpts = res->n_targets};
    struct message *child = message_derive(m, "expand", r->no, &e);
    struct err err = ERR_INIT;
    if (!body_hold_new(w->q, child, w->arena, &err)) {
        message_unref(child);
        update_defer(w->q, next_update(w, r), local_wait_s(r), 451, "4.3.0", err.msg);
        return;
    }
    if (!m->blob)
        message_keep_body(child, w->content, true);
    w->job->add[w->job->n_add++] = child;
    struct update *u = next_update(w, r);
    update_done(u, 250, "2.1.5", "expanded to its targets");
    u->done_by = BY_EXPANSION;
}

FIBER static void sort_resolution(struct work *w, struct rcpt *r, const Thurn__Resolution *res)
{
    struct queue *q = w->q;
    switch (res->kind) {
    case THURN__RECIPIENT_KIND__RECIPIENT_LOCAL:
        if (res->n_targets == 1 && res->targets[0]->account) {
            w->to[w->n_to++] = (struct target){delivery_of(w, r, res->targets[0]), r};
        } else if (res->n_targets) {
            expand(w, r, res);
        } else {
            update_defer(q, next_update(w, r), local_wait_s(r), 451, "4.3.0", "address resolves to nobody now");
        }
        break;
    case THURN__RECIPIENT_KIND__RECIPIENT_REMOTE:
        update_defer(q, next_update(w, r), NOT_OURS_WAIT_S, 451, "4.3.0", "the domain is not local any more");
        break;
    case THURN__RECIPIENT_KIND__RECIPIENT_UNKNOWN:
        update_fail(next_update(w, r), 550, "5.1.1", "no such mailbox");
        break;
    case THURN__RECIPIENT_KIND__RECIPIENT_CLOSED:
        update_fail(next_update(w, r), 550, "5.2.1", "mailbox is closed");
        break;
    case THURN__RECIPIENT_KIND__RECIPIENT_LOOP:
        update_fail(next_update(w, r), 550, "5.4.6", "aliases go in a circle or too deep");
        break;
    default: /* suspended, or a kind of a newer directory */
        update_defer(q, next_update(w, r), queue_backoff_s(q, r->attempts), 450, "4.2.1", "mailbox is suspended");
    }
}

FIBER static bool resolve_all(struct work *w, struct err *err)
{
    struct rpc_call c;
    Thurn__ResolveRequest req = THURN__RESOLVE_REQUEST__INIT;
    const Thurn__ResolveReply *r;
    req.n_addresses = w->job->n;
    req.addresses = arena_array(w->arena, char *, w->job->n);
    for (size_t i = 0; i < w->job->n; i++)
        req.addresses[i] = arena_strz(w->arena, rcpt_address(w->job->rcpts[i]));
    queue_call_init(&c, w->arena, RESOLVE_MS);
    FIBER_DEADLINE(RESOLVE_MS);
    if (!auth_resolve(&c, w->q->opts.auth, &req, &r)) {
        *err = c.err;
        return false;
    }
    if (r->n_resolutions != w->job->n)
        return err_set(err, ERR_INTERNAL, "directory gives not one resolution for each address");
    for (size_t i = 0; i < w->job->n; i++)
        sort_resolution(w, w->job->rcpts[i], r->resolutions[i]);
    return true;
}

/* --- delivering --- */

/* Their shard cannot be reached: they wait for it, together with all that is for it. */
static void shard_away(struct work *w, uint32_t shard, const struct target *to, size_t n, const char *why)
{
    struct site *s = route_store_shard(w->q, shard);
    for (size_t i = 0; i < n && !w->job->msg->is_gone; i++) {
        rcpt_set_text(to[i].rcpt, str_c(why));
        site_move(s, to[i].rcpt);
        job_forget(w->job, to[i].rcpt);
    }
}

/* The store's answer for each. *away is the text of the last one whose shard was not there; the first *n_away of `to`
 * are those then. */
static void take_results(struct work *w, const Thurn__DeliverReply *r, struct target *to, size_t n, size_t *n_away,
                         const char **away)
{
    for (size_t i = 0; i < n; i++) {
        const Thurn__DeliverReply__Result *one = r->results[i];
        enum verdict verdict = verdict_of(one->error_kind);
        if (verdict == SHARD_AWAY) {
            to[(*n_away)++] = to[i];
            *away = one->error;
        } else if (verdict != DELIVERED) {
            refused(w, to[i].rcpt, one->error_kind, one->error);
        } else {
            struct update *u = next_update(w, to[i].rcpt);
            update_done(u, 250, "2.0.0", one->is_duplicate ? "delivered before" : "delivered");
            u->done_by = BY_DELIVERY;
        }
    }
}

FIBER static bool call_store(struct work *w, const struct target *to, size_t n, const Thurn__DeliverReply **r,
                             struct err *err)
{
    struct message *m = w->job->msg;
    struct rpc_call c;
    Thurn__Body body = THURN__BODY__INIT;
    Thurn__DeliverRequest req = THURN__DELIVER_REQUEST__INIT;
    if (!m->blob)
        body.content = rpc_bytes(w->content);
    else
        body.blob = body_blob_ref(m, w->arena);
    req.body = &body;
    req.prefix = rpc_bytes(message_text(m, TEXT_PREFIX));
    req.recipients = arena_array(w->arena, Thurn__DeliverRecipient *, n);
    for (size_t i = 0; i < n; i++)
        req.recipients[req.n_recipients++] = to[i].to;
    queue_call_init(&c, w->arena, DELIVER_MS);
    c.route_key = (uint64_t)to[0].to->account->account_id;
    FIBER_DEADLINE(DELIVER_MS);
    if (!store_deliver(&c, w->q->opts.store, &req, r)) {
        *err = c.err;
        return false;
    }
    return (*r)->n_results == n || err_set(err, ERR_INTERNAL, "store gives not one result for each recipient");
}

/* Recipients of one shard. */
FIBER static void deliver(struct work *w, struct target *to, size_t n)
{
    uint32_t shard = to[0].to->account->shard;
    const struct site *known = route_store_shard(w->q, shard);
    const Thurn__DeliverReply *r;
    struct err err = ERR_INIT;
    if (site_is_suspended(known) && w->job->site != known) {
        shard_away(w, shard, to, n, known->text);
        return;
    }
    bool is_answered = call_store(w, to, n, &r, &err);
    const char *away = NULL;
    size_t n_away = 0;
    if (is_answered) {
        take_results(w, r, to, n, &n_away, &away);
    } else if (err_is_temporary(&err)) {
        n_away = n;
        away = err.msg;
    } else {
        for (size_t i = 0; i < n; i++)
            refused(w, to[i].rcpt, err.kind, err.msg);
    }
    struct site *s = route_store_shard(w->q, shard); /* the idle one may have been swept away */
    if (n_away) {
        shard_away(w, shard, to, n_away, away);
        if (err.kind != ERR_CANCELLED) /* that was our own doing */
            site_failed(s, away);
    } else {
        site_succeeded(s);
    }
}

/* Bring those of the same shard as the first one next to it. */
static size_t gather_shard(struct target *to, size_t n)
{
    size_t same = 1;
    for (size_t i = 1; i < n; i++) {
        if (to[i].to->account->shard != to[0].to->account->shard)
            continue;
        struct target t = to[same];
        to[same++] = to[i];
        to[i] = t;
    }
    return same;
}

/* The directory or our own database is away: for all of them alike. */
static void put_back(struct work *w, const struct err *why)
{
    for (size_t i = 0; i < w->job->n && !w->job->msg->is_gone; i++) {
        rcpt_set_text(w->job->rcpts[i], str_c(why->msg));
        site_put_back(w->job->site, w->job->rcpts[i]);
        w->job->rcpts[i] = NULL;
    }
    site_failed(w->job->site, why->msg);
}

void local_job(struct job *job)
{
    struct work w = {.q = job->site->queue, .job = job, .arena = job->arena};
    struct err err = ERR_INIT;
    w.to = arena_array(job->arena, struct target, job->n);
    bool is_read = job->msg->blob || body_inline(w.q, job->msg, job->arena, &w.content, &err);
    if (!is_read && !err_is_temporary(&err)) {
        deliver_unreadable(job, &err);
        return;
    }
    if (!is_read || !resolve_all(&w, &err)) {
        if (err.kind != ERR_CANCELLED) /* that was our own doing */
            put_back(&w, &err);
        return;
    }
    if (!job->site->is_store_shard)
        site_succeeded(job->site);
    for (size_t at = 0, n; at < w.n_to; at += n) {
        n = gather_shard(w.to + at, w.n_to - at);
        deliver(&w, w.to + at, n);
    }
}
