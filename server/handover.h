/*
 * handover.h: a data folder given to the user that the server is to be.
 *
 * Root's setup makes the folder, or finds one that an earlier server of root's left; nothing in it may stay root's, or
 * the server would fail at the first file that it has to write. Everything in the folder goes, links themselves and
 * nothing that they lead to; the folder comes last, so that what was broken off can be done again. What is not ours is
 * refused before anything is changed: a folder that holds more than Thurn makes, and was never set up.
 */
#ifndef SERVER_HANDOVER_H
#define SERVER_HANDOVER_H

#include "base/err.h"

struct handover {
    const char *user;  /* root: nothing is given */
    bool from_anybody; /* a folder of another user too; without, it stays that user's */
    bool is_dry;       /* only look; the user need not be there yet */
};

/*
 * *given: how many things changed hands; 0 for a folder that is new, or was that user's with all that is in it.
 * Root alone can do this. Errors: INVALID (no such user, not a folder, not ours), DENIED (the user could not get at it,
 * a file that has another name outside).
 */
bool handover(const char *data, const struct handover *what, size_t *given, struct err *err) WARN_UNUSED;

#endif
