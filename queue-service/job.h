/*
 * job.h: an attempt: a part of a message under way to a site.
 */
#ifndef QUEUE_SERVICE_JOB_H
#define QUEUE_SERVICE_JOB_H

#include "queue-service/site.h"

/* A part of a message under way to a site. Its recipients are R_ACTIVE. The attempt (a fiber that may be broken off)
 * fills in what is to become of them; the session commits that. */
struct job {
    struct message *msg;
    struct site *site;
    struct rcpt *rcpts[QUEUE_JOB_RCPTS]; /* NULL: handed over already */
    size_t n;
    int64_t started_ms;
    struct arena *arena;
    struct update *u;     /* room for all */
    struct message **add; /* room for all; new messages that the updates come with */
    size_t n_updates, n_add;
    bool is_under_way;     /* from before the attempt's first turn to after its last */
    bool is_broken_off;    /* by us: what is found out from here on says nothing of the site */
    struct fiber *attempt; /* from its first turn on */
    bool is_sent;          /* the peer has all of the content: broken off now, it may be delivered all the same */
};

/* The next job, or false when there is none. Ends with job_end. */
bool site_take(struct site *s, struct job *job);
void job_end(struct job *job);
/* This recipient is out of the job's hands. */
void job_forget(struct job *job, const struct rcpt *r);

/* The attempts themselves: at a remote site, and at the store. */
FIBER void deliver_job(struct job *job);
/* The content cannot be had now, and not because a database is away: nobody's fault out there, and no attempt. */
void deliver_unreadable(struct job *job, const struct err *why);
FIBER void local_job(struct job *job);

#endif
