/*
 * smtp_body.c: the content of a message, by DATA or by BDAT, and the answer to it.
 */
#include "base/buf.h"
#include "base/clock.h"
#include "fiber/fiber.h"
#include "queue-service/remote/content.h"
#include "queue-service/remote/seven_bit.h"
#include "queue-service/remote/smtp_internal.h"

#define CHUNK ((size_t)64 * 1024) /* of BDAT */
/* with PIPELINING: chunks that may wait for their answers when one more is sent */
#define CHUNKS_OPEN 3u
#define CHUNK_BUF_MAX ((size_t)512 * 1024)
#define BLOCK ((size_t)16 * 1024) /* what may take data_ms to be taken */
#define MIN_RATE 500u             /* bytes a second of the content as a whole, beyond final_ms */

struct body {
    struct smtp_client *c;
    const struct remote_message *m;
    bool is_converted; /* to 7 bits; seven_bit.c counts the bytes */
    uint64_t n_read;   /* bytes of the content */
};

/* The next piece of the content; empty at the end, where the count must be right. */
FIBER static bool read_piece(struct body *b, struct rpc_source *s, str *piece, struct err *err)
{
    if (!s->read(s, piece, err))
        return false;
    b->n_read += piece->n;
    if (b->is_converted)
        return true;
    if (piece->n == 0 ? b->n_read == b->m->size : b->n_read <= b->m->size)
        return true;
    return err_set(err, ERR_INTERNAL, "content has %llu bytes, not %llu", (unsigned long long)b->n_read,
                   (unsigned long long)b->m->size);
}

static void trouble_content(struct smtp_trouble *why, const struct err *err)
{
    smtp_trouble_set(why, false, "4.3.0", "the message's content cannot be read: %s", err->msg);
}

/*
 * A write failed, or the peer spoke too early. One that has had enough often says why before it closes; nothing but a
 * refusal can be meant, because it has not seen the end.
 */
FIBER static void trouble_write(struct body *b, struct smtp_trouble *why, const struct err *failed)
{
    struct smtp_reply r;
    struct err err = ERR_INIT;
    str in = stream_input(b->c->stream);
    if (str_find(in, '\n') >= 0 && smtp_read_reply(b->c, 1000, NULL, &r, &err) && smtp_reply_class(&r) >= 4)
        smtp_trouble_reply(why, &r);
    else
        smtp_trouble_set(why, false, "4.4.2", "connection with %s lost while sending the message: %s", b->c->peer,
                         failed->msg);
}

FIBER static bool write_content(struct body *b, str bytes, struct err *err)
{
    while (bytes.n) { /* RFC 5321 4.5.3.2.5: three minutes for each block, not for all of it */
        FIBER_DEADLINE(b->c->settings->data_ms);
        str block = str_slice(bytes, 0, BLOCK);
        if (!stream_write(b->c->stream, block, err))
            return false;
        bytes = str_slice(bytes, block.n, SIZE_MAX);
    }
    return true;
}

static void note_sent(const struct remote_message *m, bool is_sent)
{
    if (m->is_sent)
        *m->is_sent = is_sent;
}

/* Dots doubled, a dot at the end (RFC 5321 4.1.1.4). */
FIBER static enum smtp_body_end send_data(struct body *b, struct rpc_source *s, struct smtp_reply *r,
                                          struct smtp_trouble *why)
{
    struct smtp_content content;
    struct err err = ERR_INIT;
    str piece, run;
    smtp_content_init(&content, true);
    b->c->is_in_content = true;
    for (;;) {
        if (!read_piece(b, s, &piece, &err)) {
            trouble_content(why, &err);
            return SMTP_BODY_BROKEN;
        }
        if (piece.n == 0)
            break;
        while (smtp_content_next(&content, &piece, &run)) {
            if (!write_content(b, run, &err)) {
                trouble_write(b, why, &err);
                return SMTP_BODY_BROKEN;
            }
        }
    }
    /* An answer before the end is none to the end: taken as one, all that follow would be out of step. */
    bool is_early = stream_input(b->c->stream).n > 0;
    note_sent(b->m, !is_early);
    if (is_early || !write_content(b, smtp_content_end(&content), &err)) {
        if (is_early)
            (void)err_set(&err, ERR_INVALID, "answered before the end");
        trouble_write(b, why, &err);
        return SMTP_BODY_BROKEN;
    }
    b->c->is_in_content = false;
    if (smtp_read_reply(b->c, b->c->settings->final_ms, NULL, r, &err))
        return SMTP_BODY_ANSWERED;
    smtp_trouble_lost(why, b->c, "the end of the message", &err);
    return SMTP_BODY_UNKNOWN;
}

/* State of BDAT (RFC 3030 2): how many chunks have no answer yet, and the refusal, if one came. */
struct chunks {
    struct buf bytes;
    unsigned n_open;
    bool is_refused;
};

/* Take answers until at most `open` are to come. The last one read, or the first refusal, is in *r. */
FIBER static bool take_chunk_replies(struct body *b, struct chunks *k, unsigned open, struct smtp_reply *r,
                                     struct err *err)
{
    while (k->n_open > open) {
        struct smtp_reply one;
        if (!smtp_read_reply(b->c, b->c->settings->final_ms, NULL, &one, err))
            return false;
        k->n_open--;
        if (!k->is_refused)
            *r = one;
        k->is_refused |= smtp_reply_class(&one) != 2;
    }
    return true;
}

FIBER static bool send_chunk(struct body *b, struct chunks *k, bool is_last, struct err *err)
{
    BUF(command, 64);
    buf_printf(&command, "BDAT %zu%s\r\n", k->bytes.n, is_last ? " LAST" : "");
    b->c->is_in_content = true;
    note_sent(b->m, is_last);
    k->n_open++;
    bool ok = write_content(b, buf_str(&command), err) && write_content(b, buf_str(&k->bytes), err);
    if (ok)
        b->c->is_in_content = false;
    buf_clear(&k->bytes);
    return ok;
}

/* Gather until a chunk is full or the content ends. */
FIBER static bool fill_chunk(struct body *b, struct rpc_source *s, struct smtp_content *content, str *piece,
                             struct buf *out, bool *is_end, struct err *err)
{
    str run;
    while (out->n < CHUNK) {
        if (smtp_content_next(content, piece, &run)) {
            buf_add(out, run);
            continue;
        }
        if (!read_piece(b, s, piece, err))
            return false;
        if (piece->n == 0) {
            buf_add(out, smtp_content_end(content));
            *is_end = true;
            return true;
        }
    }
    return true;
}

FIBER static enum smtp_body_end send_chunks(struct body *b, struct rpc_source *s, struct chunks *k,
                                            struct smtp_reply *r, struct smtp_trouble *why)
{
    unsigned open = smtp_can(b->c, SMTP_CAP_PIPELINING) ? CHUNKS_OPEN : 0;
    struct smtp_content content;
    struct err err = ERR_INIT;
    str piece = STR_NONE;
    bool is_end = false;
    smtp_content_init(&content, false);
    while (!is_end && !k->is_refused) {
        if (!fill_chunk(b, s, &content, &piece, &k->bytes, &is_end, &err)) {
            trouble_content(why, &err);
            b->c->is_in_content = true; /* RSET could undo it; a broken source is no everyday thing */
            return SMTP_BODY_BROKEN;
        }
        if (!send_chunk(b, k, is_end, &err)) {
            trouble_write(b, why, &err);
            return SMTP_BODY_BROKEN;
        }
        if (!is_end && !take_chunk_replies(b, k, open, r, &err)) {
            smtp_trouble_lost(why, b->c, "BDAT", &err);
            return SMTP_BODY_BROKEN;
        }
    }
    if (take_chunk_replies(b, k, 0, r, &err))
        return SMTP_BODY_ANSWERED;
    smtp_trouble_lost(why, b->c, "the end of the message", &err);
    return is_end && !k->is_refused ? SMTP_BODY_UNKNOWN : SMTP_BODY_BROKEN;
}

enum smtp_body_end smtp_body_send(struct smtp_client *c, const struct remote_message *m, bool by_data,
                                  struct smtp_reply *r, struct smtp_trouble *why)
{
    struct body b = {.c = c, .m = m, .is_converted = smtp_must_convert(c, m)};
    struct err err = ERR_INIT;
    bool is_hopeless = false;
    struct rpc_source *s = b.is_converted ? seven_bit_open(m, &is_hopeless, &err) : m->open(m->arg, &err);
    if (!s) {
        trouble_content(why, &err);
        if (is_hopeless) /* RFC 6152 3: what cannot be converted goes back */
            smtp_trouble_set(why, true, "5.6.3", "%s takes 7-bit text only: %s", c->peer, err.msg);
        c->is_in_content = by_data;
        return SMTP_BODY_BROKEN;
    }
    /* A least rate of the stream would go on while we wait for the answer, and would end a peer that stands still for
     * less than it may. */
    FIBER_DEADLINE((int64_t)c->settings->final_ms * 2 + (int64_t)(m->size * 1000 / MIN_RATE));
    enum smtp_body_end end;
    if (by_data) {
        end = send_data(&b, s, r, why);
    } else {
        struct chunks k = {0};
        buf_init(&k.bytes, CHUNK_BUF_MAX);
        end = send_chunks(&b, s, &k, r, why);
        buf_done(&k.bytes);
    }
    if (end != SMTP_BODY_UNKNOWN)
        note_sent(m, false);
    if (b.is_converted)
        seven_bit_close(s);
    else if (m->close)
        m->close(m->arg, s);
    return end;
}
