#include "rpc/internal.h"

#define INFLOW_CAP ((size_t)RPC_WINDOW + RPC_CHUNK_MAX)

void rpc_inflow_init(struct rpc_inflow *f)
{
    *f = (struct rpc_inflow){0};
    buf_init(&f->arrived, INFLOW_CAP);
    buf_init(&f->lent, INFLOW_CAP);
}

void rpc_inflow_done(struct rpc_inflow *f)
{
    buf_done(&f->arrived);
    buf_done(&f->lent);
}

bool rpc_inflow_put(struct rpc_inflow *f, str bytes)
{
    /* What is lent was given back as credit when it was taken. */
    if (f->is_ended || f->arrived.n + bytes.n > RPC_WINDOW)
        return false;
    buf_add(&f->arrived, bytes);
    if (f->waiter)
        fiber_wake(f->waiter);
    return true;
}

void rpc_inflow_end(struct rpc_inflow *f, enum err_kind kind, str text)
{
    if (f->is_ended)
        return;
    f->is_ended = true;
    if (kind != ERR_NONE)
        (void)err_set(&f->failure, kind, "%.*s", STR_ARG(text));
    if (f->waiter)
        fiber_wake(f->waiter);
}

bool rpc_inflow_has(const struct rpc_inflow *f)
{
    return f->lent_used < f->lent.n || f->arrived.n > 0;
}

str rpc_inflow_take(struct rpc_inflow *f, size_t *credit)
{
    *credit = 0;
    if (f->lent_used == f->lent.n) {
        struct buf empty = f->lent;
        f->lent = f->arrived;
        f->arrived = empty;
        buf_clear(&f->arrived);
        f->lent_used = 0;
        *credit = f->lent.n;
    }
    str piece = str_slice(str_slice(buf_str(&f->lent), f->lent_used, SIZE_MAX), 0, RPC_CHUNK_MAX);
    f->lent_used += piece.n;
    return piece;
}
