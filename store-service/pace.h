/*
 * pace.h: bulk work beside that of people.
 */
#ifndef STORE_SERVICE_PACE_H
#define STORE_SERVICE_PACE_H

#include "base/err.h"
#include "fiber/fiber.h"

/* Begin one slice of it; rest after its transaction for as long as it took, so that it never has more than half of a
 * database. Errors: CANCELLED, TIMEOUT. */
struct pace {
    int64_t began_us;
};
struct pace pace_begin(void);
FIBER bool pace_rest(const struct pace *p, struct err *err) WARN_UNUSED;

#endif
