/* Which site a domain is: our own store, the hosts of its MX records, or nobody. */
#include "base/clock.h"
#include "proto/auth_calls.h"
#include "queue-service/domain.h"

#define RESOLVE_MS 10000
#define MX_MS 30000
#define LOCAL_KEY "!local"
#define REJECT_DOMAIN "!5.1.2"
#define REJECT_NULL_MX "!5.1.10"

/* Every domain of ours has a postmaster, who is local or at least not remote (RFC 5321 4.5.1). */
FIBER static bool is_ours(struct queue *q, const char *domain, struct arena *a, bool *out, struct err *err)
{
    struct rpc_call c;
    Thurn__ResolveRequest req = THURN__RESOLVE_REQUEST__INIT;
    const Thurn__ResolveReply *r;
    char *address = arena_strz(a, arena_printf(a, "postmaster@%s", domain));
    req.addresses = &address;
    req.n_addresses = 1;
    queue_call_init(&c, a, RESOLVE_MS);
    FIBER_DEADLINE(RESOLVE_MS);
    if (!auth_resolve(&c, q->opts.auth, &req, &r)) {
        *err = c.err;
        return false;
    }
    if (r->n_resolutions != 1)
        return err_set(err, ERR_INTERNAL, "directory gives no resolution");
    *out = r->resolutions[0]->kind != THURN__RECIPIENT_KIND__RECIPIENT_REMOTE;
    return true;
}

static struct site *reject_site(struct queue *q, const char *key, const char *status, const char *text)
{
    struct site *s = site_get(q, SITE_REJECT, str_c(key));
    s->reject_status = status;
    (void)snprintf(s->text, sizeof(s->text), "%s", text);
    return s;
}

/* The site keeps its own copy of what was found: the newest. Nobody uses the old one any more when no session runs. */
static struct site *remote_site_of(struct queue *q, const struct remote_site *found)
{
    struct site *s = site_get(q, SITE_REMOTE, found->key);
    if (s->n_sessions == 0)
        site_set_hosts(s, found);
    return s;
}

struct site *route_store_shard(struct queue *q, uint32_t shard)
{
    char key[32];
    int n = snprintf(key, sizeof(key), LOCAL_KEY ":%u", shard);
    struct site *s = site_get(q, SITE_LOCAL, str_n(key, (size_t)n));
    s->is_store_shard = true;
    return s;
}

FIBER static struct site *find_site(struct domain *d, bool *is_directory_away, struct err *err)
{
    ARENA(a, 1u << 20);
    struct queue *q = d->queue;
    bool ours = false;
    struct remote_site found;
    *is_directory_away = !is_ours(q, d->name, &a, &ours, err);
    if (*is_directory_away)
        return NULL;
    if (ours)
        return site_get(q, SITE_LOCAL, S(LOCAL_KEY));
    FIBER_DEADLINE(MX_MS);
    if (remote_resolve(q->remote, str_c(d->name), &a, &found, err))
        return remote_site_of(q, &found);
    if (err->kind == ERR_NOT_FOUND || err->kind == ERR_INVALID) {
        err_clear(err);
        return reject_site(q, REJECT_DOMAIN, "5.1.2", "no such domain, or it takes no mail");
    }
    if (err->kind == ERR_DENIED) { /* RFC 7505 */
        err_clear(err);
        return reject_site(q, REJECT_NULL_MX, "5.1.10", "the domain says that it takes no mail (null MX)");
    }
    return NULL;
}

void route_domain(void *arg)
{
    struct domain *d = arg;
    struct queue *q = d->queue;
    struct err err = ERR_INIT;
    bool is_directory_away;
    struct site *s = find_site(d, &is_directory_away, &err);
    if (s)
        domain_resolved(d, s);
    else
        domain_failed(d, is_directory_away, err.msg);
    queue_fiber_ended(q);
}
