/*
 * A delivery attempt against servers that do what a script says. No DNS: sites are address literals.
 */
#include "base_test.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "fiber/fiber.h"
#include "queue-service/remote/remote.h"
#include "smtp_peer.h"

#define GREET "S 220 mx.test ESMTP\nC EHLO me.test\n"
#define PLAIN GREET "S 250-mx.test\nS 250-8BITMIME\nS 250 SIZE 1000000\n"
#define PIPE GREET "S 250-mx.test\nS 250-8BITMIME\nS 250 PIPELINING\n"
#define CHUNK GREET "S 250-mx.test\nS 250-PIPELINING\nS 250-DSN\nS 250 CHUNKING\n"
#define TLS GREET "S 250-mx.test\nS 250 STARTTLS\nC STARTTLS\n"
#define MAIL "C MAIL FROM:<ann@example.test>\nS 250 ok\nC RCPT TO:<bob@remote.test>\nS 250 ok\n"
#define DATA "C DATA\nS 354 go\nD\nS 250 2.0.0 taken\n"
#define QUIT "C QUIT\n"
#define GROUP "C MAIL\nC RCPT TO:<bob@remote.test>\nC DATA\nS 250 ok\nS 250 ok\nS 354 go\nD\nS 250 2.0.0 taken\n"

/* --- the message --- */

struct memory {
    struct rpc_source source;
    str left;
    size_t piece;
    bool fails_open, fails_read;
    unsigned n_open, n_opened;
    str all;
};
static bool memory_read(struct rpc_source *s, str *piece, struct err *err)
{
    struct memory *m = (struct memory *)(void *)s;
    if (m->fails_read && m->left.n < m->all.n)
        return err_set(err, ERR_UNAVAILABLE, "store is away");
    *piece = str_slice(m->left, 0, m->piece);
    m->left = str_slice(m->left, piece->n, SIZE_MAX);
    return true;
}
static struct rpc_source *memory_open(void *arg, struct err *err)
{
    struct memory *m = arg;
    m->n_opened++;
    if (m->fails_open) {
        (void)err_set(err, ERR_UNAVAILABLE, "store is away");
        return NULL;
    }
    m->n_open++;
    m->source.read = memory_read;
    m->left = m->all;
    return &m->source;
}
static void memory_close(void *arg, struct rpc_source *s)
{
    struct memory *m = arg;
    assert_ptr_equal(s, &m->source);
    m->n_open--;
}

/* --- the world: two servers, one client --- */

struct world {
    struct peer a, b;
    uint16_t port;
    struct remote *remote;
    struct memory memory;
    struct remote_message m;
    struct dns_mx mx[8];
    struct remote_site site;
    struct remote_rcpt rcpts[8];
    size_t n;
    struct tls_server *ts;
    struct tls_client *tc;
};
static struct world w;
static char folder[] = "/tmp/thurn-remote-XXXXXX";

static void new_remote(unsigned max_idle, unsigned command_ms)
{
    struct err err = ERR_INIT;
    struct remote_opts opts = {.tls = w.tc,
                               .hostname = S("me.test"),
                               .port = w.port,
                               .allow_private_hosts = true,
                               .max_idle = max_idle,
                               .command_ms = command_ms,
                               .final_ms = command_ms};
    remote_free(w.remote);
    w.remote = remote_new(&opts, &err);
    assert_ok(w.remote, &err);
}

static void make_tls(void)
{
    struct err err = ERR_INIT;
    char cert[64], key[64];
    static const char *const names[] = {"mx.test"};
    (void)snprintf(cert, sizeof(cert), "%s/crt", folder);
    (void)snprintf(key, sizeof(key), "%s/key", folder);
    assert_ok(tls_make_self_signed(names, 1, str_c(cert), str_c(key), &err), &err);
    struct tls_cert_files files = {str_c(cert), str_c(key)};
    w.ts = tls_server_new(&(struct tls_server_opts){.certs = &files, .n_certs = 1}, &err);
    w.tc = tls_client_new(&(struct tls_client_opts){0}, &err);
    assert_ok(w.ts && w.tc, &err);
    (void)unlink(cert);
    (void)unlink(key);
}

static void world_open(void)
{
    memset(&w, 0, sizeof(w));
    w.port = peer_start(&w.a, "127.0.0.1", 0);
    (void)peer_start(&w.b, "127.0.0.2", w.port);
    make_tls();
    w.a.tls = w.b.tls = w.ts;
    new_remote(200, 20000);
}

static void world_close(void)
{
    remote_free(w.remote);
    peer_stop(&w.a);
    peer_stop(&w.b);
    tls_server_free(w.ts);
    tls_client_free(w.tc);
}

/* One message to bob (further recipients are added by a test) by way of host a alone. */
static void setup(const char *content)
{
    w.memory = (struct memory){.all = str_c(content), .piece = 16384};
    w.m = (struct remote_message){.sender = S("ann@example.test"),
                                  .size = w.memory.all.n,
                                  .open = memory_open,
                                  .close = memory_close,
                                  .arg = &w.memory};
    w.mx[0] = (struct dns_mx){10, S("[127.0.0.1]")};
    w.mx[1] = (struct dns_mx){20, S("[127.0.0.2]")};
    w.site = (struct remote_site){S("site"), w.mx, 1};
    memset(w.rcpts, 0, sizeof(w.rcpts));
    w.rcpts[0].address = S("bob@remote.test");
    w.n = 1;
    peer_script(&w.a, NULL, NULL, NULL);
    peer_script(&w.b, NULL, NULL, NULL);
}

static void go(void)
{
    remote_deliver(w.remote, &w.site, &w.m, w.rcpts, w.n);
    assert_int_equal(w.memory.n_open, 0);
}

/* A fresh client, so that no connection is kept over, and the attempt. */
static void deliver(void)
{
    new_remote(200, 20000);
    go();
    new_remote(200, 20000);
}

#define expect(i, want_outcome, want_code, want_status)                                                                \
    do {                                                                                                               \
        const struct remote_rcpt *r_ = &w.rcpts[i];                                                                    \
        if (r_->outcome != (want_outcome) || r_->code != (want_code) || strcmp(r_->status, want_status) != 0)          \
            fail_msg("recipient %d: outcome %d, %u %s '%s'; the peer heard:\n%s", (int)(i), (int)r_->outcome,          \
                     r_->code, r_->status, r_->text, buf_z(&w.a.lines));                                               \
    } while (0)

/* --- the way it goes --- */

static void good_main(void *arg)
{
    (void)arg;
    world_open();
    static const struct {
        const char *script, *content, *want;
    } cases[] = {
        {PLAIN MAIL DATA QUIT, "a\r\n.b\r\n", "a\r\n..b\r\n.\r\n"},
        {PIPE GROUP QUIT, "a\r\n.b\r\n", "a\r\n..b\r\n.\r\n"},
        {CHUNK "C MAIL\nC RCPT\nS 250 ok\nS 250 ok\nB\nS 250 2.0.0 taken\n" QUIT, "a\r\n.b\r\n", "a\r\n.b\r\n"},
        {"S 220 old\nC EHLO\nS 500 what\nC HELO me.test\nS 250 hi\n" MAIL DATA QUIT, "x", "x\r\n.\r\n"},
        {"S 220-hello\nS 220-there\nS 220 mx.test\nC EHLO\nS 250-mx.test\nS 250 PIPELINING\n" GROUP QUIT, "x\r\n",
         "x\r\n.\r\n"},
        {PIPE GROUP QUIT, "bare\nlf\rcr\r\n", "bare\r\nlf cr\r\n.\r\n"},
        {PIPE GROUP QUIT, "", ".\r\n"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        setup(cases[i].content);
        w.a.scripts[0] = cases[i].script;
        deliver();
        expect(0, REMOTE_DELIVERED, 250, "2.0.0");
        assert_string_equal(w.rcpts[0].text, "250 2.0.0 taken");
        assert_string_equal(w.rcpts[0].mx, "[127.0.0.1]");
        assert_false(w.rcpts[0].is_site_failure);
        assert_int_equal(w.rcpts[0].is_dsn_relayed, i == 2);
        peer_check(&w.a, 1);
        assert_str(buf_str(&w.a.content), str_c(cases[i].want));
    }
    world_close();
}

/* Everything that the peer says, cut in two at each of its bytes; and content in pieces of all small sizes. */
static void splits_main(void *arg)
{
    (void)arg;
    world_open();
    static const char *const scripts[] = {
        PLAIN MAIL DATA QUIT, PIPE GROUP QUIT,
        CHUNK "C MAIL\nC RCPT\nS 250-ok\nS 250 ok\nS 250 ok\nB\nS 250 2.0.0 taken\n" QUIT,
        PIPE "C MAIL\nC RCPT\nC DATA\nS 250 ok\nS 550-5.1.1 no\nS 550 5.1.1 user\nS 503 no\nC QUIT\n"};
    for (size_t i = 0; i < ARRAY_LEN(scripts); i++) {
        size_t n_said = SIZE_MAX - 1;
        for (size_t split = 0; split <= n_said; split++) {
            setup("a\r\n.b\r\n.\r\n");
            w.a.scripts[0] = scripts[i];
            w.a.split = split;
            w.memory.piece = 1 + split % 11;
            deliver();
            if (i < 3)
                expect(0, REMOTE_DELIVERED, 250, "2.0.0");
            else
                expect(0, REMOTE_FAILED, 550, "5.1.1");
            peer_check(&w.a, 1);
            n_said = w.a.n_said;
            if (i < 3)
                assert_str(buf_str(&w.a.content), i == 2 ? S("a\r\n.b\r\n.\r\n") : S("a\r\n..b\r\n..\r\n.\r\n"));
        }
        w.a.split = SIZE_MAX;
    }
    world_close();
}

/* An attempt in the time that the peers let pass. */
static void go_frozen(void)
{
    struct err err = ERR_INIT;
    clock_freeze(1800000000000, 1000000);
    go();
    new_remote(200, 0);
    while (w.a.n_running)
        assert_true(fiber_yield(&err));
    clock_real();
}

/* RFC 5321 4.5.3.2: so long each thing may take, and not much longer. */
static void waits_main(void *arg)
{
    (void)arg;
    world_open();
    static const struct {
        const char *before, *after; /* of the wait */
        unsigned least_s;
        bool is_unknown; /* it may have been taken: nobody else is tried, the site is good */
    } cases[] = {
        /* 4.5.3.2.1 */
        {"", PLAIN MAIL DATA QUIT, 300, false},
        {GREET, "S 250 mx.test\n" MAIL DATA QUIT, 300, false},
        /* 4.5.3.2.2 */
        {PLAIN "C MAIL\n", "S 250 ok\nC RCPT\nS 250 ok\n" DATA QUIT, 300, false},
        /* 4.5.3.2.3 */
        {PLAIN "C MAIL\nS 250 ok\nC RCPT\n", "S 250 ok\n" DATA QUIT, 300, false},
        /* 4.5.3.2.4 */
        {PLAIN MAIL "C DATA\n", "S 354 go\nD\nS 250 2.0.0 taken\n" QUIT, 120, false},
        /* 4.5.3.2.6 */
        {PLAIN MAIL "C DATA\nS 354 go\nD\n", "S 250 2.0.0 taken\n" QUIT, 600, true},
        {CHUNK "C MAIL\nC RCPT\nS 250 ok\nS 250 ok\nB\n", "S 250 2.0.0 taken\n" QUIT, 600, true},
        {PIPE "C MAIL\nC RCPT\nC DATA\nS 250 ok\nS 250 ok\nS 354 go\nD\n", "S 250 2.0.0 taken\n" QUIT, 600, true},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        BUF(script, 4096);
        buf_printf(&script, "%sW %u\n%s", cases[i].before, cases[i].least_s - 2, cases[i].after);
        setup("Subject: slow\r\n\r\nx\r\n");
        w.a.scripts[0] = buf_z(&script);
        new_remote(200, 0);
        go_frozen();
        expect(0, REMOTE_DELIVERED, 250, "2.0.0");
        peer_check(&w.a, 1);
        BUF(mute, 4096);
        buf_printf(&mute, "%sW %u\n", cases[i].before, 700);
        setup("Subject: slow\r\n\r\nx\r\n");
        w.a.scripts[0] = buf_z(&mute);
        go_frozen();
        expect(0, REMOTE_DEFERRED, 0, "4.4.2");
        peer_check(&w.a, 1);
    }
    world_close();
}

/* A peer that takes nothing for almost three minutes, again and again, within its least rate (4.5.3.2.5). */
static void slow_reader_main(void *arg)
{
    (void)arg;
    world_open();
    size_t n = 24u << 20;
    char *big = xmalloc(n + 1);
    for (size_t i = 0; i < n; i++)
        big[i] = i % 1000 == 998 ? '\r' : i % 1000 == 999 ? '\n' : 'x';
    memcpy(big + n - 2, "\r\n", 3);
    setup(big);
    w.a.scripts[0] =
        GREET "S 250-mx.test\nS 250 8BITMIME\n" MAIL "C DATA\nS 354 go\nW 170\nD\nS 250 2.0.0 taken\n" QUIT;
    new_remote(200, 0);
    go_frozen();
    expect(0, REMOTE_DELIVERED, 250, "2.0.0");
    peer_check(&w.a, 1);
    free(big);
    world_close();
}

/* A reply is what its code says, however much is said with it. */
static void long_reply_main(void *arg)
{
    (void)arg;
    world_open();
    for (size_t n = 2000; n < 40000; n = n * 3 / 2) {
        BUF(script, 128 * 1024);
        buf_add(&script, S(PLAIN MAIL "C DATA\nS 354 go\nD\nS 250 2.0.0 taken "));
        for (size_t i = 0; i < n; i++)
            buf_addc(&script, 'x');
        buf_add(&script, S("\n" QUIT));
        setup("x\r\n");
        w.a.scripts[0] = buf_z(&script);
        deliver();
        expect(0, REMOTE_DELIVERED, 250, "2.0.0");
        peer_check(&w.a, 1);
    }
    world_close();
}

static void large_main(void *arg)
{
    (void)arg;
    world_open();
    BUF(big, 2u << 20);
    while (big.n < 300000)
        buf_add(&big, S(".0123456789012345678901234567890\r\nx\n"));
    setup(buf_z(&big));
    w.a.scripts[0] = CHUNK
        "C MAIL\nC RCPT\nS 250 ok\nS 250 ok\nB\nB\nB\nB\nS 250 ok\nS 250 ok\nB\nS 250 ok\nS 250 ok\nS 250 2.0.0 taken\n" QUIT;
    deliver();
    expect(0, REMOTE_DELIVERED, 250, "2.0.0");
    peer_check(&w.a, 1);
    assert_true(w.a.content.n > big.n && str_starts(buf_str(&w.a.content), S(".0123")));
    /* Without PIPELINING each chunk waits for its answer. */
    setup(buf_z(&big));
    w.a.scripts[0] = GREET "S 250-mx.test\nS 250 CHUNKING\n" MAIL
                           "B\nS 250 ok\nB\nS 250 ok\nB\nS 250 ok\nB\nS 250 ok\nB\nS 250 2.0.0 taken\n" QUIT;
    deliver();
    expect(0, REMOTE_DELIVERED, 250, "2.0.0");
    peer_check(&w.a, 1);
    /* A chunk that is refused ends it, and the connection lives on. */
    setup(buf_z(&big));
    w.a.scripts[0] = GREET "S 250-mx.test\nS 250 CHUNKING\n" MAIL "B\nS 552 5.3.4 too big\n" QUIT;
    deliver();
    expect(0, REMOTE_FAILED, 552, "5.3.4");
    peer_check(&w.a, 1);
    setup(buf_z(&big));
    w.a.scripts[0] = PIPE GROUP QUIT;
    deliver();
    expect(0, REMOTE_DELIVERED, 250, "2.0.0");
    peer_check(&w.a, 1);
    world_close();
}

/* --- refusals --- */

static void refusals_main(void *arg)
{
    (void)arg;
    world_open();
    static const struct {
        const char *script;
        enum remote_outcome outcome;
        uint16_t code;
        const char *status;
        bool is_site_failure;
    } cases[] = {
        {"S 554 5.7.1 go away\n", REMOTE_DEFERRED, 554, "4.7.1", true},
        {"S 421 busy\n", REMOTE_DEFERRED, 421, "4.0.0", true},
        {"S 220 x\nC EHLO\nS 450 later\n", REMOTE_DEFERRED, 450, "4.0.0", true},
        {"S 220 x\nC EHLO\nS 550 no\nC HELO\nS 550 5.7.1 never\n", REMOTE_FAILED, 550, "5.7.1", false},
        {"S 220 x\nC EHLO\nS 350 odd\n", REMOTE_DEFERRED, 350, "4.5.0", true},
        {PLAIN "C MAIL\nS 450 4.7.1 greylisted\n" QUIT, REMOTE_DEFERRED, 450, "4.7.1", false},
        {PLAIN "C MAIL\nS 550 5.7.1 spam\n" QUIT, REMOTE_FAILED, 550, "5.7.1", false},
        {PLAIN "C MAIL\nS 421 4.3.2 stopping\n", REMOTE_DEFERRED, 421, "4.3.2", false},
        {PIPE "C MAIL\nC RCPT\nC DATA\nS 550 5.7.1 spam\nS 503 no\nS 503 no\n" QUIT, REMOTE_FAILED, 550, "5.7.1",
         false},
        {PIPE "C MAIL\nC RCPT\nC DATA\nS 450 no\nS 250 ok\nS 554 no\n" QUIT, REMOTE_DEFERRED, 450, "4.0.0", false},
        {PLAIN "C MAIL\nS 250 ok\nC RCPT\nS 550 5.1.1 unknown\n" QUIT, REMOTE_FAILED, 550, "5.1.1", false},
        {PLAIN "C MAIL\nS 250 ok\nC RCPT\nS 450 4.2.0 later\n" QUIT, REMOTE_DEFERRED, 450, "4.2.0", false},
        {PLAIN "C MAIL\nS 250 ok\nC RCPT\nS 552 5.2.2 full\n" QUIT, REMOTE_DEFERRED, 452, "4.2.2", false},
        {PLAIN "C MAIL\nS 250 ok\nC RCPT\nS 421 gone\n", REMOTE_DEFERRED, 421, "4.0.0", false},
        {PIPE "C MAIL\nC RCPT\nC DATA\nS 250 ok\nS 550 5.1.1 unknown\nS 554 no\n" QUIT, REMOTE_FAILED, 550, "5.1.1",
         false},
        {PIPE "C MAIL\nC RCPT\nC DATA\nS 250 ok\nS 550 5.1.1 unknown\nS 354 go\nD\nS 250 nobody\n" QUIT, REMOTE_FAILED,
         550, "5.1.1", false},
        {PLAIN MAIL "C DATA\nS 450 later\n" QUIT, REMOTE_DEFERRED, 450, "4.0.0", false},
        {PLAIN MAIL "C DATA\nS 554 5.6.0 no\n" QUIT, REMOTE_FAILED, 554, "5.6.0", false},
        {PLAIN MAIL "C DATA\nS 250 odd\n" QUIT, REMOTE_DEFERRED, 250, "4.5.0", false},
        {PLAIN MAIL "C DATA\nS 354 go\nD\nS 451 4.3.0 later\n" QUIT, REMOTE_DEFERRED, 451, "4.3.0", false},
        {PLAIN MAIL "C DATA\nS 354 go\nD\nS 554 5.7.1 virus\n" QUIT, REMOTE_FAILED, 554, "5.7.1", false},
        {PLAIN MAIL "C DATA\nS 354 go\nD\nS 421 4.3.2 stopping\n", REMOTE_DEFERRED, 421, "4.3.2", false},
        /* Answers before the end of the message are no answers to it. */
        {PLAIN MAIL "C DATA\nR 354 go\\r\\n250 taken\\r\\n\n", REMOTE_DEFERRED, 0, "4.4.2", false},
        {PLAIN MAIL "C DATA\nR 354 go\\r\\n552 5.3.4 too big\\r\\n\n", REMOTE_FAILED, 552, "5.3.4", false},
        {CHUNK "C MAIL\nC RCPT\nS 250 ok\nS 250 ok\nB\nS 554 5.7.1 virus\n" QUIT, REMOTE_FAILED, 554, "5.7.1", false},
        {CHUNK "C MAIL\nC RCPT\nS 250 ok\nS 550 5.1.1 no\n" QUIT, REMOTE_FAILED, 550, "5.1.1", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        setup("x\r\n");
        w.a.scripts[0] = cases[i].script;
        deliver();
        expect(0, cases[i].outcome, cases[i].code, cases[i].status);
        assert_int_equal(w.rcpts[0].is_site_failure, cases[i].is_site_failure);
        peer_check(&w.a, 1);
    }
    world_close();
}

/* The connection breaks at each place where the client waits; only after the end of data nobody else is asked. */
static void losses_main(void *arg)
{
    (void)arg;
    world_open();
    static const struct {
        const char *script;
        bool is_taken_by_next;
    } cases[] = {
        {"X", true},
        {"R 220 mx\nX", true},
        {"S 220 mx.test\nC EHLO\nX", true},
        {"S 220 mx.test\nC EHLO\nS 250-mx.test\nX", true},
        {PLAIN "C MAIL\nX", true},
        {PLAIN "C MAIL\nS 250 ok\nC RCPT\nX", true},
        {PIPE "C MAIL\nS 250 ok\nS 250 ok\nX", true},
        {PLAIN MAIL "C DATA\nX", true},
        {PLAIN MAIL "C DATA\nS 354 go\nX", true},
        {PLAIN MAIL "C DATA\nS 354 go\nD\nX", false},
        {PLAIN MAIL "C DATA\nS 354 go\nD\nR 250\nX", false},
        {CHUNK "C MAIL\nC RCPT\nS 250 ok\nS 250 ok\nX", true},
        {CHUNK "C MAIL\nC RCPT\nS 250 ok\nS 250 ok\nB\nX", false},
        {PLAIN "C MAIL\nR nonsense\\r\\n\n", true},
        {PLAIN "C MAIL\nN 250-more\n", true},
        {PLAIN
         "C MAIL\nN 250-0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\n",
         true},
    };
    BUF(big, 4u << 20); /* more than buffers hold, so that the loss is seen while content is written */
    while (big.n < 3000000)
        buf_add(&big, S("0123456789012345678901234567890123456789\r\n"));
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        bool is_inside = i == 8 || i == 11;
        setup(is_inside ? buf_z(&big) : "x\r\n");
        if (is_inside) {
            w.a.scripts[0] = i == 8 ? PIPE "C MAIL\nC RCPT\nC DATA\nS 250 ok\nS 250 ok\nS 354 go\nX" : cases[i].script;
        } else {
            w.a.scripts[0] = cases[i].script;
        }
        w.b.scripts[0] = PIPE GROUP QUIT;
        w.site.n_mx = 2;
        deliver();
        if (cases[i].is_taken_by_next) {
            expect(0, REMOTE_DELIVERED, 250, "2.0.0");
        } else {
            expect(0, REMOTE_DEFERRED, 0, "4.4.2");
            assert_true(str_find_str(str_c(w.rcpts[0].text), S("the end of the message")) > 0);
        }
        assert_false(w.rcpts[0].is_site_failure);
        peer_check(&w.a, 1);
        peer_check(&w.b, cases[i].is_taken_by_next);
    }
    world_close();
}

static void add_rcpt(const char *address)
{
    w.rcpts[w.n++].address = str_c(address);
}

static void partial_main(void *arg)
{
    (void)arg;
    world_open();
    setup("x\r\n");
    add_rcpt("no@remote.test");
    add_rcpt("later@remote.test");
    add_rcpt("yes@remote.test");
    w.a.scripts[0] = PIPE
        "C MAIL\nC RCPT TO:<bob@\nC RCPT TO:<no@\nC RCPT TO:<later@\nC RCPT TO:<yes@\nC DATA\n"
        "S 250 ok\nS 250 ok\nS 550 5.1.1 no\nS 450 4.2.1 later\nS 251 forward\nS 354 go\nD\nS 250 2.0.0 taken\n" QUIT;
    /* The one that was told to come later is tried at the next host. */
    w.b.scripts[0] = PIPE "C MAIL\nC RCPT TO:<later@\nC DATA\nS 250 ok\nS 450 4.2.1 later\nS 503 no\n" QUIT;
    w.site.n_mx = 2;
    deliver();
    expect(0, REMOTE_DELIVERED, 250, "2.0.0");
    expect(1, REMOTE_FAILED, 550, "5.1.1");
    expect(2, REMOTE_DEFERRED, 450, "4.2.1");
    expect(3, REMOTE_DELIVERED, 250, "2.0.0");
    assert_string_equal(w.rcpts[2].mx, "[127.0.0.2]");
    peer_check(&w.a, 1);
    peer_check(&w.b, 1);

    /* The content is refused for now: who was refused for good stays so. */
    setup("x\r\n");
    add_rcpt("no@remote.test");
    w.a.scripts[0] =
        PLAIN "C MAIL\nS 250 ok\nC RCPT\nS 250 ok\nC RCPT\nS 550 no\nC DATA\nS 354 go\nD\nS 451 4.3.0 later\n" QUIT;
    deliver();
    expect(0, REMOTE_DEFERRED, 451, "4.3.0");
    expect(1, REMOTE_FAILED, 550, "5.0.0");
    peer_check(&w.a, 1);
    world_close();
}

/* RFC 5321 4.5.3.1.10, RFC 9422: what does not go into one transaction goes into the next on the same connection. */
static void too_many_main(void *arg)
{
    (void)arg;
    world_open();
    setup("x\r\n");
    add_rcpt("two@remote.test");
    add_rcpt("full@remote.test");
    w.a.scripts[0] = PIPE
        "C MAIL\nC RCPT TO:<bob\nC RCPT TO:<two\nC RCPT TO:<full\nC DATA\nS 250 ok\nS 250 ok\nS 452 4.5.3 too many\n"
        "S 452 4.2.2 full\nS 354 go\nD\nS 250 2.0.0 taken\n"
        "C MAIL\nC RCPT TO:<two\nC DATA\nS 250 ok\nS 250 ok\nS 354 go\nD\nS 250 2.0.1 taken\n" QUIT;
    deliver();
    expect(0, REMOTE_DELIVERED, 250, "2.0.0");
    expect(1, REMOTE_DELIVERED, 250, "2.0.1");
    expect(2, REMOTE_DEFERRED, 452, "4.2.2");
    peer_check(&w.a, 1);
    assert_int_equal(w.memory.n_opened, 2);

    setup("x\r\n");
    add_rcpt("two@remote.test");
    add_rcpt("three@remote.test");
    w.a.scripts[0] =
        GREET "S 250-mx.test\nS 250 LIMITS RCPTMAX=2 MAILMAX=1\n"
              "C MAIL\nS 250 ok\nC RCPT\nS 250 ok\nC RCPT\nS 250 ok\nC DATA\nS 354 go\nD\nS 250 2.0.0 taken\n" QUIT;
    w.a.scripts[1] = PLAIN "C MAIL\nS 250 ok\nC RCPT TO:<three\nS 250 ok\n" DATA QUIT;
    w.mx[1].name = S("[127.0.0.1]"); /* used already, and so not again */
    w.site.n_mx = 2;
    deliver();
    expect(0, REMOTE_DELIVERED, 250, "2.0.0");
    expect(1, REMOTE_DELIVERED, 250, "2.0.0");
    assert_int_equal(w.rcpts[2].outcome, REMOTE_DEFERRED);
    peer_check(&w.a, 1);
    world_close();
}

/* --- TLS --- */

static void tls_main(void *arg)
{
    (void)arg;
    world_open();
    static const char *const over_tls = TLS "S 220 go\nT\nC EHLO me.test\nS 250-mx.test\nS 250 PIPELINING\n" GROUP QUIT;
    setup("x\r\n");
    w.a.scripts[0] = over_tls;
    w.m.requires_tls = true;
    deliver();
    expect(0, REMOTE_DELIVERED, 250, "2.0.0");
    peer_check(&w.a, 1);

    /* Words put behind the go-ahead by somebody in the middle are dropped: neither capabilities nor answers. */
    setup("x\r\n");
    w.a.scripts[0] = TLS
        "R 220 go\\r\\n250 CHUNKING\\r\\n554 no\\r\\n\nT\nC EHLO me.test\nS 250-mx.test\nS 250 PIPELINING\n" GROUP QUIT;
    deliver();
    expect(0, REMOTE_DELIVERED, 250, "2.0.0");
    peer_check(&w.a, 1);

    /* The handshake fails: once more in clear, but not when it must not. */
    for (int is_must = 0; is_must < 2; is_must++) {
        setup("x\r\n");
        w.m.requires_tls = is_must;
        w.a.scripts[0] = TLS "S 220 go\nR garbage garbage\\r\\n\nX";
        w.a.scripts[1] = GREET "S 250-mx.test\nS 250-STARTTLS\nS 250 PIPELINING\n" GROUP QUIT;
        deliver();
        if (is_must) {
            expect(0, REMOTE_DEFERRED, 0, "4.7.5");
            assert_false(w.rcpts[0].is_site_failure); /* the host is of use to other messages */
        } else {
            expect(0, REMOTE_DELIVERED, 250, "2.0.0");
        }
        peer_check(&w.a, is_must ? 1 : 2);
    }

    /* STARTTLS is refused. */
    for (int is_must = 0; is_must < 2; is_must++) {
        setup("x\r\n");
        w.m.requires_tls = is_must;
        w.a.scripts[0] = is_must ? TLS "S 454 4.7.0 not now\n" QUIT : TLS "S 454 4.7.0 not now\n" MAIL DATA QUIT;
        deliver();
        if (is_must)
            expect(0, REMOTE_DEFERRED, 454, "4.7.0");
        else
            expect(0, REMOTE_DELIVERED, 250, "2.0.0");
        peer_check(&w.a, 1);
    }

    /* Not offered at one host, offered at the next. */
    setup("x\r\n");
    w.m.requires_tls = true;
    w.a.scripts[0] = PIPE QUIT;
    deliver();
    expect(0, REMOTE_FAILED, 0, "5.7.10");
    peer_check(&w.a, 1);
    setup("x\r\n");
    w.m.requires_tls = true;
    w.a.scripts[0] = PIPE QUIT;
    w.b.scripts[0] = over_tls;
    w.site.n_mx = 2;
    deliver();
    expect(0, REMOTE_DELIVERED, 250, "2.0.0");
    peer_check(&w.b, 1);

    /* A kept connection in clear is not for such a message. */
    new_remote(200, 20000);
    setup("x\r\n");
    w.a.scripts[0] = PIPE GROUP QUIT;
    w.a.scripts[1] = over_tls;
    go();
    w.m.requires_tls = true;
    go();
    expect(0, REMOTE_DELIVERED, 250, "2.0.0");
    new_remote(200, 20000);
    peer_check(&w.a, 2);
    world_close();
}

/* --- kept connections --- */

static void kept_main(void *arg)
{
    (void)arg;
    world_open();
    metrics_reset();
    setup("x\r\n");
    w.a.scripts[0] = PIPE GROUP GROUP
        "C MAIL\nC RCPT\nC DATA\nS 250 ok\nS 550 no\nS 503 no\n"
        "C RSET\nC MAIL\nC RCPT\nC DATA\nS 250 ok\nS 250 ok\nS 250 ok\nS 354 go\nD\nS 250 2.0.0 taken\n" QUIT;
    for (int i = 0; i < 4; i++) {
        go();
        if (i == 2)
            expect(0, REMOTE_FAILED, 550, "5.0.0");
        else
            expect(0, REMOTE_DELIVERED, 250, "2.0.0");
        assert_int_equal(metric_get(M_REMOTE_IDLE, NULL), 1);
    }
    assert_int_equal(metric_get(M_REMOTE_SESSIONS, "opened"), 1);
    assert_int_equal(metric_get(M_REMOTE_SESSIONS, "reused"), 3);
    assert_int_equal(metric_get(M_REMOTE_RECIPIENTS, "delivered"), 3);
    new_remote(200, 20000);
    assert_int_equal(metric_get(M_REMOTE_IDLE, NULL), 0);
    peer_check(&w.a, 1);

    /* A kept connection that the peer gave up in the meantime is no trouble, however it says so. */
    static const char *const ends[] = {PIPE GROUP "C MAIL\nC RCPT\nC DATA\nX",
                                       PIPE GROUP "C MAIL\nC RCPT\nC DATA\nS 421 idle\n", PIPE GROUP "S 421 idle\nX"};
    for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
        setup("x\r\n");
        w.a.scripts[0] = ends[i];
        w.a.scripts[1] = PIPE GROUP QUIT;
        go();
        expect(0, REMOTE_DELIVERED, 250, "2.0.0");
        go();
        expect(0, REMOTE_DELIVERED, 250, "2.0.0");
        new_remote(200, 20000);
        peer_check(&w.a, 2);
    }

    /* But one that breaks after its first answer is. */
    setup("x\r\n");
    w.a.scripts[0] = PIPE GROUP "C MAIL\nC RCPT\nC DATA\nS 250 ok\nX";
    go();
    go();
    expect(0, REMOTE_DEFERRED, 0, "4.4.2");
    new_remote(200, 20000);
    peer_check(&w.a, 1);

    /* The pool's cap: the oldest goes. */
    new_remote(1, 20000);
    setup("x\r\n");
    w.a.scripts[0] = w.b.scripts[0] = PIPE GROUP QUIT;
    go();
    w.site = (struct remote_site){S("other"), w.mx + 1, 1};
    go();
    assert_int_equal(metric_get(M_REMOTE_IDLE, NULL), 1);
    peer_check(&w.a, 1);
    new_remote(200, 20000);
    peer_check(&w.b, 1);
    world_close();
}

/* --- what the peer cannot take --- */

static void extensions_main(void *arg)
{
    (void)arg;
    world_open();
    /* RFC 6152 3: converted for a host without 8BITMIME; its size is not known then. */
    setup("Subject: a\r\n\r\ngr\xc3\xbc\xc3\x9f\x65\r\n");
    w.memory.piece = 3;
    w.m.is_8bit = true;
    w.a.scripts[0] = GREET "S 250-mx.test\nS 250 SIZE\n" MAIL DATA QUIT;
    deliver();
    expect(0, REMOTE_DELIVERED, 250, "2.0.0");
    peer_check(&w.a, 1);
    assert_true(str_find_str(buf_str(&w.a.lines), S("MAIL FROM:<ann@example.test>\n")) > 0);
    assert_true(str_find_str(buf_str(&w.a.content),
                             S("Content-Transfer-Encoding: quoted-printable\r\n\r\ngr=C3=BC=C3=9Fe\r\n")) > 0);
    assert_int_equal(metric_get(M_REMOTE_DOWNGRADES, NULL), 1);
    /* What cannot be converted goes back. */
    BUF(parts, 1 << 20);
    buf_add(&parts, S("Content-Type: multipart/mixed; boundary=b\r\n\r\n"));
    for (int i = 0; i < 1100; i++)
        buf_add(&parts, S("--b\r\n\r\n\xc3\xbc\r\n"));
    setup(buf_z(&parts));
    w.m.is_8bit = true;
    w.a.scripts[0] = GREET "S 250-mx.test\nS 250 CHUNKING\n" MAIL QUIT;
    deliver();
    expect(0, REMOTE_FAILED, 0, "5.6.3");
    peer_check(&w.a, 1);
    setup("\xc3\xbc\r\n"); /* while what cannot be read is tried again */
    w.m.is_8bit = true;
    w.memory.fails_read = true;
    w.memory.piece = 1;
    w.a.scripts[0] = GREET "S 250-mx.test\nS 250 CHUNKING\n" MAIL QUIT;
    deliver();
    expect(0, REMOTE_DEFERRED, 0, "4.3.0");
    peer_check(&w.a, 1);
    setup("x\r\n");
    w.m.is_8bit = true;
    w.a.scripts[0] = PIPE GROUP QUIT;
    deliver();
    expect(0, REMOTE_DELIVERED, 250, "2.0.0");
    peer_check(&w.a, 1);
    assert_true(str_find_str(buf_str(&w.a.lines), S("MAIL FROM:<ann@example.test> BODY=8BITMIME\n")) > 0);

    for (int by_address = 0; by_address < 2; by_address++) {
        setup(by_address ? "x\r\n" : "Subject: \xc3\xbc\r\n\r\nx\r\n");
        w.m.is_smtputf8 = !by_address;
        if (by_address)
            w.rcpts[0].address = S("b\xc3\xb6"
                                   "b@remote.test");
        w.a.scripts[0] = PIPE QUIT;
        deliver();
        expect(0, REMOTE_FAILED, 0, "5.6.7");
        peer_check(&w.a, 1);
        w.a.scripts[0] = GREET
            "S 250-mx.test\nS 250 SMTPUTF8\nC MAIL FROM:<ann@example.test> SMTPUTF8\nS 250 ok\nC RCPT\nS 250 ok\n" DATA
                QUIT;
        peer_script(&w.a, w.a.scripts[0], NULL, NULL);
        deliver();
        expect(0, REMOTE_DELIVERED, 250, "2.0.0");
        peer_check(&w.a, 1);
    }

    setup("Subject: asked for and not needed\r\n\r\n\xc3\xbc\r\n"); /* RFC 6531 3.4: the body does not count */
    w.m.is_smtputf8 = true;
    w.a.scripts[0] = PIPE GROUP QUIT;
    deliver();
    expect(0, REMOTE_DELIVERED, 250, "2.0.0");
    peer_check(&w.a, 1);
    assert_true(str_find_str(buf_str(&w.a.lines), S("SMTPUTF8")) < 0);

    setup("0123456789\r\n");
    w.a.scripts[0] = GREET "S 250-mx.test\nS 250 SIZE 11\n" QUIT;
    deliver();
    expect(0, REMOTE_FAILED, 0, "5.3.4");
    peer_check(&w.a, 1);
    setup("0123456789\r\n");
    w.a.scripts[0] = GREET "S 250-mx.test\nS 250 SIZE\nC MAIL FROM:<ann@example.test> SIZE=12\nS 550 no\n" QUIT;
    deliver();
    peer_check(&w.a, 1);

    setup("x\r\n");
    w.m.ret_full = true;
    w.m.envelope_id = S("id+2B1");
    w.m.sender = STR_NONE;
    w.rcpts[0].notify = 1 | 4;
    w.rcpts[0].original = S("rfc822;b+2Bx@remote.test");
    add_rcpt("two@remote.test");
    w.rcpts[1].notify = 8 | 1;
    w.rcpts[1].original = S("t+x@remote.test");
    add_rcpt("three@remote.test");
    w.rcpts[2].original = S("rfc822;bad value\r\n");
    w.a.scripts[0] =
        CHUNK "C MAIL FROM:<> RET=FULL ENVID=id+2B1\n"
              "C RCPT TO:<bob@remote.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+2Bx@remote.test\n"
              "C RCPT TO:<two@remote.test> NOTIFY=NEVER ORCPT=rfc822;t+2Bx@remote.test\nC RCPT TO:<three@remote.test>\n"
              "S 250 ok\nS 250 ok\nS 250 ok\nS 250 ok\nB\nS 250 2.0.0 taken\n" QUIT;
    deliver();
    expect(2, REMOTE_DELIVERED, 250, "2.0.0");
    assert_true(w.rcpts[0].is_dsn_relayed);
    peer_check(&w.a, 1);
    assert_true(str_find_str(buf_str(&w.a.lines), S("RCPT TO:<three@remote.test>\n")) > 0);
    world_close();
}

/* --- trouble on this side --- */

static void own_main(void *arg)
{
    (void)arg;
    world_open();
    static const char *const bad[] = {"a\r\nRCPT TO:<x@y>", "a b@remote.test", "a@b> SIZE=1", "",
                                      "\"a\\\r\"@b",        "a@b\n",           "\"open@b"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        setup("x\r\n");
        w.rcpts[0].address = str_c(bad[i]);
        deliver();
        expect(0, REMOTE_FAILED, 0, "5.1.3");
        peer_check(&w.a, 0);
    }
    setup("x\r\n");
    w.m.sender = S("a\n@b");
    deliver();
    expect(0, REMOTE_FAILED, 0, "5.1.7");
    setup("x\r\n");
    w.rcpts[0].address = S("\"a b> \\\" <c\"@remote.test");
    w.a.scripts[0] = PLAIN "C MAIL\nS 250 ok\nC RCPT TO:<\"a b> \\\" <c\"@remote.test>\nS 250 ok\n" DATA QUIT;
    deliver();
    expect(0, REMOTE_DELIVERED, 250, "2.0.0");
    peer_check(&w.a, 1);

    /* The content cannot be had, or is not what it should be: no end of data is ever said. */
    for (int how = 0; how < 4; how++) {
        setup("0123456789\r\n");
        w.memory.piece = 4;
        w.memory.fails_open = how == 0;
        w.memory.fails_read = how == 1;
        w.m.size += how == 2 ? 1 : how == 3 ? (uint64_t)-1 : 0;
        w.a.scripts[0] = PIPE "C MAIL\nC RCPT\nC DATA\nS 250 ok\nS 250 ok\nS 354 go\n";
        deliver();
        expect(0, REMOTE_DEFERRED, 0, "4.3.0");
        peer_check(&w.a, 1);
        assert_int_equal(str_find_str(buf_str(&w.a.lines), S("\n.\n")), -1);
    }
    world_close();
}

/* Five addresses, two sessions, ourselves by name. */
static void hosts_main(void *arg)
{
    (void)arg;
    world_open();
    static const char *const dead[] = {"[127.0.0.3]", "[127.0.0.4]", "[127.0.0.5]", "[127.0.0.6]", "[127.0.0.7]"};
    for (size_t n_dead = 4; n_dead <= 5; n_dead++) {
        setup("x\r\n");
        for (size_t i = 0; i < n_dead; i++)
            w.mx[i] = (struct dns_mx){10, str_c(dead[i])};
        w.mx[n_dead] = (struct dns_mx){20, S("[127.0.0.1]")};
        w.site.n_mx = n_dead + 1;
        w.a.scripts[0] = PIPE GROUP QUIT;
        deliver();
        if (n_dead == 4) {
            expect(0, REMOTE_DELIVERED, 250, "2.0.0");
        } else {
            expect(0, REMOTE_DEFERRED, 0, "4.4.1");
            assert_true(w.rcpts[0].is_site_failure);
        }
        peer_check(&w.a, n_dead == 4);
    }

    setup("x\r\n");
    w.mx[0].name = S("[127.0.0.3]");
    w.mx[1].name = S("me.test"); /* this host: nothing at its preference or worse is used */
    w.mx[1].preference = 20;
    w.mx[2] = (struct dns_mx){20, S("[127.0.0.1]")};
    w.site.n_mx = 3;
    deliver();
    expect(0, REMOTE_DEFERRED, 0, "4.4.1");
    w.mx[0] = w.mx[1];
    w.site.n_mx = 1;
    deliver();
    expect(0, REMOTE_FAILED, 0, "5.4.6");
    peer_check(&w.a, 0);

    setup("x\r\n");
    w.a.scripts[0] = "S 220 x\nC EHLO\nS 250 ME.test hello\n" QUIT;
    deliver();
    expect(0, REMOTE_FAILED, 0, "5.4.6");
    peer_check(&w.a, 1);
    world_close();
}

struct waiting {
    struct fiber *fiber;
    bool is_done;
};
static void deliver_alone(void *arg)
{
    struct waiting *x = arg;
    x->fiber = fiber_self();
    go();
    x->is_done = true;
}

/* A peer that says nothing, and one that reads nothing; a caller that goes away. */
static void time_main(void *arg)
{
    (void)arg;
    world_open();
    static const char *const silent[] = {"", "S 220 x\nC EHLO\n", PLAIN "C MAIL\n", PIPE "C MAIL\nC RCPT\nC DATA\n"};
    for (size_t i = 0; i < ARRAY_LEN(silent); i++) {
        new_remote(200, 30);
        setup("x\r\n");
        w.a.scripts[0] = silent[i];
        go();
        assert_int_equal(w.rcpts[0].outcome, REMOTE_DEFERRED);
        assert_string_equal(w.rcpts[0].status, "4.4.2");
        assert_int_equal(w.rcpts[0].is_site_failure, i < 2);
        peer_check(&w.a, 1);
    }
    new_remote(200, 30);
    setup("x\r\n");
    w.a.scripts[0] = PIPE "C MAIL\nC RCPT\nC DATA\nS 250 ok\nS 250 ok\nS 354 go\nD\n";
    w.site.n_mx = 2;
    go();
    expect(0, REMOTE_DEFERRED, 0, "4.4.2");
    peer_check(&w.a, 1);
    peer_check(&w.b, 0);

    for (int where = 0; where < 3; where++) {
        new_remote(200, 20000);
        setup("x\r\n");
        w.site.n_mx = 2;
        w.a.scripts[0] = where == 0   ? ""
                         : where == 1 ? PIPE "C MAIL\n"
                                      : PIPE "C MAIL\nC RCPT\nC DATA\nS 250 ok\nS 250 ok\nS 354 go\nD\n";
        struct waiting x = {0};
        struct err err = ERR_INIT;
        assert_ok(fiber_spawn("deliver", deliver_alone, &x, FIBER_NO_DEADLINE, &err), &err);
        static const char *const mark[] = {"", "MAIL", "DATA\n"};
        for (int k = 0; k < 1000 && (w.a.n_running == 0 || str_find_str(buf_str(&w.a.lines), str_c(mark[where])) < 0 ||
                                     (where == 2 && w.a.content.n == 0));
             k++)
            assert_true(fiber_sleep_ms(5, &err));
        fiber_cancel(x.fiber);
        for (int k = 0; k < 1000 && !x.is_done; k++)
            assert_true(fiber_sleep_ms(5, &err));
        assert_true(x.is_done);
        assert_int_equal(w.rcpts[0].outcome, REMOTE_DEFERRED);
        peer_check(&w.a, 1);
        peer_check(&w.b, 0);
    }
    world_close();
}

/* --- the operator's relay --- */

static void relay_main(void *arg)
{
    (void)arg;
    world_open();
    struct err err = ERR_INIT;
    static const char *const bad[] = {"host:0", "host:x", "host:70000", "a b", ":25"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct remote_opts opts = {.hostname = S("me.test"), .relay = str_c(bad[i])};
        assert_fails(remote_new(&opts, &err), &err, ERR_INVALID);
        err_clear(&err);
    }
    char relay[32];
    (void)snprintf(relay, sizeof(relay), "127.0.0.1:%u", w.port);
    /* Private addresses are the operator's business here, and so is a relay that has our name. */
    struct remote_opts opts = {.hostname = S("me.test"), .relay = str_c(relay)};
    struct remote *r = remote_new(&opts, &err);
    assert_ok(r, &err);
    ARENA(a, 65536);
    setup("x\r\n");
    assert_ok(remote_resolve(r, S("anything.example"), &a, &w.site, &err), &err);
    w.a.scripts[0] = "S 220 x\nC EHLO\nS 250-me.test\nS 250 PIPELINING\n" GROUP QUIT;
    remote_deliver(r, &w.site, &w.m, w.rcpts, 1);
    expect(0, REMOTE_DELIVERED, 250, "2.0.0");
    remote_free(r);
    peer_check(&w.a, 1);
    world_close();
}

#define TEST(name)                                                                                                     \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        assert_true(fiber_main(name##_main, NULL));                                                                    \
    }
TEST(good)
TEST(splits)
TEST(large)
TEST(refusals)
TEST(losses)
TEST(partial)
TEST(too_many)
TEST(tls)
TEST(kept)
TEST(extensions)
TEST(own)
TEST(hosts)
TEST(time)
TEST(relay)
TEST(waits)
TEST(slow_reader)
TEST(long_reply)

int main(void)
{
    if (!mkdtemp(folder))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),        cmocka_unit_test(test_splits),     cmocka_unit_test(test_large),
        cmocka_unit_test(test_refusals),    cmocka_unit_test(test_losses),     cmocka_unit_test(test_partial),
        cmocka_unit_test(test_too_many),    cmocka_unit_test(test_tls),        cmocka_unit_test(test_kept),
        cmocka_unit_test(test_extensions),  cmocka_unit_test(test_own),        cmocka_unit_test(test_hosts),
        cmocka_unit_test(test_time),        cmocka_unit_test(test_relay),      cmocka_unit_test(test_waits),
        cmocka_unit_test(test_slow_reader), cmocka_unit_test(test_long_reply),
    };
    cmocka_set_test_filter(getenv("THURN_TEST_CASE"));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)rmdir(folder);
    return failed;
}
