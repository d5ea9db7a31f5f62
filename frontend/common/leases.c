#include "frontend/common/leases.h"

#include "base/clock.h"
#include "base/map.h"
#include "proto/auth_calls.h"

#define RENEW_MS 30000
#define BATCH 1000u
#define CALL_MS 5000
#define ARENA_BYTES (8u << 20)

/* Sessions of one account in this process. It goes once it is 0 and the service was told so. */
struct lease {
    uint32_t count;
};

struct leases {
    ProtobufCService *auth;
    enum limit limit;
    char *holder;
    struct map64 by_account; /* account id -> struct lease */
    struct fiber *renewer, *freer;
    bool is_running, is_closing;
};

struct leases *leases_new(ProtobufCService *auth, enum limit limit, str holder)
{
    struct leases *l = xnew(struct leases);
    l->auth = auth;
    l->limit = limit;
    l->holder = str_dup(holder);
    map64_init(&l->by_account);
    return l;
}

static void add_item(const struct leases *l, struct arena *a, Thurn__LeaseRequest *q, int64_t account_id,
                     uint32_t count)
{
    Thurn__LeaseRequest__Item *item = arena_new(a, Thurn__LeaseRequest__Item);
    thurn__lease_request__item__init(item);
    item->limit = (char *)(uintptr_t)limit_name(l->limit);
    item->key = arena_strz(a, arena_printf(a, "%lld", (long long)account_id));
    item->count = count;
    q->items[q->n_items++] = item;
}

FIBER static bool send_leases(struct leases *l, struct arena *a, Thurn__LeaseRequest *q, const Thurn__LeaseReply **r)
{
    struct rpc_call call;
    q->holder = l->holder;
    rpc_call_init(&call, a);
    call.deadline_mono_ms = MIN(call.deadline_mono_ms, clock_mono_ms() + CALL_MS);
    return auth_lease(&call, l->auth, q, r);
}

/* --- renewing --- */

/* Renew n accounts. Those that have no session any more are given up, and forgotten once the service knows. */
FIBER static void renew_some(struct leases *l, const int64_t *ids, size_t n)
{
    Thurn__LeaseRequest q = THURN__LEASE_REQUEST__INIT;
    const Thurn__LeaseReply *r;
    ARENA(a, ARENA_BYTES);
    q.is_renewal = true;
    q.items = arena_array(&a, Thurn__LeaseRequest__Item *, n);
    bool *was_zero = arena_array(&a, bool, n);
    for (size_t i = 0; i < n; i++) {
        const struct lease *lease = map64_get(&l->by_account, (uint64_t)ids[i]);
        if (lease)
            add_item(l, &a, &q, ids[i], lease->count);
        was_zero[i] = lease && lease->count == 0;
    }
    if (!q.n_items || !send_leases(l, &a, &q, &r))
        return; /* the next round tries again; meanwhile leases may run out, which lets more in, not fewer */
    for (size_t i = 0; i < n; i++) {
        const struct lease *lease = map64_get(&l->by_account, (uint64_t)ids[i]);
        if (lease && lease->count == 0 && was_zero[i])
            xfree(map64_remove(&l->by_account, (uint64_t)ids[i]));
    }
}

FIBER static void renew_all(struct leases *l)
{
    struct map_iter it = {0};
    uint64_t id;
    void *value;
    size_t n = 0, all = l->by_account.m.n;
    ARENA(a, (size_t)1 << 30);
    int64_t *ids = arena_array(&a, int64_t, all + 1);
    while (map64_next(&l->by_account, &it, &id, &value))
        ids[n++] = (int64_t)id;
    for (size_t from = 0; from < n && !l->is_closing; from += BATCH)
        renew_some(l, ids + from, MIN(n - from, (size_t)BATCH));
}

FIBER static void run_renewer(void *arg)
{
    struct leases *l = arg;
    struct err err = ERR_INIT;
    l->renewer = fiber_self();
    while (!l->is_closing && l->by_account.m.n && fiber_sleep_ms(RENEW_MS, &err))
        renew_all(l);
    l->renewer = NULL;
    l->is_running = false;
    if (l->freer)
        fiber_wake(l->freer);
}

/* It runs while there are leases. At the cap of fibers the next login tries again. */
static void start_renewer(struct leases *l)
{
    struct err err = ERR_INIT;
    if (!l->is_running && !l->is_closing)
        l->is_running = fiber_spawn("leases", run_renewer, l, FIBER_NO_DEADLINE, &err);
}

FIBER void leases_free(struct leases *l)
{
    if (!l)
        return;
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
    xfree(l->holder);
    xfree(l);
}

/* --- sessions --- */

FIBER bool leases_take(struct leases *l, int64_t account_id, struct err *err)
{
    uint64_t key = (uint64_t)account_id;
    struct lease *lease = map64_get(&l->by_account, key);
    if (!lease) {
        lease = xnew(struct lease);
        (void)map64_put(&l->by_account, key, lease); /* there was none */
    }
    lease->count++;
    start_renewer(l);
    Thurn__LeaseRequest q = THURN__LEASE_REQUEST__INIT;
    const Thurn__LeaseReply *r;
    ARENA(a, ARENA_BYTES);
    q.items = arena_array(&a, Thurn__LeaseRequest__Item *, 1);
    add_item(l, &a, &q, account_id, lease->count);
    if (!send_leases(l, &a, &q, &r) || r->n_granted == 0 || r->granted[0])
        return true;
    leases_release(l, account_id);
    return err_set(err, ERR_LIMIT, "the account has too many sessions");
}

void leases_release(struct leases *l, int64_t account_id)
{
    struct lease *lease = map64_get(&l->by_account, (uint64_t)account_id);
    lease->count--;
}
