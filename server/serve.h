/*
 * serve.h: one running process: node, front-ends, HTTP, workers, and their order of coming and going.
 */
#ifndef SERVER_SERVE_H
#define SERVER_SERVE_H

#include "server/frontends.h"
#include "server/options.h"

struct workers;

struct serve {
    struct options *options;
    struct config config;
    struct node node;
    struct frontends frontends;
    struct http_server *http;
    struct listener *control;                                /* the control socket */
    struct workers *workers;                                 /* NULL without */
    struct frontend_socket sockets[FRONTENDS_LISTENERS_MAX]; /* of the front-ends; in a worker some are its parent's */
    size_t n_sockets;
    int64_t start_unix;
    bool is_worker;
    bool is_ready, is_draining;
    bool is_reload_due; /* HUP came before is_ready */
    int status;         /* exit status */
};

/* Run until a signal ends it; the exit status. */
int serve_run(struct options *o);

#endif
