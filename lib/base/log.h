/*
 * log.h: structured log, one event a line on standard error.
 *
 *     log_info("imap.command", KV_STR("name", name), KV_I64("ms", took));
 *
 * Events and keys are listed in docs/log.md. Levels: error = someone must act, warn = degraded, info = one line per
 * unit of work, debug. Values are escaped; passwords and bodies never appear. Session, account and trace id come from
 * the context callback (lib/fiber sets it). Library code does not log; the edge logs each failure once.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/buf.h"
#include "base/err.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_LOGFMT, LOG_JSON };

struct log_kv {
    const char *key;
    enum { LOG_KV_STR, LOG_KV_I64 } type;
    str s;
    int64_t i;
};
#define KV_STR(k, v) ((struct log_kv){.key = (k), .type = LOG_KV_STR, .s = (v)})
#define KV_Z(k, v) ((struct log_kv){.key = (k), .type = LOG_KV_STR, .s = str_c(v)})
#define KV_I64(k, v) ((struct log_kv){.key = (k), .type = LOG_KV_I64, .i = (int64_t)(v)})
/* An error as one value, "kind: text". Two pairs: put it where a list of pairs goes. */
#define KV_ERR(e) KV_Z("error", err_kind_name((e)->kind)), KV_Z("reason", (e)->msg)

void log_event(enum log_level level, const char *event, const struct log_kv *kv, size_t n);
#define LOG_EVENT_(level, event, ...)                                                                                  \
    do {                                                                                                               \
        if (log_wants(level)) {                                                                                        \
            const struct log_kv kv_[] = {{.key = NULL}, ##__VA_ARGS__};                                                \
            log_event((level), (event), kv_ + 1, ARRAY_LEN(kv_) - 1);                                                  \
        }                                                                                                              \
    } while (0)
#define log_error(event, ...) LOG_EVENT_(LOG_ERROR, event, ##__VA_ARGS__)
#define log_warn(event, ...) LOG_EVENT_(LOG_WARN, event, ##__VA_ARGS__)
#define log_info(event, ...) LOG_EVENT_(LOG_INFO, event, ##__VA_ARGS__)
#define log_debug(event, ...) LOG_EVENT_(LOG_DEBUG, event, ##__VA_ARGS__)

bool log_wants(enum log_level level);
void log_configure(enum log_level level, enum log_format format);
bool log_level_parse(str s, enum log_level *out) WARN_UNUSED; /* error, warn, info, debug */

/* Adds the pairs of whatever runs now to each line (key=value already escaped by log_add_kv). NULL removes it. */
typedef void (*log_context_fn)(struct buf *line);
void log_set_context(log_context_fn fn);
void log_add_kv(struct buf *line, const struct log_kv *kv);
/* Tests: lines go to this function instead of standard error; NULL restores. */
void log_set_sink(void (*sink)(enum log_level level, str line));

#endif
