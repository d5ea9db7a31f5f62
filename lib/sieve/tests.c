#include "base/num.h"
#include "mail/address.h"
#include "mail/content_field.h"
#include "sieve/state.h"

#define FIELD_ADDRESSES_MAX 1000u
#define BODY_MAX ((size_t)1 << 20) /* of a body or part that a test looks at */

/* --- matching --- */

void matcher_of(struct run *r, const struct call *c, struct matcher *m)
{
    const struct item *match = call_item(c, I_MATCH), *comparator = call_item(c, I_COMPARATOR);
    *m = (struct matcher){.type = match ? (enum match_type)(match->number & 15) : MATCH_IS,
                          .relation = match ? (enum relation)(match->number >> 4) : REL_EQ,
                          .comparator = comparator ? (enum comparator)comparator->number : CMP_CASEMAP,
                          .regexes = r->regexes,
                          .arena = r->arena,
                          .work = &r->work};
}

FIBER bool match_keys(struct run *r, const struct matcher *m, str value, const struct item *keys, bool *out)
{
    struct cursor at = keys->list;
    struct err err = ERR_INIT;
    str key;
    *out = false;
    if (m->type == MATCH_COUNT) /* who counts does it at the end */
        return true;
    while (!*out && list_next(r, &at, &key)) {
        if (m->type == MATCH_LIST) {
            if (r->in->host && r->in->host->ops->in_list &&
                !r->in->host->ops->in_list(r->in->host, key, value, out, &err))
                return run_host_error(r, &err);
            continue;
        }
        bool keeps = m->type == MATCH_MATCHES || m->type == MATCH_REGEX;
        switch (match_one(m, value, key, keeps && program_has(r->program, CAP_VARIABLES) ? &r->match_values : NULL)) {
        case MATCH_YES:
            *out = true;
            break;
        case MATCH_NO:
            break;
        case MATCH_BAD_KEY:
            (void)run_error(r, "the pattern '%.*s' is wrong", STR_ARG(str_slice(key, 0, 60)));
            return false;
        case MATCH_TOO_MUCH:
            (void)run_error(r, "a pattern takes too much work");
            return false;
        }
    }
    return true;
}

bool match_count(struct run *r, const struct matcher *m, uint64_t n, const struct item *keys)
{
    struct cursor at = keys->list;
    str key;
    BUF(text, 32);
    buf_add_u64(&text, n);
    while (list_next(r, &at, &key)) { /* RFC 5231 4.2: as a number, whatever the comparator */
        int order = compare_numeric(buf_str(&text), key);
        if (match_numbers(m->relation, (uint64_t)(order + 1), 1))
            return true;
    }
    return false;
}

/* A value of a test that goes through many: matched at once, or counted. */
struct walk {
    struct matcher m;
    const struct item *keys;
    uint64_t n;
    bool is_found;
};

FIBER static bool walk_value(struct run *r, struct walk *w, str value)
{
    w->n++;
    return w->is_found || match_keys(r, &w->m, value, w->keys, &w->is_found);
}

static bool walk_end(struct run *r, struct walk *w)
{
    return w->m.type == MATCH_COUNT ? match_count(r, &w->m, w->n, w->keys) : w->is_found;
}

static struct walk walk_of(struct run *r, const struct call *c, const struct item *keys)
{
    struct walk w = {.keys = keys};
    matcher_of(r, c, &w.m);
    return w;
}

/* --- addresses --- */

static bool is_separator(const struct run *r, char c)
{
    str s = r->in->separators.n ? r->in->separators : S("+");
    return str_find(s, c) >= 0;
}

/* RFC 5228 2.7.4 and RFC 5233: the part, p NULL when the address has none such. */
static str part_of(struct run *r, const struct call *c, str local, str domain, str whole)
{
    const struct item *part = call_item(c, I_PART);
    size_t cut = 0;
    switch (part ? (enum address_part)part->number : PART_ALL) {
    case PART_LOCALPART:
        return local;
    case PART_DOMAIN:
        return domain.p ? domain : S("");
    case PART_USER:
    case PART_DETAIL:
        while (cut < local.n && !is_separator(r, local.p[cut]))
            cut++;
        if (part->number == PART_USER)
            return str_slice(local, 0, cut);
        return cut < local.n ? str_n(local.p + cut + 1, local.n - cut - 1) : STR_NONE;
    default:
        return whole;
    }
}

FIBER static bool walk_addresses(struct run *r, const struct call *c, struct walk *w, str value)
{
    struct address_list list;
    address_list_parse(r->arena, value, FIELD_ADDRESSES_MAX, &list);
    for (size_t i = 0; i < list.n && !w->is_found; i++) {
        const struct mail_address *a = &list.v[i];
        if (a->group_start.p || a->is_group_end)
            continue;
        BUF(b, 4096);
        buf_add(&b, a->local);
        if (a->domain.n) {
            buf_addc(&b, '@');
            buf_add(&b, a->domain);
        }
        str one = part_of(r, c, a->local, a->domain, arena_str(r->arena, buf_str(&b)));
        if (one.p && !walk_value(r, w, one))
            return false;
    }
    return true;
}

/* --- header, address, exists --- */

/* What a mime option takes of a field's value, RFC 5703 4.2; p NULL: nothing. */
static str mime_option(struct run *r, const struct call *c, str value, size_t param, const struct item *params)
{
    if (call_has(c, I_TYPE) || call_has(c, I_SUBTYPE) || call_has(c, I_CONTENTTYPE)) {
        size_t end = 0;
        while (end < value.n && value.p[end] != ';' && value.p[end] != ' ' && value.p[end] != '\t')
            end++;
        str type = str_slice(value, 0, end);
        ptrdiff_t slash = str_find(type, '/');
        if (call_has(c, I_CONTENTTYPE))
            return type.p ? type : S("");
        if (call_has(c, I_TYPE))
            return slash < 0 ? type : str_slice(type, 0, (size_t)slash);
        return slash < 0 ? S("") : str_slice(type, (size_t)slash + 1, SIZE_MAX);
    }
    if (params) {
        struct cursor at = params->list;
        str name = STR_NONE;
        for (size_t i = 0; i <= param; i++)
            if (!list_next(r, &at, &name))
                return STR_NONE;
        struct content_field f;
        content_field_parse(r->arena, value, false, CONTENT_PARAMS_MAX, 4096, &f);
        for (size_t i = 0; i < f.params.n; i++)
            if (str_eq_nocase(f.params.v[i].name, name))
                return f.params.v[i].value.p ? f.params.v[i].value : S("");
        return STR_NONE;
    }
    return value;
}

/* The fields of one header against header or address. */
FIBER static bool walk_header(struct run *r, const struct call *c, struct walk *w, struct header *h)
{
    struct cursor at = call_item(c, I_LIST_1)->list;
    const struct item *index = call_item(c, I_INDEX), *params = call_item(c, I_PARAM);
    str name;
    while (!w->is_found && list_next(r, &at, &name)) {
        size_t *v, n = header_find_all(r, h, name, index ? index->number : 0, call_has(c, I_LAST), &v);
        for (size_t i = 0; i < n && !w->is_found; i++) {
            struct field *f = &h->v[v[i]];
            if (c->node.op == OP_ADDRESS) {
                ptrdiff_t colon = str_find(f->raw, ':');
                if (!walk_addresses(r, c, w, str_slice(f->raw, (size_t)(colon + 1), SIZE_MAX)))
                    return false;
                continue;
            }
            size_t n_params = params ? (size_t)params->number : 1;
            for (size_t k = 0; k < n_params && !w->is_found; k++) {
                str value = mime_option(r, c, field_value(r, f), k, params);
                if (value.p && !walk_value(r, w, value))
                    return false;
            }
        }
    }
    return true;
}

/* Each part below and including this one, RFC 5703 4.1. */
FIBER static bool for_each_part(struct run *r, const struct mime_part *p,
                                bool (*fn)(struct run *r, const struct mime_part *p, void *arg), void *arg)
{
    if (!fn(r, p, arg))
        return false;
    for (const struct mime_part *c = p->children; c; c = c->next)
        if (!for_each_part(r, c, fn, arg))
            return false;
    return true;
}

struct header_walk {
    const struct call *c;
    struct walk *w;
    /* exists */
    str name;
    bool is_there;
};

FIBER static bool walk_part(struct run *r, const struct mime_part *p, void *arg)
{
    struct header_walk *x = arg;
    struct header h;
    return x->w->is_found || (part_header(r, p, &h) && walk_header(r, x->c, x->w, &h));
}

/* The header that a test looks at: of the message; of the part of a foreverypart; with :anychild of all below. */
FIBER static bool test_header(struct run *r, const struct call *c, bool *out)
{
    struct walk w = walk_of(r, c, call_item(c, I_LIST_2));
    struct header_walk x = {.c = c, .w = &w};
    const struct mime_part *from = r->part ? r->part->part : r->message->root;
    bool is_mime = call_has(c, I_MIME), ok;
    message_load_header(r);
    if (is_mime && call_has(c, I_ANYCHILD))
        ok = for_each_part(r, from, walk_part, &x);
    else if (is_mime && r->part)
        ok = walk_part(r, from, &x);
    else
        ok = walk_header(r, c, &w, &r->header);
    *out = ok && walk_end(r, &w);
    return ok;
}

FIBER static bool has_field(struct run *r, const struct mime_part *p, void *arg)
{
    struct header_walk *x = arg;
    struct header h;
    size_t *v;
    if (x->is_there)
        return true;
    if (!part_header(r, p, &h))
        return false;
    x->is_there = header_find_all(r, &h, x->name, 0, false, &v) > 0;
    return true;
}

FIBER static bool test_exists(struct run *r, const struct call *c, bool *out)
{
    struct cursor at = call_item(c, I_LIST_1)->list;
    struct header_walk x = {0};
    const struct mime_part *from = r->part ? r->part->part : r->message->root;
    size_t *v;
    *out = true;
    message_load_header(r);
    while (*out && list_next(r, &at, &x.name)) { /* all of them, 5.5 */
        x.is_there = false;
        if (call_has(c, I_MIME) && (r->part || call_has(c, I_ANYCHILD))) {
            if (!(call_has(c, I_ANYCHILD) ? for_each_part(r, from, has_field, &x) : has_field(r, from, &x)))
                return false;
        } else {
            x.is_there = header_find_all(r, &r->header, x.name, 0, false, &v) > 0;
        }
        *out = x.is_there;
    }
    return true;
}

/* --- envelope --- */

static void split_address(str a, str *local, str *domain)
{
    ptrdiff_t at = str_rfind(a, '@');
    *local = at < 0 ? a : str_slice(a, 0, (size_t)at);
    *domain = at < 0 ? STR_NONE : str_slice(a, (size_t)at + 1, SIZE_MAX);
}

/* The parts of an envelope, RFC 5228 5.4 and RFC 6009 2, 3. p NULL: there is no such part. */
static str envelope_part(struct run *r, str name, bool *is_address)
{
    const struct sieve_envelope *e = &r->in->envelope;
    *is_address = false;
    if (str_eq_nocase(name, S("from"))) {
        *is_address = true;
        return e->from.n ? e->from : S("");
    }
    if (str_eq_nocase(name, S("to"))) {
        *is_address = true;
        return e->original_to.n ? e->original_to : e->to;
    }
    if (str_eq_nocase(name, S("auth")))
        return e->auth.n ? e->auth : STR_NONE;
    if (str_eq_nocase(name, S("orcpt")))
        return e->orcpt.n ? e->orcpt : STR_NONE;
    if (str_eq_nocase(name, S("notify")))
        return e->notify.n ? e->notify : STR_NONE;
    if (str_eq_nocase(name, S("ret")))
        return e->ret.n ? e->ret : STR_NONE;
    if (str_eq_nocase(name, S("envid")))
        return e->envelope_id.n ? e->envelope_id : STR_NONE;
    if (!e->by_time.n)
        return STR_NONE;
    int64_t at = 0;
    if (str_eq_nocase(name, S("bytimeabsolute")) && num_i64(e->by_time, 0, INT64_MAX / 2, &at))
        return date_part(r, S("iso8601"), at, 0);
    if (str_eq_nocase(name, S("bytimerelative")) && num_i64(e->by_time, 0, INT64_MAX / 2, &at))
        return arena_printf(r->arena, "%lld", (long long)(at - r->in->now_unix));
    if (str_eq_nocase(name, S("bymode")))
        return e->by_mode.n ? e->by_mode : STR_NONE;
    if (str_eq_nocase(name, S("bytrace")))
        return e->has_by_trace ? S("true") : S("false");
    return STR_NONE;
}

FIBER static bool test_envelope(struct run *r, const struct call *c, bool *out)
{
    struct walk w = walk_of(r, c, call_item(c, I_LIST_2));
    struct cursor at = call_item(c, I_LIST_1)->list;
    str name;
    while (!w.is_found && list_next(r, &at, &name)) {
        bool is_address;
        str value = envelope_part(r, name, &is_address), local, domain;
        if (!value.p)
            continue;
        split_address(value, &local, &domain);
        if (is_address && value.n)
            value = part_of(r, c, local, domain, value);
        else if (call_has(c, I_PART) && call_item(c, I_PART)->number == PART_DETAIL)
            continue; /* the null sender has no detail */
        if (value.p && !(w.m.type == MATCH_COUNT && value.n == 0) && !walk_value(r, &w, value))
            return false;
    }
    *out = walk_end(r, &w);
    return true;
}

/* --- others --- */

FIBER static bool test_string(struct run *r, const struct call *c, bool *out)
{
    struct walk w = walk_of(r, c, call_item(c, I_LIST_2));
    struct cursor at = call_item(c, I_LIST_1)->list;
    str value;
    while (!w.is_found && list_next(r, &at, &value)) {
        if (w.m.type == MATCH_COUNT && value.n == 0) /* RFC 5229 5 */
            continue;
        if (!walk_value(r, &w, value))
            return false;
    }
    *out = walk_end(r, &w);
    return true;
}

FIBER static bool test_date(struct run *r, const struct call *c, bool *out)
{
    struct walk w = walk_of(r, c, call_item(c, I_LIST_1));
    int zone = r->in->zone_minutes, own_zone;
    int64_t at = r->in->now_unix;
    str given = call_string(r, c, I_ZONE), part;
    *out = false;
    if (c->node.op == OP_DATE) {
        const struct item *index = call_item(c, I_INDEX);
        size_t *v;
        message_load_header(r);
        size_t n = header_find_all(r, &r->header, call_string(r, c, I_STRING_1), index ? index->number : 1,
                                   call_has(c, I_LAST), &v);
        ptrdiff_t colon = n ? str_find(r->header.v[v[0]].raw, ':') : -1;
        if (n == 0 || !date_of_field(str_slice(r->header.v[v[0]].raw, (size_t)(colon + 1), SIZE_MAX), &at, &own_zone)) {
            *out = w.m.type == MATCH_COUNT && walk_end(r, &w);
            return true;
        }
        if (call_has(c, I_ORIGINALZONE))
            zone = own_zone;
        part = call_string(r, c, I_STRING_2);
    } else {
        part = call_string(r, c, I_STRING_1);
    }
    if (given.p && !word_zone(given, &zone)) {
        (void)run_error(r, "'%.*s' is no time zone", STR_ARG(str_slice(given, 0, 40)));
        return false;
    }
    str value = date_part(r, part, at, zone);
    if (value.p && !walk_value(r, &w, value))
        return false;
    *out = walk_end(r, &w);
    return true;
}

/* A question to the host about each name of a list: whether it holds for all. */
FIBER static bool all_of(struct run *r, const struct item *list,
                         bool (*ask)(struct sieve_host *h, str name, bool *out, struct err *err), bool *out)
{
    struct cursor at = list->list;
    struct err err = ERR_INIT;
    str name;
    *out = true;
    while (*out && list_next(r, &at, &name)) {
        *out = false;
        if (r->in->host && ask && !ask(r->in->host, name, out, &err))
            return run_host_error(r, &err);
    }
    return true;
}

FIBER static bool test_mailbox_exists(struct run *r, const struct call *c, bool *out)
{
    const struct sieve_host_ops *ops = r->in->host ? r->in->host->ops : NULL;
    struct cursor at = call_item(c, I_LIST_1)->list;
    struct err err = ERR_INIT;
    str name;
    if (c->node.op == OP_MAILBOXIDEXISTS)
        return all_of(r, call_item(c, I_LIST_1), ops ? ops->mailbox_id_exists : NULL, out);
    *out = true;
    if (c->node.op == OP_SPECIALUSE_EXISTS) {
        str mailbox = call_string(r, c, I_STRING_1);
        while (*out && list_next(r, &at, &name)) {
            *out = false;
            if (ops && ops->special_use_exists && !ops->special_use_exists(r->in->host, mailbox, name, out, &err))
                return run_host_error(r, &err);
        }
        return true;
    }
    while (*out && list_next(r, &at, &name)) {
        *out = false;
        if (word_mailbox(name) && ops && ops->mailbox_exists && !ops->mailbox_exists(r->in->host, name, out, &err))
            return run_host_error(r, &err);
    }
    return true;
}

FIBER static bool ask_metadata(struct run *r, str mailbox, str name, str *value)
{
    const struct sieve_host_ops *ops = r->in->host ? r->in->host->ops : NULL;
    struct err err = ERR_INIT;
    *value = STR_NONE;
    return !ops || !ops->metadata || ops->metadata(r->in->host, mailbox, name, r->arena, value, &err) ||
           run_host_error(r, &err);
}

FIBER static bool test_metadata(struct run *r, const struct call *c, bool *out)
{
    bool of_server = c->node.op == OP_SERVERMETADATA || c->node.op == OP_SERVERMETADATAEXISTS;
    str mailbox = of_server ? STR_NONE : call_string(r, c, I_STRING_1), value, name;
    *out = false;
    if (c->node.op == OP_METADATA || c->node.op == OP_SERVERMETADATA) {
        struct walk w = walk_of(r, c, call_item(c, I_LIST_1));
        if (!ask_metadata(r, mailbox, call_string(r, c, of_server ? I_STRING_1 : I_STRING_2), &value))
            return false;
        if (value.p && !walk_value(r, &w, value))
            return false;
        *out = walk_end(r, &w);
        return true;
    }
    struct cursor at = call_item(c, I_LIST_1)->list;
    while (list_next(r, &at, &name)) {
        if (!ask_metadata(r, mailbox, name, &value))
            return false;
        if (!value.p)
            return true;
    }
    *out = true;
    return true;
}

FIBER static bool method_ok(struct run *r, str uri, bool *out)
{
    struct err err = ERR_INIT;
    const char *problem;
    *out = false;
    if (str_starts_nocase(uri, S("mailto:"))) {
        *out = word_uri_mailto(uri, r->arena, &problem);
        return true;
    }
    const struct sieve_host_ops *ops = r->in->host ? r->in->host->ops : NULL;
    return !ops || !ops->notify_method || ops->notify_method(r->in->host, uri, out, &err) || run_host_error(r, &err);
}

FIBER static bool test_notify(struct run *r, const struct call *c, bool *out)
{
    if (c->node.op == OP_VALID_NOTIFY_METHOD) {
        struct cursor at = call_item(c, I_LIST_1)->list;
        str uri;
        *out = true;
        while (*out && list_next(r, &at, &uri))
            if (!method_ok(r, uri, out))
                return false;
        return true;
    }
    struct walk w = walk_of(r, c, call_item(c, I_LIST_1));
    bool is_method;
    *out = false;
    if (!method_ok(r, call_string(r, c, I_STRING_1), &is_method))
        return false;
    /* RFC 5435 5: the one that there is */
    if (!is_method || !str_eq_nocase(call_string(r, c, I_STRING_2), S("online")))
        return true;
    if (!walk_value(r, &w, S("maybe")))
        return false;
    *out = walk_end(r, &w);
    return true;
}

FIBER static bool test_duplicate(struct run *r, const struct call *c, bool *out)
{
    const struct sieve_host_ops *ops = r->in->host ? r->in->host->ops : NULL;
    const struct item *seconds = call_item(c, I_SECONDS);
    struct err err = ERR_INIT;
    str handle = call_string(r, c, I_HANDLE), field = call_string(r, c, I_HEADER), id = call_string(r, c, I_UNIQUEID);
    *out = false;
    if (!id.p) {
        size_t *v;
        message_load_header(r);
        if (header_find_all(r, &r->header, field.p ? field : S("Message-ID"), 1, false, &v) == 0)
            return true; /* RFC 7352 3.1: without it, nothing is a duplicate */
        id = field_value(r, &r->header.v[v[0]]);
        if (id.n == 0)
            return true;
    }
    if (seconds && seconds->number == 0)
        return true;
    BUF(key, id.n + handle.n + field.n + 64);
    buf_printf(&key, "%zu:%.*s%s:", handle.n, STR_ARG(handle), call_has(c, I_UNIQUEID) ? "u" : "h");
    buf_add(&key, field);
    buf_addc(&key, ':');
    buf_add(&key, id);
    return !ops || !ops->is_duplicate ||
           ops->is_duplicate(r->in->host, arena_str(r->arena, buf_str(&key)),
                             seconds ? (int64_t)MIN(seconds->number, (uint64_t)INT32_MAX) : 7 * 86400,
                             call_has(c, I_LAST), out, &err) ||
           run_host_error(r, &err);
}

FIBER static bool test_environment(struct run *r, const struct call *c, bool *out)
{
    const struct sieve_host_ops *ops = r->in->host ? r->in->host->ops : NULL;
    struct walk w = walk_of(r, c, call_item(c, I_LIST_1));
    struct err err = ERR_INIT;
    str value = STR_NONE;
    if (ops && ops->environment &&
        !ops->environment(r->in->host, call_string(r, c, I_STRING_1), r->arena, &value, &err))
        return run_host_error(r, &err);
    if (value.p && !walk_value(r, &w, value))
        return false;
    *out = walk_end(r, &w);
    return true;
}

/* RFC 5235: spamtest 0 to 10, with :percent 0 to 100; virustest 0 to 5. */
FIBER static bool test_spam(struct run *r, const struct call *c, bool *out)
{
    const struct sieve_host_ops *ops = r->in->host ? r->in->host->ops : NULL;
    unsigned n = 0;
    if (c->node.op == OP_VIRUSTEST)
        n = ops && ops->virus_value ? ops->virus_value(r->in->host) : 0;
    else
        n = ops && ops->spam_percent ? ops->spam_percent(r->in->host) : 0;
    if (c->node.op == OP_SPAMTEST && !call_has(c, I_PERCENT))
        n = n == 0 ? 0 : MAX(1u, MIN(10u, n / 10));
    struct matcher m;
    matcher_of(r, c, &m);
    if (!call_item(c, I_COMPARATOR))
        m.comparator = CMP_NUMERIC;
    if (m.type == MATCH_COUNT) {
        BUF(one, 32);
        buf_add_u64(&one, n > 0);
        *out =
            match_numbers(m.relation, (uint64_t)(compare_numeric(buf_str(&one), call_string(r, c, I_STRING_1)) + 1), 1);
        return true;
    }
    str value = arena_printf(r->arena, "%u", n);
    *out = match_one(&m, value, call_string(r, c, I_STRING_1), &r->match_values) == MATCH_YES;
    return true;
}

/* --- body, RFC 5173 --- */

static bool content_type_fits(const struct mime_part *p, str want)
{
    ptrdiff_t slash = str_find(want, '/');
    if (want.n == 0)
        return true;
    if (slash == 0 || slash == (ptrdiff_t)want.n - 1 ||
        (slash > 0 && str_find(str_slice(want, (size_t)slash + 1, SIZE_MAX), '/') >= 0))
        return false; /* 5.2: no type that there can be */
    str type = slash < 0 ? want : str_slice(want, 0, (size_t)slash);
    return str_eq_nocase(p->type, type) &&
           (slash < 0 || str_eq_nocase(p->subtype, str_slice(want, (size_t)slash + 1, SIZE_MAX)));
}

struct body_walk {
    const struct call *c;
    struct walk *w;
    const struct item *types; /* of :content; NULL = text */
};

FIBER static bool walk_body(struct run *r, const struct mime_part *p, void *arg)
{
    struct body_walk *b = arg;
    bool fits = false, is_text = str_eq(p->type, S("TEXT"));
    str text;
    if (b->w->is_found)
        return true;
    if (b->types) {
        struct cursor at = b->types->list;
        while (!fits && list_next(r, &at, &text))
            fits = content_type_fits(p, text);
    } else {
        fits = is_text && !p->children;
    }
    if (!fits)
        return true;
    /* 5.2: prologue and epilogue of a multipart: what stands before its first part */
    if (p->children && !mime_is_message(p))
        return true;
    if (mime_is_message(p)) { /* the header of the message within */
        struct header h;
        if (!p->children)
            return true;
        if (!part_header(r, p->children, &h))
            return false;
        BUF(all, BODY_MAX);
        for (size_t i = 0; i < h.n; i++)
            buf_add(&all, h.v[i].raw);
        return walk_value(r, b->w, arena_str(r->arena, buf_str(&all)));
    }
    return part_content(r, p, is_text, BODY_MAX, &text) && walk_value(r, b->w, text);
}

FIBER static bool test_body(struct run *r, const struct call *c, bool *out)
{
    struct walk w = walk_of(r, c, call_item(c, I_LIST_1));
    struct body_walk b = {.c = c, .w = &w, .types = call_item(c, I_CONTENT)};
    str raw;
    if (call_has(c, I_RAW)) {
        if (!message_raw_body(r, BODY_MAX * 10, &raw) || (raw.n && !walk_value(r, &w, raw)))
            return false;
    } else if (!for_each_part(r, r->message->root, walk_body, &b)) {
        return false;
    }
    *out = walk_end(r, &w);
    return true;
}

/* --- all of them --- */

FIBER static bool test_ihave(struct run *r, const struct call *c, bool *out)
{
    struct cursor at = call_item(c, I_LIST_1)->list;
    enum cap cap;
    str name;
    *out = true;
    while (*out && list_next(r, &at, &name))
        *out = cap_find(name, &cap) && (r->program->offered >> cap & 1);
    return true;
}

FIBER static bool run_call_test(struct run *r, const struct node *n, bool *out)
{
    struct call c;
    const struct sieve_host_ops *ops = r->in->host ? r->in->host->ops : NULL;
    struct err err = ERR_INIT;
    call_of(n, &c);
    if (n->op >= OP_EXTRA) {
        struct sieve_arguments args = {r, &c};
        bool run_block;
        return !ops || !ops->extra || ops->extra(r->in->host, n->op - OP_EXTRA, &args, out, &run_block, &err) ||
               run_host_error(r, &err);
    }
    switch (n->op) {
    case OP_TRUE:
    case OP_FALSE:
        *out = n->op == OP_TRUE;
        return true;
    case OP_ADDRESS:
    case OP_HEADER:
        return test_header(r, &c, out);
    case OP_ENVELOPE:
        return test_envelope(r, &c, out);
    case OP_EXISTS:
        return test_exists(r, &c, out);
    case OP_SIZE: {
        uint64_t size = r->made.body.p ? r->made.header.n + r->made.body.n : r->in->size,
                 want = call_item(&c, I_NUMBER_1)->number;
        *out = call_has(&c, I_OVER) ? size > want : size < want;
        return true;
    }
    case OP_STRING:
        return test_string(r, &c, out);
    case OP_HASFLAG:
        *out = flags_test(r, &c);
        return true;
    case OP_BODY:
        return test_body(r, &c, out);
    case OP_DATE:
    case OP_CURRENTDATE:
        return test_date(r, &c, out);
    case OP_MAILBOXEXISTS:
    case OP_MAILBOXIDEXISTS:
    case OP_SPECIALUSE_EXISTS:
        return test_mailbox_exists(r, &c, out);
    case OP_METADATA:
    case OP_METADATAEXISTS:
    case OP_SERVERMETADATA:
    case OP_SERVERMETADATAEXISTS:
        return test_metadata(r, &c, out);
    case OP_VALID_NOTIFY_METHOD:
    case OP_NOTIFY_METHOD_CAPABILITY:
        return test_notify(r, &c, out);
    case OP_IHAVE:
        return test_ihave(r, &c, out);
    case OP_DUPLICATE:
        return test_duplicate(r, &c, out);
    case OP_ENVIRONMENT:
        return test_environment(r, &c, out);
    case OP_VALID_EXT_LIST:
        return all_of(r, call_item(&c, I_LIST_1), ops ? ops->list_exists : NULL, out);
    case OP_SPAMTEST:
    case OP_VIRUSTEST:
        return test_spam(r, &c, out);
    default:
        (void)run_error(r, "%.*s", STR_ARG(call_string(r, &c, I_STRING_1)));
        return false;
    }
}

FIBER bool run_test(struct run *r, const struct node *n, bool *out)
{
    const unsigned char *p = n->p;
    struct node inner;
    r->line = n->line;
    if (++r->out->steps > r->limits.steps) {
        (void)run_error(r, "the script takes more than %u steps", r->limits.steps);
        return false;
    }
    if (!arena_ok(r->arena)) {
        (void)run_error(r, "the script takes too much memory");
        return false;
    }
    switch (n->op) {
    case OP_NOT:
        *out = false;
        if (!node_next(&p, n->end, &inner) || !run_test(r, &inner, out))
            return false;
        *out = !*out;
        return true;
    case OP_ALLOF:
    case OP_ANYOF:
        *out = n->op == OP_ALLOF;
        while (node_next(&p, n->end, &inner)) {
            if (!run_test(r, &inner, out))
                return false;
            if (*out != (n->op == OP_ALLOF))
                return true;
        }
        return true;
    default:
        *out = false;
        return run_call_test(r, n, out);
    }
}
