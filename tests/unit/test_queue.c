/* The queue service on SQLite and on PostgreSQL, between a directory, a store and a world that are played here. */
#include "queue-service/queue.h"

#include "unit/test.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/metrics.h"
#include "base/trouble.h"
#include "mail/delivery_key.h"
#include "proto/auth.pb-c.h"
#include "proto/queue.pb-c.h"
#include "proto/queue_calls.h"
#include "proto/store.pb-c.h"
#include "queue-service/remote/remote.h"
#include "unit/testdb.h"

static enum testdb_kind kind;

/* --- the world: what was delivered where, and how it is to behave --- */
#define SEEN_MAX 4000
struct seen {
    char *to, *content; /* content begins with the prefix */
    unsigned char key[32];
    uint32_t day;
};
static struct {
    struct seen local[SEEN_MAX], remote[SEEN_MAX];
    size_t n_local, n_remote, n_duplicates;
    unsigned store_away, auth_away; /* so many calls fail */
    unsigned remote_away;           /* so many attempts reach nobody */
    unsigned remote_delay_ms, store_delay_ms;
    unsigned running, most_running;
    bool is_sent;        /* the peer has all of the content while that lasts */
    unsigned n_attempts; /* of remote_deliver */
    char *blobs[64];
    size_t blob_n[64], n_blobs;
    unsigned holds; /* calls */
    int64_t hold_until;
    struct {
        unsigned blob;
        unsigned char holder[24];
    } held[64];
    size_t n_held, n_released;
    unsigned release_away;  /* so many calls fail */
    unsigned space_away;    /* the calls for this space fail; 0 = none */
    unsigned shard_away;    /* accounts on this shard of the store are not to be reached */
    unsigned n_shard_calls; /* such calls */
    unsigned looking_up, most_looking_up;
    uint32_t result_kind, call_kind; /* what the store answers for each, or to the whole */
    unsigned n_results;              /* such answers */
} world;

static void world_clear(void)
{
    for (size_t i = 0; i < world.n_local; i++) {
        free(world.local[i].to);
        free(world.local[i].content);
    }
    for (size_t i = 0; i < world.n_remote; i++) {
        free(world.remote[i].to);
        free(world.remote[i].content);
    }
    for (size_t i = 0; i < world.n_blobs; i++)
        free(world.blobs[i]);
    memset(&world, 0, sizeof(world));
}

static size_t count_local(const char *to)
{
    size_t n = 0;
    for (size_t i = 0; i < world.n_local; i++)
        n += strcmp(world.local[i].to, to) == 0;
    return n;
}
static size_t count_remote(const char *to)
{
    size_t n = 0;
    for (size_t i = 0; i < world.n_remote; i++)
        n += strcmp(world.remote[i].to, to) == 0;
    return n;
}
static const char *local_content(const char *to)
{
    for (size_t i = 0; i < world.n_local; i++)
        if (strcmp(world.local[i].to, to) == 0)
            return world.local[i].content;
    return "";
}

/* The directory: example.org is ours. Local parts say what they are. Account ids are numbers of these names. */
static const char *const people[] = {"alice", "bob", "carol", "full", "moved", "sender"};

static void add_target(Thurn__Resolution *r, const char *address, struct arena *a)
{
    Thurn__Target *t = arena_new(a, Thurn__Target);
    thurn__target__init(t);
    t->address = arena_strz(a, str_c(address));
    r->kind = THURN__RECIPIENT_KIND__RECIPIENT_LOCAL;
    for (size_t i = 0; i < ARRAY_LEN(people); i++)
        if (str_starts(str_c(address), str_c(people[i]))) {
            t->account = arena_new(a, Thurn__AccountRef);
            thurn__account_ref__init(t->account);
            t->account->account_id = (int64_t)i + 1;
            t->account->shard = (uint32_t)i % 2 + 1; /* alice 1, bob 2 */
        }
    r->targets[r->n_targets++] = t;
}

static Thurn__Resolution *resolve_one(const char *address, struct arena *a)
{
    Thurn__Resolution *r = arena_new(a, Thurn__Resolution);
    thurn__resolution__init(r);
    r->targets = arena_array(a, Thurn__Target *, 4);
    str s = str_c(address);
    if (!str_ends(s, S("@example.org"))) {
        r->kind = THURN__RECIPIENT_KIND__RECIPIENT_REMOTE;
    } else if (str_starts(s, S("team@"))) {
        add_target(r, "alice@example.org", a);
        add_target(r, "bob@example.org", a);
        add_target(r, "far@remote.example", a);
        r->targets[2]->account = NULL;
    } else if (str_starts(s, S("away@"))) {
        r->kind = THURN__RECIPIENT_KIND__RECIPIENT_SUSPENDED;
    } else {
        add_target(r, address, a);
        if (!r->targets[0]->account) {
            r->n_targets = 0;
            r->kind = THURN__RECIPIENT_KIND__RECIPIENT_UNKNOWN;
        }
    }
    return r;
}

FIBER static void fake_resolve(Thurn__Auth_Service *s, const Thurn__ResolveRequest *q,
                               Thurn__ResolveReply_Closure closure, void *call)
{
    (void)s;
    struct rpc_call *c = call;
    Thurn__ResolveReply r = THURN__RESOLVE_REPLY__INIT;
    if (world.auth_away) {
        world.auth_away--;
        err_set(&c->err, ERR_UNAVAILABLE, "directory is away");
        closure(NULL, call);
        return;
    }
    r.resolutions = arena_array(c->arena, Thurn__Resolution *, q->n_addresses + 1);
    for (size_t i = 0; i < q->n_addresses; i++)
        r.resolutions[r.n_resolutions++] = resolve_one(q->addresses[i], c->arena);
    closure(&r, call);
}

/* --- holds of blobs --- */

static size_t find_hold(unsigned blob, ProtobufCBinaryData holder)
{
    size_t i = 0;
    assert_int_equal(holder.len, 24);
    while (i < world.n_held && (world.held[i].blob != blob || memcmp(world.held[i].holder, holder.data, 24) != 0))
        i++;
    return i;
}
static void add_hold(unsigned blob, ProtobufCBinaryData holder)
{
    size_t i = find_hold(blob, holder);
    if (i < world.n_held)
        return;
    assert_true(world.n_held < ARRAY_LEN(world.held));
    world.held[i].blob = blob;
    memcpy(world.held[i].holder, holder.data, 24);
    world.n_held++;
}
/* A body that is used is held: the sweep may come at any time. */
static void must_be_held(const Thurn__BlobRef *ref)
{
    size_t i = 0;
    while (i < world.n_held && world.held[i].blob != ref->hash.data[0])
        i++;
    if (i == world.n_held)
        fail_msg("blob %u is used, and nobody holds it", ref->hash.data[0]);
}
static void fake_release_blobs(Thurn__Store_Service *s, const Thurn__ReleaseBlobsRequest *q,
                               Thurn__Empty_Closure closure, void *call)
{
    (void)s;
    struct rpc_call *c = call;
    Thurn__Empty r = THURN__EMPTY__INIT;
    if (world.release_away || (world.space_away && q->holds[0]->blob->space == world.space_away)) {
        world.release_away -= world.release_away > 0;
        err_set(&c->err, ERR_UNAVAILABLE, "store is away");
        closure(NULL, call);
        return;
    }
    for (size_t k = 0; k < q->n_holds; k++) {
        size_t i = find_hold(q->holds[k]->blob->hash.data[0], q->holds[k]->holder);
        assert_int_equal(q->holds[k]->blob->space, q->holds[0]->blob->space);
        if (i < world.n_held)
            world.held[i] = world.held[--world.n_held];
        world.n_released++;
    }
    closure(&r, call);
}
static bool holds_so_many(void *n)
{
    return world.n_held == *(const size_t *)n;
}
static bool nothing_held(void *arg)
{
    (void)arg;
    return world.n_held == 0;
}

static char *body_text(const Thurn__DeliverRequest *q)
{
    BUF(b, 1 << 23);
    buf_add(&b, rpc_str(q->prefix));
    if (q->body->blob)
        must_be_held(q->body->blob);
    if (q->body->blob)
        buf_add_n(&b, world.blobs[q->body->blob->hash.data[0]], world.blob_n[q->body->blob->hash.data[0]]);
    else
        buf_add(&b, rpc_str(q->body->content));
    return str_dup(buf_str(&b));
}

FIBER static void fake_deliver(Thurn__Store_Service *s, const Thurn__DeliverRequest *q,
                               Thurn__DeliverReply_Closure closure, void *call)
{
    (void)s;
    struct rpc_call *c = call;
    Thurn__DeliverReply r = THURN__DELIVER_REPLY__INIT;
    struct err ignored = ERR_INIT;
    if (world.store_delay_ms)
        assert_true(fiber_sleep_ms(world.store_delay_ms, &ignored));
    if (world.store_away) {
        world.store_away--;
        err_set(&c->err, ERR_UNAVAILABLE, "store is away");
        closure(NULL, call);
        return;
    }
    if (world.call_kind) {
        world.n_results++;
        err_set(&c->err, (enum err_kind)world.call_kind, "as told");
        closure(NULL, call);
        return;
    }
    r.results = arena_array(c->arena, Thurn__DeliverReply__Result *, q->n_recipients);
    for (size_t i = 0; i < q->n_recipients; i++) {
        const Thurn__DeliverRecipient *to = q->recipients[i];
        Thurn__DeliverReply__Result *res = r.results[r.n_results++] = arena_new(c->arena, Thurn__DeliverReply__Result);
        thurn__deliver_reply__result__init(res);
        assert_int_equal(to->delivery_key.len, 32);
        const char *name = people[to->account->account_id - 1];
        assert_int_equal(to->account->shard, q->recipients[0]->account->shard);
        if (to->account->shard == world.shard_away) {
            world.n_shard_calls += i == 0;
            res->error_kind = ERR_UNAVAILABLE;
            res->error = (char *)(uintptr_t) "shard is away";
            continue;
        }
        if (world.result_kind && strcmp(name, "sender") != 0) {
            world.n_results++;
            res->error_kind = world.result_kind;
            res->error = (char *)(uintptr_t) "as told";
            continue;
        }
        if (strcmp(name, "full") == 0 || strcmp(name, "moved") == 0) {
            res->error_kind = strcmp(name, "full") == 0 ? ERR_QUOTA : ERR_CONFLICT;
            res->error = (char *)(uintptr_t) "not now";
            continue;
        }
        for (size_t k = 0; k < world.n_local; k++)
            if (memcmp(world.local[k].key, to->delivery_key.data, 32) == 0)
                res->is_duplicate = true;
        if (res->is_duplicate) {
            world.n_duplicates++;
            continue;
        }
        assert_true(world.n_local < SEEN_MAX);
        struct seen *seen = &world.local[world.n_local++];
        *seen = (struct seen){.to = xstrdup(name), .content = body_text(q), .day = to->day};
        memcpy(seen->key, to->delivery_key.data, 32);
    }
    closure(&r, call);
}

/* A body that a front-end has put into the store. */
static void put_blob(str content, Thurn__BlobRef *out, unsigned char hash[32])
{
    thurn__blob_ref__init(out);
    memset(hash, 0, 32);
    hash[0] = (unsigned char)world.n_blobs;
    out->space = 1;
    out->size = content.n;
    out->hash = rpc_bytes(str_n(hash, 32));
    assert_true(world.n_blobs < ARRAY_LEN(world.blobs));
    world.blob_n[world.n_blobs] = content.n;
    world.blobs[world.n_blobs++] = str_dup(content);
}

FIBER static void fake_put_blob(Thurn__Store_Service *s, const Thurn__PutBlobRequest *q,
                                Thurn__PutBlobReply_Closure closure, void *call)
{
    (void)s;
    struct rpc_call *c = call;
    BUF(b, 1 << 23);
    for (;;) {
        str piece;
        if (!c->body->read(c->body, &piece, &c->err)) {
            closure(NULL, call);
            return;
        }
        if (!piece.n)
            break;
        buf_add(&b, piece);
    }
    assert_true(q->hold_until_unix > clock_unix() && b.n <= q->size_max);
    unsigned char hash[32];
    Thurn__BlobRef blob;
    Thurn__PutBlobReply r = THURN__PUT_BLOB_REPLY__INIT;
    put_blob(buf_str(&b), &blob, hash);
    r.blob = &blob;
    add_hold(hash[0], q->holder);
    closure(&r, call);
}

FIBER static void fake_read_blob(Thurn__Store_Service *s, const Thurn__ReadBlobRequest *q, Thurn__Empty_Closure closure,
                                 void *call)
{
    (void)s;
    struct rpc_call *c = call;
    Thurn__Empty r = THURN__EMPTY__INIT;
    unsigned i = q->blob->hash.data[0];
    must_be_held(q->blob);
    str all = str_n(world.blobs[i], world.blob_n[i]);
    all = str_slice(all, (size_t)q->offset, q->length ? (size_t)(q->offset + q->length) : SIZE_MAX);
    while (all.n) { /* in pieces that do not fit anything */
        str piece = str_slice(all, 0, 7001);
        all = str_slice(all, piece.n, SIZE_MAX);
        if (!c->out->write(c->out, piece, &c->err)) {
            closure(NULL, call);
            return;
        }
    }
    closure(&r, call);
}

static void fake_hold_blob(Thurn__Store_Service *s, const Thurn__HoldBlobRequest *q, Thurn__Empty_Closure closure,
                           void *call)
{
    (void)s;
    Thurn__Empty r = THURN__EMPTY__INIT;
    assert_true(q->hold_until_unix > clock_unix());
    world.holds++;
    world.hold_until = q->hold_until_unix;
    add_hold(q->blob->hash.data[0], q->holder);
    closure(&r, call);
}

// clang-format off
static Thurn__Auth_Service fake_auth = {
    .base = {.descriptor = &thurn__auth__descriptor, .invoke = protobuf_c_service_invoke_internal}, .resolve = fake_resolve};
static Thurn__Store_Service fake_store = {
    .base = {.descriptor = &thurn__store__descriptor, .invoke = protobuf_c_service_invoke_internal},
    .deliver = fake_deliver, .put_blob = fake_put_blob, .read_blob = fake_read_blob, .hold_blob = fake_hold_blob,
    .release_blobs = fake_release_blobs};

/* The other servers. They take the place of the SMTP client. */
struct remote {
    int unused;
};
// clang-format on
struct remote *remote_new(const struct remote_opts *opts, struct err *err)
{
    (void)opts, (void)err;
    return xnew(struct remote);
}
void remote_free(struct remote *r)
{
    free(r);
}

bool remote_resolve(struct remote *r, str domain, struct arena *a, struct remote_site *out, struct err *err)
{
    (void)r;
    if (str_starts(domain, S("dark"))) {
        world.looking_up++;
        world.most_looking_up = MAX(world.most_looking_up, world.looking_up);
        bool has_slept = fiber_sleep_ms(100, err);
        world.looking_up--;
        return has_slept && err_set(err, ERR_UNAVAILABLE, "nobody answers");
    }
    if (str_eq(domain, S("nowhere.example")))
        return err_set(err, ERR_NOT_FOUND, "no such domain");
    if (str_eq(domain, S("null.example")))
        return err_set(err, ERR_DENIED, "null MX");
    out->key = arena_str(a, domain);
    out->mx = arena_new(a, struct dns_mx);
    out->mx->name = out->key;
    out->n_mx = 1;
    return true;
}

/* Local parts say what happens: "bad" 550, "later" 451, others are taken. */
FIBER static void one_remote(struct remote_rcpt *r, const char *content)
{
    r->code = 250;
    (void)snprintf(r->mx, sizeof(r->mx), "mx.remote.example[192.0.2.1]");
    if (str_starts(r->address, S("bad"))) {
        r->outcome = REMOTE_FAILED;
        r->code = 550;
        (void)snprintf(r->status, sizeof(r->status), "5.7.1");
        (void)snprintf(r->text, sizeof(r->text), "550 5.7.1 go away");
    } else if (str_starts(r->address, S("later"))) {
        r->outcome = REMOTE_DEFERRED;
        r->code = 451;
        (void)snprintf(r->status, sizeof(r->status), "4.7.1");
        (void)snprintf(r->text, sizeof(r->text), "451 4.7.1 not now");
    } else {
        assert_true(world.n_remote < SEEN_MAX);
        r->outcome = REMOTE_DELIVERED;
        (void)snprintf(r->text, sizeof(r->text), "250 ok");
        world.remote[world.n_remote++] = (struct seen){.to = str_dup(r->address), .content = xstrdup(content)};
    }
}

void remote_deliver(struct remote *r, const struct remote_site *site, const struct remote_message *m,
                    struct remote_rcpt *rcpts, size_t n)
{
    (void)r, (void)site;
    struct err err = ERR_INIT;
    world.running++;
    world.n_attempts++;
    world.most_running = MAX(world.most_running, world.running);
    if (m->is_sent)
        *m->is_sent = world.is_sent;
    bool was_broken_off = world.remote_delay_ms && !fiber_sleep_ms(world.remote_delay_ms, &err);
    world.running--;
    for (size_t i = 0; i < n && was_broken_off; i++) {
        rcpts[i].outcome = REMOTE_DEFERRED;
        rcpts[i].is_site_failure = !world.is_sent; /* as when it was connecting still */
    }
    if (was_broken_off)
        return;
    if (world.remote_away) {
        world.remote_away--;
        for (size_t i = 0; i < n; i++) {
            rcpts[i].outcome = REMOTE_DEFERRED;
            rcpts[i].is_site_failure = true;
            (void)snprintf(rcpts[i].text, sizeof(rcpts[i].text), "connection refused");
        }
        return;
    }
    BUF(content, 1 << 23);
    struct rpc_source *src = m->open(m->arg, &err);
    assert_non_null(src);
    for (str piece;;) {
        if (!src->read(src, &piece, &err))
            fail_msg("%s", err.msg);
        if (!piece.n)
            break;
        buf_add(&content, piece);
    }
    m->close(m->arg, src);
    assert_int_equal(content.n, m->size);
    for (size_t i = 0; i < n; i++)
        one_remote(&rcpts[i], buf_z(&content));
}

/* --- a node --- */

static const uint32_t retry[] = {1, 2};
struct world_run {
    struct arena a;
    struct sql_db *db;
    struct queue *q;
    struct err err;
    void (*fn)(struct world_run *w);
};

static struct queue_opts options(struct world_run *w, const char *node)
{
    return (struct queue_opts){.db = w->db,
                               .node = str_c(node),
                               .n_shards = kind == TESTDB_PG ? 8 : 1,
                               .store = &fake_store.base,
                               .auth = &fake_auth.base,
                               .hostname = S("mail.example.org"),
                               .retry_s = retry,
                               .n_retry = 2,
                               .lease_ms = 3000 /* shorter ones lapse on a busy machine */,
                               .takeover_hold_ms = 1000};
}

static bool wait_for(bool (*is_so)(void *), void *arg)
{
    struct err err = ERR_INIT;
    for (int64_t end = clock_mono_ms() + 20000; clock_mono_ms() < end;) {
        if (is_so(arg))
            return true;
        if (!fiber_sleep_ms(2, &err))
            return false;
    }
    return false;
}
static bool remote_runs(void *arg)
{
    (void)arg;
    return world.running > 0;
}
static bool is_ready(void *q)
{
    return queue_is_ready(q);
}

static struct queue *start(struct world_run *w, const char *node)
{
    struct err err = ERR_INIT;
    struct queue_opts opts = options(w, node);
    struct queue *q = queue_new(&opts, &err);
    if (!q || !queue_start(q, &err))
        fail_msg("%s", err.msg);
    return q;
}

static void world_main(void *arg)
{
    struct world_run *w = arg;
    struct err err = ERR_INIT;
    unsigned n = 0;
    w->db = testdb_open(kind, "queue", 4, &w->a);
    if (!queue_migrate(w->db, false, &n, &err))
        fail_msg("%s", err.msg);
    w->q = start(w, "one");
    assert_true(wait_for(is_ready, w->q));
    w->fn(w);
    queue_free(w->q);
    sql_close(w->db);
    testdb_drop(kind, "queue");
}

static void run(void (*fn)(struct world_run *w))
{
    struct world_run w = {.fn = fn};
    arena_init(&w.a, 1 << 28);
    metrics_reset();
    world_clear();
    assert_true(fiber_main(world_main, &w));
    clock_real();
    arena_done(&w.a);
    world_clear();
}

#define CALL(w, queue, method, Reply, request)                                                                         \
    __extension__({                                                                                                    \
        struct rpc_call c_;                                                                                            \
        const Thurn__##Reply *r_ = NULL;                                                                               \
        rpc_call_init(&c_, &(w)->a);                                                                                   \
        if (!queue_##method(&c_, queue_service(queue), request, &r_))                                                  \
            r_ = NULL;                                                                                                 \
        (w)->err = c_.err;                                                                                             \
        r_;                                                                                                            \
    })

struct mail {
    const char *from, *to; /* several with a space between */
    const char *content, *prefix;
    unsigned notify;
    int64_t tenant, expires_in, account;
    uint64_t id_number; /* 0 = a random enqueue id */
    bool ret_full;
};
static uint64_t enqueue(struct world_run *w, struct queue *q, struct mail m)
{
    Thurn__EnqueueRequest req = THURN__ENQUEUE_REQUEST__INIT;
    Thurn__Body body = THURN__BODY__INIT;
    Thurn__QueueRecipient **list = arena_array(&w->a, Thurn__QueueRecipient *, 1000),
                          *rcpts = arena_array(&w->a, Thurn__QueueRecipient, 1000);
    unsigned char id[16] = {0};
    if (m.id_number)
        memcpy(id, &m.id_number, sizeof(m.id_number));
    else
        random_bytes(id, sizeof(id));
    req.enqueue_id = rpc_bytes(str_n(id, 16));
    req.sender = (char *)(uintptr_t)(m.from ? m.from : "sender@example.org");
    req.prefix = rpc_bytes(str_c(m.prefix));
    req.recipients = list;
    req.tenant_id = m.tenant;
    req.account_id = m.account;
    req.expires_unix = m.expires_in ? clock_unix() + m.expires_in : 0;
    req.ret_full = m.ret_full;
    str rest = str_c(m.to), one;
    while (str_split(&rest, ' ', &one)) {
        Thurn__QueueRecipient *r = list[req.n_recipients] = &rcpts[req.n_recipients];
        thurn__queue_recipient__init(r);
        r->address = arena_strz(&w->a, one);
        r->notify = m.notify;
        req.n_recipients++;
    }
    str content = str_c(m.content ? m.content : "Subject: hello\r\n\r\nbody\r\n");
    Thurn__BlobRef blob;
    unsigned char hash[32];
    if (content.n > 512 * 1024) { /* as front-ends do */
        put_blob(content, &blob, hash);
        body.blob = &blob;
    } else {
        body.content = rpc_bytes(content);
    }
    req.body = &body;
    const Thurn__EnqueueReply *r = CALL(w, q, enqueue, EnqueueReply, &req);
    return r ? r->queue_id : 0;
}

static const Thurn__QueueStatsReply *stats(struct world_run *w, struct queue *q)
{
    Thurn__Empty e = THURN__EMPTY__INIT;
    const Thurn__QueueStatsReply *r = CALL(w, q, stats, QueueStatsReply, &e);
    assert_non_null(r);
    return r;
}
struct two {
    struct world_run *w;
    struct queue *q;
    size_t n;
};
static bool holds(void *arg)
{
    struct two *t = arg;
    ARENA(a, 1 << 20);
    struct arena saved = t->w->a;
    t->w->a = a;
    const Thurn__QueueStatsReply *s = stats(t->w, t->q);
    bool is_so = s->messages == t->n && s->active == 0;
    a = t->w->a;
    t->w->a = saved;
    return is_so;
}
/* Wait until the queue holds so many messages, and nothing is under way. */
static void settle(struct world_run *w, size_t n)
{
    if (!wait_for(holds, &(struct two){w, w->q, n}))
        fail_msg("%zu messages, not %zu", (size_t)stats(w, w->q)->messages, n);
}

static bool uses_more(void *bytes)
{
    return metric_get(M_QUEUE_MEMORY, NULL) > *(int64_t *)bytes;
}

// clang-format off
static const struct sql_stmt count_rows = {
    .name = "count_rows", .params = "", .cols = "i",
    .sqlite = "SELECT (SELECT count(*) FROM q_msg) + (SELECT count(*) FROM q_rcpt) + (SELECT count(*) FROM q_body)"};
// clang-format on
static int64_t rows(struct world_run *w)
{
    struct sql_result r;
    struct err err = ERR_INIT;
    assert_true(sql_query(w->db, &count_rows, NULL, &w->a, &r, &err));
    return sql_at(&r, 0, 0)->i;
}

static uint64_t act(struct world_run *w, const char *recipient, Thurn__QueueOp op)
{
    Thurn__QueueActRequest req = THURN__QUEUE_ACT_REQUEST__INIT;
    Thurn__QueueFilter f = THURN__QUEUE_FILTER__INIT;
    f.recipient = (char *)(uintptr_t)recipient;
    f.is_all = !recipient[0];
    req.filter = &f;
    req.op = op;
    const Thurn__QueueActReply *r = CALL(w, w->q, act, QueueActReply, &req);
    assert_non_null(r);
    return r->affected;
}

static const Thurn__QueuedMessage *show(struct world_run *w, uint64_t id)
{
    Thurn__QueueShowRequest req = THURN__QUEUE_SHOW_REQUEST__INIT;
    req.queue_id = id;
    return CALL(w, w->q, show, QueuedMessage, &req);
}

/* Every recipient that is left was attempted at least once, and waits. */
struct one_message {
    struct world_run *w;
    uint64_t id;
};
static bool was_tried(void *arg)
{
    struct one_message *o = arg;
    const Thurn__QueuedMessage *m = show(o->w, o->id);
    assert_non_null(m);
    for (size_t i = 0; i < m->n_recipients; i++)
        if (m->recipients[i]->state == THURN__RECIPIENT_STATE__RCPT_ACTIVE || !m->recipients[i]->text[0])
            return false;
    return true;
}

/* --- cases --- */

static void local(struct world_run *w)
{
    unsigned char key[32], id[16] = {0};
    uint64_t number = 77;
    assert_true(enqueue(
        w, w->q,
        (struct mail){.to = "alice@example.org Bob@Example.org", .prefix = "Return-Path: <>\r\n", .id_number = 77}));
    settle(w, 0);
    assert_int_equal(count_local("alice"), 1);
    assert_string_equal(local_content("alice"), "Return-Path: <>\r\nSubject: hello\r\n\r\nbody\r\n");
    memcpy(id, &number, sizeof(number));
    delivery_key(id, 0, key);
    assert_memory_equal(world.local[0].key, key, 32);
    assert_int_equal(world.local[0].day, clock_unix() / 86400);
    assert_int_equal(rows(w), 0);
}

static void refusals(struct world_run *w)
{
    assert_false(enqueue(w, w->q, (struct mail){.to = ""}));
    assert_int_equal(w->err.kind, ERR_INVALID);
    assert_false(enqueue(w, w->q, (struct mail){.to = "nobody"}));
    assert_false(enqueue(w, w->q, (struct mail){.to = "a\nb@example.org"}));
    assert_false(enqueue(w, w->q, (struct mail){.from = "a\r\nb@example.org", .to = "alice@example.org"}));
    assert_false(enqueue(w, w->q, (struct mail){.to = "alice@example.org", .content = ""}));
    assert_int_equal(w->err.kind, ERR_INVALID);
}

/* One enqueue id is one message, also when it comes again while the first is under way or long after. */
struct enqueuer {
    struct world_run *w;
    unsigned first, n, same;
};
static void enqueue_many(void *arg)
{
    struct enqueuer *e = arg;
    struct world_run mine = {.q = e->w->q};
    arena_init(&mine.a, 1 << 26);
    for (unsigned i = 0; i < e->n; i++)
        if (!enqueue(&mine, mine.q,
                     (struct mail){.to = i % 2 ? "alice@example.org" : "x@remote.example",
                                   .id_number = e->same ? e->same : e->first + i}))
            fail_msg("%s", mine.err.msg);
    arena_done(&mine.a);
}

static void many(struct world_run *w)
{
    struct err err = ERR_INIT;
    struct enqueuer e[20];
    FIBER_GROUP(g, 20);
    for (unsigned i = 0; i < 20; i++) {
        e[i] = (struct enqueuer){w, 1000 * (i + 1), 40, 0};
        assert_true(fiber_group_spawn(&g, "test", enqueue_many, &e[i], &err));
    }
    assert_true(fiber_group_wait(&g, &err));
    settle(w, 0);
    assert_int_equal(count_local("alice"), 400);
    assert_int_equal(count_remote("x@remote.example"), 400);
    assert_int_equal(world.n_duplicates, 0);
    assert_int_equal(rows(w), 0);
    assert_true(metric_get(M_QUEUE_COMMITTED, NULL) >= 1600);
    assert_true(metric_get(M_QUEUE_COMMITS, NULL) < 1000); /* they share commits */
}

static void same_id(struct world_run *w)
{
    struct err err = ERR_INIT;
    struct enqueuer e[10];
    world.remote_delay_ms = 20;
    FIBER_GROUP(g, 10);
    for (unsigned i = 0; i < 10; i++) {
        e[i] = (struct enqueuer){w, 0, 1, 4242};
        assert_true(fiber_group_spawn(&g, "test", enqueue_many, &e[i], &err));
    }
    assert_true(fiber_group_wait(&g, &err));
    settle(w, 0);
    assert_int_equal(world.n_remote, 1);
    assert_true(enqueue(w, w->q, (struct mail){.to = "x@remote.example", .id_number = 4242}));
    settle(w, 0);
    assert_int_equal(world.n_remote, 1);
}

static void large(struct world_run *w)
{
    size_t n = 400000;
    char *content = xmalloc(n + 1);
    for (size_t i = 0; i < n; i++)
        content[i] = (char)('a' + i % 23);
    content[n] = '\0';
    assert_true(enqueue(w, w->q, (struct mail){.to = "alice@example.org x@remote.example", .content = content}));
    settle(w, 0);
    assert_int_equal(world.n_blobs, 1);
    assert_string_equal(local_content("alice"), content);
    assert_string_equal(world.remote[0].content, content);
    free(content);
    assert_int_equal(rows(w), 0);
}

struct delivered {
    const char *to;
    size_t n;
};
static bool was_delivered(void *arg)
{
    const struct delivered *d = arg;
    return count_local(d->to) == d->n;
}

static char *letter(size_t n)
{
    char *content = xmalloc(n + 1);
    for (size_t i = 0; i < n; i++)
        content[i] = i % 64 == 62 ? '\r' : i % 64 == 63 ? '\n' : (char)('a' + i * 7 % 23);
    content[n] = '\0';
    if (n > 100)
        memcpy(content, "Subject: classes\r\n\r\n", 20);
    return content;
}

static bool has_no_rows(void *arg)
{
    struct world_run *w = arg;
    ARENA(a, 1 << 20);
    struct sql_result r;
    struct err err = ERR_INIT;
    return sql_query(w->db, &count_rows, NULL, &a, &r, &err) && sql_at(&r, 0, 0)->i == 0;
}

/* Wherever a body of this size lies (our database, a blob that we made, one of the front-end), it arrives as it was, on
 * each of the ways that a recipient can go, and comes back whole or in part. */
static void one_size(struct world_run *w, size_t n)
{
    char *content = letter(n);
    assert_true(enqueue(w, w->q,
                        (struct mail){.to = "alice@example.org x@remote.example bad@remote.example team@example.org",
                                      .content = content,
                                      .ret_full = true}));
    settle(w, 0);
    assert_int_equal(count_local("alice"), 2);
    assert_int_equal(count_local("bob"), 1);
    assert_int_equal(count_remote("x@remote.example") + count_remote("far@remote.example"), 2);
    assert_int_equal(count_local("sender"), 1);
    for (size_t i = 0; i < world.n_local; i++)
        if (strcmp(world.local[i].to, "sender") != 0)
            assert_string_equal(world.local[i].content, content);
    for (size_t i = 0; i < world.n_remote; i++)
        assert_string_equal(world.remote[i].content, content);
    const char *dsn = local_content("sender");
    assert_true((strstr(dsn, content) != NULL) == (n <= 16 * 1024));
    assert_true(n <= 100 || strstr(dsn, "Subject: classes"));
    assert_true(wait_for(has_no_rows, w)); /* a lease that lapses on a busy machine has the shard loaded once more */
    free(content);
    world_clear();
}

/* The same for what was loaded from the database again. */
static void one_size_later(struct world_run *w, size_t n)
{
    char *content = letter(n);
    world.shard_away = 2;
    world.remote_away = 1000000;
    uint64_t id =
        enqueue(w, w->q, (struct mail){.to = "bob@example.org y@remote.example team@example.org", .content = content});
    assert_true(id);
    assert_true(wait_for(was_tried, &(struct one_message){w, id}));
    const Thurn__QueuedMessage *shown = show(w, id);
    assert_non_null(shown);
    assert_true(str_eq(rpc_str(shown->head), str_slice(str_c(content), 0, 16 * 1024)));
    queue_free(w->q);
    world.shard_away = world.remote_away = 0;
    w->q = start(w, "one");
    assert_true(wait_for(was_delivered, &(struct delivered){"bob", 2}));
    settle(w, 0);
    assert_int_equal(count_local("bob"), 2);
    assert_int_equal(world.n_remote, 2);
    for (size_t i = 0; i < world.n_local; i++)
        assert_string_equal(world.local[i].content, content);
    for (size_t i = 0; i < world.n_remote; i++)
        assert_string_equal(world.remote[i].content, content);
    assert_true(wait_for(has_no_rows, w)); /* a lease that lapses on a busy machine has the shard loaded once more */
    free(content);
    world_clear();
}

static const size_t sizes[] = {
    1, 40, 16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 512 * 1024 - 1, 512 * 1024, 512 * 1024 + 1, 5 << 20};
static void size_classes(struct world_run *w)
{
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        one_size(w, sizes[i]);
}
static void size_classes_later(struct world_run *w)
{
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        one_size_later(w, sizes[i]);
}

/* A row whose body is of another size than it says: that message's trouble, and nobody else's. */
FIBER static bool cut_bodies(struct sql_tx *tx, void *arg, struct err *err)
{
    static const struct sql_stmt st = {.name = "cut_bodies",
                                       .params = "",
                                       .cols = "",
                                       .sqlite = "UPDATE q_body SET body = x'61'",
                                       .pg = "UPDATE q_body SET body = 'a'"};
    (void)arg;
    return sql_exec(tx, &st, NULL, 1, NULL, err);
}
static void wrong_body(struct world_run *w)
{
    world.shard_away = 1;
    uint64_t id = enqueue(w, w->q, (struct mail){.to = "alice@example.org"});
    assert_true(wait_for(was_tried, &(struct one_message){w, id}));
    queue_free(w->q);
    assert_true(sql_write(w->db, cut_bodies, NULL, &w->err));
    world.shard_away = 0;
    w->q = start(w, "one");
    assert_true(wait_for(is_ready, w->q));
    assert_true(enqueue(w, w->q, (struct mail){.to = "bob@example.org"}));
    assert_true(wait_for(was_delivered, &(struct delivered){"bob", 1}));
    settle(w, 1);
    assert_int_equal(count_local("alice"), 0);
    assert_null(show(w, id));
    assert_int_equal(w->err.kind, ERR_INTERNAL);
    assert_true(metric_get(M_INVARIANTS_BROKEN, NULL) >= 1);
    assert_int_equal(act(w, "", THURN__QUEUE_OP__QUEUE_DROP), 1);
    settle(w, 0);
}

/* The database takes effect, and does not say so: what the clients heard has failed is not sent by a later life,
 * however many there were. */
struct one_enqueue {
    struct world_run *w;
    unsigned *n_failed;
};
static void enqueue_one(void *arg)
{
    struct one_enqueue *o = arg;
    struct world_run mine = {.q = o->w->q};
    arena_init(&mine.a, 1 << 20);
    *o->n_failed += enqueue(&mine, mine.q, (struct mail){.to = "alice@example.org"}) == 0;
    arena_done(&mine.a);
}
static void fail_commits(void *db)
{
    struct err err = ERR_INIT;
    do
        sql_fail_nth(db, 1, true);
    while (fiber_yield(&err));
    sql_fail_nth(db, 0, true);
}
static bool takes_mail(void *arg)
{
    struct world_run *w = arg;
    return enqueue(w, w->q, (struct mail){.to = "alice@example.org"}) != 0;
}
static void doubtful(struct world_run *w)
{
    unsigned n_failed = 0;
    struct one_enqueue o = {w, &n_failed};
    {
        FIBER_GROUP(faults, 1);
        assert_true(fiber_group_spawn(&faults, "faults", fail_commits, w->db, &w->err));
        FIBER_GROUP(g, 2000);
        for (int i = 0; i < 2000; i++)
            assert_true(fiber_group_spawn(&g, "test", enqueue_one, &o, &w->err));
        assert_true(fiber_group_wait(&g, &w->err));
        assert_true(n_failed > 1200); /* a commit may slip through between two faults */
        assert_false(enqueue(w, w->q, (struct mail){.to = "alice@example.org"})); /* first what is known of those */
        assert_int_equal(w->err.kind, ERR_UNAVAILABLE);
    }
    sql_fail_nth(w->db, 0, true);
    assert_true(wait_for(has_no_rows, w));
    assert_true(wait_for(takes_mail, w)); /* when nothing is in doubt any more */
    settle(w, 0);
    assert_int_equal(count_local("alice"), 2000 - n_failed + 1);
}

/* One message's host that refuses connections is asked once, and then after a while. */
static void refusing_host(struct world_run *w)
{
    world.remote_away = 1000000;
    uint64_t id = enqueue(w, w->q, (struct mail){.to = "x@remote.example"});
    assert_true(id && wait_for(was_tried, &(struct one_message){w, id}));
    unsigned n = world.remote_away;
    assert_int_equal(n, 999999);
    int64_t end_ms = clock_mono_ms() + 500;
    while (clock_mono_ms() < end_ms)
        assert_true(fiber_sleep_ms(5, &w->err));
    assert_int_equal(world.remote_away, n);
    assert_string_equal(show(w, id)->recipients[0]->waits, "site");
    (void)act(w, "", THURN__QUEUE_OP__QUEUE_DROP);
    settle(w, 0);
}

/* However many recipients are given up at once, and however long their addresses are, the sender hears of each. */
static void many_told(struct world_run *w)
{
    BUF(to, 1 << 20);
    for (int i = 0; i < 1000; i++)
        buf_printf(&to, "%s%d%0200d@dark.example", i ? " " : "", i, 0);
    uint64_t id = enqueue(w, w->q, (struct mail){.to = buf_z(&to)});
    assert_true(id);
    assert_true(wait_for(was_tried, &(struct one_message){w, id}));
    assert_int_equal(act(w, "", THURN__QUEUE_OP__QUEUE_BOUNCE), 1000); /* and not the notifications that it makes */
    settle(w, 0);
    assert_int_equal(count_local("sender"), 10);
    size_t n_told = 0;
    for (size_t i = 0; i < world.n_local; i++)
        for (const char *p = world.local[i].content; (p = strstr(p, "Final-Recipient: ")); p++)
            n_told++;
    assert_int_equal(n_told, 1000);
}

static void bounces(struct world_run *w)
{
    assert_true(enqueue(
        w, w->q, (struct mail){.to = "bad1@remote.example nobody@example.org x@remote.example", .id_number = 5}));
    settle(w, 0);
    assert_int_equal(count_remote("x@remote.example"), 1);
    assert_int_equal(count_local("sender"), 2); /* one from each site */
    for (size_t i = 0; i < world.n_local; i++) {
        const char *dsn = world.local[i].content;
        assert_non_null(strstr(dsn, "multipart/report"));
        assert_non_null(strstr(dsn, "Subject: hello")); /* the original's header */
        assert_null(strstr(dsn, "\r\nbody\r\n"));
        assert_non_null(strstr(dsn, "Action: failed"));
        assert_true((strstr(dsn, "bad1@remote.example") && strstr(dsn, "5.7.1") && strstr(dsn, "go away")) ||
                    (strstr(dsn, "nobody@example.org") && strstr(dsn, "5.1.1")));
    }
    assert_int_equal(rows(w), 0);
}

static void bounce_rules(struct world_run *w)
{
    assert_true(enqueue(w, w->q, (struct mail){.from = "", .to = "bad@remote.example nobody@example.org"}));
    assert_true(enqueue(w, w->q, (struct mail){.to = "bad@remote.example", .notify = 8}));
    assert_true(enqueue(w, w->q, (struct mail){.to = "bad@remote.example", .notify = 1}));
    /* its DSN fails too */
    assert_true(enqueue(w, w->q, (struct mail){.from = "gone@example.org", .to = "bad@remote.example"}));
    settle(w, 0);
    assert_int_equal(world.n_local, 0);
    assert_int_equal(metric_get(M_QUEUE_DOUBLE_BOUNCES, NULL), 2);
    /* not from outside */
    assert_true(enqueue(w, w->q, (struct mail){.to = "alice@example.org x@remote.example", .notify = 1}));
    settle(w, 0);
    assert_int_equal(count_local("sender"), 0);
    assert_true(enqueue(w, w->q, (struct mail){.to = "alice@example.org x@remote.example", .notify = 1, .account = 6}));
    settle(w, 0);
    assert_int_equal(count_local("sender"), 2);
    assert_true(strstr(local_content("sender"), "Action: delivered") ||
                strstr(local_content("sender"), "Action: relayed"));
    /* nobody to be told */
    assert_true(enqueue(w, w->q, (struct mail){.from = "", .to = "alice@example.org", .notify = 1}));
    settle(w, 0);
    assert_int_equal(metric_get(M_QUEUE_DOUBLE_BOUNCES, NULL), 2);
    assert_true(
        enqueue(w, w->q, (struct mail){.from = "bob@example.org", .to = "bad@remote.example", .ret_full = true}));
    settle(w, 0);
    assert_non_null(strstr(local_content("bob"), "\r\nbody\r\n"));
    assert_true(enqueue(w, w->q, (struct mail){.from = "carol@example.org", .to = "a@nowhere.example"}));
    settle(w, 0);
    assert_non_null(strstr(local_content("carol"), "5.1.2"));
    assert_true(enqueue(w, w->q, (struct mail){.from = "carol@example.org", .to = "a@null.example"}));
    settle(w, 0);
    assert_non_null(strstr(world.local[world.n_local - 1].content, "5.1.10"));
}

/* An alias that appeared, or a list: a new message to its targets, and its own recipient is done. */
static void expansion(struct world_run *w)
{
    assert_true(enqueue(w, w->q, (struct mail){.to = "team@example.org", .prefix = "Return-Path: <x>\r\n"}));
    settle(w, 0);
    assert_int_equal(count_local("alice"), 1);
    assert_int_equal(count_local("bob"), 1);
    assert_int_equal(count_remote("far@remote.example"), 1);
    assert_memory_not_equal(world.local[0].key, world.local[1].key, 32);
    assert_int_equal(rows(w), 0);
}

static void deferrals(struct world_run *w)
{
    uint64_t id = enqueue(
        w, w->q, (struct mail){.to = "later@remote.example away@example.org full@example.org alice@example.org"});
    assert_true(wait_for(was_tried, &(struct one_message){w, id}));
    assert_int_equal(count_local("alice"), 1);
    const Thurn__QueuedMessage *m = show(w, id);
    assert_int_equal(m->recipients_left, 3);
    assert_int_equal(m->n_recipients, 4);
    assert_int_equal(m->recipients[0]->code, 451);
    assert_string_equal(m->recipients[0]->text, "451 4.7.1 not now");
    assert_int_equal(m->recipients[1]->code, 450);
    assert_int_equal(m->recipients[2]->code, 452);
    assert_int_equal(m->recipients[3]->state, THURN__RECIPIENT_STATE__RCPT_DONE);
    assert_true(str_eq(rpc_str(m->head), S("Subject: hello\r\n\r\nbody\r\n")));
    for (int i = 0; i < 3; i++) {
        assert_true(m->recipients[i]->attempts >= 1);
        assert_true(m->recipients[i]->state != THURN__RECIPIENT_STATE__RCPT_DONE);
    }
    assert_int_equal(act(w, "", THURN__QUEUE_OP__QUEUE_DROP), 3);
    settle(w, 0);
    assert_int_equal(rows(w), 0);
    assert_int_equal(count_local("sender"), 0);
}

/* Whatever the store answers: temporary, but for what it says of the message itself, and never "no such mailbox". */
struct verdict_case {
    uint32_t kind;
    const char *failed; /* status, or NULL: it stays, as an attempt with this code or waiting for the shard (0) */
    unsigned code;
};
static bool was_answered(void *n)
{
    return world.n_results >= *(unsigned *)n;
}
static void one_verdict(struct world_run *w, const struct verdict_case *v)
{
    unsigned once = 1;
    uint64_t id = enqueue(w, w->q, (struct mail){.to = "alice@example.org"});
    assert_true(id && wait_for(was_answered, &once));
    if (v->failed) {
        settle(w, 0);
        assert_int_equal(count_local("sender"), 1);
        assert_non_null(strstr(local_content("sender"), arena_printf(&w->a, "Status: %s\r\n", v->failed).p));
        assert_null(strstr(local_content("sender"), "Diagnostic-Code: smtp;")); /* no server said so */
    } else {
        assert_true(wait_for(was_tried, &(struct one_message){w, id}));
        const Thurn__QueuedMessage *m = show(w, id);
        assert_int_equal(m->recipients[0]->code, v->code);
        assert_true(m->recipients[0]->attempts == 0 || v->code);
        assert_string_equal(m->recipients[0]->text, "as told");
        world.result_kind = world.call_kind = 0;
        (void)act(w, "", THURN__QUEUE_OP__QUEUE_RETRY);
        settle(w, 0);
        assert_int_equal(count_local("alice"), 1);
        assert_int_equal(count_local("sender"), 0);
    }
    world_clear();
}
static void verdicts(struct world_run *w)
{
    static const struct verdict_case cases[] = {
        {ERR_INVALID, "5.6.0", 0},   {ERR_NOT_FOUND, NULL, 451}, {ERR_EXISTS, NULL, 451},    {ERR_DENIED, "5.7.1", 0},
        {ERR_LIMIT, "5.3.4", 0},     {ERR_CONFLICT, NULL, 451},  {ERR_UNAVAILABLE, NULL, 0}, {ERR_TIMEOUT, NULL, 451},
        {ERR_CANCELLED, NULL, 451},  {ERR_INTERNAL, NULL, 451},  {ERR_BUSY, NULL, 0},        {ERR_QUOTA, NULL, 452},
        {ERR_KINDS_ + 3, NULL, 451},
    };
    _Static_assert(ARRAY_LEN(cases) == ERR_KINDS_, "a kind of error has no case");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(cases[i].kind, i + 1 < ERR_KINDS_ ? i + 1 : cases[i].kind);
        world.result_kind = cases[i].kind;
        one_verdict(w, &cases[i]);
    }
    for (size_t i = 0; i + 1 < ARRAY_LEN(cases); i++) { /* the call as a whole: what is temporary waits for the shard */
        struct verdict_case v = cases[i];
        struct err err = {.kind = (enum err_kind)v.kind};
        v.code = err_is_temporary(&err) ? 0 : v.code;
        if (v.kind == ERR_CANCELLED) /* only we break off calls */
            continue;
        world.call_kind = v.kind;
        if (v.failed) /* its DSN could not be delivered either */
            continue;
        one_verdict(w, &v);
    }
}

static bool is_told(void *name)
{
    return count_local(name) > 0;
}
/* A node starts after so many seconds. PostgreSQL's clock is not ours to move: the rows grow older instead. */
static void later(struct world_run *w, int seconds)
{
    queue_free(w->q);
    if (kind == TESTDB_PG)
        testdb_pg_exec("queue", arena_printf(&w->a,
                                             "UPDATE q_msg SET created = created - %d, expires = expires - %d;"
                                             "UPDATE q_rcpt SET due = due - %d",
                                             seconds, seconds, seconds)
                                    .p);
    else
        clock_jump_s(seconds);
    w->q = start(w, "one");
}

/* Full for longer than that is tried: the sender hears it. */
static void full_for_long(struct world_run *w)
{
    uint64_t id = enqueue(w, w->q, (struct mail){.to = "full@example.org"});
    assert_true(id && wait_for(was_tried, &(struct one_message){w, id}));
    later(w, 86400);
    assert_true(wait_for(is_told, (void *)(uintptr_t) "sender"));
    settle(w, 0);
    size_t n_failed = 0; /* there may be a notice of the delay */
    for (size_t i = 0; i < world.n_local; i++)
        n_failed += strstr(world.local[i].content, "Status: 5.2.2") != NULL;
    assert_int_equal(n_failed, 1);
}

/* An attempt that hangs does not keep an operator from his message. */
static void act_in_attempt(struct world_run *w)
{
    static const Thurn__QueueOp ops[] = {THURN__QUEUE_OP__QUEUE_HOLD, THURN__QUEUE_OP__QUEUE_DROP,
                                         THURN__QUEUE_OP__QUEUE_BOUNCE};
    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        world.remote_delay_ms = 600000;
        uint64_t id = enqueue(w, w->q, (struct mail){.to = "x@remote.example"});
        assert_true(id && wait_for(remote_runs, NULL));
        int64_t start_ms = clock_mono_ms();
        assert_int_equal(act(w, "x@remote.example", ops[i]), 1);
        assert_true(clock_mono_ms() - start_ms < 4000);
        assert_int_equal(world.running, 0);
        if (ops[i] == THURN__QUEUE_OP__QUEUE_HOLD) {
            assert_int_equal(show(w, id)->recipients[0]->state, THURN__RECIPIENT_STATE__RCPT_HELD);
            assert_string_equal(show(w, id)->recipients[0]->waits, "operator");
            world.remote_delay_ms = 0;
            assert_int_equal(act(w, "", THURN__QUEUE_OP__QUEUE_RELEASE), 1);
        }
        settle(w, 0);
    }
    assert_int_equal(count_remote("x@remote.example"), 1);
    assert_int_equal(count_local("sender"), 1);
    assert_int_equal(rows(w), 0);
}

/* What the peer has whole is not broken off to be held: it would be sent twice. It is held when its attempt ends
 * without success. */
static void hold_when_sent(struct world_run *w)
{
    world.remote_delay_ms = 1000;
    world.is_sent = true;
    uint64_t id = enqueue(w, w->q, (struct mail){.to = "x@remote.example later@remote.example"});
    assert_true(id && wait_for(remote_runs, NULL));
    /* the other was delivered when that had been waited for */
    assert_int_equal(act(w, "", THURN__QUEUE_OP__QUEUE_HOLD), 1);
    settle(w, 1);
    assert_int_equal(count_remote("x@remote.example"), 1);
    assert_int_equal(stats(w, w->q)->held, 1);
    (void)act(w, "", THURN__QUEUE_OP__QUEUE_DROP);
    settle(w, 0);
}

/* Of one attempt that a peer has whole, one recipient is to go: the other is not sent again for that, and the site is
 * none the worse. */
static void act_on_one_of_two(struct world_run *w)
{
    static const Thurn__QueueOp ops[] = {THURN__QUEUE_OP__QUEUE_DROP, THURN__QUEUE_OP__QUEUE_BOUNCE};
    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        world.remote_delay_ms = 1000;
        world.is_sent = true;
        unsigned attempts = world.n_attempts;
        assert_true(enqueue(w, w->q, (struct mail){.to = "one@remote.example two@remote.example"}));
        assert_true(wait_for(remote_runs, NULL));
        (void)act(w, "one@remote.example", ops[i]); /* too late: it is waited for */
        settle(w, 0);
        assert_int_equal(world.n_attempts, attempts + 1);
        assert_int_equal(count_remote("two@remote.example"), i + 1);
    }
    world.is_sent = false;
    world.remote_delay_ms = 600000;
    assert_true(enqueue(w, w->q, (struct mail){.to = "one@remote.example"}));
    assert_true(wait_for(remote_runs, NULL));
    assert_int_equal(act(w, "one@remote.example", THURN__QUEUE_OP__QUEUE_DROP), 1);
    world.remote_delay_ms = 0;
    int64_t start_ms = clock_mono_ms();
    assert_true(enqueue(w, w->q, (struct mail){.to = "three@remote.example"}));
    settle(w, 0);
    assert_true(clock_mono_ms() - start_ms < 30000); /* a suspended site waits a minute */
    assert_int_equal(count_remote("three@remote.example"), 1);
}

/* An act outlives its client, and tells whoever asks how far it is. */
static Thurn__QueueActReply ask_act(struct world_run *w, uint64_t id, bool is_begun, Thurn__QueueOp op)
{
    Thurn__QueueActRequest req = THURN__QUEUE_ACT_REQUEST__INIT;
    Thurn__QueueFilter f = THURN__QUEUE_FILTER__INIT;
    f.is_all = true;
    req.filter = &f;
    req.op = op;
    req.act_id = id;
    req.is_begun = is_begun;
    const Thurn__QueueActReply *r = CALL(w, w->q, act, QueueActReply, &req);
    assert_non_null(r);
    return *r;
}
static void long_act(struct world_run *w)
{
    world.remote_away = 1000000;
    for (int i = 0; i < 300; i++)
        assert_true(enqueue(w, w->q, (struct mail){.to = "x@dark.example y@dark.example"}));
    struct err err = ERR_INIT;
    struct world_run caller = *w;
    {
        FIBER_DEADLINE(1); /* a client that is gone at once */
        Thurn__QueueActRequest req = THURN__QUEUE_ACT_REQUEST__INIT;
        Thurn__QueueFilter f = THURN__QUEUE_FILTER__INIT;
        f.is_all = true;
        req.filter = &f;
        req.op = THURN__QUEUE_OP__QUEUE_HOLD;
        req.act_id = 7;
        (void)CALL(&caller, w->q, act, QueueActReply, &req);
    }
    Thurn__QueueActReply r = ask_act(w, 7, true, THURN__QUEUE_OP__QUEUE_HOLD);
    for (int i = 0; r.is_running && i < 10; i++)
        r = ask_act(w, 7, true, THURN__QUEUE_OP__QUEUE_HOLD);
    assert_false(r.is_running);
    assert_int_equal(r.total, 300);
    assert_int_equal(r.seen, 300);
    assert_int_equal(r.affected, 600);
    assert_int_equal(stats(w, w->q)->held, 600);
    assert_int_equal(stats(w, w->q)->active, 0);
    assert_int_equal(ask_act(w, 7, false, THURN__QUEUE_OP__QUEUE_DROP).affected, 600); /* the same id is the same act */
    assert_int_equal(stats(w, w->q)->held, 600);
    Thurn__QueueActRequest unknown = THURN__QUEUE_ACT_REQUEST__INIT;
    unknown.act_id = 8;
    unknown.is_begun = true;
    assert_null(CALL(w, w->q, act, QueueActReply, &unknown));
    assert_int_equal(w->err.kind, ERR_NOT_FOUND);
    assert_int_equal(ask_act(w, 9, false, THURN__QUEUE_OP__QUEUE_DROP).affected, 600);
    settle(w, 0);
    assert_int_equal(rows(w), 0);
    (void)err;
}

/* An act that a stop cuts short says so, and how far it came; done again later, it does the rest. */
static void act_cut_short(struct world_run *w)
{
    enum { N = 1000 };
    world.remote_away = 1000000;
    for (int i = 0; i < N; i++)
        assert_true(enqueue(w, w->q, (struct mail){.to = "x@dark.example"}));
    struct world_run caller = *w;
    {
        FIBER_DEADLINE(1);
        Thurn__QueueActRequest req = THURN__QUEUE_ACT_REQUEST__INIT;
        Thurn__QueueFilter f = THURN__QUEUE_FILTER__INIT;
        f.is_all = true;
        req.filter = &f;
        req.op = THURN__QUEUE_OP__QUEUE_HOLD;
        req.act_id = 7;
        (void)CALL(&caller, w->q, act, QueueActReply, &req);
    }
    queue_retire(w->q);
    Thurn__QueueActReply r = ask_act(w, 7, true, THURN__QUEUE_OP__QUEUE_HOLD);
    assert_false(r.is_running);
    assert_true(r.is_cut_short);
    assert_int_equal(r.total, N);
    assert_true(r.seen < N && r.affected <= r.seen);
    uint64_t done = r.affected;
    queue_free(w->q);
    w->q = start(w, "one");
    assert_true(wait_for(is_ready, w->q));
    settle(w, N);
    assert_int_equal(stats(w, w->q)->held, done);
    r = ask_act(w, 8, false, THURN__QUEUE_OP__QUEUE_HOLD);
    while (r.is_running)
        r = ask_act(w, 8, true, THURN__QUEUE_OP__QUEUE_HOLD);
    assert_false(r.is_cut_short);
    assert_int_equal(r.affected, N - done);
    assert_int_equal(act(w, "", THURN__QUEUE_OP__QUEUE_DROP), N);
    settle(w, 0);
}

/* A retry of many that wait for one host that is away has it asked by the sessions that it has now, not once for each
 * message. */
static void bulk_retry(struct world_run *w)
{
    world.remote_away = 1000000;
    for (int i = 0; i < 200; i++)
        assert_true(enqueue(w, w->q, (struct mail){.to = "x@remote.example"}));
    settle(w, 200);
    unsigned before = world.n_attempts;
    int64_t suspensions = metric_get(M_QUEUE_SITES_SUSPENDED, NULL);
    assert_int_equal(act(w, "", THURN__QUEUE_OP__QUEUE_RETRY), 200);
    settle(w, 200);
    assert_true(world.n_attempts > before);
    assert_true(world.n_attempts - before <= 20); /* max_site_sessions */
    assert_true(metric_get(M_QUEUE_SITES_SUSPENDED, NULL) - suspensions <= 2);
    world.remote_away = 0;
    /* the next act does it again; some are sent before it comes to them */
    assert_true(act(w, "", THURN__QUEUE_OP__QUEUE_RETRY) > 0);
    settle(w, 0);
}

/* Each that waits says why, and until when: the reason of its site where it has none of its own. */
static void reasons(struct world_run *w)
{
    world.remote_away = 1000000;
    uint64_t id = 0;
    for (int i = 0; i < 60; i++)
        assert_true(id = enqueue(w, w->q, (struct mail){.to = "x@remote.example", .expires_in = 3600}));
    while (metric_get(M_QUEUE_SITES_SUSPENDED, NULL) < 1)
        assert_true(fiber_sleep_ms(2, &w->err));
    settle(w, 60);
    const Thurn__QueuedMessage *m = show(w, id); /* never tried itself */
    assert_string_equal(m->recipients[0]->text, "connection refused");
    assert_string_equal(m->recipients[0]->waits, "site");
    assert_true(m->recipients[0]->due_unix >= clock_unix());
    uint64_t dark = enqueue(w, w->q, (struct mail){.to = "x@dark.example"});
    assert_true(wait_for(was_tried, &(struct one_message){w, dark}));
    m = show(w, dark);
    assert_string_equal(m->recipients[0]->text, "nobody answers");
    assert_string_equal(m->recipients[0]->waits, "hosts");
    uint64_t later =
        enqueue(w, w->q, (struct mail){.to = "x@dark.example", .from = "bob@example.org", .expires_in = 2});
    assert_string_equal(show(w, later)->recipients[0]->text, "nobody answers"); /* its domain's, at once */
    assert_true(wait_for(is_told, (void *)(uintptr_t) "bob"));                  /* and so does the bounce */
    assert_non_null(strstr(local_content("bob"), "nobody answers"));
    assert_null(strstr(local_content("bob"), "no attempt was possible"));
    (void)act(w, "", THURN__QUEUE_OP__QUEUE_DROP);
    settle(w, 0);
}

/* The store, the directory or every server away: recipients wait without an attempt being counted, then go. */
static void outages(struct world_run *w)
{
    world.store_away = 2;
    uint64_t id = enqueue(w, w->q, (struct mail){.to = "alice@example.org"});
    assert_true(id);
    settle(w, 0);
    assert_int_equal(count_local("alice"), 1);
    world.remote_away = 1;
    id = enqueue(w, w->q, (struct mail){.to = "x@remote.example"});
    settle(w, 0); /* not at once, but when the site's pause is over */
    assert_int_equal(count_remote("x@remote.example"), 1);
    world.remote_away = 1000;
    id = enqueue(w, w->q, (struct mail){.to = "y@remote.example"});
    const Thurn__QueuedMessage *m = show(w, id);
    for (; strcmp(m->recipients[0]->waits, "site") != 0; m = show(w, id))
        assert_true(fiber_sleep_ms(2, &w->err));
    assert_string_equal(m->recipients[0]->text, "connection refused");
    assert_int_equal(m->recipients[0]->attempts, 0);
    world.remote_away = 0;
    assert_int_equal(act(w, "y@remote.example", THURN__QUEUE_OP__QUEUE_RETRY), 1); /* ends the suspension */
    settle(w, 0);
    assert_int_equal(count_remote("y@remote.example"), 1);
}

/* A shard of the store is away: its mail waits, at the cost of an attempt now and then, nobody else's does, and all of
 * it goes as soon as it is back. */
static void shard_outage(struct world_run *w)
{
    world.shard_away = 2;
    uint64_t id = 0;
    for (int i = 0; i < 50; i++)
        assert_true(id = enqueue(w, w->q, (struct mail){.to = "bob@example.org alice@example.org"}));
    assert_true(wait_for(was_delivered, &(struct delivered){"alice", 50}));
    assert_true(wait_for(was_tried, &(struct one_message){w, id}));
    unsigned calls = world.n_shard_calls;
    assert_true(calls <= 64); /* as many as were under way when the first one failed */
    for (int i = 0; i < 20; i++)
        assert_true(enqueue(w, w->q, (struct mail){.to = "bob@example.org"}));
    int64_t end_ms = clock_mono_ms() + 1500;
    while (clock_mono_ms() < end_ms) /* new mail for others passes by */ {
        size_t before = count_local("alice");
        assert_true(enqueue(w, w->q, (struct mail){.to = "alice@example.org"}));
        assert_true(wait_for(was_delivered, &(struct delivered){"alice", before + 1}));
    }
    assert_true(world.n_shard_calls - calls <= 5);
    const Thurn__QueuedMessage *m = show(w, id);
    assert_string_equal(m->recipients[0]->text, "shard is away");
    assert_int_equal(m->recipients[0]->attempts, 0);
    world.shard_away = 0;
    int64_t back_ms = clock_mono_ms();
    settle(w, 0);
    if (clock_mono_ms() - back_ms > 3500)
        fail_msg("%lld ms after the shard was back", (long long)(clock_mono_ms() - back_ms));
    assert_int_equal(count_local("bob"), 70);
    assert_int_equal(world.n_duplicates, 0);
    assert_int_equal(rows(w), 0);
}

FIBER static bool lose_bodies(struct sql_tx *tx, void *arg, struct err *err)
{
    static const struct sql_stmt st = {.name = "lose_bodies", .params = "", .cols = "", .sqlite = "DELETE FROM q_body"};
    (void)arg;
    return sql_exec(tx, &st, NULL, 1, NULL, err);
}

/* A body that cannot be read is its own message's trouble only. */
static void lost_body(struct world_run *w)
{
    world.shard_away = 1;
    uint64_t id = enqueue(w, w->q, (struct mail){.to = "alice@example.org"});
    assert_true(wait_for(was_tried, &(struct one_message){w, id}));
    queue_free(w->q); /* it is not in memory any more */
    struct err err = ERR_INIT;
    assert_true(sql_write(w->db, lose_bodies, NULL, &err));
    world.shard_away = 0;
    w->q = start(w, "one");
    assert_true(wait_for(is_ready, w->q));
    for (int i = 0; i < 5; i++)
        assert_true(enqueue(w, w->q, (struct mail){.to = "alice@example.org"}));
    assert_true(wait_for(was_delivered, &(struct delivered){"alice", 5}));
    settle(w, 1);
    assert_int_equal(show(w, id) == NULL, 1); /* there is no head to show */
    assert_int_equal(act(w, "", THURN__QUEUE_OP__QUEUE_DROP), 1);
    settle(w, 0);
}

/* However many names cannot be resolved, others are, and how many are asked for at a time is bounded. */
static void dark_domains(struct world_run *w)
{
    for (int i = 0; i < 30; i++) {
        BUF(to, 8192);
        for (int k = 0; k < 60; k++)
            buf_printf(&to, "%sa@dark%d-%d.example", k ? " " : "", i, k);
        assert_true(enqueue(w, w->q, (struct mail){.to = buf_z(&to)}));
    }
    int64_t start_ms = clock_mono_ms();
    assert_true(enqueue(w, w->q, (struct mail){.to = "x@remote.example"}));
    while (!count_remote("x@remote.example"))
        assert_true(fiber_sleep_ms(2, &w->err));
    if (clock_mono_ms() - start_ms > 3000)
        fail_msg("%lld ms", (long long)(clock_mono_ms() - start_ms));
    if (world.most_looking_up > 1200)
        fail_msg("%u look-ups at a time", world.most_looking_up);
    while (stats(w, w->q)->messages)
        (void)act(w, "", THURN__QUEUE_OP__QUEUE_DROP);
    assert_true(metric_get(M_QUEUE_LOOKUPS_FAILED, NULL) > 0);
}

/* A look-up that failed is made again after 4 s at the earliest, and says so; but at once when an operator wants it. */
static bool has_failed_so_often(void *n)
{
    return metric_get(M_QUEUE_LOOKUPS_FAILED, NULL) >= *(const int64_t *)n;
}
static void retried_lookup(struct world_run *w)
{
    int64_t n = 1;
    uint64_t id = enqueue(w, w->q, (struct mail){.to = "a@dark.example"});
    assert_true(id);
    assert_true(wait_for(has_failed_so_often, &n));
    const Thurn__QueuedMessage *shown = show(w, id);
    assert_true(shown->recipients[0]->due_unix >= clock_unix() + 2);
    assert_string_equal(shown->recipients[0]->site, "dark.example");
    int64_t start_ms = clock_mono_ms();
    assert_int_equal(act(w, "", THURN__QUEUE_OP__QUEUE_RETRY), 1);
    n = 2;
    assert_true(wait_for(has_failed_so_often, &n));
    assert_true(clock_mono_ms() - start_ms < 3000);
    assert_int_equal(act(w, "", THURN__QUEUE_OP__QUEUE_DROP), 1);
    settle(w, 0);
}

static bool released(void *arg)
{
    (void)arg;
    return count_remote("v@two.example") == 5;
}
static void settle_until(struct world_run *w, bool (*is_so)(void *), void *arg)
{
    assert_true(wait_for(is_so, arg));
    settle(w, stats(w, w->q)->messages);
}

static bool says_nearly_full(void *arg)
{
    BUF(text, 4096);
    return trouble_print(&text) > 0 && str_starts(buf_str(&text), S("degraded: queue.memory: ")) &&
           (!arg || strstr(buf_z(&text), arg));
}
static bool says_nothing(void *arg)
{
    return !says_nearly_full(arg);
}

/* Memory is what bounds the queue: it fills with what waits, says so from 90 % on, refuses, and takes mail again when
 * that is gone. */
static void full(struct world_run *w)
{
    enum { ROOM = 400 * 1024 };
    queue_free(w->q);
    struct queue_opts opts = options(w, "one");
    opts.max_bytes = ROOM;
    w->q = queue_new(&opts, &w->err);
    assert_true(w->q && queue_start(w->q, &w->err) && wait_for(is_ready, w->q));
    world.remote_away = 1000000;
    size_t n = 0;
    for (uint64_t id = 1; id; n += id != 0) {
        char to[80];
        (void)snprintf(to, sizeof(to), "u%zu@one.example", n);
        id = enqueue(w, w->q, (struct mail){.to = to, .prefix = "Return-Path: <sender@example.org>\r\n"});
        assert_true(n < 10000);
    }
    assert_int_equal(w->err.kind, ERR_BUSY);
    assert_int_equal(metric_get(M_QUEUE_REFUSED, NULL), 1);
    assert_true(says_nearly_full((char *)(uintptr_t) "refused here"));
    assert_true(ROOM / n <= 460); /* what one message costs, domain and tables included */
    settle(w, n);                 /* what is under way is refused by its host, and waits with that as its reason */
    assert_int_equal(act(w, "", THURN__QUEUE_OP__QUEUE_DROP), n);
    settle(w, 0);
    assert_true(wait_for(says_nothing, NULL));
    assert_true(enqueue(w, w->q, (struct mail){.to = "u@one.example"}));
    world.remote_away = 0;
    act(w, "", THURN__QUEUE_OP__QUEUE_RETRY);
    settle(w, 0);
}

/* Each domain and its site cost memory too. (That all is given back is asserted at a queue's end.) */
static void full_of_domains(struct world_run *w)
{
    enum { DOMAINS = 200 };
    world.remote_away = 1000000;
    int64_t at_least = DOMAINS * 1000;
    for (int i = 0; i < DOMAINS; i++) {
        char to[80];
        (void)snprintf(to, sizeof(to), "u@domain%d.example", i);
        assert_true(enqueue(w, w->q, (struct mail){.to = to}));
    }
    assert_true(wait_for(uses_more, &at_least));
    settle(w, DOMAINS);
    assert_int_equal(act(w, "", THURN__QUEUE_OP__QUEUE_DROP), DOMAINS);
    settle(w, 0);
}

static void administration(struct world_run *w)
{
    world.remote_away = 1000000;
    for (int i = 0; i < 25; i++) {
        char to[80];
        (void)snprintf(to, sizeof(to), "u%d@%s.example v@%s.example", i, i % 5 ? "one" : "two", i % 5 ? "one" : "two");
        assert_true(
            enqueue(w, w->q, (struct mail){.to = to, .tenant = i % 2, .from = i == 7 ? "" : "sender@example.org"}));
    }
    settle(w, 25);
    Thurn__QueueListRequest req = THURN__QUEUE_LIST_REQUEST__INIT;
    size_t seen = 0;
    uint64_t last = 0;
    req.limit = 10;
    do {
        const Thurn__QueueListReply *page = CALL(w, w->q, list, QueueListReply, &req);
        assert_non_null(page);
        for (size_t i = 0; i < page->n_messages; i++) {
            assert_true(page->messages[i]->queue_id > last);
            last = page->messages[i]->queue_id;
            assert_string_equal(page->messages[i]->node, "one");
        }
        seen += page->n_messages;
        assert_int_equal(page->total, req.after ? 0 : 25);
        req.after = page->next;
    } while (req.after);
    assert_int_equal(seen, 25);
    Thurn__QueueFilter f = THURN__QUEUE_FILTER__INIT;
    req = (Thurn__QueueListRequest)THURN__QUEUE_LIST_REQUEST__INIT;
    req.filter = &f;
    f.recipient = (char *)(uintptr_t) "@two.example";
    assert_int_equal(CALL(w, w->q, list, QueueListReply, &req)->n_messages, 5);
    f.tenant_id = 1;
    assert_int_equal(CALL(w, w->q, list, QueueListReply, &req)->n_messages, 2);
    f.sender = (char *)(uintptr_t) "nobody@example.org";
    assert_int_equal(CALL(w, w->q, list, QueueListReply, &req)->total, 0);
    Thurn__QueueActRequest bad = THURN__QUEUE_ACT_REQUEST__INIT;
    Thurn__QueueFilter none = THURN__QUEUE_FILTER__INIT;
    bad.filter = &none;
    assert_null(CALL(w, w->q, act, QueueActReply, &bad)); /* everything must be said */

    assert_int_equal(act(w, "@two.example", THURN__QUEUE_OP__QUEUE_HOLD), 10);
    assert_int_equal(stats(w, w->q)->held, 10);
    f = (Thurn__QueueFilter)THURN__QUEUE_FILTER__INIT;
    f.states = 1u << THURN__RECIPIENT_STATE__RCPT_HELD;
    assert_int_equal(CALL(w, w->q, list, QueueListReply, &req)->total, 5);
    f.recipient = (char *)(uintptr_t) "@one.example";
    assert_int_equal(CALL(w, w->q, list, QueueListReply, &req)->total, 0);
    f.states = 1u << THURN__RECIPIENT_STATE__RCPT_DUE;
    assert_int_equal(CALL(w, w->q, list, QueueListReply, &req)->total, 20);
    f.created_before_unix = clock_unix() - 3600;
    assert_int_equal(CALL(w, w->q, list, QueueListReply, &req)->total, 0);
    f.created_before_unix = clock_unix() + 3600;
    req.limit = 7;
    size_t pages = 0;
    for (seen = 0, req.after = 0; pages == 0 || req.after; pages++) { /* pages of what a filter lets through */
        const Thurn__QueueListReply *page = CALL(w, w->q, list, QueueListReply, &req);
        seen += page->n_messages;
        req.after = page->next;
    }
    assert_true(seen == 20 && pages == 3);
    assert_int_equal(act(w, "@one.example", THURN__QUEUE_OP__QUEUE_DROP), 40);
    settle(w, 5);
    world.remote_away = 0;
    assert_int_equal(act(w, "v@two.example", THURN__QUEUE_OP__QUEUE_RELEASE), 5);
    (void)act(w, "", THURN__QUEUE_OP__QUEUE_RETRY); /* should the site be suspended */
    settle_until(w, released, NULL);
    assert_int_equal(act(w, "u0@two.example", THURN__QUEUE_OP__QUEUE_BOUNCE), 1);
    settle(w, 4);
    assert_int_equal(count_local("sender"), 1);
    assert_int_equal(stats(w, w->q)->held, 4);
    assert_int_equal(act(w, "", THURN__QUEUE_OP__QUEUE_DROP), 4);
    settle(w, 0);
    assert_int_equal(rows(w), 0);
}

static bool fifty_sent(void *arg)
{
    (void)arg;
    return world.n_remote >= 50;
}
static void restart(struct world_run *w)
{
    world.remote_away = 1000000;
    for (int i = 0; i < 50; i++)
        assert_true(enqueue(w, w->q,
                            (struct mail){.to = "later@remote.example x@other.example",
                                          .prefix = "A: b\r\n",
                                          .id_number = 100 + (uint64_t)i}));
    assert_true(enqueue(w, w->q, (struct mail){.to = "held@remote.example"}));
    assert_int_equal(act(w, "held@remote.example", THURN__QUEUE_OP__QUEUE_HOLD), 1);
    queue_free(w->q);
    assert_true(rows(w) >= 200);
    world.remote_away = 0;
    w->q = start(w, "one");
    assert_true(wait_for(is_ready, w->q));
    assert_true(wait_for(fifty_sent, NULL));
    settle(w, 51); /* "later" stays, held too */
    assert_int_equal(stats(w, w->q)->held, 1);
    assert_int_equal(world.n_remote, 50);
    assert_true(enqueue(w, w->q, (struct mail){.to = "y@other.example"})); /* a new epoch: no id is used twice */
    while (!count_remote("y@other.example"))
        assert_true(fiber_sleep_ms(2, &w->err));
    (void)act(w, "", THURN__QUEUE_OP__QUEUE_DROP); /* not those that are in an attempt now */
    while (stats(w, w->q)->messages)
        (void)act(w, "", THURN__QUEUE_OP__QUEUE_DROP);
    assert_int_equal(rows(w), 0);
    assert_int_equal(count_remote("y@other.example"), 1);
}

static bool one_sent(void *arg)
{
    (void)arg;
    return world.n_remote >= 1;
}
/* A stop while a peer hangs: the attempt is broken off, and made by whoever comes next. */
static void stop_in_attempt(struct world_run *w)
{
    struct err err = ERR_INIT;
    queue_free(w->q);
    struct queue_opts opts = options(w, "one");
    opts.drain_ms = 50;
    w->q = queue_new(&opts, &err);
    assert_true(queue_start(w->q, &err));
    assert_true(wait_for(is_ready, w->q));
    world.remote_delay_ms = 600000;
    assert_true(enqueue(w, w->q, (struct mail){.to = "x@remote.example"}));
    assert_true(wait_for(remote_runs, NULL));
    int64_t start_ms = clock_mono_ms();
    queue_free(w->q);
    assert_true(clock_mono_ms() - start_ms < 5000);
    assert_int_equal(world.n_remote, 0);
    world.remote_delay_ms = 0;
    w->q = start(w, "one");
    assert_true(wait_for(one_sent, NULL)); /* ready is a node with its first shard: the message's may be loaded later */
    settle(w, 0);
    assert_int_equal(count_remote("x@remote.example"), 1);
}

static void expiry(struct world_run *w)
{
    uint64_t id = enqueue(w, w->q, (struct mail){.to = "later@remote.example", .expires_in = 3600});
    assert_true(wait_for(was_tried, &(struct one_message){w, id}));
    later(w, 3600); /* its next attempt is its last */
    assert_true(wait_for(is_told, (void *)(uintptr_t) "sender"));
    settle(w, 0);
    world.remote_away = 1000000;
    id = enqueue(
        w, w->q,
        (struct mail){.from = "bob@example.org", .to = "x@remote.example y@remote.example", .expires_in = 3600});
    assert_true(wait_for(was_tried, &(struct one_message){w, id}));
    /* their site is not tried for a while, so that the message's own time ends them */
    later(w, 3600);
    assert_true(wait_for(is_told, (void *)(uintptr_t) "bob"));
    settle(w, 0);
    assert_non_null(strstr(local_content("sender"), "not now"));
    assert_non_null(strstr(local_content("bob"), "5.4.7"));
    assert_non_null(strstr(local_content("bob"), "y@remote.example"));
    assert_int_equal(rows(w), 0);
}

/* The wall clock goes back an hour and then a month ahead. What waits is tried as if nothing had been, also by a node
 * that starts before the clock is right again, and is not taken for old. */
struct tries {
    struct world_run *w;
    uint64_t id;
    unsigned n;
};
static bool was_tried_so_often(void *arg)
{
    struct tries *t = arg;
    const Thurn__QueuedMessage *m = show(t->w, t->id);
    return m && m->recipients[0]->attempts >= t->n;
}
static void clock_jumps(struct world_run *w)
{
    uint64_t id = enqueue(w, w->q, (struct mail){.to = "later@remote.example"});
    assert_true(wait_for(was_tried_so_often, &(struct tries){w, id, 1}));
    clock_jump_s(-3600);
    assert_true(wait_for(was_tried_so_often, &(struct tries){w, id, 2}));
    queue_free(w->q);
    clock_jump_s(-3600);
    w->q = start(w, "one");
    assert_true(wait_for(is_ready, w->q));
    assert_true(wait_for(was_tried_so_often, &(struct tries){w, id, 3}));
    clock_jump_s(30 * 86400);
    assert_true(wait_for(was_tried_so_often, &(struct tries){w, id, 5}));
    assert_int_equal(count_local("sender"), 0);
    assert_int_equal(act(w, "", THURN__QUEUE_OP__QUEUE_DROP), 1);
    settle(w, 0);
}

static bool is_kept_again(void *arg)
{
    (void)arg;
    return world.holds == 2;
}

/* Held recipients do not expire, and nor may their body with the store. */
static void held_body(struct world_run *w)
{
    BUF(content, 1 << 20);
    for (size_t i = 0; i < 10000; i++)
        buf_printf(&content, "line %zu, so that it is a blob\r\n", i);
    world.remote_away = 1000000;
    assert_true(
        enqueue(w, w->q, (struct mail){.to = "held@remote.example", .content = buf_z(&content), .expires_in = 3600}));
    assert_int_equal(act(w, "held@remote.example", THURN__QUEUE_OP__QUEUE_HOLD), 1);
    assert_int_equal(world.holds, 1);
    assert_true(world.hold_until > clock_unix() + 29 * 86400);
    later(w, 3600);
    assert_true(wait_for(is_kept_again, NULL)); /* when it would have expired */
    assert_int_equal(stats(w, w->q)->held, 1);
    world.remote_away = 0;
    assert_int_equal(act(w, "held@remote.example", THURN__QUEUE_OP__QUEUE_DROP), 1);
    settle(w, 0);
}

static bool enqueue_blob(struct world_run *w, Thurn__Body *body, const char *to)
{
    Thurn__EnqueueRequest req = THURN__ENQUEUE_REQUEST__INIT;
    Thurn__QueueRecipient rcpt = THURN__QUEUE_RECIPIENT__INIT, *list = &rcpt;
    unsigned char id[16];
    random_bytes(id, sizeof(id));
    rcpt.address = (char *)(uintptr_t)to;
    req.enqueue_id = rpc_bytes(str_n(id, 16));
    req.sender = (char *)(uintptr_t) "sender@example.org";
    req.recipients = &list;
    req.n_recipients = 1;
    req.body = body;
    return CALL(w, w->q, enqueue, EnqueueReply, &req) != NULL;
}

/* What is over releases its body; others that have the same one keep it. A store that is away is asked again. */
static void released_bodies(struct world_run *w)
{
    BUF(content, 1 << 20);
    for (size_t i = 0; i < 20000; i++)
        buf_printf(&content, "line %zu, so that it is a blob\r\n", i);
    Thurn__BlobRef blob;
    unsigned char hash[32];
    put_blob(buf_str(&content), &blob, hash);
    Thurn__Body body = THURN__BODY__INIT;
    body.blob = &blob;
    static const char *const to[] = {"x@remote.example", "later@remote.example", "team@example.org",
                                     "bad@remote.example"};
    world.release_away = 1;
    for (size_t i = 0; i < ARRAY_LEN(to); i++)
        assert_true(enqueue_blob(w, &body, to[i]));
    settle(w, 1);
    static const size_t one = 1;
    assert_true(wait_for(holds_so_many, (void *)(uintptr_t)&one)); /* that of the one that waits */
    assert_int_equal(count_remote("x@remote.example") + count_remote("far@remote.example"), 2);
    assert_int_equal(world.n_released, 4); /* three of them, and the expansion of one */
    assert_int_equal(act(w, "later@remote.example", THURN__QUEUE_OP__QUEUE_DROP), 1);
    settle(w, 0);
    assert_true(wait_for(nothing_held, NULL));
    /* The same for a body that the queue itself has put there. */
    assert_true(enqueue(w, w->q,
                        (struct mail){.to = "x@remote.example",
                                      .content = arena_strz(&w->a, str_slice(buf_str(&content), 0, 100000))}));
    settle(w, 0);
    assert_true(wait_for(nothing_held, NULL));
    /* The message is over, and the store is away until we stop: its hold ends by its time. */
    /* One shard of the store that is away keeps none of another's. */
    world.space_away = 2;
    for (uint32_t space = 2; space >= 1; space--) {
        put_blob(buf_str(&content), &blob, hash);
        blob.space = space;
        assert_true(enqueue_blob(w, &body, "x@remote.example"));
        settle(w, 0);
    }
    assert_true(wait_for(holds_so_many, (void *)(uintptr_t)&one));
    world.space_away = 0;
    assert_true(wait_for(nothing_held, NULL));
    world.release_away = 1000000;
    assert_true(enqueue(w, w->q,
                        (struct mail){.to = "x@remote.example",
                                      .content = arena_strz(&w->a, str_slice(buf_str(&content), 0, 100000))}));
    settle(w, 0);
    assert_int_equal(world.n_held, 1);
}

static bool has_told(void *arg)
{
    (void)arg;
    return count_local("sender") == 1 && count_local("bob") == 0;
}

static void delay_notice(struct world_run *w)
{
    world.remote_away = 1000000;
    assert_true(enqueue(w, w->q, (struct mail){.to = "x@remote.example"}));
    assert_true(enqueue(w, w->q, (struct mail){.from = "bob@example.org", .to = "x@remote.example", .notify = 2}));
    assert_true(enqueue(w, w->q, (struct mail){.from = "", .to = "x@remote.example"}));
    later(w, 4 * 3600);
    assert_true(wait_for(has_told, NULL));
    assert_non_null(strstr(local_content("sender"), "Action: delayed"));
    assert_true(enqueue(w, w->q, (struct mail){.from = "carol@example.org", .to = "x@remote.example"}));
    later(w, 4 * 3600);
    assert_true(wait_for(is_told, (void *)(uintptr_t) "carol"));
    settle(w, 4); /* all shards are loaded */
    assert_true(has_told(NULL));
    assert_int_equal(metric_get(M_QUEUE_DSNS, NULL), 2); /* a second one to the others would have come with it */
    assert_int_equal(act(w, "", THURN__QUEUE_OP__QUEUE_DROP), 4);
    settle(w, 0);
}

/* I6: one tenant's thousand recipients do not delay another's single message by more than a turn. */
static void fairness(struct world_run *w)
{
    world.remote_delay_ms = 60; /* the queue fills faster than it empties, also on a busy machine */
    for (int i = 0; i < 600; i++)
        assert_true(enqueue(w, w->q, (struct mail){.to = "bulk@remote.example", .tenant = 1}));
    assert_true(enqueue(w, w->q, (struct mail){.to = "single@remote.example", .tenant = 2}));
    size_t before = world.n_remote;
    settle(w, 0);
    size_t at = 0;
    while (strcmp(world.remote[at].to, "single@remote.example") != 0)
        at++;
    assert_true(at < before + 80);
    assert_int_equal(world.n_remote, 601);
    if (world.most_running > 20 || world.most_running <= 5) /* the window grew, and kept its cap */
        fail_msg("%u at a time", world.most_running);
}

/* Every statement of the database failing in turn, with and without effect: what was answered is kept and delivered
 * once; what was refused is not there. */
static void failures(struct world_run *w)
{
    for (int after = 0; after < 2; after++)
        for (unsigned nth = 1; nth <= 12; nth++) {
            size_t local_before = count_local("alice"), remote_before = count_remote("x@remote.example");
            sql_fail_nth(w->db, nth, after);
            uint64_t id = enqueue(w, w->q, (struct mail){.to = "alice@example.org x@remote.example"});
            settle(w, 0);
            sql_fail_nth(w->db, 0, false);
            assert_int_equal(count_local("alice") - local_before, id ? 1 : 0);
            assert_int_equal(count_remote("x@remote.example") - remote_before, id ? 1 : 0);
            assert_int_equal(rows(w), 0);
        }
}

/* --- several nodes, on PostgreSQL --- */

static bool owns(void *arg)
{
    struct two *t = arg;
    ARENA(a, 1 << 20);
    struct arena saved = t->w->a;
    t->w->a = a;
    bool is_so = stats(t->w, t->q)->shards_owned == t->n;
    a = t->w->a;
    t->w->a = saved;
    return is_so;
}
static bool both_own(void *arg)
{
    struct two *t = arg;
    return stats(t[0].w, t[0].q)->shards_owned + stats(t[1].w, t[1].q)->shards_owned == 8 &&
           stats(t[0].w, t[0].q)->shards_owned < 8 && stats(t[0].w, t[0].q)->shards_owned > 0;
}

static void two_nodes(struct world_run *w)
{
    if (kind != TESTDB_PG)
        return;
    world.remote_away = 1000000;
    for (int i = 0; i < 40; i++)
        assert_true(enqueue(w, w->q, (struct mail){.to = "x@remote.example"}));
    struct queue *other = start(w, "two");
    struct two pair[2] = {{w, w->q, 0}, {w, other, 0}};
    assert_true(wait_for(both_own, pair)); /* rebalanced */
    assert_int_equal(stats(w, w->q)->messages + stats(w, other)->messages, 40);
    for (int i = 0; i < 40; i++)
        assert_true(enqueue(w, other, (struct mail){.to = "alice@example.org"}));
    world.remote_away = 0;
    queue_retire(w->q); /* a planned stop: everything moves */
    assert_int_equal(stats(w, w->q)->shards_owned, 0);
    assert_false(enqueue(w, w->q, (struct mail){.to = "alice@example.org"}));
    assert_int_equal(w->err.kind, ERR_UNAVAILABLE);
    assert_true(wait_for(owns, &(struct two){w, other, 8}));
    assert_true(wait_for(holds, &(struct two){w, other, 0}));
    assert_int_equal(count_remote("x@remote.example"), 40);
    assert_int_equal(count_local("alice"), 40);
    assert_int_equal(rows(w), 0);
    queue_free(other);
}

static bool has_some_but_one(void *arg)
{
    struct two *t = arg;
    unsigned mine = stats(t[0].w, t[0].q)->shards_owned, others = stats(t[1].w, t[1].q)->shards_owned;
    return others > 0 && mine > 0 && mine + others == 8;
}
/* A name of a node that this shard belongs to rather (as in shard.c). */
static const char *name_preferred_to(struct world_run *w, const char *name, uint64_t shard)
{
    const char *other = name;
    for (int i = 0; hash_stable(str_c(arena_printf(&w->a, "%d:%s", (int)shard, other).p)) <=
                    hash_stable(str_c(arena_printf(&w->a, "%d:%s", (int)shard, name).p));
         i++)
        other = arena_printf(&w->a, "other-%d", i).p;
    return other;
}
/* A shard with an attempt under way does not hold up the others that are to go, nor the lease: giving it up takes
 * longer than the lease lasts, and still nobody takes the node for dead. */
static void slow_leaving(struct world_run *w)
{
    if (kind != TESTDB_PG)
        return;
    struct err err = ERR_INIT;
    world.remote_delay_ms = 600000;
    queue_free(w->q);
    struct queue_opts opts = options(w, "one");
    opts.drain_ms = 4000;
    w->q = queue_new(&opts, &err);
    assert_true(queue_start(w->q, &err));
    assert_true(wait_for(owns, &(struct two){w, w->q, 8}));
    uint64_t id = enqueue(w, w->q, (struct mail){.to = "x@remote.example"});
    assert_true(wait_for(remote_runs, NULL));
    struct queue *other = start(w, name_preferred_to(w, "one", id >> 53));
    int64_t start_ms = clock_mono_ms();
    while (clock_mono_ms() - start_ms < 5000)
        assert_true(fiber_sleep_ms(20, &err));
    struct two pair[2] = {{w, w->q, 0}, {w, other, 0}};
    world.remote_delay_ms = 0;
    assert_true(wait_for(has_some_but_one, pair));
    assert_int_equal(metric_get(M_QUEUE_TAKEOVERS, NULL), 0);
    queue_free(other);
}

/* A shard that takes far longer to load than the lease lasts: the lease is held, the other shards are served meanwhile,
 * and it is served when it is there. Lost in the midst of that it is loaded again, and each message is there once. */
static int64_t epochs(struct world_run *w)
{
    static const struct sql_stmt sum = {
        .name = "sum_epochs", .params = "", .cols = "i", .sqlite = "SELECT CAST(sum(epoch) AS bigint) FROM q_shard"};
    struct sql_result r;
    assert_true(sql_query(w->db, &sum, NULL, &w->a, &r, &w->err));
    return sql_at(&r, 0, 0)->i;
}
static bool lost_one(void *arg)
{
    struct two *t = arg;
    return epochs(t->w) == (int64_t)t->n;
}
static void slow_load(struct world_run *w)
{
    if (kind != TESTDB_PG)
        return;
    world.remote_away = 1000000;
    uint64_t id = 0;
    for (int i = 0; i < 20; i++) {
        uint64_t next = enqueue(w, w->q, (struct mail){.to = "x@remote.example"});
        assert_true(next);
        id = id ? id : next;
    }
    queue_free(w->q);
    int64_t before = epochs(w);
    testdb_pg_exec("queue", "ALTER TABLE q_msg RENAME TO q_msg_fast;"
                            "CREATE VIEW q_msg AS SELECT * FROM q_msg_fast WHERE pg_sleep(0.1) IS NOT NULL");
    w->q = start(w, "one");
    assert_true(wait_for(owns, &(struct two){w, w->q, 7}));
    assert_true(queue_is_ready(w->q));
    testdb_pg_exec("queue",
                   arena_printf(&w->a, "UPDATE q_shard SET epoch = epoch + 1 WHERE shard = %d", (int)(id >> 53)).p);
    assert_true(wait_for(lost_one, &(struct two){w, w->q, (size_t)before + 8 + 2}));
    assert_true(wait_for(owns, &(struct two){w, w->q, 8}));
    assert_int_equal(epochs(w), before + 8 + 2); /* each was had once, and the one lost once more */
    assert_int_equal(stats(w, w->q)->messages, 20);
    testdb_pg_exec("queue", "DROP VIEW q_msg; ALTER TABLE q_msg_fast RENAME TO q_msg");
    world.remote_away = 0;
    settle(w, 0);
    assert_int_equal(count_remote("x@remote.example"), 20);
    assert_int_equal(rows(w), 0);
}

/* More nodes than shards: one without any is ready, so that a rollout goes on. */
static void nothing_to_own(struct world_run *w)
{
    if (kind != TESTDB_PG)
        return;
    struct err err = ERR_INIT;
    struct queue *others[8];
    for (int i = 0; i < 8; i++) {
        struct queue_opts opts = options(w, arena_printf(&w->a, "more-%d", i).p);
        opts.n_shards = 1;
        others[i] = queue_new(&opts, &err);
        assert_true(queue_start(others[i], &err));
    }
    for (int i = 0; i < 8; i++)
        assert_true(wait_for(is_ready, others[i]));
    for (int i = 0; i < 8; i++)
        queue_free(others[i]);
}

/* Shards that an earlier life of the node had, and another is to have now, are given up to it. */
static void earlier_life(struct world_run *w)
{
    if (kind != TESTDB_PG)
        return;
    struct queue *other = start(w, "two");
    struct two pair[2] = {{w, w->q, 0}, {w, other, 0}};
    assert_true(wait_for(both_own, pair));
    queue_free(w->q);
    assert_true(wait_for(owns, &(struct two){w, other, 8}));
    testdb_pg_exec("queue", "UPDATE q_shard SET owner = 'one', epoch = epoch + 1");
    w->q = start(w, "one");
    pair[0].q = w->q;
    assert_true(wait_for(both_own, pair));
    queue_free(other);
}

/* Rows of nodes that are long dead do not grow in number. */
static void dead_nodes(struct world_run *w)
{
    if (kind != TESTDB_PG)
        return;
    queue_free(w->q);
    testdb_pg_exec(
        "queue",
        "INSERT INTO q_node SELECT 'pod-' || i, (extract(epoch FROM now()) * 1000)::bigint - 90000000, 0 FROM generate_series(1, 1500) i");
    w->q = start(w, "one");
    assert_true(wait_for(owns, &(struct two){w, w->q, 8}));
    static const struct sql_stmt count = {
        .name = "count_nodes", .params = "", .cols = "i", .sqlite = "SELECT count(*) FROM q_node"};
    struct sql_result r;
    assert_true(sql_query(w->db, &count, NULL, &w->a, &r, &w->err));
    assert_int_equal(sql_at(&r, 0, 0)->i, 1);
}

/* I2: the node loses its lease while an attempt is under way. It cannot write any more; what the peer accepted is noted
 * for the new owner, who does not send it again. */
static bool took_over(void *arg)
{
    return metric_get(M_QUEUE_TAKEOVERS, NULL) == 8 && owns(arg);
}
static void zombie(struct world_run *w)
{
    if (kind != TESTDB_PG)
        return;
    world.remote_delay_ms = 150;
    assert_true(enqueue(w, w->q, (struct mail){.to = "x@remote.example"}));
    assert_true(wait_for(remote_runs, NULL));
    testdb_pg_exec("queue", "UPDATE q_node SET lease_until = 0; UPDATE q_shard SET owner = 'two', epoch = epoch + 1;"
                            "INSERT INTO q_node VALUES ('two', (extract(epoch FROM now()) * 1000)::bigint + 700, 0)");
    /* "two" never lived: its lease ends, and this node takes the shards over, with what it noted before. */
    assert_true(wait_for(took_over, &(struct two){w, w->q, 8}));
    settle(w, 0);
    assert_int_equal(count_remote("x@remote.example"), 1);
    assert_true(metric_get(M_QUEUE_FENCED, NULL) >= 1);
    assert_int_equal(rows(w), 0);
}

/* A lease that lapses for a moment: the node has its shards back while its own attempt is under way. That one's result
 * is waited for, or it is broken off: nobody gets the message twice. */
static bool has_all_again(void *arg)
{
    struct two *t = arg;
    return epochs(t->w) >= (int64_t)t->n + 16 && owns(&(struct two){t->w, t->q, 8});
}
static void blip(struct world_run *w, unsigned hold_ms)
{
    if (kind != TESTDB_PG)
        return;
    queue_free(w->q);
    struct queue_opts opts = options(w, "one");
    opts.takeover_hold_ms = hold_ms;
    w->q = queue_new(&opts, &w->err);
    assert_true(queue_start(w->q, &w->err));
    assert_true(wait_for(owns, &(struct two){w, w->q, 8}));
    world.remote_delay_ms = 2000;
    assert_true(enqueue(w, w->q, (struct mail){.to = "x@remote.example"}));
    assert_true(wait_for(remote_runs, NULL));
    struct two again = {w, w->q, (size_t)epochs(w)};
    testdb_pg_exec("queue", "UPDATE q_shard SET epoch = epoch + 1");
    assert_true(wait_for(has_all_again, &again));
    assert_int_equal(world.n_remote, 0);
    settle(w, 0);
    assert_int_equal(count_remote("x@remote.example"), 1);
    assert_int_equal(rows(w), 0);
}
static void short_blip(struct world_run *w)
{
    blip(w, 300);
}
static void noted_blip(struct world_run *w)
{
    blip(w, 4000);
}

/* A crash of the only node there can be: nobody is left to tell a result, so the next life begins at once. */
FIBER static bool crash_body(struct sql_tx *tx, void *arg, struct err *err)
{
    static const struct sql_stmt st = {
        .name = "crash", .params = "", .cols = "", .sqlite = "UPDATE q_shard SET owner = 'dead', epoch = epoch + 1"};
    (void)arg;
    return sql_exec(tx, &st, NULL, 1, NULL, err);
}
static void crash_alone(struct world_run *w)
{
    if (kind == TESTDB_PG)
        return;
    world.remote_away = 1000000;
    assert_true(enqueue(w, w->q, (struct mail){.to = "x@remote.example"}));
    queue_free(w->q);
    assert_true(sql_write(w->db, crash_body, NULL, &w->err));
    world.remote_away = 0;
    struct queue_opts opts = options(w, "two");
    opts.takeover_hold_ms = 600000;
    w->q = queue_new(&opts, &w->err);
    assert_true(queue_start(w->q, &w->err));
    assert_true(wait_for(one_sent, NULL));
    settle(w, 0);
    assert_int_equal(metric_get(M_QUEUE_TAKEOVERS, NULL), 0);
}

/* A dead node: its shards come over when its lease is gone, in order, and nothing is lost. */
static void takeover(struct world_run *w)
{
    if (kind != TESTDB_PG)
        return;
    world.remote_away = 1000000;
    for (int i = 0; i < 30; i++)
        assert_true(enqueue(w, w->q, (struct mail){.to = "x@remote.example"}));
    queue_free(w->q);
    testdb_pg_exec("queue", "INSERT INTO q_node VALUES ('dead', (extract(epoch FROM now()) * 1000)::bigint + 500, 0);"
                            "UPDATE q_shard SET owner = 'dead', epoch = epoch + 1");
    world.remote_away = 0;
    int64_t start_ms = clock_mono_ms();
    w->q = start(w, "three");
    assert_true(wait_for(owns, &(struct two){w, w->q, 8}));
    assert_true(clock_mono_ms() - start_ms >= 400); /* not before the lease ended */
    settle(w, 0);
    assert_int_equal(count_remote("x@remote.example"), 30);
    assert_int_equal(metric_get(M_QUEUE_TAKEOVERS, NULL), 8);
}

/* A node stands still in the midst of a transaction that holds shards and its own row. Its lease ends, and what it
 * holds is taken over all the same; nobody else's lease waits for it. */
static void paused_owner(struct world_run *w)
{
    if (kind != TESTDB_PG)
        return;
    queue_free(w->q);
    testdb_pg_exec("queue", "INSERT INTO q_node VALUES ('paused', (extract(epoch FROM now()) * 1000)::bigint + 500, 0);"
                            "UPDATE q_shard SET owner = 'paused', epoch = epoch + 1 WHERE shard < 4");
    void *paused = testdb_pg_hold(
        "queue",
        "BEGIN; SELECT shard FROM q_shard WHERE shard < 4 FOR SHARE; SELECT node FROM q_node WHERE node = 'paused' FOR UPDATE;");
    int64_t start_ms = clock_mono_ms();
    w->q = start(w, "one");
    assert_true(wait_for(owns, &(struct two){w, w->q, 4})); /* what is free, at once */
    assert_true(clock_mono_ms() - start_ms < 3000);
    while (stats(w, w->q)->shards_owned < 8) {
        assert_true(queue_is_ready(w->q)); /* the lease is held all the time */
        assert_true(clock_mono_ms() - start_ms < 10000);
        assert_true(fiber_sleep_ms(20, &w->err));
    }
    testdb_pg_let_go(paused);
    assert_true(enqueue(w, w->q, (struct mail){.to = "alice@example.org"}));
    settle(w, 0);
}

/* The database goes on believing in the lease, but the renewal hangs: by its own clock the node begins nothing any
 * more. */
static bool is_not_ready(void *q)
{
    return !queue_is_ready(q);
}
static void own_clock(struct world_run *w)
{
    if (kind != TESTDB_PG)
        return;
    assert_true(wait_for(owns, &(struct two){w, w->q, 8}));
    testdb_pg_exec(
        "queue",
        "CREATE FUNCTION stall() RETURNS trigger AS $$ BEGIN PERFORM pg_sleep(4); RETURN NEW; END $$ LANGUAGE plpgsql;"
        "CREATE TRIGGER stall BEFORE UPDATE ON q_node FOR EACH ROW WHEN (NEW.lease_until < OLD.lease_until) EXECUTE FUNCTION stall();"
        "UPDATE q_node SET lease_until = lease_until + 3600000");
    assert_true(wait_for(is_not_ready, w->q));
    assert_false(enqueue(w, w->q, (struct mail){.to = "alice@example.org"}));
    assert_int_equal(w->err.kind, ERR_UNAVAILABLE);
    testdb_pg_exec("queue", "DROP TRIGGER stall ON q_node"); /* when the renewal has come through */
}

/* A node whose clock is ahead: what it queues is due by the database's clock, which is everybody's. */
static void clock_ahead(struct world_run *w)
{
    if (kind != TESTDB_PG)
        return;
    static const struct sql_stmt ahead = {
        .name = "ahead",
        .params = "",
        .cols = "ii",
        .sqlite =
            "SELECT r.due - extract(epoch FROM clock_timestamp())::bigint, m.expires - extract(epoch FROM clock_timestamp())::bigint FROM q_rcpt r JOIN q_msg m ON m.msg_id = r.msg_id"};
    queue_free(w->q);
    clock_jump_s(3600);
    w->q = start(w, "one");
    assert_true(wait_for(owns, &(struct two){w, w->q, 8}));
    uint64_t id = enqueue(w, w->q, (struct mail){.to = "later@remote.example"});
    assert_true(id && wait_for(was_tried, &(struct one_message){w, id}));
    struct sql_result r;
    assert_true(sql_query(w->db, &ahead, NULL, &w->a, &r, &w->err));
    assert_true(sql_at(&r, 0, 0)->i <= 5 && sql_at(&r, 0, 0)->i > -60);
    assert_true(sql_at(&r, 0, 1)->i <= 5 * 86400 && sql_at(&r, 0, 1)->i > 5 * 86400 - 60);
    (void)act(w, "", THURN__QUEUE_OP__QUEUE_DROP);
    settle(w, 0);
}

/* The same when the database's clock went back an hour after the node had died. */
static void clock_went_back(struct world_run *w)
{
    if (kind != TESTDB_PG)
        return;
    queue_free(w->q);
    testdb_pg_exec("queue",
                   "INSERT INTO q_node VALUES ('dead', (extract(epoch FROM now()) * 1000)::bigint + 3600000, 0);"
                   "UPDATE q_shard SET owner = 'dead', epoch = epoch + 1");
    w->q = start(w, "three");
    assert_true(wait_for(owns, &(struct two){w, w->q, 8}));
}

#define CASE(fn)                                                                                                       \
    static void test_##fn(void **state)                                                                                \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        run(fn);                                                                                                       \
    }
CASE(local)
CASE(refusals)
CASE(many)
CASE(same_id)
CASE(large)
CASE(size_classes)
CASE(size_classes_later)
CASE(wrong_body)
CASE(many_told)
CASE(doubtful)
CASE(refusing_host)
CASE(verdicts)
CASE(full_for_long)
CASE(act_in_attempt)
CASE(act_on_one_of_two)
CASE(hold_when_sent)
CASE(long_act)
CASE(act_cut_short)
CASE(bulk_retry)
CASE(reasons)
CASE(paused_owner)
CASE(own_clock)
CASE(clock_ahead)
CASE(bounces)
CASE(bounce_rules)
CASE(expansion)
CASE(deferrals)
CASE(outages)
CASE(shard_outage)
CASE(lost_body)
CASE(dark_domains)
CASE(administration)
CASE(restart)
CASE(full)
CASE(full_of_domains)
CASE(stop_in_attempt)
CASE(expiry)
CASE(held_body)
CASE(released_bodies)
CASE(delay_notice)
CASE(fairness)
CASE(failures)
CASE(two_nodes)
CASE(slow_leaving)
CASE(dead_nodes)
CASE(zombie)
CASE(takeover)
CASE(short_blip)
CASE(noted_blip)
CASE(crash_alone)
CASE(clock_jumps)
CASE(retried_lookup)
CASE(slow_load)
CASE(nothing_to_own)
CASE(earlier_life)
CASE(clock_went_back)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_local),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_same_id),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_bounces),
        cmocka_unit_test(test_bounce_rules),
        cmocka_unit_test(test_expansion),
        cmocka_unit_test(test_deferrals),
        cmocka_unit_test(test_outages),
        cmocka_unit_test(test_administration),
        cmocka_unit_test(test_restart),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_full_of_domains),
        cmocka_unit_test(test_held_body),
        cmocka_unit_test(test_released_bodies),
        cmocka_unit_test(test_shard_outage),
        cmocka_unit_test(test_lost_body),
        cmocka_unit_test(test_dark_domains),
        cmocka_unit_test(test_size_classes),
        cmocka_unit_test(test_size_classes_later),
        cmocka_unit_test(test_wrong_body),
        cmocka_unit_test(test_many_told),
        cmocka_unit_test(test_doubtful),
        cmocka_unit_test(test_refusing_host),
        cmocka_unit_test(test_verdicts),
        cmocka_unit_test(test_full_for_long),
        cmocka_unit_test(test_act_in_attempt),
        cmocka_unit_test(test_act_on_one_of_two),
        cmocka_unit_test(test_hold_when_sent),
        cmocka_unit_test(test_long_act),
        cmocka_unit_test(test_act_cut_short),
        cmocka_unit_test(test_bulk_retry),
        cmocka_unit_test(test_reasons),
        cmocka_unit_test(test_paused_owner),
        cmocka_unit_test(test_own_clock),
        cmocka_unit_test(test_clock_ahead),
        cmocka_unit_test(test_expiry),
        cmocka_unit_test(test_delay_notice),
        cmocka_unit_test(test_fairness),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_two_nodes),
        cmocka_unit_test(test_slow_leaving),
        cmocka_unit_test(test_dead_nodes),
        cmocka_unit_test(test_zombie),
        cmocka_unit_test(test_short_blip),
        cmocka_unit_test(test_noted_blip),
        cmocka_unit_test(test_crash_alone),
        cmocka_unit_test(test_takeover),
        cmocka_unit_test(test_stop_in_attempt),
        cmocka_unit_test(test_clock_jumps),
        cmocka_unit_test(test_retried_lookup),
        cmocka_unit_test(test_slow_load),
        cmocka_unit_test(test_nothing_to_own),
        cmocka_unit_test(test_earlier_life),
        cmocka_unit_test(test_clock_went_back),
    };
    int failed = 0;
    log_configure(getenv("THURN_TEST_LOG") ? LOG_DEBUG : LOG_ERROR, LOG_LOGFMT);
    cmocka_set_test_filter(getenv("THURN_TEST_CASE"));
    for (kind = 0; kind < TESTDB_KINDS; kind++)
        if (testdb_have(kind))
            failed += cmocka_run_group_tests_name(testdb_kind_name(kind), tests, NULL, NULL);
    return failed;
}
