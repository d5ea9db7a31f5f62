#include "base/metrics.h"

#include <pthread.h>
#include <stdatomic.h>

#define LABEL_MAX 48u
#define BUCKETS 16u

/* Upper bounds in microseconds; one more bucket is +Inf. */
static const int64_t bounds_us[BUCKETS] = {
    500,    1000,   2500,    5000,    10000,   20000,    50000,    100000,
    250000, 500000, 1000000, 2500000, 5000000, 10000000, 30000000, 60000000,
};

struct series {
    char label[LABEL_MAX];
    _Atomic int64_t value;    /* counter, gauge; the sum in microseconds of a histogram */
    _Atomic int64_t *buckets; /* histograms: BUCKETS + 1, not cumulative */
};

struct family {
    struct series series[METRIC_LABELS_MAX + 1]; /* the last one is "other" */
    _Atomic unsigned n;
};

static const struct {
    const char *name, *label, *help;
    enum metric_kind kind;
} rows[METRICS_] = {
#define METRIC(id, kind_, name_, label_, help_)                                                                        \
    [M_##id] = {.name = name_, .label = label_, .help = help_, .kind = METRIC_##kind_},
#include "base/metrics.def"
#undef METRIC
};

static struct family *families[METRICS_];
static pthread_mutex_t grow_lock = PTHREAD_MUTEX_INITIALIZER;

static struct series *add_series(enum metric m, const char *label)
{
    struct family *f = families[m];
    unsigned n = atomic_load(&f->n);
    for (unsigned i = 0; i < n; i++) /* another thread may have been here first */
        if (strcmp(f->series[i].label, label) == 0)
            return &f->series[i];
    if (n >= METRIC_LABELS_MAX)
        label = "other";
    struct series *s = &f->series[MIN(n, (unsigned)METRIC_LABELS_MAX)];
    if (n > METRIC_LABELS_MAX)
        return s;
    snprintf(s->label, sizeof(s->label), "%s", label);
    if (rows[m].kind == METRIC_HISTOGRAM)
        s->buckets = xcalloc(BUCKETS + 1, sizeof(*s->buckets));
    atomic_store(&f->n, n + 1);
    return s;
}

static struct series *series_of(enum metric m, const char *label)
{
    assert(m < METRICS_);
    char cut[LABEL_MAX];
    if (strlen(label) >= LABEL_MAX) {
        snprintf(cut, sizeof(cut), "%s", label);
        label = cut;
    }
    struct family *f = __atomic_load_n(&families[m], __ATOMIC_ACQUIRE);
    if (f) {
        unsigned n = atomic_load(&f->n);
        for (unsigned i = 0; i < n; i++)
            if (strcmp(f->series[i].label, label) == 0)
                return &f->series[i];
    }
    pthread_mutex_lock(&grow_lock);
    if (!families[m])
        __atomic_store_n(&families[m], (struct family *)xcalloc(1, sizeof(struct family)), __ATOMIC_RELEASE);
    struct series *s = add_series(m, label);
    pthread_mutex_unlock(&grow_lock);
    return s;
}

void metric_add_label(enum metric m, const char *label, int64_t n)
{
    atomic_fetch_add_explicit(&series_of(m, label)->value, n, memory_order_relaxed);
}

void metric_add(enum metric m, int64_t n)
{
    metric_add_label(m, "", n);
}

void metric_set_label(enum metric m, const char *label, int64_t value)
{
    assert(rows[m].kind == METRIC_GAUGE);
    atomic_store_explicit(&series_of(m, label)->value, value, memory_order_relaxed);
}

void metric_set(enum metric m, int64_t value)
{
    metric_set_label(m, "", value);
}

void metric_observe_us(enum metric m, const char *label, int64_t us)
{
    assert(rows[m].kind == METRIC_HISTOGRAM);
    struct series *s = series_of(m, label ? label : "");
    size_t b = 0;
    while (b < BUCKETS && us > bounds_us[b])
        b++;
    atomic_fetch_add_explicit(&s->buckets[b], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&s->value, us, memory_order_relaxed);
}

int64_t metric_get(enum metric m, const char *label)
{
    struct series *s = series_of(m, label ? label : "");
    if (rows[m].kind != METRIC_HISTOGRAM)
        return atomic_load(&s->value);
    int64_t n = 0;
    for (size_t b = 0; b <= BUCKETS; b++)
        n += atomic_load(&s->buckets[b]);
    return n;
}

/* The inside of {…}: label="value", with room for another pair. Values are escaped as the text format wants. */
static void print_label(struct buf *out, const char *name, const char *value)
{
    buf_printf(out, "%s=\"", name);
    for (; *value; value++) {
        if (*value == '\\' || *value == '"')
            buf_addc(out, '\\');
        if (*value == '\n')
            buf_add(out, S("\\n"));
        else
            buf_addc(out, *value);
    }
    buf_addc(out, '"');
}

static void print_histogram(struct buf *out, enum metric m, const struct series *s)
{
    const char *name = rows[m].name, *label = rows[m].label;
    int64_t n = 0;
    for (size_t b = 0; b <= BUCKETS; b++) {
        n += atomic_load(&s->buckets[b]);
        buf_printf(out, "%s_bucket{", name);
        if (label[0]) {
            print_label(out, label, s->label);
            buf_addc(out, ',');
        }
        if (b < BUCKETS)
            buf_printf(out, "le=\"%g\"} %lld\n", (double)bounds_us[b] / 1e6, (long long)n);
        else
            buf_printf(out, "le=\"+Inf\"} %lld\n", (long long)n);
    }
    BUF(labels, 256);
    if (label[0]) {
        buf_addc(&labels, '{');
        print_label(&labels, label, s->label);
        buf_addc(&labels, '}');
    }
    buf_printf(out, "%s_sum%s %.6f\n%s_count%s %lld\n", name, buf_z(&labels), (double)atomic_load(&s->value) / 1e6,
               name, buf_z(&labels), (long long)n);
}

void metrics_print(struct buf *out)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    for (size_t m = 0; m < METRICS_; m++) {
        struct family *f = __atomic_load_n(&families[m], __ATOMIC_ACQUIRE);
        buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", rows[m].name, rows[m].help, rows[m].name, kinds[rows[m].kind]);
        unsigned n = f ? atomic_load(&f->n) : 0;
        if (!n && !rows[m].label[0] && rows[m].kind != METRIC_HISTOGRAM)
            buf_printf(out, "%s 0\n", rows[m].name);
        for (unsigned i = 0; i < n; i++) {
            const struct series *s = &f->series[i];
            if (rows[m].kind == METRIC_HISTOGRAM) {
                print_histogram(out, (enum metric)m, s);
                continue;
            }
            buf_add(out, str_c(rows[m].name));
            if (rows[m].label[0]) {
                buf_addc(out, '{');
                print_label(out, rows[m].label, s->label);
                buf_addc(out, '}');
            }
            buf_printf(out, " %lld\n", (long long)atomic_load(&s->value));
        }
    }
}

void metrics_reset(void)
{
    for (size_t m = 0; m < METRICS_; m++) {
        if (!families[m])
            continue;
        for (size_t i = 0; i <= METRIC_LABELS_MAX; i++)
            free((void *)families[m]->series[i].buckets);
        free(families[m]);
        families[m] = NULL;
    }
}
