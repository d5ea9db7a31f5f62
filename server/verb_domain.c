/* thurn domain, thurn tenant, thurn alias: short verbs over the admin API. */
#include <stdio.h>

#include "base/num.h"
#include "server/client.h"
#include "server/verbs.h"

static void print_domain(json_t *d)
{
    printf("%-40s tenant %lld%s%s%s\n", client_text(d, "name"), client_int(d, "tenant_id"),
           client_text(d, "catch_all")[0] ? "  catch-all " : "", client_text(d, "catch_all"),
           json_is_true(json_object_get(d, "is_disabled")) ? "  disabled" : "");
}

/* All pages of a list; each item is printed by fn (or the pages as JSON). */
FIBER static int list_all(struct options *o, struct arena *a, const char *path, const char *domain, const char *key,
                          void (*print)(json_t *))
{
    char *after = arena_strz(a, S(""));
    do {
        struct err err = ERR_INIT;
        CLEANUP(client_json_free) json_t *page = NULL;
        str q = arena_printf(a, "%s?limit=1000&after=%.*s&domain=%.*s", path, STR_ARG(client_path(a, "", after)),
                             STR_ARG(client_path(a, "", domain ? domain : "")));
        if (!client_call(o, a, "GET", q, NULL, &page, &err))
            return verb_fail(&err);
        size_t i;
        json_t *item;
        if (o->is_json)
            client_print(page);
        else
            json_array_foreach(json_object_get(page, key), i, item) print(item);
        after = arena_strz(a, str_c(client_text(page, "next")));
    } while (after[0]);
    return EXIT_DONE;
}

static int show_answer(struct options *o, bool ok, json_t *answer, const struct err *err, void (*print)(json_t *))
{
    if (!ok)
        return verb_fail(err);
    size_t i;
    json_t *warning;
    if (o->is_json)
        client_print(answer);
    else if (print)
        print(answer);
    json_array_foreach(json_object_get(answer, "warnings"), i, warning)
        fprintf(stderr, "thurn: warning: %s\n", json_string_value(warning));
    return EXIT_DONE;
}

FIBER static int domain_run(struct options *o, struct arena *a, void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    CLEANUP(client_json_free) json_t *answer = NULL;
    const char *tenant, *catch_all;
    bool disable = options_flag(o, "--disable"), enable = options_flag(o, "--enable");
    if (!options_take(o, "--tenant", &tenant, &err) || !options_take(o, "--catch-all", &catch_all, &err) ||
        !options_finish(o, 1, 2, &err))
        return verb_fail(&err);
    const char *what = o->args[0], *name = o->args[1];
    if (strcmp(what, "list") == 0)
        return list_all(o, a, "/v1/domains", NULL, "domains", print_domain);
    if (!name) {
        return verb_unknown(o);
    }
    uint64_t tenant_id = 0;
    if (tenant && !num_u64(str_c(tenant), INT64_MAX, &tenant_id)) {
        (void)err_set(&err, ERR_INVALID, "--tenant '%.40s' is not an ID as in 'thurn tenant list'", tenant);
        return verb_fail(&err);
    }
    json_t *body = json_object();
    if (catch_all)
        json_object_set_new(body, "catch_all", json_string(catch_all));
    if (strcmp(what, "add") == 0) {
        json_object_set_new(body, "name", json_string(name));
        if (tenant)
            json_object_set_new(body, "tenant_id", json_integer((json_int_t)tenant_id));
        bool ok = client_call(o, a, "POST", S("/v1/domains"), body, &answer, &err);
        return show_answer(o, ok, answer, &err, print_domain);
    }
    str path = client_path(a, "/v1/domains/?name=", name);
    if (strcmp(what, "set") == 0) {
        if (disable || enable)
            json_object_set_new(body, "is_disabled", json_boolean(disable));
        bool ok = client_call(o, a, "PATCH", path, body, &answer, &err);
        return show_answer(o, ok, answer, &err, print_domain);
    }
    json_decref(body);
    if (strcmp(what, "show") == 0) {
        bool ok = client_call(o, a, "GET", path, NULL, &answer, &err);
        return show_answer(o, ok, answer, &err, print_domain);
    }
    if (strcmp(what, "remove") == 0) {
        bool ok = client_call(o, a, "DELETE", path, NULL, &answer, &err);
        if (ok && !o->is_json)
            printf("The domain %s is removed; mail for it is refused.\n", name);
        return show_answer(o, ok, answer, &err, NULL);
    }
    return verb_unknown(o);
}

int verb_domain(struct options *o)
{
    return client_run(o, domain_run, NULL);
}

static void print_alias(json_t *l)
{
    size_t i;
    json_t *t;
    printf("%s ->", client_text(l, "address"));
    json_array_foreach(json_object_get(l, "targets"), i, t) printf(" %s", json_string_value(t));
    putchar('\n');
}

FIBER static int alias_run(struct options *o, struct arena *a, void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    CLEANUP(client_json_free) json_t *answer = NULL;
    const char *domain;
    if (!options_take(o, "--domain", &domain, &err) || !options_finish(o, 1, 1002, &err))
        return verb_fail(&err);
    if (strcmp(o->args[0], "list") == 0)
        return list_all(o, a, "/v1/aliases", domain, "aliases", print_alias);
    if (strcmp(o->args[0], "set") == 0 && o->n_args >= 3) {
        json_t *targets = json_array();
        for (int i = 2; i < o->n_args; i++)
            json_array_append_new(targets, json_string(o->args[i]));
        bool ok = client_call(o, a, "PUT", client_path(a, "/v1/aliases/?name=", o->args[1]),
                              json_pack("{s:o}", "targets", targets), &answer, &err);
        return show_answer(o, ok, answer, &err, print_alias);
    }
    if (strcmp(o->args[0], "remove") == 0 && o->n_args == 2) {
        bool ok = client_call(o, a, "DELETE", client_path(a, "/v1/aliases/?name=", o->args[1]), NULL, &answer, &err);
        if (ok && !o->is_json)
            printf("The alias %s is removed.\n", o->args[1]);
        return show_answer(o, ok, answer, &err, NULL);
    }
    return verb_unknown(o);
}

int verb_alias(struct options *o)
{
    return client_run(o, alias_run, NULL);
}

static void print_tenant(json_t *t)
{
    printf("%lld %s\n", client_int(t, "tenant_id"), client_text(t, "name"));
}

FIBER static int tenant_run(struct options *o, struct arena *a, void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    CLEANUP(client_json_free) json_t *answer = NULL;
    if (!options_finish(o, 1, 2, &err))
        return verb_fail(&err);
    if (strcmp(o->args[0], "list") == 0)
        return list_all(o, a, "/v1/tenants", NULL, "tenants", print_tenant);
    if (strcmp(o->args[0], "add") == 0 && o->n_args == 2) {
        bool ok = client_call(o, a, "POST", S("/v1/tenants"), json_pack("{s:s}", "name", o->args[1]), &answer, &err);
        return show_answer(o, ok, answer, &err, print_tenant);
    }
    return verb_unknown(o);
}

int verb_tenant(struct options *o)
{
    return client_run(o, tenant_run, NULL);
}
