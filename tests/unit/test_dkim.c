/* DKIM and ARC: our own signatures, the vectors of others where THURN_SHARED_DATA (or ../shared/data) has them, and
 * mistakes that others made. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "auth_zone.h"
#include "base/clock.h"
#include "mail_util.h"
#include "mailauth/arc.h"

#define NOW 1700000000

static struct auth_zone zone;
static struct dkim_private_key *rsa, *ed;
#define MESSAGE str_c(message)
#define TEXT str_c(text)
static const char message[] =
    "From: Alice <alice@example.org>\r\nTo: bob@example.net\r\nSubject: one\r\n  two\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n"
    "Message-ID: <1@example.org>\r\nReferences: <0@example.org>\r\n\r\n";
static const char text[] = "Hello  there \r\n\r\n two\t words\r\n\r\n\r\n";

struct result {
    struct dkim_message m;
    struct arc_chain arc;
    struct body_hashes bodies;
};

/* All that a receiver does; the body in pieces of `step` bytes. */
static void verify(str header, str body, size_t step, int64_t now, struct arena *a, struct result *r)
{
    *r = (struct result){0};
    dkim_begin(&r->m, header, &r->bodies, a);
    arc_begin(&r->arc, header, &r->bodies, a);
    for (size_t at = 0; at < body.n; at += step)
        body_hashes_feed(&r->bodies, str_slice(body, at, at + step));
    body_hashes_end(&r->bodies);
    for (size_t i = 0; i < r->m.n; i++)
        dkim_check(&r->m, i, &r->bodies, &zone.dns, now, a);
    arc_check(&r->arc, &r->bodies, &zone.dns, a);
    body_hashes_done(&r->bodies);
}

static enum dkim_result result_of(str header, str body, int64_t now)
{
    ARENA(a, 4 << 20);
    struct result r;
    verify(header, body, 7, now, &a, &r);
    return r.m.n ? r.m.v[0].result : DKIM_NONE;
}

static void hash_body(str body, enum canon form, unsigned char out[BODY_HASH_SIZE])
{
    struct body_hashes b = {0};
    uint64_t length;
    assert_int_equal(body_hashes_want(&b, form, CANON_NO_LENGTH), 0);
    body_hashes_feed(&b, body);
    body_hashes_end(&b);
    memcpy(out, body_hash_value(&b, 0, &length), BODY_HASH_SIZE);
    body_hashes_done(&b);
}

static str sign(const struct dkim_private_key *k, struct dkim_signing how, str header, str body, struct arena *a)
{
    unsigned char hash[BODY_HASH_SIZE], digest[DKIM_DIGEST_SIZE];
    struct err err = ERR_INIT;
    str signature;
    how.algorithm = dkim_private_key_algorithm(k);
    hash_body(body, how.body_form, hash);
    str field = dkim_prepare(&how, header, hash, a, digest);
    assert_true(dkim_private_key_sign(k, digest, a, &signature, &err));
    field = dkim_finish(field, signature, a);
    for (str rest = field, line; str_split(&rest, '\n', &line);)
        assert_true(line.n <= 79);
    return field;
}

static str joined(struct arena *a, str x, str y)
{
    return arena_printf(a, "%.*s%.*s", STR_ARG(x), STR_ARG(y));
}

static str replaced(struct arena *a, str s, str from, str to)
{
    ptrdiff_t at = str_find_str(s, from);
    assert_true(at >= 0);
    return arena_printf(a, "%.*s%.*s%.*s", (int)at, s.p, STR_ARG(to),
                        STR_ARG(str_slice(s, (size_t)at + from.n, SIZE_MAX)));
}

static int set_up(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    static struct arena a;
    arena_init(&a, 1 << 20);
    rsa = dkim_private_key_make(DKIM_RSA_SHA256, 2048, &err);
    ed = dkim_private_key_make(DKIM_ED25519_SHA256, 0, &err);
    assert_true(rsa && ed);
    zone_init(&zone);
    zone_add_str(&zone, "r._domainkey.example.org", "TXT", dkim_private_key_record(rsa, &a));
    zone_add_str(&zone, "e._domainkey.example.org", "TXT", dkim_private_key_record(ed, &a));
    zone_add_str(&zone, "e._domainkey.relay.example", "TXT", dkim_private_key_record(ed, &a));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    dkim_private_key_free(rsa);
    dkim_private_key_free(ed);
    return 0;
}

static const struct dkim_signing plain = {.header_form = CANON_RELAXED,
                                          .body_form = CANON_RELAXED,
                                          .domain = S_INIT("example.org"),
                                          .selector = S_INIT("r"),
                                          .now_unix = NOW};

static void test_round_trip(void **state)
{
    (void)state;
    static const str bodies[] = {S_INIT(""),
                                 S_INIT("\r\n"),
                                 S_INIT("\r\n\r\n\r\n"),
                                 S_INIT("x"),
                                 S_INIT("x\r\n"),
                                 S_INIT(" \t \r\n\r\n"),
                                 S_INIT("a \r\n b\r"),
                                 S_INIT("a\r\r\n\xc3\xbc  \r\n"),
                                 S_INIT("Hello  there \r\n\r\n two\t words\r\n\r\n\r\n")};
    for (int forms = 0; forms < 4; forms++) {
        for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
            for (size_t step = 1; step < 5; step++) {
                ARENA(a, 4 << 20);
                struct result r;
                struct dkim_signing how = plain;
                how.header_form = forms & 1;
                how.body_form = (enum canon)(forms >> 1);
                how.auid = S("alice@sub.example.org");
                how.lifetime_s = 100;
                str header = joined(&a, sign(rsa, how, MESSAGE, bodies[i], &a), MESSAGE);
                how.selector = S("e");
                header = joined(&a, sign(ed, how, MESSAGE, bodies[i], &a), header);
                verify(header, bodies[i], step, NOW + 50, &a, &r);
                assert_int_equal(r.m.n, 2);
                for (int k = 0; k < 2; k++)
                    if (r.m.v[k].result != DKIM_PASS)
                        fail_msg("body %zu, forms %d, key %d: %s: %s", i, forms, k, dkim_result_name(r.m.v[k].result),
                                 r.m.v[k].problem);
                assert_int_equal(r.arc.status, ARC_NONE);
            }
        }
    }
}

/* What a message may suffer on its way under the relaxed form, and what it may not; under the simple one nothing. */
static void test_changes(void **state)
{
    (void)state;
    ARENA(a, 4 << 20);
    struct dkim_signing how = plain;
    str relaxed = joined(&a, sign(rsa, how, MESSAGE, TEXT, &a), MESSAGE);
    how.header_form = how.body_form = CANON_SIMPLE;
    str simple = joined(&a, sign(rsa, how, MESSAGE, TEXT, &a), MESSAGE);
    static const struct {
        str from, to;
        enum dkim_result relaxed, simple;
    } of_header[] = {
        {S_INIT("Subject: one\r\n  two"), S_INIT("SUBJECT :\tone two "), DKIM_PASS, DKIM_FAIL},
        {S_INIT("Subject: one\r\n  two"), S_INIT("Subject: one\r\n  three"), DKIM_FAIL, DKIM_FAIL},
        {S_INIT("Subject:"), S_INIT("X-New: 1\r\nSubject:"), DKIM_PASS, DKIM_PASS},
        /* oversigned */
        {S_INIT("From: Alice"), S_INIT("From: Mallory <m@evil.example>\r\nFrom: Alice"), DKIM_FAIL, DKIM_FAIL},
        {S_INIT("Subject: one"), S_INIT("Subject: zero\r\nSubject: one"), DKIM_FAIL, DKIM_FAIL},
        {S_INIT("To: bob@example.net\r\n"), S_INIT(""), DKIM_FAIL, DKIM_FAIL},
        {S_INIT("To: bob"), S_INIT("Cc: eve@example.com\r\nTo: bob"), DKIM_FAIL, DKIM_FAIL}, /* signed as absent */
    };
    for (size_t i = 0; i < ARRAY_LEN(of_header); i++) {
        assert_int_equal(result_of(replaced(&a, relaxed, of_header[i].from, of_header[i].to), TEXT, NOW),
                         of_header[i].relaxed);
        assert_int_equal(result_of(replaced(&a, simple, of_header[i].from, of_header[i].to), TEXT, NOW),
                         of_header[i].simple);
    }
    static const struct {
        str body;
        enum dkim_result relaxed, simple;
    } of_body[] = {
        {S_INIT("Hello  there \r\n\r\n two\t words\r\n"), DKIM_PASS, DKIM_PASS},
        {S_INIT("Hello  there \r\n\r\n two\t words"), DKIM_PASS, DKIM_PASS},
        {S_INIT("Hello there\r\n\r\n two words \r\n"), DKIM_PASS, DKIM_FAIL},
        {S_INIT("Hello there\r\n\r\ntwo words\r\n"), DKIM_FAIL, DKIM_FAIL},
        {S_INIT("Hello there\r\n two words\r\n"), DKIM_FAIL, DKIM_FAIL},
        {S_INIT("Hello  there \r\n\r\n two\t words\r\nmore\r\n"), DKIM_FAIL, DKIM_FAIL},
    };
    for (size_t i = 0; i < ARRAY_LEN(of_body); i++) {
        assert_int_equal(result_of(relaxed, of_body[i].body, NOW), of_body[i].relaxed);
        assert_int_equal(result_of(simple, of_body[i].body, NOW), of_body[i].simple);
    }
}

/* Each tag of the field, right and wrong; the signature is made for the field as it stands. */
static void test_tags(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to;
        enum dkim_result want;
    } cases[] = {
        {"v=1;", "v=2;", DKIM_PERMERROR},
        {"v=1;", "", DKIM_PERMERROR},
        {"a=rsa-sha256", "a=rsa-sha1", DKIM_PERMERROR},
        {"a=rsa-sha256", "a=ed25519-sha256", DKIM_PERMERROR},
        {"a=rsa-sha256", "a=RSA-SHA256", DKIM_PASS},
        {"c=relaxed/relaxed", "c=relaxed/other", DKIM_PERMERROR},
        {"d=example.org", "d=example..org", DKIM_PERMERROR},
        {"t=1700000000;", "t=170000000000000;", DKIM_PERMERROR},
        {"t=1700000000;", "t=1700000000; x=1699999999;", DKIM_PERMERROR},
        {"t=1700000000;", "t=1700000000; i=@other.org;", DKIM_PERMERROR},
        {"t=1700000000;", "t=1700000000; i=@notexample.org;", DKIM_PERMERROR},
        {"t=1700000000;", "t=1700000000; i=a@x.example.org;", DKIM_PASS},
        {"t=1700000000;", "t=1700000000; q=dns/txt;", DKIM_PASS},
        {"t=1700000000;", "t=1700000000; q=http;", DKIM_PERMERROR},
        {"t=1700000000;", "t=1700000000; t=1700000000;", DKIM_PERMERROR},
        {"t=1700000000;", "t=1700000000; unknown=1;", DKIM_PASS},
        {"t=1700000000;", "t=1700000000; x=1700000060;", DKIM_POLICY},
        {"t=1700000000;", "t=1700000000; l=4;", DKIM_FAIL},
        {"t=1700000000;", "t=1700000000; l=-1;", DKIM_PERMERROR},
        {"h=from:from:", "h=to:", DKIM_PERMERROR},
        {"t=1700000000;", "=; t=1700000000;", DKIM_PERMERROR},
        {"s=r;", "s=none;", DKIM_PERMERROR},
        {"s=r;", "s=mute;", DKIM_TEMPERROR},
        {"s=r;", "s=e;", DKIM_PERMERROR},
    };
    zone_add(&zone, "mute._domainkey.example.org", "TIMEOUT", "");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        ARENA(a, 4 << 20);
        unsigned char hash[BODY_HASH_SIZE], digest[DKIM_DIGEST_SIZE];
        struct err err = ERR_INIT;
        struct header_field f;
        struct signature s;
        const char *problem;
        str value;
        hash_body(TEXT, CANON_RELAXED, hash);
        str field =
            replaced(&a, dkim_prepare(&plain, MESSAGE, hash, &a, digest), str_c(cases[i].from), str_c(cases[i].to));
        str header = joined(&a, dkim_finish(field, S("x"), &a), MESSAGE);
        assert_true(header_find(header, S("DKIM-Signature"), &f));
        if (signature_parse(&f, false, &a, &s, &problem)) {
            signature_digest(&s, header, digest);
            assert_true(dkim_private_key_sign(rsa, digest, &a, &value, &err));
            header = joined(&a, dkim_finish(field, value, &a), MESSAGE);
        }
        enum dkim_result got = result_of(header, TEXT, NOW + 3600);
        if (got != cases[i].want)
            fail_msg("%s -> %s: %s, not %s", cases[i].from, cases[i].to, dkim_result_name(got),
                     dkim_result_name(cases[i].want));
    }
}

/* A short l= does not pass, and does not spoil the hash of another signature (a cache by form alone did). */
static void test_lengths(void **state)
{
    (void)state;
    ARENA(a, 4 << 20);
    struct result r;
    str whole = joined(&a, sign(rsa, plain, MESSAGE, TEXT, &a), MESSAGE);
    unsigned char hash[BODY_HASH_SIZE], digest[DKIM_DIGEST_SIZE];
    struct err err = ERR_INIT;
    struct signature s;
    struct header_field f;
    const char *problem;
    str value;
    /* "Hello\r\n": its first five bytes are those of the text, but the hash is of seven */
    hash_body(S("Hello"), CANON_RELAXED, hash);
    struct body_hashes b = {0};
    uint64_t length;
    assert_int_equal(body_hashes_want(&b, CANON_RELAXED, 5), 0);
    body_hashes_feed(&b, TEXT);
    body_hashes_end(&b);
    memcpy(hash, body_hash_value(&b, 0, &length), BODY_HASH_SIZE);
    assert_int_equal(length, strlen("Hello there\r\n\r\n two words\r\n"));
    body_hashes_done(&b);
    str field =
        replaced(&a, dkim_prepare(&plain, MESSAGE, hash, &a, digest), S("t=1700000000;"), S("t=1700000000; l=5;"));
    str header = joined(&a, dkim_finish(field, S("x"), &a), whole);
    assert_true(header_find(header, S("DKIM-Signature"), &f));
    assert_true(signature_parse(&f, false, &a, &s, &problem));
    signature_digest(&s, header, digest);
    assert_true(dkim_private_key_sign(rsa, digest, &a, &value, &err));
    header = joined(&a, dkim_finish(field, value, &a), whole);
    verify(header, TEXT, 3, NOW, &a, &r);
    assert_int_equal(r.m.n, 2);
    assert_int_equal(r.m.v[0].result, DKIM_POLICY);
    assert_true(r.m.v[0].is_partial);
    assert_int_equal(r.m.v[1].result, DKIM_PASS);
}

static void test_key_records(void **state)
{
    (void)state;
    ARENA(a, 1 << 20);
    str record = dkim_private_key_record(rsa, &a),
        p = str_slice(record, (size_t)str_find_str(record, S("p=")) + 2, SIZE_MAX);
    static const struct {
        const char *form; /* %s: the key */
        enum dkim_key_status want;
    } cases[] = {
        {"v=DKIM1; k=rsa; p=%s", DKIM_KEY_OK},
        {"p=%s", DKIM_KEY_OK},
        {"p=%s;", DKIM_KEY_OK},
        {" v = DKIM1 ; p = %s ; ", DKIM_KEY_OK},
        {"k=rsa; v=DKIM1; p=%s", DKIM_KEY_BAD},
        {"v=DKIM2; p=%s", DKIM_KEY_BAD},
        {"v=dkim1; p=%s", DKIM_KEY_BAD},
        {"v=DKIM1; p=", DKIM_KEY_REVOKED},
        {"v=DKIM1; p= ;", DKIM_KEY_REVOKED},
        {"v=DKIM1", DKIM_KEY_BAD},
        {"", DKIM_KEY_BAD},
        {"v=DKIM1; k=gost; p=%s", DKIM_KEY_OTHER},
        {"v=DKIM1; s=tlsrpt; p=%s", DKIM_KEY_OTHER},
        {"v=DKIM1; s=tlsrpt:email; p=%s", DKIM_KEY_OK},
        {"v=DKIM1; s=*; p=%s", DKIM_KEY_OK},
        {"v=DKIM1; h=sha1; p=%s", DKIM_KEY_OTHER},
        {"v=DKIM1; h=sha1:sha256; p=%s", DKIM_KEY_OK},
        {"v=DKIM1; p=!%s", DKIM_KEY_BAD},
        {"v=DKIM1; n=a note; x=y; p=%s", DKIM_KEY_OK},
        {"p=%s; p=%s", DKIM_KEY_BAD},
        {"v=spf1 -all", DKIM_KEY_BAD},
        {"v=DKIM1; g=*; p=%s", DKIM_KEY_OK},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct dkim_key_record out;
        BUF(b, 4096);
        for (const char *c = cases[i].form; *c; c++) {
            if (*c == '%')
                buf_add(&b, p), c++;
            else
                buf_addc(&b, *c);
        }
        if (dkim_key_parse(buf_str(&b), &a, &out) != cases[i].want)
            fail_msg("%s", cases[i].form);
    }
    struct dkim_key_record out; /* white space within, as of a record in several strings */
    str spaced = arena_printf(&a, "v=DKIM1; t=y:s; p=%.*s \t %.*s", 20, p.p, STR_ARG(str_slice(p, 20, SIZE_MAX)));
    assert_int_equal(dkim_key_parse(spaced, &a, &out), DKIM_KEY_OK);
    assert_true(out.is_testing && out.is_strict);
    /* A key that is too short is a matter of policy, a revoked one of the record. */
    struct err err = ERR_INIT;
    assert_null(dkim_private_key_load(S("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), &err));
    assert_int_equal(err.kind, ERR_INVALID);
    err_clear(&err);
    assert_null(dkim_private_key_make(DKIM_RSA_SHA256, 768, &err));
    err_clear(&err);
    CLEANUP(dkim_private_key_free) struct dkim_private_key *again =
        dkim_private_key_load(dkim_private_key_pem(ed, &a), &err);
    assert_non_null(again);
    assert_true(str_eq(dkim_private_key_record(again, &a), dkim_private_key_record(ed, &a)));
}

/* --- ARC --- */

/* What a relay does: look at the chain, and add a set. */
static str seal(str header, str body, struct arena *a)
{
    struct result r;
    struct dkim_signing how = {.algorithm = DKIM_ED25519_SHA256,
                               .header_form = CANON_RELAXED,
                               .body_form = CANON_RELAXED,
                               .domain = S("relay.example"),
                               .selector = S("e"),
                               .now_unix = NOW};
    struct arc_sealing s;
    struct err err = ERR_INIT;
    unsigned char hash[BODY_HASH_SIZE], digest[DKIM_DIGEST_SIZE];
    str signature;
    verify(header, body, 5, NOW, a, &r);
    hash_body(body, CANON_RELAXED, hash);
    if (!arc_prepare(&r.arc, &how, header, hash, S("mx.relay.example; spf=pass smtp.mailfrom=example.org"), a, &s,
                     digest))
        return header;
    assert_true(dkim_private_key_sign(ed, digest, a, &signature, &err));
    s.message = dkim_finish(s.message, signature, a);
    arc_prepare_seal(&r.arc, &how, a, &s, digest);
    assert_true(dkim_private_key_sign(ed, digest, a, &signature, &err));
    s.seal = dkim_finish(s.seal, signature, a);
    return joined(a, s.seal, joined(a, s.message, joined(a, s.results, header)));
}

static void test_arc(void **state)
{
    (void)state;
    ARENA(a, 64 << 20);
    struct result r;
    str header = joined(&a, sign(rsa, plain, MESSAGE, TEXT, &a), MESSAGE);
    for (unsigned hops = 1; hops <= 4; hops++) {
        header = seal(header, TEXT, &a);
        verify(header, TEXT, 1000, NOW, &a, &r);
        if (r.arc.status != ARC_PASS)
            fail_msg("%u hops: %s at %u: %s", hops, arc_status_name(r.arc.status), r.arc.failed_at, r.arc.problem);
        assert_int_equal(r.arc.n, hops);
        assert_int_equal(r.m.v[0].result, DKIM_PASS);
    }
    /* A list changes the body and seals: the chain holds, the author's signature does not. */
    str changed = S("Hello there\r\n-- \r\nThe list\r\n"), listed = seal(header, changed, &a);
    verify(listed, changed, 1000, NOW, &a, &r);
    assert_int_equal(r.m.v[0].result, DKIM_FAIL);
    assert_int_equal(r.arc.status, ARC_FAIL); /* the one before it did not fit the changed body, and its seal says so */
    static const struct {
        const char *from, *to;
    } attacks[] = {
        {"ARC-Seal: i=4", "ARC-Seal: i=3"},
        {"ARC-Seal: i=4", "ARC-Seal: i=5"},
        {"ARC-Seal: i=4", "X-Seal: i=4"},
        {"i=2; mx.relay", "i=2; mx.other"},
        {"ARC-Seal: i=2", "ARC-Seal: i=0"},
        {"cv=none", "cv=pass"},
        {"cv=pass", "cv=fail"},
        {"ARC-Seal: i=1", "ARC-Seal: i=51"},
        {"i=1; a=ed", "i=1; h=from; a=ed"},
        {"ARC-Message-Signature: i=4", "ARC-Message-Signature: i=x"},
        {"Subject: one", "Subject: two"},
    };
    for (size_t i = 0; i < ARRAY_LEN(attacks); i++) {
        verify(replaced(&a, header, str_c(attacks[i].from), str_c(attacks[i].to)), TEXT, 1000, NOW, &a, &r);
        if (r.arc.status != ARC_FAIL)
            fail_msg("%s -> %s: %s", attacks[i].from, attacks[i].to, arc_status_name(r.arc.status));
    }
    verify(header, S("Hello\r\n"), 1000, NOW, &a, &r);
    assert_int_equal(r.arc.status, ARC_FAIL);
    /* Nobody adds to a chain that an earlier seal calls broken. */
    str broken = seal(header, S("Other\r\n"), &a);
    assert_true(broken.n > header.n); /* we say that it failed */
    assert_int_equal(seal(broken, S("Other\r\n"), &a).n, broken.n);
    /* A DNS that is away is no failure. */
    zone_add(&zone, "e._domainkey.away.example", "TIMEOUT", "");
    verify(replaced(&a, header, S("d=relay.example"), S("d=away.example")), TEXT, 1000, NOW, &a, &r);
    assert_true(r.arc.status == ARC_TEMP || r.arc.status == ARC_FAIL);
}

/* --- what others made --- */

static bool split_keys(str file, str *rest, struct arena *a)
{
    str line;
    *rest = file;
    while (str_split(rest, '\n', &line)) {
        ptrdiff_t space = str_find(line, ' ');
        line = str_trim(line);
        if (line.n == 0)
            return true;
        if (space < 0)
            return false;
        str value = str_trim(str_slice(line, (size_t)space, SIZE_MAX)),
            name = arena_str(a, str_slice(line, 0, (size_t)space));
        if (str_starts(value, S("~~")))
            zone_add(&zone, name.p, "TIMEOUT", "");
        else
            zone_add_str(&zone, name.p, "TXT", arena_str(a, value));
    }
    return true;
}

static void crlf(str in, struct buf *out)
{
    for (size_t i = 0; i < in.n; i++) {
        if (in.p[i] == '\n' && (i == 0 || in.p[i - 1] != '\r'))
            buf_addc(out, '\r');
        buf_addc(out, in.p[i]);
    }
}

static void verify_text(str whole, struct arena *a, struct result *r)
{
    ptrdiff_t blank = str_find_str(whole, S("\r\n\r\n"));
    assert_true(blank > 0);
    verify(str_slice(whole, 0, (size_t)blank + 2), str_slice(whole, (size_t)blank + 4, SIZE_MAX), 1000, NOW, a, r);
}

static void test_vectors(void **state)
{
    (void)state;
    static const char *const files[] = {"dkim/mail-auth/001.txt", "dkim/mail-auth/002.txt", "dkim/mail-auth/003.txt",
                                        "arc/mail-auth/001.txt"};
    char path[4096];
    if (!shared_data("dkim/mail-auth", path))
        skip();
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        ARENA(a, 16 << 20);
        BUF(file, 1 << 20);
        BUF(wire, 1 << 20);
        struct result r;
        str rest;
        zone_init(&zone);
        assert_non_null(shared_data(files[i], path));
        assert_true(read_file(path, &file));
        assert_true(split_keys(buf_str(&file), &rest, &a));
        crlf(rest, &wire);
        verify_text(buf_str(&wire), &a, &r);
        if (str_starts(str_c(files[i]), S("arc"))) {
            if (r.arc.status != ARC_PASS)
                fail_msg("%s: %s", files[i], r.arc.problem);
            continue;
        }
        assert_true(r.m.n > 0);
        for (size_t k = 0; k < r.m.n; k++)
            if (r.m.v[k].result != DKIM_PASS)
                fail_msg("%s: %zu: %s: %s", files[i], k, dkim_result_name(r.m.v[k].result), r.m.v[k].problem);
    }
}

/* Old messages: those of rsa-sha1 alone must not pass (RFC 8301), whatever the table says of them. */
static void test_corpus(void **state)
{
    (void)state;
    ARENA(a, 16 << 20);
    BUF(table, 1 << 20);
    BUF(keys, 1 << 20);
    char path[4096];
    if (!shared_data("dkim/mail-dkim-expected.tsv", path))
        skip();
    assert_true(read_file(path, &table));
    assert_non_null(shared_data("dkim/mail-dkim-FAKE_DNS.dat", path));
    assert_true(read_file(path, &keys));
    zone_init(&zone);
    str lines = buf_str(&keys), line, rest;
    while (str_split(&lines, '\n', &line))
        if (str_trim(line).n && line.p[0] != '#')
            (void)split_keys(line, &rest, &a);
    lines = buf_str(&table);
    unsigned n = 0;
    while (str_split(&lines, '\n', &line)) {
        str name, want, algorithms = STR_NONE;
        if (line.n == 0 || line.p[0] == '#')
            continue;
        str cells = line;
        assert_true(str_split(&cells, '\t', &name) && str_split(&cells, '\t', &want) &&
                    str_split(&cells, '\t', &algorithms));
        BUF(file, 1 << 20);
        struct result r;
        char sub[256];
        snprintf(sub, sizeof sub, "dkim/mail-dkim-corpus/%.*s", STR_ARG(name));
        assert_non_null(shared_data(sub, path));
        assert_true(read_file(path, &file));
        verify_text(buf_str(&file), &a, &r);
        bool passes = false, is_sha1 = str_find_str(algorithms, S("sha256")) < 0;
        for (size_t k = 0; k < r.m.n; k++)
            passes = passes || r.m.v[k].result == DKIM_PASS;
        if (passes != (str_eq(want, S("pass")) && !is_sha1))
            fail_msg("%.*s: %s", STR_ARG(name), passes ? "passes" : r.m.n ? r.m.v[0].problem : "no signature");
        n++;
    }
    assert_true(n >= 16);
}

/* Each field that we sign, more often than any message has it: the longest signature that a header can ask for is
 * whole. */
static void test_many_fields(void **state)
{
    (void)state;
    ARENA(a, 8 << 20);
    BUF(header, 1 << 20);
    struct dkim_signing how = plain;
    for (size_t i = 0; dkim_signed_fields[i]; i++)
        for (int k = 0; k < 60; k++)
            buf_printf(&header, "%s: %d\r\n", dkim_signed_fields[i], k);
    buf_add(&header, S("\r\n"));
    how.algorithm = DKIM_RSA_SHA256;
    str field = sign(rsa, how, buf_str(&header), TEXT, &a);
    assert_true(field.n > 10000 && field.n < 16384 && str_ends(field, S("\r\n")));
    assert_int_equal(result_of(arena_printf(&a, "%.*s%.*s", STR_ARG(field), STR_ARG(buf_str(&header))), TEXT, NOW),
                     DKIM_PASS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),  cmocka_unit_test(test_changes),     cmocka_unit_test(test_tags),
        cmocka_unit_test(test_lengths),     cmocka_unit_test(test_key_records), cmocka_unit_test(test_arc),
        cmocka_unit_test(test_many_fields), cmocka_unit_test(test_vectors),     cmocka_unit_test(test_corpus)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
