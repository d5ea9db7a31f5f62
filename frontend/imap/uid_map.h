/*
 * uid_map.h: which UIDs a mailbox view has, and their message sequence numbers, as ranges: 12 bytes a run of UIDs.
 */
#ifndef FRONTEND_IMAP_UID_MAP_H
#define FRONTEND_IMAP_UID_MAP_H

#include "base/base.h"

struct uid_run {
    uint32_t first, last; /* UIDs */
    uint32_t seq;         /* of first; sequence numbers begin at 1 */
};
struct uid_map {
    struct uid_run *v;
    uint32_t n, room;
};
void uid_map_done(struct uid_map *m);
uint32_t uid_map_count(const struct uid_map *m);
uint32_t uid_map_max(const struct uid_map *m); /* 0 when empty */
/* Add UIDs above all that are there; lower ones are ignored. False when first > last. */
bool uid_map_append(struct uid_map *m, uint32_t first, uint32_t last);
/* Sequence number of a UID, or 0. */
uint32_t uid_map_seq(const struct uid_map *m, uint32_t uid);
/* UID of a sequence number, or 0. */
uint32_t uid_map_uid(const struct uid_map *m, uint32_t seq);
/* How many UIDs are at or below uid. */
uint32_t uid_map_rank(const struct uid_map *m, uint32_t uid);
/* Append those of [first, last] that are in m to *out, which has only lower ones. */
void uid_map_within(const struct uid_map *m, uint32_t first, uint32_t last, struct uid_map *out);
/* Remove what is in gone. One pass over both. */
void uid_map_subtract(struct uid_map *m, const struct uid_map *gone);

#endif
