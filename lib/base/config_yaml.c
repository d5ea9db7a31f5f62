#include "base/config_yaml.h"

#include <errno.h>
#include <stdio.h>
#include <yaml.h>

#define CONFIG_FILE_MAX (1u << 20)
#define PATH_MAX_BYTES 128u
#define SECRET_FILE_MAX 65536u
#define DEPTH_MAX 6

/* One pass over libyaml's events. The event at hand is owned here and freed when the next one is asked for. */
struct reader {
    struct config *c;
    const char *name;
    yaml_parser_t parser;
    yaml_event_t event;
    bool has_event;
    struct err *err;
};

static int line_of(const struct reader *r)
{
    return (int)r->event.start_mark.line + 1;
}

static bool next(struct reader *r)
{
    if (r->has_event)
        yaml_event_delete(&r->event);
    r->has_event = false;
    if (!yaml_parser_parse(&r->parser, &r->event))
        return err_set(r->err, ERR_INVALID, "%s:%d: not valid YAML: %s", r->name, (int)r->parser.problem_mark.line + 1,
                       r->parser.problem ? r->parser.problem : "unreadable");
    r->has_event = true;
    if (r->event.type == YAML_ALIAS_EVENT)
        return err_set(r->err, ERR_INVALID, "%s:%d: YAML aliases are not used here; write the value out", r->name,
                       line_of(r));
    return true;
}

static str scalar(const struct reader *r)
{
    return str_n(r->event.data.scalar.value, r->event.data.scalar.length);
}

static bool read_secret_file(struct reader *r, str path, int line, struct buf *out)
{
    char *z = str_dup(path);
    FILE *f = fopen(z, "rbe");
    free(z);
    if (!f)
        return err_set(r->err, ERR_INVALID, "%s:%d: cannot read secret file '%.*s': %s", r->name, line, STR_ARG(path),
                       strerror(errno));
    char piece[1024];
    size_t n;
    while ((n = fread(piece, 1, sizeof(piece), f)) > 0)
        buf_add_n(out, piece, n);
    explicit_bzero(piece, sizeof(piece));
    bool ok = !ferror(f);
    fclose(f);
    if (!ok || !buf_ok(out))
        return err_set(r->err, ERR_INVALID, "%s:%d: secret file '%.*s' is unreadable or larger than %zu bytes", r->name,
                       line, STR_ARG(path), out->cap);
    while (out->n && (out->p[out->n - 1] == '\n' || out->p[out->n - 1] == '\r'))
        buf_truncate(out, out->n - 1);
    return true;
}

/* { file: PATH } or { env: NAME }; the mapping's start is the event at hand. */
static bool secret_mapping(struct reader *r, enum config_id id)
{
    int line = line_of(r);
    if (!next(r))
        return false;
    bool is_file = r->event.type == YAML_SCALAR_EVENT && str_eq(scalar(r), S("file"));
    bool is_env = r->event.type == YAML_SCALAR_EVENT && str_eq(scalar(r), S("env"));
    if (!is_file && !is_env)
        return err_set(r->err, ERR_INVALID, "%s:%d: a secret is text, { file: PATH } or { env: NAME }", r->name, line);
    if (!next(r))
        return false;
    if (r->event.type != YAML_SCALAR_EVENT)
        return err_set(r->err, ERR_INVALID, "%s:%d: a file or variable name is expected here", r->name, line);
    BUF(secret, SECRET_FILE_MAX);
    if (is_file) {
        if (!read_secret_file(r, scalar(r), line, &secret))
            return false;
    } else {
        char *z = str_dup(scalar(r));
        const char *env = getenv(z);
        if (!env)
            (void)err_set(r->err, ERR_INVALID, "%s:%d: environment variable '%s' is not set", r->name, line, z);
        else
            buf_add(&secret, str_c(env));
        free(z);
        if (!env)
            return false;
    }
    bool ok = config_set_(r->c, id, buf_str(&secret), line, r->err);
    if (secret.p)
        explicit_bzero(secret.p, secret.n);
    if (!ok || !next(r))
        return false;
    if (r->event.type != YAML_MAPPING_END_EVENT)
        return err_set(r->err, ERR_INVALID, "%s:%d: a secret has one of file and env, and nothing else", r->name, line);
    return true;
}

static bool secret_or_scalar(struct reader *r, enum config_id id, const char *path)
{
    enum config_type type = config_type_(id);
    if (r->event.type == YAML_MAPPING_START_EVENT && (type == CONFIG_SECRET || type == CONFIG_SECRETS))
        return secret_mapping(r, id);
    if (r->event.type != YAML_SCALAR_EVENT)
        return err_set(r->err, ERR_INVALID, "%s:%d: '%s' takes a single value here", r->name, line_of(r), path);
    return config_set_(r->c, id, scalar(r), line_of(r), r->err);
}

/* The value of a setting; its first event is at hand. */
static bool value(struct reader *r, enum config_id id, const char *path)
{
    enum config_type type = config_type_(id);
    bool is_list = type == CONFIG_LIST || type == CONFIG_SECRETS;
    struct config_value *v = &r->c->values[id];
    if (v->is_set && v->line)
        return err_set(r->err, ERR_INVALID, "%s:%d: '%s' was set before in line %d", r->name, line_of(r), path,
                       v->line);
    if (is_list) { /* the file's list replaces the default's */
        v->list = NULL;
        v->n = 0;
        v->is_set = true;
        v->line = line_of(r);
    }
    if (r->event.type != YAML_SEQUENCE_START_EVENT)
        return is_list && r->event.type == YAML_SCALAR_EVENT && scalar(r).n == 0 ? true : secret_or_scalar(r, id, path);
    if (!is_list)
        return err_set(r->err, ERR_INVALID, "%s:%d: '%s' takes one value, not a list", r->name, line_of(r), path);
    for (;;) {
        if (!next(r))
            return false;
        if (r->event.type == YAML_SEQUENCE_END_EVENT)
            return true;
        if (!secret_or_scalar(r, id, path))
            return false;
    }
}

static bool unknown_key(struct reader *r, const char *path)
{
    const char *near = config_nearest_(str_c(path));
    if (near)
        return err_set(r->err, ERR_INVALID, "%s:%d: unknown setting '%s'; did you mean '%s'?", r->name, line_of(r),
                       path, near);
    return err_set(r->err, ERR_INVALID, "%s:%d: unknown setting '%s' (see 'thurn config reference')", r->name,
                   line_of(r), path);
}

/* A mapping whose start is at hand; prefix is "" or "group". Depth is bounded by the paths that exist. */
static bool mapping(struct reader *r, const char *prefix, int depth)
{
    if (depth > DEPTH_MAX)
        return err_set(r->err, ERR_INVALID, "%s:%d: nested too deep", r->name, line_of(r));
    for (;;) {
        if (!next(r))
            return false;
        if (r->event.type == YAML_MAPPING_END_EVENT)
            return true;
        if (r->event.type != YAML_SCALAR_EVENT)
            return err_set(r->err, ERR_INVALID, "%s:%d: a setting's name is expected here", r->name, line_of(r));
        char path[PATH_MAX_BYTES];
        str key = scalar(r);
        snprintf(path, sizeof(path), "%s%s%.*s", prefix, prefix[0] ? "." : "", (int)MIN(key.n, (size_t)60), key.p);
        enum config_id id;
        bool is_setting = config_find_(str_c(path), &id);
        if (!is_setting && !config_is_group_(str_c(path)))
            return unknown_key(r, path);
        if (!next(r))
            return false;
        if (is_setting) {
            if (!value(r, id, path))
                return false;
        } else if (r->event.type == YAML_MAPPING_START_EVENT) {
            if (!mapping(r, path, depth + 1))
                return false;
        } else if (!(r->event.type == YAML_SCALAR_EVENT && scalar(r).n == 0)) {
            return err_set(r->err, ERR_INVALID, "%s:%d: '%s' is a group of settings, not a value", r->name, line_of(r),
                           path);
        }
    }
}

static bool document(struct reader *r)
{
    do {
        if (!next(r))
            return false;
        if (r->event.type == YAML_STREAM_END_EVENT)
            return true; /* an empty file */
    } while (r->event.type == YAML_STREAM_START_EVENT || r->event.type == YAML_DOCUMENT_START_EVENT);
    if (r->event.type == YAML_SCALAR_EVENT && scalar(r).n == 0)
        return true;
    if (r->event.type != YAML_MAPPING_START_EVENT)
        return err_set(r->err, ERR_INVALID, "%s:%d: settings (name: value) are expected", r->name, line_of(r));
    if (!mapping(r, "", 0) || !next(r) || !next(r))
        return false;
    if (r->event.type != YAML_STREAM_END_EVENT)
        return err_set(r->err, ERR_INVALID, "%s:%d: a second document is not read; put all settings into one", r->name,
                       line_of(r));
    return true;
}

bool config_parse(struct config *c, const char *name, str yaml, struct err *err)
{
    free(c->file);
    c->file = xstrdup(name);
    struct reader r = {.c = c, .name = c->file, .err = err};
    if (!yaml_parser_initialize(&r.parser))
        panic("out of memory: YAML parser");
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)(yaml.p ? yaml.p : ""), yaml.n);
    bool ok = document(&r);
    if (r.has_event)
        yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    return ok;
}

bool config_load(struct config *c, const char *file, struct err *err)
{
    FILE *f = fopen(file, "rbe");
    if (!f)
        return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_DENIED, "cannot read config file '%s': %s", file,
                       strerror(errno));
    BUF(text, CONFIG_FILE_MAX);
    char piece[4096];
    size_t n;
    while ((n = fread(piece, 1, sizeof(piece), f)) > 0)
        buf_add_n(&text, piece, n);
    bool ok = !ferror(f);
    fclose(f);
    if (!ok)
        return err_set(err, ERR_INVALID, "cannot read config file '%s'", file);
    if (!buf_ok(&text))
        return err_set(err, ERR_INVALID, "config file '%s' is larger than %u bytes", file, CONFIG_FILE_MAX);
    return config_parse(c, file, buf_str(&text), err);
}
