/*
 * confine.h: what a running process may still do, once it has its ports.
 *
 * In this order, before any other thread is there (the kernel's fences are those of a thread and what it starts):
 *   confine_become   another user than root, and no capability
 *   confine_fence    no new privileges; a list of system calls that nothing here needs (seccomp: no other program, no
 * look into other processes, no mounts, no modules, no keys); files (Landlock): written in our own folders alone, and a
 * process that is nothing but a front-end reads only what programs, certificates and settings are and, when it is up:
 *   confine_sockets  no new Unix sockets, where none is needed
 * What the kernel does not have is left out, and said in the log (server.fence).
 *
 * A parent of workers may start one program: itself. Workers inherit its fences and put theirs on top.
 */
#ifndef SERVER_CONFINE_H
#define SERVER_CONFINE_H

#include "base/config.h"

struct confine {
    unsigned roles; /* enum role bits */
    bool is_worker;
    bool starts_workers;
    const char *config_file; /* may be NULL */
};

/*
 * Become the user of the setting, else the owner of the data folder, when we are root and that user is not; a missing
 * folder is made, and that user's. All capabilities go in any case. Verbs that open databases do the same, or root's
 * files would be in that user's folder. Errors: INVALID (no such user), DENIED (the folder belongs to another).
 */
bool confine_become(const struct config *c, struct err *err) WARN_UNUSED;
/* Errors: INTERNAL: the kernel has a fence and did not put it up. */
bool confine_fence(const struct config *c, const struct confine *what, struct err *err) WARN_UNUSED;
bool confine_sockets(struct err *err) WARN_UNUSED;
/* Before the event loop is made: see fence_no_rings. */
bool confine_loop(struct err *err) WARN_UNUSED;

#endif
