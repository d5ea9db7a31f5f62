/*
 * op.h: the frame of one account's transaction, and what is done once.
 *
 * A mutation is one transaction: the account's row lock first, then everything else of that account. It is a struct
 * that begins with `struct op`, and a body:
 *
 *     static bool flags_body(struct sql_tx *tx, void *arg, struct err *err)
 *     {
 *         struct flags_op *f = arg;
 *         op_begin(tx, &f->op);                     queues the lock and the account's row
 *         … queue what else is to be read …
 *         if (!sql_run(tx, err) || !op_ready(&f->op, err))
 *             return false;
 *         … decide, queue the writes …
 *         op_end(tx, &f->op);                       queues the account's row if it changed
 *         return true;
 *     }
 *
 * run by op_write, which makes the account's rows at first use and publishes the beacon afterwards.
 */
#ifndef STORE_SERVICE_ACCOUNT_OP_H
#define STORE_SERVICE_ACCOUNT_OP_H

#include "store-service/account/account.h"

struct op {
    struct shard *shard;
    const Thurn__AccountRef *ref;
    int64_t now_unix;
    unsigned kinds; /* of the beacon: what a mutation changed */
    /* Set in the body. */
    struct account_row account, before;
    bool needs_prepare;
    struct sql_result rows_;
    /* Of one that op_init_once began. */
    str request_id;          /* empty = none was given */
    ProtobufCMessage *reply; /* of the method; lives in reply_arena */
    struct arena *reply_arena;
    bool is_repeat; /* after op_ready: it was done before and *reply is what was said then */
    struct sql_result requests_;
};
/* Fill in the head of an op. Errors: INVALID (no account, no such shard). */
bool op_init(struct op *op, struct store *s, const Thurn__AccountRef *ref, struct err *err) WARN_UNUSED;
void op_begin(struct sql_tx *tx, struct op *op);      /* lock */
void op_begin_read(struct sql_tx *tx, struct op *op); /* no lock */
bool op_ready(struct op *op, struct err *err) WARN_UNUSED;
void op_end(struct sql_tx *tx, struct op *op);
FIBER bool op_write(struct op *op, sql_body body, void *arg, struct err *err) WARN_UNUSED;
FIBER bool op_read(struct op *op, sql_body body, void *arg, struct err *err) WARN_UNUSED;

/*
 * --- what is done once (once.c) ---
 * A mutation that would do more, or fail, when it is repeated takes a request id: the caller's stub sends a call again
 * when its node died, and nobody knows then how far that came. Its body leaves off after op_ready when op.is_repeat;
 * else it fills in the method's reply and ends, after its last transaction's writes, with op_remember.
 */
#define REQUEST_ID_SIZE 16u
#define ONCE_DAYS 2 /* so long is a request id known at least */
/* op_init for such a mutation. reply is the method's. Errors: INVALID, also for a request id of another size. */
bool op_init_once(struct op *op, struct store *s, const Thurn__AccountRef *ref, ProtobufCBinaryData request_id,
                  struct rpc_call *c, ProtobufCMessage *reply, struct err *err) WARN_UNUSED;
void op_remember(struct sql_tx *tx, const struct op *op);
/* For op.c: queue the look-up behind the account's lock, and take its result. Errors: INTERNAL (a damaged row). */
void once_queue_find(struct sql_tx *tx, struct op *op);
bool once_take(struct op *op, struct err *err) WARN_UNUSED;
/* For Append, which does it for many requests in one transaction. once_find is asked for account, request id and least
 * day, and answers account, request id and packed reply; once_insert takes account, request id, day and packed reply.
 */
extern const struct sql_stmt once_find, once_insert;
bool once_check_id(ProtobufCBinaryData id, str *out, struct err *err) WARN_UNUSED;
bool once_unpack(str packed, struct arena *a, ProtobufCMessage *out, struct err *err) WARN_UNUSED;

#endif
