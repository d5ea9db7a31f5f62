/*
 * disk.h: whether there is room on the disk of a folder, beyond a reserve that is kept for what frees room.
 *
 * New mail is refused while less than the reserve is free. Deleting, moving and delivering what was accepted need a
 * little room themselves (a database writes before it frees), so the disk must not be filled to its end by what can
 * wait.
 */
#ifndef FIBER_DISK_H
#define FIBER_DISK_H

#include "base/err.h"

struct disk_room;
/* reserve_bytes 0: 1 % of the disk, at least 64 and at most 256 MiB. folder is copied. */
struct disk_room *disk_room_new(const char *folder, uint64_t reserve_bytes);
void disk_room_free(struct disk_room *r); /* NULL is allowed */
/*
 * Whether more than the reserve is free. Looked at once a second at most, by a system call that does not wait for the
 * disk; does not suspend. r is NULL: yes. A folder that cannot be looked at is no reason to refuse mail either. The
 * change is logged. Errors: UNAVAILABLE, with the figures.
 */
bool disk_room_check(struct disk_room *r, struct err *err) WARN_UNUSED;
/* The same for something that would be stored: a refusal is counted, under what it would have been. */
bool disk_room_take(struct disk_room *r, const char *what, struct err *err) WARN_UNUSED;

#endif
