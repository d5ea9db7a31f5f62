/* STORE (RFC 3501 6.4.6, RFC 7162 3.1.3). */
#include "frontend/imap/commands.h"

#include "frontend/imap/parse.h"
#include "frontend/imap/view.h"
#include "proto/store_calls.h"

#define MODIFIED_MAX (16u << 20) /* of the sets: more than a million ranges */
#define SLICE_MESSAGES 4000u     /* of one call: one transaction, and a reply that fits into 1 MiB */

struct store_run {
    struct imap_set set;
    bool has_unchanged_since;
    uint64_t unchanged_since;
    Thurn__StoreOp op;
    bool is_silent;
    struct imap_flags flags;
    struct buf *modified; /* MODIFIED sets, joined by commas */
    uint64_t n_gone;      /* messages that another session has removed, as far as it shows */
};

/* set [SP "(UNCHANGEDSINCE" SP n ")"] SP ["+" / "-"] "FLAGS" [".SILENT"] SP flags */
static bool parse_store(struct cursor *c, struct arena *a, struct store_run *run)
{
    if (!imap_parse_sp(c) || !imap_parse_set(c, a, &run->set) || !imap_parse_sp(c))
        return false;
    if (cur_skip(c, '(')) {
        run->has_unchanged_since = true;
        if (!imap_parse_word(c, S("UNCHANGEDSINCE")) || !imap_parse_sp(c) ||
            !imap_parse_u64(c, &run->unchanged_since) || !cur_skip(c, ')') || !imap_parse_sp(c))
            return false;
    }
    run->op = cur_skip(c, '+')   ? THURN__STORE_OP__STORE_ADD
              : cur_skip(c, '-') ? THURN__STORE_OP__STORE_REMOVE
                                 : THURN__STORE_OP__STORE_REPLACE;
    run->is_silent = imap_parse_word(c, S("FLAGS.SILENT"));
    if (!run->is_silent && !imap_parse_word(c, S("FLAGS")))
        return false;
    return imap_parse_sp(c) && imap_parse_flags(c, a, false, &run->flags) && imap_parse_end(c);
}

FIBER static bool tell(struct imap_session *s, const struct imap_command *c, const struct store_run *run,
                       const Thurn__StoreFlagsReply *r, struct buf *out, struct err *err)
{
    if (run->is_silent && !s->has_condstore)
        return true;
    if (!run->is_silent)
        (void)imap_view_announce(s, r->keyword_names, r->n_keyword_names, out); /* it goes out with them */
    for (size_t i = 0; i < r->n_messages; i++) {
        uint32_t seq = uid_map_seq(&s->view->uids, r->messages[i]->uid);
        if (seq)
            imap_add_flag_update(s, out, r->messages[i], seq, c->is_uid, !run->is_silent, r->keyword_names,
                                 r->n_keyword_names);
        if (!fiber_yield_if_due(err))
            return false;
    }
    return true;
}

/* RFC 3501 6.4.6: the new value is told for each message, also where nothing changed. The store reports changes only,
 * so when some are missing all are asked for, but those that failed a condition. */
FIBER static bool tell_all(struct imap_session *s, struct imap_command *c, struct store_run *run,
                           struct imap_ranges slice, const Thurn__StoreFlagsReply *stored, struct arena *outer,
                           struct buf *out, struct err *err)
{
    struct uid_map passed = {0}, failed = {0};
    uint32_t from = 0;
    imap_view_within(s->view, slice.v, slice.n, &passed);
    imap_view_within(s->view, stored->modified, stored->n_modified, &failed);
    uid_map_subtract(&passed, &failed);
    struct imap_ranges ranges = imap_ranges_of(&passed, outer);
    uint64_t n_missing = uid_map_count(&passed);
    uid_map_done(&passed);
    uid_map_done(&failed);
    do {
        ARENA(a, IMAP_COMMAND_ARENA);
        Thurn__FetchRequest q = THURN__FETCH_REQUEST__INIT;
        const Thurn__FetchReply *r;
        struct rpc_call call;
        imap_ranges_skip(&ranges, from);
        if (ranges.n == 0)
            break;
        q.account = &s->account;
        q.mailbox_id = s->view->mailbox_id;
        q.uids = ranges.v;
        q.n_uids = ranges.n;
        imap_call(s, &call, &a);
        if (!STORE_CALL(s, &call, store_fetch, &q, &r))
            return imap_failed(c, IMAP_AT_MAILBOX, &call, err);
        (void)imap_view_announce(s, r->keyword_names, r->n_keyword_names, out);
        for (size_t i = 0; i < r->n_messages; i++) {
            uint32_t seq = uid_map_seq(&s->view->uids, r->messages[i]->uid);
            n_missing -= seq != 0;
            if (seq)
                imap_add_flag_update(s, out, r->messages[i], seq, c->is_uid, true, r->keyword_names,
                                     r->n_keyword_names);
            if (!fiber_yield_if_due(err))
                return false;
        }
        from = r->next_uid;
    } while (from);
    run->n_gone += n_missing;
    return true;
}

FIBER static bool store_slice(struct imap_session *s, struct imap_command *c, struct store_run *run,
                              struct imap_ranges ranges, struct err *err)
{
    ARENA(a, IMAP_COMMAND_ARENA);
    Thurn__StoreFlagsRequest q = THURN__STORE_FLAGS_REQUEST__INIT;
    const Thurn__StoreFlagsReply *r;
    struct rpc_call call;
    q.account = &s->account;
    q.mailbox_id = s->view->mailbox_id;
    q.uids = ranges.v;
    q.n_uids = ranges.n;
    q.op = run->op;
    q.flags = run->flags.bits;
    q.keywords = run->flags.keywords;
    q.n_keywords = run->flags.n_keywords;
    q.unchanged_since = run->unchanged_since;
    q.has_unchanged_since = run->has_unchanged_since;
    imap_call(s, &call, &a);
    if (!STORE_CALL(s, &call, store_store_flags, &q, &r))
        return imap_failed(c, IMAP_AT_MAILBOX, &call, err);
    imap_view_own(s, r, !run->is_silent);
    if (r->n_modified) {
        buf_add(run->modified, run->modified->n ? S(",") : S("MODIFIED "));
        imap_add_set(run->modified, r->modified, r->n_modified, c->is_uid ? NULL : &s->view->uids);
    }
    BUF(out, 64u << 20);
    bool is_partial = r->n_messages + imap_view_count(s->view, r->modified, r->n_modified) <
                      imap_view_count(s->view, ranges.v, ranges.n);
    if (is_partial && !run->is_silent) {
        if (!tell_all(s, c, run, ranges, r, &a, &out, err))
            return false;
    } else if (!tell(s, c, run, r, &out, err)) {
        return false;
    }
    return (out.n == 0 && buf_ok(&out)) || imap_write_buf(s, &out, err);
}

FIBER bool cmd_store(struct imap_session *s, struct imap_command *c, struct err *err)
{
    struct imap_ranges ranges;
    BUF(modified, MODIFIED_MAX);
    struct store_run run = {.modified = &modified};
    if (!parse_store(&c->args, c->arena, &run))
        return imap_bad(c, err, "Malformed STORE.");
    if (!imap_set_resolve(&run.set, &s->view->uids, c->is_uid, true, c->arena, &ranges.v, &ranges.n))
        return imap_bad(c, err, "No such message number.");
    if (s->view->is_readonly)
        return imap_no(c, err, ERR_DENIED, "NOPERM", "The mailbox is open read-only.");
    if (run.has_unchanged_since && !imap_enable_condstore(s, err))
        return false;
    while (ranges.n)
        if (!store_slice(s, c, &run, imap_ranges_take(&ranges, s->view, SLICE_MESSAGES, c->arena), err))
            return false;
    if (!buf_ok(&modified)) /* which of them were not changed cannot be said: the client has to look */
        return imap_no(c, err, ERR_LIMIT, "LIMIT", "Too many messages failed the condition.");
    if (modified.n) {
        c->code = arena_str(c->arena, buf_str(&modified));
        c->text = S("Conditional STORE failed for some.");
    }
    return run.n_gone == 0 || c->is_uid || imap_view_lost(s, c, err); /* .SILENT: OK (RFC 2180 4.2.1) */
}
