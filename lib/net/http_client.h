/*
 * http_client.h: HTTP requests on curl multi, and AWS Signature Version 4 for S3.
 *
 * One client per process holds the connection pool; requests suspend the calling fiber. Bodies go out from a view or a
 * source and come in to a buffer with a cap or to a sink. No redirects are followed.
 */
#ifndef NET_HTTP_CLIENT_H
#define NET_HTTP_CLIENT_H

#include "base/arena.h"
#include "base/buf.h"
#include "fiber/fiber.h"

struct http_client;
struct http_client_opts {
    unsigned max_connections;    /* default 64 */
    unsigned max_per_host;       /* default 32 */
    unsigned connect_timeout_ms; /* default 5000 */
    /* a transfer that moved hardly a byte for so long is given up, UNAVAILABLE; default 60. Not while we hold it back
     * ourselves */
    unsigned stall_s;
};
struct http_client *http_client_new(const struct http_client_opts *opts, struct err *err) WARN_UNUSED;
void http_client_free(struct http_client *c);

struct http_header {
    str name, value;
};
struct http_sigv4 {
    /* access_key empty = unsigned. The path is encoded once, as S3 wants it; path and query are put into canonical form
     * before they are sent, so that what is signed is what goes over the wire. */
    str access_key, secret_key, region, service;
};
struct http_request {
    const char *method;
    str url;
    str unix_socket; /* path; empty = TCP */
    const struct http_header *headers;
    size_t n_headers;
    str body; /* the whole body, or empty; borrowed until the request has ended */
    /* Instead of body: body_size bytes in pieces. Runs on the calling fiber and may suspend; *piece is a view until the
     * next call and is empty at the end. Fewer bytes than body_size fail the request. Not sent a second time: when a
     * pooled connection turns out to be dead the error is UNAVAILABLE and the caller begins again. */
    FIBER bool (*next_body)(void *arg, str *piece, struct err *err);
    uint64_t body_size;
    str body_sha256_hex; /* of what next_body gives, for signing; empty = UNSIGNED-PAYLOAD */
    struct http_sigv4 sign;
    size_t response_max; /* cap of the response body; over it: LIMIT */
    str ca_file;         /* for https with a private CA; empty = the system's */
    /* When set, the response body is handed on in pieces instead of being kept; false aborts. Runs on the calling
     * fiber and may suspend (the transfer is paused meanwhile). Only called for 2xx answers. */
    FIBER bool (*on_data)(void *arg, str piece, struct err *err);
    void *arg; /* of next_body and on_data */
};
struct http_response {
    int status;
    struct http_header *headers; /* lower-case names, in the arena */
    size_t n_headers;
    str body; /* in the arena */
};
/* Any status is success here. Errors: UNAVAILABLE (connect, reset), TIMEOUT, CANCELLED, LIMIT, INVALID (URL). */
FIBER bool http_request(struct http_client *c, const struct http_request *req, struct arena *a,
                        struct http_response *out, struct err *err) WARN_UNUSED;
str http_header_get(const struct http_header *h, size_t n, str name); /* empty when absent */

#endif
