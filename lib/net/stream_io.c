/*
 * stream_io.c: the reader's and the writer's side of a stream.
 */
#include "net/stream_internal.h"

#define WRITE_PIECE ((size_t)64 * 1024)

/* --- input --- */

/* Take back what the reader had in its hands, and add what came meanwhile. */
void stream_unlend(struct stream *s)
{
    if (s->lent == 0)
        return;
    s->in_off += s->lent;
    s->scanned = s->scanned > s->lent ? s->scanned - s->lent : 0;
    s->lent = 0;
    if (s->in_off == s->in.n) {
        buf_clear(&s->in);
        s->in_off = s->scanned = 0;
    }
    if (s->late.n > 0) {
        str late = buf_str(&s->late);
        stream_take_in(s, late);
        buf_release(&s->late);
    }
}

/* There is room again: decrypt what was left, read on. */
static void go_on_reading(struct stream *s)
{
    if (s->mode == STREAM_TLS && stream_room(s) > 0)
        stream_tls_pump(s);
    stream_read_on(s);
}

str stream_input(struct stream *s)
{
    CHECK(s, STREAM_MAGIC);
    s->is_unseen = false;
    size_t from = s->in_off + s->lent;
    return s->in.n > from ? str_n(s->in.p + from, s->in.n - from) : S("");
}

void stream_consume(struct stream *s, size_t n)
{
    CHECK(s, STREAM_MAGIC);
    stream_unlend(s);
    assert(n <= s->in.n - s->in_off);
    s->lent = n;
    stream_unlend(s);
    go_on_reading(s);
}

static void lend(struct stream *s, size_t n)
{
    s->lent = n;
}

bool stream_fill(struct stream *s, struct err *err)
{
    CHECK(s, STREAM_MAGIC);
    stream_unlend(s);
    size_t before = s->in.n - s->in_off;
    go_on_reading(s);
    while (s->in.n - s->in_off == before) {
        if (err_is_set(&s->failure)) {
            *err = s->failure;
            return false;
        }
        if (stream_room(s) == 0)
            return err_set(err, ERR_LIMIT, "%zu bytes of input are not used", before);
        if (s->is_at_eof)
            return err_set(err, ERR_UNAVAILABLE, "closed by the peer");
        stream_send(s); /* who waits for an answer wants the question to have left */
        if (!stream_wait(s, &s->reader, err))
            return false;
    }
    return true;
}

/* RFC 5321 2.3.8: in a strict line CR and LF are nothing but its end. */
static bool is_strict(str line_with_lf)
{
    return line_with_lf.n >= 2 && line_with_lf.p[line_with_lf.n - 2] == '\r' &&
           str_find(str_slice(line_with_lf, 0, line_with_lf.n - 2), '\r') < 0;
}

bool stream_read_line(struct stream *s, size_t max, bool strict, str *line, struct err *err)
{
    CHECK(s, STREAM_MAGIC);
    stream_unlend(s);
    for (;;) {
        str in = stream_input(s);
        ptrdiff_t lf = str_find(str_slice(in, s->scanned, SIZE_MAX), '\n');
        if (lf >= 0) {
            str whole = str_slice(in, 0, s->scanned + (size_t)lf + 1);
            s->scanned = 0;
            if (whole.n > max + 2)
                return err_set(err, ERR_LIMIT, "line longer than %zu bytes", max);
            lend(s, whole.n);
            if (strict && !is_strict(whole))
                return err_set(err, ERR_INVALID, "bare CR or LF in a line");
            whole.n--;
            if (whole.n > 0 && whole.p[whole.n - 1] == '\r')
                whole.n--;
            if (whole.n > max) {
                s->lent = 0;
                return err_set(err, ERR_LIMIT, "line longer than %zu bytes", max);
            }
            *line = whole;
            return true;
        }
        s->scanned = in.n;
        if (in.n > max + 2)
            return err_set(err, ERR_LIMIT, "line longer than %zu bytes", max);
        if (!stream_fill(s, err))
            return false;
    }
}

bool stream_read_some(struct stream *s, size_t n, str *out, struct err *err)
{
    CHECK(s, STREAM_MAGIC);
    assert(n > 0);
    stream_unlend(s);
    if (str_empty(stream_input(s)) && !stream_fill(s, err))
        return false;
    str piece = str_slice(stream_input(s), 0, n);
    lend(s, piece.n);
    *out = piece;
    return true;
}

bool stream_read_exact(struct stream *s, void *p, size_t n, struct err *err)
{
    char *to = p;
    while (n > 0) {
        str piece;
        if (!stream_read_some(s, n, &piece, err))
            return false;
        memcpy(to, piece.p, piece.n);
        to += piece.n;
        n -= piece.n;
    }
    return true;
}

void stream_set_input_max(struct stream *s, size_t n)
{
    CHECK(s, STREAM_MAGIC);
    s->opts.input_max = n;
    if (s->is_reading)
        stream_read_on(s);
}

/* --- output --- */

size_t stream_output_pending(const struct stream *s)
{
    CHECK(s, STREAM_MAGIC);
    return s->out.n + s->queue.n + s->wire.n;
}

void stream_set_output_high(struct stream *s, size_t n)
{
    CHECK(s, STREAM_MAGIC);
    s->opts.output_high = n;
    stream_set_caps(s);
}

static bool is_broken(const struct stream *s, struct err *err)
{
    if (!err_is_set(&s->failure))
        return false;
    *err = s->failure;
    return true;
}

FIBER static bool wait_until_below(struct stream *s, size_t mark, struct err *err)
{
    while (stream_output_pending(s) > mark) {
        if (is_broken(s, err) || !stream_wait(s, &s->writer, err))
            return false;
    }
    return !is_broken(s, err);
}

/* Something was added to `out`: send full pieces, and wait while there is too much. */
FIBER static bool settle(struct stream *s, struct err *err)
{
    if (s->out.n >= WRITE_PIECE)
        stream_send(s);
    if (stream_output_pending(s) <= s->opts.output_high)
        return !is_broken(s, err);
    stream_send(s);
    return wait_until_below(s, s->opts.output_high / 2, err);
}

bool stream_write(struct stream *s, str bytes, struct err *err)
{
    CHECK(s, STREAM_MAGIC);
    if (is_broken(s, err))
        return false;
    while (bytes.n > 0) {
        str piece = str_slice(bytes, 0, WRITE_PIECE);
        buf_add(&s->out, piece);
        bytes = str_slice(bytes, piece.n, SIZE_MAX);
        if (!settle(s, err))
            return false;
    }
    return true;
}

bool stream_printf(struct stream *s, struct err *err, const char *fmt, ...)
{
    CHECK(s, STREAM_MAGIC);
    if (is_broken(s, err))
        return false;
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(&s->out, fmt, ap);
    va_end(ap);
    return settle(s, err);
}

bool stream_drain(struct stream *s, size_t mark, struct err *err)
{
    CHECK(s, STREAM_MAGIC);
    stream_send(s);
    return wait_until_below(s, mark, err);
}

bool stream_flush(struct stream *s, struct err *err)
{
    return stream_drain(s, 0, err);
}

static void flush_at_turn_end(void *arg)
{
    stream_send(arg);
}

bool stream_try_write(struct stream *s, str bytes)
{
    CHECK(s, STREAM_MAGIC);
    if (err_is_set(&s->failure) || s->is_closing || stream_output_pending(s) + bytes.n > s->opts.output_high)
        return false;
    buf_add(&s->out, bytes);
    loop_at_turn_end(&s->flush_task, flush_at_turn_end, s);
    return true;
}
