/*
 * main.c: the one executable. Which verb, and what went wrong.
 */
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/log.h"
#include "server/verbs.h"

static const struct {
    const char *name, *help, *forms;
    int (*run)(struct options *o);
} verbs[] = {
#define VERB(name_, fn, help_, forms_) {.name = name_, .run = fn, .help = help_, .forms = forms_},
#include "server/verbs.def"
#undef VERB
};

int verb_fail(const struct err *err)
{
    fprintf(stderr, "thurn: %s\n", err->msg);
    switch (err->kind) {
    case ERR_INVALID:
        return EXIT_USAGE;
    case ERR_NOT_FOUND:
        return EXIT_NOT_FOUND;
    case ERR_EXISTS:
    case ERR_CONFLICT:
        return EXIT_CONFLICT;
    default:
        return EXIT_FAILED;
    }
}

int verb_unknown(const struct options *o)
{
    struct err err = ERR_INIT;
    (void)err_set(&err, ERR_INVALID, "'thurn %s%s%.60s' %s; see thurn %s --help", o->verb, o->n_args ? " " : "",
                  o->n_args ? o->args[0] : "",
                  o->n_args ? "is no command, or has too few or too many words" : "wants to know what to do", o->verb);
    return verb_fail(&err);
}

static void print_forms(const char *forms)
{
    str rest = str_c(forms), form;
    while (str_split(&rest, '\n', &form)) {
        /* "FILTER: …": no form */
        bool is_note = form.n && ascii_upper((unsigned char)form.p[0]) == (unsigned char)form.p[0];
        printf("  %s%.*s\n", is_note ? "" : "thurn ", STR_ARG(form));
    }
}

/* What no form repeats. */
static void print_common(const char *verb)
{
    static const char *const here[] = {"serve", "setup", "migrate", "config"}, *const none[] = {"test", "version"};
    for (size_t i = 0; i < ARRAY_LEN(none); i++)
        if (strcmp(verb, none[i]) == 0)
            return;
    for (size_t i = 0; i < ARRAY_LEN(here); i++)
        if (strcmp(verb, here[i]) == 0) {
            puts(
                "\nWhich server: --config FILE (DATA/thurn.yaml, else /etc/thurn/thurn.yaml), --data DIR (root: /var/lib/thurn,\n"
                "else ~/.local/share/thurn). For this run, whatever the file says: --roles LIST, --port-offset N, --http ADDRESS\n"
                "(health and admin API; its port is taken as given), --dev (loopback alone, passwords without TLS).");
            return;
        }
    puts("\nWhich server: --config FILE, --data DIR; one elsewhere: --url URL --token TOKEN (or THURN_ADMIN_URL and\n"
         "THURN_ADMIN_TOKEN). --json prints the API's own answer.");
}

static int help(FILE *to, int status)
{
    fputs("thurn: a mail server\n\n", to);
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
        fprintf(to, "  thurn %-8s %s\n", verbs[i].name, verbs[i].help);
    fputs("\nthurn VERB --help shows all that a verb can do.\n"
          "Options for all: --config FILE, --data DIR; for talking to a server elsewhere: --url URL --token TOKEN\n"
          "(or THURN_ADMIN_URL and THURN_ADMIN_TOKEN); --json prints the API's own answer.\n",
          to);
    return status;
}

int main(int argc, char **argv)
{
    struct options o;
    struct err err = ERR_INIT;
    signal(SIGPIPE, SIG_IGN);
    (void)umask(077); /* mail, keys and sockets are nobody else's, whatever the umask and the folder */
    log_configure(LOG_ERROR, LOG_LOGFMT); /* serve sets its own; the others speak by their answers */
    if (!options_parse(&o, argc, argv, &err))
        return verb_fail(&err);
    if (!o.verb) {
        bool is_asked = options_flag(&o, "--help") || options_flag(&o, "-h");
        if (options_flag(&o, "--version"))
            return verb_version(&o);
        if (!is_asked && o.n_args) {
            (void)err_set(&err, ERR_INVALID, "there is no option '%.40s'; see thurn --help", o.args[0]);
            return verb_fail(&err);
        }
        return help(is_asked ? stdout : stderr, is_asked ? EXIT_DONE : EXIT_USAGE);
    }
    if (strcmp(o.verb, "help") == 0)
        return help(stdout, EXIT_DONE);
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        if (strcmp(o.verb, verbs[i].name) != 0)
            continue;
        if (options_flag(&o, "--help") || options_flag(&o, "-h")) {
            printf("thurn %s: %s\n\n", verbs[i].name, verbs[i].help);
            print_forms(verbs[i].forms);
            print_common(verbs[i].name);
            return EXIT_DONE;
        }
        return verbs[i].run(&o);
    }
    fprintf(stderr, "thurn: there is no verb '%s'; see thurn --help\n", o.verb);
    return EXIT_USAGE;
}
