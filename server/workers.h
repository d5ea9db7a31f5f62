/*
 * workers.h: several front-end processes behind the same ports.
 *
 * The parent hands the sockets of the mail protocols to its workers, together with a config that holds only what a
 * front-end needs: no database, Redis or S3 credential. Workers reach the parent's services over a Unix socket, and
 * those of other processes as the parent does. A worker that ends is replaced after a second, and after longer and
 * longer (a minute at most) when it does not live; workers end when their parent does.
 */
#ifndef SERVER_WORKERS_H
#define SERVER_WORKERS_H

#include "server/serve.h"

#define WORKERS_MAX 64

/* Start the workers on s->sockets. socket_path is where the parent serves calls. */
FIBER struct workers *workers_start(struct serve *s, unsigned count, const char *socket_path, struct err *err)
    WARN_UNUSED;
/* GET this path of all workers at once; those that answered 200 within a second (at most WORKERS_MAX), and how many. */
struct worker_answer {
    unsigned worker; /* from 1 */
    str body;        /* in a */
};
FIBER size_t workers_ask(struct workers *w, str path, struct arena *a, struct worker_answer *out);
/* Let them take up the settings of fresh that need no restart; on failure none does. w may be NULL. */
bool workers_reload(struct workers *w, const struct config *fresh, struct err *err) WARN_UNUSED;
/* TERM, then wait until the fiber's deadline, then KILL; frees. NULL is allowed. */
FIBER void workers_stop(struct workers *w);

/* In a worker: the inherited sockets from the environment. False when this process is no worker. Tells the parent that
 * HUP is handled or held from here on: before this the parent sends none. */
bool workers_inherited(struct frontend_socket *out, size_t *n);

#endif
