#define PCRE2_CODE_UNIT_WIDTH 8
#include "sieve/match.h"

#include <pcre2.h>
#include <unicode/uchar.h>
#include <unicode/unorm2.h>
#include <unicode/ustring.h>
#include <unicode/utf8.h>

#include "base/num.h"

#define REGEXES_MAX 32u
#define REGEX_MATCH_LIMIT 200000u /* of pcre2, one match */
#define REGEX_HEAP_KIB 4096u
#define WORK_OF_REGEX 100u /* for each thousand steps allowed */

/* --- numbers --- */

static str digits_of(str s)
{
    size_t n = 0, zeros = 0;
    while (n < s.n && ascii_is_digit((unsigned char)s.p[n]))
        n++;
    while (zeros + 1 < n && s.p[zeros] == '0')
        zeros++;
    return str_slice(s, n ? zeros : 0, n);
}

int compare_numeric(str a, str b)
{
    str x = digits_of(a), y = digits_of(b);
    if (!x.n || !y.n) /* RFC 4790 9.1.1: what is no number is infinity */
        return !x.n && !y.n ? 0 : !x.n ? 1 : -1;
    if (x.n != y.n)
        return x.n < y.n ? -1 : 1;
    return memcmp(x.p, y.p, x.n);
}

static bool relation_holds(enum relation r, int order)
{
    switch (r) {
    case REL_GT:
        return order > 0;
    case REL_GE:
        return order >= 0;
    case REL_LT:
        return order < 0;
    case REL_LE:
        return order <= 0;
    case REL_EQ:
        return order == 0;
    default:
        return order != 0;
    }
}

bool match_numbers(enum relation r, uint64_t value, uint64_t key)
{
    return relation_holds(r, value < key ? -1 : value > key);
}

/* --- characters: what is compared of a text, one unit after the other --- */

/* NFKC, so that what looks alike is alike; then one character is compared at a time in its simple folding. RFC 5051
 * titlecases and decomposes: the same for what has one form only. */
static str unicode_form(str s, struct arena *a)
{
    UErrorCode e = U_ZERO_ERROR;
    if (ascii_only(s.p, s.n))
        return s;
    int32_t n16 = 0, n;
    UChar *wide = arena_alloc(a, size_mul(s.n + 1, sizeof *wide));
    u_strFromUTF8WithSub(wide, (int32_t)s.n + 1, &n16, s.p, (int32_t)s.n, 0xfffd, NULL, &e);
    const UNormalizer2 *nfkc = unorm2_getNFKCInstance(&e);
    if (U_FAILURE(e))
        return s;
    size_t cap = 18 * (size_t)n16 + 1; /* NFKC makes at most so many of one */
    UChar *form = arena_alloc(a, size_mul(cap, sizeof *form));
    n = unorm2_normalize(nfkc, wide, n16, form, (int32_t)cap, &e);
    if (U_FAILURE(e))
        return s;
    char *out = arena_alloc(a, 3 * (size_t)n + 1);
    int32_t bytes = 0;
    u_strToUTF8(out, 3 * n + 1, &bytes, form, n, &e);
    return U_FAILURE(e) ? s : str_n(out, (size_t)bytes);
}

/* The unit at *i, which moves behind it. Octets for the two comparators of bytes, characters for Unicode. */
static inline uint32_t unit(enum comparator c, str s, size_t *i)
{
    unsigned char b = (unsigned char)s.p[*i];
    if (c != CMP_UNICODE) {
        ++*i;
        return c == CMP_CASEMAP ? ascii_lower(b) : b;
    }
    int32_t at = (int32_t)*i;
    UChar32 u;
    U8_NEXT(s.p, at, (int32_t)s.n, u);
    *i = (size_t)at;
    return u < 0 ? 0xfffd : (uint32_t)u_foldCase(u, U_FOLD_CASE_DEFAULT);
}

/* ? and what * takes are whole characters, whatever the comparator. */
static size_t character(str s, size_t i)
{
    size_t n = 1;
    while (i + n < s.n && ((unsigned char)s.p[i + n] & 0xc0) == 0x80)
        n++;
    return n;
}

static bool equal(enum comparator c, str a, str b)
{
    size_t i = 0, k = 0;
    if (c == CMP_OCTET)
        return str_eq(a, b);
    if (c == CMP_CASEMAP)
        return str_eq_nocase(a, b);
    while (i < a.n && k < b.n)
        if (unit(c, a, &i) != unit(c, b, &k))
            return false;
    return i == a.n && k == b.n;
}

static int order(enum comparator c, str a, str b)
{
    size_t i = 0, k = 0;
    while (i < a.n && k < b.n) {
        uint32_t x = unit(c, a, &i), y = unit(c, b, &k);
        if (x != y)
            return x < y ? -1 : 1;
    }
    return i < a.n ? 1 : k < b.n ? -1 : 0;
}

static bool spend(const struct matcher *m, size_t n)
{
    unsigned cost = (unsigned)MIN(n / 64 + 1, 1000000u);
    *m->work = *m->work > cost ? *m->work - cost : 0;
    return *m->work > 0;
}

/* Length of key at this place of the value, in the value's bytes; -1: it is not there. */
static ptrdiff_t literal_at(enum comparator c, str value, size_t at, str key)
{
    size_t i = at, k = 0;
    while (k < key.n) {
        if (i >= value.n || unit(c, value, &i) != unit(c, key, &k))
            return -1;
    }
    return (ptrdiff_t)(i - at);
}

static enum match_answer contains(const struct matcher *m, str value, str key)
{
    if (key.n == 0)
        return MATCH_YES;
    if (m->comparator == CMP_OCTET)
        return str_find_str(value, key) >= 0 ? MATCH_YES : MATCH_NO;
    if (m->comparator == CMP_CASEMAP)
        return str_find_nocase(value, key) >= 0 ? MATCH_YES : MATCH_NO;
    for (size_t i = 0; i < value.n; i += character(value, i))
        if (literal_at(m->comparator, value, i, key) >= 0)
            return MATCH_YES;
    return MATCH_NO;
}

/* --- wildcards, RFC 5228 2.7.1 and RFC 5229 3.2 --- */

/* A key as a list of what stands in it. */
struct wild {
    enum { W_LITERAL, W_ONE, W_ANY } kind;
    str text;
};

static size_t parse_wild(str key, struct arena *a, struct wild **out)
{
    struct wild *w = arena_array(a, struct wild, key.n + 1);
    char *text = arena_alloc(a, key.n + 1);
    size_t n = 0, used = 0;
    for (size_t i = 0; i < key.n; i++) {
        char c = key.p[i];
        if (c == '*' || c == '?') {
            w[n++].kind = c == '*' ? W_ANY : W_ONE;
            continue;
        }
        if (c == '\\' && i + 1 < key.n)
            c = key.p[++i];
        if (n == 0 || w[n - 1].kind != W_LITERAL)
            w[n++] = (struct wild){W_LITERAL, str_n(text + used, 0)};
        text[used++] = c;
        w[n - 1].text.n++;
    }
    *out = w;
    return n;
}

/*
 * Each * takes as little as it can (RFC 5229 3.2), so once what stands between two of them has been found, it stays
 * found: nothing is ever tried twice from an earlier star. The last one takes what is left.
 */
static enum match_answer wild_match(const struct matcher *m, str value, const struct wild *w, size_t n,
                                    struct match_values *values)
{
    size_t at = 0, i = 0;                              /* in value, in w */
    size_t star = SIZE_MAX, star_at = 0, star_end = 0; /* the last star, what it takes */
    struct {
        size_t from, to;
    } *took = arena_alloc(m->arena, (n + 1) * sizeof *took);
    size_t cost = 0;
    for (;;) {
        if (i < n && w[i].kind == W_ANY) {
            star = i;
            star_at = star_end = at;
            took[i].from = took[i].to = at;
            i++;
            if (i == n) { /* the last in the key takes all */
                took[star].to = value.n;
                at = value.n;
            }
            continue;
        }
        bool ok = false;
        if (i == n) {
            ok = at == value.n;
            if (ok)
                break;
        } else if (w[i].kind == W_ONE) {
            if (at < value.n) {
                size_t len = character(value, at);
                took[i].from = at;
                took[i].to = at += len;
                i++;
                ok = true;
            }
        } else {
            ptrdiff_t len = literal_at(m->comparator, value, at, w[i].text);
            cost += (size_t)MAX(len, 1);
            if (len >= 0) {
                at += (size_t)len;
                i++;
                ok = true;
            }
        }
        if (ok)
            continue;
        /* The last star takes one character more. */
        if (star == SIZE_MAX || star_end >= value.n)
            return spend(m, cost) ? MATCH_NO : MATCH_TOO_MUCH;
        star_end += character(value, star_end);
        if (++cost > 4u << 20)
            return MATCH_TOO_MUCH;
        took[star].from = star_at;
        took[star].to = at = star_end;
        i = star + 1;
    }
    if (!spend(m, cost))
        return MATCH_TOO_MUCH;
    if (!values)
        return MATCH_YES;
    values->n = 0;
    values->v[values->n++] = value;
    for (size_t k = 0; k < n && values->n < MATCH_VALUES_MAX; k++)
        if (w[k].kind != W_LITERAL)
            values->v[values->n++] = str_slice(value, took[k].from, took[k].to);
    return MATCH_YES;
}

/* --- regular expressions --- */

struct regex_cache {
    struct {
        char *key;
        size_t n;
        bool is_caseless;
        pcre2_code *code;
    } v[REGEXES_MAX];
    size_t n, next;
    pcre2_match_context *context;
};

struct regex_cache *regex_cache_new(void)
{
    struct regex_cache *c = xnew(struct regex_cache);
    c->context = pcre2_match_context_create(NULL);
    if (!c->context)
        panic("no memory for patterns");
    pcre2_set_match_limit(c->context, REGEX_MATCH_LIMIT);
    pcre2_set_heap_limit(c->context, REGEX_HEAP_KIB);
    return c;
}

void regex_cache_free(struct regex_cache *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n; i++) {
        free(c->v[i].key);
        pcre2_code_free(c->v[i].code);
    }
    pcre2_match_context_free(c->context);
    free(c);
}

static pcre2_code *regex_of(struct regex_cache *c, str key, bool is_caseless)
{
    for (size_t i = 0; i < c->n; i++)
        if (c->v[i].is_caseless == is_caseless && str_eq(str_n(c->v[i].key, c->v[i].n), key))
            return c->v[i].code;
    int code;
    PCRE2_SIZE at;
    if (word_regex_problem(key))
        return NULL;
    pcre2_code *re =
        pcre2_compile((PCRE2_SPTR)(key.n ? key.p : ""), key.n,
                      PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C | (is_caseless ? PCRE2_CASELESS : 0), &code, &at, NULL);
    if (!re)
        return NULL;
    size_t i = c->n < REGEXES_MAX ? c->n++ : c->next++ % REGEXES_MAX;
    free(c->v[i].key);
    pcre2_code_free(c->v[i].code);
    c->v[i].key = str_dup(key);
    c->v[i].n = key.n;
    c->v[i].is_caseless = is_caseless;
    c->v[i].code = re;
    return re;
}

static enum match_answer regex_match(const struct matcher *m, str value, str key, struct match_values *values)
{
    pcre2_code *re = regex_of(m->regexes, key, m->comparator != CMP_OCTET);
    if (!re)
        return MATCH_BAD_KEY;
    if (!spend(m, WORK_OF_REGEX * 64 + value.n))
        return MATCH_TOO_MUCH;
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(re, NULL);
    if (!data)
        panic("no memory for a match");
    enum match_answer answer = MATCH_NO;
    int rc = pcre2_match(re, (PCRE2_SPTR)(value.n ? value.p : ""), value.n, 0, 0, data, m->regexes->context);
    if (rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_HEAPLIMIT || rc == PCRE2_ERROR_DEPTHLIMIT) {
        answer = MATCH_TOO_MUCH;
    } else if (rc > 0) {
        answer = MATCH_YES;
        uint32_t groups;
        pcre2_pattern_info(re, PCRE2_INFO_CAPTURECOUNT, &groups);
        PCRE2_SIZE *v = pcre2_get_ovector_pointer(data);
        if (values) {
            values->n = 0;
            for (uint32_t i = 0; i <= groups && values->n < MATCH_VALUES_MAX; i++)
                values->v[values->n++] =
                    i < (uint32_t)rc && v[2 * i] != PCRE2_UNSET ? str_slice(value, v[2 * i], v[2 * i + 1]) : S("");
        }
    }
    pcre2_match_data_free(data);
    return answer;
}

enum match_answer match_one(const struct matcher *m, str value, str key, struct match_values *values)
{
    struct wild *w;
    if (m->comparator == CMP_UNICODE && m->type != MATCH_REGEX) {
        value = unicode_form(value, m->arena);
        key = unicode_form(key, m->arena);
    }
    switch (m->type) {
    case MATCH_IS:
        if (m->comparator == CMP_NUMERIC)
            return compare_numeric(value, key) == 0 ? MATCH_YES : MATCH_NO;
        return equal(m->comparator, value, key) ? MATCH_YES : MATCH_NO;
    case MATCH_VALUE:
        return relation_holds(m->relation, m->comparator == CMP_NUMERIC ? compare_numeric(value, key)
                                                                        : order(m->comparator, value, key))
                   ? MATCH_YES
                   : MATCH_NO;
    case MATCH_CONTAINS:
        return spend(m, value.n) ? contains(m, value, key) : MATCH_TOO_MUCH;
    case MATCH_MATCHES: {
        size_t n = parse_wild(key, m->arena, &w);
        return wild_match(m, value, w, n, values);
    }
    default:
        return regex_match(m, value, key, values);
    }
}
