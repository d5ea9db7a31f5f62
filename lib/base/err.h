/*
 * err.h: an error is a kind, which decides behaviour, and a text, which is for the log.
 *
 * A function that can fail returns bool (or a pointer) and takes `struct err *err` last, never NULL. Setting an error
 * over an error asserts. Outputs are written only on success.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include "base/str.h"

enum err_kind {
    ERR_NONE = 0,
    ERR_INVALID,   /* the request is malformed or makes no sense; a retry cannot help */
    ERR_NOT_FOUND, /* the thing that the request names does not exist; never: a part of the machinery is missing */
    ERR_EXISTS,
    ERR_DENIED,      /* not allowed for this principal; wrong credentials */
    ERR_LIMIT,       /* the request exceeds a bound of size, count or rate: it cannot succeed as it is */
    ERR_CONFLICT,    /* a precondition failed, or the thing moved: look it up again */
    ERR_UNAVAILABLE, /* something needed is away; a retry may help */
    ERR_TIMEOUT,     /* the deadline passed; whether it took effect is unknown */
    ERR_CANCELLED,   /* the caller went away, or the process drains */
    ERR_INTERNAL,    /* our own mistake, or data that cannot be */
    ERR_BUSY,        /* too much waits here just now, and nothing was done: temporary, whoever asks */
    ERR_QUOTA,       /* the account's mailbox is full (RFC 9208) */
    ERR_KINDS_
};

struct err {
    enum err_kind kind;
    char msg[240];
};
#define ERR_INIT                                                                                                       \
    {                                                                                                                  \
        ERR_NONE, ""                                                                                                   \
    }

/* Set kind and text; always returns false, so `return err_set(err, …);` works. */
bool err_set(struct err *err, enum err_kind kind, const char *fmt, ...) PRINTF(3, 4);
/* Put "prefix: " before the text of an error that is set; returns false. */
bool err_prefix(struct err *err, const char *fmt, ...) PRINTF(2, 3);
#ifdef __clang_analyzer__ /* which sees one file at a time, and would think that a refusal can be true */
#define err_set(...) ((void)err_set(__VA_ARGS__), false)
#define err_prefix(...) ((void)err_prefix(__VA_ARGS__), false)
#endif
static inline void err_clear(struct err *err)
{
    err->kind = ERR_NONE;
    err->msg[0] = '\0';
}
static inline bool err_is_set(const struct err *err)
{
    return err->kind != ERR_NONE;
}
/* Whether the same again may succeed later without anybody doing something. LIMIT and QUOTA are not among them. */
static inline bool err_is_temporary(const struct err *err)
{
    return err->kind == ERR_UNAVAILABLE || err->kind == ERR_BUSY || err->kind == ERR_TIMEOUT ||
           err->kind == ERR_CANCELLED;
}
/*
 * An invariant that some data could break after all: `if (!HOLDS(a == b, err)) return false;` ends this piece of work
 * with INTERNAL, an error line in the log and a metric, and no other. assert ends the process for all: it is for what
 * would leave memory unsound, and for mistakes that no data can bring about.
 */
#define HOLDS(cond, err) (__builtin_expect(!!(cond), 1) || err_broken((err), #cond, __FILE__, __LINE__))
bool err_broken(struct err *err, const char *cond, const char *file, int line); /* returns false */
const char *err_kind_name(enum err_kind kind); /* "not_found", for logs, metrics and the wire */

#endif
