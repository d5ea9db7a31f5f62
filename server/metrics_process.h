/*
 * metrics_process.h: what Prometheus' client libraries say of every process: memory, processor time, descriptors,
 * start. Under their names, without our prefix, so that ready-made dashboards and alerts work.
 */
#ifndef SERVER_METRICS_PROCESS_H
#define SERVER_METRICS_PROCESS_H

#include "base/buf.h"

/* Appended to out in the text format 0.0.4. What the system does not tell is left out of its family. */
void metrics_process_print(int64_t start_unix, struct buf *out);

#endif
