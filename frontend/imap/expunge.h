/*
 * expunge.h: removing messages of a mailbox, page by page: each is one transaction, and complete in itself.
 */
#ifndef FRONTEND_IMAP_EXPUNGE_H
#define FRONTEND_IMAP_EXPUNGE_H

#include "frontend/imap/view.h"

struct imap_expunge {
    int64_t mailbox_id;
    struct imap_ranges ranges; /* what is left of it; empty when all is done */
    bool is_any;               /* also what is not \Deleted */
};
/* The whole mailbox as ranges, in `a`. */
struct imap_ranges imap_ranges_all(struct arena *a);
/* The next page of e, which moves on. *r lives in `a`. Errors: those of Expunge. */
FIBER bool imap_expunge_next(struct imap_session *s, struct imap_expunge *e, struct arena *a,
                             const Thurn__ExpungeReply **r, struct err *err) WARN_UNUSED;

#endif
