#include "unit/store_world.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "unit/tmp.h"

static void remove_folder(const char *path)
{
    char cmd[200];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", path);
    if (system(cmd) != 0)
        fail_msg("cannot remove %s", path);
}

Thurn__AccountRef world_account(struct world *w, int64_t id)
{
    (void)w;
    Thurn__AccountRef ref = THURN__ACCOUNT_REF__INIT;
    ref.account_id = id;
    ref.tenant_id = 7;
    ref.shard = 1;
    ref.epoch = 1;
    return ref;
}

static void open_store(struct world *w)
{
    struct err err = ERR_INIT;
    w->store = store_new(&w->opts, &err);
    if (!w->store)
        fail_msg("%s", err.msg);
    w->service = store_service(w->store);
}

void world_restart(struct world *w)
{
    store_free(w->store);
    open_store(w);
}

static void (*running_setup)(struct world *w);
static void (*running_fn)(struct world *w);

static void world_fiber(void *arg)
{
    struct world *w = arg;
    struct err err = ERR_INIT;
    unsigned n;
    struct sql_db *dbs[2];
    w->db = testdb_open(w->kind, "store", 4, &w->a);
    w->db2 = w->n_shards > 1 ? testdb_open(w->kind, "store2", 4, &w->a) : NULL;
    dbs[0] = w->db;
    dbs[1] = w->db2;
    for (unsigned i = 0; i < w->n_shards; i++)
        if (!store_migrate(dbs[i], false, &n, &err))
            fail_msg("%s", err.msg);
    snprintf(w->folder, sizeof w->folder, "%s/thurn-test-store-%d", test_tmp(), (int)getpid());
    remove_folder(w->folder);
    w->opts = (struct store_opts){
        .shards = dbs, .n_shards = w->n_shards, .blobs = {.kind = STORE_BLOBS_FOLDER, .folder = str_c(w->folder)}};
    w->opts.limits.watch_linger_ms = 1;
    w->ref = world_account(w, 1);
    if (running_setup)
        running_setup(w);
    open_store(w);
    running_fn(w);
    world_audit(w);
    store_free(w->store);
    if (w->http)
        http_client_free(w->http);
    sql_close(w->db);
    sql_close(w->db2);
    testdb_drop(w->kind, "store");
    if (w->n_shards > 1)
        testdb_drop(w->kind, "store2");
    remove_folder(w->folder);
}

void world_run(enum testdb_kind kind, unsigned n_shards, void (*setup)(struct world *w), void (*fn)(struct world *w))
{
    struct world w = {.kind = kind, .n_shards = n_shards};
    arena_init(&w.a, (size_t)1 << 30);
    running_setup = setup;
    running_fn = fn;
    assert_true(fiber_main(world_fiber, &w));
    arena_done(&w.a);
}

static void (*current_setup)(struct world *w);
static enum testdb_kind current_kind;
static unsigned current_shards;

static void run_current(void **state)
{
    const struct world_case *c = *state;
    world_run(current_kind, current_shards, current_setup, c->fn);
}

int world_main(const struct world_case *cases, size_t n, unsigned n_shards, void (*setup)(struct world *w))
{
    int failed = 0;
    const char *only = getenv("THURN_TEST_CASE");
    struct CMUnitTest *tests = xcalloc(n, sizeof *tests);
    current_shards = n_shards;
    current_setup = setup;
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        if (!only || !strcmp(only, cases[i].name))
            tests[k++] = (struct CMUnitTest){cases[i].name, run_current, NULL, NULL, (void *)(uintptr_t)&cases[i]};
    for (current_kind = TESTDB_SQLITE; current_kind < TESTDB_KINDS; current_kind++)
        if (testdb_have(current_kind))
            failed += _cmocka_run_group_tests(testdb_kind_name(current_kind), tests, k, NULL, NULL);
    xfree(tests);
    return failed;
}

void world_call_init(struct world *w, struct rpc_call *c)
{
    rpc_call_init(c, &w->a);
    c->body = w->body;
    c->out = w->out;
    w->body = NULL;
    w->out = NULL;
}

/* --- short forms --- */

static const Thurn__ListMailboxesReply *list(struct world *w)
{
    Thurn__ListMailboxesRequest q = THURN__LIST_MAILBOXES_REQUEST__INIT;
    const Thurn__ListMailboxesReply *r = NULL;
    q.account = &w->ref;
    MUST(w, list_mailboxes, &q, &r);
    return r;
}

int64_t world_mailbox(struct world *w, const char *name)
{
    const Thurn__ListMailboxesReply *r = list(w);
    for (size_t i = 0; i < r->n_mailboxes; i++)
        if (!r->mailboxes[i]->parent_id && !strcmp(r->mailboxes[i]->name, name))
            return r->mailboxes[i]->mailbox_id;
    return 0;
}

Thurn__Mailbox *world_status(struct world *w, int64_t mailbox_id)
{
    const Thurn__ListMailboxesReply *r = list(w);
    for (size_t i = 0; i < r->n_mailboxes; i++)
        if (r->mailboxes[i]->mailbox_id == mailbox_id)
            return r->mailboxes[i];
    return NULL;
}

int64_t world_create(struct world *w, const char *name)
{
    Thurn__CreateMailboxRequest q = THURN__CREATE_MAILBOX_REQUEST__INIT;
    const Thurn__MailboxReply *r = NULL;
    char *path[] = {(char *)(uintptr_t)name};
    q.account = &w->ref;
    q.path = path;
    q.n_path = 1;
    MUST(w, create_mailbox, &q, &r);
    return r->mailbox->mailbox_id;
}

uint32_t world_append(struct world *w, int64_t mailbox_id, const char *text, uint32_t flags)
{
    Thurn__AppendRequest q = THURN__APPEND_REQUEST__INIT;
    Thurn__AppendItem it = THURN__APPEND_ITEM__INIT, *items[] = {&it};
    Thurn__Body body = THURN__BODY__INIT;
    const Thurn__AppendReply *r = NULL;
    body.content = rpc_bytes(str_c(text));
    it.body = &body;
    it.flags = flags;
    q.account = &w->ref;
    q.mailbox_id = mailbox_id;
    q.items = items;
    q.n_items = 1;
    MUST(w, append, &q, &r);
    assert_int_equal(r->n_uids, 1);
    return r->uids[0];
}

bool world_deliver(struct world *w, const char *text, const char *key, uint32_t day, Thurn__DeliverReply__Result *out)
{
    Thurn__DeliverRequest q = THURN__DELIVER_REQUEST__INIT;
    Thurn__DeliverRecipient rcpt = THURN__DELIVER_RECIPIENT__INIT, *rcpts[] = {&rcpt};
    Thurn__Body body = THURN__BODY__INIT;
    const Thurn__DeliverReply *r = NULL;
    char padded[32] = {0};
    body.content = rpc_bytes(str_c(text));
    q.body = &body;
    q.recipients = rcpts;
    q.n_recipients = 1;
    rcpt.account = &w->ref;
    if (key) {
        snprintf(padded, sizeof padded, "%s", key);
        rcpt.delivery_key = rpc_bytes(str_n(padded, 32));
    }
    rcpt.day = day;
    if (!CALL(w, deliver, &q, &r))
        return false;
    *out = *r->results[0];
    return true;
}

const Thurn__FetchReply *world_fetch(struct world *w, int64_t mailbox_id, bool parsed, bool raw)
{
    Thurn__FetchRequest q = THURN__FETCH_REQUEST__INIT;
    const Thurn__FetchReply *r = NULL;
    q.account = &w->ref;
    q.mailbox_id = mailbox_id;
    q.with_parsed = parsed;
    q.with_raw = raw;
    MUST(w, fetch, &q, &r);
    return r;
}

const char *world_ranges(struct world *w, Thurn__Range *const *v, size_t n)
{
    BUF(b, 1 << 20);
    for (size_t i = 0; i < n; i++) {
        buf_printf(&b, "%s%llu", i ? "," : "", (unsigned long long)v[i]->first);
        if (v[i]->last != v[i]->first)
            buf_printf(&b, ":%llu", (unsigned long long)v[i]->last);
    }
    return arena_strz(&w->a, buf_str(&b));
}

Thurn__Range **world_range(struct world *w, uint64_t first, uint64_t last)
{
    Thurn__Range **v = arena_array(&w->a, Thurn__Range *, 1);
    v[0] = arena_new(&w->a, Thurn__Range);
    thurn__range__init(v[0]);
    v[0]->first = first;
    v[0]->last = last;
    return v;
}

void world_expunge(struct world *w, int64_t mailbox_id, uint64_t first, uint64_t last)
{
    Thurn__ExpungeRequest q = THURN__EXPUNGE_REQUEST__INIT;
    q.account = &w->ref;
    q.mailbox_id = mailbox_id;
    q.uids = world_range(w, first, last);
    q.n_uids = 1;
    q.is_any = true;
    MUST(w, expunge, &q, NULL);
}

bool world_flags(struct world *w, int64_t mailbox_id, uint64_t first, uint64_t last, Thurn__StoreOp op, uint32_t flags,
                 const char *keyword, const Thurn__StoreFlagsReply **r)
{
    Thurn__StoreFlagsRequest q = THURN__STORE_FLAGS_REQUEST__INIT;
    char *names[] = {(char *)(uintptr_t)keyword};
    q.account = &w->ref;
    q.mailbox_id = mailbox_id;
    q.uids = world_range(w, first, last);
    q.n_uids = 1;
    q.op = op;
    q.flags = flags;
    q.keywords = names;
    q.n_keywords = keyword ? 1 : 0;
    return CALL(w, store_flags, &q, r);
}

int64_t world_sql(struct world *w, const char *sql)
{
    /* Prepared statements are remembered by their address: each text gets one that lives as long as the database. */
    static unsigned n;
    struct sql_stmt *st = arena_new(&w->a, struct sql_stmt);
    *st = (struct sql_stmt){arena_printf(&w->a, "test_%u", n++).p, "", "i", sql, sql, false};
    struct err err = ERR_INIT;
    struct sql_result r;
    if (!sql_query(w->db, st, NULL, &w->a, &r, &err))
        fail_msg("%s: %s", sql, err.msg);
    return r.n_rows ? sql_at(&r, 0, 0)->i : 0;
}

FIBER static bool change_body(struct sql_tx *tx, void *arg, struct err *err)
{
    return sql_exec(tx, arg, NULL, 1, NULL, err);
}

void world_change(struct world *w, const char *sqlite, const char *pg)
{
    static unsigned n;
    struct sql_stmt *st = arena_new(&w->a, struct sql_stmt);
    struct err err = ERR_INIT;
    *st = (struct sql_stmt){arena_printf(&w->a, "test_change_%u", n++).p, "", "", sqlite, pg, false};
    if ((w->kind == TESTDB_SQLITE ? sqlite : pg) && !sql_write(w->db, change_body, st, &err))
        fail_msg("%s", err.msg);
}

void world_audit(struct world *w)
{
    static const struct {
        const char *what, *sql;
    } checks[] = {
        {"mailbox counters",
         "SELECT count(*) FROM s_mailbox m WHERE total <> (SELECT count(*) FROM s_msg g WHERE g.account_id = m.account_id AND"
         " g.mailbox_id = m.mailbox_id) OR unseen <> (SELECT count(*) FROM s_msg g WHERE g.account_id = m.account_id AND"
         " g.mailbox_id = m.mailbox_id AND (g.flags & 1) = 0) OR deleted <> (SELECT count(*) FROM s_msg g WHERE g.account_id ="
         " m.account_id AND g.mailbox_id = m.mailbox_id AND (g.flags & 8) <> 0) OR bytes <> (SELECT coalesce(sum(size), 0)"
         " FROM s_msg g WHERE g.account_id = m.account_id AND g.mailbox_id = m.mailbox_id)"},
        {"uidnext and highestmodseq",
         "SELECT count(*) FROM s_mailbox m WHERE EXISTS (SELECT 1 FROM s_msg g WHERE g.account_id = m.account_id AND"
         " g.mailbox_id = m.mailbox_id AND (g.uid >= m.uidnext OR g.modseq > m.highestmodseq))"},
        {"account counters",
         "SELECT count(*) FROM s_account a WHERE used_messages <> (SELECT count(*) FROM s_msg g WHERE g.account_id ="
         " a.account_id) OR used_bytes <> (SELECT coalesce(sum(size), 0) FROM s_msg g WHERE g.account_id = a.account_id)"},
        {"account modseq",
         "SELECT count(*) FROM s_account a WHERE EXISTS (SELECT 1 FROM s_mailbox m WHERE m.account_id = a.account_id AND"
         " m.highestmodseq > a.modseq) OR EXISTS (SELECT 1 FROM s_changes c WHERE c.account_id = a.account_id AND"
         " c.modseq > a.modseq)"},
        {"emails without a message",
         "SELECT count(*) FROM s_email e WHERE NOT EXISTS (SELECT 1 FROM s_msg g WHERE g.account_id = e.account_id AND"
         " g.email_id = e.email_id)"},
        {"messages without an email",
         "SELECT count(*) FROM s_msg g WHERE NOT EXISTS (SELECT 1 FROM s_email e WHERE g.account_id = e.account_id AND"
         " g.email_id = e.email_id)"},
        {"references of bodies",
         "SELECT count(*) FROM s_blob b WHERE refs <> (SELECT count(*) FROM s_email e WHERE e.blob_id = b.blob_id)"},
        {"emails without a body",
         "SELECT count(*) FROM s_email e WHERE NOT EXISTS (SELECT 1 FROM s_blob b WHERE b.blob_id = e.blob_id AND"
         " b.is_ready = 1)"},
        {"inline bodies",
         "SELECT count(*) FROM s_blob b WHERE (tier = 0) <> EXISTS (SELECT 1 FROM s_blob_inline i WHERE i.blob_id ="
         " b.blob_id)"},
        {"holds without a body",
         "SELECT count(*) FROM s_hold h WHERE NOT EXISTS (SELECT 1 FROM s_blob b WHERE h.blob_id = b.blob_id)"},
        {"inline data without a row",
         "SELECT count(*) FROM s_blob_inline i WHERE NOT EXISTS (SELECT 1 FROM s_blob b WHERE i.blob_id = b.blob_id)"},
    };
    for (size_t i = 0; i < ARRAY_LEN(checks); i++)
        if (world_sql(w, checks[i].sql) != 0)
            fail_msg("audit: %s", checks[i].what);
}

/* --- bodies --- */

static bool source_read(struct rpc_source *source, str *piece, struct err *err)
{
    struct memory_source *s = CONTAINER_OF(source, struct memory_source, source);
    (void)err;
    *piece = str_slice(s->rest, 0, s->piece);
    s->rest = str_slice(s->rest, piece->n, SIZE_MAX);
    return true;
}

void memory_source_init(struct memory_source *s, str content, size_t piece)
{
    *s = (struct memory_source){{source_read}, content, MIN(piece, RPC_CHUNK_MAX)};
}

static bool sink_write(struct rpc_sink *sink, str piece, struct err *err)
{
    (void)err;
    assert_true(piece.n <= RPC_CHUNK_MAX);
    buf_add(&CONTAINER_OF(sink, struct memory_sink, sink)->buf, piece);
    return true;
}

void memory_sink_init(struct memory_sink *s)
{
    *s = (struct memory_sink){.sink = {sink_write}};
    buf_init(&s->buf, 256 << 20);
}

const Thurn__BlobRef *world_put(struct world *w, str content)
{
    Thurn__PutBlobRequest q = THURN__PUT_BLOB_REQUEST__INIT;
    const Thurn__PutBlobReply *r = NULL;
    struct memory_source src;
    memory_source_init(&src, content, 60000);
    q.account = &w->ref;
    w->body = &src.source;
    return CALL(w, put_blob, &q, &r) ? r->blob : NULL;
}

str world_read(struct world *w, int64_t mailbox_id, uint32_t uid, uint64_t offset, uint64_t length)
{
    Thurn__ReadBodyRequest q = THURN__READ_BODY_REQUEST__INIT;
    const Thurn__ReadBodyReply *r = NULL;
    struct memory_sink sink;
    memory_sink_init(&sink);
    q.account = &w->ref;
    q.mailbox_id = mailbox_id;
    q.uid = uid;
    q.offset = offset;
    q.length = length;
    w->out = &sink.sink;
    MUST(w, read_body, &q, &r);
    str copy = arena_str(&w->a, buf_str(&sink.buf));
    buf_done(&sink.buf);
    return copy;
}

str world_message(struct world *w, unsigned seed, size_t bytes)
{
    str head = arena_printf(&w->a, "From: a@example.org\r\nSubject: message %u\r\nMessage-ID: <%u@example.org>\r\n\r\n",
                            seed, seed);
    char *p = arena_alloc(&w->a, bytes);
    memcpy(p, head.p, MIN(head.n, bytes));
    uint32_t x = seed * 2654435761u + 1;
    for (size_t i = head.n; i < bytes; i++) {
        x = x * 1664525u + 1013904223u;
        p[i] = i % 78 == 0 ? '\n' : (char)(33 + (x >> 16) % 90);
    }
    return str_n(p, bytes);
}
