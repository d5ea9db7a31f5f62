/* What is named by its path is looked up in the transaction that acts on it, whatever happened since the caller looked.
 */
#include "unit/store_world.h"

#include "base/clock.h"

#include <stdio.h>

static const char text[] = "From: a@example.org\r\nSubject: x\r\n\r\nbody\r\n";

/* "A/B" as a request's path. */
static char **path_of(struct world *w, const char *name, size_t *n)
{
    char **v = arena_array(&w->a, char *, 8);
    str rest = str_c(name), component;
    for (*n = 0; str_split(&rest, '/', &component); ++*n)
        v[*n] = arena_strz(&w->a, component);
    return v;
}

static bool create(struct world *w, const char *name, int64_t *id)
{
    Thurn__CreateMailboxRequest q = THURN__CREATE_MAILBOX_REQUEST__INIT;
    const Thurn__MailboxReply *r = NULL;
    q.account = &w->ref;
    q.path = path_of(w, name, &q.n_path);
    bool ok = CALL(w, create_mailbox, &q, &r);
    if (ok && id)
        *id = r->mailbox->mailbox_id;
    return ok;
}

static bool rename_to(struct world *w, const char *from, int64_t id, const char *to)
{
    Thurn__RenameMailboxRequest q = THURN__RENAME_MAILBOX_REQUEST__INIT;
    q.account = &w->ref;
    q.mailbox_id = id;
    if (from)
        q.from_path = path_of(w, from, &q.n_from_path);
    q.path = path_of(w, to, &q.n_path);
    return CALL(w, rename_mailbox, &q, NULL);
}

static bool delete (struct world *w, const char *name, int64_t id)
{
    Thurn__DeleteMailboxRequest q = THURN__DELETE_MAILBOX_REQUEST__INIT;
    q.account = &w->ref;
    q.mailbox_id = id;
    if (name)
        q.path = path_of(w, name, &q.n_path);
    return CALL(w, delete_mailbox, &q, NULL);
}

static bool append(struct world *w, const char *name, int64_t id, uint32_t *uidvalidity)
{
    Thurn__AppendRequest q = THURN__APPEND_REQUEST__INIT;
    Thurn__AppendItem it = THURN__APPEND_ITEM__INIT, *items[] = {&it};
    Thurn__Body body = THURN__BODY__INIT;
    const Thurn__AppendReply *r = NULL;
    body.content = rpc_bytes(str_c(text));
    it.body = &body;
    q.account = &w->ref;
    q.mailbox_id = id;
    q.path = path_of(w, name, &q.n_path);
    q.items = items;
    q.n_items = 1;
    bool ok = CALL(w, append, &q, &r);
    if (ok && uidvalidity)
        *uidvalidity = r->uidvalidity;
    return ok;
}

static void not_found(struct world *w, bool ok)
{
    assert_false(ok);
    if (w->err.kind != ERR_NOT_FOUND)
        fail_msg("%s: %s", err_kind_name(w->err.kind), w->err.msg);
}

/* A client looked "A" up, and then somebody renamed it: whatever he does to "A" must not be done to "B". */
static void renamed_meanwhile_case(struct world *w)
{
    int64_t id, again;
    assert_true(create(w, "A", &id));
    world_append(w, id, text, 0);
    assert_true(rename_to(w, "A", 0, "B"));
    not_found(w, rename_to(w, "A", 0, "C")); /* of two RENAMEs one is done */
    not_found(w, rename_to(w, "A", id, "C"));
    not_found(w, delete (w, "A", 0));
    not_found(w, delete (w, "A", id));
    not_found(w, append(w, "A", 0, NULL));
    assert_int_equal(world_status(w, id)->total, 1);
    assert_string_equal(world_status(w, id)->name, "B");
    /* Another one has the name now. */
    assert_true(create(w, "A", &again));
    not_found(w, delete (w, "A", id));
    not_found(w, append(w, "A", id, NULL));
    assert_true(append(w, "A", again, NULL));
    assert_true(append(w, "A", 0, NULL));
    assert_int_equal(world_status(w, again)->total, 2);
    assert_true(delete (w, "A", 0));
    assert_null(world_status(w, again));
    assert_int_equal(world_status(w, id)->total, 1);
    assert_true(delete (w, NULL, id)); /* who says an id means that one, whatever it is called */
}

static void parent_renamed_case(struct world *w)
{
    int64_t id;
    assert_true(create(w, "P/Q/R", &id));
    assert_true(append(w, "P/Q/R", 0, NULL));
    assert_true(rename_to(w, "P", 0, "S"));
    not_found(w, delete (w, "P/Q/R", id));
    not_found(w, append(w, "P/Q/R", 0, NULL));
    not_found(w, append(w, "S/Q", id, NULL));
    assert_true(append(w, "S/Q/R", id, NULL));
    assert_int_equal(world_status(w, id)->total, 2);
    /* A name is no path, a path no name. */
    not_found(w, append(w, "Q", 0, NULL));
    not_found(w, append(w, "R", 0, NULL));
    not_found(w, append(w, "S/Q/R/T", 0, NULL));
}

/* RFC 9051 6.3.6: RENAME INBOX leaves a new one, at no moment none. */
static void inbox_case(struct world *w)
{
    uint32_t before, after;
    assert_true(append(w, "inbox", 0, &before));
    assert_true(rename_to(w, "InBox", 0, "Old"));
    assert_true(append(w, "INBOX", 0, &after));
    assert_true(after > before);
    assert_int_equal(world_status(w, world_mailbox(w, "Old"))->total, 1);
    assert_int_equal(world_status(w, world_mailbox(w, "INBOX"))->total, 1);
    assert_false(delete (w, "inbox", 0));
    assert_int_equal(w->err.kind, ERR_INVALID);
}

/* One name, however it was typed, in every account its own. */
static void spelling_case(struct world *w)
{
    int64_t id;
    assert_true(create(w,
                       "Gr\xc3\xbc\xc3\x9f"
                       "e",
                       &id)); /* composed */
    assert_true(append(w,
                       "Gru\xcc\x88\xc3\x9f"
                       "e",
                       0, NULL)); /* decomposed */
    assert_int_equal(world_status(w, id)->total, 1);
    not_found(w, append(w,
                        "gr\xc3\xbc\xc3\x9f"
                        "e",
                        0, NULL));
    assert_false(append(w, "A//B", 0, NULL));
    assert_int_equal(w->err.kind, ERR_INVALID);
    w->ref = world_account(w, 2);
    not_found(w, append(w,
                        "Gr\xc3\xbc\xc3\x9f"
                        "e",
                        0, NULL));
    w->ref = world_account(w, 1);
}

static bool copy(struct world *w, int64_t from, int64_t to, const char *to_name, bool is_move,
                 const Thurn__CopyReply **r)
{
    Thurn__CopyRequest q = THURN__COPY_REQUEST__INIT;
    q.account = &w->ref;
    q.mailbox_id = from;
    q.uids = world_range(w, 1, UINT32_MAX);
    q.n_uids = 1;
    q.to_mailbox_id = to;
    if (to_name)
        q.to_path = path_of(w, to_name, &q.n_to_path);
    q.is_move = is_move;
    return CALL(w, copy, &q, r);
}

static void copy_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX"), id, other;
    const Thurn__CopyReply *r = NULL;
    world_append(w, inbox, text, 0);
    assert_true(create(w, "A/B", &id));
    assert_true(copy(w, inbox, 0, "A/B", false, &r));
    assert_int_equal(r->to_mailbox_id, id);
    assert_true(rename_to(w, "A/B", 0, "A/C"));
    not_found(w, copy(w, inbox, 0, "A/B", false, &r));
    not_found(w, copy(w, inbox, 0, "A/B", true, &r));
    assert_true(copy(w, inbox, id, NULL, false, &r)); /* the next slice of the same command */
    assert_int_equal(world_status(w, id)->total, 2);
    assert_true(create(w, "A/B", &other));
    not_found(w, copy(w, inbox, id, "A/B", true, &r));
    assert_int_equal(world_status(w, inbox)->total, 1);
    assert_true(copy(w, inbox, other, "A/B", true, &r));
    assert_int_equal(world_status(w, inbox)->total, 0);
    assert_int_equal(world_status(w, other)->total, 1);
}

/*
 * What is deleted is gone at once, also when it is more than one transaction removes: it cannot be renamed half empty,
 * and its name is free. What an accident leaves goes with the sweep.
 */
static void fill(struct world *w, int64_t id)
{
    const Thurn__CopyReply *r = NULL;
    for (int i = 0; i < 40; i++)
        assert_true(append(w, "Big", id, NULL));
    for (int i = 0; i < 6; i++) /* 40 doubled six times */
        assert_true(copy(w, id, id, NULL, false, &r));
    assert_int_equal(world_status(w, id)->total, 2560);
}

/* Sets that one statement cannot read, in ranges of all sizes: nothing is left out, nothing comes twice. */
static void large_sets_case(struct world *w)
{
    int64_t id, to;
    assert_true(create(w, "Big", &id));
    assert_true(create(w, "To", &to));
    fill(w, id);
    const Thurn__CopyReply *r = NULL;
    for (int i = 0; i < 2; i++)
        assert_true(copy(w, id, id, NULL, false, &r)); /* 10,240 */
    static const uint64_t sets[][6] = {{1, 10240, 0},
                                       {1, 4500, 4502, 7500, 0},
                                       {1, 1, 3, 8002, 0},
                                       {1, 3999, 4001, 4001, 4003, 10240},
                                       {6000, 20000, 0}};
    for (size_t i = 0; i < ARRAY_LEN(sets); i++) {
        Thurn__CopyRequest q = THURN__COPY_REQUEST__INIT;
        uint64_t want = 0;
        q.account = &w->ref;
        q.mailbox_id = id;
        q.to_mailbox_id = to;
        q.uids = arena_array(&w->a, Thurn__Range *, 3);
        for (size_t k = 0; k < 6 && sets[i][k]; k += 2) {
            q.uids[q.n_uids++] = world_range(w, sets[i][k], sets[i][k + 1])[0];
            want += MIN(sets[i][k + 1], (uint64_t)10240) - sets[i][k] + 1;
        }
        uint64_t before = world_status(w, to)->total;
        MUST(w, copy, &q, &r);
        assert_int_equal(world_status(w, to)->total - before, want);
        uint64_t n = 0;
        for (size_t k = 0; k < r->n_from; k++)
            n += r->from[k]->last - r->from[k]->first + 1;
        assert_int_equal(n, want);
    }
}

/* It is answered after its first transaction; the messages go after that. With fail_nth that run of theirs fails. */
static void delete_and_wait(struct world *w, int64_t id, unsigned fail_nth)
{
    struct sql_stats before, after;
    struct err err = ERR_INIT;
    unsigned n = fiber_count();
    sql_get_stats(w->db, &before);
    assert_true(delete (w, "Big", id));
    sql_get_stats(w->db, &after);
    assert_int_equal(after.commits - before.commits, 1);
    assert_int_equal(fiber_count(), n + 1);
    sql_fail_nth(w->db, fail_nth, false);
    while (fiber_count() > n)
        assert_true(fiber_yield(&err));
    sql_fail_nth(w->db, 0, false);
    sql_get_stats(w->db, &after);
    assert_true(fail_nth ? after.commits - before.commits == 1 : after.commits - before.commits > 3);
}

static void delete_large_case(struct world *w)
{
    int64_t id, again;
    Thurn__AccountRequest q = THURN__ACCOUNT_REQUEST__INIT;
    const Thurn__AccountInfo *info = NULL;
    q.account = &w->ref;
    assert_true(create(w, "Big", &id));
    fill(w, id);
    delete_and_wait(w, id, 0);
    MUST(w, get_account, &q, &info);
    assert_int_equal(info->used_messages, 0);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_mailbox WHERE parent_id < 0"), 0);

    assert_true(create(w, "Big", &id));
    fill(w, id);
    delete_and_wait(w, id, 2); /* the look-up is the first */
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_mailbox WHERE parent_id < 0"), 1);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_msg"), 2560);
    assert_null(world_status(w, id));
    not_found(w, delete (w, "Big", 0));
    not_found(w, delete (w, NULL, id));
    not_found(w, rename_to(w, NULL, id, "Back"));
    not_found(w, copy(w, id, world_mailbox(w, "INBOX"), NULL, false, NULL));
    not_found(w, append(w, "Big", 0, NULL));
    assert_true(create(w, "Big", &again));
    assert_true(append(w, "Big", 0, NULL));
    world_audit(w);
    Thurn__SweepRequest sweep = THURN__SWEEP_REQUEST__INIT;
    MUST(w, sweep, &sweep, NULL);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_mailbox WHERE parent_id < 0"), 0);
    MUST(w, get_account, &q, &info);
    assert_int_equal(info->used_messages, 1);
}

/* What one account keeps from going does not keep the others', nor the partitions that everybody's log needs. A stop in
 * the middle is none. */
static void delete_stuck_case(struct world *w)
{
    int64_t id;
    Thurn__SweepRequest sweep = THURN__SWEEP_REQUEST__INIT;
    Thurn__AccountRef first = w->ref;
    for (int i = 1; i <= 2; i++) {
        w->ref = world_account(w, i);
        assert_true(create(w, "Big", &id));
        fill(w, id);
        assert_true(delete (w, "Big", id));
        world_restart(w);
    }
    w->ref = first;
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_mailbox WHERE parent_id < 0"), 2);
    world_change(
        w,
        "CREATE TRIGGER stuck BEFORE DELETE ON s_msg WHEN OLD.account_id = 1 BEGIN SELECT RAISE(ABORT, 'stuck'); END",
        NULL);
    world_change(
        w, NULL,
        "CREATE FUNCTION stuck() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'stuck'; END $$");
    world_change(
        w, NULL,
        "CREATE TRIGGER stuck BEFORE DELETE ON s_msg FOR EACH ROW WHEN (OLD.account_id = 1) EXECUTE FUNCTION stuck()");
    const char *partitions =
        w->kind == TESTDB_SQLITE
            ? "SELECT 0"
            : "SELECT count(*) FROM pg_class WHERE relname ~ '^s_changes_w[0-9]+$' AND relkind = 'r'";
    int64_t before = world_sql(w, partitions);
    clock_jump_s(7 * 86400);
    assert_false(CALL(w, sweep, &sweep, NULL));
    clock_real();
    assert_int_equal(world_sql(w, partitions), w->kind == TESTDB_SQLITE ? 0 : before + 1);
    assert_int_equal(world_sql(w, "SELECT max(account_id) FROM s_mailbox WHERE parent_id < 0"), 1);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_msg WHERE account_id = 2"), 0);
    world_change(w, "DROP TRIGGER stuck", "DROP TRIGGER stuck ON s_msg");
    world_change(w, NULL, "DROP FUNCTION stuck");
    MUST(w, sweep, &sweep, NULL);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_mailbox WHERE parent_id < 0"), 0);
}

/* What keeps other rows from going keeps not those of accounts. */
static void delete_beside_case(struct world *w)
{
    int64_t id;
    Thurn__SweepRequest sweep = THURN__SWEEP_REQUEST__INIT;
    assert_true(create(w, "Big", &id));
    fill(w, id);
    delete_and_wait(w, id, 2);
    world_change(w, "INSERT INTO s_hold (blob_id, holder, until) VALUES (1, x'00', 1)",
                 "INSERT INTO s_hold (blob_id, holder, until) VALUES (1, '', 1)");
    world_change(w, "CREATE TRIGGER stuck BEFORE DELETE ON s_hold BEGIN SELECT RAISE(ABORT, 'stuck'); END", NULL);
    world_change(
        w, NULL,
        "CREATE FUNCTION stuck() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'stuck'; END $$");
    world_change(w, NULL, "CREATE TRIGGER stuck BEFORE DELETE ON s_hold FOR EACH ROW EXECUTE FUNCTION stuck()");
    assert_false(CALL(w, sweep, &sweep, NULL));
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_mailbox WHERE parent_id < 0"), 0);
    world_change(w, "DROP TRIGGER stuck", "DROP TRIGGER stuck ON s_hold");
    world_change(w, NULL, "DROP FUNCTION stuck");
    MUST(w, sweep, &sweep, NULL);
}

/* Whoever repeats a DELETE, because who did it did not answer, has the rest go too: that one may not have come to it.
 */
static void delete_repeated_case(struct world *w)
{
    int64_t id;
    unsigned n;
    struct err err = ERR_INIT;
    Thurn__DeleteMailboxRequest q = THURN__DELETE_MAILBOX_REQUEST__INIT;
    assert_true(create(w, "Big", &id));
    fill(w, id);
    n = fiber_count();
    q.account = &w->ref;
    q.mailbox_id = id;
    q.request_id = rpc_bytes(S("0123456789abcdef"));
    const Thurn__MailboxReply *r = NULL;
    MUST(w, delete_mailbox, &q, &r);
    sql_fail_nth(w->db, 2, false);
    while (fiber_count() > n)
        assert_true(fiber_yield(&err));
    sql_fail_nth(w->db, 0, false);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_mailbox WHERE parent_id < 0"), 1);
    MUST(w, delete_mailbox, &q, &r);
    while (fiber_count() > n)
        assert_true(fiber_yield(&err));
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_mailbox WHERE parent_id < 0"), 0);
}

/*
 * Many clients at once. Each round has one mailbox with a message; of those who rename it one says OK, who deletes it
 * by the name that it had does not hit what it became, and who appends finds it or does not.
 */
#define RACERS 6
struct race {
    struct world *w;
    int round, who;
    bool ok;
};

FIBER static void racer(void *arg)
{
    struct race *r = arg;
    struct world *w = r->w;
    struct rpc_call c;
    ARENA(a, 1 << 20);
    char from[32], to[32];
    snprintf(from, sizeof from, "Race%d", r->round);
    snprintf(to, sizeof to, "Won%d-%d", r->round, r->who);
    char *from_path[] = {from}, *to_path[] = {to};
    rpc_call_init(&c, &a);
    if (r->who % 3 == 2) {
        Thurn__DeleteMailboxRequest q = THURN__DELETE_MAILBOX_REQUEST__INIT;
        q.account = &w->ref;
        q.path = from_path;
        q.n_path = 1;
        r->ok = store_delete_mailbox(&c, w->service, &q, NULL);
    } else {
        Thurn__RenameMailboxRequest q = THURN__RENAME_MAILBOX_REQUEST__INIT;
        q.account = &w->ref;
        q.from_path = from_path;
        q.path = to_path;
        q.n_from_path = q.n_path = 1;
        r->ok = store_rename_mailbox(&c, w->service, &q, NULL);
    }
    if (!r->ok && c.err.kind != ERR_NOT_FOUND)
        fail_msg("%s", c.err.msg);
}

static void race_case(struct world *w)
{
    for (int round = 0; round < 40; round++) {
        struct race v[RACERS];
        struct err err = ERR_INIT;
        char name[32];
        int n_ok = 0, winner = -1;
        snprintf(name, sizeof name, "Race%d", round);
        int64_t id = world_create(w, name);
        world_append(w, id, text, 0);
        FIBER_GROUP(g, RACERS);
        for (int i = 0; i < RACERS; i++) {
            v[i] = (struct race){w, round, (i + round) % RACERS, false};
            assert_true(fiber_group_spawn(&g, "racer", racer, &v[i], &err));
        }
        assert_true(fiber_group_wait(&g, &err));
        for (int i = 0; i < RACERS; i++)
            if (v[i].ok) {
                n_ok++;
                winner = v[i].who;
            }
        assert_int_equal(n_ok, 1);
        const Thurn__Mailbox *now = world_status(w, id);
        if (winner % 3 == 2) {
            assert_null(now);
        } else {
            snprintf(name, sizeof name, "Won%d-%d", round, winner);
            assert_string_equal(now->name, name);
            assert_int_equal(now->total, 1);
        }
    }
}

int main(void)
{
    static const struct world_case cases[] = {
        {"renamed meanwhile", renamed_meanwhile_case},
        {"parent renamed", parent_renamed_case},
        {"INBOX", inbox_case},
        {"spelling", spelling_case},
        {"copy", copy_case},
        {"delete large", delete_large_case},
        {"delete stuck", delete_stuck_case},
        {"delete beside", delete_beside_case},
        {"delete repeated", delete_repeated_case},
        {"race", race_case},
        {"large sets", large_sets_case},
    };
    return world_main(cases, ARRAY_LEN(cases), 1, NULL);
}
