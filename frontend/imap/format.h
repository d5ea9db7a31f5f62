/*
 * format.h: what IMAP responses are made of (RFC 3501 section 9, RFC 9051 7.5.2). Pure.
 */
#ifndef FRONTEND_IMAP_FORMAT_H
#define FRONTEND_IMAP_FORMAT_H

#include "base/buf.h"
#include "proto/store.pb-c.h"

/* Quoted when it can be, else a literal. */
void imap_add_string(struct buf *out, str s);
void imap_add_nstring(struct buf *out, str s); /* NIL when empty */
void imap_add_astring(struct buf *out, str s); /* an atom when it can be */
/* A mailbox name (UTF-8) as an astring in modified UTF-7. */
void imap_add_mailbox(struct buf *out, str name);
/* "(\Seen $Label \Recent)". names are those of the reply that the ids came with. */
void imap_add_flags(struct buf *out, const Thurn__Message *m, bool is_recent, Thurn__Keyword *const *names,
                    size_t n_names);

void imap_add_envelope(struct buf *out, const Thurn__Envelope *e); /* e may be NULL */
/* BODYSTRUCTURE, or BODY when not extended. root may be NULL: size octets of plain text then. */
void imap_add_body(struct buf *out, const Thurn__Part *root, uint64_t size, bool extended);

/* The part that a section path names, as mime_part_by_number does (mail/mime.h); NULL: there is none. */
const Thurn__Part *imap_part_by_number(const Thurn__Part *root, const uint32_t *path, size_t n);
bool imap_part_is_message(const Thurn__Part *p);

#endif
