/* tmp.h: where tests put their files. In a ctest run that is a folder which goes when the run ends, whatever became of
 * the test. */
#ifndef UNIT_TMP_H
#define UNIT_TMP_H

#include <stdlib.h>

static inline const char *test_tmp(void)
{
    const char *dir = getenv("TMPDIR");
    return dir && *dir ? dir : "/tmp";
}

#endif
