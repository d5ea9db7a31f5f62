#include <assert.h>
#include <string.h>

#include "mailauth/spf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz_dns {
    struct auth_dns dns;
    str text;
    unsigned n;
};

/* Each question for text gets the input, cut at the first zero byte; the others something that depends on how many
 * there were. */
static void ask(struct auth_dns *dns, enum auth_dns_type type, str name, struct arena *a, struct auth_dns_answer *out)
{
    struct fuzz_dns *f = CONTAINER_OF(dns, struct fuzz_dns, dns);
    assert(auth_name_ok(name));
    assert(++f->n < 400);
    *out = (struct auth_dns_answer){.result = AUTH_DNS_FOUND, .n = type == AUTH_DNS_MX ? 3 : 1};
    out->v = arena_array(a, struct auth_dns_record, 3);
    for (size_t i = 0; i < 3; i++)
        out->v[i] = (struct auth_dns_record){.text = type == AUTH_DNS_TXT ? f->text : S("mail.example.org"),
                                             .ip = {.b = {192, 0, 2, (unsigned char)f->n}}};
}

/* A record and a sender from anywhere: bounded questions, a result, an explanation without control characters. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ARENA(a, 64 << 20);
    str in = str_n(data, size);
    ptrdiff_t cut = str_find(in, '\n');
    struct fuzz_dns dns = {.dns.ask = ask, .text = cut < 0 ? in : str_slice(in, (size_t)cut + 1, SIZE_MAX)};
    struct spf_query q = {.client = {.b = {192, 0, 2, 1}},
                          .helo = S("mail.example.org"),
                          .sender = cut < 0 ? S("a@example.org") : str_slice(in, 0, (size_t)cut)};
    struct spf_verdict v;
    spf_check(&dns.dns, &q, &a, &v);
    assert(v.result <= SPF_PERMERROR);
    for (size_t i = 0; i < v.explanation.n; i++)
        assert(ascii_is_print((unsigned char)v.explanation.p[i]));
    return 0;
}
