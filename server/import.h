/*
 * import.h: accounts by the thousand, from CSV: address,password-or-hash,quota.
 *
 * Rows are sent in batches. Each row that is refused is told with its line, in the order of the file, and does not keep
 * the others from being added. When the server stops answering, the line is told from which on nothing is known to be
 * added.
 */
#ifndef SERVER_IMPORT_H
#define SERVER_IMPORT_H

#include <jansson.h>

#include "server/options.h"

/* "-" is standard input. Prints the counts and returns the exit status: EXIT_PARTLY when a row was refused. Suspends.
 */
FIBER int import_accounts(struct options *o, const char *file);
/* "500M" into the account's quota_bytes; NULL and "" leave it out. INVALID with what is expected. */
bool import_set_quota(json_t *account, const char *quota, struct err *err) WARN_UNUSED;

#endif
