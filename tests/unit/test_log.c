#include "base_test.h"

#include "base/clock.h"
#include "base/log.h"

static char last[8300];
static enum log_level last_level;

static void sink(enum log_level level, str line)
{
    last_level = level;
    assert_true(line.n < sizeof(last));
    memcpy(last, line.p, line.n);
    last[line.n] = '\0';
}

static void context(struct buf *line)
{
    log_add_kv(line, &KV_I64("session", 9));
}

static int setup(void **state)
{
    (void)state;
    clock_freeze(1700000000123, 5);
    log_set_sink(sink);
    log_configure(LOG_INFO, LOG_LOGFMT);
    last[0] = '\0';
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    clock_real();
    log_set_sink(NULL);
    log_set_context(NULL);
    log_configure(LOG_INFO, LOG_LOGFMT);
    return 0;
}

static void writes_logfmt(void **state)
{
    (void)state;
    log_set_context(context);
    log_warn("imap.command", KV_Z("name", "SELECT"), KV_Z("box", "My \"Box\"\n"), KV_I64("ms", -3), KV_Z("none", ""));
    assert_string_equal(last, "at=2023-11-14T22:13:20.123Z level=warn event=imap.command session=9 name=SELECT "
                              "box=\"My \\\"Box\\\"\\u000a\" ms=-3 none=\"\"");
    assert_int_equal(last_level, LOG_WARN);
}

static void writes_json(void **state)
{
    (void)state;
    log_configure(LOG_INFO, LOG_JSON);
    struct err err = ERR_INIT;
    (void)err_set(&err, ERR_LIMIT, "too much");
    log_info("x", KV_ERR(&err));
    assert_string_equal(last, "{\"at\":\"2023-11-14T22:13:20.123Z\",\"level\":\"info\",\"event\":\"x\","
                              "\"error\":\"limit\",\"reason\":\"too much\"}");
}

static void keeps_levels_and_limits(void **state)
{
    (void)state;
    log_debug("hidden");
    assert_string_equal(last, "");
    log_info("bare");
    assert_non_null(strstr(last, "event=bare"));
    static char big[20000];
    memset(big, 'x', sizeof(big) - 1);
    log_info("big", KV_Z("v", "kept"), KV_Z("dropped", big));
    assert_non_null(strstr(last, "v=kept"));
    assert_non_null(strstr(last, "cut=true"));
    enum log_level level;
    assert_true(log_level_parse(S("debug"), &level) && level == LOG_DEBUG);
    assert_false(log_level_parse(S("loud"), &level));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(writes_logfmt, setup, teardown),
        cmocka_unit_test_setup_teardown(writes_json, setup, teardown),
        cmocka_unit_test_setup_teardown(keeps_levels_and_limits, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
