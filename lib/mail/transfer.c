#include "mail/transfer.h"

#define LINE_MAX_OUT 76u

static const unsigned char sextet_of[256] = {
    ['A'] = 1,  ['B'] = 2,  ['C'] = 3,  ['D'] = 4,  ['E'] = 5,  ['F'] = 6,  ['G'] = 7,  ['H'] = 8,
    ['I'] = 9,  ['J'] = 10, ['K'] = 11, ['L'] = 12, ['M'] = 13, ['N'] = 14, ['O'] = 15, ['P'] = 16,
    ['Q'] = 17, ['R'] = 18, ['S'] = 19, ['T'] = 20, ['U'] = 21, ['V'] = 22, ['W'] = 23, ['X'] = 24,
    ['Y'] = 25, ['Z'] = 26, ['a'] = 27, ['b'] = 28, ['c'] = 29, ['d'] = 30, ['e'] = 31, ['f'] = 32,
    ['g'] = 33, ['h'] = 34, ['i'] = 35, ['j'] = 36, ['k'] = 37, ['l'] = 38, ['m'] = 39, ['n'] = 40,
    ['o'] = 41, ['p'] = 42, ['q'] = 43, ['r'] = 44, ['s'] = 45, ['t'] = 46, ['u'] = 47, ['v'] = 48,
    ['w'] = 49, ['x'] = 50, ['y'] = 51, ['z'] = 52, ['0'] = 53, ['1'] = 54, ['2'] = 55, ['3'] = 56,
    ['4'] = 57, ['5'] = 58, ['6'] = 59, ['7'] = 60, ['8'] = 61, ['9'] = 62, ['+'] = 63, ['/'] = 64,
};

enum transfer_kind transfer_kind_of(str encoding)
{
    encoding = str_trim(encoding);
    if (str_eq_nocase(encoding, S("base64")))
        return TRANSFER_BASE64;
    if (str_eq_nocase(encoding, S("quoted-printable")))
        return TRANSFER_QP;
    if (str_eq_nocase(encoding, S("x-uuencode")) || str_eq_nocase(encoding, S("uuencode")) ||
        str_eq_nocase(encoding, S("x-uue")) || str_eq_nocase(encoding, S("uue")))
        return TRANSFER_UU;
    return TRANSFER_IDENTITY;
}

void transfer_init(struct transfer *t, enum transfer_kind kind)
{
    t->kind = kind;
    t->bits = 0;
    t->n_bits = t->n_held = 0;
    t->is_ended = t->in_uu = false;
}

/* Write what 2 or 3 sextets hold at the end of a base64 stream. */
static void base64_flush(struct transfer *t, struct buf *out)
{
    if (t->n_bits >= 2)
        buf_addc(out, (char)(t->bits >> (t->n_bits * 6 - 8)));
    if (t->n_bits == 3)
        buf_addc(out, (char)(t->bits >> 2));
    t->bits = 0;
    t->n_bits = 0;
}

static void base64_feed(struct transfer *t, str bytes, struct buf *out)
{
    if (t->is_ended)
        return;
    char chunk[768];
    size_t n = 0;
    for (size_t i = 0; i < bytes.n; i++) {
        unsigned char c = (unsigned char)bytes.p[i];
        int sextet = sextet_of[c];
        if (sextet) {
            t->bits = t->bits << 6 | (uint32_t)(sextet - 1);
            if (++t->n_bits == 4) {
                chunk[n++] = (char)(t->bits >> 16);
                chunk[n++] = (char)(t->bits >> 8);
                chunk[n++] = (char)t->bits;
                t->bits = 0;
                t->n_bits = 0;
                if (n == sizeof(chunk)) {
                    buf_add_n(out, chunk, n);
                    n = 0;
                }
            }
        } else if (c == '=' && t->n_bits >= 2) {
            t->is_ended = true;
            break;
        }
    }
    buf_add_n(out, chunk, n);
    if (t->is_ended)
        base64_flush(t, out);
}

static bool is_blank(unsigned char c)
{
    return c == ' ' || c == '\t';
}

/* One byte while something is held: "=", "=X", "=" with blanks, "=" … CR, or a run of blanks. */
static void qp_held(struct transfer *t, unsigned char c, struct buf *out);

static void qp_byte(struct transfer *t, unsigned char c, struct buf *out)
{
    if (t->n_held)
        qp_held(t, c, out);
    else if (c == '=' || is_blank(c))
        t->held[t->n_held++] = (char)c;
    else
        buf_addc(out, (char)c);
}

static void qp_release(struct transfer *t, struct buf *out)
{
    buf_add_n(out, t->held, t->n_held);
    t->n_held = 0;
}

static void qp_held_blanks(struct transfer *t, unsigned char c, struct buf *out)
{
    if (is_blank(c) && t->n_held < sizeof(t->held)) {
        t->held[t->n_held++] = (char)c;
        return;
    }
    if (c == '\r' || c == '\n')
        t->n_held = 0; /* RFC 2045 6.7 (3): white space at the end of a line was added on the way */
    else
        qp_release(t, out);
    qp_byte(t, c, out);
}

static void qp_held(struct transfer *t, unsigned char c, struct buf *out)
{
    if (t->held[0] != '=') {
        qp_held_blanks(t, c, out);
        return;
    }
    unsigned char last = (unsigned char)t->held[t->n_held - 1];
    if (last == '\r') { /* "=" … CR: a soft break, whatever follows */
        t->n_held = 0;
        if (c != '\n')
            qp_byte(t, c, out);
        return;
    }
    if (c == '\n' && (t->n_held == 1 || is_blank(last))) {
        t->n_held = 0;
        return;
    }
    bool may_grow = t->n_held < sizeof(t->held);
    if (may_grow && (t->n_held == 1 || is_blank(last)) && (is_blank(c) || c == '\r')) {
        t->held[t->n_held++] = (char)c;
        return;
    }
    if (t->n_held == 1 && ascii_hex(c) >= 0) {
        t->held[t->n_held++] = (char)c;
        return;
    }
    if (t->n_held == 2 && ascii_hex(last) >= 0 && ascii_hex(c) >= 0) {
        buf_addc(out, (char)((unsigned)ascii_hex(last) << 4 | (unsigned)ascii_hex(c)));
        t->n_held = 0;
        return;
    }
    qp_release(t, out); /* no escape: as it stands */
    qp_byte(t, c, out);
}

static void qp_feed(struct transfer *t, str bytes, struct buf *out)
{
    for (size_t i = 0; i < bytes.n;) {
        size_t from = i;
        while (i < bytes.n && !t->n_held && bytes.p[i] != '=' && !is_blank((unsigned char)bytes.p[i]))
            i++;
        buf_add_n(out, bytes.p + from, i - from);
        if (i < bytes.n)
            qp_byte(t, (unsigned char)bytes.p[i++], out);
    }
}

/* A whole line of uuencoded data: a length character and groups of four. */
static void uu_line(struct transfer *t, struct buf *out)
{
    str line = str_trim(str_n(t->held, t->n_held));
    t->n_held = 0;
    if (t->is_ended)
        return;
    if (!t->in_uu) {
        t->in_uu = str_starts_nocase(line, S("begin "));
        return;
    }
    if (str_eq_nocase(line, S("end"))) {
        t->is_ended = true;
        return;
    }
    if (line.n == 0)
        return;
    size_t left = ((unsigned char)line.p[0] - 32u) & 0x3f;
    for (size_t i = 1; left > 0; i += 4) {
        uint32_t v = 0;
        for (size_t k = 0; k < 4; k++) /* trailing spaces may have been lost: they are zero bits */
            v = v << 6 | (i + k < line.n ? ((unsigned char)line.p[i + k] - 32u) & 0x3f : 0);
        for (int shift = 16; shift >= 0 && left > 0; shift -= 8, left--)
            buf_addc(out, (char)(v >> shift));
    }
}

static void uu_feed(struct transfer *t, str bytes, struct buf *out)
{
    for (size_t i = 0; i < bytes.n; i++) {
        if (bytes.p[i] == '\n')
            uu_line(t, out);
        else if (t->n_held < sizeof(t->held))
            t->held[t->n_held++] = bytes.p[i];
    }
}

void transfer_feed(struct transfer *t, str bytes, struct buf *out)
{
    switch (t->kind) {
    case TRANSFER_IDENTITY:
        buf_add(out, bytes);
        break;
    case TRANSFER_BASE64:
        base64_feed(t, bytes, out);
        break;
    case TRANSFER_QP:
        qp_feed(t, bytes, out);
        break;
    case TRANSFER_UU:
        uu_feed(t, bytes, out);
        break;
    }
}

void transfer_finish(struct transfer *t, struct buf *out)
{
    if (t->kind == TRANSFER_BASE64)
        base64_flush(t, out);
    else if (t->kind == TRANSFER_UU && t->n_held)
        uu_line(t, out);
    else if (t->kind == TRANSFER_QP && t->n_held) {
        char last = t->held[t->n_held - 1];
        if (t->held[0] == '=' && t->n_held > 1 && last != '\r' && !is_blank((unsigned char)last))
            qp_release(t, out); /* "=4" at the end; a lone "=" or blanks were the line's end */
    }
    t->n_held = 0;
}

void transfer_decode(enum transfer_kind kind, str bytes, struct buf *out)
{
    struct transfer t;
    transfer_init(&t, kind);
    transfer_feed(&t, bytes, out);
    transfer_finish(&t, out);
}

/* --- encoding --- */

#define BASE64_LINE (LINE_MAX_OUT / 4 * 3)
#define QP_AHEAD 5u /* bytes that decide about one: "From " */

/* Whole lines; the rest too when it is the end. Returns how many bytes were used. */
static size_t base64_run(str bytes, bool is_end, struct buf *out)
{
    size_t at = 0;
    for (size_t n; (n = MIN(bytes.n - at, (size_t)BASE64_LINE)) == BASE64_LINE || (is_end && n > 0); at += n) {
        buf_add_base64(out, str_slice(bytes, at, at + n));
        buf_add(out, S("\r\n"));
    }
    return at;
}

static bool ends_line(str text, size_t i)
{
    return i >= text.n || text.p[i] == '\n' || (text.p[i] == '\r' && i + 1 < text.n && text.p[i + 1] == '\n');
}

static size_t qp_run(size_t *column, str text, bool is_end, struct buf *out)
{
    size_t i = 0;
    for (; i < text.n && (is_end || i + QP_AHEAD <= text.n); i++) {
        unsigned char c = (unsigned char)text.p[i];
        if (c == '\r' && i + 1 < text.n && text.p[i + 1] == '\n')
            continue;
        if (c == '\n') {
            buf_add(out, S("\r\n"));
            *column = 0;
            continue;
        }
        bool is_last = ends_line(text, i + 1);
        bool is_plain = (c > ' ' && c < 0x7f && c != '=') || (is_blank(c) && !is_last);
        if (*column == 0 && (c == '.' || (c == 'F' && str_starts(str_slice(text, i, SIZE_MAX), S("From ")))))
            is_plain = false; /* survives dot-stuffing and mbox */
        size_t width = is_plain ? 1 : 3;
        if (*column + width > LINE_MAX_OUT - (is_last ? 0u : 1u)) {
            buf_add(out, S("=\r\n"));
            *column = 0;
        }
        if (is_plain)
            buf_addc(out, (char)c);
        else
            buf_printf(out, "=%02X", c);
        *column += width;
    }
    return i;
}

void transfer_encoder_init(struct transfer_encoder *e, enum transfer_kind kind)
{
    assert(kind == TRANSFER_BASE64 || kind == TRANSFER_QP);
    *e = (struct transfer_encoder){.kind = kind};
}

static size_t encode_run(struct transfer_encoder *e, str bytes, bool is_end, struct buf *out)
{
    return e->kind == TRANSFER_BASE64 ? base64_run(bytes, is_end, out) : qp_run(&e->column, bytes, is_end, out);
}

void transfer_encode(struct transfer_encoder *e, str bytes, struct buf *out)
{
    /* What was held back, with as much of the new bytes as lets it go. */
    while (e->n_held && bytes.n) {
        size_t before = e->n_held, n = MIN(bytes.n, sizeof(e->held) - before);
        memcpy(e->held + before, bytes.p, n);
        size_t used = encode_run(e, str_n(e->held, before + n), false, out);
        if (used >= before) {
            e->n_held = 0;
            bytes = str_slice(bytes, used - before, SIZE_MAX);
        } else { /* not yet decided, or only a part of it */
            e->n_held = (unsigned)(before + n - used);
            memmove(e->held, e->held + used, e->n_held);
            bytes = str_slice(bytes, n, SIZE_MAX);
        }
    }
    size_t used = encode_run(e, bytes, false, out);
    str rest = str_slice(bytes, used, SIZE_MAX);
    if (rest.n) {
        memcpy(e->held, rest.p, rest.n);
        e->n_held = (unsigned)rest.n;
    }
}

void transfer_encode_end(struct transfer_encoder *e, struct buf *out)
{
    (void)encode_run(e, str_n(e->held, e->n_held), true, out); /* all of it */
    e->n_held = 0;
}

void transfer_encode_base64(struct buf *out, str bytes)
{
    (void)base64_run(bytes, true, out); /* all of it */
}

void transfer_encode_qp(struct buf *out, str text)
{
    size_t column = 0;
    (void)qp_run(&column, text, true, out); /* all of it */
}
