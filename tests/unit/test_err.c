#include "base/log.h"
#include "base/metrics.h"
#include "base_test.h"

static void sets_prefixes_and_cuts(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    assert_false(err_is_set(&err));
    assert_false(err_set(&err, ERR_NOT_FOUND, "no mailbox '%s'", "x"));
    assert_false(err_prefix(&err, "append to %d", 7));
    assert_string_equal(err.msg, "append to 7: no mailbox 'x'");
    for (int i = 0; i < 100; i++)
        (void)err_prefix(&err, "a long prefix that will not fit for ever");
    assert_int_equal(err.kind, ERR_NOT_FOUND);
    assert_true(strlen(err.msg) < sizeof(err.msg));
    err_clear(&err);
    assert_false(err_is_set(&err));
}

static void kinds_have_names(void **state)
{
    (void)state;
    for (int k = 0; k < ERR_KINDS_; k++)
        assert_string_not_equal(err_kind_name((enum err_kind)k), "unknown");
    assert_string_equal(err_kind_name(ERR_KINDS_), "unknown");
    struct err err = {.kind = ERR_UNAVAILABLE};
    assert_true(err_is_temporary(&err));
    err.kind = ERR_DENIED;
    assert_false(err_is_temporary(&err));
}

/* Whatever a library says: users see it in lists and logs. */
static void is_one_line(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    (void)err_set(&err, ERR_UNAVAILABLE, "no %s", "server\n\tIs it \xc3\xbcp?\r\n");
    assert_string_equal(err.msg, "no server Is it \xc3\xbcp?");
}

static unsigned n_lines;
static void count_line(enum log_level level, str line)
{
    assert_int_equal(level, LOG_ERROR);
    assert_true(str_find_str(line, S("invariant.broken")) >= 0 && str_find_str(line, S("1 == 2")) >= 0);
    n_lines++;
}

/* An invariant that data broke ends the work with an error, is logged and counted, and nothing else. */
static void a_broken_invariant_is_an_error(void **state)
{
    (void)state;
    struct err err = ERR_INIT;
    int64_t before = metric_get(M_INVARIANTS_BROKEN, "");
    log_set_sink(count_line);
    assert_true(HOLDS(1 == 1, &err));
    assert_false(HOLDS(1 == 2, &err));
    log_set_sink(NULL);
    assert_int_equal(err.kind, ERR_INTERNAL);
    assert_int_equal(n_lines, 1);
    assert_int_equal(metric_get(M_INVARIANTS_BROKEN, ""), before + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_broken_invariant_is_an_error),
                                       cmocka_unit_test(sets_prefixes_and_cuts), cmocka_unit_test(is_one_line),
                                       cmocka_unit_test(kinds_have_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
