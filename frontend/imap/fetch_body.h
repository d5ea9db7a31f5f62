/*
 * fetch_body.h: the bytes that BODY[…] names: a range of the message, or fields of a header.
 */
#ifndef FRONTEND_IMAP_FETCH_BODY_H
#define FRONTEND_IMAP_FETCH_BODY_H

#include "frontend/imap/parse_fetch.h"
#include "frontend/imap/session.h"

#define IMAP_HEADER_PREFETCH (16u * 1024) /* bytes of each message that a fetch of headers asks for */

/* What of the raw messages a whole FETCH needs. */
struct imap_raw_need {
    bool any;    /* some of it */
    bool bodies; /* more than headers of whole messages */
    bool parsed; /* where parts of it begin and end */
};
struct imap_raw_need imap_raw_need_of(const struct imap_fetch *f);

/*
 * Write "BODY[…] {n}" and the bytes (or NIL when there is no such part). What is in m->raw (from offset 0) is used; the
 * rest is read from the store and streamed to the client. out holds what goes before and is flushed when bytes are
 * streamed. False: the connection ends, as half a literal was promised; or err says that the store could not.
 */
FIBER bool imap_fetch_section(struct imap_session *s, struct imap_command *c, const Thurn__Message *m,
                              const struct imap_fetch_item *item, struct buf *out, struct err *err) WARN_UNUSED;

#endif
