#include "base/log.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"

#define LOG_LINE_MAX 8192u

static enum log_level level_now = LOG_INFO;
static enum log_format format_now = LOG_LOGFMT;
static log_context_fn context_now;
static void (*sink_now)(enum log_level level, str line);

bool log_wants(enum log_level level)
{
    return level <= level_now;
}

void log_configure(enum log_level level, enum log_format format)
{
    level_now = level;
    format_now = format;
}

void log_set_context(log_context_fn fn)
{
    context_now = fn;
}

void log_set_sink(void (*sink)(enum log_level level, str line))
{
    sink_now = sink;
}

static const char *const level_names[] = {"error", "warn", "info", "debug"};

bool log_level_parse(str s, enum log_level *out)
{
    for (size_t i = 0; i < ARRAY_LEN(level_names); i++) {
        if (str_eq(s, str_c(level_names[i]))) {
            *out = (enum log_level)i;
            return true;
        }
    }
    return false;
}

static bool is_bare(str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c <= ' ' || c >= 0x7f || c == '"' || c == '=' || c == '\\')
            return false;
    }
    return s.n > 0;
}

void log_add_kv(struct buf *line, const struct log_kv *kv)
{
    bool is_json = format_now == LOG_JSON;
    buf_add(line, is_json ? S(",\"") : S(" "));
    buf_add(line, str_c(kv->key));
    buf_add(line, is_json ? S("\":") : S("="));
    if (kv->type == LOG_KV_I64)
        buf_printf(line, "%lld", (long long)kv->i);
    else if (!is_json && is_bare(kv->s))
        buf_add(line, kv->s);
    else
        buf_add_json(line, kv->s);
}

void log_event(enum log_level level, const char *event, const struct log_kv *kv, size_t n)
{
    BUF(line, LOG_LINE_MAX);
    int64_t now_ms = clock_unix_ms();
    time_t now = (time_t)(now_ms / 1000);
    struct tm tm;
    gmtime_r(&now, &tm);
    char at[32];
    size_t at_n = strftime(at, sizeof(at), "%Y-%m-%dT%H:%M:%S", &tm);
    buf_printf(&line, format_now == LOG_JSON ? "{\"at\":\"%.*s.%03dZ\"" : "at=%.*s.%03dZ", (int)at_n, at,
               (int)(now_ms % 1000));
    log_add_kv(&line, &KV_Z("level", level_names[level]));
    log_add_kv(&line, &KV_Z("event", event));
    if (context_now)
        context_now(&line);
    for (size_t i = 0; i < n; i++)
        log_add_kv(&line, &kv[i]);
    if (!buf_ok(&line)) { /* the cap cut it: say so instead of printing half an escape */
        buf_truncate(&line, MIN(line.n, (size_t)LOG_LINE_MAX - 64));
        line.is_over = false;
        buf_add(&line, format_now == LOG_JSON ? S("\",\"cut\":true") : S("\" cut=true"));
    }
    if (format_now == LOG_JSON)
        buf_addc(&line, '}');
    if (sink_now) {
        sink_now(level, buf_str(&line));
        return;
    }
    buf_addc(&line, '\n');
    /* One write a line, so that lines of several processes do not mix. A full pipe loses the line. */
    ssize_t written = write(STDERR_FILENO, line.p, line.n);
    (void)written;
}
