#include "server/metrics_sum.h"

#include <stdio.h>

#include "base/map.h"

struct line {
    str name; /* the series with its labels; empty for a comment */
    str text;
    double value;
};

/* "name{labels} value" cut in two. */
static bool series(str text, str *name, double *value)
{
    ptrdiff_t at = str_rfind(text, ' ');
    if (at <= 0 || text.p[0] == '#')
        return false;
    char digits[40];
    snprintf(digits, sizeof(digits), "%.*s", (int)MIN(text.n - (size_t)at - 1, sizeof(digits) - 1), text.p + at + 1);
    char *end;
    *value = strtod(digits, &end);
    *name = str_n(text.p, (size_t)at);
    return end != digits && *end == '\0';
}

static size_t count_lines(const str *pages, size_t n)
{
    size_t lines = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < pages[i].n; k++)
            lines += pages[i].p[k] == '\n';
    return lines + n;
}

void metrics_sum(const str *pages, size_t n, struct buf *out)
{
    size_t n_lines = 0;
    struct line *lines = xcalloc(count_lines(pages, n), sizeof(*lines));
    struct map seen;
    map_init(&seen);
    for (size_t i = 0; i < n; i++) {
        str rest = pages[i], text;
        while (rest.n && str_split(&rest, '\n', &text)) {
            struct line line = {.text = text};
            bool is_series = series(text, &line.name, &line.value);
            struct line *first = text.n ? map_get(&seen, is_series ? line.name : text) : NULL;
            if (first) {
                first->value += line.value;
            } else if (text.n) {
                lines[n_lines] = line;
                map_put(&seen, is_series ? line.name : text, &lines[n_lines++]);
            }
        }
    }
    for (size_t i = 0; i < n_lines; i++) {
        if (lines[i].name.n)
            buf_printf(out, "%.*s %.15g\n", STR_ARG(lines[i].name), lines[i].value);
        else
            buf_printf(out, "%.*s\n", STR_ARG(lines[i].text));
    }
    map_done(&seen);
    free(lines);
}
