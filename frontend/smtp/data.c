#include "frontend/smtp/data.h"

/* A dot at the start of a line: the end, a stuffed dot, or too few bytes to tell (0). */
static size_t take_dot(struct smtp_data *d, str in)
{
    if (in.n >= 2 && in.p[1] != '\r') {
        d->is_in_line = true;
        return 1;
    }
    if (in.n < 3)
        return 0;
    if (in.p[2] == '\n') {
        d->is_end = true;
        return 3;
    }
    d->is_in_line = true;
    return 1;
}

size_t smtp_data_next(struct smtp_data *d, str in, str *piece)
{
    const char *p = in.p, *end = in.p + in.n;
    *piece = str_n(p, 0);
    if (in.n == 0)
        return 0;
    if (!d->is_in_line && *p == '.') {
        size_t n = take_dot(d, in);
        if (n != 1)
            return n;
        p++;
    }
    const char *from = p;
    while (p < end) {
        const char *lf = memchr(p, '\n', (size_t)(end - p)), *stop = lf ? lf : end;
        const char *cr = memchr(p, '\r', (size_t)(stop - p));
        if (!lf) {
            /* The line goes on. A CR at the very end may be the first half of its end: leave it. */
            const char *tail = end[-1] == '\r' ? end - 1 : end;
            d->has_stray |= cr && cr < tail;
            d->is_in_line |= tail > p;
            p = tail;
            break;
        }
        bool is_crlf = lf > p && lf[-1] == '\r';
        d->has_stray |= !is_crlf || cr != lf - 1;
        d->is_in_line = !is_crlf;
        p = lf + 1;
        if (is_crlf && p < end && *p == '.')
            break;
    }
    *piece = str_n(from, (size_t)(p - from));
    return (size_t)(p - in.p);
}

void smtp_chunks_check(struct smtp_chunks *c, str bytes)
{
    const char *p = bytes.p, *end = bytes.p + bytes.n;
    if (bytes.n == 0)
        return;
    if (c->is_after_cr) {
        if (*p == '\n')
            p++;
        else
            c->has_stray = true;
    }
    while (p < end && !c->has_stray) {
        const char *lf = memchr(p, '\n', (size_t)(end - p)), *stop = lf ? lf : end;
        const char *cr = memchr(p, '\r', (size_t)(stop - p));
        if (lf)
            c->has_stray = lf == p || cr != lf - 1;
        else
            c->has_stray = cr && cr != end - 1;
        p = lf ? lf + 1 : end;
    }
    bool was_after_cr = c->is_after_cr;
    c->is_after_cr = end[-1] == '\r';
    c->is_after_lf = end[-1] == '\n' && (bytes.n > 1 ? end[-2] == '\r' : was_after_cr);
}
