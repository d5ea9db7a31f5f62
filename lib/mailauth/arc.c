#include "mailauth/arc.h"

#include <openssl/evp.h>

#include "base/num.h"
#include "mailauth/tags.h"

#define FIELD_MAX 16384u

const char *arc_status_name(enum arc_status s)
{
    static const char *const names[] = {"none", "pass", "fail", "temperror"};
    return names[s];
}

static void fail(struct arc_chain *c, unsigned at, const char *problem)
{
    if (c->status == ARC_FAIL)
        return;
    c->status = ARC_FAIL;
    c->failed_at = at;
    c->problem = problem;
}

/* The instance that a field says: the first tag of ARC-Authentication-Results, a tag of the others. 0: none. */
static uint32_t instance_of(const struct header_field *f)
{
    str rest = f->value, entry, name;
    uint32_t n = 0;
    while (str_split(&rest, ';', &entry)) {
        ptrdiff_t eq = str_find(entry, '=');
        name = str_trim(str_slice(entry, 0, eq < 0 ? 0 : (size_t)eq));
        if (str_eq(name, S("i")))
            return num_u32(str_trim(str_slice(entry, (size_t)eq + 1, SIZE_MAX)), ARC_INSTANCES_MAX, &n) ? n : 0;
    }
    return 0;
}

/* RFC 8617 4.1.3: a seal has no h=, and no body. */
static bool parse_seal(const struct header_field *field, struct arena *a, struct signature *s, str *cv,
                       const char **problem)
{
    struct tags t;
    *problem = "a seal is damaged";
    if (!tags_parse(field->value, &t))
        return false;
    const str *algorithm = tags_get(&t, "a"), *d = tags_get(&t, "d"), *selector = tags_get(&t, "s"),
              *b = tags_get(&t, "b"), *v = tags_get(&t, "cv");
    if (!algorithm || !d || !selector || !b || !v || tags_get(&t, "h") || tags_get(&t, "bh"))
        return false;
    *s = (struct signature){
        .field = *field, .domain = *d, .selector = *selector, .header_form = CANON_RELAXED, .length = CANON_NO_LENGTH};
    if (str_eq_nocase(*algorithm, S("ed25519-sha256")))
        s->algorithm = DKIM_ED25519_SHA256;
    else if (!str_eq_nocase(*algorithm, S("rsa-sha256")))
        return false;
    *cv = *v;
    return auth_name_ok(*d) && auth_name_ok(*selector) && d->n + selector->n + strlen("._domainkey.") <= 253 &&
           tag_base64(*b, a, &s->value);
}

static bool add_field(struct arc_chain *c, const struct header_field *f, unsigned kind)
{
    uint32_t i = instance_of(f);
    struct header_field *of[] = {&c->sets[i ? i - 1 : 0].results, &c->sets[i ? i - 1 : 0].message_field,
                                 &c->sets[i ? i - 1 : 0].seal_field};
    if (i == 0 || of[kind]->raw.n) {
        fail(c, i, "a field of the chain has no number, or one that another has");
        return false;
    }
    *of[kind] = *f;
    c->n = MAX(c->n, i);
    return true;
}

void arc_begin(struct arc_chain *c, str header, struct body_hashes *bodies, struct arena *a)
{
    static const str names[] = {S_INIT("ARC-Authentication-Results"), S_INIT("ARC-Message-Signature"),
                                S_INIT("ARC-Seal")};
    struct header_iter it = header_iter_of(header);
    struct header_field f;
    *c = (struct arc_chain){.header = header};
    while (header_next(&it, &f)) {
        for (unsigned k = 0; k < ARRAY_LEN(names); k++) {
            if (!str_eq_nocase(f.name, names[k]))
                continue;
            if (!c->sets)
                c->sets = arena_array(a, struct arc_set, ARC_INSTANCES_MAX);
            if (!add_field(c, &f, k))
                return;
        }
    }
    for (unsigned i = 1; i <= c->n; i++) { /* 5.2 step 3 */
        struct arc_set *s = &c->sets[i - 1];
        const char *problem;
        if (!s->results.raw.n || !s->message_field.raw.n || !s->seal_field.raw.n) {
            fail(c, i, "a set of the chain is not whole");
            return;
        }
        if (!parse_seal(&s->seal_field, a, &s->seal, &s->cv, &problem) ||
            !signature_parse(&s->message_field, true, a, &s->message, &problem)) {
            fail(c, i, problem);
            return;
        }
        if (!str_eq_nocase(s->cv, i == 1 ? S("none") : S("pass"))) {
            fail(c, i, "a seal says that the chain had failed before it");
            return;
        }
    }
    if (c->n == 0)
        return;
    struct signature *newest = &c->sets[c->n - 1].message;
    newest->body_at = body_hashes_want(bodies, newest->body_form, newest->length);
    if (newest->body_at < 0)
        fail(c, c->n, "the message has too many kinds of signatures");
}

/* 5.1.1: the sets in order, each as results, message signature, seal; of the last seal all but its b=. */
static void seal_digest(const struct arc_chain *c, unsigned n, const struct arc_sealing *added,
                        unsigned char out[DKIM_DIGEST_SIZE])
{
    BUF(text, 2 * c->header.n + 4 * FIELD_MAX);
    for (unsigned i = 1; i <= n; i++) {
        const struct arc_set *s = added && i == n ? NULL : &c->sets[i - 1];
        bool is_ours = added && i == n;
        str seal = is_ours ? added->seal : s->seal_field.raw;
        canon_header(CANON_RELAXED, is_ours ? added->results : s->results.raw, &text);
        canon_header(CANON_RELAXED, is_ours ? added->message : s->message_field.raw, &text);
        if (i < n)
            canon_header(CANON_RELAXED, seal, &text);
        else
            signature_unsigned_field(CANON_RELAXED, seal, &text);
    }
    if (EVP_Digest(text.p, text.n, out, NULL, EVP_sha256(), NULL) != 1)
        panic("SHA-256 failed");
}

FIBER static bool check_one(struct arc_chain *c, unsigned at, const struct signature *s, const unsigned char *digest,
                            struct auth_dns *dns, struct arena *a)
{
    const char *problem;
    bool is_testing;
    enum dkim_result r = signature_check(dns, s, digest, a, &problem, &is_testing);
    if (r == DKIM_PASS)
        return true;
    if (r == DKIM_TEMPERROR) {
        c->status = ARC_TEMP;
        c->failed_at = at;
        c->problem = problem;
        return false;
    }
    fail(c, at, problem);
    return false;
}

FIBER void arc_check(struct arc_chain *c, const struct body_hashes *bodies, struct auth_dns *dns, struct arena *a)
{
    unsigned char digest[DKIM_DIGEST_SIZE];
    uint64_t length;
    if (c->status == ARC_FAIL || c->n == 0)
        return;
    const struct signature *newest = &c->sets[c->n - 1].message;
    const unsigned char *body = body_hash_value(bodies, newest->body_at, &length);
    if (memcmp(body, newest->body_hash.p, BODY_HASH_SIZE) != 0 || newest->length < length) {
        fail(c, c->n, "the body was changed");
        return;
    }
    signature_digest(newest, c->header, digest);
    if (!check_one(c, c->n, newest, digest, dns, a))
        return;
    for (unsigned i = c->n; i >= 1; i--) {
        seal_digest(c, i, NULL, digest);
        if (!check_one(c, i, &c->sets[i - 1].seal, digest, dns, a))
            return;
    }
    c->status = ARC_PASS;
}

/* --- sealing --- */

bool arc_prepare(const struct arc_chain *c, const struct dkim_signing *how, str header,
                 const unsigned char body_hash[BODY_HASH_SIZE], str results, struct arena *a, struct arc_sealing *out,
                 unsigned char digest[DKIM_DIGEST_SIZE])
{
    if (c->n >= ARC_INSTANCES_MAX || c->status == ARC_TEMP ||
        (c->n && !str_eq_nocase(c->sets[c->n - 1].cv, c->n == 1 ? S("none") : S("pass"))))
        return false;
    *out = (struct arc_sealing){.instance = c->n + 1, .cv = arc_status_name(c->status)};
    out->results = arena_printf(a, "ARC-Authentication-Results: i=%u; %.*s\r\n", out->instance, STR_ARG(results));
    BUF(name, 64);
    buf_printf(&name, "ARC-Message-Signature: i=%u;", out->instance);
    out->message = dkim_prepare_field(how, buf_str(&name), header, body_hash, a, digest);
    return true;
}

void arc_prepare_seal(const struct arc_chain *c, const struct dkim_signing *how, struct arena *a, struct arc_sealing *s,
                      unsigned char digest[DKIM_DIGEST_SIZE])
{
    s->seal = arena_printf(a, "ARC-Seal: i=%u; a=%s; t=%lld; cv=%s;\r\n\td=%.*s; s=%.*s;\r\n\tb=\r\n", s->instance,
                           dkim_algorithm_name(how->algorithm), (long long)how->now_unix, s->cv, STR_ARG(how->domain),
                           STR_ARG(how->selector));
    /* 5.1.2: the seal that says "fail" covers its own set only. */
    if (c->status == ARC_FAIL) {
        BUF(text, 4 * FIELD_MAX);
        canon_header(CANON_RELAXED, s->results, &text);
        canon_header(CANON_RELAXED, s->message, &text);
        signature_unsigned_field(CANON_RELAXED, s->seal, &text);
        if (EVP_Digest(text.p, text.n, digest, NULL, EVP_sha256(), NULL) != 1)
            panic("SHA-256 failed");
        return;
    }
    seal_digest(c, s->instance, s, digest);
}
