/* COPY (RFC 3501 6.4.7), MOVE (RFC 6851), with COPYUID (RFC 4315). */
#include "frontend/imap/commands.h"

#include "frontend/imap/mailboxes.h"
#include "frontend/imap/parse.h"
#include "frontend/imap/view.h"
#include "proto/store_calls.h"

#define SETS_MAX (4u << 20) /* of one set: what a reply of 1 MiB can hold, as text */

static bool parse_copy(struct imap_command *c, struct imap_set *set, str *name, bool *is_valid)
{
    return imap_parse_sp(&c->args) && imap_parse_set(&c->args, c->arena, set) && imap_parse_sp(&c->args) &&
           imap_parse_mailbox(&c->args, c->arena, name, is_valid) && imap_parse_end(&c->args);
}

/* One transaction: all of them, or none (RFC 3501 6.4.7). */
FIBER static bool copy(struct imap_session *s, struct imap_command *c, struct imap_ranges ranges, int64_t to_mailbox_id,
                       bool is_move, const Thurn__CopyReply **r, struct err *err)
{
    Thurn__CopyRequest q = THURN__COPY_REQUEST__INIT;
    struct rpc_call call;
    if (ranges.n > IMAP_RANGES_MAX)
        return imap_no(c, err, ERR_LIMIT, "LIMIT", "Too many ranges in one command.");
    q.account = &s->account;
    q.mailbox_id = s->view->mailbox_id;
    q.uids = ranges.v;
    q.n_uids = ranges.n;
    q.to_mailbox_id = to_mailbox_id;
    q.is_move = is_move;
    imap_call(s, &call, c->arena);
    if (STORE_CALL(s, &call, store_copy, &q, r))
        return true;
    if (call.err.kind == ERR_LIMIT)
        c->code = S("OVERQUOTA");
    else if (call.err.kind == ERR_NOT_FOUND)
        c->code = S("TRYCREATE");
    return imap_failed(c, &call, err);
}

/* Empty when it does not fit, which the sizes of requests rule out. */
static str copyuid(struct arena *a, const Thurn__CopyReply *r)
{
    BUF(code, SETS_MAX * 2);
    buf_printf(&code, "COPYUID %u ", r->uidvalidity);
    imap_add_set(&code, r->from, r->n_from, NULL);
    buf_addc(&code, ' ');
    imap_add_set(&code, r->to, r->n_to, NULL);
    return buf_ok(&code) ? arena_str(a, buf_str(&code)) : S("");
}

FIBER static bool copy_or_move(struct imap_session *s, struct imap_command *c, bool is_move, struct err *err)
{
    struct imap_set set;
    struct imap_ranges ranges;
    str name;
    bool is_valid;
    const Thurn__Mailbox *row;
    const Thurn__CopyReply *r = NULL;
    if (!parse_copy(c, &set, &name, &is_valid))
        return imap_bad(c, err, "Expected messages and a mailbox.");
    if (!imap_set_resolve(&set, &s->view->uids, c->is_uid, true, c->arena, &ranges.v, &ranges.n))
        return imap_bad(c, err, "No such message number.");
    if (is_move && s->view->is_readonly)
        return imap_no(c, err, ERR_DENIED, "NOPERM", "The mailbox is open read-only.");
    if (!imap_mailbox_open(s, c, name, "TRYCREATE", &row, err))
        return false;
    if (ranges.n == 0) /* nothing to do, and no ranges would mean all */
        return true;
    if (!copy(s, c, ranges, row->mailbox_id, is_move, &r, err))
        return false;
    if (!c->is_uid && r->n_from == 0) { /* the numbers are still valid, the messages are gone */
        s->is_dirty = true;
        return imap_no(c, err, ERR_NOT_FOUND, "EXPUNGEISSUED", "Another session has removed these messages.");
    }
    if (row->mailbox_id == s->view->mailbox_id)
        s->is_dirty = true; /* the new ones are to be told */
    str code = r->n_from ? copyuid(c->arena, r) : S("");
    if (!is_move) {
        c->code = code;
        return true;
    }
    /* RFC 6851 4.3: COPYUID before the EXPUNGE responses, in an untagged OK. */
    if (code.n) {
        BUF(line, SETS_MAX * 2 + 64);
        buf_printf(&line, "* OK [%.*s] Moved.\r\n", STR_ARG(code));
        if (!imap_write_buf(s, &line, err))
            return false;
    }
    return imap_view_expunge(s, r->from, r->n_from, err);
}

FIBER bool cmd_copy(struct imap_session *s, struct imap_command *c, struct err *err)
{
    return copy_or_move(s, c, false, err);
}

FIBER bool cmd_move(struct imap_session *s, struct imap_command *c, struct err *err)
{
    return copy_or_move(s, c, true, err);
}
