/*
 * command.h: find and run the command of a line.
 */
#ifndef FRONTEND_SMTP_COMMAND_H
#define FRONTEND_SMTP_COMMAND_H

#include "base/str.h"

struct smtp_session;

/* Check what commands.def says of the command, run it, and see that it is answered. */
FIBER void smtp_command_run(struct smtp_session *s, str line);

#endif
