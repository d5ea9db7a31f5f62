/*
 * message.h: a queued message in memory, with its recipients.
 *
 * A recipient is in exactly one place (rcpt_state): the wheel, a domain's or a flow's list, an attempt's hands, held,
 * or finished. Who changes that is the loop or a fiber between two waits; an attempt owns its recipients until it puts
 * them back. A message lives while it is queued or refs > 0; losing the shard unlinks it (is_gone), and whoever still
 * holds a reference finds that out before it commits.
 */
#ifndef QUEUE_SERVICE_MESSAGE_H
#define QUEUE_SERVICE_MESSAGE_H

#include "queue-service/service.h"

#define QUEUE_TEXT_MAX 400u  /* of a reply that is kept */
#define QUEUE_JOB_RCPTS 100u /* recipients of one transaction */

enum { NOTIFY_SUCCESS = 1, NOTIFY_FAILURE = 2, NOTIFY_DELAY = 4, NOTIFY_NEVER = 8 };
enum { MSG_IS_8BIT = 1, MSG_IS_UTF8 = 2, MSG_REQUIRES_TLS = 4, MSG_RET_FULL = 8 };
enum body_kind { BODY_INLINE = 0, BODY_BLOB = 1 };

/* What is written in q_rcpt.state; the last three are of the memory alone. */
enum rcpt_state { R_DUE = 0, R_HELD = 1, R_DONE = 2, R_FAILED = 3, R_READY, R_ACTIVE };

struct flow;

struct rcpt {
    struct message *msg;
    union {
        struct wheel_node timer; /* R_DUE */
        struct list_node node;   /* R_READY: of a domain or a flow */
    };
    struct flow *flow; /* R_READY in a flow */
    char *text;        /* last reply or error; heap, or NULL */
    int64_t due_unix;
    uint32_t address_at, original_at; /* in the message's texts: rcpt_address() and its neighbours */
    uint16_t address_n, original_n;
    uint16_t domain_at; /* in the address; in lower case from there on */
    uint16_t no, attempts, code;
    uint8_t state, notify;
    bool is_delay_notified, is_to_be_held;
};

/* A body that lies with the store. */
struct message_blob {
    int64_t tenant_id;
    int64_t held_until_unix; /* as far as is known here: 0 = nothing */
    uint32_t space;
    unsigned char hash[32];
};

enum message_text { TEXT_SENDER, TEXT_ENVELOPE_ID, TEXT_RECEIVED_FROM, TEXT_TRACE, TEXT_PREFIX, MESSAGE_TEXTS };

/* One block: the structure, its recipients, all texts. A million may wait, so what is small is kept small. */
struct message {
    struct list_node node; /* of the shard, ascending id */
    struct shard *shard;
    struct wheel_node timer; /* delay notice, then expiry */
    uint64_t id;
    unsigned char enqueue_id[ENQUEUE_ID_SIZE];
    int64_t tenant_id, account_id, created_unix, expires_unix;
    int64_t born_ms; /* monotonic: created_unix as it seemed when the message came into memory */
    uint64_t size;
    struct message_blob *blob; /* NULL: the body is inline */
    char *body;                /* inline content while it is kept in memory; size bytes */
    uint32_t day;
    unsigned refs;
    uint16_t n_rcpts, n_left;
    uint16_t n_ending;              /* scratch of commit.c: finished by the batch in hand */
    uint16_t text_n[MESSAGE_TEXTS]; /* message_text() */
    uint8_t priority, flags;
    bool is_gone;   /* unlinked; freed with the last reference */
    bool is_linked; /* counted, in the indexes */
    struct rcpt rcpts[];
};

/* What a message is made of. Views are copied. */
struct envelope_rcpt {
    str address, original, text;
    uint32_t no, notify, state, attempts, code;
    int64_t due_unix;
    bool is_delay_notified;
};
struct envelope {
    str enqueue_id, sender, envelope_id, received_from, trace, prefix, blob_hash;
    int64_t tenant_id, account_id, created_unix, expires_unix, blob_tenant;
    uint64_t size;
    uint32_t priority, flags, day, blob_space;
    enum body_kind body_kind;
    const struct envelope_rcpt *rcpts;
    size_t n_rcpts;
};

struct message *message_new(struct shard *s, uint64_t id, const struct envelope *e);
/* A new message on the shard of another, as a DSN or an expansion of it is: same fence. Its enqueue id follows from the
 * other's, the kind and the number, so that doing it again is the same. */
struct message *message_derive(struct message *from, const char *kind, uint32_t number, struct envelope *e);
/* Seconds. A wall clock that jumps while the message is in memory makes it no older and no younger. */
int64_t message_age_s(const struct message *m);
bool message_is_over(const struct message *m); /* older than it may become */
void message_ref(struct message *m);
void message_unref(struct message *m);
/* Of an inline body: if there is room, or in any case. */
void message_keep_body(struct message *m, str content, bool must);
void message_drop_body(struct message *m);
/* Into the shard's list and the maps, its recipients to where their state says. */
void message_link(struct message *m);
/* Out of everything; freed when nobody holds it. */
void message_unlink(struct message *m);
/* Views into the message; as long as that lives. */
str message_text(const struct message *m, enum message_text which);
str rcpt_address(const struct rcpt *r);
str rcpt_original(const struct rcpt *r);
str rcpt_domain(const struct rcpt *r);
void rcpt_set_text(struct rcpt *r, str text);
/* What the queue holds in memory of messages that wait, their domains and sites; against opts.max_bytes. */
uint64_t queue_bytes(const struct queue *q);
#define MAP_ENTRY_BYTES 64u       /* of base/map.h, with its share of the table */
size_t heap_bytes(const void *p); /* of a block, with what the allocator puts around it; of NULL: 0 */
/* Why it is not delivered: what was said of it last, or else of its site or domain. Empty: nothing is known yet. */
str rcpt_reason(const struct rcpt *r);

#endif
