/* thurn verify: whether the shards and the directory agree on who there is. */
#include <stdio.h>

#include "server/client.h"
#include "server/verbs.h"

#define SHARDS_MAX 1000u

struct tally {
    long long n_accounts, n_findings;
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
    printf("shard %lld, account %lld%s%s, %lld messages (%lld bytes): %s\n", client_int(f, "shard"), client_int(f, "account_id"),
           client_text(f, "address")[0] ? " " : "", client_text(f, "address"), client_int(f, "used_messages"), client_int(f, "used_bytes"), says);
}

/* One shard, page by page. *is_there: false when there is none of that number. */
FIBER static bool verify_shard(struct options *o, struct arena *a, unsigned shard, bool *is_there, struct tally *t, struct err *err)
{
    long long from = 0;
    do {
        CLEANUP(client_json_free) json_t *page = NULL;
        if (!client_call(o, a, "GET", arena_printf(a, "/v1/verify?shard=%u&from=%lld", shard, from), NULL, &page, err)) {
            *is_there = err->kind != ERR_INVALID || shard == 1;
            return false;
        }
        size_t i;
        json_t *finding;
        json_array_foreach (json_object_get(page, "findings"), i, finding) {
            if (o->is_json)
                client_print(finding);
            else
                print_finding(finding);
            t->n_findings++;
        }
        t->n_accounts += client_int(page, "checked");
        from = client_int(page, "next");
    } while (from);
    t->n_shards++;
    return true;
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
    if (!o->is_json)
        printf("%lld accounts on %u shards, %lld of them not as the directory says\n", t.n_accounts, t.n_shards, t.n_findings);
    return t.n_findings ? EXIT_CONFLICT : is_whole ? EXIT_DONE : EXIT_PARTLY;
}

int verb_verify(struct options *o)
{
    struct err err = ERR_INIT;
    if (!options_finish(o, 0, 0, &err))
        return verb_fail(&err);
    return client_run(o, verify_run, NULL);
}
