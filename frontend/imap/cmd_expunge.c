/* EXPUNGE (RFC 3501 6.4.3) and UID EXPUNGE (RFC 4315). */
#include "frontend/imap/commands.h"

#include "frontend/imap/expunge.h"
#include "frontend/imap/parse.h"

FIBER bool cmd_expunge(struct imap_session *s, struct imap_command *c, struct err *err)
{
    struct imap_set set;
    struct imap_expunge e = {.mailbox_id = s->view->mailbox_id};
    uint64_t modseq = 0;
    if (c->is_uid && (!imap_parse_sp(&c->args) || !imap_parse_set(&c->args, c->arena, &set)))
        return imap_bad(c, err, "Expected a set of UIDs.");
    if (!imap_parse_end(&c->args))
        return imap_bad(c, err, "Malformed EXPUNGE.");
    if (s->view->is_readonly)
        return imap_no(c, err, ERR_DENIED, "NOPERM", "The mailbox is open read-only.");
    if (!c->is_uid)
        e.ranges = imap_ranges_all(c->arena);
    else if (!imap_set_resolve(&set, &s->view->uids, true, true, c->arena, &e.ranges.v, &e.ranges.n))
        return imap_bad(c, err, "Malformed set.");
    while (e.ranges.n) {
        ARENA(a, IMAP_COMMAND_ARENA);
        const Thurn__ExpungeReply *r;
        if (!imap_expunge_next(s, &e, &a, &r, err))
            return false;
        if (r->n_uids)
            modseq = r->modseq;
        imap_view_heard(s, r->modseq, r->n_uids ? 1 : 0);
        if (!imap_view_expunge(s, r->uids, r->n_uids, err))
            return false;
    }
    if (modseq && s->has_condstore) /* RFC 7162 3.2.7 allows it to CONDSTORE clients */
        c->code = arena_printf(c->arena, "HIGHESTMODSEQ %llu", (unsigned long long)modseq);
    return true;
}
