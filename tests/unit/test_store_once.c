/* Mutations with a request id: sent twice, sent at the same moment, and with the answer of their commit lost. */
#include "unit/store_world.h"

static const char text[] = "Subject: x\r\n\r\nx\r\n";

struct mutation {
    const char *name;
    const ProtobufCMessage *(*run)(struct world *w, str id);
    const char *effect_sql; /* a number that one run changes */
};

static const ProtobufCMessage *copy_or_move(struct world *w, str id, bool is_move)
{
    Thurn__CopyRequest q = THURN__COPY_REQUEST__INIT;
    const Thurn__CopyReply *r = NULL;
    q.account = &w->ref;
    q.mailbox_id = 1;
    q.to_mailbox_id = 2;
    q.uids = world_range(w, 1, 5);
    q.n_uids = 1;
    q.is_move = is_move;
    q.request_id = rpc_bytes(id);
    return CALL(w, copy, &q, &r) ? &r->base : NULL;
}

static const ProtobufCMessage *run_copy(struct world *w, str id)
{
    return copy_or_move(w, id, false);
}

static const ProtobufCMessage *run_move(struct world *w, str id)
{
    return copy_or_move(w, id, true);
}

static const ProtobufCMessage *run_create(struct world *w, str id)
{
    Thurn__CreateMailboxRequest q = THURN__CREATE_MAILBOX_REQUEST__INIT;
    const Thurn__MailboxReply *r = NULL;
    char *path[] = {(char *)(uintptr_t) "Box", (char *)(uintptr_t) "Inner"};
    q.account = &w->ref;
    q.path = path;
    q.n_path = 2;
    q.role = THURN__MAILBOX_ROLE__ROLE_IMPORTANT;
    q.request_id = rpc_bytes(id);
    return CALL(w, create_mailbox, &q, &r) ? &r->base : NULL;
}

static const ProtobufCMessage *run_rename(struct world *w, str id)
{
    Thurn__RenameMailboxRequest q = THURN__RENAME_MAILBOX_REQUEST__INIT;
    const Thurn__MailboxReply *r = NULL;
    char *path[] = {(char *)(uintptr_t) "Old mail"};
    q.account = &w->ref;
    q.mailbox_id = 1; /* INBOX: again, its new one would be renamed, or the name be taken */
    q.path = path;
    q.n_path = 1;
    q.request_id = rpc_bytes(id);
    return CALL(w, rename_mailbox, &q, &r) ? &r->base : NULL;
}

static const ProtobufCMessage *run_delete(struct world *w, str id)
{
    Thurn__DeleteMailboxRequest q = THURN__DELETE_MAILBOX_REQUEST__INIT;
    const Thurn__MailboxReply *r = NULL;
    q.account = &w->ref;
    q.mailbox_id = 2;
    q.request_id = rpc_bytes(id);
    return CALL(w, delete_mailbox, &q, &r) ? &r->base : NULL;
}

static const struct mutation mutations[] = {
    {"copy", run_copy, "SELECT count(*) FROM s_msg WHERE mailbox_id = 2"},
    {"move", run_move, "SELECT count(*) FROM s_msg WHERE mailbox_id = 2"},
    {"create", run_create, "SELECT count(*) FROM s_mailbox"},
    {"delete", run_delete, "SELECT count(*) FROM s_mailbox"},
    {"rename", run_rename, "SELECT max(mailbox_id) FROM s_mailbox"},
};

static str request_id(struct world *w, const char *name, const char *what)
{
    str s = arena_printf(&w->a, "%s %s................", name, what);
    return str_slice(s, 0, 16);
}

static str packed(struct world *w, const ProtobufCMessage *m)
{
    uint8_t *p = arena_alloc(&w->a, protobuf_c_message_get_packed_size(m));
    return str_n(p, protobuf_c_message_pack(m, p));
}

static void fill(struct world *w)
{
    assert_int_equal(world_mailbox(w, "INBOX"), 1);
    for (int i = 0; i < 3; i++)
        world_append(w, 1, text, 0);
}

/* The same again: the same answer, and nothing changes. */
static void repeat_case(struct world *w)
{
    fill(w);
    for (size_t i = 0; i < ARRAY_LEN(mutations); i++) {
        const struct mutation *m = &mutations[i];
        str id = request_id(w, m->name, "repeat");
        int64_t before = world_sql(w, m->effect_sql);
        const ProtobufCMessage *first = m->run(w, id);
        if (!first)
            fail_msg("%s: %s", m->name, w->err.msg);
        str said = packed(w, first);
        int64_t after = world_sql(w, m->effect_sql), modseq = world_sql(w, "SELECT modseq FROM s_account");
        assert_int_not_equal(after, before);
        const ProtobufCMessage *again = m->run(w, id);
        if (!again)
            fail_msg("%s again: %s", m->name, w->err.msg);
        assert_true(str_eq(packed(w, again), said));
        assert_int_equal(world_sql(w, m->effect_sql), after);
        assert_int_equal(world_sql(w, "SELECT modseq FROM s_account"), modseq);
    }
    assert_null(run_create(w, request_id(w, "another", "")));
    assert_int_equal(w->err.kind, ERR_EXISTS);
    assert_null(run_create(w, S("short")));
    assert_int_equal(w->err.kind, ERR_INVALID);
    assert_null(run_create(w, STR_NONE)); /* without one it is done anew */
    assert_int_equal(w->err.kind, ERR_EXISTS);
}

/* The database took the commit and its answer was lost: the store finds out by itself. */
static void lost_commit_case(struct world *w)
{
    fill(w);
    for (size_t i = 0; i < ARRAY_LEN(mutations); i++) {
        const struct mutation *m = &mutations[i];
        int64_t before = world_sql(w, m->effect_sql);
        sql_fail_nth(w->db, 1, true);
        const ProtobufCMessage *r = m->run(w, request_id(w, m->name, "lost"));
        sql_fail_nth(w->db, 0, false);
        if (!r)
            fail_msg("%s: %s", m->name, w->err.msg);
        int64_t after = world_sql(w, m->effect_sql);
        assert_int_not_equal(after, before);
        r = m->run(w, request_id(w, m->name, "lost"));
        assert_non_null(r);
        assert_int_equal(world_sql(w, m->effect_sql), after);
    }
}

struct sender {
    struct world *w;
    Thurn__CopyReply r;
};

static void send_copy(void *arg)
{
    struct sender *s = arg;
    Thurn__CopyRequest q = THURN__COPY_REQUEST__INIT;
    const Thurn__CopyReply *r = NULL;
    struct rpc_call c;
    q.account = &s->w->ref;
    q.mailbox_id = 1;
    q.to_mailbox_id = 2;
    q.uids = world_range(s->w, 1, 5);
    q.n_uids = 1;
    q.request_id = rpc_bytes(S("the same for all"));
    world_call_init(s->w, &c);
    if (!store_copy(&c, s->w->service, &q, &r))
        fail_msg("%s", c.err.msg);
    s->r = *r;
}

/* A node that is dead for the caller may still be at work in the database when the next one begins. */
static void at_once_case(struct world *w)
{
    enum { N = 8 };
    static struct sender senders[N];
    struct err err = ERR_INIT;
    fill(w);
    FIBER_GROUP(g, N);
    for (int i = 0; i < N; i++) {
        senders[i].w = w;
        assert_true(fiber_group_spawn(&g, "copy", send_copy, &senders[i], &err));
    }
    assert_true(fiber_group_wait(&g, &err));
    for (int i = 0; i < N; i++) {
        assert_string_equal(world_ranges(w, senders[i].r.to, senders[i].r.n_to), "1:3");
        assert_int_equal(senders[i].r.modseq, senders[0].r.modseq);
    }
    assert_int_equal(world_status(w, 2)->total, 3);
}

/* A mailbox that takes several transactions to delete: the last one counts. */
static void large_delete_case(struct world *w)
{
    enum { N = 10001 };
    Thurn__CopyRequest q = THURN__COPY_REQUEST__INIT;
    world_append(w, world_mailbox(w, "INBOX"), text, 0);
    q.account = &w->ref;
    q.mailbox_id = 1;
    q.to_mailbox_id = 2;
    q.n_uids = 1;
    for (uint32_t n = 0; n < N; n = world_status(w, 2)->total) {
        q.uids = world_range(w, 1, N - n);
        q.mailbox_id = n ? 2 : 1;
        MUST(w, copy, &q, NULL);
    }
    sql_fail_nth(w->db, 2, true); /* the second of two commits */
    assert_non_null(run_delete(w, S("0123456789abcdef")));
    sql_fail_nth(w->db, 0, false);
    assert_int_equal(world_mailbox(w, "Drafts"), 0);
    assert_non_null(run_delete(w, S("0123456789abcdef")));
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_request"), 1);
}

int main(void)
{
    static const struct world_case cases[] = {
        {"repeat", repeat_case},
        {"lost commit", lost_commit_case},
        {"at once", at_once_case},
        {"large delete", large_delete_case},
    };
    return world_main(cases, ARRAY_LEN(cases), 1, NULL);
}
