#include <assert.h>
#include <string.h>

#include "mailauth/authres.h"
#include "mailauth/policy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz_dns {
    struct auth_dns dns;
    str text;
};

static void ask(struct auth_dns *dns, enum auth_dns_type type, str name, struct arena *a, struct auth_dns_answer *out)
{
    struct fuzz_dns *f = CONTAINER_OF(dns, struct fuzz_dns, dns);
    assert(auth_name_ok(name) && type == AUTH_DNS_TXT);
    *out = (struct auth_dns_answer){.result = AUTH_DNS_FOUND, .n = 1};
    out->v = arena_array(a, struct auth_dns_record, 1);
    out->v[0].text = f->text;
}

static void verify(str header, str body, struct auth_dns *dns, struct arena *a, struct dkim_message *m,
                   struct arc_chain *c)
{
    struct body_hashes bodies = {0};
    dkim_begin(m, header, &bodies, a);
    arc_begin(c, header, &bodies, a);
    for (size_t i = 0; i < body.n; i += 3)
        body_hashes_feed(&bodies, str_slice(body, i, i + 3));
    body_hashes_end(&bodies);
    for (size_t i = 0; i < m->n; i++)
        dkim_check(m, i, &bodies, dns, 1700000000, a);
    arc_check(c, &bodies, dns, a);
    body_hashes_done(&bodies);
}

/* A key record in the first line, then a message: DKIM and ARC end with some result, which is written as one of ours;
 * and a message that we sign verifies but for its key. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ARENA(a, 256 << 20);
    str in = str_n(data, size), rest = in, key;
    if (!str_split(&rest, '\n', &key))
        return 0;
    struct fuzz_dns dns = {.dns.ask = ask, .text = key};
    ptrdiff_t blank = str_find_str(rest, S("\r\n\r\n"));
    str header = blank < 0 ? rest : str_slice(rest, 0, (size_t)blank + 2),
        body = blank < 0 ? S("") : str_slice(rest, (size_t)blank + 4, SIZE_MAX);
    struct dkim_message m;
    struct arc_chain c;
    struct authres r;
    struct dkim_key_record record;
    (void)dkim_key_parse(key, &a, &record);
    verify(header, body, &dns.dns, &a, &m, &c);
    BUF(out, 1 << 20);
    authres_begin(&r, &out, S("mx.example"));
    authres_dkim(&r, &m);
    authres_arc(&r, &c);
    authres_end(&r);
    for (size_t i = 0; i < out.n; i++)
        assert(!ascii_is_ctl((unsigned char)out.p[i]) || strchr("\r\n\t", out.p[i]));
    (void)authres_is_ours(in, S("mx.example"));
    if (header.n && header.n < 20000 && header.p[0] != ' ' && header.p[0] != '\t') { /* no continuation of our field */
        struct dkim_signing how = {
            .header_form = CANON_RELAXED, .body_form = CANON_RELAXED, .domain = S("example.org"), .selector = S("s")};
        struct body_hashes b = {0};
        unsigned char digest[DKIM_DIGEST_SIZE], again[DKIM_DIGEST_SIZE];
        uint64_t length;
        struct header_field f;
        struct signature s;
        const char *problem;
        IGNORE(body_hashes_want(&b, CANON_RELAXED, CANON_NO_LENGTH));
        body_hashes_feed(&b, body);
        body_hashes_end(&b);
        str field =
            dkim_finish(dkim_prepare(&how, header, body_hash_value(&b, 0, &length), &a, digest), S("signature"), &a);
        body_hashes_done(&b);
        BUF(both, 1 << 20);
        buf_add(&both, field);
        buf_add(&both, header);
        str whole = buf_str(&both);
        assert(header_find(whole, S("DKIM-Signature"), &f) && signature_parse(&f, false, &a, &s, &problem));
        signature_digest(&s, whole, again);
        assert(memcmp(digest, again, sizeof digest) == 0);
    }
    return 0;
}
