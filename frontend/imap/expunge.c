#include "frontend/imap/expunge.h"

#include "proto/store_calls.h"

struct imap_ranges imap_ranges_all(struct arena *a)
{
    struct imap_ranges all = {arena_array(a, Thurn__Range *, 1), 1};
    all.v[0] = arena_new(a, Thurn__Range);
    thurn__range__init(all.v[0]);
    all.v[0]->first = 1;
    all.v[0]->last = UINT32_MAX;
    return all;
}

FIBER bool imap_expunge_next(struct imap_session *s, struct imap_expunge *e, struct arena *a,
                             const Thurn__ExpungeReply **r, struct err *err)
{
    Thurn__ExpungeRequest q = THURN__EXPUNGE_REQUEST__INIT;
    struct rpc_call call;
    q.account = &s->account;
    q.mailbox_id = e->mailbox_id;
    q.uids = e->ranges.v;
    q.n_uids = MIN(e->ranges.n, (size_t)IMAP_RANGES_MAX);
    q.is_any = e->is_any;
    q.is_paged = true;
    imap_call(s, &call, a);
    if (!STORE_CALL(s, &call, store_expunge, &q, r))
        return err_set(err, call.err.kind, "%s", call.err.msg);
    if ((*r)->next_uid) {
        imap_ranges_skip(&e->ranges, (*r)->next_uid);
    } else {
        e->ranges.v += q.n_uids;
        e->ranges.n -= q.n_uids;
    }
    return true;
}
