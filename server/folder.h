/*
 * folder.h: folders of ours, and the modes of what is in them.
 */
#ifndef SERVER_FOLDER_H
#define SERVER_FOLDER_H

#include "base/err.h"

/* Make it (mode 0700), and those above it. DENIED when that cannot be, or when it cannot be written in; errors say what
 * to do. */
bool folder_make(const char *path, struct err *err) WARN_UNUSED;
/* What is in it and is ours, and others may read: made 0600, folders 0700. The log says how many. */
void folder_narrow(const char *path);
/* The name of a user of this machine, or #UID in room. */
const char *folder_user(unsigned uid, char room[24]);
/* What it means that path could not be read for EACCES: whose it is, or the folder above it that lets nobody pass.
 * Returns false, DENIED. */
bool folder_denied(const char *path, struct err *err);

#endif
