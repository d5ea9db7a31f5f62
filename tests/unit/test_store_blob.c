/* Bodies: inline, in segments; sweeping, recovery, compaction; search over both. */
#include "unit/store_world.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utime.h>

#include "base/clock.h"
#include "base/metrics.h"

static Thurn__SweepReply *sweep(struct world *w, int64_t older_than_s, bool dry_run)
{
    Thurn__SweepRequest q = THURN__SWEEP_REQUEST__INIT;
    const Thurn__SweepReply *r = NULL;
    q.older_than_s = older_than_s;
    q.is_dry_run = dry_run;
    MUST(w, sweep, &q, &r);
    return (Thurn__SweepReply *)(uintptr_t)r;
}

static uint32_t append_blob(struct world *w, int64_t mailbox, const Thurn__BlobRef *ref)
{
    Thurn__AppendRequest q = THURN__APPEND_REQUEST__INIT;
    Thurn__AppendItem it = THURN__APPEND_ITEM__INIT, *items[] = {&it};
    Thurn__Body body = THURN__BODY__INIT;
    const Thurn__AppendReply *r = NULL;
    body.blob = (Thurn__BlobRef *)(uintptr_t)ref;
    it.body = &body;
    q.account = &w->ref;
    q.mailbox_id = mailbox;
    q.items = items;
    q.n_items = 1;
    return CALL(w, append, &q, &r) ? r->uids[0] : 0;
}

static void later(int64_t days)
{
    clock_jump_s(days * 86400);
}

/* Every size around the borders: what is put comes out, whole and in parts, wherever it lies. */
static void sizes_case(struct world *w)
{
    static const size_t sizes[] = {1, 100, 16384, 16385, 20000, 65536, 65537, 300000, 524288, 524289, 700000, 2500000};
    int64_t inbox = world_mailbox(w, "INBOX");
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        str m = world_message(w, (unsigned)i, sizes[i]);
        const Thurn__BlobRef *ref = world_put(w, m);
        assert_non_null(ref);
        assert_int_equal(ref->size, m.n);
        const Thurn__BlobRef *again = world_put(w, m);
        assert_true(str_eq(rpc_str(ref->hash), rpc_str(again->hash)));
        uint32_t uid = append_blob(w, inbox, ref);
        if (!uid)
            fail_msg("%s", w->err.msg);
        assert_true(str_eq(world_read(w, inbox, uid, 0, 0), m));
        assert_true(str_eq(world_read(w, inbox, uid, m.n / 3, m.n / 2), str_slice(m, m.n / 3, m.n / 3 + m.n / 2)) ||
                    m.n < 3);
        assert_true(str_eq(world_read(w, inbox, uid, m.n - 1, 100), str_slice(m, m.n - 1, m.n)));
        assert_int_equal(world_read(w, inbox, uid, m.n, 0).n, 0);
        Thurn__ReadBlobRequest q = THURN__READ_BLOB_REQUEST__INIT;
        struct memory_sink sink;
        memory_sink_init(&sink);
        q.blob = (Thurn__BlobRef *)(uintptr_t)ref;
        w->out = &sink.sink;
        MUST(w, read_blob, &q, NULL);
        assert_true(str_eq(buf_str(&sink.buf), m));
        buf_done(&sink.buf);
    }
    const Thurn__FetchReply *r = world_fetch(w, inbox, true, true);
    size_t n = r->n_messages;
    assert_true(n >= 5);
    for (size_t i = 0; i < n; i++) {
        const Thurn__Message *m = r->messages[i];
        assert_int_equal(m->is_raw_omitted, m->size > 256 * 1024);
        assert_int_equal(m->raw.len, m->is_raw_omitted ? 0 : m->size);
        str want = world_message(w, (unsigned)i, sizes[i]);
        assert_true(m->is_raw_omitted || str_eq(rpc_str(m->raw), want));
    }
    world_restart(w);
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        assert_true(str_eq(world_read(w, inbox, (uint32_t)i + 1, 0, 0), world_message(w, (unsigned)i, sizes[i])));
}

/* Content in the request: small goes inline, large to the segments; the same body is kept once. */
static void content_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX");
    str big = world_message(w, 1, 400000), small = world_message(w, 2, 3000);
    for (int i = 0; i < 3; i++) {
        world_append(w, inbox, arena_strz(&w->a, big), 0);
        world_append(w, inbox, arena_strz(&w->a, small), 0);
    }
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_blob"), 2);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_blob_inline"), 1);
    assert_int_equal(world_sql(w, "SELECT min(refs) FROM s_blob"), 3);
    assert_true(str_eq(world_read(w, inbox, 5, 0, 0), big));
    assert_true(str_eq(world_read(w, inbox, 6, 0, 0), small));
    Thurn__FetchRequest q = THURN__FETCH_REQUEST__INIT;
    const Thurn__FetchReply *r = NULL;
    q.account = &w->ref;
    q.mailbox_id = inbox;
    q.with_raw = true;
    q.raw_offset = 2990;
    q.raw_length = 20;
    MUST(w, fetch, &q, &r);
    assert_int_equal(r->n_messages, 6);
    assert_true(str_eq(rpc_str(r->messages[0]->raw), str_slice(big, 2990, 3010)));
    assert_true(str_eq(rpc_str(r->messages[1]->raw), str_slice(small, 2990, 3000)));
}

static void limits_case(struct world *w)
{
    Thurn__PutBlobRequest q = THURN__PUT_BLOB_REQUEST__INIT;
    const Thurn__PutBlobReply *r = NULL;
    struct memory_source src;
    str m = world_message(w, 1, 100000);
    q.account = &w->ref;
    q.size_max = 99999;
    memory_source_init(&src, m, 1000);
    w->body = &src.source;
    MUST_FAIL(w, put_blob, &q, &r, ERR_LIMIT);
    q.size_max = 100000;
    memory_source_init(&src, m, 1000);
    w->body = &src.source;
    MUST(w, put_blob, &q, &r);
    memory_source_init(&src, STR_NONE, 1000);
    w->body = &src.source;
    MUST_FAIL(w, put_blob, &q, &r, ERR_INVALID);
    MUST_FAIL(w, put_blob, &q, &r, ERR_INVALID); /* no body at all */
    /* A body of another tenant is not to be had by its hash. */
    struct rpc_call c;
    Thurn__AppendRequest aq = THURN__APPEND_REQUEST__INIT;
    Thurn__AppendItem it = THURN__APPEND_ITEM__INIT, *items[] = {&it};
    Thurn__Body body = THURN__BODY__INIT;
    Thurn__AccountRef other = world_account(w, 9);
    other.tenant_id = 8;
    body.blob = r->blob;
    it.body = &body;
    aq.account = &other;
    aq.mailbox_id = 1;
    aq.items = items;
    aq.n_items = 1;
    rpc_call_init(&c, &w->a);
    rpc_pass_make(&(struct rpc_principal){.account_id = 9, .tenant_id = 8, .incarnation = other.incarnation}, &c.pass);
    assert_false(store_append(&c, w->service, &aq, NULL));
    assert_int_equal(c.err.kind, ERR_DENIED);
}

/* Two shards: a body put on one is delivered to accounts of both, and kept once on each for each tenant. */
static void shards_case(struct world *w)
{
    Thurn__DeliverRequest q = THURN__DELIVER_REQUEST__INIT;
    Thurn__DeliverRecipient rcpt[3], *rcpts[] = {&rcpt[0], &rcpt[1], &rcpt[2]};
    Thurn__AccountRef refs[3];
    Thurn__Body body = THURN__BODY__INIT;
    const Thurn__DeliverReply *r = NULL;
    str m = world_message(w, 3, 700000);
    body.blob = (Thurn__BlobRef *)(uintptr_t)world_put(w, m);
    assert_non_null(body.blob);
    q.body = &body;
    for (int i = 0; i < 3; i++) {
        refs[i] = world_account(w, 1 + i);
        refs[i].shard = i == 0 ? 1 : 2;
        refs[i].tenant_id = i == 2 ? 8 : 7;
        thurn__deliver_recipient__init(&rcpt[i]);
        rcpt[i].account = &refs[i];
    }
    q.recipients = rcpts;
    q.n_recipients = 3;
    MUST(w, deliver, &q, &r);
    for (int i = 0; i < 3; i++) {
        if (r->results[i]->error_kind)
            fail_msg("%s", r->results[i]->error);
        w->ref = refs[i];
        assert_true(str_eq(world_read(w, r->results[i]->mailbox_id, r->results[i]->uid, 0, 0), m));
    }
    world_audit(w);
    struct sql_db *first = w->db;
    w->db = w->db2;
    world_audit(w);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_blob"), 2);
    w->db = first;
    w->ref = refs[0];
}

/* --- sweeping --- */

static void sweep_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX");
    str small = world_message(w, 1, 2000), big = world_message(w, 2, 100000), held = world_message(w, 3, 2000);
    world_append(w, inbox, arena_strz(&w->a, small), 0);
    world_append(w, inbox, arena_strz(&w->a, big), 0);
    world_append(w, inbox, arena_strz(&w->a, held), 0);
    assert_int_equal(sweep(w, 0, false)->removed, 0);
    world_expunge(w, inbox, 1, 3);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_blob WHERE refs = 0"), 3);
    assert_int_equal(sweep(w, 0, false)->removed, 0); /* not for a day */
    Thurn__HoldBlobRequest hq = THURN__HOLD_BLOB_REQUEST__INIT;
    Thurn__BlobRef ref = THURN__BLOB_REF__INIT;
    const Thurn__BlobRef *put = world_put(w, held); /* put again, and held for a week */
    ref = *put;
    hq.blob = &ref;
    hq.hold_until_unix = clock_unix() + 7 * 86400;
    MUST(w, hold_blob, &hq, NULL);
    later(2);
    Thurn__SweepReply *r = sweep(w, 0, true);
    assert_int_equal(r->removed, 2);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_blob"), 3);
    r = sweep(w, 0, false);
    assert_int_equal(r->removed, 2);
    assert_int_equal(r->kept, 1);
    assert_int_equal(r->bytes, 102000);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_blob_inline"), 1);
    assert_true(append_blob(w, inbox, &ref) != 0); /* what was held is there */
    later(10);
    assert_int_equal(sweep(w, 0, false)->removed, 0);
    /* One that comes back while nothing refers to it lives on. */
    world_expunge(w, inbox, 4, 4);
    later(2);
    world_append(w, inbox, arena_strz(&w->a, held), 0);
    assert_int_equal(sweep(w, 0, false)->removed, 0);
    clock_real();
}

/* --- holds --- */

static void hold(struct world *w, const Thurn__BlobRef *blob, const char *holder, int64_t days)
{
    Thurn__HoldBlobRequest q = THURN__HOLD_BLOB_REQUEST__INIT;
    Thurn__BlobRef ref = *blob;
    q.blob = &ref;
    q.hold_until_unix = clock_unix() + days * 86400;
    q.holder = rpc_bytes(str_c(holder));
    MUST(w, hold_blob, &q, NULL);
}

static void release(struct world *w, const Thurn__BlobRef *const *blobs, size_t n, const char *holder)
{
    Thurn__ReleaseBlobsRequest q = THURN__RELEASE_BLOBS_REQUEST__INIT;
    q.holds = arena_array(&w->a, Thurn__BlobHold *, n);
    for (size_t i = 0; i < n; i++) {
        Thurn__BlobHold *h = q.holds[q.n_holds++] = arena_new(&w->a, Thurn__BlobHold);
        thurn__blob_hold__init(h);
        h->blob = (Thurn__BlobRef *)(uintptr_t)blobs[i];
        h->holder = rpc_bytes(str_c(holder));
    }
    MUST(w, release_blobs, &q, NULL);
}

/* A body stays until each holder has released it, or his time is over; and until then in any case. */
static void hold_case(struct world *w)
{
    const Thurn__BlobRef *ref = world_put(w, world_message(w, 1, 30000));
    hold(w, ref, "first", 6);
    hold(w, ref, "second", 6);
    release(w, &ref, 1, "first");
    release(w, &ref, 1, "first"); /* again: nothing is done to the other's */
    later(4);
    assert_int_equal(sweep(w, 0, false)->removed, 0);
    release(w, &ref, 1, "second");
    assert_int_equal(sweep(w, 0, false)->removed, 1); /* nothing else keeps it: its own day is over */
    /* A release that never came: the hold ends by itself. */
    ref = world_put(w, world_message(w, 2, 30000));
    hold(w, ref, "lost", 6);
    hold(w, ref, "lost", 3); /* only ever extended */
    later(5);
    assert_int_equal(sweep(w, 0, false)->removed, 0);
    later(7);
    assert_int_equal(sweep(w, 0, false)->removed, 1);
    /* One that comes while the sweep is near counts, whatever was held before. */
    ref = world_put(w, world_message(w, 3, 30000));
    later(9);
    hold(w, ref, "late", 6);
    assert_int_equal(sweep(w, 0, false)->removed, 0);
    release(w, &ref, 1, "late");
    later(11);
    assert_int_equal(sweep(w, 0, false)->removed, 1);
    /* What a message refers to stays without a hold, and the hold's row goes by its time. */
    ref = world_put(w, world_message(w, 4, 30000));
    hold(w, ref, "nobody", 1);
    assert_true(append_blob(w, world_mailbox(w, "INBOX"), ref) != 0);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_hold"), 1);
    later(14);
    assert_int_equal(sweep(w, 0, false)->removed, 0);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_hold"), 0);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_blob"), 1);
    clock_real();
}

/* Mail that is relayed: each body is put and held, sent, released. A day later nothing of it is left. */
static void relayed_case(struct world *w)
{
    enum { N = 700 };
    const Thurn__BlobRef *refs[N];
    for (int i = 0; i < N; i++) {
        refs[i] = world_put(w, world_message(w, i, i % 50 ? 100 : 70000));
        hold(w, refs[i], "message", 6);
    }
    release(w, refs, 500, "message");
    release(w, refs + 500, N - 500, "message");
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_hold"), 0);
    later(2);
    assert_int_equal(sweep(w, 0, false)->removed, N);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_blob"), 0);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_blob_inline"), 0);
    clock_real();
}

/* A crash between the row and the body, or the body and the row's place: nobody refers to it, and the sweep finds it.
 */
static void crash_case(struct world *w)
{
    str big = world_message(w, 1, 100000);
    sql_fail_nth(w->db, 3, false); /* 1, 2: the row that says a body will come; 3: the one that says where it is */
    assert_null(world_put(w, big));
    sql_fail_nth(w->db, 0, false);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_blob WHERE is_ready = 0"), 1);
    /* It is no body yet: nothing can be made of it. */
    Thurn__BlobRef ref = THURN__BLOB_REF__INIT;
    unsigned char hash[32] = {0};
    ref.space = 1;
    ref.tenant_id = 7;
    ref.hash = rpc_bytes(str_n(hash, 32));
    assert_int_equal(append_blob(w, world_mailbox(w, "INBOX"), &ref), 0);
    assert_int_equal(w->err.kind, ERR_INTERNAL); /* NOT_FOUND would be said of the mailbox */
    /* Nor delivered; and that is not said of the recipient. */
    Thurn__DeliverRequest q = THURN__DELIVER_REQUEST__INIT;
    Thurn__DeliverRecipient to = THURN__DELIVER_RECIPIENT__INIT, *list[] = {&to};
    Thurn__Body body = THURN__BODY__INIT;
    const Thurn__DeliverReply *reply = NULL;
    body.blob = &ref;
    to.account = &w->ref;
    q.body = &body;
    q.recipients = list;
    q.n_recipients = 1;
    MUST_FAIL(w, deliver, &q, &reply, ERR_INTERNAL);
    later(2);
    assert_int_equal(sweep(w, 0, false)->removed, 1);
    clock_real();
    assert_non_null(world_put(w, big)); /* and it can come again */
    sql_fail_nth(w->db, 3, false);
    assert_null(world_put(w, world_message(w, 2, 100000)));
    sql_fail_nth(w->db, 0, false);
    assert_non_null(world_put(w, world_message(w, 2, 100000))); /* at once, too */
}

/* --- segments --- */

static void segment_path(struct world *w, int n, char out[200])
{
    snprintf(out, 200, "%s/%08d.seg", w->folder, n);
}

/* A torn end is cut off at the start; what was acknowledged before it stays. */
static void torn_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX");
    str m[3];
    char path[200];
    for (unsigned i = 0; i < 3; i++) {
        m[i] = world_message(w, i, 50000 + i);
        world_append(w, inbox, arena_strz(&w->a, m[i]), 0);
    }
    segment_path(w, 1, path);
    struct stat before, after;
    assert_int_equal(stat(path, &before), 0);
    static const char *const tails[] = {"THB1 but nothing more", "\0\0\0\0\0\0\0\0"};
    for (size_t i = 0; i < ARRAY_LEN(tails); i++) {
        int fd = open(path, O_WRONLY | O_APPEND);
        assert_true(write(fd, tails[i], 8) == 8);
        close(fd);
        world_restart(w);
        assert_int_equal(stat(path, &after), 0);
        assert_int_equal(after.st_size, before.st_size);
    }
    /* The last record with a body that did not reach the disk: gone, and the next one takes its place. */
    assert_int_equal(truncate(path, before.st_size - 10), 0);
    world_restart(w);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(after.st_size, before.st_size - 50002 - 64);
    assert_true(str_eq(world_read(w, inbox, 2, 0, 0), m[1]));
    world_append(w, inbox, arena_strz(&w->a, world_message(w, 9, 50002)), 0);
    assert_true(str_eq(world_read(w, inbox, 4, 0, 0), world_message(w, 9, 50002)));
    assert_int_equal(truncate(path, 0), 0);
    world_restart(w);
}

/* Files that were begun and have nothing, as a failure leaves them: their numbers are passed over. */
static void occupied_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX");
    char path[200];
    for (int i = 1; i <= 2; i++) {
        segment_path(w, i, path);
        close(open(path, O_CREAT | O_EXCL | O_WRONLY, 0600));
        assert_int_equal(access(path, F_OK), 0);
    }
    world_append(w, inbox, arena_strz(&w->a, world_message(w, 1, 50000)), 0);
    assert_int_equal(world_sql(w, "SELECT max(seg) FROM s_blob"), 3);
    world_restart(w);
    assert_true(str_eq(world_read(w, inbox, 1, 0, 0), world_message(w, 1, 50000)));
}

static bool deliver_blob(struct world *w, const Thurn__BlobRef *ref, const char *prefix)
{
    Thurn__DeliverRequest q = THURN__DELIVER_REQUEST__INIT;
    Thurn__DeliverRecipient to = THURN__DELIVER_RECIPIENT__INIT, *list[] = {&to};
    Thurn__Body body = THURN__BODY__INIT;
    const Thurn__DeliverReply *reply = NULL;
    body.blob = (Thurn__BlobRef *)(uintptr_t)ref;
    to.account = &w->ref;
    q.body = &body;
    q.prefix = rpc_bytes(str_c(prefix));
    q.recipients = list;
    q.n_recipients = 1;
    if (!CALL(w, deliver, &q, &reply))
        return false;
    if (reply->results[0]->error_kind)
        (void)err_set(&w->err, (enum err_kind)reply->results[0]->error_kind, "%s", reply->results[0]->error);
    return !err_is_set(&w->err);
}

/* A folder that was not mounted, a file that is gone or short: a body whose row is there is away, not unheard of. */
static void lost_segment_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX"), lost = metric_get(M_STORE_LOST, "folder");
    str m = world_message(w, 1, 50000);
    char path[200], aside[210];
    const Thurn__BlobRef *ref = world_put(w, m);
    assert_int_equal(append_blob(w, inbox, ref), 1);
    segment_path(w, 1, path);
    snprintf(aside, sizeof aside, "%s.x", path);
    world_restart(w); /* forgets what was parsed */
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    for (int is_short = 0; is_short < 2; is_short++) {
        if (is_short)
            assert_int_equal(truncate(path, 100), 0);
        else
            assert_int_equal(rename(path, aside), 0);
        Thurn__ReadBodyRequest q = THURN__READ_BODY_REQUEST__INIT;
        struct memory_sink sink;
        memory_sink_init(&sink);
        q.account = &w->ref;
        q.mailbox_id = inbox;
        q.uid = 1;
        w->out = &sink.sink;
        MUST_FAIL(w, read_body, &q, NULL, ERR_UNAVAILABLE);
        assert_int_equal(append_blob(w, inbox, ref), 0);
        assert_int_equal(w->err.kind, ERR_UNAVAILABLE);
        assert_false(deliver_blob(w, ref, ""));
        assert_int_equal(w->err.kind, ERR_UNAVAILABLE);
        buf_done(&sink.buf);
        if (!is_short)
            assert_int_equal(rename(aside, path), 0);
        if (!is_short)
            assert_true(str_eq(world_read(w, inbox, 1, 0, 0), m)); /* it is back */
    }
    assert_int_equal(metric_get(M_STORE_LOST, "folder"), lost + 6);
    assert_int_equal(truncate(path, 0), 0);
    world_restart(w);
}

static void flip(const char *path, off_t at)
{
    unsigned char c;
    int fd = open(path, O_RDWR);
    assert_true(pread(fd, &c, 1, at) == 1);
    c ^= 1;
    assert_true(pwrite(fd, &c, 1, at) == 1);
    close(fd);
}

/* A body that is not what its hash says: an error, and never its last byte; FETCH leaves it out. */
static void assert_unread(struct world *w, int64_t mailbox, uint32_t uid)
{
    Thurn__ReadBodyRequest q = THURN__READ_BODY_REQUEST__INIT;
    Thurn__FetchRequest fetch = THURN__FETCH_REQUEST__INIT;
    const Thurn__FetchReply *r = NULL;
    struct memory_sink sink;
    int64_t before = metric_get(M_STORE_DAMAGED, "");
    memory_sink_init(&sink);
    q.account = fetch.account = &w->ref;
    q.mailbox_id = fetch.mailbox_id = mailbox;
    q.uid = uid;
    w->out = &sink.sink;
    MUST_FAIL(w, read_body, &q, NULL, ERR_INTERNAL);
    assert_int_equal(metric_get(M_STORE_DAMAGED, ""), before + 1);
    fetch.with_raw = true;
    fetch.uids = world_range(w, uid, uid);
    fetch.n_uids = 1;
    MUST(w, fetch, &fetch, &r);
    assert_true(r->n_messages == 1 && r->messages[0]->is_raw_omitted && r->messages[0]->raw.len == 0);
    assert_true(sink.buf.n < r->messages[0]->size);
    buf_done(&sink.buf);
}

static bool damage_inline_body(struct sql_tx *tx, void *arg, struct err *err)
{
    static const struct sql_stmt mix_up = {
        "t_mix_up", "",
        "",         "UPDATE s_blob_inline SET data = (SELECT data FROM s_blob_inline ORDER BY blob_id DESC LIMIT 1)",
        NULL,       false};
    (void)arg;
    return sql_exec(tx, &mix_up, NULL, 1, NULL, err);
}

/* Small bodies are proven as well: here the first has become the second, which is as long. A large one is streamed up
 * to its last piece. */
static void proof_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX");
    struct err err = ERR_INIT;
    char path[200];
    world_append(w, inbox, "Subject: a\r\n\r\none\r\n", 0);
    world_append(w, inbox, "Subject: b\r\n\r\ntwo\r\n", 0);
    assert_true(sql_write(w->db, damage_inline_body, NULL, &err));
    assert_unread(w, inbox, 1);
    assert_true(str_eq(world_read(w, inbox, 2, 0, 0), S("Subject: b\r\n\r\ntwo\r\n")));
    assert_true(append_blob(w, inbox, world_put(w, world_message(w, 1, 3000000))) == 3);
    assert_true(world_read(w, inbox, 3, 0, 0).n == 3000000);
    segment_path(w, 1, path);
    flip(path, 64 + 100); /* in the first piece, and noticed before the last */
    assert_unread(w, inbox, 3);
}

/* A flipped bit in a body or a header costs that one body at most, never what is behind it. */
static void damage_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX");
    enum { BYTES = 50000, RECORD = BYTES + 64 };
    char path[200];
    struct stat before, after;
    for (unsigned i = 0; i < 4; i++)
        world_append(w, inbox, arena_strz(&w->a, world_message(w, i, BYTES)), 0);
    segment_path(w, 1, path);
    assert_int_equal(stat(path, &before), 0);
    assert_int_equal(before.st_size, 4 * RECORD);
    static const off_t places[] = {RECORD + 30000, 2 * RECORD + 17}; /* in the second's body, in the third's header */
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        flip(path, places[i]);
        world_restart(w);
        assert_int_equal(stat(path, &after), 0);
        assert_int_equal(after.st_size, before.st_size);
        assert_true(str_eq(world_read(w, inbox, 1, 0, 0), world_message(w, 0, BYTES)));
        assert_true(str_eq(world_read(w, inbox, 3, 0, 0), world_message(w, 2, BYTES)));
        assert_true(str_eq(world_read(w, inbox, 4, 0, 0), world_message(w, 3, BYTES)));
        assert_unread(w, inbox, 2);
    }
    /* New bodies go to a new segment. */
    world_append(w, inbox, arena_strz(&w->a, world_message(w, 9, BYTES)), 0);
    assert_true(str_eq(world_read(w, inbox, 5, 0, 0), world_message(w, 9, BYTES)));
    assert_int_equal(world_sql(w, "SELECT max(seg) FROM s_blob"), 2);
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(after.st_size, before.st_size);
    world_restart(w);
    assert_true(str_eq(world_read(w, inbox, 5, 0, 0), world_message(w, 9, BYTES)));
}

// clang-format off
static const struct sql_stmt make_backup = {"t_make_backup", "", "", "CREATE TABLE t_backup AS SELECT * FROM s_blob", NULL,
                                            false};
static const struct sql_stmt empty_blobs = {"t_empty_blobs", "", "", "DELETE FROM s_blob", NULL, false};
static const struct sql_stmt restore_blobs = {"t_restore_blobs", "", "", "INSERT INTO s_blob SELECT * FROM t_backup", NULL,
                                              false};
// clang-format on

FIBER static bool backup_body(struct sql_tx *tx, void *arg, struct err *err)
{
    (void)arg;
    return sql_exec(tx, &make_backup, NULL, 1, NULL, err);
}

FIBER static bool restore_body(struct sql_tx *tx, void *arg, struct err *err)
{
    (void)arg;
    return sql_exec(tx, &empty_blobs, NULL, 1, NULL, err) && sql_exec(tx, &restore_blobs, NULL, 1, NULL, err);
}

/* The databases are copied, a compaction runs, the folder is copied: what the copy of the databases names is there. */
static void backup_case(struct world *w)
{
    enum { N = 30, BIG = 2500000 };
    int64_t inbox = world_mailbox(w, "INBOX");
    struct err err = ERR_INIT;
    char path[200];
    for (unsigned i = 0; i < N; i++)
        assert_true(append_blob(w, inbox, world_put(w, world_message(w, i, BIG))) != 0);
    world_expunge(w, inbox, 2, 20);
    later(2);
    assert_true(sql_write(w->db, backup_body, NULL, &err));
    assert_int_equal(sweep(w, 0, false)->removed, 19);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_blob WHERE seg = 1"), 0);
    clock_jump_s(23 * 3600);
    (void)sweep(w, 0, false);
    assert_true(sql_write(w->db, restore_body, NULL, &err));
    assert_true(world_sql(w, "SELECT count(*) FROM s_blob WHERE seg = 1") > 0);
    assert_true(str_eq(world_read(w, inbox, 1, 0, 0), world_message(w, 0, BIG)));
    for (unsigned i = 20; i < N; i++)
        assert_true(str_eq(world_read(w, inbox, i + 1, 0, 0), world_message(w, i, BIG)));
    /* It is compacted again, and a day later the file goes. */
    later(1);
    (void)sweep(w, 0, false);
    later(2);
    (void)sweep(w, 0, false);
    segment_path(w, 1, path);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_true(str_eq(world_read(w, inbox, 1, 0, 0), world_message(w, 0, BIG)));
    clock_real();
}

/* Segments that are mostly dead are rewritten; what lives in them stays readable. A damaged body stays with its
 * segment. */
static void compact(struct world *w, bool with_damage)
{
    enum { N = 30, BIG = 2500000 };
    int64_t inbox = world_mailbox(w, "INBOX");
    char path[200];
    for (unsigned i = 0; i < N; i++)
        assert_true(append_blob(w, inbox, world_put(w, world_message(w, i, BIG))) != 0);
    assert_true(world_sql(w, "SELECT max(seg) FROM s_blob") == 2);
    world_expunge(w, inbox, 2, 20);
    if (with_damage) {
        segment_path(w, 1, path);
        flip(path, 1000);
    }
    later(2);
    for (int i = 1; i <= 2; i++) {
        segment_path(w, i, path);
        struct utimbuf old = {1000000000, 1000000000};
        assert_int_equal(utime(path, &old), 0);
    }
    assert_int_equal(sweep(w, 0, false)->removed, 19);
    later(2);
    (void)sweep(w, 0, false);
    clock_real();
    segment_path(w, 1, path);
    assert_true((access(path, F_OK) == 0) == with_damage);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_blob WHERE seg = 1"), with_damage);
    segment_path(w, 2, path);
    assert_int_equal(access(path, F_OK), 0);
    if (with_damage)
        assert_unread(w, inbox, 1);
    else
        assert_true(str_eq(world_read(w, inbox, 1, 0, 0), world_message(w, 0, BIG)));
    assert_true(str_eq(world_read(w, inbox, 25, 0, 0), world_message(w, 24, BIG)));
}

static void compact_case(struct world *w)
{
    compact(w, false);
}

static void compact_damaged_case(struct world *w)
{
    compact(w, true);
}

static void lock_case(struct world *w)
{
    struct err err = ERR_INIT;
    assert_null(store_new(&w->opts, &err));
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
}

/* --- retention --- */

static void retention_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX");
    Thurn__DeliverReply__Result d;
    uint32_t day = (uint32_t)(clock_unix() / 86400);
    assert_true(world_deliver(w, "Subject: x\r\n\r\nx\r\n", "key", day, &d));
    int64_t floor_before = world_sql(w, "SELECT floor_modseq FROM s_account"),
            top = world_sql(w, "SELECT modseq FROM s_account");
    (void)sweep(w, 0, false);
    assert_int_equal(world_sql(w, "SELECT floor_modseq FROM s_account"), floor_before);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_delivered"), 1);
    later(100);
    (void)sweep(w, 0, false);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_changes"), 0);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_delivered"), 0);
    assert_int_equal(world_sql(w, "SELECT floor_modseq FROM s_account"), top);
    /* Life goes on above the floor. */
    world_append(w, inbox, "Subject: y\r\n\r\ny\r\n", 0);
    Thurn__SyncRequest q = THURN__SYNC_REQUEST__INIT;
    const Thurn__SyncReply *r = NULL;
    q.account = &w->ref;
    q.mailbox_id = inbox;
    q.since_modseq = (uint64_t)top;
    MUST(w, sync, &q, &r);
    assert_int_equal(r->n_messages, 1);
    q.since_modseq = (uint64_t)floor_before;
    MUST(w, sync, &q, &r);
    assert_int_equal(r->n_messages, 2);
    clock_real();
}

int main(void)
{
    static const struct world_case one[] = {
        {"sizes", sizes_case},
        {"content", content_case},
        {"limits", limits_case},
        {"sweep", sweep_case},
        {"hold", hold_case},
        {"relayed", relayed_case},
        {"crash", crash_case},
        {"torn", torn_case},
        {"lost segment", lost_segment_case},
        {"occupied", occupied_case},
        {"damage", damage_case},
        {"compact", compact_case},
        {"backup", backup_case},
        {"compact_damaged", compact_damaged_case},
        {"proof", proof_case},
        {"lock", lock_case},
        {"retention", retention_case},
    };
    static const struct world_case two[] = {{"shards", shards_case}};
    return world_main(one, ARRAY_LEN(one), 1, NULL) + world_main(two, ARRAY_LEN(two), 2, NULL);
}
