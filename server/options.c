#include "server/options.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/num.h"
#include "mail/address.h"
#include "net/addr.h"
#include "server/folder.h"

static const struct global {
    const char *name;
    bool has_value;
    size_t offset;
} globals[] = {
    {"--config", true, offsetof(struct options, config_file)},
    {"--data", true, offsetof(struct options, data)},
    {"--roles", true, offsetof(struct options, roles)},
    {"--port-offset", true, offsetof(struct options, port_offset)},
    {"--http", true, offsetof(struct options, http)},
    {"--url", true, offsetof(struct options, url)},
    {"--token", true, offsetof(struct options, token)},
    {"--dev", false, offsetof(struct options, is_dev)},
    {"--json", false, offsetof(struct options, is_json)},
};

/* Whether word is the option; *value gets what follows '=' (NULL without). */
static bool is_option(const char *word, const char *name, const char **value)
{
    size_t n = strlen(name);
    if (strncmp(word, name, n) != 0 || (word[n] != '\0' && word[n] != '='))
        return false;
    *value = word[n] == '=' ? word + n + 1 : NULL;
    return true;
}

static const struct global *find_global(const char *word, const char **value)
{
    for (size_t i = 0; i < ARRAY_LEN(globals); i++)
        if (is_option(word, globals[i].name, value))
            return &globals[i];
    return NULL;
}

bool options_parse(struct options *o, int argc, char **argv, struct err *err)
{
    *o = (struct options){.program = argc > 0 ? argv[0] : "thurn", .args = argv};
    int kept = 0;
    for (int i = 1; i < argc; i++) {
        const char *value = NULL;
        const struct global *g = find_global(argv[i], &value);
        if (!g) {
            if (strcmp(argv[i], "--") == 0) /* only separates what a script adds; both sides are read alike */
                continue;
            if (!o->verb && argv[i][0] != '-')
                o->verb = argv[i];
            else
                argv[kept++] = argv[i];
            continue;
        }
        if (g->has_value && !value) {
            if (i + 1 >= argc)
                return err_set(err, ERR_INVALID, "%s needs a value", g->name);
            value = argv[++i];
        }
        if (!g->has_value && value)
            return err_set(err, ERR_INVALID, "%s takes no value", g->name);
        if (g->has_value)
            *(const char **)(void *)((char *)o + g->offset) = value;
        else
            *(bool *)(void *)((char *)o + g->offset) = true;
    }
    argv[kept] = NULL;
    o->n_args = kept;
    return true;
}

static void remove_args(struct options *o, int at, int n)
{
    memmove(&o->args[at], &o->args[at + n], (size_t)(o->n_args - at - n + 1) * sizeof(*o->args));
    o->n_args -= n;
}

bool options_take(struct options *o, const char *name, const char **value, struct err *err)
{
    *value = NULL;
    for (int i = 0; i < o->n_args; i++) {
        const char *joined;
        if (!is_option(o->args[i], name, &joined))
            continue;
        if (!joined && i + 1 >= o->n_args)
            return err_set(err, ERR_INVALID, "%s needs a value", name);
        *value = joined ? joined : o->args[i + 1];
        remove_args(o, i, joined ? 1 : 2);
        return true;
    }
    return true;
}

bool options_flag(struct options *o, const char *name)
{
    for (int i = 0; i < o->n_args; i++)
        if (strcmp(o->args[i], name) == 0) {
            remove_args(o, i, 1);
            return true;
        }
    return false;
}

bool options_finish(const struct options *o, int min, int max, struct err *err)
{
    for (int i = 0; i < o->n_args; i++)
        if (o->args[i][0] == '-' && o->args[i][1] != '\0')
            return err_set(err, ERR_INVALID, "there is no option '%.40s' here; see thurn %s --help", o->args[i],
                           o->verb);
    if (o->n_args < min)
        return err_set(err, ERR_INVALID, "there is a word missing after 'thurn %s%s%.40s'; see thurn %s --help",
                       o->verb, o->n_args ? " " : "", o->n_args ? o->args[o->n_args - 1] : "", o->verb);
    if (o->n_args > max)
        return err_set(err, ERR_INVALID, "what is '%.40s'? See thurn %s --help", o->args[max], o->verb);
    return true;
}

const char *options_default_data(const struct options *o)
{
    static char path[1024];
    if (o->data)
        return o->data;
    if (geteuid() == 0)
        return "/var/lib/thurn";
    const char *base = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    if (base && base[0] == '/')
        snprintf(path, sizeof(path), "%s/thurn", base);
    else
        snprintf(path, sizeof(path), "%s/.local/share/thurn", home && home[0] ? home : ".");
    return path;
}

/* Without its file a server would start by the defaults: one that may not be looked at is none that is missing. */
static bool may_read(const char *path, struct err *err)
{
    return access(path, R_OK) == 0 || errno != EACCES || folder_denied(path, err);
}

static bool load_file(const struct options *o, struct config *c, struct err *err)
{
    char path[1100];
    snprintf(path, sizeof(path), "%s/thurn.yaml", options_default_data(o));
    if (o->config_file)
        return config_load(c, o->config_file, err);
    if (!may_read(path, err))
        return false;
    if (access(path, F_OK) == 0)
        return config_load(c, path, err);
    if (!o->data && access("/etc/thurn/thurn.yaml", F_OK) == 0)
        return config_load(c, "/etc/thurn/thurn.yaml", err);
    return true;
}

static bool override_list(struct config *c, enum config_id id, const char *text, char sep, struct err *err)
{
    str rest = str_c(text), word;
    while (str_split(&rest, sep, &word))
        if (word.n && !config_override(c, id, word, err))
            return false;
    return true;
}

/* --dev: everything on loopback, with passwords allowed there. A listener keeps its port. */
static bool dev_listeners(struct config *c, struct err *err)
{
    static const enum config_id listeners[] = {CFG_LISTEN_SMTP, CFG_LISTEN_SUBMISSION, CFG_LISTEN_SUBMISSIONS,
                                               CFG_LISTEN_IMAP, CFG_LISTEN_IMAPS,      CFG_LISTEN_HTTP};
    for (size_t i = 0; i < ARRAY_LEN(listeners); i++) {
        size_t n;
        const str *list = config_list(c, listeners[i], &n);
        if (!n)
            continue;
        struct net_addr addr;
        char text[64];
        bool is_exact = str_starts(list[0], S("="));
        if (!net_addr_parse(str_slice(list[0], is_exact, SIZE_MAX), &addr, err))
            return err_prefix(err, "listener");
        snprintf(text, sizeof(text), "%s127.0.0.1:%u", is_exact ? "=" : "", net_addr_port(&addr));
        /* A default replaced as if by the file: later overrides still win. */
        c->values[listeners[i]].is_set = false;
        if (!config_override(c, listeners[i], str_c(text), err))
            return false;
    }
    if (!config_is_set(c, CFG_LISTEN_LMTP) && !config_override(c, CFG_LISTEN_LMTP, S("127.0.0.1:24"), err))
        return false;
    return config_override(c, CFG_PLAIN_LOGIN, S("loopback"), err) &&
           config_override(c, CFG_WEAK_PASSWORDS, S("true"), err) &&
           config_override(c, CFG_OUT_PRIVATE, S("true"), err);
}

/* --http: the address as it is given, so that the port that was asked for is the one that answers. */
static bool http_as_given(struct config *c, const char *given, struct err *err)
{
    CLEANUP(xfree_char) char *exact = xmalloc(strlen(given) + 2);
    bool has_port = given[0] != '=' && !str_starts(str_c(given), S("unix:"));
    snprintf(exact, strlen(given) + 2, "%s%s", has_port ? "=" : "", given);
    c->values[CFG_LISTEN_HTTP].is_set = false; /* --dev may have set it */
    return config_override(c, CFG_LISTEN_HTTP, str_c(exact), err) || err_prefix(err, "--http");
}

/* Its A-label form, as it is compared and shown. */
static bool normalize_default_domain(struct config *c, struct err *err)
{
    ARENA(a, 4096);
    struct err bad = ERR_INIT;
    str given = config_str(c, CFG_DEFAULT_DOMAIN), normal;
    if (!given.n)
        return true;
    if (str_starts(given, S("[")) || !domain_normalize(given, &a, &normal, &bad))
        return config_complain(c, CFG_DEFAULT_DOMAIN, err, "is no domain name");
    return str_eq(given, normal) || config_override(c, CFG_DEFAULT_DOMAIN, normal, err);
}

bool options_config(const struct options *o, struct config *c, struct err *err)
{
    config_init(c);
    if (!load_file(o, c, err) || !normalize_default_domain(c, err))
        return false;
    if (o->data ? !config_override(c, CFG_DATA, str_c(o->data), err)
                : config_str(c, CFG_DATA).n == 0 && !config_override(c, CFG_DATA, str_c(options_default_data(o)), err))
        return false;
    if (o->roles && !override_list(c, CFG_ROLES, o->roles, ',', err))
        return false;
    if (o->port_offset && !config_override(c, CFG_PORT_OFFSET, str_c(o->port_offset), err))
        return err_prefix(err, "--port-offset");
    if ((o->is_dev && !dev_listeners(c, err)) || (o->http && !http_as_given(c, o->http, err)))
        return false;
    if (config_str(c, CFG_HOSTNAME).n == 0) {
        char host[256] = "localhost";
        if (gethostname(host, sizeof(host) - 1) != 0 || !host[0])
            snprintf(host, sizeof(host), "localhost");
        if (!config_override(c, CFG_HOSTNAME, str_c(host), err))
            return false;
    }
    return true;
}
