/*
 * workers.h: several front-end processes behind the same ports.
 *
 * The parent binds the sockets of the mail protocols and hands them to its workers, together with a config that holds only
 * what a front-end needs: no database, Redis or S3 credential. Workers reach the parent's services over a Unix socket. A worker that
 * ends is replaced after a second; workers end when their parent does.
 */
#ifndef SERVER_WORKERS_H
#define SERVER_WORKERS_H

#include "server/serve.h"

#define WORKERS_MAX 64

/* Bind the sockets and start the workers. socket_path is where the parent serves calls. */
FIBER struct workers *workers_start(struct serve *s, unsigned count, const char *socket_path, struct err *err) WARN_UNUSED;
/* Each worker's /metrics into pages (at most WORKERS_MAX); how many answered. w may be NULL. */
FIBER size_t workers_metrics(struct workers *w, struct arena *a, str *pages);
void workers_signal(struct workers *w, int signum); /* NULL is allowed */
/* TERM, then wait until the fiber's deadline, then KILL; frees. NULL is allowed. */
FIBER void workers_stop(struct workers *w);

/* In a worker: the inherited sockets from the environment. False when this process is no worker. */
bool workers_inherited(struct inherited_fd *out, size_t *n);

#endif
