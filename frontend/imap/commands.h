/*
 * commands.h: the handlers that commands.def names. Each writes its untagged responses; the tagged one is made from
 * what it returns and leaves in the command (session.h).
 */
#ifndef FRONTEND_IMAP_COMMANDS_H
#define FRONTEND_IMAP_COMMANDS_H

#include "frontend/imap/session.h"

#define CMD(name, handler, states, flags)                                                                              \
    FIBER bool handler(struct imap_session *s, struct imap_command *c, struct err *err) WARN_UNUSED;
#include "frontend/imap/commands.def"
#undef CMD

/* Run the command whose first line is in the input, and write its replies. False: the connection is of no more use. */
FIBER bool imap_run_command(struct imap_session *s, struct err *err) WARN_UNUSED;
/* The line that ends IDLE. */
FIBER bool imap_end_idle(struct imap_session *s, struct err *err) WARN_UNUSED;
/* Tell an idling client what has changed. */
FIBER bool imap_push_updates(struct imap_session *s, struct err *err) WARN_UNUSED;

#endif
