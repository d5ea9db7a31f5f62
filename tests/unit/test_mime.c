#include "mail_util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>

#include "base/clock.h"

/* The dump of a message fed in pieces of at most `piece` bytes (0: cut at `cut` only). */
static void dump_pieces(struct buf *out, str message, size_t piece, size_t cut)
{
    ARENA(a, 64u << 20);
    CLEANUP(mime_free) struct mime_parser *p = mime_new(&a, NULL);
    size_t at = 0;
    while (at < message.n) {
        size_t n = piece ? random_below(piece) + 1 : at < cut ? cut - at : message.n - at;
        n = MIN(n, message.n - at);
        char *copy = xmalloc(n); /* exact, so that reads beyond a piece are seen */
        memcpy(copy, message.p + at, n);
        mime_feed(p, str_n(copy, n));
        xfree(copy);
        at += n;
    }
    dump_message(out, mime_finish(p));
}

static void expect_dump(str message, const char *expected)
{
    BUF(whole, 1u << 20);
    ARENA(a, 1u << 20);
    const struct mime_message *m = mime_parse(&a, message, NULL);
    dump_message(&whole, m);
    const char *tree = strchr(buf_z(&whole), '\n') + 1;
    assert_string_equal(tree, expected);
    for (size_t cut = 0; cut <= message.n; cut++) {
        BUF(pieces, 1u << 20);
        dump_pieces(&pieces, message, 0, cut);
        assert_string_equal(buf_z(&pieces), buf_z(&whole));
    }
    BUF(bytes, 1u << 20);
    dump_pieces(&bytes, message, 1, 0);
    assert_string_equal(buf_z(&bytes), buf_z(&whole));
}

static const struct {
    const char *name, *message, *tree;
} cases[] = {
    {"empty", "", "TEXT/PLAIN 7BIT h=0 b=0 n=0 l=0 disp=\n"},
    {"header only, no blank line", "Subject: x\r\n", "TEXT/PLAIN 7BIT h=0 b=12 n=0 l=0 disp=\n"},
    {"plain", "Subject: x\r\n\r\nhello\r\nworld\r\n", "TEXT/PLAIN 7BIT h=0 b=14 n=14 l=2 disp=\n"},
    {"LF only", "Subject: x\n\nhello\nworld", "TEXT/PLAIN 7BIT h=0 b=12 n=11 l=1 disp=\n"},
    {"multipart",
     "Content-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n--b\r\n\r\none\r\n--b\r\n"
     "Content-Type: text/html\r\n\r\ntwo\r\n\r\n--b--\r\nepilogue\r\n",
     "MULTIPART/MIXED 7BIT h=0 b=45 n=78 l=11 disp= boundary=b\n"
     "  TEXT/PLAIN 7BIT h=60 b=62 n=3 l=0 disp=\n"
     "  TEXT/HTML 7BIT h=72 b=99 n=5 l=1 disp=\n"},
    {"no closing boundary", "Content-Type: multipart/mixed; boundary=b\n\n--b\n\none\n",
     "MULTIPART/MIXED 7BIT h=0 b=43 n=9 l=3 disp= boundary=b\n"
     "  TEXT/PLAIN 7BIT h=47 b=48 n=4 l=1 disp=\n"},
    {"empty parts", "Content-Type: multipart/mixed; boundary=b\n\n--b\n--b\n\n--b--",
     "MULTIPART/MIXED 7BIT h=0 b=43 n=14 l=3 disp= boundary=b\n"
     "  TEXT/PLAIN 7BIT h=47 b=47 n=0 l=0 disp=\n"
     "  TEXT/PLAIN 7BIT h=51 b=52 n=0 l=0 disp=\n"},
    {"outer boundary ends the inner multipart",
     "Content-Type: multipart/mixed; boundary=out\n\n--out\nContent-Type: multipart/alternative; boundary=in\n\n"
     "--in\n\nx\n--out\n\ny\n--out--\n",
     "MULTIPART/MIXED 7BIT h=0 b=45 n=81 l=10 disp= boundary=out\n"
     "  MULTIPART/ALTERNATIVE 7BIT h=51 b=101 n=7 l=2 disp= boundary=in\n"
     "    TEXT/PLAIN 7BIT h=106 b=107 n=1 l=0 disp=\n"
     "  TEXT/PLAIN 7BIT h=115 b=116 n=1 l=0 disp=\n"},
    {"boundary that is a prefix of the inner one",
     "Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/mixed; boundary=ab\n\n"
     "--ab\n\nx\n--ab--\n--a\n\ny\n--a--\n",
     "MULTIPART/MIXED 7BIT h=0 b=43 n=76 l=11 disp= boundary=a\n"
     "  MULTIPART/MIXED 7BIT h=47 b=91 n=14 l=3 disp= boundary=ab\n"
     "    TEXT/PLAIN 7BIT h=96 b=97 n=1 l=0 disp=\n"
     "  TEXT/PLAIN 7BIT h=110 b=111 n=1 l=0 disp=\n"},
    {"message within", "Content-Type: message/rfc822\r\n\r\nSubject: in\r\nFrom: a@b\r\n\r\nbody\r\n",
     "MESSAGE/RFC822 7BIT h=0 b=32 n=32 l=4 disp= envelope date= subject=in id= irt= from:|a|b||0\n"
     "  TEXT/PLAIN 7BIT h=32 b=58 n=6 l=1 disp=\n"},
    {"digest", "Content-Type: multipart/digest; boundary=d\n\n--d\n\nSubject: 1\n\nx\n--d--\n",
     "MULTIPART/DIGEST 7BIT h=0 b=44 n=25 l=6 disp= boundary=d\n"
     "  MESSAGE/RFC822 7BIT h=48 b=49 n=13 l=2 disp= envelope date= subject=1 id= irt=\n"
     "    TEXT/PLAIN 7BIT h=49 b=61 n=1 l=0 disp=\n"},
    {"message with an empty body before a boundary",
     "Content-Type: multipart/digest; boundary=d\n\n--d\n\nSubject: 1\n\n--d--\n",
     "MULTIPART/DIGEST 7BIT h=0 b=44 n=23 l=5 disp= boundary=d\n"
     "  MESSAGE/RFC822 7BIT h=48 b=49 n=12 l=2 disp= envelope date= subject=1 id= irt=\n"
     "    TEXT/PLAIN 7BIT h=49 b=61 n=0 l=0 disp=\n"},
    {"encoded message is a leaf",
     "Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\nU3ViamVjdDogeAo=\n",
     "MESSAGE/RFC822 BASE64 h=0 b=64 n=17 l=1 disp=\n"},
    {"part without header and blank line", "Content-Type: multipart/mixed; boundary=b\n\n--b\nhello\n--b--\n",
     "MULTIPART/MIXED 7BIT h=0 b=43 n=16 l=3 disp= boundary=b\n"
     "  TEXT/PLAIN 7BIT h=47 b=47 n=5 l=0 disp=\n"},
    {"no blank line before the first boundary", "Content-Type: multipart/mixed; boundary=b\n--b\n\nhello\n--b--\n",
     "MULTIPART/MIXED 7BIT h=0 b=42 n=17 l=4 disp= boundary=b\n"
     "  TEXT/PLAIN 7BIT h=46 b=47 n=5 l=0 disp=\n"},
    {"multipart without boundary parameter", "Content-Type: multipart/mixed\n\n--b\n\nhello\n--b--\n",
     "MULTIPART/MIXED 7BIT h=0 b=31 n=17 l=4 disp=\n"},
    {"boundary with padding and text after it",
     "Content-Type: multipart/mixed; boundary=\"b c\"\n\n--b c \t\n\n1\n--b c--  \n",
     "MULTIPART/MIXED 7BIT h=0 b=47 n=21 l=4 disp= boundary=b c\n"
     "  TEXT/PLAIN 7BIT h=55 b=56 n=1 l=0 disp=\n"},
};

static void test_cases(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        expect_dump(str_c(cases[i].message), cases[i].tree);
}

static void test_limits(void **state)
{
    (void)state;
    BUF(text, 4u << 20);
    for (int i = 0; i < 200; i++)
        buf_printf(&text, "Content-Type: multipart/mixed; boundary=b%03d\n\n--b%03d\n", i, i);
    ARENA(a, 512u << 20);
    const struct mime_message *m = mime_parse(&a, buf_str(&text), NULL);
    assert_true(m->limit_hit);
    assert_int_equal(m->n_parts, 65);
    buf_clear(&text);
    buf_add(&text, S("Content-Type: multipart/mixed; boundary=b\n\n"));
    for (int i = 0; i < 9999; i++)
        buf_add(&text, S("--b\n\nx\n"));
    m = mime_parse(&a, buf_str(&text), NULL);
    assert_false(m->limit_hit);
    assert_int_equal(m->n_parts, 10000); /* with the multipart itself */
    assert_int_equal(m->root->n_children, 9999);
    for (int i = 0; i < 5000; i++)
        buf_add(&text, S("--b\n\nx\n"));
    m = mime_parse(&a, buf_str(&text), NULL);
    assert_true(m->limit_hit);
    assert_int_equal(m->n_parts, 10000);
    /* Ten thousand addresses, in one field or each in its own; the next one is cut, and that is said. */
    for (int is_many = 0; is_many < 2; is_many++)
        for (int n = 10000; n <= 10001; n++) {
            buf_clear(&text);
            buf_add(&text, S("Cc: "));
            for (int i = 0; i < n; i++)
                buf_printf(&text, "%sa%d@b.example", i == 0 ? "" : is_many ? "\nCc: " : ",\n ", i);
            buf_add(&text, S("\n\nx\n"));
            m = mime_parse(&a, buf_str(&text), NULL);
            assert_int_equal(m->envelope.cc.n, 10000);
            assert_int_equal(m->limit_hit, n > 10000);
        }
    buf_clear(&text);
    buf_add(&text, S("Subject: "));
    for (int i = 0; i < 300 * 1024; i++)
        buf_addc(&text, 'x');
    m = mime_parse(&a, buf_str(&text), NULL);
    assert_true(m->limit_hit);
    assert_int_equal(m->root->body_offset, text.n);
    assert_int_equal(m->root->body_size, 0);
    assert_int_equal(m->envelope.subject.n, 4 * 4096);
}

/* A header of any length ends at its blank line, wherever the limit and the pieces cut it. */
static void test_long_header(void **state)
{
    (void)state;
    static const char *const messages[] = {"A: 1\r\nB: 2\r\n\r\nbody\r\n", "A: 1\nB: 2\n\nbody\n"};
    for (size_t i = 0; i < ARRAY_LEN(messages); i++) {
        str text = str_c(messages[i]);
        size_t body = (size_t)str_find_str(text, S("body"));
        for (size_t limit = 1; limit < text.n; limit++) {
            for (size_t cut = 0; cut <= text.n; cut++) {
                ARENA(a, 1u << 20);
                struct mime_limits limits = {.root_header = limit};
                CLEANUP(mime_free) struct mime_parser *p = mime_new(&a, &limits);
                mime_feed(p, str_slice(text, 0, cut));
                mime_feed(p, str_slice(text, cut, text.n));
                const struct mime_message *m = mime_finish(p);
                assert_int_equal(m->root->body_offset, body);
                assert_int_equal(m->root->body_size, text.n - body);
                assert_int_equal(m->root->body_lines, 1);
                assert_int_equal(m->header.n, MIN(limit, body));
            }
        }
    }
}

static void test_thread_and_preview(void **state)
{
    (void)state;
    ARENA(a, 1u << 20);
    const struct mime_message *m = mime_parse(
        &a,
        S("Message-ID: <x@y>\r\nReferences: <1@a>\r\n <2@b> <1@a>\r\nIn-Reply-To: <2@b> <3@c>\r\n"
          "Date: Sun, 21 Nov 2026 20:10:00 +0100\r\nContent-Type: multipart/alternative; boundary=b\r\n\r\n"
          "--b\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
          "  Gr=FC=\r\n=DFe\r\n\r\naus  Wien\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>no</p>\r\n--b--\r\n"),
        NULL);
    assert_int_equal(m->n_references, 3);
    assert_true(str_eq(m->references[2], S("3@c")));
    assert_true(str_eq(m->message_id, S("x@y")));
    assert_int_equal(m->sent_unix, 1795288200);
    assert_true(str_eq(m->preview, S("Gr\xc3\xbc\xc3\x9f"
                                     "e aus Wien")));
    assert_false(m->has_attachment);
    m = mime_parse(&a,
                   S("Content-Type: text/html; charset=utf-8\n\n<html><head><title>t</title><style>p{}</style></head>"
                     "<body><p>One &amp; <b>tw</b>o</p><br>thr&#101;e<!-- no -->"),
                   NULL);
    assert_true(str_eq(m->preview, S("One & two three")));
}

static void test_part_numbers(void **state)
{
    (void)state;
    ARENA(a, 1u << 20);
    const struct mime_message *m =
        mime_parse(&a,
                   S("Content-Type: multipart/mixed; boundary=o\n\n--o\n\n1\n--o\nContent-Type: message/rfc822\n\n"
                     "Content-Type: multipart/mixed; boundary=i\n\n--i\n\n21\n--i\n\n22\n--i--\n--o\n"
                     "Content-Type: message/rfc822\n\nSubject: x\n\n31\n--o--\n"),
                   NULL);
    const struct mime_part *p1 = m->root->children, *p2 = p1->next, *p3 = p2->next;
    const struct {
        uint32_t path[4];
        size_t n;
        const struct mime_part *part;
    } numbers[] = {
        {{0}, 0, m->root},
        {{1}, 1, p1},
        {{2}, 1, p2},
        {{2, 1}, 2, p2->children->children},
        {{2, 2}, 2, p2->children->children->next},
        {{2, 3}, 2, NULL},
        {{3}, 1, p3},
        {{3, 1}, 2, p3->children},
        {{3, 2}, 2, NULL},
        {{3, 1, 1}, 3, NULL},
        {{1, 1}, 2, NULL},
        {{4}, 1, NULL},
        {{0}, 1, NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        assert_ptr_equal(mime_part_by_number(m, numbers[i].path, numbers[i].n), numbers[i].part);
    m = mime_parse(&a, S("Subject: x\n\nbody"), NULL);
    const uint32_t one[] = {1, 1};
    assert_ptr_equal(mime_part_by_number(m, one, 1), m->root);
    assert_null(mime_part_by_number(m, one, 2));
}

static void split_file(const char *path, str content, void *arg)
{
    (void)arg;
    BUF(whole, 64u << 20);
    dump_pieces(&whole, content, SIZE_MAX / 2, 0);
    static const size_t pieces[] = {1, 3, 60, 4000};
    for (size_t i = content.n > 20000; i < ARRAY_LEN(pieces); i++) {
        BUF(cut, 64u << 20);
        dump_pieces(&cut, content, pieces[i], 0);
        if (!str_eq(buf_str(&cut), buf_str(&whole)))
            fail_msg("%s: the tree depends on the pieces", path);
    }
}

static void test_corpus_splits(void **state)
{
    (void)state;
    static const char *const folders[] = {"mailcorpus/easy-ham-1", "mailcorpus/hard-ham-1",
                                          "mailcorpus/spam-1",     "mime/ruby-mail",
                                          "mime/mime4j/testmsgs",  "mime/mime4j/mimetools-testmsgs"};
    random_seed(7);
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        char path[4096];
        if (shared_data(folders[i], path))
            printf("# %s: %u messages\n", folders[i], each_file(path, "", split_file, NULL));
    }
    random_seed(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_long_header),  cmocka_unit_test(test_thread_and_preview),
        cmocka_unit_test(test_part_numbers), cmocka_unit_test(test_corpus_splits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
