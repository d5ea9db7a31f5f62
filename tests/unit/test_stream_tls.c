#include "test.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/metrics.h"
#include "net/stream.h"
#include "fiber/fiber.h"

static char folder[] = "/tmp/thurn-tls-XXXXXX";
static char paths[4][128]; /* a.crt a.key b.crt b.key */

static void make_certs(void)
{
    struct err err = ERR_INIT;
    static const char *const names[2][4] = {{"mail.example.org", "*.example.org", "127.0.0.1"},
                                            {"other.test", "third.test", "::1", "URI:thurn:role:store"}};
    for (int i = 0; i < 2; i++) {
        (void)snprintf(paths[2 * i], sizeof(paths[0]), "%s/%d.crt", folder, i);
        (void)snprintf(paths[2 * i + 1], sizeof(paths[0]), "%s/%d.key", folder, i);
        assert_true(tls_make_self_signed(names[i], 3 + (size_t)i, str_c(paths[2 * i]), str_c(paths[2 * i + 1]), &err));
        struct stat st;
        assert_int_equal(stat(paths[2 * i + 1], &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
}

static struct tls_server *new_server(const char *const *alpn, const char *client_ca)
{
    struct err err = ERR_INIT;
    struct tls_cert_files files[] = {{str_c(paths[0]), str_c(paths[1])}, {str_c(paths[2]), str_c(paths[3])}};
    struct tls_server_opts opts = {.certs = files, .n_certs = 2, .alpn = alpn, .client_ca = str_c(client_ca)};
    struct tls_server *t = tls_server_new(&opts, &err);
    if (!t)
        fail_msg("%s", err.msg);
    return t;
}
static struct tls_client *new_client(const char *ca, const char *cert, const char *key)
{
    struct err err = ERR_INIT;
    struct tls_client_opts opts = {.ca_file = str_c(ca), .own = {str_c(cert), str_c(key)}};
    struct tls_client *t = tls_client_new(&opts, &err);
    if (!t)
        fail_msg("%s", err.msg);
    return t;
}

/* Two streams that talk to each other, and what each side makes of the handshake. */
struct talk {
    struct stream *server, *client;
    struct tls_server *ts;
    struct tls_client *tc;
    str name;
    enum tls_verify verify;
    struct err server_err, client_err;
    bool is_server_ok, is_client_ok, had_plaintext;
};
static void open_talk(struct talk *t)
{
    int fds[2];
    struct err err = ERR_INIT;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    t->server = stream_from_fd(fds[0], NULL, &err);
    t->client = stream_from_fd(fds[1], NULL, &err);
    assert_true(t->server && t->client);
    t->is_server_ok = t->is_client_ok = false;
    err_clear(&t->server_err);
    err_clear(&t->client_err);
}
static void serve(void *arg)
{
    struct talk *t = arg;
    t->is_server_ok = stream_start_tls_server(t->server, t->ts, &t->had_plaintext, &t->server_err);
    if (!t->is_server_ok) {
        stream_close(t->server);
        t->server = NULL;
    }
}
static void shake(struct talk *t)
{
    struct err err = ERR_INIT;
    FIBER_GROUP(g, 1);
    assert_true(fiber_group_spawn(&g, "serve", serve, t, &err));
    t->is_client_ok = stream_start_tls_client(t->client, t->tc, t->name, t->verify, &t->client_err);
    if (!t->is_client_ok) {
        stream_close(t->client);
        t->client = NULL;
    }
    assert_true(fiber_group_wait(&g, &err));
}
static void end_talk(struct talk *t)
{
    stream_close(t->server);
    stream_close(t->client);
    t->server = t->client = NULL;
}

static void data_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct talk t = {.ts = new_server(NULL, NULL),
                     .tc = new_client(paths[0], NULL, NULL),
                     .name = S("x.example.org"),
                     .verify = TLS_VERIFY_PEER};
    metrics_reset();
    open_talk(&t);
    shake(&t);
    assert_true(t.is_client_ok && t.is_server_ok && !t.had_plaintext);
    assert_true(stream_has_tls(t.server) && str_eq(stream_tls_version(t.client), S("TLSv1.3")));
    assert_true(str_eq(stream_tls_sni(t.server), S("x.example.org")));
    assert_true(stream_tls_cipher(t.server).n > 0 && stream_tls_alpn(t.server).n == 0);
    assert_false(stream_tls_peer_has_uri(t.client, S("thurn:role:store"))); /* it has names, and no URI */
    assert_int_equal(metric_get(M_TLS_HANDSHAKES, "TLSv1.3"), 1);

    str line;
    for (int i = 0; i < 100; i++) {
        assert_true(stream_printf(t.client, &err, "line %d\r\n", i));
        if (i % 10 == 9)
            assert_true(stream_flush(t.client, &err));
    }
    for (int i = 0; i < 100; i++) {
        char want[32];
        (void)snprintf(want, sizeof(want), "line %d", i);
        assert_true(stream_read_line(t.server, 100, true, &line, &err) && str_eq(line, str_c(want)));
    }
    assert_true(stream_write(t.server, S("last words\r\n"), &err));
    stream_close(t.server); /* unflushed: sent nevertheless, with close_notify */
    t.server = NULL;
    assert_true(stream_read_line(t.client, 100, true, &line, &err) && str_eq(line, S("last words")));
    assert_false(stream_fill(t.client, &err));
    assert_int_equal(err.kind, ERR_UNAVAILABLE);
    end_talk(&t);
    tls_server_free(t.ts);
    tls_client_free(t.tc);
}

static char big[3 << 20];
static void send_big(void *arg)
{
    struct err err = ERR_INIT;
    struct talk *t = arg;
    assert_true(stream_write(t->server, str_n(big, sizeof(big)), &err) && stream_flush(t->server, &err));
}
/* More than all buffers hold, to a reader with a small input cap. */
static void bulk_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct talk t = {.ts = new_server(NULL, NULL), .tc = new_client(paths[0], NULL, NULL)};
    open_talk(&t);
    shake(&t);
    assert_true(t.is_client_ok && t.is_server_ok);
    for (size_t i = 0; i < sizeof(big); i++)
        big[i] = (char)(i * 31 ^ i >> 9);
    stream_set_input_max(t.client, 5000);
    {
        FIBER_GROUP(g, 1);
        assert_true(fiber_group_spawn(&g, "send", send_big, &t, &err));
        for (size_t at = 0; at < sizeof(big);) {
            str piece;
            assert_true(stream_read_some(t.client, 4096, &piece, &err));
            assert_memory_equal(piece.p, big + at, piece.n);
            at += piece.n;
            if (at % 3 == 0)
                assert_true(fiber_yield(&err));
        }
        assert_true(fiber_group_wait(&g, &err));
    }
    end_talk(&t);
    tls_server_free(t.ts);
    tls_client_free(t.tc);
}

static void verify_main(void *arg)
{
    (void)arg;
    static const char *const h2[] = {"h2", "http/1.1", NULL};
    struct tls_server *ts = new_server(h2, NULL);
    static const struct {
        int ca; /* index into paths */
        const char *name;
        enum tls_verify verify;
        bool is_good;
    } cases[] = {
        {0, "mail.example.org", TLS_VERIFY_PEER, true},
        {0, "a.example.org", TLS_VERIFY_PEER, true},
        {0, "a.b.example.org", TLS_VERIFY_PEER, false},
        {0, "127.0.0.1", TLS_VERIFY_PEER, true},
        {0, "127.0.0.2", TLS_VERIFY_PEER, false},
        {2, "third.test", TLS_VERIFY_PEER, true}, /* by SNI */
        {2, "mail.example.org", TLS_VERIFY_PEER, false},
        {2, "mail.example.org", TLS_VERIFY_NONE, true},
        {0, "", TLS_VERIFY_PEER, false},
        {0, "", TLS_VERIFY_NONE, true},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct talk t = {.ts = ts,
                         .tc = new_client(paths[cases[i].ca], NULL, NULL),
                         .name = str_c(cases[i].name),
                         .verify = cases[i].verify};
        open_talk(&t);
        shake(&t);
        if (t.is_client_ok != cases[i].is_good)
            fail_msg("case %zu: %s", i, t.client_err.msg);
        if (!t.is_client_ok && cases[i].name[0])
            assert_int_equal(t.client_err.kind, ERR_DENIED);
        end_talk(&t);
        tls_client_free(t.tc);
    }
    tls_server_free(ts);
}

static void mutual_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct talk t = {.ts = new_server(NULL, paths[2]), .name = S("mail.example.org"), .verify = TLS_VERIFY_PEER};
    t.tc = new_client(paths[0], paths[2], paths[3]);
    open_talk(&t);
    shake(&t);
    assert_true(t.is_client_ok && t.is_server_ok);
    assert_true(stream_tls_peer_has_uri(t.server, S("thurn:role:store")));
    assert_false(stream_tls_peer_has_uri(t.server, S("thurn:role:stor")) ||
                 stream_tls_peer_has_uri(t.server, S("other.test")));
    end_talk(&t);
    tls_client_free(t.tc);
    t.tc = new_client(paths[0], NULL, NULL); /* none to show */
    open_talk(&t);
    shake(&t);
    assert_false(t.is_server_ok);
    if (t.is_client_ok) /* TLS 1.3: the client learns of it with the first read */
        assert_false(stream_fill(t.client, &err));
    end_talk(&t);
    tls_client_free(t.tc);
    tls_server_free(t.ts);
}

/* Bytes injected before the handshake are dropped and reported by the server, and end it at the client. */
/* A client of TLS 1.2 that knows these suites alone. */
static bool can_talk(struct tls_server *ts, const char *suites)
{
    int fds[2];
    struct err err = ERR_INIT;
    struct talk t = {.ts = ts};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    t.server = stream_from_fd(fds[0], NULL, &err);
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    assert_true(SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION) == 1 && SSL_CTX_set_cipher_list(ctx, suites) == 1);
    SSL *ssl = SSL_new(ctx);
    assert_int_equal(SSL_set_fd(ssl, fds[1]), 1);
    int r;
    {
        FIBER_GROUP(g, 1);
        assert_true(fiber_group_spawn(&g, "serve", serve, &t, &err));
        while ((r = SSL_connect(ssl)) != 1 && SSL_get_error(ssl, r) == SSL_ERROR_WANT_READ)
            assert_true(fiber_yield(&err));
        if (r != 1)
            fiber_group_cancel(&g);
        assert_true(fiber_group_wait(&g, &err));
    }
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    (void)close(fds[1]);
    stream_close(t.server);
    assert_int_equal(t.is_server_ok, r == 1);
    ERR_clear_error();
    return r == 1;
}

static void cbc_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    static const char *const cbc[] = {"ECDHE-ECDSA-AES128-SHA256:ECDHE-RSA-AES128-SHA256",
                                      "ECDHE-ECDSA-AES256-SHA384:ECDHE-RSA-AES256-SHA384",
                                      "ECDHE-ECDSA-AES256-SHA:ECDHE-RSA-AES256-SHA"};
    struct tls_cert_files files[] = {{str_c(paths[0]), str_c(paths[1])}};
    struct tls_server_opts opts = {.certs = files, .n_certs = 1};
    struct tls_server *strict = tls_server_new(&opts, &err);
    opts.allows_cbc = true;
    struct tls_server *old = tls_server_new(&opts, &err);
    assert_true(strict && old);
    assert_true(can_talk(strict, "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"));
    assert_true(can_talk(strict, "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"));
    for (size_t i = 0; i < ARRAY_LEN(cbc); i++) {
        assert_false(can_talk(strict, cbc[i]));
        assert_true(can_talk(old, cbc[i]));
    }
    tls_server_free(strict);
    tls_server_free(old);
}

static void injection_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct talk t = {.ts = new_server(NULL, NULL), .tc = new_client(paths[0], NULL, NULL)};
    open_talk(&t);
    assert_true(stream_write(t.client, S("STARTTLS\r\nMAIL FROM:<evil@x>\r\n"), &err) && stream_flush(t.client, &err));
    str line;
    assert_true(stream_read_line(t.server, 100, true, &line, &err));
    assert_true(stream_write(t.server, S("220 go\r\n"), &err)); /* not flushed */
    {
        FIBER_GROUP(g, 1);
        assert_true(fiber_group_spawn(&g, "serve", serve, &t, &err));
        assert_true(stream_read_line(t.client, 100, true, &line, &err) && str_eq(line, S("220 go")));
        assert_true(stream_start_tls_client(t.client, t.tc, STR_NONE, TLS_VERIFY_NONE, &err));
        assert_true(fiber_group_wait(&g, &err));
    }
    assert_true(t.is_server_ok && t.had_plaintext);
    assert_int_equal(stream_input(t.server).n, 0);
    assert_true(stream_write(t.client, S("EHLO\r\n"), &err));
    assert_true(stream_flush(t.client, &err));
    assert_true(stream_read_line(t.server, 100, true, &line, &err) && str_eq(line, S("EHLO")));
    end_talk(&t);

    open_talk(&t);
    assert_true(stream_write(t.server, S("220 go\r\n250 injected\r\n"), &err) && stream_flush(t.server, &err));
    assert_true(stream_read_line(t.client, 100, true, &line, &err));
    assert_false(stream_start_tls_client(t.client, t.tc, STR_NONE, TLS_VERIFY_NONE, &err));
    assert_int_equal(err.kind, ERR_INVALID);
    end_talk(&t);
    tls_server_free(t.ts);
    tls_client_free(t.tc);
}

/* A man in the middle that passes on only so many bytes of the client's, then closes: no split point may hurt. */
struct middle {
    int from, to;
    size_t left;
};
static void pass_some(void *arg)
{
    struct middle *m = arg;
    struct err err = ERR_INIT;
    char b[1];
    while (m->left > 0) {
        ssize_t n = read(m->from, b, 1);
        if (n == 0)
            break;
        while (n > 0 && write(m->to, b, 1) != 1)
            if (errno != EAGAIN || !fiber_yield(&err))
                return;
        if (n > 0)
            m->left--;
        else if (!fiber_yield(&err))
            return;
    }
    (void)shutdown(m->to, SHUT_WR);
    (void)shutdown(m->from, SHUT_RD);
}
static void client_talks(void *arg)
{
    struct talk *t = arg;
    struct err err = ERR_INIT;
    bool is_sent = stream_start_tls_client(t->client, t->tc, STR_NONE, TLS_VERIFY_NONE, &t->client_err) &&
                   stream_write(t->client, S("one\r\ntwo\r\n"), &err) && stream_flush(t->client, &err);
    assert_true(is_sent || t->client_err.kind || err.kind);
    stream_close(t->client);
    t->client = NULL;
}
static void cut_main(void *arg)
{
    (void)arg;
    struct talk t = {.ts = new_server(NULL, NULL), .tc = new_client(paths[0], NULL, NULL)};
    size_t n_good = 0, n_failed = 0;
    for (size_t left = 0; left<700; left += left> 450 ? 1 : 13) {
        struct err err = ERR_INIT;
        int a[2], b[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, a), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, b), 0);
        assert_int_equal(fcntl(a[1], F_SETFL, O_NONBLOCK) | fcntl(b[1], F_SETFL, O_NONBLOCK), 0);
        t.client = stream_from_fd(a[0], NULL, &err);
        t.server = stream_from_fd(b[0], NULL, &err);
        err_clear(&t.client_err);
        struct middle up = {a[1], b[1], left}, down = {b[1], a[1], 1 << 20};
        {
            FIBER_GROUP(g, 3);
            assert_true(fiber_group_spawn(&g, "up", pass_some, &up, &err));
            assert_true(fiber_group_spawn(&g, "down", pass_some, &down, &err));
            assert_true(fiber_group_spawn(&g, "client", client_talks, &t, &err));
            str line;
            bool ok = stream_start_tls_server(t.server, t.ts, NULL, &err);
            n_failed += !ok;
            while (ok && stream_read_line(t.server, 100, true, &line, &err)) {
                assert_true(str_eq(line, S("one")) || str_eq(line, S("two")));
                n_good++;
            }
            assert_true(err.kind == ERR_UNAVAILABLE || err.kind == ERR_INVALID);
            stream_abort(t.server);
        }
        (void)close(a[1]);
        (void)close(b[1]);
    }
    assert_true(n_good > 0 && n_failed > 0);
    tls_server_free(t.ts);
    tls_client_free(t.tc);
}

static void errors_main(void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    struct tls_cert_files f = {S("/nonexistent.crt"), str_c(paths[1])};
    struct tls_server_opts opts = {.certs = &f, .n_certs = 1};
    assert_null(tls_server_new(&opts, &err));
    assert_true(err.kind == ERR_INVALID && str_find_str(str_c(err.msg), S("/nonexistent.crt")) >= 0);
    err_clear(&err);
    f = (struct tls_cert_files){str_c(paths[0]), str_c(paths[3])};
    assert_null(tls_server_new(&opts, &err)); /* the other one's key */
    err_clear(&err);

    /* Reload: a broken file changes nothing, a good one is used from the next connection on. */
    f = (struct tls_cert_files){str_c(paths[0]), str_c(paths[1])};
    struct talk t = {.ts = tls_server_new(&opts, &err), .verify = TLS_VERIFY_PEER, .name = S("other.test")};
    assert_non_null(t.ts);
    int64_t left = tls_server_expires_unix(t.ts) - clock_unix();
    assert_true(left > 824 * 86400 && left <= 825 * 86400);
    char saved[128];
    (void)snprintf(saved, sizeof(saved), "%s/saved", folder);
    assert_int_equal(rename(paths[0], saved), 0);
    assert_null(tls_server_new(&opts, &err));
    err_clear(&err);
    char saved_key[128];
    (void)snprintf(saved_key, sizeof(saved_key), "%s/saved-key", folder);
    assert_int_equal(link(paths[2], paths[0]) | rename(paths[1], saved_key) | link(paths[3], paths[1]), 0);
    tls_server_take(t.ts, tls_server_new(&opts, &err));
    t.tc = new_client(paths[2], NULL, NULL);
    open_talk(&t);
    shake(&t);
    assert_true(t.is_client_ok);
    end_talk(&t);
    assert_int_equal(rename(saved, paths[0]) | rename(saved_key, paths[1]), 0);

    /* Other files, and on the client's side other trust. */
    f = (struct tls_cert_files){str_c(paths[2]), str_c(paths[3])};
    assert_null(tls_client_new(&(struct tls_client_opts){.ca_file = S("/nonexistent.crt")}, &err));
    err_clear(&err);
    tls_server_take(t.ts, tls_server_new(&opts, &err));
    tls_client_take(t.tc, tls_client_new(&(struct tls_client_opts){.ca_file = str_c(paths[0])}, &err));
    open_talk(&t);
    shake(&t);
    assert_false(t.is_client_ok);
    end_talk(&t);
    tls_client_take(t.tc, tls_client_new(&(struct tls_client_opts){.ca_file = f.certificate}, &err));
    open_talk(&t);
    shake(&t);
    assert_true(t.is_client_ok);
    end_talk(&t);
    tls_client_free(t.tc);
    tls_server_free(t.ts);
}

static int n_woken;
static void on_woken(void *arg)
{
    (void)arg;
    n_woken++;
}
/* What an idle TLS session costs us: the client's end is closed before it is measured. */
static void memory_main(void *arg)
{
    (void)arg;
    enum { SESSIONS = 200 };
    struct err err = ERR_INIT;
    static struct talk t[SESSIONS];
    struct tls_server *ts = new_server(NULL, NULL);
    struct tls_client *tc = new_client(paths[0], NULL, NULL);
    for (int i = 0; i < SESSIONS; i++) {
        t[i] = (struct talk){.ts = ts, .tc = tc};
        open_talk(&t[i]);
        shake(&t[i]);
        str line;
        assert_true(stream_printf(t[i].client, &err, "%s\r\n", "NOOP") && stream_flush(t[i].client, &err));
        assert_true(stream_read_line(t[i].server, 100, true, &line, &err));
        assert_true(stream_printf(t[i].server, &err, "%s\r\n", "OK") && stream_flush(t[i].server, &err));
        assert_true(stream_read_line(t[i].client, 100, true, &line, &err));
        stream_idle(t[i].server, on_woken, NULL);
        stream_abort(t[i].client);
        assert_true(fiber_yield(&err));
    }
    while (n_woken < SESSIONS)
        assert_true(fiber_sleep_ms(1, &err));
    size_t with = mallinfo2().uordblks;
    for (int i = 0; i < SESSIONS; i++)
        stream_abort(t[i].server);
    for (int turns = 0; turns < 4; turns++)
        assert_true(fiber_sleep_ms(1, &err));
    size_t each = (with - mallinfo2().uordblks) / SESSIONS;
    print_message("idle TLS stream: %zu bytes\n", each);
#ifndef THURN_SANITIZED
    assert_true(each > 1000 && each < 20 * 1024);
#endif
    tls_server_free(ts);
    tls_client_free(tc);
}

#define RUN(name)                                                                                                      \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        assert_true(fiber_main(name##_main, NULL));                                                                    \
    }
RUN(data)
RUN(bulk)
RUN(verify)
RUN(mutual)
RUN(injection)
RUN(cbc)
RUN(cut)
RUN(errors)
RUN(memory)

static int setup(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(folder));
    make_certs();
    return 0;
}
static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++)
        (void)unlink(paths[i]);
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_data),   cmocka_unit_test(test_bulk),      cmocka_unit_test(test_verify),
        cmocka_unit_test(test_mutual), cmocka_unit_test(test_injection), cmocka_unit_test(test_cbc),
        cmocka_unit_test(test_cut),    cmocka_unit_test(test_errors),    cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
