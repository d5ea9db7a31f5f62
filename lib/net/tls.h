/*
 * tls.h: OpenSSL contexts with certificates that can be exchanged while running.
 *
 * A tls_server holds the certificates by SNI name, a tls_client what we trust and present. To exchange them, make
 * another from the files, and let the one in use take it over, which cannot fail (connections keep what they had).
 * TLS 1.2 is the least.
 */
#ifndef NET_TLS_H
#define NET_TLS_H

#include "base/err.h"

struct tls_server;
struct tls_client;

struct tls_cert_files {
    str certificate, key; /* PEM paths; the chain follows the certificate in its file */
};
struct tls_server_opts {
    const struct tls_cert_files *certs; /* the first is the default when SNI names none */
    size_t n_certs;
    str client_ca;   /* PEM path; set = clients must present a certificate of this CA (RPC between hosts) */
    bool allows_cbc; /* also the TLS 1.2 suites without authenticated encryption, for clients that know no other */
    const char *const *alpn; /* offered protocols, best first, NULL-terminated; NULL = ALPN is not answered */
};
/* Errors: INVALID with the path and what is wrong with it. Both are refcounted by the streams that use them. */
struct tls_server *tls_server_new(const struct tls_server_opts *opts, struct err *err) WARN_UNUSED;
/* From now on t has the certificates and client CA of fresh, which nobody else holds and which is freed. What t offers
 * by ALPN stays as it was made. */
void tls_server_take(struct tls_server *t, struct tls_server *fresh);
int64_t tls_server_expires_unix(const struct tls_server *t); /* the earliest notAfter */
void tls_server_free(struct tls_server *t);
DEFINE_CLEANUP(struct tls_server, tls_server_free)

enum tls_verify {
    TLS_VERIFY_NONE, /* opportunistic (SMTP to the world) */
    TLS_VERIFY_PEER  /* chain and name (RFC 6125) */
};
struct tls_client_opts {
    str ca_file;               /* PEM path; empty = the system's */
    struct tls_cert_files own; /* empty = none */
};
struct tls_client *tls_client_new(const struct tls_client_opts *opts, struct err *err) WARN_UNUSED;
/* From now on t trusts and presents what fresh does, which nobody else holds and which is freed. */
void tls_client_take(struct tls_client *t, struct tls_client *fresh);
void tls_client_free(struct tls_client *t);
DEFINE_CLEANUP(struct tls_client, tls_client_free)

/* Whether the certificate that it presents has this URI among its alternative names; false without one. */
bool tls_client_has_uri(const struct tls_client *t, str uri);

/* Make a self-signed ECDSA P-256 certificate for these DNS names, IPs and "URI:…", 825 days, mode 0600. */
bool tls_make_self_signed(const char *const *names, size_t n_names, str cert_path, str key_path, struct err *err)
    WARN_UNUSED;

#endif
