#include "frontend/common/resolver.h"

#include "base/clock.h"
#include "base/metrics.h"
#include "base/trouble.h"
#include "proto/auth_calls.h"

#define LOCAL_MS 5000u
#define OTHER_MS 1000u
#define STALE_MS 600000u
#define FULL_MS 30000u
#define BYTES_MAX ((size_t)16 << 20)
#define OTHERS_SHARE 4u /* of them for answers under other addresses than the mailbox's own */
/* of the map, and of malloc, for an entry; likewise for each part of an answer */
#define OWN_BYTES 128u
#define SETTLE_MS 1000 /* after a change, until every node has heard of it */
#define CALL_ARENA_MAX ((size_t)4 << 20)

struct resolver {
    ProtobufCService *auth;
    struct resolver_opts opts;
    uint64_t generation; /* grows with each change of the directory: answers of before are asked for again */
    int64_t changed_mono_ms;
    struct map entries; /* address → struct resolved, one reference each */
    struct used {
        struct list list; /* least recently used first */
        size_t bytes;
    } own, others;
};

struct resolver *resolver_new(ProtobufCService *auth, const struct resolver_opts *opts)
{
    struct resolver *r = xnew(struct resolver);
    r->auth = auth;
    if (opts)
        r->opts = *opts;
    struct resolver_opts *o = &r->opts;
    o->local_ms = o->local_ms ? o->local_ms : LOCAL_MS;
    o->other_ms = o->other_ms ? o->other_ms : OTHER_MS;
    o->stale_ms = o->stale_ms ? o->stale_ms : STALE_MS;
    o->full_ms = o->full_ms ? o->full_ms : FULL_MS;
    o->bytes_max = o->bytes_max ? o->bytes_max : BYTES_MAX;
    r->changed_mono_ms = -SETTLE_MS;
    map_init(&r->entries);
    list_init(&r->own.list);
    list_init(&r->others.list);
    return r;
}

struct resolved *resolved_ref(struct resolved *a)
{
    a->refs++;
    return a;
}

void resolved_unref(struct resolved *a)
{
    if (!a || --a->refs)
        return;
    thurn__resolution__free_unpacked(a->answer, NULL);
    free(a->address);
    free(a);
}

static struct used *used_of(struct resolver *r, const struct resolved *a)
{
    return a->is_own ? &r->own : &r->others;
}

static void drop(struct resolver *r, struct resolved *a)
{
    (void)map_remove(&r->entries, str_c(a->address));
    list_remove(&a->used);
    used_of(r, a)->bytes -= a->bytes;
    resolved_unref(a);
}

void resolver_free(struct resolver *r)
{
    if (!r)
        return;
    LIST_EACH(&r->own.list, n)
    drop(r, LIST_ITEM(n, struct resolved, used));
    LIST_EACH(&r->others.list, n)
    drop(r, LIST_ITEM(n, struct resolved, used));
    map_done(&r->entries);
    free(r);
}

void resolver_forget(struct resolver *r, str address)
{
    struct resolved *a = map_get(&r->entries, address);
    if (a)
        drop(r, a);
}

void resolver_outdate(struct resolver *r)
{
    r->generation++;
    r->changed_mono_ms = clock_mono_ms();
}

void resolver_mark_full(struct resolver *r, str address, uint64_t size)
{
    struct resolved *a = map_get(&r->entries, address);
    int64_t now = clock_mono_ms();
    if (!a || a->answer->n_targets != 1)
        return;
    a->full_size = now < a->full_until_ms ? MIN(a->full_size, size) : size;
    a->full_until_ms = now + r->opts.full_ms;
}

bool resolved_is_full(const struct resolved *a, uint64_t size)
{
    return size && size >= a->full_size && clock_mono_ms() < a->full_until_ms;
}

size_t resolver_count(const struct resolver *r)
{
    return r->entries.n;
}

size_t resolver_bytes(const struct resolver *r)
{
    return r->own.bytes + r->others.bytes;
}

/* About what the answer takes as it is unpacked. */
static size_t bytes_of(str address, const Thurn__Resolution *m)
{
    size_t n = sizeof(struct resolved) + sizeof(*m) + 2 * address.n + OWN_BYTES;
    for (size_t i = 0; i < m->n_targets; i++)
        n += sizeof(Thurn__Target) + sizeof(Thurn__AccountRef) + strlen(m->targets[i]->address) +
             strlen(m->targets[i]->detail) + OWN_BYTES;
    return n;
}

/* A copy of its own: what a call returns lives in the call's arena. */
static Thurn__Resolution *copy(const Thurn__Resolution *m)
{
    size_t n = thurn__resolution__get_packed_size(m);
    uint8_t *packed = xmalloc(n + 1);
    (void)thurn__resolution__pack(m, packed);
    Thurn__Resolution *out = thurn__resolution__unpack(NULL, n, packed);
    free(packed);
    if (!out)
        panic("a packed resolution does not unpack");
    return out;
}

/* What may turn a sender away for good is asked each time: somebody may have been added just now. */
static unsigned life_ms(const struct resolver *r, const Thurn__Resolution *answer)
{
    switch (answer->kind) {
    case THURN__RECIPIENT_KIND__RECIPIENT_LOCAL:
        return r->opts.local_ms;
    case THURN__RECIPIENT_KIND__RECIPIENT_REMOTE:
    case THURN__RECIPIENT_KIND__RECIPIENT_SUSPENDED:
        return r->opts.other_ms;
    default:
        return 0;
    }
}

/* A reference for the caller. What is not to be kept at all takes no place from what is. */
static struct resolved *remember(struct resolver *r, str address, const Thurn__Resolution *answer, uint64_t generation)
{
    struct resolved *old = map_get(&r->entries, address), *a = xnew(struct resolved);
    bool is_local = answer->kind == THURN__RECIPIENT_KIND__RECIPIENT_LOCAL;
    int64_t now = clock_mono_ms();
    a->refs = 1;
    a->answer = copy(answer);
    a->address = str_dup(address);
    a->bytes = bytes_of(address, answer);
    a->is_own = answer->n_targets == 1 && answer->targets[0]->account && !answer->targets[0]->detail[0] &&
                str_eq_nocase(str_c(answer->targets[0]->address), address);
    a->generation = generation;
    a->fresh_until_ms =
        now + (now - r->changed_mono_ms < SETTLE_MS ? MIN(life_ms(r, answer), SETTLE_MS) : life_ms(r, answer));
    a->stale_until_ms = is_local ? now + r->opts.stale_ms : a->fresh_until_ms;
    if (old && old->generation == generation) { /* else there may be room by now */
        a->full_size = old->full_size;
        a->full_until_ms = a->answer->n_targets == 1 ? old->full_until_ms : 0;
    }
    if (old)
        drop(r, old);
    if (!is_local && !life_ms(r, answer))
        return a;
    struct used *used = used_of(r, a);
    size_t max = a->is_own ? r->opts.bytes_max : r->opts.bytes_max / OTHERS_SHARE;
    while (!list_empty(&used->list) && used->bytes + a->bytes > max)
        drop(r, LIST_ITEM(list_first(&used->list), struct resolved, used));
    (void)map_put(&r->entries, address, a);
    list_push(&used->list, &a->used);
    used->bytes += a->bytes;
    return resolved_ref(a);
}

FIBER static bool ask(struct resolver *r, str address, struct resolved **out, struct err *err)
{
    ARENA(a, CALL_ARENA_MAX);
    struct rpc_call call;
    Thurn__ResolveRequest q = THURN__RESOLVE_REQUEST__INIT;
    const Thurn__ResolveReply *reply;
    uint64_t generation = r->generation;
    char *addresses[] = {arena_strz(&a, address)};
    rpc_call_init(&call, &a);
    q.n_addresses = 1;
    q.addresses = addresses;
    if (!auth_resolve(&call, r->auth, &q, &reply)) {
        *err = call.err;
        return false;
    }
    if (reply->n_resolutions != 1)
        return err_set(err, ERR_INTERNAL, "auth answered %zu resolutions for one address", reply->n_resolutions);
    *out = remember(r, address, reply->resolutions[0], generation);
    return true;
}

static struct resolved *use(struct resolver *r, struct resolved *a)
{
    list_remove(&a->used);
    list_push(&used_of(r, a)->list, &a->used);
    return resolved_ref(a);
}

bool resolver_get(struct resolver *r, str address, struct resolved **out, struct err *err)
{
    struct resolved *a = map_get(&r->entries, address);
    if (a && a->generation == r->generation && clock_mono_ms() < a->fresh_until_ms) {
        metric_inc_label(M_RESOLVER_LOOKUPS, "cached");
        *out = use(r, a);
        return true;
    }
    if (ask(r, address, out, err)) {
        trouble_over("auth");
        metric_inc_label(M_RESOLVER_LOOKUPS, "asked");
        return true;
    }
    if (err_is_temporary(err))
        trouble_note("auth", err->msg);
    a = map_get(&r->entries, address); /* again: the call suspended */
    if (!err_is_temporary(err) || !a || clock_mono_ms() >= a->stale_until_ms) {
        metric_inc_label(M_RESOLVER_LOOKUPS, "failed");
        return false;
    }
    metric_inc_label(M_RESOLVER_LOOKUPS, "stale");
    err_clear(err);
    *out = use(r, a);
    return true;
}
