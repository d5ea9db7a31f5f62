/*
 * client.h: the command line as a client of the admin API: over the control socket in the data folder, or over HTTP
 * with a token when --url (THURN_ADMIN_URL) is given.
 */
#ifndef SERVER_CLIENT_H
#define SERVER_CLIENT_H

#include <jansson.h>

#include "base/arena.h"
#include "server/options.h"

/* What a verb does with the API; runs on a fiber. Returns the exit status. */
typedef int (*client_fn)(struct options *o, struct arena *a, void *arg);
int client_run(struct options *o, client_fn fn, void *arg);

/*
 * One request. body may be NULL (taken over). *out is the JSON answer (the caller's; decref). Errors: the API's own
 * kind and text; UNAVAILABLE when no server answers, with what to do.
 */
FIBER bool client_call(struct options *o, struct arena *a, const char *method, str path, json_t *body, json_t **out,
                       struct err *err) WARN_UNUSED;
/* "/v1/accounts/?name=" + address, percent-encoded: for queries, where every byte of a name has a form. */
str client_path(struct arena *a, const char *base, const char *name);
/* The name of the control socket in the data folder in force. */
bool client_socket(struct options *o, struct arena *a, str *out, struct err *err) WARN_UNUSED;

/* Members of answers: "" and 0 when absent. */
const char *client_text(json_t *o, const char *key);
long long client_int(json_t *o, const char *key);
void client_print(json_t *o); /* indented, on standard output */

static inline void client_json_free(json_t *j)
{
    json_decref(j);
}
DEFINE_CLEANUP(json_t, client_json_free)

#endif
