/* A queued message in memory: one block with the structure, its recipients and all texts. */
#include "queue-service/message.h"

#include "base/buf.h"
#include "base/clock.h"
#include "queue-service/domain.h"
#include "queue-service/schedule.h"
#include "queue-service/shard.h"

#include <malloc.h>
#include <openssl/sha.h>

/* --- texts --- */

/* They lie behind the recipients: those of the message in the order of enum message_text, then the recipients'. All end
 * with NUL. */
static char *texts_of(const struct message *m)
{
    return (char *)(uintptr_t)(m->rcpts + m->n_rcpts);
}

str message_text(const struct message *m, enum message_text which)
{
    const char *p = texts_of(m);
    for (unsigned i = 0; i < which; i++)
        p += m->text_n[i] + 1;
    return str_n(p, m->text_n[which]);
}

str rcpt_address(const struct rcpt *r)
{
    return str_n(texts_of(r->msg) + r->address_at, r->address_n);
}

str rcpt_original(const struct rcpt *r)
{
    return str_n(texts_of(r->msg) + r->original_at, r->original_n);
}

str rcpt_domain(const struct rcpt *r)
{
    return str_slice(rcpt_address(r), r->domain_at, SIZE_MAX);
}

/* --- making --- */

struct texts_in {
    str v[MESSAGE_TEXTS];
};
static struct texts_in texts_in(const struct envelope *e)
{
    return (struct texts_in){{[TEXT_SENDER] = e->sender,
                              [TEXT_ENVELOPE_ID] = e->envelope_id,
                              [TEXT_RECEIVED_FROM] = e->received_from,
                              [TEXT_TRACE] = e->trace,
                              [TEXT_PREFIX] = e->prefix}};
}

/* In lower case from the domain on, as it is kept: a domain has no case. */
static bool is_as_kept(str original, str address, size_t domain_at)
{
    if (original.n != address.n || memcmp(original.p, address.p, domain_at) != 0)
        return false;
    for (size_t i = domain_at; i < address.n; i++)
        if (original.p[i] != (char)ascii_lower((unsigned char)address.p[i]))
            return false;
    return true;
}

static size_t domain_at(str address)
{
    return (size_t)(str_rfind(address, '@') + 1);
}

/* The original address is mostly the address itself, and then lies there once. */
static bool has_own_original(const struct envelope_rcpt *e)
{
    return !is_as_kept(e->original, e->address, domain_at(e->address));
}

static size_t text_bytes(const struct envelope *e)
{
    struct texts_in in = texts_in(e);
    size_t n = 0;
    for (unsigned i = 0; i < MESSAGE_TEXTS; i++)
        n += in.v[i].n + 1;
    for (size_t i = 0; i < e->n_rcpts; i++)
        n += e->rcpts[i].address.n + 1 + (has_own_original(&e->rcpts[i]) ? e->rcpts[i].original.n + 1 : 0);
    return n;
}

static char *keep(char *p, str s)
{
    if (s.n)
        memcpy(p, s.p, s.n);
    p[s.n] = '\0';
    return p + s.n + 1;
}

static char *rcpt_init(struct message *m, struct rcpt *r, const struct envelope_rcpt *e, char *p)
{
    r->msg = m;
    r->address_n = (uint16_t)e->address.n;
    r->original_n = (uint16_t)e->original.n;
    r->domain_at = (uint16_t)domain_at(e->address);
    r->address_at = r->original_at = (uint32_t)(p - texts_of(m));
    char *end = keep(p, e->address);
    for (size_t i = r->domain_at; i < e->address.n; i++)
        p[i] = (char)ascii_lower((unsigned char)p[i]);
    if (has_own_original(e)) {
        r->original_at = (uint32_t)(end - texts_of(m));
        end = keep(end, e->original);
    }
    r->no = (uint16_t)e->no;
    r->notify = (uint8_t)e->notify;
    r->state = (uint8_t)e->state;
    r->attempts = (uint16_t)e->attempts;
    r->code = (uint16_t)e->code;
    r->due_unix = e->due_unix;
    r->is_delay_notified = e->is_delay_notified;
    if (e->text.n)
        rcpt_set_text(r, e->text);
    return end;
}

static bool is_finished(const struct rcpt *r)
{
    return r->state == R_DONE || r->state == R_FAILED;
}

static struct message_blob *blob_new(const struct envelope *e)
{
    assert(e->blob_hash.n == 32);
    struct message_blob *b = xnew(struct message_blob);
    b->tenant_id = e->blob_tenant;
    b->space = e->blob_space;
    memcpy(b->hash, e->blob_hash.p, 32);
    return b;
}

struct message *message_new(struct shard *s, uint64_t id, const struct envelope *e)
{
    struct message *m = xcalloc(1, sizeof(*m) + e->n_rcpts * sizeof(m->rcpts[0]) + text_bytes(e));
    struct texts_in in = texts_in(e);
    assert(e->enqueue_id.n == ENQUEUE_ID_SIZE && e->n_rcpts <= QUEUE_RCPTS_MAX);
    m->shard = s;
    m->id = id;
    memcpy(m->enqueue_id, e->enqueue_id.p, ENQUEUE_ID_SIZE);
    if (e->body_kind == BODY_BLOB)
        m->blob = blob_new(e);
    m->tenant_id = e->tenant_id;
    m->account_id = e->account_id;
    m->created_unix = e->created_unix;
    m->expires_unix = e->expires_unix;
    m->born_ms = clock_mono_ms() - MAX(queue_unix_ms(s->queue) - e->created_unix * 1000, 0);
    m->day = e->day;
    m->priority = (uint8_t)MIN(e->priority, 2u);
    m->flags = (uint8_t)e->flags;
    m->size = e->size;
    m->n_rcpts = (uint16_t)e->n_rcpts;
    char *p = texts_of(m);
    for (unsigned i = 0; i < MESSAGE_TEXTS; i++) {
        m->text_n[i] = (uint16_t)in.v[i].n;
        p = keep(p, in.v[i]);
    }
    for (size_t i = 0; i < e->n_rcpts; i++) {
        p = rcpt_init(m, &m->rcpts[i], &e->rcpts[i], p);
        m->n_left = (uint16_t)(m->n_left + !is_finished(&m->rcpts[i]));
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
    free(m->blob);
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

/* --- what it costs --- */

size_t heap_bytes(const void *p)
{
    return p ? malloc_usable_size((void *)(uintptr_t)p) + sizeof(size_t) : 0;
}

static size_t message_bytes(struct message *m)
{
    size_t n = heap_bytes(m) + heap_bytes(m->blob);
    for (uint32_t i = 0; i < m->n_rcpts; i++)
        n += heap_bytes(m->rcpts[i].text);
    return n;
}

uint64_t queue_bytes(const struct queue *q)
{
    return q->message_bytes + q->route_bytes + index_bytes(&q->by_id) + index_bytes(&q->by_enqueue_id);
}

void rcpt_set_text(struct rcpt *r, str text)
{
    struct queue *q = r->msg->shard->queue;
    char *old = r->text;
    r->text = text.n ? str_dup(str_slice(text, 0, QUEUE_TEXT_MAX)) : NULL;
    if (r->msg->is_linked)
        q->message_bytes = q->message_bytes + heap_bytes(r->text) - heap_bytes(old);
    free(old);
}

str rcpt_reason(const struct rcpt *r)
{
    if (r->text)
        return str_c(r->text);
    if (r->flow)
        return str_c(r->flow->site->text);
    return r->state == R_READY ? domain_text(r->msg->shard->queue, rcpt_domain(r)) : STR_NONE;
}

/* --- body in memory --- */

void message_keep_body(struct message *m, str content, bool must)
{
    struct queue *q = m->shard->queue;
    assert(!m->blob && content.n == m->size); /* both are made of one string by whoever calls */
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

/* Ids are given before the content is placed and committed, so what comes late is mostly near the end. */
static void link_in_order(struct message *m)
{
    struct list_node *head = &m->shard->messages.head, *before = head->prev;
    while (before != head && LIST_ITEM(before, struct message, node)->id > m->id)
        before = before->prev;
    list_insert_before(before->next, &m->node);
}

void message_link(struct message *m)
{
    struct queue *q = m->shard->queue;
    assert(!m->is_linked && m->n_left > 0);
    m->is_linked = true;
    message_ref(m);
    link_in_order(m);
    assert(!index_by_id(&q->by_id, m->id));
    index_add(&q->by_id, m);
    index_add(&q->by_enqueue_id, m);
    q->n_messages++;
    q->message_bytes += message_bytes(m);
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
    index_remove(&q->by_id, m);
    index_remove(&q->by_enqueue_id, m);
    q->n_messages--;
    q->message_bytes -= message_bytes(m);
    q->n_rcpts -= m->n_left;
    message_unref(m);
}
