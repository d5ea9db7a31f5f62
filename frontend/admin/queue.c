#include "frontend/admin/json.h"

#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"
#include "proto/queue_calls.h"
#include "proto/store_calls.h"

#define IDS_MAX 1000u
#define LIST_DEFAULT 100u
#define NAMED_MAX 5u /* messages, and recipients of each, that the record of administration names */

static const char *const state_names[] = {"due", "held", "done", "failed", "active"};

static json_t *recipient_json(const Thurn__QueuedRecipient *r)
{
    const char *state = (size_t)r->state < ARRAY_LEN(state_names) ? state_names[r->state] : "unknown";
    return json_pack("{s:i, s:o, s:s, s:i, s:I, s:i, s:o, s:o, s:s}", "number", (int)r->number, "address",
                     admin_string(str_c(r->address)), "state", state, "attempts", (int)r->attempts, "due_unix",
                     (json_int_t)r->due_unix, "code", (int)r->code, "text", admin_string(str_c(r->text)), "site",
                     admin_string(str_c(r->site)), "waits", r->waits);
}

static json_t *message_json(const Thurn__QueuedMessage *m)
{
    char id[24];
    snprintf(id, sizeof(id), "%llu", (unsigned long long)m->queue_id);
    json_t *recipients = json_array();
    for (size_t i = 0; i < m->n_recipients; i++)
        json_array_append_new(recipients, recipient_json(m->recipients[i]));
    json_t *o = json_pack("{s:s, s:o, s:I, s:I, s:I, s:I, s:o, s:i, s:o, s:s}", "queue_id", id, "sender",
                          admin_string(str_c(m->sender)), "account_id", (json_int_t)m->account_id, "created_unix",
                          (json_int_t)m->created_unix, "expires_unix", (json_int_t)m->expires_unix, "size",
                          (json_int_t)m->size, "recipients", recipients, "recipients_left", (int)m->recipients_left,
                          "received_from", admin_string(str_c(m->received_from)), "node", m->node);
    if (m->head.len)
        json_object_set_new(o, "head", admin_string(rpc_str(m->head)));
    return o;
}

/* What the nodes answered so far. A node that is away is named in the answer instead of failing it. */
struct gather {
    json_t *list;
    uint64_t total, bound; /* bound: what is behind this id has not been seen of every node */
    uint64_t seen, affected;
    bool has_more, is_cut_short;
    unsigned answered;
    struct err err;
};

static void note_failure(struct gather *g, const struct err *err)
{
    if (!err_is_set(&g->err))
        g->err = *err;
}

static void gather_list(void *arg, const ProtobufCMessage *reply, const struct err *err)
{
    struct gather *g = arg;
    if (!reply) {
        note_failure(g, err);
        return;
    }
    const Thurn__QueueListReply *r = (const void *)reply;
    for (size_t i = 0; i < r->n_messages; i++)
        json_array_append_new(g->list, message_json(r->messages[i]));
    g->total += r->total;
    if (r->next) {
        g->has_more = true;
        g->bound = MIN(g->bound, r->next);
    }
    g->answered++;
}

static void gather_act(void *arg, const ProtobufCMessage *reply, const struct err *err)
{
    struct gather *g = arg;
    if (!reply) {
        note_failure(g, err);
        return;
    }
    const Thurn__QueueActReply *r = (const void *)reply;
    g->affected += r->affected;
    g->seen += r->seen;
    g->total += r->total;
    g->has_more |= r->is_running;
    g->is_cut_short |= r->is_cut_short;
    g->answered++;
}

static void gather_show(void *arg, const ProtobufCMessage *reply, const struct err *err)
{
    struct gather *g = arg;
    if (reply && !g->list)
        g->list = message_json((const void *)reply);
    if (reply)
        g->answered++;
    else if (err->kind != ERR_NOT_FOUND)
        note_failure(g, err);
}

static void gather_stats(void *arg, const ProtobufCMessage *reply, const struct err *err)
{
    struct gather *g = arg;
    if (!reply) {
        note_failure(g, err);
        return;
    }
    const Thurn__QueueStatsReply *r = (const void *)reply;
    json_array_append_new(g->list, json_pack("{s:s, s:i, s:I, s:I, s:I, s:I, s:I}", "node", r->node, "shards_owned",
                                             (int)r->shards_owned, "messages", (json_int_t)r->messages, "recipients",
                                             (json_int_t)r->recipients, "active", (json_int_t)r->active, "held",
                                             (json_int_t)r->held, "oldest_unix", (json_int_t)r->oldest_unix));
    g->answered++;
}

/* True when at least one node answered; the list is g->list. */
FIBER static bool ask_all(struct admin *a, struct http_req *req, unsigned method, const ProtobufCMessage *q,
                          void (*fn)(void *, const ProtobufCMessage *, const struct err *), struct gather *g,
                          struct err *err)
{
    if (!a->each_queue(a, method, q, req->admitted, req->arena, fn, g, err))
        return false;
    if (g->answered == 0 && err_is_set(&g->err)) {
        *err = g->err;
        return false;
    }
    return true;
}

static void add_warning(json_t *o, const struct gather *g)
{
    if (err_is_set(&g->err))
        json_object_set_new(o, "warning", admin_string(str_c(g->err.msg)));
}

/* "held" or "due,active" as bits. */
static bool state_bits(const char *text, uint32_t *out, struct err *err)
{
    str rest = str_c(text), one;
    *out = 0;
    while (rest.n && str_split(&rest, ',', &one)) {
        size_t i = 0;
        while (i < ARRAY_LEN(state_names) && !str_eq(one, str_c(state_names[i])))
            i++;
        if (i == ARRAY_LEN(state_names))
            return err_set(err, ERR_INVALID, "'%.*s' is no state: due, held or active", STR_ARG(one));
        *out |= 1u << i;
    }
    return true;
}

/* An age in seconds as the time before which messages came. */
static void older_than(uint64_t seconds, Thurn__QueueFilter *f)
{
    f->created_before_unix = seconds ? MAX(clock_unix() - (int64_t)MIN(seconds, (uint64_t)INT32_MAX), 1) : 0;
}

static bool u64_param(struct http_req *req, const char *name, uint64_t *out, struct err *err)
{
    const char *text = admin_param(req, name);
    *out = 0;
    return !text[0] || num_u64(str_c(text), UINT64_MAX, out) || err_set(err, ERR_INVALID, "'%s' is no number", name);
}

static uint64_t id_of(json_t *m)
{
    uint64_t id = 0;
    return num_u64(str_c(json_string_value(json_object_get(m, "queue_id"))), UINT64_MAX, &id) ? id : 0;
}

static int by_id(const void *a, const void *b)
{
    uint64_t x = id_of(*(json_t *const *)a), y = id_of(*(json_t *const *)b);
    return x < y ? -1 : x > y;
}

/* The pages of several nodes made one, in the order of ids: of what is behind the shortest one's end nothing can be
 * said yet. */
static json_t *merge_pages(const struct gather *g, size_t limit, struct arena *a, uint64_t *next)
{
    size_t n = json_array_size(g->list), kept = 0;
    json_t **all = arena_array(a, json_t *, n), *out = json_array();
    for (size_t i = 0; i < n; i++)
        all[i] = json_array_get(g->list, i);
    qsort(all, n, sizeof(json_t *), by_id);
    while (kept < n && kept < limit && id_of(all[kept]) <= g->bound)
        json_array_append(out, all[kept++]);
    *next = kept && (kept < n || g->has_more) ? id_of(all[kept - 1]) : 0;
    return out;
}

FIBER static void list(struct admin *a, struct http_req *req, struct err *err)
{
    Thurn__QueueFilter filter = THURN__QUEUE_FILTER__INIT;
    Thurn__QueueListRequest q = THURN__QUEUE_LIST_REQUEST__INIT;
    uint64_t age_s, next;
    filter.sender = admin_param(req, "sender");
    filter.recipient = admin_param(req, "recipient");
    if (!state_bits(admin_param(req, "state"), &filter.states, err) || !u64_param(req, "older_than", &age_s, err) ||
        !u64_param(req, "after", &q.after, err))
        return;
    older_than(age_s, &filter);
    q.filter = &filter;
    q.limit = admin_limit(req) ? admin_limit(req) : LIST_DEFAULT;
    CLEANUP(json_decref_) json_t *found = json_array();
    struct gather g = {.list = found, .bound = UINT64_MAX, .err = ERR_INIT};
    if (!ask_all(a, req, QUEUE_METHOD_LIST, &q.base, gather_list, &g, err))
        return;
    json_t *page = merge_pages(&g, q.limit, req->arena, &next);
    json_t *o = json_pack("{s:o, s:I}", "messages", page, "total", (json_int_t)g.total);
    if (next)
        json_object_set_new(o, "next", json_string(arena_printf(req->arena, "%llu", (unsigned long long)next).p));
    add_warning(o, &g);
    admin_answer(req, 200, o);
}

static bool parse_op(json_t *o, struct arena *a, Thurn__QueueOp *out, struct err *err)
{
    static const char *const ops[] = {"retry", "hold", "release", "drop", "bounce"};
    char *op = NULL;
    if (!admin_get_str(o, "op", a, &op, NULL, err))
        return false;
    for (size_t i = 0; op && i < ARRAY_LEN(ops); i++)
        if (strcmp(op, ops[i]) == 0) {
            *out = (Thurn__QueueOp)i;
            return true;
        }
    return err_set(err, ERR_INVALID, "'op' must be retry, hold, release, drop or bounce");
}

static bool parse_filter(json_t *o, struct arena *a, Thurn__QueueFilter *f, struct err *err)
{
    static const char *const keys[] = {"queue_ids", "sender", "recipient", "state", "older_than", "is_all", NULL};
    char *states = arena_strz(a, S(""));
    uint64_t age_s = 0;
    json_t *filter = json_object_get(o, "filter");
    if (!json_is_object(filter))
        return err_set(err, ERR_INVALID,
                       "'filter' must say which: queue_ids, sender, recipient, state, older_than, or is_all");
    if (!admin_only(filter, keys, err) || !admin_get_str(filter, "sender", a, &f->sender, NULL, err) ||
        !admin_get_str(filter, "recipient", a, &f->recipient, NULL, err) ||
        !admin_get_str(filter, "state", a, &states, NULL, err) ||
        !admin_get_u64(filter, "older_than", &age_s, NULL, err) ||
        !admin_get_bool(filter, "is_all", &f->is_all, NULL, err) || !state_bits(states, &f->states, err))
        return false;
    older_than(age_s, f);
    json_t *ids = json_object_get(filter, "queue_ids");
    size_t n = json_array_size(ids);
    if (n > IDS_MAX)
        return err_set(err, ERR_INVALID, "at most %u queue_ids at once", IDS_MAX);
    f->queue_ids = arena_array(a, uint64_t, n);
    f->n_queue_ids = n;
    for (size_t i = 0; i < n; i++) {
        json_t *id = json_array_get(ids, i);
        if (!json_is_string(id) || !num_u64(str_c(json_string_value(id)), UINT64_MAX, &f->queue_ids[i]))
            return err_set(err, ERR_INVALID, "queue_ids are decimal numbers in quotes");
    }
    if (!n && !f->sender[0] && !f->recipient[0] && !f->states && !f->created_before_unix && !f->is_all)
        return err_set(err, ERR_INVALID, "an empty filter would take nothing; for everything say is_all");
    return true;
}

/* --- which mail an act is on, for the record: it is gone when somebody asks --- */

static str named(struct arena *a, json_t *m)
{
    json_t *recipients = json_object_get(m, "recipients");
    size_t n = MIN(json_array_size(recipients), NAMED_MAX);
    BUF(text, 4096);
    buf_printf(&text, "%s from <%s> to ", json_string_value(json_object_get(m, "queue_id")),
               json_string_value(json_object_get(m, "sender")));
    for (size_t i = 0; i < n; i++)
        buf_printf(&text, "%s<%s>", i ? ", " : "",
                   json_string_value(json_object_get(json_array_get(recipients, i), "address")));
    json_int_t left = json_integer_value(json_object_get(m, "recipients_left"));
    if (left > (json_int_t)n)
        buf_printf(&text, " and %lld more", (long long)left - (long long)n);
    return arena_str(a, buf_str(&text));
}

/* One line for each of the first ids, as the queue has them now; *more: how many further ones there are. */
FIBER static json_t *named_messages(struct admin *a, struct http_req *req, const Thurn__QueueFilter *filter,
                                    size_t *more)
{
    Thurn__QueueFilter first = THURN__QUEUE_FILTER__INIT;
    Thurn__QueueListRequest q = THURN__QUEUE_LIST_REQUEST__INIT;
    CLEANUP(json_decref_) json_t *found = json_array();
    struct gather g = {.list = found, .bound = UINT64_MAX, .err = ERR_INIT};
    struct err ignored = ERR_INIT; /* the ids are known all the same */
    json_t *lines = json_array();
    first.queue_ids = filter->queue_ids;
    first.n_queue_ids = MIN(filter->n_queue_ids, NAMED_MAX);
    *more = filter->n_queue_ids - first.n_queue_ids;
    q.filter = &first;
    q.limit = NAMED_MAX;
    IGNORE(ask_all(a, req, QUEUE_METHOD_LIST, &q.base, gather_list, &g, &ignored));
    for (size_t i = 0; i < first.n_queue_ids; i++) {
        str line = arena_printf(req->arena, "%llu", (unsigned long long)first.queue_ids[i]);
        for (size_t k = 0; k < json_array_size(found); k++)
            if (id_of(json_array_get(found, k)) == first.queue_ids[i])
                line = named(req->arena, json_array_get(found, k));
        json_array_append_new(lines, admin_string(line));
    }
    return lines;
}

/* A filter in words: what was given, and nothing of what was not. */
static str filter_words(struct arena *a, json_t *given)
{
    BUF(text, 2048);
    const char *sender = json_string_value(json_object_get(given, "sender")),
               *recipient = json_string_value(json_object_get(given, "recipient")),
               *state = json_string_value(json_object_get(given, "state"));
    json_int_t age = json_integer_value(json_object_get(given, "older_than"));
    if (sender && sender[0])
        buf_printf(&text, " from %s", sender);
    if (recipient && recipient[0])
        buf_printf(&text, " to %s", recipient);
    if (state && state[0])
        buf_printf(&text, " that is %s", state);
    if (age)
        buf_printf(&text, " older than %lld %s",
                   (long long)(age % 3600    ? age
                               : age % 86400 ? age / 3600
                                             : age / 86400),
                   age % 3600    ? "s"
                   : age % 86400 ? "hours"
                                 : "days");
    return text.n ? arena_printf(a, "mail%.*s", STR_ARG(buf_str(&text))) : S("all mail");
}

/* That it begins: the first message (or the filter) is what it was done to, further ones are in the facts. */
FIBER static bool record_act(struct admin *a, struct http_req *req, struct rpc_call *call, Thurn__Author *by,
                             const char *what, json_t *given, const Thurn__QueueFilter *filter, struct err *err)
{
    if (!filter->n_queue_ids)
        return admin_record(a, call, by, what, filter_words(req->arena, given), NULL, json_object(), err);
    size_t more;
    CLEANUP(json_decref_) json_t *lines = named_messages(a, req, filter, &more);
    str subject = arena_str(req->arena, str_c(json_string_value(json_array_get(lines, 0))));
    json_t *others = NULL;
    json_array_remove(lines, 0);
    if (json_array_size(lines))
        others = more ? json_pack("{s:O, s:I}", "messages", lines, "more", (json_int_t)more)
                      : json_pack("{s:O}", "messages", lines);
    if (filter->n_queue_ids > 1)
        subject = arena_printf(req->arena, "%.*s and %zu more message%s", STR_ARG(subject), filter->n_queue_ids - 1,
                               filter->n_queue_ids == 2 ? "" : "s");
    return admin_record(a, call, by, what, subject, others, json_object(), err);
}

/* A node that is away has not done its part. */
static bool was_cut_short(const struct gather *g)
{
    return !g->has_more && (g->is_cut_short || err_is_set(&g->err));
}

/* For the record: what came of an act so far. On which messages it was stands there since it began, whatever is said
 * later. */
static json_t *act_facts(const struct gather *g)
{
    return json_pack("{s:I, s:I, s:b, s:b}", "affected", (json_int_t)g->affected, "seen", (json_int_t)g->seen,
                     "is_running", (int)g->has_more, "is_cut_short", (int)was_cut_short(g));
}

FIBER static void act(struct admin *a, struct http_req *req, struct rpc_call *call)
{
    struct err *err = &call->err;
    static const char *const keys[] = {"op", "filter", "act_id", NULL};
    char *id = NULL;
    Thurn__QueueFilter filter = THURN__QUEUE_FILTER__INIT;
    Thurn__QueueActRequest q = THURN__QUEUE_ACT_REQUEST__INIT;
    q.filter = &filter;
    CLEANUP(json_decref_) json_t *o = admin_body(req, err);
    if (!o || !admin_only(o, keys, err) || !parse_op(o, req->arena, &q.op, err) ||
        !parse_filter(o, req->arena, &filter, err) || !admin_get_str(o, "act_id", req->arena, &id, NULL, err))
        return;
    q.is_begun = id != NULL;
    q.act_id = random_u64() | 1;
    if (id && (!num_u64(str_c(id), UINT64_MAX, &q.act_id) || !q.act_id)) {
        (void)err_set(err, ERR_INVALID, "'act_id' is a decimal number in quotes");
        return;
    }
    struct gather g = {.err = ERR_INIT};
    Thurn__Author *by = admin_author(req);
    const char *what = arena_printf(req->arena, "queue.%s", json_string_value(json_object_get(o, "op"))).p;
    json_t *which = json_object_get(o, "filter");
    by->act = q.act_id; /* one event, however often it is asked how far it is */
    if (!q.is_begun && !record_act(a, req, call, by, what, which, &filter, err))
        return;
    if (!ask_all(a, req, QUEUE_METHOD_ACT, &q.base, gather_act, &g, err))
        return;
    if (!admin_record(a, call, by, what, S("queue"), NULL, act_facts(&g), err)) {
        log_warn("admin.outcome", KV_Z("what", what), KV_ERR(err)); /* that it was begun is on record */
        err_clear(err);
    }
    json_t *answer = json_pack("{s:s, s:I, s:I, s:I, s:b, s:b}", "act_id",
                               arena_printf(req->arena, "%llu", (unsigned long long)q.act_id).p, "affected",
                               (json_int_t)g.affected, "seen", (json_int_t)g.seen, "total", (json_int_t)g.total,
                               "is_running", (int)g.has_more, "is_cut_short", (int)was_cut_short(&g));
    add_warning(answer, &g);
    admin_answer(req, 200, answer);
}

void admin_queue(void *arg, struct http_req *req)
{
    struct admin *a = arg;
    struct rpc_call call;
    if (!admin_enter(a, req, &call))
        return;
    if (str_eq(req->method, S("GET")))
        list(a, req, &call.err);
    else if (str_eq(req->method, S("POST")))
        act(a, req, &call);
    else
        (void)err_set(&call.err, ERR_INVALID, "GET or POST");
    if (err_is_set(&call.err))
        http_reply_err(req, &call.err);
}

void admin_queue_message(void *arg, struct http_req *req)
{
    struct admin *a = arg;
    struct rpc_call call;
    struct err err = ERR_INIT;
    if (!admin_enter(a, req, &call))
        return;
    Thurn__QueueShowRequest q = THURN__QUEUE_SHOW_REQUEST__INIT;
    struct gather g = {.err = ERR_INIT};
    char *id = admin_tail(req, "/v1/queue/");
    if (!num_u64(str_c(id), UINT64_MAX, &q.queue_id))
        (void)err_set(&err, ERR_INVALID, "'%.40s' is no queue id", id);
    else if (ask_all(a, req, QUEUE_METHOD_SHOW, &q.base, gather_show, &g, &err) && !g.list)
        (void)err_set(&err, ERR_NOT_FOUND, "no message %s in the queue", id);
    if (err_is_set(&err))
        http_reply_err(req, &err);
    else
        admin_answer(req, 200, g.list);
}

void admin_queue_stats(void *arg, struct http_req *req)
{
    struct admin *a = arg;
    struct rpc_call call;
    struct err err = ERR_INIT;
    if (!admin_enter(a, req, &call))
        return;
    Thurn__Empty q = THURN__EMPTY__INIT;
    struct gather g = {.list = json_array(), .err = ERR_INIT};
    if (!ask_all(a, req, QUEUE_METHOD_STATS, &q.base, gather_stats, &g, &err)) {
        json_decref(g.list);
        http_reply_err(req, &err);
        return;
    }
    json_t *o = json_pack("{s:o}", "nodes", g.list);
    add_warning(o, &g);
    admin_answer(req, 200, o);
}

void admin_sweep(void *arg, struct http_req *req)
{
    static const char *const keys[] = {"older_than_s", "dry_run", NULL};
    struct admin *a = arg;
    struct rpc_call call;
    if (!admin_enter(a, req, &call))
        return;
    CLEANUP(json_decref_) json_t *o = admin_body(req, &call.err);
    Thurn__SweepRequest q = THURN__SWEEP_REQUEST__INIT;
    uint64_t older = 0;
    const Thurn__SweepReply *r;
    if (o && admin_only(o, keys, &call.err) && admin_get_u64(o, "older_than_s", &older, NULL, &call.err) &&
        admin_get_bool(o, "dry_run", &q.is_dry_run, NULL, &call.err)) {
        q.older_than_s = (int64_t)older;
        Thurn__Author *by = admin_author(req);
        if ((q.is_dry_run || admin_record(a, &call, by, "store.sweep", S("bodies"), NULL,
                                          json_pack("{s:I}", "older_than_s", (json_int_t)older), &call.err)) &&
            store_sweep(&call, a->store, &q, &r))
            admin_answer(req, 200,
                         json_pack("{s:I, s:I, s:I}", "removed", (json_int_t)r->removed, "bytes", (json_int_t)r->bytes,
                                   "kept", (json_int_t)r->kept));
    }
    if (err_is_set(&call.err))
        http_reply_err(req, &call.err);
}
