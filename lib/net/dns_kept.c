#include "net/dns_kept.h"

#include "base/clock.h"

struct kept {
    struct list_node node;
    struct ub_result *answer;
    size_t bytes;
    int64_t answered_ms, trusted_until_ms;
    size_t n_key;
    char key[280];
};

/* "15:example.net", the name in lower case: a question has no case. */
static str key_of(const char *name, int type, char out[280])
{
    int n = snprintf(out, 280, "%d:%s", type, name);
    for (char *p = out; *p; p++)
        *p = (char)ascii_lower((unsigned char)*p);
    return str_n(out, (size_t)n);
}

static struct kept *find(const struct dns_kept *k, const char *name, int type)
{
    char key[280];
    return map_get(&k->by_question, key_of(name, type, key));
}

static void drop(struct dns_kept *k, struct kept *e)
{
    (void)map_remove(&k->by_question, str_n(e->key, e->n_key)); /* it is this one */
    list_remove(&e->node);
    k->n--;
    k->bytes -= e->bytes;
    ub_resolve_free(e->answer);
    free(e);
}

void dns_kept_init(struct dns_kept *k)
{
    *k = (struct dns_kept){0};
    map_init(&k->by_question);
    list_init(&k->by_use);
}

void dns_kept_done(struct dns_kept *k)
{
    for (struct list_node *n; (n = list_first(&k->by_use));)
        drop(k, LIST_ITEM(n, struct kept, node));
    map_done(&k->by_question);
}

/* What an answer holds: the packet, and its records once more. */
static size_t size_of(const struct ub_result *r)
{
    size_t n = sizeof(struct kept) + sizeof(*r) + 2 * (size_t)r->answer_len;
    return r->why_bogus ? n + strlen(r->why_bogus) : n;
}

void dns_kept_put(struct dns_kept *k, const char *name, int type, struct ub_result *answer)
{
    dns_kept_forget(k, name, type);
    struct kept *e = xnew(struct kept);
    e->answer = answer;
    e->bytes = size_of(answer);
    e->answered_ms = clock_mono_ms();
    e->n_key = key_of(name, type, e->key).n;
    (void)map_put(&k->by_question, str_n(e->key, e->n_key), e); /* nothing is there */
    list_push(&k->by_use, &e->node);
    k->n++;
    k->bytes += e->bytes;
    while (k->n > 1 && (k->n > DNS_KEPT_MAX || k->bytes > DNS_KEPT_BYTES))
        drop(k, LIST_ITEM(list_first(&k->by_use), struct kept, node));
}

void dns_kept_forget(struct dns_kept *k, const char *name, int type)
{
    struct kept *e = find(k, name, type);
    if (e)
        drop(k, e);
}

const struct ub_result *dns_kept_get(struct dns_kept *k, const char *name, int type)
{
    struct kept *e = find(k, name, type);
    if (e && clock_mono_ms() - e->answered_ms >= DNS_KEPT_MS) {
        drop(k, e);
        e = NULL;
    }
    if (!e)
        return NULL;
    list_remove(&e->node);
    list_push(&k->by_use, &e->node);
    return e->answer;
}

void dns_kept_note_failure(struct dns_kept *k, const char *name, int type)
{
    struct kept *e = find(k, name, type);
    if (e)
        e->trusted_until_ms = clock_mono_ms() + DNS_KEPT_TRUST_MS;
}

bool dns_kept_is_trusted(struct dns_kept *k, const char *name, int type)
{
    const struct kept *e = find(k, name, type);
    return e && clock_mono_ms() < e->trusted_until_ms && dns_kept_get(k, name, type);
}
