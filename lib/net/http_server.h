/*
 * http_server.h: an HTTP/1.1 server on stream and listener (RFC 9110, RFC 9112): health, metrics, the admin API now;
 * JMAP, DAV, HTTP/2 and WebSocket later on the same request and handler types.
 *
 * A connection holds no fiber until a request's head is whole. Bodies arrive whole up to the route's body_max
 * (413 above it) or, for streaming routes, by http_read_body. Requests that are malformed, too long, or smuggle
 * (Content-Length with Transfer-Encoding, bare LF, obs-fold) get 400 and the connection closes.
 */
#ifndef NET_HTTP_SERVER_H
#define NET_HTTP_SERVER_H

#include "net/http_client.h"
#include "net/listener.h"

struct http_conn;
struct http_param {
    str name, value;
};
struct http_req {
    str method, path, query;     /* path is percent-decoded and normalised ("..", "//" refused); query is raw */
    struct http_header *headers; /* names lower case */
    size_t n_headers;
    str body;                /* when the route asked for whole bodies */
    uint64_t content_length; /* UINT64_MAX when chunked */
    struct arena *arena;     /* lives until the handler returns */
    struct http_conn *conn;
    const struct net_addr *peer;
    bool has_user; /* over a Unix socket */
    uint32_t user; /* the uid of the process at the other end */
    bool is_tls;
    struct http_param *params; /* decoded query parameters */
    size_t n_params;
    const void *admitted; /* what the route's admit found, for its handler; NULL at first. In the arena */
};
typedef FIBER void (*http_handler)(void *arg, struct http_req *req);
typedef FIBER bool (*http_admit)(void *arg, struct http_req *req); /* false: it has answered */
struct http_route {
    const char *method; /* "GET" (answers HEAD too), "POST", …, or "*" */
    const char *path;   /* exact, or a prefix when it ends in "*" */
    http_handler handler;
    size_t body_max;   /* 0 = no body allowed */
    bool is_streaming; /* the handler reads the body by http_read_body */
    bool is_vital;     /* answered also when all fibers are in use (the path is exact, the head came at once) */
    http_admit admit;  /* who may ask: looks at the head before a byte of the body is read. NULL: anybody */
};
struct http_server_opts {
    const struct http_route *routes; /* first match wins; copied */
    size_t n_routes;
    void *arg;                   /* for every handler */
    unsigned request_timeout_ms; /* for the head, and for body and handler; default 60000 each */
    unsigned idle_timeout_ms;    /* default 75000 */
};
struct http_server;
struct http_server *http_server_new(const struct http_server_opts *opts);
/* Stop keep-alive; frees when the last connection has gone. */
void http_server_free(struct http_server *s);
/* A listener's accept callback with this server as arg. */
void http_server_accept(void *server, struct stream *s);

str http_req_header(const struct http_req *req, str name);
str http_req_param(const struct http_req *req, str name);
/* The answer: once per request, whole or begun and then in pieces (chunked). Content type may be NULL for none. A
 * handler that gives none is answered for with 500. That the peer has gone is noticed by the connection, not by whole
 * answers. */
FIBER void http_reply(struct http_req *req, int status, const char *content_type, str body);
FIBER void http_reply_json(struct http_req *req, int status, str json);
/* {"error":kind,"message":text} with the status that belongs to the kind. */
FIBER void http_reply_err(struct http_req *req, const struct err *err);
void http_reply_header(struct http_req *req, str name, str value); /* before the reply */
FIBER bool http_reply_begin(struct http_req *req, int status, const char *content_type, struct err *err) WARN_UNUSED;
FIBER bool http_reply_piece(struct http_req *req, str piece, struct err *err) WARN_UNUSED;
/* A streamed answer cannot be completed: the connection breaks, so that the peer does not take it for whole. */
void http_reply_abort(struct http_req *req);
/* The next piece of the request's body, a view until the next call; empty at its end. */
FIBER bool http_read_body(struct http_req *req, str *piece, struct err *err) WARN_UNUSED;
int http_status_of(enum err_kind kind);

#endif
