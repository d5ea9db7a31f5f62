/*
 * folder.h: folders of ours, and the modes of what is in them.
 */
#ifndef SERVER_FOLDER_H
#define SERVER_FOLDER_H

#include "base/err.h"

/* Make it (mode 0700), and those above it. DENIED when that cannot be, or when it cannot be written in; errors say what to do. */
bool folder_make(const char *path, struct err *err) WARN_UNUSED;
/* What is in it and is ours, and others may read: made 0600, folders 0700. The log says how many. */
void folder_narrow(const char *path);

#endif
