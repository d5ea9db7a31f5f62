/*
 * utf7.h: IMAP's modified UTF-7 for mailbox names (RFC 3501 5.1.3).
 */
#ifndef MAIL_UTF7_H
#define MAIL_UTF7_H

#include "base/buf.h"

/* Append the mailbox name in modified UTF-7. utf8 is well-formed. */
void utf7_encode(struct buf *out, str utf8);
/* Append the name in UTF-8. False when it is malformed, or not in its shortest form (then two spellings would name one
 * mailbox); what was appended so far is undefined. */
bool utf7_decode(struct buf *out, str name) WARN_UNUSED;

#endif
