/*
 * config.h: the settings of a process, from a YAML file.
 *
 * Every setting is a row of config.def; rows yield parsing, checks, defaults, and the reference
 * (docs/configuration.md). A wrong file stops the start with "file:line: what is wrong, and what was expected". Unknown
 * and repeated keys, YAML aliases and a second document are errors. A secret may be written as { file: PATH } or { env:
 * NAME }.
 *
 * Libyaml and a table instead of libcyaml: its schema cannot say ranges, units or secrets, and its messages go to a log
 * callback instead of being one line that a person can act on.
 */
#ifndef BASE_CONFIG_H
#define BASE_CONFIG_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"

enum config_type {
    CONFIG_BOOL,     /* true, false, yes, no, on, off */
    CONFIG_INT,      /* whole number */
    CONFIG_SIZE,     /* "50M"; bytes */
    CONFIG_DURATION, /* "30s"; milliseconds */
    CONFIG_STRING,
    CONFIG_CHOICE,  /* one word of the row's choices */
    CONFIG_SECRET,  /* string, or { file: } or { env: } */
    CONFIG_LIST,    /* strings; one string stands for a list of one */
    CONFIG_SECRETS, /* list of secrets */
};

enum config_id {
#define SETTING(id, path, type, def, min, max, marks, doc) CFG_##id,
#include "base/config.def"
#undef SETTING
    SETTINGS_
};

struct config_value {
    bool is_set; /* by the file or config_override */
    int line;    /* where, 0 = not from the file */
    int64_t i;   /* BOOL, INT, SIZE, DURATION */
    str s;       /* STRING, CHOICE, SECRET */
    str *list;   /* LIST, SECRETS */
    size_t n;
};

struct config {
    struct arena arena;
    char *file; /* for messages; NULL = defaults only */
    struct config_value values[SETTINGS_];
};

/* Defaults of every setting. */
void config_init(struct config *c);
void config_done(struct config *c);
/* Read a file over the defaults. Errors: NOT_FOUND, INVALID with "file:line: …". */
bool config_load(struct config *c, const char *file, struct err *err) WARN_UNUSED;
/* The same from memory (tests, fuzzing). name stands for the file in messages. */
bool config_parse(struct config *c, const char *name, str yaml, struct err *err) WARN_UNUSED;
/* Set one value as if it stood in the file (command-line options). Lists: once for each item after the first call. */
bool config_override(struct config *c, enum config_id id, str value, struct err *err) WARN_UNUSED;

static inline bool config_is_set(const struct config *c, enum config_id id)
{
    return c->values[id].is_set;
}
bool config_bool(const struct config *c, enum config_id id);
int64_t config_int(const struct config *c, enum config_id id); /* INT, SIZE, DURATION (ms) */
str config_str(const struct config *c, enum config_id id);     /* STRING, CHOICE, SECRET */
const str *config_list(const struct config *c, enum config_id id, size_t *n);
/* The settings that differ in two configs and only take effect at the next start, by their names. */
void config_needs_restart(const struct config *in_force, const struct config *fresh, struct buf *names);
/* INVALID with file and line of that setting: for checks that need more than one setting. */
bool config_complain(const struct config *c, enum config_id id, struct err *err, const char *fmt, ...) PRINTF(4, 5);

/* The settings named, as YAML that config_parse reads back: what a child process is given, and no more than that. */
void config_export(const struct config *c, const enum config_id *ids, size_t n, struct buf *out);
/* The same of all that are marked WORKER. */
void config_export_workers(const struct config *c, struct buf *out);

/* The reference as Markdown, made from the rows. */
void config_reference(struct buf *out);

#endif
