/*
 * fence.h: what the kernel lets this process and all that it starts do from now on: Landlock for files, seccomp for
 * system calls. By the kernel's own interfaces, without a library. What the kernel does not have is left out, with a
 * line in the log.
 */
#ifndef SERVER_FENCE_H
#define SERVER_FENCE_H

#include "base/err.h"

/* LANDLOCK_ACCESS_FS_*: of later kernels than the headers may be. */
#define FENCE_EXECUTE (UINT64_C(1) << 0)
#define FENCE_WRITE_FILE (UINT64_C(1) << 1)
#define FENCE_READ_FILE (UINT64_C(1) << 2)
#define FENCE_READ_DIR (UINT64_C(1) << 3)
#define FENCE_REMOVE_FILE (UINT64_C(1) << 5)
#define FENCE_MAKE_SOCK (UINT64_C(1) << 9)
#define FENCE_TRUNCATE (UINT64_C(1) << 14) /* since 6.2 */
#define FENCE_SOCKETS (FENCE_MAKE_SOCK | FENCE_REMOVE_FILE)
/* Write, remove (4, 5), make (6 to 12), link and rename between folders (13). */
#define FENCE_WRITE (FENCE_WRITE_FILE | (UINT64_C(0x3ff) << 4) | FENCE_TRUNCATE)

struct fence {
    int fd; /* of the rules; -1: the kernel has no Landlock */
    uint64_t handled;
};
/* From fence_end on nothing of `handled` is allowed but what the rules between say. False without Landlock, or with an
 * error. */
bool fence_begin(struct fence *f, uint64_t handled, struct err *err) WARN_UNUSED;
/* Below this path, or that file. A path that is not there is left out. Without Landlock nothing is done. */
void fence_allow(struct fence *f, const char *path, uint64_t access);
/* To start this very program again. */
void fence_allow_self(struct fence *f);
bool fence_end(struct fence *f, struct err *err) WARN_UNUSED;

/* System calls that nothing here needs fail with EPERM, in every thread; with no_programs also those that start a
 * program. */
bool fence_calls(bool no_programs, struct err *err) WARN_UNUSED;
/*
 * No rings of io_uring, before the event loop is made: from 1.45 on libuv makes one with the loop and aborts when its
 * calls are refused later; without one it goes by epoll alone.
 */
bool fence_no_rings(struct err *err) WARN_UNUSED;
/* No more sockets of AF_UNIX; those that are there go on. In every thread. */
bool fence_no_unix_sockets(struct err *err) WARN_UNUSED;

#endif
