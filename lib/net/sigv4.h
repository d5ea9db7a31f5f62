/*
 * sigv4.h: AWS Signature Version 4 for S3: canonical form and Authorization header. Pure.
 *
 * After "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)" of the S3 API reference.
 */
#ifndef NET_SIGV4_H
#define NET_SIGV4_H

#include "net/http_client.h"

#define SIGV4_UNSIGNED_PAYLOAD "UNSIGNED-PAYLOAD"

/* The path with every byte outside A-Za-z0-9-._~/ percent-encoded, after decoding what is encoded. INVALID when a
 * percent escape is broken. An empty path becomes "/". */
bool sigv4_canonical_path(str path, struct buf *out, struct err *err) WARN_UNUSED;
/* The query sorted by name and value, each encoded, with "=" also where there is no value. At most 100 parameters. */
bool sigv4_canonical_query(str query, struct buf *out, struct err *err) WARN_UNUSED;

struct sigv4_request {
    str method, path, query;           /* path and query in canonical form */
    const struct http_header *headers; /* every header that is to be signed, "host" among them; at most 62 */
    size_t n_headers;
    str payload_hash; /* lower-case hex SHA-256, or SIGV4_UNSIGNED_PAYLOAD */
    int64_t now_unix;
};
/* "20240131T235959Z" as x-amz-date wants it. */
void sigv4_date(int64_t now_unix, char out[17]);
/* Lower-case hex of SHA-256. */
void sigv4_sha256_hex(str data, char out[65]);
/*
 * The value of the Authorization header. x-amz-date and x-amz-content-sha256 are signed too and must be sent with the
 * same values; they are not in headers.
 */
bool sigv4_authorization(const struct sigv4_request *req, const struct http_sigv4 *keys, struct buf *out,
                         struct err *err) WARN_UNUSED;

#endif
