/*
 * redis_address.h: where a Redis is and as whom to log in there. Included by lib/data only.
 */
#ifndef DATA_REDIS_ADDRESS_H
#define DATA_REDIS_ADDRESS_H

#include "base/err.h"

struct redis_address {
    char *path; /* of a Unix socket; NULL: host and port */
    char *host;
    uint16_t port;
    char *user, *password; /* NULL when not given */
    uint32_t db;
};

/* redis://[[user]:password@]host[:port][/db], user and password percent-encoded, or unix:/path. *a is zeroed before,
 * and to be freed after a failure too. Errors: INVALID; the password is never part of them. */
bool redis_address_parse(str url, struct redis_address *a, struct err *err) WARN_UNUSED;
void redis_address_done(struct redis_address *a);

#endif
