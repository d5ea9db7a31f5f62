/* base_test.h: what the tests of lib/base and of what stands on it share: comparing views and errors. */
#ifndef UNIT_BASE_TEST_H
#define UNIT_BASE_TEST_H

#include "test.h"

#include "base/err.h"
#include "base/str.h"

#define assert_str(got, want) assert_str_((got), (want), __FILE__, __LINE__)
static inline void assert_str_(str got, str want, const char *file, int line)
{
    if (!str_eq(got, want)) {
        print_error("%s:%d: got '%.*s', want '%.*s'\n", file, line, STR_ARG(got), STR_ARG(want));
        fail();
    }
}
#define assert_ok(expr, err)                                                                                           \
    do {                                                                                                               \
        if (!(expr)) {                                                                                                 \
            print_error("%s:%d: %s: %s: %s\n", __FILE__, __LINE__, #expr, err_kind_name((err)->kind), (err)->msg);     \
            fail();                                                                                                    \
        }                                                                                                              \
    } while (0)
#define assert_fails(expr, err, want_kind)                                                                             \
    do {                                                                                                               \
        err_clear(err);                                                                                                \
        assert_false(expr);                                                                                            \
        assert_string_equal(err_kind_name((err)->kind), err_kind_name(want_kind));                                     \
    } while (0)

#endif
