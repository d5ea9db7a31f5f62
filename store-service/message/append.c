#include "store-service/account/op.h"
#include "store-service/mailbox/mailbox.h"
#include "store-service/message/add.h"
#include "store-service/message/keyword.h"

#define ITEMS_MAX 200u

FIBER static bool item(struct store *s, struct rpc_call *c, const Thurn__AppendRequest *q, const Thurn__AppendItem *it,
                       struct shard *sh, str name, struct add *ad, struct err *err)
{
    struct content *content = arena_new(c->arena, struct content);
    if (it->flags & ~(uint32_t)ALL_FLAGS)
        return err_set(err, ERR_INVALID, "unknown flags");
    /* A hash is no secret: who knows one must not get at another tenant's mail. */
    if (it->body && it->body->blob && it->body->blob->tenant_id != q->account->tenant_id)
        return err_set(err, ERR_DENIED, "a body of another tenant");
    if (!content_of_body(s, it->body, STR_NONE, c->arena, content, err) ||
        !content_place(s, it->body, content, sh, q->account->tenant_id, err))
        return content_must_be(it->body, err);
    *ad = (struct add){.ref = q->account,
                       .content = content,
                       .target = name.n ? ADD_TO_NAME : ADD_TO_ID,
                       .mailbox_id = q->mailbox_id,
                       .name = name,
                       .flags = it->flags,
                       .keywords = it->keywords,
                       .n_keywords = it->n_keywords,
                       .internal_unix = it->internal_unix,
                       .internal_zone = it->internal_zone};
    return true;
}

FIBER bool store_do_append(struct store *s, struct rpc_call *c, const Thurn__AppendRequest *q, Thurn__AppendReply *r,
                           struct err *err)
{
    struct op op; /* only for its checks */
    str name = STR_NONE;
    if (!op_init(&op, s, q->account, err) || !disk_room_take(s->room, "message", err))
        return false;
    if (q->n_items == 0 || q->n_items > ITEMS_MAX)
        return err_set(err, q->n_items ? ERR_LIMIT : ERR_INVALID, "1 to %u messages", ITEMS_MAX);
    struct add_request rq = {
        .v = arena_array(c->arena, struct add, q->n_items), .n = q->n_items, .is_all_or_none = true, .arena = c->arena};
    if (!once_check_id(q->request_id, &rq.request_id, err) ||
        (q->n_path && !mailbox_path_given(q->path, q->n_path, c->arena, &name, err)))
        return false;
    for (size_t i = 0; i < q->n_items; i++)
        if (!item(s, c, q, q->items[i], op.shard, name, &rq.v[i], err))
            return false;
    if (!add_run(op.shard, &rq, err)) {
        struct err why = ERR_INIT;
        if (!rq.is_dictionary_full || !keywords_give_back(s, q->account, &why))
            return false;
        err_clear(err);
        if (!add_run(op.shard, &rq, err))
            return false;
    }
    return once_unpack(rq.reply, c->arena, &r->base, err);
}
