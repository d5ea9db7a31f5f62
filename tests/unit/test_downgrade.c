#include "mail/downgrade.h"

#include "base_test.h"

#include "mail/header.h"
#include "mail/mime.h"
#include "mail/transfer.h"

/* Through both passes, in pieces of n bytes. */
static void convert(str in, size_t n, struct buf *out)
{
    struct err err = ERR_INIT;
    CLEANUP(downgrade_free) struct downgrade *d = downgrade_new();
    for (size_t i = 0; i < in.n; i += n)
        downgrade_scan(d, str_slice(in, i, i + n));
    if (!downgrade_plan(d, &err))
        fail_msg("%s", err.msg);
    for (size_t i = 0; i < in.n; i += n)
        downgrade_feed(d, str_slice(in, i, i + n), out);
    downgrade_end(d, out);
}

static const struct {
    const char *name, *in, *out;
} cases[] = {
    {"nothing to do, whatever the label says", "Content-Transfer-Encoding: 8bit\r\nSubject: a\r\n\r\nplain \r\n",
     "Content-Transfer-Encoding: 8bit\r\nSubject: a\r\n\r\nplain \r\n"},
    {"text",
     "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit\r\nX: y\r\n\r\ngr\xfc\xdf\x65 =\r\n",
     "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=iso-8859-1\r\nX: y\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
     "gr=FC=DFe =3D\r\n"},
    {"text without MIME, UTF-8", "Subject: a\r\n\r\ngr\xc3\xbc\xc3\x9f\x65\r\n",
     "Subject: a\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
     "gr=C3=BC=C3=9Fe\r\n"},
    {"text without MIME, not UTF-8", "Subject: a\n\ngr\xfc\xdf\x65\n",
     "Subject: a\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\nContent-Transfer-Encoding: quoted-printable\r\n\n"
     "gr=FC=DFe\r\n"},
    {"only the parts that need it",
     "Content-Type: multipart/signed; boundary=b\r\nContent-Transfer-Encoding: 8bit\r\n\r\npre \xff\r\n--b\r\nContent-Type: text/plain\r\n\r\n"
     "seven  bits = \r\n--b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>\xc3\xbc\r\n--b\r\n"
     "Content-Type: image/x\r\nContent-Transfer-Encoding: binary\r\n\r\n\x80\x81\r\n--b--\r\n",
     "Content-Type: multipart/signed; boundary=b\r\nContent-Transfer-Encoding: 7bit\r\n\r\npre ?\r\n--b\r\nContent-Type: text/plain\r\n\r\n"
     "seven  bits = \r\n--b\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<p>=C3=BC\r\n--b\r\n"
     "Content-Type: image/x\r\nContent-Transfer-Encoding: base64\r\n\r\ngIE=\r\n\r\n--b--\r\n"},
    {"a message within",
     "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\nSubject: \xc3\xbc\r\n\r\n\xc3\xbc\r\n",
     "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\nSubject: =?utf-8?B?w7w=?=\r\nMIME-Version: 1.0\r\n"
     "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=C3=BC\r\n"},
    {"labels that lie",
     "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=41\xfc\r\n--b\r\n"
     "Content-Transfer-Encoding: base64\r\n\r\nQU\xfcJD\r\n--b--\r\n",
     "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=41=FC\r\n--b\r\n"
     "Content-Transfer-Encoding: base64\r\n\r\nQU?JD\r\n--b--\r\n"},
    {"header fields",
     "From: \"M\xc3\xbcller, J\" <a@b.test>, J\xc3\xb6rg M\xc3\xbcller <c@d.test>\r\nno field \xc3\xbc\r\nSubject: \"a\" h\xc3\xbc, h\xc3\xb6 (b)\r\n"
     "Content-Disposition: attachment;\r\n filename=\"\xc3\xbc.pdf\"\r\nReceived: by \xff\r\n\r\nx\r\n",
     "From: =?utf-8?B?TcO8bGxlciwgSg==?= <a@b.test>, =?utf-8?B?SsO2cmcgTcO8bGxl?=\r\n =?utf-8?B?cg==?= <c@d.test>\r\nno field ??\r\n"
     "Subject: \"a\" =?utf-8?B?aMO8LCBow7Y=?= (b)\r\nContent-Disposition: attachment;\r\n filename=\"=?utf-8?B?w7wucGRm?=\"\r\n"
     "Received: by =?utf-8?B?w78=?=\r\n\r\nx\r\n"},
    {"no header at all", "\r\n\xc3\xbc",
     "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=C3=BC"},
};

static void test_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        str in = str_c(cases[i].in);
        for (size_t n = 1; n <= in.n; n++) {
            BUF(out, DOWNGRADE_OUT_MAX);
            convert(in, n, &out);
            if (strcmp(buf_z(&out), cases[i].out) != 0)
                fail_msg("%s, in pieces of %zu:\n%s\nnot\n%s", cases[i].name, n, buf_z(&out), cases[i].out);
        }
    }
}

/* A large message: what comes out decodes to what went in, and lines are short. */
static void test_large(void **state)
{
    (void)state;
    BUF(in, 4 << 20);
    BUF(out, 8 << 20);
    BUF(back, 4 << 20);
    ARENA(a, 8 << 20);
    buf_add(&in, S("Content-Type: text/plain; charset=utf-8\r\n\r\n"));
    size_t body = in.n;
    for (int i = 0; i < 20000; i++)
        buf_printf(&in, "%d: \xc3\xa4\xc3\xb6\xc3\xbc and ascii =20 \t%s\r\n", i,
                   i % 7 ? "" : "From me a line that is much longer than seventy-six characters are");
    convert(buf_str(&in), 60000, &out);
    assert_true(ascii_only(out.p, out.n));
    const struct mime_message *m = mime_parse(&a, buf_str(&out), NULL);
    assert_string_equal(arena_strz(&a, m->root->encoding), "QUOTED-PRINTABLE");
    str encoded = str_slice(buf_str(&out), (size_t)m->root->body_offset, SIZE_MAX);
    transfer_decode(TRANSFER_QP, encoded, &back);
    assert_true(str_eq(buf_str(&back), str_slice(buf_str(&in), body, SIZE_MAX)));
    for (str line; str_split(&encoded, '\n', &line);)
        assert_true(line.n <= 77);
}

static void test_limits(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    CLEANUP(downgrade_free) struct downgrade *d = downgrade_new();
    downgrade_scan(d, S("Content-Type: multipart/mixed; boundary=b\r\n\r\n"));
    for (int i = 0; i < 1100; i++)
        downgrade_scan(d, S("--b\r\n\r\n\xc3\xbc\r\n"));
    assert_false(downgrade_plan(d, &err));
    assert_int_equal(err.kind, ERR_LIMIT);
}

/* The streaming encoders give what the others give, however the input is cut. */
static void test_encoders(void **state)
{
    (void)state;
    str text = S(
        "From me\r\n.dot\r\ntrailing \r\nbare\rcr\nFrom\r\n\xc3\xa4=\tend\t\r\na very long line a very long line a very long line a very long "
        "line \r");
    static const enum transfer_kind kinds[] = {TRANSFER_QP, TRANSFER_BASE64};
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        BUF(whole, 4096);
        if (kinds[k] == TRANSFER_QP)
            transfer_encode_qp(&whole, text);
        else
            transfer_encode_base64(&whole, text);
        for (size_t n = 1; n <= text.n; n++) {
            struct transfer_encoder e;
            BUF(out, 4096);
            transfer_encoder_init(&e, kinds[k]);
            for (size_t i = 0; i < text.n; i += n)
                transfer_encode(&e, str_slice(text, i, i + n), &out);
            transfer_encode_end(&e, &out);
            assert_string_equal(buf_z(&out), buf_z(&whole));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cases), cmocka_unit_test(test_large),
                                       cmocka_unit_test(test_limits), cmocka_unit_test(test_encoders)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
