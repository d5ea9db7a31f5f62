#include <stdio.h>

#include "base/num.h"
#include "sieve/state.h"

#define WORK_MAX 2000000u /* units of pattern work of one run (match.c) */

enum flow run_error(struct run *r, const char *fmt, ...)
{
    struct sieve_result *out = r->out;
    if (!out->has_error) {
        va_list ap;
        va_start(ap, fmt);
        out->error = arena_vprintf(r->arena, fmt, ap);
        va_end(ap);
        out->has_error = true;
        out->error_line = r->line;
        out->error_script = r->script->name;
    }
    return FLOW_ERROR;
}

bool run_host_error(struct run *r, struct err *err)
{
    (void)run_error(r, "%s", err->msg);
    r->out->is_temporary = true;
    return false;
}

FIBER static enum flow run_block(struct run *r, const unsigned char *p, const unsigned char *end);

/* --- include, RFC 6609 --- */

FIBER static enum flow do_include(struct run *r, const struct call *c)
{
    const struct sieve_host_ops *ops = r->in->host ? r->in->host->ops : NULL;
    const struct sieve_program *program = NULL;
    struct err err = ERR_INIT;
    bool is_global = call_has(c, I_GLOBAL);
    str name = call_string(r, c, I_STRING_1);
    str key = arena_printf(r->arena, "%c%.*s", is_global ? 'g' : 'p', STR_ARG(name));
    if (ops && ops->include && !ops->include(r->in->host, name, is_global, &program, &err))
        return run_host_error(r, &err) ? FLOW_GO_ON : FLOW_ERROR;
    if (!program)
        return call_has(c, I_OPTIONAL)
                   ? FLOW_GO_ON
                   : run_error(r, "there is no script '%.*s' to include", STR_ARG(str_slice(name, 0, 60)));
    bool was_there = map_get(&r->once, key) != NULL;
    if (call_has(c, I_ONCE) && was_there)
        return FLOW_GO_ON;
    for (struct included *i = r->included; i; i = i->outer)
        if (i->program == program)
            return run_error(r, "the script '%.*s' includes itself", STR_ARG(str_slice(name, 0, 60)));
    map_put(&r->once, key, r);
    if (r->include_depth == SIEVE_INCLUDE_DEPTH_MAX)
        return run_error(r, "scripts include each other more than %u deep", SIEVE_INCLUDE_DEPTH_MAX);
    if (++r->n_includes > SIEVE_INCLUDES_MAX)
        return run_error(r, "more than %u scripts are included", SIEVE_INCLUDES_MAX);
    struct scope scope, *outer_scope = r->scope;
    struct included here = {program, r->included};
    const struct sieve_program *outer = r->program;
    struct match_values values = r->match_values;
    const struct sieve_script *outer_script = r->script, inner = {program, arena_str(r->arena, name)};
    unsigned line = r->line;
    scope_init(&scope);
    r->scope = &scope;
    r->program = program;
    r->included = &here;
    r->include_depth++;
    r->match_values.n = 0;
    struct sieve_script *named = arena_new(r->arena, struct sieve_script);
    *named = inner;
    r->script = named;
    enum flow flow = run_block(r, program->code, program->code + program->n_code);
    r->script = outer_script;
    r->include_depth--;
    r->included = here.outer;
    r->program = outer;
    r->scope = outer_scope;
    r->match_values = values;
    r->line = line;
    scope_done(&scope);
    return flow == FLOW_RETURN ? FLOW_GO_ON : flow;
}

static enum flow do_global(struct run *r, const struct call *c)
{
    struct cursor at = call_item(c, I_LIST_1)->list;
    str full, space, name;
    while (list_next(r, &at, &full)) {
        if (!word_variable_name(full, &space, &name) || space.n)
            return run_error(r, "'%.*s' cannot be the name of a global variable", STR_ARG(str_slice(full, 0, 60)));
        char *low = arena_strz(r->arena, name);
        for (size_t i = 0; i < name.n; i++)
            low[i] = (char)ascii_lower((unsigned char)low[i]);
        if (r->scope->n == SIEVE_VARIABLES_MAX)
            return run_error(r, "there are more than %u variables", SIEVE_VARIABLES_MAX);
        r->scope->n += !map_put(&r->scope->names, str_n(low, name.n), &scope_global);
    }
    return FLOW_GO_ON;
}

/* --- foreverypart, RFC 5703 3 --- */

FIBER static enum flow each_part(struct run *r, const struct call *c, const struct mime_part *p, str name,
                                 struct part_state *outer)
{
    struct part_state here = {.part = p, .name = name, .outer = outer};
    r->part = &here;
    enum flow flow = run_block(r, c->block, c->node.end);
    r->part = outer;
    if (flow != FLOW_GO_ON)
        return flow;
    for (const struct mime_part *child = p->children; child && flow == FLOW_GO_ON; child = child->next)
        flow = each_part(r, c, child, name, outer);
    return flow;
}

FIBER static enum flow do_foreverypart(struct run *r, const struct call *c)
{
    struct part_state *outer = r->part;
    str name = call_string(r, c, I_NAME);
    enum flow flow = FLOW_GO_ON;
    if (!outer)
        flow = each_part(r, c, r->message->root, name, NULL);
    else /* a loop in a loop goes over the parts below */
        for (const struct mime_part *child = outer->part->children; child && flow == FLOW_GO_ON; child = child->next)
            flow = each_part(r, c, child, name, outer);
    if (flow == FLOW_BREAK && (!r->break_to.n || (name.p && str_eq(r->break_to, name)))) {
        r->break_to = STR_NONE;
        return FLOW_GO_ON;
    }
    return flow;
}

static enum flow do_break(struct run *r, const struct call *c)
{
    str name = call_string(r, c, I_NAME);
    struct part_state *loop = r->part;
    while (name.p && loop && !(loop->name.p && str_eq(loop->name, name)))
        loop = loop->outer;
    if (!loop)
        return run_error(r, "there is no foreverypart of that name around the break");
    r->break_to = name.p ? name : STR_NONE;
    return FLOW_BREAK;
}

/* --- commands --- */

FIBER static enum flow do_extra(struct run *r, const struct call *c)
{
    const struct sieve_host_ops *ops = r->in->host ? r->in->host->ops : NULL;
    struct sieve_arguments args = {r, c};
    struct err err = ERR_INIT;
    bool answer = false, with_block = false;
    if (!ops || !ops->extra)
        return FLOW_GO_ON;
    if (!ops->extra(r->in->host, c->node.op - OP_EXTRA, &args, &answer, &with_block, &err))
        return run_host_error(r, &err) ? FLOW_GO_ON : FLOW_ERROR;
    return with_block ? run_block(r, c->block, c->node.end) : FLOW_GO_ON;
}

FIBER static enum flow run_command(struct run *r, const struct node *n)
{
    struct call c;
    call_of(n, &c);
    if (n->op >= OP_EXTRA)
        return do_extra(r, &c);
    switch (n->op) {
    case OP_STOP:
        return FLOW_STOP;
    case OP_RETURN:
        return FLOW_RETURN;
    case OP_BREAK:
        return do_break(r, &c);
    case OP_INCLUDE:
        return do_include(r, &c);
    case OP_GLOBAL:
        return do_global(r, &c);
    case OP_FOREVERYPART:
        return do_foreverypart(r, &c);
    default:
        return run_action(r, &c);
    }
}

FIBER static enum flow run_conditional(struct run *r, const struct node *n, bool *is_taken)
{
    const unsigned char *p = n->p;
    struct node test;
    bool holds = true;
    if (n->op != OP_ELSE && (!node_next(&p, n->end, &test) || !run_test(r, &test, &holds)))
        return FLOW_ERROR;
    *is_taken = holds;
    return holds ? run_block(r, p, n->end) : FLOW_GO_ON;
}

FIBER static enum flow run_block(struct run *r, const unsigned char *p, const unsigned char *end)
{
    struct node n;
    bool is_taken = false;
    while (node_next(&p, end, &n)) {
        enum flow flow;
        r->line = n.line;
        if (++r->out->steps > r->limits.steps)
            return run_error(r, "the script takes more than %u steps", r->limits.steps);
        if (!arena_ok(r->arena))
            return run_error(r, "the script takes too much memory");
        if (n.op == OP_IF)
            is_taken = false;
        if (n.op == OP_IF || ((n.op == OP_ELSIF || n.op == OP_ELSE) && !is_taken))
            flow = run_conditional(r, &n, &is_taken);
        else if (n.op == OP_ELSIF || n.op == OP_ELSE)
            continue;
        else
            flow = run_command(r, &n);
        if (flow != FLOW_GO_ON)
            return flow;
    }
    return FLOW_GO_ON;
}

/* --- the whole run --- */

static struct sieve_limits limits_of(const struct sieve_run *in)
{
    struct sieve_limits l = in->limits;
    l.steps = l.steps ? l.steps : 100000;
    l.memory = l.memory ? l.memory : 64u << 20;
    l.redirects = l.redirects ? l.redirects : 10;
    l.notifies = l.notifies ? l.notifies : 10;
    l.actions = l.actions ? l.actions : 100;
    return l;
}

/* One script. *goes_on: the message would be kept, so the next script may decide. */
FIBER static void run_script(struct run *r, const struct sieve_script *script, bool *goes_on)
{
    struct scope scope;
    struct included here = {script->program, NULL};
    scope_init(&scope);
    r->scope = &scope;
    r->script = script;
    r->program = script->program;
    r->included = &here;
    r->part = NULL;
    r->match_values.n = 0;
    r->n_before = r->out->n;
    r->is_keep_cancelled = r->has_keep = r->has_reject = false;
    /* how it ended does not matter */
    (void)run_block(r, script->program->code, script->program->code + script->program->n_code);
    scope_done(&scope);
    r->scope = NULL;
    if (r->out->has_error) {
        r->out->n = r->n_before;
        r->has_keep = false;
        *goes_on = true;
        return;
    }
    *goes_on = !r->is_keep_cancelled || r->has_keep;
}

static void forget_keep(struct run *r)
{
    size_t kept = 0;
    for (size_t i = 0; i < r->out->n; i++)
        if (r->out->actions[i].kind != SIEVE_KEEP)
            r->out->actions[kept++] = r->out->actions[i];
    r->out->n = kept;
}

FIBER static void add_implicit_keep(struct run *r)
{
    bool is_failed = r->out->has_error;
    r->limits.actions++; /* it is never one too many */
    struct sieve_action *keep = action_add(r, SIEVE_KEEP, NULL);
    if (is_failed || !keep)
        return;
    keep->flags = r->flags;
    keep->n_flags = r->n_flags;
    if (!message_now(r, &keep->header, &keep->body))
        keep->header = keep->body = STR_NONE; /* has_error is set */
}

FIBER void sieve_run(const struct sieve_run *in, const struct sieve_script *scripts, size_t n, struct arena *a,
                     struct sieve_result *out)
{
    struct run *r = xnew(struct run);
    size_t cap = a->cap;
    bool keeps = true;
    *out = (struct sieve_result){0};
    r->in = in;
    r->out = out;
    r->arena = a;
    r->limits = limits_of(in);
    r->regexes = regex_cache_new();
    r->work = WORK_MAX;
    r->message = in->message;
    a->cap = MIN(cap, a->used + r->limits.memory);
    map_init(&r->once);
    scope_init(&r->globals);
    for (size_t i = 0; i < n && keeps && !out->has_error; i++) {
        if (i > 0)
            forget_keep(r); /* this script decides now */
        run_script(r, &scripts[i], &keeps);
    }
    if (keeps && !r->has_keep)
        add_implicit_keep(r);
    out->is_discarded = out->n == 0;
    scope_done(&r->globals);
    map_done(&r->once);
    regex_cache_free(r->regexes);
    a->cap = cap;
    free(r);
}

/* --- for a host's own commands --- */

bool sieve_extra_has(const struct sieve_arguments *args, unsigned tag)
{
    return call_has(args->call, (unsigned char)(I_EXTRA_FLAG + tag)) ||
           call_has(args->call, (unsigned char)(I_EXTRA_STRING + tag)) ||
           call_has(args->call, (unsigned char)(I_EXTRA_NUMBER + tag));
}

str sieve_extra_tag_string(const struct sieve_arguments *args, unsigned tag)
{
    return call_string(args->run, args->call, (unsigned char)(I_EXTRA_STRING + tag));
}

/* The positional argument `at`: strings and lists are numbered each by themselves, so it is found by counting. */
static const struct item *positional(const struct sieve_arguments *args, unsigned at)
{
    for (size_t i = 0, n = 0; i < args->call->n; i++) {
        unsigned char id = args->call->items[i].id;
        bool is_one = id == I_NUMBER_1 || (id >= I_STRING_1 && id <= I_STRING_3) || (id >= I_LIST_1 && id <= I_LIST_3);
        if (is_one && n++ == at)
            return &args->call->items[i];
    }
    return NULL;
}

size_t sieve_extra_count(const struct sieve_arguments *args, unsigned at)
{
    const struct item *it = positional(args, at);
    return !it ? 0 : ITEM_KIND(it->id) == ITEM_LIST ? (size_t)it->number : 1;
}

str sieve_extra_string(const struct sieve_arguments *args, unsigned at, size_t i)
{
    const struct item *it = positional(args, at);
    str s = STR_NONE;
    if (!it || ITEM_KIND(it->id) == ITEM_NUMBER)
        return s;
    if (ITEM_KIND(it->id) == ITEM_STRING)
        return run_expand(args->run, &it->string);
    struct cursor c = it->list;
    for (size_t k = 0; k <= i; k++)
        if (!list_next(args->run, &c, &s))
            return STR_NONE;
    return s;
}

uint64_t sieve_extra_number(const struct sieve_arguments *args, unsigned at)
{
    const struct item *it = positional(args, at);
    return it ? it->number : 0;
}

FIBER bool sieve_extra_matches(const struct sieve_arguments *args, unsigned keys_at, str value, bool *out)
{
    struct matcher m;
    uint64_t n;
    matcher_of(args->run, args->call, &m);
    if (m.type != MATCH_COUNT)
        return match_keys(args->run, &m, value, positional(args, keys_at), out);
    *out = num_u64(value, UINT64_MAX, &n) && match_count(args->run, &m, n, positional(args, keys_at));
    return true;
}

uint64_t sieve_extra_tag_number(const struct sieve_arguments *args, unsigned tag)
{
    const struct item *it = call_item(args->call, (unsigned char)(I_EXTRA_NUMBER + tag));
    return it ? it->number : 0;
}

void sieve_extra_forget(const struct sieve_arguments *args)
{
    struct run *r = args->run;
    r->out->n = r->n_before;
    r->is_keep_cancelled = r->has_keep = r->has_reject = r->has_vacation = false;
    r->n_redirects = r->n_notifies = 0;
}

void sieve_extra_set_message(const struct sieve_arguments *args, const struct mime_message *m)
{
    struct run *r = args->run;
    r->message = m;
    r->made = (struct made_message){0};
    r->has_header = r->is_edited = false;
    r->n_edits = 0;
}
