/*
 * Search: a mailbox in pages, each with as much of its messages as the tree needs. One call has a budget of time and of
 * reply size; where it is used up the reply says where to go on.
 */
#include "store-service/search/search.h"

#include "base/clock.h"
#include "base/log.h"
#include "fiber/work.h"
#include "store-service/account/timeline.h"
#include "store-service/content/parsed.h"
#include "store-service/mailbox/mailbox.h"

#define PAGE_ROWS 2000u
#define PAGE_PARSED 200u
#define PAGE_BODIES 32u
#define RANGES_MAX 30000u                 /* of a reply */
#define SEARCHED_MAX ((uint64_t)64 << 20) /* of a message; what is beyond is not searched */
#define ASK_INLINE_MAX (128u * 1024)      /* larger ones are searched on the searcher's thread */
#define SEARCHES_MAX 10000u               /* that wait for it; more are BUSY */

struct search_op {
    struct op op;
    const Thurn__SearchRequest *q;
    struct search_tree tree;
    enum search_level level; /* of the page: what rows are read with */
    uint64_t from_uid;
    struct arena *arena; /* of the page */
    /* Results of one page. */
    struct msg_row *rows;
    size_t n;
    uint64_t next_uid;
};

/* The dearest level that any node needs. */
static enum search_level deepest(const struct search_node *n)
{
    enum search_level level = n->level;
    for (size_t i = 0; i < n->n_keys; i++)
        level = MAX(level, deepest(&n->keys[i]));
    return level;
}

static struct msg_row copy_row(const struct msg_row *m, struct arena *a)
{
    struct msg_row copy = *m;
    copy.kw = arena_str(a, m->kw);
    copy.parsed = arena_str(a, m->parsed);
    copy.prefix = arena_str(a, m->prefix);
    copy.place = blob_place_copy(&m->place, a);
    return copy;
}

/* UIDs that the tree allows at its top; all when it does not say. */
static const struct uidset *allowed(const struct search_tree *t)
{
    const struct search_node *n = &t->root;
    if (n->op == THURN__SEARCH_OP__SEARCH_UIDS)
        return &n->uids;
    for (size_t i = 0; n->op == THURN__SEARCH_OP__SEARCH_AND && i < n->n_keys; i++)
        if (n->keys[i].op == THURN__SEARCH_OP__SEARCH_UIDS)
            return &n->keys[i].uids;
    return NULL;
}

/* MODSEQ n of a state that was lost: everything may be new. */
FIBER static bool know_modseqs(struct sql_tx *tx, const struct op *op, struct search_node *n, struct err *err)
{
    uint64_t since = n->number > 0 ? MIN(n->number - 1, (uint64_t)INT64_MAX) : 0, known = since;
    if (n->op == THURN__SEARCH_OP__SEARCH_MODSEQ && !op_known_since(tx, op, &known, err))
        return false;
    if (known != since)
        n->number = 0;
    for (size_t i = 0; i < n->n_keys; i++)
        if (!know_modseqs(tx, op, &n->keys[i], err))
            return false;
    return true;
}

FIBER static bool page_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct search_op *s = arg;
    struct arena *a = sql_arena(tx);
    struct sql_result box, names;
    struct mailbox_row m;
    struct uidset all = uidset_of(a);
    uidset_add_range(&all, 1, UINT32_MAX);
    const struct uidset *uids = allowed(&s->tree);
    op_begin_read(tx, &s->op);
    mailbox_queue_get(tx, s->op.ref->account_id, s->q->mailbox_id, &box);
    keywords_queue_load(tx, &s->op.ref->account_id, s->tree.wants_keywords ? 1 : 0, &names);
    static const unsigned with[] = {0, MSG_WITH_PARSED, MSG_WITH_PARSED | MSG_WITH_BODY};
    static const size_t limits[] = {PAGE_ROWS, PAGE_PARSED, PAGE_BODIES};
    struct msg_query q = {.account_id = s->op.ref->account_id,
                          .mailbox_id = s->q->mailbox_id,
                          .uids = uids ? uids : &all,
                          .from_uid = s->from_uid,
                          .with = with[s->level],
                          .limit = limits[s->level]};
    struct msg_row *rows;
    if (!messages_read(tx, &q, &rows, &s->n, &s->next_uid, err) || !op_ready(&s->op, err) ||
        !mailbox_take_one(&box, &m, err) || !know_modseqs(tx, &s->op, &s->tree.root, err))
        return false;
    s->rows = arena_array(s->arena, struct msg_row, s->n);
    for (size_t i = 0; i < s->n; i++)
        s->rows[i] = copy_row(&rows[i], s->arena);
    struct keywords k = keywords_take(a, &names, m.account_id);
    search_set_keywords(&s->tree, &k);
    return true;
}

/* The body of one that nothing cheaper has decided. */
FIBER static bool read_body(struct search_op *s, const struct msg_row *m, struct arena *a, str *body, bool *is_lost,
                            struct err *err)
{
    *is_lost = false;
    return m->place.tier == BLOB_INLINE
               ? blob_inline(&m->place, a, body, err)
               : blob_read_range(s->op.shard, &m->place, 0, SEARCHED_MAX, a, body, is_lost, err);
}

/* One question about one whole message. A thread of its own answers those that take long, one after the other: the pool
 * stays free for what is short. */
struct body_question {
    struct work_item item;
    const struct search_tree *tree;
    struct search_subject *subject;
    str body;
    enum search_answer answer;
};

static void ask_body(struct body_question *q)
{
    str prefix = q->subject->row->prefix;
    q->subject->raw = q->body;
    if (prefix.n) {
        char *p = arena_alloc(q->subject->arena, prefix.n + q->body.n);
        memcpy(p, prefix.p, prefix.n);
        memcpy(p + prefix.n, q->body.p, q->body.n);
        q->subject->raw = str_n(p, prefix.n + q->body.n);
    }
    q->answer = search_ask(q->tree, q->subject, SEARCH_BODY);
}

static void ask_bodies(void *ctx, struct work_item **items, size_t n)
{
    (void)ctx;
    for (size_t i = 0; i < n; i++)
        ask_body(CONTAINER_OF(items[i], struct body_question, item));
}

struct work_lane *search_lane_new(void)
{
    return work_lane_new("search", ask_bodies, NULL, 1, SEARCHES_MAX);
}

/* One body that is lost does not make the others unfindable. */
static bool skip(const struct search_op *s, const struct msg_row *m, struct err *err)
{
    log_error("store.search_skipped", KV_I64("account", s->op.ref->account_id), KV_I64("uid", m->uid),
              KV_I64("blob", m->place.blob_id), KV_ERR(err));
    err_clear(err);
    return true;
}

FIBER static bool ask_message(struct search_op *s, const struct msg_row *m, bool *is_match, struct err *err)
{
    ARENA(a, 3 * SEARCHED_MAX);
    struct search_subject subject = {.row = m, .arena = &a};
    enum search_answer answer = search_ask(&s->tree, &subject, SEARCH_ROW);
    if (answer == SEARCH_NEEDS_MORE) {
        subject.parsed = parsed_unpack(m->parsed, &a, err);
        if (!subject.parsed)
            return false;
        answer = search_ask(&s->tree, &subject, SEARCH_PARSED);
    }
    *is_match = false;
    if (answer == SEARCH_NEEDS_MORE) {
        struct body_question q = {.tree = &s->tree, .subject = &subject};
        bool is_lost;
        if (!read_body(s, m, &a, &q.body, &is_lost, err))
            return (is_lost || err->kind == ERR_INTERNAL) && skip(s, m, err);
        if (q.body.n <= ASK_INLINE_MAX)
            ask_body(&q);
        else if (!work_lane_run(s->op.shard->store->searcher, &q.item, err))
            return false;
        answer = q.answer;
    }
    *is_match = answer == SEARCH_YES;
    return true;
}

struct found {
    struct uidset uids;
    uint64_t highest_modseq, next_uid;
    uint32_t first_unseen, last_seen;
};

static void add_match(struct found *f, const struct msg_row *m)
{
    uidset_add(&f->uids, m->uid);
    f->highest_modseq = MAX(f->highest_modseq, (uint64_t)m->modseq);
    if (m->flags & THURN__FLAG__FLAG_SEEN)
        f->last_seen = m->uid;
    else if (!f->first_unseen)
        f->first_unseen = m->uid;
}

/* One page; *go_on: there are more, and budget is left. */
FIBER static bool search_page(struct search_op *s, struct found *f, int64_t until_mono_ms, bool *go_on, struct err *err)
{
    ARENA(page, 128 << 20);
    s->arena = &page;
    if (!op_read(&s->op, page_body, s, err))
        return false;
    f->next_uid = s->next_uid;
    *go_on = s->next_uid != 0;
    for (size_t i = 0; i < s->n; i++) {
        bool is_match;
        if (i > 0 && s->level > SEARCH_ROW && clock_mono_ms() >= until_mono_ms) {
            f->next_uid = s->rows[i].uid;
            *go_on = false;
            return true;
        }
        if (!ask_message(s, &s->rows[i], &is_match, err))
            return false;
        if (is_match)
            add_match(f, &s->rows[i]);
        if (!fiber_yield_if_due(err))
            return false;
    }
    *go_on = *go_on && clock_mono_ms() < until_mono_ms && f->uids.n < RANGES_MAX;
    return true;
}

FIBER bool store_do_search(struct store *st, struct rpc_call *c, const Thurn__SearchRequest *q, Thurn__SearchReply *r,
                           struct err *err)
{
    struct search_op s = {.q = q, .from_uid = q->from_uid};
    struct found f = {.uids = uidset_of(c->arena)};
    int64_t until_mono_ms = clock_mono_ms() + st->limits.search_ms;
    bool go_on = true;
    bool ok = search_compile(&s.tree, q->key, c->arena, err) && op_init(&s.op, st, q->account, err);
    s.level = ok ? deepest(&s.tree.root) : SEARCH_ROW;
    while (ok && go_on) {
        ok = search_page(&s, &f, until_mono_ms, &go_on, err);
        s.from_uid = f.next_uid;
    }
    search_done(&s.tree);
    if (!ok)
        return false;
    uidset_to_proto(&f.uids, c->arena, &r->uids, &r->n_uids);
    r->highest_modseq = f.highest_modseq;
    r->next_uid = (uint32_t)f.next_uid;
    r->first_unseen = f.first_unseen;
    r->last_seen = f.last_seen;
    return true;
}
