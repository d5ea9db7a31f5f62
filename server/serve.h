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
    struct listener *control;   /* the control socket */
    struct workers *workers;    /* NULL without */
    struct inherited_fd inherited[FRONTENDS_LISTENERS_MAX];
    size_t n_inherited;         /* in a worker: the sockets that the parent bound */
    bool is_worker;
    bool is_ready, is_draining;
    int status;                 /* exit status */
};

/* Run until a signal ends it; the exit status. */
int serve_run(struct options *o);

#endif
