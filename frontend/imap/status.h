/*
 * status.h: the items of STATUS (RFC 3501 6.3.10, RFC 7162, RFC 7889, RFC 8438), also returned by LIST.
 */
#ifndef FRONTEND_IMAP_STATUS_H
#define FRONTEND_IMAP_STATUS_H

#include "frontend/imap/session.h"

/* "(MESSAGES UNSEEN)" as bits, not 0. */
bool imap_parse_status_items(struct cursor *c, unsigned *items);
/* A whole STATUS response. recent: what RECENT says. */
void imap_add_status(const struct imap_session *s, struct buf *out, str name, const Thurn__Mailbox *row, unsigned items,
                     uint32_t recent);
bool imap_status_wants_recent(unsigned items);
/* Whether HIGHESTMODSEQ is among them: asking for it enables CONDSTORE (RFC 7162 3.1.2). */
bool imap_status_wants_modseq(unsigned items);

#endif
