#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/log.h"
#include "base/metrics.h"

/* Libraries' texts have several lines; ours are put in lists and logs. Each run of control characters becomes one
 * space, but at the end. */
static void make_one_line(char *z)
{
    char *to = z;
    for (const char *from = z; *from; from++) {
        if (!ascii_is_ctl((unsigned char)*from))
            *to++ = *from;
        else if (from[1] && !ascii_is_ctl((unsigned char)from[1]))
            *to++ = ' ';
    }
    *to = '\0';
}

bool(err_set)(struct err *err, enum err_kind kind, const char *fmt, ...)
{
    assert(err->kind == ERR_NONE && kind != ERR_NONE);
    va_list ap;
    va_start(ap, fmt);
    err->kind = kind;
    vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
    va_end(ap);
    make_one_line(err->msg);
    return false;
}

bool(err_prefix)(struct err *err, const char *fmt, ...)
{
    assert(err->kind != ERR_NONE);
    struct err old = *err;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
    va_end(ap);
    size_t at = n < 0 ? 0 : MIN((size_t)n, sizeof(err->msg) - 1);
    snprintf(err->msg + at, sizeof(err->msg) - at, ": %.*s", (int)sizeof(old.msg), old.msg);
    return false;
}

bool err_broken(struct err *err, const char *cond, const char *file, int line)
{
    const char *slash = strrchr(file, '/');
    metric_inc(M_INVARIANTS_BROKEN);
    (void)err_set(err, ERR_INTERNAL, "invariant broken: %s (%s:%d)", cond, slash ? slash + 1 : file, line);
    log_error("invariant.broken", KV_ERR(err));
    return false;
}

const char *err_kind_name(enum err_kind kind)
{
    static const char *const names[ERR_KINDS_] = {
        [ERR_NONE] = "none",           [ERR_INVALID] = "invalid",         [ERR_NOT_FOUND] = "not_found",
        [ERR_EXISTS] = "exists",       [ERR_DENIED] = "denied",           [ERR_LIMIT] = "limit",
        [ERR_CONFLICT] = "conflict",   [ERR_UNAVAILABLE] = "unavailable", [ERR_TIMEOUT] = "timeout",
        [ERR_CANCELLED] = "cancelled", [ERR_INTERNAL] = "internal",       [ERR_BUSY] = "busy",
        [ERR_QUOTA] = "quota",
    };
    return kind < ERR_KINDS_ ? names[kind] : "unknown";
}
