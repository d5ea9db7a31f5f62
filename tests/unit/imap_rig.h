/*
 * imap_rig.h: an IMAP server over a store and an auth service in memory, of which each method can be made to fail, and
 * a client.
 *
 * One account with the mailboxes INBOX and Other; INBOX has messages of some bytes, all alike, the last one too large
 * to come with a page. Everything runs on one fiber runtime; imap_rig_run calls the test on a fiber.
 */
#ifndef UNIT_IMAP_RIG_H
#define UNIT_IMAP_RIG_H

#include "unit/base_test.h"

#include "frontend/imap/imap.h"
#include "net/stream.h"
#include "proto/auth.pb-c.h"
#include "proto/store.pb-c.h"
#include "rpc/call.h"

#define IMAP_RIG_METHODS 64

struct imap_rig;
struct imap_rig_service {
    ProtobufCService base;
    struct imap_rig *rig;
    enum err_kind fails[IMAP_RIG_METHODS]; /* by number of the method */
    unsigned calls[IMAP_RIG_METHODS];
};
struct imap_rig {
    struct imap_rig_service auth, store;
    struct imap_opts opts;
    struct imap_server *server;
    struct stream *client;
    uint32_t n_messages;           /* in INBOX; 3 at first */
    uint64_t modseq;               /* of INBOX; 10 at first */
    bool expunges_all;             /* what Expunge says */
    bool is_other_gone;            /* Other is not listed */
    const char *hides_other_after; /* … once this method has failed */
    struct fiber_cond changed;
    uint64_t beacon; /* what the next Watch tells, when not 0 */
    void *arg;       /* of the test */
    void (*test)(struct imap_rig *r);
};
/* prepare may be NULL; it may change opts and the counts. */
void imap_rig_run(void (*prepare)(struct imap_rig *r), void (*test)(struct imap_rig *r), void *arg);
/* The slot of a method, by its name: r->store.fails[imap_rig_method(&r->store, "Fetch")]. */
unsigned imap_rig_method(const struct imap_rig_service *s, const char *name);
/* A client that has read the greeting. The one before is closed. */
FIBER void imap_rig_connect(struct imap_rig *r);
FIBER struct stream *imap_rig_dial(struct imap_rig *r);
FIBER void imap_rig_say(struct stream *s, const char *text);
/* The next line, without its end, in a static buffer; STR_NONE: closed. */
FIBER str imap_rig_line(struct stream *s);
/* Lines up to the one that begins with this: that one. STR_NONE: closed before. */
FIBER str imap_rig_until(struct stream *s, const char *prefix);
/* Say "tag command" and CRLF, and wait for the line that begins with "tag ". */
FIBER str imap_rig_command(struct stream *s, const char *tag, const char *command);
/* Tell the front-end that the account has changed. */
void imap_rig_change(struct imap_rig *r);

#endif
