/*
 * message.h: write messages: header fields that are folded and encoded as they must be, and multiparts.
 *
 * Values never carry a line end into the output: CR, LF and NUL in them become spaces. Lines end with CRLF and stay
 * within 78 characters where there is white space to fold at (RFC 5322 2.1.1).
 */
#ifndef MAIL_MESSAGE_H
#define MAIL_MESSAGE_H

#include "base/buf.h"

/* "Name: value", unstructured: non-ASCII text becomes encoded words (RFC 2047). */
void message_add_text(struct buf *out, str name, str utf8);
/* "Name: value" as it is (ASCII or, for SMTPUTF8, UTF-8), folded at white space: dates, ids, structured fields. */
void message_add_raw(struct buf *out, str name, str value);
/* "Name: Display <local@domain>"; display may be empty; address is as SMTP has it. */
void message_add_mailbox(struct buf *out, str name, str display_utf8, str address);

#define MESSAGE_BOUNDARY_SIZE 40u
/* A random boundary, NUL-terminated. */
void message_make_boundary(char out[MESSAGE_BOUNDARY_SIZE]);
/* Content-Type: multipart/<subtype> with parameters such as "; report-type=delivery-status" (may be empty); ends the
 * header. */
void message_begin_multipart(struct buf *out, str subtype, str params, const char *boundary);
/* The boundary line before a part; its fields, a blank line and its body follow. */
void message_begin_part(struct buf *out, const char *boundary);
void message_end_multipart(struct buf *out, const char *boundary);
/* A message id with its angle brackets: random, @domain. */
void message_add_id(struct buf *out, str domain);

#endif
