#include "mail/message.h"

#include "base/clock.h"
#include "mail/encoded_word.h"

#define LINE_WIDTH 78u

/* Control characters become spaces: a value is one line. */
static void add_clean(struct buf *out, str value)
{
    for (size_t i = 0; i < value.n; i++)
        buf_addc(out, ascii_is_ctl((unsigned char)value.p[i]) ? ' ' : value.p[i]);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Words with a fold before each that would pass the width. White space is kept; a line of it alone is never made. */
static void add_folded(struct buf *out, str value, size_t column)
{
    bool is_first = true;
    while (value.n) {
        size_t gap = 0, end;
        while (gap < value.n && is_blank(value.p[gap]))
            gap++;
        end = gap;
        while (end < value.n && !is_blank(value.p[end]))
            end++;
        if (end == gap) /* trailing white space */
            return;
        if (!is_first && gap && column + end > LINE_WIDTH) {
            buf_add(out, S("\r\n"));
            column = 0;
        }
        buf_add(out, str_slice(value, 0, end));
        column += end;
        is_first = false;
        value = str_slice(value, end, SIZE_MAX);
    }
}

void message_add_raw(struct buf *out, str name, str value)
{
    BUF(clean, value.n + 1);
    add_clean(&clean, value);
    buf_add(out, name);
    buf_add(out, S(": "));
    add_folded(out, str_trim(buf_str(&clean)), name.n + 2);
    buf_add(out, S("\r\n"));
}

/* What must be encoded so that a reader gets the same text back. */
static bool needs_encoding(str s)
{
    return !ascii_only(s.p, s.n) || str_find_str(s, S("=?")) >= 0;
}

void message_add_text(struct buf *out, str name, str utf8)
{
    if (!needs_encoding(utf8)) {
        message_add_raw(out, name, utf8);
        return;
    }
    BUF(clean, utf8.n + 1);
    add_clean(&clean, utf8);
    buf_add(out, name);
    buf_add(out, S(": "));
    encoded_word_encode(out, str_trim(buf_str(&clean)), name.n + 2);
    buf_add(out, S("\r\n"));
}

static bool is_phrase_atom(str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (!ascii_is_alnum(c) && c != ' ' && !memchr("!#$%&'*+-/=?^_`{|}~", c, 19))
            return false;
    }
    return s.n > 0;
}

void message_add_mailbox(struct buf *out, str name, str display_utf8, str address)
{
    BUF(clean, display_utf8.n + 1);
    add_clean(&clean, display_utf8);
    str display = str_trim(buf_str(&clean));
    buf_add(out, name);
    buf_add(out, S(": "));
    if (needs_encoding(display)) {
        encoded_word_encode(out, display, name.n + 2);
    } else if (is_phrase_atom(display)) {
        add_folded(out, display, name.n + 2);
    } else if (display.n) {
        buf_addc(out, '"');
        for (size_t i = 0; i < display.n; i++) {
            if (display.p[i] == '"' || display.p[i] == '\\')
                buf_addc(out, '\\');
            buf_addc(out, display.p[i]);
        }
        buf_addc(out, '"');
    }
    if (display.n)
        buf_add(out, name.n + 2 + display.n + address.n + 3 > LINE_WIDTH ? S("\r\n ") : S(" "));
    buf_addc(out, '<');
    add_clean(out, address);
    buf_add(out, S(">\r\n"));
}

void message_make_boundary(char out[MESSAGE_BOUNDARY_SIZE])
{
    /* "=_" appears in neither base64 nor quoted-printable text. */
    snprintf(out, MESSAGE_BOUNDARY_SIZE, "=_%016llx%016llx", (unsigned long long)random_u64(),
             (unsigned long long)random_u64());
}

void message_begin_multipart(struct buf *out, str subtype, str params, const char *boundary)
{
    buf_printf(out, "Content-Type: multipart/%.*s%.*s;\r\n boundary=\"%s\"\r\n\r\n", STR_ARG(subtype), STR_ARG(params),
               boundary);
}

void message_begin_part(struct buf *out, const char *boundary)
{
    buf_printf(out, "\r\n--%s\r\n", boundary);
}

void message_end_multipart(struct buf *out, const char *boundary)
{
    buf_printf(out, "\r\n--%s--\r\n", boundary);
}

void message_add_id(struct buf *out, str domain)
{
    buf_printf(out, "<%llx.%016llx@", (unsigned long long)clock_unix_ms(), (unsigned long long)random_u64());
    add_clean(out, domain);
    buf_addc(out, '>');
}
