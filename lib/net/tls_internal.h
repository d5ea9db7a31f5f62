/*
 * tls_internal.h: what streams need of the TLS settings.
 */
#ifndef NET_TLS_INTERNAL_H
#define NET_TLS_INTERNAL_H

#include <openssl/ssl.h>

#include "net/tls.h"

/* A new connection under these settings. The settings are held by the stream (ref) until it ends. */
SSL *tls_server_ssl(struct tls_server *t, struct err *err) WARN_UNUSED;
SSL *tls_client_ssl(struct tls_client *t, struct err *err) WARN_UNUSED;
void tls_server_ref(struct tls_server *t);
void tls_client_ref(struct tls_client *t);
bool tls_cert_has_uri(X509 *cert, str uri);
/* The oldest error of OpenSSL's queue as text; empties the queue. */
const char *tls_error_text(char buf[160]);

#endif
