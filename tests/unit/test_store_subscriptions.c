/* Subscriptions are to names: they outlive mailboxes, and wait for them. RFC 9051 6.3.7. */
#include <string.h>

#include "unit/store_world.h"

#define PATH_MAX_N 32

/* "a/b/c" as a request has it. */
static size_t split(struct world *w, const char *path, char **v)
{
    size_t n = 0;
    str rest = str_c(path), name;
    while (n < PATH_MAX_N && str_split(&rest, '/', &name))
        v[n++] = arena_strz(&w->a, name);
    return n;
}

static bool subscribe(struct world *w, const char *path, bool is_subscribed, Thurn__Mailbox **box)
{
    Thurn__SubscribeRequest q = THURN__SUBSCRIBE_REQUEST__INIT;
    const Thurn__MailboxReply *r = NULL;
    char *v[PATH_MAX_N];
    q.account = &w->ref;
    q.path = v;
    q.n_path = split(w, path, v);
    q.is_subscribed = is_subscribed;
    if (!CALL(w, subscribe, &q, &r))
        return false;
    if (box)
        *box = r->mailbox;
    return true;
}

static Thurn__Mailbox *create(struct world *w, const char *path)
{
    Thurn__CreateMailboxRequest q = THURN__CREATE_MAILBOX_REQUEST__INIT;
    const Thurn__MailboxReply *r = NULL;
    char *v[PATH_MAX_N];
    q.account = &w->ref;
    q.path = v;
    q.n_path = split(w, path, v);
    MUST(w, create_mailbox, &q, &r);
    return r->mailbox;
}

static Thurn__Mailbox *move(struct world *w, int64_t id, const char *path)
{
    Thurn__RenameMailboxRequest q = THURN__RENAME_MAILBOX_REQUEST__INIT;
    const Thurn__MailboxReply *r = NULL;
    char *v[PATH_MAX_N];
    q.account = &w->ref;
    q.mailbox_id = id;
    q.path = v;
    q.n_path = split(w, path, v);
    return CALL(w, rename_mailbox, &q, &r) ? r->mailbox : NULL;
}

static bool delete (struct world *w, int64_t id)
{
    Thurn__DeleteMailboxRequest q = THURN__DELETE_MAILBOX_REQUEST__INIT;
    q.account = &w->ref;
    q.mailbox_id = id;
    return CALL(w, delete_mailbox, &q, NULL);
}

/* "a,b/c": the names kept apart. */
static const char *names(struct world *w)
{
    Thurn__AccountRequest q = THURN__ACCOUNT_REQUEST__INIT;
    const Thurn__ListSubscriptionsReply *r = NULL;
    q.account = &w->ref;
    MUST(w, list_subscriptions, &q, &r);
    BUF(out, 4096);
    for (size_t i = 0; i < r->n_names; i++)
        buf_printf(&out, "%s%s", i ? "," : "", r->names[i]);
    return arena_strz(&w->a, buf_str(&out));
}

static uint64_t modseq(struct world *w)
{
    Thurn__AccountRequest q = THURN__ACCOUNT_REQUEST__INIT;
    const Thurn__AccountInfo *r = NULL;
    q.account = &w->ref;
    MUST(w, get_account, &q, &r);
    return r->modseq;
}

static const Thurn__ChangesReply *changes(struct world *w, uint64_t since)
{
    Thurn__ChangesRequest q = THURN__CHANGES_REQUEST__INIT;
    const Thurn__ChangesReply *r = NULL;
    q.account = &w->ref;
    q.type = THURN__CHANGE_TYPE__CHANGE_MAILBOX;
    q.since_modseq = since;
    MUST(w, changes, &q, &r);
    return r;
}

static void names_case(struct world *w)
{
    Thurn__Mailbox *box = NULL;
    assert_string_equal(names(w), "");
    assert_true(subscribe(w, "b/c", true, &box));
    assert_null(box);
    assert_true(subscribe(w, "a", true, NULL));
    assert_true(subscribe(w, "iNbOx/x", true, NULL));
    assert_string_equal(names(w), "INBOX/x,a,b/c");
    uint64_t at = modseq(w);
    assert_true(subscribe(w, "a", true, NULL)); /* again: no change */
    assert_true(subscribe(w, "nothing", false, NULL));
    assert_true(subscribe(w, "inbox", true, &box));
    assert_string_equal(box->name, "INBOX");
    assert_true(modseq(w) == at);
    assert_true(subscribe(w, "a", false, NULL));
    assert_true(modseq(w) > at); /* others are told, but of no mailbox */
    const Thurn__ChangesReply *r = changes(w, at);
    assert_int_equal(r->n_created + r->n_updated + r->n_destroyed, 0);
    assert_true(r->modseq == modseq(w));
    assert_string_equal(names(w), "INBOX/x,b/c");

    at = modseq(w);
    assert_true(subscribe(w, "Archive", false, &box));
    assert_false(box->is_subscribed);
    r = changes(w, at);
    assert_int_equal(r->n_updated, 1);
    assert_true(r->updated[0] == world_mailbox(w, "Archive"));
    assert_false(world_status(w, world_mailbox(w, "Archive"))->is_subscribed);
    assert_true(subscribe(w, "Archive", true, &box));
    assert_true(box->is_subscribed);

    assert_true(subscribe(w, "u\xcc\x88", true, NULL)); /* one name, however it was typed */
    assert_string_equal(names(w), "INBOX/x,b/c,\xc3\xbc");
    assert_true(subscribe(w, "\xc3\xbc", false, NULL));
    static const char *const bad[] = {"", "x//y", "x\ny", "\xff"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_false(subscribe(w, bad[i], true, NULL));
        assert_int_equal(w->err.kind, ERR_INVALID);
    }
}

/* A mailbox takes up the name however it is made; ending the subscription ends both. */
static void taken_up_case(struct world *w)
{
    assert_true(subscribe(w, "b/c", true, NULL));
    assert_true(subscribe(w, "made", true, NULL));
    Thurn__Mailbox *c = create(w, "b/c");
    assert_true(c->is_subscribed);
    assert_false(world_status(w, c->parent_id)->is_subscribed);
    Thurn__DeliverRecipient to = THURN__DELIVER_RECIPIENT__INIT, *list[] = {&to};
    Thurn__DeliverRequest q = THURN__DELIVER_REQUEST__INIT;
    Thurn__Body body = THURN__BODY__INIT;
    const Thurn__DeliverReply *r = NULL;
    char *path[] = {(char *)"made"};
    body.content = rpc_bytes(S("Subject: x\r\n\r\ny\r\n"));
    to.account = &w->ref;
    to.path = path;
    to.n_path = 1;
    to.delivery_key = rpc_bytes(S("01234567890123456789012345678901"));
    to.day = 20000;
    q.body = &body;
    q.recipients = list;
    q.n_recipients = 1;
    MUST(w, deliver, &q, &r);
    int64_t made = world_mailbox(w, "made");
    assert_true(made && world_status(w, made)->is_subscribed);
    Thurn__SetMailboxRequest set = THURN__SET_MAILBOX_REQUEST__INIT;
    set.account = &w->ref;
    set.mailbox_id = made;
    set.has_is_subscribed = true;
    uint64_t at = modseq(w);
    MUST(w, set_mailbox, &set, NULL);
    assert_int_equal(changes(w, at)->n_updated, 1);
    assert_false(world_status(w, made)->is_subscribed);
    assert_true(subscribe(w, "b/c", false, NULL));
    assert_false(world_status(w, c->mailbox_id)->is_subscribed);
    assert_string_equal(names(w), "");
}

static void delete_case(struct world *w)
{
    int64_t drafts = world_mailbox(w, "Drafts"), plain = world_create(w, "plain");
    assert_true(delete (w, drafts) && delete (w, plain));
    assert_string_equal(names(w), "Drafts");
    Thurn__Mailbox *again = create(w, "Drafts");
    assert_true(again->is_subscribed);
    world_restart(w);
    assert_true(delete (w, world_mailbox(w, "Drafts")));
    assert_string_equal(names(w), "Drafts");
    Thurn__AccountRequest q = THURN__ACCOUNT_REQUEST__INIT;
    q.account = &w->ref;
    MUST(w, purge_account, &q, NULL);
    assert_int_equal(world_sql(w, "SELECT count(*) FROM s_subscription"), 0);
}

/* The old names stay and the mailboxes are still subscribed, whichever way they were. */
static void rename_case(struct world *w)
{
    assert_true(subscribe(w, "w/y/q", true, NULL)); /* by its name */
    int64_t q = create(w, "w/y/q")->mailbox_id, work = world_mailbox(w, "w");
    assert_true(subscribe(w, "w", true, NULL));   /* by its row */
    assert_true(subscribe(w, "v/y", true, NULL)); /* a new name that waits */
    uint64_t at = modseq(w);
    assert_non_null(move(w, work, "v"));
    assert_string_equal(names(w), "v/y,w,w/y/q");
    int64_t y = world_status(w, q)->parent_id;
    assert_true(world_status(w, work)->is_subscribed && world_status(w, q)->is_subscribed &&
                world_status(w, y)->is_subscribed);
    const Thurn__ChangesReply *r = changes(w, at);
    assert_int_equal(r->n_updated, 2); /* and not q, of which nothing is different */
    assert_true(subscribe(w, "v/y", false, NULL) && subscribe(w, "w", false, NULL) &&
                subscribe(w, "w/y/q", false, NULL));
    assert_true(world_status(w, q)->is_subscribed && !world_status(w, y)->is_subscribed);
    assert_string_equal(names(w), "");
}

/* RFC 9051 6.3.6: INBOX and what is below it keep their names. */
static void rename_inbox_case(struct world *w)
{
    int64_t inbox = world_mailbox(w, "INBOX"), below = create(w, "INBOX/x")->mailbox_id;
    assert_true(subscribe(w, "INBOX/x", true, NULL));
    uint64_t at = modseq(w);
    assert_non_null(move(w, inbox, "old"));
    int64_t now = world_mailbox(w, "INBOX");
    assert_true(now && now != inbox);
    assert_true(world_status(w, below)->parent_id == now);
    assert_true(world_status(w, now)->is_subscribed && world_status(w, below)->is_subscribed);
    assert_string_equal(names(w), "");
    const Thurn__ChangesReply *r = changes(w, at);
    assert_int_equal(r->n_updated, 2);
    assert_int_equal(r->n_created, 1);
}

static bool fill_body(struct sql_tx *tx, void *arg, struct err *err)
{
    static const struct sql_stmt fill = {
        "test_fill",
        "",
        "",
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)"
        " INSERT INTO s_subscription (account_id, sub_id, path) SELECT 1, i, 'n' || i FROM n",
        NULL,
        false};
    (void)arg;
    return sql_exec(tx, &fill, NULL, 1, NULL, err);
}

static void limits_case(struct world *w)
{
    struct err err = ERR_INIT;
    int64_t one = world_create(w, "one"), two = world_create(w, "two");
    assert_true(subscribe(w, "one", true, NULL) && subscribe(w, "two", true, NULL));
    assert_true(sql_write(w->db, fill_body, NULL, &err));
    assert_true(delete (w, one)); /* the last that fits */
    assert_false(subscribe(w, "more", true, NULL));
    assert_int_equal(w->err.kind, ERR_LIMIT);
    assert_true(subscribe(w, "n77", true, NULL));
    world_append(w, two, "Subject: x\r\n\r\ny\r\n", 0);
    assert_false(delete (w, two)); /* nothing is lost in silence */
    assert_int_equal(w->err.kind, ERR_LIMIT);
    assert_int_equal(world_status(w, two)->total, 1);
    assert_null(move(w, two, "three"));
    assert_int_equal(w->err.kind, ERR_LIMIT);
    assert_true(subscribe(w, "n77", false, NULL));
    assert_true(delete (w, two));
}

/* Names longer than an index takes; their bytes are bounded too. */
static void long_names_case(struct world *w)
{
    BUF(path, 16384);
    for (unsigned i = 0; i < PATH_MAX_N; i++) {
        for (unsigned k = 0; k < 255; k++)
            buf_addc(&path, (char)('a' + (i * 31 + k * k) % 26));
        buf_addc(&path, '/');
    }
    buf_truncate(&path, path.n - 1);
    size_t n = 0;
    for (; n < 200; n++) {
        char digits[8];
        snprintf(digits, sizeof digits, "%03u", (unsigned)n);
        memcpy(path.p, digits, 3);
        if (!subscribe(w, buf_z(&path), true, NULL))
            break;
    }
    assert_int_equal(w->err.kind, ERR_LIMIT);
    assert_int_equal(n, 800 * 1024 / path.n);
    memcpy(path.p, "007", 3);
    assert_true(create(w, buf_z(&path))->is_subscribed);
    Thurn__AccountRequest q = THURN__ACCOUNT_REQUEST__INIT;
    const Thurn__ListSubscriptionsReply *r = NULL;
    q.account = &w->ref;
    MUST(w, list_subscriptions, &q, &r);
    assert_int_equal(r->n_names, n);
    assert_true(str_eq(str_c(r->names[7]), buf_str(&path)));
}

int main(void)
{
    static const struct world_case cases[] = {
        {"names", names_case},           {"taken_up", taken_up_case},         {"delete", delete_case},
        {"rename", rename_case},         {"rename_inbox", rename_inbox_case}, {"limits", limits_case},
        {"long_names", long_names_case},
    };
    return world_main(cases, ARRAY_LEN(cases), 1, NULL);
}
