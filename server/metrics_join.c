#include "server/metrics_join.h"

/* Cut off all lines that begin with '#', or all that do not. */
static str take_lines(str *rest, bool are_comments)
{
    str all = *rest, line;
    while (rest->n && (rest->p[0] == '#') == are_comments)
        (void)str_split(rest, '\n', &line);
    return str_n(all.p, all.n - rest->n);
}

/* "name 1" or "name{labels} 1" with one more label in front. */
static void add_series(str line, unsigned worker, struct buf *out)
{
    size_t name = 0;
    while (name < line.n && line.p[name] != '{' && line.p[name] != ' ')
        name++;
    bool has_labels = name < line.n && line.p[name] == '{';
    str after = str_slice(line, name + has_labels, SIZE_MAX);
    buf_printf(out, "%.*s{worker=\"%u\"%s%.*s\n", (int)name, line.p, worker, has_labels ? "," : "}", STR_ARG(after));
}

static void add_all(str series, unsigned worker, struct buf *out)
{
    str line;
    if (worker == 0) {
        buf_add(out, series);
        return;
    }
    while (series.n && str_split(&series, '\n', &line))
        add_series(line, worker, out);
}

void metrics_join(const struct metrics_page *pages, size_t n, struct buf *out)
{
    str *rest = xcalloc(n, sizeof(*rest));
    for (size_t i = 0; i < n; i++)
        rest[i] = pages[i].text;
    while (rest[0].n) {
        str head = take_lines(&rest[0], true);
        buf_add(out, head);
        add_all(take_lines(&rest[0], false), pages[0].worker, out);
        for (size_t i = 1; i < n; i++) {
            if (str_eq(take_lines(&rest[i], true), head))
                add_all(take_lines(&rest[i], false), pages[i].worker, out);
            else
                rest[i] = STR_NONE;
        }
    }
    free(rest);
}
