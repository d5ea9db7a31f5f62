#include "queue-service/remote/content.h"

#define LINE_MAX_BYTES 998u /* RFC 5321 4.5.3.1.6, without CRLF */
#define CHAR_MAX_BYTES 4u

void smtp_content_init(struct smtp_content *c, bool has_dots)
{
    *c = (struct smtp_content){.has_dots = has_dots};
}

/* The byte after a CR decides what the CR was. */
static str settle_cr(struct smtp_content *c, str *in)
{
    c->has_cr = false;
    c->is_inside = in->p[0] != '\n';
    if (c->is_inside) {
        c->n_line++;
        return S(" ");
    }
    c->n_line = 0;
    *in = str_slice(*in, 1, SIZE_MAX);
    return S("\r\n");
}

/* How many of these bytes of one line leave before it must be folded: where a character would not fit any more. */
static size_t till_fold(const struct smtp_content *c, str text)
{
    for (size_t i = c->n_line + CHAR_MAX_BYTES > LINE_MAX_BYTES ? 0 : LINE_MAX_BYTES - CHAR_MAX_BYTES + 1 - c->n_line;
         i < text.n; i++) {
        unsigned char ch = (unsigned char)text.p[i];
        /* what goes on a character was counted with it */
        size_t need = ch < 0xc0 ? 1 : ch < 0xe0 ? 2 : ch < 0xf0 ? 3 : CHAR_MAX_BYTES;
        if (c->n_line + i + need > LINE_MAX_BYTES)
            return i;
    }
    return text.n;
}

/*
 * How many bytes from the front leave as they are: whole lines, up to a line that begins with a dot, a CR or LF that
 * stands alone, a NUL, or the end of what a line may have. Leaves the state as after them.
 */
static size_t plain_run(struct smtp_content *c, str in)
{
    size_t at = 0;
    while (at < in.n) {
        if (c->has_dots && !c->is_inside && in.p[at] == '.')
            return at;
        const char *lf = memchr(in.p + at, '\n', in.n - at);
        size_t end = lf ? (size_t)(lf - in.p) : in.n;
        const char *cr = memchr(in.p + at, '\r', end - at);
        size_t stop = cr ? (size_t)(cr - in.p) : end;
        const char *nul = memchr(in.p + at, '\0', stop - at);
        size_t text = nul ? (size_t)(nul - in.p) : stop, fold = at + till_fold(c, str_slice(in, at, text));
        if (fold > at)
            c->is_inside = true;
        c->n_line += fold - at;
        if (fold < stop || !lf || !cr || stop + 1 != end)
            return fold;
        c->is_inside = false;
        c->n_line = 0;
        at = end + 1;
    }
    return at;
}

bool smtp_content_next(struct smtp_content *c, str *in, str *out)
{
    while (in->n > 0) {
        if (c->has_cr) {
            *out = settle_cr(c, in);
            return true;
        }
        size_t run = plain_run(c, *in);
        if (run > 0) {
            *out = str_slice(*in, 0, run);
            *in = str_slice(*in, run, SIZE_MAX);
            return true;
        }
        char first = in->p[0];
        if (c->has_dots && !c->is_inside && first == '.') { /* the dot itself follows as part of the line */
            c->is_inside = true;
            *out = S(".");
            return true;
        }
        if (first != '\r' && first != '\n' && first != '\0') { /* the line is full */
            c->n_line = 1;
            *out = S("\r\n ");
            return true;
        }
        *in = str_slice(*in, 1, SIZE_MAX);
        c->has_cr = first == '\r';
        if (first == '\n') {
            c->is_inside = false;
            c->n_line = 0;
            *out = S("\r\n");
            return true;
        }
        if (first == '\0') {
            c->is_inside = true;
            c->n_line++;
            *out = S(" ");
            return true;
        }
    }
    return false;
}

str smtp_content_end(struct smtp_content *c)
{
    bool is_open = c->is_inside || c->has_cr;
    c->is_inside = c->has_cr = false;
    if (!c->has_dots)
        return is_open ? S("\r\n") : S("");
    return is_open ? S("\r\n.\r\n") : S(".\r\n");
}
