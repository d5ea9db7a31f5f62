/* Bodies as S3 objects, against a real server; and a server that lacks conditional puts, stumbles, or lies. */
#include "unit/needs.h"
#include "unit/store_world.h"

#include <netinet/in.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/trouble.h"
#include "base/metrics.h"
#include "base/num.h"

static str s3[4]; /* endpoint, bucket, access key, secret key */

static void with_s3(struct world *w)
{
    struct err err = ERR_INIT;
    w->http = http_client_new(&(struct http_client_opts){0}, &err);
    assert_non_null(w->http);
    w->opts.blobs = (struct store_blob_opts){.kind = STORE_BLOBS_S3,
                                             .http = w->http,
                                             .endpoint = s3[0],
                                             .bucket = s3[1],
                                             .access_key = s3[2],
                                             .secret_key = s3[3]};
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

/* Different in each run, as the server outlives one program. */
static str unique_message(struct world *w, unsigned seed, size_t bytes)
{
    str m = world_message(w, seed, bytes);
    int n = snprintf((char *)(uintptr_t)m.p + 30, 40, "%d-%lld", (int)getpid(), (long long)clock_mono_us());
    ((char *)(uintptr_t)m.p)[30 + n] = '.';
    return m;
}

static bool object_exists(struct world *w, str name)
{
    struct err err = ERR_INIT;
    struct http_response r;
    struct http_request q = {.method = "HEAD",
                             .url =
                                 arena_printf(&w->a, "%.*s/%.*s/%.*s", STR_ARG(s3[0]), STR_ARG(s3[1]), STR_ARG(name)),
                             .sign = {s3[2], s3[3], S("us-east-1"), S("s3")},
                             .response_max = 4096};
    if (!http_request(w->http, &q, &w->a, &r, &err))
        fail_msg("%s", err.msg);
    return r.status == 200;
}

static void sizes_case(struct world *w)
{
    static const size_t sizes[] = {1000, 70000, 400000, 600000, 20000000};
    int64_t inbox = world_mailbox(w, "INBOX");
    for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
        str m = unique_message(w, i, sizes[i]);
        const Thurn__BlobRef *ref = world_put(w, m);
        if (!ref)
            fail_msg("%s", w->err.msg);
        uint32_t uid = append_blob(w, inbox, ref);
        assert_int_equal(uid, i + 1);
        assert_true(str_eq(world_read(w, inbox, uid, 0, 0), m));
        assert_true(str_eq(world_read(w, inbox, uid, 123, 456), str_slice(m, 123, 579)));
        assert_true(str_eq(world_read(w, inbox, uid, m.n - 5, 100), str_slice(m, m.n - 5, m.n)));
    }
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_blob WHERE tier = 2"), 4);
    assert_true(metric_get(M_S3_SECONDS, "PUT") >= 4 && metric_get(M_S3_SECONDS, "GET") >= 4);
    /* Several at once, in one FETCH. */
    str big[12];
    for (unsigned i = 0; i < ARRAY_LEN(big); i++) {
        big[i] = unique_message(w, 100 + i, 70000);
        assert_true(append_blob(w, inbox, world_put(w, big[i])) == 6 + i);
    }
    Thurn__FetchRequest q = THURN__FETCH_REQUEST__INIT;
    const Thurn__FetchReply *r = NULL;
    q.account = &w->ref;
    q.mailbox_id = inbox;
    q.with_raw = true;
    q.uids = world_range(w, 6, 100);
    q.n_uids = 1;
    MUST(w, fetch, &q, &r);
    assert_int_equal(r->n_messages, 12);
    for (unsigned i = 0; i < ARRAY_LEN(big); i++)
        assert_true(str_eq(rpc_str(r->messages[i]->raw), big[i]));
}

static const char *object_name(struct world *w, size_t row)
{
    static const struct sql_stmt st = {"t_blob",
                                       "",
                                       "itb",
                                       "SELECT blob_id, '', hash FROM s_blob WHERE tier = 2",
                                       "SELECT blob_id, ''::text, hash FROM s_blob WHERE tier = 2",
                                       false};
    struct err err = ERR_INIT;
    struct sql_result r;
    BUF(hex, 64);
    assert_true(sql_query(w->db, &st, NULL, &w->a, &r, &err));
    buf_add_hex(&hex, sql_at(&r, row, 2)->s);
    return arena_printf(&w->a, "%.2s/1/7/%s.%llx", buf_z(&hex), buf_z(&hex), (unsigned long long)sql_at(&r, row, 0)->i)
        .p;
}

static uint64_t sweep(struct world *w)
{
    Thurn__SweepRequest q = THURN__SWEEP_REQUEST__INIT;
    const Thurn__SweepReply *r = NULL;
    MUST(w, sweep, &q, &r);
    return r->removed;
}

/* The server checks the time of signatures, so it is the rows that get old, not the clock. */
static bool age_body(struct sql_tx *tx, void *arg, struct err *err)
{
    static const struct sql_stmt age = {
        "t_age", "", "", "UPDATE s_blob SET zero_since = 1, hold_until = 1 WHERE refs = 0", NULL, false};
    (void)arg;
    return sql_exec(tx, &age, NULL, 1, NULL, err);
}

/* The object goes with its row, and a body that comes back is another object. */
static void sweep_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX");
    struct err err = ERR_INIT;
    str m = unique_message(w, 1, 80000);
    assert_true(append_blob(w, inbox, world_put(w, m)) == 1);
    str name = str_c(object_name(w, 0));
    assert_true(object_exists(w, name));
    world_expunge(w, inbox, 1, 1);
    assert_true(sql_write(w->db, age_body, NULL, &err));
    assert_int_equal(sweep(w), 1);
    assert_false(object_exists(w, name));
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_garbage"), 0);
    assert_true(append_blob(w, inbox, world_put(w, m)) == 2);
    assert_false(object_exists(w, name));
    assert_true(object_exists(w, str_c(object_name(w, 0))));
    assert_true(str_eq(world_read(w, inbox, 2, 0, 0), m));
}

static bool garbage_body(struct sql_tx *tx, void *arg, struct err *err)
{
    static const struct sql_stmt add = {"t_garbage", "ti", "", "INSERT INTO s_garbage (object, at) VALUES (?1, ?2)",
                                        NULL,        false};
    const unsigned *n = arg;
    for (unsigned i = 0; i < *n; i++) {
        struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 2);
        v[0] = sql_s(arena_printf(sql_arena(tx), "%02x/1/7/%064x.%x", i % 256, i, i));
        sql_queue(tx, &add, v, 1, NULL);
    }
    return sql_run(tx, err);
}

static void make_garbage(struct world *w, unsigned n)
{
    struct err err = ERR_INIT;
    if (!sql_write(w->db, garbage_body, &n, &err))
        fail_msg("%s", err.msg);
}

/* Many objects to a request, and more than one page of them; most are not there, which is as good. */
static void many_case(struct world *w)
{
    enum { N = 25 };
    int64_t inbox = world_mailbox(w, "INBOX");
    struct err err = ERR_INIT;
    str names[N];
    for (unsigned i = 0; i < N; i++)
        assert_true(append_blob(w, inbox, world_put(w, unique_message(w, i, 70000))) == i + 1);
    for (unsigned i = 0; i < N; i++) {
        names[i] = str_c(object_name(w, i));
        assert_true(object_exists(w, names[i]));
    }
    world_expunge(w, inbox, 1, N);
    assert_true(sql_write(w->db, age_body, NULL, &err));
    make_garbage(w, 1500);
    assert_int_equal(sweep(w), N);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_garbage"), 0);
    for (unsigned i = 0; i < N; i++)
        assert_false(object_exists(w, names[i]));
}

/* A crash between the object and its row's "ready": the put finds its own object and goes on. */
static void crash_case(struct world *w)
{
    str m = unique_message(w, 1, 80000);
    sql_fail_nth(w->db, 3, false);
    assert_null(world_put(w, m));
    sql_fail_nth(w->db, 0, false);
    assert_true(object_exists(w, str_c(object_name(w, 0))));
    const Thurn__BlobRef *ref = world_put(w, m);
    assert_non_null(ref);
    int64_t inbox = world_mailbox(w, "INBOX");
    assert_true(append_blob(w, inbox, ref) == 1);
    assert_true(str_eq(world_read(w, inbox, 1, 0, 0), m));
}

/* --- a server that is played --- */

static struct {
    int listener, port;
    pthread_t thread;
    _Atomic bool is_ending;
    atomic_bool has_no_bucket;
    atomic_bool talks_nonsense, says_there; /* of a PUT: an answer that is no HTTP; 412 of what is not there */
    atomic_bool holds_put, is_holding;      /* the next PUT is answered when `go` says so */
    sem_t go;
    _Atomic int n_501, n_500, n_puts, n_conditional; /* n_500: so many answers in a row are 500 */
    _Atomic int n_posts, n_deletes;
    const char *_Atomic post_answer; /* NULL: 501 */
    char *object;
    size_t object_bytes;
} fake;

static bool read_request(int fd, char *head, size_t room, char **body, size_t *n_body)
{
    size_t n = 0;
    char *end = NULL;
    while (!end) {
        ssize_t got = read(fd, head + n, room - 1 - n);
        if (got <= 0) /* also when the head does not fit */
            return false;
        n += (size_t)got;
        head[n] = '\0';
        end = strstr(head, "\r\n\r\n");
    }
    size_t have = n - (size_t)(end + 4 - head);
    char *length = strcasestr(head, "\r\nContent-Length:");
    uint64_t size = 0;
    if (length && length < end) {
        str v = str_trim(str_n(length + 17, strcspn(length + 17, "\r")));
        assert(num_u64(v, 1 << 30, &size));
    }
    if (strcasestr(head, "Expect: 100-continue"))
        assert(write(fd, "HTTP/1.1 100 Continue\r\n\r\n", 25) == 25);
    *body = xmalloc(size + 1);
    memcpy(*body, end + 4, have);
    while (have < size) {
        ssize_t got = read(fd, *body + have, size - have);
        if (got <= 0)
            return false;
        have += (size_t)got;
    }
    *n_body = size;
    end[2] = '\0';
    return true;
}

static void answer(int fd, int status, const char *body, size_t n)
{
    char head[200];
    int len = snprintf(head, sizeof head, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\n\r\n", status, n);
    assert(write(fd, head, (size_t)len) == len);
    for (size_t done = 0; done < n;) {
        ssize_t w = write(fd, body + done, n - done);
        if (w <= 0)
            return;
        done += (size_t)w;
    }
}

static void serve(int fd)
{
    static char head[16384];
    char *body;
    size_t n;
    while (read_request(fd, head, sizeof head, &body, &n)) {
        bool is_put = !strncmp(head, "PUT ", 4), is_conditional = strcasestr(head, "if-none-match") != NULL;
        fake.n_puts += is_put;
        fake.n_conditional += is_conditional;
        if (fake.talks_nonsense && is_put) {
            assert(write(fd, "\x16\x03\x01 what?\r\n\r\n", 13) == 13);
            xfree(body);
            break;
        }
        if (fake.says_there && is_put) {
            answer(fd, 412, "", 0);
        } else if (!strncmp(head, "HEAD ", 5)) {
            char text[100];
            int len = snprintf(text, sizeof text, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\n\r\n",
                               fake.object ? 200 : 404, fake.object_bytes);
            assert(write(fd, text, (size_t)len) == len);
        } else if (fake.has_no_bucket) {
            static const char missing[] = "<Error><Code>NoSuchBucket</Code></Error>";
            answer(fd, 404, missing, sizeof missing - 1);
        } else if (fake.n_500 > 0) {
            fake.n_500--;
            answer(fd, 500, "<Code>InternalError</Code>", 26);
        } else if (is_put && is_conditional && fake.n_501 > 0) {
            fake.n_501--;
            answer(fd, 501, "<Code>NotImplemented</Code>", 27);
        } else if (is_put) {
            if (fake.holds_put) {
                fake.is_holding = true;
                while (sem_wait(&fake.go) != 0)
                    ;
            }
            xfree(fake.object);
            fake.object = body;
            fake.object_bytes = n;
            body = NULL;
            answer(fd, 200, "", 0);
        } else if (!strncmp(head, "DELETE ", 7)) {
            fake.n_deletes++;
            answer(fd, 204, "", 0);
        } else if (!strncmp(head, "POST ", 5)) {
            const char *text = fake.post_answer;
            fake.n_posts++;
            assert(strcasestr(head, "content-md5: ") && strstr(head, "?delete= "));
            answer(fd, text ? 200 : 501, text ? text : "", text ? strlen(text) : 0);
        } else {
            answer(fd, fake.object ? 200 : 404, fake.object ? fake.object : "", fake.object_bytes);
        }
        xfree(body);
    }
}

static void *fake_main(void *arg)
{
    while (!fake.is_ending) {
        int fd = accept(fake.listener, NULL, NULL);
        if (fd < 0)
            break;
        serve(fd);
        close(fd);
    }
    return arg;
}

static void fake_start(void)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof in;
    sem_init(&fake.go, 0, 0);
    fake.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fake.listener, (struct sockaddr *)&in, len), 0);
    assert_int_equal(listen(fake.listener, 16), 0);
    assert_int_equal(getsockname(fake.listener, (struct sockaddr *)&in, &len), 0);
    fake.port = ntohs(in.sin_port);
    pthread_create(&fake.thread, NULL, fake_main, NULL);
}

static void fake_end(void)
{
    fake.is_ending = true;
    shutdown(fake.listener, SHUT_RDWR);
    pthread_join(fake.thread, NULL);
    close(fake.listener);
    xfree(fake.object);
}

static char fake_endpoint[64];

static void with_fake(struct world *w)
{
    struct err err = ERR_INIT;
    w->http = http_client_new(&(struct http_client_opts){.max_connections = 1, .max_per_host = 1}, &err);
    snprintf(fake_endpoint, sizeof fake_endpoint, "http://127.0.0.1:%d/", fake.port);
    w->opts.blobs = (struct store_blob_opts){.kind = STORE_BLOBS_S3,
                                             .http = w->http,
                                             .endpoint = str_c(fake_endpoint),
                                             .bucket = S("b"),
                                             .access_key = S("a"),
                                             .secret_key = S("s")};
}

static void no_conditions_case(struct world *w)
{
    fake.n_501 = 1;
    fake.n_puts = fake.n_conditional = 0;
    for (unsigned i = 0; i < 3; i++) {
        str m = world_message(w, i, i == 1 ? 700000 : 100000);
        assert_non_null(world_put(w, m));
        assert_int_equal(fake.object_bytes, m.n);
        assert_memory_equal(fake.object, m.p, m.n);
    }
    assert_int_equal(fake.n_puts, 4);        /* one was refused and came again without its condition, */
    assert_int_equal(fake.n_conditional, 1); /* and no other had one */
}

static void stumbling_case(struct world *w)
{
    str m = world_message(w, 9, 700000);
    int64_t failed = metric_get(M_S3_ERRORS, "5xx");
    fake.n_500 = 2;
    const Thurn__BlobRef *ref = world_put(w, m); /* the third try */
    assert_int_equal(metric_get(M_S3_ERRORS, "5xx") - failed, 2);
    assert_non_null(ref);
    assert_memory_equal(fake.object, m.p, m.n);
    fake.n_500 = 100;
    assert_null(world_put(w, world_message(w, 10, 100000)));
    assert_int_equal(w->err.kind, ERR_UNAVAILABLE);
    fake.n_500 = 2;
    int64_t inbox = world_mailbox(w, "INBOX");
    assert_true(append_blob(w, inbox, ref) == 1);
    assert_true(str_eq(world_read(w, inbox, 1, 0, 0), m));
    /* An object that vanished is an error, not an empty message. */
    size_t n = fake.object_bytes;
    char *object = fake.object;
    fake.object = NULL;
    fake.object_bytes = 0;
    Thurn__ReadBodyRequest q = THURN__READ_BODY_REQUEST__INIT;
    struct memory_sink sink;
    memory_sink_init(&sink);
    q.account = &w->ref;
    q.mailbox_id = inbox;
    q.uid = 1;
    w->out = &sink.sink;
    int64_t lost = metric_get(M_STORE_LOST, "s3");
    MUST_FAIL(w, read_body, &q, NULL, ERR_UNAVAILABLE); /* its row is there: it is away, and somebody must look */
    assert_int_equal(metric_get(M_STORE_LOST, "s3"), lost + 1);
    fake.object = object;
    fake.object_bytes = n - 1; /* and neither is one that is too short */
    w->out = &sink.sink;
    MUST_FAIL(w, read_body, &q, NULL, ERR_UNAVAILABLE);
    buf_done(&sink.buf);
}

static bool sweep_row(struct sql_tx *tx, void *arg, struct err *err)
{
    static const struct sql_stmt gone = {"t_gone", "", "", "DELETE FROM s_blob WHERE is_ready = 0", NULL, false};
    static const struct sql_stmt ready = {
        "t_ready", "", "", "UPDATE s_blob SET is_ready = 1, tier = 2, stored_len = size", NULL, false};
    return sql_exec(tx, *(bool *)arg ? &gone : &ready, NULL, 1, NULL, err);
}

struct put_later {
    struct world *w;
    str message;
    const Thurn__BlobRef *ref;
};

static void put_main(void *arg)
{
    struct put_later *p = arg;
    p->ref = world_put(p->w, p->message);
}

/* The row of a body changed while the body was on its way: placed by another it is there, swept it is not. */
static void placed_or_swept_case(struct world *w)
{
    for (int is_swept = 0; is_swept < 2; is_swept++) {
        struct put_later p = {.w = w, .message = world_message(w, 30 + (unsigned)is_swept, 100000)};
        struct err err = ERR_INIT;
        bool gone = is_swept;
        FIBER_GROUP(g, 1);
        fake.is_holding = false;
        fake.holds_put = true;
        assert_true(fiber_group_spawn(&g, "put", put_main, &p, &err));
        while (!fake.is_holding)
            assert_true(fiber_yield(&err));
        fake.holds_put = false;
        assert_true(sql_write(w->db, sweep_row, &gone, &err));
        sem_post(&fake.go);
        assert_true(fiber_group_wait(&g, &err));
        if (is_swept)
            assert_int_equal(w->err.kind, ERR_UNAVAILABLE);
        assert_true((p.ref == NULL) == is_swept);
    }
}

/* A bucket that is missing or misnamed is a part of the machinery: nothing is "not found" to a caller, and nothing
 * forgotten. */
static void no_bucket_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX"), told = metric_get(M_S3_ERRORS, "no_bucket");
    str m = world_message(w, 20, 100000);
    const Thurn__BlobRef *ref = world_put(w, m);
    assert_int_equal(append_blob(w, inbox, ref), 1);
    world_restart(w);
    fake.has_no_bucket = true;
    assert_null(world_put(w, world_message(w, 21, 100000)));
    assert_int_equal(w->err.kind, ERR_UNAVAILABLE);
    assert_int_equal(append_blob(w, inbox, ref), 0);
    assert_int_equal(w->err.kind, ERR_UNAVAILABLE);
    Thurn__DeliverReply__Result one = {0};
    assert_true(world_deliver(w, arena_strz(&w->a, world_message(w, 22, 100000)), NULL, 0, &one));
    assert_int_equal(one.error_kind, ERR_UNAVAILABLE);
    BUF(degraded, 4096);
    assert_int_equal(trouble_print(&degraded), 1);
    assert_true(str_starts(buf_str(&degraded), S("degraded: s3: there is no bucket ")));
    Thurn__ReadBodyRequest q = THURN__READ_BODY_REQUEST__INIT;
    struct memory_sink sink;
    memory_sink_init(&sink);
    q.account = &w->ref;
    q.mailbox_id = inbox;
    q.uid = 1;
    w->out = &sink.sink;
    MUST_FAIL(w, read_body, &q, NULL, ERR_UNAVAILABLE);
    buf_done(&sink.buf);
    Thurn__SweepRequest sweep = THURN__SWEEP_REQUEST__INIT;
    for (unsigned n = 1; n <= 2; n++) { /* by one DELETE, and by one list */
        fake.has_no_bucket = true;
        make_garbage(w, n);
        MUST_FAIL(w, sweep, &sweep, NULL, ERR_UNAVAILABLE);
        assert_int_equal(world_sql(w, "SELECT count(*) FROM s_garbage"), n);
        fake.has_no_bucket = false;
        MUST(w, sweep, &sweep, NULL);
    }
    assert_true(metric_get(M_S3_ERRORS, "no_bucket") >= told + 6);
    assert_true(str_eq(world_read(w, inbox, 1, 0, 0), m));
    clock_freeze(clock_unix_ms(), clock_mono_ms() + TROUBLE_SETTLE_MS); /* it works, and has for a while */
    assert_true(str_eq(world_read(w, inbox, 1, 0, 0), m));
    clock_real();
    assert_int_equal(trouble_print(&degraded), 0);
}

/* Whatever the server answers, it says nothing about the message: that waits. Nor is "there already" believed of what
 * is not there. */
static void nonsense_case(struct world *w)
{
    atomic_bool *const ills[] = {&fake.talks_nonsense, &fake.says_there};
    for (unsigned i = 0; i < ARRAY_LEN(ills); i++) {
        xfree(fake.object);
        fake.object = NULL;
        fake.object_bytes = 0;
        *ills[i] = true;
        assert_null(world_put(w, world_message(w, 50 + i, 100000)));
        assert_int_equal(w->err.kind, ERR_UNAVAILABLE);
        *ills[i] = false;
        assert_non_null(world_put(w, world_message(w, 50 + i, 100000)));
    }
    fake.says_there = true; /* and this time it is */
    str m = world_message(w, 60, 100000);
    fake.object = xrealloc(fake.object, m.n);
    memcpy(fake.object, m.p, m.n);
    fake.object_bytes = m.n;
    assert_non_null(world_put(w, m));
    fake.says_there = false;
    trouble_forget_all();
}

/* What could not be deleted stays known, what could does not; a server without multi-object delete is asked once. */
static void deletes_case(struct world *w)
{
    Thurn__SweepRequest q = THURN__SWEEP_REQUEST__INIT;
    const Thurn__SweepReply *r = NULL;
    fake.n_posts = fake.n_deletes = 0;
    fake.post_answer =
        "<DeleteResult><Error><Key>02/1/7/0000000000000000000000000000000000000000000000000000000000000002.2</Key>"
        "<Code>AccessDenied</Code><Message>no</Message></Error><Error><Key>03/1/7/"
        "0000000000000000000000000000000000000000000000000000000000000003.3</Key><Code>NoSuchKey</Code></Error>"
        "</DeleteResult>";
    make_garbage(w, 10);
    MUST_FAIL(w, sweep, &q, &r, ERR_UNAVAILABLE);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_garbage"), 1);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_garbage WHERE object LIKE '02/%'"), 1);
    assert_true(fake.n_posts == 1 && fake.n_deletes == 0);
    MUST(w, sweep, &q, &r); /* a single one is a plain DELETE */
    assert_true(fake.n_posts == 1 && fake.n_deletes == 1);
    fake.post_answer = NULL;
    for (int i = 1; i <= 2; i++) {
        make_garbage(w, 10);
        MUST(w, sweep, &q, &r);
        assert_int_equal(world_sql(w, "SELECT count(*) FROM s_garbage"), 0);
        assert_true(fake.n_posts == 2 && fake.n_deletes == 1 + 10 * i);
    }
}

static bool read_settings(void)
{
    const char *path = getenv("THURN_TEST_S3");
    static char line[512];
    FILE *f = path ? fopen(path, "r") : NULL;
    if (!needs("s3", f && fgets(line, sizeof line, f),
               "start a server with tests/integration/s3.sh and let THURN_TEST_S3 name its file"))
        return false;
    fclose(f);
    str rest = str_trim(str_c(line));
    for (size_t i = 0; i < 4; i++)
        assert(str_split(&rest, ',', &s3[i]));
    return true;
}

int main(void)
{
    static const struct world_case real[] = {
        {"sizes", sizes_case}, {"sweep", sweep_case}, {"crash", crash_case}, {"many", many_case}};
    static const struct world_case played[] = {
        {"no_conditions", no_conditions_case},     {"stumbling", stumbling_case}, {"no bucket", no_bucket_case},
        {"placed or swept", placed_or_swept_case}, {"deletes", deletes_case},     {"nonsense", nonsense_case}};
    int failed = 0;
    fake_start();
    failed += world_main(played, ARRAY_LEN(played), 1, with_fake);
    fake_end();
    if (read_settings())
        failed += world_main(real, ARRAY_LEN(real), 1, with_s3);
    return failed;
}
