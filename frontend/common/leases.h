/*
 * leases.h: how many sessions an account has, over all front-ends: each process leases its count from the auth service
 * and renews it; what is not renewed is free again. The count goes up before a login is answered, and down in the
 * background.
 */
#ifndef FRONTEND_COMMON_LEASES_H
#define FRONTEND_COMMON_LEASES_H

#include <protobuf-c/protobuf-c.h>

#include "base/limits.h"
#include "fiber/fiber.h"

struct leases;

/* Of one protocol: limit says which. holder is the process' name to the auth service; copied. auth is borrowed. Nothing
 * runs before the first take. */
struct leases *leases_new(ProtobufCService *auth, enum limit limit, str holder);
/* Waits for a call under way. Takes NULL. */
FIBER void leases_free(struct leases *l);
/* One session more. False with LIMIT when the account has too many; then it is not counted. Any other trouble is no
 * reason to refuse. Suspends. */
FIBER bool leases_take(struct leases *l, int64_t account_id, struct err *err) WARN_UNUSED;
/* One of those that leases_take has counted has ended. */
void leases_release(struct leases *l, int64_t account_id);

#endif
