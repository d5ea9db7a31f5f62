#include "mailauth/dkim.h"

#include "base/buf.h"

/* SIGNED_FIELDS_MAX names at 22 bytes, folded, and what is bounded by itself */
#define FIELD_MAX 32768u
#define LINE_MAX_ 76u

/* --- verifying --- */

void dkim_begin(struct dkim_message *m, str header, struct body_hashes *bodies, struct arena *a)
{
    struct header_iter it = header_iter_of(header);
    struct header_field f;
    *m = (struct dkim_message){.header = header};
    while (header_next(&it, &f)) {
        if (!str_eq_nocase(f.name, S("DKIM-Signature")))
            continue;
        if (m->n == DKIM_SIGNATURES_MAX) {
            m->is_cut = true;
            return;
        }
        struct dkim_verdict *v = &m->v[m->n++];
        if (!signature_parse(&f, false, a, &v->sig, &v->problem)) {
            v->result = DKIM_PERMERROR;
            continue;
        }
        v->sig.body_at = body_hashes_want(bodies, v->sig.body_form, v->sig.length);
        if (v->sig.body_at < 0) {
            v->result = DKIM_POLICY;
            v->problem = "the message has too many kinds of signatures";
        }
    }
}

FIBER void dkim_check(struct dkim_message *m, size_t i, const struct body_hashes *bodies, struct auth_dns *dns,
                      int64_t now_unix, struct arena *a)
{
    struct dkim_verdict *v = &m->v[i];
    unsigned char digest[DKIM_DIGEST_SIZE];
    uint64_t length;
    if (v->result != DKIM_NONE)
        return;
    const unsigned char *body = body_hash_value(bodies, v->sig.body_at, &length);
    v->is_partial = v->sig.length < length;
    if (memcmp(body, v->sig.body_hash.p, BODY_HASH_SIZE) != 0 ||
        (v->sig.length != CANON_NO_LENGTH && v->sig.length > length)) {
        v->result = DKIM_FAIL;
        v->problem = "the body was changed";
        return;
    }
    signature_digest(&v->sig, m->header, digest);
    v->result = signature_check(dns, &v->sig, digest, a, &v->problem, &v->is_testing);
    if (v->result != DKIM_PASS)
        return;
    if (v->sig.expires_unix >= 0 && now_unix > v->sig.expires_unix) {
        v->result = DKIM_POLICY;
        v->problem = "the signature has expired";
    } else if (v->is_partial) {
        v->result = DKIM_POLICY;
        v->problem = "the end of the body is not signed (l=)";
    }
}

/* --- signing --- */

/* RFC 6376 5.4.1, with what mail programs and RFC 8058 need. The first ones are signed once more than they are there.
 */
const char *const dkim_signed_fields[] = {"from",
                                          "to",
                                          "cc",
                                          "subject",
                                          "date",
                                          "message-id",
                                          "reply-to",
                                          "sender",
                                          "mime-version",
                                          "content-type",
                                          "content-transfer-encoding",
                                          "in-reply-to",
                                          "references", /* oversigned up to here */
                                          "list-id",
                                          "list-help",
                                          "list-unsubscribe",
                                          "list-unsubscribe-post",
                                          "list-subscribe",
                                          "list-post",
                                          "list-owner",
                                          "list-archive",
                                          "autocrypt",
                                          "content-id",
                                          "content-description",
                                          "resent-date",
                                          "resent-from",
                                          "resent-to",
                                          "resent-cc",
                                          "resent-message-id",
                                          "resent-sender",
                                          "feedback-id",
                                          "auto-submitted",
                                          NULL};
#define N_OVERSIGNED 13u

static size_t count_fields(str header, str name)
{
    struct header_iter it = header_iter_of(header);
    struct header_field f;
    size_t n = 0;
    while (header_next(&it, &f))
        n += str_eq_nocase(f.name, name);
    return n;
}

/* A list of tags, folded between words. */
struct folded {
    struct buf *out;
    size_t column;
};

static void fold_add(struct folded *f, str word)
{
    if (f->column + word.n > LINE_MAX_) {
        buf_add(f->out, S("\r\n\t"));
        f->column = 8;
        word = word.n && word.p[0] == ' ' ? str_slice(word, 1, SIZE_MAX) : word;
    }
    buf_add(f->out, word);
    f->column += word.n;
}

static void fold_long(struct folded *f, str text) /* base64: may be cut anywhere */
{
    while (text.n) {
        size_t room = f->column < LINE_MAX_ ? LINE_MAX_ - f->column : 0, n = MIN(text.n, room);
        if (n == 0) {
            buf_add(f->out, S("\r\n\t"));
            f->column = 8;
            continue;
        }
        buf_add(f->out, str_slice(text, 0, n));
        f->column += n;
        text = str_slice(text, n, SIZE_MAX);
    }
}

/* No more names than a verifier of ours looks at, which is also what keeps the field below FIELD_MAX. */
static void add_names(struct folded *out, str header, struct buf *scratch)
{
    size_t left = SIGNED_FIELDS_MAX;
    for (size_t i = 0; dkim_signed_fields[i]; i++) {
        size_t n = MIN(MIN(count_fields(header, str_c(dkim_signed_fields[i])), 50u) + (i < N_OVERSIGNED), left);
        for (size_t k = 0; k < n; k++) {
            buf_clear(scratch);
            buf_printf(scratch, "%s%s", left == SIGNED_FIELDS_MAX ? "" : ":", dkim_signed_fields[i]);
            fold_add(out, buf_str(scratch));
            left--;
        }
    }
}

str dkim_prepare_field(const struct dkim_signing *how, str beginning, str header,
                       const unsigned char body_hash[BODY_HASH_SIZE], struct arena *a,
                       unsigned char digest[DKIM_DIGEST_SIZE])
{
    static const char *const forms[] = {"simple", "relaxed"};
    BUF(field, FIELD_MAX);
    BUF(word, 1024);
    struct folded out = {.out = &field};
    bool is_arc = str_starts(beginning, S("ARC-"));
    fold_add(&out, beginning);
#define WORD(...) (buf_clear(&word), buf_printf(&word, __VA_ARGS__), fold_add(&out, buf_str(&word)))
    WORD(" a=%s;", dkim_algorithm_name(how->algorithm));
    WORD(" c=%s/%s;", forms[how->header_form], forms[how->body_form]);
    WORD(" d=%.*s;", STR_ARG(how->domain));
    WORD(" s=%.*s;", STR_ARG(how->selector));
    if (how->auid.n && !is_arc)
        WORD(" i=%.*s;", STR_ARG(how->auid));
    WORD(" t=%lld;", (long long)how->now_unix);
    if (how->lifetime_s)
        WORD(" x=%lld;", (long long)(how->now_unix + how->lifetime_s));
    WORD(" h=");
    add_names(&out, header, &word);
    WORD(";");
    WORD(" bh=");
    buf_clear(&word);
    buf_add_base64(&word, str_n(body_hash, BODY_HASH_SIZE));
    fold_long(&out, buf_str(&word));
    WORD(";");
    WORD(" b=");
#undef WORD
    buf_add(&field, S("\r\n"));
    str text = arena_str(a, buf_str(&field));
    struct header_iter it = header_iter_of(text);
    struct signature s = {.header_form = how->header_form};
    if (!header_next(&it, &s.field))
        panic("our own signature is no field");
    ptrdiff_t h = str_find_str(text, S("h=")), end = h >= 0 ? str_find(str_slice(text, (size_t)h, SIZE_MAX), ';') : -1;
    assert(end > 0);
    s.names = str_slice(text, (size_t)h + 2, (size_t)h + (size_t)end);
    s.field.offset = SIZE_MAX; /* it is none of the header's */
    signature_digest(&s, header, digest);
    return text;
}

str dkim_prepare(const struct dkim_signing *how, str header, const unsigned char body_hash[BODY_HASH_SIZE],
                 struct arena *a, unsigned char digest[DKIM_DIGEST_SIZE])
{
    return dkim_prepare_field(how, S("DKIM-Signature: v=1;"), header, body_hash, a, digest);
}

str dkim_finish(str prepared, str signature, struct arena *a)
{
    BUF(field, FIELD_MAX);
    BUF(b64, FIELD_MAX);
    struct folded out = {.out = &field};
    str head = str_slice(prepared, 0, prepared.n - 2); /* without its line end */
    ptrdiff_t nl = str_rfind(head, '\n');
    buf_add(&field, head);
    out.column = nl < 0 ? head.n : head.n - (size_t)nl - 1 + 7;
    buf_add_base64(&b64, signature);
    fold_long(&out, buf_str(&b64));
    buf_add(&field, S("\r\n"));
    return arena_str(a, buf_str(&field));
}
