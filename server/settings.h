/*
 * settings.h: what settings mean beyond the form of each: those that depend on others, and those that are addresses,
 * names or files. `thurn config check`, `serve`, `setup` and `migrate` all ask here, so what one calls good the others
 * take; and what is wrong is said with file and line. A setting that may hold a secret is never quoted.
 */
#ifndef SERVER_SETTINGS_H
#define SERVER_SETTINGS_H

#include "base/config.h"
#include "net/tls.h"

#define SETTINGS_SHARDS_MAX 1000 /* of the store */

/* Whether these settings can start a process, listeners and certificates apart (frontends_check). Reads files, changes
 * none. */
bool settings_check(const struct config *c, struct err *err) WARN_UNUSED;
/* enum role bits, at least one. */
bool settings_roles(const struct config *c, unsigned *bits, struct err *err) WARN_UNUSED;
/* queue.retry in seconds. */
bool settings_retry(const struct config *c, uint32_t *out, size_t max, size_t *n, struct err *err) WARN_UNUSED;
/* Whether some database of these roles is a file in the data folder. */
bool settings_on_sqlite(const struct config *c, unsigned roles);
/* What of the data folder and of SQLite files elsewhere is ours and others may read is made the user's alone
 * (server/folder.h). */
void settings_narrow(const struct config *c);
/* Both sides of calls between processes; NULL both without rpc.tls. The caller frees them. */
bool settings_rpc_tls(const struct config *c, struct tls_client **client, struct tls_server **server, struct err *err)
    WARN_UNUSED;

#endif
