/* A queued message in memory: one block for the structure and its recipients, one for all texts. */
#include "queue-service/internal.h"

#include "base/clock.h"

#include <openssl/sha.h>

/* --- making --- */

static str keep(char **p, str s)
{
    str out = str_n(*p, s.n);
    if (s.n)
        memcpy(*p, s.p, s.n);
    (*p)[s.n] = '\0';
    *p += s.n + 1;
    return out;
}

static size_t text_bytes(const struct envelope *e)
{
    size_t n = e->sender.n + e->envelope_id.n + e->received_from.n + e->trace.n + e->prefix.n + 5;
    for (size_t i = 0; i < e->n_rcpts; i++)
        n += e->rcpts[i].address.n + e->rcpts[i].original.n + 2;
    return n;
}

static void rcpt_init(struct message *m, struct rcpt *r, const struct envelope_rcpt *e, char **p)
{
    r->msg = m;
    r->address = keep(p, e->address);
    r->original = keep(p, e->original);
    ptrdiff_t at = str_rfind(r->address, '@');
    r->domain = str_slice(r->address, (size_t)(at + 1), SIZE_MAX);
    for (size_t i = 0; i < r->domain.n; i++) /* the address' own bytes: a domain has no case */
        ((char *)(uintptr_t)r->domain.p)[i] = (char)ascii_lower((unsigned char)r->domain.p[i]);
    r->no = e->no;
    r->notify = (uint8_t)e->notify;
    r->state = (uint8_t)e->state;
    r->attempts = (uint16_t)e->attempts;
    r->code = (uint16_t)e->code;
    r->due_unix = e->due_unix;
    r->is_delay_notified = e->is_delay_notified;
    if (e->text.n)
        rcpt_set_text(r, e->text);
}

static bool is_finished(const struct rcpt *r)
{
    return r->state == R_DONE || r->state == R_FAILED;
}

struct message *message_new(struct shard *s, uint64_t id, const struct envelope *e)
{
    struct message *m = xcalloc(1, sizeof(*m) + e->n_rcpts * sizeof(m->rcpts[0]));
    m->shard = s;
    m->id = id;
    assert(e->enqueue_id.n == ENQUEUE_ID_SIZE && (e->blob_hash.n == 0 || e->blob_hash.n == 32));
    memcpy(m->enqueue_id, e->enqueue_id.p, ENQUEUE_ID_SIZE);
    if (e->blob_hash.n)
        memcpy(m->blob_hash, e->blob_hash.p, 32);
    m->tenant_id = e->tenant_id;
    m->account_id = e->account_id;
    m->created_unix = e->created_unix;
    m->expires_unix = e->expires_unix;
    m->born_ms = clock_mono_ms() - MAX(queue_unix_ms(s->queue) - e->created_unix * 1000, 0);
    m->day = e->day;
    m->priority = e->priority;
    m->flags = e->flags;
    m->body_kind = e->body_kind;
    m->size = e->size;
    m->blob_space = e->blob_space;
    m->blob_tenant = e->blob_tenant;
    char *p = m->memory = xmalloc(text_bytes(e));
    m->sender = keep(&p, e->sender);
    m->envelope_id = keep(&p, e->envelope_id);
    m->received_from = keep(&p, e->received_from);
    m->trace = keep(&p, e->trace);
    m->prefix = keep(&p, e->prefix);
    m->n_rcpts = (uint32_t)e->n_rcpts;
    for (size_t i = 0; i < e->n_rcpts; i++) {
        rcpt_init(m, &m->rcpts[i], &e->rcpts[i], &p);
        m->n_left += !is_finished(&m->rcpts[i]);
    }
    m->refs = 1;
    return m;
}

struct message *message_derive(struct message *from, const char *kind, uint32_t number, struct envelope *e)
{
    unsigned char md[SHA256_DIGEST_LENGTH];
    BUF(b, 128);
    buf_add_n(&b, from->enqueue_id, ENQUEUE_ID_SIZE);
    buf_printf(&b, "%s:%u:%llu", kind, number, (unsigned long long)from->id);
    SHA256((const unsigned char *)b.p, b.n, md);
    e->enqueue_id = str_n(md, ENQUEUE_ID_SIZE);
    return message_new(from->shard, shard_next_id(from->shard), e);
}

static void message_free(struct message *m)
{
    message_drop_body(m);
    for (uint32_t i = 0; i < m->n_rcpts; i++)
        free(m->rcpts[i].text);
    free(m->memory);
    free(m);
}

int64_t message_age_s(const struct message *m)
{
    return (clock_mono_ms() - m->born_ms) / 1000;
}

bool message_is_over(const struct message *m)
{
    return message_age_s(m) >= m->expires_unix - m->created_unix;
}

void message_ref(struct message *m)
{
    m->refs++;
}

void message_unref(struct message *m)
{
    if (m && --m->refs == 0) {
        assert(!m->is_linked);
        message_free(m);
    }
}

void rcpt_set_text(struct rcpt *r, str text)
{
    free(r->text);
    r->text = text.n ? str_dup(str_slice(text, 0, QUEUE_TEXT_MAX)) : NULL;
}

str rcpt_reason(const struct rcpt *r)
{
    if (r->text)
        return str_c(r->text);
    if (r->flow)
        return str_c(r->flow->site->text);
    return r->state == R_READY ? domain_text(r->msg->shard->queue, r->domain) : STR_NONE;
}

/* --- body in memory --- */

void message_keep_body(struct message *m, str content, bool must)
{
    struct queue *q = m->shard->queue;
    assert(m->body_kind == BODY_INLINE && content.n == m->size); /* both are made of one string by whoever calls */
    if (m->body || (!must && q->cached_bytes + content.n > QUEUE_CACHE_BYTES))
        return;
    m->body = str_dup(content);
    q->cached_bytes += content.n;
}

void message_drop_body(struct message *m)
{
    if (!m->body)
        return;
    m->shard->queue->cached_bytes -= m->size;
    free(m->body);
    m->body = NULL;
}

/* --- links --- */

void message_link(struct message *m)
{
    struct queue *q = m->shard->queue;
    assert(!m->is_linked && m->n_left > 0);
    m->is_linked = true;
    message_ref(m);
    list_push(&m->shard->messages, &m->node);
    void *old = map64_put(&q->messages, m->id, m);
    assert(!old);
    (void)map_put(&q->by_enqueue_id, str_n(m->enqueue_id, ENQUEUE_ID_SIZE), m); /* after a takeover two may share it */
    q->n_messages++;
    q->n_rcpts += m->n_left;
    for (uint32_t i = 0; i < m->n_rcpts; i++) {
        struct rcpt *r = &m->rcpts[i];
        if (r->state == R_HELD)
            q->n_held++;
        else if (!is_finished(r))
            schedule_rcpt(r);
    }
    schedule_message(m);
}

void message_unlink(struct message *m)
{
    struct queue *q = m->shard->queue;
    if (!m->is_linked)
        return;
    m->is_linked = false;
    m->is_gone = true;
    wheel_remove(&m->timer);
    for (uint32_t i = 0; i < m->n_rcpts; i++) {
        rcpt_detach(&m->rcpts[i]);
        q->n_held -= m->rcpts[i].state == R_HELD;
        m->rcpts[i].state = R_FAILED; /* nowhere: an attempt that still has it finds is_gone */
    }
    list_remove(&m->node);
    (void)map64_remove(&q->messages, m->id); /* it is this one */
    str key = str_n(m->enqueue_id, ENQUEUE_ID_SIZE);
    if (map_get(&q->by_enqueue_id, key) == m)
        (void)map_remove(&q->by_enqueue_id, key);
    q->n_messages--;
    q->n_rcpts -= m->n_left;
    message_unref(m);
}
