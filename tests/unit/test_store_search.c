/* Search, RFC 9051 6.4.4: keys of rows, of what was parsed, and of bodies; trees of them; budgets. */
#include "unit/store_world.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"

static int64_t inbox;

static void fill(struct world *w)
{
    inbox = world_mailbox(w, "INBOX");
    /* 1 */
    world_append(w, inbox,
                 "From: Alice Müller <alice@example.org>\r\nTo: bob@example.com\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?="
                 "\r\nDate: Sat, 1 Feb 2020 23:30:00 -0500\r\nX-Colour: Blue sky\r\nMessage-ID: <s1@example.org>\r\n"
                 "\r\nThe quick brown fox.\r\n",
                 THURN__FLAG__FLAG_SEEN);
    /* 2: base64 */
    world_append(w, inbox,
                 "From: carol@example.net\r\nTo: \"Bob B.\" <bob@example.com>, dave@example.com\r\nSubject: Report\r\n"
                 "Date: Sun, 2 Feb 2020 10:00:00 +0000\r\nMIME-Version: 1.0\r\n"
                 "Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: base64\r\n\r\n"
                 "Q2Fm6SBhdSBsYWl0\r\n",
                 THURN__FLAG__FLAG_FLAGGED | THURN__FLAG__FLAG_SEEN);
    /* 3: multipart, quoted-printable and an attachment that is no text */
    world_append(w, inbox,
                 "From: dave@example.com\r\nCc: erin@example.org\r\nSubject: multi\r\nMIME-Version: 1.0\r\n"
                 "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/html; charset=utf-8\r\n"
                 "Content-Transfer-Encoding: quoted-printable\r\n\r\n<p>soft line=\r\nbreak =C3=84rger</p>\r\n--b\r\n"
                 "Content-Type: application/octet-stream\r\n\r\nneedle in binary\r\n--b--\r\n",
                 0);
    /* 4: a message within a message; no Date */
    world_append(w, inbox,
                 "From: erin@example.org\r\nSubject: Fwd\r\nMIME-Version: 1.0\r\nContent-Type: message/rfc822\r\n\r\n"
                 "Subject: inner subject\r\nFrom: zoe@example.org\r\n\r\ninner text\r\n",
                 THURN__FLAG__FLAG_DELETED);
    /* 5: large, so that it lies in a segment */
    str big = world_message(w, 5, 90000);
    memcpy((char *)(uintptr_t)big.p + 80000, "\nfind THIS here\n", 16);
    world_append(w, inbox, arena_strz(&w->a, big), 0);
    const Thurn__StoreFlagsReply *r = NULL;
    assert_true(world_flags(w, inbox, 2, 3, THURN__STORE_OP__STORE_ADD, 0, "$Todo", &r));
}

static Thurn__SearchKey *key(struct world *w, Thurn__SearchOp op)
{
    Thurn__SearchKey *k = arena_new(&w->a, Thurn__SearchKey);
    thurn__search_key__init(k);
    k->op = op;
    return k;
}

static Thurn__SearchKey *number(struct world *w, Thurn__SearchOp op, uint64_t n)
{
    Thurn__SearchKey *k = key(w, op);
    k->number = n;
    return k;
}

static Thurn__SearchKey *text(struct world *w, Thurn__SearchOp op, const char *field, const char *t)
{
    Thurn__SearchKey *k = key(w, op);
    k->field = (char *)(uintptr_t)field;
    k->text = (char *)(uintptr_t)t;
    return k;
}

static Thurn__SearchKey *tree(struct world *w, Thurn__SearchOp op, Thurn__SearchKey *a, Thurn__SearchKey *b)
{
    Thurn__SearchKey *k = key(w, op);
    k->keys = arena_array(&w->a, Thurn__SearchKey *, 2);
    k->keys[0] = a;
    k->keys[1] = b;
    k->n_keys = b ? 2 : 1;
    return k;
}

static const char *find(struct world *w, Thurn__SearchKey *k)
{
    Thurn__SearchRequest q = THURN__SEARCH_REQUEST__INIT;
    const Thurn__SearchReply *r = NULL;
    BUF(b, 4096);
    q.account = &w->ref;
    q.mailbox_id = inbox;
    q.key = k;
    do {
        MUST(w, search, &q, &r);
        const char *part = world_ranges(w, r->uids, r->n_uids);
        buf_printf(&b, "%s%s", b.n && *part ? "," : "", part);
        assert_true(r->next_uid == 0 || r->next_uid > q.from_uid);
        q.from_uid = r->next_uid;
    } while (r->next_uid);
    return arena_strz(&w->a, buf_str(&b));
}

#define OP(x) THURN__SEARCH_OP__SEARCH_##x
#define HEADER(f, t) text(w, OP(HEADER), f, t)

static void rows_case(struct world *w)
{
    fill(w);
    assert_string_equal(find(w, NULL), "1:5");
    assert_string_equal(find(w, key(w, OP(ALL))), "1:5");
    assert_string_equal(find(w, number(w, OP(FLAGS_SET), THURN__FLAG__FLAG_SEEN)), "1:2");
    assert_string_equal(find(w, number(w, OP(FLAGS_SET), THURN__FLAG__FLAG_SEEN | THURN__FLAG__FLAG_FLAGGED)), "2");
    assert_string_equal(find(w, text(w, OP(KEYWORD), "", "$TODO")), "2:3");
    assert_string_equal(find(w, text(w, OP(KEYWORD), "", "$never")), "");
    assert_string_equal(find(w, number(w, OP(LARGER), 80000)), "5");
    assert_string_equal(find(w, number(w, OP(SMALLER), 80000)), "1:4");
    assert_string_equal(find(w, number(w, OP(BEFORE), 1000)), "");
    assert_string_equal(find(w, number(w, OP(BEFORE), (uint64_t)clock_unix() + 10)), "1:5");
    Thurn__SearchKey *u = key(w, OP(UIDS));
    u->uids = world_range(w, 2, 4);
    u->n_uids = 1;
    assert_string_equal(find(w, u), "2:4");
    assert_string_equal(find(w, tree(w, OP(AND), u, number(w, OP(FLAGS_SET), THURN__FLAG__FLAG_DELETED))), "4");
    assert_string_equal(find(w, tree(w, OP(NOT), u, NULL)), "1,5");
    assert_string_equal(find(w, tree(w, OP(OR), u, number(w, OP(LARGER), 80000))), "2:5");
    Thurn__SearchRequest q = THURN__SEARCH_REQUEST__INIT;
    const Thurn__SearchReply *r = NULL;
    q.account = &w->ref;
    q.mailbox_id = inbox;
    MUST(w, search, &q, &r);
    assert_int_equal(r->first_unseen, 3);
    assert_int_equal(r->last_seen, 2);
    q.from_uid = 4;
    MUST(w, search, &q, &r);
    assert_int_equal(r->first_unseen, 4);
    assert_int_equal(r->last_seen, 0);
    q.from_uid = 0;
    q.key = text(w, OP(KEYWORD), "", "$todo");
    MUST(w, search, &q, &r);
    assert_int_equal(r->first_unseen, 3);
    assert_int_equal(r->last_seen, 2);
    uint64_t modseq = r->highest_modseq;
    assert_true(modseq == world_status(w, inbox)->highestmodseq);
    assert_string_equal(find(w, number(w, OP(MODSEQ), modseq)), "2:3");
}

static void fields_case(struct world *w)
{
    fill(w);
    assert_string_equal(find(w, HEADER("Subject", "grüsse")), "1"); /* decoded, and ß folds to ss */
    assert_string_equal(find(w, HEADER("subject", "REPORT")), "2");
    assert_string_equal(find(w, HEADER("From", "MÜLLER")), "1");
    assert_string_equal(find(w, HEADER("From", "Alice M")), "1");
    assert_string_equal(find(w, HEADER("From", "example.org")), "1,4:5");
    assert_string_equal(find(w, HEADER("To", "bob b.")), "2");
    assert_string_equal(find(w, HEADER("Cc", "erin")), "3");
    assert_string_equal(find(w, HEADER("Message-ID", "s1@")), "1");
    assert_string_equal(find(w, HEADER("X-Colour", "SKY")), "1");
    assert_string_equal(find(w, HEADER("X-Colour", "")), "1");
    assert_string_equal(find(w, HEADER("To", "")), "1:2");
    assert_string_equal(find(w, HEADER("Bcc", "x")), "");
    /* The day as written, whatever the zone: message 1 is of the first. */
    assert_string_equal(find(w, number(w, OP(SENT_BEFORE), 1580601600)), "1");
    assert_string_equal(find(w, number(w, OP(SENT_BEFORE), 1580688000)), "1:2");
}

static void bodies_case(struct world *w)
{
    fill(w);
    assert_string_equal(find(w, text(w, OP(BODY), "", "QUICK brown")), "1");
    assert_string_equal(find(w, text(w, OP(BODY), "", "CAFÉ")), "2");
    assert_string_equal(find(w, text(w, OP(BODY), "", "linebreak ärger")), "3");
    assert_string_equal(find(w, text(w, OP(BODY), "", "needle")), ""); /* not in a text part */
    assert_string_equal(find(w, text(w, OP(BODY), "", "inner text")), "4");
    assert_string_equal(find(w, text(w, OP(BODY), "", "find this")), "5");
    assert_string_equal(find(w, text(w, OP(BODY), "", "Report")), "");
    assert_string_equal(find(w, text(w, OP(TEXT), "", "Report")), "2");
    assert_string_equal(find(w, text(w, OP(TEXT), "", "inner subject")), "4");
    assert_string_equal(
        find(w, tree(w, OP(AND), text(w, OP(BODY), "", "e"), number(w, OP(FLAGS_SET), THURN__FLAG__FLAG_DELETED))),
        "4");
    assert_string_equal(find(w, tree(w, OP(NOT), text(w, OP(TEXT), "", "example.org"), NULL)), "2");
}

static void budget_case(struct world *w)
{
    fill(w);
    for (int i = 0; i < 60; i++)
        world_append(w, inbox, "Subject: many\r\n\r\nhaystack\r\n", 0);
    Thurn__SearchRequest q = THURN__SEARCH_REQUEST__INIT;
    const Thurn__SearchReply *r = NULL;
    q.account = &w->ref;
    q.mailbox_id = inbox;
    q.key = text(w, OP(BODY), "", "haystack");
    MUST(w, search, &q, &r);
    assert_true(r->next_uid > 1 && r->next_uid < 65); /* no time at all: one step at a time */
    size_t n = 0;
    do {
        MUST(w, search, &q, &r);
        for (size_t i = 0; i < r->n_uids; i++)
            n += r->uids[i]->last - r->uids[i]->first + 1;
        q.from_uid = r->next_uid;
    } while (r->next_uid);
    assert_int_equal(n, 60);
}

static void no_time(struct world *w)
{
    w->opts.limits.search_ms = 1;
}

static void malformed_case(struct world *w)
{
    fill(w);
    Thurn__SearchRequest q = THURN__SEARCH_REQUEST__INIT;
    q.account = &w->ref;
    q.mailbox_id = inbox;
    q.key = key(w, OP(NOT));
    MUST_FAIL(w, search, &q, NULL, ERR_INVALID);
    q.key = key(w, (Thurn__SearchOp)77);
    MUST_FAIL(w, search, &q, NULL, ERR_INVALID);
    q.key = key(w, OP(ALL));
    for (int i = 0; i < 32; i++)
        q.key = tree(w, OP(NOT), q.key, NULL);
    MUST_FAIL(w, search, &q, NULL, ERR_LIMIT);
    q.key = key(w, OP(OR));
    q.key->n_keys = 1000;
    q.key->keys = arena_array(&w->a, Thurn__SearchKey *, 1000);
    for (int i = 0; i < 1000; i++)
        q.key->keys[i] = text(w, OP(BODY), "", "x");
    MUST_FAIL(w, search, &q, NULL, ERR_LIMIT);
    char *longer = arena_alloc(&w->a, 3001);
    memset(longer, 'x', 3000);
    longer[3000] = '\0';
    q.key = text(w, OP(BODY), "", longer);
    MUST_FAIL(w, search, &q, NULL, ERR_LIMIT);
    q.key = NULL;
    q.mailbox_id = 99;
    MUST_FAIL(w, search, &q, NULL, ERR_NOT_FOUND);
}

/* A body that is lost is not found in; the others are. */
static void lost_case(struct world *w)
{
    char path[200];
    fill(w);
    (void)snprintf(path, sizeof path, "%s/00000001.seg", w->folder);
    assert_string_equal(find(w, text(w, OP(BODY), "", "find this here")), "5");
    assert_int_equal(truncate(path, 1000), 0);
    assert_string_equal(find(w, text(w, OP(BODY), "", "find this here")), "");
    assert_string_equal(find(w, text(w, OP(TEXT), "", "quick brown")), "1");
}

int main(void)
{
    static const struct world_case cases[] = {{"rows", rows_case},
                                              {"fields", fields_case},
                                              {"bodies", bodies_case},
                                              {"malformed", malformed_case},
                                              {"lost", lost_case}};
    static const struct world_case slow[] = {{"budget", budget_case}};
    return world_main(cases, ARRAY_LEN(cases), 1, NULL) + world_main(slow, 1, 1, no_time);
}
