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
    ERR_INVALID,     /* the request is malformed or makes no sense; a retry cannot help */
    ERR_NOT_FOUND,
    ERR_EXISTS,
    ERR_DENIED,      /* not allowed for this principal; wrong credentials */
    ERR_LIMIT,       /* a quota, rate or size limit */
    ERR_CONFLICT,    /* a precondition failed, or the thing moved: look it up again */
    ERR_UNAVAILABLE, /* something needed is away; a retry may help */
    ERR_TIMEOUT,     /* the deadline passed; whether it took effect is unknown */
    ERR_CANCELLED,   /* the caller went away, or the process drains */
    ERR_INTERNAL,    /* our own mistake, or data that cannot be */
    ERR_KINDS_
};

struct err {
    enum err_kind kind;
    char msg[240];
};
#define ERR_INIT {ERR_NONE, ""}

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
/* Whether a later try may succeed: UNAVAILABLE, TIMEOUT, CANCELLED, LIMIT is not among them. */
static inline bool err_is_temporary(const struct err *err)
{
    return err->kind == ERR_UNAVAILABLE || err->kind == ERR_TIMEOUT || err->kind == ERR_CANCELLED;
}
const char *err_kind_name(enum err_kind kind); /* "not_found", for logs, metrics and the wire */

#endif
