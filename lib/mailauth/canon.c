#include "mailauth/canon.h"

#include <openssl/evp.h>

#define GATHER 4096u /* what goes to the hash function at a time, where bytes change */

void canon_header(enum canon form, str raw, struct buf *out)
{
    if (form == CANON_SIMPLE) {
        buf_add(out, raw);
        return;
    }
    ptrdiff_t colon = str_find(raw, ':');
    str name = str_slice(raw, 0, colon < 0 ? 0 : (size_t)colon), value = str_slice(raw, (size_t)(colon + 1), SIZE_MAX);
    while (name.n && (name.p[name.n - 1] == ' ' || name.p[name.n - 1] == '\t'))
        name.n--;
    for (size_t i = 0; i < name.n; i++)
        buf_addc(out, (char)ascii_lower((unsigned char)name.p[i]));
    buf_addc(out, ':');
    bool is_first = true, has_space = false;
    for (size_t i = 0; i < value.n; i++) {
        char c = value.p[i];
        if (c == '\r' || c == '\n') /* unfolded; the space that follows counts */
            continue;
        if (c == ' ' || c == '\t') {
            has_space = !is_first;
            continue;
        }
        if (has_space)
            buf_addc(out, ' ');
        buf_addc(out, c);
        has_space = is_first = false;
    }
    buf_add(out, S("\r\n"));
}

/* --- bodies --- */

struct body_hash {
    enum canon form;
    uint64_t wanted; /* length that is hashed at most */
    uint64_t length; /* of the canonical body so far */
    EVP_MD_CTX *md;
    unsigned char value[BODY_HASH_SIZE];
    /* What has been seen and waits for what follows. */
    uint64_t n_lines; /* line ends: empty lines at the end do not count */
    bool has_cr, has_space;
    size_t n_gathered;
    char gathered[GATHER];
};

static const EVP_MD *sha256(void)
{
    static EVP_MD *md; /* fetched once: a look-up for each message costs more than hashing it */
    if (!md && !(md = EVP_MD_fetch(NULL, "SHA256", NULL)))
        panic("no SHA-256");
    return md;
}

int body_hashes_want(struct body_hashes *b, enum canon form, uint64_t length)
{
    for (size_t i = 0; i < b->n; i++)
        if (b->v[i]->form == form && b->v[i]->wanted == length)
            return (int)i;
    if (b->n == BODY_HASHES_MAX)
        return -1;
    struct body_hash *h = xnew(struct body_hash);
    h->form = form;
    h->wanted = length;
    h->md = EVP_MD_CTX_new();
    if (!h->md || EVP_DigestInit_ex(h->md, sha256(), NULL) != 1)
        panic("no SHA-256");
    b->v[b->n] = h;
    return (int)b->n++;
}

static void update(struct body_hash *h, const char *p, size_t n)
{
    uint64_t left = h->wanted - MIN(h->length, h->wanted);
    h->length += n;
    n = MIN(n, left);
    if (n && EVP_DigestUpdate(h->md, p, n) != 1)
        panic("SHA-256 failed");
}

static void flush(struct body_hash *h)
{
    update(h, h->gathered, h->n_gathered);
    h->n_gathered = 0;
}

static void put(struct body_hash *h, const char *p, size_t n)
{
    if (n > GATHER - h->n_gathered)
        flush(h);
    if (n > GATHER) {
        update(h, p, n);
        return;
    }
    memcpy(h->gathered + h->n_gathered, p, n);
    h->n_gathered += n;
}

/* Text follows: the line ends and the space before it count. */
static void settle(struct body_hash *h)
{
    for (; h->n_lines; h->n_lines--)
        put(h, "\r\n", 2);
    if (h->has_space)
        put(h, " ", 1);
    h->has_space = false;
}

static void end_line(struct body_hash *h)
{
    h->n_lines++;
    h->has_cr = h->has_space = false;
}

/* A CR that ends no line is a byte like others. */
static void lone_cr(struct body_hash *h)
{
    settle(h);
    put(h, "\r", 1);
    h->has_cr = false;
}

static void feed(struct body_hash *h, str s)
{
    const char *p = s.p, *end = s.p + s.n;
    while (p < end) {
        if (*p == '\n') { /* SMTP lets none through without its CR; from elsewhere it ends a line, too */
            end_line(h);
            p++;
            continue;
        }
        if (h->has_cr)
            lone_cr(h);
        if (*p == '\r') {
            h->has_cr = true;
            p++;
            continue;
        }
        if (h->form == CANON_RELAXED && (*p == ' ' || *p == '\t')) {
            h->has_space = true;
            p++;
            continue;
        }
        const char *from = p;
        if (h->form == CANON_SIMPLE)
            while (p < end && *p != '\r' && *p != '\n')
                p++;
        else
            while (p < end && *p != '\r' && *p != '\n' && *p != ' ' && *p != '\t')
                p++;
        settle(h);
        put(h, from, (size_t)(p - from));
    }
}

void body_hashes_feed(struct body_hashes *b, str piece)
{
    assert(!b->is_ended);
    for (size_t i = 0; i < b->n; i++)
        feed(b->v[i], piece);
}

void body_hashes_end(struct body_hashes *b)
{
    assert(!b->is_ended);
    b->is_ended = true;
    for (size_t i = 0; i < b->n; i++) {
        struct body_hash *h = b->v[i];
        if (h->has_cr)
            lone_cr(h);
        flush(h);
        /* One line end closes the last line that has something. The simple form of an empty body is one, too (3.4.3);
         * relaxed is nothing. */
        if (h->length || h->form == CANON_SIMPLE)
            update(h, "\r\n", 2);
        if (EVP_DigestFinal_ex(h->md, h->value, NULL) != 1)
            panic("SHA-256 failed");
    }
}

const unsigned char *body_hash_value(const struct body_hashes *b, int at, uint64_t *length)
{
    assert(b->is_ended && at >= 0 && (size_t)at < b->n);
    *length = b->v[at]->length;
    return b->v[at]->value;
}

void body_hashes_done(struct body_hashes *b)
{
    for (size_t i = 0; i < b->n; i++) {
        EVP_MD_CTX_free(b->v[i]->md);
        free(b->v[i]);
    }
    *b = (struct body_hashes){0};
}
