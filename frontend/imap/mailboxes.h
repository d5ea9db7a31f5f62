/*
 * mailboxes.h: an account's mailboxes by their full names.
 */
#ifndef FRONTEND_IMAP_MAILBOXES_H
#define FRONTEND_IMAP_MAILBOXES_H

#include "frontend/imap/session.h"

struct imap_mailbox {
    const Thurn__Mailbox *row;
    str name; /* components joined by "/", UTF-8 */
    bool has_children;
    bool is_missing; /* there is no such mailbox: its name is subscribed, or above one that is */
};
struct imap_mailboxes {
    struct imap_mailbox *v; /* by name, INBOX first */
    size_t n;
    Thurn__Keyword *const *keywords; /* of the account, when they were asked for */
    size_t n_keywords;
    bool is_keywords_full; /* there is no room for another one */
};
/* One store call, or two for thousands of names. *out lives in the command's arena. */
FIBER bool imap_mailboxes_load(struct imap_session *s, struct imap_command *c, bool with_keywords,
                               struct imap_mailboxes *out, struct err *err) WARN_UNUSED;
/* Add to a loaded list the subscribed names without a mailbox, and what is missing above them. One store call. */
FIBER bool imap_mailboxes_add_missing(struct imap_session *s, struct imap_command *c, struct imap_mailboxes *list,
                                      struct err *err) WARN_UNUSED;
const struct imap_mailbox *imap_mailboxes_find(const struct imap_mailboxes *list, str name);
/* Find, or NOT_FOUND when there is none of that name; code is what NO says then: "NONEXISTENT" or "TRYCREATE". */
bool imap_mailboxes_get(const struct imap_mailboxes *list, struct imap_command *c, str name, const char *code,
                        const Thurn__Mailbox **out, struct err *err) WARN_UNUSED;
/* Load and get. */
FIBER bool imap_mailbox_open(struct imap_session *s, struct imap_command *c, str name, const char *code,
                             const Thurn__Mailbox **out, struct err *err) WARN_UNUSED;
/*
 * The call that would put messages into the mailbox of this name has failed. Always false. TRYCREATE only when the
 * account has no such mailbox (RFC 3501 6.3.11): a client makes one then. One store call when the store found something
 * missing.
 */
FIBER bool imap_destination_failed(struct imap_session *s, struct imap_command *c, str name,
                                   const struct rpc_call *call, struct err *err);
/* " mailbox" as a command's only remaining argument. */
bool imap_mailbox_arg(struct imap_command *c, str *name, struct err *err) WARN_UNUSED;

#endif
