/*
 * limits.h: the names of the limits that hold over all processes, one row of limits.def each. Front-ends take from them
 * (Auth.Take, Auth.Lease), the auth service counts, server/node.c says how much by the settings.
 */
#ifndef BASE_LIMITS_H
#define BASE_LIMITS_H

enum limit {
#define LIMIT(id, name, setting, per_ms, help) LIMIT_##id,
#include "base/limits.def"
#undef LIMIT
    LIMITS_
};
/* "smtp.sessions.ip": what goes over the wire, and into metrics. */
const char *limit_name(enum limit limit);

#endif
