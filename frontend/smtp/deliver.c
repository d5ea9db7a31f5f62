#include "frontend/smtp/deliver.h"

#include "base/log.h"
#include "base/map.h"
#include "base/trouble.h"
#include "frontend/smtp/trace.h"
#include "proto/queue_calls.h"
#include "proto/store_calls.h"

#define CALL_ARENA_MAX ((size_t)8 << 20)
#define LMTP_PATIENCE 10u /* times deliver_ms: there is no queue to fall back on */
#define DAY_SECONDS 86400

/* One place where the message goes. Its number in the plan is that of the delivery key, on either way. */
struct target {
    const Thurn__AccountRef *account; /* NULL: another host's */
    str address;
    const struct smtp_rcpt *rcpt; /* the first that led here */
    unsigned notify;              /* what any of those that led here wants to hear of */
    enum err_kind result;         /* of direct delivery */
};
struct plan {
    struct target *v;
    size_t n;
    unsigned *of_rcpts; /* for each recipient in turn, for each of its targets: the number */
    bool needs_queue;   /* another host's, or a success notice was asked for */
    uint32_t day;
    struct buf prefix;
};

/* --- the plan --- */

static str key_of(const struct target *t, char space[9])
{
    if (!t->account)
        return t->address;
    space[0] = '\0'; /* no address begins so */
    memcpy(space + 1, &t->account->account_id, sizeof(int64_t));
    return str_n(space, 9);
}

/* Two recipients that lead to one mailbox: whatever one of them wants to hear of is told (RFC 3461 4.1). */
static unsigned join_notify(unsigned a, unsigned b)
{
    if (a == b)
        return a;
    unsigned wanted =
        (a ? a : SMTP_NOTIFY_FAILURE | SMTP_NOTIFY_DELAY) | (b ? b : SMTP_NOTIFY_FAILURE | SMTP_NOTIFY_DELAY);
    return wanted & ~SMTP_NOTIFY_NEVER; /* at most one of them said NEVER */
}

/* The number of this target; added unless it is there already. */
static unsigned place(struct plan *p, struct map *seen, const struct target *t)
{
    char space[9];
    str key = key_of(t, space);
    uintptr_t known = seen ? (uintptr_t)map_get(seen, key) : 0;
    if (!t->account || (t->rcpt->notify & SMTP_NOTIFY_SUCCESS))
        p->needs_queue = true;
    if (known) {
        p->v[known - 1].notify = join_notify(p->v[known - 1].notify, t->rcpt->notify);
        return (unsigned)(known - 1);
    }
    p->v[p->n] = *t;
    p->v[p->n].notify = t->rcpt->notify;
    p->n++;
    if (seen)
        (void)map_put(seen, key, (void *)(uintptr_t)p->n);
    return (unsigned)(p->n - 1);
}

static void plan_rcpt(struct plan *p, struct map *seen, const struct smtp_rcpt *r, size_t *at)
{
    if (!r->resolved) {
        p->of_rcpts[(*at)++] = place(p, seen, &(struct target){.address = r->address, .rcpt = r});
        return;
    }
    const Thurn__Resolution *answer = r->resolved->answer;
    for (size_t i = 0; i < answer->n_targets; i++) {
        const Thurn__Target *one = answer->targets[i];
        struct target t = {
            .account = one->account, .address = one->address[0] ? str_c(one->address) : r->address, .rcpt = r};
        p->of_rcpts[(*at)++] = place(p, seen, &t);
    }
}

static void make_plan(struct plan *p, struct smtp_txn *t)
{
    struct map seen;
    size_t at = 0;
    *p = (struct plan){.day = (uint32_t)(clock_unix() / DAY_SECONDS)};
    p->v = arena_array(&t->arena, struct target, t->n_targets);
    p->of_rcpts = arena_array(&t->arena, unsigned, t->n_targets);
    map_init(&seen);
    for (size_t i = 0; i < t->n_rcpts; i++)
        plan_rcpt(p, t->n_targets > 1 ? &seen : NULL, &t->rcpts[i], &at);
    map_done(&seen);
    buf_init(&p->prefix, 1024);
    smtp_add_return_path(&p->prefix, t);
}

static char *zstr(str s) /* of a request: the arena's and proto's strings are terminated */
{
    return (char *)(uintptr_t)s.p;
}

static void set_body(Thurn__Body *m, struct smtp_body *b)
{
    thurn__body__init(m);
    if (b->is_blob)
        m->blob = &b->blob;
    else
        m->content = rpc_bytes(smtp_body_content(b));
}

/* --- straight into the mailboxes --- */

static void set_results(struct plan *p, const Thurn__DeliverReply *reply)
{
    for (size_t i = 0; i < p->n; i++)
        p->v[i].result = i < reply->n_results ? (enum err_kind)reply->results[i]->error_kind : ERR_INTERNAL;
}

static void log_failures(const struct plan *p, const Thurn__DeliverReply *reply)
{
    for (size_t i = 0; i < p->n; i++) {
        const struct target *t = &p->v[i];
        if (t->result == ERR_NONE)
            continue;
        log_warn("smtp.trouble", KV_Z("at", "mailbox"), KV_STR("to", t->address),
                 KV_Z("error", err_kind_name(t->result)),
                 KV_Z("reason", reply && i < reply->n_results ? reply->results[i]->error : ""));
    }
}

/* What the resolver remembers of those that failed is not true any more. Each recipient that led there is asked of
 * again. */
static void note_failures(struct smtp_session *s, const struct plan *p)
{
    struct resolver *resolver = s->server->resolver;
    size_t at = 0;
    for (size_t i = 0; i < s->txn->n_rcpts; i++) {
        const struct smtp_rcpt *r = &s->txn->rcpts[i];
        for (size_t j = 0; j < r->resolved->answer->n_targets; j++) {
            enum err_kind result = p->v[p->of_rcpts[at++]].result;
            if (result == ERR_CONFLICT || result == ERR_NOT_FOUND) /* moved, or removed since */
                resolver_forget(resolver, r->address);
            else if (result == ERR_QUOTA)
                resolver_mark_full(resolver, r->address, s->txn->body.size);
        }
    }
}

/* A call that failed as a whole for the moment may have taken effect on some shard: who is asked again must be asked
 * with the same key. */
static enum err_kind unheard(enum err_kind kind)
{
    return kind == ERR_UNAVAILABLE || kind == ERR_BUSY || kind == ERR_CANCELLED ? ERR_TIMEOUT : kind;
}

FIBER static void deliver_directly(struct smtp_session *s, struct plan *p)
{
    struct smtp_txn *t = s->txn;
    ARENA(a, CALL_ARENA_MAX);
    struct rpc_call call;
    Thurn__Body body;
    Thurn__DeliverRequest q = THURN__DELIVER_REQUEST__INIT;
    const Thurn__DeliverReply *reply = NULL;
    Thurn__DeliverRecipient *rcpts = arena_array(&a, Thurn__DeliverRecipient, p->n);
    unsigned char *keys = arena_alloc(&a, p->n * DELIVERY_KEY_SIZE);
    FIBER_DEADLINE((int64_t)smtp_limits(s)->deliver_ms * (s->kind == SMTP_KIND_LMTP ? LMTP_PATIENCE : 1));
    smtp_call_init(s, &call, &a);
    set_body(&body, &t->body);
    q.body = &body;
    q.prefix = rpc_bytes(buf_str(&p->prefix));
    q.n_recipients = p->n;
    q.recipients = arena_array(&a, Thurn__DeliverRecipient *, p->n);
    for (size_t i = 0; i < p->n; i++) {
        thurn__deliver_recipient__init(&rcpts[i]);
        rcpts[i].account = (Thurn__AccountRef *)(uintptr_t)p->v[i].account;
        delivery_key(t->enqueue_id, (uint32_t)i, keys + i * DELIVERY_KEY_SIZE);
        rcpts[i].delivery_key = rpc_bytes(str_n(keys + i * DELIVERY_KEY_SIZE, DELIVERY_KEY_SIZE));
        rcpts[i].day = p->day;
        q.recipients[i] = &rcpts[i];
    }
    if (p->n == 1)
        call.route_key = (uint64_t)p->v[0].account->account_id;
    if (store_deliver(&call, s->server->opts.store, &q, &reply)) {
        trouble_over("store");
        set_results(p, reply);
    } else {
        for (size_t i = 0; i < p->n; i++)
            p->v[i].result = unheard(call.err.kind);
        if (err_is_temporary(&call.err))
            trouble_note("store", call.err.msg);
        log_warn("smtp.trouble", KV_Z("at", "store"), KV_ERR(&call.err));
    }
    log_failures(p, reply);
    note_failures(s, p);
}

/* --- into the queue --- */

static void fill_enqueue(const struct smtp_session *s, struct plan *p, struct arena *a, Thurn__EnqueueRequest *q)
{
    struct smtp_txn *t = s->txn;
    Thurn__QueueRecipient *rcpts = arena_array(a, Thurn__QueueRecipient, p->n);
    q->enqueue_id = rpc_bytes(str_n(t->enqueue_id, sizeof(t->enqueue_id)));
    q->tenant_id = s->login.tenant_id;
    q->account_id = s->login.account_id;
    q->sender = zstr(t->sender);
    q->n_recipients = p->n;
    q->recipients = arena_array(a, Thurn__QueueRecipient *, p->n);
    for (size_t i = 0; i < p->n; i++) {
        const struct target *one = &p->v[i];
        thurn__queue_recipient__init(&rcpts[i]);
        rcpts[i].address = zstr(one->address);
        rcpts[i].original = zstr(one->rcpt->original.n ? one->rcpt->original : one->rcpt->address);
        rcpts[i].notify = one->notify;
        q->recipients[i] = &rcpts[i];
        if (!q->tenant_id && one->account)
            q->tenant_id = one->account->tenant_id;
    }
    q->is_8bit = t->mail.is_8bit || t->body.is_8bit;
    q->is_smtputf8 = t->mail.is_smtputf8;
    q->ret_full = t->mail.ret_full;
    q->envelope_id = zstr(t->mail.envelope_id);
    q->priority = 1;
    q->trace = t->id;
    q->prefix = rpc_bytes(buf_str(&p->prefix));
    q->day = p->day;
}

FIBER static bool enqueue(struct smtp_session *s, struct plan *p, uint64_t *queue_id, struct err *err)
{
    struct smtp_txn *t = s->txn;
    ARENA(a, CALL_ARENA_MAX);
    BUF(client, 512);
    struct rpc_call call;
    Thurn__Body body;
    Thurn__EnqueueRequest q = THURN__ENQUEUE_REQUEST__INIT;
    const Thurn__EnqueueReply *reply;
    FIBER_DEADLINE(smtp_limits(s)->enqueue_ms);
    smtp_call_init(s, &call, &a);
    if (!t->body.is_blob)
        t->body.is_8bit = !ascii_only(smtp_body_content(&t->body).p, smtp_body_content(&t->body).n);
    set_body(&body, &t->body);
    q.body = &body;
    smtp_add_client(&client, s);
    q.received_from = (char *)(uintptr_t)buf_z(&client);
    fill_enqueue(s, p, &a, &q);
    if (!queue_enqueue(&call, s->server->opts.queue, &q, &reply)) {
        *err = call.err;
        return false;
    }
    *queue_id = reply->queue_id;
    return true;
}

/* --- what is said --- */

static enum smtp_reply reply_for(enum err_kind kind)
{
    return kind ? smtp_failure(SMTP_AT_MAILBOX, kind) : SMTP_REPLY_NONE;
}

/* A failure that another attempt may cure, as against one that only the sender can do something about. */
static bool is_passing(enum err_kind kind)
{
    return reply_for(kind) == SMTP_TRY_LATER;
}

/* Of two failures the one for good. */
static enum smtp_reply worse(enum smtp_reply a, enum smtp_reply b)
{
    if (!a || !b)
        return a ? a : b;
    return smtp_reply_class(b) > smtp_reply_class(a) ? b : a;
}

static void answer_all(struct smtp_session *s, struct smtp_outcome *out, const char *result, enum smtp_reply reply)
{
    out->result = result;
    out->reply = reply;
    for (size_t i = 0; i < s->txn->n_rcpts; i++)
        out->of_rcpts[i] = reply;
}

static void answer_each(struct smtp_session *s, const struct plan *p, struct smtp_outcome *out)
{
    size_t at = 0;
    for (size_t i = 0; i < s->txn->n_rcpts; i++) {
        const struct smtp_rcpt *r = &s->txn->rcpts[i];
        size_t n = r->resolved ? r->resolved->answer->n_targets : 1;
        enum smtp_reply reply = SMTP_REPLY_NONE;
        for (size_t j = 0; j < n; j++)
            reply = worse(reply, reply_for(p->v[p->of_rcpts[at++]].result));
        out->of_rcpts[i] = reply;
    }
}

FIBER static void give_to_queue(struct smtp_session *s, struct plan *p, struct smtp_outcome *out)
{
    struct err err = ERR_INIT;
    if (enqueue(s, p, &out->queue_id, &err)) {
        trouble_over("queue");
        answer_all(s, out, "queued", SMTP_REPLY_NONE);
        return;
    }
    if (err_is_temporary(&err))
        trouble_note("queue", err.msg); /* what goes elsewhere, or cannot be delivered at once, waits at its sender */
    log_warn("smtp.trouble", KV_Z("at", "queue"), KV_ERR(&err));
    enum smtp_reply reply = smtp_failure(SMTP_AT_QUEUE, err.kind);
    answer_all(s, out, smtp_reply_class(reply) == 4 ? "deferred" : "refused", reply);
}

/* Whether a copy is there, or may be: the store did not say in time. */
static bool may_be_there(enum err_kind kind)
{
    return kind == ERR_NONE || kind == ERR_TIMEOUT;
}

/*
 * LMTP: whether a recipient would be answered 4xx although one of its targets has, or may have, the message. The sender
 * would come again with that recipient, as with a new message, and the target would have it twice.
 */
static bool would_double(const struct smtp_session *s, const struct plan *p)
{
    size_t at = 0;
    for (size_t i = 0; i < s->txn->n_rcpts; i++) {
        const struct smtp_rcpt *r = &s->txn->rcpts[i];
        enum smtp_reply reply = SMTP_REPLY_NONE;
        bool is_there = false;
        for (size_t j = 0; j < r->resolved->answer->n_targets; j++) {
            enum err_kind result = p->v[p->of_rcpts[at++]].result;
            reply = worse(reply, reply_for(result));
            is_there |= may_be_there(result);
        }
        if (is_there && reply && smtp_reply_class(reply) == 4)
            return true;
    }
    return false;
}

/* All of them go, so that each keeps its number and with it its key: who has it already is not given it again. */
FIBER static void fall_back(struct smtp_session *s, struct plan *p, struct smtp_outcome *out)
{
    metric_inc(M_SMTP_FALLBACKS);
    give_to_queue(s, p, out);
}

/* Direct delivery is over: what does the sender hear, or does the queue go on with it? */
FIBER static void conclude(struct smtp_session *s, struct plan *p, struct smtp_outcome *out)
{
    size_t n_ok = 0, n_passing = 0;
    enum smtp_reply softest = SMTP_REPLY_NONE;
    for (size_t i = 0; i < p->n; i++) {
        enum smtp_reply reply = reply_for(p->v[i].result);
        n_ok += !reply;
        n_passing += is_passing(p->v[i].result);
        if (reply && (!softest || smtp_reply_class(reply) < smtp_reply_class(softest)))
            softest = reply;
    }
    const char *failed = softest && smtp_reply_class(softest) == 4 ? "deferred" : "refused";
    if (s->kind == SMTP_KIND_LMTP) {
        if (would_double(s, p))
            fall_back(s, p, out);
        if (out->queue_id)
            return;
        out->reply = SMTP_REPLY_NONE;
        out->result = n_ok ? "delivered" : failed;
        answer_each(s, p, out);
    } else if (n_ok == p->n) {
        answer_all(s, out, "delivered", SMTP_REPLY_NONE);
    } else if (!n_ok && !n_passing) {
        answer_all(s, out, failed, softest);
    } else {
        fall_back(s, p, out);
    }
}

void smtp_deliver(struct smtp_session *s, struct smtp_outcome *out)
{
    struct smtp_txn *t = s->txn;
    struct plan p;
    make_plan(&p, t);
    *out = (struct smtp_outcome){.of_rcpts = arena_array(&t->arena, enum smtp_reply, t->n_rcpts)};
    if (p.needs_queue) {
        give_to_queue(s, &p, out);
    } else {
        deliver_directly(s, &p);
        conclude(s, &p, out);
    }
    buf_done(&p.prefix);
}
