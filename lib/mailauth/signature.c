#include "mailauth/signature.h"

#include <openssl/evp.h>

#include "base/num.h"
#include "mailauth/tags.h"

#define FIELDS_MAX 4000u      /* of a header: what is above is not looked at */
#define KEYS_MAX 8u           /* records of one selector that are tried */
#define TIME_MAX 999999999999 /* RFC 6376 3.5: 12 digits */

const char *dkim_result_name(enum dkim_result r)
{
    static const char *const names[] = {"none", "pass", "fail", "policy", "neutral", "temperror", "permerror"};
    return names[r];
}

static bool canon_of(str word, enum canon *out)
{
    *out = str_eq_nocase(word, S("relaxed")) ? CANON_RELAXED : CANON_SIMPLE;
    return *out == CANON_RELAXED || str_eq_nocase(word, S("simple"));
}

static bool parse_forms(const str *c, struct signature *s)
{
    s->header_form = s->body_form = CANON_SIMPLE;
    if (!c)
        return true;
    ptrdiff_t slash = str_find(*c, '/');
    if (slash < 0)
        return canon_of(*c, &s->header_form);
    return canon_of(str_slice(*c, 0, (size_t)slash), &s->header_form) &&
           canon_of(str_slice(*c, (size_t)slash + 1, SIZE_MAX), &s->body_form);
}

static bool parse_time(const str *v, int64_t *out)
{
    uint64_t n;
    *out = -1;
    if (!v)
        return true;
    if (v->n > 12 || !num_u64(*v, TIME_MAX, &n))
        return false;
    *out = (int64_t)n;
    return true;
}

static size_t count_words(str list)
{
    size_t n = 0;
    for (size_t i = 0; i < list.n; i++)
        n += list.p[i] == ':';
    return n + 1;
}

static bool parse_length(const str *l, struct signature *s)
{
    s->length = CANON_NO_LENGTH;
    if (!l)
        return true;
    if (l->n > 76 || l->n == 0)
        return false;
    for (size_t i = 0; i < l->n; i++)
        if (!ascii_is_digit((unsigned char)l->p[i]))
            return false;
    if (!num_u64(*l, CANON_NO_LENGTH - 1, &s->length))
        s->length = CANON_NO_LENGTH - 1; /* more than any body has */
    return true;
}

bool signature_parse(const struct header_field *field, bool is_arc, struct arena *a, struct signature *out,
                     const char **problem)
{
    struct tags t;
    struct signature s = {.field = *field, .body_at = -1};
    const str *v;
    uint32_t instance;
    *problem = "the field is no list of tags";
    if (!tags_parse(field->value, &t))
        return false;
    *problem = "v= is not 1";
    v = tags_get(&t, "v");
    if (!is_arc && (!v || !str_eq(*v, S("1"))))
        return false;
    const str *algorithm = tags_get(&t, "a"), *d = tags_get(&t, "d"), *selector = tags_get(&t, "s"),
              *h = tags_get(&t, "h"), *bh = tags_get(&t, "bh"), *b = tags_get(&t, "b");
    *problem = "a tag is missing";
    if (!algorithm || !d || !selector || !h || !bh || !b)
        return false;
    s.domain = *d; /* what can still be said of a signature that is refused */
    s.selector = *selector;
    *out = s;
    *problem = str_eq_nocase(*algorithm, S("rsa-sha1")) ? "rsa-sha1 is not secure any more (RFC 8301)"
                                                        : "an algorithm that is not known";
    if (str_eq_nocase(*algorithm, S("rsa-sha256")))
        s.algorithm = DKIM_RSA_SHA256;
    else if (str_eq_nocase(*algorithm, S("ed25519-sha256")))
        s.algorithm = DKIM_ED25519_SHA256;
    else
        return false;
    *problem = "c= is not known";
    if (!parse_forms(tags_get(&t, "c"), &s))
        return false;
    *problem = "d= or s= is no domain name";
    if (!auth_name_ok(s.domain) || !auth_name_ok(s.selector) ||
        s.domain.n + s.selector.n + strlen("._domainkey.") > 253)
        return false;
    *problem = "b= or bh= is no base64";
    if (!tag_base64(*b, a, &s.value) || !tag_base64(*bh, a, &s.body_hash) || s.body_hash.n != BODY_HASH_SIZE)
        return false;
    *problem = "From is not signed";
    s.names = *h;
    if (!tag_list_has(s.names, S("from")))
        return false;
    *problem = "h= names too many fields";
    if (count_words(s.names) > SIGNED_FIELDS_MAX)
        return false;
    *problem = "i= is wrong";
    v = tags_get(&t, "i");
    if (is_arc) {
        if (!v || !num_u32(*v, 50, &instance) || instance < 1)
            return false;
        s.instance = instance;
        s.auid = STR_NONE;
    } else {
        s.auid = v ? tag_compact(*v, a) : arena_printf(a, "@%.*s", STR_ARG(s.domain));
        ptrdiff_t at = str_rfind(s.auid, '@');
        if (at < 0 || !auth_name_below(str_slice(s.auid, (size_t)at + 1, SIZE_MAX), s.domain))
            return false;
    }
    *problem = "l=, t= or x= is no number, or x= is not above t=";
    if (!parse_length(tags_get(&t, "l"), &s) || !parse_time(tags_get(&t, "t"), &s.signed_unix) ||
        !parse_time(tags_get(&t, "x"), &s.expires_unix) ||
        (s.signed_unix >= 0 && s.expires_unix >= 0 && s.expires_unix <= s.signed_unix))
        return false;
    *problem = "q= does not have dns/txt";
    v = tags_get(&t, "q");
    if (v && !tag_list_has(*v, S("dns/txt")) && !tag_list_has(*v, S("dns")))
        return false;
    *problem = NULL;
    *out = s;
    return true;
}

void signature_unsigned_field(enum canon form, str raw, struct buf *out)
{
    /* The value of b= goes from its equals sign to the semicolon; of names that end so, like bh=, nothing. */
    BUF(cut, raw.n);
    ptrdiff_t colon = str_find(raw, ':');
    size_t at = (size_t)(colon + 1);
    buf_add(&cut, str_slice(raw, 0, at));
    while (at < raw.n) {
        ptrdiff_t semicolon = str_find(str_slice(raw, at, SIZE_MAX), ';');
        str entry = str_slice(raw, at, semicolon < 0 ? SIZE_MAX : at + (size_t)semicolon);
        ptrdiff_t eq = str_find(entry, '=');
        if (eq >= 0 && str_eq(str_trim(str_slice(entry, 0, (size_t)eq)), S("b"))) {
            buf_add(&cut, str_slice(entry, 0, (size_t)eq + 1));
            if (semicolon < 0)
                buf_add(&cut, S("\r\n")); /* the value went to the end of the field */
        } else {
            buf_add(&cut, entry);
        }
        if (semicolon >= 0)
            buf_addc(&cut, ';');
        at += entry.n + (semicolon >= 0);
    }
    canon_header(form, buf_str(&cut), out);
    while (out->n && (out->p[out->n - 1] == '\n' || out->p[out->n - 1] == '\r'))
        buf_truncate(out, out->n - 1);
}

void signature_digest(const struct signature *s, str header, unsigned char out[DKIM_DIGEST_SIZE])
{
    struct header_field *fields = xcalloc(FIELDS_MAX, sizeof *fields), f;
    bool *is_used = xcalloc(FIELDS_MAX, sizeof *is_used);
    struct header_iter it = header_iter_of(header);
    size_t n = 0;
    while (n < FIELDS_MAX && header_next(&it, &f))
        fields[n++] = f;
    BUF(text, 2 * header.n + s->field.raw.n + 4096);
    str rest = s->names, name;
    while (tag_list_next(&rest, ':', &name)) {
        for (size_t i = n; i-- > 0;) { /* 5.4.2: from the last one up; one that is not there counts as nothing */
            if (is_used[i] || !str_eq_nocase(fields[i].name, name) || fields[i].offset == s->field.offset)
                continue;
            is_used[i] = true;
            canon_header(s->header_form, fields[i].raw, &text);
            break;
        }
    }
    signature_unsigned_field(s->header_form, s->field.raw, &text);
    if (EVP_Digest(text.p, text.n, out, NULL, EVP_sha256(), NULL) != 1)
        panic("SHA-256 failed");
    free(fields);
    free(is_used);
}

FIBER enum dkim_result signature_check(struct auth_dns *dns, const struct signature *s,
                                       const unsigned char digest[DKIM_DIGEST_SIZE], struct arena *a,
                                       const char **problem, bool *is_testing)
{
    struct auth_dns_answer r = {0};
    str name = arena_printf(a, "%.*s._domainkey.%.*s", STR_ARG(auth_name_trim(s->selector)),
                            STR_ARG(auth_name_trim(s->domain)));
    enum dkim_result result = DKIM_PERMERROR;
    *is_testing = false;
    *problem = "no key is published";
    dns->ask(dns, AUTH_DNS_TXT, name, a, &r);
    if (r.result == AUTH_DNS_TEMP) {
        *problem = "the DNS does not answer for the key";
        return DKIM_TEMPERROR;
    }
    for (size_t i = 0; i < MIN(r.n, KEYS_MAX); i++) { /* 6.1.2: with several any one may do */
        struct dkim_key_record key;
        const char *why = NULL;
        switch (dkim_key_parse(r.v[i].text, a, &key)) {
        case DKIM_KEY_REVOKED:
            *problem = "the key is revoked";
            continue;
        case DKIM_KEY_BAD:
            *problem = "the key's record is damaged";
            continue;
        case DKIM_KEY_OTHER:
            continue;
        case DKIM_KEY_OK:
            break;
        }
        ptrdiff_t at = str_rfind(s->auid, '@');
        if (key.algorithm != s->algorithm ||
            (key.is_strict && at >= 0 && !str_eq_nocase(str_slice(s->auid, (size_t)at + 1, SIZE_MAX), s->domain))) {
            *problem = "the published key is not for this signature";
            continue;
        }
        *is_testing = key.is_testing;
        if (dkim_key_verify(&key, digest, s->value, &why)) {
            *problem = NULL;
            return DKIM_PASS;
        }
        *problem = why ? why : "the signature does not fit";
        result = why ? DKIM_POLICY : DKIM_FAIL;
    }
    return result;
}
