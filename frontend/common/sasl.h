/*
 * sasl.h: what the front-ends share of logging in: when a password may cross the connection, and the PLAIN message.
 */
#ifndef FRONTEND_COMMON_SASL_H
#define FRONTEND_COMMON_SASL_H

#include "net/stream.h"

/* Longest line of an AUTH exchange (RFC 4954 4): base64 of a message of at most SASL_MESSAGE_MAX bytes. */
#define SASL_LINE_MAX 12288u
#define SASL_MESSAGE_MAX 9216u

enum plain_login {
    PLAIN_LOGIN_NEVER,    /* only over TLS */
    PLAIN_LOGIN_LOOPBACK, /* and in the clear from this host */
    PLAIN_LOGIN_ALWAYS
};
/* Whether a password may be asked for on this connection now. */
bool plain_login_allowed(enum plain_login policy, const struct stream *s);

/* A PLAIN message, RFC 4616: views into it. */
struct sasl_plain {
    str authzid; /* may be empty; else it must be the authcid, we have no proxy logins */
    str authcid; /* 1 to 255 bytes */
    str password;
};
/* False: malformed. */
bool sasl_plain_parse(str message, struct sasl_plain *out) WARN_UNUSED;

#endif
