/* thurn verify: whether the shards and the directory agree on who there is. */
#include <stdio.h>

#include "server/client.h"
#include "server/verbs.h"

#define SHARDS_MAX 1000u

struct tally {
    long long n_mailboxes, n_findings;
    unsigned n_shards;
};

static void print_finding(json_t *f)
{
    static const struct {
        const char *what, *says;
    } rows[] = {
        {"unknown", "the directory does not know it (lost in a failover, or restored from another day?)"},
        {"elsewhere", "the directory has it on another shard"},
        {"another", "the directory has another account of this number, which does not see this mail"},
        {"tenant", "the directory has it in another tenant"},
        {"epoch", "the directory has another epoch of it"},
    };
    const char *says = client_text(f, "what");
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (strcmp(says, rows[i].what) == 0) {
            says = rows[i].says;
            break;
        }
    printf("shard %lld, account %lld%s%s, %lld messages (%lld bytes): %s\n", client_int(f, "shard"),
           client_int(f, "account_id"), client_text(f, "address")[0] ? " " : "", client_text(f, "address"),
           client_int(f, "used_messages"), client_int(f, "used_bytes"), says);
}

/* One shard, page by page. *is_there: false when there is none of that number. */
FIBER static bool verify_shard(struct options *o, struct arena *a, unsigned shard, bool *is_there, struct tally *t,
                               struct err *err)
{
    long long from = 0;
    do {
        CLEANUP(client_json_free) json_t *page = NULL;
        if (!client_call(o, a, "GET", arena_printf(a, "/v1/verify?shard=%u&from=%lld", shard, from), NULL, &page,
                         err)) {
            *is_there = err->kind != ERR_INVALID || shard == 1;
            return false;
        }
        size_t i;
        json_t *finding;
        json_array_foreach(json_object_get(page, "findings"), i, finding)
        {
            if (o->is_json)
                client_print(finding);
            else
                print_finding(finding);
            t->n_findings++;
        }
        t->n_mailboxes += client_int(page, "checked");
        from = client_int(page, "next");
    } while (from);
    t->n_shards++;
    return true;
}

/* Who there is by the directory, with a mailbox already or not. */
FIBER static bool count_directory(struct options *o, long long *out, struct err *err)
{
    char after[1024] = "";
    *out = 0;
    do {
        ARENA(a, 1u << 26);
        CLEANUP(client_json_free) json_t *page = NULL;
        if (!client_call(o, &a, "GET",
                         arena_printf(&a, "/v1/accounts?limit=1000&after=%.*s", STR_ARG(client_path(&a, "", after))),
                         NULL, &page, err))
            return false;
        *out += (long long)json_array_size(json_object_get(page, "accounts"));
        (void)snprintf(after, sizeof(after), "%s", client_text(page, "next"));
    } while (after[0]);
    return true;
}

static void print_tally(const struct tally *t, long long n_directory)
{
    printf("%lld account%s in the directory; %lld mailbox%s on %u shard%s; ", n_directory, n_directory == 1 ? "" : "s",
           t->n_mailboxes, t->n_mailboxes == 1 ? "" : "es", t->n_shards, t->n_shards == 1 ? "" : "s");
    if (t->n_findings)
        printf("%lld differ%s\n", t->n_findings, t->n_findings == 1 ? "s" : "");
    else
        puts("none differs");
}

FIBER static int verify_run(struct options *o, struct arena *a, void *arg)
{
    struct tally t = {0};
    bool is_there = true, is_whole = true;
    (void)arg;
    for (unsigned shard = 1; shard <= SHARDS_MAX && is_there; shard++) {
        struct err err = ERR_INIT;
        if (verify_shard(o, a, shard, &is_there, &t, &err) || !is_there)
            continue;
        if (shard == 1)
            return verb_fail(&err); /* most likely nothing answers at all */
        fprintf(stderr, "thurn: shard %u: %s\n", shard, err.msg);
        is_whole = false;
    }
    if (!o->is_json) {
        struct err err = ERR_INIT;
        long long n_directory;
        if (!count_directory(o, &n_directory, &err))
            return verb_fail(&err);
        print_tally(&t, n_directory);
    }
    return t.n_findings ? EXIT_CONFLICT : is_whole ? EXIT_DONE : EXIT_PARTLY;
}

int verb_verify(struct options *o)
{
    struct err err = ERR_INIT;
    if (!options_finish(o, 0, 0, &err))
        return verb_fail(&err);
    return client_run(o, verify_run, NULL);
}
