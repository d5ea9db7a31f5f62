/*
 * http_parse.h: the pure parts of HTTP/1.1 (RFC 9112): request head, chunked framing, targets and queries.
 *
 * Strict where leniency lets two parsers disagree (request smuggling): only CRLF ends a line, no obs-fold, no space
 * before a colon, one Content-Length, no Content-Length beside Transfer-Encoding, one Host.
 */
#ifndef NET_HTTP_PARSE_H
#define NET_HTTP_PARSE_H

#include "net/http_server.h"

#define HTTP_LINE_MAX (8u * 1024)  /* request line: 414 */
#define HTTP_HEAD_MAX (32u * 1024) /* request line and fields: 431 */
#define HTTP_FIELDS_MAX 100
#define HTTP_PARAMS_MAX 100
#define HTTP_TRAILER_MAX (8u * 1024)

enum http_parse { HTTP_MORE, HTTP_DONE, HTTP_BAD };

struct http_head {
    str method, target;          /* views of the input */
    unsigned minor;              /* HTTP/1.minor, 0 or 1 */
    struct http_header *headers; /* names lower case; in the arena */
    size_t n_headers;
    bool has_length, is_chunked, keeps_alive, wants_continue;
    uint64_t content_length; /* when has_length */
    size_t length;           /* bytes of the head in the input */
};

/* Values are views of the input. BAD: *status is what to answer (400, 414, 431, 501, 505) and err says why. */
enum http_parse http_parse_head(str input, struct arena *a, struct http_head *out, int *status, struct err *err)
    WARN_UNUSED;

/* A target's path and raw query. origin-form and absolute-form (RFC 9112 3.2); "*" is its own path. The path is
 * percent-decoded UTF-8; empty, "." and ".." segments, encoded slashes and control characters are INVALID. */
bool http_parse_target(str target, struct arena *a, str *path, str *query, struct err *err) WARN_UNUSED;

/* name=value&…, "+" and percent escapes decoded, into the arena. At most HTTP_PARAMS_MAX. */
bool http_parse_query(str query, struct arena *a, struct http_param **out, size_t *n, struct err *err) WARN_UNUSED;

/* chunk-size [chunk-ext] CRLF at the front of input (RFC 9112 7.1); *used bytes of it. */
enum http_parse http_parse_chunk(str input, uint64_t *size, size_t *used) WARN_UNUSED;
/* The trailer section with its final CRLF; its fields are dropped. */
enum http_parse http_parse_trailer(str input, size_t *used) WARN_UNUSED;

#endif
