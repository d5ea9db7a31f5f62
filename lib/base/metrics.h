/*
 * metrics.h: the process's counters, gauges and histograms, and their Prometheus text.
 *
 * Every metric is a row of metrics.def: METRIC(ID, KIND, "thurn_name_unit", "label", "help"). Labels have few, fixed
 * values (never users, addresses or ids): at most METRIC_LABELS_MAX a metric, further ones count as "other".
 * Updates are safe from any thread.
 */
#ifndef BASE_METRICS_H
#define BASE_METRICS_H

#include "base/buf.h"

#define METRIC_LABELS_MAX 64

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

enum metric {
#define METRIC(id, kind, name, label, help) M_##id,
#include "base/metrics.def"
#undef METRIC
    METRICS_
};

void metric_add(enum metric m, int64_t n);                          /* without a label */
void metric_set(enum metric m, int64_t value);                      /* gauges */
void metric_add_label(enum metric m, const char *label, int64_t n); /* label: a literal or other string of fixed set */
void metric_set_label(enum metric m, const char *label, int64_t value);
/* Histograms are of durations: buckets from 0.5 ms to 60 s, printed in seconds. label may be NULL. */
void metric_observe_us(enum metric m, const char *label, int64_t us);
int64_t metric_get(enum metric m, const char *label); /* tests; count of a histogram */
static inline void metric_inc(enum metric m)
{
    metric_add(m, 1);
}
static inline void metric_inc_label(enum metric m, const char *label)
{
    metric_add_label(m, label, 1);
}
/* All of them, text format 0.0.4. */
void metrics_print(struct buf *out);
void metrics_reset(void); /* tests */

#endif
