/*
 * body.h: where a message's content comes from: memory, the database (small ones), or the store's blobs, which it
 * holds.
 */
#ifndef QUEUE_SERVICE_BODY_H
#define QUEUE_SERVICE_BODY_H

#include "queue-service/message.h"

#define QUEUE_INLINE_MAX (16u * 1024) /* bodies up to here lie in q_body */
#define QUEUE_CONTENT_MAX (512u * 1024)

/* A source over the whole body: over content, when the body is inline (borrowed), else over the blob. body_close frees
 * it. */
struct rpc_source *body_open(struct queue *q, struct message *m, str content);
void body_close(struct rpc_source *s);
/* All of an inline body, in the arena. */
FIBER bool body_inline(struct queue *q, struct message *m, struct arena *a, str *out, struct err *err) WARN_UNUSED;
/* At most the first max bytes, in the arena. */
FIBER bool body_head(struct queue *q, struct message *m, size_t max, struct arena *a, str *out, struct err *err)
    WARN_UNUSED;
/*
 * Each message holds its blob itself, for several may have the same one (expansions, an Enqueue that two nodes took):
 * from before it is committed until it is over. Who does not come to release it, for a crash, leaves a hold that ends
 * by its time.
 */
struct body_hold {
    unsigned char holder[ENQUEUE_ID_SIZE + sizeof(uint64_t)];
    int64_t until_unix;
};
struct body_hold body_hold_of(str enqueue_id, uint64_t id, int64_t expires_unix);
/* Put content into the store as a blob that is held. */
FIBER bool body_put(struct queue *q, int64_t tenant_id, str content, const struct body_hold *hold, struct arena *a,
                    const Thurn__BlobRef **out, struct err *err) WARN_UNUSED;
/* Have the store keep the body of a message with held recipients, which do not expire; to be called from time to time.
 * A failure is logged, and the next time will do. */
FIBER void body_keep(struct queue *q, struct message *m, struct arena *a);
FIBER bool body_hold(struct queue *q, const Thurn__BlobRef *blob, const struct body_hold *hold, struct arena *a,
                     struct err *err) WARN_UNUSED;
/* The same for a message that is made already, and will be committed. An inline body needs none. */
FIBER bool body_hold_new(struct queue *q, const struct message *m, struct arena *a, struct err *err) WARN_UNUSED;
/* The message is over, or was never committed: its hold goes, soon. Does not wait. */
void body_release(struct queue *q, const struct message *m);
Thurn__BlobRef *body_blob_ref(const struct message *m, struct arena *a);

#endif
