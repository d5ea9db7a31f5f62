#include "base/limits.h"

static const char *const names[LIMITS_] = {
#define LIMIT(id, name, setting, per_ms, help) [LIMIT_##id] = name,
#include "base/limits.def"
#undef LIMIT
};

const char *limit_name(enum limit limit)
{
    return names[limit];
}
