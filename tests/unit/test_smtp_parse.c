#include "base_test.h"

#include "frontend/smtp/parse.h"

static void test_verbs(void **state)
{
    (void)state;
    enum smtp_verb v;
    str args;
    assert_true(smtp_verb_parse(S("mail from:<>"), &v, &args));
    assert_int_equal(v, SMTP_VERB_MAIL);
    assert_str(args, S("from:<>"));
    assert_true(smtp_verb_parse(S("StartTLS  "), &v, &args));
    assert_int_equal(v, SMTP_VERB_STARTTLS);
    assert_str(args, S(""));
    assert_true(smtp_verb_parse(S("NOOP  a b "), &v, &args));
    assert_str(args, S("a b"));
    assert_false(smtp_verb_parse(S(""), &v, &args));
    assert_false(smtp_verb_parse(S("MAILX FROM:<>"), &v, &args));
    assert_false(smtp_verb_parse(S("STAR"), &v, &args));
    for (unsigned i = 0; i < SMTP_VERBS_; i++) {
        assert_true(smtp_verb_parse(smtp_verb_names[i], &v, &args));
        assert_int_equal(v, i);
    }
}

static void test_mail(void **state)
{
    (void)state;
    static const struct {
        const char *args;
        enum smtp_reply want; /* NONE: accepted */
        const char *address;
    } cases[] = {
        {"FROM:<>", SMTP_REPLY_NONE, ""},
        {"from:<a@example.org>", SMTP_REPLY_NONE, "a@example.org"},
        {"FROM: <a@example.org>", SMTP_REPLY_NONE, "a@example.org"},
        {"FROM:<a@example.org> SIZE=12 BODY=7BIT RET=HDRS ENVID=x+20y", SMTP_REPLY_NONE, "a@example.org"},
        {"FROM:<a@example.org>  size=0  smtputf8", SMTP_REPLY_NONE, "a@example.org"},
        {"FROM:<@r.example:a@example.org>", SMTP_REPLY_NONE, "a@example.org"},
        {"FROM:<a@example.org> AUTH=<>", SMTP_REPLY_NONE, "a@example.org"},
        {"FROM:<j\xc3\xb6@example.org> SMTPUTF8", SMTP_REPLY_NONE, "j\xc3\xb6@example.org"},
        {"FROM:<j\xc3\xb6@example.org>", SMTP_NEEDS_UTF8, NULL},
        {"FROM:a@example.org", SMTP_SENDER_SYNTAX, NULL},
        {"FROM:<postmaster>", SMTP_SENDER_SYNTAX, NULL},
        {"FROM:<a@example.org>SIZE=1", SMTP_SENDER_SYNTAX, NULL},
        {"FROM:<a b@example.org>", SMTP_SENDER_SYNTAX, NULL},
        {"TO:<a@example.org>", SMTP_SENDER_SYNTAX, NULL},
        {"", SMTP_SENDER_SYNTAX, NULL},
        {"FROM:<a@example.org> SIZE=", SMTP_PARAMETER_SYNTAX, NULL},
        {"FROM:<a@example.org> SIZE=-1", SMTP_PARAMETER_SYNTAX, NULL},
        {"FROM:<a@example.org> SIZE=99999999999999999999", SMTP_PARAMETER_SYNTAX, NULL},
        {"FROM:<a@example.org> SIZE=1 SIZE=1", SMTP_PARAMETER_SYNTAX, NULL},
        {"FROM:<a@example.org> BODY=BINARYMIME", SMTP_PARAMETER_SYNTAX, NULL},
        {"FROM:<a@example.org> SMTPUTF8=yes", SMTP_PARAMETER_SYNTAX, NULL},
        {"FROM:<a@example.org> RET=SOME", SMTP_PARAMETER_SYNTAX, NULL},
        {"FROM:<a@example.org> ENVID=a+0D", SMTP_PARAMETER_SYNTAX, NULL},
        {"FROM:<a@example.org> ENVID=a+4", SMTP_PARAMETER_SYNTAX, NULL},
        {"FROM:<a@example.org> ENVID", SMTP_PARAMETER_SYNTAX, NULL},
        {"FROM:<a@example.org> =x", SMTP_PARAMETER_SYNTAX, NULL},
        {"FROM:<a@example.org> X=", SMTP_PARAMETER_SYNTAX, NULL},
        {"FROM:<a@example.org> REQUIRETLS", SMTP_UNKNOWN_PARAMETER, NULL},
        {"FROM:<a@example.org> NOTIFY=NEVER", SMTP_UNKNOWN_PARAMETER, NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        ARENA(a, 1 << 20);
        struct smtp_mail_args m;
        enum smtp_reply why = SMTP_REPLY_NONE;
        bool ok = smtp_mail_parse(str_c(cases[i].args), &a, &m, &why);
        if (ok != !cases[i].want || (!ok && why != cases[i].want))
            fail_msg("%s: %.*s", cases[i].args, STR_ARG(smtp_reply_text(why)));
        if (ok)
            assert_str(m.path.address, str_c(cases[i].address));
    }
    ARENA(a, 1 << 20);
    struct smtp_mail_args m;
    enum smtp_reply why;
    assert_true(
        smtp_mail_parse(S("FROM:<a@b.example> SIZE=77 BODY=8BITMIME SMTPUTF8 RET=FULL ENVID=e+2Bf"), &a, &m, &why));
    assert_int_equal(m.size, 77);
    assert_true(m.is_8bit && m.is_smtputf8 && m.ret_full);
    assert_str(m.envelope_id, S("e+2Bf"));
}

static void test_rcpt(void **state)
{
    (void)state;
    static const struct {
        const char *args;
        bool allow_utf8;
        enum smtp_reply want;
        const char *address;
        unsigned notify;
    } cases[] = {
        {"TO:<a@example.org>", false, SMTP_REPLY_NONE, "a@example.org", 0},
        {"to: <Postmaster>", false, SMTP_REPLY_NONE, "Postmaster", 0},
        {"TO:<\"a b\"@example.org>", false, SMTP_REPLY_NONE, "\"a b\"@example.org", 0},
        {"TO:<@x.example,@y.example:a@example.org>", false, SMTP_REPLY_NONE, "a@example.org", 0},
        {"TO:<a@[192.0.2.1]>", false, SMTP_REPLY_NONE, "a@[192.0.2.1]", 0},
        {"TO:<a@example.org> NOTIFY=NEVER", false, SMTP_REPLY_NONE, "a@example.org", 8},
        {"TO:<a@example.org> notify=success,FAILURE,delay ORCPT=rfc822;b+40c", false, SMTP_REPLY_NONE, "a@example.org",
         7},
        {"TO:<j\xc3\xb6@example.org>", true, SMTP_REPLY_NONE, "j\xc3\xb6@example.org", 0},
        {"TO:<j\xc3\xb6@example.org>", false, SMTP_NEEDS_UTF8, NULL, 0},
        {"TO:<>", false, SMTP_RECIPIENT_SYNTAX, NULL, 0},
        {"TO:<a@example.org.>", false, SMTP_RECIPIENT_SYNTAX, NULL, 0},
        {"TO:<a@b@example.org>", false, SMTP_RECIPIENT_SYNTAX, NULL, 0},
        {"TO:<nobody>", false, SMTP_RECIPIENT_SYNTAX, NULL, 0},
        {"TO:<a@example.org> NOTIFY=NEVER,DELAY", false, SMTP_PARAMETER_SYNTAX, NULL, 0},
        {"TO:<a@example.org> NOTIFY=DELAY,DELAY", false, SMTP_PARAMETER_SYNTAX, NULL, 0},
        {"TO:<a@example.org> NOTIFY=", false, SMTP_PARAMETER_SYNTAX, NULL, 0},
        {"TO:<a@example.org> NOTIFY=DELAY,", false, SMTP_PARAMETER_SYNTAX, NULL, 0},
        {"TO:<a@example.org> ORCPT=rfc822", false, SMTP_PARAMETER_SYNTAX, NULL, 0},
        {"TO:<a@example.org> ORCPT=;x", false, SMTP_PARAMETER_SYNTAX, NULL, 0},
        {"TO:<a@example.org> ORCPT=rfc822;a+0Ab", false, SMTP_PARAMETER_SYNTAX, NULL, 0},
        {"TO:<a@example.org> SIZE=1", false, SMTP_UNKNOWN_PARAMETER, NULL, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        ARENA(a, 1 << 20);
        struct smtp_rcpt_args r;
        enum smtp_reply why = SMTP_REPLY_NONE;
        bool ok = smtp_rcpt_parse(str_c(cases[i].args), cases[i].allow_utf8, &a, &r, &why);
        if (ok != !cases[i].want || (!ok && why != cases[i].want))
            fail_msg("%s: %.*s", cases[i].args, STR_ARG(smtp_reply_text(why)));
        if (!ok)
            continue;
        assert_str(r.path.address, str_c(cases[i].address));
        assert_int_equal(r.notify, cases[i].notify);
    }
}

static void test_long_parameters(void **state)
{
    (void)state;
    ARENA(a, 1 << 20);
    struct smtp_mail_args m;
    struct smtp_rcpt_args r;
    enum smtp_reply why;
    BUF(b, 4096);
    buf_add(&b, S("FROM:<> ENVID="));
    for (unsigned i = 0; i < SMTP_ENVID_MAX; i++)
        buf_addc(&b, 'x');
    assert_true(smtp_mail_parse(buf_str(&b), &a, &m, &why));
    buf_addc(&b, 'x');
    assert_false(smtp_mail_parse(buf_str(&b), &a, &m, &why));
    buf_clear(&b);
    buf_add(&b, S("TO:<a@example.org> ORCPT=rfc822;"));
    for (unsigned i = 0; i < SMTP_ORCPT_MAX - 7; i++)
        buf_addc(&b, 'x');
    assert_true(smtp_rcpt_parse(buf_str(&b), false, &a, &r, &why));
    buf_addc(&b, 'x');
    assert_false(smtp_rcpt_parse(buf_str(&b), false, &a, &r, &why));
}

static void test_bdat_hello(void **state)
{
    (void)state;
    uint64_t n;
    bool is_last;
    assert_true(smtp_bdat_parse(S("86 LAST"), &n, &is_last) && n == 86 && is_last);
    assert_true(smtp_bdat_parse(S("0"), &n, &is_last) && n == 0 && !is_last);
    assert_true(smtp_bdat_parse(S("1  last"), &n, &is_last) && is_last);
    assert_false(smtp_bdat_parse(S(""), &n, &is_last));
    assert_false(smtp_bdat_parse(S("x"), &n, &is_last));
    assert_false(smtp_bdat_parse(S("-1"), &n, &is_last));
    assert_false(smtp_bdat_parse(S("1 LASTLY"), &n, &is_last));
    assert_false(smtp_bdat_parse(S("99999999999999999999"), &n, &is_last));
    assert_true(smtp_hello_parse(S("mail.example.org")));
    assert_true(smtp_hello_parse(S("[192.0.2.1]")));
    assert_false(smtp_hello_parse(S("")));
    assert_false(smtp_hello_parse(S("a b")));
    assert_false(smtp_hello_parse(S("a\x01")));
}

static void test_replies(void **state)
{
    (void)state;
    for (unsigned i = SMTP_REPLY_NONE + 1; i < SMTP_REPLIES_; i++) {
        str line = smtp_reply_line((enum smtp_reply)i);
        int cls = smtp_reply_class((enum smtp_reply)i);
        assert_true(cls >= 2 && cls <= 5 && line.n < 512 && str_ends(line, S("\r\n")) && line.p[3] == ' ');
        assert_true(cls == 3 || (line.p[4] == line.p[0] && line.p[5] == '.')); /* RFC 2034 4: the classes agree */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verbs),           cmocka_unit_test(test_mail),       cmocka_unit_test(test_rcpt),
        cmocka_unit_test(test_long_parameters), cmocka_unit_test(test_bdat_hello), cmocka_unit_test(test_replies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
