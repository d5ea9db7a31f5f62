#include "frontend/smtp/body.h"

#include "frontend/smtp/session.h"
#include "frontend/smtp/trace.h"
#include "proto/store_calls.h"

#define BLOB_ARENA_MAX ((size_t)64 * 1024)
#define GATHER_MIN ((size_t)16 * 1024)

void smtp_body_init(struct smtp_body *b, size_t inline_max)
{
    *b = (struct smtp_body){.trace_at = SMTP_BODY_ROOM};
    buf_init(&b->memory, SMTP_BODY_ROOM + inline_max + 2); /* a line end may be added */
    thurn__blob_ref__init(&b->blob);
}

void smtp_body_done(struct smtp_body *b)
{
    buf_done(&b->memory);
}

str smtp_body_content(const struct smtp_body *b)
{
    return str_slice(buf_str(&b->memory), b->trace_at, SIZE_MAX);
}

static void fail(struct smtp_body *b, enum smtp_reply why)
{
    if (!b->failure)
        b->failure = why;
    buf_release(&b->memory);
}

/* --- bytes from the wire --- */

FIBER static bool broken(struct smtp_body_reader *r, const struct err *err)
{
    struct smtp_session *s = r->session;
    r->is_broken = true;
    if (err->kind == ERR_TIMEOUT && !s->close) {
        metric_inc_label(M_SMTP_REFUSED, r->data.has_stray ? "bare_newline" : "slow");
        if (r->data.has_stray)
            smtp_say_last(s, SMTP_STRAY_NEWLINE, SMTP_CLOSE_STRAY);
        else
            smtp_say_last(s, SMTP_TIMEOUT, SMTP_CLOSE_SLOW);
    }
    smtp_lost(s, err);
    return false;
}

FIBER static bool fill(struct smtp_body_reader *r, struct err *err)
{
    struct smtp_session *s = r->session;
    /* Who ends lines by LF alone waits for our answer now, and will never send what we take for the end. */
    FIBER_DEADLINE(r->data.has_stray ? smtp_limits(s)->stray_timeout_ms : smtp_limits(s)->data_timeout_ms);
    return stream_fill(s->stream, err) || broken(r, err);
}

FIBER static bool data_piece(struct smtp_body_reader *r, str *piece, struct err *err)
{
    struct stream *stream = r->session->stream;
    stream_consume(stream, 0); /* the last piece goes back */
    while (!r->data.is_end) {
        str in = stream_input(stream), view;
        size_t n = smtp_data_next(&r->data, in, piece), from = n ? (size_t)(piece->p - in.p) : 0, length = piece->n;
        if (n == 0) {
            if (!fill(r, err))
                return false;
        } else if (length == 0) {
            stream_consume(stream, n);
        } else {
            if (!stream_read_some(stream, n, &view, err))
                return broken(r, err);
            *piece = str_slice(view, from, from + length);
            return true;
        }
    }
    *piece = S("");
    return true;
}

/* The session came to its end between two chunks, and has said so. */
static bool ended(struct smtp_body_reader *r, struct err *err)
{
    r->is_broken = true;
    return err_set(err, ERR_CANCELLED, "the session ended between two chunks");
}

static bool is_noop(str in)
{
    return str_starts_nocase(in, S("NOOP")) && in.n > 4 && (in.p[4] == ' ' || in.p[4] == '\r');
}

/*
 * The command after a chunk, while a blob is being written: BDAT goes on, NOOP has no effect (RFC 5321 4.1.1.9),
 * anything else is left for later.
 */
FIBER static bool next_bdat(struct smtp_body_reader *r, str *line, struct err *err)
{
    struct smtp_session *s = r->session;
    for (;;) {
        while (str_find(stream_input(s->stream), '\n') < 0 && stream_input(s->stream).n <= smtp_limits(s)->line_max)
            if (!fill(r, err))
                return false;
        bool is_bdat = str_starts_nocase(stream_input(s->stream), S("BDAT "));
        if (!is_bdat && !is_noop(stream_input(s->stream))) {
            r->is_interrupted = true;
            return err_set(err, ERR_CANCELLED, "another command came between two chunks");
        }
        if (!smtp_read_line(s, smtp_limits(s)->line_max, line)) {
            if (!s->close) /* it was answered; but how much of what follows is a chunk is not known any more */
                s->close = SMTP_CLOSE_CHUNK;
            return ended(r, err);
        }
        if (is_bdat)
            return true;
        r->run(s, *line);
        if (s->close)
            return ended(r, err);
    }
}

FIBER static bool next_chunk(struct smtp_body_reader *r, struct err *err)
{
    struct smtp_session *s = r->session;
    str line;
    smtp_say(s, SMTP_OK);
    if (!next_bdat(r, &line, err))
        return false;
    s->commands++;
    s->txn->n_chunks++;
    bool is_readable = smtp_bdat_parse(str_slice(line, 5, SIZE_MAX), &r->left, &r->is_last);
    if (!is_readable || s->txn->n_chunks > smtp_limits(s)->chunks_max) {
        smtp_say_last(s, is_readable ? SMTP_TOO_MANY_CHUNKS : SMTP_CHUNK_SYNTAX, SMTP_CLOSE_CHUNK);
        return ended(r, err);
    }
    return true;
}

FIBER static bool chunk_piece(struct smtp_body_reader *r, str *piece, struct err *err)
{
    struct stream *stream = r->session->stream;
    stream_consume(stream, 0);
    while (r->left == 0) {
        if (r->is_last || !r->is_pulling) {
            *piece = S("");
            return true;
        }
        if (!next_chunk(r, err))
            return false;
    }
    if (!stream_input(stream).n && !fill(r, err))
        return false;
    if (!stream_read_some(stream, (size_t)MIN(r->left, (uint64_t)RPC_CHUNK_MAX), piece, err))
        return broken(r, err);
    r->left -= piece->n;
    return true;
}

/* The next bytes of content; empty at the end. */
FIBER static bool next_piece(struct smtp_body_reader *r, str *piece, struct err *err)
{
    if (!r->is_chunked)
        return data_piece(r, piece, err);
    if (!chunk_piece(r, piece, err))
        return false;
    if (r->chunks)
        smtp_chunks_check(r->chunks, *piece);
    return true;
}

FIBER static bool skip_rest(struct smtp_body_reader *r)
{
    struct err err = ERR_INIT;
    str piece;
    do {
        if (!next_piece(r, &piece, &err))
            return false;
    } while (piece.n);
    return true;
}

bool smtp_body_skip(struct smtp_body_reader *r)
{
    FIBER_DEADLINE(smtp_limits(r->session)->data_timeout_ms);
    stream_set_min_rate(r->session->stream, smtp_limits(r->session)->min_rate);
    bool ok = skip_rest(r);
    stream_set_min_rate(r->session->stream, 0);
    return ok;
}

/* Count a piece, and see whether the message may go on. */
static bool judge(struct smtp_body *b, const struct smtp_body_reader *r, str piece)
{
    const struct smtp_session *s = r->session;
    b->size += piece.n;
    if (piece.n)
        b->is_crlf_at_end = r->is_chunked ? r->chunks->is_after_lf : !r->data.is_in_line;
    if (b->failure)
        return false;
    if (b->size > s->server->opts.message_max) {
        metric_inc_label(M_SMTP_REFUSED, "size");
        fail(b, SMTP_TOO_BIG);
    } else if (r->is_chunked ? r->chunks->has_stray : r->data.has_stray) {
        metric_inc_label(M_SMTP_REFUSED, "bare_newline");
        fail(b, SMTP_STRAY_NEWLINE);
    }
    return !b->failure;
}

/* --- into a blob --- */

struct blob_source {
    struct rpc_source source;
    struct smtp_body *body;
    struct smtp_body_reader *reader;
    str waiting[2]; /* what is in memory, and the piece that did not fit; later: what was gathered */
    struct buf gathered;
    bool is_closed; /* a line end was added */
};

static bool take_waiting(struct blob_source *from, str *piece)
{
    for (size_t i = 0; i < ARRAY_LEN(from->waiting); i++) {
        if (!from->waiting[i].n)
            continue;
        *piece = str_slice(from->waiting[i], 0, RPC_CHUNK_MAX);
        from->waiting[i] = str_slice(from->waiting[i], piece->n, SIZE_MAX);
        return true;
    }
    return false;
}

FIBER static bool judged_piece(struct blob_source *from, str *piece, struct err *err)
{
    if (!next_piece(from->reader, piece, err))
        return false;
    if (!judge(from->body, from->reader, *piece))
        return err_set(err, ERR_INVALID, "%.*s", STR_ARG(smtp_reply_text(from->body->failure)));
    from->body->is_8bit = from->body->is_8bit || !ascii_only(piece->p, piece->n);
    if (!piece->n && !from->body->is_crlf_at_end && !from->is_closed) {
        from->is_closed = true;
        *piece = S("\r\n");
    }
    return true;
}

/* A message of dots at line starts comes in tiny pieces: gather them, or each would cost the store as much as a large
 * one. */
FIBER static bool blob_read(struct rpc_source *source, str *piece, struct err *err)
{
    struct blob_source *from = CONTAINER_OF(source, struct blob_source, source);
    if (take_waiting(from, piece))
        return true;
    str one;
    buf_clear(&from->gathered);
    do {
        if (!judged_piece(from, &one, err))
            return false;
        if (!from->gathered.n && (!one.n || one.n >= GATHER_MIN)) {
            *piece = one;
            return true;
        }
        buf_add(&from->gathered, one);
    } while (one.n && from->gathered.n < GATHER_MIN);
    from->waiting[0] = buf_str(&from->gathered);
    return take_waiting(from, piece);
}

/* Whose shard takes it: that of the first recipient with a mailbox here. */
static void place_blob(const struct smtp_session *s, Thurn__PutBlobRequest *q)
{
    const struct smtp_txn *t = s->txn;
    for (size_t i = 0; i < t->n_rcpts && !q->account; i++)
        for (size_t j = 0; t->rcpts[i].resolved && j < t->rcpts[i].resolved->answer->n_targets && !q->account; j++)
            q->account = t->rcpts[i].resolved->answer->targets[j]->account;
    q->tenant_id = s->login.tenant_id;
}

static void keep_blob(struct smtp_body *b, const Thurn__BlobRef *blob)
{
    b->is_blob = true;
    b->blob.space = blob->space;
    b->blob.tenant_id = blob->tenant_id;
    b->blob.size = blob->size;
    b->blob.hash.len = MIN(blob->hash.len, sizeof(b->hash));
    b->blob.hash.data = b->hash;
    memcpy(b->hash, blob->hash.data, b->blob.hash.len);
    buf_release(&b->memory);
}

FIBER static bool put_blob(struct smtp_body *b, struct blob_source *from, struct err *err)
{
    struct smtp_session *s = from->reader->session;
    ARENA(a, BLOB_ARENA_MAX);
    struct rpc_call call;
    Thurn__PutBlobRequest q = THURN__PUT_BLOB_REQUEST__INIT;
    const Thurn__PutBlobReply *reply;
    smtp_call_init(s, &call, &a);
    call.body = &from->source;
    call.is_idempotent = false; /* the source can be read once */
    place_blob(s, &q);
    q.size_max = s->server->opts.message_max + SMTP_BODY_ROOM + 2;
    if (!store_put_blob(&call, s->server->opts.store, &q, &reply)) {
        *err = call.err;
        return false;
    }
    if (!reply->blob || !reply->blob->hash.len)
        return err_set(err, ERR_INTERNAL, "the store gave no reference to a body");
    keep_blob(b, reply->blob);
    return true;
}

/* The message outgrew memory with this piece: stream all of it to the store. */
FIBER static bool to_blob(struct smtp_body *b, struct smtp_body_reader *r, str piece)
{
    struct err err = ERR_INIT;
    smtp_trace(b, r->session);
    if (b->failure)
        return skip_rest(r);
    struct blob_source from = {.source = {blob_read}, .body = b, .reader = r, .waiting = {smtp_body_content(b), piece}};
    buf_init(&from.gathered, GATHER_MIN + RPC_CHUNK_MAX);
    for (size_t i = 0; i < ARRAY_LEN(from.waiting); i++)
        b->is_8bit = b->is_8bit || !ascii_only(from.waiting[i].p, from.waiting[i].n);
    r->is_pulling = r->is_chunked;
    bool ok = put_blob(b, &from, &err);
    buf_done(&from.gathered);
    if (ok || r->is_broken || r->is_interrupted)
        return ok;
    if (!b->failure) {
        b->why = err;
        fail(b, smtp_failure(SMTP_AT_BODY, err.kind));
    }
    r->is_pulling = false; /* the chunks to come are refused one by one */
    return skip_rest(r);
}

/* --- all of it --- */

FIBER static bool add(struct smtp_body *b, struct smtp_body_reader *r, str piece)
{
    const struct smtp_limits *l = smtp_limits(r->session);
    if (!b->memory.n && buf_reserve(&b->memory, SMTP_BODY_ROOM + MIN(piece.n, l->inline_max)))
        buf_commit(&b->memory, SMTP_BODY_ROOM);
    size_t left = l->inline_max - (b->memory.n - SMTP_BODY_ROOM);
    buf_add(&b->memory, str_slice(piece, 0, left));
    assert(buf_ok(&b->memory));
    return piece.n <= left || to_blob(b, r, str_slice(piece, left, SIZE_MAX));
}

FIBER static bool read_all(struct smtp_body *b, struct smtp_body_reader *r)
{
    struct err err = ERR_INIT;
    str piece;
    for (;;) {
        if (!next_piece(r, &piece, &err))
            return false;
        if (!piece.n)
            return true;
        if (judge(b, r, piece) && !add(b, r, piece))
            return false;
        if (b->is_blob)
            return true;
    }
}

bool smtp_body_read(struct smtp_body *b, struct smtp_body_reader *r)
{
    FIBER_DEADLINE(smtp_limits(r->session)->data_timeout_ms);
    stream_set_min_rate(r->session->stream, smtp_limits(r->session)->min_rate);
    bool ok = read_all(b, r);
    stream_set_min_rate(r->session->stream, 0);
    return ok;
}

void smtp_body_finish(struct smtp_body *b, struct smtp_session *s)
{
    if (b->failure || b->is_blob)
        return;
    if (!b->memory.n && buf_reserve(&b->memory, SMTP_BODY_ROOM)) /* an empty message */
        buf_commit(&b->memory, SMTP_BODY_ROOM);
    else if (!b->is_crlf_at_end) /* RFC 3030 lets the last chunk end in the middle of a line */
        buf_add(&b->memory, S("\r\n"));
    smtp_trace(b, s);
}
