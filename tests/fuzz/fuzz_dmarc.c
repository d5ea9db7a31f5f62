#include <assert.h>
#include <string.h>

#include "mailauth/dmarc.h"
#include "mailauth/policy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz_dns {
    struct auth_dns dns;
    str text;
    unsigned n;
};

static void ask(struct auth_dns *dns, enum auth_dns_type type, str name, struct arena *a, struct auth_dns_answer *out)
{
    struct fuzz_dns *f = CONTAINER_OF(dns, struct fuzz_dns, dns);
    (void)type;
    assert(auth_name_ok(name));
    assert(++f->n < 200);
    *out = (struct auth_dns_answer){.result = f->n % 3 ? AUTH_DNS_NXDOMAIN : AUTH_DNS_FOUND, .n = f->n % 3 == 0};
    out->v = arena_array(a, struct auth_dns_record, 1);
    out->v[0].text = f->text;
}

/* A record in the first line, then a header; and the same bytes as a policy of MTA-STS. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ARENA(a, 64 << 20);
    str in = str_n(data, size), rest = in, record, address;
    if (!str_split(&rest, '\n', &record))
        return 0;
    struct fuzz_dns dns = {.dns.ask = ask, .text = record};
    str authors[DMARC_AUTHORS_MAX], dkim = S("example.org");
    struct dmarc_input q = {.authors = authors, .spf_domain = S("mail.example.org"), .dkim = &dkim, .n_dkim = 1};
    struct dmarc_verdict v;
    struct dmarc_record r;
    if (dmarc_record_parse(record, &r))
        while (dmarc_uri_next(&r.rua, &a, &address))
            assert(address.n > 0);
    dmarc_authors(rest, &a, authors, &q.n_authors);
    dmarc_check(&dns.dns, &q, &a, &v);
    assert(v.result == DMARC_FAIL || v.to_apply == DMARC_POLICY_NONE);
    struct mta_sts_policy p;
    const char *problem;
    if (mta_sts_parse(in, &a, &p, &problem))
        assert(p.mode == MTA_STS_NONE || p.n_mx > 0);
    IGNORE(mta_sts_id(&in, 1, &address));
    IGNORE(tls_rpt_addresses(&in, 1, &address));
    return 0;
}
