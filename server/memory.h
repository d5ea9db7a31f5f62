/*
 * memory.h: how much memory there is for this process, and what a part of it may use when no setting says it.
 */
#ifndef SERVER_MEMORY_H
#define SERVER_MEMORY_H

#include "base/base.h"

/* The machine's memory, or the lowest limit of the control groups that this process is in (both versions of them).
 * root: "" but for tests. Reads small files of the kernel: at start. */
uint64_t memory_bytes(const char *root);
/* An eighth of so many, at least 64 MiB. */
uint64_t memory_share(uint64_t bytes);

#endif
