#include "server/client.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "fiber/fiber.h"
#include "net/http_client.h"
#include "server/folder.h"
#include "server/verbs.h"

#define ANSWER_MAX (64u << 20)
#define CALL_TIMEOUT_MS 120000

struct run {
    struct options *o;
    client_fn fn;
    void *arg;
    int status;
};

static struct http_client *http;

static void run_on_fiber(void *arg)
{
    struct run *r = arg;
    struct err err = ERR_INIT;
    ARENA(a, 256u << 20);
    /* An answer may be long in the making (a sweep, an account's removal): the call's own time bounds it. */
    http = http_client_new(&(struct http_client_opts){.stall_s = CALL_TIMEOUT_MS / 1000}, &err);
    if (!http) {
        r->status = verb_fail(&err);
        return;
    }
    r->status = r->fn(r->o, &a, r->arg);
    http_client_free(http);
    http = NULL;
}

int client_run(struct options *o, client_fn fn, void *arg)
{
    struct run r = {.o = o, .fn = fn, .arg = arg, .status = EXIT_FAILED};
    if (!fiber_main(run_on_fiber, &r))
        return EXIT_FAILED;
    return r.status;
}

str client_path(struct arena *a, const char *base, const char *name)
{
    BUF(b, 8192);
    buf_add(&b, str_c(base));
    for (const char *p = name; *p; p++) {
        if (ascii_is_alnum((unsigned char)*p) || strchr("-._~@", *p))
            buf_addc(&b, *p);
        else
            buf_printf(&b, "%%%02X", (unsigned)(unsigned char)*p);
    }
    return arena_str(a, buf_str(&b));
}

bool client_socket(struct options *o, struct arena *a, str *out, struct err *err)
{
    struct config c;
    bool ok = options_config(o, &c, err);
    if (ok)
        *out = arena_printf(a, "%.*s/control.sock", STR_ARG(config_str(&c, CFG_DATA)));
    config_done(&c);
    return ok;
}

/* The API's {"error":…,"message":…}, or the bare status. */
static bool api_error(const struct http_response *rep, json_t *answer, struct err *err)
{
    const char *kind = json_string_value(json_object_get(answer, "error"));
    const char *text = json_string_value(json_object_get(answer, "message"));
    enum err_kind k = ERR_INTERNAL;
    for (int i = 1; kind && i < ERR_KINDS_; i++)
        if (strcmp(kind, err_kind_name((enum err_kind)i)) == 0)
            k = (enum err_kind)i;
    if (text)
        return err_set(err, k, "%s", text);
    return err_set(err, k, "the server answered with HTTP status %d", rep->status);
}

static bool address_request(struct options *o, struct arena *a, struct http_request *req, str path, struct err *err)
{
    const char *url = o->url ? o->url : o->config_file || o->data ? NULL : getenv("THURN_ADMIN_URL");
    const char *token = o->token ? o->token : getenv("THURN_ADMIN_TOKEN");
    struct http_header *headers = arena_array(a, struct http_header, 2);
    headers[0] = (struct http_header){S("content-type"), S("application/json")};
    req->headers = headers;
    req->n_headers = 1;
    if (!url) {
        req->url = arena_printf(a, "http://localhost%.*s", STR_ARG(path));
        return client_socket(o, a, &req->unix_socket, err);
    }
    if (token) {
        headers[1] = (struct http_header){S("authorization"), arena_printf(a, "Bearer %s", token)};
        req->n_headers = 2;
    }
    size_t n = strlen(url);
    req->url = arena_printf(a, "%.*s%.*s", (int)(n && url[n - 1] == '/' ? n - 1 : n), url, STR_ARG(path));
    return true;
}

static bool is_others(const char *path, const char *what, struct err *err)
{
    struct stat st;
    if (geteuid() == 0 || stat(path, &st) != 0 || st.st_uid == geteuid())
        return false;
    char uid[24];
    const char *user = folder_user(st.st_uid, uid);
    (void)err_set(err, ERR_DENIED, "%s '%.120s' belongs to user %s: run this as that user (sudo -u %s) or as root",
                  what, path, user, user);
    return true;
}

/* True when the socket of somebody else's server is why nobody answered; err says so. */
static bool explain_socket(str path, struct arena *a, struct err *err)
{
    char *name = arena_strz(a, path),
         *folder = arena_strz(a, str_slice(path, 0, (size_t)MAX(str_rfind(path, '/'), (ptrdiff_t)1)));
    if (access(name, R_OK | W_OK) == 0 || errno != EACCES)
        return false;
    return is_others(name, "the server's socket", err) || is_others(folder, "the server's folder", err);
}

bool client_call(struct options *o, struct arena *a, const char *method, str path, json_t *body, json_t **out,
                 struct err *err)
{
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    struct http_request req = {.method = method, .body = str_c(text), .response_max = ANSWER_MAX};
    struct http_response rep;
    bool ok = address_request(o, a, &req, path, err);
    if (ok) {
        FIBER_DEADLINE(CALL_TIMEOUT_MS);
        ok = http_request(http, &req, a, &rep, err);
        if (!ok && err->kind == ERR_UNAVAILABLE) {
            err_clear(err);
            if (!req.unix_socket.n || !explain_socket(req.unix_socket, a, err))
                (void)err_set(err, ERR_UNAVAILABLE,
                              "no server answers at %.*s; is 'thurn serve' running (with the same --data)?",
                              STR_ARG(req.unix_socket.n ? req.unix_socket : req.url));
        }
    }
    free(text);
    if (!ok)
        return false;
    json_t *answer = json_loadb(rep.body.p ? rep.body.p : "", rep.body.n, 0, NULL);
    if (rep.status / 100 != 2) {
        (void)api_error(&rep, answer, err);
        json_decref(answer);
        return false;
    }
    *out = answer ? answer : json_object();
    return true;
}

const char *client_text(json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

long long client_int(json_t *o, const char *key)
{
    return (long long)json_integer_value(json_object_get(o, key));
}

void client_print(json_t *o)
{
    json_dumpf(o, stdout, JSON_INDENT(2));
    putchar('\n');
}
