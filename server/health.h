/*
 * health.h: what every process answers over HTTP: /livez (the loop turns), /readyz (what is needed to serve answers;
 * "ok", and a line "degraded: …" for each thing it suffers from all the same), /metrics (of this process and its
 * workers), and the admin API where the services can be reached.
 */
#ifndef SERVER_HEALTH_H
#define SERVER_HEALTH_H

#include "server/serve.h"

/* Routes over s; lives until the server is freed. */
struct http_server *health_server_new(struct serve *s);

#endif
