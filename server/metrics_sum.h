/*
 * metrics_sum.h: one /metrics page for a process and its workers: equal series are summed.
 */
#ifndef SERVER_METRICS_SUM_H
#define SERVER_METRICS_SUM_H

#include "base/arena.h"
#include "base/buf.h"

/* pages are Prometheus texts of the same program, the first one sets the order. Lines that are no series stand once. */
void metrics_sum(const str *pages, size_t n, struct buf *out);

#endif
