/*
 * script.h: conversations of clients with a server, as plain text.
 *
 *   # comment                  C: text      the client sends text and CRLF     S: text    the server's next line
 *   login alice                C2: text     a second client (up to 4)          S2: text
 *   append INBOX 3             S~: text     lines up to one that matches       SX:        the server has closed
 *   C: a APPEND x {?+}         L: text      lines of the literal that the last "{?" counts, the last one without its end
 *
 * "..." in an expected line stands for any text; "{n}" and the like are ordinary text. login and append are helpers of the
 * runner (struct script_hooks). A client connects when it is first named, and its greeting is read and dropped.
 */
#ifndef TESTS_PROTOCOL_SCRIPT_H
#define TESTS_PROTOCOL_SCRIPT_H

#include "net/stream.h"

#define SCRIPT_CLIENTS 4u

struct script;
struct script_hooks {
    /* A new connection: the client's end. */
    struct stream *(*dial)(void *arg);
    /* A line that is none of the above. False: unknown. */
    FIBER bool (*command)(void *arg, struct script *s, str line);
    void *arg;
};
/* Run one file on a fiber; ends the process with file and line when it differs. */
FIBER void script_run(const char *path, const struct script_hooks *hooks);
/* For hooks: say and expect on a client, numbered from 1. */
FIBER void script_send(struct script *s, unsigned client, str line);
FIBER void script_expect(struct script *s, unsigned client, str pattern, bool skip);
/* Read up to the tagged reply; true when it is OK, false when it is "NO [UNAVAILABLE]". Anything else fails. */
FIBER bool script_tagged(struct script *s, unsigned client, str tag);

#endif
