/*
 * sqlite_vfs.h: SQLite's file system for writers, which gathers what goes to the write-ahead log. Included by lib/data
 * only.
 *
 * SQLite writes each changed page to the log by two calls, 24 bytes and 4 KiB. Here they stay in memory until the log
 * is synced, and go out as writes of up to 64 KiB. Nothing is weaker for it: with synchronous=FULL, which our writers
 * set before anything else, the log is synced before a commit is shown to anyone, and what a transaction has written
 * before its commit nobody but its own connection reads; its reads of the log write out first. An error of a deferred
 * write is told by the call that writes it, at the latest by the sync, and so fails the commit.
 */
#ifndef DATA_SQLITE_VFS_H
#define DATA_SQLITE_VFS_H

/* The name to open with; registered at the first call, from any thread. NULL (SQLite's default) if it cannot be. */
const char *sqlite_writer_vfs(void);

#endif
