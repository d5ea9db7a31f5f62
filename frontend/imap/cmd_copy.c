/*
 * COPY (RFC 3501 6.4.7), MOVE (RFC 6851), with COPYUID (RFC 4315).
 *
 * The store copies up to 50,000 messages in one transaction; more go in slices. A COPY whose later slice fails takes
 * the earlier ones back, so that the destination is as it was. A MOVE tells of each slice when it is done: what was
 * moved stays moved (RFC 6851 3.3).
 */
#include "frontend/imap/commands.h"

#include "base/log.h"
#include "frontend/imap/expunge.h"
#include "frontend/imap/mailboxes.h"
#include "frontend/imap/parse.h"
#include "frontend/imap/view.h"
#include "proto/store_calls.h"

#define SLICE_MESSAGES 50000u /* store.proto: of one Copy */
#define SETS_MAX (16u << 20)  /* of one set as text: more than a million UIDs with gaps */

struct copy_run {
    struct imap_session *s;
    struct imap_command *c;
    struct imap_ranges rest;
    str to_name;
    int64_t to_mailbox_id; /* that it was at the first slice: the others follow it */
    bool is_move;
    uint32_t uidvalidity;  /* of the destination; 0 = nothing was there to be copied */
    struct uid_map made;   /* UIDs in the destination */
    struct buf *from, *to; /* COPYUID's sets */
};

static bool parse_copy(struct imap_command *c, struct imap_set *set, str *name, bool *is_valid)
{
    return imap_parse_sp(&c->args) && imap_parse_set(&c->args, c->arena, set) && imap_parse_sp(&c->args) &&
           imap_parse_mailbox(&c->args, c->arena, name, is_valid) && imap_parse_end(&c->args);
}

static void note_slice(struct copy_run *run, const Thurn__CopyReply *r)
{
    run->uidvalidity = r->uidvalidity;
    for (size_t i = 0; i < r->n_to; i++)
        (void)uid_map_append(&run->made, (uint32_t)r->to[i]->first, (uint32_t)r->to[i]->last); /* ascending */
    if (run->from->n) {
        buf_addc(run->from, ',');
        buf_addc(run->to, ',');
    }
    imap_add_set(run->from, r->from, r->n_from, NULL);
    imap_add_set(run->to, r->to, r->n_to, NULL);
}

/* RFC 6851 4.3: COPYUID before the EXPUNGE responses, in an untagged OK. */
FIBER static bool tell_moved(struct copy_run *run, const Thurn__CopyReply *r, struct err *err)
{
    BUF(line, SETS_MAX);
    buf_printf(&line, "* OK [COPYUID %u ", r->uidvalidity);
    imap_add_set(&line, r->from, r->n_from, NULL);
    buf_addc(&line, ' ');
    imap_add_set(&line, r->to, r->n_to, NULL);
    buf_add(&line, S("] Moved.\r\n"));
    run->uidvalidity = r->uidvalidity;
    return imap_write_buf(run->s, &line, err) && imap_view_expunge(run->s, r->from, r->n_from, err);
}

/* After a TIMEOUT it may have been done: the same request says what came of it (store.proto, "Repeating"). */
FIBER static bool call_copy(struct imap_session *s, struct rpc_call *call, const Thurn__CopyRequest *q,
                            const Thurn__CopyReply **r, struct arena *a)
{
    imap_call(s, call, a);
    if (STORE_CALL(s, call, store_copy, q, r))
        return true;
    if (call->err.kind != ERR_TIMEOUT)
        return false;
    imap_call(s, call, a);
    return STORE_CALL(s, call, store_copy, q, r);
}

FIBER static bool copy_slice(struct copy_run *run, struct err *err)
{
    ARENA(a, IMAP_COMMAND_ARENA);
    struct imap_session *s = run->s;
    struct imap_ranges some = imap_ranges_take(&run->rest, s->view, SLICE_MESSAGES, &a);
    Thurn__CopyRequest q = THURN__COPY_REQUEST__INIT;
    const Thurn__CopyReply *r;
    struct rpc_call call;
    q.account = &s->account;
    q.mailbox_id = s->view->mailbox_id;
    q.uids = some.v;
    q.n_uids = some.n;
    q.to_mailbox_id = run->to_mailbox_id;
    if (!run->to_mailbox_id)
        user_account_mailbox_path(&a, run->to_name, &q.to_path, &q.n_to_path);
    q.is_move = run->is_move;
    q.request_id = user_account_request_id(&a);
    if (!call_copy(s, &call, &q, &r, &a))
        return imap_destination_failed(s, run->c, run->to_name, &call, err);
    run->to_mailbox_id = r->to_mailbox_id;
    if (r->n_from == 0)
        return true;
    if (run->is_move)
        return tell_moved(run, r, err);
    note_slice(run, r);
    return true;
}

/* RFC 3501 6.4.7: after a failure the destination is as it was before. */
FIBER static void undo(struct copy_run *run)
{
    struct imap_expunge e = {run->to_mailbox_id, imap_ranges_of(&run->made, run->c->arena), true};
    while (e.ranges.n) {
        ARENA(page, IMAP_COMMAND_ARENA);
        const Thurn__ExpungeReply *r;
        struct err why = ERR_INIT;
        if (!imap_expunge_next(run->s, &e, &page, &r, &why)) {
            log_error("imap.copy_left", KV_I64("account_id", run->s->account.account_id),
                      KV_I64("mailbox_id", run->to_mailbox_id), KV_I64("messages", uid_map_count(&run->made)),
                      KV_I64("from_uid", e.ranges.v[0]->first), KV_ERR(&why));
            return;
        }
    }
}

/* Without COPYUID when it does not fit: RFC 4315 allows that. */
static void add_copyuid(struct copy_run *run)
{
    if (!run->from->n || !buf_ok(run->from) || !buf_ok(run->to))
        return;
    run->c->code = arena_printf(run->c->arena, "COPYUID %u %s %s", run->uidvalidity, buf_z(run->from), buf_z(run->to));
}

FIBER static bool run_slices(struct copy_run *run, struct err *err)
{
    struct imap_session *s = run->s;
    while (run->rest.n) {
        if (copy_slice(run, err))
            continue;
        if (run->made.n)
            undo(run);
        return false;
    }
    if (!run->c->is_uid && !run->uidvalidity) /* the numbers are still valid, the messages are gone */
        return imap_view_lost(s, run->c, err);
    if (run->to_mailbox_id == s->view->mailbox_id)
        s->is_dirty = true; /* the new ones are to be told */
    add_copyuid(run);
    return true;
}

FIBER static bool copy_or_move(struct imap_session *s, struct imap_command *c, bool is_move, struct err *err)
{
    BUF(from, SETS_MAX);
    BUF(to, SETS_MAX);
    struct copy_run run = {.s = s, .c = c, .is_move = is_move, .from = &from, .to = &to};
    struct imap_set set;
    bool is_valid;
    const Thurn__Mailbox *row;
    if (!parse_copy(c, &set, &run.to_name, &is_valid))
        return imap_bad(c, err, "Expected messages and a mailbox.");
    if (!imap_set_resolve(&set, &s->view->uids, c->is_uid, true, c->arena, &run.rest.v, &run.rest.n))
        return imap_bad(c, err, "No such message number.");
    if (is_move && s->view->is_readonly)
        return imap_no(c, err, ERR_DENIED, "NOPERM", "The mailbox is open read-only.");
    if (!is_valid)
        return imap_no(c, err, ERR_INVALID, "CANNOT", "Not a valid mailbox name.");
    if (run.rest.n == 0)
        return imap_mailbox_open(s, c, run.to_name, "TRYCREATE", &row, err);
    bool ok = run_slices(&run, err);
    uid_map_done(&run.made);
    return ok;
}

FIBER bool cmd_copy(struct imap_session *s, struct imap_command *c, struct err *err)
{
    return copy_or_move(s, c, false, err);
}

FIBER bool cmd_move(struct imap_session *s, struct imap_command *c, struct err *err)
{
    return copy_or_move(s, c, true, err);
}
