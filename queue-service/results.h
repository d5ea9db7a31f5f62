/*
 * results.h: what is to become of recipients after an attempt or when their time is over: log line, notification to the
 * sender, commit. An attempt fills in a struct update for each of its recipients.
 */
#ifndef QUEUE_SERVICE_RESULTS_H
#define QUEUE_SERVICE_RESULTS_H

#include "queue-service/message.h"

/* What is to become of one recipient. */
struct update {
    struct rcpt *rcpt;
    enum rcpt_state state; /* R_DUE, R_HELD, R_DONE or R_FAILED */
    bool is_again;         /* at once, as if nothing had been: not written */
    bool counts_attempt;
    enum { BY_RELAY, BY_RELAY_WITH_DSN, BY_DELIVERY, BY_EXPANSION } done_by; /* for R_DONE: who tells the sender */
    int64_t due_unix;
    uint16_t code;
    char status[16]; /* enhanced code, "5.1.1" */
    char text[QUEUE_TEXT_MAX];
    char mta[256]; /* who said so; empty = we */
};

void update_init(struct update *u, struct rcpt *r);
void update_done(struct update *u, uint16_t code, const char *status, const char *text);
void update_fail(struct update *u, uint16_t code, const char *status, const char *text);
/* Again after wait_s; past the message's life it fails instead. */
void update_defer(struct queue *q, struct update *u, int64_t wait_s, uint16_t code, const char *status,
                  const char *text);
/* Log, count, add the DSNs that are due, commit. Takes over the messages in add. False: the shard was lost. */
FIBER bool results_commit(struct queue *q, struct message *m, struct update *u, size_t n, struct message **add,
                          size_t n_add);
/* The message's timer: tell of the delay, or end what is left. A fiber. */
FIBER void results_expire(void *message);

#endif
