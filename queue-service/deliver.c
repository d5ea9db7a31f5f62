/* A job at a remote site: hand it to the SMTP client, and turn what it says into updates. */
#include "base/clock.h"
#include "base/log.h"
#include "queue-service/body.h"
#include "queue-service/job.h"
#include "queue-service/results.h"

#define UNREADABLE_WAIT_S 60

struct content {
    struct queue *q;
    struct message *m;
    str inline_body;
};
static struct rpc_source *open_content(void *arg, struct err *err UNUSED)
{
    struct content *c = arg;
    return body_open(c->q, c->m, c->inline_body);
}
static void close_content(void *arg UNUSED, struct rpc_source *s)
{
    body_close(s);
}

static void update_of(struct queue *q, const struct remote_rcpt *from, struct update *u)
{
    switch (from->outcome) {
    case REMOTE_DELIVERED:
        update_done(u, from->code, from->status[0] ? from->status : "2.0.0", from->text);
        u->done_by = from->is_dsn_relayed ? BY_RELAY_WITH_DSN : BY_RELAY;
        break;
    case REMOTE_FAILED:
        update_fail(u, from->code, from->status[0] ? from->status : "5.0.0", from->text);
        break;
    default:
        update_defer(q, u, queue_backoff_s(q, u->rcpt->attempts), from->code, from->status[0] ? from->status : "4.0.0",
                     from->text);
    }
    (void)snprintf(u->mta, sizeof(u->mta), "%s", from->mx);
}

static struct update *next_update(struct job *job, size_t i)
{
    struct update *u = &job->u[job->n_updates++];
    update_init(u, job->rcpts[i]);
    return u;
}

static void reject_job(struct job *job)
{
    for (size_t i = 0; i < job->n; i++)
        update_fail(next_update(job, i), 0, job->site->reject_status, job->site->text);
}

void deliver_unreadable(struct job *job, const struct err *why)
{
    log_warn("queue.body_unreadable", KV_I64("id", (int64_t)job->msg->id), KV_ERR(why));
    for (size_t i = 0; i < job->n; i++) {
        struct update *u = next_update(job, i);
        update_defer(job->site->queue, u, UNREADABLE_WAIT_S, 0, "4.3.0", "message content cannot be read now");
        u->counts_attempt = false;
    }
}

/* Recipients for whom nobody could be talked to stay with the site; the rest has results. */
static void finish(struct job *job, const struct remote_rcpt *r)
{
    struct site *s = job->site;
    const char *failure = NULL;
    bool was_heard = false;
    for (size_t i = 0; i < job->n; i++) {
        if (r[i].is_site_failure && r[i].outcome == REMOTE_DEFERRED) {
            if (job->is_broken_off) /* the site has done nothing */
                continue;
            failure = r[i].text;
            if (job->msg->is_gone)
                continue;
            rcpt_set_text(job->rcpts[i], str_c(r[i].text));
            site_put_back(s, job->rcpts[i]);
            job->rcpts[i] = NULL;
            continue;
        }
        was_heard |= r[i].code != 0;
        update_of(s->queue, &r[i], next_update(job, i));
    }
    if (failure)
        site_failed(s, failure);
    else if (was_heard)
        site_succeeded(s);
}

void deliver_job(struct job *job)
{
    struct queue *q = job->site->queue;
    struct message *m = job->msg;
    struct err err = ERR_INIT;
    if (job->site->kind == SITE_REJECT) {
        reject_job(job);
        return;
    }
    struct content content = {.q = q, .m = m};
    if (!m->blob && !body_inline(q, m, job->arena, &content.inline_body, &err)) {
        if (err.kind != ERR_CANCELLED) /* that was our own doing */
            deliver_unreadable(job, &err);
        return;
    }
    struct remote_rcpt *r = arena_array(job->arena, struct remote_rcpt, job->n);
    for (size_t i = 0; i < job->n; i++)
        r[i] = (struct remote_rcpt){.address = rcpt_address(job->rcpts[i]),
                                    .original = rcpt_original(job->rcpts[i]),
                                    .notify = job->rcpts[i]->notify};
    const struct remote_message rm = {.sender = message_text(m, TEXT_SENDER),
                                      .size = m->size,
                                      .open = open_content,
                                      .close = close_content,
                                      .arg = &content,
                                      .is_8bit = m->flags & MSG_IS_8BIT,
                                      .is_smtputf8 = m->flags & MSG_IS_UTF8,
                                      .requires_tls = m->flags & MSG_REQUIRES_TLS,
                                      .ret_full = m->flags & MSG_RET_FULL,
                                      .envelope_id = message_text(m, TEXT_ENVELOPE_ID),
                                      .is_sent = &job->is_sent};
    remote_deliver(q->remote, &job->site->remote, &rm, r, job->n);
    finish(job, r);
}
