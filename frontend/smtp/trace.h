/*
 * trace.h: what we write on top of a message that passes (RFC 5321 4.4): Received, and for our own users a Date and a
 * Message-ID where they are missing (RFC 6409 8.1 and 8.2).
 */
#ifndef FRONTEND_SMTP_TRACE_H
#define FRONTEND_SMTP_TRACE_H

#include "base/buf.h"

struct smtp_body;
struct smtp_session;
struct smtp_txn;

/* Look at the header, which is in memory, and write the fields in front of it; or set the body's failure. Once. */
void smtp_trace(struct smtp_body *b, struct smtp_session *s);
/* "Return-Path: <sender>": on top of what is put into a mailbox. */
void smtp_add_return_path(struct buf *out, const struct smtp_txn *t);
/* "helo [192.0.2.1]" for the log. */
void smtp_add_client(struct buf *out, const struct smtp_session *s);

#endif
