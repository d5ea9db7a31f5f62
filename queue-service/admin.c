/* What operators see and do: over this node's shards, in the order of ids. */
#include "queue-service/internal.h"

#include "base/clock.h"
#include "base/log.h"

#define LIST_MAX 1000u
#define LIST_RCPTS 10u
#define HEAD_MAX (16u * 1024)
#define LIST_BYTES_MAX (RPC_MESSAGE_MAX / 2)
#define ACTORS 16u       /* commits of one Act that run at a time */
#define SLICE 2000u      /* messages looked at before others get a turn */

/* --- filters --- */

/* An exact address, or "@domain" for all of a domain. */
static bool address_fits(str address, const char *pattern)
{
    str p = str_c(pattern);
    if (p.n == 0)
        return true;
    if (p.p[0] == '@')
        return str_ends_nocase(address, p);
    return str_eq_nocase(address, p);
}

static bool is_finished(const struct rcpt *r)
{
    return r->state == R_DONE || r->state == R_FAILED;
}

static Thurn__RecipientState state_of(const struct rcpt *r)
{
    switch (r->state) {
    case R_HELD:
        return THURN__RECIPIENT_STATE__RCPT_HELD;
    case R_DONE:
        return THURN__RECIPIENT_STATE__RCPT_DONE;
    case R_FAILED:
        return THURN__RECIPIENT_STATE__RCPT_FAILED;
    case R_ACTIVE:
        return THURN__RECIPIENT_STATE__RCPT_ACTIVE;
    default:
        return THURN__RECIPIENT_STATE__RCPT_DUE;
    }
}

static bool rcpt_fits(const struct rcpt *r, const Thurn__QueueFilter *f)
{
    return address_fits(r->address, f->recipient) && (!f->states || (f->states >> state_of(r) & 1u));
}

static bool message_fits(const struct message *m, const Thurn__QueueFilter *f)
{
    if (!address_fits(m->sender, f->sender) || (f->tenant_id && f->tenant_id != m->tenant_id) ||
        (f->created_before_unix && m->created_unix >= f->created_before_unix))
        return false;
    if (!f->recipient[0] && !f->states)
        return true;
    for (uint32_t i = 0; i < m->n_rcpts; i++)
        if (!is_finished(&m->rcpts[i]) && rcpt_fits(&m->rcpts[i], f))
            return true;
    return false;
}

static bool filter_ok(const Thurn__QueueFilter *f, struct err *err)
{
    if (f && f->n_queue_ids > LIST_MAX)
        return err_set(err, ERR_LIMIT, "more than %u ids in a filter", LIST_MAX);
    return f || err_set(err, ERR_INVALID, "no filter is given; is_all means everything");
}

static bool filter_is_empty(const Thurn__QueueFilter *f)
{
    return f->n_queue_ids == 0 && !f->sender[0] && !f->recipient[0] && f->tenant_id == 0 && f->states == 0 && f->created_before_unix == 0;
}

/* --- messages as operators see them --- */

/* What is ready waits at a site that is left alone until that ends, or at its domain for the next look-up. */
static int64_t ready_wait_ms(const struct rcpt *r)
{
    if (r->state != R_READY)
        return 0;
    return r->flow ? r->flow->site->suspended_until_ms - clock_mono_ms() : domain_wait_ms(r->msg->shard->queue, r->domain);
}

static Thurn__QueuedRecipient *show_rcpt(const struct rcpt *r, struct arena *a)
{
    Thurn__QueuedRecipient *out = arena_new(a, Thurn__QueuedRecipient);
    thurn__queued_recipient__init(out);
    out->number = r->no;
    out->address = arena_strz(a, r->address);
    out->state = state_of(r);
    out->attempts = r->attempts;
    int64_t wait_ms = ready_wait_ms(r);
    out->due_unix = wait_ms > 0 ? clock_unix() + (wait_ms + 999) / 1000 : r->due_unix;
    out->code = r->code;
    out->text = arena_strz(a, str_c(r->text));
    if (r->state == R_READY)
        out->site = arena_strz(a, r->flow ? str_c(r->flow->site->key) : r->domain);
    return out;
}

static void show(const struct message *m, bool is_list, struct arena *a, Thurn__QueuedMessage *out)
{
    thurn__queued_message__init(out);
    out->queue_id = m->id;
    out->tenant_id = m->tenant_id;
    out->account_id = m->account_id;
    out->sender = arena_strz(a, m->sender);
    out->created_unix = m->created_unix;
    out->expires_unix = m->expires_unix;
    out->size = m->size;
    out->recipients_left = m->n_left;
    out->received_from = arena_strz(a, m->received_from);
    out->trace = arena_strz(a, m->trace);
    out->envelope_id = arena_strz(a, m->envelope_id);
    out->node = arena_strz(a, str_c(m->shard->queue->node));
    out->recipients = arena_array(a, Thurn__QueuedRecipient *, is_list ? LIST_RCPTS : m->n_rcpts);
    for (uint32_t i = 0; i < m->n_rcpts && (!is_list || out->n_recipients < LIST_RCPTS); i++)
        if (!is_list || !is_finished(&m->rcpts[i]))
            out->recipients[out->n_recipients++] = show_rcpt(&m->rcpts[i], a);
}

/* --- walking in the order of ids, over waits --- */

struct walk {
    struct queue *q;
    const Thurn__QueueFilter *filter;
    uint64_t after, next; /* next: the id behind `after` when that was handed out, 0 = none known */
    size_t n_listed;      /* of the filter's ids, done */
    unsigned seen;
};

/* The first message of the shard past this id. Lists are ascending, and walks go on near where they were. */
static struct message *next_in_shard(const struct shard *s, uint64_t after)
{
    struct message *m = after >> ID_SHARD_SHIFT == s->number ? map64_get(&s->queue->messages, after) : NULL;
    struct list_node *n = m ? m->node.next : s->messages.head.next;
    for (; n != &s->messages.head; n = n->next) {
        struct message *next = LIST_ITEM(n, struct message, node);
        if (next->id > after)
            return next;
    }
    return NULL;
}

/* NULL at the end. Lets others run now and then; the message is good until the next wait. */
FIBER static struct message *walk_next(struct walk *w)
{
    struct err err = ERR_INIT; /* overdue callers still get their answer's start */
    struct message *m = NULL;
    if (++w->seen % SLICE == 0)
        IGNORE(fiber_yield(&err));
    if (w->filter->n_queue_ids) {
        while (!m && w->n_listed < w->filter->n_queue_ids)
            m = map64_get(&w->q->messages, w->filter->queue_ids[w->n_listed++]);
        return m;
    }
    if (w->next) /* `after` may be gone by now, and finding its place again would cost a walk from the start */
        m = map64_get(&w->q->messages, w->next);
    for (uint64_t s = w->after >> ID_SHARD_SHIFT; !m && s < w->q->opts.n_shards; s++)
        m = next_in_shard(&w->q->shards[s], w->after);
    if (!m)
        return NULL;
    struct list_node *n = m->node.next;
    w->after = m->id;
    w->next = n == &m->shard->messages.head ? 0 : LIST_ITEM(n, struct message, node)->id;
    return m;
}

bool admin_list(struct queue *q, const Thurn__QueueListRequest *req, struct arena *a, Thurn__QueueListReply *out, struct err *err)
{
    static const Thurn__QueueFilter everything = THURN__QUEUE_FILTER__INIT;
    const Thurn__QueueFilter *f = req->filter ? req->filter : &everything;
    size_t limit = req->limit ? MIN(req->limit, LIST_MAX) : 100, bytes = 0;
    bool counts = req->after == 0 && !filter_is_empty(f);
    struct walk w = {.q = q, .filter = f, .after = req->after};
    if (!filter_ok(f, err))
        return false;
    out->messages = arena_array(a, Thurn__QueuedMessage *, limit);
    if (filter_is_empty(f) && req->after == 0)
        out->total = q->n_messages;
    for (struct message *m; (m = walk_next(&w));) {
        if (m->id <= req->after || !message_fits(m, f))
            continue;
        out->total += counts;
        if (!out->next && (out->n_messages == limit || bytes > LIST_BYTES_MAX))
            out->next = out->messages[out->n_messages - 1]->queue_id;
        if (out->next && !counts)
            break;
        if (out->next)
            continue;
        Thurn__QueuedMessage *shown = arena_new(a, Thurn__QueuedMessage);
        show(m, true, a, shown);
        bytes += thurn__queued_message__get_packed_size(shown);
        out->messages[out->n_messages++] = shown;
    }
    return true;
}

bool admin_show(struct queue *q, uint64_t id, struct arena *a, Thurn__QueuedMessage *out, struct err *err)
{
    struct message *m = map64_get(&q->messages, id);
    str head;
    if (!m)
        return err_set(err, ERR_NOT_FOUND, "no message %llu on this node", (unsigned long long)id);
    message_ref(m);
    show(m, false, a, out);
    bool ok = body_head(q, m, HEAD_MAX, a, &head, err);
    if (ok)
        out->head = rpc_bytes(head);
    message_unref(m);
    return ok;
}

/* --- acting --- */

struct act {
    struct queue *q;
    const Thurn__QueueActRequest *req;
    struct walk walk;
    uint64_t affected;
};

/* What the operation makes of this recipient; false: nothing. */
static bool plan(const struct act *act, struct rcpt *r, struct update *u)
{
    update_init(u, r);
    u->counts_attempt = false;
    u->code = r->code;
    (void)snprintf(u->text, sizeof(u->text), "%s", r->text ? r->text : "");
    switch (act->req->op) {
    case THURN__QUEUE_OP__QUEUE_RETRY:
        u->state = R_DUE;
        u->due_unix = clock_unix();
        return r->state == R_DUE || r->state == R_READY;
    case THURN__QUEUE_OP__QUEUE_HOLD:
        u->state = R_HELD;
        return r->state == R_DUE || r->state == R_READY;
    case THURN__QUEUE_OP__QUEUE_RELEASE:
        u->state = R_DUE;
        u->due_unix = clock_unix();
        return r->state == R_HELD;
    case THURN__QUEUE_OP__QUEUE_DROP:
        update_fail(u, 0, "5.0.0", "removed by an operator");
        break;
    default:
        update_fail(u, 0, "5.0.0", "returned by an operator");
    }
    return r->state == R_DUE || r->state == R_READY || r->state == R_HELD;
}

FIBER static void act_on(struct act *act, struct message *m)
{
    ARENA(a, 16u << 20);
    struct queue *q = act->q;
    struct update *u = arena_array(&a, struct update, m->n_rcpts);
    size_t n = 0;
    for (uint32_t i = 0; i < m->n_rcpts; i++) {
        struct rcpt *r = &m->rcpts[i];
        if (!rcpt_fits(r, act->req->filter))
            continue;
        if (r->state == R_ACTIVE && act->req->op == THURN__QUEUE_OP__QUEUE_HOLD) {
            r->is_to_be_held = true; /* when its attempt does not succeed */
            act->affected++;
        }
        if (!plan(act, r, &u[n]))
            continue;
        q->n_held -= r->state == R_HELD;
        if (act->req->op == THURN__QUEUE_OP__QUEUE_RETRY) {
            domain_hurry(q, r->domain);
            if (r->flow)
                site_resume(r->flow->site);
        }
        rcpt_detach(r);
        r->state = R_ACTIVE;
        q->n_active++;
        n++;
    }
    if (n == 0)
        return;
    bool ok = act->req->op == THURN__QUEUE_OP__QUEUE_BOUNCE ? results_commit(q, m, u, n, NULL, 0) : commit_results(q, m, u, n, NULL, 0);
    act->affected += ok ? n : 0;
    if (ok && act->req->op == THURN__QUEUE_OP__QUEUE_HOLD)
        body_keep(q, m, &a);
}

FIBER static void actor(void *arg)
{
    struct act *act = arg;
    for (struct message *m; (m = walk_next(&act->walk));) {
        if (!message_fits(m, act->req->filter))
            continue;
        message_ref(m);
        act_on(act, m);
        message_unref(m);
    }
}

bool admin_act(struct queue *q, const Thurn__QueueActRequest *req, struct arena *a UNUSED, Thurn__QueueActReply *out, struct err *err)
{
    struct act act = {.q = q, .req = req, .walk = {.q = q, .filter = req->filter}};
    if (!filter_ok(req->filter, err))
        return false;
    if (filter_is_empty(req->filter) && !req->filter->is_all)
        return err_set(err, ERR_INVALID, "no filter is given; is_all means everything");
    FIBER_GROUP(g, ACTORS);
    for (unsigned i = 0; i < ACTORS; i++)
        if (!fiber_group_spawn(&g, "queue.act", actor, &act, err))
            return false;
    if (!fiber_group_wait(&g, err))
        return false;
    log_info("queue.act", KV_I64("op", req->op), KV_I64("recipients", (int64_t)act.affected));
    out->affected = act.affected;
    return true;
}

void admin_stats(struct queue *q, struct arena *a, Thurn__QueueStatsReply *out)
{
    out->shards_owned = q->n_owned;
    out->messages = q->n_messages;
    out->recipients = q->n_rcpts;
    out->active = q->n_active;
    out->held = q->n_held;
    out->oldest_unix = schedule_oldest_unix(q);
    out->node = arena_strz(a, str_c(q->node));
}
