/*
 * authres.h: the Authentication-Results field, RFC 8601: what was found out about a message, for those who read it
 * here. And which fields of that name came from outside in our name.
 */
#ifndef MAILAUTH_AUTHRES_H
#define MAILAUTH_AUTHRES_H

#include "mailauth/arc.h"
#include "mailauth/dmarc.h"
#include "mailauth/spf.h"

/* What is said, without the field's name and line end: "mx.example; spf=pass …". buf is the caller's, its cap is the
 * field's. */
struct authres {
    struct buf *out;
    bool has_result;
};
void authres_begin(struct authres *r, struct buf *out, str authserv_id);
/* One method. The texts come from the wire: they are quoted where they are no tokens, and control characters are left
 * out (RFC 8601 2.2). */
void authres_method(struct authres *r, const char *method, const char *result, str reason);
/* of the method before; empty values are left out */
void authres_property(struct authres *r, const char *type_and_name, str value);
void authres_end(struct authres *r); /* "none" when there was no method */

/* Methods with their properties. is_helo: the identity was that of HELO. */
void authres_spf(struct authres *r, const struct spf_verdict *v, str identity, bool is_helo);
void authres_dkim(struct authres *r, const struct dkim_message *m);
void authres_arc(struct authres *r, const struct arc_chain *c);
void authres_dmarc(struct authres *r, const struct dmarc_verdict *v);
void authres_iprev(struct authres *r, const char *result, str name, const struct auth_ip *ip);

/* Whether the value of a field of that name says to be ours, or cannot be read: it is removed from what comes from
 * outside (5). */
bool authres_is_ours(str value, str authserv_id);

#endif
