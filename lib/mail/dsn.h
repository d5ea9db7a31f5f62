/*
 * dsn.h: how delivery status notifications write addresses and ids (RFC 3461 4, RFC 6533 3). Pure.
 */
#ifndef MAIL_DSN_H
#define MAIL_DSN_H

#include "base/buf.h"

/* s as xtext: "+", "=" and what is no visible ASCII as "+XX". */
void dsn_add_xtext(struct buf *out, str s);
/* The content of xtext; false, and nothing written, when it is malformed. */
bool dsn_add_unxtext(struct buf *out, str xtext) WARN_UNUSED;

/* Whether this is an ORCPT value, addr-type ";" …, and not an address. */
bool dsn_is_typed(str orcpt);
/* An ORCPT value for an address: "rfc822;" with xtext, or "utf-8;" with utf-8-addr-xtext when it is not ASCII. */
void dsn_add_orcpt(struct buf *out, str address);
/*
 * The value of Final-Recipient for an address, and that of Original-Recipient for an ORCPT value as given (or for an
 * address, when there is no type): "rfc822; bob@example.org". is_utf8: for message/global-delivery-status, where UTF-8
 * stands as it is; elsewhere it becomes \x{…}. An unreadable ORCPT is written as given.
 */
void dsn_add_recipient(struct buf *out, str address, bool is_utf8);
void dsn_add_original(struct buf *out, str orcpt, bool is_utf8);

#endif
