/* Each mutation with each of its round trips failing in turn; many at once; a lost commit's timeline. */
#include "unit/store_world.h"

#include <stdio.h>

#include "base/clock.h"

static const char text[] = "From: a@example.org\r\nSubject: Hi\r\nMessage-ID: <f1@example.org>\r\n\r\nHi\r\n";

/* --- walks: a mutation either happened whole or not at all, and says which --- */

struct mutation {
    const char *name;
    const char *arg_sql; /* asked before, so that the faults hit the mutation alone */
    bool (*run)(struct world *w, int64_t arg);
    int64_t (*effect)(struct world *w); /* a number that the mutation raises by one */
};

static bool run_append(struct world *w, int64_t arg)
{
    Thurn__AppendRequest q = THURN__APPEND_REQUEST__INIT;
    Thurn__AppendItem it = THURN__APPEND_ITEM__INIT, *items[] = {&it};
    Thurn__Body body = THURN__BODY__INIT;
    body.content = rpc_bytes(str_c(text));
    it.body = &body;
    q.account = &w->ref;
    q.mailbox_id = 1;
    q.items = items;
    q.n_items = 1;
    char id[17];
    snprintf(id, sizeof id, "%016lld", (long long)arg);
    q.request_id = rpc_bytes(arena_str(&w->a, str_n(id, 16)));
    return CALL(w, append, &q, NULL);
}

static bool run_deliver(struct world *w, int64_t arg)
{
    Thurn__DeliverReply__Result r;
    char key[16];
    snprintf(key, sizeof key, "w%lld", (long long)arg);
    if (!world_deliver(w, text, key, 20000, &r))
        return false;
    if (r.error_kind)
        (void)err_set(&w->err, r.error_kind, "%s", r.error);
    return r.error_kind == 0;
}

static bool run_big(struct world *w, int64_t arg)
{
    Thurn__DeliverReply__Result r;
    char key[16];
    snprintf(key, sizeof key, "b%lld", (long long)arg);
    if (!world_deliver(w, arena_strz(&w->a, world_message(w, (unsigned)arg, 100000)), key, 20000, &r))
        return false;
    if (r.error_kind)
        (void)err_set(&w->err, r.error_kind, "%s", r.error);
    return r.error_kind == 0;
}

static int64_t count_msgs(struct world *w)
{
    return world_sql(w, "SELECT count(*) FROM s_msg");
}

static bool run_flags(struct world *w, int64_t arg)
{
    char kw[32];
    snprintf(kw, sizeof kw, "k%lld", (long long)arg);
    return world_flags(w, 1, 1, 100, THURN__STORE_OP__STORE_ADD, THURN__FLAG__FLAG_SEEN, kw, NULL);
}

static int64_t count_keywords(struct world *w)
{
    return world_sql(w, "SELECT count(*) FROM s_keyword");
}

static bool run_copy(struct world *w, int64_t arg)
{
    (void)arg;
    Thurn__CopyRequest q = THURN__COPY_REQUEST__INIT;
    q.account = &w->ref;
    q.mailbox_id = 1;
    q.to_mailbox_id = 2;
    q.uids = world_range(w, 1, 1);
    q.n_uids = 1;
    return CALL(w, copy, &q, NULL);
}

static int64_t count_copies(struct world *w)
{
    return world_sql(w, "SELECT count(*) FROM s_msg WHERE mailbox_id = 2");
}

static bool run_expunge(struct world *w, int64_t arg)
{
    Thurn__ExpungeRequest q = THURN__EXPUNGE_REQUEST__INIT;
    q.account = &w->ref;
    q.mailbox_id = 1;
    q.uids = world_range(w, (uint64_t)arg, (uint64_t)arg);
    q.n_uids = 1;
    q.is_any = true;
    return CALL(w, expunge, &q, NULL);
}

static int64_t count_gone(struct world *w)
{
    return 1000 - world_sql(w, "SELECT count(*) FROM s_msg WHERE mailbox_id = 1");
}

static bool run_create(struct world *w, int64_t arg)
{
    Thurn__CreateMailboxRequest q = THURN__CREATE_MAILBOX_REQUEST__INIT;
    char *path[] = {(char *)(uintptr_t)arena_printf(&w->a, "box %lld", (long long)arg).p};
    q.account = &w->ref;
    q.path = path;
    q.n_path = 1;
    return CALL(w, create_mailbox, &q, NULL);
}

static int64_t count_boxes(struct world *w)
{
    return world_sql(w, "SELECT count(*) FROM s_mailbox");
}

static bool run_subscribe(struct world *w, int64_t arg)
{
    Thurn__SubscribeRequest q = THURN__SUBSCRIBE_REQUEST__INIT;
    char *path[] = {(char *)(uintptr_t)arena_printf(&w->a, "name %lld", (long long)arg).p};
    q.account = &w->ref;
    q.path = path;
    q.n_path = 1;
    q.is_subscribed = true;
    return CALL(w, subscribe, &q, NULL);
}

static int64_t count_subscriptions(struct world *w)
{
    return world_sql(w, "SELECT count(*) FROM s_subscription");
}

static const struct mutation mutations[] = {
    {"append", "SELECT count(*) FROM s_request", run_append, count_msgs},
    {"deliver", "SELECT count(*) FROM s_delivered", run_deliver, count_msgs},
    {"deliver a large one", "SELECT count(*) FROM s_msg", run_big, count_msgs},
    {"flags", "SELECT count(*) FROM s_keyword", run_flags, count_keywords},
    {"copy", "SELECT 0", run_copy, count_copies},
    {"expunge", "SELECT max(uid) FROM s_msg WHERE mailbox_id = 1", run_expunge, count_gone},
    {"create", "SELECT count(*) FROM s_mailbox", run_create, count_boxes},
    {"subscribe", "SELECT count(*) FROM s_subscription", run_subscribe, count_subscriptions},
};

/* The n-th round trip fails: nothing happened. Then n + 1, until the mutation gets through. */
static void walk(struct world *w, const struct mutation *m)
{
    for (unsigned n = 1;; n++) {
        int64_t before = m->effect(w), arg = world_sql(w, m->arg_sql);
        sql_fail_nth(w->db, n, false);
        bool ok = m->run(w, arg);
        sql_fail_nth(w->db, 0, false);
        int64_t after = m->effect(w);
        if (ok) {
            assert_int_equal(after, before + 1);
            break;
        }
        assert_int_equal(w->err.kind, ERR_UNAVAILABLE);
        assert_int_equal(after, before);
        world_audit(w);
        assert_in_range(n, 1, 20);
    }
    world_audit(w);
}

/* The commit took effect and its answer was lost. */
static void unknown(struct world *w, const struct mutation *m)
{
    int64_t before = m->effect(w), arg = world_sql(w, m->arg_sql);
    sql_fail_nth(w->db, 1, true);
    bool ok = m->run(w, arg);
    sql_fail_nth(w->db, 0, false);
    assert_false(ok);
    assert_int_equal(w->err.kind, ERR_TIMEOUT);
    if (m->run != run_big) /* there the first commit is the body's own */
        assert_int_equal(m->effect(w), before + 1);
    world_audit(w);
}

static void walks_case(struct world *w)
{
    (void)world_mailbox(w, "INBOX");
    for (size_t i = 0; i < ARRAY_LEN(mutations); i++)
        walk(w, &mutations[i]);
}

static void unknown_case(struct world *w)
{
    assert_true(run_append(w, 500));
    assert_true(run_deliver(w, 500));
    for (size_t i = 0; i < ARRAY_LEN(mutations); i++)
        unknown(w, &mutations[i]);
}

/* A keyed delivery whose outcome was unknown is sent again: once in the mailbox. */
static void resend_case(struct world *w)
{
    Thurn__DeliverReply__Result r;
    (void)world_mailbox(w, "INBOX");
    sql_fail_nth(w->db, 1, true);
    assert_true(world_deliver(w, text, "again", 20000, &r));
    assert_int_equal(r.error_kind, ERR_TIMEOUT);
    assert_true(world_deliver(w, text, "again", 20000, &r));
    assert_int_equal(r.error_kind, 0);
    assert_true(r.is_duplicate);
    assert_int_equal(count_msgs(w), 1);
}

/* --- many at once --- */

enum { WRITERS = 12, ROUNDS = 12 };

struct writer {
    struct world *w;
    int id;
    uint32_t uids[ROUNDS];
    uint32_t n_done;
};
struct observer {
    struct world *w;
    bool is_ending;
    uint32_t seen_uidnext;
    uint64_t seen_modseq;
    unsigned n_looks;
};

static Thurn__AppendReply *append_quietly(struct world *w, struct arena *a, int seed)
{
    struct rpc_call c;
    Thurn__AppendRequest q = THURN__APPEND_REQUEST__INIT;
    Thurn__AppendItem it = THURN__APPEND_ITEM__INIT, *items[] = {&it};
    Thurn__Body body = THURN__BODY__INIT;
    const Thurn__AppendReply *r = NULL;
    rpc_call_init(&c, a);
    body.content = rpc_bytes(arena_printf(a, "Subject: %d\r\nMessage-ID: <c%d@x>\r\n\r\nx\r\n", seed, seed));
    it.body = &body;
    q.account = &w->ref;
    q.mailbox_id = 1;
    q.items = items;
    q.n_items = 1;
    if (!store_append(&c, w->service, &q, &r))
        fail_msg("%s", c.err.msg);
    return (Thurn__AppendReply *)(uintptr_t)r;
}

static void writer_main(void *arg)
{
    struct writer *wr = arg;
    for (int i = 0; i < ROUNDS; i++) {
        ARENA(a, 1 << 20);
        Thurn__AppendReply *r = append_quietly(wr->w, &a, wr->id * 1000 + i);
        wr->uids[wr->n_done++] = r->uids[0];
    }
}

/* Whoever has seen UIDNEXT n or HIGHESTMODSEQ m never finds a message below n, nor a change at or below m, that was not
 * there before. */
static void observer_main(void *arg)
{
    struct observer *o = arg;
    struct err err = ERR_INIT;
    uint32_t known = 0;
    while (!o->is_ending) {
        ARENA(a, 4 << 20);
        struct rpc_call c;
        Thurn__SyncRequest q = THURN__SYNC_REQUEST__INIT;
        const Thurn__SyncReply *r = NULL;
        rpc_call_init(&c, &a);
        q.account = &o->w->ref;
        q.mailbox_id = 1;
        q.since_modseq = o->seen_modseq;
        if (!store_sync(&c, o->w->service, &q, &r))
            fail_msg("%s", c.err.msg);
        for (size_t i = 0; i < r->n_messages; i++) {
            assert_true(r->messages[i]->uid >= o->seen_uidnext);
            assert_true(r->messages[i]->modseq > o->seen_modseq);
            assert_true(r->messages[i]->uid < r->mailbox->uidnext);
            known++;
        }
        assert_int_equal(r->mailbox->total, known);
        assert_true(r->mailbox->highestmodseq >= o->seen_modseq);
        o->seen_uidnext = r->mailbox->uidnext;
        o->seen_modseq = r->mailbox->highestmodseq;
        o->n_looks++;
        if (!fiber_yield(&err))
            return;
    }
}

static void concurrent_case(struct world *w)
{
    static struct writer writers[WRITERS];
    struct observer o = {.w = w};
    struct err err = ERR_INIT;
    struct sql_stats before, after;
    bool used[WRITERS * ROUNDS + 1] = {false};
    (void)world_mailbox(w, "INBOX");
    FIBER_GROUP(watching, 1);
    FIBER_GROUP(g, WRITERS);
    sql_get_stats(w->db, &before);
    assert_true(fiber_group_spawn(&watching, "observer", observer_main, &o, &err));
    for (int i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){.w = w, .id = i};
        assert_true(fiber_group_spawn(&g, "writer", writer_main, &writers[i], &err));
    }
    assert_true(fiber_group_wait(&g, &err));
    o.is_ending = true;
    assert_true(fiber_group_wait(&watching, &err));
    sql_get_stats(w->db, &after);
    for (int i = 0; i < WRITERS; i++) {
        for (int k = 0; k < ROUNDS; k++) {
            uint32_t uid = writers[i].uids[k];
            assert_in_range(uid, 1, WRITERS * ROUNDS);
            assert_false(used[uid]);
            assert_true(k == 0 || uid > writers[i].uids[k - 1]);
            used[uid] = true;
        }
    }
    assert_true(o.n_looks > 3);
    assert_true(after.commits - before.commits < WRITERS * ROUNDS / 2); /* they share commits */
}

struct shared_body {
    struct world *w;
    int64_t account_id;
    uint32_t error;
};

static void shared_body_main(void *arg)
{
    struct shared_body *sb = arg;
    ARENA(a, 1 << 20);
    struct rpc_call c;
    Thurn__DeliverRequest q = THURN__DELIVER_REQUEST__INIT;
    Thurn__DeliverRecipient rcpt = THURN__DELIVER_RECIPIENT__INIT, *rcpts[] = {&rcpt};
    Thurn__Body body = THURN__BODY__INIT;
    Thurn__AccountRef ref = world_account(sb->w, sb->account_id);
    const Thurn__DeliverReply *r = NULL;
    body.content = rpc_bytes(str_c(text));
    q.body = &body;
    q.recipients = rcpts;
    q.n_recipients = 1;
    rcpt.account = &ref;
    rpc_call_init(&c, &a);
    sb->error = store_deliver(&c, sb->w->service, &q, &r) ? r->results[0]->error_kind : c.err.kind;
}

/* The same new body, to new accounts, all at the same moment: each makes rows that the others want to make. */
static void race_case(struct world *w)
{
    enum { N = 60 };
    static struct shared_body sb[N];
    struct err err = ERR_INIT;
    FIBER_GROUP(g, N);
    for (int i = 0; i < N; i++) {
        sb[i] = (struct shared_body){.w = w, .account_id = 1 + i % 20};
        assert_true(fiber_group_spawn(&g, "deliver", shared_body_main, &sb[i], &err));
    }
    assert_true(fiber_group_wait(&g, &err));
    for (int i = 0; i < N; i++)
        assert_int_equal(sb[i].error, 0);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_blob"), 1);
    assert_int_equal(world_sql(w, "SELECT refs FROM s_blob"), N);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_account"), 20);
    /* All copies of one account are one thread. */
    assert_int_equal(world_sql(w, "SELECT count(DISTINCT thread_id) FROM s_msg WHERE account_id = 3"), 1);
}

/* --- a failover that may have lost commits --- */

static const struct sql_stmt forget_timeline = {"t_forget", "", "", "UPDATE s_account SET timeline = -1", NULL, false};

FIBER static bool forget_body(struct sql_tx *tx, void *arg, struct err *err)
{
    (void)arg;
    return sql_exec(tx, &forget_timeline, NULL, 1, NULL, err);
}

/*
 * What is in the database is the state of a moment; a client knows more, of commits that were lost: uid 3 was marked,
 * uid 2 expunged, uids 4 to 6 came. From the store's side that is a modseq, and UIDs, which it never gave out.
 */
static void timeline_case(struct world *w)
{
    struct err err = ERR_INIT;
    int64_t inbox = world_mailbox(w, "INBOX"), other = world_mailbox(w, "Sent");
    for (int i = 0; i < 3; i++)
        world_append(w, inbox, text, 0);
    Thurn__Mailbox before = *world_status(w, inbox);
    uint64_t lost = before.highestmodseq + 17;
    assert_true(sql_write(w->db, forget_body, NULL, &err));
    /* Who only reads sees the jump: counters never run backwards, in no mailbox. */
    Thurn__Mailbox now = *world_status(w, inbox);
    assert_true(now.highestmodseq > lost + 100000 && now.uidnext > before.uidnext + 100000);
    assert_true(world_status(w, other)->highestmodseq > lost + 100000);
    assert_int_equal(now.uidvalidity, before.uidvalidity);
    Thurn__StatesRequest sq = THURN__STATES_REQUEST__INIT;
    Thurn__AccountRef *refs[] = {&w->ref};
    const Thurn__StatesReply *states = NULL;
    sq.accounts = refs;
    sq.n_accounts = 1;
    assert_true(sql_write(w->db, forget_body, NULL, &err));
    MUST(w, states, &sq, &states); /* the poll of who watches does it too; its answer may be of before */
    MUST(w, states, &sq, &states);
    assert_true(states->states[0]->modseq > now.highestmodseq);

    /* Sync: every message, once, and what he knows and is not there. */
    Thurn__SyncRequest q = THURN__SYNC_REQUEST__INIT;
    Thurn__ChangesRequest cq = THURN__CHANGES_REQUEST__INIT;
    const Thurn__SyncReply *r = NULL;
    q.account = cq.account = &w->ref;
    q.mailbox_id = inbox;
    q.known_uids = world_range(w, 3, 6);
    q.n_known_uids = 1;
    q.since_modseq = cq.since_modseq = lost;
    MUST(w, sync, &q, &r);
    assert_true(r->is_from_start);
    assert_int_equal(r->n_messages, 3);
    assert_string_equal(world_ranges(w, r->vanished, r->n_vanished), "4:6");
    q.since_modseq = r->mailbox->highestmodseq;
    MUST(w, sync, &q, &r);
    assert_true(r->n_messages == 0 && r->n_vanished == 0 && !r->is_from_start);
    q.since_modseq = before.highestmodseq; /* a state that was not lost is known */
    MUST(w, sync, &q, &r);
    assert_true(r->n_messages == 0 && !r->is_from_start);
    q.since_modseq = before.highestmodseq - 1;
    MUST(w, sync, &q, &r);
    assert_int_equal(r->n_messages, 1);
    cq.since_modseq = lost;
    MUST_FAIL(w, changes, &cq, NULL, ERR_CONFLICT);

    /* The same by FETCH CHANGEDSINCE, SEARCH MODSEQ and STORE UNCHANGEDSINCE. */
    Thurn__FetchRequest fq = THURN__FETCH_REQUEST__INIT;
    const Thurn__FetchReply *f = NULL;
    fq.account = &w->ref;
    fq.mailbox_id = inbox;
    fq.changed_since = lost;
    MUST(w, fetch, &fq, &f);
    assert_int_equal(f->n_messages, 3);
    fq.changed_since = before.highestmodseq;
    MUST(w, fetch, &fq, &f);
    assert_int_equal(f->n_messages, 0);
    Thurn__SearchRequest se = THURN__SEARCH_REQUEST__INIT;
    Thurn__SearchKey key = THURN__SEARCH_KEY__INIT;
    const Thurn__SearchReply *found = NULL;
    se.account = &w->ref;
    se.mailbox_id = inbox;
    se.key = &key;
    key.op = THURN__SEARCH_OP__SEARCH_MODSEQ;
    key.number = lost + 1;
    MUST(w, search, &se, &found);
    assert_string_equal(world_ranges(w, found->uids, found->n_uids), "1:3");
    key.number = before.highestmodseq + 1;
    MUST(w, search, &se, &found);
    assert_int_equal(found->n_uids, 0);
    Thurn__StoreFlagsRequest st = THURN__STORE_FLAGS_REQUEST__INIT;
    const Thurn__StoreFlagsReply *stored = NULL;
    st.account = &w->ref;
    st.mailbox_id = inbox;
    st.uids = world_range(w, 1, 3);
    st.n_uids = 1;
    st.flags = THURN__FLAG__FLAG_FLAGGED;
    st.has_unchanged_since = true;
    st.unchanged_since = lost;
    MUST(w, store_flags, &st, &stored);
    assert_string_equal(world_ranges(w, stored->modified, stored->n_modified), "1:3");
    st.unchanged_since = before.highestmodseq;
    MUST(w, store_flags, &st, &stored);
    assert_int_equal(stored->n_modified, 0);

    /* What comes now is above all that was ever given out. */
    uint32_t next = world_append(w, inbox, text, 0);
    assert_true(next >= now.uidnext);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_gap"), 2);
    Thurn__AccountRequest purge = THURN__ACCOUNT_REQUEST__INIT;
    purge.account = &w->ref;
    MUST(w, purge_account, &purge, NULL);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_gap"), 0);
}

int main(void)
{
    static const struct world_case cases[] = {
        {"walks", walks_case},           {"unknown", unknown_case}, {"resend", resend_case},
        {"concurrent", concurrent_case}, {"race", race_case},       {"timeline", timeline_case},
    };
    return world_main(cases, ARRAY_LEN(cases), 1, NULL);
}
