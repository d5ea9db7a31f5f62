#include "queue-service/remote/content.h"

void smtp_content_init(struct smtp_content *c, bool has_dots)
{
    *c = (struct smtp_content){.has_dots = has_dots};
}

/* The byte after a CR decides what the CR was. */
static str settle_cr(struct smtp_content *c, str *in)
{
    c->has_cr = false;
    c->is_inside = in->p[0] != '\n';
    if (c->is_inside)
        return S(" ");
    *in = str_slice(*in, 1, SIZE_MAX);
    return S("\r\n");
}

/*
 * How many bytes from the front leave as they are: whole lines, up to a line that begins with a dot or a CR or LF that stands
 * alone. Leaves the state as after them.
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
        if (stop > at)
            c->is_inside = true;
        if (!lf || !cr || stop + 1 != end)
            return stop;
        c->is_inside = false;
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
        if (in->p[0] == '.') { /* the dot itself follows as part of the line */
            c->is_inside = true;
            *out = S(".");
            return true;
        }
        bool is_cr = in->p[0] == '\r';
        *in = str_slice(*in, 1, SIZE_MAX);
        c->has_cr = is_cr;
        if (!is_cr) {
            c->is_inside = false;
            *out = S("\r\n");
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
