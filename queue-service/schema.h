/*
 * schema.h: the queue's tables and statements, for both dialects.
 *
 * A message's id is shard (10 bits), epoch of the shard (21), counter (32): unique without asking the database,
 * ascending within a shard, and a shard is a range of ids.
 */
#ifndef QUEUE_SERVICE_SCHEMA_H
#define QUEUE_SERVICE_SCHEMA_H

#include "data/sql.h"

#define QUEUE_SHARDS_MAX 1024u
#define ID_SHARD_SHIFT 53
#define ID_EPOCH_SHIFT 32
#define ID_EPOCH_MAX ((1 << 21) - 1)
static inline int64_t shard_epoch_of(uint64_t id)
{
    return (int64_t)(id >> ID_EPOCH_SHIFT) & ID_EPOCH_MAX;
}

extern const struct sql_migration queue_migrations[];
extern const size_t queue_n_migrations;

// clang-format off
enum msg_col {
    MSG_ID, MSG_ENQUEUE_ID, MSG_TENANT, MSG_ACCOUNT, MSG_PRIORITY, MSG_CREATED, MSG_EXPIRES, MSG_SENDER, MSG_FLAGS, MSG_ENVELOPE_ID,
    MSG_BODY_KIND, MSG_SIZE, MSG_BLOB_SPACE, MSG_BLOB_TENANT, MSG_BLOB_HASH, MSG_RECEIVED_FROM, MSG_TRACE, MSG_PREFIX, MSG_DAY,
    MSG_COLS_
};
// clang-format on
// clang-format off
enum rcpt_col {
    RCPT_MSG, RCPT_NO, RCPT_ADDRESS, RCPT_ORIGINAL, RCPT_NOTIFY, RCPT_STATE, RCPT_ATTEMPTS, RCPT_DUE, RCPT_CODE, RCPT_TEXT,
    RCPT_NOTIFIED, RCPT_COLS_
};
// clang-format on

/* The fence: rows (shard, epoch) that must all be this node's, with a living lease. Columns: one row for each that is;
 * on PostgreSQL it fails with CONFLICT by itself when one is not, before what stands behind it in the pipeline runs. */
extern const struct sql_stmt q_fence;
extern const struct sql_stmt q_add_msg, q_add_rcpt, q_add_body, q_update_rcpt, q_delete_rcpts, q_delete_body,
    q_delete_msg, q_add_late;
extern const struct sql_stmt q_load_msgs, q_load_rcpts, q_load_late, q_clear_late, q_load_body;
/* Ownership. */
extern const struct sql_stmt q_make_shards, q_register, q_forget_nodes, q_forget_dead, q_bound_leases, q_renew,
    q_unregister, q_nodes, q_shards, q_expire_node, q_acquire, q_release, q_end_stuck;

#endif
