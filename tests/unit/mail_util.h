/*
 * mail_util.h: what the tests of lib/mail share: a tree as text, sample files from outside of this repository.
 */
#ifndef TESTS_MAIL_UTIL_H
#define TESTS_MAIL_UTIL_H

#include "mail/mime.h"

/* One line a part, indented by depth, with all that the parser says. */
void dump_message(struct buf *out, const struct mime_message *m);
/* A whole file into b; false when there is none. */
bool read_file(const char *path, struct buf *b);
/* The folder of sample data: $THURN_SHARED_DATA or ../shared/data; NULL (and one line on stdout) when it is absent. */
const char *shared_data(const char *sub, char path[4096]);
/* Call fn for each file in the folder (not below it) whose name ends with suffix; returns how many. */
unsigned each_file(const char *folder, const char *suffix, void (*fn)(const char *path, str content, void *arg),
                   void *arg);

#endif
