/* The store's methods, one behaviour a case, on both databases. */
#include "unit/store_world.h"

#include "base/clock.h"

#define SEEN THURN__FLAG__FLAG_SEEN
#define DELETED THURN__FLAG__FLAG_DELETED
#define FLAGGED THURN__FLAG__FLAG_FLAGGED

static const char hello[] =
    "From: Alice <alice@example.org>\r\nTo: bob@example.org\r\nSubject: Hello\r\n"
    "Message-ID: <m1@example.org>\r\nDate: Sun, 21 Nov 2026 20:10:00 +0000\r\n\r\nHello, Bob!\r\n";
static const char reply[] = "From: bob@example.org\r\nTo: alice@example.org\r\nSubject: Re: Hello\r\n"
                            "Message-ID: <m2@example.org>\r\nIn-Reply-To: <m1@example.org>\r\n\r\nHello, Alice!\r\n";

static void account_case(struct world *w)
{
    Thurn__AccountRequest q = THURN__ACCOUNT_REQUEST__INIT;
    Thurn__ListMailboxesRequest list = THURN__LIST_MAILBOXES_REQUEST__INIT;
    const Thurn__AccountInfo *info = NULL;
    const Thurn__ListMailboxesReply *boxes = NULL;
    q.account = list.account = &w->ref;
    MUST(w, get_account, &q, &info);
    assert_int_equal(info->used_messages, 0);
    MUST(w, list_mailboxes, &list, &boxes);
    assert_int_equal(boxes->n_mailboxes, 6);
    assert_string_equal(boxes->mailboxes[0]->name, "INBOX");
    assert_int_equal(boxes->mailboxes[0]->role, THURN__MAILBOX_ROLE__ROLE_INBOX);
    assert_int_equal(boxes->mailboxes[0]->uidnext, 1);
    assert_true(boxes->mailboxes[0]->uidvalidity > 1700000000u);
    w->ref.epoch = 2; /* the directory says that it moved: not here */
    MUST_FAIL(w, get_account, &q, &info, ERR_CONFLICT);
    w->ref.epoch = 1;
    w->ref.shard = 99;
    MUST_FAIL(w, get_account, &q, &info, ERR_INVALID);
    w->ref.shard = 1;
    w->ref.tenant_id = 8;
    MUST_FAIL(w, get_account, &q, &info, ERR_INVALID);
    w->ref.tenant_id = 7;
    q.account = NULL;
    MUST_FAIL(w, get_account, &q, &info, ERR_INVALID);
}

/*
 * The directory lost commits, and gave the number of an account that the store has to another: neither hears anything
 * of the other, nothing of it can be changed or removed, and whoever compares the two finds it.
 */
static void incarnation_case(struct world *w)
{
    Thurn__AccountRef first = world_account(w, 31), second = first, none = first, old = world_account(w, 32);
    Thurn__AccountRequest q = THURN__ACCOUNT_REQUEST__INIT;
    Thurn__DeliverReply__Result one = {0};
    const Thurn__AccountInfo *info = NULL;
    first.incarnation = UINT64_C(0xfedcba9876543210);
    second.incarnation = 5;
    w->ref = first;
    int64_t inbox = world_mailbox(w, "INBOX");
    world_append(w, inbox, hello, 0);
    w->ref = second;
    q.account = &w->ref;
    MUST_FAIL(w, get_account, &q, &info, ERR_CONFLICT);
    assert_non_null(strstr(w->err.msg, "incarnation"));
    assert_true(world_deliver(w, hello, NULL, 0, &one));
    assert_int_equal(one.error_kind, ERR_CONFLICT);
    MUST_FAIL(w, purge_account, &q, NULL, ERR_CONFLICT);
    w->ref = none; /* an old caller, who does not know of any */
    MUST(w, get_account, &q, &info);
    assert_int_equal(info->used_messages, 1);
    world_append(w, inbox, hello, 0);
    w->ref = first; /* it is still that one's */
    MUST(w, get_account, &q, &info);
    assert_int_equal(info->used_messages, 2);
    assert_int_equal(world_status(w, inbox)->total, 2);
    w->ref = second;
    MUST_FAIL(w, get_account, &q, &info, ERR_CONFLICT);
    /* An account from before there were incarnations has none in the store: any may read it. */
    w->ref = old;
    MUST(w, get_account, &q, &info);
    old.incarnation = 1;
    w->ref.incarnation = 1;
    MUST(w, get_account, &q, &info);
    w->ref.incarnation = 2;
    MUST(w, get_account, &q, &info);
    /* The poll of those who watch. */
    Thurn__StatesRequest states = THURN__STATES_REQUEST__INIT;
    const Thurn__StatesReply *r = NULL;
    Thurn__AccountRef *refs[] = {&second, &old};
    states.accounts = refs;
    states.n_accounts = 2;
    MUST(w, states, &states, &r);
    assert_int_equal(r->n_states, 1);
    assert_int_equal(r->states[0]->account_id, 32);
    refs[0] = &none; /* a poll that does not know */
    MUST(w, states, &states, &r);
    assert_int_equal(r->n_states, 2);
    /* What the shard has. */
    Thurn__ShardAccountsRequest list = THURN__SHARD_ACCOUNTS_REQUEST__INIT;
    const Thurn__ShardAccountsReply *all = NULL;
    list.shard = 1;
    list.from_account_id = 31;
    MUST(w, shard_accounts, &list, &all);
    assert_int_equal(all->n_accounts, 2);
    assert_int_equal(all->next_account_id, 0);
    assert_int_equal(all->accounts[0]->account->account_id, 31);
    assert_true(all->accounts[0]->account->incarnation == first.incarnation);
    assert_int_equal(all->accounts[0]->account->epoch, 1);
    assert_int_equal(all->accounts[0]->account->tenant_id, 7);
    assert_int_equal(all->accounts[0]->used_messages, 2);
    assert_true(all->accounts[1]->account->incarnation == 0);
    /* The first who writes says which it is: by a delivery here, by an operation in 33. */
    w->ref = old;
    assert_true(world_deliver(w, hello, NULL, 0, &one));
    assert_int_equal(one.error_kind, ERR_NONE);
    w->ref.incarnation = 2;
    MUST_FAIL(w, get_account, &q, &info, ERR_CONFLICT);
    assert_true(world_deliver(w, hello, NULL, 0, &one));
    assert_int_equal(one.error_kind, ERR_CONFLICT);
    MUST_FAIL(w, purge_account, &q, NULL, ERR_CONFLICT);
    w->ref = world_account(w, 33);
    inbox = world_mailbox(w, "INBOX");
    world_append(w, inbox, hello, 0);
    w->ref.incarnation = 3;
    assert_true(world_flags(w, inbox, 1, 1, THURN__STORE_OP__STORE_ADD, THURN__FLAG__FLAG_SEEN, NULL, NULL));
    w->ref.incarnation = 4;
    MUST_FAIL(w, get_account, &q, &info, ERR_CONFLICT);
    /* Who removes an account that has none may name one. */
    w->ref = world_account(w, 34);
    MUST(w, get_account, &q, &info);
    w->ref.incarnation = 4;
    MUST(w, purge_account, &q, NULL);
    w->ref = first;
    MUST(w, purge_account, &q, NULL);
    MUST(w, purge_account, &q, NULL); /* again, as after a lost answer */
    MUST(w, shard_accounts, &list, &all);
    assert_int_equal(all->n_accounts, 2);
    w->ref = world_account(w, 1);
}

/* A session may touch its own account, and only a system role may deliver. */
static void access_case(struct world *w)
{
    Thurn__AccountRequest q = THURN__ACCOUNT_REQUEST__INIT;
    Thurn__SweepRequest sweep = THURN__SWEEP_REQUEST__INIT;
    struct rpc_call c;
    q.account = &w->ref;
    rpc_call_init(&c, &w->a);
    rpc_pass_make(&(struct rpc_principal){.account_id = 1, .tenant_id = 7, .incarnation = w->ref.incarnation}, &c.pass);
    assert_true(store_get_account(&c, w->service, &q, NULL));
    rpc_call_again(&c);
    rpc_pass_make(&(struct rpc_principal){.account_id = 2, .tenant_id = 7, .incarnation = w->ref.incarnation}, &c.pass);
    assert_false(store_get_account(&c, w->service, &q, NULL));
    assert_int_equal(c.err.kind, ERR_DENIED);
    rpc_call_again(&c);
    assert_false(rpc_invoke(w->service, STORE_METHOD_SWEEP, &sweep.base, &c));
    assert_int_equal(c.err.kind, ERR_DENIED);
}

static void append_fetch_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX");
    assert_int_equal(world_append(w, inbox, hello, SEEN), 1);
    assert_int_equal(world_append(w, inbox, reply, 0), 2);
    const Thurn__FetchReply *r = world_fetch(w, inbox, true, true);
    assert_int_equal(r->n_messages, 2);
    assert_int_equal(r->next_uid, 0);
    const Thurn__Message *m = r->messages[0];
    assert_int_equal(m->uid, 1);
    assert_int_equal(m->flags, SEEN);
    assert_int_equal(m->size, strlen(hello));
    assert_true(str_eq(rpc_str(m->raw), str_c(hello)));
    assert_string_equal(m->parsed->envelope->subject, "Hello");
    assert_string_equal(m->parsed->envelope->from[0]->local, "alice");
    assert_int_equal(m->parsed->root->body_offset, strlen(hello) - strlen("Hello, Bob!\r\n"));
    assert_int_equal(m->parsed->sent_unix, 1795291800);
    assert_true(m->internal_unix > 1700000000);
    assert_true(r->messages[1]->modseq > m->modseq);
    assert_true(m->thread_id == m->email_id);
    assert_true(r->messages[1]->thread_id == m->thread_id); /* the reply is of the same thread */
    Thurn__Mailbox *st = world_status(w, inbox);
    assert_int_equal(st->total, 2);
    assert_int_equal(st->unseen, 1);
    assert_int_equal(st->uidnext, 3);
    assert_int_equal(st->bytes, strlen(hello) + strlen(reply));
    assert_true(st->highestmodseq == r->messages[1]->modseq);
    /* Only what changed since the first. */
    Thurn__FetchRequest q = THURN__FETCH_REQUEST__INIT;
    q.account = &w->ref;
    q.mailbox_id = inbox;
    q.changed_since = m->modseq;
    MUST(w, fetch, &q, &r);
    assert_int_equal(r->n_messages, 1);
    q.mailbox_id = 999;
    MUST_FAIL(w, fetch, &q, &r, ERR_NOT_FOUND);
}

static void append_many_case(struct world *w)
{
    enum { N = 150 };
    int64_t inbox = world_mailbox(w, "INBOX");
    Thurn__AppendRequest q = THURN__APPEND_REQUEST__INIT;
    static Thurn__AppendItem it[N], *items[N];
    static Thurn__Body body[N];
    const Thurn__AppendReply *r = NULL, *again = NULL;
    char *keywords[] = {(char *)"$Work", (char *)"later"};
    for (int i = 0; i < N; i++) {
        thurn__append_item__init(&it[i]);
        thurn__body__init(&body[i]);
        body[i].content = rpc_bytes(world_message(w, (unsigned)i, 400));
        it[i].body = &body[i];
        it[i].keywords = keywords;
        it[i].n_keywords = 2;
        it[i].internal_unix = 1000000 + i;
        it[i].internal_zone = 120;
        items[i] = &it[i];
    }
    q.account = &w->ref;
    q.mailbox_id = inbox;
    q.items = items;
    q.n_items = N;
    q.request_id = rpc_bytes(S("0123456789abcdef"));
    MUST(w, append, &q, &r);
    assert_int_equal(r->n_uids, N);
    assert_int_equal(r->uids[N - 1], N);
    MUST(w, append, &q, &again); /* the same request: the same answer, nothing new */
    assert_int_equal(again->n_uids, N);
    assert_true(again->modseq == r->modseq);
    assert_true(again->email_ids[7] == r->email_ids[7]);
    assert_int_equal(world_status(w, inbox)->total, N);
    const Thurn__FetchReply *f = world_fetch(w, inbox, false, false);
    assert_int_equal(f->n_messages, N);
    assert_int_equal(f->n_keyword_names, 2);
    assert_int_equal(f->messages[3]->n_keywords, 2);
    assert_int_equal(f->messages[3]->internal_unix, 1000003);
    assert_int_equal(f->messages[3]->internal_zone, 120);
    /* All or none. */
    q.request_id = (ProtobufCBinaryData){0, NULL};
    keywords[1] = (char *)"not a keyword";
    MUST_FAIL(w, append, &q, &r, ERR_INVALID);
    keywords[1] = (char *)"stray";
    q.mailbox_id = 12345;
    MUST_FAIL(w, append, &q, &r, ERR_NOT_FOUND);
    q.mailbox_id = inbox;
    w->ref.quota_messages = 2 * N - 1;
    MUST_FAIL(w, append, &q, &r, ERR_QUOTA);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_keyword"), 2); /* no name of what was refused */
    keywords[1] = (char *)"later";
    w->ref.quota_messages = 2 * N;
    MUST(w, append, &q, &r);
    assert_int_equal(world_status(w, inbox)->total, 2 * N);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_blob"), N); /* the bodies are the same */
}

static void deliver_case(struct world *w)
{
    Thurn__DeliverReply__Result r, again;
    assert_true(world_deliver(w, hello, "k1", 20000, &r));
    assert_int_equal(r.error_kind, 0);
    assert_int_equal(r.uid, 1);
    assert_false(r.is_duplicate);
    assert_true(world_deliver(w, hello, "k1", 20000, &again));
    assert_true(again.is_duplicate);
    assert_int_equal(again.uid, 1);
    assert_true(again.mailbox_id == r.mailbox_id);
    struct sql_stats before, after;
    sql_get_stats(w->db, &before);
    assert_true(world_deliver(w, hello, "k2", 20000, &again));
    sql_get_stats(w->db, &after);
    assert_int_equal(again.uid, 2);
    assert_int_equal(after.round_trips - before.round_trips, w->kind == TESTDB_PG ? 2 : 1);
    assert_int_equal(world_status(w, r.mailbox_id)->total, 2);
    assert_true(r.mailbox_id == world_mailbox(w, "INBOX"));
    w->ref.quota_bytes = 3 * strlen(hello) - 1;
    assert_true(world_deliver(w, hello, "k3", 20000, &again));
    assert_int_equal(again.error_kind, ERR_QUOTA);
    /* Who has it already has it, also when there would be no room for it now. */
    assert_true(world_deliver(w, hello, "k2", 20000, &again));
    assert_true(again.error_kind == 0 && again.is_duplicate && again.uid == 2);
    w->ref.quota_bytes++;
    assert_true(world_deliver(w, hello, "k3", 20000, &again));
    assert_int_equal(again.error_kind, 0);
}

/* One body to many: one transaction, each recipient for himself, mailboxes made on the way, a prefix before the body.
 */
static void deliver_many_case(struct world *w)
{
    enum { N = 40 };
    Thurn__DeliverRequest q = THURN__DELIVER_REQUEST__INIT;
    static Thurn__DeliverRecipient rcpt[N], *rcpts[N];
    static Thurn__AccountRef refs[N];
    Thurn__Body body = THURN__BODY__INIT;
    const Thurn__DeliverReply *r = NULL;
    char keys[N][32] = {{0}}, *path[] = {(char *)"Lists", (char *)"Debian"};
    char *keyword[] = {(char *)"$list"};
    body.content = rpc_bytes(str_c(hello));
    q.body = &body;
    q.prefix = rpc_bytes(S("Return-Path: <x@example.org>\r\n"));
    for (int i = 0; i < N; i++) {
        refs[i] = world_account(w, 1 + i);
        thurn__deliver_recipient__init(&rcpt[i]);
        rcpt[i].account = &refs[i];
        snprintf(keys[i], 32, "m%d", i);
        rcpt[i].delivery_key = rpc_bytes(str_n(keys[i], 32));
        rcpts[i] = &rcpt[i];
    }
    rcpt[0].path = path;
    rcpt[0].n_path = 2;
    rcpt[0].keywords = keyword;
    rcpt[0].n_keywords = 1;
    rcpt[0].flags = FLAGGED;
    rcpt[1].role = THURN__MAILBOX_ROLE__ROLE_JUNK;
    refs[2].epoch = 5;
    refs[3].quota_bytes = 10;
    rcpt[4].account = NULL;
    q.recipients = rcpts;
    q.n_recipients = N;
    struct sql_stats before, after;
    MUST(w, deliver, &q, &r); /* makes the accounts */
    assert_int_equal(r->results[0]->error_kind, 0);
    assert_int_equal(r->results[2]->error_kind, 0); /* was made with epoch 5 */
    assert_int_equal(r->results[3]->error_kind, ERR_QUOTA);
    assert_int_equal(r->results[4]->error_kind, ERR_INVALID);
    assert_int_equal(r->results[5]->uid, 1);
    refs[2].epoch = 6;
    for (int i = 0; i < N; i++)
        keys[i][10] = 'x';
    sql_get_stats(w->db, &before);
    MUST(w, deliver, &q, &r);
    sql_get_stats(w->db, &after);
    assert_int_equal(r->results[0]->uid, 2);
    assert_int_equal(r->results[2]->error_kind, ERR_CONFLICT);
    assert_int_equal(after.commits - before.commits, 1);
    /* one for who was refused */
    assert_int_equal(after.round_trips - before.round_trips, w->kind == TESTDB_PG ? 3 : 1);
    int64_t lists = world_mailbox(w, "Lists");
    assert_true(lists != 0);
    const Thurn__FetchReply *f = world_fetch(w, r->results[0]->mailbox_id, true, true);
    assert_int_equal(f->n_messages, 2);
    assert_int_equal(f->messages[1]->flags, FLAGGED);
    assert_string_equal(f->keyword_names[0]->name, "$list");
    assert_int_equal(f->messages[0]->size, strlen(hello) + q.prefix.len);
    assert_true(str_starts(rpc_str(f->messages[0]->raw), S("Return-Path: <x@example.org>\r\nFrom:")));
    assert_int_equal(f->messages[0]->parsed->root->header_offset, 0);
    assert_int_equal(f->messages[0]->parsed->root->body_offset,
                     strlen(hello) - strlen("Hello, Bob!\r\n") + q.prefix.len);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_blob"), 1);
    str part = world_read(w, r->results[0]->mailbox_id, 1, 13, 26);
    assert_true(str_eq(part, S("<x@example.org>\r\nFrom: Ali")));
    part = world_read(w, r->results[0]->mailbox_id, 1, strlen(hello) + q.prefix.len - 6, 0);
    assert_true(str_eq(part, S("Bob!\r\n")));
    w->ref = refs[1];
    assert_int_equal(world_status(w, world_mailbox(w, "Junk"))->total, 2);
    /* INBOX is INBOX in any spelling. */
    char *inbox[] = {(char *)"inbox"};
    rcpt[1].path = inbox;
    rcpt[1].n_path = 1;
    rcpt[1].role = 0;
    keys[1][11] = 'y';
    MUST(w, deliver, &q, &r);
    assert_int_equal(world_status(w, world_mailbox(w, "INBOX"))->total, 1);
}

static void flags_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX");
    for (int i = 0; i < 5; i++)
        world_append(w, inbox, hello, 0);
    const Thurn__StoreFlagsReply *r = NULL;
    assert_true(world_flags(w, inbox, 2, 3, THURN__STORE_OP__STORE_ADD, SEEN, "$Junk", &r));
    assert_int_equal(r->n_messages, 2);
    assert_int_equal(r->messages[0]->flags, SEEN);
    assert_int_equal(r->messages[0]->n_keywords, 1);
    assert_string_equal(r->keyword_names[0]->name, "$Junk");
    assert_true(r->messages[0]->modseq == r->modseq);
    assert_int_equal(world_status(w, inbox)->unseen, 3);
    uint64_t at = r->modseq;
    /* Nothing changes: no modseq is used. */
    assert_true(world_flags(w, inbox, 2, 3, THURN__STORE_OP__STORE_ADD, SEEN, "$junk", &r));
    assert_int_equal(r->n_messages, 0);
    assert_true(r->modseq == at);
    assert_true(world_flags(w, inbox, 1, 5, THURN__STORE_OP__STORE_REPLACE, DELETED, NULL, &r));
    assert_int_equal(r->n_messages, 5);
    assert_int_equal(r->messages[1]->n_keywords, 0);
    assert_int_equal(world_status(w, inbox)->deleted, 5);
    assert_int_equal(world_status(w, inbox)->unseen, 5);
    assert_true(world_flags(w, inbox, 4, 100, THURN__STORE_OP__STORE_REMOVE, DELETED, "$none", &r));
    assert_int_equal(r->n_messages, 2);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_keyword"), 1);
    /* RFC 7162: what changed since is left alone and named. */
    Thurn__StoreFlagsRequest q = THURN__STORE_FLAGS_REQUEST__INIT;
    q.account = &w->ref;
    q.mailbox_id = inbox;
    q.uids = world_range(w, 1, 5);
    q.n_uids = 1;
    q.op = THURN__STORE_OP__STORE_ADD;
    q.flags = FLAGGED;
    q.unchanged_since = r->modseq - 1;
    q.has_unchanged_since = true;
    MUST(w, store_flags, &q, &r);
    assert_int_equal(r->n_messages, 3);
    assert_string_equal(world_ranges(w, r->modified, r->n_modified), "4:5");
    q.flags = 64;
    MUST_FAIL(w, store_flags, &q, &r, ERR_INVALID);
}

static void keyword_limit_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX");
    const Thurn__StoreFlagsReply *r = NULL;
    char name[32];
    world_append(w, inbox, hello, 0);
    for (int i = 0; i < 256; i++) {
        snprintf(name, sizeof name, "k%d", i);
        assert_true(world_flags(w, inbox, 1, 1, THURN__STORE_OP__STORE_ADD, 0, name, &r));
    }
    assert_false(world_flags(w, inbox, 1, 1, THURN__STORE_OP__STORE_ADD, 0, "one-more", &r));
    assert_int_equal(w->err.kind, ERR_LIMIT);
    assert_true(world_flags(w, inbox, 1, 1, THURN__STORE_OP__STORE_REPLACE, 0, "K99", &r)); /* known */
}

/* The names that a mailbox's messages have, for who asks. */
static void keyword_names_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX");
    const Thurn__StoreFlagsReply *r = NULL;
    Thurn__ListMailboxesRequest q = THURN__LIST_MAILBOXES_REQUEST__INIT;
    const Thurn__ListMailboxesReply *boxes = NULL;
    q.account = &w->ref;
    q.with_keywords = true;
    MUST(w, list_mailboxes, &q, &boxes);
    assert_int_equal(boxes->n_keyword_names, 0);
    world_append(w, inbox, hello, 0);
    assert_true(world_flags(w, inbox, 1, 1, THURN__STORE_OP__STORE_ADD, 0, "$Work", &r));
    assert_true(world_flags(w, inbox, 1, 1, THURN__STORE_OP__STORE_ADD, 0, "Later", &r));
    MUST(w, list_mailboxes, &q, &boxes);
    assert_int_equal(boxes->n_keyword_names, 2);
    assert_string_equal(boxes->keyword_names[0]->name, "$Work");
    assert_string_equal(boxes->keyword_names[1]->name, "Later");
    q.with_keywords = false;
    MUST(w, list_mailboxes, &q, &boxes);
    assert_int_equal(boxes->n_keyword_names, 0);
}

/* More names than one reply holds: 3,840 of 250 bytes. */
static void many_names_case(struct world *w)
{
    char name[251], *path[32];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(path); i++)
        path[i] = name;
    for (unsigned i = 0; i < 120; i++) {
        Thurn__CreateMailboxRequest q = THURN__CREATE_MAILBOX_REQUEST__INIT;
        const Thurn__MailboxReply *r = NULL;
        char first[8];
        snprintf(first, sizeof first, "%u", i);
        path[0] = first;
        q.account = &w->ref;
        q.path = path;
        q.n_path = ARRAY_LEN(path);
        MUST(w, create_mailbox, &q, &r);
    }
    Thurn__ListMailboxesRequest q = THURN__LIST_MAILBOXES_REQUEST__INIT;
    const Thurn__ListMailboxesReply *r = NULL;
    q.account = &w->ref;
    q.is_paged = true;
    size_t n = 0, pages = 0;
    int64_t last_id = 0;
    do {
        MUST(w, list_mailboxes, &q, &r);
        assert_true(thurn__list_mailboxes_reply__get_packed_size(r) < 1u << 20);
        for (size_t i = 0; i < r->n_mailboxes; i++) {
            assert_true(r->mailboxes[i]->mailbox_id > last_id);
            last_id = r->mailboxes[i]->mailbox_id;
        }
        n += r->n_mailboxes;
        pages++;
        q.from_mailbox_id = r->next_mailbox_id;
    } while (q.from_mailbox_id);
    assert_int_equal(pages, 2);
    assert_int_equal(n, 3840 + 6);
}

/* A mailbox of n messages, every second \Deleted, made of two by copying them to where they are. */
static void fill_by_copies(struct world *w, int64_t mailbox_id, uint32_t n)
{
    world_append(w, mailbox_id, hello, 0);
    world_append(w, mailbox_id, hello, DELETED);
    for (uint32_t have = 2; have < n; have *= 2) {
        Thurn__CopyRequest q = THURN__COPY_REQUEST__INIT;
        q.account = &w->ref;
        q.mailbox_id = q.to_mailbox_id = mailbox_id;
        q.uids = world_range(w, 1, have);
        q.n_uids = 1;
        MUST(w, copy, &q, NULL);
    }
}

/* A page is one transaction; what has vanished in too many ranges is not listed. */
static void large_expunge_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX");
    const uint32_t n = 65536;
    Thurn__ExpungeRequest q = THURN__EXPUNGE_REQUEST__INIT;
    const Thurn__ExpungeReply *r = NULL;
    fill_by_copies(w, inbox, n);
    uint64_t since = world_status(w, inbox)->highestmodseq;
    q.account = &w->ref;
    q.mailbox_id = inbox;
    q.is_paged = true;
    MUST(w, expunge, &q, &r);
    assert_int_equal(r->n_uids, 10000);
    assert_int_equal(r->next_uid, 20002);
    assert_int_equal(world_status(w, inbox)->total, n - 10000);
    q.uids = world_range(w, 20002, 20010);
    q.n_uids = 1;
    MUST(w, expunge, &q, &r);
    assert_string_equal(world_ranges(w, r->uids, r->n_uids), "20002,20004,20006,20008,20010");
    assert_int_equal(r->next_uid, 0);
    q.is_paged = false;
    q.n_uids = 0;
    MUST(w, expunge, &q, &r);
    assert_int_equal(r->n_uids, n / 2 - 10005);
    assert_int_equal(world_status(w, inbox)->deleted, 0);

    Thurn__SyncRequest sync = THURN__SYNC_REQUEST__INIT;
    const Thurn__SyncReply *news = NULL;
    sync.account = &w->ref;
    sync.mailbox_id = inbox;
    sync.since_modseq = since; /* from the log */
    MUST_FAIL(w, sync, &sync, &news, ERR_LIMIT);
    assert_true(world_sql(w, "SELECT count(*) FROM s_changes") > 0);
    sync.since_modseq = UINT64_MAX; /* from the rows */
    MUST_FAIL(w, sync, &sync, &news, ERR_LIMIT);
    sync.known_uids = world_range(w, UINT32_MAX, UINT32_MAX);
    sync.n_known_uids = 1;
    sync.since_modseq = since;
    MUST(w, sync, &sync, &news);
    assert_int_equal(news->n_vanished, 0);
    assert_int_equal(news->mailbox->total, n / 2);
    sync.known_uids = world_range(w, 1, 50000);
    MUST(w, sync, &sync, &news);
    assert_int_equal(news->n_vanished, 25000);
}

static void expunge_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX");
    for (int i = 0; i < 6; i++)
        world_append(w, inbox, hello, i % 2 ? DELETED : 0);
    Thurn__ExpungeRequest q = THURN__EXPUNGE_REQUEST__INIT;
    const Thurn__ExpungeReply *r = NULL;
    q.account = &w->ref;
    q.mailbox_id = inbox;
    q.uids = world_range(w, 1, 4);
    q.n_uids = 1;
    MUST(w, expunge, &q, &r);
    assert_string_equal(world_ranges(w, r->uids, r->n_uids), "2,4");
    q.n_uids = 0;
    MUST(w, expunge, &q, &r);
    assert_string_equal(world_ranges(w, r->uids, r->n_uids), "6");
    assert_int_equal(world_status(w, inbox)->total, 3);
    q.is_any = true;
    MUST(w, expunge, &q, &r);
    assert_string_equal(world_ranges(w, r->uids, r->n_uids), "1,3,5");
    assert_int_equal(world_append(w, inbox, hello, 0), 7); /* UIDs are never used again */
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_email"), 1);
    assert_int_equal(world_sql(w, "SELECT refs FROM s_blob"), 1);
    uint64_t before = world_status(w, inbox)->highestmodseq;
    q.is_any = false;
    MUST(w, expunge, &q, &r);
    assert_int_equal(r->n_uids, 0);
    assert_true(world_status(w, inbox)->highestmodseq == before);
}

static void copy_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX"), archive = world_mailbox(w, "Archive");
    const Thurn__StoreFlagsReply *fr = NULL;
    for (int i = 0; i < 5; i++)
        world_append(w, inbox, i == 2 ? reply : hello, 0);
    assert_true(world_flags(w, inbox, 3, 3, THURN__STORE_OP__STORE_ADD, SEEN, "$x", &fr));
    Thurn__CopyRequest q = THURN__COPY_REQUEST__INIT;
    const Thurn__CopyReply *r = NULL;
    q.account = &w->ref;
    q.mailbox_id = inbox;
    q.to_mailbox_id = archive;
    q.uids = world_range(w, 2, 3);
    q.n_uids = 1;
    MUST(w, copy, &q, &r);
    assert_string_equal(world_ranges(w, r->from, r->n_from), "2:3");
    assert_string_equal(world_ranges(w, r->to, r->n_to), "1:2");
    assert_int_equal(world_status(w, archive)->unseen, 1);
    const Thurn__FetchReply *f = world_fetch(w, archive, false, true);
    assert_int_equal(f->messages[1]->n_keywords, 1);
    assert_true(str_eq(rpc_str(f->messages[1]->raw), str_c(reply)));
    q.is_move = true;
    q.uids = world_range(w, 3, 9);
    MUST(w, copy, &q, &r);
    assert_string_equal(world_ranges(w, r->from, r->n_from), "3:5");
    assert_string_equal(world_ranges(w, r->to, r->n_to), "3:5");
    assert_int_equal(world_status(w, inbox)->total, 2);
    assert_int_equal(world_status(w, archive)->total, 5);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_email"), 5);
    /* Onto itself: new UIDs. */
    q.to_mailbox_id = inbox;
    q.uids = world_range(w, 1, 9);
    MUST(w, copy, &q, &r);
    assert_string_equal(world_ranges(w, r->to, r->n_to), "6:7");
    assert_int_equal(world_status(w, inbox)->total, 2);
    q.is_move = false;
    w->ref.quota_messages = 8;
    MUST_FAIL(w, copy, &q, &r, ERR_QUOTA);
    w->ref.quota_messages = 9;
    MUST(w, copy, &q, &r);
    assert_int_equal(world_status(w, inbox)->total, 4);
    q.to_mailbox_id = 4711;
    MUST_FAIL(w, copy, &q, &r, ERR_NOT_FOUND);
    /* An email lives as long as one mailbox has it. */
    world_expunge(w, inbox, 1, 100);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_email"), 5 - 1);
    world_expunge(w, archive, 1, 100);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_email"), 0);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_blob WHERE refs = 0 AND zero_since > 0"), 2);
}

static Thurn__MailboxReply *rename_to(struct world *w, int64_t id, const char *a, const char *b)
{
    Thurn__RenameMailboxRequest q = THURN__RENAME_MAILBOX_REQUEST__INIT;
    const Thurn__MailboxReply *r = NULL;
    char *path[] = {(char *)(uintptr_t)a, (char *)(uintptr_t)b};
    q.account = &w->ref;
    q.mailbox_id = id;
    q.path = path;
    q.n_path = b ? 2 : 1;
    return CALL(w, rename_mailbox, &q, &r) ? (Thurn__MailboxReply *)(uintptr_t)r : NULL;
}

static void mailboxes_case(struct world *w)
{
    Thurn__CreateMailboxRequest q = THURN__CREATE_MAILBOX_REQUEST__INIT;
    Thurn__DeleteMailboxRequest del = THURN__DELETE_MAILBOX_REQUEST__INIT;
    Thurn__SetMailboxRequest set = THURN__SET_MAILBOX_REQUEST__INIT;
    const Thurn__MailboxReply *r = NULL;
    char *path[] = {(char *)"a", (char *)"b", (char *)"c"};
    q.account = del.account = set.account = &w->ref;
    q.path = path;
    q.n_path = 3;
    q.is_subscribed = true;
    MUST(w, create_mailbox, &q, &r);
    int64_t c = r->mailbox->mailbox_id, b = r->mailbox->parent_id, a = world_mailbox(w, "a");
    assert_true(a && b && c);
    assert_true(r->mailbox->is_subscribed);
    assert_false(world_status(w, a)->is_subscribed);
    MUST_FAIL(w, create_mailbox, &q, &r, ERR_EXISTS);
    static const char *const bad[] = {"", "x/y", "x\ny", "\xff\xfe"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        path[2] = (char *)(uintptr_t)bad[i];
        MUST_FAIL(w, create_mailbox, &q, &r, ERR_INVALID);
    }
    path[0] = (char *)"Inbox";
    q.n_path = 1;
    MUST_FAIL(w, create_mailbox, &q, &r, ERR_EXISTS);
    path[0] = (char *)"Junk2";
    q.role = THURN__MAILBOX_ROLE__ROLE_JUNK;
    MUST_FAIL(w, create_mailbox, &q, &r, ERR_EXISTS);

    /* One name in both of Unicode's forms. */
    path[0] = (char *)"Entw\u00fcrfe";
    q.role = 0;
    MUST(w, create_mailbox, &q, &r);
    path[0] = (char *)"Entwu\u0308rfe";
    MUST_FAIL(w, create_mailbox, &q, &r, ERR_EXISTS);
    assert_true(rename_to(w, a, "Entwu\u0308rfe", NULL) == NULL && w->err.kind == ERR_EXISTS);

    assert_null(rename_to(w, a, "a", "x"));
    assert_int_equal(w->err.kind, ERR_INVALID); /* into itself */
    assert_null(rename_to(w, b, "Sent", NULL));
    assert_int_equal(w->err.kind, ERR_EXISTS);
    assert_non_null(rename_to(w, b, "new", "b2"));
    assert_string_equal(world_status(w, b)->name, "b2");
    assert_true(world_status(w, b)->parent_id == world_mailbox(w, "new"));
    assert_non_null(rename_to(w, a, "A", NULL)); /* the case alone */

    del.mailbox_id = b;
    MUST_FAIL(w, delete_mailbox, &del, &r, ERR_CONFLICT); /* it has a child */
    world_append(w, c, hello, 0);
    uint32_t uidvalidity = world_status(w, c)->uidvalidity;
    del.mailbox_id = c;
    MUST(w, delete_mailbox, &del, &r);
    MUST_FAIL(w, delete_mailbox, &del, &r, ERR_NOT_FOUND);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_email"), 0);
    del.mailbox_id = world_mailbox(w, "INBOX");
    MUST_FAIL(w, delete_mailbox, &del, &r, ERR_INVALID);
    int64_t again = world_create(w, "c");
    assert_true(world_status(w, again)->uidvalidity > uidvalidity);
    assert_true(again != c);

    set.mailbox_id = again;
    set.has_is_subscribed = set.has_role = true;
    set.is_subscribed = true;
    set.role = THURN__MAILBOX_ROLE__ROLE_IMPORTANT;
    MUST(w, set_mailbox, &set, &r);
    assert_true(r->mailbox->is_subscribed);
    assert_int_equal(r->mailbox->role, THURN__MAILBOX_ROLE__ROLE_IMPORTANT);
    set.role = THURN__MAILBOX_ROLE__ROLE_SENT;
    MUST_FAIL(w, set_mailbox, &set, &r, ERR_EXISTS);
}

/* RFC 9051 6.3.6: renaming INBOX leaves an empty one behind. */
static void rename_inbox_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX");
    world_append(w, inbox, hello, 0);
    assert_non_null(rename_to(w, inbox, "old", "mail"));
    int64_t now = world_mailbox(w, "INBOX");
    assert_true(now && now != inbox);
    assert_int_equal(world_status(w, now)->total, 0);
    assert_int_equal(world_status(w, now)->role, THURN__MAILBOX_ROLE__ROLE_INBOX);
    assert_int_equal(world_status(w, inbox)->total, 1);
    assert_string_equal(world_status(w, inbox)->name, "mail");
    Thurn__DeliverReply__Result r;
    assert_true(world_deliver(w, hello, "k", 1, &r));
    assert_true(r.mailbox_id == now);
}

static const Thurn__SyncReply *sync_since(struct world *w, int64_t mailbox, uint64_t since, uint64_t known)
{
    Thurn__SyncRequest q = THURN__SYNC_REQUEST__INIT;
    const Thurn__SyncReply *r = NULL;
    q.account = &w->ref;
    q.mailbox_id = mailbox;
    q.since_modseq = since;
    if (known) {
        q.known_uids = world_range(w, 1, known);
        q.n_known_uids = 1;
    }
    MUST(w, sync, &q, &r);
    return r;
}

static void sync_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX"), archive = world_mailbox(w, "Archive");
    const Thurn__StoreFlagsReply *fr = NULL;
    for (int i = 0; i < 6; i++)
        world_append(w, inbox, hello, 0);
    uint64_t since = world_status(w, inbox)->highestmodseq;
    const Thurn__SyncReply *r = sync_since(w, inbox, since, 0);
    assert_int_equal(r->n_messages + r->n_vanished, 0);
    assert_true(world_flags(w, inbox, 2, 3, THURN__STORE_OP__STORE_ADD, SEEN, "$kw", &fr));
    world_expunge(w, inbox, 3, 4);
    world_append(w, inbox, reply, 0);
    world_append(w, inbox, reply, 0);
    world_expunge(w, inbox, 8, 8);
    world_append(w, archive, hello, 0);
    r = sync_since(w, inbox, since, 0);
    assert_int_equal(r->n_messages, 2);
    assert_int_equal(r->messages[0]->uid, 2);
    assert_int_equal(r->messages[0]->flags, SEEN);
    assert_int_equal(r->messages[1]->uid, 7);
    assert_string_equal(r->keyword_names[0]->name, "$kw");
    assert_string_equal(world_ranges(w, r->vanished, r->n_vanished), "3:4,8");
    assert_int_equal(r->mailbox->total, 5);
    r = sync_since(w, inbox, since, 3);
    assert_string_equal(world_ranges(w, r->vanished, r->n_vanished), "3");
    /* Below the log's horizon: from the rows, correct for those that are known. */
    r = sync_since(w, inbox, 0, 0);
    assert_int_equal(r->n_messages, 5);
    assert_string_equal(world_ranges(w, r->vanished, r->n_vanished), "3:4,8");
    r = sync_since(w, inbox, 0, 6);
    assert_string_equal(world_ranges(w, r->vanished, r->n_vanished), "3:4");
    /* A state that was never given out. */
    r = sync_since(w, inbox, 1u << 30, 6);
    assert_int_equal(r->n_messages, 5);
}

static const Thurn__ChangesReply *changes_since(struct world *w, Thurn__ChangeType type, uint64_t since, uint32_t limit)
{
    Thurn__ChangesRequest q = THURN__CHANGES_REQUEST__INIT;
    const Thurn__ChangesReply *r = NULL;
    q.account = &w->ref;
    q.type = type;
    q.since_modseq = since;
    q.limit = limit;
    MUST(w, changes, &q, &r);
    return r;
}

static uint64_t modseq_now(struct world *w)
{
    return (uint64_t)world_sql(w, "SELECT modseq FROM s_account WHERE account_id = 1");
}

static void changes_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX"), archive = world_mailbox(w, "Archive");
    const Thurn__StoreFlagsReply *fr = NULL;
    uint64_t start = modseq_now(w);
    for (int i = 0; i < 4; i++)
        world_append(w, inbox, i == 3 ? reply : hello, 0);
    uint64_t middle = modseq_now(w);
    assert_true(world_flags(w, inbox, 1, 2, THURN__STORE_OP__STORE_ADD, SEEN, NULL, &fr));
    world_expunge(w, inbox, 2, 2);
    Thurn__CopyRequest cq = THURN__COPY_REQUEST__INIT;
    cq.account = &w->ref;
    cq.mailbox_id = inbox;
    cq.to_mailbox_id = archive;
    cq.uids = world_range(w, 3, 3);
    cq.n_uids = 1;
    cq.is_move = true;
    MUST(w, copy, &cq, NULL);
    world_append(w, archive, "From: x@example.org\r\nSubject: other\r\nMessage-ID: <o@x>\r\n\r\nx\r\n", 0);
    int64_t made = world_create(w, "made");

    const Thurn__ChangesReply *r = changes_since(w, THURN__CHANGE_TYPE__CHANGE_EMAIL, start, 0);
    assert_int_equal(r->n_created, 4); /* 5 arrived, of which one went again */
    assert_int_equal(r->n_updated, 0);
    assert_int_equal(r->n_destroyed, 0);
    assert_true(r->modseq == modseq_now(w));
    assert_false(r->has_more);
    r = changes_since(w, THURN__CHANGE_TYPE__CHANGE_EMAIL, middle, 0);
    assert_int_equal(r->n_created, 1);
    assert_int_equal(r->n_updated, 2);
    assert_int_equal(r->n_destroyed, 1);
    r = changes_since(w, THURN__CHANGE_TYPE__CHANGE_MAILBOX, middle, 0);
    assert_int_equal(r->n_created, 1);
    assert_true(r->created[0] == made);
    assert_int_equal(r->n_updated, 2);
    r = changes_since(w, THURN__CHANGE_TYPE__CHANGE_THREAD, start, 0);
    assert_int_equal(r->n_created, 2);
    r = changes_since(w, THURN__CHANGE_TYPE__CHANGE_THREAD, middle, 0);
    assert_int_equal(r->n_created, 1);
    assert_int_equal(r->n_updated, 1);
    /* In steps: everything comes, and the state moves on. */
    uint64_t at = start;
    size_t n = 0, steps = 0;
    do {
        r = changes_since(w, THURN__CHANGE_TYPE__CHANGE_EMAIL, at, 2);
        assert_true(r->modseq > at);
        assert_in_range(r->n_created + r->n_updated + r->n_destroyed, 0, 2);
        at = r->modseq;
        n += r->n_created;
        steps++;
    } while (r->has_more);
    assert_true(steps > 1);
    assert_int_equal(n, 5);
    assert_true(at == modseq_now(w));
    Thurn__ChangesRequest q = THURN__CHANGES_REQUEST__INIT;
    q.account = &w->ref;
    q.since_modseq = 0;
    MUST_FAIL(w, changes, &q, &r, ERR_CONFLICT);
    q.since_modseq = modseq_now(w) + 1;
    MUST_FAIL(w, changes, &q, &r, ERR_CONFLICT);
}

/* Bulk operations: few rows in the log, pages in the replies. */
static void bulk_case(struct world *w)
{
    enum { N = 1200 };
    int64_t inbox = world_mailbox(w, "INBOX"), trash = world_mailbox(w, "Trash");
    const Thurn__StoreFlagsReply *fr = NULL;
    Thurn__AppendRequest q = THURN__APPEND_REQUEST__INIT;
    static Thurn__AppendItem it[200], *items[200];
    Thurn__Body body = THURN__BODY__INIT;
    body.content = rpc_bytes(str_c(hello));
    for (int i = 0; i < 200; i++) {
        thurn__append_item__init(&it[i]);
        it[i].body = &body;
        items[i] = &it[i];
    }
    q.account = &w->ref;
    q.mailbox_id = inbox;
    q.items = items;
    q.n_items = 200;
    for (int i = 0; i < N / 200; i++)
        MUST(w, append, &q, NULL);
    int64_t before = world_sql(w, "SELECT count(*) FROM s_changes");
    uint64_t since = modseq_now(w);
    assert_true(world_flags(w, inbox, 1, UINT32_MAX, THURN__STORE_OP__STORE_ADD, SEEN, NULL, &fr));
    assert_int_equal(fr->n_messages, N);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_changes") - before, 3);
    assert_int_equal(world_status(w, inbox)->unseen, 0);
    assert_int_equal(sync_since(w, inbox, since, 0)->n_messages, N);
    Thurn__CopyRequest cq = THURN__COPY_REQUEST__INIT;
    const Thurn__CopyReply *cr = NULL;
    cq.account = &w->ref;
    cq.mailbox_id = inbox;
    cq.to_mailbox_id = trash;
    cq.uids = world_range(w, 1, UINT32_MAX);
    cq.n_uids = 1;
    cq.is_move = true;
    MUST(w, copy, &cq, &cr);
    assert_string_equal(world_ranges(w, cr->to, cr->n_to), "1:1200");
    assert_string_equal(
        world_ranges(w, sync_since(w, inbox, since, 0)->vanished, sync_since(w, inbox, since, 0)->n_vanished),
        "1:1200");
    world_audit(w);
    world_expunge(w, trash, 1, UINT32_MAX);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_email"), 0);
    /* Many separate UIDs in one request. */
    for (int i = 0; i < 2; i++)
        MUST(w, append, &q, NULL);
    Thurn__FetchRequest f = THURN__FETCH_REQUEST__INIT;
    const Thurn__FetchReply *r = NULL;
    f.account = &w->ref;
    f.mailbox_id = inbox;
    f.uids = arena_array(&w->a, Thurn__Range *, 150);
    f.n_uids = 150;
    for (size_t i = 0; i < 150; i++)
        f.uids[i] = world_range(w, N + 1 + 2 * i, N + 1 + 2 * i)[0];
    MUST(w, fetch, &f, &r);
    assert_int_equal(r->n_messages, 150);
    f.limit = 100;
    MUST(w, fetch, &f, &r);
    assert_int_equal(r->n_messages, 100);
    assert_int_equal(r->next_uid, N + 1 + 2 * 100);
    f.uids[1] = f.uids[0];
    MUST_FAIL(w, fetch, &f, &r, ERR_INVALID);
}

static void purge_case(struct world *w)
{
    Thurn__AccountRequest q = THURN__ACCOUNT_REQUEST__INIT;
    world_append(w, world_mailbox(w, "INBOX"), hello, 0);
    w->ref = world_account(w, 2);
    world_append(w, world_mailbox(w, "INBOX"), hello, 0);
    q.account = &w->ref;
    MUST(w, purge_account, &q, NULL);
    MUST(w, purge_account, &q, NULL);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_mailbox WHERE account_id = 2"), 0);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_msg"), 1);
    assert_int_equal(world_sql(w, "SELECT refs FROM s_blob"), 1);
    /* Who has not heard of it yet does not bring it back. */
    Thurn__DeliverReply__Result d;
    const Thurn__AccountInfo *info = NULL;
    assert_true(world_deliver(w, hello, "late", 20000, &d));
    assert_int_equal(d.error_kind, ERR_CONFLICT);
    MUST_FAIL(w, get_account, &q, &info, ERR_CONFLICT);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_mailbox WHERE account_id = 2"), 0);
    w->ref = world_account(w, 3); /* one that was never used */
    MUST(w, purge_account, &q, NULL);
    assert_true(world_deliver(w, hello, "later", 20000, &d));
    assert_int_equal(d.error_kind, ERR_CONFLICT);
}

struct late_mail {
    struct world *w;
    Thurn__AccountRef ref;
    bool is_ending;
    unsigned n, n_delivered;
};

static void late_mail_main(void *arg)
{
    struct late_mail *l = arg;
    while (!l->is_ending) {
        ARENA(a, 4 << 20);
        struct rpc_call c;
        Thurn__DeliverRequest q = THURN__DELIVER_REQUEST__INIT;
        Thurn__DeliverRecipient to = THURN__DELIVER_RECIPIENT__INIT, *rcpts[] = {&to};
        Thurn__Body body = THURN__BODY__INIT;
        const Thurn__DeliverReply *r = NULL;
        str key = arena_printf(&a, "%032u", l->n++);
        rpc_call_init(&c, &a);
        body.content = rpc_bytes(arena_printf(&a, "Subject: %u\r\n\r\nlate\r\n", l->n));
        to.account = &l->ref;
        to.delivery_key = rpc_bytes(key);
        q.body = &body;
        q.recipients = rcpts;
        q.n_recipients = 1;
        assert_true(store_deliver(&c, l->w->service, &q, &r));
        assert_true(r->results[0]->error_kind == 0 || r->results[0]->error_kind == ERR_CONFLICT);
        l->n_delivered += r->results[0]->error_kind == 0;
    }
}

/* Mail comes while an account is purged: nothing is left that belongs to nobody. */
static void purge_race_case(struct world *w)
{
    enum { SENDERS = 6 };
    for (int round = 0; round < 5; round++) {
        struct err err = ERR_INIT;
        struct late_mail l = {.w = w, .ref = world_account(w, 10 + round), .n = 100000u * (unsigned)round};
        Thurn__AccountRequest q = THURN__ACCOUNT_REQUEST__INIT;
        q.account = &l.ref;
        FIBER_GROUP(g, SENDERS);
        for (int i = 0; i < SENDERS; i++)
            assert_true(fiber_group_spawn(&g, "late", late_mail_main, &l, &err));
        while (l.n_delivered < 20)
            assert_true(fiber_yield(&err));
        MUST(w, purge_account, &q, NULL);
        l.is_ending = true;
        assert_true(fiber_group_wait(&g, &err));
        assert_int_equal(world_sql(w, "SELECT count(*) FROM s_msg"), 0);
        assert_int_equal(world_sql(w, "SELECT count(*) FROM s_email"), 0);
        assert_int_equal(world_sql(w, "SELECT count(*) FROM s_mailbox"), 0);
        assert_int_equal(world_sql(w, "SELECT count(*) FROM s_blob WHERE refs <> 0"), 0);
    }
}

static void states_case(struct world *w)
{
    Thurn__StatesRequest q = THURN__STATES_REQUEST__INIT;
    Thurn__AccountRef one = world_account(w, 1), two = world_account(w, 2), none = world_account(w, 3);
    Thurn__AccountRef *refs[] = {&one, &two, &none};
    const Thurn__StatesReply *r = NULL;
    world_append(w, world_mailbox(w, "INBOX"), hello, 0);
    w->ref = two;
    (void)world_mailbox(w, "INBOX");
    q.accounts = refs;
    q.n_accounts = 3;
    MUST(w, states, &q, &r);
    assert_int_equal(r->n_states, 2);
    assert_int_equal(r->states[0]->account_id, 1);
    assert_true(r->states[0]->modseq == modseq_now(w));
}

/* --- watching --- */

struct watching {
    struct world *w;
    Thurn__WatchRequest q;
    const Thurn__WatchReply *r;
    bool ok;
};

static void watch_main(void *arg)
{
    struct watching *wt = arg;
    wt->ok = CALL(wt->w, watch, &wt->q, &wt->r);
}

static void watch_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX"), ids[] = {1, 2};
    struct err err = ERR_INIT;
    struct watching wt = {.w = w};
    thurn__watch_request__init(&wt.q);
    wt.q.watcher = (char *)"fe-1";
    MUST_FAIL(w, watch, &wt.q, NULL, ERR_CONFLICT); /* not known here */
    wt.q.is_full = true;
    wt.q.add = ids;
    wt.q.n_add = 2;
    MUST(w, watch, &wt.q, &wt.r);
    assert_int_equal(wt.r->n_beacons, 0);
    uint64_t generation = wt.r->generation;
    wt.q.is_full = false;
    wt.q.n_add = 0;
    wt.q.generation = generation;
    wt.q.wait_ms = 20000;
    FIBER_GROUP(g, 2);
    assert_true(fiber_group_spawn(&g, "watch", watch_main, &wt, &err));
    assert_true(fiber_yield(&err));
    world_append(w, inbox, hello, 0);
    assert_true(fiber_group_wait(&g, &err));
    assert_true(wt.ok);
    assert_int_equal(wt.r->n_beacons, 1);
    assert_int_equal(wt.r->beacons[0]->account_id, 1);
    assert_true(wt.r->beacons[0]->modseq == modseq_now(w));
    assert_true(wt.r->beacons[0]->kinds & 1);
    assert_true(wt.r->generation == generation);
    /* What happens between two calls is kept, one beacon an account. */
    world_append(w, inbox, hello, 0);
    world_append(w, inbox, hello, 0);
    MUST(w, watch, &wt.q, &wt.r);
    assert_int_equal(wt.r->n_beacons, 1);
    assert_true(wt.r->beacons[0]->modseq == modseq_now(w));
    /* A later call ends the one that waits; so does taking the account out. */
    struct watching old = wt;
    assert_true(fiber_group_spawn(&g, "watch", watch_main, &old, &err));
    assert_true(fiber_yield(&err));
    wt.q.wait_ms = 1;
    wt.q.remove = ids;
    wt.q.n_remove = 1;
    MUST(w, watch, &wt.q, &wt.r);
    assert_true(fiber_group_wait(&g, &err));
    assert_false(old.ok);
    assert_true(wt.r->generation != generation);
    world_append(w, inbox, hello, 0);
    wt.q.n_remove = 0;
    wt.q.generation = wt.r->generation;
    MUST(w, watch, &wt.q, &wt.r);
    assert_int_equal(wt.r->n_beacons, 0);
}

int main(void)
{
    static const struct world_case cases[] = {
        {"account", account_case},
        {"incarnation", incarnation_case},
        {"access", access_case},
        {"append_fetch", append_fetch_case},
        {"append_many", append_many_case},
        {"deliver", deliver_case},
        {"deliver_many", deliver_many_case},
        {"flags", flags_case},
        {"keyword_limit", keyword_limit_case},
        {"keyword names", keyword_names_case},
        {"many names", many_names_case},
        {"expunge", expunge_case},
        {"large expunge", large_expunge_case},
        {"copy", copy_case},
        {"mailboxes", mailboxes_case},
        {"rename_inbox", rename_inbox_case},
        {"sync", sync_case},
        {"changes", changes_case},
        {"bulk", bulk_case},
        {"purge", purge_case},
        {"purge_race", purge_race_case},
        {"states", states_case},
        {"watch", watch_case},
    };
    return world_main(cases, ARRAY_LEN(cases), 1, NULL);
}
