/* What operators see and do: over this node's shards, in the order of ids. */
#include "queue-service/admin.h"

#include "base/clock.h"
#include "base/log.h"
#include "queue-service/body.h"
#include "queue-service/commit.h"
#include "queue-service/domain.h"
#include "queue-service/job.h"
#include "queue-service/schedule.h"
#include "queue-service/schema.h"
#include "queue-service/shard.h"

#define LIST_MAX 1000u
#define LIST_RCPTS 10u
#define HEAD_MAX (16u * 1024)
#define LIST_BYTES_MAX (RPC_MESSAGE_MAX / 2)
#define ACTORS 32u /* commits of one act that run at a time */
#define ACTS_MAX 8u
#define ACT_WAIT_MS 2000 /* a call for an answer */
#define ACT_KEEP_MS 60000
#define ATTEMPT_END_MS 5000
#define SLICE 2000u /* messages looked at before others get a turn */

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
    return address_fits(rcpt_address(r), f->recipient) && (!f->states || (f->states >> state_of(r) & 1u));
}

static bool message_fits(const struct message *m, const Thurn__QueueFilter *f)
{
    if (!address_fits(message_text(m, TEXT_SENDER), f->sender) || (f->tenant_id && f->tenant_id != m->tenant_id) ||
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
    return f->n_queue_ids == 0 && !f->sender[0] && !f->recipient[0] && f->tenant_id == 0 && f->states == 0 &&
           f->created_before_unix == 0;
}

/* --- messages as operators see them --- */

/* What it waits for, and how long yet. What is ready waits at a site that is left alone until that ends, for its turn
 * there, or at its domain for the next look-up. */
static const char *waits_for(const struct rcpt *r, int64_t *ms)
{
    const struct queue *q = r->msg->shard->queue;
    *ms = 0;
    switch (r->state) {
    case R_DUE:
        *ms = MAX(r->timer.due_s * 1000 - clock_mono_ms(), 0);
        return "time";
    case R_READY:
        *ms = r->flow ? MAX(r->flow->site->suspended_until_ms - clock_mono_ms(), 0) : domain_wait_ms(q, rcpt_domain(r));
        return !r->flow ? "hosts" : *ms ? "site" : "turn";
    case R_HELD:
        return "operator";
    case R_ACTIVE:
        return "attempt";
    default:
        return "";
    }
}

/* Where it is being sent, and since when. */
static void show_attempt(const struct rcpt *r, struct arena *a, Thurn__QueuedRecipient *out)
{
    const struct job *job = schedule_job_of(r);
    if (!job || !job->site)
        return;
    out->site = arena_strz(a, str_c(job->site->key));
    out->due_unix = queue_unix(r->msg->shard->queue) - (clock_mono_ms() - job->started_ms) / 1000;
}

static Thurn__QueuedRecipient *show_rcpt(const struct rcpt *r, struct arena *a)
{
    Thurn__QueuedRecipient *out = arena_new(a, Thurn__QueuedRecipient);
    thurn__queued_recipient__init(out);
    out->number = r->no;
    out->address = arena_strz(a, rcpt_address(r));
    out->state = state_of(r);
    out->attempts = r->attempts;
    int64_t wait_ms;
    out->waits = (char *)(uintptr_t)waits_for(r, &wait_ms);
    out->due_unix = r->state == R_DUE || r->state == R_READY ? queue_unix(r->msg->shard->queue) + (wait_ms + 999) / 1000
                                                             : r->due_unix;
    out->code = r->code;
    out->text = arena_strz(a, rcpt_reason(r));
    if (r->state == R_READY)
        out->site = arena_strz(a, r->flow ? str_c(r->flow->site->key) : rcpt_domain(r));
    else if (r->state == R_ACTIVE)
        show_attempt(r, a, out);
    return out;
}

static void show(const struct message *m, bool is_list, struct arena *a, Thurn__QueuedMessage *out)
{
    thurn__queued_message__init(out);
    out->queue_id = m->id;
    out->tenant_id = m->tenant_id;
    out->account_id = m->account_id;
    out->sender = arena_strz(a, message_text(m, TEXT_SENDER));
    out->created_unix = m->created_unix;
    out->expires_unix = m->expires_unix;
    out->size = m->size;
    out->recipients_left = m->n_left;
    out->received_from = arena_strz(a, message_text(m, TEXT_RECEIVED_FROM));
    out->trace = arena_strz(a, message_text(m, TEXT_TRACE));
    out->envelope_id = arena_strz(a, message_text(m, TEXT_ENVELOPE_ID));
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
    struct message *m = after >> ID_SHARD_SHIFT == s->number ? index_by_id(&s->queue->by_id, after) : NULL;
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
            m = index_by_id(&w->q->by_id, w->filter->queue_ids[w->n_listed++]);
        return m;
    }
    if (w->next) /* `after` may be gone by now, and finding its place again would cost a walk from the start */
        m = index_by_id(&w->q->by_id, w->next);
    for (uint64_t s = w->after >> ID_SHARD_SHIFT; !m && s < w->q->opts.n_shards; s++)
        m = next_in_shard(&w->q->shards[s], w->after);
    if (!m)
        return NULL;
    struct list_node *n = m->node.next;
    w->after = m->id;
    w->next = n == &m->shard->messages.head ? 0 : LIST_ITEM(n, struct message, node)->id;
    return m;
}

bool admin_list(struct queue *q, const Thurn__QueueListRequest *req, struct arena *a, Thurn__QueueListReply *out,
                struct err *err)
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
    struct message *m = index_by_id(&q->by_id, id);
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

/* One at work, or over for a moment so that its client hears the end. In queue->acts, the oldest first. */
struct act {
    struct list_node node;
    struct queue *q;
    struct arena arena; /* of the filter */
    uint64_t id;        /* the client's */
    uint64_t number;    /* ours */
    Thurn__QueueOp op;
    Thurn__QueueFilter filter; /* a copy */
    struct walk walk;
    uint64_t *last;  /* of each shard: the newest message when the act began */
    int64_t *epochs; /* and its epoch; 0 = not ours */
    uint64_t affected, seen, total;
    unsigned n_actors;  /* at work */
    unsigned n_waiting; /* calls that hold it */
    bool is_cut_short;
    int64_t ended_ms;
};

/* What the operation makes of this recipient; false: nothing. */
static bool plan(const struct act *act, struct rcpt *r, struct update *u)
{
    update_init(u, r);
    u->counts_attempt = false;
    u->code = r->code;
    (void)snprintf(u->text, sizeof(u->text), "%s", r->text ? r->text : "");
    switch (act->op) {
    case THURN__QUEUE_OP__QUEUE_RETRY:
        u->state = R_DUE;
        u->due_unix = queue_unix(act->q);
        return r->state == R_DUE || r->state == R_READY;
    case THURN__QUEUE_OP__QUEUE_HOLD:
        u->state = R_HELD;
        return r->state == R_DUE || r->state == R_READY;
    case THURN__QUEUE_OP__QUEUE_RELEASE:
        u->state = R_DUE;
        u->due_unix = queue_unix(act->q);
        return r->state == R_HELD;
    case THURN__QUEUE_OP__QUEUE_DROP:
        update_fail(u, 0, "5.0.0", "removed by an operator");
        break;
    default:
        update_fail(u, 0, "5.0.0", "returned by an operator");
    }
    return r->state == R_DUE || r->state == R_READY || r->state == R_HELD;
}

/* Take in hand what is meant (by number) and waits; those are not meant any more. */
static size_t take(struct act *act, struct message *m, bool *is_meant, struct update *u)
{
    size_t n = 0;
    for (uint32_t i = 0; i < m->n_rcpts; i++) {
        struct rcpt *r = &m->rcpts[i];
        if (!is_meant[i] || !plan(act, r, &u[n]))
            continue;
        is_meant[i] = false;
        act->q->n_held -= r->state == R_HELD;
        if (act->op == THURN__QUEUE_OP__QUEUE_RETRY) {
            domain_hurry(act->q, rcpt_domain(r), act->number);
            if (r->flow)
                site_hurry(r->flow->site, act->number);
        }
        rcpt_detach(r);
        r->state = R_ACTIVE;
        act->q->n_active++;
        n++;
    }
    return n;
}

FIBER static void act_on_waiting(struct act *act, struct message *m, bool *is_meant, struct arena *a)
{
    struct update *u = arena_array(a, struct update, m->n_rcpts);
    size_t n = take(act, m, is_meant, u);
    if (n == 0)
        return;
    bool ok = act->op == THURN__QUEUE_OP__QUEUE_BOUNCE ? results_commit(act->q, m, u, n, NULL, 0)
                                                       : commit_results(act->q, m, u, n, NULL, 0);
    act->affected += ok ? n : 0;
    if (ok && act->op == THURN__QUEUE_OP__QUEUE_HOLD)
        body_keep(act->q, m, a);
    fiber_cond_broadcast(&act->q->ended);
}

static size_t n_in_attempt(const struct message *m, const bool *is_meant)
{
    size_t n = 0;
    for (uint32_t i = 0; i < m->n_rcpts && !m->is_gone; i++)
        n += is_meant[i] && m->rcpts[i].state == R_ACTIVE;
    return n;
}

/* Their attempts are broken off; what is sent already is waited for a little. */
FIBER static void end_attempts(struct act *act, struct message *m, const bool *is_meant)
{
    struct err err = ERR_INIT; /* it takes too long: they keep what they have */
    /* a bounce of what was taken would be a lie */
    schedule_cancel_message(m, is_meant, act->op != THURN__QUEUE_OP__QUEUE_DROP);
    FIBER_DEADLINE(ATTEMPT_END_MS);
    while (n_in_attempt(m, is_meant) && fiber_cond_wait(&act->q->ended, &err))
        continue;
}

/* What no attempt would let go of is held when that ends, unless it succeeds. */
static void hold_later(struct act *act, struct message *m, const bool *is_meant)
{
    for (uint32_t i = 0; i < m->n_rcpts && !m->is_gone; i++)
        if (is_meant[i] && m->rcpts[i].state == R_ACTIVE) {
            m->rcpts[i].is_to_be_held = true;
            act->affected++;
        }
}

FIBER static void act_on(struct act *act, struct message *m)
{
    ARENA(a, 16u << 20);
    bool *is_meant = arena_array(&a, bool, m->n_rcpts);
    bool ends_attempts = act->op != THURN__QUEUE_OP__QUEUE_RETRY && act->op != THURN__QUEUE_OP__QUEUE_RELEASE;
    for (uint32_t i = 0; i < m->n_rcpts; i++)
        is_meant[i] = !is_finished(&m->rcpts[i]) && rcpt_fits(&m->rcpts[i], &act->filter);
    act_on_waiting(act, m, is_meant, &a);
    if (!ends_attempts || !n_in_attempt(m, is_meant))
        return;
    end_attempts(act, m, is_meant);
    if (!m->is_gone)
        act_on_waiting(act, m, is_meant, &a);
    if (act->op == THURN__QUEUE_OP__QUEUE_HOLD)
        hold_later(act, m, is_meant);
}

static void act_free(struct act *act)
{
    list_remove(&act->node);
    act->q->n_acts--;
    arena_done(&act->arena);
    free(act);
}

/* A shard that went meanwhile took messages with it that nobody has seen, neither here nor at its new owner. */
static bool has_lost_shards(const struct act *act)
{
    for (unsigned i = 0; i < act->q->opts.n_shards; i++) {
        const struct shard *s = &act->q->shards[i];
        if (act->epochs[i] && (s->state == SHARD_OTHERS || s->epoch != act->epochs[i]))
            return true;
    }
    return false;
}

static void act_ended(struct act *act)
{
    act->ended_ms = clock_mono_ms();
    act->is_cut_short |= has_lost_shards(act);
    static const char *const ops[] = {"retry", "hold", "release", "drop", "bounce"};
    log_info("queue.act", KV_Z("op", (size_t)act->op < ARRAY_LEN(ops) ? ops[act->op] : "unknown"),
             KV_I64("recipients", (int64_t)act->affected), KV_I64("messages", (int64_t)act->seen),
             KV_I64("of", (int64_t)act->total), KV_I64("cut_short", act->is_cut_short));
}

FIBER static void actor(void *arg)
{
    struct act *act = arg;
    struct queue *q = act->q;
    for (struct message *m; (m = walk_next(&act->walk));) {
        if (q->is_stopping || q->is_draining) {
            act->is_cut_short = true;
            break;
        }
        if (m->id > act->last[m->shard->number])
            continue;
        act->seen++;
        if (!message_fits(m, &act->filter))
            continue;
        message_ref(m);
        act_on(act, m);
        message_unref(m);
    }
    if (--act->n_actors == 0)
        act_ended(act);
    queue_fiber_ended(q);
}

static void copy_filter(const Thurn__QueueFilter *from, struct arena *a, Thurn__QueueFilter *to)
{
    *to = *from;
    to->sender = arena_strz(a, str_c(from->sender));
    to->recipient = arena_strz(a, str_c(from->recipient));
    to->queue_ids = arena_array(a, uint64_t, from->n_queue_ids);
    if (from->n_queue_ids)
        memcpy(to->queue_ids, from->queue_ids, from->n_queue_ids * sizeof(to->queue_ids[0]));
}

/* Those that are over, from ACT_KEEP_MS after their end on, or the oldest when there are too many. False: all are at
 * work. */
static bool make_room(struct queue *q)
{
    LIST_EACH(&q->acts, n)
    {
        struct act *act = LIST_ITEM(n, struct act, node);
        if (!act->n_actors && !act->n_waiting &&
            (q->n_acts >= ACTS_MAX || clock_mono_ms() - act->ended_ms >= ACT_KEEP_MS))
            act_free(act);
    }
    return q->n_acts < ACTS_MAX;
}

void admin_done(struct queue *q)
{
    LIST_EACH(&q->acts, n)
    act_free(LIST_ITEM(n, struct act, node));
}

static struct act *act_new(struct queue *q, const Thurn__QueueActRequest *req)
{
    struct act *act = xnew(struct act);
    act->q = q;
    act->id = req->act_id;
    act->number = ++q->last_act;
    act->op = req->op;
    act->total = q->n_messages;
    arena_init(&act->arena, 1u << 20);
    copy_filter(req->filter, &act->arena, &act->filter);
    act->walk = (struct walk){.q = q, .filter = &act->filter};
    act->last = arena_array(&act->arena, uint64_t, q->opts.n_shards);
    act->epochs = arena_array(&act->arena, int64_t, q->opts.n_shards);
    for (unsigned i = 0; i < q->opts.n_shards; i++) {
        if (q->shards[i].state == SHARD_OTHERS)
            continue;
        act->last[i] = shard_last_id(&q->shards[i]);
        act->epochs[i] = q->shards[i].epoch;
        act->is_cut_short |= q->shards[i].state == SHARD_LOADING; /* what is not loaded yet is not seen */
    }
    list_push(&q->acts, &act->node);
    q->n_acts++;
    return act;
}

FIBER static struct act *act_begin(struct queue *q, const Thurn__QueueActRequest *req, struct err *err)
{
    if (!filter_ok(req->filter, err))
        return NULL;
    if (filter_is_empty(req->filter) && !req->filter->is_all) {
        err_set(err, ERR_INVALID, "no filter is given; is_all means everything");
        return NULL;
    }
    if (!make_room(q)) {
        err_set(err, ERR_BUSY, "%u acts are at work", ACTS_MAX);
        return NULL;
    }
    struct act *act = act_new(q, req);
    struct err none = ERR_INIT;
    for (unsigned i = 0; i < ACTORS && queue_spawn(q, "queue.act", actor, act, &none); i++)
        act->n_actors++;
    if (act->n_actors)
        return act;
    act_free(act);
    *err = none;
    return NULL;
}

static struct act *act_of(const struct queue *q, uint64_t id)
{
    LIST_EACH(&q->acts, n)
    if (id && LIST_ITEM(n, struct act, node)->id == id)
        return LIST_ITEM(n, struct act, node);
    return NULL;
}

bool admin_act(struct queue *q, const Thurn__QueueActRequest *req, Thurn__QueueActReply *out, struct err *err)
{
    struct act *act = act_of(q, req->act_id);
    if (!act && req->is_begun)
        return err_set(err, ERR_NOT_FOUND, "no such act on this node");
    if (!act && !(act = act_begin(q, req, err)))
        return false;
    struct err none = ERR_INIT; /* the time is over: it goes on */
    int64_t left_ms = MIN(fiber_deadline() - clock_mono_ms(), ACT_KEEP_MS) - ACT_WAIT_MS;
    FIBER_DEADLINE(req->act_id ? ACT_WAIT_MS : MAX(left_ms, ACT_WAIT_MS));
    act->n_waiting++;
    while (act->n_actors && fiber_cond_wait(&q->ended, &none))
        continue;
    act->n_waiting--;
    out->affected = act->affected;
    out->seen = act->seen;
    out->total = act->total;
    out->is_running = act->n_actors > 0;
    out->is_cut_short = act->is_cut_short;
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
