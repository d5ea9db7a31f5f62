/*
 * The record of administration as the API writes and shows it. Who acts is the user at the other end of the control
 * socket, as the kernel says, or who has the token; the auth service writes the event in the transaction of the change.
 */
#include "frontend/admin/audit.h"

#include <pwd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/num.h"
#include "fiber/work.h"
#include "frontend/admin/json.h"
#include "proto/auth_calls.h"

#define USE_AGAIN_MS (3600 * 1000)
#define USER_NAME_MAX 64u

/* --- who --- */

struct user_name {
    uint32_t uid;
    char name[USER_NAME_MAX]; /* empty: it has none */
};
/* On the work pool: the user database may be a directory service. */
static void look_up_user(void *arg)
{
    struct user_name *u = arg;
    char room[4096];
    struct passwd pw, *found = NULL;
    if (getpwuid_r(u->uid, &pw, room, sizeof(room), &found) == 0 && found)
        snprintf(u->name, sizeof(u->name), "%s", pw.pw_name);
}

Thurn__Author *admin_author(struct http_req *req)
{
    struct arena *a = req->arena;
    Thurn__Author *by = arena_new(a, Thurn__Author);
    thurn__author__init(by);
    by->act = random_u64() | 1;
    if (!req->has_user) {
        char peer[NET_ADDR_TEXT_MAX];
        by->who = arena_strz(a, S("admin token"));
        by->origin = arena_strz(a, net_ip_format(req->peer, peer));
        return by;
    }
    struct user_name user = {.uid = req->user};
    struct err ignored = ERR_INIT; /* the number says it too */
    IGNORE(work_run(look_up_user, &user, &ignored));
    str uid = arena_printf(a, "uid %u", (unsigned)req->user);
    by->who = arena_strz(a, user.name[0] ? str_c(user.name) : uid);
    by->origin = arena_strz(a, arena_printf(a, "unix socket, %.*s%s%s%s", STR_ARG(uid), user.name[0] ? " (" : "",
                                            user.name, user.name[0] ? ")" : ""));
    return by;
}

/* --- writing --- */

bool admin_record(struct admin *a, const struct rpc_call *of, Thurn__Author *by, const char *what, str subject,
                  json_t *before, json_t *after, struct err *err)
{
    struct rpc_call call;
    Thurn__Event event = THURN__EVENT__INIT;
    Thurn__RecordRequest q = THURN__RECORD_REQUEST__INIT;
    char *was = before ? json_dumps(before, JSON_COMPACT) : NULL, *text = json_dumps(after, JSON_COMPACT);
    json_decref(before);
    json_decref(after);
    rpc_call_init(&call, of->arena);
    call.pass = of->pass;
    event.what = arena_strz(of->arena, str_c(what));
    event.subject = arena_strz(of->arena, subject);
    event.before = arena_strz(of->arena, str_c(was ? was : ""));
    event.after = arena_strz(of->arena, str_c(text ? text : ""));
    free(was);
    free(text);
    q.event = &event;
    q.by = by;
    if (auth_record(&call, a->auth, &q, NULL))
        return true;
    *err = call.err;
    return err_prefix(err, "this cannot be put on record, so it is not done");
}

void audit_token_use(struct admin *a, struct http_req *req, const struct rpc_call *of)
{
    char text[NET_ADDR_TEXT_MAX];
    str peer = net_ip_format(req->peer, text);
    size_t slot = 0;
    int64_t now = clock_mono_ms();
    for (size_t i = 0; i < ARRAY_LEN(a->uses); i++) {
        if (str_eq(str_c(a->uses[i].peer), peer)) {
            slot = i;
            break;
        }
        if (a->uses[i].at_ms < a->uses[slot].at_ms)
            slot = i;
    }
    bool is_same = str_eq(str_c(a->uses[slot].peer), peer);
    if (is_same && now - a->uses[slot].at_ms < USE_AGAIN_MS)
        return;
    snprintf(a->uses[slot].peer, sizeof(a->uses[slot].peer), "%.*s", STR_ARG(peer));
    a->uses[slot].at_ms = now;
    struct err err = ERR_INIT;
    if (!admin_record(a, of, admin_author(req), "token.use", req->path, NULL, json_object(), &err)) {
        a->uses[slot].at_ms = 0; /* the next use is tried again */
        log_warn("admin.unrecorded", KV_STR("peer", peer), KV_ERR(&err));
    }
}

/* --- showing --- */

/* What stands in an event's column: a JSON object, or nothing. */
static json_t *facts_json(const char *text)
{
    json_t *o = text[0] ? json_loads(text, 0, NULL) : NULL;
    return o ? o : json_null();
}

static json_t *event_json(const Thurn__Event *e)
{
    return json_pack("{s:I, s:o, s:o, s:s, s:o, s:o, s:o}", "at_unix_ms", (json_int_t)e->at_unix_ms, "who",
                     admin_string(str_c(e->who)), "from", admin_string(str_c(e->origin)), "what", e->what, "subject",
                     admin_string(str_c(e->subject)), "before", facts_json(e->before), "after", facts_json(e->after));
}

void admin_audit(void *arg, struct http_req *req)
{
    struct admin *a = arg;
    struct rpc_call call;
    Thurn__ListEventsRequest q = THURN__LIST_EVENTS_REQUEST__INIT;
    const Thurn__ListEventsReply *r;
    uint64_t since = 0;
    if (!admin_enter(a, req, &call))
        return;
    str given = http_req_param(req, S("since"));
    q.who = admin_param(req, "who");
    q.what = admin_param(req, "what");
    q.after = admin_param(req, "after");
    q.limit = admin_limit(req);
    if (given.n && !num_u64(given, INT64_MAX / 1000, &since))
        (void)err_set(&call.err, ERR_INVALID, "'since' is a time in seconds since 1970");
    q.since_unix_ms = since * 1000;
    if (!err_is_set(&call.err) && auth_list_events(&call, a->auth, &q, &r)) {
        json_t *events = json_array();
        for (size_t i = 0; i < r->n_events; i++)
            json_array_append_new(events, event_json(r->events[i]));
        admin_answer(req, 200, json_pack("{s:o, s:s}", "events", events, "next", r->next));
    }
    if (err_is_set(&call.err))
        http_reply_err(req, &call.err);
}
