/*
 * stream_tls.c: TLS between a stream's buffers. OpenSSL reads and writes them through a BIO that has no memory of its
 * own.
 */
#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "base/metrics.h"
#include "net/stream_internal.h"
#include "net/tls_internal.h"

/* --- the BIO --- */

static int bio_read(BIO *b, char *to, int n)
{
    struct stream *s = BIO_get_data(b);
    BIO_clear_retry_flags(b);
    size_t held = s->cipher.n - s->cipher_off;
    size_t take = MIN((size_t)n, held > 0 ? held : s->chunk.n);
    if (take == 0) {
        if (s->is_at_eof)
            return 0;
        BIO_set_retry_read(b);
        return -1;
    }
    if (held > 0) {
        memcpy(to, s->cipher.p + s->cipher_off, take);
        s->cipher_off += take;
        if (s->cipher_off == s->cipher.n) {
            buf_release(&s->cipher);
            s->cipher_off = 0;
        }
    } else {
        memcpy(to, s->chunk.p, take);
        s->chunk = str_slice(s->chunk, take, SIZE_MAX);
    }
    return (int)take;
}

static int bio_write(BIO *b, const char *from, int n)
{
    struct stream *s = BIO_get_data(b);
    BIO_clear_retry_flags(b);
    buf_add_n(&s->queue, from, (size_t)n); /* over its cap: seen by stream_send */
    return n;
}

static long bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
    (void)num;
    (void)ptr;
    const struct stream *s = BIO_get_data(b);
    if (cmd == BIO_CTRL_EOF)
        return s->is_at_eof;
    return cmd == BIO_CTRL_FLUSH;
}

static const BIO_METHOD *bio_method(void)
{
    static BIO_METHOD *method; /* for the life of the process */
    if (!method) {
        method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "stream");
        if (!method || !BIO_meth_set_read(method, bio_read) || !BIO_meth_set_write(method, bio_write) ||
            !BIO_meth_set_ctrl(method, bio_ctrl))
            panic("no BIO method");
    }
    return method;
}

/* --- data --- */

static void tls_broke(struct stream *s, int ssl_error)
{
    char text[160];
    if (ssl_error == SSL_ERROR_SYSCALL && s->is_at_eof)
        stream_broke(s, ERR_UNAVAILABLE, "closed by the peer");
    else
        stream_broke(s, ERR_INVALID, tls_error_text(text));
}

void stream_tls_pump(struct stream *s)
{
    static char plain[STREAM_TLS_PIECE]; /* used up before this returns, like the loop's read buffer */
    if (err_is_set(&s->failure) || !s->ssl)
        return;
    bool is_new = false;
    for (size_t room; (room = stream_room(s)) > 0;) {
        ERR_clear_error();
        int n = SSL_read(s->ssl, plain, (int)MIN(room, sizeof(plain)));
        if (n > 0) {
            stream_take_in(s, str_n(plain, (size_t)n));
            is_new = true;
            continue;
        }
        int e = SSL_get_error(s->ssl, n);
        if (e == SSL_ERROR_ZERO_RETURN)
            s->is_at_eof = is_new = true; /* close_notify: what follows it is not ours */
        else if (e != SSL_ERROR_WANT_READ)
            tls_broke(s, e);
        break;
    }
    if (s->queue.n > 0)
        stream_send(s); /* an answer to a key update, or an alert */
    if (is_new)
        stream_arrived(s);
}

void stream_tls_seal(struct stream *s)
{
    for (size_t at = 0; at < s->out.n;) {
        ERR_clear_error();
        int n = SSL_write(s->ssl, s->out.p + at, (int)MIN(s->out.n - at, (size_t)1 << 20));
        if (n <= 0) {
            tls_broke(s, SSL_get_error(s->ssl, n));
            return;
        }
        at += (size_t)n;
    }
    if (s->out.size > STREAM_TLS_PIECE)
        buf_release(&s->out);
    else
        buf_clear(&s->out);
}

void stream_tls_goodbye(struct stream *s)
{
    if (s->mode == STREAM_TLS && SSL_is_init_finished(s->ssl)) {
        ERR_clear_error();
        (void)SSL_shutdown(s->ssl); /* 0: sent; the peer's own is not waited for */
        ERR_clear_error();
    }
}

void stream_tls_done(struct stream *s)
{
    SSL_free(s->ssl);
    s->ssl = NULL;
    tls_server_free(s->tls_server);
    tls_client_free(s->tls_client);
    s->tls_server = NULL;
    s->tls_client = NULL;
}

/* --- handshake --- */

static bool handshake_failed(struct stream *s, int ssl_error, struct err *err)
{
    char text[160];
    long verdict = SSL_get_verify_result(s->ssl);
    enum err_kind kind = ERR_INVALID;
    const char *why;
    if (verdict != X509_V_OK && SSL_get_verify_mode(s->ssl) != SSL_VERIFY_NONE) {
        kind = ERR_DENIED;
        why = X509_verify_cert_error_string(verdict);
        ERR_clear_error();
    } else if (ssl_error == SSL_ERROR_SYSCALL || (s->is_at_eof && ERR_peek_error() == 0)) {
        kind = ERR_UNAVAILABLE;
        why = "closed by the peer";
    } else {
        why = tls_error_text(text);
    }
    s->mode = STREAM_PLAIN; /* the alert in `queue` goes out as it is */
    stream_send(s);
    stream_broke(s, kind, why);
    return err_set(err, kind, "TLS handshake: %s", why);
}

FIBER static bool handshake(struct stream *s, struct err *err)
{
    stream_read_on(s);
    for (;;) {
        ERR_clear_error();
        int r = SSL_do_handshake(s->ssl);
        if (r == 1)
            break;
        int e = SSL_get_error(s->ssl, r);
        if (e != SSL_ERROR_WANT_READ)
            return handshake_failed(s, e, err);
        stream_send(s);
        if (err_is_set(&s->failure)) {
            *err = s->failure;
            return err_prefix(err, "TLS handshake");
        }
        if (s->is_at_eof)
            continue; /* the BIO will say so */
        if (!stream_wait(s, &s->reader, err))
            return err_prefix(err, "TLS handshake");
    }
    s->mode = STREAM_TLS;
    stream_send(s);
    stream_tls_pump(s); /* the first bytes may have come with the peer's Finished */
    stream_read_on(s);
    return true;
}

/*
 * From plain text to TLS, without a gap in which the peer's hello could be taken for plain text. Returns whether plain
 * bytes were dropped. What is written so far goes first, in order, as it is.
 */
static bool begin(struct stream *s, SSL *ssl)
{
    stream_unlend(s);
    bool had_input = s->in.n > s->in_off;
    buf_release(&s->in);
    s->in_off = s->scanned = 0;
    stream_send(s);
    BIO *bio = BIO_new(bio_method());
    if (!bio)
        panic("no BIO");
    BIO_set_data(bio, s);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    s->ssl = ssl;
    s->mode = STREAM_HANDSHAKE;
    return had_input;
}

bool stream_start_tls_server(struct stream *s, struct tls_server *t, bool *had_plaintext, struct err *err)
{
    CHECK(s, STREAM_MAGIC);
    assert(s->mode == STREAM_PLAIN && !s->reader && !s->writer);
    SSL *ssl = tls_server_ssl(t, err);
    if (!ssl)
        return false;
    tls_server_ref(t);
    s->tls_server = t;
    bool had = begin(s, ssl);
    if (!handshake(s, err)) {
        metric_inc_label(M_TLS_FAILURES, "server");
        return false;
    }
    metric_inc_label(M_TLS_HANDSHAKES, SSL_get_version(s->ssl));
    if (had_plaintext)
        *had_plaintext = had;
    return true;
}

/* RFC 6125: the certificate is for this name (or, for literals, this address). */
static bool expect_name(SSL *ssl, str name, struct err *err)
{
    CLEANUP(xfree_char) char *z = str_dup(name);
    struct net_addr ip;
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    bool ok = net_ip_parse(name, &ip) ? X509_VERIFY_PARAM_set1_ip_asc(param, z) == 1
                                      : X509_VERIFY_PARAM_set1_host(param, z, name.n) == 1;
    return ok || err_set(err, ERR_INVALID, "'%s' is no name for a certificate", z);
}

static bool set_name(SSL *ssl, str name, enum tls_verify verify, struct err *err)
{
    struct net_addr ip;
    SSL_set_verify(ssl, verify == TLS_VERIFY_PEER ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    if (str_empty(name))
        return verify == TLS_VERIFY_NONE || err_set(err, ERR_INVALID, "no name to verify the server's certificate by");
    if (verify == TLS_VERIFY_PEER && !expect_name(ssl, name, err))
        return false;
    CLEANUP(xfree_char) char *z = str_dup(name);
    if (!net_ip_parse(name, &ip)) /* RFC 6066 section 3: no literals */
        (void)SSL_set_tlsext_host_name(ssl, z);
    return true;
}

bool stream_start_tls_client(struct stream *s, struct tls_client *t, str server_name, enum tls_verify verify,
                             struct err *err)
{
    CHECK(s, STREAM_MAGIC);
    assert(s->mode == STREAM_PLAIN && !s->reader && !s->writer);
    SSL *ssl = tls_client_ssl(t, err);
    if (!ssl)
        return false;
    if (!set_name(ssl, server_name, verify, err)) {
        SSL_free(ssl);
        return false;
    }
    tls_client_ref(t);
    s->tls_client = t;
    if (begin(s, ssl)) { /* the server speaks after our hello: somebody put words into its mouth */
        stream_broke(s, ERR_INVALID, "plain text after STARTTLS");
        return err_set(err, ERR_INVALID, "plain text after STARTTLS");
    }
    if (!handshake(s, err)) {
        metric_inc_label(M_TLS_FAILURES, "client");
        return false;
    }
    return true;
}

/* --- facts --- */

bool stream_has_tls(const struct stream *s)
{
    return s->mode == STREAM_TLS;
}

str stream_tls_version(const struct stream *s)
{
    return stream_has_tls(s) ? str_c(SSL_get_version(s->ssl)) : STR_NONE;
}

str stream_tls_cipher(const struct stream *s)
{
    return stream_has_tls(s) ? str_c(SSL_get_cipher_name(s->ssl)) : STR_NONE;
}

str stream_tls_sni(const struct stream *s)
{
    return stream_has_tls(s) ? str_c(SSL_get_servername(s->ssl, TLSEXT_NAMETYPE_host_name)) : STR_NONE;
}

str stream_tls_alpn(const struct stream *s)
{
    const unsigned char *name = NULL;
    unsigned n = 0;
    if (stream_has_tls(s))
        SSL_get0_alpn_selected(s->ssl, &name, &n);
    return str_n(name, n);
}

bool stream_tls_peer_has_uri(const struct stream *s, str uri)
{
    return stream_has_tls(s) && tls_cert_has_uri(SSL_get0_peer_certificate(s->ssl), uri);
}
