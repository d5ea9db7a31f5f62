/*
 * verbs.h: one function for each verb of the command line. Each prints its own answer and returns the exit status:
 * 0 done, 1 failed, 2 wrong usage, 3 not found, 4 conflict, 5 partly done.
 */
#ifndef SERVER_VERBS_H
#define SERVER_VERBS_H

#include "server/options.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_NOT_FOUND = 3, EXIT_CONFLICT = 4, EXIT_PARTLY = 5 };

#define VERB(name, fn, help, forms) int fn(struct options *o);
#include "server/verbs.def"
#undef VERB

/* No form of the verb matches: say which words there are, and return EXIT_USAGE. */
int verb_unknown(const struct options *o);
/* Print "thurn: text" on standard error and return the status that belongs to the kind. */
int verb_fail(const struct err *err);

#define THURN_VERSION "0.1.0"

#endif
