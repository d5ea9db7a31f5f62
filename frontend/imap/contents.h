/*
 * contents.h: which messages a mailbox has, as its view and STATUS begin with.
 */
#ifndef FRONTEND_IMAP_CONTENTS_H
#define FRONTEND_IMAP_CONTENTS_H

#include "frontend/imap/session.h"
#include "proto/store.pb-c.h"

/* Search, page by page: take gets each reply, which lives until it returns. The account is filled in. Errors: those of
 * Search and of take. */
FIBER bool imap_search_pages(struct imap_session *s, Thurn__SearchRequest *q,
                             bool (*take)(void *arg, const Thurn__SearchReply *r, struct err *err), void *arg,
                             struct err *err) WARN_UNUSED;

struct imap_contents {
    struct uid_map uids;
    bool says_seen;        /* else the two below are unknown: a store of the release before */
    uint32_t first_unseen; /* UID of the first message without \Seen; 0 = none */
    uint32_t last_seen;    /* UID of the last message with it; 0 = none */
};
/* Ask the store for the messages from a UID on (0 = all): one call for up to 30,000 runs of UIDs. *out is empty before;
 * release it after success and failure. Errors: those of Search. */
FIBER bool imap_contents_load(struct imap_session *s, int64_t mailbox_id, uint32_t from_uid, struct imap_contents *out,
                              struct err *err) WARN_UNUSED;
void imap_contents_done(struct imap_contents *c);

#endif
