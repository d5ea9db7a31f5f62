#include "base_test.h"

#include "queue-service/remote/reply.h"

/* Feed the lines of a reply; what the last step said. */
static enum smtp_reply_step feed(struct smtp_reply *r, const char *lines)
{
    str all = str_c(lines), line;
    enum smtp_reply_step step = SMTP_REPLY_MORE;
    *r = (struct smtp_reply){0};
    while (step == SMTP_REPLY_MORE && str_split(&all, '\n', &line))
        step = smtp_reply_add(r, line);
    return step;
}

static void test_replies(void **state)
{
    (void)state;
    static const struct {
        const char *lines;
        enum smtp_reply_step step;
        uint16_t code;
        const char *status, *text;
    } cases[] = {
        {"250 ok", SMTP_REPLY_DONE, 250, "2.0.0", "250 ok"},
        {"250", SMTP_REPLY_DONE, 250, "2.0.0", "250"},
        {"250 ", SMTP_REPLY_DONE, 250, "2.0.0", "250"},
        {"250-a\n250-b\n250 c", SMTP_REPLY_DONE, 250, "2.0.0", "250 a b c"},
        {"250-", SMTP_REPLY_MORE, 250, "2.0.0", "250"},
        {"550 5.1.1 no such user", SMTP_REPLY_DONE, 550, "5.1.1", "550 5.1.1 no such user"},
        {"550-5.1.1 no such user;\n550 5.1.1 see help", SMTP_REPLY_DONE, 550, "5.1.1",
         "550 5.1.1 no such user; see help"},
        {"550 5.1.1", SMTP_REPLY_DONE, 550, "5.1.1", "550 5.1.1"},
        {"450 5.1.1 class differs", SMTP_REPLY_DONE, 450, "4.0.0", "450 5.1.1 class differs"},
        {"450 4.1234.1 x", SMTP_REPLY_DONE, 450, "4.0.0", "450 4.1234.1 x"},
        {"550 5.1.1x", SMTP_REPLY_DONE, 550, "5.0.0", "550 5.1.1x"},
        {"550-first\n550 5.7.1 second", SMTP_REPLY_DONE, 550, "5.7.1", "550 first 5.7.1 second"},
        {"250-a\n550 b", SMTP_REPLY_DONE, 550, "5.0.0", "250 a b"},
        {"550 a\tb\x01\x7f"
         "c",
         SMTP_REPLY_DONE, 550, "5.0.0", "550 a b  c"},
        {"550 caf\xc3\xa9", SMTP_REPLY_DONE, 550, "5.0.0", "550 caf\xc3\xa9"},
        {"550 caf\xe9", SMTP_REPLY_DONE, 550, "5.0.0", "550 caf?"},
        {"", SMTP_REPLY_BAD, 0, "", ""},
        {"25", SMTP_REPLY_BAD, 0, "", ""},
        {"2500 x", SMTP_REPLY_BAD, 0, "", ""},
        {"250x", SMTP_REPLY_BAD, 0, "", ""},
        {"199 x", SMTP_REPLY_BAD, 0, "", ""},
        {"600 x", SMTP_REPLY_BAD, 0, "", ""},
        {"hello", SMTP_REPLY_BAD, 0, "", ""},
        {"-50 x", SMTP_REPLY_BAD, 0, "", ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct smtp_reply r;
        enum smtp_reply_step step = feed(&r, cases[i].lines);
        assert_int_equal(step, cases[i].step);
        if (step == SMTP_REPLY_BAD)
            continue;
        assert_int_equal(r.code, cases[i].code);
        assert_string_equal(r.status, cases[i].status);
        assert_string_equal(r.text, cases[i].text);
    }
}

static void test_limits(void **state)
{
    (void)state;
    struct smtp_reply r = {0};
    char line[SMTP_REPLY_LINE_MAX + 2];
    memset(line, 'x', sizeof(line));
    memcpy(line, "250-", 4);
    assert_int_equal(smtp_reply_add(&r, str_n(line, SMTP_REPLY_LINE_MAX)), SMTP_REPLY_MORE);
    assert_int_equal(r.n_text, SMTP_REPLY_TEXT_SIZE - 1);
    for (unsigned i = 1; i < SMTP_REPLY_LINES_MAX; i++)
        assert_int_equal(smtp_reply_add(&r, S("250-more")), SMTP_REPLY_MORE);
    assert_int_equal(smtp_reply_add(&r, S("250 end")), SMTP_REPLY_LONG);
    assert_int_equal(strlen(r.text), SMTP_REPLY_TEXT_SIZE - 1);

    /* Text is cut between characters, wherever the cut falls. */
    for (size_t lead = 0; lead < 4; lead++) {
        size_t n = 4;
        memset(line, 'a', lead + n);
        memcpy(line, "550 ", 4);
        for (n += lead; n + 3 < 600; n += 3)
            memcpy(line + n, "\xe2\x82\xac", 3);
        r = (struct smtp_reply){0};
        assert_int_equal(smtp_reply_add(&r, str_n(line, n)), SMTP_REPLY_DONE);
        assert_true(utf8_valid(r.text, r.n_text) && r.n_text > SMTP_REPLY_TEXT_SIZE - 5);
    }
}

static void test_caps(void **state)
{
    (void)state;
    static const char *const lines[] = {"250-mx.example.net at your service",
                                        "250-PIPELINING",
                                        "250-size 1000",
                                        "250-8BITMIME",
                                        "250-SMTPUTF8 ",
                                        "250-CHUNKING",
                                        "250-DSN",
                                        "250-STARTTLS",
                                        "250-LIMITS RCPTMAX=5 MAILMAX=7 X=y RCPTDOMAINMAX=1",
                                        "250 AUTH PLAIN"};
    struct smtp_caps c = {0};
    for (size_t i = 0; i < ARRAY_LEN(lines); i++)
        smtp_caps_add(&c, str_c(lines[i]), i == 0);
    assert_string_equal(c.name, "mx.example.net");
    assert_int_equal(c.offered, 255);
    assert_int_equal(c.size_max, 1000);
    assert_int_equal(c.rcpt_max, 5);
    assert_int_equal(c.mail_max, 7);

    c = (struct smtp_caps){0};
    smtp_caps_add(&c, S("250"), true);
    smtp_caps_add(&c, S("250-SIZE"), false);
    smtp_caps_add(&c, S("250-SIZE 99999999999999999999999"), false);
    smtp_caps_add(&c, S("250-LIMITS RCPTMAX=0 MAILMAX=x"), false);
    smtp_caps_add(&c, S("250-PIPELININGX"), false);
    smtp_caps_add(&c, S("250 "), false);
    assert_string_equal(c.name, "");
    assert_int_equal(c.offered, SMTP_CAP_SIZE | SMTP_CAP_LIMITS);
    assert_int_equal(c.size_max + c.rcpt_max + c.mail_max, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_replies), cmocka_unit_test(test_limits),
                                       cmocka_unit_test(test_caps)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
