/* A mutation with a request id is done once: the row that says so is committed with it, and has its reply. */
#include "store-service/account/op.h"

// clang-format off
const struct sql_stmt once_find = {
    "s_find_requests", "ibi", "ibb",
    "SELECT account_id, request_id, reply FROM s_request WHERE account_id = ?1 AND request_id = ?2 AND day >= ?3",
    "SELECT r.account_id, r.request_id, r.reply FROM {rows} AS v (a, id, day) JOIN s_request r ON"
    " r.account_id = v.a AND r.request_id = v.id AND r.day >= v.day",
    true};
const struct sql_stmt once_insert = {
    "s_insert_requests", "ibib", "",
    "INSERT INTO s_request (account_id, request_id, day, reply) VALUES (?1, ?2, ?3, ?4)",
    "INSERT INTO s_request (account_id, request_id, day, reply) SELECT * FROM {rows} AS v", true};
// clang-format on

bool once_check_id(ProtobufCBinaryData id, str *out, struct err *err)
{
    if (id.len != 0 && id.len != REQUEST_ID_SIZE)
        return err_set(err, ERR_INVALID, "a request id has %u bytes", REQUEST_ID_SIZE);
    *out = rpc_str(id);
    return true;
}

bool once_unpack(str packed, struct arena *a, ProtobufCMessage *out, struct err *err)
{
    ProtobufCAllocator storage;
    const ProtobufCMessage *m = protobuf_c_message_unpack(out->descriptor, rpc_arena_allocator(a, &storage), packed.n,
                                                          (const uint8_t *)packed.p);
    if (!m)
        return err_set(err, ERR_INTERNAL, "a stored reply is damaged");
    memcpy(out, m, out->descriptor->sizeof_message);
    return true;
}

bool op_init_once(struct op *op, struct store *s, const Thurn__AccountRef *ref, ProtobufCBinaryData request_id,
                  struct rpc_call *c, ProtobufCMessage *reply, struct err *err)
{
    if (!op_init(op, s, ref, err) || !once_check_id(request_id, &op->request_id, err))
        return false;
    op->reply = reply;
    op->reply_arena = c->arena;
    return true;
}

/* Behind the account's lock: a node that died may have left a transaction that is still at work. */
void once_queue_find(struct sql_tx *tx, struct op *op)
{
    op->is_repeat = false;
    op->requests_ = (struct sql_result){0};
    if (!op->request_id.n)
        return;
    struct sql_value *v = arena_array(sql_arena(tx), struct sql_value, 3);
    v[0] = sql_i(op->ref->account_id);
    v[1] = sql_s(op->request_id);
    v[2] = sql_i(op->now_unix / DAY_S - ONCE_DAYS);
    sql_queue(tx, &once_find, v, 1, &op->requests_);
}

bool once_take(struct op *op, struct err *err)
{
    op->is_repeat = op->requests_.n_rows > 0;
    return !op->is_repeat || once_unpack(sql_at(&op->requests_, 0, 2)->s, op->reply_arena, op->reply, err);
}

void op_remember(struct sql_tx *tx, const struct op *op)
{
    if (!op->request_id.n)
        return;
    struct arena *a = sql_arena(tx);
    uint8_t *p = arena_alloc(a, protobuf_c_message_get_packed_size(op->reply));
    struct sql_value *v = arena_array(a, struct sql_value, 4);
    v[0] = sql_i(op->ref->account_id);
    v[1] = sql_s(op->request_id);
    v[2] = sql_i(op->now_unix / DAY_S);
    v[3] = sql_s(str_n(p, protobuf_c_message_pack(op->reply, p)));
    sql_queue(tx, &once_insert, v, 1, NULL);
}
