#include "mailauth/policy.h"

#include "base/num.h"
#include "mailauth/dns.h"
#include "mailauth/tags.h"

/* The one record that begins so, as tags. */
static bool one_record(const str *texts, size_t n, const char *version, struct tags *t)
{
    const str *found = NULL;
    for (size_t i = 0; i < n; i++) {
        if (!str_starts(texts[i], str_c(version)) ||
            (texts[i].n > strlen(version) && !strchr("; \t", texts[i].p[strlen(version)])))
            continue;
        if (found)
            return false;
        found = &texts[i];
    }
    return found && tags_parse(*found, t);
}

bool mta_sts_id(const str *texts, size_t n, str *id)
{
    struct tags t;
    const str *v;
    if (!one_record(texts, n, "v=STSv1", &t) || !(v = tags_get(&t, "id")) || v->n < 1 || v->n > 32)
        return false;
    for (size_t i = 0; i < v->n; i++)
        if (!ascii_is_alnum((unsigned char)v->p[i]))
            return false;
    *id = *v;
    return true;
}

bool tls_rpt_addresses(const str *texts, size_t n, str *rua)
{
    struct tags t;
    const str *v;
    if (!one_record(texts, n, "v=TLSRPTv1", &t) || !(v = tags_get(&t, "rua")) || v->n == 0)
        return false;
    *rua = *v;
    return true;
}

static bool pattern_ok(str p)
{
    str name = str_starts(p, S("*.")) ? str_slice(p, 2, SIZE_MAX) : p;
    if (!auth_name_ok(name))
        return false;
    bool has_letter = false;
    for (size_t i = 0; i < name.n; i++) {
        unsigned char c = (unsigned char)name.p[i];
        if (!ascii_is_alnum(c) && c != '-' && c != '.' && c != '_')
            return false;
        has_letter = has_letter || ascii_is_alpha(c);
    }
    return has_letter; /* an address is no pattern */
}

bool mta_sts_parse(str text, struct arena *a, struct mta_sts_policy *out, const char **problem)
{
    struct mta_sts_policy p = {0};
    bool has_version = false, has_mode = false, has_age = false;
    str line;
    *problem = "the policy is too long";
    if (text.n > MTA_STS_POLICY_MAX)
        return false;
    p.mx = arena_array(a, str, MTA_STS_MX_MAX);
    while (str_split(&text, '\n', &line)) { /* 3.2: LF or CRLF */
        ptrdiff_t colon = str_find(line, ':');
        if (str_trim(line).n == 0)
            continue;
        *problem = "a line of the policy is no key: value";
        if (colon < 0)
            return false;
        str key = str_trim(str_slice(line, 0, (size_t)colon)),
            value = str_trim(str_slice(line, (size_t)colon + 1, SIZE_MAX));
        if (str_eq(key, S("version"))) {
            *problem = "version is not STSv1";
            if (!has_version && !str_eq(value, S("STSv1")))
                return false;
            has_version = true;
        } else if (str_eq(key, S("mode")) && !has_mode) { /* of a key twice the first counts */
            *problem = "mode is not known";
            p.mode = str_eq(value, S("enforce"))   ? MTA_STS_ENFORCE
                     : str_eq(value, S("testing")) ? MTA_STS_TESTING
                                                   : MTA_STS_NONE;
            if (p.mode == MTA_STS_NONE && !str_eq(value, S("none")))
                return false;
            has_mode = true;
        } else if (str_eq(key, S("max_age")) && !has_age) {
            *problem = "max_age is no number of seconds";
            if (!num_u32(value, UINT32_MAX, &p.max_age_s) || value.n > 10)
                return false;
            p.max_age_s = MIN(p.max_age_s, MTA_STS_AGE_MAX);
            has_age = true;
        } else if (str_eq(key, S("mx")) && p.n_mx < MTA_STS_MX_MAX && pattern_ok(value)) {
            p.mx[p.n_mx++] = auth_name_trim(value);
        }
    }
    *problem = "version, mode or max_age is missing";
    if (!has_version || !has_mode || !has_age)
        return false;
    *problem = "the policy names no mx";
    if (p.mode != MTA_STS_NONE && p.n_mx == 0)
        return false;
    *problem = NULL;
    *out = p;
    return true;
}

bool mta_sts_allows(const struct mta_sts_policy *p, str mx)
{
    mx = auth_name_trim(mx);
    for (size_t i = 0; i < p->n_mx; i++) {
        str pattern = p->mx[i];
        if (!str_starts(pattern, S("*."))) {
            if (str_eq_nocase(pattern, mx))
                return true;
            continue;
        }
        ptrdiff_t dot = str_find(mx, '.'); /* one label, RFC 6125 6.4.3 */
        if (dot > 0 && str_eq_nocase(str_slice(mx, (size_t)dot + 1, SIZE_MAX), str_slice(pattern, 2, SIZE_MAX)))
            return true;
    }
    return false;
}
