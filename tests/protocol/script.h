/*
 * script.h: conversations of clients with a server, as plain text: see README.md for the language.
 *
 * script.c reads it, words.c has the words that stand for several lines. Who runs a script brings the connections, and
 * words of its own: imap.c (the IMAP front-end and the services in this process), dialog.c (a server that runs
 * already).
 */
#ifndef TESTS_PROTOCOL_SCRIPT_H
#define TESTS_PROTOCOL_SCRIPT_H

#include "net/stream.h"

#define SCRIPT_CLIENTS 4u

struct script;
struct script_hooks {
    /* A new connection to the listener of that kind ("imap", "smtp", …): the client's end. NULL: there is none. */
    FIBER struct stream *(*dial)(void *arg, str kind);
    /* A line that is no other. False: unknown. May be NULL. */
    FIBER bool (*command)(void *arg, struct script *s, str line);
    void *arg;
};
/* Run one file on a fiber; ends the process with file and line when it differs. */
FIBER void script_run(const char *path, const struct script_hooks *hooks);
/* For hooks: dial, say and expect as a client, numbered from 1. */
FIBER void script_dial(struct script *s, unsigned client, str kind);
FIBER void script_send(struct script *s, unsigned client, str line);
FIBER void script_expect(struct script *s, unsigned client, str pattern, bool skip);
/* Read up to the tagged reply; true when it is OK, false when it is "NO [UNAVAILABLE]". Anything else fails. */
FIBER bool script_tagged(struct script *s, unsigned client, str tag);
/* A word of words.c. False: it is none of them. */
FIBER bool script_word(struct script *s, str line);

#endif
