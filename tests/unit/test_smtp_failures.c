/* Each call of the SMTP front-end × each kind of failure: what the client hears. A cell without a reply fails. */
#include "unit/smtp_rig.h"

#include "base/metrics.h"

#define ALICE_PLAIN "AGFsaWNlQGV4YW1wbGUub3JnAHNlY3JldC1h"
#define LARGE 3000u /* more than inline_max here */

/* --- one call each: who fails, and how it is provoked --- */

static struct fake_fail *resolve(struct fake_services *f)
{
    return &f->resolve;
}
static struct fake_fail *may_send_as(struct fake_services *f)
{
    return &f->may_send_as;
}
static struct fake_fail *authenticate(struct fake_services *f)
{
    return &f->authenticate;
}
static struct fake_fail *put_blob(struct fake_services *f)
{
    return &f->put_blob;
}
static struct fake_fail *deliver(struct fake_services *f)
{
    return &f->deliver;
}
static struct fake_fail *enqueue(struct fake_services *f)
{
    return &f->enqueue;
}

static void rcpt(struct rig *r)
{
    rig_hello(r, RIG_MX);
    rig_talk(r, "C: MAIL FROM:<a@remote.example>\nS: 250\nC: RCPT TO:<alice@example.org>");
}
static void mail_as(struct rig *r)
{
    rig_hello(r, RIG_SUBMISSION);
    rig_talk(r, "C: AUTH PLAIN " ALICE_PLAIN "\nS: 235\nC: MAIL FROM:<info@example.org>");
}
static void login(struct rig *r)
{
    rig_hello(r, RIG_SUBMISSION);
    rig_talk(r, "C: AUTH PLAIN " ALICE_PLAIN);
}

static void envelope(struct rig *r, enum rig_kind kind, const char *to)
{
    rig_hello(r, kind);
    BUF(b, 512);
    buf_printf(&b, "MAIL FROM:<a@remote.example>\r\nRCPT TO:<%s>\r\n", to);
    rig_send(r, buf_str(&b));
    rig_talk(r, "S: 250\nS: 250");
}
static void data_of(struct rig *r, enum rig_kind kind, const char *to, size_t size)
{
    envelope(r, kind, to);
    rig_talk(r, "C: DATA\nS: 354");
    BUF(b, LARGE * 2);
    while (b.n < size)
        buf_add(&b, S("text of a line\r\n"));
    buf_add(&b, S(".\r\n"));
    rig_send(r, buf_str(&b));
}
static void bdat_of(struct rig *r, const char *to, size_t size)
{
    envelope(r, RIG_MX, to);
    BUF(b, LARGE * 2);
    buf_printf(&b, "BDAT %zu LAST\r\n", size);
    for (size_t i = 0; i < size; i++)
        buf_addc(&b, 'x');
    rig_send(r, buf_str(&b));
}
static void data_direct(struct rig *r)
{
    data_of(r, RIG_MX, "alice@example.org", 10);
}
static void bdat_direct(struct rig *r)
{
    bdat_of(r, "alice@example.org", 10);
}
static void data_queue(struct rig *r)
{
    data_of(r, RIG_MX, "away@example.org", 10);
}
static void bdat_queue(struct rig *r)
{
    bdat_of(r, "away@example.org", 10);
}
static void data_blob(struct rig *r)
{
    data_of(r, RIG_MX, "alice@example.org", LARGE);
}
static void bdat_blob(struct rig *r)
{
    bdat_of(r, "alice@example.org", LARGE);
}
static void lmtp_direct(struct rig *r)
{
    data_of(r, RIG_LMTP, "alice@example.org", 10);
}
static void lmtp_queue(struct rig *r)
{
    data_of(r, RIG_LMTP, "away@example.org", 10);
}
static void lmtp_blob(struct rig *r)
{
    data_of(r, RIG_LMTP, "alice@example.org", LARGE);
}

/* --- the table --- */

#define LATER "451 4.3.0"
#define QUEUED "250 2.0.0 Ok: queued"
#define QUEUED_1 "250 2.1.5 <" /* LMTP: of each recipient */
#define REFUSED "554 5.6.0"
#define FULL "452 4.2.2"
#define NOT_YOURS "553 5.7.1"
#define WRONG "535 5.7.8"
#define NOT_NOW "454 4.7.0"
#define TOO_BIG "552 5.3.4"

static const struct {
    const char *name;
    struct fake_fail *(*who)(struct fake_services *f); /* NULL: the account's own result of Deliver */
    void (*provoke)(struct rig *r);
    const char *want[ERR_KINDS_];
} sites[] = {
    /*                                                      INVALID    NOT_FOUND  EXISTS   DENIED   LIMIT    CONFLICT
       UNAVAIL. TIMEOUT  CANCELL. INTERNAL BUSY         QUOTA */
    {"RCPT", resolve, rcpt, {0, LATER, LATER, LATER, LATER, LATER, LATER, LATER, LATER, LATER, LATER, LATER, LATER}},
    {"MAIL",
     may_send_as,
     mail_as,
     {0, NOT_YOURS, NOT_YOURS, LATER, LATER, LATER, LATER, LATER, LATER, LATER, LATER, LATER, LATER}},
    {"AUTH",
     authenticate,
     login,
     {0, WRONG, WRONG, NOT_NOW, WRONG, NOT_NOW, NOT_NOW, NOT_NOW, NOT_NOW, NOT_NOW, NOT_NOW, NOT_NOW, NOT_NOW}},
    {"DATA direct",
     deliver,
     data_direct,
     {0, REFUSED, QUEUED, QUEUED, QUEUED, REFUSED, QUEUED, QUEUED, QUEUED, QUEUED, QUEUED, QUEUED, FULL}},
    {"DATA direct, one",
     NULL,
     data_direct,
     {0, REFUSED, QUEUED, QUEUED, QUEUED, REFUSED, QUEUED, QUEUED, QUEUED, QUEUED, QUEUED, QUEUED, FULL}},
    {"BDAT direct",
     deliver,
     bdat_direct,
     {0, REFUSED, QUEUED, QUEUED, QUEUED, REFUSED, QUEUED, QUEUED, QUEUED, QUEUED, QUEUED, QUEUED, FULL}},
    {"BDAT direct, one",
     NULL,
     bdat_direct,
     {0, REFUSED, QUEUED, QUEUED, QUEUED, REFUSED, QUEUED, QUEUED, QUEUED, QUEUED, QUEUED, QUEUED, FULL}},
    {"DATA queued",
     enqueue,
     data_queue,
     {0, REFUSED, LATER, LATER, LATER, REFUSED, LATER, LATER, LATER, LATER, LATER, "452 4.3.1", FULL}},
    {"BDAT queued",
     enqueue,
     bdat_queue,
     {0, REFUSED, LATER, LATER, LATER, REFUSED, LATER, LATER, LATER, LATER, LATER, "452 4.3.1", FULL}},
    {"DATA blob",
     put_blob,
     data_blob,
     {0, REFUSED, LATER, LATER, LATER, TOO_BIG, LATER, LATER, LATER, LATER, LATER, LATER, FULL}},
    {"BDAT blob",
     put_blob,
     bdat_blob,
     {0, REFUSED, LATER, LATER, LATER, TOO_BIG, LATER, LATER, LATER, LATER, LATER, LATER, FULL}},
    {"LMTP direct",
     deliver,
     lmtp_direct,
     {0, REFUSED, LATER, LATER, LATER, REFUSED, LATER, QUEUED_1, QUEUED_1, QUEUED_1, LATER, QUEUED_1, FULL}},
    {"LMTP direct, one",
     NULL,
     lmtp_direct,
     {0, REFUSED, LATER, LATER, LATER, REFUSED, LATER, LATER, QUEUED_1, LATER, LATER, LATER, FULL}},
    {"LMTP queued",
     enqueue,
     lmtp_queue,
     {0, REFUSED, LATER, LATER, LATER, REFUSED, LATER, LATER, LATER, LATER, LATER, "452 4.3.1", FULL}},
    {"LMTP blob",
     put_blob,
     lmtp_blob,
     {0, REFUSED, LATER, LATER, LATER, TOO_BIG, LATER, LATER, LATER, LATER, LATER, LATER, FULL}},
};

static void small_bodies(struct rig *r)
{
    r->opts.limits.inline_max = 1000;
}

static void cells(struct rig *r)
{
    unsigned n_bad = 0;
    for (size_t i = 0; i < ARRAY_LEN(sites); i++)
        for (enum err_kind kind = ERR_INVALID; kind < ERR_KINDS_; kind++) {
            struct fake_fail *fail = sites[i].who ? sites[i].who(&r->fake) : NULL;
            enum err_kind *result = fail ? &fail->kind : &r->fake.addresses[0].deliver;
            *result = kind;
            sites[i].provoke(r);
            str got = rig_line(r);
            *result = ERR_NONE;
            if (sites[i].want[kind] && str_starts(got, str_c(sites[i].want[kind])))
                continue;
            n_bad++;
            print_error("%s, %s: got '%.*s', want '%s'\n", sites[i].name, err_kind_name(kind), STR_ARG(got),
                        sites[i].want[kind] ? sites[i].want[kind] : "a cell in the table");
        }
    assert_int_equal(n_bad, 0);
}

/* What was resolved is forgotten where the store knows better, for each address that led there; and kept otherwise. */
static void forgetting(struct rig *r)
{
    for (enum err_kind kind = ERR_INVALID; kind < ERR_KINDS_; kind++)
        for (unsigned whole = 0; whole < 2; whole++) {
            bool forgets = kind == ERR_NOT_FOUND || kind == ERR_CONFLICT;
            enum err_kind *result = whole ? &r->fake.deliver.kind : &r->fake.addresses[0].deliver;
            rig_hello(r, RIG_MX);
            rig_talk(
                r,
                "C: MAIL FROM:<>\nC: RCPT TO:<alice@example.org>\nC: RCPT TO:<info@example.org>\nS: 250\nS: 250\nS: 250");
            *result = kind;
            rig_talk(r, "C: DATA\nS: 354\nC: x\nC: .");
            (void)rig_line(r);
            *result = ERR_NONE;
            unsigned before = r->fake.resolve.calls;
            rig_talk(
                r,
                "C: MAIL FROM:<>\nC: RCPT TO:<alice@example.org>\nC: RCPT TO:<info@example.org>\nS: 250\nS: 250\nS: 250");
            assert_int_equal(r->fake.resolve.calls - before, forgets ? 2 : 0);
        }
}

/* RFC 2033 4.2: one reply for an alias of two. The failure that no later attempt cures is told; of two others, the
 * first. Where a copy is there, or may be, the queue goes on with the rest: a sender who came again would make a second
 * one. */
static void lmtp_mixed(struct rig *r)
{
    static const struct {
        enum err_kind alice, bob;
        const char *want;
    } cases[] = {
        {ERR_NONE, ERR_NONE, "250"},           {ERR_NONE, ERR_UNAVAILABLE, QUEUED_1},
        {ERR_UNAVAILABLE, ERR_NONE, QUEUED_1}, {ERR_NONE, ERR_INVALID, REFUSED},
        {ERR_INVALID, ERR_NONE, REFUSED},      {ERR_BUSY, ERR_INVALID, REFUSED},
        {ERR_INVALID, ERR_BUSY, REFUSED},      {ERR_QUOTA, ERR_TIMEOUT, QUEUED_1},
        {ERR_TIMEOUT, ERR_QUOTA, QUEUED_1},    {ERR_QUOTA, ERR_LIMIT, REFUSED},
        {ERR_LIMIT, ERR_QUOTA, REFUSED},       {ERR_NOT_FOUND, ERR_NONE, QUEUED_1},
        {ERR_UNAVAILABLE, ERR_BUSY, LATER},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        r->fake.addresses[0].deliver = cases[i].alice;
        r->fake.addresses[1].deliver = cases[i].bob;
        data_of(r, RIG_LMTP, "both@example.org", 10);
        rig_expect(r, cases[i].want);
    }
}

RIG_TEST(cells, small_bodies)
RIG_TEST(forgetting, NULL)
RIG_TEST(lmtp_mixed, NULL)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cells),
        cmocka_unit_test(test_forgetting),
        cmocka_unit_test(test_lmtp_mixed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
