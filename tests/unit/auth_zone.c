#include "auth_zone.h"

#include <stdio.h>

static enum auth_dns_type type_of(const char *name)
{
    static const char *const names[] = {"TXT", "A", "AAAA", "MX", "PTR"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (!strcmp(name, names[i]))
            return (enum auth_dns_type)i;
    panic("no type %s", name);
}

FIBER static void ask(struct auth_dns *dns, enum auth_dns_type type, str name, struct arena *a,
                      struct auth_dns_answer *out)
{
    struct auth_zone *z = CONTAINER_OF(dns, struct auth_zone, dns);
    bool is_there = false, is_mute = false;
    str asked = arena_str(a, name);
    *out = (struct auth_dns_answer){.result = AUTH_DNS_NXDOMAIN};
    out->v = arena_array(a, struct auth_dns_record, z->n);
    z->n_asked++;
    for (unsigned links = 0; links < 8; links++) {
        const struct zone_record *cname = NULL;
        for (size_t i = 0; i < z->n; i++) {
            const struct zone_record *r = &z->v[i];
            if (!str_eq_nocase(r->name, asked))
                continue;
            is_there = true;
            is_mute = is_mute || r->kind == ZONE_TIMEOUT;
            if (r->kind == ZONE_CNAME)
                cname = r;
            if (r->kind != ZONE_RECORD || r->type != type)
                continue;
            struct auth_dns_record *to = &out->v[out->n++];
            to->text = r->value;
            to->preference = r->preference;
            if ((type == AUTH_DNS_A || type == AUTH_DNS_AAAA) && !auth_ip_parse(r->value, &to->ip))
                panic("no address: %.*s", STR_ARG(r->value));
        }
        if (!cname || out->n)
            break;
        asked = cname->value;
    }
    out->result = out->n ? AUTH_DNS_FOUND : is_mute ? AUTH_DNS_TEMP : is_there ? AUTH_DNS_NODATA : AUTH_DNS_NXDOMAIN;
    for (size_t i = 0; i < out->n; i++) /* few, and stable */
        for (size_t k = i + 1; k < out->n; k++)
            if (out->v[k].preference < out->v[i].preference) {
                struct auth_dns_record swap = out->v[i];
                out->v[i] = out->v[k];
                out->v[k] = swap;
            }
}

void zone_init(struct auth_zone *z)
{
    memset(z, 0, sizeof *z);
    z->dns.ask = ask;
}

void zone_add(struct auth_zone *z, const char *name, const char *type, const char *value)
{
    zone_add_str(z, name, type, str_c(value));
}

void zone_add_str(struct auth_zone *z, const char *name, const char *type, str value)
{
    if (z->n == ARRAY_LEN(z->v))
        panic("the zone is full");
    struct zone_record *r = &z->v[z->n++];
    *r = (struct zone_record){.name = str_c(name), .value = value};
    if (!strcmp(type, "TIMEOUT")) {
        r->kind = ZONE_TIMEOUT;
    } else if (!strcmp(type, "CNAME")) {
        r->kind = ZONE_CNAME;
    } else {
        r->type = type_of(type);
        int n = 0;
        if (r->type == AUTH_DNS_MX) {
            if (sscanf(value.p, "%u %n", &r->preference, &n) != 1)
                panic("no MX: %.*s", STR_ARG(value));
            r->value = str_slice(value, (size_t)n, SIZE_MAX);
        }
    }
}
