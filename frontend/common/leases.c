/*
 * How many sessions an account has, over all front-ends: each process leases its count from the auth service and renews
 * it; what is not renewed is free again. The count goes up before a login is answered, and down in the background.
 */
#include "frontend/imap/session.h"

#include "base/clock.h"
#include "base/limits.h"
#include "base/map.h"
#include "base/metrics.h"
#include "proto/auth_calls.h"

#define RENEW_MS 30000
#define BATCH 1000u
#define CALL_MS 5000
#define ARENA_BYTES (8u << 20)

/* Sessions of one account in this process. It goes once it is 0 and the service was told so. */
struct imap_lease {
    uint32_t count;
};

struct imap_leases {
    struct map64 by_account; /* account id -> struct imap_lease */
    struct fiber *renewer, *freer;
    bool is_running, is_closing;
};

void imap_leases_init(struct imap_server *server)
{
    server->leases = xnew(struct imap_leases);
    map64_init(&server->leases->by_account);
}

static void add_item(struct arena *a, Thurn__LeaseRequest *q, int64_t account_id, uint32_t count)
{
    Thurn__LeaseRequest__Item *item = arena_new(a, Thurn__LeaseRequest__Item);
    thurn__lease_request__item__init(item);
    item->limit = (char *)(uintptr_t)limit_name(LIMIT_IMAP_SESSIONS_ACCOUNT);
    item->key = arena_strz(a, arena_printf(a, "%lld", (long long)account_id));
    item->count = count;
    q->items[q->n_items++] = item;
}

FIBER static bool send_leases(struct imap_server *server, struct arena *a, Thurn__LeaseRequest *q,
                              const Thurn__LeaseReply **r)
{
    struct rpc_call call;
    q->holder = server->holder;
    rpc_call_init(&call, a);
    call.deadline_mono_ms = MIN(call.deadline_mono_ms, clock_mono_ms() + CALL_MS);
    return auth_lease(&call, server->opts.auth, q, r);
}

/* --- renewing --- */

/* Renew n accounts. Those that have no session any more are given up, and forgotten once the service knows. */
FIBER static void renew_some(struct imap_server *server, const int64_t *ids, size_t n)
{
    struct imap_leases *l = server->leases;
    Thurn__LeaseRequest q = THURN__LEASE_REQUEST__INIT;
    const Thurn__LeaseReply *r;
    ARENA(a, ARENA_BYTES);
    q.is_renewal = true;
    q.items = arena_array(&a, Thurn__LeaseRequest__Item *, n);
    bool *was_zero = arena_array(&a, bool, n);
    for (size_t i = 0; i < n; i++) {
        const struct imap_lease *lease = map64_get(&l->by_account, (uint64_t)ids[i]);
        if (lease)
            add_item(&a, &q, ids[i], lease->count);
        was_zero[i] = lease && lease->count == 0;
    }
    if (!q.n_items || !send_leases(server, &a, &q, &r))
        return; /* the next round tries again; meanwhile leases may run out, which lets more in, not fewer */
    for (size_t i = 0; i < n; i++) {
        const struct imap_lease *lease = map64_get(&l->by_account, (uint64_t)ids[i]);
        if (lease && lease->count == 0 && was_zero[i])
            xfree(map64_remove(&l->by_account, (uint64_t)ids[i]));
    }
}

FIBER static void renew_all(struct imap_server *server)
{
    struct imap_leases *l = server->leases;
    struct map_iter it = {0};
    uint64_t id;
    void *value;
    size_t n = 0, all = l->by_account.m.n;
    ARENA(a, (size_t)1 << 30);
    int64_t *ids = arena_array(&a, int64_t, all + 1);
    while (map64_next(&l->by_account, &it, &id, &value))
        ids[n++] = (int64_t)id;
    for (size_t from = 0; from < n && !l->is_closing; from += BATCH)
        renew_some(server, ids + from, MIN(n - from, (size_t)BATCH));
}

FIBER static void run_renewer(void *arg)
{
    struct imap_server *server = arg;
    struct imap_leases *l = server->leases;
    struct err err = ERR_INIT;
    l->renewer = fiber_self();
    while (!l->is_closing && l->by_account.m.n && fiber_sleep_ms(RENEW_MS, &err))
        renew_all(server);
    l->renewer = NULL;
    l->is_running = false;
    if (l->freer)
        fiber_wake(l->freer);
}

/* It runs while there are leases. At the cap of fibers the next login tries again. */
static void start_renewer(struct imap_server *server)
{
    struct err err = ERR_INIT;
    struct imap_leases *l = server->leases;
    if (!l->is_running && !l->is_closing)
        l->is_running = fiber_spawn("imap.leases", run_renewer, server, FIBER_NO_DEADLINE, &err);
}

FIBER void imap_leases_done(struct imap_server *server)
{
    struct imap_leases *l = server->leases;
    l->is_closing = true;
    if (l->renewer)
        fiber_cancel(l->renewer);
    l->freer = fiber_self();
    while (l->is_running)
        fiber_wait_uninterrupted();
    struct map_iter it = {0};
    uint64_t id;
    void *value;
    while (map64_next(&l->by_account, &it, &id, &value))
        xfree(value);
    map64_done(&l->by_account);
    xfree(l);
    server->leases = NULL;
}

/* --- sessions --- */

FIBER bool imap_lease_take(struct imap_session *s, struct err *err)
{
    struct imap_leases *l = s->server->leases;
    uint64_t key = (uint64_t)s->account.account_id;
    struct imap_lease *lease = map64_get(&l->by_account, key);
    if (!lease) {
        lease = xnew(struct imap_lease);
        (void)map64_put(&l->by_account, key, lease); /* there was none */
    }
    lease->count++;
    s->has_lease = true;
    start_renewer(s->server);
    Thurn__LeaseRequest q = THURN__LEASE_REQUEST__INIT;
    const Thurn__LeaseReply *r;
    ARENA(a, ARENA_BYTES);
    q.items = arena_array(&a, Thurn__LeaseRequest__Item *, 1);
    add_item(&a, &q, s->account.account_id, lease->count);
    if (!send_leases(s->server, &a, &q, &r) || r->n_granted == 0 || r->granted[0])
        return true;
    imap_lease_release(s);
    metric_inc_label(M_IMAP_REFUSED, "sessions_of_account");
    return err_set(err, ERR_LIMIT, "the account has too many sessions");
}

void imap_lease_release(struct imap_session *s)
{
    if (!s->has_lease)
        return;
    struct imap_lease *lease = map64_get(&s->server->leases->by_account, (uint64_t)s->account.account_id);
    lease->count--;
    s->has_lease = false;
}
