#include "mailauth/dmarc.h"

#include "mail/address.h"
#include "mail/header.h"
#include "mailauth/tags.h"

#define RECORD_MAX 16384u

const char *dmarc_policy_name(enum dmarc_policy p)
{
    static const char *const names[] = {"none", "quarantine", "reject"};
    return names[p];
}

const char *dmarc_result_name(enum dmarc_result r)
{
    static const char *const names[] = {"none", "pass", "fail", "temperror", "permerror"};
    return names[r];
}

/* --- records, RFC 9989 4.7 --- */

static bool policy_of(const str *v, enum dmarc_policy *out)
{
    for (enum dmarc_policy p = DMARC_POLICY_NONE; v && p <= DMARC_POLICY_REJECT; p++) {
        if (str_eq_nocase(*v, str_c(dmarc_policy_name(p)))) {
            *out = p;
            return true;
        }
    }
    return false;
}

static bool is_letter(const str *v, char letter)
{
    return v && v->n == 1 && ascii_lower((unsigned char)v->p[0]) == letter;
}

bool dmarc_uri_next(str *list, struct arena *a, str *address)
{
    str uri;
    while (tag_list_next(list, ',', &uri)) {
        if (!str_starts_nocase(uri, S("mailto:")))
            continue;
        uri = str_slice(uri, strlen("mailto:"), SIZE_MAX);
        ptrdiff_t end = str_find(uri, '!'), query = str_find(uri, '?');
        if (end >= 0)
            uri = str_slice(uri, 0, (size_t)end);
        if (query >= 0)
            uri = str_slice(uri, 0, (size_t)query);
        char *p = arena_alloc(a, uri.n + 1);
        size_t n = 0;
        for (size_t i = 0; i < uri.n; i++) { /* RFC 3986 2.1 */
            if (uri.p[i] == '%' && i + 2 < uri.n && ascii_hex((unsigned char)uri.p[i + 1]) >= 0 &&
                ascii_hex((unsigned char)uri.p[i + 2]) >= 0) {
                p[n++] = (char)(ascii_hex((unsigned char)uri.p[i + 1]) * 16 + ascii_hex((unsigned char)uri.p[i + 2]));
                i += 2;
            } else {
                p[n++] = uri.p[i];
            }
        }
        p[n] = 0;
        struct smtp_path path;
        struct err err = ERR_INIT;
        if (!smtp_mailbox_parse(str_n(p, n), true, a, &path, &err))
            continue;
        *address = path.address;
        return true;
    }
    return false;
}

static bool has_report_address(const str *rua)
{
    ARENA(a, 1 << 20);
    str list = rua ? *rua : STR_NONE, address;
    return dmarc_uri_next(&list, &a, &address);
}

bool dmarc_record_parse(str text, struct dmarc_record *out)
{
    struct tags t;
    struct dmarc_record r = {.psd = 'u', .fo = S("0")};
    if (text.n > RECORD_MAX)
        return false;
    tags_parse_lenient(text, &t);
    /* "v" comes first, and its value is case-sensitive. */
    ptrdiff_t eq = str_find(text, '=');
    if (t.n == 0 || !str_eq(t.v[0].name, S("v")) || !str_eq(t.v[0].value, S("DMARC1")) || eq < 0 ||
        !str_eq(str_trim(str_slice(text, 0, (size_t)eq)), S("v")))
        return false;
    const str *sp = tags_get(&t, "sp"), *np = tags_get(&t, "np"), *psd = tags_get(&t, "psd"),
              *rua = tags_get(&t, "rua"), *ruf = tags_get(&t, "ruf"), *fo = tags_get(&t, "fo");
    bool p_ok = policy_of(tags_get(&t, "p"), &r.p), sp_ok = policy_of(sp, &r.sp), np_ok = policy_of(np, &r.np);
    if (!p_ok || (sp && !sp_ok) || (np && !np_ok)) { /* 4.10.1 */
        if (!has_report_address(rua))
            return false;
        r.p = DMARC_POLICY_NONE;
        sp_ok = np_ok = false;
    }
    r.has_sp = sp_ok;
    r.has_np = np_ok;
    if (!sp_ok)
        r.sp = r.p;
    if (!np_ok)
        r.np = r.sp;
    r.psd = is_letter(psd, 'y') ? 'y' : is_letter(psd, 'n') ? 'n' : 'u';
    r.is_dkim_strict = is_letter(tags_get(&t, "adkim"), 's');
    r.is_spf_strict = is_letter(tags_get(&t, "aspf"), 's');
    r.is_testing = is_letter(tags_get(&t, "t"), 'y');
    r.rua = rua ? *rua : STR_NONE;
    r.ruf = ruf ? *ruf : STR_NONE;
    if (fo && ruf)
        r.fo = *fo;
    *out = r;
    return true;
}

/* --- authors, 5.3.1 --- */

void dmarc_authors(str header, struct arena *a, str authors[DMARC_AUTHORS_MAX], size_t *n)
{
    struct header_iter it = header_iter_of(header);
    struct header_field f;
    *n = 0;
    while (header_next(&it, &f)) {
        struct address_list list;
        if (!str_eq_nocase(f.name, S("From")))
            continue;
        address_list_parse(a, f.value, ADDRESS_LIST_MAX, &list);
        for (size_t i = 0; i < list.n; i++) {
            const struct mail_address *m = &list.v[i];
            struct err err = ERR_INIT;
            str domain;
            if (m->group_start.p || m->is_group_end)
                continue;
            size_t k = 0;
            bool ok = m->domain.n && domain_normalize(m->domain, a, &domain, &err) && auth_name_ok(domain);
            while (ok && k < *n && !str_eq(authors[k], domain))
                k++;
            if (!ok || k == DMARC_AUTHORS_MAX || list.is_cut) {
                *n = 0;
                return;
            }
            authors[k] = domain;
            *n = MAX(*n, k + 1);
        }
    }
}

/* --- the tree walk, 4.10 --- */

static size_t count_labels(str domain)
{
    size_t n = 1;
    for (size_t i = 0; i < domain.n; i++)
        n += domain.p[i] == '.';
    return n;
}

static str parent_of(str domain)
{
    ptrdiff_t dot = str_find(domain, '.');
    return dot < 0 ? STR_NONE : str_slice(domain, (size_t)dot + 1, SIZE_MAX);
}

enum found { FOUND, NOT_FOUND, NO_ANSWER };

FIBER static enum found ask_record(struct auth_dns *dns, str domain, struct arena *a, struct dmarc_record *out)
{
    struct auth_dns_answer r = {0};
    size_t n = 0;
    str name = arena_printf(a, "_dmarc.%.*s", STR_ARG(domain));
    if (!auth_name_ok(name))
        return NOT_FOUND;
    dns->ask(dns, AUTH_DNS_TXT, name, a, &r);
    if (r.result == AUTH_DNS_TEMP)
        return NO_ANSWER;
    for (size_t i = 0; i < r.n; i++) {
        struct dmarc_record one;
        if (!dmarc_record_parse(r.v[i].text, &one))
            continue;
        *out = one;
        n++;
    }
    out->domain = domain;
    return n == 1 ? FOUND : NOT_FOUND;
}

struct walk {
    struct dmarc_record of_start;        /* domain empty: none */
    struct dmarc_record of_organization; /* its own record, domain empty: none */
    struct dmarc_record of_suffix;       /* with psd=y, above the organization */
    str organization;
};

/* The name of one label more than `parent` within `domain`. */
static str one_below(str domain, str parent)
{
    if (domain.n <= parent.n)
        return domain;
    str rest = str_slice(domain, 0, domain.n - parent.n - 1);
    ptrdiff_t dot = str_rfind(rest, '.');
    return str_slice(domain, dot < 0 ? 0 : (size_t)dot + 1, SIZE_MAX);
}

FIBER static bool walk(struct auth_dns *dns, str domain, struct arena *a, struct walk *w)
{
    str target = domain;
    *w = (struct walk){.organization = domain};
    for (unsigned i = 0; i < DMARC_QUERIES_MAX && target.n; i++) {
        struct dmarc_record r = {0};
        switch (ask_record(dns, target, a, &r)) {
        case NO_ANSWER:
            return false;
        case NOT_FOUND:
            break;
        case FOUND:
            if (i == 0)
                w->of_start = r;
            if (r.psd == 'n') { /* 4.10.2 step 1 */
                w->organization = target;
                w->of_organization = r;
                return true;
            }
            if (r.psd == 'y') {
                if (i > 0) { /* step 2 */
                    w->of_suffix = r;
                    w->organization = one_below(domain, target);
                    if (!str_eq_nocase(w->of_organization.domain, w->organization))
                        w->of_organization = (struct dmarc_record){0};
                } else {
                    w->of_organization = r;
                }
                return true;
            }
            w->organization = target; /* step 3: the shortest */
            w->of_organization = r;
            break;
        }
        target = parent_of(target);
        while (i == 0 && count_labels(target) > DMARC_QUERIES_MAX - 1)
            target = parent_of(target);
    }
    return true;
}

FIBER bool dmarc_organization(struct auth_dns *dns, str domain, struct arena *a, str *out)
{
    struct walk w;
    if (!walk(dns, domain, a, &w))
        return false;
    *out = w.organization;
    return true;
}

/* --- the check --- */

/* 3.2.13: no address and no mail exchanger. What gets no answer counts as existing. */
FIBER static bool exists(struct auth_dns *dns, str domain, struct arena *a)
{
    static const enum auth_dns_type types[] = {AUTH_DNS_A, AUTH_DNS_AAAA, AUTH_DNS_MX};
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        struct auth_dns_answer r = {0};
        dns->ask(dns, types[i], domain, a, &r);
        if (r.result == AUTH_DNS_FOUND || r.result == AUTH_DNS_TEMP)
            return true;
        if (r.result == AUTH_DNS_NXDOMAIN) /* there is nothing of any type */
            return false;
    }
    return false;
}

struct check {
    struct auth_dns *dns;
    const struct dmarc_input *in;
    struct arena *arena;
    const struct walk *of_author;
    bool is_mute;
};

FIBER static bool is_aligned(struct check *c, str author, str domain, bool is_strict)
{
    str organization;
    domain = auth_name_trim(domain);
    if (domain.n == 0)
        return false;
    if (str_eq_nocase(domain, author))
        return true;
    if (is_strict)
        return false;
    /* Names of one organization end alike; what cannot is not worth its questions. */
    if (!str_ends_nocase(domain, c->of_author->organization))
        return false;
    if (!dmarc_organization(c->dns, domain, c->arena, &organization)) {
        c->is_mute = true;
        return false;
    }
    return str_eq_nocase(organization, c->of_author->organization);
}

/* The policy of one author's domain. */
FIBER static void check_author(struct auth_dns *dns, const struct dmarc_input *in, str author, struct arena *a,
                               struct dmarc_verdict *out)
{
    struct walk w;
    struct check c = {.dns = dns, .in = in, .arena = a, .of_author = &w};
    *out = (struct dmarc_verdict){.author = author, .result = DMARC_NONE, .problem = "no DMARC record"};
    if (!walk(dns, author, a, &w)) {
        out->result = DMARC_TEMPERROR;
        out->problem = "the DNS does not answer for the DMARC record";
        return;
    }
    out->record = w.of_start.domain.n ? w.of_start : w.of_organization.domain.n ? w.of_organization : w.of_suffix;
    if (out->record.domain.n == 0)
        return;
    out->policy = out->record.p;
    if (!str_eq_nocase(out->record.domain, author))
        out->policy = out->record.np == out->record.sp || exists(dns, author, a) ? out->record.sp : out->record.np;
    out->is_spf_aligned = is_aligned(&c, author, in->spf_domain, out->record.is_spf_strict);
    for (size_t i = 0; i < in->n_dkim && !out->is_dkim_aligned; i++)
        out->is_dkim_aligned = is_aligned(&c, author, in->dkim[i], out->record.is_dkim_strict);
    if (out->is_spf_aligned || out->is_dkim_aligned) {
        out->result = DMARC_PASS;
        out->problem = NULL;
        return;
    }
    if (c.is_mute || in->is_incomplete) {
        out->result = DMARC_TEMPERROR;
        out->problem = "the DNS does not answer";
        return;
    }
    out->result = DMARC_FAIL;
    out->problem = "nothing that was authenticated is of the author's domain";
    out->to_apply = out->policy;
    if (out->record.is_testing && out->policy > DMARC_POLICY_NONE)
        out->to_apply--; /* 4.7: one level below */
}

/* Of the verdicts for several authors the worst counts: nobody is to lend another's name. */
static bool is_worse(const struct dmarc_verdict *x, const struct dmarc_verdict *y)
{
    static const int rank[] = {
        [DMARC_PASS] = 0, [DMARC_NONE] = 1, [DMARC_TEMPERROR] = 2, [DMARC_PERMERROR] = 3, [DMARC_FAIL] = 4};
    return rank[x->result] != rank[y->result] ? rank[x->result] > rank[y->result] : x->to_apply > y->to_apply;
}

FIBER void dmarc_check(struct auth_dns *dns, const struct dmarc_input *in, struct arena *a, struct dmarc_verdict *out)
{
    *out = (struct dmarc_verdict){.result = DMARC_PERMERROR, .problem = "From names no domain, or too many"};
    for (size_t i = 0; i < in->n_authors; i++) {
        struct dmarc_verdict one;
        check_author(dns, in, in->authors[i], a, &one);
        if (i == 0 || is_worse(&one, out))
            *out = one;
    }
}
