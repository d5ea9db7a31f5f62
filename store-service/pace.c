#include "store-service/pace.h"

#include "base/clock.h"
#include "fiber/fiber.h"

#define REST_MAX_MS 1000

struct pace pace_begin(void)
{
    return (struct pace){clock_mono_us()};
}

bool pace_rest(const struct pace *p, struct err *err)
{
    int64_t took_ms = (clock_mono_us() - p->began_us + 999) / 1000;
    return fiber_sleep_ms(MIN(MAX(took_ms, (int64_t)1), (int64_t)REST_MAX_MS), err);
}
