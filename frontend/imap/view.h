/*
 * view.h: the selected mailbox as the client knows it, and telling it what has changed.
 */
#ifndef FRONTEND_IMAP_VIEW_H
#define FRONTEND_IMAP_VIEW_H

#include "frontend/imap/session.h"

/* Make a view of a mailbox and load its UIDs. The session gets it only on success. *first_unseen: number of the first
 * message without \Seen; 0 = none, or the store did not say. */
FIBER bool imap_view_open(struct imap_session *s, const Thurn__Mailbox *box, bool is_readonly, uint32_t *first_unseen,
                          struct err *err) WARN_UNUSED;
/* Forget the view; the session is IMAP_AUTH again. Without one: nothing. */
void imap_view_close(struct imap_session *s);
/*
 * Ask the store what has changed and write EXPUNGE, EXISTS and FETCH responses. Without may_expunge removals are told
 * the next time. A store that is away is no failure here: the next call asks again. False: the connection is lost, or
 * the mailbox is gone, or was INBOX and is no longer (the session ends).
 */
FIBER bool imap_view_sync(struct imap_session *s, struct arena *a, bool may_expunge, struct err *err) WARN_UNUSED;
/*
 * Changes that this session made in one transaction: not to be told again. Without tells_flags (STORE .SILENT) that
 * holds only when nothing of others can lie between the last sync and them; else the next sync tells their flags.
 */
void imap_view_own(struct imap_session *s, const Thurn__StoreFlagsReply *r, bool tells_flags);
/* The account's modseq after this session's own change, n modseqs long: is there anything of others before it? Then the
 * session is dirty, though no beacon has come yet. */
void imap_view_heard(struct imap_session *s, uint64_t modseq, uint64_t n);
/* How many UIDs of the ranges are in the view. */
uint64_t imap_view_count(const struct imap_view *v, Thurn__Range *const *ranges, size_t n);
/* Those of the ranges that are in the view, appended to *out. */
void imap_view_within(const struct imap_view *v, Thurn__Range *const *ranges, size_t n, struct uid_map *out);
/* EXPUNGE responses for those of the ranges that are in the view, and out of the view with them. */
FIBER bool imap_view_expunge(struct imap_session *s, Thurn__Range *const *ranges, size_t n, struct err *err)
    WARN_UNUSED;
/* A command by numbers named messages that another session has removed: NO (RFC 2180 4.1.2, 4.2; RFC 5530). Always
 * false. */
bool imap_view_lost(struct imap_session *s, struct imap_command *c, struct err *err);
bool imap_view_is_recent(const struct imap_view *v, uint32_t uid);
/* Keywords that the client has not heard of: a new FLAGS response (RFC 3501 7.2.6), unless out is NULL. False: there
 * were none. */
bool imap_view_announce(struct imap_session *s, Thurn__Keyword *const *names, size_t n, struct buf *out);
/* FLAGS and PERMANENTFLAGS as they are now: at most IMAP_FLAGS_MAX bytes. */
#define IMAP_FLAGS_MAX (600u * 1024)
void imap_view_add_flags(const struct imap_view *v, struct buf *out);
/* "* 3 FETCH (FLAGS (…))", with UID when asked for and MODSEQ when the client knows CONDSTORE. */
void imap_add_flag_update(const struct imap_session *s, struct buf *out, const Thurn__Message *m, uint32_t seq,
                          bool with_uid, bool with_flags, Thurn__Keyword *const *names, size_t n_names);
/* Sets of UIDs in slices. The ranges are this caller's own. */
struct imap_ranges {
    Thurn__Range **v;
    size_t n;
};
/* What is in m, in `a`. */
struct imap_ranges imap_ranges_of(const struct uid_map *m, struct arena *a);
/* Drop what is below from_uid (0 = nothing), where a page ended. */
void imap_ranges_skip(struct imap_ranges *ranges, uint32_t from_uid);
/* The beginning of them, as one request may carry it, with at most max messages of the view; *rest is what is left. */
struct imap_ranges imap_ranges_take(struct imap_ranges *rest, const struct imap_view *view, uint64_t max,
                                    struct arena *a);

#endif
