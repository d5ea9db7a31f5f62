/*
 * Pigeonhole's own tests, in their own language, run by our interpreter with the commands of vnd.dovecot.testsuite
 * beside it. They are read from THURN_SHARED_DATA (or ../shared/data). What they check of Pigeonhole's settings or of
 * the messages that it sends is not run here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/buf.h"
#include "base/num.h"
#include "mail_util.h"
#include "sieve/sieve.h"

enum {
    X_TEST,
    X_SET,
    X_FAIL,
    X_CONFIG_SET,
    X_CONFIG_UNSET,
    X_CONFIG_RELOAD,
    X_RESULT_RESET,
    X_RESULT_PRINT,
    X_BINARY_LOAD,
    X_BINARY_SAVE,
    X_MAILBOX_CREATE,
    X_METADATA_SET,
    X_COMPILE,
    X_RUN,
    X_EXECUTE,
    X_ACTION,
    X_ERROR,
    X_MESSAGE,
    X_MULTISCRIPT
};
static const char *const reload_tags[] = {":extension=s", NULL}, *const run_tags[] = {":append_result", NULL},
                         *const index_tags[] = {":index=n", NULL}, *const message_tags[] = {":smtp", ":folder=s", NULL},
                         *const metadata_tags[] = {":mailbox=s", NULL};
// clang-format off
static const struct sieve_extra extras[] = {
    {"test", false, "s", NULL, true}, {"test_set", false, "ss", NULL, false}, {"test_fail", false, "s", NULL, false},
    {"test_config_set", false, "ss", NULL, false}, {"test_config_unset", false, "s", NULL, false}, {"test_config_reload", false, "", reload_tags, false},
    {"test_result_reset", false, "", NULL, false}, {"test_result_print", false, "", NULL, false}, {"test_binary_load", false, "s", NULL, false},
    {"test_binary_save", false, "s", NULL, false}, {"test_mailbox_create", false, "s", NULL, false},
    {"test_imap_metadata_set", false, "ss", metadata_tags, false}, {"test_script_compile", true, "s", NULL, false},
    {"test_script_run", true, "", run_tags, false}, {"test_result_execute", true, "", NULL, false}, {"test_result_action", true, "l", index_tags, false},
    {"test_error", true, "l", index_tags, false}, {"test_message", true, "n", message_tags, false}, {"test_multiscript", true, "l", NULL, false}, {"test_message", false, "n", message_tags, false}, {0}};
static const struct sieve_options options = {.extra_capability = "vnd.dovecot.testsuite", .extra = extras};

#define MAILBOXES_MAX 50u
#define SCRIPTS_MAX 300u
struct suite {
    struct sieve_host host;
    struct sieve_run run;
    struct arena arena;          /* lives as long as the file is run */
    char folder[4096];
    str message;
    struct sieve_errors errors;
    struct sieve_program *tried;
    char tried_name[256];
    struct sieve_result result;
    struct sieve_program *included[SCRIPTS_MAX];
    char included_names[SCRIPTS_MAX][300];
    size_t n_included;
    str mailboxes[MAILBOXES_MAX];
    size_t n_mailboxes;
    /* what came of it */
    str test;
    bool is_failed, is_left_out;
    unsigned n_passed, n_failed, n_left_out;
    char failures[20000];
};
// clang-format on

static bool read_script(const char *path, struct arena *a, str *out)
{
    BUF(b, 4 << 20);
    if (!read_file(path, &b))
        return false;
    *out = arena_str(a, buf_str(&b));
    return true;
}

static void set_message(struct suite *s, const struct sieve_arguments *args, str text)
{
    BUF(crlf, 4 << 20);
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] == '\n' && (i == 0 || text.p[i - 1] != '\r'))
            buf_addc(&crlf, '\r');
        buf_addc(&crlf, text.p[i]);
    }
    s->message = arena_str(&s->arena, buf_str(&crlf));
    s->run.message = mime_parse(&s->arena, s->message, NULL);
    s->run.size = s->message.n;
    if (args)
        sieve_extra_set_message(args, s->run.message);
}

static str without_brackets(str a)
{
    a = str_trim(a);
    return a.n >= 2 && a.p[0] == '<' && a.p[a.n - 1] == '>' ? str_slice(a, 1, a.n - 1) : a;
}

static void do_set(struct suite *s, const struct sieve_arguments *args)
{
    str name = sieve_extra_string(args, 0, 0), value = arena_str(&s->arena, sieve_extra_string(args, 1, 0));
    struct sieve_envelope *e = &s->run.envelope;
    if (str_eq_nocase(name, S("message")))
        set_message(s, args, value);
    else if (str_eq_nocase(name, S("envelope.from")))
        e->from = without_brackets(value);
    else if (str_eq_nocase(name, S("envelope.to")))
        e->to = without_brackets(value);
    else if (str_eq_nocase(name, S("envelope.orig_to")))
        e->original_to = without_brackets(value);
    else if (str_eq_nocase(name, S("envelope.auth")))
        e->auth = value;
    else
        s->is_left_out = true;
}

static void end_test(struct suite *s)
{
    if (!s->test.p)
        return;
    if (s->is_left_out)
        s->n_left_out++;
    else if (s->is_failed)
        s->n_failed++;
    else
        s->n_passed++;
    s->test = STR_NONE;
}

static bool compile(struct suite *s, str name)
{
    char path[5000];
    str text;
    snprintf(path, sizeof path, "%s/%.*s", s->folder, STR_ARG(name));
    sieve_program_free(s->tried);
    s->tried = NULL;
    s->errors.n = 0;
    if (!read_script(path, &s->arena, &text))
        return false;
    snprintf(s->tried_name, sizeof s->tried_name, "%.*s", STR_ARG(name));
    s->tried = sieve_compile(text, NULL, &s->errors);
    return s->tried != NULL;
}

static bool run_tried(struct suite *s)
{
    struct sieve_script script = {s->tried, str_c(s->tried_name)};
    if (!s->tried)
        return false;
    sieve_run(&s->run, &script, 1, &s->arena, &s->result);
    return !s->result.has_error;
}

static const char *action_name(const struct sieve_action *a)
{
    static const char *const names[] = {"keep", "store", "redirect", "reject", "vacation", "notify"};
    return names[a->kind];
}

static bool extra(struct sieve_host *h, unsigned index, const struct sieve_arguments *args, bool *answer,
                  bool *run_block, struct err *err)
{
    struct suite *s = CONTAINER_OF(h, struct suite, host);
    (void)err;
    switch (index) {
    case X_TEST:
        end_test(s);
        s->test = arena_str(&s->arena, sieve_extra_string(args, 0, 0));
        s->is_failed = s->is_left_out = false;
        *run_block = true;
        break;
    case X_SET:
        do_set(s, args);
        break;
    case X_FAIL:
        if (!s->is_failed && !s->is_left_out) {
            size_t n = strlen(s->failures);
            snprintf(s->failures + n, sizeof s->failures - n, "    %.*s: %.*s\n", STR_ARG(s->test),
                     STR_ARG(sieve_extra_string(args, 0, 0)));
        }
        s->is_failed = true;
        break;
    case X_CONFIG_SET:
    case X_CONFIG_UNSET:
    case X_CONFIG_RELOAD:
        if (s->test.p)
            s->is_left_out = true;
        break;
    case X_RESULT_RESET:
        sieve_extra_forget(args);
        s->result = (struct sieve_result){0};
        break;
    case X_RESULT_PRINT:
    case X_BINARY_LOAD:
    case X_BINARY_SAVE:
        break;
    case X_MAILBOX_CREATE:
        if (s->n_mailboxes < MAILBOXES_MAX)
            s->mailboxes[s->n_mailboxes++] = arena_str(&s->arena, sieve_extra_string(args, 0, 0));
        break;
    case X_METADATA_SET:
        s->is_left_out = true;
        break;
    case X_COMPILE:
        *answer = compile(s, sieve_extra_string(args, 0, 0));
        break;
    case X_RUN:
        s->is_left_out = s->is_left_out || sieve_extra_has(args, 0); /* results of several runs as one */
        *answer = run_tried(s);
        break;
    case X_EXECUTE:
        *answer = !s->result.has_error;
        break;
    case X_ACTION: {
        uint64_t at = sieve_extra_tag_number(args, 0);
        if (!at)
            return sieve_extra_matches(args, 0, arena_printf(&s->arena, "%zu", s->result.n), answer);
        return at > s->result.n || sieve_extra_matches(args, 0, str_c(action_name(&s->result.actions[at - 1])), answer);
    }
    case X_ERROR: {
        uint64_t at = sieve_extra_tag_number(args, 0);
        if (!at && !s->result.has_error)
            return sieve_extra_matches(args, 0, arena_printf(&s->arena, "%zu", s->errors.n ? s->errors.n + 1 : 0),
                                       answer) /* Pigeonhole ends with "validation failed" */;
        s->is_left_out = true; /* the words are Pigeonhole's */
        *answer = true;
        break;
    }
    default: /* messages that were sent or stored, several scripts */
        s->is_left_out = true;
        *answer = true;
    }
    return true;
}

static bool read_bytes(struct sieve_host *h, uint64_t offset, uint64_t length, struct arena *a, str *out,
                       struct err *err)
{
    struct suite *s = CONTAINER_OF(h, struct suite, host);
    (void)err;
    *out = arena_str(a, str_slice(s->message, offset, offset + length));
    return true;
}

static bool mailbox_exists(struct sieve_host *h, str name, bool *out, struct err *err)
{
    struct suite *s = CONTAINER_OF(h, struct suite, host);
    (void)err;
    *out = str_eq_nocase(name, S("INBOX"));
    for (size_t i = 0; i < s->n_mailboxes; i++)
        *out = *out || str_eq(s->mailboxes[i], name);
    return true;
}

static bool include(struct sieve_host *h, str name, bool is_global, const struct sieve_program **out, struct err *err)
{
    struct suite *s = CONTAINER_OF(h, struct suite, host);
    char key[300], path[5000];
    static struct sieve_errors errors;
    str text;
    (void)err;
    *out = NULL;
    snprintf(key, sizeof key, "%s/%.*s", is_global ? "included-global" : "included", STR_ARG(name));
    for (size_t i = 0; i < s->n_included; i++)
        if (!strcmp(s->included_names[i], key))
            *out = s->included[i];
    if (*out || s->n_included == SCRIPTS_MAX)
        return true;
    snprintf(path, sizeof path, "%s/%s.sieve", s->folder, key);
    if (!read_script(path, &s->arena, &text))
        return true;
    *out = s->included[s->n_included] = sieve_compile(text, NULL, &errors);
    if (*out)
        snprintf(s->included_names[s->n_included++], sizeof key, "%s", key);
    return true;
}

static bool is_duplicate(struct sieve_host *h, str key, int64_t seconds, bool is_last, bool *out, struct err *err)
{
    (void)h, (void)key, (void)seconds, (void)is_last, (void)err;
    *out = false;
    return true;
}

static bool environment(struct sieve_host *h, str name, struct arena *a, str *out, struct err *err)
{
    (void)h, (void)err;
    static const char *const known[][2] = {{"name", "Thurn"},         {"version", "1"},    {"host", "localhost"},
                                           {"domain", "localdomain"}, {"location", "MDA"}, {"phase", "during"}};
    *out = STR_NONE;
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (str_eq(name, str_c(known[i][0])))
            *out = arena_str(a, str_c(known[i][1]));
    return true;
}

static const struct sieve_host_ops ops = {.read = read_bytes,
                                          .mailbox_exists = mailbox_exists,
                                          .include = include,
                                          .is_duplicate = is_duplicate,
                                          .environment = environment,
                                          .extra = extra};

/* Files that are about Pigeonhole itself, or of which we do otherwise on purpose, and why. */
static const char *left_out_reason(const char *file)
{
    static const struct {
        const char *part, *why;
    } files[] = {
        {"extensions/spamvirustest/spamtestplus", "its settings name header fields"},
        {"extensions/relational/errors", "what follows an error is a matter of taste"},
        {"extensions/environment/basic", "it expects Pigeonhole's name"},
        {"extensions/include/errors", "included scripts are looked at when they are run"},
        {"extensions/extlists", "its lists are settings"},
        {"extensions/metadata", "its annotations are set by its own commands"},
    };
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        if (strstr(file, files[i].part))
            return files[i].why;
    return NULL;
}

static unsigned n_passed, n_failed, n_left_out, n_files;

static void run_file(const char *path)
{
    struct suite *s = xnew(struct suite);
    struct sieve_errors errors;
    str text;
    arena_init(&s->arena, 1u << 30);
    s->host.ops = &ops;
    s->run = (struct sieve_run){
        .host = &s->host, .now_unix = 1700000000, .limits = {.steps = 1000000, .memory = 512u << 20}};
    s->run.envelope = (struct sieve_envelope){.from = S("sender@example.com"), .to = S("recipient@example.com")};
    snprintf(s->folder, sizeof s->folder, "%.*s", (int)(strrchr(path, '/') - path), path);
    assert_true(read_script(path, &s->arena, &text));
    set_message(s, NULL, S("From: sender@example.com\nTo: recipient@example.com\nSubject: test\n\ntext\n"));
    struct sieve_program *p = sieve_compile(text, &options, &errors);
    n_files++;
    if (!p) {
        print_message("%s: not compiled: %u:%u: %s\n", strstr(path, "pigeonhole-tests") + 17, errors.v[0].line,
                      errors.v[0].column, errors.v[0].text);
        n_failed++;
    } else {
        struct sieve_script script = {p, str_c(path)};
        struct sieve_result out;
        sieve_run(&s->run, &script, 1, &s->arena, &out);
        if (out.has_error) {
            s->is_failed = true;
            snprintf(s->failures + strlen(s->failures), 300, "    ended by line %u: %.*s\n", out.error_line,
                     STR_ARG(out.error));
        }
        end_test(s);
        if (s->n_failed || out.has_error)
            print_message("%s: %u of %u failed\n%s", strstr(path, "pigeonhole-tests") + 17, s->n_failed,
                          s->n_failed + s->n_passed, s->failures);
        n_passed += s->n_passed;
        n_failed += s->n_failed;
        n_left_out += s->n_left_out;
    }
    sieve_program_free(p);
    sieve_program_free(s->tried);
    for (size_t i = 0; i < s->n_included; i++)
        sieve_program_free(s->included[i]);
    arena_done(&s->arena);
    free(s);
}

static void run_folder(const char *folder)
{
    DIR *d = opendir(folder);
    struct dirent *e;
    assert_non_null(d);
    while ((e = readdir(d))) {
        char path[4096];
        struct stat st;
        if (e->d_name[0] == '.' || snprintf(path, sizeof path, "%s/%s", folder, e->d_name) >= (int)sizeof path ||
            stat(path, &st) != 0)
            continue;
        if (S_ISDIR(st.st_mode))
            run_folder(path);
        else if (str_ends(str_c(path), S(".svtest")) && !left_out_reason(path))
            run_file(path);
    }
    closedir(d);
}

static void test_suite(void **state)
{
    char path[4096];
    (void)state;
    if (getenv("SVTEST")) {
        run_file(getenv("SVTEST"));
        return;
    }
    if (!shared_data("sieve/pigeonhole-tests", path))
        skip();
    run_folder(path);
    print_message("%u files: %u passed, %u failed, %u left out\n", n_files, n_passed, n_failed, n_left_out);
    assert_int_equal(n_failed, 0);
    assert_true(n_passed > 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_suite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
