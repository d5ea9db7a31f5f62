/*
 * What leads to an address: the aliases that have it among their targets, and the domains whose catch-all it is. They
 * hold it as text, so that it may be an address anywhere; when an account goes or gets another name here, they are
 * found by a pattern that lets none pass unseen (letters beyond ASCII are folded by the database or not, so a local
 * part with some is not in it) and compared exactly afterwards.
 */
#include "auth-service/internal.h"

#include "auth-service/schema.h"

#define LEADS_MAX 10000u /* of one account */

/* Lines of "local…@domain". A catch-all counts as a line. */
static str pattern_of(const struct name *to, struct arena *a)
{
    BUF(b, 4 * NAME_KEY_MAX);
    buf_addc(&b, '%');
    if (ascii_only(to->local.p, to->local.n))
        like_add(&b, to->local);
    buf_add(&b, S("%@"));
    like_add(&b, to->domain);
    buf_add(&b, S("\n%"));
    return arena_str(a, buf_str(&b));
}

/* Whether the target is `to`, or a subaddress of it; *detail is that part as it is written, with its '+'. */
static bool is_target(str target, const struct name *to, struct arena *a, str *detail)
{
    struct name n;
    str base, rest;
    struct err ignored = ERR_INIT; /* what is no address is not this one */
    if (!name_parse(target, a, &n, &ignored))
        return false;
    *detail = STR_NONE;
    if (str_eq(n.key, to->key))
        return true;
    if (!name_split_detail(n.local, &base, &rest) || !str_eq(name_key(base, n.domain, a), to->key))
        return false;
    ptrdiff_t plus = str_find(target, '+');
    *detail = str_slice(target, (size_t)plus, (size_t)str_rfind(target, '@'));
    return true;
}

/* `instead` with the detail of what it replaces. */
static void add_instead(struct buf *b, const struct name *instead, str detail)
{
    ptrdiff_t at = str_rfind(instead->address, '@');
    buf_add(b, str_slice(instead->address, 0, (size_t)at));
    buf_add(b, detail);
    buf_add(b, str_slice(instead->address, (size_t)at, SIZE_MAX));
    buf_addc(b, '\n');
}

/* The lines as they are to be; *is_found: one of them is `to`. Errors: INVALID, LIMIT (what they would become is no
 * address, or too much). */
static bool rewrite(str lines, const struct name *to, const struct name *instead, struct arena *a, struct lead *out,
                    bool *is_found, struct err *err)
{
    BUF(b, AUTH_ALIAS_TARGETS_MAX * (NAME_KEY_MAX + 1));
    *is_found = false;
    str line, detail;
    struct name parsed;
    out->n_left = 0;
    while (str_split(&lines, '\n', &line)) {
        if (!line.n)
            continue;
        bool is_it = is_target(line, to, a, &detail);
        *is_found |= is_it;
        if (is_it && !instead)
            continue;
        out->n_left++;
        if (is_it) {
            size_t from = b.n;
            add_instead(&b, instead, detail);
            if (!name_parse(str_trim(str_slice(buf_str(&b), from, SIZE_MAX)), a, &parsed, err))
                return err_prefix(err, "'%.*s' leads there, and would become", STR_ARG(out->shown));
        } else {
            buf_add(&b, line);
            buf_addc(&b, '\n');
        }
    }
    out->targets = arena_str(a, buf_str(&b));
    return buf_ok(&b) || err_set(err, ERR_LIMIT, "'%.*s' would have more than fits", STR_ARG(out->shown));
}

bool leads_find(struct sql_tx *tx, const struct name *to, const struct name *instead, struct lead **out, size_t *n,
                struct err *err)
{
    struct arena *a = sql_arena(tx);
    struct sql_value *pattern = arena_new(a, struct sql_value);
    struct sql_result aliases, domains;
    *pattern = sql_s(pattern_of(to, a));
    sql_queue(tx, &q_aliases_to, pattern, 1, &aliases);
    sql_queue(tx, &q_catch_alls_to, pattern, 1, &domains);
    if (!sql_run(tx, err))
        return false;
    struct lead *leads = arena_array(a, struct lead, aliases.n_rows + domains.n_rows);
    size_t found = 0;
    bool is_found;
    for (size_t i = 0; i < aliases.n_rows; i++) {
        struct lead *l = &leads[found];
        *l = (struct lead){.key = sql_at(&aliases, i, ALIAS_KEY)->s, .shown = sql_at(&aliases, i, ALIAS_ADDRESS)->s};
        if (!rewrite(sql_at(&aliases, i, ALIAS_TARGETS)->s, to, instead, a, l, &is_found, err))
            return false;
        found += is_found;
    }
    for (size_t i = 0; i < domains.n_rows; i++) {
        struct lead *l = &leads[found];
        str name = sql_at(&domains, i, DOMAIN_NAME)->s;
        *l = (struct lead){.is_catch_all = true, .key = name, .shown = arena_printf(a, "@%.*s", STR_ARG(name))};
        if (!rewrite(sql_at(&domains, i, DOMAIN_CATCH_ALL)->s, to, instead, a, l, &is_found, err))
            return false;
        if (!is_found)
            continue;
        l->targets = str_trim(l->targets);
        found++;
    }
    if (found > LEADS_MAX)
        return err_set(err, ERR_LIMIT, "more than %u aliases lead to '%.*s'", LEADS_MAX, STR_ARG(to->address));
    *out = leads;
    *n = found;
    return true;
}

bool leads_write(struct sql_tx *tx, const struct lead *leads, size_t n, struct err *err)
{
    struct arena *a = sql_arena(tx);
    struct sql_value *set = arena_array(a, struct sql_value, 2 * n), *gone = arena_array(a, struct sql_value, n),
                     *catch_alls = arena_array(a, struct sql_value, 2 * n);
    size_t n_set = 0, n_gone = 0, n_catch_alls = 0;
    for (size_t i = 0; i < n; i++) {
        struct sql_value key = sql_s(leads[i].key), targets = sql_s(leads[i].targets);
        if (leads[i].is_catch_all) {
            catch_alls[2 * n_catch_alls] = key;
            catch_alls[2 * n_catch_alls++ + 1] = targets;
        } else if (leads[i].n_left) {
            set[2 * n_set] = key;
            set[2 * n_set++ + 1] = targets;
        } else {
            gone[n_gone++] = key;
        }
    }
    sql_queue(tx, &q_set_targets, set, n_set, NULL);
    sql_queue(tx, &q_remove_aliases, gone, n_gone, NULL);
    sql_queue(tx, &q_set_catch_alls, catch_alls, n_catch_alls, NULL);
    return n == 0 || sql_run(tx, err);
}

void leads_changed(struct auth *auth, const struct lead *leads, size_t n)
{
    for (size_t i = 0; i < n; i++)
        directory_changed(auth, leads[i].key, 0);
}

/* --- listing --- */

static bool names_it(const Thurn__Alias *m, const struct name *to, struct arena *a)
{
    str detail;
    for (size_t i = 0; i < m->n_targets; i++)
        if (is_target(str_c(m->targets[i]), to, a, &detail))
            return true;
    return false;
}

FIBER static bool list_catch_alls(struct auth *auth, const struct name *to, const struct sql_value *pattern,
                                  struct arena *a, Thurn__ListAliasesReply *out, struct err *err)
{
    struct sql_result r;
    if (!sql_query(auth->opts.directory, &q_list_catch_alls_to, pattern, a, &r, err))
        return false;
    for (size_t i = 0; i < r.n_rows; i++) {
        Thurn__Alias *m = arena_new(a, Thurn__Alias);
        thurn__alias__init(m);
        m->address = arena_strz(a, arena_printf(a, "@%.*s", STR_ARG(sql_at(&r, i, DOMAIN_NAME)->s)));
        m->targets = arena_new(a, char *);
        m->targets[m->n_targets++] = arena_strz(a, sql_at(&r, i, DOMAIN_CATCH_ALL)->s);
        if (names_it(m, to, a))
            out->aliases[out->n_aliases++] = m;
    }
    return true;
}

bool leads_list(struct auth *auth, const Thurn__ListRequest *q, struct arena *a, Thurn__ListAliasesReply *out,
                struct err *err)
{
    struct name to;
    struct sql_result r;
    size_t bytes = 0, i = 0, limit = q->limit == 0 ? 100 : MIN(q->limit, AUTH_BATCH_MAX);
    if (!name_parse(str_c(q->target), a, &to, err))
        return false;
    struct sql_value params[3] = {sql_s(str_c(q->after)), sql_i((int64_t)limit), sql_s(pattern_of(&to, a))};
    out->aliases = arena_array(a, Thurn__Alias *, limit + AUTH_BATCH_MAX);
    if ((!q->after[0] && !list_catch_alls(auth, &to, &params[2], a, out, err)) ||
        !sql_query(auth->opts.directory, &q_list_aliases_to, params, a, &r, err))
        return false;
    for (; i < r.n_rows && bytes < RPC_MESSAGE_MAX / 2; i++) {
        Thurn__Alias *m = alias_message(&r, i, a);
        bytes += sql_at(&r, i, ALIAS_TARGETS)->s.n;
        if (names_it(m, &to, a))
            out->aliases[out->n_aliases++] = m;
    }
    if (i && (i < r.n_rows || r.n_rows == limit))
        out->next = arena_strz(a, sql_at(&r, i - 1, ALIAS_KEY)->s);
    return true;
}
