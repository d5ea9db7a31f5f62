#include "mail/encoded_word.h"

#include "mail/charset.h"
#include "mail/transfer.h"

#define WORD_MAX 75u /* RFC 2047 section 2 */
#define PREFIX_B S("=?utf-8?B?")
#define PREFIX_Q S("=?utf-8?Q?")

struct word {
    str charset, text;
    char encoding; /* 'B' or 'Q' */
    size_t length; /* in the input */
};

/* An encoded word at s; lenient: any length, spaces within Q, RFC 2231 language dropped. */
static bool word_at(str s, struct word *w)
{
    if (!str_starts(s, S("=?")))
        return false;
    str rest = str_slice(s, 2, SIZE_MAX);
    ptrdiff_t q = str_find(rest, '?');
    if (q <= 0 || (size_t)q + 3 > rest.n || rest.p[q + 2] != '?')
        return false;
    w->charset = str_slice(rest, 0, (size_t)q);
    for (size_t i = 0; i < w->charset.n; i++)
        if ((unsigned char)w->charset.p[i] <= ' ')
            return false;
    ptrdiff_t star = str_find(w->charset, '*');
    if (star >= 0)
        w->charset.n = (size_t)star;
    w->encoding = (char)ascii_upper((unsigned char)rest.p[q + 1]);
    if (w->encoding != 'B' && w->encoding != 'Q')
        return false;
    str text = str_slice(rest, (size_t)q + 3, SIZE_MAX);
    ptrdiff_t end = str_find_str(text, S("?="));
    if (end < 0)
        return false;
    /* "?Q?=3F=?=": a text that begins with "=" right after the "?" is no end. */
    if (end == 0 && w->encoding == 'Q' && text.n > 4) {
        ptrdiff_t more = str_find_str(str_slice(text, 1, SIZE_MAX), S("?="));
        if (ascii_hex((unsigned char)text.p[1]) >= 0 && more >= 0)
            end = more + 1;
    }
    w->text = str_slice(text, 0, (size_t)end);
    w->length = 2 + (size_t)q + 3 + (size_t)end + 2;
    return true;
}

static void decode_q(str text, struct buf *out)
{
    for (size_t i = 0; i < text.n; i++) {
        unsigned char c = (unsigned char)text.p[i];
        int high, low;
        if (c == '_') {
            buf_addc(out, ' ');
        } else if (c == '=' && i + 2 < text.n && (high = ascii_hex((unsigned char)text.p[i + 1])) >= 0 &&
                   (low = ascii_hex((unsigned char)text.p[i + 2])) >= 0) {
            buf_addc(out, (char)(high << 4 | low));
            i += 2;
        } else {
            buf_addc(out, (char)c);
        }
    }
}

static void decode_text(const struct word *w, struct buf *out)
{
    if (w->encoding == 'Q')
        decode_q(w->text, out);
    else
        transfer_decode(TRANSFER_BASE64, w->text, out);
}

static size_t blanks(str s)
{
    size_t n = 0;
    while (n < s.n && (s.p[n] == ' ' || s.p[n] == '\t' || s.p[n] == '\r' || s.p[n] == '\n'))
        n++;
    return n;
}

void encoded_word_decode(struct buf *out, str value)
{
    if (str_find_str(value, S("=?")) < 0) {
        charset_guess_utf8(value, out);
        return;
    }
    BUF(bytes, value.n + 16);
    size_t at = 0, plain_from = 0;
    while (at < value.n) {
        struct word w;
        if (value.p[at] != '=' || !word_at(str_slice(value, at, SIZE_MAX), &w)) {
            at++;
            continue;
        }
        charset_guess_utf8(str_slice(value, plain_from, at), out);
        buf_clear(&bytes);
        decode_text(&w, &bytes);
        at += w.length;
        for (;;) { /* neighbours: the white space between goes; one charset, one conversion */
            struct word next;
            size_t gap = blanks(str_slice(value, at, SIZE_MAX));
            if (!word_at(str_slice(value, at + gap, SIZE_MAX), &next))
                break;
            at += gap + next.length;
            if (!str_eq_nocase(next.charset, w.charset)) {
                charset_to_utf8(w.charset, buf_str(&bytes), out);
                buf_clear(&bytes);
                w.charset = next.charset;
            }
            decode_text(&next, &bytes);
        }
        charset_to_utf8(w.charset, buf_str(&bytes), out);
        plain_from = at;
    }
    charset_guess_utf8(str_slice(value, plain_from, SIZE_MAX), out);
}

static size_t utf8_length(unsigned char lead)
{
    return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

/* Characters that Q may hold bare in any context (RFC 2047 section 5 (3)). */
static bool is_q_plain(unsigned char c)
{
    return ascii_is_alnum(c) || c == '!' || c == '*' || c == '+' || c == '-' || c == '/';
}

static size_t q_width(str s)
{
    size_t width = 0;
    for (size_t i = 0; i < s.n; i++)
        width += is_q_plain((unsigned char)s.p[i]) || s.p[i] == ' ' ? 1 : 3;
    return width;
}

static void add_q(struct buf *out, str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c == ' ')
            buf_addc(out, '_');
        else if (is_q_plain(c))
            buf_addc(out, (char)c);
        else
            buf_printf(out, "=%02X", c);
    }
}

void encoded_word_encode(struct buf *out, str utf8, size_t column)
{
    BUF(clean, utf8.n * 3 + 1);
    charset_guess_utf8(utf8, &clean);
    str rest = buf_str(&clean);
    bool use_q = q_width(rest) <= rest.n / 3 * 4;
    const size_t frame = PREFIX_Q.n + 2;
    bool is_first = true;
    while (rest.n) {
        /* A word begins after the fold; the first one gets what its line has left, when that is of use. */
        size_t room = is_first && column + frame + 12 < WORD_MAX ? WORD_MAX - column : WORD_MAX - 1;
        size_t take = 0, width = 0;
        while (take < rest.n) {
            size_t len = MIN(utf8_length((unsigned char)rest.p[take]), rest.n - take);
            size_t next = use_q ? width + q_width(str_slice(rest, take, take + len)) : (take + len + 2) / 3 * 4;
            if (frame + next > room && take)
                break;
            width = next;
            take += len;
        }
        if (!is_first || column + frame + 12 >= WORD_MAX)
            buf_add(out, S("\r\n "));
        buf_add(out, use_q ? PREFIX_Q : PREFIX_B);
        str piece = str_slice(rest, 0, take);
        if (use_q)
            add_q(out, piece);
        else
            buf_add_base64(out, piece);
        buf_add(out, S("?="));
        rest = str_slice(rest, take, SIZE_MAX);
        is_first = false;
    }
}
