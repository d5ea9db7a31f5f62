/* thurn account: people with a mailbox, one by one or by the thousand. */
#include <stdio.h>
#include <termios.h>
#include <unistd.h>

#include "server/client.h"
#include "server/import.h"
#include "server/verbs.h"

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

/* The rest of "VERB ADDRESS": --password, or that it is to be read (when all else is known to be right).
 */
static bool take_password(struct options *o, bool is_needed, const char **out, bool *from_stdin, bool *is_read,
                          struct err *err)
{
    *from_stdin = options_flag(o, "--password-stdin");
    if (!options_take(o, "--password", out, err) || !options_finish(o, 2, 2, err))
        return false;
    *is_read = !*out && (*from_stdin || is_needed);
    return true;
}

/* Nobody is asked for the password of an account that cannot be: what the server would refuse is asked first. */
FIBER static bool may_add(struct options *o, struct arena *a, struct err *err)
{
    CLEANUP(client_json_free) json_t *account = NULL;
    CLEANUP(client_json_free) json_t *domain = NULL;
    const char *address = o->args[1], *at = strrchr(address, '@');
    if (!at || at == address || !at[1])
        return err_set(err, ERR_INVALID, "'%.100s' is no mail address such as ann@example.com", address);
    if (client_call(o, a, "GET", client_path(a, "/v1/accounts/?name=", address), NULL, &account, err))
        return err_set(err, ERR_EXISTS, "'%s' exists", client_text(account, "address"));
    if (err->kind != ERR_NOT_FOUND)
        return false;
    err_clear(err);
    return client_call(o, a, "GET", client_path(a, "/v1/domains/?name=", at + 1), NULL, &domain, err);
}

FIBER static bool is_there(struct options *o, struct arena *a, struct err *err)
{
    CLEANUP(client_json_free) json_t *account = NULL;
    return client_call(o, a, "GET", client_path(a, "/v1/accounts/?name=", o->args[1]), NULL, &account, err);
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

FIBER static int add(struct options *o, struct arena *a)
{
    struct err err = ERR_INIT;
    const char *file, *quota, *name, *hash, *password = NULL;
    CLEANUP(client_json_free) json_t *answer = NULL;
    bool is_admin = options_flag(o, "--admin"), from_stdin, is_read;
    if (!options_take(o, "--from-file", &file, &err) || !options_take(o, "--quota", &quota, &err) ||
        !options_take(o, "--name", &name, &err) || !options_take(o, "--hash", &hash, &err))
        return verb_fail(&err);
    if (file)
        return options_finish(o, 1, 1, &err) ? import_accounts(o, file) : verb_fail(&err);
    if (!take_password(o, !hash, &password, &from_stdin, &is_read, &err) ||
        (is_read && (!may_add(o, a, &err) || !read_line_secret(a, !from_stdin, &password, &err))))
        return verb_fail(&err);
    json_t *body = json_pack("{s:s, s:s, s:b}", "address", o->args[1], hash ? "password_hash" : "password",
                             hash ? hash : password, "is_admin", (int)is_admin);
    if (!body)
        (void)err_set(&err, ERR_INVALID, "address and password must be UTF-8");
    else if (name)
        json_object_set_new(body, "display_name", json_string(name));
    if (!body || !import_set_quota(body, quota, &err)) {
        json_decref(body);
        return verb_fail(&err);
    }
    bool ok = client_call(o, a, "POST", S("/v1/accounts"), body, &answer, &err);
    return answer_of(o, ok, answer, &err, true);
}

FIBER static int list(struct options *o, struct arena *a)
{
    struct err err = ERR_INIT;
    const char *domain;
    if (!options_take(o, "--domain", &domain, &err) || !options_finish(o, 1, 1, &err))
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
        json_array_foreach(json_object_get(page, "accounts"), i, t)(void) answer_of(o, true, t, &err, true);
        after = arena_strz(a, str_c(client_text(page, "next")));
    } while (after[0]);
    return EXIT_DONE;
}

FIBER static int set(struct options *o, struct arena *a)
{
    struct err err = ERR_INIT;
    const char *state, *quota, *name;
    CLEANUP(client_json_free) json_t *answer = NULL;
    if (!options_take(o, "--state", &state, &err) || !options_take(o, "--quota", &quota, &err) ||
        !options_take(o, "--name", &name, &err) || !options_finish(o, 2, 2, &err))
        return verb_fail(&err);
    json_t *body = json_object();
    if (state)
        json_object_set_new(body, "state", json_string(state));
    if (name)
        json_object_set_new(body, "display_name", json_string(name));
    if (!import_set_quota(body, quota, &err)) {
        json_decref(body);
        return verb_fail(&err);
    }
    bool ok = client_call(o, a, "PATCH", client_path(a, "/v1/accounts/?name=", o->args[1]), body, &answer, &err);
    return answer_of(o, ok, answer, &err, true);
}

FIBER static int passwd(struct options *o, struct arena *a)
{
    struct err err = ERR_INIT;
    const char *password = NULL;
    CLEANUP(client_json_free) json_t *answer = NULL;
    bool from_stdin, is_read;
    if (!take_password(o, true, &password, &from_stdin, &is_read, &err) ||
        (is_read && (!is_there(o, a, &err) || !read_line_secret(a, !from_stdin, &password, &err))))
        return verb_fail(&err);
    json_t *body = json_pack("{s:s}", "password", password);
    if (!body) {
        (void)err_set(&err, ERR_INVALID, "the password must be UTF-8");
        return verb_fail(&err);
    }
    bool ok = client_call(o, a, "PATCH", client_path(a, "/v1/accounts/?name=", o->args[1]), body, &answer, &err);
    int status = answer_of(o, ok, answer, &err, false);
    if (ok && !o->is_json)
        printf("The password of %s is changed; sessions that are open with the old one end within seconds.\n",
               client_text(answer, "address"));
    return status;
}

FIBER static int rename_account(struct options *o, struct arena *a)
{
    struct err err = ERR_INIT;
    bool keep_alias = options_flag(o, "--keep-alias");
    CLEANUP(client_json_free) json_t *answer = NULL;
    if (!options_finish(o, 3, 3, &err))
        return verb_fail(&err);
    json_t *body = json_pack("{s:s, s:b}", "address", o->args[2], "keep_alias", (int)keep_alias);
    if (!body) {
        (void)err_set(&err, ERR_INVALID, "the new address must be UTF-8");
        return verb_fail(&err);
    }
    bool ok = client_call(o, a, "PATCH", client_path(a, "/v1/accounts/?name=", o->args[1]), body, &answer, &err);
    int status = answer_of(o, ok, answer, &err, false);
    if (ok && !o->is_json)
        printf(
            "%s is %s now, with its mail and password; aliases that led there follow. Mail for the old address %s.\n",
            o->args[1], client_text(answer, "address"), keep_alias ? "goes there too" : "is refused from now on");
    return status;
}

/* Aliases, or their addresses, one a line. */
static void print_leads(FILE *to, json_t *aliases)
{
    size_t i;
    json_t *l;
    json_array_foreach(aliases, i, l)
    {
        const char *address = json_is_string(l) ? json_string_value(l) : client_text(l, "address");
        fprintf(to, "  %s%s\n", address, address[0] == '@' ? " (catch-all)" : "");
    }
}

/* Say what goes, and have it said that it is meant. */
FIBER static bool ask_removal(struct options *o, struct arena *a, bool with_aliases, struct err *err)
{
    CLEANUP(client_json_free) json_t *account = NULL;
    CLEANUP(client_json_free) json_t *page = NULL;
    char answer[16] = "";
    if (!client_call(o, a, "GET", client_path(a, "/v1/accounts/?name=", o->args[1]), NULL, &account, err) ||
        !client_call(o, a, "GET", client_path(a, "/v1/aliases?target=", o->args[1]), NULL, &page, err))
        return false;
    fprintf(stderr,
            "%s with all its mail (%lld messages, %lld bytes) will be gone for good; mail for it will be refused.\n",
            client_text(account, "address"), client_int(account, "used_messages"), client_int(account, "used_bytes"));
    json_t *aliases = json_object_get(page, "aliases");
    if (json_array_size(aliases)) {
        fprintf(stderr, with_aliases
                            ? "It is taken out of:\n"
                            : "These lead to it and will lead nowhere (--with-aliases takes it out of them):\n");
        print_leads(stderr, aliases);
    }
    if (!isatty(STDIN_FILENO))
        return err_set(err, ERR_INVALID, "nobody is there to be asked: if it is meant, say --yes");
    fprintf(stderr, "Remove it? [y/N] ");
    if (!fgets(answer, sizeof(answer), stdin) || (answer[0] != 'y' && answer[0] != 'Y'))
        return err_set(err, ERR_INVALID, "%s is not removed", client_text(account, "address"));
    return true;
}

FIBER static int remove_account(struct options *o, struct arena *a)
{
    struct err err = ERR_INIT;
    bool yes = options_flag(o, "--yes"), with_aliases = options_flag(o, "--with-aliases");
    CLEANUP(client_json_free) json_t *answer = NULL;
    if (!options_finish(o, 2, 2, &err) || (!yes && !ask_removal(o, a, with_aliases, &err)))
        return verb_fail(&err);
    str path = arena_printf(a, "%.*s%s", STR_ARG(client_path(a, "/v1/accounts/?name=", o->args[1])),
                            with_aliases ? "&with_aliases=1" : "");
    bool ok = client_call(o, a, "DELETE", path, NULL, &answer, &err);
    int status = answer_of(o, ok, answer, &err, false);
    if (!ok || o->is_json)
        return status;
    json_t *leads = json_object_get(answer, "led_here");
    printf("%s is removed, with its mail.%s\n", o->args[1],
           !json_array_size(leads) ? ""
           : with_aliases          ? " It was taken out of:"
                                   : " These still lead to it:");
    print_leads(stdout, leads);
    return status;
}

FIBER static int account_run(struct options *o, struct arena *a, void *arg)
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
    if (strcmp(what, "rename") == 0)
        return rename_account(o, a);
    if (strcmp(what, "remove") == 0)
        return remove_account(o, a);
    if (strcmp(what, "show") == 0) {
        CLEANUP(client_json_free) json_t *answer = NULL;
        if (!options_finish(o, 2, 2, &err))
            return verb_fail(&err);
        bool ok = client_call(o, a, "GET", client_path(a, "/v1/accounts/?name=", o->args[1]), NULL, &answer, &err);
        return answer_of(o, ok, answer, &err, true);
    }
    return verb_unknown(o);
}

int verb_account(struct options *o)
{
    return client_run(o, account_run, NULL);
}
