/*
 * site.h: where mail goes: the hosts of a set of MX records, the local store (and each shard of it that is away), or
 * nobody (SITE_REJECT). Its flows, its window of sessions, and its suspension; schedule.c says how they take turns.
 *
 * Newcomers: another way out is an enum site_kind that route.c finds, and an attempt (job.h) that schedule.c begins.
 */
#ifndef QUEUE_SERVICE_SITE_H
#define QUEUE_SERVICE_SITE_H

#include "base/map.h"
#include "queue-service/message.h"
#include "queue-service/remote/remote.h"

/* Recipients of one tenant and priority at one site. */
struct flow {
    struct list_node node; /* of site->flows */
    struct site *site;
    struct list rcpts;
    int64_t tenant_id;
    uint32_t priority;
    int deficit;
};
enum site_kind { SITE_LOCAL, SITE_REMOTE, SITE_REJECT };
struct site {
    struct queue *queue;
    enum site_kind kind;
    struct remote_site remote; /* mx: one block of the heap with its names */
    char *key;
    bool is_store_shard;       /* SITE_LOCAL: for what waits for one shard of the store */
    const char *reject_status; /* SITE_REJECT: "5.1.2"; reply is text */
    struct list flows;         /* those with recipients, in turn */
    struct map64 flow_of;      /* tenant and priority -> one of flows */
    struct list_node waiting;  /* for a session, of its places */
    unsigned n_ready, n_sessions, n_domains;
    double window, failed_cohorts;
    unsigned suspensions; /* in a row, without one success */
    uint64_t hurried_by;  /* the last act that ended a suspension */
    int64_t suspended_until_ms, used_ms;
    struct fiber_timer resume;
    char text[QUEUE_TEXT_MAX]; /* why it is suspended, or rejects */
};

/* Take out of the wheel or the lists; the state is the caller's to set. */
void rcpt_detach(struct rcpt *r);
struct site *site_get(struct queue *q, enum site_kind kind, str key);
void site_set_hosts(struct site *s, const struct remote_site *found); /* copied; no session of it runs */
/* Append to the flow of its message's tenant and priority. */
void site_add(struct site *s, struct rcpt *r, bool at_head);
bool site_is_suspended(const struct site *s);
void site_put_back(struct site *s, struct rcpt *r); /* R_ACTIVE, at the head of its flow, as it was */
void site_move(struct site *s, struct rcpt *r);     /* R_ACTIVE, to the end of its flow there */
void site_kick(struct site *s);
/* An operator's retry ends a suspension; once by each act, whose number it is, or each of a million messages would have
 * the host asked. */
void site_hurry(struct site *s, uint64_t act);
void site_succeeded(struct site *s);
void site_failed(struct site *s, const char *text);

#endif
