#include "mail_util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "base/clock.h"
#include "mail/charset.h"
#include "mail/content_field.h"
#include "mail/date.h"
#include "mail/delivery_key.h"
#include "mail/encoded_word.h"
#include "mail/header.h"
#include "mail/html_text.h"
#include "mail/message.h"
#include "mail/mime_json.h"
#include "mail/text_search.h"
#include "mail/transfer.h"
#include "mail/utf7.h"

#define assert_str(got, want) assert_string_equal(arena_strz(&a, (got)), (want))

static void test_header(void **state)
{
    (void)state;
    ARENA(a, 1u << 20);
    str block =
        S("From x Thu Aug 22 12:36:23 2002\nA: 1\r\n\t2\r\nBad line\r\nB :\r\n \r\n x\r\nC:last\r\n\r\nD: no\r\n");
    struct header_iter it = header_iter_of(block);
    struct header_field f;
    assert_true(header_next(&it, &f));
    assert_str(f.name, "A");
    assert_str(header_unfold(&a, f.value), "1\t2");
    assert_true(header_next(&it, &f));
    assert_str(f.name, "B");
    assert_str(header_unfold(&a, f.value), "x");
    assert_true(header_next(&it, &f));
    assert_str(f.raw, "C:last\r\n");
    assert_false(header_next(&it, &f));
    assert_false(header_find(block, S("d"), &f));
    assert_true(header_find(block, S("c"), &f));
    assert_str(header_decode(&a, S(" =?utf-8?q?=C3=A4?=\r\n =?utf-8?q?b?= c \r\n")), "\xc3\xa4"
                                                                                     "b c");
    assert_str(header_decode(&a, S("caf\xe9")), "caf\xc3\xa9");
    assert_str(header_decode(&a, S("a\0b")), "ab");
}

static void test_encoded_words(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"plain", "plain"},
        {"=?iso-8859-1?Q?Andr=E9?= x", "Andr\xc3\xa9 x"},
        {"=?UTF-8?B?w6Q=?= =?utf-8?B?w7Y=?=", "\xc3\xa4\xc3\xb6"},
        {"=?utf-8?B?ww==?= =?utf-8?B?pA==?=", "\xc3\xa4"}, /* a character split between words */
        {"=?utf-8*de?Q?x?=", "x"},
        {"=?utf-8?X?x?=", "=?utf-8?X?x?="},
        {"=?utf-8?Q?a", "=?utf-8?Q?a"},
        {"=?unknown?Q?=E4?=", "\xc3\xa4"},
        {"=?utf-8?Q?=3D?=", "="},
        {"a=?utf-8?Q?b?=c", "abc"},
        {"=?gb2312?B?1tDOxA==?=", "\xe4\xb8\xad\xe6\x96\x87"},
        {"=?iso-2022-jp?B?GyRCRnxLXBsoQg==?=", "\xe6\x97\xa5\xe6\x9c\xac"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        BUF(out, 4096);
        encoded_word_decode(&out, str_c(cases[i].in));
        assert_string_equal(buf_z(&out), cases[i].out);
    }
    /* Whatever is encoded comes back, in words of at most 75 characters. */
    BUF(text, 4096);
    for (int i = 0; i < 60; i++) {
        buf_add(&text, i % 3 ? S("gr\xc3\xbc\xc3\x9f ") : S("\xf0\x9f\x93\xa7 mail "));
        BUF(encoded, 16384);
        ARENA(a, 1u << 20);
        encoded_word_encode(&encoded, buf_str(&text), (size_t)i);
        str rest = buf_str(&encoded), line;
        for (size_t column = (size_t)i; str_split(&rest, '\n', &line); column = 0)
            assert_true(column + line.n <= 78);
        assert_true(str_eq(header_decode(&a, buf_str(&encoded)), buf_str(&text)));
    }
}

static void test_transfer(void **state)
{
    (void)state;
    static const struct {
        enum transfer_kind kind;
        const char *in, *out;
    } cases[] = {
        {TRANSFER_BASE64, "aGVs\r\nbG8=\r\nfooter", "hello"},
        {TRANSFER_BASE64, "aGVsbG8", "hello"},
        {TRANSFER_BASE64, "aGV-s!bG8=", "hello"},
        {TRANSFER_QP, "a=20b=\r\nc  \r\nd=3D=\n e=ZZ =4", "a bc\r\nd= e=ZZ =4"},
        {TRANSFER_QP, "x= \t\r\ny=", "xy"},
        {TRANSFER_QP, "tail  ", "tail"},
        {TRANSFER_QP, "=c3=A4", "\xc3\xa4"},
        {TRANSFER_UU, "begin 644 x\n%:&5L;&\\\n`\nend\n", "hello"},
        {TRANSFER_IDENTITY, "a=20", "a=20"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        str in = str_c(cases[i].in);
        for (size_t cut = 0; cut <= in.n; cut++) {
            BUF(out, 4096);
            struct transfer t;
            transfer_init(&t, cases[i].kind);
            transfer_feed(&t, str_slice(in, 0, cut), &out);
            transfer_feed(&t, str_slice(in, cut, SIZE_MAX), &out);
            transfer_finish(&t, &out);
            assert_string_equal(buf_z(&out), cases[i].out);
        }
    }
    str text = S("A line with trailing space \r\n.dot\r\nFrom here\r\n\xc3\xa4=\tend\t\r\n"
                 "a very long line a very long line a very long line a very long line a very long line\r\n");
    BUF(qp, 4096);
    BUF(back, 4096);
    transfer_encode_qp(&qp, text);
    transfer_decode(TRANSFER_QP, buf_str(&qp), &back);
    assert_true(str_eq(buf_str(&back), text));
    BUF(b64, 4096);
    buf_clear(&back);
    transfer_encode_base64(&b64, text);
    assert_int_equal(str_find(buf_str(&b64), '\r'), 76);
    transfer_decode(TRANSFER_BASE64, buf_str(&b64), &back);
    assert_true(str_eq(buf_str(&back), text));
}

static void test_charset(void **state)
{
    (void)state;
    static const struct {
        const char *label, *in, *out;
    } cases[] = {
        {"utf-8", "\xc3\xa4\xff", "\xc3\xa4\xef\xbf\xbd"},
        {"us-ascii", "\xe4", "\xc3\xa4"},
        {"us-ascii", "ab\xc3\xa4", "ab\xc3\xa4"},
        {"ISO-8859-1", "\x80", "\xe2\x82\xac"},
        {"iso-8859-15", "\xa4", "\xe2\x82\xac"},
        {"koi8-r", "\xc1", "\xd0\xb0"},
        {"utf-16le", "a\0\xe4\0", NULL},
        {"utf-7", "+AOQ-", "\xc3\xa4"},
        {"no-such", "x\xe4", "x\xc3\xa4"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        if (!cases[i].out)
            continue;
        str in = str_c(cases[i].in);
        BUF(out, 256);
        charset_to_utf8(str_c(cases[i].label), in, &out);
        assert_string_equal(buf_z(&out), cases[i].out);
        for (size_t cut = 0; cut <= in.n; cut++) {
            BUF(pieces, 256);
            CLEANUP(charset_free) struct charset *c = charset_new(str_c(cases[i].label));
            charset_feed(c, str_slice(in, 0, cut), false, &pieces);
            charset_feed(c, str_slice(in, cut, SIZE_MAX), true, &pieces);
            assert_string_equal(buf_z(&pieces), cases[i].out);
        }
    }
    assert_true(charset_is_known(S("UTF-8")));
    assert_true(charset_is_known(S("us-ascii")));
    assert_false(charset_is_known(S("nonsense")));
    assert_false(charset_is_known(S("utf-8,version=1")));
}

static void test_content_fields(void **state)
{
    (void)state;
    ARENA(a, 1u << 20);
    struct content_field f;
    content_field_parse(&a,
                        S(" application/x-stuff; title*0*=us-ascii'en'This%20is%20even%20more%20;\r\n"
                          " title*1*=%2A%2A%2Afun%2A%2A%2A%20; title*2=\"isn't it!\"; x=\"a\\\"b\"; x=2"),
                        true, 64, 4096, &f);
    assert_str(f.token, "APPLICATION");
    assert_str(mime_param(&f.params, "title"), "This is even more ***fun*** isn't it!");
    assert_str(mime_param(&f.params, "x"), "a\"b");
    content_field_parse(&a, S("attachment; filename=\"x.txt\"; filename*=UTF-8''%e2%82%ac.txt"), false, 64, 4096, &f);
    assert_str(f.token, "attachment");
    assert_str(mime_param(&f.params, "filename"), "\xe2\x82\xac.txt");
    content_field_parse(&a, S("attachment; filename=my file (1).txt"), false, 64, 4096, &f);
    assert_str(mime_param(&f.params, "filename"), "my file");
    content_field_parse(&a, S("attachment; filename=\"=?utf-8?B?w6Q=?=\""), false, 64, 4096, &f);
    assert_str(mime_param(&f.params, "filename"), "\xc3\xa4");
    content_field_parse(&a, S("text/plain; a=1; b=2; c=3"), true, 2, 4096, &f);
    assert_true(f.is_cut);
    assert_int_equal(f.params.n, 2);
}

static void test_addresses(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"a@b", "[|a|b]"},
        {"Joe <a@b>, \"X, Y\" <c@d>", "[Joe|a|b][X, Y|c|d]"},
        {"a@b (Joe)", "[Joe|a|b]"},
        {"Joe Doe joe@x.org", "[Joe Doe|joe|x.org]"},
        {"G: a@b, c@d;, e@f", "{G}[|a|b][|c|d]}[|e|f]"},
        {"undisclosed-recipients:;", "{undisclosed-recipients}}"},
        {"<@r1,@r2:a@b>", "[|a|b|@r1,@r2]"},
        {"=?utf-8?Q?J=C3=B6rg?= <a@b>", "[J\xc3\xb6rg|a|b]"},
        {"\"a b\"@c", "[|a b|c]"},
        {"a . b @ c . d", "[a .|b|c.d]"},
        {"<a@b", "[|a|b]"},
        {"\"open <a@b>", "[open <a@b>||]"},
        {"foo", "[|foo|]"},
        {"a@[192.0.2.1]", "[|a|[192.0.2.1]]"},
        {",,a@b,,", "[|a|b]"},
        {"", ""},
        {"<>", ""},
        {"J\xf6rg <a@b>", "[J\xc3\xb6rg|a|b]"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        ARENA(a, 1u << 20);
        BUF(out, 4096);
        struct address_list l;
        address_list_parse(&a, str_c(cases[i].in), 100, &l);
        for (size_t k = 0; k < l.n; k++) {
            if (l.v[k].group_start.p)
                buf_printf(&out, "{%.*s}", STR_ARG(l.v[k].group_start));
            else if (l.v[k].is_group_end)
                buf_addc(&out, '}');
            else
                buf_printf(&out, "[%.*s|%.*s|%.*s%s%.*s]", STR_ARG(l.v[k].name), STR_ARG(l.v[k].local),
                           STR_ARG(l.v[k].domain), l.v[k].route.n ? "|" : "", STR_ARG(l.v[k].route));
        }
        assert_string_equal(buf_z(&out), cases[i].out);
    }
    ARENA(a, 1u << 20);
    struct address_list l;
    address_list_parse(&a, S("a@b,c@d,e@f"), 2, &l);
    assert_true(l.is_cut);
    assert_int_equal(l.n, 2);
}

static void test_smtp_paths(void **state)
{
    (void)state;
    static const struct {
        const char *in;
        bool utf8;
        const char *out; /* NULL: refused */
    } cases[] = {
        {"<>", false, ""},
        {"<a@b.example>", false, "a@b.example"},
        {"<@x,@y:a@b>", false, "a@b"},
        {"<Postmaster>", false, "Postmaster"},
        {"<\"a b\"@c>", false, "\"a b\"@c"},
        {"<\"ab\"@c>", false, "ab@c"},
        {"<\"a\\\"b\"@c>", false, "\"a\\\"b\"@c"},
        {"<a@[192.0.2.1]>", false, "a@[192.0.2.1]"},
        {"<a@[IPv6:2001:db8::1]>", false, "a@[IPv6:2001:db8::1]"},
        {"<a@[300.0.0.1]>", false, NULL},
        {"<a@b", false, NULL},
        {"a@b", false, NULL},
        {"<a b@c>", false, NULL},
        {"<.a@b>", false, NULL},
        {"<a..b@c>", false, NULL},
        {"<a@-b>", false, NULL},
        {"<a@b..c>", false, NULL},
        {"<a@b.>", false, NULL},
        {"<a@>", false, NULL},
        {"<@b>", false, NULL},
        {"<a@b@c>", false, NULL},
        {"<a%b@c>", false, "a%b@c"},
        {"<\xc3\xa4@b>", false, NULL},
        {"<\xc3\xa4@\xc3\xb6.example>", true, "\xc3\xa4@\xc3\xb6.example"},
        {"<\xff@b>", true, NULL},
        {"<0123456789012345678901234567890123456789012345678901234567890123@b>", false,
         "0123456789012345678901234567890123456789012345678901234567890123@b"},
        {"<01234567890123456789012345678901234567890123456789012345678901234@b>", false, NULL},
    };
    ARENA(a, 1u << 20);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;
        struct smtp_path path;
        struct cursor c = cur_of(str_c(cases[i].in));
        bool ok = smtp_path_parse(&c, cases[i].utf8, &a, &path, &err);
        assert_int_equal(ok, cases[i].out != NULL);
        if (ok) {
            assert_str(path.address, cases[i].out);
            assert_int_equal(cur_left(&c), 0);
        }
    }
    struct err err = ERR_INIT;
    str out;
    assert_true(domain_normalize(S("M\xc3\xbcNCHEN.example"), &a, &out, &err));
    assert_str(out, "xn--mnchen-3ya.example");
    assert_true(address_normalize(S("A b"), S("X.EXAMPLE"), &a, &out, &err));
    assert_str(out, "\"A b\"@x.example");
    assert_true(address_equal(S("a@m\xc3\xbcnchen.example"), S("a@XN--mnchen-3ya.example")));
    assert_false(address_equal(S("A@x"), S("a@x")));
}

static void test_dates(void **state)
{
    (void)state;
    static const struct {
        const char *in;
        int64_t unix_seconds;
        int zone;
    } cases[] = {
        {"Fri, 21 Nov 1997 09:55:06 -0600", 880127706, -360},
        {"21 Nov 97 09:55:06 GMT", 880106106, 0},
        {"Fri, 21 Nov 1997 09(comment):   55  :  06 -0600", 880127706, -360},
        {"Fri Nov 21 09:55:06 1997", 880106106, 0},
        {"1 Jan 1970 00:00 +0000", 0, 0},
        {"31 Dec 1999 23:59:60 EST", 946702800, -300},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct mail_date d;
        assert_true(date_parse(str_c(cases[i].in), &d));
        assert_int_equal(d.unix_seconds, cases[i].unix_seconds);
        assert_int_equal(d.zone_minutes, cases[i].zone);
    }
    static const char *const bad[] = {"", "x", "30 Feb 2020 00:00:00 +0000", "1 Jan 2020 25:00:00 +0000",
                                      "1 Foo 2020 00:00 Z"};
    struct mail_date d;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_false(date_parse(str_c(bad[i]), &d));
    BUF(out, 256);
    date_add_rfc5322(&out, 880127706, -360);
    assert_string_equal(buf_z(&out), "Fri, 21 Nov 1997 09:55:06 -0600");
    buf_clear(&out);
    date_add_imap(&out, 837596665, -420);
    assert_string_equal(buf_z(&out), "17-Jul-1996 02:44:25 -0700");
    int64_t t;
    int zone;
    assert_true(date_parse_imap(buf_str(&out), &t, &zone));
    assert_int_equal(t, 837596665);
    assert_int_equal(zone, -420);
    assert_true(date_parse_imap(S(" 1-Feb-2020 00:00:00 +0000"), &t, &zone));
    assert_true(date_parse_imap(S("1-Feb-2020 00:00:00 +0000"), &t, &zone)); /* as some clients send it */
    assert_false(date_parse_imap(S("001-Feb-2020 00:00:00 +0000"), &t, &zone));
    assert_true(date_parse_imap_day(S("1-Feb-1994"), &t));
    assert_int_equal(t, 760060800);
    assert_false(date_parse_imap_day(S("31-Feb-1994"), &t));
    for (int64_t day = -800000; day < 800000; day += 77) {
        int y, m, dd;
        date_from_days(day, &y, &m, &dd);
        assert_int_equal(date_days(y, m, dd), day);
    }
}

static void test_utf7(void **state)
{
    (void)state;
    static const struct {
        const char *utf8, *utf7;
    } cases[] = {
        {"INBOX", "INBOX"},
        {"a&b", "a&-b"},
        {"Entw\xc3\xbcrfe", "Entw&APw-rfe"},
        {"~peter/mail/\xe5\x8f\xb0\xe5\x8c\x97/\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e",
         "~peter/mail/&U,BTFw-/&ZeVnLIqe-"},
        {"\xf0\x9f\x93\xa7", "&2D3c5w-"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        BUF(out, 256);
        utf7_encode(&out, str_c(cases[i].utf8));
        assert_string_equal(buf_z(&out), cases[i].utf7);
        buf_clear(&out);
        assert_true(utf7_decode(&out, str_c(cases[i].utf7)));
        assert_string_equal(buf_z(&out), cases[i].utf8);
    }
    static const char *const bad[] = {"&",    "&AGE-",    "&APw",  "&APw-&APw-", "&2D0-",
                                      "&AP-", "\xc3\xa4", "&AAA-", "a\tb",       "&APx-"};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        BUF(out, 256);
        assert_false(utf7_decode(&out, str_c(bad[i])));
    }
}

static void test_search(void **state)
{
    (void)state;
    assert_true(text_contains(S("Gr\xc3\xbc\xc3\x9f"
                                "e"),
                              S("GR\xc3\x9cSSE")));
    assert_true(text_contains(S("caf\xc3\xa9"), S("CAFE\xcc\x81")));
    assert_true(text_contains(S("anything"), S("")));
    assert_false(text_contains(S("abc"), S("abd")));
    str text = S("some words, \xc3\x84pfel und \xc3\x96l, more words");
    for (size_t cut = 0; cut <= text.n; cut++) {
        CLEANUP(text_search_free) struct text_search *s = text_search_new(S("\xc3\xa4PFEL UND \xc3\xb6"));
        (void)text_search_feed(s, str_slice(text, 0, cut));
        (void)text_search_feed(s, str_slice(text, cut, SIZE_MAX));
        assert_true(text_search_finish(s));
    }
}

static void test_html(void **state)
{
    (void)state;
    BUF(out, 4096);
    html_to_text(
        &out,
        S("<!doctype html><head><style>x</style></head><p a=\">\">a<b>b</b>&#xe4;&lt;</p><script>no</script>1 < 2 & 3"));
    ARENA(a, 4096);
    assert_str(str_trim(buf_str(&out)), "ab\xc3\xa4<\n\n1 < 2 & 3");
}

static void test_builder(void **state)
{
    (void)state;
    BUF(out, 8192);
    message_add_text(&out, S("Subject"), S("hello\r\nBcc: evil"));
    assert_string_equal(buf_z(&out), "Subject: hello  Bcc: evil\r\n");
    buf_clear(&out);
    message_add_mailbox(&out, S("From"), S("Mail System"), S("postmaster@example.org"));
    assert_string_equal(buf_z(&out), "From: Mail System <postmaster@example.org>\r\n");
    buf_clear(&out);
    message_add_mailbox(&out, S("To"), S("A \"B\" C."), S("x@y"));
    assert_string_equal(buf_z(&out), "To: \"A \\\"B\\\" C.\" <x@y>\r\n");
    buf_clear(&out);
    char boundary[MESSAGE_BOUNDARY_SIZE];
    message_make_boundary(boundary);
    message_add_text(&out, S("Subject"),
                     S("Gr\xc3\xbc\xc3\x9f"
                       "e, a subject that is quite long and goes on for more than a line of text"));
    message_begin_multipart(&out, S("report"), S("; report-type=delivery-status"), boundary);
    message_begin_part(&out, boundary);
    buf_add(&out, S("Content-Type: text/plain\r\n\r\nSorry.\r\n"));
    message_begin_part(&out, boundary);
    buf_add(&out, S("Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n"));
    message_end_multipart(&out, boundary);
    ARENA(a, 1u << 20);
    const struct mime_message *m = mime_parse(&a, buf_str(&out), NULL);
    assert_int_equal(m->root->n_children, 2);
    assert_str(header_decode(&a, m->envelope.subject),
               "Gr\xc3\xbc\xc3\x9f"
               "e, a subject that is quite long and goes on for more than a line of text");
    assert_str(m->root->children->next->subtype, "DELIVERY-STATUS");
}

static void test_json(void **state)
{
    (void)state;
    ARENA(a, 1u << 20);
    BUF(out, 65536);
    str text = S(
        "Subject: =?utf-8?q?=C3=A4?=\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\naGVsbG8=\n");
    mime_to_json(&out, mime_parse(&a, text, NULL), text);
    assert_string_equal(
        buf_z(&out),
        "{\"size\":112,\"parts\":1,\"limit_hit\":false,\"has_attachment\":false,\"preview\":\"hello\",\"root\":{\"number\":\"1\","
        "\"type\":\"text/plain\",\"charset\":\"utf-8\",\"params\":{\"charset\":\"utf-8\"},\"encoding\":\"BASE64\","
        "\"header_offset\":0,\"body_offset\":103,\"encoded_size\":9,\"lines\":1,\"decoded_size\":5,"
        "\"decoded_sha256\":\"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824\","
        "\"headers\":[{\"name\":\"Subject\",\"value\":\"\xc3\xa4\"},{\"name\":\"Content-Type\",\"value\":\"text/plain; "
        "charset=utf-8\"},{\"name\":\"Content-Transfer-Encoding\",\"value\":\"base64\"}]}}");
}

static void test_delivery_key(void **state)
{
    (void)state;
    unsigned char id[ENQUEUE_ID_SIZE] = {0}, key[DELIVERY_KEY_SIZE];
    delivery_key(id, 1, key);
    BUF(hex, 128);
    buf_add_hex(&hex, str_n(key, sizeof(key)));
    assert_string_equal(buf_z(&hex), "e9ff0e6e6de95da56ff09f4e3e0f481d67585f0a68aafdeef0f86f7b8533ce17");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header),     cmocka_unit_test(test_encoded_words),  cmocka_unit_test(test_transfer),
        cmocka_unit_test(test_charset),    cmocka_unit_test(test_content_fields), cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_smtp_paths), cmocka_unit_test(test_dates),          cmocka_unit_test(test_utf7),
        cmocka_unit_test(test_search),     cmocka_unit_test(test_html),           cmocka_unit_test(test_builder),
        cmocka_unit_test(test_json),       cmocka_unit_test(test_delivery_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
