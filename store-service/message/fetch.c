/* Fetch and ReadBody: flags, envelopes and sizes from rows; bodies from the database, segments or objects. */
#include "base/log.h"
#include "store-service/account/timeline.h"
#include "store-service/content/parsed.h"
#include "store-service/mailbox/mailbox.h"
#include "store-service/message/keyword.h"
#include "store-service/message/message.h"

#define ROWS_PLAIN 4000u
#define ROWS_PARSED 500u
#define ROWS_RAW 64u
#define RAW_MAX (256u * 1024) /* of one message; larger ones are streamed by ReadBody */
#define READS_AT_ONCE 8u

struct raw_read { /* a body: decoded, or read where it is not in the database, after the transaction */
    Thurn__Message *message;
    struct blob_place place;
    str prefix;
    uint64_t offset, length; /* of prefix and body together */
};

struct fetch_op {
    struct op op;
    const Thurn__FetchRequest *q;
    const struct uidset *uids;
    struct arena *arena;
    /* Results. */
    Thurn__Message **messages;
    size_t n_messages;
    str *parsed; /* of each, packed */
    uint64_t next_uid;
    Thurn__Keyword **names;
    size_t n_names;
    struct raw_read *reads, *inlines; /* elsewhere; in the database */
    size_t n_reads, n_inlines;
};

/* The part of the message that was asked for. */
static void raw_window(const Thurn__FetchRequest *q, const struct msg_row *m, uint64_t *offset, uint64_t *length)
{
    uint64_t size = (uint64_t)m->size;
    *offset = MIN(q->raw_offset, size);
    *length = MIN(q->raw_length ? q->raw_length : UINT64_MAX, size - *offset);
}

/* Prefix and body are one message: cut [offset, offset + length) out of both. */
static str join(str prefix, str body, uint64_t offset, uint64_t length, struct arena *a)
{
    str head = str_slice(prefix, offset, offset + length);
    uint64_t skip = offset > prefix.n ? offset - prefix.n : 0;
    str tail = str_slice(body, skip, skip + (length - head.n));
    if (str_empty(head))
        return tail;
    char *p = arena_alloc(a, head.n + tail.n);
    memcpy(p, head.p, head.n);
    if (tail.n)
        memcpy(p + head.n, tail.p, tail.n);
    return str_n(p, head.n + tail.n);
}

static void add_raw(struct fetch_op *f, const struct msg_row *m, Thurn__Message *p, uint64_t offset, uint64_t length)
{
    struct raw_read *r = m->place.tier == BLOB_INLINE ? &f->inlines[f->n_inlines++] : &f->reads[f->n_reads++];
    *r = (struct raw_read){p, blob_place_copy(&m->place, f->arena), arena_str(f->arena, m->prefix), offset, length};
}

/* Take rows along until the reply is full; where it is, that is where the next one goes on. Nothing is decoded here:
 * the loop's own thread may run this, and cannot let others run meanwhile. */
FIBER static bool take_rows(struct sql_tx *tx, struct fetch_op *f, const struct msg_row *rows, size_t n,
                            struct err *err)
{
    size_t bytes = 0;
    f->messages = arena_array(f->arena, Thurn__Message *, n);
    f->parsed = arena_array(f->arena, str, n);
    f->reads = f->q->with_raw ? arena_array(f->arena, struct raw_read, n) : NULL;
    f->inlines = f->q->with_raw ? arena_array(f->arena, struct raw_read, n) : NULL;
    for (size_t i = 0; i < n; i++) {
        uint64_t offset = 0, length = 0;
        if (f->q->with_raw)
            raw_window(f->q, &rows[i], &offset, &length);
        bool is_omitted = length > RAW_MAX;
        size_t size = message_proto_size(&rows[i]) + (is_omitted ? 0 : length);
        if (f->n_messages > 0 && bytes + size > REPLY_BYTES_MAX) {
            f->next_uid = rows[i].uid;
            return true;
        }
        bytes += size;
        f->parsed[f->n_messages] = arena_str(f->arena, rows[i].parsed);
        Thurn__Message *p = f->messages[f->n_messages++] = message_to_proto(&rows[i], f->arena);
        p->is_raw_omitted = is_omitted;
        if (f->q->with_raw && !is_omitted)
            add_raw(f, &rows[i], p, offset, length);
        if (!sql_breathe(tx, err))
            return false;
    }
    return true;
}

/* What was taken along, one message at a time. */
FIBER static bool decode(struct fetch_op *f, struct err *err)
{
    for (size_t i = 0; f->q->with_parsed && i < f->n_messages; i++) {
        f->messages[i]->parsed = parsed_unpack(f->parsed[i], f->arena, err);
        if (!f->messages[i]->parsed || !fiber_yield_if_due(err))
            return false;
    }
    for (size_t i = 0; i < f->n_inlines; i++) {
        struct raw_read *r = &f->inlines[i];
        struct err unread = ERR_INIT; /* one that cannot be read is no reason to hide the others */
        str body;
        r->message->is_raw_omitted = !blob_inline(&r->place, f->arena, &body, &unread);
        if (!r->message->is_raw_omitted)
            r->message->raw = rpc_bytes(join(r->prefix, body, r->offset, r->length, f->arena));
        if (!fiber_yield_if_due(err))
            return false;
    }
    return true;
}

FIBER static bool fetch_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct fetch_op *f = arg;
    const Thurn__FetchRequest *q = f->q;
    struct sql_result box;
    struct mailbox_row m;
    struct msg_row *rows;
    size_t n, limit = q->with_raw ? ROWS_RAW : q->with_parsed ? ROWS_PARSED : ROWS_PLAIN;
    f->n_messages = f->n_reads = f->n_inlines = 0;
    op_begin_read(tx, &f->op);
    mailbox_queue_get(tx, f->op.ref->account_id, q->mailbox_id, &box);
    struct msg_query mq = {.account_id = f->op.ref->account_id,
                           .mailbox_id = q->mailbox_id,
                           .uids = f->uids,
                           .since_modseq = (int64_t)MIN(q->changed_since, (uint64_t)INT64_MAX),
                           .with = (q->with_parsed ? MSG_WITH_PARSED : 0) | (q->with_raw ? MSG_WITH_BODY : 0),
                           .limit = q->limit ? MIN(q->limit, limit) : limit};
    uint64_t known = (uint64_t)mq.since_modseq;
    if (!messages_read(tx, &mq, &rows, &n, &f->next_uid, err) || !op_ready(&f->op, err) ||
        !mailbox_take_one(&box, &m, err) || !op_known_since(tx, &f->op, &known, err))
        return false;
    if (known != (uint64_t)mq.since_modseq) {
        mq.since_modseq = 0;
        if (!messages_read(tx, &mq, &rows, &n, &f->next_uid, err))
            return false;
    }
    return take_rows(tx, f, rows, n, err) &&
           keywords_name(tx, m.account_id, f->messages, f->n_messages, f->arena, &f->names, &f->n_names, err);
}

/* --- bodies outside the database, some at a time --- */

struct read_job {
    struct shard *shard;
    struct raw_read *read;
    struct arena arena;
    struct err err;
};

FIBER static void read_job_main(void *arg)
{
    struct read_job *j = arg;
    struct raw_read *r = j->read;
    uint64_t skip = r->offset > r->prefix.n ? r->offset - r->prefix.n : 0, end = r->offset + r->length;
    uint64_t body_end = end > r->prefix.n ? end - r->prefix.n : 0;
    str body = STR_NONE;
    bool is_lost;
    if (body_end > skip &&
        !blob_read_range(j->shard, &r->place, skip, body_end - skip, &j->arena, &body, &is_lost, &j->err))
        return;
    /* body begins at skip already. */
    str head = str_slice(r->prefix, r->offset, end);
    char *p = arena_alloc(&j->arena, head.n + body.n);
    if (head.n)
        memcpy(p, head.p, head.n);
    if (body.n)
        memcpy(p + head.n, body.p, body.n);
    r->message->raw = rpc_bytes(str_n(p, head.n + body.n));
}

FIBER static bool read_bodies(struct fetch_op *f, struct err *err)
{
    for (size_t from = 0; from < f->n_reads; from += READS_AT_ONCE) {
        struct read_job jobs[READS_AT_ONCE];
        size_t n = MIN(f->n_reads - from, READS_AT_ONCE);
        bool ok = true;
        for (size_t i = 0; i < n; i++) {
            jobs[i] = (struct read_job){.shard = f->op.shard, .read = &f->reads[from + i]};
            arena_init(&jobs[i].arena, 3 * RAW_MAX);
        }
        if (n == 1) {
            read_job_main(&jobs[0]);
        } else {
            FIBER_GROUP(g, READS_AT_ONCE);
            for (size_t i = 0; ok && i < n; i++)
                ok = fiber_group_spawn(&g, "store-read", read_job_main, &jobs[i], err);
            ok = ok && fiber_group_wait(&g, err);
        }
        for (size_t i = 0; i < n; i++) {
            Thurn__Message *m = jobs[i].read->message;
            m->is_raw_omitted = err_is_set(&jobs[i].err);
            if (m->is_raw_omitted)
                log_error("store.body_unread", KV_I64("account_id", f->op.ref->account_id), KV_I64("uid", m->uid),
                          KV_ERR(&jobs[i].err));
            else if (ok)
                m->raw = rpc_bytes(arena_str(f->arena, rpc_str(m->raw)));
            arena_done(&jobs[i].arena);
        }
        if (!ok)
            return false;
    }
    return true;
}

FIBER bool store_do_fetch(struct store *s, struct rpc_call *c, const Thurn__FetchRequest *q, Thurn__FetchReply *r,
                          struct err *err)
{
    struct fetch_op f = {.q = q, .arena = c->arena};
    struct uidset uids;
    if (!op_init(&f.op, s, q->account, err) ||
        !uidset_of_proto(c->arena, q->uids, q->n_uids, UINT32_MAX, true, &uids, err))
        return false;
    f.uids = &uids;
    if (!op_read(&f.op, fetch_body, &f, err) || !decode(&f, err) || !read_bodies(&f, err))
        return false;
    r->messages = f.messages;
    r->n_messages = f.n_messages;
    r->next_uid = (uint32_t)f.next_uid;
    r->keyword_names = f.names;
    r->n_keyword_names = f.n_names;
    return true;
}

/* --- ReadBody: one message, streamed --- */

// clang-format off
static const struct sql_stmt body_by_uid = {
    "s_body_by_uid", "iii", "b" BLOB_PLACE_TYPES "b",
    "SELECT e.prefix, " BLOB_PLACE_COLS ", i.data FROM s_msg m JOIN s_email e ON e.account_id = m.account_id AND"
    " e.email_id = m.email_id JOIN s_blob b ON b.blob_id = e.blob_id LEFT JOIN s_blob_inline i ON i.blob_id = b.blob_id"
    " WHERE m.account_id = ?1 AND m.mailbox_id = ?2 AND m.uid = ?3",
    NULL, false};
static const struct sql_stmt body_by_email = {
    "s_body_by_email", "ii", "b" BLOB_PLACE_TYPES "b",
    "SELECT e.prefix, " BLOB_PLACE_COLS ", i.data FROM s_email e JOIN s_blob b ON b.blob_id = e.blob_id"
    " LEFT JOIN s_blob_inline i ON i.blob_id = b.blob_id WHERE e.account_id = ?1 AND e.email_id = ?2",
    NULL, false};
// clang-format on

struct find_op {
    struct op op;
    const Thurn__ReadBodyRequest *q;
    struct arena *arena;
    str prefix;
    struct blob_place place;
};

FIBER static bool find_body(struct sql_tx *tx, void *arg, struct err *err)
{
    struct find_op *f = arg;
    struct sql_result r;
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 3);
    v[0] = sql_i(f->q->account->account_id);
    v[1] = sql_i(f->q->email_id ? f->q->email_id : f->q->mailbox_id);
    v[2] = sql_i(f->q->uid);
    op_begin_read(tx, &f->op);
    sql_queue(tx, f->q->email_id ? &body_by_email : &body_by_uid, v, 1, &r);
    if (!sql_run(tx, err) || !op_ready(&f->op, err))
        return false;
    if (r.n_rows == 0)
        return err_set(err, ERR_NOT_FOUND, "no such message");
    struct blob_place p = blob_place_take(sql_at(&r, 0, 1));
    p.data = sql_at(&r, 0, 10)->s;
    f->place = blob_place_copy(&p, f->arena);
    f->prefix = arena_str(f->arena, sql_at(&r, 0, 0)->s);
    return true;
}

/* The prefix goes out with the first piece of the body: when there is none, the caller has seen nothing yet. */
struct headed_sink {
    struct rpc_sink sink, *out;
    str head;
};

FIBER static bool write_headed(struct rpc_sink *sink, str piece, struct err *err)
{
    struct headed_sink *h = CONTAINER_OF(sink, struct headed_sink, sink);
    str head = h->head;
    h->head = S("");
    return (head.n == 0 || h->out->write(h->out, head, err)) && h->out->write(h->out, piece, err);
}

FIBER bool store_do_read_body(struct store *s, struct rpc_call *c, const Thurn__ReadBodyRequest *q,
                              Thurn__ReadBodyReply *r, struct err *err)
{
    struct find_op f = {.q = q, .arena = c->arena};
    if (!c->out)
        return err_set(err, ERR_INVALID, "no sink given");
    if (!op_init(&f.op, s, q->account, err) || !op_read(&f.op, find_body, &f, err))
        return false;
    r->size = f.prefix.n + (uint64_t)f.place.size;
    uint64_t offset = MIN(q->offset, r->size), length = MIN(q->length ? q->length : UINT64_MAX, r->size - offset);
    str head = str_slice(f.prefix, offset, offset + length);
    if (length == head.n)
        return head.n == 0 || c->out->write(c->out, head, err);
    uint64_t skip = offset > f.prefix.n ? offset - f.prefix.n : 0;
    struct headed_sink out = {.sink.write = write_headed, .out = c->out, .head = head};
    return blob_read(f.op.shard, &f.place, skip, length - head.n, &out.sink, err);
}
