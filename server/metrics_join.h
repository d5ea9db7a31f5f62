/*
 * metrics_join.h: one /metrics page for a process and its workers.
 *
 * A worker's series get a label worker="1", …; they are not summed: a gauge need not be a sum, and a sum would fall
 * when a worker ends or answers late, which who collects counters takes for a restart.
 */
#ifndef SERVER_METRICS_JOIN_H
#define SERVER_METRICS_JOIN_H

#include "base/buf.h"

struct metrics_page {
    unsigned worker; /* its label; 0 = the process itself, no label */
    str text;        /* as metrics_print made it */
};

/* Pages of one program, so with the same families in the same order; a page is cut where that is not so. */
void metrics_join(const struct metrics_page *pages, size_t n, struct buf *out);

#endif
