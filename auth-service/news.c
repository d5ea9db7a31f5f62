/* Auth.News: who keeps answers of the directory learns that they may be old, within the time of a message. */
#include "auth-service/internal.h"

#define WAITING_MAX 4096u
#define WAIT_MS_MAX 30000u
#define GATHER_MS 20 /* more of the same burst goes into the same answer */

void news_init(struct news *c)
{
    c->last = random_u64() >> 1;
    c->first = c->last + 1;
    fiber_cond_init(&c->more);
}

void news_note(struct news *c, int64_t account_id)
{
    c->kept[++c->last % NEWS_KEPT] = account_id;
    if (c->last - c->first >= NEWS_KEPT)
        c->first = c->last - NEWS_KEPT + 1;
    fiber_cond_broadcast(&c->more);
}

void news_lose(struct news *c)
{
    c->last++;
    c->first = c->last + 1;
    fiber_cond_broadcast(&c->more);
}

/* Nothing of what came after it is lost. */
static bool is_known(const struct news *c, uint64_t after)
{
    return after + 1 >= c->first && after <= c->last;
}

FIBER static bool wait_for_news(struct news *c, uint64_t after, unsigned wait_ms, struct err *err)
{
    FIBER_DEADLINE(wait_ms);
    while (is_known(c, after) && after == c->last)
        if (!fiber_cond_wait(&c->more, err))
            return false;
    return fiber_sleep_ms(GATHER_MS, err);
}

static int by_value(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Each once. */
static void take_ids(const struct news *c, uint64_t after, struct arena *a, Thurn__NewsReply *out)
{
    size_t n = 0;
    int64_t *ids = arena_array(a, int64_t, c->last - after + 1);
    for (uint64_t at = after + 1; at <= c->last; at++)
        if (c->kept[at % NEWS_KEPT])
            ids[n++] = c->kept[at % NEWS_KEPT];
    qsort(ids, n, sizeof(*ids), by_value);
    for (size_t i = 0; i < n; i++)
        if (out->n_account_ids == 0 || ids[out->n_account_ids - 1] != ids[i])
            ids[out->n_account_ids++] = ids[i];
    out->account_ids = ids;
}

bool news_wait(struct news *c, const Thurn__NewsRequest *q, struct arena *a, Thurn__NewsReply *out, struct err *err)
{
    if (c->n_waiting >= WAITING_MAX)
        return err_set(err, ERR_BUSY, "more than %u wait for changes of the directory", WAITING_MAX);
    if (is_known(c, q->after)) {
        c->n_waiting++;
        bool ok = wait_for_news(c, q->after, MIN(q->wait_ms, WAIT_MS_MAX), err);
        c->n_waiting--;
        if (!ok && err->kind != ERR_TIMEOUT)
            return false;
        err_clear(err);
    }
    out->at = c->last;
    out->is_gap = !is_known(c, q->after);
    out->has_news = out->is_gap || q->after != c->last;
    if (!out->is_gap)
        take_ids(c, q->after, a, out);
    return true;
}
