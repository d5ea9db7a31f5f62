/*
 * bounce.h: delivery status notifications: what the sender is told about recipients (RFC 3461 6, 3464, 6522; 6533 for
 * UTF-8). Pure. The envelope (null sender, NOTIFY=NEVER) and when to tell are the caller's business.
 */
#ifndef QUEUE_SERVICE_BOUNCE_H
#define QUEUE_SERVICE_BOUNCE_H

#include "base/buf.h"
#include "base/err.h"

/* of the original's header that is returned; cut at a line */
#define BOUNCE_HEADERS_MAX ((size_t)64 * 1024)

enum bounce_action { BOUNCE_FAILED, BOUNCE_DELAYED, BOUNCE_DELIVERED, BOUNCE_RELAYED, BOUNCE_EXPANDED };
struct bounce_rcpt {
    uint32_t number;        /* the caller's; not shown */
    str final_recipient;    /* the address that was tried */
    str original_recipient; /* ORCPT as given ("rfc822;…"), or an address, or empty */
    enum bounce_action action;
    str status;     /* "5.1.1" */
    uint16_t code;  /* SMTP reply code; 0 = diagnostic is no reply of a peer */
    str diagnostic; /* one line for people, or empty */
    str remote_mta; /* "mx.example.net" or "mx.example.net[192.0.2.1]"; empty = nobody else was asked */
    int64_t last_attempt_unix, will_retry_until_unix; /* 0 = not said */
};
struct bounce_input {
    str reporting_mta; /* this host's name */
    str envelope_id;   /* ENVID as given (xtext), or empty */
    str sender;        /* whom to tell: the original's sender */
    int64_t arrival_unix;
    const struct bounce_rcpt *rcpts;
    size_t n_rcpts; /* at least 1 */
    str original;   /* the original's content: its header at least */
    /* `original` is all of it, and the sender wants it back: returned whole if something failed */
    bool is_whole;
    bool is_smtputf8; /* the sender's side understands UTF-8 in header fields */
};
/*
 * The complete message with CRLF line ends, appended to *out. It has 8-bit text only if the original part or (with
 * is_smtputf8) an address has. Errors: LIMIT (over the cap of out; nothing is appended).
 */
bool bounce_build(const struct bounce_input *in, struct buf *out, struct err *err) WARN_UNUSED;

#endif
