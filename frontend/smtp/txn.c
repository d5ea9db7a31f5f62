#include "frontend/smtp/session.h"

struct smtp_txn *smtp_txn_new(void)
{
    static const char digits[] = "0123456789abcdef";
    struct smtp_txn *t = xnew(struct smtp_txn);
    arena_init(&t->arena, SMTP_TXN_ARENA_MAX);
    t->started_ms = clock_mono_ms();
    random_bytes(t->enqueue_id, sizeof(t->enqueue_id));
    for (size_t i = 0; i < sizeof(t->trace); i++)
        t->trace = t->trace << 8 | t->enqueue_id[i];
    for (size_t i = 0; i < sizeof(t->id) - 1; i++)
        t->id[i] = digits[(t->enqueue_id[i / 2] >> (i % 2 ? 0 : 4)) & 15];
    return t;
}

void smtp_txn_free(struct smtp_txn *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->n_rcpts; i++)
        resolved_unref(t->rcpts[i].resolved);
    smtp_body_done(&t->body);
    arena_done(&t->arena);
    free(t);
}

void smtp_txn_add(struct smtp_txn *t, const struct smtp_rcpt *r)
{
    if (t->n_rcpts == t->rcpts_room) {
        size_t room = t->rcpts_room ? t->rcpts_room * 2 : 4;
        struct smtp_rcpt *more = arena_array(&t->arena, struct smtp_rcpt, room);
        if (t->n_rcpts)
            memcpy(more, t->rcpts, t->n_rcpts * sizeof(*more));
        t->rcpts = more;
        t->rcpts_room = room;
    }
    t->rcpts[t->n_rcpts++] = *r;
    t->n_targets += r->resolved ? r->resolved->answer->n_targets : 1;
}

void smtp_reset(struct smtp_session *s)
{
    smtp_txn_free(s->txn);
    s->txn = NULL;
    fiber_context()->trace_id = 0;
}
