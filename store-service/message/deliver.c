/* One message to many accounts: its body is parsed and compressed once, and recipients on one shard share a commit. */
#include "base/metrics.h"
#include "store-service/message/add.h"
#include "store-service/service.h"

#define RECIPIENTS_MAX 1000u
#define SHARDS_AT_ONCE 16u

struct delivery {
    struct store *store;
    const Thurn__DeliverRequest *q;
    struct content *content;
    struct arena *arena;
    struct add *adds; /* one a recipient, in order */
    struct shard **shards;
};

struct shard_delivery {
    struct delivery *d;
    struct shard *shard;
};

static void fail_all(struct delivery *d, const struct shard *sh, int64_t tenant_id, const struct err *err)
{
    for (size_t i = 0; i < d->q->n_recipients; i++) {
        struct add *ad = &d->adds[i];
        if (d->shards[i] == sh && (tenant_id == 0 || ad->ref->tenant_id == tenant_id) && !err_is_set(&ad->err))
            ad->err = *err;
    }
}

/* The body has to be on the shard for each tenant that gets it, before anything refers to it. */
FIBER static void place(struct delivery *d, struct shard *sh)
{
    int64_t *done = arena_array(d->arena, int64_t, d->q->n_recipients);
    size_t n = 0;
    for (size_t i = 0; i < d->q->n_recipients; i++) {
        size_t k = 0;
        int64_t tenant_id = d->adds[i].ref ? d->adds[i].ref->tenant_id : 0;
        if (d->shards[i] != sh)
            continue;
        while (k < n && done[k] != tenant_id)
            k++;
        if (k < n)
            continue;
        done[n++] = tenant_id;
        struct err err = ERR_INIT;
        if (!content_place(d->store, d->q->body, d->content, sh, tenant_id, &err)) {
            (void)content_must_be(d->q->body, &err);
            fail_all(d, sh, tenant_id, &err);
        }
    }
}

/* The adds of one shard that nothing speaks against yet, as one request; the results go back to their places. */
FIBER static void deliver_shard(void *arg)
{
    struct shard_delivery *sd = arg;
    struct delivery *d = sd->d;
    size_t n = 0;
    if (!d->content->is_inline)
        place(d, sd->shard);
    struct add *v = arena_array(d->arena, struct add, d->q->n_recipients);
    size_t *index = arena_array(d->arena, size_t, d->q->n_recipients);
    for (size_t i = 0; i < d->q->n_recipients; i++) {
        if (d->shards[i] != sd->shard || err_is_set(&d->adds[i].err))
            continue;
        index[n] = i;
        v[n++] = d->adds[i];
    }
    if (n == 0)
        return;
    struct add_request rq = {.v = v, .n = n, .arena = d->arena};
    struct err err = ERR_INIT;
    if (!add_run(sd->shard, &rq, &err))
        fail_all(d, sd->shard, 0, &err);
    else
        for (size_t i = 0; i < n; i++)
            d->adds[index[i]] = v[i];
}

FIBER static bool deliver_shards(struct delivery *d, struct err *err)
{
    struct store *s = d->store;
    struct shard_delivery *sds = arena_array(d->arena, struct shard_delivery, s->n_shards);
    size_t n = 0;
    for (unsigned k = 0; k < s->n_shards; k++) {
        bool is_used = false;
        for (size_t i = 0; i < d->q->n_recipients && !is_used; i++)
            is_used = d->shards[i] == &s->shards[k];
        if (is_used)
            sds[n++] = (struct shard_delivery){d, &s->shards[k]};
    }
    if (n == 1) {
        deliver_shard(&sds[0]);
        return true;
    }
    for (size_t from = 0; from < n; from += SHARDS_AT_ONCE) {
        FIBER_GROUP(g, SHARDS_AT_ONCE);
        for (size_t i = from; i < n && i < from + SHARDS_AT_ONCE; i++)
            if (!fiber_group_spawn(&g, "store-deliver", deliver_shard, &sds[i], err))
                return false;
        if (!fiber_group_wait(&g, err))
            return false;
    }
    return true;
}

static bool add_of_recipient(struct delivery *d, size_t i, struct err *err)
{
    const Thurn__DeliverRecipient *r = d->q->recipients[i];
    struct add *ad = &d->adds[i];
    if (!r->account || r->account->account_id <= 0)
        return err_set(err, ERR_INVALID, "no account given");
    d->shards[i] = store_shard(d->store, r->account->shard, err);
    if (!d->shards[i])
        return false;
    if (r->delivery_key.len != 0 && r->delivery_key.len != 32)
        return err_set(err, ERR_INVALID, "a delivery key has 32 bytes");
    if (r->flags & ~(uint32_t)ALL_FLAGS)
        return err_set(err, ERR_INVALID, "unknown flags");
    str *path = arena_array(d->arena, str, r->n_path);
    for (size_t k = 0; k < r->n_path; k++)
        path[k] = str_c(r->path[k]);
    *ad = (struct add){.ref = r->account,
                       .content = d->content,
                       .path = path,
                       .n_path = r->n_path,
                       .role = r->role,
                       .flags = r->flags,
                       .keywords = r->keywords,
                       .n_keywords = r->n_keywords,
                       .key = rpc_str(r->delivery_key),
                       .day = r->day};
    ad->target = r->n_path ? ADD_TO_PATH : r->role > THURN__MAILBOX_ROLE__ROLE_INBOX ? ADD_TO_ROLE : ADD_TO_INBOX;
    return true;
}

FIBER bool store_do_deliver(struct store *s, struct rpc_call *c, const Thurn__DeliverRequest *q, Thurn__DeliverReply *r,
                            struct err *err)
{
    struct content content;
    struct delivery d = {.store = s, .q = q, .content = &content, .arena = c->arena};
    if (q->n_recipients == 0 || q->n_recipients > RECIPIENTS_MAX)
        return err_set(err, q->n_recipients ? ERR_LIMIT : ERR_INVALID, "1 to %u recipients", RECIPIENTS_MAX);
    if (!disk_room_take(s->room, "message", err))
        return false;
    if (!content_of_body(s, q->body, rpc_str(q->prefix), c->arena, &content, err))
        return content_must_be(q->body, err);
    d.adds = arena_array(c->arena, struct add, q->n_recipients);
    d.shards = arena_array(c->arena, struct shard *, q->n_recipients);
    for (size_t i = 0; i < q->n_recipients; i++)
        (void)!add_of_recipient(&d, i, &d.adds[i].err);
    if (!deliver_shards(&d, err))
        return false;
    r->results = arena_array(c->arena, Thurn__DeliverReply__Result *, q->n_recipients);
    r->n_results = q->n_recipients;
    for (size_t i = 0; i < q->n_recipients; i++) {
        const struct add *ad = &d.adds[i];
        Thurn__DeliverReply__Result *p = r->results[i] = arena_new(c->arena, Thurn__DeliverReply__Result);
        thurn__deliver_reply__result__init(p);
        p->error_kind = ad->err.kind;
        p->error = arena_strz(c->arena, str_c(ad->err.msg));
        metric_inc_label(M_STORE_DELIVERIES, err_is_set(&ad->err) ? err_kind_name(ad->err.kind) : "ok");
        if (err_is_set(&ad->err))
            continue;
        p->mailbox_id = ad->in_mailbox_id;
        p->uid = (uint32_t)ad->uid;
        p->is_duplicate = ad->is_duplicate;
    }
    return true;
}
