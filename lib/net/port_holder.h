/*
 * port_holder.h: which program listens on a TCP port of this machine, for the message to whoever wants it too.
 */
#ifndef NET_PORT_HOLDER_H
#define NET_PORT_HOLDER_H

#include "base/arena.h"
#include "net/addr.h"

/* "postfix (pid 123)", in a; empty when it is not to be found: other users' processes are seen by root alone. Reads
 * /proc, for some milliseconds: for starts that fail, not for the loop. */
str port_holder(const struct net_addr *addr, struct arena *a);

#endif
