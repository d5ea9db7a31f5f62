#include "net/cap.h"

#include <stdio.h>

#include "base/metrics.h"
#include "base/trouble.h"

bool cap_reached(const char *owner, const char *which, unsigned max)
{
    char what[48], why[96];
    (void)snprintf(what, sizeof(what), "cap.%s.%s", owner, which);
    (void)snprintf(why, sizeof(why), "all %u are in use; others are turned away", max);
    metric_inc_label(M_CAPS_REACHED, what + strlen("cap."));
    trouble_note(what, why);
    return false;
}
