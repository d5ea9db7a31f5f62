/*
 * running.h: whether a server runs on a data folder. One folder has one server; a second one is told so before it
 * touches anything, with the number of the process.
 */
#ifndef SERVER_RUNNING_H
#define SERVER_RUNNING_H

#include "base/config.h"

/* False with CONFLICT when a server answers at the control socket of the settings' data folder. */
bool running_none(const struct config *c, struct err *err) WARN_UNUSED;

#endif
