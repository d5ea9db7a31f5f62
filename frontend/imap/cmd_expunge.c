/* EXPUNGE (RFC 3501 6.4.3) and UID EXPUNGE (RFC 4315). */
#include "frontend/imap/commands.h"

#include "frontend/imap/parse.h"
#include "frontend/imap/view.h"
#include "proto/store_calls.h"

FIBER static bool expunge(struct imap_session *s, struct imap_command *c, struct imap_ranges ranges, uint64_t *modseq,
                          struct err *err)
{
    Thurn__ExpungeRequest q = THURN__EXPUNGE_REQUEST__INIT;
    const Thurn__ExpungeReply *r;
    struct rpc_call call;
    q.account = &s->account;
    q.mailbox_id = s->view->mailbox_id;
    q.uids = ranges.v;
    q.n_uids = ranges.n;
    imap_call(s, &call, c->arena);
    if (!STORE_CALL(s, &call, store_expunge, &q, &r))
        return imap_failed(c, &call, err);
    if (r->n_uids)
        *modseq = r->modseq;
    imap_view_heard(s, r->modseq, r->n_uids ? 1 : 0);
    return imap_view_expunge(s, r->uids, r->n_uids, err);
}

FIBER bool cmd_expunge(struct imap_session *s, struct imap_command *c, struct err *err)
{
    struct imap_set set;
    struct imap_ranges ranges = {NULL, 0};
    uint64_t modseq = 0;
    if (c->is_uid && (!imap_parse_sp(&c->args) || !imap_parse_set(&c->args, c->arena, &set)))
        return imap_bad(c, err, "Expected a set of UIDs.");
    if (!imap_parse_end(&c->args))
        return imap_bad(c, err, "Malformed EXPUNGE.");
    if (s->view->is_readonly)
        return imap_no(c, err, ERR_DENIED, "NOPERM", "The mailbox is open read-only.");
    if (!c->is_uid) {
        if (!expunge(s, c, ranges, &modseq, err))
            return false;
    } else if (!imap_set_resolve(&set, &s->view->uids, true, true, c->arena, &ranges.v, &ranges.n)) {
        return imap_bad(c, err, "Malformed set.");
    }
    while (ranges.n) /* no ranges would mean all */
        if (!expunge(s, c, imap_ranges_take(&ranges, UINT64_MAX, c->arena), &modseq, err))
            return false;
    if (modseq && s->has_condstore) /* RFC 7162 3.2.7 allows it to CONDSTORE clients */
        c->code = arena_printf(c->arena, "HIGHESTMODSEQ %llu", (unsigned long long)modseq);
    return true;
}
