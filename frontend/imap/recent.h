/*
 * recent.h: which messages are \Recent (RFC 3501 2.3.2).
 *
 * They are always the newest ones, so one UID a mailbox says it: those at or above it no read-write session has been
 * told of. A front-end process remembers that UID for the mailboxes that were opened through it. For any other mailbox
 * the messages after the last one that was ever read are recent: the RFC prefers too many to too few, and RFC 9051
 * dropped the flag. BUGS: sessions on another front-end process see them as recent once more.
 */
#ifndef FRONTEND_IMAP_RECENT_H
#define FRONTEND_IMAP_RECENT_H

#include "frontend/imap/contents.h"

struct imap_recents;
struct imap_recents *imap_recents_new(void);
void imap_recents_free(struct imap_recents *r);
/* The first recent UID of a mailbox. now: all that it has, or what it has from the UID on that imap_recent_known gave.
 */
uint32_t imap_recent_from(const struct imap_session *s, int64_t mailbox_id, const struct imap_contents *now);
/* The same, when this process knows it; 0 when not. */
uint32_t imap_recent_known(const struct imap_session *s, int64_t mailbox_id);
/* A read-write session is told of everything below next_uid. */
void imap_recent_told(struct imap_session *s, int64_t mailbox_id, uint32_t next_uid);

#endif
