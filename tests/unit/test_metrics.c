#include "base_test.h"

#include <pthread.h>
#include <stdio.h>

#include "base/metrics.h"

static void prints_prometheus_text(void **state)
{
    (void)state;
    metric_add(M_FIBER_SLOW_SLICES, 2);
    metric_set(M_FIBERS, 7);
    metric_inc_label(M_CONNECTIONS_TOTAL, "imap\"s");
    metric_observe_us(M_DNS_SECONDS, "mx", 700);
    metric_observe_us(M_DNS_SECONDS, "mx", 120000000);
    BUF(out, 1 << 20);
    metrics_print(&out);
    const char *text = buf_z(&out);
    assert_non_null(strstr(text, "# TYPE thurn_fibers gauge\nthurn_fibers 7\n"));
    assert_non_null(strstr(text, "thurn_fiber_slow_slices_total 2\n"));
    assert_non_null(strstr(text, "thurn_connections_total{listener=\"imap\\\"s\"} 1\n"));
    assert_non_null(strstr(text, "thurn_dns_lookup_duration_seconds_bucket{type=\"mx\",le=\"0.0005\"} 0\n"));
    assert_non_null(strstr(text, "thurn_dns_lookup_duration_seconds_bucket{type=\"mx\",le=\"0.001\"} 1\n"));
    assert_non_null(strstr(text, "thurn_dns_lookup_duration_seconds_bucket{type=\"mx\",le=\"+Inf\"} 2\n"));
    assert_non_null(strstr(text, "thurn_dns_lookup_duration_seconds_count{type=\"mx\"} 2\n"));
    metrics_reset();
}

static void bounds_labels(void **state)
{
    (void)state;
    for (int i = 0; i < METRIC_LABELS_MAX + 50; i++) {
        char label[16];
        snprintf(label, sizeof(label), "l%d", i);
        metric_inc_label(M_SQL_ERRORS, label);
    }
    assert_int_equal(metric_get(M_SQL_ERRORS, "l0"), 1);
    assert_int_equal(metric_get(M_SQL_ERRORS, "other"), 50);
    metrics_reset();
}

static void *hammer(void *arg)
{
    (void)arg;
    for (int i = 0; i < 10000; i++) {
        metric_inc_label(M_SQL_ERRORS, i % 2 ? "a" : "b");
        metric_observe_us(M_SQL_SECONDS, "q", i);
    }
    return NULL;
}

static void counts_from_threads(void **state)
{
    (void)state;
    pthread_t threads[4];
    for (size_t i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, hammer, NULL);
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(metric_get(M_SQL_ERRORS, "a"), 20000);
    assert_int_equal(metric_get(M_SQL_ERRORS, "b"), 20000);
    assert_int_equal(metric_get(M_SQL_SECONDS, "q"), 40000);
    metrics_reset();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prints_prometheus_text),
        cmocka_unit_test(bounds_labels),
        cmocka_unit_test(counts_from_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
