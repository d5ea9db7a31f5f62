/* thurn queue: mail under way, and what to do about it. */
#include <stdio.h>
#include <time.h>

#include "base/clock.h"
#include "base/num.h"
#include "fiber/fiber.h"
#include "server/client.h"
#include "server/verbs.h"

#define PAGE 1000u
#define ASK_FIRST_MS 100
#define ASK_MAX_MS 5000
#define AGE_MAX_MS ((uint64_t)365 * 86400 * 1000)

/* Which messages: all that is given must fit. Empty = any. */
struct filter {
    const char *sender, *recipient, *state;
    uint64_t older_than_s;
};

static const char *plural(long long n)
{
    return n == 1 ? "" : "s";
}

static const char *when(char out[32], long long unix_s)
{
    time_t t = (time_t)unix_s;
    struct tm tm;
    gmtime_r(&t, &tm);
    strftime(out, 32, "%Y-%m-%d %H:%M:%SZ", &tm);
    return out;
}

static bool is_being_sent(json_t *r)
{
    return strcmp(client_text(r, "waits"), "attempt") == 0 && client_text(r, "site")[0];
}

/* What waits for its turn has no time that anybody knows. */
static bool has_time(json_t *r)
{
    const char *waits = client_text(r, "waits");
    return strcmp(waits, "time") == 0 || is_being_sent(r) || strcmp(waits, "site") == 0 || strcmp(waits, "hosts") == 0;
}

static const char *waits_text(json_t *r)
{
    if (strcmp(client_text(r, "waits"), "attempt") == 0 && !is_being_sent(r))
        return "";
    static const struct {
        const char *waits, *text;
    } texts[] = {{"time", ", next "},
                 {"site", ", its site is tried again "},
                 {"hosts", ", its domain is looked up again "},
                 {"turn", ", waits for its turn"},
                 {"attempt", ", being sent to "}};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        if (strcmp(client_text(r, "waits"), texts[i].waits) == 0)
            return texts[i].text;
    return "";
}

static void print_message(json_t *m)
{
    char created[32], until[32], due[32];
    size_t i;
    json_t *r;
    printf("%s  %s  until %s  %lld bytes  from <%s>  %lld left\n", client_text(m, "queue_id"),
           when(created, client_int(m, "created_unix")), when(until, client_int(m, "expires_unix")),
           client_int(m, "size"), client_text(m, "sender"), client_int(m, "recipients_left"));
    json_array_foreach(json_object_get(m, "recipients"), i, r)
        printf("    <%s> %s, %lld attempts%s%s%s%s%s%s\n", client_text(r, "address"), client_text(r, "state"),
               client_int(r, "attempts"), waits_text(r), is_being_sent(r) ? client_text(r, "site") : "",
               is_being_sent(r) ? " since " : "", has_time(r) ? when(due, client_int(r, "due_unix")) : "",
               client_text(r, "text")[0] ? ": " : "", client_text(r, "text"));
}

static void warn_of(json_t *answer)
{
    const char *w = json_string_value(json_object_get(answer, "warning"));
    if (w)
        fprintf(stderr, "thurn: one queue node did not answer: %s\n", w);
}

FIBER static bool page_of(struct options *o, struct arena *a, const struct filter *f, uint64_t limit, const char *after,
                          json_t **out, struct err *err)
{
    str q = arena_printf(a, "/v1/queue?limit=%llu&after=%.*s&sender=%.*s&recipient=%.*s&state=%.*s&older_than=%llu",
                         (unsigned long long)MIN(limit, PAGE), STR_ARG(client_path(a, "", after)),
                         STR_ARG(client_path(a, "", f->sender)), STR_ARG(client_path(a, "", f->recipient)),
                         STR_ARG(client_path(a, "", f->state)), (unsigned long long)f->older_than_s);
    return client_call(o, a, "GET", q, NULL, out, err);
}

static void print_page(json_t *page)
{
    size_t i;
    json_t *m;
    json_array_foreach(json_object_get(page, "messages"), i, m) print_message(m);
}

/* Page by page: of a long queue no more than one is in memory. */
FIBER static int list(struct options *o, struct arena *a, const struct filter *f)
{
    struct err err = ERR_INIT;
    const char *text;
    uint64_t left = 100;
    if (!options_take(o, "--limit", &text, &err) || !options_finish(o, 1, 1, &err))
        return verb_fail(&err);
    if (text && (!num_u64(str_c(text), UINT32_MAX, &left) || left == 0)) {
        (void)err_set(&err, ERR_INVALID, "--limit is a number of at least 1");
        return verb_fail(&err);
    }
    CLEANUP(client_json_free) json_t *first = NULL;
    if (!page_of(o, a, f, left, "", &first, &err))
        return verb_fail(&err);
    if (o->is_json) { /* the first thousand at most; "next" says that there are more */
        client_print(first);
        return EXIT_DONE;
    }
    print_page(first);
    left -= MIN(left, json_array_size(json_object_get(first, "messages")));
    char after[24];
    (void)snprintf(after, sizeof(after), "%s", client_text(first, "next"));
    while (left > 0 && after[0]) {
        ARENA(scratch, 1u << 26);
        CLEANUP(client_json_free) json_t *page = NULL;
        if (!page_of(o, &scratch, f, left, after, &page, &err))
            return verb_fail(&err);
        print_page(page);
        left -= MIN(left, json_array_size(json_object_get(page, "messages")));
        (void)snprintf(after, sizeof(after), "%s", client_text(page, "next"));
    }
    printf("%lld message%s in the queue\n", client_int(first, "total"), plural(client_int(first, "total")));
    warn_of(first);
    return EXIT_DONE;
}

FIBER static int show(struct options *o, struct arena *a)
{
    struct err err = ERR_INIT;
    CLEANUP(client_json_free) json_t *answer = NULL;
    if (!options_finish(o, 2, 2, &err) ||
        !client_call(o, a, "GET", client_path(a, "/v1/queue/?name=", o->args[1]), NULL, &answer, &err))
        return verb_fail(&err);
    if (o->is_json) {
        client_print(answer);
        return EXIT_DONE;
    }
    print_message(answer);
    printf("received from %s on %s\n\n%s\n", client_text(answer, "received_from"), client_text(answer, "node"),
           client_text(answer, "head"));
    return EXIT_DONE;
}

FIBER static int stats(struct options *o, struct arena *a)
{
    struct err err = ERR_INIT;
    CLEANUP(client_json_free) json_t *answer = NULL;
    if (!options_finish(o, 1, 1, &err) || !client_call(o, a, "GET", S("/v1/queue-stats"), NULL, &answer, &err))
        return verb_fail(&err);
    if (o->is_json) {
        client_print(answer);
        return EXIT_DONE;
    }
    size_t i;
    json_t *n;
    json_array_foreach(json_object_get(answer, "nodes"), i, n)
    {
        long long oldest = client_int(n, "oldest_unix");
        long long shards = client_int(n, "shards_owned"), messages = client_int(n, "messages"),
                  rcpts = client_int(n, "recipients");
        printf("%s: %lld shard%s, %lld message%s, %lld recipient%s, %lld active, %lld held, oldest %lld s\n",
               client_text(n, "node"), shards, plural(shards), messages, plural(messages), rcpts, plural(rcpts),
               client_int(n, "active"), client_int(n, "held"), oldest ? (long long)clock_unix() - oldest : 0);
    }
    warn_of(answer);
    return EXIT_DONE;
}

/* Whether all that is left of a message is held. */
static bool is_held(json_t *m)
{
    size_t i, n_held = 0;
    json_t *r;
    json_array_foreach(json_object_get(m, "recipients"), i, r)
    {
        const char *state = client_text(r, "state");
        if (strcmp(state, "due") == 0 || strcmp(state, "active") == 0)
            return false;
        n_held += strcmp(state, "held") == 0;
    }
    return n_held > 0;
}

/* Nothing was done to the messages that were named: why, each. */
FIBER static int explain(struct options *o)
{
    int status = EXIT_NOT_FOUND;
    for (int i = 1; i < o->n_args; i++) {
        ARENA(a, 1u << 26);
        struct err err = ERR_INIT;
        CLEANUP(client_json_free) json_t *m = NULL;
        const char *id = o->args[i];
        if (!client_call(o, &a, "GET", client_path(&a, "/v1/queue/?name=", id), NULL, &m, &err)) {
            if (err.kind == ERR_NOT_FOUND) {
                err_clear(&err);
                (void)err_set(&err, ERR_NOT_FOUND, "there is no message %.40s in the queue", id);
            }
        } else if (strcmp(o->args[0], "retry") == 0 && is_held(m)) {
            (void)err_set(&err, ERR_CONFLICT, "%.40s is held: release it with `thurn queue release %.40s`", id, id);
        } else {
            (void)err_set(&err, ERR_NOT_FOUND,
                          "no recipient of %.40s is in a state for '%s' (`thurn queue show %.40s`)", id, o->args[0],
                          id);
        }
        status = verb_fail(&err);
    }
    return status;
}

FIBER static int act(struct options *o, const struct filter *f)
{
    struct err err = ERR_INIT;
    bool is_all = options_flag(o, "--all");
    bool is_part = f->sender[0] || f->recipient[0] || f->state[0] || f->older_than_s, is_filter = is_all || is_part;
    if (!options_finish(o, 1, 1001, &err))
        return verb_fail(&err);
    if (is_filter == (o->n_args > 1) || (is_all && is_part)) {
        (void)err_set(&err, ERR_INVALID, "thurn queue %s wants one of: ID…, a filter, --all", o->args[0]);
        return verb_fail(&err);
    }
    json_t *ids = json_array();
    for (int i = 1; i < o->n_args; i++)
        json_array_append_new(ids, json_string(o->args[i]));
    CLEANUP(client_json_free) json_t *filter =
        json_pack("{s:o, s:s, s:s, s:s, s:I, s:b}", "queue_ids", ids, "sender", f->sender, "recipient", f->recipient,
                  "state", f->state, "older_than", (json_int_t)f->older_than_s, "is_all", (int)is_all);
    char id[24] = "";
    int64_t pause_ms = ASK_FIRST_MS; /* besides the seconds that an answer takes while it runs */
    for (;;) { /* it goes on by itself on the queue nodes, also when we are ended; we ask how far it is */
        ARENA(scratch, 1u << 20);
        CLEANUP(client_json_free) json_t *answer = NULL;
        json_t *body = json_pack("{s:s, s:O}", "op", o->args[0], "filter", filter);
        if (id[0])
            json_object_set_new(body, "act_id", json_string(id));
        if (!client_call(o, &scratch, "POST", S("/v1/queue"), body, &answer, &err))
            return verb_fail(&err);
        (void)snprintf(id, sizeof(id), "%s", client_text(answer, "act_id"));
        long long affected = client_int(answer, "affected");
        if (json_is_true(json_object_get(answer, "is_running"))) {
            fprintf(stderr, "thurn: %lld of %lld messages seen, %lld recipient%s so far\n", client_int(answer, "seen"),
                    client_int(answer, "total"), affected, plural(affected));
            if (!fiber_sleep_ms(pause_ms, &err))
                return verb_fail(&err);
            pause_ms = MIN(pause_ms * 2, ASK_MAX_MS);
            continue;
        }
        printf("%lld recipient%s\n", affected, plural(affected));
        warn_of(answer);
        if (json_is_true(json_object_get(answer, "is_cut_short"))) {
            fprintf(
                stderr,
                "thurn: it ended before all was seen (%lld of %lld messages): a queue node stopped, gave mail to another, or did not answer."
                " Give the command again for the rest\n",
                client_int(answer, "seen"), client_int(answer, "total"));
            return EXIT_PARTLY;
        }
        if (!affected && !is_filter && !json_object_get(answer, "warning"))
            return explain(o);
        return affected ? EXIT_DONE : EXIT_NOT_FOUND;
    }
}

static bool take_filter(struct options *o, struct filter *f, struct err *err)
{
    const char *age = NULL;
    uint64_t ms = 0;
    if (!options_take(o, "--sender", &f->sender, err) || !options_take(o, "--recipient", &f->recipient, err) ||
        !options_take(o, "--state", &f->state, err) || !options_take(o, "--older-than", &age, err))
        return false;
    if (age && (!num_duration_ms(str_c(age), AGE_MAX_MS, &ms) || ms < 1000))
        return err_set(err, ERR_INVALID, "--older-than is a time such as 90s, 30m, 4h or 2d");
    f->older_than_s = ms / 1000;
    f->sender = f->sender ? f->sender : "";
    f->recipient = f->recipient ? f->recipient : "";
    f->state = f->state ? f->state : "";
    return true;
}

FIBER static int queue_run(struct options *o, struct arena *a, void *arg)
{
    (void)arg;
    static const char *const acts[] = {"retry", "hold", "release", "drop", "bounce"};
    struct err err = ERR_INIT;
    struct filter f;
    if (!take_filter(o, &f, &err))
        return verb_fail(&err);
    const char *what = o->n_args ? o->args[0] : "";
    if (strcmp(what, "list") == 0)
        return list(o, a, &f);
    if (strcmp(what, "show") == 0)
        return show(o, a);
    if (strcmp(what, "stats") == 0)
        return stats(o, a);
    for (size_t i = 0; i < ARRAY_LEN(acts); i++)
        if (strcmp(what, acts[i]) == 0)
            return act(o, &f);
    return verb_unknown(o);
}

int verb_queue(struct options *o)
{
    return client_run(o, queue_run, NULL);
}

FIBER static int sweep_run(struct options *o, struct arena *a, void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    const char *older;
    bool is_dry = options_flag(o, "--dry-run");
    uint64_t ms = 86400000;
    CLEANUP(client_json_free) json_t *answer = NULL;
    if (!options_take(o, "--older-than", &older, &err) || !options_finish(o, 0, 0, &err))
        return verb_fail(&err);
    if (older && !num_duration_ms(str_c(older), INT64_MAX, &ms)) {
        (void)err_set(&err, ERR_INVALID, "--older-than wants a time such as 24h or 7d");
        return verb_fail(&err);
    }
    if (!client_call(o, a, "POST", S("/v1/sweep"),
                     json_pack("{s:I, s:b}", "older_than_s", (json_int_t)(ms / 1000), "dry_run", (int)is_dry), &answer,
                     &err))
        return verb_fail(&err);
    printf("%lld bodies %s, %lld bytes; %lld kept\n", client_int(answer, "removed"), is_dry ? "would go" : "removed",
           client_int(answer, "bytes"), client_int(answer, "kept"));
    return EXIT_DONE;
}

int verb_sweep(struct options *o)
{
    return client_run(o, sweep_run, NULL);
}
