/* thurn audit: the record of administration, the oldest first. */
#include <stdio.h>
#include <time.h>

#include "base/clock.h"
#include "base/num.h"
#include "server/client.h"
#include "server/verbs.h"

#define SINCE_DEFAULT_MS (7 * INT64_C(86400000))

static void print_time(json_int_t unix_ms)
{
    time_t t = (time_t)(unix_ms / 1000);
    struct tm tm;
    char text[32] = "";
    gmtime_r(&t, &tm);
    (void)strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm); /* has room */
    fputs(text, stdout);
}

static void print_value(json_t *v)
{
    char *text = v ? json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    fputs(text ? text : "-", stdout);
    free(text);
}

/* Each fact on its own: "state: \"active\" -> \"suspended\"". A value that is only before or only after stands alone.
 */
static void print_facts(json_t *before, json_t *after, bool is_change)
{
    const char *key;
    json_t *v;
    json_object_foreach(before, key, v)
    {
        printf("  %s: ", key);
        print_value(v);
        if (json_object_get(after, key)) {
            printf(" -> ");
            print_value(json_object_get(after, key));
        } else if (is_change && json_is_object(after)) {
            printf(" -> -");
        }
    }
    json_object_foreach(after, key, v)
    {
        if (json_object_get(before, key))
            continue;
        printf("  %s: ", key);
        print_value(v);
    }
}

static void print_event(json_t *e)
{
    print_time(json_integer_value(json_object_get(e, "at_unix_ms")));
    printf("  %s  %s  %s", client_text(e, "who"), client_text(e, "what"), client_text(e, "subject"));
    /* Of an act on the queue there stands before which mail it was, which became nothing else. */
    bool is_change = !str_starts(str_c(client_text(e, "what")), S("queue."));
    print_facts(json_object_get(e, "before"), json_object_get(e, "after"), is_change);
    printf("  (%s)\n", client_text(e, "from"));
}

FIBER static int audit_run(struct options *o, struct arena *a, void *arg)
{
    struct err err = ERR_INIT;
    const char *since, *who, *what;
    uint64_t age_ms = SINCE_DEFAULT_MS;
    (void)arg;
    if (!options_take(o, "--since", &since, &err) || !options_take(o, "--who", &who, &err) ||
        !options_take(o, "--what", &what, &err) || !options_finish(o, 0, 0, &err))
        return verb_fail(&err);
    if (since && !num_duration_ms(str_c(since), (uint64_t)clock_unix_ms(), &age_ms)) {
        (void)err_set(&err, ERR_INVALID, "--since '%.40s' is not a time ago such as 90m, 24h or 30d", since);
        return verb_fail(&err);
    }
    long long from = (long long)(clock_unix_ms() - (int64_t)age_ms) / 1000;
    char *after = arena_strz(a, S(""));
    do {
        CLEANUP(client_json_free) json_t *page = NULL;
        str q = arena_printf(a, "/v1/audit?limit=1000&since=%lld&after=%.*s&who=%.*s&what=%.*s", from,
                             STR_ARG(client_path(a, "", after)), STR_ARG(client_path(a, "", who ? who : "")),
                             STR_ARG(client_path(a, "", what ? what : "")));
        if (!client_call(o, a, "GET", q, NULL, &page, &err))
            return verb_fail(&err);
        size_t i;
        json_t *e;
        json_array_foreach(json_object_get(page, "events"), i, e) o->is_json ? client_print(e) : print_event(e);
        after = arena_strz(a, str_c(client_text(page, "next")));
    } while (after[0]);
    return EXIT_DONE;
}

int verb_audit(struct options *o)
{
    return client_run(o, audit_run, NULL);
}
