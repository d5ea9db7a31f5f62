/*
 * needs.h: servers of other projects that a test runs against. One that is not there is a failure: ./test installs them
 * all. THURN_TEST_WITHOUT="pg s3" leaves those named out (pg, s3, redis, postfix); ctest then shows the test as
 * skipped.
 */
#ifndef UNIT_NEEDS_H
#define UNIT_NEEDS_H

#include <stdio.h>

#include "base/str.h"

static inline void needs_say_without(int status, void *name)
{
    if (status == 0) /* ctest reads this line; a failure stays one */
        printf("without: %s\n", (const char *)name);
}

/* False when name is left out on purpose. Otherwise true; ends the program with the remedy when it is not there. */
static inline bool needs(const char *name, bool is_there, const char *remedy)
{
    str rest = str_c(getenv("THURN_TEST_WITHOUT")), word;
    while (str_split(&rest, ' ', &word))
        if (str_eq(word, str_c(name))) {
            (void)on_exit(needs_say_without, (void *)(uintptr_t)name);
            return false;
        }
    if (is_there)
        return true;
    fprintf(stderr, "this test needs %s; %s, or leave it out by THURN_TEST_WITHOUT=%s\n", name, remedy, name);
    exit(1);
}

#endif
