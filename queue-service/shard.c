#include "queue-service/shard.h"

#include "base/clock.h"
#include "base/log.h"
#include "queue-service/message.h"
#include "queue-service/schema.h"

#define STICK_MS 1000 /* new mail stays on one shard so long, so that batches touch few */

bool shard_may_work(const struct shard *s)
{
    return s->state == SHARD_OWNED && clock_mono_ms() < s->queue->lease_until_ms;
}

struct shard *shard_for_new(struct queue *q)
{
    int64_t now = clock_mono_ms();
    if (q->is_draining)
        return NULL;
    if (now >= q->next_shard_ms) {
        q->next_shard = (q->next_shard + 1) % q->opts.n_shards;
        q->next_shard_ms = now + STICK_MS;
    }
    for (unsigned i = 0; i < q->opts.n_shards; i++) {
        struct shard *s = &q->shards[(q->next_shard + i) % q->opts.n_shards];
        if (shard_may_work(s) && s->counter < UINT32_MAX) {
            q->next_shard = s->number;
            return s;
        }
    }
    return NULL;
}

uint64_t shard_last_id(const struct shard *s)
{
    return (uint64_t)s->number << ID_SHARD_SHIFT | (uint64_t)(s->epoch & ID_EPOCH_MAX) << ID_EPOCH_SHIFT | s->counter;
}

uint64_t shard_next_id(struct shard *s)
{
    s->counter++;
    return shard_last_id(s);
}

static bool counts_as_owned(enum shard_state state)
{
    return state == SHARD_OWNED || state == SHARD_LEAVING;
}

void shard_set_state(struct shard *s, enum shard_state state)
{
    struct queue *q = s->queue;
    q->n_owned = q->n_owned + counts_as_owned(state) - counts_as_owned(s->state);
    q->n_taken = q->n_taken + (state != SHARD_OTHERS) - (s->state != SHARD_OTHERS);
    s->state = state;
}

static void unlink_messages(struct shard *s)
{
    for (struct list_node *n; (n = list_first(&s->messages));)
        message_unlink(LIST_ITEM(n, struct message, node));
}

void shard_lose(struct shard *s)
{
    if (s->state == SHARD_OTHERS)
        return;
    shard_set_state(s, SHARD_OTHERS);
    s->work_at_ms = 0;
    unlink_messages(s);
    fiber_cond_broadcast(&s->queue->ended);
}

void shard_loaded(struct shard *s, bool ok, int64_t start_ms)
{
    struct queue *q = s->queue;
    if (!ok) {
        unlink_messages(s);
        s->work_at_ms = clock_mono_ms() + QUEUE_AWAY_RETRY_MS;
        return;
    }
    shard_set_state(s, SHARD_OWNED);
    s->work_at_ms = start_ms + (s->is_in_doubt ? (int64_t)q->opts.takeover_hold_ms * 4 / 5 : 0);
    if (q->n_owned == q->n_taken)
        log_info("queue.shards_loaded", KV_I64("owned", q->n_owned), KV_I64("messages", (int64_t)q->n_messages));
}
