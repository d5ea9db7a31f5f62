/* Each call of the IMAP front-end × each kind of failure: the code of the tagged NO. A cell without one fails. */
#include "unit/imap_rig.h"

#include "base/metrics.h"

/* A message of n bytes behind the command that announces it. */
static void say_append(struct imap_rig *r, size_t n)
{
    BUF(b, 1 << 20);
    buf_printf(&b, "t APPEND Other {%zu+}\r\n", n);
    for (size_t i = 0; i < n; i++)
        buf_addc(&b, 'x');
    buf_add(&b, S("\r\n"));
    imap_rig_say(r->client, buf_z(&b));
}
static void append_small(struct imap_rig *r)
{
    say_append(r, 10);
}
static void append_large(struct imap_rig *r)
{
    say_append(r, 600 * 1024);
}

#define LATER "UNAVAILABLE"
#define BUG "SERVERBUG"
#define WRONG "AUTHENTICATIONFAILED"
#define MAILBOX                                                                                                        \
    "CANNOT", "NONEXISTENT", "ALREADYEXISTS", "NOPERM", "LIMIT", "INUSE", LATER, LATER, LATER, BUG, LATER, "OVERQUOTA"
#define ACCOUNT                                                                                                        \
    "CANNOT", LATER, "ALREADYEXISTS", "NOPERM", "LIMIT", "INUSE", LATER, LATER, LATER, BUG, LATER, "OVERQUOTA"
#define NO_MAILBOX                                                                                                     \
    "CANNOT", "TRYCREATE", "ALREADYEXISTS", "NOPERM", "LIMIT", "INUSE", LATER, LATER, LATER, BUG, LATER, "OVERQUOTA"
#define BODY "CANNOT", LATER, BUG, "NOPERM", "TOOBIG", "INUSE", LATER, LATER, LATER, BUG, LATER, "OVERQUOTA"

enum state { LOGGED_OUT, LOGGED_IN, IN_INBOX };
static const struct {
    const char *method, *command;
    void (*say)(struct imap_rig *r); /* instead of a command of one line */
    enum state state;
    bool is_other_gone; /* the mailbox is not listed any more, when the call has failed */
    /* INVALID NOT_FOUND EXISTS DENIED LIMIT CONFLICT UNAVAILABLE TIMEOUT CANCELLED INTERNAL BUSY QUOTA */
    const char *want[ERR_KINDS_];
} sites[] = {
    {"Authenticate",
     "LOGIN alice@example.org x",
     NULL,
     LOGGED_OUT,
     false,
     {0, WRONG, WRONG, BUG, WRONG, "LIMIT", LATER, LATER, LATER, LATER, BUG, LATER, LATER}},
    {"Authenticate",
     "AUTHENTICATE PLAIN AGEAYg==",
     NULL,
     LOGGED_OUT,
     false,
     {0, WRONG, WRONG, BUG, WRONG, "LIMIT", LATER, LATER, LATER, LATER, BUG, LATER, LATER}},
    {"ListMailboxes", "SELECT INBOX", NULL, LOGGED_IN, false, {0, ACCOUNT}},
    {"Search", "SELECT INBOX", NULL, LOGGED_IN, false, {0, MAILBOX}},
    {"ListMailboxes", "STATUS INBOX (MESSAGES)", NULL, LOGGED_IN, false, {0, ACCOUNT}},
    {"ListMailboxes", "LIST \"\" *", NULL, LOGGED_IN, false, {0, ACCOUNT}},
    {"ListSubscriptions", "LIST (SUBSCRIBED) \"\" *", NULL, LOGGED_IN, false, {0, ACCOUNT}},
    {"ListSubscriptions", "LSUB \"\" *", NULL, LOGGED_IN, false, {0, ACCOUNT}},
    {"CreateMailbox", "CREATE New", NULL, LOGGED_IN, false, {0, MAILBOX}},
    {"DeleteMailbox",
     "DELETE Other",
     NULL,
     LOGGED_IN,
     false,
     {0, "CANNOT", "NONEXISTENT", "ALREADYEXISTS", "NOPERM", "LIMIT", "HASCHILDREN", LATER, LATER, LATER, BUG, LATER,
      "OVERQUOTA"}},
    {"RenameMailbox", "RENAME Other New", NULL, LOGGED_IN, false, {0, MAILBOX}},
    {"Subscribe", "SUBSCRIBE Other", NULL, LOGGED_IN, false, {0, ACCOUNT}},
    /* the mailbox is there: what is missing is another thing */
    {"Append", NULL, append_small, LOGGED_IN, false, {0, ACCOUNT}},
    {"Append", NULL, append_small, LOGGED_IN, true, {0, NO_MAILBOX}},
    {"ListMailboxes", NULL, append_small, LOGGED_IN, false, {0, ACCOUNT}},
    {"PutBlob", NULL, append_large, LOGGED_IN, false, {0, BODY}},
    {"Copy", "COPY 1 Other", NULL, IN_INBOX, false, {0, ACCOUNT}},
    {"Copy", "COPY 1 Other", NULL, IN_INBOX, true, {0, NO_MAILBOX}},
    {"Copy", "MOVE 1 Other", NULL, IN_INBOX, false, {0, ACCOUNT}},
    {"Copy", "UID MOVE 1 Other", NULL, IN_INBOX, true, {0, NO_MAILBOX}},
    {"Fetch", "FETCH 1:* FLAGS", NULL, IN_INBOX, false, {0, MAILBOX}},
    /* One message that cannot be read is left out, and said so at the end. NOT_FOUND: it was removed just now. */
    {"ReadBody",
     "FETCH 1:* BODY.PEEK[]",
     NULL,
     IN_INBOX,
     false,
     {0, LATER, "EXPUNGEISSUED", LATER, LATER, LATER, LATER, LATER, LATER, LATER, LATER, LATER, LATER}},
    {"StoreFlags", "FETCH 1 BODY[TEXT]", NULL, IN_INBOX, false, {0, MAILBOX}},
    {"StoreFlags", "STORE 1 +FLAGS (\\Seen)", NULL, IN_INBOX, false, {0, MAILBOX}},
    {"Search", "SEARCH ALL", NULL, IN_INBOX, false, {0, MAILBOX}},
    {"Expunge", "EXPUNGE", NULL, IN_INBOX, false, {0, MAILBOX}},
    {"Expunge", "UID EXPUNGE 1", NULL, IN_INBOX, false, {0, MAILBOX}},
    {"Expunge", "CLOSE", NULL, IN_INBOX, false, {0, MAILBOX}},
};

static void open_state(struct imap_rig *r, enum state state)
{
    imap_rig_connect(r);
    if (state >= LOGGED_IN)
        assert_true(str_starts(imap_rig_command(r->client, "a1", "LOGIN alice@example.org x"), S("a1 OK")));
    if (state >= IN_INBOX)
        assert_true(str_starts(imap_rig_command(r->client, "a2", "SELECT INBOX"), S("a2 OK")));
}

static void run_cell(struct imap_rig *r, size_t i, enum err_kind kind, unsigned *n_bad)
{
    struct imap_rig_service *s = strcmp(sites[i].method, "Authenticate") == 0 ? &r->auth : &r->store;
    unsigned method = imap_rig_method(s, sites[i].method);
    open_state(r, sites[i].state);
    s->fails[method] = kind;
    r->hides_other_after = sites[i].is_other_gone ? sites[i].method : NULL;
    if (sites[i].say)
        sites[i].say(r);
    str got = sites[i].say ? imap_rig_until(r->client, "t ") : imap_rig_command(r->client, "t", sites[i].command);
    s->fails[method] = ERR_NONE;
    r->hides_other_after = NULL;
    r->is_other_gone = false;
    BUF(want, 128);
    buf_printf(&want, "t NO [%s]", sites[i].want[kind] ? sites[i].want[kind] : "a cell in the table");
    if (str_starts(got, buf_str(&want)))
        return;
    ++*n_bad;
    print_error("%s in %s, %s: got '%.*s', want '%s'\n", sites[i].method,
                sites[i].command ? sites[i].command : "APPEND", err_kind_name(kind), STR_ARG(got), buf_z(&want));
}

static void cells(struct imap_rig *r)
{
    unsigned n_bad = 0;
    for (size_t i = 0; i < ARRAY_LEN(sites); i++)
        for (enum err_kind kind = ERR_INVALID; kind < ERR_KINDS_; kind++)
            run_cell(r, i, kind, &n_bad);
    assert_int_equal(n_bad, 0);
}

static void test_cells(void **state)
{
    (void)state;
    metrics_reset();
    imap_rig_run(NULL, cells, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cells),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
