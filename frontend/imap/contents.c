#include "frontend/imap/contents.h"

#include "proto/store_calls.h"

FIBER bool imap_search_pages(struct imap_session *s, Thurn__SearchRequest *q,
                             bool (*take)(void *arg, const Thurn__SearchReply *r, struct err *err), void *arg,
                             struct err *err)
{
    q->account = &s->account;
    do {
        ARENA(a, IMAP_COMMAND_ARENA);
        const Thurn__SearchReply *r;
        struct rpc_call call;
        imap_call(s, &call, &a);
        if (!STORE_CALL(s, &call, store_search, q, &r))
            return err_set(err, call.err.kind, "%s", call.err.msg);
        if (!take(arg, r, err))
            return false;
        q->from_uid = r->next_uid;
    } while (q->from_uid);
    return true;
}

static bool add_page(void *arg, const Thurn__SearchReply *r, struct err *err)
{
    struct imap_contents *c = arg;
    for (size_t i = 0; i < r->n_uids; i++)
        if (!uid_map_append(&c->uids, (uint32_t)r->uids[i]->first, (uint32_t)r->uids[i]->last))
            return err_set(err, ERR_INTERNAL, "a range of UIDs runs backwards");
    c->says_seen = c->says_seen && (r->n_uids == 0 || r->first_unseen || r->last_seen);
    if (!c->first_unseen)
        c->first_unseen = r->first_unseen;
    c->last_seen = MAX(c->last_seen, r->last_seen);
    return true;
}

FIBER bool imap_contents_load(struct imap_session *s, int64_t mailbox_id, uint32_t from_uid, struct imap_contents *out,
                              struct err *err)
{
    Thurn__SearchRequest q = THURN__SEARCH_REQUEST__INIT;
    q.mailbox_id = mailbox_id;
    q.from_uid = from_uid;
    out->says_seen = true;
    return imap_search_pages(s, &q, add_page, out, err);
}

void imap_contents_done(struct imap_contents *c)
{
    uid_map_done(&c->uids);
}
