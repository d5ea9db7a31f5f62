/*
 * cap.h: a bound that all peers of a listener or service reach together was reached: who is turned away could not help
 * it.
 *
 * It is counted (thurn_caps_reached_total), and the process says that it suffers (base/trouble.h), so that the log and
 * /readyz name the cap that is too low, or attacked. Bounds of one peer are no caps.
 */
#ifndef NET_CAP_H
#define NET_CAP_H

#include "base/base.h"

/* owner: the listener or service; which: "connections", "guests", … Of fixed sets. Always false. */
bool cap_reached(const char *owner, const char *which, unsigned max);

#endif
