/*
 * APPEND (RFC 3501 6.3.11, RFC 4315, RFC 7889). The message is the one literal that is not read with the command: a
 * small one is gathered and goes with the request, a large one streams from the client into the store while it arrives.
 * What a client sends without waiting is read to its end whatever happens, so that the next command is found.
 */
#include "frontend/imap/commands.h"

#include "base/clock.h"
#include "base/metrics.h"
#include "frontend/imap/mailboxes.h"
#include "frontend/imap/parse.h"
#include "mail/date.h"
#include "proto/store_calls.h"

#define INLINE_MAX (512u * 1024) /* store.proto: Body.content */
#define SKIP_MAX (256ull << 20)  /* of a refused message that the client is sending already */

struct append {
    str mailbox;
    bool is_valid;
    struct imap_flags flags;
    int64_t internal_unix; /* 0 = now */
    int zone_minutes;
};

/* The literal as a source for the store. */
struct literal_source {
    struct rpc_source source;
    struct imap_session *s;
    uint64_t left;
    bool is_broken; /* the connection, not the store */
};

static bool parse_append(struct imap_command *c, struct append *p)
{
    struct cursor *at = &c->args;
    if (!imap_parse_sp(at) || !imap_parse_mailbox(at, c->arena, &p->mailbox, &p->is_valid) || !imap_parse_sp(at))
        return false;
    if (cur_peek(at) == '(' && (!imap_parse_flags(at, c->arena, true, &p->flags) || !imap_parse_sp(at)))
        return false;
    if (cur_peek(at) == '"') {
        str date;
        if (!imap_parse_string(at, c->arena, &date) || !imap_parse_sp(at) ||
            !date_parse_imap(date, &p->internal_unix, &p->zone_minutes))
            return false;
    }
    return imap_parse_end(at);
}

/* --- reading the message --- */

FIBER static bool take_piece(struct literal_source *l, str *piece, struct err *err)
{
    *piece = S("");
    if (l->left == 0)
        return true;
    if (!stream_read_some(l->s->stream, (size_t)MIN(l->left, (uint64_t)RPC_CHUNK_MAX), piece, err)) {
        l->is_broken = true;
        imap_end(l->s, err->kind == ERR_TIMEOUT ? IMAP_END_TIMEOUT : IMAP_END_BROKEN);
        return false;
    }
    l->left -= piece->n;
    return true;
}

FIBER static bool read_source(struct rpc_source *source, str *piece, struct err *err)
{
    return take_piece(CONTAINER_OF(source, struct literal_source, source), piece, err);
}

/* Read what the client still sends of a message that nobody wants. False: the session ends. */
FIBER static bool skip_rest(struct literal_source *l, struct err *err)
{
    str piece;
    if (l->left > SKIP_MAX) {
        imap_end(l->s, IMAP_END_LIMIT);
        return err_set(err, ERR_LIMIT, "literal too long");
    }
    while (l->left)
        if (!take_piece(l, &piece, err))
            return false;
    return true;
}

/*
 * The line end after the literal. Something else there is another message (RFC 3502), which is not announced, or the
 * size was wrong: then what follows is the rest of a message, and must not be taken for commands.
 */
FIBER static bool take_line_end(struct imap_session *s, struct imap_command *c, struct err *err)
{
    struct err why = ERR_INIT;
    str line;
    bool is_line = stream_read_line(s->stream, imap_line_max(s), false, &line, &why);
    if (is_line && str_empty(line))
        return true;
    if (!is_line && why.kind != ERR_LIMIT) {
        imap_end(s, why.kind == ERR_TIMEOUT ? IMAP_END_TIMEOUT : IMAP_END_BROKEN);
        return err_set(err, why.kind, "%s", why.msg);
    }
    metric_inc_label(M_IMAP_REFUSED, "append_size");
    imap_end(s, IMAP_END_LITERAL);
    return imap_bad(c, err, "Expected one message of the size that was given.");
}

/* All up to the next command. False: the session ends. */
FIBER static bool take_rest(struct literal_source *l, struct imap_command *c, struct err *err)
{
    if (l->is_broken)
        return err_set(err, ERR_UNAVAILABLE, "connection lost in APPEND");
    return skip_rest(l, err) && take_line_end(l->s, c, err);
}

/* --- storing --- */

FIBER static bool put_blob(struct imap_session *s, struct imap_command *c, struct literal_source *l,
                           const Thurn__BlobRef **blob, struct err *err)
{
    Thurn__PutBlobRequest q = THURN__PUT_BLOB_REQUEST__INIT;
    const Thurn__PutBlobReply *r;
    struct rpc_call call;
    q.account = &s->account;
    q.tenant_id = s->account.tenant_id;
    q.size_max = l->left;
    imap_call(s, &call, c->arena);
    call.deadline_mono_ms = fiber_deadline(); /* as long as the transfer may take */
    call.body = &l->source;
    if (!store_put_blob(&call, s->server->opts.store, &q, &r)) /* the source cannot be read again: no second try */
        return imap_failed(c, IMAP_AT_BODY, &call, err);
    *blob = r->blob;
    return true;
}

FIBER static bool read_inline(struct literal_source *l, struct buf *content, struct err *err)
{
    str piece;
    while (l->left) {
        if (!take_piece(l, &piece, err))
            return false;
        buf_add(content, piece);
    }
    return true;
}

FIBER static bool append(struct imap_session *s, struct imap_command *c, const struct append *p, Thurn__Body *body,
                         struct err *err)
{
    Thurn__AppendItem item = THURN__APPEND_ITEM__INIT, *items[] = {&item};
    Thurn__AppendRequest q = THURN__APPEND_REQUEST__INIT;
    const Thurn__AppendReply *r;
    struct rpc_call call;
    item.body = body;
    item.flags = p->flags.bits;
    item.keywords = p->flags.keywords;
    item.n_keywords = p->flags.n_keywords;
    item.internal_unix = p->internal_unix;
    item.internal_zone = p->zone_minutes;
    q.account = &s->account;
    user_account_mailbox_path(c->arena, p->mailbox, &q.path,
                              &q.n_path); /* as it is then, not as it was before the literal */
    q.items = items;
    q.n_items = 1;
    q.request_id = user_account_request_id(c->arena);
    imap_call(s, &call, c->arena);
    if (!STORE_CALL(s, &call, store_append, &q, &r))
        return imap_destination_failed(s, c, p->mailbox, &call, err);
    if (r->n_uids == 1)
        c->code = arena_printf(c->arena, "APPENDUID %u %u", r->uidvalidity, r->uids[0]);
    if (s->view && s->view->uidvalidity == r->uidvalidity) /* no two of an account have the same */
        s->is_dirty = true;                                /* EXISTS before the tagged reply */
    return true;
}

/* The literal is coming, or here. */
FIBER static bool store_message(struct imap_session *s, struct imap_command *c, const struct append *p,
                                struct literal_source *l, struct err *err)
{
    Thurn__Body body = THURN__BODY__INIT;
    BUF(content, INLINE_MAX);
    bool ok;
    if (l->left <= INLINE_MAX) {
        ok = read_inline(l, &content, err);
        body.content = rpc_bytes(buf_str(&content));
    } else {
        const Thurn__BlobRef *blob = NULL;
        ok = put_blob(s, c, l, &blob, err);
        body.blob = (Thurn__BlobRef *)(uintptr_t)blob;
    }
    struct err why = ERR_INIT;
    bool in_step = take_rest(l, c, &why);
    if (!ok)
        return false;
    if (!in_step)
        return err_set(err, why.kind, "%s", why.msg);
    return append(s, c, p, &body, err);
}

static bool check(struct imap_session *s, struct imap_command *c, struct append *p, struct err *err)
{
    if (!parse_append(c, p))
        return imap_bad(c, err, "Malformed APPEND.");
    if (!c->has_literal)
        return imap_bad(c, err, "Expected a literal.");
    if (c->literal == 0)
        return imap_no(c, err, ERR_INVALID, "CANNOT", "An empty message cannot be stored.");
    if (c->literal > s->server->opts.limits.message_bytes) {
        metric_inc_label(M_IMAP_REFUSED, "message");
        return imap_no(c, err, ERR_LIMIT, "TOOBIG", "Message too big."); /* RFC 7889 */
    }
    return true;
}

FIBER bool cmd_append(struct imap_session *s, struct imap_command *c, struct err *err)
{
    struct append p = {.mailbox = S("")};
    struct literal_source l = {.source.read = read_source, .s = s, .left = c->has_literal ? c->literal : 0};
    const Thurn__Mailbox *row;
    bool is_wanted = check(s, c, &p, err) && imap_mailbox_open(s, c, p.mailbox, "TRYCREATE", &row, err);
    if (!is_wanted && (!c->has_literal || c->is_sync_literal))
        return false;
    if (c->is_sync_literal && (!imap_write(s, S("+ OK\r\n"), err) || !stream_flush(s->stream, err))) {
        imap_end(s, IMAP_END_BROKEN);
        return false;
    }
    struct err why = ERR_INIT;
    stream_set_min_rate(s->stream, s->server->opts.limits.min_rate);
    bool ok = is_wanted ? store_message(s, c, &p, &l, err) : take_rest(&l, c, &why); /* it has failed already */
    stream_set_min_rate(s->stream, 0);
    return ok && is_wanted;
}
