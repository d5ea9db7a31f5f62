#include "net/tls_internal.h"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <time.h>

#include "base/buf.h"
#include "base/map.h"

#define TLS_SERVER_MAGIC 0x715e0001u
#define TLS_CLIENT_MAGIC 0x71c10001u

/* One certificate with its settings; OpenSSL counts who uses the context. */
struct cert_set {
    SSL_CTX **contexts; /* [0] is the default */
    size_t n;
    struct map by_name; /* SNI name or "*.parent", lower case → SSL_CTX */
    int64_t expires_unix;
};

struct tls_server {
    uint32_t magic;
    unsigned refs;
    unsigned char *alpn; /* as on the wire: length-prefixed names */
    size_t alpn_n;
    struct cert_set set;
};

struct tls_client {
    uint32_t magic;
    unsigned refs;
    SSL_CTX *ctx;
};

const char *tls_error_text(char buf[160])
{
    unsigned long code = ERR_get_error();
    const char *reason = !code                    ? NULL
                         : ERR_SYSTEM_ERROR(code) ? strerror(ERR_GET_REASON(code)) /* a file that cannot be read */
                                                  : ERR_reason_error_string(code);
    (void)snprintf(buf, 160, "%s", reason ? reason : code ? "unknown error" : "unexpected end");
    ERR_clear_error();
    return buf;
}

bool tls_cert_has_uri(X509 *cert, str uri)
{
    GENERAL_NAMES *names = cert ? X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL) : NULL;
    bool found = false;
    for (int i = 0; i < sk_GENERAL_NAME_num(names) && !found; i++) { /* -1 without names */
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type == GEN_URI)
            found = str_eq(str_n(ASN1_STRING_get0_data(name->d.uniformResourceIdentifier),
                                 (size_t)ASN1_STRING_length(name->d.uniformResourceIdentifier)),
                           uri);
    }
    GENERAL_NAMES_free(names);
    return found;
}

static bool fail(struct err *err, const char *what, str path)
{
    char text[160];
    return err_set(err, ERR_INVALID, "%s '%.*s': %s", what, STR_ARG(path), tls_error_text(text));
}

static SSL_CTX *new_context(const SSL_METHOD *method)
{
    SSL_CTX *ctx = SSL_CTX_new(method);
    if (!ctx)
        panic("no TLS context");
    (void)SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    (void)SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_IGNORE_UNEXPECTED_EOF);
    /* An idle connection keeps no record buffers: 14 KiB instead of 22 to 45. */
    (void)SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    return ctx;
}

/* A PEM file that cannot be used; when it is seen to hold what has this mark instead, that is the mistake to be told
 * of. */
static bool fail_pem(struct err *err, const char *what, str path, const char *mark, const char *mistake)
{
    CLEANUP(xfree_char) char *name = str_dup(path);
    char line[256];
    bool is_seen = false;
    FILE *f = fopen(name, "re");
    while (f && !is_seen && fgets(line, sizeof(line), f))
        is_seen = str_starts(str_c(line), S("-----BEGIN ")) && strstr(line, mark);
    if (f)
        fclose(f);
    return is_seen ? err_set(err, ERR_INVALID, "%s '%.*s' %s", what, STR_ARG(path), mistake) : fail(err, what, path);
}

static bool load_pair(SSL_CTX *ctx, const struct tls_cert_files *f, struct err *err)
{
    CLEANUP(xfree_char) char *cert = str_dup(f->certificate);
    CLEANUP(xfree_char) char *key = str_dup(f->key);
    ERR_clear_error();
    if (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1)
        return fail_pem(err, "certificate", f->certificate, "PRIVATE KEY",
                        "holds a key: the certificate comes first, the key second");
    if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
        return fail_pem(err, "key", f->key, "CERTIFICATE", "holds a certificate, and no private key");
    if (SSL_CTX_check_private_key(ctx) != 1)
        return fail(err, "key does not belong to the certificate:", f->key);
    return true;
}

/* --- server --- */

static void set_done(struct cert_set *set)
{
    for (size_t i = 0; i < set->n; i++)
        SSL_CTX_free(set->contexts[i]);
    free(set->contexts);
    map_done(&set->by_name);
    *set = (struct cert_set){0};
}

static SSL_CTX *context_for(const struct cert_set *set, str name)
{
    if (name.n == 0 || name.n > 255)
        return NULL;
    char lower[256];
    for (size_t i = 0; i < name.n; i++)
        lower[i] = (char)ascii_lower((unsigned char)name.p[i]);
    SSL_CTX *ctx = map_get(&set->by_name, str_n(lower, name.n));
    ptrdiff_t dot = str_find(name, '.');
    if (ctx || dot <= 0)
        return ctx;
    lower[dot - 1] = '*'; /* a wildcard stands for one whole label (RFC 6125 6.4.3) */
    return map_get(&set->by_name, str_n(lower + dot - 1, name.n - (size_t)dot + 1));
}

static int on_server_name(SSL *ssl, int *alert, void *arg)
{
    (void)alert;
    const struct tls_server *t = arg;
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    if (!name)
        return SSL_TLSEXT_ERR_NOACK;
    SSL_CTX *ctx = context_for(&t->set, str_c(name));
    if (ctx)
        (void)SSL_set_SSL_CTX(ssl, ctx);
    return SSL_TLSEXT_ERR_OK; /* an unknown name gets the default: mail clients use many names for one server */
}

/* RFC 7301 3.2: offered names of which we know none end the handshake (cross-protocol attacks). */
static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_n, const unsigned char *in, unsigned in_n,
                   void *arg)
{
    (void)ssl;
    const struct tls_server *t = arg;
    unsigned char *chosen;
    if (SSL_select_next_proto(&chosen, out_n, t->alpn, (unsigned)t->alpn_n, in, in_n) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static void add_name(struct cert_set *set, str name, SSL_CTX *ctx)
{
    char lower[256];
    if (name.n == 0 || name.n >= sizeof(lower))
        return;
    for (size_t i = 0; i < name.n; i++)
        lower[i] = (char)ascii_lower((unsigned char)name.p[i]);
    if (!map_get(&set->by_name, str_n(lower, name.n))) /* the first certificate with a name has it */
        (void)map_put(&set->by_name, str_n(lower, name.n), ctx);
}

static void add_names(struct cert_set *set, X509 *cert, SSL_CTX *ctx)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *n = sk_GENERAL_NAME_value(names, i);
        if (n->type == GEN_DNS)
            add_name(set, str_n(ASN1_STRING_get0_data(n->d.dNSName), (size_t)ASN1_STRING_length(n->d.dNSName)), ctx);
    }
    GENERAL_NAMES_free(names);
    char cn[256];
    int n = X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, cn, sizeof(cn));
    if (n > 0)
        add_name(set, str_n(cn, (size_t)n), ctx);
}

static int64_t expires_of(const X509 *cert)
{
    struct tm tm;
    return ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

/* What a client names by SNI and ALPN is looked up in t. */
static void answer_from(struct tls_server *t, SSL_CTX *ctx)
{
    (void)SSL_CTX_set_tlsext_servername_callback(ctx, on_server_name);
    (void)SSL_CTX_set_tlsext_servername_arg(ctx, t);
    SSL_CTX_set_alpn_select_cb(ctx, t->alpn ? on_alpn : NULL, t);
}

static bool set_load(struct tls_server *t, const struct tls_server_opts *opts, struct cert_set *out, struct err *err)
{
    if (opts->n_certs == 0)
        return err_set(err, ERR_INVALID, "TLS needs a certificate and its key");
    struct cert_set set = {.contexts = xcalloc(opts->n_certs, sizeof(SSL_CTX *)), .expires_unix = INT64_MAX};
    map_init(&set.by_name);
    for (size_t i = 0; i < opts->n_certs; i++) {
        SSL_CTX *ctx = set.contexts[set.n++] = new_context(TLS_server_method());
        (void)SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
        (void)SSL_CTX_set_num_tickets(ctx, 1); /* each costs 60 µs */
        /* what has a MAC of its own is CBC */
        if (!opts->allows_cbc && SSL_CTX_set_cipher_list(ctx, "DEFAULT:!SHA1:!SHA256:!SHA384") != 1)
            panic("no TLS 1.2 suites");
        (void)SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"thurn", 5);
        answer_from(t, ctx);
        bool is_good = load_pair(ctx, &opts->certs[i], err);
        if (is_good && !str_empty(opts->client_ca)) {
            CLEANUP(xfree_char) char *ca = str_dup(opts->client_ca);
            is_good = SSL_CTX_load_verify_file(ctx, ca) == 1 || fail(err, "client CA", opts->client_ca);
            SSL_CTX_set_client_CA_list(ctx, SSL_load_client_CA_file(ca));
            SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
        }
        if (!is_good) {
            set_done(&set);
            return false;
        }
        X509 *cert = SSL_CTX_get0_certificate(ctx);
        add_names(&set, cert, ctx);
        set.expires_unix = MIN(set.expires_unix, expires_of(cert));
    }
    ERR_clear_error();
    *out = set;
    return true;
}

static void keep_alpn(struct tls_server *t, const char *const *names)
{
    struct buf wire;
    buf_init(&wire, 1024);
    for (; names && *names; names++) {
        assert(strlen(*names) < 256);
        buf_addc(&wire, (char)strlen(*names));
        buf_add(&wire, str_c(*names));
    }
    assert(buf_ok(&wire));
    t->alpn = (unsigned char *)wire.p;
    t->alpn_n = wire.n;
}

struct tls_server *tls_server_new(const struct tls_server_opts *opts, struct err *err)
{
    struct tls_server *t = xnew(struct tls_server);
    t->magic = TLS_SERVER_MAGIC;
    t->refs = 1;
    keep_alpn(t, opts->alpn);
    if (!set_load(t, opts, &t->set, err)) {
        tls_server_free(t);
        return NULL;
    }
    return t;
}

void tls_server_take(struct tls_server *t, struct tls_server *fresh)
{
    CHECK(t, TLS_SERVER_MAGIC);
    CHECK(fresh, TLS_SERVER_MAGIC);
    assert(fresh->refs == 1);
    set_done(&t->set); /* connections hold their contexts by OpenSSL's count */
    t->set = fresh->set;
    fresh->set = (struct cert_set){0};
    tls_server_free(fresh);
    for (size_t i = 0; i < t->set.n; i++)
        answer_from(t, t->set.contexts[i]);
}

int64_t tls_server_expires_unix(const struct tls_server *t)
{
    CHECK(t, TLS_SERVER_MAGIC);
    return t->set.expires_unix;
}

void tls_server_ref(struct tls_server *t)
{
    CHECK(t, TLS_SERVER_MAGIC);
    t->refs++;
}

void tls_server_free(struct tls_server *t)
{
    if (!t)
        return;
    CHECK(t, TLS_SERVER_MAGIC);
    if (--t->refs > 0)
        return;
    set_done(&t->set);
    free(t->alpn);
    t->magic = 0;
    free(t);
}

SSL *tls_server_ssl(struct tls_server *t, struct err *err)
{
    CHECK(t, TLS_SERVER_MAGIC);
    SSL *ssl = SSL_new(t->set.contexts[0]);
    if (!ssl)
        (void)err_set(err, ERR_INTERNAL, "no TLS connection");
    else
        SSL_set_accept_state(ssl);
    return ssl;
}

/* --- client --- */

static SSL_CTX *client_context(const struct tls_client_opts *opts, struct err *err)
{
    SSL_CTX *ctx = new_context(TLS_client_method());
    bool is_good;
    ERR_clear_error();
    if (str_empty(opts->ca_file)) {
        is_good = SSL_CTX_set_default_verify_paths(ctx) == 1 || fail(err, "trust store", S("system"));
    } else {
        CLEANUP(xfree_char) char *ca = str_dup(opts->ca_file);
        is_good = SSL_CTX_load_verify_file(ctx, ca) == 1 || fail(err, "CA", opts->ca_file);
    }
    if (is_good && (str_empty(opts->own.certificate) || load_pair(ctx, &opts->own, err)))
        return ctx;
    SSL_CTX_free(ctx);
    return NULL;
}

struct tls_client *tls_client_new(const struct tls_client_opts *opts, struct err *err)
{
    SSL_CTX *ctx = client_context(opts, err);
    if (!ctx)
        return NULL;
    struct tls_client *t = xnew(struct tls_client);
    *t = (struct tls_client){.magic = TLS_CLIENT_MAGIC, .refs = 1, .ctx = ctx};
    return t;
}

void tls_client_take(struct tls_client *t, struct tls_client *fresh)
{
    CHECK(t, TLS_CLIENT_MAGIC);
    CHECK(fresh, TLS_CLIENT_MAGIC);
    assert(fresh->refs == 1);
    SSL_CTX *old = t->ctx;
    t->ctx = fresh->ctx;
    fresh->ctx = old;
    tls_client_free(fresh);
}

void tls_client_ref(struct tls_client *t)
{
    CHECK(t, TLS_CLIENT_MAGIC);
    t->refs++;
}

void tls_client_free(struct tls_client *t)
{
    if (!t)
        return;
    CHECK(t, TLS_CLIENT_MAGIC);
    if (--t->refs > 0)
        return;
    SSL_CTX_free(t->ctx);
    t->magic = 0;
    free(t);
}

SSL *tls_client_ssl(struct tls_client *t, struct err *err)
{
    CHECK(t, TLS_CLIENT_MAGIC);
    SSL *ssl = SSL_new(t->ctx);
    if (!ssl)
        (void)err_set(err, ERR_INTERNAL, "no TLS connection");
    else
        SSL_set_connect_state(ssl);
    return ssl;
}

bool tls_client_has_uri(const struct tls_client *t, str uri)
{
    return tls_cert_has_uri(SSL_CTX_get0_certificate(t->ctx), uri);
}
