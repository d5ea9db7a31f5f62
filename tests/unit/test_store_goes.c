/* What is deleted goes, from every table, in slices; and the file shrinks. */
#include "unit/store_world.h"

#include <stdio.h>

#include "base/clock.h"

static const char *message(struct world *w, unsigned n, unsigned parent)
{
    return arena_printf(&w->a,
                        "From: a%u@example.org\r\nSubject: same\r\nMessage-ID: <%u@example.org>\r\n"
                        "In-Reply-To: <%u@example.org>\r\n\r\nbody %u\r\n",
                        n, n, parent, n)
        .p;
}

static void append_many(struct world *w, int64_t mailbox, unsigned first, unsigned count)
{
    static Thurn__AppendItem it[200], *items[200];
    static Thurn__Body body[200];
    char *keywords[] = {(char *)"$Work"};
    for (unsigned at = 0; at < count; at += 200) {
        Thurn__AppendRequest q = THURN__APPEND_REQUEST__INIT;
        unsigned char id[16] = {0};
        unsigned n = MIN(count - at, 200u);
        for (unsigned i = 0; i < n; i++) {
            thurn__append_item__init(&it[i]);
            thurn__body__init(&body[i]);
            body[i].content = rpc_bytes(str_c(message(w, first + at + i, first + at + i + 1000000)));
            it[i].body = &body[i];
            it[i].keywords = keywords;
            it[i].n_keywords = 1;
            items[i] = &it[i];
        }
        unsigned number = first + at;
        memcpy(id, &number, sizeof number);
        q.account = &w->ref;
        q.mailbox_id = mailbox;
        q.items = items;
        q.n_items = n;
        q.request_id = rpc_bytes(str_n(id, sizeof id));
        MUST(w, append, &q, NULL);
    }
}

static int64_t count(struct world *w, const char *table)
{
    return world_sql(w, arena_printf(&w->a, "SELECT count(*) FROM %s", table).p);
}

static const Thurn__SweepReply *sweep(struct world *w, bool is_dry)
{
    Thurn__SweepRequest q = THURN__SWEEP_REQUEST__INIT;
    const Thurn__SweepReply *r = NULL;
    q.is_dry_run = is_dry;
    MUST(w, sweep, &q, &r);
    return r;
}

/* A thread's keys go with its last email, and no sooner: until then a reply to any of its emails finds it. */
static void thread_keys_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX"), sent = world_mailbox(w, "Sent");
    Thurn__CopyRequest cq = THURN__COPY_REQUEST__INIT;
    world_append(w, inbox, message(w, 1, 0), 0);
    world_append(w, inbox, message(w, 2, 1), 0);
    int64_t keys = count(w, "s_thread_key");
    assert_true(keys >= 3);
    world_expunge(w, inbox, 1, 1);
    assert_int_equal(count(w, "s_thread_key"), keys);
    world_append(w, inbox, message(w, 3, 1), 0); /* answers the one that is gone */
    assert_int_equal(world_sql(w, "SELECT count(DISTINCT thread_id) FROM s_msg"), 1);
    cq.account = &w->ref;
    cq.mailbox_id = inbox;
    cq.uids = world_range(w, 1, UINT32_MAX);
    cq.n_uids = 1;
    cq.to_mailbox_id = sent;
    MUST(w, copy, &cq, NULL);
    world_expunge(w, inbox, 1, UINT32_MAX);
    assert_true(count(w, "s_thread_key") > keys);
    world_append(w, inbox, message(w, 9, 8), 0); /* another thread */
    world_expunge(w, sent, 1, UINT32_MAX);
    assert_int_equal(
        world_sql(w, "SELECT count(*) FROM s_thread_key WHERE thread_id NOT IN (SELECT thread_id FROM s_msg)"), 0);
    assert_true(count(w, "s_thread_key") > 0);
    world_expunge(w, inbox, 1, UINT32_MAX);
    assert_int_equal(count(w, "s_thread_key"), 0);
}

/* A life of an account, and nothing of it is left in any table. */
static void empty_tables_case(struct world *w)
{
    enum { N = 2400 };
    static const char *const tables[] = {"s_account",    "s_mailbox", "s_email",        "s_msg",     "s_keyword",
                                         "s_thread_key", "s_blob",    "s_blob_inline",  "s_garbage", "s_changes",
                                         "s_delivered",  "s_request", "s_subscription", "s_gap",     "s_hold"};
    int64_t inbox = world_mailbox(w, "INBOX"), box = world_create(w, "Box");
    Thurn__DeliverReply__Result d;
    Thurn__SubscribeRequest sub = THURN__SUBSCRIBE_REQUEST__INIT;
    char *path[] = {(char *)"Nowhere"};
    struct sql_stats before, after;
    append_many(w, inbox, 1, N);
    append_many(w, box, N + 1, 100);
    assert_true(world_deliver(w, message(w, 99999, 1), "key", (uint32_t)(clock_unix() / 86400), &d));
    sub.account = &w->ref;
    sub.path = path;
    sub.n_path = 1;
    sub.is_subscribed = true;
    MUST(w, subscribe, &sub, NULL);
    assert_true(world_flags(w, inbox, 1, 500, THURN__STORE_OP__STORE_ADD, THURN__FLAG__FLAG_SEEN, NULL, NULL));
    world_expunge(w, inbox, 1, 700);
    Thurn__DeleteMailboxRequest del = THURN__DELETE_MAILBOX_REQUEST__INIT;
    del.account = &w->ref;
    del.mailbox_id = box;
    MUST(w, delete_mailbox, &del, NULL);
    assert_true(count(w, "s_thread_key") > N - 700);

    Thurn__AccountRequest purge = THURN__ACCOUNT_REQUEST__INIT;
    purge.account = &w->ref;
    sql_get_stats(w->db, &before);
    MUST(w, purge_account, &purge, NULL);
    sql_get_stats(w->db, &after);
    assert_true(after.commits - before.commits > 10); /* in slices: of 1,700 messages and of 5,000 keys */
    for (size_t i = 0; i < ARRAY_LEN(tables); i++) {
        bool is_later =
            !strcmp(tables[i], "s_account") || !strcmp(tables[i], "s_delivered") || !strncmp(tables[i], "s_blob", 6);
        if (count(w, tables[i]) != 0 && !is_later)
            fail_msg("%s has %lld rows", tables[i], (long long)count(w, tables[i]));
    }
    clock_jump_s(2 * 86400);
    int64_t dead = count(w, "s_blob");
    const Thurn__SweepReply *r = sweep(w, true);
    assert_int_equal(r->removed, dead); /* more than a page of them */
    assert_true(dead > 1000 && r->kept == 0);
    assert_int_equal(count(w, "s_blob"), dead);
    assert_int_equal(sweep(w, false)->removed, dead);
    clock_jump_s(100 * 86400);
    (void)sweep(w, false);
    clock_jump_s(8 * 86400); /* a partition goes a week after its floors were raised */
    (void)sweep(w, false);
    for (size_t i = 0; i < ARRAY_LEN(tables); i++)
        if (count(w, tables[i]) != 0)
            fail_msg("%s has %lld rows", tables[i], (long long)count(w, tables[i]));
    clock_real();
}

/* The log of an account that lives on is trimmed by age, more than a slice of it, and its floor says so. */
static void trim_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX");
    Thurn__AccountRequest q = THURN__ACCOUNT_REQUEST__INIT;
    const Thurn__AccountInfo *info = NULL;
    world_append(w, inbox, message(w, 1, 0), 0);
    world_append(w, inbox, message(w, 5, 0), 0);
    uint64_t since = world_status(w, inbox)->highestmodseq;
    world_expunge(w, inbox, 2, 2);
    for (int i = 0; i < 1300; i++)
        assert_true(world_flags(w, inbox, 1, 1, i % 2 ? THURN__STORE_OP__STORE_REMOVE : THURN__STORE_OP__STORE_ADD,
                                THURN__FLAG__FLAG_SEEN, NULL, NULL));
    append_many(w, inbox, 10, 1);
    q.account = &w->ref;
    MUST(w, get_account, &q, &info);
    uint64_t old = info->modseq;
    assert_true(count(w, "s_changes") > 1300);
    clock_jump_s(110 * 86400);
    world_append(w, inbox, message(w, 2, 0), 0);
    (void)sweep(w, false);
    clock_jump_s(8 * 86400);
    (void)sweep(w, false);
    MUST(w, get_account, &q, &info);
    assert_true(info->floor_modseq == old);
    assert_int_equal(count(w, "s_changes"), 1);
    assert_int_equal(count(w, "s_request"), 0);
    /* Who comes from below the floor is answered from the rows: the log knows nothing of that time any more. */
    Thurn__SyncRequest sq = THURN__SYNC_REQUEST__INIT;
    const Thurn__SyncReply *r = NULL;
    sq.account = &w->ref;
    sq.mailbox_id = inbox;
    sq.since_modseq = since;
    sq.known_uids = world_range(w, 1, 2);
    sq.n_known_uids = 1;
    MUST(w, sync, &sq, &r);
    assert_int_equal(r->n_messages, 3);
    assert_int_equal(r->messages[0]->uid, 1);
    assert_string_equal(world_ranges(w, r->vanished, r->n_vanished), "2");
    clock_real();
}

/* What was freed goes back to the disk. */
static void shrink_case(struct world *w)
{
    enum { N = 6000 };
    int64_t inbox = world_mailbox(w, "INBOX");
    if (w->kind != TESTDB_SQLITE)
        return;
    append_many(w, inbox, 1, N);
    int64_t full = world_sql(w, "SELECT page_count FROM pragma_page_count");
    world_expunge(w, inbox, 1, UINT32_MAX);
    clock_jump_s(2 * 86400);
    (void)sweep(w, false);
    clock_real();
    int64_t now = world_sql(w, "SELECT page_count FROM pragma_page_count");
    if (now > full / 2)
        fail_msg("%lld pages were %lld", (long long)now, (long long)full);
}

/* Messages first to last get each 250 keywords of their own: k<uid>_0 … */
static bool give_keywords(struct world *w, int64_t mailbox, uint32_t uid, Thurn__StoreOp op, unsigned n)
{
    Thurn__StoreFlagsRequest q = THURN__STORE_FLAGS_REQUEST__INIT;
    char **names = arena_array(&w->a, char *, n);
    for (unsigned i = 0; i < n; i++)
        names[i] = arena_strz(&w->a, arena_printf(&w->a, "k%u_%u", uid, i));
    q.account = &w->ref;
    q.mailbox_id = mailbox;
    q.uids = world_range(w, uid, uid);
    q.n_uids = 1;
    q.op = op;
    q.keywords = names;
    q.n_keywords = n;
    return CALL(w, store_flags, &q, NULL);
}

static bool is_full(struct world *w)
{
    Thurn__ListMailboxesRequest q = THURN__LIST_MAILBOXES_REQUEST__INIT;
    const Thurn__ListMailboxesReply *r = NULL;
    q.account = &w->ref;
    q.with_keywords = true;
    MUST(w, list_mailboxes, &q, &r);
    return r->is_keywords_full;
}

/* A full dictionary is no trap: what no message has any more makes room, and what one has stays what it is. */
static void keywords_case(struct world *w)
{
    enum { EACH = 250, MESSAGES = 20 };
    int64_t inbox = world_mailbox(w, "INBOX"), sent = world_mailbox(w, "Sent");
    for (unsigned i = 1; i <= MESSAGES + 1; i++)
        world_append(w, inbox, message(w, i, 0), 0);
    for (unsigned uid = 1; uid <= MESSAGES; uid++)
        assert_true(give_keywords(w, inbox, uid, THURN__STORE_OP__STORE_ADD, EACH));
    assert_true(is_full(w));
    assert_false(give_keywords(w, inbox, MESSAGES + 1, THURN__STORE_OP__STORE_ADD, 1));
    assert_int_equal(w->err.kind, ERR_LIMIT);
    assert_int_equal(count(w, "s_keyword"), EACH * MESSAGES);
    /* One message loses its keywords, one goes, one moves: the first two give 500 names back. */
    assert_true(give_keywords(w, inbox, 1, THURN__STORE_OP__STORE_REMOVE, EACH));
    world_expunge(w, inbox, 2, 2);
    Thurn__CopyRequest cq = THURN__COPY_REQUEST__INIT;
    cq.account = &w->ref;
    cq.mailbox_id = inbox;
    cq.uids = world_range(w, 3, 3);
    cq.n_uids = 1;
    cq.to_mailbox_id = sent;
    cq.is_move = true;
    MUST(w, copy, &cq, NULL);
    assert_false(give_keywords(w, inbox, MESSAGES + 1, THURN__STORE_OP__STORE_ADD, 1)); /* it was looked for just now */
    world_restart(w);
    assert_true(give_keywords(w, inbox, MESSAGES + 1, THURN__STORE_OP__STORE_ADD, EACH));
    assert_int_equal(count(w, "s_keyword"), EACH * (MESSAGES - 1));
    assert_false(is_full(w));
    const Thurn__FetchReply *r = world_fetch(w, inbox, false, false);
    for (size_t i = 0; i < r->n_messages; i++) {
        char want[16];
        unsigned n = snprintf(want, sizeof want, "k%u_", r->messages[i]->uid), found = 0;
        for (size_t k = 0; k < r->messages[i]->n_keywords; k++)
            for (size_t name = 0; name < r->n_keyword_names; name++)
                found += r->keyword_names[name]->id == r->messages[i]->keywords[k] &&
                         !strncmp(r->keyword_names[name]->name, want, n);
        assert_int_equal(found, r->messages[i]->uid == 1 ? 0 : EACH);
    }
    r = world_fetch(w, sent, false, false);
    assert_int_equal(r->messages[0]->n_keywords, EACH);
    assert_int_equal(r->n_keyword_names, EACH);
}

/* An id is one name's for ever, also when the newest are given back; when all ids were somebody's, there are no new
 * names. */
static void keyword_ids_case(struct world *w)
{
    enum { EACH = 250, MESSAGES = 20 };
    int64_t inbox = world_mailbox(w, "INBOX");
    for (unsigned uid = 1; uid <= MESSAGES; uid++) {
        world_append(w, inbox, message(w, uid, 0), 0);
        assert_true(give_keywords(w, inbox, uid, THURN__STORE_OP__STORE_ADD, EACH));
    }
    world_append(w, inbox, message(w, MESSAGES + 1, 0), 0);
    assert_true(give_keywords(w, inbox, MESSAGES, THURN__STORE_OP__STORE_REMOVE, EACH));
    assert_true(give_keywords(w, inbox, MESSAGES + 1, THURN__STORE_OP__STORE_ADD, EACH - 1));
    assert_int_equal(world_sql(w, "SELECT min(kw_id) FROM s_keyword WHERE name LIKE 'k21%'"), EACH * MESSAGES + 1);
    world_change(w, "UPDATE s_keyword SET kw_id = 65535 WHERE name = 'k20_249'",
                 "UPDATE s_keyword SET kw_id = 65535 WHERE name = 'k20_249'");
    assert_true(is_full(w));
    assert_false(give_keywords(w, inbox, MESSAGES, THURN__STORE_OP__STORE_ADD, 1));
    assert_int_equal(w->err.kind, ERR_LIMIT);
    assert_true(give_keywords(w, inbox, 1, THURN__STORE_OP__STORE_ADD, EACH)); /* they are known */
}

int main(void)
{
    static const struct world_case cases[] = {
        {"thread keys", thread_keys_case}, {"empty tables", empty_tables_case}, {"trim", trim_case},
        {"shrink", shrink_case},           {"keywords", keywords_case},         {"keyword ids", keyword_ids_case},
    };
    return world_main(cases, ARRAY_LEN(cases), 1, NULL);
}
