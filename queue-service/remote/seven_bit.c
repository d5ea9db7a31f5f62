#include "queue-service/remote/seven_bit.h"

#include "base/metrics.h"
#include "mail/downgrade.h"

struct seven_bit {
    struct rpc_source source;
    const struct remote_message *m;
    struct rpc_source *inner;
    uint64_t n_read;
    str piece; /* of the content, not converted yet */
    struct downgrade *downgrade;
    struct buf out;
    bool is_at_end;
};

static bool count_ok(const struct remote_message *m, uint64_t n, bool is_end, struct err *err)
{
    if (is_end ? n == m->size : n <= m->size)
        return true;
    return err_set(err, ERR_INTERNAL, "content has %llu bytes, not %llu", (unsigned long long)n,
                   (unsigned long long)m->size);
}

FIBER static bool read_next(struct rpc_source *src, str *piece, struct err *err)
{
    struct seven_bit *s = CONTAINER_OF(src, struct seven_bit, source);
    buf_clear(&s->out);
    while (s->out.n == 0 && !s->is_at_end) {
        if (s->piece.n == 0 && !s->inner->read(s->inner, &s->piece, err))
            return false;
        str some = str_slice(s->piece, 0, DOWNGRADE_PIECE_MAX);
        s->piece = str_slice(s->piece, some.n, SIZE_MAX);
        s->n_read += some.n;
        if (!count_ok(s->m, s->n_read, some.n == 0, err))
            return false;
        s->is_at_end = some.n == 0;
        if (s->is_at_end)
            downgrade_end(s->downgrade, &s->out);
        else
            downgrade_feed(s->downgrade, some, &s->out);
    }
    *piece = buf_str(&s->out);
    return buf_ok(&s->out) || err_set(err, ERR_INTERNAL, "converted content is over its bound");
}

FIBER static bool scan(const struct remote_message *m, struct downgrade *d, struct err *err)
{
    struct rpc_source *src = m->open(m->arg, err);
    if (!src)
        return false;
    bool ok = true;
    uint64_t n = 0;
    for (str piece; ok;) {
        ok = src->read(src, &piece, err);
        if (ok && piece.n == 0)
            break;
        n += ok ? piece.n : 0;
        ok = ok && count_ok(m, n, false, err);
        if (ok)
            downgrade_scan(d, piece);
    }
    if (m->close)
        m->close(m->arg, src);
    return ok;
}

struct rpc_source *seven_bit_open(const struct remote_message *m, bool *is_hopeless, struct err *err)
{
    CLEANUP(downgrade_free) struct downgrade *d = downgrade_new();
    *is_hopeless = false;
    if (!scan(m, d, err))
        return NULL;
    if (!downgrade_plan(d, err)) {
        *is_hopeless = true;
        return NULL;
    }
    struct rpc_source *inner = m->open(m->arg, err);
    if (!inner)
        return NULL;
    struct seven_bit *s = xnew(struct seven_bit);
    s->source.read = read_next;
    s->m = m;
    s->inner = inner;
    s->downgrade = TAKE(d);
    buf_init(&s->out, DOWNGRADE_OUT_MAX);
    metric_inc(M_REMOTE_DOWNGRADES);
    return &s->source;
}

FIBER void seven_bit_close(struct rpc_source *src)
{
    struct seven_bit *s = CONTAINER_OF(src, struct seven_bit, source);
    if (s->m->close)
        s->m->close(s->m->arg, s->inner);
    downgrade_free(s->downgrade);
    buf_done(&s->out);
    free(s);
}
