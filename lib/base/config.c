#include "base/config.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/config_yaml.h"
#include "base/num.h"

#define CONFIG_ARENA_MAX (16u << 20)

enum mark { RELOAD = 1, WORKER = 2 };

struct row {
    const char *path, *def, *doc;
    enum config_type type;
    int64_t min, max;
    unsigned marks;
};

static const struct row rows[SETTINGS_] = {
#define SETTING(id, path_, type_, def_, min_, max_, marks_, doc_)                                                      \
    [CFG_##id] = {                                                                                                     \
        .path = path_, .def = def_, .doc = doc_, .type = CONFIG_##type_, .min = min_, .max = max_, .marks = marks_},
#include "base/config.def"
#undef SETTING
};

/* What a value should look like, for messages. */
static void expectation(const struct row *row, struct buf *out)
{
    switch (row->type) {
    case CONFIG_BOOL:
        buf_add(out, S("true or false"));
        break;
    case CONFIG_INT:
        buf_add(out, S("a whole number"));
        if (row->max)
            buf_printf(out, " from %lld to %lld", (long long)row->min, (long long)row->max);
        break;
    case CONFIG_SIZE:
        buf_printf(out, "a size such as 10M, from %lld to %lld bytes", (long long)row->min, (long long)row->max);
        break;
    case CONFIG_DURATION:
        buf_printf(out, "a time such as 500ms, 30s, 5m, 4h or 2d, from %lld to %lld ms", (long long)row->min,
                   (long long)row->max);
        break;
    case CONFIG_CHOICE:
        buf_printf(out, "one of: %s", row->def);
        break;
    default:
        buf_add(out, S("text"));
        break;
    }
}

static bool wrong(const struct config *c, const struct row *row, int line, str value, struct err *err)
{
    BUF(want, 512);
    expectation(row, &want);
    if (line)
        return err_set(err, ERR_INVALID, "%s:%d: '%s' must be %s, not '%.*s'", c->file ? c->file : "config", line,
                       row->path, buf_z(&want), (int)MIN(value.n, (size_t)60), value.p ? value.p : "");
    return err_set(err, ERR_INVALID, "'%s' must be %s, not '%.*s'", row->path, buf_z(&want),
                   (int)MIN(value.n, (size_t)60), value.p ? value.p : "");
}

static bool parse_bool(str s, int64_t *out)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (str_eq_nocase(s, str_c(words[i]))) {
            *out = (int64_t)(i & 1);
            return true;
        }
    return false;
}

static bool is_choice(const struct row *row, str s)
{
    str rest = str_c(row->def), word;
    while (str_split(&rest, ' ', &word))
        if (str_eq(word, s))
            return true;
    return false;
}

static bool parse_number(const struct row *row, str s, int64_t *out)
{
    uint64_t u;
    uint64_t max = row->max ? (uint64_t)row->max : INT64_MAX;
    switch (row->type) {
    case CONFIG_BOOL:
        return parse_bool(s, out);
    case CONFIG_INT:
        return num_i64(s, row->min, (int64_t)max, out);
    case CONFIG_SIZE:
        if (!num_size(s, max, &u) || u < (uint64_t)row->min)
            return false;
        break;
    default:
        if (!num_duration_ms(s, max, &u) || u < (uint64_t)row->min)
            return false;
        break;
    }
    *out = (int64_t)u;
    return true;
}

static void list_add(struct config *c, struct config_value *v, str item)
{
    str *list = arena_array(&c->arena, str, v->n + 1);
    if (v->n)
        memcpy(list, v->list, v->n * sizeof(*list));
    list[v->n] = arena_str(&c->arena, item);
    v->list = list;
    v->n++;
}

/* Set from one scalar. Lists get one more item. */
static bool set_scalar(struct config *c, enum config_id id, str s, int line, struct err *err)
{
    const struct row *row = &rows[id];
    struct config_value *v = &c->values[id];
    switch (row->type) {
    case CONFIG_BOOL:
    case CONFIG_INT:
    case CONFIG_SIZE:
    case CONFIG_DURATION:
        if (!parse_number(row, s, &v->i))
            return wrong(c, row, line, s, err);
        break;
    case CONFIG_CHOICE:
        if (!is_choice(row, s))
            return wrong(c, row, line, s, err);
        v->s = arena_str(&c->arena, s);
        break;
    case CONFIG_STRING:
    case CONFIG_SECRET:
        v->s = arena_str(&c->arena, s);
        break;
    case CONFIG_LIST:
    case CONFIG_SECRETS:
        list_add(c, v, s);
        break;
    }
    v->is_set = true;
    v->line = line;
    return true;
}

void config_init(struct config *c)
{
    *c = (struct config){0};
    arena_init(&c->arena, CONFIG_ARENA_MAX);
    for (size_t id = 0; id < SETTINGS_; id++) {
        const struct row *row = &rows[id];
        str rest = str_c(row->def), word;
        struct err err = ERR_INIT;
        if (row->type == CONFIG_LIST || row->type == CONFIG_SECRETS) {
            while (rest.n && str_split(&rest, ' ', &word))
                list_add(c, &c->values[id], word);
            continue;
        }
        if (row->type == CONFIG_CHOICE)
            (void)str_split(&rest, ' ', &word);
        else
            word = rest;
        if (!set_scalar(c, (enum config_id)id, word, 0, &err))
            panic("default of a setting: %s", err.msg);
        c->values[id].is_set = false;
    }
}

void config_done(struct config *c)
{
    for (size_t id = 0; id < SETTINGS_; id++) {
        struct config_value *v = &c->values[id];
        if (rows[id].type == CONFIG_SECRET && v->s.n)
            explicit_bzero((void *)(uintptr_t)v->s.p, v->s.n);
        for (size_t i = 0; rows[id].type == CONFIG_SECRETS && i < v->n; i++)
            explicit_bzero((void *)(uintptr_t)v->list[i].p, v->list[i].n);
    }
    arena_done(&c->arena);
    free(c->file);
    c->file = NULL;
}

bool config_override(struct config *c, enum config_id id, str value, struct err *err)
{
    struct config_value *v = &c->values[id];
    if (v->line || !v->is_set) { /* the first override replaces the default's or the file's items */
        v->n = 0;
        v->list = NULL;
    }
    return set_scalar(c, id, value, 0, err);
}

bool config_find_(str path, enum config_id *out)
{
    for (size_t id = 0; id < SETTINGS_; id++)
        if (str_eq(path, str_c(rows[id].path))) {
            *out = (enum config_id)id;
            return true;
        }
    return false;
}

bool config_is_group_(str path)
{
    for (size_t id = 0; id < SETTINGS_; id++) {
        str p = str_c(rows[id].path);
        if (str_starts(p, path) && p.n > path.n && p.p[path.n] == '.')
            return true;
    }
    return false;
}

enum config_type config_type_(enum config_id id)
{
    return rows[id].type;
}

bool config_set_(struct config *c, enum config_id id, str value, int line, struct err *err)
{
    return set_scalar(c, id, value, line, err);
}

/* Levenshtein distance of short words, at most 32 bytes. */
static unsigned distance(str a, str b)
{
    unsigned row_a[33], row_b[33], *prev = row_a, *now = row_b;
    if (a.n > 32 || b.n > 32)
        return 99;
    for (size_t j = 0; j <= b.n; j++)
        prev[j] = (unsigned)j;
    for (size_t i = 1; i <= a.n; i++) {
        now[0] = (unsigned)i;
        for (size_t j = 1; j <= b.n; j++) {
            unsigned change = prev[j - 1] + (a.p[i - 1] != b.p[j - 1]);
            now[j] = MIN(change, MIN(prev[j], now[j - 1]) + 1);
        }
        unsigned *t = prev;
        prev = now;
        now = t;
    }
    return prev[b.n];
}

const char *config_nearest_(str path)
{
    const char *best = NULL;
    unsigned best_distance = 4;
    for (size_t id = 0; id < SETTINGS_; id++) {
        unsigned d = distance(path, str_c(rows[id].path));
        if (d < best_distance) {
            best_distance = d;
            best = rows[id].path;
        }
    }
    return best;
}

bool config_complain(const struct config *c, enum config_id id, struct err *err, const char *fmt, ...)
{
    char text[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (c->values[id].line)
        return err_set(err, ERR_INVALID, "%s:%d: '%s' %s", c->file ? c->file : "config", c->values[id].line,
                       rows[id].path, text);
    return err_set(err, ERR_INVALID, "setting '%s' %s", rows[id].path, text);
}

bool config_bool(const struct config *c, enum config_id id)
{
    assert(rows[id].type == CONFIG_BOOL);
    return c->values[id].i != 0;
}

int64_t config_int(const struct config *c, enum config_id id)
{
    assert(rows[id].type == CONFIG_INT || rows[id].type == CONFIG_SIZE || rows[id].type == CONFIG_DURATION);
    return c->values[id].i;
}

str config_str(const struct config *c, enum config_id id)
{
    assert(rows[id].type == CONFIG_STRING || rows[id].type == CONFIG_CHOICE || rows[id].type == CONFIG_SECRET);
    return c->values[id].s;
}

const str *config_list(const struct config *c, enum config_id id, size_t *n)
{
    assert(rows[id].type == CONFIG_LIST || rows[id].type == CONFIG_SECRETS);
    *n = c->values[id].n;
    return c->values[id].list;
}

static bool is_same(const struct config_value *a, const struct config_value *b)
{
    bool same = a->i == b->i && str_eq(a->s, b->s) && a->n == b->n;
    for (size_t i = 0; same && i < a->n; i++)
        same = str_eq(a->list[i], b->list[i]);
    return same;
}

void config_needs_restart(const struct config *in_force, const struct config *fresh, struct buf *names)
{
    for (size_t id = 0; id < SETTINGS_; id++)
        if (!(rows[id].marks & RELOAD) && !is_same(&in_force->values[id], &fresh->values[id]))
            buf_printf(names, "%s%s", names->n ? " " : "", rows[id].path);
}

static void export_one(const struct config *c, enum config_id id, struct buf *out)
{
    const struct row *row = &rows[id];
    const struct config_value *v = &c->values[id];
    buf_printf(out, "%s: ", row->path);
    switch (row->type) {
    case CONFIG_BOOL:
        buf_add(out, v->i ? S("true") : S("false"));
        break;
    case CONFIG_INT:
    case CONFIG_SIZE:
        buf_printf(out, "%lld", (long long)v->i);
        break;
    case CONFIG_DURATION:
        buf_printf(out, "%lldms", (long long)v->i);
        break;
    case CONFIG_STRING:
    case CONFIG_CHOICE:
    case CONFIG_SECRET:
        buf_add_json(out, v->s); /* a JSON string is a YAML string */
        break;
    case CONFIG_LIST:
    case CONFIG_SECRETS:
        buf_addc(out, '[');
        for (size_t i = 0; i < v->n; i++) {
            buf_add(out, i ? S(", ") : S(""));
            buf_add_json(out, v->list[i]);
        }
        buf_addc(out, ']');
        break;
    }
    buf_addc(out, '\n');
}

void config_export(const struct config *c, const enum config_id *ids, size_t n, struct buf *out)
{
    for (size_t k = 0; k < n; k++)
        export_one(c, ids[k], out);
}

void config_export_workers(const struct config *c, struct buf *out)
{
    for (size_t id = 0; id < SETTINGS_; id++)
        if (rows[id].marks & WORKER)
            export_one(c, (enum config_id)id, out);
}

void config_reference(struct buf *out)
{
    static const char *const types[] = {
        [CONFIG_BOOL] = "true/false", [CONFIG_INT] = "number",  [CONFIG_SIZE] = "size",
        [CONFIG_DURATION] = "time",   [CONFIG_STRING] = "text", [CONFIG_CHOICE] = "choice",
        [CONFIG_SECRET] = "secret",   [CONFIG_LIST] = "list",   [CONFIG_SECRETS] = "list of secrets",
    };
    buf_add(out, S("| setting | type | default | SIGHUP | meaning |\n|---|---|---|---|---|\n"));
    for (size_t id = 0; id < SETTINGS_; id++) {
        const struct row *row = &rows[id];
        str def = str_c(row->def), first = def;
        if (row->type == CONFIG_CHOICE)
            (void)str_split(&def, ' ', &first);
        buf_printf(out, "| `%s` | %s | %s%.*s%s | %s | %s", row->path, types[row->type], first.n ? "`" : "",
                   STR_ARG(first), first.n ? "`" : "", row->marks & RELOAD ? "yes" : "no", row->doc);
        if (row->type == CONFIG_CHOICE)
            buf_printf(out, " One of: %s.", row->def);
        else if (row->max && row->type != CONFIG_BOOL) {
            BUF(range, 256);
            expectation(row, &range);
            buf_printf(out, " Must be %s.", buf_z(&range));
        }
        buf_add(out, S(" |\n"));
    }
}
