/*
 * Where an alias or a catch-all would lead, asked before it is written. A circle is refused: it can never be meant. A
 * target that nobody has is only told: it may be added next. Two changes at the same time can still make a circle; the
 * resolver copes with one.
 */
#include "auth-service/internal.h"

struct check {
    struct auth *auth;
    struct arena *arena;
    str key; /* under which rec is looked up */
    struct record rec;
};

/* What a sender would be told. NULL = it gets mail, or may get it again. */
static const char *trouble_of(const Thurn__Resolution *r)
{
    switch (r->kind) {
    case THURN__RECIPIENT_KIND__RECIPIENT_UNKNOWN:
        return "nobody has this address";
    case THURN__RECIPIENT_KIND__RECIPIENT_CLOSED:
        return "the account is closed";
    case THURN__RECIPIENT_KIND__RECIPIENT_LOOP:
        return "it leads to too many addresses";
    default:
        return NULL;
    }
}

FIBER static bool check(struct check *c, char *self, char **targets, size_t n, char ***out, size_t *n_out,
                        struct err *err)
{
    bool has_loop;
    Thurn__Resolution *own, **found = arena_array(c->arena, Thurn__Resolution *, n);
    if (!resolve_as_if(c->auth, c->key, &c->rec, &self, 1, c->arena, &own, &has_loop, err))
        return false;
    if (has_loop || own->kind == THURN__RECIPIENT_KIND__RECIPIENT_LOOP) /* mail for it would be returned */
        return err_set(err, ERR_INVALID, "'%s' would lead in a circle, or over too many aliases", self);
    if (!resolve_as_if(c->auth, c->key, &c->rec, targets, n, c->arena, found, &has_loop, err))
        return false;
    *out = arena_array(c->arena, char *, TARGETS_WARNINGS_MAX);
    *n_out = 0;
    for (size_t i = 0; i < n && *n_out < TARGETS_WARNINGS_MAX; i++) {
        const char *trouble = trouble_of(found[i]);
        if (trouble)
            (*out)[(*n_out)++] =
                arena_strz(c->arena, arena_printf(c->arena, "mail for %s goes nowhere: %s", targets[i], trouble));
    }
    return true;
}

bool targets_of_alias(struct auth *auth, const struct name *alias, char **targets, size_t n, struct arena *a,
                      char ***out, size_t *n_out, struct err *err)
{
    struct check c = {
        .auth = auth,
        .arena = a,
        .key = alias->key,
        .rec = {.kind = RECORD_ALIAS, .address = alias->address, .targets = arena_array(a, str, n), .n_targets = n}};
    for (size_t i = 0; i < n; i++)
        c.rec.targets[i] = str_c(targets[i]);
    return check(&c, arena_strz(a, alias->address), targets, n, out, n_out, err);
}

bool targets_of_catch_all(struct auth *auth, const struct domain *d, struct arena *a, char ***out, size_t *n_out,
                          struct err *err)
{
    struct check c = {.auth = auth, .arena = a, .key = d->name, .rec = {.kind = RECORD_DOMAIN, .domain = *d}};
    char *target = arena_strz(a, d->catch_all);
    *out = NULL;
    *n_out = 0;
    return !d->catch_all.n || check(&c, target, &target, 1, out, n_out, err);
}
