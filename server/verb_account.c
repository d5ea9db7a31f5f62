/* thurn account: people with a mailbox, one by one or by the thousand. */
#include <errno.h>
#include <stdio.h>
#include <termios.h>
#include <unistd.h>

#include "base/num.h"
#include "server/client.h"
#include "server/verbs.h"

#define USAGE                                                                                      \
    "account add ADDRESS [--password P | --password-stdin | --hash H] [--quota SIZE] [--name TEXT] [--admin] | "             \
    "add --from-file users.csv | list [--domain NAME] | show ADDRESS | "                           \
    "set ADDRESS [--state active|suspended|receive-only|closed] [--quota SIZE] [--name TEXT] | "   \
    "passwd ADDRESS [--password P | --password-stdin] | remove ADDRESS"
#define BATCH 500u
#define LINE_MAX_BYTES 4096u

static void print_account(json_t *t)
{
    json_int_t quota = json_integer_value(json_object_get(t, "quota_bytes"));
    printf("%-40s %-12s shard %lld", client_text(t, "address"), client_text(t, "state"),
           (long long)json_integer_value(json_object_get(t, "shard")));
    if (quota)
        printf("  quota %lld %s", (long long)quota >> (quota % (1 << 20) ? 10 : 20), quota % (1 << 20) ? "KiB" : "MiB");
    json_t *used = json_object_get(t, "used_bytes");
    if (used)
        printf("  used %lld bytes in %lld messages", (long long)json_integer_value(used),
               (long long)json_integer_value(json_object_get(t, "used_messages")));
    putchar('\n');
}

static bool read_line_secret(struct arena *a, bool is_prompted, const char **out, struct err *err)
{
    char line[1024];
    struct termios old;
    bool is_tty = is_prompted && isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &old) == 0;
    if (is_tty) {
        struct termios quiet = old;
        quiet.c_lflag &= (tcflag_t)~ECHO;
        fputs("Password: ", stderr);
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
    }
    bool ok = fgets(line, sizeof(line), stdin) != NULL;
    if (is_tty) {
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &old);
        fputc('\n', stderr);
    }
    str s = ok ? str_c(line) : STR_NONE;
    while (s.n && (s.p[s.n - 1] == '\n' || s.p[s.n - 1] == '\r'))
        s.n--;
    if (s.n)
        *out = arena_strz(a, s);
    explicit_bzero(line, sizeof(line));
    return s.n ? true : err_set(err, ERR_INVALID, "no password on standard input");
}

/* --password, --password-stdin, or a prompt. */
static bool take_password(struct options *o, struct arena *a, bool is_needed, const char **out, struct err *err)
{
    bool from_stdin = options_flag(o, "--password-stdin");
    if (!options_take(o, "--password", out, err))
        return false;
    if (*out)
        return true;
    return from_stdin || is_needed ? read_line_secret(a, !from_stdin, out, err) : true;
}

static bool set_quota(json_t *o, const char *quota, struct err *err)
{
    uint64_t bytes;
    if (!quota || !quota[0])
        return true;
    if (!num_size(str_c(quota), INT64_MAX, &bytes))
        return err_set(err, ERR_INVALID, "quota '%.40s' is not a size such as 500M or 2G", quota);
    json_object_set_new(o, "quota_bytes", json_integer((json_int_t)bytes));
    return true;
}

/* A hash is told from a password by its form: {SCHEME}… or $id$…. */
static bool looks_like_hash(const char *s)
{
    if (s[0] == '{')
        return strchr(s, '}') != NULL;
    return s[0] == '$' && strchr(s + 1, '$') != NULL;
}

/* One CSV field (RFC 4180 quoting) off the front of *line, unquoted in place; "" when the line has ended. */
static bool csv_field(char **line, char **out)
{
    char *from = *line, *to = *line;
    *out = to;
    if (*from == '"') {
        for (from++; *from && (*from != '"' || *++from == '"'); from++)
            *to++ = *from;
        if (from[-1] != '"' || (*from != ',' && *from != '\0'))
            return false;
    } else {
        from += strcspn(from, ",");
        to = from;
    }
    bool has_more = *from == ',';
    *to = '\0';
    *line = has_more ? from + 1 : from;
    return true;
}

static json_t *csv_account(char *line, struct err *err)
{
    char *address, *password, *quota;
    if (!csv_field(&line, &address) || !csv_field(&line, &password) || !csv_field(&line, &quota) || *line) {
        (void)err_set(err, ERR_INVALID, "expected: address,password-or-hash,quota");
        return NULL;
    }
    json_t *o = json_pack("{s:s, s:s}", "address", address, looks_like_hash(password) ? "password_hash" : "password", password);
    if (!o)
        (void)err_set(err, ERR_INVALID, "not UTF-8");
    else if (!set_quota(o, quota, err)) {
        json_decref(o);
        return NULL;
    }
    return o;
}

struct import {
    const char *file;
    json_t *batch;
    unsigned lines[BATCH];
    unsigned added, failed, line;
};

static bool send_batch(struct options *o, struct import *im, struct err *err)
{
    size_t n = json_array_size(im->batch);
    if (!n)
        return true;
    ARENA(a, 256u << 20);
    CLEANUP(client_json_free) json_t *answer = NULL;
    json_t *body = json_pack("{s:o}", "accounts", im->batch);
    im->batch = json_array();
    if (!client_call(o, &a, "POST", S("/v1/accounts"), body, &answer, err))
        return err_prefix(err, "%s:%u", im->file, im->lines[0]);
    size_t i;
    json_t *one;
    json_array_foreach (json_object_get(answer, "results"), i, one) {
        if (json_object_get(one, "account")) {
            im->added++;
        } else {
            im->failed++;
            if (i < n)
                fprintf(stderr, "%s:%u: %s\n", im->file, im->lines[i], client_text(one, "message"));
        }
    }
    return true;
}

static bool import_lines(struct options *o, struct import *im, FILE *f, struct err *err)
{
    char line[LINE_MAX_BYTES];
    while (fgets(line, sizeof(line), f)) {
        im->line++;
        size_t n = strcspn(line, "\r\n");
        if (n == sizeof(line) - 1)
            return err_set(err, ERR_INVALID, "%s:%u: line is too long", im->file, im->line);
        line[n] = '\0';
        if (!n || line[0] == '#')
            continue;
        struct err bad = ERR_INIT;
        json_t *account = csv_account(line, &bad);
        if (!account) {
            fprintf(stderr, "%s:%u: %s\n", im->file, im->line, bad.msg);
            im->failed++;
            continue;
        }
        im->lines[json_array_size(im->batch)] = im->line;
        json_array_append_new(im->batch, account);
        if (json_array_size(im->batch) == BATCH && !send_batch(o, im, err))
            return false;
    }
    explicit_bzero(line, sizeof(line));
    return send_batch(o, im, err);
}

static int import(struct options *o, const char *file)
{
    struct err err = ERR_INIT;
    struct import im = {.file = file, .batch = json_array()};
    FILE *f = strcmp(file, "-") == 0 ? stdin : fopen(file, "re");
    if (!f)
        (void)err_set(&err, ERR_INVALID, "cannot read '%s': %s", file, strerror(errno));
    bool ok = f && import_lines(o, &im, f, &err);
    if (f && f != stdin)
        fclose(f);
    json_decref(im.batch);
    if (f)
        printf("%u accounts added, %u refused\n", im.added, im.failed);
    if (!ok)
        return verb_fail(&err);
    return im.failed ? EXIT_PARTLY : EXIT_DONE;
}

static int answer_of(struct options *o, bool ok, json_t *answer, const struct err *err, bool is_printed)
{
    if (!ok)
        return verb_fail(err);
    if (o->is_json) {
        client_print(answer);
    } else if (is_printed) {
        print_account(answer);
    }
    return EXIT_DONE;
}

static int add(struct options *o, struct arena *a)
{
    struct err err = ERR_INIT;
    const char *file, *quota, *name, *hash, *password = NULL;
    CLEANUP(client_json_free) json_t *answer = NULL;
    bool is_admin = options_flag(o, "--admin");
    if (!options_take(o, "--from-file", &file, &err) || !options_take(o, "--quota", &quota, &err) ||
        !options_take(o, "--name", &name, &err) || !options_take(o, "--hash", &hash, &err))
        return verb_fail(&err);
    if (file)
        return options_finish(o, 1, 1, USAGE, &err) ? import(o, file) : verb_fail(&err);
    if (o->n_args < 2 ? !options_finish(o, 2, 2, USAGE, &err) : !take_password(o, a, !hash, &password, &err))
        return verb_fail(&err);
    if (!options_finish(o, 2, 2, USAGE, &err))
        return verb_fail(&err);
    json_t *body = json_pack("{s:s, s:s, s:b}", "address", o->args[1], hash ? "password_hash" : "password",
                             hash ? hash : password, "is_admin", (int)is_admin);
    if (!body)
        (void)err_set(&err, ERR_INVALID, "address and password must be UTF-8");
    else if (name)
        json_object_set_new(body, "display_name", json_string(name));
    if (!body || !set_quota(body, quota, &err)) {
        json_decref(body);
        return verb_fail(&err);
    }
    bool ok = client_call(o, a, "POST", S("/v1/accounts"), body, &answer, &err);
    return answer_of(o, ok, answer, &err, true);
}

static int list(struct options *o, struct arena *a)
{
    struct err err = ERR_INIT;
    const char *domain;
    if (!options_take(o, "--domain", &domain, &err) || !options_finish(o, 1, 1, USAGE, &err))
        return verb_fail(&err);
    char *after = arena_strz(a, S(""));
    do {
        CLEANUP(client_json_free) json_t *page = NULL;
        str q = arena_printf(a, "/v1/accounts?limit=1000&after=%.*s&domain=%.*s", STR_ARG(client_path(a, "", after)),
                             STR_ARG(client_path(a, "", domain ? domain : "")));
        if (!client_call(o, a, "GET", q, NULL, &page, &err))
            return verb_fail(&err);
        size_t i;
        json_t *t;
        json_array_foreach (json_object_get(page, "accounts"), i, t)
            (void)answer_of(o, true, t, &err, true);
        after = arena_strz(a, str_c(client_text(page, "next")));
    } while (after[0]);
    return EXIT_DONE;
}

static int set(struct options *o, struct arena *a)
{
    struct err err = ERR_INIT;
    const char *state, *quota, *name;
    CLEANUP(client_json_free) json_t *answer = NULL;
    if (!options_take(o, "--state", &state, &err) || !options_take(o, "--quota", &quota, &err) ||
        !options_take(o, "--name", &name, &err) || !options_finish(o, 2, 2, USAGE, &err))
        return verb_fail(&err);
    json_t *body = json_object();
    if (state)
        json_object_set_new(body, "state", json_string(state));
    if (name)
        json_object_set_new(body, "display_name", json_string(name));
    if (!set_quota(body, quota, &err)) {
        json_decref(body);
        return verb_fail(&err);
    }
    bool ok = client_call(o, a, "PATCH", client_path(a, "/v1/accounts/", o->args[1]), body, &answer, &err);
    return answer_of(o, ok, answer, &err, true);
}

static int passwd(struct options *o, struct arena *a)
{
    struct err err = ERR_INIT;
    const char *password = NULL;
    CLEANUP(client_json_free) json_t *answer = NULL;
    if (!take_password(o, a, true, &password, &err) || !options_finish(o, 2, 2, USAGE, &err))
        return verb_fail(&err);
    json_t *body = json_pack("{s:s}", "password", password);
    if (!body) {
        (void)err_set(&err, ERR_INVALID, "the password must be UTF-8");
        return verb_fail(&err);
    }
    bool ok = client_call(o, a, "PATCH", client_path(a, "/v1/accounts/", o->args[1]), body, &answer, &err);
    return answer_of(o, ok, answer, &err, false);
}

static int account_run(struct options *o, struct arena *a, void *arg)
{
    (void)arg;
    struct err err = ERR_INIT;
    const char *what = o->n_args ? o->args[0] : "";
    if (strcmp(what, "add") == 0)
        return add(o, a);
    if (strcmp(what, "list") == 0)
        return list(o, a);
    if (strcmp(what, "set") == 0)
        return set(o, a);
    if (strcmp(what, "passwd") == 0)
        return passwd(o, a);
    bool is_show = strcmp(what, "show") == 0;
    if (is_show || strcmp(what, "remove") == 0) {
        CLEANUP(client_json_free) json_t *answer = NULL;
        if (!options_finish(o, 2, 2, USAGE, &err))
            return verb_fail(&err);
        bool ok = client_call(o, a, is_show ? "GET" : "DELETE", client_path(a, "/v1/accounts/", o->args[1]), NULL, &answer, &err);
        return answer_of(o, ok, answer, &err, is_show);
    }
    (void)err_set(&err, ERR_INVALID, "usage: thurn " USAGE);
    return verb_fail(&err);
}

int verb_account(struct options *o)
{
    return client_run(o, account_run, NULL);
}
