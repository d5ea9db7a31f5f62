/*
 * smtp_peer.h: a mail server for tests that does what a script says, one script a connection.
 *
 * A script has a line for each step:
 *   S text   say the line        R text   say the text without an end (\r and \n are written so)
 *   C text   the client's next line begins so
 *   D        read content up to its end of data          B        read one BDAT command with its chunk
 *   T        TLS handshake       X        break the connection off        N text   say the line 1,000 times
 *   W n      let n seconds of the frozen clock pass
 * At the end it says nothing more and reads lines until the client closes.
 * What does not fit is told by peer_check.
 */
#ifndef TESTS_SMTP_PEER_H
#define TESTS_SMTP_PEER_H

#include "base/buf.h"
#include "net/listener.h"

#define PEER_SCRIPTS_MAX 8u

struct peer {
    const char *scripts[PEER_SCRIPTS_MAX]; /* of the first, second, … connection */
    size_t split;                          /* the bytes that it says are cut here by a pause; SIZE_MAX = nowhere */
    struct tls_server *tls;
    struct listener *listener;
    unsigned n_connections, n_running;
    size_t n_said;      /* bytes, on the last connection */
    struct buf lines;   /* what the clients said, each line with LF */
    struct buf content; /* of D and B, raw */
    char failure[300];
};
/* Listen on ip (a loopback address); port 0 takes any. Returns the port. */
uint16_t peer_start(struct peer *p, const char *ip, uint16_t port);
/* Forget what was said; these scripts from now on (up to the first NULL). */
void peer_script(struct peer *p, const char *first, const char *second, const char *third);
/* Wait until the connections have ended and fail the test when something did not go by the script. */
FIBER void peer_check(struct peer *p, unsigned n_connections);
void peer_stop(struct peer *p);

#endif
