#include "mail/utf7.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+,";

/* Collects UTF-16 units as base64 without padding. */
struct shifted {
    struct buf *out;
    uint32_t bits;
    unsigned n_bits;
};

static void put_unit(struct shifted *s, uint32_t unit)
{
    s->bits = s->bits << 16 | unit;
    s->n_bits += 16;
    while (s->n_bits >= 6) {
        s->n_bits -= 6;
        buf_addc(s->out, alphabet[s->bits >> s->n_bits & 0x3f]);
    }
    s->bits &= (1u << s->n_bits) - 1;
}

static void end_shift(struct shifted *s)
{
    if (s->n_bits)
        buf_addc(s->out, alphabet[s->bits << (6 - s->n_bits) & 0x3f]);
    buf_addc(s->out, '-');
    s->bits = 0;
    s->n_bits = 0;
}

/* The code point at s (well-formed); *n gets its length. */
static uint32_t code_point(str s, size_t *n)
{
    unsigned char c = (unsigned char)s.p[0];
    *n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    *n = MIN(*n, s.n);
    uint32_t v = *n == 1 ? c : c & (0x7fu >> *n);
    for (size_t i = 1; i < *n; i++)
        v = v << 6 | ((unsigned char)s.p[i] & 0x3f);
    return v;
}

void utf7_encode(struct buf *out, str utf8)
{
    struct shifted s = {.out = out};
    bool is_shifted = false;
    size_t n;
    for (; utf8.n; utf8 = str_slice(utf8, n, SIZE_MAX)) {
        uint32_t c = code_point(utf8, &n);
        if (c >= 0x20 && c < 0x7f) {
            if (is_shifted)
                end_shift(&s);
            is_shifted = false;
            buf_addc(out, (char)c);
            if (c == '&')
                buf_addc(out, '-');
            continue;
        }
        if (!is_shifted)
            buf_addc(out, '&');
        is_shifted = true;
        if (c >= 0x10000) {
            put_unit(&s, 0xd800 + ((c - 0x10000) >> 10));
            put_unit(&s, 0xdc00 + ((c - 0x10000) & 0x3ff));
        } else {
            put_unit(&s, c);
        }
    }
    if (is_shifted)
        end_shift(&s);
}

static void add_utf8(struct buf *out, uint32_t c)
{
    if (c < 0x800) {
        buf_addc(out, (char)(0xc0 | c >> 6));
    } else if (c < 0x10000) {
        buf_addc(out, (char)(0xe0 | c >> 12));
        buf_addc(out, (char)(0x80 | (c >> 6 & 0x3f)));
    } else {
        buf_addc(out, (char)(0xf0 | c >> 18));
        buf_addc(out, (char)(0x80 | (c >> 12 & 0x3f)));
        buf_addc(out, (char)(0x80 | (c >> 6 & 0x3f)));
    }
    buf_addc(out, (char)(0x80 | (c & 0x3f)));
}

/* One UTF-16 unit; *high holds a surrogate that waits for its second half. */
static bool take_unit(struct buf *out, uint32_t unit, uint32_t *high)
{
    if (*high) {
        if (unit < 0xdc00 || unit > 0xdfff)
            return false;
        add_utf8(out, 0x10000 + ((*high - 0xd800) << 10) + (unit - 0xdc00));
        *high = 0;
        return true;
    }
    if (unit >= 0xd800 && unit <= 0xdbff) {
        *high = unit;
        return true;
    }
    /* Printable ASCII must not be shifted; NUL can be in no name. */
    if ((unit >= 0xdc00 && unit <= 0xdfff) || (unit >= 0x20 && unit < 0x7f) || unit == 0)
        return false;
    if (unit < 0x80)
        buf_addc(out, (char)unit);
    else
        add_utf8(out, unit);
    return true;
}

/* After "&", up to and with "-". */
static bool decode_shifted(struct buf *out, struct cursor *c)
{
    uint32_t bits = 0, high = 0;
    unsigned n_bits = 0;
    while (c->p < c->end && *c->p != '-') {
        const char *digit = *c->p ? memchr(alphabet, *c->p, sizeof(alphabet) - 1) : NULL;
        if (!digit)
            return false;
        bits = bits << 6 | (uint32_t)(digit - alphabet);
        n_bits += 6;
        c->p++;
        if (n_bits >= 16) {
            n_bits -= 16;
            if (!take_unit(out, bits >> n_bits & 0xffff, &high))
                return false;
            bits &= (1u << n_bits) - 1;
        }
    }
    /* What is left is padding: less than a sextet, all zero. */
    return cur_skip(c, '-') && n_bits < 6 && bits == 0 && high == 0;
}

bool utf7_decode(struct buf *out, str name)
{
    struct cursor c = cur_of(name);
    bool after_shift = false;
    while (c.p < c.end) {
        unsigned char ch = *c.p++;
        if (ch < 0x20 || ch >= 0x7f)
            return false;
        if (ch != '&') {
            buf_addc(out, (char)ch);
            after_shift = false;
        } else if (cur_skip(&c, '-')) {
            buf_addc(out, '&');
            after_shift = false;
        } else {
            if (after_shift || !decode_shifted(out, &c)) /* "&…-&…-" could have been one */
                return false;
            after_shift = true;
        }
    }
    return true;
}
