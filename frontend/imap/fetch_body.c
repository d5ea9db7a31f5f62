#include "frontend/imap/fetch_body.h"

#include "frontend/imap/format.h"
#include "mail/header.h"
#include "proto/store_calls.h"

#define HEADER_MAX (1u << 20) /* of a header whose fields are picked; a longer one is cut */
#define INLINE_PIECE (64u * 1024)

struct range {
    uint64_t offset, length;
    bool exists;
};

struct imap_raw_need imap_raw_need_of(const struct imap_fetch *f)
{
    struct imap_raw_need need = {0};
    for (size_t i = 0; i < f->n_items; i++) {
        const struct imap_fetch_item *it = &f->items[i];
        if (it->kind != FETCH_SECTION)
            continue;
        need.any = true;
        need.parsed |=
            it->text != SECTION_ALL || it->n_path > 0; /* a whole message is there without knowing its parts */
        bool is_header = it->text == SECTION_HEADER || it->text == SECTION_FIELDS || it->text == SECTION_FIELDS_NOT;
        need.bodies |= !is_header || it->n_path > 0;
    }
    return need;
}

/* Header and body of an entity, by what the client wants of it. */
static struct range of_part(const Thurn__Part *p, bool header)
{
    if (header)
        return (struct range){p->header_offset, p->body_offset - p->header_offset, true};
    return (struct range){p->body_offset, p->body_size, true};
}

static bool wants_header(const struct imap_fetch_item *it)
{
    return it->text == SECTION_HEADER || it->text == SECTION_FIELDS || it->text == SECTION_FIELDS_NOT;
}

/* RFC 3501 6.4.5: where in the message the section lies. */
static struct range locate(const Thurn__Message *m, const struct imap_fetch_item *it)
{
    const struct range none = {0, 0, false};
    const Thurn__Part *root = m->parsed ? m->parsed->root : NULL;
    if (it->n_path == 0 && it->text == SECTION_ALL)
        return (struct range){0, m->size, true};
    if (!root)
        return none;
    if (it->n_path == 0)
        return of_part(root, wants_header(it));
    const Thurn__Part *part = imap_part_by_number(root, it->path, it->n_path);
    if (!part)
        return none;
    if (it->text == SECTION_ALL)
        return of_part(part, false);
    if (it->text == SECTION_MIME)
        return of_part(part, true);
    /* HEADER and TEXT of a part are those of the message within. */
    if (!imap_part_is_message(part) || part->n_parts == 0)
        return none;
    return of_part(part->parts[0], wants_header(it));
}

static struct range cut_partial(struct range r, const struct imap_fetch_item *it)
{
    if (!it->has_partial)
        return r;
    uint64_t skip = MIN((uint64_t)it->partial_offset, r.length);
    r.offset += skip;
    r.length = MIN(r.length - skip, (uint64_t)it->partial_length);
    return r;
}

/* --- reading --- */

static bool is_at_hand(const Thurn__Message *m, struct range r)
{
    return m->raw.data && r.offset + r.length <= m->raw.len;
}

struct buf_sink {
    struct rpc_sink sink;
    struct buf *out;
};

FIBER static bool write_buf(struct rpc_sink *sink, str piece, struct err *err)
{
    (void)err;
    struct buf_sink *b = CONTAINER_OF(sink, struct buf_sink, sink);
    buf_add(b->out, str_slice(piece, 0, b->out->cap - b->out->n));
    return true;
}

/* To the client, no more than was promised. The promise is made with the first piece. */
struct client_sink {
    struct rpc_sink sink;
    struct imap_session *s;
    struct buf *before; /* what comes in front of it, until the first piece */
    uint64_t left;
};

FIBER static bool write_client(struct rpc_sink *sink, str piece, struct err *err)
{
    struct client_sink *k = CONTAINER_OF(sink, struct client_sink, sink);
    piece = str_slice(piece, 0, (size_t)MIN((uint64_t)piece.n, k->left));
    if (piece.n == 0)
        return true;
    if (k->before) {
        bool ok = imap_write_buf(k->s, k->before, err);
        buf_clear(k->before);
        k->before = NULL;
        if (!ok)
            return false;
    }
    k->left -= piece.n;
    return imap_write(k->s, piece, err);
}

FIBER static bool read_range(struct imap_session *s, struct imap_command *c, const Thurn__Message *m, struct range r,
                             struct rpc_sink *sink, struct err *err)
{
    Thurn__ReadBodyRequest q = THURN__READ_BODY_REQUEST__INIT;
    struct rpc_call call;
    q.account = &s->account;
    q.mailbox_id = s->view->mailbox_id;
    q.uid = m->uid;
    q.offset = r.offset;
    q.length = r.length;
    imap_call(s, &call, c->arena);
    call.deadline_mono_ms = fiber_deadline(); /* the client may be slow */
    call.out = sink;
    if (!store_read_body(&call, s->server->opts.store, &q, NULL))
        return imap_failed(c, IMAP_AT_BODY, &call, err);
    return true;
}

/* --- header fields --- */

static bool is_listed(const struct imap_fetch_item *it, str name)
{
    for (size_t i = 0; i < it->n_fields; i++)
        if (str_eq_nocase(it->fields[i], name))
            return true;
    return false;
}

static void pick_fields(const struct imap_fetch_item *it, str header, struct buf *out)
{
    struct header_iter iter = header_iter_of(header);
    struct header_field f;
    while (header_next(&iter, &f)) {
        if (is_listed(it, f.name) != (it->text == SECTION_FIELDS))
            continue;
        buf_add(out, f.raw);
        if (!str_ends(f.raw, S("\n")))
            buf_add(out, S("\r\n"));
    }
    buf_add(out, S("\r\n"));
}

/* HEADER.FIELDS: the whole header is looked at, then the partial is cut from what was picked. */
FIBER static bool fetch_fields(struct imap_session *s, struct imap_command *c, const Thurn__Message *m,
                               const struct imap_fetch_item *it, struct range r, struct buf *out, struct err *err)
{
    BUF(header, HEADER_MAX);
    str block;
    if (is_at_hand(m, r)) {
        block = str_n(m->raw.data + r.offset, (size_t)r.length);
    } else {
        struct buf_sink sink = {.sink.write = write_buf, .out = &header};
        r.length = MIN(r.length, (uint64_t)HEADER_MAX);
        if (r.length && !read_range(s, c, m, r, &sink.sink, err))
            return false;
        block = buf_str(&header);
    }
    BUF(picked, HEADER_MAX * 2);
    pick_fields(it, block, &picked);
    struct range cut = cut_partial((struct range){0, picked.n, true}, it);
    buf_printf(out, " {%llu}\r\n", (unsigned long long)cut.length);
    buf_add(out, str_slice(buf_str(&picked), (size_t)cut.offset, (size_t)(cut.offset + cut.length)));
    return true;
}

FIBER static bool stream_range(struct imap_session *s, struct imap_command *c, const Thurn__Message *m, struct range r,
                               struct buf *out, struct err *err)
{
    struct client_sink sink = {.sink.write = write_client, .s = s, .before = out, .left = r.length};
    if (read_range(s, c, m, r, &sink.sink, err) && sink.left == 0)
        return true;
    if (!sink.before) /* the client counts on so many bytes: what follows would be taken for them */
        imap_end(s, IMAP_END_BROKEN);
    return err_is_set(err) ? false : err_set(err, ERR_INTERNAL, "a body is shorter than its size says");
}

FIBER bool imap_fetch_section(struct imap_session *s, struct imap_command *c, const Thurn__Message *m,
                              const struct imap_fetch_item *item, struct buf *out, struct err *err)
{
    struct range r = locate(m, item);
    imap_add_section_name(out, item);
    if (!r.exists) {
        buf_add(out, S(" NIL"));
        return true;
    }
    if (item->text == SECTION_FIELDS || item->text == SECTION_FIELDS_NOT)
        return fetch_fields(s, c, m, item, r, out, err);
    r = cut_partial(r, item);
    buf_printf(out, " {%llu}\r\n", (unsigned long long)r.length);
    if (r.length == 0)
        return true;
    if (!is_at_hand(m, r))
        return stream_range(s, c, m, r, out, err);
    str bytes = str_n(m->raw.data + r.offset, (size_t)r.length);
    if (bytes.n <= INLINE_PIECE) {
        buf_add(out, bytes);
        return true;
    }
    if (!imap_write_buf(s, out, err))
        return false;
    buf_clear(out);
    return imap_write(s, bytes, err);
}
